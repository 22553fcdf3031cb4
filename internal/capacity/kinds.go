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
	member := make([]int, len(p.items))
	for j, pi := range p.items {
		k := slices.IndexFunc(sets, func(s bitset) bool { return &s[0] == &pi.it.cols[0] })
		if k < 0 {
			k = len(sets)
			sets = append(sets, pi.it.cols)
		}
		member[j] = k
	}
	union := newBitset(len(v.m.columns))
	plain := len(sets)
	for _, s := range sets {
		for i, w := range s {
			union[i] |= w
		}
	}
	type candidate struct {
		col *column
		in  bitset
	}
	// A column that somebody prefers is only replaced by one that all prefer who
	// prefer it.
	var wanted []*nodeReq
	for _, pi := range p.items {
		for _, n := range pi.it.s.wishes.nodes {
			if !slices.Contains(wanted, n.req) {
				wanted = append(wanted, n.req)
			}
		}
	}
	var kept []candidate
	last := 0
	p.limited = false
	in := newBitset(plain + len(wanted) + 1)
	for _, i := range v.m.byRate() {
		if !union.has(int(i)) {
			continue
		}
		c := &v.m.columns[i]
		if c.seller.left.room(c) == 0 {
			continue
		}
		clear(in)
		for k, s := range sets {
			if s.has(int(i)) {
				in.set(k)
			}
		}
		for k, r := range wanted {
			if r.matches(func(key string) (string, bool) { return v.m.label(c, key) }, unknownValue) {
				in.set(plain + k)
			}
		}
		if !c.seller.shunned {
			in.set(plain + len(wanted))
		}
		// What replaced the last one is likely to replace this one, too.
		if last < len(kept) && in.within(kept[last].in) && kept[last].col.replaces(c) {
			p.limited = p.limited || c.seller.left != nil
			continue
		}
		if k := slices.IndexFunc(kept, func(k candidate) bool { return in.within(k.in) && k.col.replaces(c) }); k >= 0 {
			last = k
		} else {
			kept = append(kept, candidate{c, slices.Clone(in)})
		}
		p.limited = p.limited || c.seller.left != nil
	}
	p.kinds = p.kinds[:0]
	for _, k := range kept {
		kd := &kind{col: k.col, price: k.col.rate, free: slices.Clone(k.col.free), allows: newBitset(len(p.items))}
		for _, g := range groups {
			kd.free = append(kd.free, int64(g.most))
		}
		for j, pi := range p.items {
			if k.in.has(member[j]) && vectorFits(pi.req, kd.free) {
				kd.allowed = append(kd.allowed, int32(j))
				kd.allows.set(j)
			}
		}
		if len(kd.allowed) > 0 {
			p.kinds = append(p.kinds, kd)
		}
	}
	v.setPenalties(p)
	v.setCredits(p)
}

// replaces says whether c, which costs no more, can stand in for d: as much
// room, and no more of any limit.
func (c *column) replaces(d *column) bool {
	for k, x := range d.free {
		if c.free[k] < x {
			return false
		}
	}
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
	penalty := 0.0
	for _, pr := range prices {
		penalty = max(penalty, pr)
	}
	// In units of the demand, so that all rows are of one size. A row that
	// nothing can cover is filled by its slack at a price that is never worth it.
	scale := make([]float64, n)
	for r, d := range demand {
		if d > 0 {
			scale[r] = 1 / d
			lp.b[r] = 1
		} else {
			lp.b[r] = 0
		}
		lp.slackCost[r] = -penalty * 1e6
	}
	for i, vec := range vectors {
		a := lp.add(-prices[i], inf)
		for r, x := range vec {
			if x > 0 {
				a[r] = float64(x) * scale[r]
			}
		}
	}
	for r := range demand {
		lp.add(0, inf)[r] = -1
	}
	lp.solve()
	y := make([]float64, n)
	for r := range y {
		y[r] = max(0, -lp.y[r]) * scale[r]
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
