package main

import "syscall"

// ownSession detaches a child from this terminal: Ctrl-C does not reach it.
// Unless it is to stay, the kernel asks it to end when the thread that started
// it dies, so that not even a killed demo leaves a cluster behind.
func ownSession(stay bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if !stay {
		attr.Pdeathsig = syscall.SIGTERM
	}
	return attr
}
