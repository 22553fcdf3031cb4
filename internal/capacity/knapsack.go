package capacity

import (
	"cmp"
	"math"
	"slices"
)

// knapsack finds the most valuable content for one node: linear relaxation,
// rounded down, filled up by value per resource at the relaxation's prices,
// improved by single exchanges, by dynamic programming where it is far from the
// relaxation (knapsack_ladder.go) and by a bounded depth-first search
// (knapsack_search.go). The last two also prove how valuable any content can be.
// Its buffers are reused.
type knapsack struct {
	// The problem: for a node of which kind, and what may be chosen from. picky:
	// not all of that may share a node.
	p     *packer
	t     *kind
	cand  []candidateItem
	picky bool

	lp simplex
	// basis of the last relaxation, items and slacks. The next one is likely to come
	// to much the same: with a few pods less, or on another kind.
	basis, gone []int
	// y are the relaxation's duals per unit of resource; scale is what a unit is of
	// all that there is, 0 where there is nothing.
	y, scale []float64

	// What is left beside what is taken, and which of the picky items are.
	free  []int64
	taken bitset

	descent descent
	dynamic dynamic
	// sorted and order are byDensity's.
	sorted []candidateItem
	order  []ranked
}

type candidateItem struct {
	item  int
	upper int
	n     int
	// value of one pod.
	value float64
	// x is the relaxation's answer; weight what one pod takes of the surrogate
	// constraint: its resources at the relaxation's prices.
	x, weight float64
}

const (
	// maxExchange bounds how many candidates the exchange step looks at.
	maxExchange = 48
	// maxCandidates bounds the items that one knapsack chooses from. Where there
	// are more, most are much alike, and every so manieth will do.
	maxCandidates = 256
	// rebuildBelow is how far below the relaxation's value a content must be for
	// dynamic programming to be worth the time.
	rebuildBelow = 0.005
	// searchSteps are spent on the search for each pattern of the greedy.
	searchSteps = 50
	// forLarge is by what share the relaxation thinks more of the pod that is worth
	// most: of equals, it takes the large ones, and leaves those that fit anywhere.
	forLarge = 1e-6
)

// best appends the content for kind t to load and returns its value at worths
// pi, and a bound, proven, of any content's: infinite when not all was looked at. rem
// bounds the pods of each item, steps the search; with none, no time is taken to
// improve what is found at once.
func (k *knapsack) best(p *packer, t *kind, pi []float64, rem []int, load []share, steps int) ([]share, float64, float64) {
	return k.above(0, p, t, pi, rem, load, steps)
}

// above is best where contents of up to that value are of no use: it may return
// none, with a bound of the value, then.
func (k *knapsack) above(least float64, p *packer, t *kind, pi []float64, rem []int, load []share, steps int) (content []share, v, bound float64) {
	k.open(p, t)
	all := true
	left := 0
	for _, j := range t.allowed {
		if rem[j] > 0 {
			left++
		}
	}
	stride := max(1, left/maxCandidates)
	for i, j := range t.allowed {
		if rem[j] == 0 {
			continue
		}
		value := t.worth(pi, int(j))
		if value <= 0 {
			all = false
			continue
		}
		if left--; stride > 1 && left%stride != 0 {
			all = false
			continue
		}
		u := min(rem[j], int(t.fits[i]))
		all = all && u == rem[j]
		k.picky = k.picky || p.conflict[j] != nil
		k.cand = append(k.cand, candidateItem{item: int(j), upper: u, value: value})
	}
	p.work += int64(len(t.allowed)/16 + len(k.cand))
	if len(k.cand) == 0 {
		return load, 0, 0
	}
	if all && !k.picky && k.takeAll() {
		content, v = k.result(load)
		return content, v, v
	}
	k.relax(pi)
	top := k.relaxed()
	if top <= least {
		return load, top, math.Inf(1)
	}
	if !k.picky {
		k.dropHopeless()
	}
	k.byDensity()
	// Denser ones first, so that of two that conflict the better one stays.
	for i := range k.cand {
		c := &k.cand[i]
		if n := min(int(c.x+1e-9), c.upper); n > 0 && !k.conflicts(c.item) {
			k.take(c, p.items[c.item].copies(k.free, n))
		}
	}
	k.topUp()
	k.exchange()
	if steps > 0 {
		if k.prune() > rebuildBelow && !k.picky {
			k.rebuild(k.scarcest())
			k.prune()
		}
		top = min(top, k.search(least, steps))
	}
	content, v = k.result(load)
	if stride > 1 {
		top = math.Inf(1)
	}
	return content, v, max(v, top)
}

// bound is an upper bound, proven, of the value at worths pi of any content of
// kind t, of which there are at most have pods of each item, or least if that is more.
// More steps give a tighter bound.
func (k *knapsack) bound(least float64, p *packer, t *kind, pi []float64, have []int, steps int) float64 {
	k.open(p, t)
	for _, j := range t.allowed {
		value := t.worth(pi, int(j))
		if have[j] == 0 || value <= 0 {
			continue
		}
		it := p.items[j]
		if u := it.copies(t.free, min(have[j], it.most)); u > 0 {
			k.cand = append(k.cand, candidateItem{item: int(j), upper: u, value: value})
		}
	}
	if len(k.cand) == 0 {
		return 0
	}
	k.relax(pi)
	k.byDensity()
	k.topUp()
	k.prune()
	top := k.search(least, steps)
	if steps > 0 {
		for r := range k.y {
			if k.y[r] > 0 {
				top = min(top, k.ladder(r))
			}
		}
	}
	return top
}

// ceiling bounds the value at worths pi of any content of kind t, of which there are
// at most rem pods of each item, by prices y of its resources: by weak duality, any
// will do.
func (p *packer) ceiling(t *kind, pi []float64, rem []int, y []float64) float64 {
	p.work += int64(len(t.allowed) / 16)
	v := 0.0
	for r, f := range t.free {
		v += y[r] * float64(max(f, 0))
	}
	for i, j := range t.allowed {
		if rem[j] == 0 {
			continue
		}
		gain := t.worth(pi, int(j))
		for _, a := range p.items[j].takes {
			gain -= y[a.r] * float64(a.x)
		}
		if gain > 0 {
			v += gain * float64(min(rem[j], int(t.fits[i])))
		}
	}
	return v * (1 + 1e-9) // Floating point may have rounded down.
}

// open begins with an empty node of the kind and nothing to choose from.
func (k *knapsack) open(p *packer, t *kind) {
	k.p, k.t, k.picky = p, t, false
	k.cand, k.y = k.cand[:0], k.y[:0]
	k.free = append(k.free[:0], t.free...)
	k.taken = resized(k.taken, (len(p.items)+63)/64)
	clear(k.taken)
}

// relax solves the linear relaxation.
func (k *knapsack) relax(pi []float64) {
	k.lp.reset(k.p.width)
	k.scale = resized(k.scale, k.p.width)
	for r, f := range k.t.free {
		k.lp.b[r], k.scale[r] = 0, 0
		if f > 0 {
			k.lp.b[r], k.scale[r] = 1, 1/float64(f)
		}
	}
	top := 0.0
	for i := range k.cand {
		top = max(top, k.cand[i].value)
	}
	column := func(item int, value float64, upper int) {
		k.lp.add(value/top*(1+forLarge*value/top), float64(upper))
		for _, a := range k.p.items[item].takes {
			k.lp.set(a.r, float64(a.x)*k.scale[a.r])
		}
	}
	for i := range k.cand {
		column(k.cand[i].item, k.cand[i].value, k.cand[i].upper)
	}
	// Of some items of the last basis there may be no more pods.
	k.gone = k.gone[:0]
	for _, b := range k.basis {
		if b >= 0 {
			i, ok := slices.BinarySearchFunc(k.cand, b, func(c candidateItem, item int) int { return cmp.Compare(c.item, item) })
			if !ok {
				i = len(k.cand) + len(k.gone)
				k.gone = append(k.gone, b)
				column(b, k.t.worth(pi, b), 0)
			}
			b = i
		}
		k.lp.start = append(k.lp.start, b)
	}
	k.lp.solve()
	k.p.work += int64((k.lp.pivots + 3) * (len(k.cand) + k.p.width))
	k.basis = append(k.basis[:0], k.lp.basis...)
	for i, b := range k.basis {
		if b >= len(k.cand) {
			k.basis[i] = k.gone[b-len(k.cand)]
		} else if b >= 0 {
			k.basis[i] = k.cand[b].item
		}
	}
	k.y = resized(k.y, k.p.width)
	for r, f := range k.scale {
		k.y[r] = k.lp.y[r] * top * f
	}
	for i := range k.cand {
		c := &k.cand[i]
		c.x, c.weight = k.lp.x[i], 0
		for _, a := range k.p.items[c.item].takes {
			c.weight += k.y[a.r] * float64(a.x)
		}
	}
}

// relaxed is the value of the linear relaxation, by its dual.
func (k *knapsack) relaxed() float64 {
	v := 0.0
	for r, f := range k.t.free {
		v += k.y[r] * float64(max(f, 0))
	}
	for i := range k.cand {
		if c := &k.cand[i]; c.value > c.weight {
			v += (c.value - c.weight) * float64(c.upper)
		}
	}
	// Floating point may have rounded down.
	return v * (1 + 1e-9)
}

// prune drops the candidates that no better content can have: one pod of them
// costs more of the relaxation's value than what is taken is short of it. It
// returns by what share the latter is short.
func (k *knapsack) prune() float64 {
	top := k.relaxed()
	gap := top - k.worthOf()
	k.cand = slices.DeleteFunc(k.cand, func(c candidateItem) bool { return c.n == 0 && c.weight-c.value > gap })
	return gap / top
}

// dropHopeless drops what prune would drop if the relaxation, rounded down, were
// taken.
func (k *knapsack) dropHopeless() {
	gap := k.relaxed()
	for i := range k.cand {
		c := &k.cand[i]
		gap -= c.value * float64(min(int(c.x+1e-9), c.upper))
	}
	k.cand = slices.DeleteFunc(k.cand, func(c candidateItem) bool { return c.x == 0 && c.weight-c.value > gap })
}

// scarcest is the resource that makes up most of the relaxation's value.
func (k *knapsack) scarcest() int {
	best := 0
	for r, f := range k.t.free {
		if k.y[r]*float64(f) > k.y[best]*float64(k.t.free[best]) {
			best = r
		}
	}
	return best
}

// byDensity orders the candidates by value per weight, the best first.
func (k *knapsack) byDensity() {
	k.order = k.order[:0]
	for i := range k.cand {
		k.order = append(k.order, ranked{k.cand[i].value, k.cand[i].weight, i})
	}
	slices.SortFunc(k.order, func(a, b ranked) int {
		// Cross-multiplied, so that a weight of 0 is the best there is.
		x, y := a.value*b.weight, b.value*a.weight
		switch {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return a.at - b.at
	})
	k.sorted = k.sorted[:0]
	for _, o := range k.order {
		k.sorted = append(k.sorted, k.cand[o.at])
	}
	k.cand, k.sorted = k.sorted, k.cand
}

// ranked is a candidate's position, by which it is sorted.
type ranked struct {
	value, weight float64
	at            int
}

// worthOf is the value of what is taken.
func (k *knapsack) worthOf() float64 {
	v := 0.0
	for i := range k.cand {
		v += k.cand[i].value * float64(k.cand[i].n)
	}
	return v
}

func (k *knapsack) conflicts(item int) bool {
	c := k.p.conflict[item]
	return c != nil && c.intersects(k.taken)
}

func (k *knapsack) take(c *candidateItem, n int) {
	k.use(k.p.items[c.item], n)
	c.n += n
	if k.p.conflict[c.item] != nil {
		if c.n > 0 {
			k.taken.set(c.item)
		} else {
			k.taken.clear(c.item)
		}
	}
}

// use takes the resources of n pods of the item.
func (k *knapsack) use(it *packItem, n int) {
	for _, a := range it.takes {
		k.free[a.r] -= a.x * int64(n)
	}
}

// takeAll takes everything if it fits.
func (k *knapsack) takeAll() bool {
	for i := range k.cand {
		c := &k.cand[i]
		k.use(k.p.items[c.item], c.upper)
	}
	if slices.Min(k.free) < 0 {
		k.free = append(k.free[:0], k.t.free...)
		return false
	}
	for i := range k.cand {
		k.cand[i].n = k.cand[i].upper
	}
	return true
}

// topUp adds what still fits, densest first.
func (k *knapsack) topUp() {
	for i := range k.cand {
		c := &k.cand[i]
		if c.n == c.upper || k.conflicts(c.item) {
			continue
		}
		if n := k.p.items[c.item].copies(k.free, c.upper-c.n); n > 0 {
			k.take(c, n)
		}
	}
}

// exchange gives up one pod for others where that gains.
func (k *knapsack) exchange() {
	n := min(len(k.cand), maxExchange)
	k.p.work += int64(n * n / 4)
	for out := range n {
		a := &k.cand[out]
		if a.n == 0 {
			continue
		}
		k.take(a, -1)
		best, many, gain := -1, 0, a.value*(1+1e-9)
		for in := range n {
			b := &k.cand[in]
			if in == out || b.value*float64(b.upper-b.n) <= gain || k.conflicts(b.item) {
				continue
			}
			m := k.p.items[b.item].copies(k.free, b.upper-b.n)
			if g := b.value * float64(m); m > 0 && g > gain {
				best, many, gain = in, m, g
			}
		}
		if best < 0 {
			k.take(a, 1)
			continue
		}
		k.take(&k.cand[best], many)
		k.topUp()
	}
}

func (k *knapsack) result(load []share) ([]share, float64) {
	v := 0.0
	for i := range k.cand {
		c := &k.cand[i]
		if c.n > 0 {
			load = append(load, share{c.item, c.n})
			v += c.value * float64(c.n)
		}
	}
	slices.SortFunc(load, func(a, b share) int { return cmp.Compare(a.item, b.item) })
	return load, v
}
