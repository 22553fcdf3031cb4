//go:build unix && !linux

package main

import "syscall"

// ownSession detaches a child from this terminal: Ctrl-C does not reach it.
// Only Linux can tie its life to this process's as well.
func ownSession(bool) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true}
}
