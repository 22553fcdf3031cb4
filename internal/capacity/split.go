package capacity

import (
	"cmp"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// item is a number of pods of one shape that are planned without regard to
// other nodes: the shape as a whole, or its share of one cell.
type item struct {
	s    *shape
	n    int
	cell *cell
	cols bitset
	// level is the weight of the Provisioners that the item buys from.
	level int32
	// parts are the items that a class stands for.
	parts []*item
}

// domain is a combination of values of topology keys.
type domain struct {
	keys, values []string
	// cols are a signature's columns there; best is made by bestIn.
	cols bitset
	best []*column
}

// cell is a domain as it is to a shape that is to be divided.
type cell struct {
	*domain
	// price of one pod there, at best, on a new node; +Inf: none to be had.
	price float64
	// room for pods on existing nodes, counted optimistically.
	room int
	// lacking is how many of the shapes that want to be together could not all be
	// there; together what new nodes for all of them would cost.
	lacking  int
	together float64
	// got is how many pods have been given to it.
	got int
}

// whole says whether all n pods of a shape could be in the cell.
func (c *cell) whole(n int) bool { return !math.IsInf(c.price, 1) || c.room >= n }

func (c *domain) label(key string) (string, bool) {
	if i := slices.Index(c.keys, key); i >= 0 {
		return c.values[i], true
	}
	return "", false
}

// divide makes items of shapes, dividing those that must be among cells: first
// those that others want to be near. Pods that find no cell stay in v.left.
func (v *solver) divide(shapes []*shape) []*item {
	try := map[*counter]*counter{}
	cells := map[*shape][]*cell{}
	var divided []*shape
	for _, s := range shapes {
		if v.left[s.id] > 0 && s.mode == modeSplit {
			cells[s] = v.cellsOf(s)
			divided = append(divided, s)
		}
	}
	v.findLacking(divided, cells)
	v.expectDaemons(divided, cells, try)
	for again := divisionOrder(divided); len(again) > 0; {
		var failed []*shape
		any := false
		for _, s := range again {
			n, all := v.divideShape(s, cells[s], try)
			any = any || n > 0
			if !all && len(s.affinity) > 0 {
				failed = append(failed, s)
			}
		}
		if !any {
			break
		}
		// Whom they want to be near may have come after them.
		again = failed
	}
	var items []*item
	for _, s := range shapes {
		if s.mode == modeLocal && v.left[s.id] > 0 {
			items = append(items, &item{s: s, n: v.left[s.id]})
		}
		for _, c := range cells[s] {
			if c.got > 0 {
				items = append(items, &item{s: s, n: c.got, cell: c})
			}
		}
	}
	return items
}

// divisionOrder puts shapes that nothing but others' ties divides first, then
// each after those that it wants to be near. Of shapes that want to be near each
// other the first given comes last.
func divisionOrder(shapes []*shape) []*shape {
	in := map[*shape]bool{}
	var order []*shape
	for _, s := range shapes {
		if s.counted {
			order = append(order, s)
		} else {
			in[s] = true
		}
	}
	seen := map[*counter]bool{}
	var visit func(s *shape)
	visit = func(s *shape) {
		if !in[s] {
			return
		}
		delete(in, s)
		for _, c := range s.affinityCounts {
			if seen[c] {
				continue
			}
			seen[c] = true
			for _, o := range c.members {
				// Those that want the same go one after the other.
				if !slices.Equal(s.affinityCounts, o.affinityCounts) {
					visit(o)
				}
			}
		}
		order = append(order, s)
	}
	for _, s := range shapes {
		visit(s)
	}
	return order
}

// divideShape gives the shape's pods to cells one by one, always to the cheapest
// that kube-scheduler would accept in that state; so the order in which it is
// done is an order in which they can be bound. It returns how many it has given,
// and whether that is all.
func (v *solver) divideShape(s *shape, cells []*cell, try map[*counter]*counter) (n int, all bool) {
	rest := v.left[s.id]
	for _, c := range cells {
		rest -= c.got
	}
	leads := s.leads() && slices.ContainsFunc(cells, func(c *cell) bool { return c.lacking == 0 })
	for ; n < rest; n++ {
		var best *cell
		for _, c := range cells {
			if math.IsInf(c.price, 1) && c.got >= c.room {
				continue
			}
			if best != nil && !c.better(best, leads) {
				continue
			}
			if blockedAt(s, c.label, everythingButHosts, false, try) == "" {
				best = c
			}
		}
		if best == nil {
			return n, false
		}
		best.got++
		for _, k := range s.adds {
			if k.key == corev1.LabelHostname {
				continue
			}
			if val, ok := best.label(k.key); ok {
				if try[k] == nil {
					try[k] = k.clone()
				}
				try[k].add(val, 1)
			}
		}
	}
	return n, true
}

// leads says whether others follow the shape's pods into their domain, and
// nothing but that matters to where they are: then they are best in one.
func (s *shape) leads() bool {
	if s.selfAffine {
		return s.affinityCounts[0].total() == 0
	}
	return s.counted && slices.ContainsFunc(s.adds, (*counter).ofNear) &&
		!slices.ContainsFunc(s.adds, func(c *counter) bool { return c.realm != nil && c.key != corev1.LabelHostname }) &&
		!slices.ContainsFunc(s.wishes.ties, func(t tieWish) bool { return t.key != corev1.LabelHostname })
}

// ofNear says whether the counter is one of pods that others, across nodes, must
// be near.
func (c *counter) ofNear() bool { return len(c.members) > 0 && c.key != corev1.LabelHostname }

// findLacking notes for each cell how many shapes have no place for all their pods
// there, and what new nodes for all would cost: of the one whose cell it is, and
// those that must be near it, or it near them, and so on.
func (v *solver) findLacking(shapes []*shape, cells map[*shape][]*cell) {
	leaders := map[*counter]*counter{}
	leader := func(c *counter) *counter {
		for leaders[c] != nil {
			c = leaders[c]
		}
		return c
	}
	near := map[*shape][]*counter{}
	for _, s := range shapes {
		for _, list := range [2][]*counter{s.affinityCounts, s.adds} {
			for _, c := range list {
				if !c.ofNear() {
					continue
				}
				c = leader(c)
				if i := slices.IndexFunc(near[s], func(o *counter) bool { return o.key == c.key }); i < 0 {
					near[s] = append(near[s], c)
				} else if o := leader(near[s][i]); o != c {
					leaders[c] = o
				}
			}
		}
	}
	type place struct {
		group *counter
		value string
	}
	all, whole, cost := map[*counter]int{}, map[place]int{}, map[place]float64{}
	for _, s := range shapes {
		for i, g := range near[s] {
			g = leader(g)
			near[s][i] = g
			all[g]++
			least, there := map[string]float64{}, map[string]bool{}
			for _, c := range cells[s] {
				val, _ := c.label(g.key)
				x := 0.0
				if n := v.left[s.id] - c.room; n > 0 {
					x = c.price * float64(n)
				}
				if old, ok := least[val]; !ok || x < old {
					least[val] = x
				}
				there[val] = there[val] || c.whole(v.left[s.id])
			}
			for val, x := range least {
				cost[place{g, val}] += x
			}
			for val, ok := range there {
				if ok {
					whole[place{g, val}]++
				}
			}
		}
	}
	for _, s := range shapes {
		for _, c := range cells[s] {
			if len(near[s]) == 0 && !c.whole(v.left[s.id]) {
				c.lacking = 1
			}
			for _, g := range near[s] {
				val, _ := c.label(g.key)
				c.lacking += all[g] - whole[place{g, val}]
				c.together += cost[place{g, val}]
			}
		}
	}
}

// better says whether the next pod should rather go to cell a than to b: room
// that exists costs nothing; then the price; then the emptier. Those that want to
// be together need a place for all; where the first pods of those that lead go,
// it counts what all cost.
func (a *cell) better(b *cell, leads bool) bool {
	free := func(c *cell) float64 {
		if c.got < c.room {
			return 0
		}
		return c.price
	}
	fuller, first := cmp.Compare(a.got, b.got), 0
	if leads {
		fuller = -fuller
		if a.got == 0 && b.got == 0 {
			first = cmp.Compare(a.together, b.together)
		}
	}
	return cmp.Or(cmp.Compare(a.lacking, b.lacking), first, cmp.Compare(free(a), free(b)), fuller) < 0
}

// splitKeys are the topology keys across nodes that matter to the shape: its
// own, and those by which others that are divided too count it.
func (v *solver) splitKeys(s *shape) []string {
	var keys []string
	add := func(c *counter) {
		if c.key != corev1.LabelHostname && !slices.Contains(keys, c.key) {
			keys = append(keys, c.key)
		}
	}
	for _, list := range [][]*counter{s.affinityCounts, s.antiCounts, s.spreadCounts, s.heldOff, s.adds} {
		for _, c := range list {
			add(c)
		}
	}
	slices.Sort(keys)
	return keys
}

func (v *solver) cellsOf(s *shape) []*cell {
	keys := v.splitKeys(s)
	find := finder(keys)
	var cells []*cell
	for _, d := range v.sigs[s.sig].domainsBy(v.m, keys) {
		find(d.label)
		c := &cell{domain: d, price: math.Inf(1)}
		for _, col := range d.bestIn(v.m) {
			if n := copiesBeside(s, col.free, nil); n > 0 && col.seller.left.room(col) > 0 {
				c.price = min(c.price, col.rate/float64(n))
			}
		}
		cells = append(cells, c)
	}
	cellAt := func(label func(string) (string, bool)) int {
		i, values := find(label)
		if i == len(cells) {
			d := &domain{keys: keys, values: slices.Clone(values), cols: newBitset(len(v.m.columns))}
			cells = append(cells, &cell{domain: d, price: math.Inf(1)})
		}
		return i
	}
	there := v.placesOf(keys)
	at := make([]int, len(there.domains))
	for i, d := range there.domains {
		at[i] = cellAt(d.label)
	}
	for _, b := range v.bins {
		n := b.copies(s)
		if n == 0 || !v.reachable(s, b) {
			continue
		}
		i := -1
		if b.node == nil {
			i = cellAt(func(key string) (string, bool) { return v.label(b, key) })
		} else if k := there.of[b.index]; k >= 0 {
			i = at[k]
		}
		if i >= 0 {
			cells[i].room += n
		}
	}
	cells = slices.DeleteFunc(cells, func(c *cell) bool { return c.room == 0 && math.IsInf(c.price, 1) })
	slices.SortFunc(cells, func(a, b *cell) int { return slices.Compare(a.values, b.values) })
	return cells
}

// places says which domains existing nodes are in.
type places struct {
	domains []*domain
	// of is the domain of each existing bin; -1: it lacks a label.
	of []int32
}

// placesOf are the places by these keys, worked out once.
func (v *solver) placesOf(keys []string) *places {
	name := strings.Join(keys, "\x00")
	if p := v.places[name]; p != nil {
		return p
	}
	p := &places{of: make([]int32, len(v.fresh))}
	find := finder(keys)
	for i := range v.fresh {
		n := v.fresh[i].node
		k, values := find(func(key string) (string, bool) { l, ok := n.Labels[key]; return l, ok })
		if k == len(p.domains) {
			p.domains = append(p.domains, &domain{keys: keys, values: slices.Clone(values)})
		}
		p.of[i] = int32(k)
	}
	v.places[name] = p
	return p
}

// finder numbers combinations of the labels' values in the order in which it first
// meets them: -1 where a label is missing. The values are valid until it is asked
// again.
func finder(keys []string) func(label func(string) (string, bool)) (n int, values []string) {
	known := map[string]int{}
	var id []byte
	values := make([]string, len(keys))
	return func(label func(string) (string, bool)) (int, []string) {
		id = id[:0]
		for i, k := range keys {
			val, ok := label(k)
			if !ok {
				return -1, nil
			}
			values[i] = val
			id = append(append(id, val...), 0)
		}
		n, ok := known[string(id)]
		if !ok {
			n = len(known)
			known[string(id)] = n
		}
		return n, values
	}
}

// domainsBy are the domains that the signature's columns are in, remembered.
func (sig *signature) domainsBy(m *market, keys []string) []*domain {
	name := strings.Join(keys, "\x00")
	if list, ok := sig.domains[name]; ok {
		return list
	}
	var list []*domain
	find := finder(keys)
	for i := range m.columns {
		if !sig.cols.has(i) {
			continue
		}
		k, values := find(func(key string) (string, bool) { return m.label(&m.columns[i], key) })
		if k < 0 {
			continue
		}
		if k == len(list) {
			list = append(list, &domain{keys: keys, values: slices.Clone(values), cols: newBitset(len(m.columns))})
		}
		list[k].cols.set(i)
	}
	if sig.domains == nil {
		sig.domains = map[string][]*domain{}
	}
	sig.domains[name] = list
	return list
}

// bestIn are the domain's columns that no other there replaces.
func (d *domain) bestIn(m *market) []*column {
	if d.best == nil {
		d.best = m.reduce(true, []bitset{d.cols}, 1)
	}
	return d.best
}

// id tells the domain from all others.
func (d *domain) id() string {
	b := shapeKey{}
	b.strs(d.keys)
	b.strs(d.values)
	return string(b)
}

// columnsOf narrows an item's columns to its cell.
func (v *solver) columnsOf(it *item) bitset {
	if it.cell == nil {
		return v.sigs[it.s.sig].cols
	}
	return it.cell.cols
}

// columnsAt narrows an item's usable columns to Provisioners of its level.
func (v *solver) columnsAt(it *item, usable bitset) bitset {
	same := func(s *seller) bool { return s.p.Spec.Weight == it.level }
	if !slices.ContainsFunc(v.m.sellers, func(s *seller) bool { return !same(s) }) {
		return usable
	}
	b := shapeKey{}
	b.num(int64(it.level))
	if it.cell != nil {
		b.str(it.cell.id())
	}
	sig := v.sigs[it.s.sig]
	if sig.level[string(b)] == nil {
		set := newBitset(len(v.m.columns))
		for _, s := range v.m.sellers {
			for i := s.first; i < s.end && same(s); i++ {
				if usable.has(i) {
					set.set(i)
				}
			}
		}
		if sig.level == nil {
			sig.level = map[string]bitset{}
		}
		sig.level[string(b)] = set
	}
	return sig.level[string(b)]
}

// holds says whether a node with these labels lies in the domain.
func (d *domain) holds(label func(string) (string, bool)) bool {
	for i, k := range d.keys {
		if val, ok := label(k); !ok || val != d.values[i] {
			return false
		}
	}
	return true
}
