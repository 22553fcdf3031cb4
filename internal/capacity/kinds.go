package capacity

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// findKinds reduces the columns that the items may use to those that no
// cheaper one replaces: at least as much room, for at least the same items, and
// no nearer to a limit.
func (v *solver) findKinds(p *packer, groups []hostGroup) {
	var sets []bitset
	add := func(set bitset) {
		if !slices.ContainsFunc(sets, func(s bitset) bool { return &s[0] == &set[0] }) {
			sets = append(sets, set)
		}
	}
	for _, pi := range p.items {
		add(pi.it.cols)
	}
	plain := len(sets)
	// A column that somebody prefers is only replaced by one that all prefer who
	// prefer it.
	for _, pi := range p.items {
		for _, n := range pi.it.s.wishes.nodes {
			add(v.m.matching(n.req))
		}
	}
	if v.anyShunned() {
		add(v.m.unshunned())
	}
	p.limited = false
	p.kinds = p.kinds[:0]
	for _, c := range v.m.unreplaced(true, sets, plain) {
		if c.seller.left.room(c) == 0 {
			continue
		}
		p.limited = p.limited || c.seller.left != nil
		kd := &kind{col: c, price: c.rate, free: slices.Clone(c.free), allows: newBitset(len(p.items))}
		for _, g := range groups {
			kd.free = append(kd.free, int64(g.most))
		}
		for j, pi := range p.items {
			if pi.it.cols.has(c.index) && vectorFits(pi.req, kd.free) {
				kd.allow(j, pi)
			}
		}
		if len(kd.allowed) > 0 {
			p.kinds = append(p.kinds, kd)
		}
	}
	v.setPenalties(p)
	v.setCredits(p)
}

// allow lets pods of the item onto the kind, where at least one fits.
func (k *kind) allow(j int, it *packItem) {
	k.allowed = append(k.allowed, int32(j))
	k.fits = append(k.fits, int32(it.copies(k.free, it.most)))
	k.allows.set(j)
}

// reduction is what unreplaced has found.
type reduction struct {
	toBuy bool
	sets  []bitset
	plain int
	cols  []*column
}

// maxReductions are remembered of a market.
const maxReductions = 32

// unreplaced are the columns in the first plain sets but those that another one
// replaces, which is at least as cheap, has at least as much room and is in all
// sets that they are in. To buy, rates count and what columns take of limits;
// else prices. Sets are known by their identity: they must not change.
func (m *market) unreplaced(toBuy bool, sets []bitset, plain int) []*column {
	for _, r := range m.reductions {
		if r.toBuy == toBuy && r.plain == plain && slices.EqualFunc(r.sets, sets, func(a, b bitset) bool { return &a[0] == &b[0] }) {
			return r.cols
		}
	}
	if len(m.reductions) >= maxReductions {
		m.reductions = m.reductions[:0]
	}
	m.reductions = append(m.reductions, reduction{toBuy, slices.Clone(sets), plain, m.reduce(toBuy, sets, plain)})
	return m.reductions[len(m.reductions)-1].cols
}

// reduce finds what unreplaced remembers.
func (m *market) reduce(toBuy bool, sets []bitset, plain int) []*column {
	union := newBitset(len(m.columns))
	for _, s := range sets[:plain] {
		for i, w := range s {
			union[i] |= w
		}
	}
	order := m.byPrice()
	if toBuy {
		order = m.byRate()
	}
	var left []remaining
	in := newBitset(len(sets))
	// by is who replaced the last column of a room: most of those of that room that
	// cost no less, too. There are far more columns than rooms.
	by := make([]int32, len(m.rooms))
	for room := range by {
		by[room] = -1
	}
	for _, i := range order {
		if !union.has(int(i)) {
			continue
		}
		clear(in)
		for k, s := range sets {
			if s.has(int(i)) {
				in.set(k)
			}
		}
		room := m.roomOf[i]
		if k := by[room]; k >= 0 && in.within(left[k].in) && (!toBuy || left[k].col.sparesLimitsOf(&m.columns[i])) {
			continue
		}
		c := &m.columns[i]
		last := 0
		for ; last < len(left); last++ {
			if l := &left[last]; l.col.free[0] >= c.free[0] && l.replaces(c, in, toBuy) {
				break
			}
		}
		if last == len(left) {
			left = append(left, remaining{c, slices.Clone(in)})
		}
		by[room] = int32(last)
	}
	cols := make([]*column, len(left))
	for i := range left {
		cols[i] = left[i].col
	}
	return cols
}

// remaining is a column that no other replaces, with the sets that it is in.
type remaining struct {
	col *column
	in  bitset
}

// replaces says whether a column that costs no less, in these sets, is not needed
// beside this one.
func (l *remaining) replaces(c *column, in bitset, toBuy bool) bool {
	return in.within(l.in) && dominates(l.col.free, c.free) && (!toBuy || l.col.sparesLimitsOf(c))
}

// matching are the columns that meet a requirement.
func (m *market) matching(r *nodeReq) bitset {
	return m.setOf(r.key, func(c *column) bool {
		return r.matches(func(key string) (string, bool) { return m.label(c, key) }, unknownValue)
	})
}

// unshunned are the columns whose nodes have no PreferNoSchedule taint.
func (m *market) unshunned() bitset {
	return m.setOf("unshunned", func(c *column) bool { return !c.seller.shunned })
}

// ordinary are the columns of nodes that are not giants.
func (m *market) ordinary() bitset {
	return m.setOf("ordinary", func(c *column) bool { return c.typ.Machine.VCPUs <= ordinaryVCPUs })
}

// setOf are the columns for which has is true, worked out once for each name.
func (m *market) setOf(name string, has func(*column) bool) bitset {
	if set := m.sets[name]; set != nil {
		return set
	}
	set := newBitset(len(m.columns))
	for i := range m.columns {
		if has(&m.columns[i]) {
			set.set(i)
		}
	}
	if m.sets == nil || len(m.sets) >= maxRememberedSignatures {
		m.sets = map[string]bitset{}
	}
	m.sets[name] = set
	return set
}

// sparesLimitsOf says whether c takes no more of any limit than d.
func (c *column) sparesLimitsOf(d *column) bool {
	if c.seller.left == nil {
		return true
	}
	if c.seller != d.seller {
		return false
	}
	for name := range c.seller.left {
		if c.takes(name) > d.takes(name) {
			return false
		}
	}
	return true
}

// byPrice are all columns' indices, cheapest first.
func (m *market) byPrice() []int32 {
	if m.priceOrder == nil {
		// The prices beside the indices: there may be 100,000 columns and more.
		type entry struct {
			price float64
			index int32
		}
		entries := make([]entry, len(m.columns))
		for i := range entries {
			entries[i] = entry{m.columns[i].price, int32(i)}
		}
		slices.SortFunc(entries, func(a, b entry) int {
			switch {
			case a.price < b.price:
				return -1
			case a.price > b.price:
				return 1
			}
			return m.compare(a.index, b.index)
		})
		m.priceOrder = make([]int32, len(entries))
		for i, e := range entries {
			m.priceOrder[i] = e.index
		}
	}
	return m.priceOrder
}

// offersOf are the seller's columns' indices, cheapest first.
func (m *market) offersOf(s *seller) []int32 {
	if s.priceOrder == nil {
		s.priceOrder = make([]int32, 0, s.end-s.first)
		for i := s.first; i < s.end; i++ {
			s.priceOrder = append(s.priceOrder, int32(i))
		}
		slices.SortFunc(s.priceOrder, m.compare)
	}
	return s.priceOrder
}

// worths are what a pod of each item is worth in $/h: at the duals of the
// resource LP, and at the price of its share of the node that is cheapest for
// it alone.
type worths struct{ linear, unit []float64 }

func (p *packer) worths() worths {
	w := worths{linear: make([]float64, len(p.items)), unit: make([]float64, len(p.items))}
	y := p.resourcePrices()
	for j, it := range p.items {
		for r, x := range it.req {
			w.linear[j] += y[r] * float64(x)
		}
	}
	for _, k := range p.kinds {
		for _, j := range k.allowed {
			it := p.items[j]
			u := k.price / float64(min(copies(it.req, k.free), it.most, max(it.it.n, 1)))
			if w.unit[j] == 0 || u < w.unit[j] {
				w.unit[j] = u
			}
		}
	}
	for j := range w.linear {
		// A pod that asks for what is in plenty still needs a seat: without any
		// worth it would never be packed.
		w.linear[j] = max(w.linear[j], 0.01*w.unit[j], 1e-12)
	}
	return w
}

// resourcePrices are the duals of: cheapest mixture of kinds whose resources
// together cover the demand.
func (p *packer) resourcePrices() []float64 { return p.resourcePricesFor(nil) }

// resourcePricesFor adds to the items' demand what others take, by resource.
func (p *packer) resourcePricesFor(more []float64) []float64 {
	demand := make([]float64, p.width)
	copy(demand, more)
	for _, it := range p.items {
		for r, x := range it.req {
			demand[r] += float64(x) * float64(it.it.n)
		}
	}
	vectors := make([][]int64, len(p.kinds))
	prices := make([]float64, len(p.kinds))
	for i, k := range p.kinds {
		vectors[i], prices[i] = k.free, k.price
	}
	return coverPrices(&p.lp, demand, vectors, prices)
}

// coverPrices solves min p·x, Σ x·vector ≥ demand, x ≥ 0 and returns its duals,
// scaled so that no vector is worth more than its price: demand·duals is then a
// lower bound of the cost for anyone who uses these vectors.
func coverPrices(lp *simplex, demand []float64, vectors [][]int64, prices []float64) []float64 {
	n := len(demand)
	lp.reset(n)
	// In units of the demand, so that all rows are of one size.
	for r, d := range demand {
		lp.b[r] = 0
		if d > 0 {
			lp.b[r] = -1
		}
	}
	for i, vec := range vectors {
		lp.add(-prices[i], inf)
		for r, x := range vec {
			if x > 0 && demand[r] > 0 {
				lp.set(r, -float64(x)/demand[r])
			}
		}
	}
	lp.solve()
	y := make([]float64, n)
	for r, d := range demand {
		if d > 0 {
			y[r] = lp.y[r] / d
		}
	}
	worst := 1.0
	for i, vec := range vectors {
		value := 0.0
		for r, x := range vec {
			value += y[r] * float64(max(x, 0))
		}
		if value > 0 {
			worst = min(worst, prices[i]/value)
		}
	}
	for r := range y {
		y[r] *= worst
	}
	return y
}

// accelerated says whether the name is of a resource beyond the ordinary ones.
func accelerated(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourcePods, corev1.ResourceEphemeralStorage:
		return false
	}
	return true
}
