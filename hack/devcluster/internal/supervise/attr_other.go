//go:build unix && !linux

package supervise

import "syscall"

// childAttr puts a child into a process group of its own, so that Ctrl-C in a
// terminal reaches only the parent, which then stops the children in order.
// Only Linux can tie a child's life to its parent's.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
