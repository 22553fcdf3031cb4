package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/berth-dev/berth/hack/devcluster/internal/supervise"
)

// Generous: a component takes a second on an idle machine and much more while
// compilers run beside it.
const startLimit = 2 * time.Minute

// tailLines is how much of a dead component's log is shown.
const tailLines = 15

// Cluster is a control plane that New has prepared. Run runs it, once.
type Cluster struct {
	plan    planner
	probe   *prober
	super   *supervise.Supervisor
	release func()

	wasReady bool

	mu      sync.Mutex
	started []*supervise.Process // in order of start
}

// New claims the folder, reserves ports, and writes keys and configuration.
// Errors that the user can mend are ErrUsage.
func New(c Config) (*Cluster, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(c.Dir) {
		return nil, fmt.Errorf("the folder %q is not an absolute path", c.Dir)
	}
	release, found, err := claimDir(c.Dir)
	if err != nil {
		return nil, err
	}
	if found {
		fmt.Fprintf(c.Progress, "devcluster: %s holds an earlier cluster that is dead; starting clean\n", c.Dir)
	}
	cluster, err := prepare(c)
	if err != nil {
		release()
		return nil, err
	}
	cluster.release = release
	return cluster, nil
}

func prepare(c Config) (*Cluster, error) {
	keys, err := newPKI(time.Now())
	if err != nil {
		return nil, fmt.Errorf("making keys: %w", err)
	}
	probe, err := newProber(keys)
	if err != nil {
		return nil, err
	}
	ports, err := reserveSystemPorts()
	if err != nil {
		return nil, err
	}
	plan := planner{config: c, layout: layout{c.Dir}, ports: ports}
	if err := plan.layout.writeFiles(c, keys, plan.apiServerURL()); err != nil {
		ports.release()
		return nil, fmt.Errorf("writing to %s: %w", c.Dir, err)
	}
	return &Cluster{plan: plan, probe: probe, super: supervise.New()}, nil
}

// Run starts everything, calls ready once when all works, and keeps it running
// until ctx ends, which is the regular end and gives nil, or until a component
// dies. In every case all processes are gone when Run returns. Closing hurry
// makes the stopping impatient.
func (c *Cluster) Run(ctx context.Context, hurry <-chan struct{}, ready func(Info) error) error {
	defer c.release()
	// A component's death ends the start of all others too.
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case exit := <-c.super.Exits():
			c.progress("%s %s; stopping the rest", exit.Process.Name(), exit.Describe())
			cancel(died(exit))
		case <-running.Done():
		}
	}()

	err := c.serve(running, ready)
	if cause := context.Cause(running); cause != nil {
		err = cause // of whatever else failed
	}
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = nil
		if !c.wasReady {
			err = errors.New("interrupted before the cluster was ready")
		}
	}
	cancel(nil)
	<-watched
	c.stop(hurry)
	return err
}

// serve starts everything, says so, and returns when ctx ends.
func (c *Cluster) serve(ctx context.Context, ready func(Info) error) error {
	begin := time.Now()
	if err := c.start(ctx); err != nil {
		return err
	}
	c.progress("ready in %.1fs", time.Since(begin).Seconds())
	if err := ready(c.info()); err != nil {
		return err
	}
	c.wasReady = true
	<-ctx.Done()
	return nil
}

// start brings up the components, each as early as what it needs is there.
func (c *Cluster) start(ctx context.Context) error {
	defer c.plan.ports.release() // of components that are not wanted
	c.progress("starting in %s", c.plan.layout.dir)
	for _, comp := range []component{c.plan.etcd(), c.plan.apiServer()} {
		if err := c.up(ctx, comp); err != nil {
			return err
		}
	}
	const bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
	if err := c.probe.create(ctx, c.plan.apiServerURL()+bindings, memberBinding); err != nil {
		return fmt.Errorf("giving the control plane its rights: %w", err)
	}
	comps := []component{c.plan.controllerManager(), c.plan.scheduler(), c.plan.kwok()}
	if c.plan.config.EC2 {
		comps = append(comps, c.plan.ec2sim())
	}
	steps := []func(context.Context) error{c.applyCRDs, c.defaults}
	for _, comp := range comps {
		steps = append(steps, func(ctx context.Context) error { return c.up(ctx, comp) })
	}
	if err := together(ctx, steps); err != nil {
		return err
	}
	if !c.plan.config.Berth {
		return nil
	}
	return together(ctx, []func(context.Context) error{
		func(ctx context.Context) error { return c.up(ctx, c.plan.webhook()) },
		func(ctx context.Context) error { return c.up(ctx, c.plan.provisioner()) },
	})
}

// together runs steps at once and returns the first error, having waited for
// all.
func together(ctx context.Context, steps []func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, step := range steps {
		wg.Go(func() {
			if err := step(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// up starts a component and waits until it is ready.
func (c *Cluster) up(ctx context.Context, comp component) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	begin := time.Now()
	for _, p := range comp.ports {
		p.release()
	}
	process, err := c.super.Start(comp.Spec)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.started = append(c.started, process)
	c.mu.Unlock()
	if err := c.probe.wait(ctx, comp.ready, startLimit); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%s is %w\n%s", comp.Name, err, tail(process))
	}
	c.progress("%s is up, %.1fs", comp.Name, time.Since(begin).Seconds())
	return nil
}

// defaults waits for the objects that the first pod and the first node need:
// the default namespace's service account and the namespace of node leases.
func (c *Cluster) defaults(ctx context.Context) error {
	for _, path := range []string{
		"/api/v1/namespaces/kube-node-lease",
		"/api/v1/namespaces/default/serviceaccounts/default",
	} {
		if err := c.probe.wait(ctx, c.plan.apiServerURL()+path, startLimit); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("waiting for %s: %w", path, err)
		}
	}
	return nil
}

// applyCRDs applies the CRDs and waits until the API server serves them.
func (c *Cluster) applyCRDs(ctx context.Context) error {
	dir := c.plan.config.CRDs
	if dir == "" {
		return nil
	}
	begin := time.Now()
	if err := c.kubectl(ctx, "apply", "--server-side", "--filename", dir); err != nil {
		return fmt.Errorf("applying the CRDs in %s: %w", dir, err)
	}
	if err := c.kubectl(ctx, "wait", "--for=condition=Established", "--timeout=60s", "--filename", dir); err != nil {
		return fmt.Errorf("waiting for the CRDs in %s: %w", dir, err)
	}
	c.progress("CRDs are established, %.1fs", time.Since(begin).Seconds())
	return nil
}

// kubectl runs kubectl as the administrator. Its output is in the error.
func (c *Cluster) kubectl(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, c.plan.config.Tools["kubectl"], append([]string{"--kubeconfig", c.plan.layout.kubeconfig()}, args...)...)
	cmd.Env = []string{"HOME=" + c.plan.layout.dir}
	output, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("kubectl %s: %w\n%s", args[0], err, bytes.TrimSpace(output))
	}
	return nil
}

// stop ends the components in the reverse order of their start, those that
// started together together.
func (c *Cluster) stop(hurry <-chan struct{}) {
	groups := []struct {
		names []string
		grace time.Duration
	}{
		{[]string{"provisioner", "webhook"}, berthGrace},
		{[]string{"ec2sim", "kwok", "kube-scheduler", "kube-controller-manager"}, systemGrace},
		{[]string{"kube-apiserver"}, serverGrace},
		{[]string{"etcd"}, etcdGrace},
	}
	begin := time.Now()
	var killed []string
	for _, group := range groups {
		var processes []*supervise.Process
		for _, p := range c.started {
			for _, name := range group.names {
				if p.Name() == name {
					processes = append(processes, p)
				}
			}
		}
		killed = append(killed, c.super.Stop(processes, group.grace, hurry)...)
	}
	if len(c.started) > 0 {
		c.progress("stopped in %.1fs", time.Since(begin).Seconds())
	}
	if len(killed) > 0 {
		c.progress("did not end in time and was killed: %s", strings.Join(killed, ", "))
	}
}

// info describes the running cluster.
func (c *Cluster) info() Info {
	info := c.plan.info()
	info.Pids = map[string]int{"devcluster": os.Getpid()}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.started {
		info.Pids[p.Name()] = p.Pid()
	}
	return info
}

func (c *Cluster) progress(format string, args ...any) {
	fmt.Fprintf(c.plan.config.Progress, "devcluster: "+format+"\n", args...)
}

// died is the error for a component that ended by itself.
func died(exit supervise.Exit) error {
	return fmt.Errorf("%s %s\n%s", exit.Process.Name(), exit.Describe(), tail(exit.Process))
}

// tail is the end of a component's log, with its path.
func tail(p *supervise.Process) string {
	return fmt.Sprintf("the end of %s:\n%s", p.Log(), supervise.Tail(p.Log(), tailLines))
}

// FindCRDs returns the folder of Berth's CRDs beside a devcluster in binDir,
// or "" when there is none.
func FindCRDs(binDir string) string {
	dir := filepath.Join(filepath.Dir(binDir), "deploy", "crds")
	if hasYAML(dir) {
		return dir
	}
	return ""
}

// CheckCRDs returns ErrUsage unless dir is a folder with YAML files.
func CheckCRDs(dir string) error {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return Usagef("--crds %s is not a folder", dir)
	}
	if !hasYAML(dir) {
		return Usagef("--crds %s has no YAML files", dir)
	}
	return nil
}
