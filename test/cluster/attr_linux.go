package cluster

import "syscall"

// childAttr has the kernel ask a child process to end when the thread that started
// it dies, so that not even a killed test leaves anything behind.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
