package toolset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// heartbeat is the time between two signs of life while one tool builds.
const heartbeat = 20 * time.Second

// Builder finds or builds the tools. All fields but Assets are required.
type Builder struct {
	// Manifest pins the versions.
	Manifest Manifest
	// CacheDir is the folder to keep binaries under, see CacheDir.
	CacheDir string
	// Assets is a folder whose binaries are used instead of built ones, file
	// by file (the meaning of KUBEBUILDER_ASSETS). Empty: none.
	Assets string
	// Progress receives one line per tool that is built, and heartbeats.
	Progress io.Writer
}

// Ensure returns the path of each tool by name, having built those that are
// neither in Assets nor in the cache. Two processes that do this at once build
// once: the second waits for the first. A build that is cut short leaves the
// tools that it finished and no half-written file under a final name.
func (b Builder) Ensure(ctx context.Context) (map[string]string, error) {
	paths, missing, err := b.Find()
	if err != nil || len(missing) == 0 {
		return paths, err
	}

	root, err := b.root()
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(root, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, fmt.Errorf("making the cache folder: %w", err)
	}
	unlock, err := b.lock(ctx, filepath.Join(root, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()

	// Whoever held the lock before may have built everything.
	paths, missing, err = b.Find()
	if err != nil || len(missing) == 0 {
		return paths, err
	}
	if err := b.build(ctx, root, missing); err != nil {
		return nil, err
	}
	paths, missing, err = b.Find()
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%s vanished from %s during the build", missing[0].Name, bin)
	}
	return paths, nil
}

// Find returns the path of each tool that exists, by name, and the tools that
// would have to be built. It builds nothing.
func (b Builder) Find() (paths map[string]string, missing []Tool, err error) {
	root, err := b.root()
	if err != nil {
		return nil, nil, err
	}
	paths = map[string]string{}
	for _, tool := range Tools() {
		candidates := []string{filepath.Join(root, "bin", tool.Name)}
		if b.Assets != "" {
			candidates = append([]string{filepath.Join(b.Assets, tool.Name)}, candidates...)
		}
		for _, path := range candidates {
			if isExecutable(path) {
				paths[tool.Name] = path
				break
			}
		}
		if paths[tool.Name] == "" {
			missing = append(missing, tool)
		}
	}
	return paths, missing, nil
}

// root is the cache folder of exactly this manifest and Go version. The Go
// release that built this program stands for the one on PATH: both come from
// the same "make build", and asking it costs no process at every start.
func (b Builder) root() (string, error) {
	key, err := b.Manifest.Key(runtime.Version())
	if err != nil {
		return "", err
	}
	return filepath.Join(b.CacheDir, "devcluster", key), nil
}

// lock takes the build lock, saying so once when somebody else holds it. The
// kernel drops it when its holder dies.
func (b Builder) lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the build lock: %w", err)
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for said := false; ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if !said {
			said = true
			fmt.Fprintf(b.Progress, "devcluster: another process builds the control plane; waiting for it\n")
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// build compiles the missing tools one after the other ("go build" uses all
// CPUs by itself).
func (b Builder) build(ctx context.Context, root string, missing []Tool) error {
	goCommand, err := exec.LookPath("go")
	if err != nil {
		return errors.New("the control plane must be built once and there is no go command on PATH: install Go, or set KUBEBUILDER_ASSETS to a folder with the binaries")
	}
	ldflags, err := b.Manifest.ldflags()
	if err != nil {
		return err
	}
	src := filepath.Join(root, "src")
	if err := os.MkdirAll(src, 0o755); err != nil {
		return fmt.Errorf("making the work folder: %w", err)
	}
	for name, data := range map[string][]byte{"go.mod": b.Manifest.Mod, "go.sum": b.Manifest.Sum} {
		if err := os.WriteFile(filepath.Join(src, name), data, 0o644); err != nil {
			return fmt.Errorf("writing the work folder: %w", err)
		}
	}

	fmt.Fprintf(b.Progress, "devcluster: building %d control plane programs into %s (first use only; about 11 minutes on 2 cores)\n",
		len(missing), filepath.Join(root, "bin"))
	begin := time.Now()
	for i, tool := range missing {
		label := fmt.Sprintf("devcluster: [%d/%d] %s", i+1, len(missing), tool.Name)
		took, err := b.buildOne(ctx, goCommand, src, ldflags, tool, filepath.Join(root, "bin", tool.Name), label)
		if err != nil {
			return fmt.Errorf("building %s: %w", tool.Name, err)
		}
		fmt.Fprintf(b.Progress, "%s: built in %s\n", label, took)
	}
	fmt.Fprintf(b.Progress, "devcluster: control plane built in %s\n", time.Since(begin).Round(time.Second))
	return nil
}

// buildOne compiles one tool to a temporary name beside target and renames it.
func (b Builder) buildOne(ctx context.Context, goCommand, src, ldflags string, tool Tool, target, label string) (time.Duration, error) {
	begin := time.Now()
	elapsed := func() time.Duration { return time.Since(begin).Round(100 * time.Millisecond) }

	temp := fmt.Sprintf("%s.%d.tmp", target, os.Getpid())
	defer os.Remove(temp)
	cmd := exec.CommandContext(ctx, goCommand, "build", "-mod=readonly", "-trimpath", "-buildvcs=false",
		"-ldflags", ldflags, "-o", temp, tool.Package)
	cmd.Dir = src
	// The caller's GOFLAGS and workspace are about his own module.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	// A group of its own, so that a cancelled build takes its compilers along.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output

	if err := cmd.Start(); err != nil {
		return 0, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			fmt.Fprintf(b.Progress, "%s: building, %s\n", label, time.Since(begin).Round(time.Second))
		case err := <-done:
			if ctx.Err() != nil {
				return 0, context.Cause(ctx)
			}
			if err != nil {
				return 0, fmt.Errorf("%w\n%s", err, lastLines(output.String(), 30))
			}
			if err := os.Rename(temp, target); err != nil {
				return 0, err
			}
			return elapsed(), nil
		}
	}
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// lastLines returns the end of text, at most n lines of it.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
