package main

import (
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/berth-dev/berth/internal/capacity"
)

// span is how long something took: on the clock, and in processor time of all
// threads.
type span struct{ wall, cpu time.Duration }

// best is the one that other work on the machine has lengthened less.
func (s span) best() time.Duration { return min(s.wall, s.cpu) }

// slower is the span that took longer.
func slower(a, b span) span {
	if b.best() > a.best() {
		return b
	}
	return a
}

func (s span) String() string {
	return fmt.Sprintf("%s (CPU %s)", short(s.wall), short(s.cpu))
}

func short(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", 1e3*d.Seconds())
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// cpuTime is the processor time that the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// timed runs f once.
func timed(f func()) span {
	runtime.GC()
	wall, cpu := time.Now(), cpuTime()
	f()
	return span{time.Since(wall), cpuTime() - cpu}
}

// median of n runs, by processor time.
func median(n int, f func()) span {
	list := make([]span, max(n, 1))
	for i := range list {
		list[i] = timed(f)
	}
	slices.SortFunc(list, func(a, b span) int { return int(a.best() - b.best()) })
	return list[len(list)/2]
}

// solve plans n times and returns the plan, with the median time. It fails when
// a pod has no place.
func solve(n int, s *capacity.Snapshot) (*capacity.Plan, span, error) {
	var p *capacity.Plan
	t := median(n, func() { p = capacity.Solve(s) })
	if len(p.Unschedulable) > 0 {
		u := p.Unschedulable[0]
		return nil, t, fmt.Errorf("%d pods have no place; %s: %+v", len(p.Unschedulable), u.Pod.Name, u.Reasons)
	}
	return p, t, nil
}
