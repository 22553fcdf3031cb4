package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berth-dev/berth/test/cluster"
)

const (
	// silence is how long devcluster may say nothing while it builds or
	// starts: the slowest single build takes minutes on a small machine.
	silence = 20 * time.Minute
	// stopLimit is how long it may take to stop; its own limits add up to less.
	stopLimit = 30 * time.Second
)

// devcluster is a running bin/devcluster with a folder of its own. It writes
// to files, not pipes, so that it can outlive this process.
type devcluster struct {
	// dir holds all that the cluster writes; it is this process's to remove.
	dir  string
	info cluster.Info
	cmd  *exec.Cmd
	// ended is closed when the process has ended; then err says how.
	ended chan struct{}
	err   error
	// byItself is set by stop when the process had ended before.
	byItself bool
}

// startDevcluster runs bin/devcluster up and returns when it is ready. What it
// says on the way goes to progress, line by line. With stay it survives this
// process. When it does not become ready it is stopped, and its folder is left
// for whoever wants to know why. The calling goroutine must be locked to its
// thread.
func startDevcluster(ctx context.Context, bin string, stay bool, progress func(string)) (*devcluster, error) {
	dir, err := os.MkdirTemp("", "berth-demo-")
	if err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	d := &devcluster{dir: dir, ended: make(chan struct{})}
	if err := d.start(bin, stay); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	if err := d.awaitReady(ctx, progress); err != nil {
		// That it has failed, or was stopped too early, is its exit status too.
		_ = d.stop(nil)
		return d, err
	}
	return d, nil
}

// logs is the folder of the components' logs.
func (d *devcluster) logs() string { return filepath.Join(d.dir, "cluster", "logs") }

func (d *devcluster) stdout() string { return filepath.Join(d.dir, "devcluster.json") }
func (d *devcluster) stderr() string { return filepath.Join(d.dir, "devcluster.log") }

func (d *devcluster) start(bin string, stay bool) error {
	stdout, err := os.Create(d.stdout())
	if err != nil {
		return fmt.Errorf("starting devcluster: %w", err)
	}
	defer stdout.Close() // The child has its own descriptor.
	stderr, err := os.Create(d.stderr())
	if err != nil {
		return fmt.Errorf("starting devcluster: %w", err)
	}
	defer stderr.Close()
	d.cmd = exec.Command(filepath.Join(bin, "devcluster"), "up", "--dir", filepath.Join(d.dir, "cluster"))
	d.cmd.Stdout, d.cmd.Stderr = stdout, stderr
	d.cmd.SysProcAttr = ownSession(stay)
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("starting devcluster: %w", err)
	}
	return nil
}

// awaitReady passes on what devcluster says until it prints its endpoints.
func (d *devcluster) awaitReady(ctx context.Context, progress func(string)) error {
	log, err := os.Open(d.stderr())
	if err != nil {
		return fmt.Errorf("starting devcluster: %w", err)
	}
	defer log.Close() // Only read from.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	quiet := time.NewTimer(silence)
	defer quiet.Stop()
	var partial []byte
	for {
		said, err := readOn(log, &partial)
		if err != nil {
			return fmt.Errorf("reading %s: %w", d.stderr(), err)
		}
		for _, line := range said {
			quiet.Reset(silence)
			progress(strings.TrimPrefix(line, "devcluster: "))
		}
		data, err := os.ReadFile(d.stdout())
		if err != nil {
			return fmt.Errorf("reading devcluster's endpoints: %w", err)
		}
		if bytes.HasSuffix(data, []byte("\n")) {
			if err := json.Unmarshal(data, &d.info); err != nil {
				return fmt.Errorf("reading devcluster's endpoints: %w", err)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-d.ended:
			return fmt.Errorf("devcluster ended before it was ready (%w); its last words are in %s", d.err, d.stderr())
		case <-quiet.C:
			return fmt.Errorf("devcluster has said nothing for %s; its log is %s", silence, d.stderr())
		case <-tick.C:
		}
	}
}

// readOn returns the whole lines that have been written since the last call.
func readOn(f *os.File, partial *[]byte) ([]string, error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := f.Read(buf)
		*partial = append(*partial, buf[:n]...)
		if n == 0 || err != nil {
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, err
			}
			break
		}
	}
	var lines []string
	for {
		line, rest, ok := bytes.Cut(*partial, []byte("\n"))
		if !ok {
			return lines, nil
		}
		lines = append(lines, string(line))
		*partial = rest
	}
}

// cause finds out why something failed: when devcluster ends, its API server
// is gone a moment before it is.
func cause(ctx context.Context, err error) error {
	moment := time.NewTimer(2 * time.Second)
	defer moment.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-moment.C:
		return err
	}
}

// lastWords are the last n things that devcluster itself has said; the logs
// that it quotes are left out.
func (d *devcluster) lastWords(n int) []string {
	data, err := os.ReadFile(d.stderr())
	if err != nil {
		return []string{err.Error()}
	}
	var lines []string
	for _, line := range strings.Split(string(data), "\n") {
		if words, ok := strings.CutPrefix(line, "devcluster: "); ok {
			lines = append(lines, words)
		}
	}
	return lines[max(0, len(lines)-n):]
}

// stop ends devcluster and waits for it. Closing hurry makes it impatient. It
// is an error when devcluster has ended before, or does not end well.
func (d *devcluster) stop(hurry <-chan struct{}) error {
	signal := func(s os.Signal) error {
		if err := d.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stopping devcluster: %w", err)
		}
		return nil
	}
	select {
	case <-d.ended:
		d.byItself = true
		return fmt.Errorf("devcluster ended by itself: %w", d.err)
	default:
	}
	if err := signal(syscall.SIGTERM); err != nil {
		return err
	}
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	for {
		select {
		case <-d.ended:
			if d.err != nil {
				return fmt.Errorf("devcluster: %w", d.err)
			}
			return nil
		case <-hurry:
			hurry = nil
			if err := signal(syscall.SIGTERM); err != nil {
				return err
			}
		case <-limit.C:
			err := signal(syscall.SIGKILL)
			<-d.ended
			return errors.Join(fmt.Errorf("devcluster did not stop within %s and was killed", stopLimit), err)
		}
	}
}

// leftovers names the processes of the cluster that still exist: by the ids
// that devcluster gave, and, where there is a /proc, by the cluster's folder on
// their command lines.
func (d *devcluster) leftovers() []string {
	var out []string
	for name, pid := range d.info.Pids {
		// Signal 0 only asks whether the process exists (kill(2)).
		if err := syscall.Kill(pid, 0); err == nil || errors.Is(err, syscall.EPERM) {
			out = append(out, fmt.Sprintf("%s (process %d)", name, pid))
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		entries = nil // No /proc here: the ids have to do.
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A process that has just gone cannot be read, which is what is hoped for.
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.Contains(line, []byte(d.dir+"/")) {
			name, _, _ := bytes.Cut(line, []byte{0})
			out = append(out, fmt.Sprintf("%s (process %d)", filepath.Base(string(name)), pid))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
