package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/catalog"
)

const region = "us-west-2"

// thrifty asks for next to nothing, so that all that can be saved counts; sane is
// what a Provisioner asks for by default.
var (
	thrifty = capacity.ConsolidationPolicy{MinSaving: 0.01, Payback: time.Hour, MoveCost: 1e-6}
	sane    = capacity.ConsolidationPolicy{MinSaving: 0.05, Payback: time.Hour, MoveCost: 0.002, MinNodeAge: 10 * time.Minute, Settle: 5 * time.Minute, MovesPercent: 100}
)

type townConfig struct {
	nodes int
	// spot may be bought too.
	spot bool
	// steps is how large pods are: up to that many times 50m.
	steps int
	seed  uint64
}

// town is a cluster as the planner sees it.
type town struct {
	provisioner *capacity.Provisioner
	nodes       []*capacity.Node
	since       map[*capacity.Node]time.Time
	bound       map[*corev1.Pod]time.Time
	reserved    map[*capacity.Node]bool
	moved       map[string]int
	requests    map[*corev1.Pod]capacity.Resources
	now         time.Time
	r           *rand.Rand
	made        int
}

// newTown builds a cluster by batches of pods, as Berth would.
func newTown(cfg townConfig) (*town, error) {
	kinds := []string{v1alpha1.CapacityTypeOnDemand}
	if cfg.spot {
		kinds = append(kinds, v1alpha1.CapacityTypeSpot)
	}
	spec := &v1alpha1.ProvisionerSpec{Requirements: []v1alpha1.Requirement{
		{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: kinds},
		{Key: v1alpha1.LabelInstanceCPU, Operator: v1alpha1.OperatorLt, Values: []string{"17"}},
	}}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w := &town{now: now, since: map[*capacity.Node]time.Time{}, bound: map[*corev1.Pod]time.Time{}, reserved: map[*capacity.Node]bool{}, moved: map[string]int{}, requests: map[*corev1.Pod]capacity.Resources{},
		r: rand.New(rand.NewPCG(cfg.seed, uint64(cfg.nodes)))}
	w.provisioner = &capacity.Provisioner{Name: "default", Spec: spec, InstanceTypes: capacity.InstanceTypes(catalog.Default().Machines(region), spec, capacity.Resolved{}, now)}
	type size struct{ cpu, mem int64 }
	sizes := make([]size, 120)
	for i := range sizes {
		cpu := int64(50 * (1 + w.r.IntN(cfg.steps)))
		sizes[i] = size{cpu, cpu * int64(1+w.r.IntN(8)) * 1024 / 1000}
	}
	made := 0
	for len(w.nodes) < cfg.nodes {
		var batch []*corev1.Pod
		for range 20 + w.r.IntN(180) {
			k := w.r.IntN(len(sizes))
			batch = append(batch, newPod(fmt.Sprintf("p-%06d", made), fmt.Sprintf("app-%d", k), sizes[k].cpu, sizes[k].mem))
			made++
		}
		if _, err := w.grow(batch); err != nil {
			return nil, err
		}
	}
	w.now = w.now.Add(time.Hour)
	return w, nil
}

func newPod(name, app string, milliCPU, memoryMiB int64) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU:    *resource.NewMilliQuantity(milliCPU, resource.DecimalSI),
			corev1.ResourceMemory: *resource.NewQuantity(memoryMiB<<20, resource.BinarySI),
		}}}}},
	}
}

// grow buys nodes for pods; it returns how many.
func (w *town) grow(pods []*corev1.Pod) (int, error) {
	plan := capacity.Solve(&capacity.Snapshot{Now: w.now, Region: region, Pods: pods, Nodes: w.nodes, Provisioners: []*capacity.Provisioner{w.provisioner}})
	if len(plan.Unschedulable) > 0 {
		return 0, fmt.Errorf("pod %s has no place: %+v", plan.Unschedulable[0].Pod.Name, plan.Unschedulable[0].Reasons)
	}
	for _, pl := range plan.Placements {
		w.bind(pl.Pod, pl.Node)
	}
	for i := range plan.Launches {
		n := w.join(&plan.Launches[i])
		for _, p := range plan.Launches[i].Pods {
			w.bind(p, n)
		}
	}
	return len(plan.Launches), nil
}

// request is what the pod asks for, remembered.
func (w *town) request(p *corev1.Pod) capacity.Resources {
	r, ok := w.requests[p]
	if !ok {
		r = capacity.PodRequests(p)
		w.requests[p] = r
	}
	return r
}

func (w *town) bind(p *corev1.Pod, n *capacity.Node) {
	n.Pods = append(n.Pods, p)
	w.bound[p] = w.now
}

func (w *town) join(l *capacity.Launch) *capacity.Node {
	w.made++
	name := fmt.Sprintf("node-%05d", w.made)
	labels := maps.Clone(l.Labels)
	labels[corev1.LabelHostname] = name
	n := &capacity.Node{Name: name, Claim: name, Provisioner: l.Provisioner.Name, Labels: labels, Taints: l.Taints,
		Allocatable: l.Allocatable, HourlyPrice: l.Price}
	w.nodes = append(w.nodes, n)
	w.since[n] = w.now
	return n
}

// thin deletes that share of the pods at random, or of the workloads, and the
// nodes that are then empty.
func (w *town) thin(share float64, byApp bool) {
	out := map[string]bool{}
	for i := range 120 {
		out[fmt.Sprintf("app-%d", i)] = w.r.Float64() < share
	}
	for _, n := range w.nodes {
		n.Pods = slices.DeleteFunc(n.Pods, func(p *corev1.Pod) bool {
			if byApp {
				return out[p.Labels["app"]]
			}
			return w.r.Float64() < share
		})
	}
	w.nodes = slices.DeleteFunc(w.nodes, func(n *capacity.Node) bool { return len(n.Pods) == 0 })
}

func (w *town) pods() int {
	n := 0
	for _, node := range w.nodes {
		n += len(node.Pods)
	}
	return n
}

func (w *town) cost() float64 {
	sum := 0.0
	for _, n := range w.nodes {
		sum += n.HourlyPrice
	}
	return sum
}

func (w *town) input(policy capacity.ConsolidationPolicy) *capacity.ConsolidationInput {
	in := &capacity.ConsolidationInput{
		Snapshot: &capacity.Snapshot{Now: w.now, Region: region, Nodes: w.nodes, Provisioners: []*capacity.Provisioner{w.provisioner}},
		Policies: map[string]capacity.ConsolidationPolicy{"default": policy},
		Nodes:    map[string]capacity.NodeFacts{}, Pods: map[*corev1.Pod]capacity.PodFacts{}, Moved: w.moved,
	}
	replicas := map[string]int{}
	for _, n := range w.nodes {
		for _, p := range n.Pods {
			replicas[p.Labels["app"]]++
		}
	}
	for _, n := range w.nodes {
		in.Nodes[n.Name] = capacity.NodeFacts{Since: w.since[n], Reserved: w.reserved[n]}
		for _, p := range n.Pods {
			in.Pods[p] = capacity.PodFacts{Workload: p.Labels["app"], Replicas: replicas[p.Labels["app"]], Bound: w.bound[p]}
		}
	}
	return in
}

// apply carries decisions out as they say.
func (w *town) apply(ds []capacity.Decision) {
	gone := map[*capacity.Node]bool{}
	for i := range ds {
		d := &ds[i]
		var bought []*capacity.Node
		for j := range d.Launches {
			bought = append(bought, w.join(&d.Launches[j]))
		}
		for _, m := range d.Moves {
			to := m.To
			if to == nil {
				to = bought[m.Launch]
			}
			w.bind(m.Pod, to)
		}
		for _, n := range d.Nodes {
			gone[n] = true
		}
	}
	w.nodes = slices.DeleteFunc(w.nodes, func(n *capacity.Node) bool { return gone[n] })
}
