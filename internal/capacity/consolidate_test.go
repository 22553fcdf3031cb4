package capacity_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
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

// smallTown is a fragmented cluster small enough for the exhaustive search.
func smallTown(seed uint64) *town {
	r := rand.New(rand.NewPCG(seed, 11))
	var machines []capacity.Machine
	for i, vcpu := range []int32{2, 4, 8} {
		for j, mem := range []int64{2, 4, 8} {
			price := (float64(vcpu)*0.03 + float64(int64(vcpu)*mem)*0.004) * (0.9 + 0.2*r.Float64())
			machines = append(machines, capacity.Machine{Name: fmt.Sprintf("m%d%d.x", i, j), VCPUs: vcpu, MemoryMiB: int64(vcpu) * mem * 1024, Arch: "amd64",
				CurrentGeneration: true, ENIs: 4, IPv4PerENI: 15, Offerings: []capacity.Offering{{Zone: "us-west-2a", CapacityType: "on-demand", Price: price}}})
		}
	}
	spec := &v1alpha1.ProvisionerSpec{Requirements: []v1alpha1.Requirement{{Key: corev1.LabelInstanceTypeStable, Operator: v1alpha1.OperatorExists}}}
	p := &capacity.Provisioner{Name: "default", Spec: spec, InstanceTypes: capacity.InstanceTypes(machines, spec, capacity.Resolved{}, testNow)}
	w := &town{provisioners: []*capacity.Provisioner{p}, policy: plainPolicy, now: testNow}
	for made := 0; len(w.nodes) < 5; {
		var batch []*corev1.Pod
		for range 3 + r.IntN(4) {
			batch = append(batch, benchPod(fmt.Sprintf("p-%03d", made), fmt.Sprintf("app-%d", r.IntN(6)), int64(100*(2+r.IntN(14))), int64(256*(1+r.IntN(16)))))
			made++
		}
		if err := w.grow(batch); err != nil {
			panic(err)
		}
	}
	w.nodes = w.nodes[:min(len(w.nodes), 6)]
	w.thin(r, 0.5)
	return w
}

func TestConsolidationFindsWhatAnExhaustiveSearchFinds(t *testing.T) {
	found, best := 0.0, 0.0
	for seed := range uint64(40) {
		w := smallTown(seed)
		out := capacity.Consolidate(w.input())
		most := exhaustive(w, out.Moves())
		found += out.Saving()
		best += most
		if out.Saving() > most+1e-6 {
			t.Errorf("seed %d: saves %v, which is more than the %v that can be saved", seed, out.Saving(), most)
		}
	}
	t.Logf("%.1f %% of what the exhaustive search saves with as many moves", 100*found/best)
	if found < 0.95*best {
		t.Errorf("saves %v of %v", found, best)
	}
}

// strange is a random small cluster with every kind of tie between pods.
func strange(draw func(lo, hi int) int) *capacity.ConsolidationInput {
	s := drawSnapshot(draw, true)
	d := &drawn{int: draw, s: s, zones: []string{"us-west-2a", "us-west-2b", "us-west-2c"}}
	for i := len(s.Nodes); i < 5; i++ {
		s.Nodes = append(s.Nodes, d.node(i, true))
	}
	if slices.ContainsFunc(s.Nodes, func(n *capacity.Node) bool { return slices.ContainsFunc(n.Pods, shunsDaemons) }) {
		s.DaemonSetPods = nil // The referee lets them come nevertheless.
	}
	if d.chance(60) {
		s.Pods = nil
	}
	in := &capacity.ConsolidationInput{Snapshot: s, Policies: map[string]capacity.ConsolidationPolicy{}, Nodes: map[string]capacity.NodeFacts{},
		Pods: map[*corev1.Pod]capacity.PodFacts{}, Moved: map[string]int{}}
	for _, p := range s.Provisioners {
		if d.chance(90) {
			in.Policies[p.Name] = capacity.ConsolidationPolicy{MinSaving: float64(d.int(0, 20)) / 100, Payback: time.Hour, MoveCost: float64(d.int(0, 20)) / 1000,
				MinNodeAge: time.Duration(d.int(0, 10)) * time.Minute, Settle: time.Duration(d.int(0, 5)) * time.Minute,
				MovesPercent: pick(d, 0, 50, 100), MovesPerDay: d.int(0, 4), LeaveEmpty: d.chance(50)}
		}
	}
	for _, n := range s.Nodes {
		n.Provisioner, n.Claim = pick(d, s.Provisioners...).Name, "claim-"+n.Name
		n.HourlyPrice = float64(d.int(1, 100)) / 100
		f := capacity.NodeFacts{Since: testNow.Add(-time.Duration(d.int(1, 30)) * time.Minute)}
		switch d.int(0, 9) {
		case 0:
			f.Keep = "it is paused"
		case 1:
			f.NoReplacement = "its replacement has failed"
		case 2:
			f.Going, n.Unschedulable = true, true
		case 3:
			f.Reserved = true
		case 4:
			n.Claim = ""
		}
		in.Nodes[n.Name] = f
		for _, p := range n.Pods {
			pf := capacity.PodFacts{Workload: p.Labels["app"], Replicas: d.int(1, 4), Bound: testNow.Add(-time.Duration(d.int(1, 30)) * time.Minute)}
			switch d.int(0, 15) {
			case 0:
				pf.Stays = true
			case 1:
				pf.Keep = "it asked not to be disrupted"
			}
			in.Pods[p] = pf
			in.Moved[pf.Workload] = d.int(0, 1)
		}
	}
	return in
}

func shunsDaemons(p *corev1.Pod) bool {
	_, apart := required(p)
	return slices.ContainsFunc(apart, func(t corev1.PodAffinityTerm) bool { return t.LabelSelector.MatchLabels["app"] == "ds" })
}

// faults says what is wrong with decisions, by the rules as documented.
func faults(in *capacity.ConsolidationInput, out *capacity.Consolidation) []string {
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	s := *in.Snapshot
	s.Nodes, s.Pods = nil, nil
	twin := map[*capacity.Node]*capacity.Node{}
	for _, n := range in.Snapshot.Nodes {
		c := *n
		c.Pods = slices.Clone(n.Pods)
		twin[n] = &c
		s.Nodes = append(s.Nodes, &c)
	}
	w := newWorld(&s)
	hostOf := func(n *capacity.Node) *host { return w.nodes[slices.Index(s.Nodes, twin[n])] }
	spot := spotOf(in)
	gone, moved, planned := map[*capacity.Node]bool{}, map[*corev1.Pod]bool{}, map[string]int{}
	for i, d := range out.Decisions {
		want := map[*corev1.Pod]bool{}
		price, least, payback := 0.0, 0.0, time.Duration(math.MaxInt64)
		for _, n := range d.Nodes {
			f, policy := in.Nodes[n.Name], in.Policies[n.Provisioner]
			price += n.HourlyPrice
			least, payback = max(least, policy.MinSaving), min(payback, policy.Payback)
			switch {
			case gone[n]:
				complain("%s goes twice", n.Name)
			case n.Claim == "" || n.InFlight || n.Unschedulable || f.Keep != "" || f.Going || f.Reserved:
				complain("%s must not go: %+v", n.Name, f)
			case testNow.Sub(f.Since) < policy.MinNodeAge:
				complain("%s is too young", n.Name)
			case len(d.Launches) > 0 && f.NoReplacement != "":
				complain("%s must not be replaced", n.Name)
			}
			gone[n] = true
			for _, p := range n.Pods {
				pf := in.Pods[p]
				if pf.Stays || p.DeletionTimestamp != nil {
					continue
				}
				if pf.Keep != "" || testNow.Sub(pf.Bound) < policy.Settle {
					complain("%s must not be moved", p.Name)
				}
				want[p] = true
				planned[pf.Workload]++
				most := policy.MovesPerDay
				if policy.MovesPercent > 0 {
					most = max(1, (policy.MovesPercent*pf.Replicas+99)/100)
				}
				if most > 0 && in.Moved[pf.Workload]+planned[pf.Workload] > most {
					complain("%s is moved too often", pf.Workload)
				}
			}
		}
		bought := 0.0
		for _, l := range d.Launches {
			bought += l.Price
			for _, a := range l.Alternatives {
				if d.Saving-(a.Price-l.Price) < least*d.Price-1e-9 {
					complain("alternative %+v would save too little", a)
				}
			}
		}
		if math.Abs(d.Price-price) > 1e-9 || math.Abs(d.Saving-(price-bought)) > 1e-9 {
			complain("decision %d: price %v and saving %v, but %v and %v", i, d.Price, d.Saving, price, price-bought)
		}
		if d.Saving <= 0 || d.Saving < least*price-1e-9 || d.Payback() > payback+time.Second {
			complain("decision %d is not worth it: %s", i, d.Why)
		}
		if why := spot.trade(&d); why != "" {
			complain("decision %d: %s", i, why)
		}
		if why := rebind(w, &s, &d, hostOf, want, moved); why != "" {
			complain("decision %d: %s", i, why)
		}
	}
	if spot.is > max(0.25, spot.was)+1e-9 {
		complain("one spot pool has %.2f of what is spent on spot, and had %.2f", spot.is, spot.was)
	}
	return wrong
}

// spotPools is what Berth's spot nodes cost by instance type and zone, in $/h, and
// which share the largest has and had. What replaces on-demand nodes may go anywhere:
// then what it had is not known, and any share is right.
type spotPools struct {
	pools   map[string]float64
	was, is float64
}

func spotOf(in *capacity.ConsolidationInput) *spotPools {
	s := &spotPools{pools: map[string]float64{}}
	for _, n := range in.Snapshot.Nodes {
		if n.Claim != "" && !in.Nodes[n.Name].Going {
			s.add(n.Labels, n.HourlyPrice)
		}
	}
	s.was = s.largest()
	s.is = s.was
	return s
}

func (s *spotPools) add(labels map[string]string, price float64) {
	if labels[v1alpha1.LabelCapacityType] == "spot" {
		s.pools[labels[corev1.LabelInstanceTypeStable]+" in "+labels[corev1.LabelTopologyZone]] += price
	}
}

func (s *spotPools) largest() float64 {
	sum, most := 0.0, 0.0
	for _, price := range s.pools {
		sum, most = sum+price, max(most, price)
	}
	return most / max(sum, 1e-9)
}

// trade carries a decision out. It says what is wrong with the choice that it leaves
// EC2; empty: nothing.
func (s *spotPools) trade(d *capacity.Decision) string {
	fromSpot := false
	for _, n := range d.Nodes {
		fromSpot = fromSpot || n.Labels[v1alpha1.LabelCapacityType] == "spot"
		s.add(n.Labels, -n.HourlyPrice)
	}
	for i := range d.Launches {
		l := &d.Launches[i]
		s.add(l.Labels, l.Price)
		if l.CapacityType != "spot" {
			continue
		}
		if !fromSpot {
			s.was = 1
			continue
		}
		types := map[string]bool{l.InstanceType: true}
		for _, a := range l.Alternatives {
			if a.CapacityType == "spot" {
				types[a.InstanceType] = true
			}
		}
		if len(types) < 5 {
			return fmt.Sprintf("EC2 may choose among %d types for %s", len(types), l.InstanceType)
		}
	}
	s.is = s.largest()
	return ""
}

// TestSpotIsReplacedBySpotOfManyPools: a cluster of spot nodes, each far from full,
// whose pods would all fit nodes of the cheapest pool.
func TestSpotIsReplacedBySpotOfManyPools(t *testing.T) {
	bought := 0
	for seed := range uint64(20) {
		w := spotTown(seed)
		in := w.input()
		out := capacity.Consolidate(in)
		if wrong := faults(in, out); len(wrong) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(wrong, "\n"))
		}
		for _, d := range out.Decisions {
			bought += len(d.Launches)
		}
	}
	if bought < 10 {
		t.Errorf("only %d nodes were bought: nothing was tested", bought)
	}
}

// spotTown is a cluster of spot nodes of many types, with six types to buy or, for odd
// seeds, four, which are cheaper than what runs.
func spotTown(seed uint64) *town {
	r := rand.New(rand.NewPCG(seed, 12))
	var machines []capacity.Machine
	for i := range 6 - 2*int(seed%2) {
		m := capacity.Machine{Name: fmt.Sprintf("m%d.x", i), VCPUs: 4, MemoryMiB: 16384, Arch: "amd64", CurrentGeneration: true, ENIs: 4, IPv4PerENI: 15}
		for _, z := range []string{"us-west-2a", "us-west-2b"} {
			price := 0.04 + 0.02*r.Float64()
			m.Offerings = append(m.Offerings, capacity.Offering{Zone: z, CapacityType: "spot", Price: price}, capacity.Offering{Zone: z, CapacityType: "on-demand", Price: 3 * price})
		}
		machines = append(machines, m)
	}
	spec := &v1alpha1.ProvisionerSpec{Requirements: []v1alpha1.Requirement{
		{Key: corev1.LabelInstanceTypeStable, Operator: v1alpha1.OperatorExists},
		{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: []string{"spot", "on-demand"}}}}
	p := &capacity.Provisioner{Name: "default", Spec: spec, InstanceTypes: capacity.InstanceTypes(machines, spec, capacity.Resolved{}, testNow)}
	w := &town{provisioners: []*capacity.Provisioner{p}, policy: plainPolicy, now: testNow}
	for i := range 10 {
		name := fmt.Sprint("old-", i)
		n := &capacity.Node{Name: name, Claim: name, Provisioner: "default", HourlyPrice: 0.3, Allocatable: capacity.Resources{"cpu": 3000, "memory": 32 << 30, "pods": 50},
			Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: "us-west-2a", corev1.LabelInstanceTypeStable: fmt.Sprint("old", i, ".x"),
				corev1.LabelArchStable: "amd64", v1alpha1.LabelCapacityType: "spot", v1alpha1.LabelProvisioner: "default"}}
		pod := benchPod(fmt.Sprint("p-", i), fmt.Sprint("app-", i%3), int64(2200+100*r.IntN(8)), 4096)
		pod.Spec.NodeName = name
		n.Pods = []*corev1.Pod{pod}
		w.nodes = append(w.nodes, n)
	}
	return w
}

// rebind carries one decision out before the referee.
func rebind(w *world, s *capacity.Snapshot, d *capacity.Decision, hostOf func(*capacity.Node) *host, want, moved map[*corev1.Pod]bool) string {
	var bought []*host
	for i := range d.Launches {
		l := &d.Launches[i]
		bought = append(bought, w.join(fmt.Sprintf("new-%d", len(w.nodes)), l.Labels, l.Taints, l.Allocatable))
	}
	for _, n := range d.Nodes {
		h := hostOf(n)
		h.pods = slices.DeleteFunc(h.pods, func(p *corev1.Pod) bool { return want[p] })
	}
	seats := map[*corev1.Pod]*host{}
	s.Pods = nil
	for _, m := range d.Moves {
		if !want[m.Pod] || moved[m.Pod] {
			return "pod " + m.Pod.Name + " is moved for no reason, or twice"
		}
		moved[m.Pod] = true
		loose := *m.Pod
		loose.Spec.NodeName = ""
		s.Pods = append(s.Pods, &loose)
		if m.To != nil {
			seats[&loose] = hostOf(m.To)
		} else {
			seats[&loose] = bought[m.Launch]
		}
	}
	if len(d.Moves) != len(want) {
		return fmt.Sprintf("%d of %d pods have a way", len(d.Moves), len(want))
	}
	return w.bindAll(s, seats)
}

func TestNoDecisionBreaksARule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := strange(fromRapid(t))
		out := capacity.Consolidate(in)
		if wrong := faults(in, out); len(wrong) > 0 {
			t.Fatal(strings.Join(wrong, "\n"))
		}
	})
}

func TestManyDecisionsBreakNoRule(t *testing.T) {
	decisions, launches := 0, 0
	for seed := range uint64(400) {
		in := strange(fromSeed(seed))
		out := capacity.Consolidate(in)
		if wrong := faults(in, out); len(wrong) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(wrong, "\n"))
		}
		for _, d := range out.Decisions {
			decisions++
			launches += len(d.Launches)
		}
	}
	if decisions < 100 || launches < 10 {
		t.Errorf("only %d decisions with %d launches: nothing was tested", decisions, launches)
	}
}

func TestTheSameClusterGivesTheSameDecisions(t *testing.T) {
	for seed := range uint64(100) {
		in := strange(fromSeed(seed))
		first := whys(capacity.Consolidate(in))
		r := rand.New(rand.NewPCG(seed, 1))
		r.Shuffle(len(in.Snapshot.Nodes), func(i, j int) {
			in.Snapshot.Nodes[i], in.Snapshot.Nodes[j] = in.Snapshot.Nodes[j], in.Snapshot.Nodes[i]
		})
		for _, n := range in.Snapshot.Nodes {
			r.Shuffle(len(n.Pods), func(i, j int) { n.Pods[i], n.Pods[j] = n.Pods[j], n.Pods[i] })
		}
		if diff := cmp.Diff(first, whys(capacity.Consolidate(in))); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
	}
}

func whys(c *capacity.Consolidation) []string {
	var out []string
	for _, d := range c.Decisions {
		out = append(out, d.Why)
	}
	return out
}

func TestConsolidationGoesQuiet(t *testing.T) {
	for seed := range uint64(12) {
		w := smallTown(seed)
		before := w.cost()
		for round := 0; ; round++ {
			out := capacity.Consolidate(w.input())
			if len(out.Decisions) == 0 {
				break
			}
			if round == 20 {
				t.Fatalf("seed %d: still moving after %d rounds: %s", seed, round, out.Decisions[0].Why)
			}
			saving := out.Saving()
			w.apply(out.Decisions)
			if after := w.cost(); math.Abs(before-saving-after) > 1e-6 {
				t.Fatalf("seed %d: %v became %v, not %v less", seed, before, after, saving)
			}
			before = w.cost()
		}
	}
}
