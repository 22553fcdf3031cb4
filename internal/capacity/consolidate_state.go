package capacity

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// consolidator weighs nodes against one Snapshot. Its solver holds every pod
// that may be moved as if the plan had placed it where it is: to lift a node is
// to take its pods' seats away, and what kube-scheduler would count follows.
type consolidator struct {
	in *ConsolidationInput
	v  *solver
	// nodes by index of their bins.
	nodes []*sender
	// receivers in the order in which room is used: first what is likely to stay.
	receivers []*bin
	// reach are the receivers that suit a shape, by its id; filled as needed.
	reach []bitset
	// seatless are shapes that have been found no room for: more room comes only
	// with what is bought, which is nobody else's.
	seatless []bool
	// domains that spread constraints count apart from nodes that are only being
	// tried.
	domains map[*realm]map[string]bool
	// unit is the least price of one unit of each dimension, in $/h.
	unit []float64
	// cheapest is the price of the cheapest node that can be bought.
	cheapest float64
	// packs is how often the packer was asked; work counts looks at nodes and
	// offerings.
	packs, work int
	// start is the state before the first draft, with firstDomains.
	start        mark
	firstDomains map[*realm]map[string]bool
	// scale turns free cpu and memory into shares, by bin of an existing node.
	scale [][2]float64
	// planned are the moves of this plan by workload.
	planned map[string]int
	prices  map[offeringName]float64
	drafts  []*draft
	launch  map[string]*choice
}

// sender is one of the Snapshot's nodes.
type sender struct {
	bin    *bin
	node   *Node
	facts  NodeFacts
	policy ConsolidationPolicy
	// keep is why it must stay; empty: it is a candidate. why is why it was not
	// worth it to take it away.
	keep, why string
	price     float64
	loads     []load
	// cost of moving its pods in $.
	cost      float64
	workloads map[string]int
	// gone: a decision takes it away, or it is on its way out; got: pods are to
	// move here.
	gone, got bool
	// luck changes its rank in the queue; 1 in the first order.
	luck float64
	// outcome of the best plan: why it stays.
	outcome string
}

// load is the pods of one shape that would move from a node.
type load struct {
	s    *shape
	pods []*corev1.Pod
}

type offeringName struct{ provisioner, instanceType, zone, capacityType string }

func newConsolidator(in *ConsolidationInput) *consolidator {
	c := &consolidator{in: in, planned: map[string]int{}, launch: map[string]*choice{}}
	c.readPrices()
	snap := *in.Snapshot
	snap.Nodes, snap.Pods, snap.Budget = nil, nil, 0
	snap.Also = maps.Clone(snap.Also)
	byBin := map[*Node]*sender{}
	origin := map[*corev1.Pod]*corev1.Pod{}
	home := map[*corev1.Pod]*sender{}
	for _, n := range in.Snapshot.Nodes {
		x := c.judge(n)
		bare := *n
		bare.Pods = nil
		if x.facts.Chosen {
			bare.Unschedulable = true
		}
		snap.Nodes = append(snap.Nodes, &bare)
		byBin[&bare] = x
		for _, p := range slices.SortedFunc(slices.Values(n.Pods), comparePods) {
			if !c.movable(x, p) {
				bare.Pods = append(bare.Pods, p)
				continue
			}
			loose := *p
			loose.Spec.NodeName = ""
			origin[&loose], home[&loose] = p, x
			if also := in.Snapshot.Also[p]; len(also) > 0 {
				snap.Also[&loose] = also
			}
			snap.Pods = append(snap.Pods, &loose)
		}
	}
	snap.Pods = append(snap.Pods, in.Snapshot.Pods...)
	v := newSolver(&snap)
	c.v = v
	v.groupPods()
	for bare, x := range byBin {
		x.refuse(v.refused, bare, home, origin)
	}
	v.prepare()
	v.resetLimits()
	v.bins = v.existingBins()
	v.existing = len(v.bins)
	v.left = make([]int, len(v.shapes))
	v.buildCounters()
	v.classify()
	// All pods have their places, and are counted.
	v.settled, v.closed = true, true
	for _, b := range v.bins {
		x := byBin[b.node]
		x.bin = b
		c.nodes = append(c.nodes, x)
		c.scale = append(c.scale, scaleOf(b.node.Allocatable))
	}
	for _, s := range v.shapes {
		v.left[s.id] = len(s.pods)
		at := map[*sender]int{}
		for _, p := range s.pods {
			x := home[p]
			if x == nil {
				continue
			}
			i, ok := at[x]
			if !ok {
				i = len(x.loads)
				at[x] = i
				x.loads = append(x.loads, load{s: s})
			}
			x.loads[i].pods = append(x.loads[i].pods, origin[p])
		}
		for _, x := range c.nodes {
			if i, ok := at[x]; ok {
				v.put(s, x.bin, len(x.loads[i].pods))
			}
		}
		if len(s.limited) > 0 {
			for x := range at {
				x.keep = cmp.Or(x.keep, "a pod shares a volume whose attachments its node counts")
			}
		}
	}
	v.bound = v.bound[:0]
	c.reach = make([]bitset, len(v.shapes))
	c.seatless = make([]bool, len(v.shapes))
	c.domains = map[*realm]map[string]bool{}
	for _, r := range v.realms {
		c.domains[r] = maps.Clone(r.nodes)
	}
	c.priceUnits()
	c.orderReceivers()
	return c
}

// refuse puts back pods that the planner cannot plan: their node stays.
func (x *sender) refuse(refused []Unschedulable, bare *Node, home map[*corev1.Pod]*sender, origin map[*corev1.Pod]*corev1.Pod) {
	for _, u := range refused {
		if home[u.Pod] != x {
			continue
		}
		bare.Pods = append(bare.Pods, origin[u.Pod])
		x.keep = cmp.Or(x.keep, fmt.Sprintf("pod %s/%s: %s", u.Pod.Namespace, u.Pod.Name, u.Reasons[0].Detail))
	}
}

func (c *consolidator) readPrices() {
	c.prices = map[offeringName]float64{}
	for _, p := range c.in.Snapshot.Provisioners {
		for i := range p.InstanceTypes {
			t := &p.InstanceTypes[i]
			for _, o := range slices.Concat(t.Offerings, t.SoldOut) {
				c.prices[offeringName{p.Name, t.Machine.Name, o.Zone, o.CapacityType}] = o.Price
			}
		}
	}
}

// priceNow is what a node costs now: the price of its offering where its Provisioner
// still allows that, sold out or not, for spot prices move; else what it was bought at.
func (c *consolidator) priceNow(n *Node) float64 {
	if p, ok := c.prices[poolOf(n.Provisioner, n.Labels)]; ok {
		return p
	}
	return n.HourlyPrice
}

// movable says whether the pod's place is for this evaluation to choose: it is
// a candidate's, or it will leave a node that is on its way out.
func (c *consolidator) movable(x *sender, p *corev1.Pod) bool {
	if x.keep != "" && !x.facts.Going {
		return false
	}
	f, known := c.in.Pods[p]
	return known && !f.Stays && p.DeletionTimestamp == nil
}

// judge says what is known of a node and whether it may be taken away at all.
func (c *consolidator) judge(n *Node) *sender {
	x := &sender{node: n, workloads: map[string]int{}, price: c.priceNow(n), luck: 1}
	policy, ok := c.in.Policies[n.Provisioner]
	facts, known := c.in.Nodes[n.Name]
	x.policy, x.facts = policy, facts
	switch {
	case n.Claim == "" || !ok:
		x.keep = "consolidation is not enabled for it"
	case facts.Going:
		x.keep, x.gone = "it is on its way out", true
	case n.InFlight || !known:
		x.keep = "it is not ready yet"
	case facts.Keep != "":
		x.keep = facts.Keep
	case facts.Reserved:
		x.keep = "it was bought in place of others, whose pods are still to come"
	case n.Unschedulable && !facts.Chosen:
		x.keep = "it is cordoned"
	case x.price <= 0:
		x.keep = "its price is not known"
	case c.in.Snapshot.Now.Sub(facts.Since) < policy.MinNodeAge:
		x.keep = fmt.Sprintf("it is younger than %s", short(policy.MinNodeAge))
	default:
		x.keep = c.judgePods(x)
	}
	return x
}

// judgePods adds up what moving the node's pods costs, or says why one of them
// must stay.
func (c *consolidator) judgePods(x *sender) string {
	replicas := map[string]int{}
	workload := false
	for _, p := range slices.SortedFunc(slices.Values(x.node.Pods), comparePods) {
		name := p.Namespace + "/" + p.Name
		f, known := c.in.Pods[p]
		switch {
		case !known:
			return "nothing is known of pod " + name
		case f.Stays:
			continue
		case p.DeletionTimestamp != nil:
			workload = true
			continue
		case f.Keep != "":
			return "pod " + name + ": " + f.Keep
		case c.in.Snapshot.Now.Sub(f.Bound) < x.policy.Settle && !x.facts.Chosen:
			return fmt.Sprintf("pod %s came less than %s ago", name, short(x.policy.Settle))
		}
		if id, ok := groupOf(p); ok {
			return "pod " + name + " belongs to pod group " + id.name
		}
		workload = true
		x.workloads[f.Workload]++
		replicas[f.Workload] = max(replicas[f.Workload], f.Replicas)
		x.cost += moveCost(x.policy.MoveCost, p, f)
	}
	if !workload && x.policy.LeaveEmpty {
		return "it is empty: ttlSecondsAfterEmpty decides"
	}
	for _, w := range sortedNames(x.workloads) {
		if most := x.policy.movesOf(replicas[w]); c.in.Moved[w]+x.workloads[w] > most {
			return fmt.Sprintf("%s may be moved %d times a day; %d of these are used, and %d of its pods are here", w, most, c.in.Moved[w], x.workloads[w])
		}
	}
	return ""
}

// movesOf is how many moves within a day a workload with so many replicas may
// have.
func (p *ConsolidationPolicy) movesOf(replicas int) int {
	switch {
	case p.MovesPercent > 0:
		return max(1, (p.MovesPercent*replicas+99)/100)
	case p.MovesPerDay > 0:
		return p.MovesPerDay
	}
	return math.MaxInt32
}

// within says whether the moves of these nodes keep to the workloads' budgets
// beside what is planned already.
func (c *consolidator) within(group []*sender) bool {
	sum := map[string]int{}
	for _, x := range group {
		for w, n := range x.workloads {
			sum[w] += n
		}
	}
	for _, x := range group {
		for _, l := range x.loads {
			for _, p := range l.pods {
				f := c.in.Pods[p]
				if c.in.Moved[f.Workload]+c.planned[f.Workload]+sum[f.Workload] > x.policy.movesOf(f.Replicas) {
					return false
				}
			}
		}
	}
	return true
}

// ratio is what taking the node away saves for each dollar that it costs.
func (x *sender) ratio() float64 {
	return x.price * x.policy.Payback.Hours() / max(x.cost, 1e-9)
}

// priceUnits finds the least price of one unit of each dimension.
func (c *consolidator) priceUnits() {
	c.unit = make([]float64, len(c.v.dims.names))
	for r := range c.unit {
		c.unit[r] = math.Inf(1)
	}
	c.cheapest = math.Inf(1)
	for i := range c.v.m.columns {
		col := &c.v.m.columns[i]
		c.cheapest = min(c.cheapest, col.price)
		for r, x := range col.free {
			if x > 0 {
				c.unit[r] = min(c.unit[r], col.price/float64(x))
			}
		}
	}
	for r := range c.unit {
		if math.IsInf(c.unit[r], 1) {
			c.unit[r] = 0
		}
	}
}

// atLeast is a bound on what nodes for all pods without a seat cost.
func (c *consolidator) atLeast() float64 {
	bound := 0.0
	for r, u := range c.unit {
		sum := int64(0)
		for _, s := range c.v.shapes {
			if n := c.v.left[s.id]; n > 0 {
				sum += s.vector[r] * int64(n)
			}
		}
		bound = max(bound, u*float64(sum))
	}
	return bound
}

// orderReceivers lists the nodes that pods may move to: those that stay anyway
// first, then those whose going would save least for its cost; among equals the
// fullest.
func (c *consolidator) orderReceivers() {
	worth := func(b *bin) float64 {
		if x := c.nodes[b.index]; x.keep == "" {
			return x.ratio()
		}
		return 0
	}
	for _, x := range c.nodes {
		if !x.node.InFlight && !x.node.Unschedulable && !x.facts.Reserved && !x.facts.Chosen && !x.gone {
			c.receivers = append(c.receivers, x.bin)
		}
	}
	slices.SortStableFunc(c.receivers, func(a, b *bin) int {
		return cmp.Or(cmp.Compare(worth(a), worth(b)), cmp.Compare(binBulk(a), binBulk(b)), cmp.Compare(a.index, b.index))
	})
}

// suits says whether labels and taints of a bin let the shape in; bins that ask
// to be avoided are.
func (c *consolidator) suits(s *shape, b *bin) bool {
	if b.index >= c.v.existing {
		return c.v.reachable(s, b)
	}
	if c.reach[s.id] == nil {
		set := newBitset(c.v.existing)
		for _, e := range c.v.bins[:c.v.existing] {
			if c.v.reachable(s, e) && !avoids(s.pod.Spec.Tolerations, e.taints) {
				set.set(e.index)
			}
		}
		c.reach[s.id] = set
	}
	return c.reach[s.id].has(b.index)
}

// accepts says whether kube-scheduler would bind a pod of the shape there now.
func (c *consolidator) accepts(s *shape, b *bin) bool {
	return b.copies(s) > 0 && c.suits(s, b) && (!s.tied() || c.v.blocked(s, b, everything) == "")
}

// seat puts pods of the shape that have no seat on the bins, in their order.
func (c *consolidator) seat(s *shape, bins []*bin) {
	for progress := true; progress && c.v.left[s.id] > 0; {
		progress = false
		for _, b := range bins {
			if c.v.left[s.id] == 0 {
				return
			}
			c.work++
			if b.index < c.v.existing && c.nodes[b.index].gone {
				continue
			}
			for c.v.left[s.id] > 0 && c.accepts(s, b) {
				n := 1
				if !s.tied() {
					n = min(c.v.left[s.id], b.copies(s))
				}
				c.v.put(s, b, n)
				progress = true
			}
		}
		if !s.tied() {
			return
		}
	}
}

// seatHomeless keeps room for pods that wait for a node, and for those on nodes
// that are on their way out. What finds none is somebody else's business. Ties to
// other pods are counted where pods are: nobody knows when they will have moved.
func (c *consolidator) seatHomeless() {
	var open []*bin
	for _, b := range c.v.bins {
		if x := c.nodes[b.index]; !x.gone && !b.node.Unschedulable {
			open = append(open, b)
		}
	}
	for _, x := range c.nodes {
		if !x.facts.Going {
			continue
		}
		for _, l := range x.loads {
			c.v.left[l.s.id] += len(l.pods)
		}
	}
	order := slices.Clone(c.v.shapes)
	slices.SortFunc(order, compareService)
	for _, s := range order {
		c.seat(s, open)
		c.v.left[s.id] = 0
	}
	for _, t := range c.v.bound {
		c.v.count(t.s.adds, t.b, -t.n)
		c.v.count(t.s.late, t.b, -t.n)
	}
	c.v.bound = c.v.bound[:0]
	c.start = c.mark()
	c.firstDomains = map[*realm]map[string]bool{}
	for k, known := range c.domains {
		c.firstDomains[k] = maps.Clone(known)
	}
}

// unput takes the seats of pods of the shape on the bin away.
func (c *consolidator) unput(s *shape, b *bin, n int) {
	v := c.v
	b.change(s, -n)
	for _, p := range s.ports {
		if i := slices.Index(b.ports, p); i >= 0 {
			b.ports = slices.Delete(b.ports, i, i+1)
		}
	}
	v.count(s.adds, b, -n)
	v.count(s.late, b, -n)
	v.left[s.id] += n
}

// mark is a state to go back to.
type mark struct{ seats, bins int }

func (c *consolidator) mark() mark { return mark{len(c.v.bound), len(c.v.bins)} }

// rollback takes back all seats given and nodes bought since the mark.
func (c *consolidator) rollback(m mark) {
	v := c.v
	for i := len(v.bound) - 1; i >= m.seats; i-- {
		c.unput(v.bound[i].s, v.bound[i].b, v.bound[i].n)
	}
	v.bound = v.bound[:m.seats]
	for i := len(v.bins) - 1; i >= m.bins; i-- {
		c.unbuy(v.bins[i])
	}
	v.bins = v.bins[:m.bins]
}

// unbuy is the reverse of solver.buy.
func (c *consolidator) unbuy(b *bin) {
	v := c.v
	for _, p := range b.daemons {
		for _, k := range v.countersOf(p) {
			if val, ok := v.label(b, k.key); ok && k.realm.has(b) {
				k.add(val, -1)
			}
		}
	}
	for _, r := range v.realms {
		if val, ok := v.label(b, r.key); ok && r.has(b) && !c.domains[r][val] {
			r.close(val)
		}
	}
	b.col.seller.left.take(b.col, -1)
}

// lift takes all seats on the node away and closes it.
func (c *consolidator) lift(x *sender) {
	for _, l := range x.loads {
		c.unput(l.s, x.bin, len(l.pods))
	}
	x.gone = true
}

// lower is the reverse of lift.
func (c *consolidator) lower(x *sender) {
	for _, l := range x.loads {
		c.v.put(l.s, x.bin, len(l.pods))
		c.v.bound = c.v.bound[:len(c.v.bound)-1]
	}
	x.gone = false
}

// short is a duration as people write it: 10m, not 10m0s.
func short(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return d.Round(time.Second).String()
}
