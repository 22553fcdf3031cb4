// Package supervise runs child processes that must not outlive their parent.
//
// Guarantees:
//   - Start and Stop are in the caller's order; Stop takes groups and stops
//     each group as a whole before the next.
//   - A child that exits without having been asked to is reported on Exits.
//   - On Linux every child gets SIGKILL from the kernel when this process
//     dies, however it dies. The kernel ties that signal to the thread that
//     forked the child, so one locked thread, which lives as long as the
//     Supervisor's process, forks all of them.
package supervise

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Spec is one program to run.
type Spec struct {
	// Name is what messages call it.
	Name string
	// Path is the executable.
	Path string
	// Args are the arguments after the program's name.
	Args []string
	// Env is the whole environment, as "KEY=value".
	Env []string
	// Dir is the working folder.
	Dir string
	// Log is the file that gets stdout and stderr. It is created or cut.
	Log string
}

// Process is a started program.
type Process struct {
	spec     Spec
	cmd      *exec.Cmd
	done     chan struct{}
	err      error // valid once done is closed
	stopping bool  // guarded by Supervisor.mu
}

// Name returns the name from the Spec.
func (p *Process) Name() string { return p.spec.Name }

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Log returns the path of the log file.
func (p *Process) Log() string { return p.spec.Log }

// Done is closed when the process has exited and been waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit reports a process that ended without having been asked to.
type Exit struct {
	Process *Process
	// Err is what exec.Cmd.Wait returned; nil for exit status 0.
	Err error
}

// Supervisor starts and stops processes. Use New.
type Supervisor struct {
	fork  chan func()
	exits chan Exit

	mu sync.Mutex // guards Process.stopping
}

// New returns a Supervisor and starts its forking thread, which is never
// stopped: when it ended, the kernel would kill the children.
func New() *Supervisor {
	s := &Supervisor{fork: make(chan func()), exits: make(chan Exit, 1)}
	go func() {
		runtime.LockOSThread()
		for f := range s.fork {
			f()
		}
	}()
	return s
}

// Exits delivers the first unexpected exit. Later ones are dropped: after the
// first the caller stops everything.
func (s *Supervisor) Exits() <-chan Exit { return s.exits }

// Start runs a program. The error names the program.
func (s *Supervisor) Start(spec Spec) (*Process, error) {
	if err := os.MkdirAll(filepath.Dir(spec.Log), 0o755); err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	log, err := os.Create(spec.Log)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	defer log.Close() // the child has its own descriptor

	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Env, cmd.Dir = spec.Env, spec.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttr()
	started := make(chan error)
	s.fork <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}

	p := &Process{spec: spec, cmd: cmd, done: make(chan struct{})}
	go s.wait(p)
	return p, nil
}

func (s *Supervisor) wait(p *Process) {
	p.err = p.cmd.Wait()
	s.mu.Lock()
	expected := p.stopping
	s.mu.Unlock()
	close(p.done)
	if expected {
		return
	}
	select {
	case s.exits <- Exit{Process: p, Err: p.err}:
	default:
	}
}

// Stop ends the given processes together: SIGTERM, and SIGKILL for what is
// still there after grace or when hurry is closed. It returns when all are
// gone, with the names of those that had to be killed. A nil or already gone
// process is no error.
func (s *Supervisor) Stop(group []*Process, grace time.Duration, hurry <-chan struct{}) (killed []string) {
	s.mu.Lock()
	for _, p := range group {
		if p != nil {
			p.stopping = true
		}
	}
	s.mu.Unlock()
	for _, p := range group {
		if p != nil {
			// The only possible failure is that it is gone already.
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	late := false
	for _, p := range group {
		if p == nil {
			continue
		}
		if !late {
			select {
			case <-p.done:
				continue
			case <-timer.C:
				late = true
			case <-hurry:
				late = true
			}
		}
		select {
		case <-p.done:
			continue
		default:
		}
		_ = p.cmd.Process.Kill()
		<-p.done
		killed = append(killed, p.Name())
	}
	return killed
}

// Describe says how a process ended: "exited with status 1", "was killed by
// signal: killed".
func (e Exit) Describe() string {
	if e.Err == nil {
		return "exited with status 0"
	}
	var exit *exec.ExitError
	if errors.As(e.Err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return "was killed by signal: " + status.Signal().String()
		}
		return fmt.Sprintf("exited with status %d", exit.ExitCode())
	}
	return e.Err.Error()
}

// Tail returns the last lines of a log file, at most n, or why it cannot.
func Tail(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	// Lines of control plane logs are short: 64 KiB hold any sensible n.
	const window = 64 << 10
	if info, err := f.Stat(); err == nil && info.Size() > window {
		if _, err := f.Seek(-window, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	text := strings.TrimRight(string(data), "\n")
	if text == "" {
		return "(no output)"
	}
	lines := strings.Split(text, "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
