package capacity

import (
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// maxNodeVCPUs is the largest node that is bought as long as smaller ones will
// do: one node's loss should not be the loss of a whole workload. Costs less
// than 1.2 %.
const maxNodeVCPUs = 64

// manyItems is from how many on the greedy is tried with fewer worths.
const manyItems = 500

// packer finds out which nodes to buy for items, without regard to others'
// nodes: price-guided pattern greedy. A pattern is what one node holds; the
// greedy buys the pattern that is worth most for its price, as often as there
// are pods for it. What a pod is worth comes from the duals of the resource LP,
// from what it costs alone, and from mixtures of both.
type packer struct {
	items []*packItem
	kinds []*kind
	// conflict[i] are the items that cannot share a node with item i.
	conflict []bitset
	// width of the vectors: dimensions, then one for each shared host limit.
	width int

	lp      simplex
	knap    knapsack
	limited bool
	// work counts what knapsacks and the greedy have looked at.
	work int64
}

// packItem is an item as the packer sees it.
type packItem struct {
	it  *item
	req []int64
	// most copies on one node.
	most int
}

// kind is a column that no other replaces for these items.
type kind struct {
	col   *column
	free  []int64
	price float64
	// allowed items, those that fit an empty node.
	allowed []int32
	allows  bitset
}

// pattern is a kind of node with its content, bought a number of times.
type pattern struct {
	kind  *kind
	load  []share
	times int
}

// share is a number of pods of an item on one node.
type share struct {
	item int
	n    int
}

// pack buys nodes for the items. What needs large or accelerated nodes goes
// first; the others may use the room that remains there.
func (v *solver) pack(items []*item) {
	var special, ordinary []*item
	for _, it := range items {
		if it.n == 0 {
			continue
		}
		if v.special(it) {
			special = append(special, it)
		} else {
			ordinary = append(ordinary, it)
		}
	}
	from := len(v.bins)
	v.packAll(special)
	if len(v.bins) > from {
		v.fill(ordinary, v.bins[from:])
	}
	v.packAll(ordinary)
}

// special says whether the item needs accelerators or nodes above maxNodeVCPUs.
func (v *solver) special(it *item) bool {
	for name := range it.s.requests {
		if accelerated(name) {
			return true
		}
	}
	for i := range v.m.columns {
		c := &v.m.columns[i]
		if c.typ.Machine.VCPUs <= maxNodeVCPUs && v.usable(it.s, c) {
			return false
		}
	}
	return true
}

// packAll buys nodes for the items until all have a place or nothing more can
// be bought for them: each time at the heaviest Provisioners that have room
// within their limits.
func (v *solver) packAll(items []*item) {
	sets := map[setKey]bitset{}
	for {
		active := items[:0:0]
		for _, it := range items {
			if it.n > 0 && v.chooseLevel(it, sets) {
				active = append(active, it)
			}
		}
		if len(active) == 0 {
			return
		}
		patterns := v.planNodes(active)
		if len(patterns) == 0 {
			return
		}
		for _, p := range patterns {
			for range p.times {
				b := v.buy(p.kind.col)
				for _, l := range p.load {
					v.put(active[l.item].s, b, l.n)
					active[l.item].n -= l.n
				}
			}
		}
	}
}

// setKey identifies a set of columns: signature, cell and Provisioners' weight.
type setKey struct {
	sig    int
	cell   string
	weight int32
	large  bool
}

// chooseLevel finds the columns of the heaviest Provisioners that can host the
// item now.
func (v *solver) chooseLevel(it *item, sets map[setKey]bitset) bool {
	name := ""
	if it.cell != nil {
		b := shapeKey{}
		b.strs(it.cell.keys)
		b.strs(it.cell.values)
		name = string(b)
	}
	all := setKey{sig: it.s.sig, cell: name, weight: -1}
	if sets[all] == nil {
		sets[all] = v.columnsOf(it)
	}
	found, small, full := false, false, false
	for _, s := range v.m.sellers {
		if found && s.p.Spec.Weight < it.level {
			break
		}
		for i := s.first; i < s.end; i++ {
			c := &v.m.columns[i]
			if !sets[all].has(i) || !vectorFits(it.s.vector, c.free) {
				continue
			}
			if s.left.room(c) == 0 {
				full = true
				continue
			}
			found, it.level = true, s.p.Spec.Weight
			if c.typ.Machine.VCPUs <= maxNodeVCPUs {
				small = true
				break
			}
		}
	}
	if !found {
		v.scarce = v.scarce || full
		return false
	}
	key := setKey{it.s.sig, name, it.level, !small}
	if sets[key] == nil {
		set := newBitset(len(v.m.columns))
		for _, s := range v.m.sellers {
			if s.p.Spec.Weight != it.level {
				continue
			}
			for i := s.first; i < s.end; i++ {
				if sets[all].has(i) && (!small || v.m.columns[i].typ.Machine.VCPUs <= maxNodeVCPUs) {
					set.set(i)
				}
			}
		}
		sets[key] = set
	}
	it.cols = sets[key]
	return true
}

// planNodes is the cheapest set of patterns found for the items, all of whose
// pods it holds unless limits forbid.
func (v *solver) planNodes(items []*item) []pattern {
	p := &v.pk
	v.setUp(p, items)
	if len(p.kinds) == 0 {
		return nil
	}
	worth := p.worths()
	rem := make([]int, len(p.items))
	var best []pattern
	bestCost, bestLeft := math.Inf(1), math.MaxInt
	pi, bestPi := make([]float64, len(p.items)), make([]float64, len(p.items))
	weights := []float64{0, 0.5, 1, 0.25, 0.75}
	if len(p.items) > manyItems {
		weights = weights[:2]
	}
	for _, w := range weights {
		for j := range pi {
			pi[j] = w*worth.unit[j] + (1-w)*worth.linear[j]
		}
		for j, it := range p.items {
			rem[j] = it.it.n
		}
		ps, cost, left := p.greedy(pi, rem)
		if left < bestLeft || left == bestLeft && (cost < bestCost-1e-9 || cost < bestCost+1e-9 && nodes(ps) < nodes(best)) {
			best, bestCost, bestLeft = ps, cost, left
			copy(bestPi, pi)
		}
	}
	if bestLeft == 0 {
		best = p.improve(best, bestPi, v.share(items))
	}
	return best
}

// share is what of the budget may go into these items: by their number of pods,
// and less for each attempt that has been made before.
func (v *solver) share(items []*item) time.Duration {
	n := 0
	for _, it := range items {
		n += it.n
	}
	part := 0.6 * math.Pow(0.4, float64(v.attempts-1)) * float64(n) / float64(len(v.snap.Pods))
	return time.Duration(float64(v.snap.Budget) * part)
}

func nodes(ps []pattern) int {
	n := 0
	for i := range ps {
		n += ps[i].times
	}
	return n
}

// setUp prepares the packer for the items: vectors, conflicts, kinds.
func (v *solver) setUp(p *packer, items []*item) {
	p.items = make([]*packItem, len(items))
	groups := v.hostGroups(items)
	p.width = len(v.dims.names) + len(groups)
	for j, it := range items {
		pi := &packItem{it: it, req: slices.Grow(slices.Clone(it.s.vector), len(groups)), most: v.mostPerHost(it.s)}
		for _, g := range groups {
			x := int64(0)
			if slices.Contains(g.members, it.s) {
				x = 1
			}
			pi.req = append(pi.req, x)
		}
		p.items[j] = pi
	}
	v.findConflicts(p)
	v.findKinds(p, groups)
}

// hostGroup bounds pods of several shapes on one host together.
type hostGroup struct {
	members []*shape
	most    int
}

// hostGroups are the hostname spread constraints that more than one of the
// items count towards.
func (v *solver) hostGroups(items []*item) []hostGroup {
	var groups []hostGroup
	done := map[*counter]bool{}
	for _, it := range items {
		for i, c := range it.s.spreadCounts {
			if c.key != corev1.LabelHostname || done[c] {
				continue
			}
			done[c] = true
			g := hostGroup{most: it.s.spread[i].maxSkew}
			for _, o := range items {
				k := slices.Index(o.s.spreadCounts, c)
				if slices.Contains(o.s.adds, c) && !slices.Contains(g.members, o.s) {
					g.members = append(g.members, o.s)
				}
				if k >= 0 {
					g.most = min(g.most, o.s.spread[k].maxSkew)
				}
			}
			if len(g.members) > 1 {
				groups = append(groups, g)
			}
		}
	}
	return groups
}

// mostPerHost is how many pods of the shape a new node may hold, resources
// aside.
func (v *solver) mostPerHost(s *shape) int {
	most := math.MaxInt32
	if len(s.ports) > 0 {
		most = 1
	}
	for i, t := range s.anti {
		if t.key == corev1.LabelHostname && slices.Contains(s.adds, s.antiCounts[i]) {
			most = 1
		}
	}
	for i, t := range s.spread {
		if t.key == corev1.LabelHostname && s.selfSpread[i] && !t.countsNothing {
			most = min(most, t.maxSkew)
		}
	}
	return most
}

// findConflicts notes which items cannot share a node.
func (v *solver) findConflicts(p *packer) {
	n := len(p.items)
	p.conflict = make([]bitset, n)
	mark := func(i, j int) {
		for _, x := range [][2]int{{i, j}, {j, i}} {
			if p.conflict[x[0]] == nil {
				p.conflict[x[0]] = newBitset(n)
			}
			p.conflict[x[0]].set(x[1])
		}
	}
	for i, a := range p.items {
		s := a.it.s
		hosts := slices.ContainsFunc(s.anti, func(t term) bool { return t.key == corev1.LabelHostname })
		if !hosts && len(s.ports) == 0 {
			continue
		}
		for j, b := range p.items {
			if b.it.s == s {
				continue
			}
			if portsConflict(s.ports, b.it.s.ports) {
				mark(i, j)
			}
			for k, t := range s.anti {
				if t.key == corev1.LabelHostname && slices.Contains(b.it.s.adds, s.antiCounts[k]) {
					mark(i, j)
				}
			}
		}
	}
	// Two items of one shape that allows one pod per host share that limit.
	for i, a := range p.items {
		if a.most > 1 {
			continue
		}
		for j, b := range p.items[:i] {
			if a.it.s == b.it.s {
				mark(i, j)
			}
		}
	}
}
