package capacity

import (
	"cmp"
	"slices"
)

// lowerBound is a cost in $/h that no plan can beat which seats the same number
// of pods of each shape: launches of this and of every such plan cost at least
// as much. It looks at resources and at which nodes may host which pods, and
// takes the larger of two proofs.
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
func (v *solver) lowerBound(seated []int, room [][]int64) float64 {
	net := make([]float64, len(v.dims.names))
	gross := make([]float64, len(v.dims.names))
	union := newBitset(len(v.m.columns))
	any := false
	for _, s := range v.shapes {
		if seated[s.id] == 0 {
			continue
		}
		any = true
		for r, x := range s.vector {
			gross[r] += float64(x) * float64(seated[s.id])
		}
		for i, w := range v.sigs[s.sig].seats {
			union[i] |= w
		}
	}
	if !any {
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
	cols := v.priced(union)
	bound := v.singleBound(seated, room)
	reach := v.reachability(room)
	for _, demand := range [][]float64{net, gross} {
		if y := v.prices(demand, cols); y != nil {
			bound = max(bound, v.dualBound(y, cols, seated, room, reach))
		}
	}
	// Floating point may have rounded up.
	return max(0, bound*(1-1e-9))
}

// priced are the columns of the set, cheapest first.
func (v *solver) priced(set bitset) []*column {
	var cols []*column
	for _, i := range v.m.byPrice() {
		if set.has(int(i)) {
			cols = append(cols, &v.m.columns[i])
		}
	}
	return cols
}

func (v *solver) prices(demand []float64, cols []*column) []float64 {
	var vectors [][]int64
	var prices []float64
next:
	for _, c := range cols {
		for _, k := range vectors {
			if dominates(k, c.free) {
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
func (v *solver) singleBound(seated []int, room [][]int64) float64 {
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
		for _, i := range v.m.byPrice() {
			if c := &v.m.columns[i]; v.seatable(s, c) {
				bound = max(bound, c.price)
				break
			}
		}
	}
	return bound
}
