package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Process is one of Berth's programs, started by hand on a cluster.
type Process struct {
	// Health is where it answers /healthz and /readyz, Metrics where /metrics.
	Health, Metrics string
	cmd             *exec.Cmd
	log             string
	done            chan error
}

// FreePort is a port of loopback that was free a moment ago.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// StartWebhook runs bin/webhook on a port of loopback, at which the API server
// finds it by url, and waits until it is ready. Its log goes to dir.
func (c *Cluster) StartWebhook(ctx context.Context, dir string, port int, url string, flags ...string) (*Process, error) {
	return c.start(ctx, dir, "webhook", append([]string{"--bind-address", "127.0.0.1", "--port", strconv.Itoa(port), "--webhook-url", url}, flags...)...)
}

// StartProvisioner runs bin/provisioner and waits until it is ready.
func (c *Cluster) StartProvisioner(ctx context.Context, dir string, flags ...string) (*Process, error) {
	return c.start(ctx, dir, "provisioner", append([]string{"--leader-elect=false"}, flags...)...)
}

func (c *Cluster) start(ctx context.Context, dir, program string, flags ...string) (*Process, error) {
	var ports [2]int
	for i := range ports {
		var err error
		if ports[i], err = FreePort(); err != nil {
			return nil, err
		}
	}
	f, err := os.CreateTemp(dir, program+"-*.log")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	health, metrics := fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	args := append([]string{"--kubeconfig", c.Kubeconfig, "--cluster-name", c.ClusterName,
		"--metrics-bind-address", metrics, "--health-probe-bind-address", health}, flags...)
	p := &Process{Health: "http://" + health, Metrics: "http://" + metrics + "/metrics", log: f.Name(), done: make(chan error, 1)}
	p.cmd = exec.Command(filepath.Join(c.Bin, program), args...)
	p.cmd.Env, p.cmd.Stderr = c.Environ(), f
	if err := StartTied(p.cmd, func() { p.done <- p.cmd.Wait() }); err != nil {
		return nil, fmt.Errorf("starting the %s: %w", program, err)
	}
	err = Until(ctx, func() (bool, error) {
		select {
		case err := <-p.done:
			p.done <- err
			return false, fmt.Errorf("it ended: %w\n%s", err, p.Log())
		default:
		}
		return p.Ready(ctx), nil
	})
	if err != nil {
		_ = p.cmd.Process.Kill()
		return nil, fmt.Errorf("waiting for the %s: %w\n%s", program, err, p.Log())
	}
	return p, nil
}

// Ready reports whether /readyz says so.
func (p *Process) Ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Health+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Pid of the process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Log is what it has said.
func (p *Process) Log() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Scrape reads /metrics.
func (p *Process) Scrape(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Metrics, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return string(data), err
}

// Signal sends the process a signal.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Kill ends it as a crash would.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	p.done <- <-p.done
	return nil
}

// Stop asks it to end and waits until it has, without an error.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-p.done:
		p.done <- err
		return err
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
		return errors.New("it did not end within a minute and was killed")
	}
}
