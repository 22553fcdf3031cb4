package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/test/cluster"
)

// TestProvisionerKilledInABurst kills the provisioner with SIGKILL at several
// moments of a burst of 1,000 pods and starts it again: all pods run, and the
// number of live instances equals the number of claims.
func TestProvisionerKilledInABurst(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c, err := cluster.Start(ctx, os.Stderr, "--berth=false", "--boot-delay=300ms")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	p := &process{t: t, c: c}
	t.Cleanup(p.stop)
	p.start()
	b := newBench(t, c, nil)
	if err := cluster.WaitProvisioner(ctx, c, b.name); err != nil {
		t.Fatal(err)
	}
	b.create(b.deployment("burst", 1000, nil))
	b.wait("the first claim is stored", func() (bool, error) {
		claims, err := b.claims(b.ctx)
		return len(claims) > 0, err
	})
	for range 3 {
		p.kill()
		p.start()
		b.wait("it goes on", func() (bool, error) {
			var pods corev1.PodList
			err := c.Client.List(ctx, &pods, client.InNamespace(b.namespace))
			return len(pods.Items) > 0 && strings.Contains(p.log(), "discovered"), err
		})
	}
	b.checkNodes(b.waitRunning(1000))
}

// process is a provisioner run by hand.
type process struct {
	t    *testing.T
	c    *cluster.Cluster
	cmd  *exec.Cmd
	file string
	// ended gets what the process has ended with.
	ended chan error
}

func (p *process) start() {
	p.t.Helper()
	f, err := os.Create(filepath.Join(p.t.TempDir(), "provisioner.log"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	p.cmd = exec.Command(filepath.Join(p.c.Bin, "provisioner"), "--kubeconfig", p.c.Kubeconfig, "--cluster-name", p.c.ClusterName,
		"--metrics-bind-address", "0", "--health-probe-bind-address", "0", "--leader-elect=false")
	p.cmd.Env, p.cmd.Stderr, p.file = p.c.Environ(), f, f.Name()
	p.ended = make(chan error, 1)
	if err := cluster.StartTied(p.cmd, func() { p.ended <- p.cmd.Wait() }); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) log() string {
	data, err := os.ReadFile(p.file)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(data)
}

func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-p.ended
}

// stop asks the provisioner to stop, and expects that it does so cleanly.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		p.t.Fatal(err)
	}
	if err := <-p.ended; err != nil {
		p.t.Errorf("the provisioner did not stop cleanly: %v", err)
	}
}

func contains(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}
