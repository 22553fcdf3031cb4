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

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// TestProvisionerKilledInABurst kills the provisioner with SIGKILL at several
// moments of a burst of 1,000 pods and starts it again: all pods run, and the
// number of live instances equals the number of claims.
func TestProvisionerKilledInABurst(t *testing.T) {
	ctx, c, p := killable(t, 300*time.Millisecond)
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

// TestProvisionerKilledBehindTheGate kills the provisioner with SIGKILL while nodes that open
// together are behind their gate: the next one lifts it, and leaves nothing of it.
func TestProvisionerKilledBehindTheGate(t *testing.T) {
	ctx, c, p := killable(t, time.Second)
	b := newBench(t, c, func(pr *v1alpha1.Provisioner) {
		pr.Spec.Requirements = []v1alpha1.Requirement{{Key: corev1.LabelInstanceTypeStable, Operator: v1alpha1.OperatorIn, Values: []string{"m5.xlarge"}}}
	})
	if err := cluster.WaitProvisioner(ctx, c, b.name); err != nil {
		t.Fatal(err)
	}
	gates := func() int {
		var pods corev1.PodList
		if err := c.Client.List(ctx, &pods, client.HasLabels{v1alpha1.LabelGated}); err != nil {
			t.Fatal(err)
		}
		return len(pods.Items)
	}
	for name, cpu := range map[string]string{"small": "700m", "large": "1700m"} {
		b.create(b.deployment(name, 20, func(s *corev1.PodSpec) { s.Containers[0].Resources.Requests = requests(cpu, "1Gi") }))
	}
	b.wait("the gate is shut", func() (bool, error) { return gates() > 0, nil })
	p.kill()
	if gates() == 0 {
		t.Fatal("the gate has gone with the provisioner")
	}
	p.start()
	running := b.waitRunning(40)
	b.wait("nothing is left of the gate", func() (bool, error) {
		var nodes corev1.NodeList
		err := c.Client.List(ctx, &nodes, client.HasLabels{v1alpha1.LabelGated})
		return gates() == 0 && len(nodes.Items) == 0, err
	})
	b.checkNodes(running)
}

// ownCluster starts a control plane for one test, without Berth.
func ownCluster(ctx context.Context, t *testing.T, flags ...string) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(ctx, os.Stderr, append([]string{"--berth=false"}, flags...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// killable starts a control plane of its own, and a provisioner by hand.
func killable(t *testing.T, bootDelay time.Duration) (context.Context, *cluster.Cluster, *process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	t.Cleanup(cancel)
	c := ownCluster(ctx, t, "--boot-delay="+bootDelay.String())
	p := &process{t: t, c: c}
	t.Cleanup(p.stop)
	p.start()
	return ctx, c, p
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
