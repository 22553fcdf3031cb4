package capacity_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// town is a cluster that is built and thinned out by tests of consolidation.
type town struct {
	provisioners []*capacity.Provisioner
	nodes        []*capacity.Node
	policy       capacity.ConsolidationPolicy
	replicas     map[string]int
	made         int
	now          time.Time
}

// plainPolicy asks for little: what is decided is then what can be saved.
var plainPolicy = capacity.ConsolidationPolicy{MinSaving: 0.01, Payback: time.Hour, MoveCost: 1e-6}

// grow buys nodes for the pods, and binds them as the plan says.
func (w *town) grow(pods []*corev1.Pod) error {
	plan := capacity.Solve(&capacity.Snapshot{Now: w.now, Region: "us-west-2", Pods: pods, Nodes: w.nodes, Provisioners: w.provisioners})
	if len(plan.Unschedulable) > 0 {
		return fmt.Errorf("pod %s has no place: %+v", plan.Unschedulable[0].Pod.Name, plan.Unschedulable[0].Reasons)
	}
	for _, pl := range plan.Placements {
		pl.Node.Pods = append(pl.Node.Pods, pl.Pod)
	}
	for i := range plan.Launches {
		w.join(&plan.Launches[i]).Pods = slices.Clone(plan.Launches[i].Pods)
	}
	return nil
}

// join adds a node that was launched.
func (w *town) join(l *capacity.Launch) *capacity.Node {
	w.made++
	name := fmt.Sprintf("node-%05d", w.made)
	labels := map[string]string{corev1.LabelHostname: name}
	for k, v := range l.Labels {
		labels[k] = v
	}
	n := &capacity.Node{Name: name, Claim: name, Provisioner: l.Provisioner.Name, Labels: labels, Taints: l.Taints,
		Allocatable: l.Allocatable, HourlyPrice: l.Price}
	w.nodes = append(w.nodes, n)
	return n
}

// thin removes each pod with a probability, and nodes that are then empty.
func (w *town) thin(r *rand.Rand, share float64) {
	for _, n := range w.nodes {
		n.Pods = slices.DeleteFunc(n.Pods, func(*corev1.Pod) bool { return r.Float64() < share })
	}
	w.nodes = slices.DeleteFunc(w.nodes, func(n *capacity.Node) bool { return len(n.Pods) == 0 })
}

func (w *town) cost() float64 {
	sum := 0.0
	for _, n := range w.nodes {
		sum += n.HourlyPrice
	}
	return sum
}

func (w *town) input() *capacity.ConsolidationInput {
	in := &capacity.ConsolidationInput{
		Snapshot: &capacity.Snapshot{Now: w.now, Region: "us-west-2", Nodes: w.nodes, Provisioners: w.provisioners},
		Policies: map[string]capacity.ConsolidationPolicy{}, Nodes: map[string]capacity.NodeFacts{}, Pods: map[*corev1.Pod]capacity.PodFacts{},
	}
	for _, p := range w.provisioners {
		in.Policies[p.Name] = w.policy
	}
	for _, n := range w.nodes {
		in.Nodes[n.Name] = capacity.NodeFacts{}
		for _, p := range n.Pods {
			in.Pods[p] = capacity.PodFacts{Workload: p.Labels["app"], Replicas: max(2, w.replicas[p.Labels["app"]])}
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
			to.Pods = append(to.Pods, m.Pod)
		}
		for _, n := range d.Nodes {
			gone[n] = true
		}
	}
	w.nodes = slices.DeleteFunc(w.nodes, func(n *capacity.Node) bool { return gone[n] })
}

// bigTown is a cluster of about that many nodes of up to 32 CPUs, built by
// batches of pods, then thinned out.
func bigTown(tb testing.TB, nodes int, share float64, capacityTypes ...string) *town {
	tb.Helper()
	p := benchProvisioner("us-west-2", capacityTypes...)
	p.InstanceTypes = slices.DeleteFunc(p.InstanceTypes, func(t capacity.InstanceType) bool { return t.Machine.VCPUs > 16 })
	w := &town{provisioners: []*capacity.Provisioner{p}, policy: plainPolicy, now: testNow}
	r := rand.New(rand.NewPCG(7, uint64(nodes)))
	type size struct{ cpu, mem int64 }
	sizes := make([]size, 120)
	for i := range sizes {
		cpu := int64(50 * (1 + r.IntN(40)))
		sizes[i] = size{cpu, cpu * int64(1+r.IntN(8)) * 1024 / 1000}
	}
	made := 0
	for len(w.nodes) < nodes {
		var batch []*corev1.Pod
		for range 20 + r.IntN(180) {
			s := r.IntN(len(sizes))
			batch = append(batch, benchPod(fmt.Sprintf("p-%06d", made), fmt.Sprintf("app-%d", s), sizes[s].cpu, sizes[s].mem))
			made++
		}
		if err := w.grow(batch); err != nil {
			tb.Fatal(err)
		}
	}
	w.thin(r, share)
	return w
}

func TestScratchBig(t *testing.T) {
	for _, ct := range [][]string{{"on-demand"}, {"spot", "on-demand"}} {
		w := bigTown(t, 1000, 0.4, ct...)
		pods := 0
		for _, n := range w.nodes {
			pods += len(n.Pods)
		}
		t.Logf("%d nodes %d pods %.2f $/h", len(w.nodes), pods, w.cost())
		for range 5 {
			before := w.cost()
			start := time.Now()
			out := capacity.Consolidate(w.input())
			took := time.Since(start)
			l := 0
			for _, d := range out.Decisions {
				l += len(d.Launches)
			}
			w.apply(out.Decisions)
			t.Logf("%s: %d decisions, %d launches, %d moves, saving %.2f, cost %.2f -> %.2f", took, len(out.Decisions), l, out.Moves(), out.Saving(), before, w.cost())
			if len(out.Decisions) > 0 {
				t.Log(out.Decisions[0].Why)
				t.Log(out.Decisions[len(out.Decisions)-1].Why)
			}
			why := map[string]int{}
			for _, k := range out.Kept {
				if len(k) > 20 {
					k = k[len(k)-20:]
				}
				why[k]++
			}
			if len(why) < 40 {
				t.Log(why)
			}
			if len(out.Decisions) == 0 {
				break
			}
		}
	}
}
