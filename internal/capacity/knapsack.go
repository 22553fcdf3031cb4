package capacity

import (
	"cmp"
	"math"
	"slices"
)

// knapsack finds the most valuable content for one node: linear relaxation,
// rounded down, filled up by value per resource at the relaxation's prices,
// improved by single exchanges and by a bounded depth-first search. The same
// search proves how valuable any content can be. Its buffers are reused.
type knapsack struct {
	lp   simplex
	cand []candidateItem
	// sorted and order are byDensity's.
	sorted []candidateItem
	order  []ranked
	free   []int64
	taken  bitset

	// Of the search: the weights of the surrogate constraint and what is left of
	// it, the best value so far, and how many more places may be looked at.
	value  float64
	steps  int
	trial  []int32
	chosen []int32
	// Of ladder and rebuild: the best value by rung, lots and the rungs they took.
	rung []float64
	lots []lot
	took []uint64
	// y are the relaxation's duals per unit of resource.
	y []float64
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
)

// best appends the content for kind t to load and returns its value at worths
// pi. rem bounds the pods of each item, steps the search.
func (k *knapsack) best(p *packer, t *kind, pi []float64, rem []int, load []share, steps int) ([]share, float64) {
	k.cand = k.cand[:0]
	k.free = append(k.free[:0], t.free...)
	k.taken = resized(k.taken, (len(p.items)+63)/64)
	clear(k.taken)
	all := true
	conflicts := false
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
		conflicts = conflicts || p.conflict[j] != nil
		k.cand = append(k.cand, candidateItem{item: int(j), upper: u, value: value})
	}
	p.work += int64(len(t.allowed)/16 + len(k.cand))
	if len(k.cand) == 0 {
		return load, 0
	}
	if all && !conflicts && k.takeAll(p, t) {
		return k.result(load)
	}
	k.relax(p, t, !conflicts)
	// Denser ones first, so that of two that conflict the better one stays.
	for i := range k.cand {
		c := &k.cand[i]
		if n := min(int(c.x+1e-9), c.upper); n > 0 && !k.conflicts(p, c.item) {
			k.take(p, c, p.items[c.item].copies(k.free, n))
		}
	}
	k.topUp(p)
	k.exchange(p)
	if k.prune(t) > rebuildBelow && !conflicts {
		k.rebuild(p, t, k.scarcest(t))
		k.prune(t)
	}
	k.search(p, t, steps)
	return k.result(load)
}

// bound is an upper bound, proven, of the value at worths pi of any content of
// kind t, of which there are at most have pods of each item. More steps give a
// tighter bound.
func (k *knapsack) bound(p *packer, t *kind, pi []float64, have []int, steps int) float64 {
	k.cand = k.cand[:0]
	k.free = append(k.free[:0], t.free...)
	k.taken = resized(k.taken, (len(p.items)+63)/64)
	clear(k.taken)
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
	k.relax(p, t, false)
	k.topUp(p)
	k.prune(t)
	top := k.search(p, t, steps)
	if steps > 0 {
		for r := range k.y {
			if k.y[r] > 0 {
				top = math.Min(top, k.ladder(p, t, r))
			}
		}
	}
	return top
}

// rungs is how finely ladder divides a resource: to prove, and to find.
const (
	provingRungs = 2048
	findingRungs = 256
)

// ladder is an upper bound of the value of any content: exact in resource r, of
// which whole pods must fit, while the other resources are bought at the
// relaxation's prices (Lagrange). Dynamic programming over units of r, requests
// rounded down to units.
func (k *knapsack) ladder(p *packer, t *kind, r int) float64 {
	unit := k.unit(p, t, r, provingRungs)
	n := int(t.free[r] / unit)
	k.rung = resized(k.rung, n+1)
	clear(k.rung)
	base := 0.0
	for q, f := range t.free {
		if q != r {
			base += k.y[q] * float64(max(f, 0))
		}
	}
	for i := range k.cand {
		c := &k.cand[i]
		v := k.valueBeside(p, c, r)
		if v <= 0 {
			continue
		}
		w := int(p.items[c.item].req[r] / unit)
		if w == 0 {
			base += v * float64(c.upper)
			continue
		}
		k.climb(p, n, w, min(c.upper, n/w), v, nil)
	}
	// Floating point may have rounded down.
	return (base + k.rung[n]) * (1 + 1e-9)
}

// unit is the finest division of the resource into that many rungs that helps.
func (k *knapsack) unit(p *packer, t *kind, r, rungs int) int64 {
	unit := int64(0)
	for i := range k.cand {
		unit = gcd(unit, p.items[k.cand[i].item].req[r])
	}
	return max(unit, (t.free[r]+int64(rungs)-1)/int64(rungs), 1)
}

// valueBeside is the candidate's value less the prices of what it takes of all
// resources but r.
func (k *knapsack) valueBeside(p *packer, c *candidateItem, r int) float64 {
	v := c.value
	for _, a := range p.items[c.item].takes {
		if a.r != r {
			v -= k.y[a.r] * float64(a.x)
		}
	}
	return v
}

// climb lets up to upper pods of weight w and value v onto the ladder, in lots
// of 1, 2, 4, …, so that every number can be made. It notes which lots took which
// rung, when asked.
func (k *knapsack) climb(p *packer, n, w, upper int, v float64, note func(lot int) bitset) {
	for left, lot := upper, 1; left > 0; lot *= 2 {
		lot = min(lot, left)
		left -= lot
		weight, value := w*lot, v*float64(lot)
		var took bitset
		if note != nil {
			took = note(lot)
		}
		rung := k.rung[:n+1]
		for x := n; x >= weight; x-- {
			if b := rung[x-weight] + value; b > rung[x] {
				rung[x] = b
				if took != nil {
					took.set(x)
				}
			}
		}
		p.work += int64(n / 8)
	}
}

// lot is a number of pods of a candidate that are taken together.
type lot struct{ cand, n, weight int }

// rebuild looks for a better content by dynamic programming over resource r, as
// ladder does, requests rounded up. What then exceeds other resources is taken
// out again.
func (k *knapsack) rebuild(p *packer, t *kind, r int) {
	before := k.worthOf()
	k.trial = resized(k.trial, len(k.cand))
	for i := range k.cand {
		k.trial[i] = int32(k.cand[i].n)
	}
	unit := k.unit(p, t, r, findingRungs)
	n := int(t.free[r] / unit)
	k.rung = resized(k.rung, n+1)
	clear(k.rung)
	k.lots, k.took = k.lots[:0], k.took[:0]
	words := (n + 64) / 64
	for i := range k.cand {
		c := &k.cand[i]
		v := k.valueBeside(p, c, r)
		w := int((p.items[c.item].req[r] + unit - 1) / unit)
		if v <= 0 || w == 0 {
			continue
		}
		k.climb(p, n, w, min(c.upper, n/w), v, func(size int) bitset {
			k.lots = append(k.lots, lot{i, size, w * size})
			from := len(k.took)
			for range words {
				k.took = append(k.took, 0)
			}
			return bitset(k.took[from : from+words])
		})
	}
	for i := range k.cand {
		k.take(p, &k.cand[i], -k.cand[i].n)
	}
	for i, x := len(k.lots)-1, n; i >= 0; i-- {
		if bitset(k.took[i*words : (i+1)*words]).has(x) {
			k.take(p, &k.cand[k.lots[i].cand], k.lots[i].n)
			x -= k.lots[i].weight
		}
	}
	// The least dense leave first.
	for i := len(k.cand) - 1; i >= 0; i-- {
		c := &k.cand[i]
		for c.n > 0 && k.overfull(p.items[c.item].takes) {
			k.take(p, c, -1)
		}
	}
	k.topUp(p)
	k.exchange(p)
	if k.worthOf() > before {
		return
	}
	for i := range k.cand {
		c := &k.cand[i]
		k.take(p, c, int(k.trial[i])-c.n)
	}
}

// overfull says whether one of these resources is exceeded.
func (k *knapsack) overfull(takes []amount) bool {
	return slices.ContainsFunc(takes, func(a amount) bool { return k.free[a.r] < 0 })
}

// prune drops the candidates that no better content can have: one pod of them
// costs more of the relaxation's value than what is taken is short of it. It
// returns by what share the latter is short.
func (k *knapsack) prune(t *kind) float64 {
	top := k.relaxed(t) * (1 + 1e-9)
	gap := top - k.worthOf()
	k.cand = slices.DeleteFunc(k.cand, func(c candidateItem) bool { return c.n == 0 && c.weight-c.value > gap })
	return gap / top
}

// dropHopeless drops what prune would drop if the relaxation, rounded down, were
// taken.
func (k *knapsack) dropHopeless(t *kind) {
	gap := k.relaxed(t) * (1 + 1e-9)
	for i := range k.cand {
		c := &k.cand[i]
		gap -= c.value * float64(min(int(c.x+1e-9), c.upper))
	}
	k.cand = slices.DeleteFunc(k.cand, func(c candidateItem) bool { return c.x == 0 && c.weight-c.value > gap })
}

// relaxed is the value of the linear relaxation, by its dual.
func (k *knapsack) relaxed(t *kind) float64 {
	v := 0.0
	for r, f := range t.free {
		v += k.y[r] * float64(max(f, 0))
	}
	for i := range k.cand {
		if c := &k.cand[i]; c.value > c.weight {
			v += (c.value - c.weight) * float64(c.upper)
		}
	}
	return v
}

// scarcest is the resource that makes up most of the relaxation's value.
func (k *knapsack) scarcest(t *kind) int {
	best := 0
	for r, f := range t.free {
		if k.y[r]*float64(f) > k.y[best]*float64(t.free[best]) {
			best = r
		}
	}
	return best
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// worthOf is the value of what is taken.
func (k *knapsack) worthOf() float64 {
	v := 0.0
	for i := range k.cand {
		v += k.cand[i].value * float64(k.cand[i].n)
	}
	return v
}

func (k *knapsack) conflicts(p *packer, item int) bool {
	c := p.conflict[item]
	return c != nil && c.intersects(k.taken)
}

func (k *knapsack) take(p *packer, c *candidateItem, n int) {
	k.use(p.items[c.item], n)
	c.n += n
	if p.conflict[c.item] != nil {
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
func (k *knapsack) takeAll(p *packer, t *kind) bool {
	for i := range k.cand {
		c := &k.cand[i]
		k.use(p.items[c.item], c.upper)
	}
	if slices.Min(k.free) < 0 {
		k.free = append(k.free[:0], t.free...)
		return false
	}
	for i := range k.cand {
		k.cand[i].n = k.cand[i].upper
	}
	return true
}

// relax solves the linear relaxation and orders the candidates by value per
// weight at its prices, without those that are hopeless if prune says so.
func (k *knapsack) relax(p *packer, t *kind, prune bool) {
	k.lp.reset(p.width)
	for r, f := range t.free {
		k.lp.b[r] = 0
		if f > 0 {
			k.lp.b[r] = 1
		}
	}
	top := 0.0
	for i := range k.cand {
		top = math.Max(top, k.cand[i].value)
	}
	for i := range k.cand {
		c := &k.cand[i]
		col := k.lp.add(c.value/top, float64(c.upper))
		gain := c.value
		for _, a := range p.items[c.item].takes {
			col[a.r] = float64(a.x) / float64(t.free[a.r])
			if t.prices != nil {
				gain -= t.prices[a.r] * float64(a.x)
			}
		}
		k.lp.full[i] = t.prices != nil && gain > 0
	}
	k.lp.solve()
	p.work += int64(k.lp.pivots * len(k.cand))
	k.y = resized(k.y, p.width)
	for r := range k.y {
		k.y[r] = 0
		if t.free[r] > 0 {
			k.y[r] = math.Max(0, k.lp.y[r]) * top / float64(t.free[r])
		}
	}
	t.prices = append(t.prices[:0], k.y...)
	for i := range k.cand {
		c := &k.cand[i]
		c.x, c.weight = k.lp.x[i], 0
		for _, a := range p.items[c.item].takes {
			c.weight += k.y[a.r] * float64(a.x)
		}
	}
	if prune {
		k.dropHopeless(t)
	}
	k.byDensity()
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

// topUp adds what still fits, densest first.
func (k *knapsack) topUp(p *packer) {
	for i := range k.cand {
		c := &k.cand[i]
		if c.n == c.upper || k.conflicts(p, c.item) {
			continue
		}
		if n := p.items[c.item].copies(k.free, c.upper-c.n); n > 0 {
			k.take(p, c, n)
		}
	}
}

// exchange gives up one pod for others where that gains.
func (k *knapsack) exchange(p *packer) {
	n := min(len(k.cand), maxExchange)
	p.work += int64(n * n / 4)
	for out := range n {
		a := &k.cand[out]
		if a.n == 0 {
			continue
		}
		k.take(p, a, -1)
		best, many, gain := -1, 0, a.value*(1+1e-9)
		for in := range n {
			b := &k.cand[in]
			if in == out || b.value*float64(b.upper-b.n) <= gain || k.conflicts(p, b.item) {
				continue
			}
			m := p.items[b.item].copies(k.free, b.upper-b.n)
			if g := b.value * float64(m); m > 0 && g > gain {
				best, many, gain = in, m, g
			}
		}
		if best < 0 {
			k.take(p, a, 1)
			continue
		}
		k.take(p, &k.cand[best], many)
		k.topUp(p)
	}
}

// search looks for a better content depth first, densest candidates first, in
// at most that many steps, and returns a proven upper bound of any content's
// value. The bound of a branch is the fractional knapsack under the surrogate
// constraint (the resources added up at the relaxation's prices), which by weak
// duality holds at any prices.
func (k *knapsack) search(p *packer, t *kind, steps int) float64 {
	k.value = k.worthOf()
	room := 0.0
	for r, f := range t.free {
		room += k.y[r] * float64(max(f, 0))
	}
	k.free = append(k.free[:0], t.free...)
	clear(k.taken)
	k.trial = resized(k.trial, len(k.cand))
	k.chosen = k.chosen[:0]
	clear(k.trial)
	k.steps = steps
	top := k.descend(p, 0, room, 0)
	p.work += int64((steps - k.steps) * len(k.cand) / 2)
	if len(k.chosen) > 0 {
		for i := range k.cand {
			k.cand[i].n = int(k.chosen[i])
		}
	}
	// Floating point may have rounded down.
	return math.Max(top, k.value) * (1 + 1e-9)
}

// fraction bounds what the candidates from i on add with that much room.
func (k *knapsack) fraction(i int, room float64) float64 {
	v := 0.0
	for ; i < len(k.cand); i++ {
		c := &k.cand[i]
		w := c.weight * float64(c.upper)
		if w > room {
			return v + c.value*room/c.weight
		}
		v += c.value * float64(c.upper)
		room -= w
	}
	return v
}

// descend decides on candidate i and those behind it, value being what has been
// taken, and returns an upper bound of the value of any content that has it.
func (k *knapsack) descend(p *packer, i int, room, value float64) float64 {
	if i == len(k.cand) {
		if value > k.value*(1+1e-12) {
			k.value = value
			k.chosen = append(k.chosen[:0], k.trial...)
		}
		return value
	}
	c := &k.cand[i]
	it := p.items[c.item]
	top := 0.0
	n := it.copies(k.free, c.upper)
	picky := p.conflict[c.item] != nil
	if picky && k.conflicts(p, c.item) {
		n = 0
	}
	for ; n >= 0; n-- {
		left := math.Max(0, room-c.weight*float64(n))
		above := value + c.value*float64(n) + k.fraction(i+1, left)
		// Taking fewer of the densest candidate can only lower the bound.
		if above <= k.value*(1+1e-9) || k.steps <= 0 {
			return math.Max(top, above)
		}
		k.steps--
		k.use(it, n)
		k.trial[i] = int32(n)
		if picky && n > 0 {
			k.taken.set(c.item)
		}
		top = math.Max(top, k.descend(p, i+1, left, value+c.value*float64(n)))
		k.trial[i] = 0
		if picky {
			k.taken.clear(c.item)
		}
		k.use(it, -n)
	}
	return top
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
