package cluster

import (
	"os/exec"
	"runtime"
)

// StartTied starts a command whose process does not outlive this one, however this
// one ends. When it has been started, wait is called, in a goroutine of its own; it
// must return only when the process has ended.
func StartTied(cmd *exec.Cmd, wait func()) error {
	cmd.SysProcAttr = childAttr()
	started := make(chan error, 1)
	go func() {
		// The kernel goes by the thread that starts a process: it must live as long.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			wait()
		}
	}()
	return <-started
}
