package capacity

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// lowerBound is a cost in $/h that no plan can beat which seats the same number
// of pods of each shape: launches of this and of every such plan cost at least
// as much. It looks at resources and at which nodes may host which pods, and
// takes the largest of four proofs.
//
// The first is the dual of the resource LP. Prices y per unit of resource, such
// that no node that can be bought is worth more than it costs, bound the cost of
// hosting pods: a node of column c costs at least y'·(requests on it) for every
// y' with y'·free(c) ≤ price(c). With f(c) = price(c) / y·free(c) ≥ 1, a pod of
// shape s adds at least y·req(s)·min f(c) over the columns that may host it. All
// that the nodes that exist could take is given away for free: for each at most
// y·free times the largest such factor, and at most all pods that fit it.
//
// The second: a shape with more pods than the existing nodes could ever take
// needs at least the cheapest node that hosts one.
//
// The third is Farley's (1990), at any worths of pods: see patternBound.
//
// The fourth is for plans of few nodes, where it matters that nodes are whole: the
// cheapest nodes that together have room enough for all pods beyond what the existing
// ones could take, found by a search that most, the cost of such a plan, keeps short.
func (v *solver) lowerBound(seated []int, room [][]int64, most float64) float64 {
	net := make([]float64, len(v.dims.names))
	gross := make([]float64, len(v.dims.names))
	var seats []bitset
	for _, s := range v.shapes {
		if seated[s.id] == 0 {
			continue
		}
		for r, x := range s.vector {
			gross[r] += float64(x) * float64(seated[s.id])
		}
		if set := v.sigs[s.sig].seats; !slices.ContainsFunc(seats, func(o bitset) bool { return &o[0] == &set[0] }) {
			seats = append(seats, set)
		}
	}
	if len(seats) == 0 || most <= 0 {
		return 0
	}
	copy(net, gross)
	for _, free := range room {
		for r, x := range free {
			net[r] -= float64(max(x, 0))
		}
	}
	for r := range net {
		net[r] = max(net[r], 0)
	}
	cols := v.m.unreplaced(false, seats, len(seats))
	bound := v.singleBound(cols, seated, room)
	reach := v.reachability(room)
	for _, demand := range [][]float64{net, gross} {
		if y := v.prices(demand, cols); y != nil {
			bound = max(bound, v.dualBound(y, cols, seated, room, reach))
		}
	}
	bound = v.patternBound(bound, cols, seated, room, reach, net, most)
	// Floating point may have rounded up.
	return max(0, bound*(1-1e-9))
}

func (v *solver) prices(demand []float64, cols []*column) []float64 {
	var vectors [][]int64
	var prices []float64
	last := 0
next:
	for _, c := range cols {
		if last < len(vectors) && dominates(vectors[last], c.free) {
			continue
		}
		for i, k := range vectors {
			if dominates(k, c.free) {
				last = i
				continue next
			}
		}
		vectors = append(vectors, c.free)
		prices = append(prices, c.price)
	}
	if len(vectors) == 0 || slices.Max(demand) <= 0 {
		return nil
	}
	return coverPrices(&v.pk.lp, demand, vectors, prices)
}

func dominates(a, b []int64) bool {
	for r, x := range b {
		if a[r] < x {
			return false
		}
	}
	return true
}

// reachability says which existing nodes could host which shapes: by shape, the
// nodes' indices.
func (v *solver) reachability(room [][]int64) [][]int {
	reach := make([][]int, len(v.shapes))
	for _, s := range v.shapes {
		for i := range room {
			if vectorFits(s.vector, room[i]) && v.reachable(s, v.bins[i]) {
				reach[s.id] = append(reach[s.id], i)
			}
		}
	}
	return reach
}

// dualBound is the first proof, at prices y.
func (v *solver) dualBound(y []float64, cols []*column, seated []int, room [][]int64, reach [][]int) float64 {
	type rated struct {
		c *column
		f float64
	}
	var byFactor []rated
	for _, c := range cols {
		worth := 0.0
		for r, x := range c.free {
			worth += y[r] * float64(max(x, 0))
		}
		if worth > 0 {
			byFactor = append(byFactor, rated{c, c.price / worth})
		}
	}
	slices.SortStableFunc(byFactor, func(a, b rated) int { return cmp.Compare(a.f, b.f) })
	bound := 0.0
	worst := make([]float64, len(room)) // largest factor of a shape that reaches the node
	all := make([]float64, len(room))   // worth of all pods that fit it
	for _, s := range v.shapes {
		if seated[s.id] == 0 {
			continue
		}
		factor := 0.0
		for _, k := range byFactor {
			if v.seatable(s, k.c) {
				factor = k.f
				break
			}
		}
		worth := 0.0
		for r, x := range s.vector {
			worth += y[r] * float64(x)
		}
		worth *= factor
		bound += worth * float64(seated[s.id])
		for _, i := range reach[s.id] {
			worst[i] = max(worst[i], factor)
			all[i] += worth * float64(min(seated[s.id], copies(s.vector, room[i])))
		}
	}
	for i, free := range room {
		worth := 0.0
		for r, x := range free {
			worth += y[r] * float64(max(x, 0))
		}
		bound -= min(worth*worst[i], all[i])
	}
	return bound
}

// singleBound is the second proof.
func (v *solver) singleBound(cols []*column, seated []int, room [][]int64) float64 {
	bound := 0.0
	for _, s := range v.shapes {
		n := seated[s.id]
		if n == 0 {
			continue
		}
		for i := range room {
			if n <= 0 {
				break
			}
			if vectorFits(s.vector, room[i]) && v.reachable(s, v.bins[i]) {
				n -= copies(s.vector, room[i])
			}
		}
		if n <= 0 {
			continue
		}
		for _, c := range cols {
			if v.seatable(s, c) {
				bound = max(bound, c.price)
				break
			}
		}
	}
	return bound
}

const (
	// maxBoundShapes is up to how many shapes the third proof is tried. With more,
	// it proves little: a knapsack finds the few that are worth most.
	maxBoundShapes = 400
	// boundWork is spent on making it tighter where there is no budget.
	boundWork = 1e6
	// looseBound is how far below the plan the bound must be for worths to be sought
	// anew.
	looseBound = 0.005
	// nearEnough is by what share the bound may be below what could be proven.
	nearEnough = 0.0002
)

// patternBound is the third proof. Let pods be worth pi ≥ 0. If no node of a
// column can hold pods that are worth more than its price, then every node costs
// at least what its pods are worth, and all launches together at least what all
// pods are worth less what the nodes that exist can hold. Any pi can be scaled
// to be such prices: divided by the largest ratio of what a column can hold,
// as proven by the knapsack's upper bound, to its price.
//
// Worths that the planning has found are for what it looks at: rates, and what may
// share a host. If the bound is still loose, they are sought anew for prices alone.
//
// The fourth proof has the same worths as a further resource.
func (v *solver) patternBound(bound float64, cols []*column, seated []int, room [][]int64, reach [][]int, net []float64, most float64) float64 {
	p := &packer{width: len(v.dims.names)}
	var pi []float64
	var have []int
	index := make([]int, len(v.shapes))
	for _, s := range v.shapes {
		index[s.id] = -1
		if seated[s.id] == 0 {
			continue
		}
		index[s.id] = len(p.items)
		it := &packItem{it: &item{s: s, n: seated[s.id], cols: v.sigs[s.sig].seats}, req: s.vector, most: v.alone(s)}
		it.seal()
		p.items = append(p.items, it)
		pi = append(pi, v.worth[s.id])
		have = append(have, seated[s.id])
	}
	if len(p.items) == 0 || len(p.items) > maxBoundShapes {
		return bound
	}
	p.conflict = make([]bitset, len(p.items))
	boundKinds(p, cols)
	if len(p.kinds) == 0 {
		return bound
	}
	fits := make([][]int32, len(room))
	for _, s := range v.shapes {
		for _, i := range reach[s.id] {
			if j := index[s.id]; j >= 0 {
				fits[i] = append(fits[i], int32(j))
			}
		}
	}
	// What all pods are worth but for those that the nodes that exist may take.
	worth := func(pi []float64) float64 {
		value := 0.0
		for j, x := range pi {
			value += x * float64(have[j])
		}
		for i, free := range room {
			if len(fits[i]) > 0 {
				value -= p.knap.bound(0, p, &kind{free: free, allowed: fits[i]}, pi, have, 0)
			}
		}
		return value
	}
	// With a budget, little of it goes into the first worths: most into new ones, or
	// into the fourth proof.
	limit := int64(boundWork)
	first := limit
	if v.snap.Budget > 0 {
		limit = v.work(boundPart) + v.unspent/2
		first = limit / 16
	}
	value := worth(pi)
	if value > 0 {
		bound = max(bound, value/p.dearest(pi, have, first))
	}
	if len(v.bins)-v.existing <= maxFew {
		c := p.newCover(net, value, pi, have, p.work+limit)
		if x := c.next(most); x != nil {
			return max(bound, x.price)
		}
		return max(bound, c.bound(most))
	}
	if v.snap.Budget > 0 && value > 0 && most > bound*(1+looseBound) {
		if mix, ok := p.generate(p.bought(v.bins[v.existing:], v.near, index), pi, limit*5/8); ok {
			if value := worth(mix.worth); value > 0 {
				bound = max(bound, value/p.dearest(mix.worth, have, max(limit, p.work+limit/8)))
			}
		}
	}
	return bound
}

// dearest is an upper bound of what a node can hold at most per price, at worths pi,
// sought until p.work has reached end.
func (p *packer) dearest(pi []float64, have []int, end int64) float64 {
	ratio := make([]float64, len(p.kinds))
	steps := make([]int, len(p.kinds))
	for t, k := range p.kinds {
		ratio[t] = p.knap.bound(0, p, k, pi, have, 0) / k.price
	}
	// The largest ratio decides; look closer at whoever has it, for contents that are
	// worth more than what is known to fit somewhere. Bounds are rounded up a little.
	worst, known := 0, 0.0
	for {
		for t := range ratio {
			if ratio[t] > ratio[worst] {
				worst = t
			}
		}
		if ratio[worst] <= known*(1+1e-8) || steps[worst] > 1e8 || p.work > end {
			return ratio[worst]
		}
		steps[worst] = max(64, 4*steps[worst])
		price := p.kinds[worst].price
		ratio[worst] = min(ratio[worst], p.knap.bound(known*price, p, p.kinds[worst], pi, have, steps[worst])/price)
		known = max(known, p.knap.worthOf()/price*(1+nearEnough))
	}
}

// alone is how many pods of the shape any node may ever hold, resources aside.
func (v *solver) alone(s *shape) int {
	if len(s.ports) > 0 {
		return 1
	}
	for i, t := range s.anti {
		if t.key == corev1.LabelHostname && slices.Contains(s.adds, s.antiCounts[i]) {
			return 1
		}
	}
	return 1 << 30
}

// boundKinds makes kinds of the columns that hold any of the packer's items.
func boundKinds(p *packer, cols []*column) {
	for _, c := range cols {
		kd := &kind{col: c, price: c.price, free: c.free, allows: newBitset(len(p.items))}
		for j, it := range p.items {
			if it.it.cols.has(c.index) && vectorFits(it.req, kd.free) {
				kd.allow(j, it)
			}
		}
		if len(kd.allowed) > 0 {
			p.kinds = append(p.kinds, kd)
		}
	}
}

// bought are the nodes of the plan, and good patterns that were found on the way, as
// patterns of the packer's. index is the item of each shape.
func (p *packer) bought(bins []*bin, near [][]share, index []int) []pattern {
	var out []pattern
	add := func(load []share) {
		if pt, ok := p.cheapest(load); ok {
			out = append(out, pt)
		}
	}
	for i, b := range bins {
		// Nodes of one pattern were bought one after the other.
		if i > 0 && b.col == bins[i-1].col && slices.Equal(b.placed, bins[i-1].placed) {
			continue
		}
		var load []share
		for _, x := range b.placed {
			load = append(load, share{index[x.s.id], x.n})
		}
		add(load)
	}
	for _, of := range near {
		load := make([]share, 0, len(of))
		for _, l := range of {
			if j := index[l.item]; j >= 0 {
				load = append(load, share{j, l.n})
			}
		}
		add(load)
	}
	return out
}

// cheapest is the content on the cheapest kind that holds it.
func (p *packer) cheapest(load []share) (pattern, bool) {
	var least *kind
	for _, k := range p.kinds {
		if (least == nil || k.price < least.price) && k.holds(p, load) {
			least = k
		}
	}
	return pattern{least, load, 1}, least != nil
}
