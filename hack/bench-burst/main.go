// Command bench-burst measures how long a burst of pods takes from creation to
// binding on the real control plane, instances included. Beside each run stands
// what the control plane alone takes on this machine, without Berth, when the
// nodes are there already: no provisioner can be faster than that. It prints a
// line for each and exits 1 when a pod was left behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

func main() {
	pods := flag.Int("pods", 1000, "pods of the Deployment, of 1 CPU and 2 GiB each")
	runs := flag.Int("runs", 3, "how often to repeat it, each time on a new cluster")
	boot := flag.Duration("boot-delay", 0, "time from an instance's launch to its node's joining")
	binding := flag.String("binding", string(v1alpha1.BindingNominate), "the Provisioner's binding: Nominate, Immediate or Scheduler")
	baseline := flag.Bool("alone", true, "measure the control plane alone, too")
	peer := flag.String("karpenter", "", "measure Karpenter, too: its program for simulated kubelets (make bench-burst-karpenter builds it)")
	source := flag.String("karpenter-source", "", "the folder of the module that it was built from, for its custom resource definitions")
	limit := flag.Duration("limit", 2*time.Minute, "give up after that long")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Printf("%d pods of 1 CPU and 2 GiB, one Deployment, boot delay %s, binding %s; seconds since the Deployment was created\n", *pods, *boot, *binding)
	fmt.Printf("%-12s %10s %10s %10s %10s %10s %6s\n", "run", "created", "half", "99 %", "all bound", "all ready", "nodes")
	show := func(name string, r result, err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench-burst:", err)
			os.Exit(1)
		}
		fmt.Printf("%-12s %10.2f %10.2f %10.2f %10.2f %10.2f %6d\n", name, r.created.Seconds(), r.half.Seconds(), r.most.Seconds(), r.all.Seconds(), r.ready.Seconds(), r.nodes)
	}
	for i := range *runs {
		if *baseline {
			r, err := alone(ctx, *pods, *limit)
			show(fmt.Sprint(i+1, " alone"), r, err)
		}
		if *peer != "" {
			r, err := karpenter(ctx, *peer, *source, *pods, *limit)
			show(fmt.Sprint(i+1, " Karpenter"), r, err)
		}
		r, err := run(ctx, *pods, *boot, v1alpha1.Binding(*binding), *limit)
		show(fmt.Sprint(i+1, " Berth"), r, err)
	}
}

type result struct {
	created, half, most, all, ready time.Duration
	nodes                           int
}

func run(ctx context.Context, pods int, boot time.Duration, binding v1alpha1.Binding, limit time.Duration) (r result, err error) {
	c, err := cluster.Start(ctx, os.Stderr, "--boot-delay", boot.String())
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := c.Client.Create(ctx, &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v1alpha1.ProvisionerSpec{Binding: binding}}); err != nil {
		return r, err
	}
	if err := cluster.WaitProvisioner(ctx, c, "default"); err != nil {
		return r, err
	}
	if r, err = burst(ctx, c, pods); err != nil {
		return r, err
	}
	live, err := c.LiveInstances(ctx)
	r.nodes = len(live)
	return r, err
}

// alone measures the control plane without Berth, with nodes for all pods.
func alone(ctx context.Context, pods int, limit time.Duration) (r result, err error) {
	c, err := cluster.Start(ctx, os.Stderr, "--berth=false")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	nodes, err := c.AddNodes(ctx, pods)
	if err != nil {
		return r, err
	}
	r, err = burst(ctx, c, pods)
	r.nodes = nodes
	return r, err
}

// burst creates the Deployment and measures its pods.
func burst(ctx context.Context, c *cluster.Cluster, pods int) (r result, err error) {
	seen, err := c.WatchPods(ctx, "default")
	if err != nil {
		return r, err
	}
	start := time.Now()
	if err := c.Client.Create(ctx, deployment(pods)); err != nil {
		return r, err
	}
	times, err := follow(ctx, seen, pods, start)
	if err != nil {
		return r, err
	}
	if err := times.correct(ctx, c, start); err != nil {
		return r, err
	}
	return times.result(), nil
}

// moments are when each pod was first seen created, bound and running, since
// the start.
type moments struct{ created, bound, running map[string]time.Duration }

// follow notes the moments of pods until all run.
func follow(ctx context.Context, seen <-chan *corev1.Pod, pods int, start time.Time) (moments, error) {
	m := moments{map[string]time.Duration{}, map[string]time.Duration{}, map[string]time.Duration{}}
	note := func(m map[string]time.Duration, name string, is bool) {
		if _, ok := m[name]; is && !ok {
			m[name] = time.Since(start)
		}
	}
	for len(m.running) < pods {
		select {
		case <-ctx.Done():
			return m, fmt.Errorf("of %d pods %d were created, %d bound and %d running: %w", pods, len(m.created), len(m.bound), len(m.running), ctx.Err())
		case pod := <-seen:
			note(m.created, pod.Name, true)
			note(m.bound, pod.Name, pod.Spec.NodeName != "")
			note(m.running, pod.Name, pod.Status.Phase == corev1.PodRunning)
		}
	}
	return m, nil
}

// correct takes the moment of binding from kube-scheduler's own events where
// that is earlier: kube-apiserver cuts watches that cannot keep up with a burst,
// and until the informer has listed anew it sees nothing.
func (m moments) correct(ctx context.Context, c *cluster.Cluster, start time.Time) error {
	var list eventsv1.EventList
	if err := c.Client.List(ctx, &list, client.InNamespace("default")); err != nil {
		return err
	}
	for _, e := range list.Items {
		if at := e.EventTime.Sub(start); e.Reason == "Scheduled" && at < m.bound[e.Regarding.Name] {
			m.bound[e.Regarding.Name] = at
		}
	}
	return nil
}

func (m moments) result() result {
	at := func(m map[string]time.Duration, q float64) time.Duration {
		all := slices.Sorted(maps.Values(m))
		return all[int(q*float64(len(all)-1))]
	}
	return result{created: at(m.created, 1), half: at(m.bound, .5), most: at(m.bound, .99), all: at(m.bound, 1), ready: at(m.running, 1)}
}

func deployment(pods int) *appsv1.Deployment {
	n := int32(pods)
	labels := map[string]string{"app": "burst"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "burst"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &n,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: "app", Image: "registry.k8s.io/pause:3.10",
					Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
						corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("2Gi")}},
				}}},
			},
		},
	}
}
