// Command bench-removal measures on the real control plane how capacity is given
// back, with all witnesses outside the process that is measured: watches of the
// API server, and EC2's own list of instances. It prints what it saw and exits 1
// when something did not end, or a disruption budget was violated.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// scenarios by name, in the order in which they run.
var scenarios = []struct {
	name string
	run  func(context.Context, *bench) error
}{
	{"empty", scaleToZero},
	{"drift", driftAll},
	{"drain", drainAll},
	{"bad", oneBadObject},
}

func main() {
	only := flag.String("only", "", "run these alone, separated by commas: empty, drift, drain, bad")
	nodes := flag.Int("nodes", 100, "nodes of the scenarios drift and drain")
	boot := flag.Duration("boot-delay", 2*time.Second, "time from an instance's launch to its node's joining")
	start := flag.Duration("pod-start", 15*time.Second, "time from a pod's being bound to its being ready in the scenario drain")
	limit := flag.Duration("limit", 15*time.Minute, "give a scenario up after that long")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed := false
	for _, s := range scenarios {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), s.name) {
			continue
		}
		if err := run(ctx, s.run, bench{nodes: *nodes, boot: *boot, start: *start}, *limit); err != nil {
			fmt.Fprintf(os.Stderr, "bench-removal: %s: %v\n", s.name, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

// bench is one scenario on a cluster of its own.
type bench struct {
	c     *cluster.Cluster
	view  client.Reader // Of claims and Nodes.
	nodes int
	boot  time.Duration
	start time.Duration // Of pods of the scenario drain.
}

func run(ctx context.Context, scenario func(context.Context, *bench) error, b bench, limit time.Duration) (err error) {
	c, err := cluster.Start(ctx, os.Stderr, "--boot-delay", b.boot.String())
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			lines := strings.Split(c.Log("provisioner"), "\n")
			fmt.Fprintln(os.Stderr, strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
		err = errors.Join(err, c.Stop())
	}()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	b.c = c
	if b.view, err = c.View(ctx, &v1alpha1.NodeClaim{}, &corev1.Node{}); err != nil {
		return err
	}
	return scenario(ctx, &b)
}

// provisioner makes the one Provisioner of a scenario: one instance type, so
// that the number of nodes follows from the pods.
func (b *bench) provisioner(ctx context.Context, change func(*v1alpha1.ProvisionerSpec)) error {
	pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	change(&pr.Spec)
	if err := b.c.Client.Create(ctx, pr); err != nil {
		return err
	}
	return cluster.WaitProvisioner(ctx, b.c, pr.Name)
}

// oneType keeps to m5.2xlarge: 8 CPUs.
func oneType(s *v1alpha1.ProvisionerSpec) {
	s.Requirements = []v1alpha1.Requirement{{Key: corev1.LabelInstanceTypeStable, Operator: v1alpha1.OperatorIn, Values: []string{"m5.2xlarge"}}}
}

// deploy makes a Deployment and, unless unavailable is 0, a disruption budget
// that allows so many of its pods to be unavailable. start is how long its pods
// take from being bound to being ready.
func (b *bench) deploy(ctx context.Context, name string, replicas int, cpu string, unavailable int, start time.Duration) error {
	labels := map[string]string{"app": name}
	err := b.c.Client.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr(int32(replicas)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{"pod-ready.stage.kwok.x-k8s.io/delay": start.String()}}, Spec: corev1.PodSpec{
				TerminationGracePeriodSeconds: ptr(int64(5)),
				Containers: []corev1.Container{{Name: "app", Image: "registry.k8s.io/pause:3.10",
					Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
						corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("256Mi")}}}},
			}},
		},
	})
	if err != nil || unavailable == 0 {
		return err
	}
	return b.c.Client.Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromInt(unavailable)), Selector: &metav1.LabelSelector{MatchLabels: labels}},
	})
}

// claims are all claims, as the watch shows them.
func (b *bench) claims(ctx context.Context) ([]v1alpha1.NodeClaim, error) {
	var list v1alpha1.NodeClaimList
	err := b.view.List(ctx, &list)
	return list.Items, err
}

// ready waits until so many pods are ready on the oracle's watch, and all claims are.
func (b *bench) ready(ctx context.Context, o *oracle, pods int) error {
	err := cluster.Until(ctx, func() (bool, error) { return o.ready() >= pods, nil })
	if err != nil {
		return fmt.Errorf("%d of %d pods became ready: %w", o.ready(), pods, err)
	}
	return nil
}

// gone waits until EC2 has no instance left and returns how long it took.
func (b *bench) gone(ctx context.Context, since time.Time) (time.Duration, error) {
	err := cluster.Until(ctx, func() (bool, error) {
		live, err := b.c.LiveInstances(ctx)
		return len(live) == 0, err
	})
	return time.Since(since), err
}

func ptr[T any](v T) *T { return &v }

// emptyPods is how many pods the scenario empty has.
const emptyPods = 1000

// scaleToZero: 1,000 pods go; no instance may be left soon after. Beside it stands
// how long the control plane alone takes to let the pods go on this machine.
func scaleToZero(ctx context.Context, b *bench) error {
	if err := b.provisioner(ctx, func(s *v1alpha1.ProvisionerSpec) { s.TTLSecondsAfterEmpty = ptr(int64(0)) }); err != nil {
		return err
	}
	o, err := b.full(ctx)
	if err != nil {
		return err
	}
	live, err := b.c.LiveInstances(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	podsGone, err := b.empty(ctx, o)
	if err != nil {
		return err
	}
	took, err := b.gone(ctx, start)
	if err != nil {
		return err
	}
	alone, err := aloneToZero(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("empty: %d pods scaled to zero, ttlSecondsAfterEmpty 0: the last pod gone after %.1f s, the last of %d instances after %.1f s (bar: 15 s); without Berth, the last pod gone after %.1f s\n",
		emptyPods, podsGone.Seconds(), len(live), took.Seconds(), alone.Seconds())
	return nil
}

// aloneToZero is how long the pods take to go without Berth.
func aloneToZero(ctx context.Context) (took time.Duration, err error) {
	c, err := cluster.Start(ctx, os.Stderr, "--berth=false")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if _, err := c.AddNodes(ctx, emptyPods); err != nil {
		return 0, err
	}
	b := &bench{c: c}
	o, err := b.full(ctx)
	if err != nil {
		return 0, err
	}
	return b.empty(ctx, o)
}

// full runs the pods and returns who watches them.
func (b *bench) full(ctx context.Context) (*oracle, error) {
	o, err := newOracle(ctx, b.c, nil)
	if err != nil {
		return nil, err
	}
	if err := b.deploy(ctx, "burst", emptyPods, "1", 0, time.Second); err != nil {
		return nil, err
	}
	return o, b.ready(ctx, o, emptyPods)
}

// empty scales the pods to zero and returns how long they took to go.
func (b *bench) empty(ctx context.Context, o *oracle) (took time.Duration, err error) {
	dep := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "burst"}}
	start := time.Now()
	if err := b.c.Client.Patch(ctx, dep, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"replicas":0}}`))); err != nil {
		return 0, err
	}
	err = cluster.Until(ctx, func() (bool, error) { took = time.Since(start); return o.all() == 0, nil })
	return took, err
}
