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

// cell is a combination of values of the topology keys that matter to a shape.
type cell struct {
	keys, values []string
	// name tells it from all others.
	name string
	// price of one pod there, at best, on a new node; +Inf: none to be had.
	price float64
	// room for pods on existing nodes, counted optimistically.
	room int
}

func (c *cell) label(key string) (string, bool) {
	if i := slices.Index(c.keys, key); i >= 0 {
		return c.values[i], true
	}
	return "", false
}

// divide makes items of shapes, dividing those that must be among cells. Pods
// that find no cell stay in v.left.
func (v *solver) divide(shapes []*shape) []*item {
	var items []*item
	try := map[*counter]*counter{}
	for _, s := range shapes {
		if v.left[s.id] == 0 {
			continue
		}
		if s.mode == modeLocal {
			items = append(items, &item{s: s, n: v.left[s.id]})
			continue
		}
		items = append(items, v.divideShape(s, try)...)
	}
	return items
}

// divideShape gives the shape's pods to cells one by one, always to the cheapest
// that kube-scheduler would accept in that state; so the order in which it is
// done is an order in which they can be bound.
func (v *solver) divideShape(s *shape, try map[*counter]*counter) []*item {
	cells := v.cellsOf(s)
	counts := make([]int, len(cells))
	for range v.left[s.id] {
		best := -1
		for i, c := range cells {
			if math.IsInf(c.price, 1) && counts[i] >= c.room {
				continue
			}
			if best >= 0 && !v.better(c, counts[i], cells[best], counts[best], v.left[s.id]) {
				continue
			}
			if blockedAt(s, c.label, everythingButHosts, false, try) == "" {
				best = i
			}
		}
		if best < 0 {
			break
		}
		counts[best]++
		for _, k := range s.adds {
			if k.key == corev1.LabelHostname {
				continue
			}
			if val, ok := cells[best].label(k.key); ok {
				if try[k] == nil {
					try[k] = k.clone()
				}
				try[k].counts[val]++
			}
		}
	}
	var items []*item
	for i, c := range cells {
		if counts[i] > 0 {
			items = append(items, &item{s: s, n: counts[i], cell: c})
		}
	}
	return items
}

// better says whether a pod should rather go to cell a than to b: room that
// exists costs nothing; then the price; then the emptier. n is how many pods
// the shape has: those that want to be together need a place for all.
func (v *solver) better(a *cell, na int, b *cell, nb int, n int) bool {
	whole := func(c *cell) int {
		if !math.IsInf(c.price, 1) || c.room >= n {
			return 0
		}
		return 1
	}
	free := func(c *cell, used int) float64 {
		if used < c.room {
			return 0
		}
		return c.price
	}
	return cmp.Or(cmp.Compare(whole(a), whole(b)), cmp.Compare(free(a, na), free(b, nb)), cmp.Compare(na, nb)) < 0
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
	byValue := map[string]*cell{}
	find := func(label func(string) (string, bool)) *cell {
		values := make([]string, len(keys))
		for i, k := range keys {
			val, ok := label(k)
			if !ok {
				return nil
			}
			values[i] = val
		}
		id := strings.Join(values, "\x00")
		c := byValue[id]
		if c == nil {
			name := shapeKey{}
			name.strs(keys)
			name.strs(values)
			c = &cell{name: string(name), keys: keys, values: values, price: math.Inf(1)}
			byValue[id] = c
		}
		return c
	}
	for _, b := range v.bins {
		if !v.reachable(s, b) {
			continue
		}
		if n := b.copies(s); n > 0 {
			if c := find(func(key string) (string, bool) { return v.label(b, key) }); c != nil {
				c.room += n
			}
		}
	}
	for i := range v.m.columns {
		col := &v.m.columns[i]
		if !v.usable(s, col) || col.seller.left.room(col) == 0 {
			continue
		}
		if c := find(func(key string) (string, bool) { return v.m.label(col, key) }); c != nil {
			c.price = min(c.price, col.rate/float64(copiesBeside(s, col.free, nil)))
		}
	}
	cells := make([]*cell, 0, len(byValue))
	for _, id := range sortedNames(byValue) {
		cells = append(cells, byValue[id])
	}
	return cells
}

// columnsOf narrows an item's columns to its cell.
func (v *solver) columnsOf(it *item) bitset {
	sig := v.sigs[it.s.sig]
	if it.cell == nil {
		return sig.cols
	}
	return sig.narrow(v.m, it.cell.name, sig.cols, func(c *column) bool {
		return it.cell.holds(func(key string) (string, bool) { return v.m.label(c, key) })
	})
}

// columnsAt narrows an item's usable columns to Provisioners of its level.
func (v *solver) columnsAt(it *item, usable bitset) bitset {
	same := func(s *seller) bool { return s.p.Spec.Weight == it.level }
	if !slices.ContainsFunc(v.m.sellers, func(s *seller) bool { return !same(s) }) {
		return usable
	}
	b := shapeKey{}
	b.str("level")
	b.num(int64(it.level))
	if it.cell != nil {
		b.str(it.cell.name)
	}
	return v.sigs[it.s.sig].narrow(v.m, string(b), usable, func(c *column) bool { return same(c.seller) })
}

// narrow is the part of a set of the signature's columns that keep is true for,
// remembered by name.
func (sig *signature) narrow(m *market, name string, of bitset, keep func(*column) bool) bitset {
	if set := sig.narrowed[name]; set != nil {
		return set
	}
	set := newBitset(len(m.columns))
	for i := range m.columns {
		if of.has(i) && keep(&m.columns[i]) {
			set.set(i)
		}
	}
	if sig.narrowed == nil || len(sig.narrowed) >= maxRememberedSignatures {
		sig.narrowed = map[string]bitset{}
	}
	sig.narrowed[name] = set
	return set
}

// holds says whether a node with these labels lies in the cell; a nil cell is
// everywhere.
func (c *cell) holds(label func(string) (string, bool)) bool {
	if c == nil {
		return true
	}
	for i, k := range c.keys {
		if val, ok := label(k); !ok || val != c.values[i] {
			return false
		}
	}
	return true
}
