// Command bench-seats measures, on the real control plane with its kube-scheduler,
// how many pods of tight plans end on the node that was bought for them, and
// whether any further node was bought: once with the cluster as it is, and once
// with examples/priority-class.yaml. It exits 1 when fewer than 99 % do, or a
// further node was.
//
// A plan can only be tight once Berth has learned how much memory nodes of a type
// have: before, it reckons with less. So all is done twice on each cluster, and counted the
// second time.
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
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

func main() {
	each := flag.Int("pods", 50, "pods of each of the Deployments")
	runs := flag.Int("runs", 1, "how often to repeat both, each time on a new cluster")
	boot := flag.Duration("boot-delay", 10*time.Second, "time from an instance's launch to its node's joining")
	limit := flag.Duration("limit", 5*time.Minute, "give up after that long")
	fresh := flag.Bool("fresh", false, "count the first time, when nothing is known of the nodes' memory yet")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Printf("%d Deployments of %d pods each, boot delay %s, binding Nominate\n", len(shapes), *each, *boot)
	fmt.Printf("%4s %-20s %6s %8s %9s %10s %8s %8s %10s %10s %10s\n", "run", "preemptionPolicy", "pods", "seated", "on it", "elsewhere", "nodes", "further", "cpu used", "mem used", "all bound")
	good := true
	for i := range *runs {
		for _, policy := range []corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever} {
			r, err := run(ctx, policy, *each, *boot, *limit, *fresh)
			if err != nil {
				fmt.Fprintln(os.Stderr, "bench-seats:", err)
				os.Exit(1)
			}
			fmt.Printf("%4d %-20s %6d %8d %8.1f%% %10d %8d %8d %9.1f%% %9.1f%% %9.1fs\n", i+1, policy, r.pods, r.seated, 100*r.share(), r.seated-r.onIt, r.nodes, r.further, 100*r.cpu, 100*r.memory, r.took.Seconds())
			good = good && r.share() >= 0.99 && r.further == 0
		}
	}
	if !good {
		fmt.Fprintln(os.Stderr, "bench-seats: fewer than 99 % of the pods are on the node bought for them, or a further node was bought")
		os.Exit(1)
	}
}

// shapes are millicores and MiB of the Deployments' pods: none divides another,
// so that a plan that is tight leaves no room for any to sit elsewhere.
var shapes = [][2]int64{{250, 400}, {310, 1900}, {470, 700}, {650, 2700}, {900, 1300}, {1300, 2300}, {1700, 6100}, {2300, 3700}}

type result struct {
	// pods that there are, those that were seen to have a seat before they were
	// bound, and those of them that were bound to it.
	pods, seated, onIt int
	// nodes launched, and those of them that no pod had its first seat on.
	nodes, further int
	// cpu and memory are the shares of the nodes' allocatable that pods request.
	cpu, memory float64
	// took is the time from the first pod's creation to the last one's binding.
	took time.Duration
}

// share is the part of all pods that ended on the node bought for them.
func (r *result) share() float64 { return float64(r.onIt) / float64(r.pods) }

func run(ctx context.Context, policy corev1.PreemptionPolicy, each int, boot, limit time.Duration, fresh bool) (r result, err error) {
	c, err := cluster.Start(ctx, os.Stderr, "--boot-delay", boot.String())
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	provisioner := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v1alpha1.ProvisionerSpec{Binding: v1alpha1.BindingNominate}}
	if err := c.Client.Create(ctx, provisioner); err != nil {
		return r, err
	}
	if err := cluster.WaitProvisioner(ctx, c, "default"); err != nil {
		return r, err
	}
	if policy == corev1.PreemptNever {
		if err := keepSeats(ctx, c); err != nil {
			return r, err
		}
	}
	r.pods = len(shapes) * each
	if !fresh {
		if _, err := burst(ctx, c, "rehearsal", each); err != nil {
			return r, fmt.Errorf("rehearsing: %w", err)
		}
		if err := giveBack(ctx, c); err != nil {
			return r, fmt.Errorf("clearing the cluster after the rehearsal: %w", err)
		}
	}
	began := time.Now()
	stories, err := burst(ctx, c, "shape", each)
	if err != nil {
		return r, err
	}
	r.took = time.Since(began)
	return r, r.count(ctx, c, stories)
}

// burst creates the Deployments and follows their pods until all are bound.
func burst(ctx context.Context, c *cluster.Cluster, name string, each int) (map[string]*story, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	seen, err := c.WatchPods(ctx, "default")
	if err != nil {
		return nil, err
	}
	for i, s := range shapes {
		if err := c.Client.Create(ctx, deployment(fmt.Sprintf("%s-%d", name, i), each, s[0], s[1])); err != nil {
			return nil, err
		}
	}
	return follow(ctx, seen, len(shapes)*each)
}

// giveBack deletes the Deployments, and the nodes once their pods are gone and all nodes
// have been learned from.
func giveBack(ctx context.Context, c *cluster.Cluster) error {
	if err := c.Client.DeleteAllOf(ctx, &appsv1.Deployment{}, client.InNamespace("default"), client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
		return err
	}
	err := cluster.Until(ctx, func() (bool, error) {
		var pods corev1.PodList
		err := c.Client.List(ctx, &pods, client.InNamespace("default"))
		return len(pods.Items) == 0, err
	})
	if err != nil {
		return err
	}
	if err := c.Client.DeleteAllOf(ctx, &v1alpha1.NodeClaim{}); err != nil {
		return err
	}
	return cluster.Until(ctx, func() (bool, error) {
		live, err := c.LiveInstances(ctx)
		if err != nil || len(live) > 0 {
			return false, err
		}
		var claims v1alpha1.NodeClaimList
		err = c.Client.List(ctx, &claims)
		return len(claims.Items) == 0, err
	})
}

// keepSeats makes the example's class the default, and waits until pods get it.
func keepSeats(ctx context.Context, c *cluster.Cluster) error {
	text, err := os.ReadFile("examples/priority-class.yaml")
	if err != nil {
		return err
	}
	class := &schedulingv1.PriorityClass{}
	if err := yaml.UnmarshalStrict(text, class); err != nil {
		return err
	}
	if err := c.Client.Create(ctx, class); err != nil {
		return err
	}
	return cluster.Until(ctx, func() (bool, error) {
		d := deployment("probe", 1, 100, 100)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "probe"}, Spec: d.Spec.Template.Spec}
		err := c.Client.Create(ctx, pod, client.DryRunAll)
		p := pod.Spec.PreemptionPolicy
		return p != nil && *p == corev1.PreemptNever, err
	})
}

// story is what became of a pod: the seats that it was given, in order, and the
// node that it is bound to, each with the time since the first pod was seen.
type story struct {
	seats []string
	bound string
	told  string
}

// follow watches pods until all are bound.
func follow(ctx context.Context, seen <-chan *corev1.Pod, pods int) (map[string]*story, error) {
	stories := map[string]*story{}
	start := time.Now()
	for bound := 0; bound < pods; {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d pods were bound: %w", bound, pods, ctx.Err())
		case pod := <-seen:
			s := stories[pod.Name]
			if s == nil {
				s = &story{}
				stories[pod.Name] = s
			}
			tell := func(what, node string) {
				s.told += fmt.Sprintf(", %s %s after %.1fs", what, node, time.Since(start).Seconds())
			}
			if n := pod.Status.NominatedNodeName; n != "" && (len(s.seats) == 0 || s.seats[len(s.seats)-1] != n) {
				s.seats = append(s.seats, n)
				tell("seat on", n)
			}
			if pod.Spec.NodeName != "" && s.bound == "" {
				s.bound = pod.Spec.NodeName
				bound++
				tell("bound to", s.bound)
			}
		}
	}
	return stories, nil
}

// count compares seats with where pods are, tells the story of those that are
// elsewhere, and looks at what was bought.
func (r *result) count(ctx context.Context, c *cluster.Cluster, stories map[string]*story) error {
	bought := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(stories)) {
		s := stories[name]
		if len(s.seats) == 0 {
			fmt.Fprintf(os.Stderr, "%s had no seat%s\n", name, s.told)
			continue
		}
		r.seated++
		bought[s.seats[0]] = true
		if s.bound == s.seats[0] {
			r.onIt++
		} else {
			fmt.Fprintf(os.Stderr, "%s is elsewhere%s\n", name, s.told)
		}
	}
	instances, err := c.LiveInstances(ctx)
	if err != nil {
		return err
	}
	r.nodes = len(instances)
	r.further = r.nodes - len(bought)
	var nodes corev1.NodeList
	if err := c.Client.List(ctx, &nodes, client.HasLabels{v1alpha1.LabelNodeClaim}); err != nil {
		return err
	}
	var haveCPU, haveMemory, wantCPU, wantMemory float64
	for i := range nodes.Items {
		a := nodes.Items[i].Status.Allocatable
		haveCPU += a.Cpu().AsApproximateFloat64()
		haveMemory += a.Memory().AsApproximateFloat64()
		if name := nodes.Items[i].Name; !bought[name] {
			labels, on := nodes.Items[i].Labels, 0
			for _, s := range stories {
				if s.bound == name {
					on++
				}
			}
			fmt.Fprintf(os.Stderr, "%s is a further node: a %s of claim %s, with %d of the pods\n", name, labels[corev1.LabelInstanceTypeStable], labels[v1alpha1.LabelNodeClaim], on)
		}
	}
	for _, s := range shapes {
		n := float64(r.pods / len(shapes))
		wantCPU += n * float64(s[0]) / 1000
		wantMemory += n * float64(s[1]<<20)
	}
	r.cpu, r.memory = wantCPU/haveCPU, wantMemory/haveMemory
	return nil
}

func deployment(name string, pods int, cpu, memory int64) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(pods)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: "app", Image: "registry.k8s.io/pause:3.10",
					Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
						corev1.ResourceCPU:    *resource.NewMilliQuantity(cpu, resource.DecimalSI),
						corev1.ResourceMemory: *resource.NewQuantity(memory<<20, resource.BinarySI)}},
				}}},
			},
		},
	}
}
