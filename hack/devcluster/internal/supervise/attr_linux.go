package supervise

import "syscall"

// childAttr puts a child into a process group of its own, so that Ctrl-C in a
// terminal reaches only the parent, which then stops the children in order;
// and asks the kernel to kill the child when the forking thread dies.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
