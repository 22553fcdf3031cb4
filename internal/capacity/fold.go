package capacity

import (
	"cmp"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Bounds of fold: how many nodes it tries to give up, the cheapest, to how many others
// the pods of one may go, looks at a kind of node for the pods of one or two, and how
// many nodes give pods to fill others.
const (
	maxFoldSmall   = 64
	maxFoldTargets = 32
	maxFoldLooks   = 50000
	maxFoldGivers  = 16
)

// fold gives up nodes to buy whose pods fit beside those of another one, on a larger
// node where need be, when that costs no more and is better by the objective: who is
// placed pod by pod or domain by domain leaves nodes with little on them. Only pods
// that nobody counts by host move, and only within what is the same place to all who
// count, so that what was proven stays proven. Where DaemonSets' pods count, which
// are fewer then, it is proven again, or only those are given up that none of these
// constraints needs.
//
// Then the emptiest nodes give pods to the others, so that what room is left is on few
// of them: there it is of more use to pods to come, and no pod with a place elsewhere
// finds a seat beside those that a node was bought for.
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
	if v.rebind(v.inOrder()); v.unserved() > 0 {
		v.restore(bins, bound)
		v.foldThose(movable, v.spares)
	}
}

// foldThose gives up nodes that may, and fills the others.
func (v *solver) foldThose(movable []bool, may func(*bin) bool) {
	f := &folding{v: v, movable: movable, total: v.cost(), places: map[*column]string{}, looks: maxFoldLooks,
		rooms: map[string][]*bin{}, gone: map[*bin]bool{}, moved: make([]bool, len(v.shapes))}
	moves := func(s *shape) bool { return movable[s.id] }
	if !slices.ContainsFunc(v.shapes, moves) {
		return
	}
	bins := slices.Clone(v.bins)
	var small []*bin
	for i, b := range bins[v.existing:] {
		c := *b
		c.free, c.placed = slices.Clone(b.free), slices.Clone(b.placed)
		bins[v.existing+i] = &c
		f.rooms[f.place(c.col)] = append(f.rooms[f.place(c.col)], &c)
		if c.col.seller.left == nil && c.only(moves) {
			small = append(small, &c)
		}
	}
	slices.SortStableFunc(small, func(a, b *bin) int { return cmp.Compare(a.col.rate, b.col.rate) })
	for _, b := range small[:min(len(small), maxFoldSmall)] {
		if !may(b) {
			continue
		}
		if to, col := f.target(b); to != nil {
			f.merge(b, to, col)
		}
	}
	for _, place := range sortedNames(f.rooms) {
		f.fill(f.rooms[place], may)
	}
	if !slices.Contains(f.moved, true) {
		return
	}
	f.rebound(bins)
	v.bins = slices.DeleteFunc(bins, func(b *bin) bool { return f.gone[b] })
	for i, b := range v.bins[v.existing:] {
		b.index = v.existing + i
	}
}

// movable says of each shape whether its pods may change their host without
// anybody's noticing; nil: nobody's may, since nodes themselves are counted.
func (v *solver) movable() []bool {
	if v.unserved() > 0 || v.scarce || len(v.bins)-v.existing < 2 {
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

// folding is what foldThose knows.
type folding struct {
	v       *solver
	movable []bool
	// total is the price of all nodes to buy.
	total float64
	// places are the columns' places, rooms the nodes to buy by place.
	places map[*column]string
	rooms  map[string][]*bin
	// looks that are left.
	looks int
	// gone are the nodes that are given up, moved the shapes that some pods have moved of.
	gone  map[*bin]bool
	moved []bool
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
	return c.weighed(min(1, c.price/f.total))
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
			least := math.MaxInt
			for other := range c.realm.nodes {
				least = min(least, c.counts[other])
			}
			if c.counts[val] <= least {
				return false
			}
		}
	}
	return true
}

// target is the node in the same place that takes the pods of b best, and what it is to
// become; nil: none is the better for it.
func (f *folding) target(b *bin) (to *bin, col *column) {
	saving := 1e-9
	moved, need, free := make([]int64, len(b.free)), make([]int64, len(b.free)), make([]int64, len(b.free))
	b.load(moved)
	// Those first that have room already for most of what moves.
	type candidate struct {
		*bin
		part float64
	}
	var list []candidate
	for _, n := range f.rooms[f.place(b.col)] {
		if n == b || f.gone[n] || n.credit != b.credit || !n.only((*shape).indifferent) {
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
		consider := func(d *column) {
			for r, x := range need {
				free[r] = d.free[r] - x
			}
			if s := now - f.price(d, free, n.credit); s > saving && f.place(d) == f.place(n.col) && f.v.suits(n, d) && f.v.suits(b, d) {
				saving, to, col = s, n, d
			}
		}
		if f.looks--; vectorFits(moved, n.free) {
			consider(n.col) // As it is; others are sought among those that cost no less than either.
		}
		offers := f.v.m.offersOf(n.col.seller)
		first, _ := slices.BinarySearchFunc(offers, max(n.col.price, b.col.price), func(i int32, price float64) int {
			return cmp.Compare(f.v.m.columns[i].price, price)
		})
		for _, i := range offers[first:] {
			d := &f.v.m.columns[i]
			if f.looks--; f.looks < 0 || d.price > n.col.price+b.col.price+1e-12 {
				break
			}
			if d.typ.Machine.VCPUs > ordinaryVCPUs || d.room != "" || d.typ.OnlyFor != n.col.typ.OnlyFor || !vectorFits(need, d.free) {
				continue
			}
			consider(d)
		}
	}
	return to, col
}

// merge gives up the node b and has its pods on another one, which becomes one of the
// column.
func (f *folding) merge(b, to *bin, col *column) {
	for _, q := range slices.Clone(b.placed) {
		f.move(q.s, b, to, q.n)
	}
	f.become(to, col)
	f.giveUp(b)
}

// move has n pods of the shape on another node.
func (f *folding) move(s *shape, from, to *bin, n int) {
	f.moved[s.id] = true
	from.change(s, -n)
	to.change(s, n)
}

// become makes the node one of the column.
func (f *folding) become(b *bin, col *column) {
	for r := range b.free {
		b.free[r] += col.free[r] - b.col.free[r]
	}
	b.col = col
}

// giveUp notes that the node is not bought.
func (f *folding) giveUp(b *bin) {
	f.gone[b] = true
	f.v.countDaemons(b, -1)
}

// fill has the emptiest nodes of a place give pods to the fullest, and be smaller
// where they can.
func (f *folding) fill(room []*bin, may func(*bin) bool) {
	room = slices.DeleteFunc(slices.Clone(room), func(b *bin) bool { return f.gone[b] })
	if len(room) < 2 {
		return
	}
	part := map[*bin]float64{}
	for _, b := range room {
		part[b] = b.spare()
	}
	slices.SortStableFunc(room, func(a, b *bin) int { return cmp.Compare(part[a], part[b]) })
	for k := 1; k <= maxFoldGivers && k < len(room); k++ {
		from := room[len(room)-k]
		gives := slices.DeleteFunc(slices.Clone(from.placed), func(q placed) bool { return !f.movable[q.s.id] })
		slices.SortStableFunc(gives, func(a, b placed) int { return slices.Compare(b.s.vector, a.s.vector) })
		if len(gives) == len(from.placed) && !may(from) {
			continue // It must not be emptied.
		}
		gave := false
		for _, q := range gives {
			seats := f.v.sigs[q.s.sig].seats
			for _, to := range room[:len(room)-k] {
				if f.looks--; f.looks < 0 || q.n == 0 {
					break
				}
				if n := min(q.n, copies(q.s.vector, to.free)); n > 0 && seats.has(to.col.index) && to.col.typ.OnlyFor == from.col.typ.OnlyFor {
					f.move(q.s, from, to, n)
					q.n -= n
					gave = true
				}
			}
		}
		if len(from.placed) == 0 {
			f.giveUp(from)
		} else if gave {
			f.shrink(from)
		}
	}
}

// spare is the share of the node's room that is left, of the resource that there is
// least left of.
func (b *bin) spare() float64 {
	least := 1.0
	for r, x := range b.free {
		if all := b.col.free[r]; all > 0 {
			least = min(least, float64(x)/float64(all))
		}
	}
	return least
}

// shrink makes the node the cheapest one that still holds its pods.
func (f *folding) shrink(b *bin) {
	if b.col.seller.left != nil || b.credit != nil || !b.only((*shape).indifferent) {
		return
	}
	need := make([]int64, len(b.free))
	b.load(need)
	for _, i := range f.v.m.offersOf(b.col.seller) {
		d := &f.v.m.columns[i]
		if f.looks--; f.looks < 0 || d.price >= b.col.price-1e-12 {
			return
		}
		if d.typ.OnlyFor == b.col.typ.OnlyFor && d.room == "" && vectorFits(need, d.free) && f.price(d, nil, nil) < f.price(b.col, nil, nil) &&
			f.place(d) == f.place(b.col) && f.v.suits(b, d) {
			f.become(b, d)
			return
		}
	}
}

// rebound tells where pods are bound now, in the order in which it was proven: those
// that have moved stand in for each other within their place.
func (f *folding) rebound(bins []*bin) {
	type group struct {
		shape int
		place string
	}
	seats := map[group][]seat{}
	for _, b := range bins[f.v.existing:] {
		if f.gone[b] {
			continue
		}
		for _, q := range b.placed {
			if f.moved[q.s.id] {
				g := group{q.s.id, f.place(b.col)}
				seats[g] = append(seats[g], seat{q.s, b, q.n})
			}
		}
	}
	var bound []seat
	for _, t := range f.v.bound {
		switch {
		case t.b.node != nil:
			bound = append(bound, t)
			continue
		case !f.moved[t.s.id]:
			bound = append(bound, seat{t.s, bins[t.b.index], t.n})
			continue
		}
		g := group{t.s.id, f.place(t.b.col)}
		for t.n > 0 {
			q := &seats[g][0]
			n := min(t.n, q.n)
			bound = append(bound, seat{t.s, q.b, n})
			t.n -= n
			if q.n -= n; q.n == 0 {
				seats[g] = seats[g][1:]
			}
		}
	}
	f.v.bound = bound
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
