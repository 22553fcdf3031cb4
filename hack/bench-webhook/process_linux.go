package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Policies of sched_setscheduler(2).
const (
	schedOther = 0
	schedRR    = 2
)

// pin keeps all threads of a process on one core, where nothing else runs as long
// as they have something to do: the API server's work, and whatever else there is
// on the machine, is not what is measured. Threads that it starts later inherit
// both. Without the right to real-time priority (root has it) the core is shared,
// which is said.
func pin(pid, core int) error { return schedule(pid, cores{1 << core}, schedRR, 1) }

// unpin lets a process run on every core, beside others.
func unpin(pid int) error {
	var all cores
	for i := range all {
		all[i] = ^uint64(0)
	}
	return schedule(pid, all, schedOther, 0)
}

// cores is a set of CPUs as sched_setaffinity takes it.
type cores [16]uint64

func schedule(pid int, set cores, policy uintptr, priority int32) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(filepath.Base(t))
		if err != nil {
			return err
		}
		_, _, e := syscall.Syscall(syscall.SYS_SCHED_SETAFFINITY, uintptr(tid), unsafe.Sizeof(set), uintptr(unsafe.Pointer(&set)))
		if e == 0 {
			_, _, e = syscall.Syscall(syscall.SYS_SCHED_SETSCHEDULER, uintptr(tid), policy, uintptr(unsafe.Pointer(&priority)))
			if e == syscall.EPERM {
				sayShared()
				e = 0
			}
		}
		if e != 0 && e != syscall.ESRCH {
			return fmt.Errorf("pinning thread %d: %w", tid, e)
		}
	}
	return nil
}

var sayShared = sync.OnceFunc(func() {
	fmt.Fprintln(os.Stderr, "no right to real-time priority: other work on the webhook's core is measured with it; run this as root")
})

// memory reads RSS now and at its peak, in MiB.
func memory(pid int) (now, peak float64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(data) {
		var kib float64
		if _, err := fmt.Sscanf(string(line), "VmRSS: %f kB", &kib); err == nil {
			now = kib / 1024
		}
		if _, err := fmt.Sscanf(string(line), "VmHWM: %f kB", &kib); err == nil {
			peak = kib / 1024
		}
	}
	return now, peak, nil
}

// cpuTime is what the process has used, user and system; the clock ticks are of
// 10 ms on every Linux that Go runs on.
func cpuTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	var total time.Duration
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(n) * 10 * time.Millisecond
	}
	return total, nil
}
