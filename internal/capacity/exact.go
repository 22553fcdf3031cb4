package capacity

import (
	"math"
	"math/bits"
	"slices"
)

// Bounds of an exact plan: pods, existing nodes that some of them could go to,
// and looks at a kind of node for a set of pods.
const (
	maxExactPods  = 6
	maxExactNodes = 24
	maxExactLooks = 300000
)

// ordinaryVCPUs is the largest node that several pods are put on to save money:
// the loss of a larger one would cost more than it saves.
const ordinaryVCPUs = 64

// exact replaces what a few pods got by the cheapest of all ways to divide them
// among nodes that exist and new ones, where that costs less: dynamic programming
// over the sets of pods. It is for pods whose place hangs on nothing but the
// node itself, when nothing is scarce and all Provisioners weigh the same.
func (v *solver) exact() {
	pods, ok := v.exactPods()
	if !ok {
		return
	}
	all := 1<<len(pods) - 1
	usable := v.exactNodes(pods)
	credit := v.bins[v.existing].credit
	if slices.ContainsFunc(v.bins[v.existing:], func(b *bin) bool { return b.credit != credit }) {
		return
	}
	if usable == nil || all*len(v.m.columns) > maxExactLooks {
		return
	}
	// alone is the cheapest new node for each set, best the least cost for each,
	// part the pods that it has on its last node.
	alone, price := v.cheapestAlone(pods, all, credit)
	best, part := make([]float64, all+1), make([]int, all+1)
	for set := 1; set <= all; set++ {
		best[set] = math.Inf(1)
		first := 1 << bits.TrailingZeros(uint(set))
		for p := set; p > 0; p = (p - 1) & set {
			if p&first == 0 || alone[p] == nil {
				continue
			}
			if c := price[p] + best[set&^p]; c < best[set]-1e-12 {
				best[set], part[set] = c, p
			}
		}
	}
	// taken is what each existing node takes of each set, one node more at a time.
	taken := make([][]int, len(usable))
	for k, b := range usable {
		fits := v.exactFits(pods, all, b)
		taken[k] = make([]int, all+1)
		next := slices.Clone(best)
		for set := 1; set <= all; set++ {
			for p := set; p > 0; p = (p - 1) & set {
				if fits[p] && best[set&^p] < next[set]-1e-12 {
					next[set], taken[k][set] = best[set&^p], p
				}
			}
		}
		best = next
	}
	now := 0.0
	for _, b := range v.bins[v.existing:] {
		now += exactPrice(b.col, b.free, credit)
	}
	if best[all] >= now-1e-9 {
		return
	}
	v.reopen(nil)
	put := func(set int, b *bin) {
		for ; set > 0; set &= set - 1 {
			v.put(pods[bits.TrailingZeros(uint(set))], b, 1)
		}
	}
	rest := all
	for k := len(usable) - 1; k >= 0; k-- {
		if p := taken[k][rest]; p > 0 {
			put(p, v.bins[usable[k].index])
			rest &^= p
		}
	}
	for rest > 0 {
		b := v.open(alone[part[rest]])
		b.credit = credit
		put(part[rest], b)
		rest &^= part[rest]
	}
}

// exactPods are the shapes of all pods, one for each; not ok when they are too
// many, or an exact plan could do them wrong.
func (v *solver) exactPods() (pods []*shape, ok bool) {
	for i, s := range v.m.sellers {
		if s.left != nil || s.p.Spec.Weight != v.m.sellers[0].p.Spec.Weight && i > 0 {
			return nil, false
		}
	}
	for _, s := range v.shapes {
		if v.left[s.id] > 0 && v.hopeless(s) {
			continue
		}
		if v.left[s.id] > 0 || s.tied() || s.gang != nil || len(pods)+len(s.pods) > maxExactPods {
			return nil, false
		}
		for range s.pods {
			pods = append(pods, s)
		}
	}
	return pods, len(v.bins) > v.existing
}

// exactNodes are the existing nodes that some of the pods could go to; nil when
// they are too many or some ask to be avoided.
func (v *solver) exactNodes(pods []*shape) []*bin {
	usable := []*bin{}
	for _, b := range v.bins[:v.existing] {
		if !slices.ContainsFunc(pods, func(s *shape) bool { return vectorFits(s.vector, b.start) && v.reachable(s, b) }) {
			continue
		}
		if avoids(nil, b.taints) || len(usable) == maxExactNodes {
			return nil
		}
		usable = append(usable, b)
	}
	return usable
}

// exactFits says of each set of pods whether the existing node can take it.
func (v *solver) exactFits(pods []*shape, all int, b *bin) []bool {
	empty := v.fresh[b.index]
	fits := make([]bool, all+1)
	fits[0] = true
	for set := 1; set <= all; set++ {
		last := bits.Len(uint(set)) - 1
		fits[set] = fits[set&^(1<<last)] && v.reachable(pods[last], b) && together(pods, set, empty.start, empty.ports, empty.attached)
	}
	return fits
}

// together says whether the pods of a set fit into free beside each other, these
// ports and volumes that are attached already.
func together(pods []*shape, set int, free []int64, ports []hostPort, attached map[attachment]bool) bool {
	sum := make([]int64, len(free))
	var shared []attachment
	for ; set > 0; set &= set - 1 {
		s := pods[bits.TrailingZeros(uint(set))]
		for k, x := range s.vector {
			sum[k] += x
		}
		if len(s.ports) > 0 {
			if portsConflict(s.ports, ports) {
				return false
			}
			ports = append(ports[:len(ports):len(ports)], s.ports...)
		}
		for i, id := range s.limited {
			if !attached[id] && !slices.Contains(shared, id) {
				shared = append(shared, id)
				sum[s.limitedBy[i]]++
			}
		}
	}
	return vectorFits(sum, free)
}

// exactPrice is what a node of the column with that much room left costs.
func exactPrice(c *column, free []int64, credit *credit) float64 {
	if credit == nil {
		return c.price
	}
	return credit.net(c, free)
}

// cheapestAlone is the cheapest new node that hosts each set of pods, with its
// price, less what its left-over room is worth; of giant nodes only what a single
// pod needs, and none that asks one of the pods to stay away.
func (v *solver) cheapestAlone(pods []*shape, all int, credit *credit) (alone []*column, price []float64) {
	alone, price = make([]*column, all+1), make([]float64, all+1)
	var seats, sets []bitset
	for _, s := range pods {
		seats, sets = append(seats, v.sigs[s.sig].seats), append(sets, v.sigs[s.sig].cols)
	}
	sets = append(append(seats, sets...), v.m.ordinary())
	if v.anyShunned() {
		sets = append(sets, v.m.unshunned())
	}
	cols := v.m.unreplaced(false, sets, len(pods))
	for set := 1; set <= all; set++ {
		price[set] = math.Inf(1)
		sum := make([]int64, len(v.dims.names))
		for rest := set; rest > 0; rest &= rest - 1 {
			for r, x := range pods[bits.TrailingZeros(uint(rest))].vector {
				sum[r] += x
			}
		}
		left := make([]int64, len(sum))
		for _, c := range cols {
			if c.typ.Machine.VCPUs > ordinaryVCPUs && set&(set-1) > 0 || !vectorFits(sum, c.free) {
				continue
			}
			for r, x := range sum {
				left[r] = c.free[r] - x
			}
			cost := exactPrice(c, left, credit)
			if cost >= price[set] {
				continue
			}
			wanted, seats := false, true
			for rest := set; rest > 0 && seats; rest &= rest - 1 {
				s := pods[bits.TrailingZeros(uint(rest))]
				sig := v.sigs[s.sig]
				wanted, seats = wanted || sig.cols.has(c.index), sig.seats.has(c.index) && !avoids(s.pod.Spec.Tolerations, c.seller.p.Spec.Taints)
			}
			if wanted && seats && together(pods, set, c.free, c.daemons.ports, nil) {
				alone[set], price[set] = c, cost
				if credit == nil {
					break // no other is cheaper
				}
			}
		}
	}
	return alone, price
}
