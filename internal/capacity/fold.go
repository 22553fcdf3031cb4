package capacity

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Bounds of fold: to how many nodes the pods of one may go, and looks at a kind of
// node for the pods of two.
const (
	maxFoldTargets = 32
	maxFoldLooks   = 50000
)

// fold gives up nodes to buy whose pods fit beside those of another one, on a larger
// node where need be, when that costs no more and is better by the objective: who is
// placed pod by pod or domain by domain leaves nodes with little on them. Only pods
// that nobody counts by host move, and only within what is the same place to all who
// count, so that what was proven stays proven. Where DaemonSets' pods count, which
// are fewer then, it is proven again, or only those are given up that none of these
// constraints needs.
func (v *solver) fold() {
	movable := v.movable()
	if movable == nil {
		return
	}
	meets := false
	for _, c := range v.allCounters {
		meets = meets || c.meetsDaemons
	}
	if !meets {
		v.foldThose(movable, func(*bin) bool { return true })
		return
	}
	bins, bound := v.bins, v.bound
	v.foldThose(movable, func(*bin) bool { return true })
	if len(v.bins) == len(bins) {
		return
	}
	order := slices.Clone(v.shapes)
	slices.SortFunc(order, compareService)
	if v.rebind(order); v.waiting() > 0 {
		v.restore(bins, bound)
		v.foldThose(movable, v.spares)
	}
}

// foldThose gives up nodes that may.
func (v *solver) foldThose(movable []bool, may func(*bin) bool) {
	f := &folding{v: v, total: v.cost(), places: map[*column]string{}, looks: maxFoldLooks}
	bins := slices.Clone(v.bins)
	rooms := map[string][]*bin{}
	now := map[*bin]*bin{}
	var small []*bin
	for i, b := range bins[v.existing:] {
		c := *b
		c.free, c.placed = slices.Clone(b.free), slices.Clone(b.placed)
		bins[v.existing+i], now[b] = &c, &c
		if c.col.seller.left == nil && !slices.ContainsFunc(c.placed, func(q placed) bool { return !movable[q.s.id] }) {
			small = append(small, &c)
		}
	}
	if len(small) == 0 {
		return
	}
	for _, b := range bins[v.existing:] {
		rooms[f.place(b.col)] = append(rooms[f.place(b.col)], b)
	}
	slices.SortStableFunc(small, func(a, b *bin) int { return cmp.Compare(a.col.rate, b.col.rate) })
	into := map[*bin]*bin{}
	for _, b := range small {
		if !may(b) {
			continue
		}
		if to, col := f.target(b, rooms[f.place(b.col)], into); to != nil {
			f.move(b, to, col)
			into[b] = to
		}
	}
	if len(into) == 0 {
		return
	}
	v.bound = slices.Clone(v.bound)
	for i, t := range v.bound {
		b := now[t.b]
		for into[b] != nil {
			b = into[b]
		}
		if b != nil {
			v.bound[i].b = b
		}
	}
	v.bins = slices.DeleteFunc(bins, func(b *bin) bool { return into[b] != nil })
	for i, b := range v.bins[v.existing:] {
		b.index = v.existing + i
	}
}

// movable says of each shape whether its pods may change their host without
// anybody's noticing; nil: nobody's may, since nodes themselves are counted.
func (v *solver) movable() []bool {
	if v.waiting() > 0 || v.scarce || len(v.bins)-v.existing < 2 {
		return nil
	}
	byHost := func(c *counter) bool { return c.key == corev1.LabelHostname }
	ok := make([]bool, len(v.shapes))
	for _, s := range v.shapes {
		for i := range s.spread {
			if s.spread[i].key == corev1.LabelHostname && s.spread[i].minDomains > 1 {
				return nil
			}
		}
		ok[s.id] = s.indifferent() && len(s.ports)+len(s.limited) == 0 && !v.hostTied(s)
		for _, list := range [][]*counter{s.adds, s.late, s.softAdds} {
			ok[s.id] = ok[s.id] && !slices.ContainsFunc(list, byHost)
		}
	}
	return ok
}

// indifferent says whether it is the same to the shape's pods which of the nodes in one
// place they are on.
func (s *shape) indifferent() bool { return s.gang == nil && !s.wishes.any() }

// folding is what fold knows.
type folding struct {
	v *solver
	// total is the price of all nodes to buy.
	total float64
	// places are the columns' places.
	places map[*column]string
	// looks that are left.
	looks int
}

// place names, with the Provisioner and its own labels, all that somebody counts
// nodes of the column by.
func (f *folding) place(c *column) string {
	if p, ok := f.places[c]; ok {
		return p
	}
	v := f.v
	b := shapeKey{}
	b.str(c.seller.p.Name)
	b.num(int64(c.variant))
	b.str(v.domainsOf(c))
	for _, name := range sortedNames(v.holders) {
		val, _ := v.m.label(c, v.holders[name].counter.key)
		b.str(val)
	}
	probe := &bin{col: c, host: hostValue(-1), probe: true, taints: c.seller.p.Spec.Taints}
	for _, name := range sortedNames(v.realms) {
		if v.realms[name].has(probe) {
			b.str(name)
		}
	}
	f.places[c] = string(b)
	return string(b)
}

// price is what the objective makes of a node of the column with that much room left.
func (f *folding) price(c *column, free []int64, credit *credit) float64 {
	if credit != nil {
		return credit.net(c, free)
	}
	return c.rate*(1+concentration*min(1, c.price/f.total)) + nodePrice
}

// spares says whether spread constraints that count the node's DaemonSets' pods hold
// without them: there are not the fewest where it is.
func (v *solver) spares(b *bin) bool {
	for _, p := range b.daemons {
		for _, c := range v.countersOf(p) {
			val, ok := v.label(b, c.key)
			if !ok || c.realm == nil || c.key == corev1.LabelHostname || !c.realm.has(b) {
				continue
			}
			for other := range c.realm.nodes {
				if c.counts[val] > c.counts[other] {
					ok = false
				}
			}
			if ok {
				return false
			}
		}
	}
	return true
}

// target is the node of the room that takes the pods of b best, and what it is to
// become; nil: none is the better for it.
func (f *folding) target(b *bin, room []*bin, gone map[*bin]*bin) (to *bin, col *column) {
	saving := 1e-9
	moved, need, free := make([]int64, len(b.free)), make([]int64, len(b.free)), make([]int64, len(b.free))
	b.load(moved)
	// Those first that have room already for most of what moves.
	type candidate struct {
		*bin
		part float64
	}
	var list []candidate
	for _, n := range room {
		if n == b || gone[n] != nil || n.credit != b.credit || slices.ContainsFunc(n.placed, func(q placed) bool { return !q.s.indifferent() }) {
			continue
		}
		part := 1.0
		for r, x := range moved {
			if x > 0 {
				part = min(part, float64(n.free[r])/float64(x))
			}
		}
		list = append(list, candidate{n, part})
	}
	slices.SortStableFunc(list, func(x, y candidate) int { return cmp.Compare(y.part, x.part) })
	for _, c := range list[:min(len(list), maxFoldTargets)] {
		n := c.bin
		n.load(need)
		for r, x := range moved {
			need[r] += x
		}
		now := f.price(n.col, n.free, n.credit) + f.price(b.col, b.free, b.credit)
		offers := f.v.m.offersOf(n.col.seller)
		first, _ := slices.BinarySearchFunc(offers, max(n.col.price, b.col.price), func(i int32, price float64) int {
			return cmp.Compare(f.v.m.columns[i].price, price)
		})
		for _, i := range offers[first:] {
			d := &f.v.m.columns[i]
			if f.looks--; f.looks < 0 || d.price > n.col.price+b.col.price+1e-12 {
				break
			}
			if d.typ.Machine.VCPUs > ordinaryVCPUs || d.typ.OnlyFor != n.col.typ.OnlyFor || !vectorFits(need, d.free) {
				continue
			}
			for r, x := range need {
				free[r] = d.free[r] - x
			}
			if s := now - f.price(d, free, n.credit); s > saving && f.place(d) == f.place(n.col) && f.v.suits(n, d) && f.v.suits(b, d) {
				saving, to, col = s, n, d
			}
		}
	}
	return to, col
}

// move has the pods of b on another node, which becomes one of the column.
func (f *folding) move(b, to *bin, col *column) {
	for _, q := range b.placed {
		if i := slices.IndexFunc(to.placed, func(p placed) bool { return p.s == q.s }); i >= 0 {
			to.placed[i].n += q.n
		} else {
			to.placed = append(to.placed, q)
		}
	}
	for _, p := range b.daemons {
		for _, c := range f.v.countersOf(p) {
			if val, ok := f.v.label(b, c.key); ok && c.realm.has(b) {
				c.add(val, -1)
			}
		}
	}
	to.col = col
	need := make([]int64, len(col.free))
	to.load(need)
	for r, x := range need {
		to.free[r] = col.free[r] - x
	}
}

// load is what the pods placed on the bin take, by dimension.
func (b *bin) load(need []int64) {
	clear(need)
	for _, q := range b.placed {
		for r, x := range q.s.vector {
			need[r] += x * int64(q.n)
		}
	}
	for r, n := range b.sharedVolumes() {
		need[r] += n
	}
}
