package capacity

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
)

// bucketWork is spent at least when items are put into buckets; itemWork is what each
// item takes besides.
const bucketWork, itemWork = 3e6, 600

// manyItems is from how many on the greedy is tried with fewer worths; manyPairs
// from how many pairs of an item and a kind on with all of them at the same time;
// manyNodes from how many on a mixture that is rounded to whole nodes is hardly
// dearer, so that most of the work goes into the mixture.
const (
	manyItems = 300
	manyPairs = 2000
	manyNodes = 100
)

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
	grd     greedyState
	limited bool
	// forks are other packers for the same problem, that run at the same time.
	forks []*packer
	// work counts what knapsacks and the greedy have looked at.
	work int64
	// near are good patterns that were found since the last startPlan.
	near []pattern
}

// packItem is an item as the packer sees it.
type packItem struct {
	it  *item
	req []int64
	// takes are the entries of req above 0: see seal.
	takes []amount
	// most copies on one node.
	most int
}

// amount of one resource.
type amount struct {
	r int
	x int64
}

// seal notes what the item takes, once req is complete.
func (it *packItem) seal() {
	for r, x := range it.req {
		if x > 0 {
			it.takes = append(it.takes, amount{r, x})
		}
	}
}

// copies is how many pods of the item fit into free, at most most.
func (it *packItem) copies(free []int64, most int) int {
	for _, t := range it.takes {
		if free[t.r] < t.x {
			return 0
		}
	}
	if most <= 1 {
		return most
	}
	n := int64(most)
	for _, t := range it.takes {
		if free[t.r] < t.x*n {
			n = free[t.r] / t.x
		}
	}
	return int(n)
}

// kind is a column that no other replaces for these items.
type kind struct {
	col   *column
	free  []int64
	price float64
	// pen is what a pod of each item costs more on this kind; nil: nothing.
	pen []float64
	// allowed items, those that fit an empty node, and how many pods of them do.
	allowed, fits []int32
	allows        bitset
	// credit is what the room of an empty node is worth to pods yet to come.
	credit float64
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

// pack buys nodes for the items. What needs accelerated nodes goes first; the
// others may use the room that remains there.
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

// special says whether the item needs accelerators.
func (v *solver) special(it *item) bool {
	for name := range it.s.requests {
		if accelerated(name) {
			return true
		}
	}
	return false
}

// packAll buys nodes for the items until all have a place or nothing more can
// be bought for them: each time at the heaviest Provisioners that have room
// within their limits.
func (v *solver) packAll(items []*item) {
	for {
		active := items[:0:0]
		for _, it := range items {
			if it.n > 0 && v.chooseLevel(it) {
				active = append(active, it)
			}
		}
		if len(active) == 0 {
			return
		}
		classes := v.classes(active)
		patterns := v.planNodes(classes)
		if len(patterns) == 0 {
			return
		}
		offers := make([][]vacancy, len(classes))
		had := map[string]int{}
		for _, p := range patterns {
			for range p.times {
				b := v.buy(v.liked(p.kind.col, p.load, classes, had))
				b.credit = v.credit
				for _, l := range p.load {
					offers[l.item] = append(offers[l.item], vacancy{b, l.n})
				}
			}
		}
		for j, c := range classes {
			v.seatClass(c, offers[j])
		}
	}
}

// classes merges items that are alike to the packer: pods of the same size that
// may use the same columns and that nothing keeps apart on a node.
func (v *solver) classes(items []*item) []*item {
	byKey := map[string]*item{}
	sets := map[*uint64]string{}
	var list []*item
	for _, it := range items {
		if v.hostTied(it.s) || len(it.s.ports) > 0 {
			list = append(list, &item{s: it.s, n: it.n, cols: it.cols, level: it.level, parts: []*item{it}})
			continue
		}
		set, ok := sets[&it.cols[0]]
		if !ok {
			b := make(shapeKey, 0, 8*len(it.cols))
			for _, w := range it.cols {
				b = binary.LittleEndian.AppendUint64(b, w)
			}
			set = string(b)
			sets[&it.cols[0]] = set
		}
		b := shapeKey{}
		b.str(it.s.wishes.key)
		if it.s.wishes.key != "" || v.anyShunned() {
			b.tolerations(it.s.pod.Spec.Tolerations)
		}
		for _, x := range it.s.vector {
			b.num(x)
		}
		key := string(b) + set
		c := byKey[key]
		if c == nil {
			c = &item{s: it.s, cols: it.cols, level: it.level}
			byKey[key] = c
			list = append(list, c)
		}
		c.n += it.n
		c.parts = append(c.parts, it)
	}
	return list
}

// anyShunned says whether some Provisioner's nodes have a PreferNoSchedule taint.
func (v *solver) anyShunned() bool {
	return slices.ContainsFunc(v.m.sellers, func(s *seller) bool { return s.shunned })
}

// putClass places n pods of a class on the bin, the first parts' first.
func (v *solver) putClass(c *item, b *bin, n int) {
	c.n -= n
	for n > 0 {
		it := c.parts[0]
		if it.n == 0 {
			c.parts = c.parts[1:]
			continue
		}
		k := min(n, it.n)
		v.put(it.s, b, k)
		it.n -= k
		n -= k
	}
}

// chooseLevel finds the columns of the heaviest Provisioners that can host the
// item now.
func (v *solver) chooseLevel(it *item) bool {
	usable := v.columnsOf(it)
	found, full := false, false
	for _, s := range v.m.sellers {
		if found && s.p.Spec.Weight < it.level {
			break
		}
		for i := s.first; i < s.end; i++ {
			c := &v.m.columns[i]
			if !usable.has(i) || !vectorFits(it.s.vector, c.free) {
				continue
			}
			if s.left.room(c) == 0 {
				full = true
				continue
			}
			found, it.level = true, s.p.Spec.Weight
			break
		}
	}
	if !found {
		v.scarce = v.scarce || full
		return false
	}
	it.cols = v.columnsAt(it, usable)
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
	begin, budget := p.work, v.share(items)
	if n := len(p.items); n > manyItems && !p.limited {
		if ps := p.planBuckets(p.resourcePrices(), begin+max(budget-int64(n*itemWork), bucketWork)); ps != nil {
			return ps
		}
	}
	best, pi, left := p.startPlan(begin + budget/8)
	if left == 0 && budget > 0 && !p.limited {
		many, part := nodes(best) > manyNodes, budget/3
		if many {
			part = budget * 9 / 10
		}
		var above float64
		best, pi, above = p.blend(best, pi, begin+part)
		// Where the plan is cheaper, the mixture is not done.
		done := many && above > -1e-9 && above < closeEnough
		p.weigh()
		if !done && v.credit == nil {
			best, done = p.few(best, pi, p.work+(begin+budget-p.work)/2)
		}
		if !done {
			best = p.improve(best, pi, begin+budget)
		}
	}
	if v.credit != nil && left == 0 && nodes(best) <= maxStocked {
		best = v.stocked(p, best)
	}
	v.unspent += max(0, begin+budget-p.work)
	v.learn(pi)
	return best
}

// learn notes what pods turned out to be worth, and the good patterns that were found,
// for the lower bound.
func (v *solver) learn(pi []float64) {
	for _, pt := range v.pk.near {
		load := make([]share, len(pt.load))
		for i, l := range pt.load {
			load[i] = share{v.pk.items[l.item].it.s.id, l.n}
		}
		v.near = append(v.near, load)
	}
	for j, c := range v.pk.items {
		for _, it := range c.it.parts {
			v.worth[it.s.id] += pi[j] * float64(it.n) / float64(len(it.s.pods))
		}
	}
}

// What money does not show, as part of the price of a node.
const (
	// nodePrice in $/h stands for what each node costs besides: an address, API
	// objects, image pulls.
	nodePrice = 0.001
	// concentration is the share of its price that a node is dearer per share of
	// the whole cost that it makes up. Over all nodes that adds up to the
	// Herfindahl index: how much is lost when a node is.
	concentration = 0.02
)

// weighed is what a node of the column costs, with what money does not show, that makes
// up this share of the whole cost.
func (c *column) weighed(share float64) float64 { return c.rate*(1+concentration*share) + nodePrice }

// weigh adds to the kinds' prices what money does not show.
func (p *packer) weigh() {
	total := 0.0
	y := p.resourcePrices()
	for _, it := range p.items {
		for r, x := range it.req {
			total += y[r] * float64(x) * float64(it.it.n)
		}
	}
	for _, k := range p.kinds {
		share := 1.0
		if total > k.col.rate {
			share = k.col.rate / total
		}
		k.price = k.col.weighed(share) - k.credit
	}
	p.byPrice()
}

// byPrice puts the kinds in order of price, cheapest first, as the greedy wants
// them.
func (p *packer) byPrice() {
	slices.SortStableFunc(p.kinds, func(a, b *kind) int { return cmp.Compare(a.price, b.price) })
}

// complete makes a plan for all pods of the patterns of a mixture that was
// rounded down: what they do not hold is packed at worths pi.
func (p *packer) complete(rounded []pattern, pi []float64) []pattern {
	rem := p.demand()
	var out []pattern
	for _, pt := range rounded {
		for range pt.times {
			var load []share
			for _, l := range pt.load {
				if n := min(l.n, rem[l.item]); n > 0 {
					load = append(load, share{l.item, n})
					rem[l.item] -= n
				}
			}
			if len(load) > 0 {
				out = append(out, pattern{p.downsize(pt.kind, load, nil, nil), load, 1})
			}
		}
	}
	rest, _, _ := p.greedy(pi, rem, inf, nil)
	return append(out, keep(rest)...)
}

// cost of all the patterns.
func cost(ps []pattern) float64 {
	c := 0.0
	for i := range ps {
		c += ps[i].kind.cost(ps[i].load) * float64(ps[i].times)
	}
	return c
}

// cost of a node of the kind with that load.
func (k *kind) cost(load []share) float64 {
	c := k.price
	if k.pen != nil {
		for _, l := range load {
			c += k.pen[l.item] * float64(l.n)
		}
	}
	return c
}

// worth of one pod of the item on a node of the kind, at worths pi.
func (k *kind) worth(pi []float64, item int) float64 {
	if k.pen == nil {
		return pi[item]
	}
	return pi[item] - k.pen[item]
}

// share is how much work of the budget may go into these items: by their number
// of pods, and less for each attempt that has been made before.
func (v *solver) share(items []*item) int64 {
	n := 0
	for _, it := range items {
		n += it.n
	}
	part := math.Pow(0.4, float64(v.attempts-1)) * float64(n) / float64(len(v.snap.Pods))
	return v.work(planPart * part)
}

// work is how much work there is in a part of the budget.
func (v *solver) work(part float64) int64 {
	return int64(v.snap.Budget.Seconds() * part * workPerSecond)
}

func nodes(ps []pattern) int {
	n := 0
	for i := range ps {
		n += ps[i].times
	}
	return n
}
