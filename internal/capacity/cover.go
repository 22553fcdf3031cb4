package capacity

import (
	"container/heap"
	"math"
	"slices"
)

// cover looks for the cheapest nodes that together have enough of every resource,
// whoever goes where: a search for the shortest way (A*) from nothing to enough, one
// node at a time, dear ones first. What the rest will cost at least is what it is
// worth at prices at which no node is worth more than it costs: duals of the linear
// relaxation.
type cover struct {
	// free and price by kind, cheapest first.
	free  [][]int64
	price []float64
	// duals that have been the best somewhere, each for the kinds up to one.
	duals []dual
	lp    simplex
	open  coverings
	done  []*covering
	// work is counted up to limit, in units of packer.work.
	work, limit int64
}

// dual are prices of resources at which no node of the kinds up to last is worth more
// than it costs.
type dual struct {
	last int
	y    []float64
}

// covering is some nodes: one of kind last, and those of from, of kinds no cheaper.
type covering struct {
	from *covering
	last int
	// price of the nodes, and total with what the rest will cost at least.
	price, total float64
	// exact: the total is that of the linear relaxation.
	exact bool
	// lack is what is still wanted, by resource.
	lack []float64
}

// nodes are the covering's, by kind.
func (x *covering) nodes() []int {
	var list []int
	for ; x.from != nil; x = x.from {
		list = append(list, x.last)
	}
	return list
}

// coverings have the one with the least total first, of equals the dearest: it
// lacks least.
type coverings []*covering

func (q coverings) Len() int { return len(q) }
func (q coverings) Less(i, j int) bool {
	if q[i].total != q[j].total {
		return q[i].total < q[j].total
	}
	return q[i].price > q[j].price
}
func (q coverings) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *coverings) Push(x any)   { *q = append(*q, x.(*covering)) }
func (q *coverings) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}

// newCover is about nodes of the packer's kinds, for pods of its items, have of
// each, that ask for demand beyond what others have room for. Beside resources, what
// they are worth at pi is demanded, value in all: a node has of it what the pods on it
// can be worth at most. It may be searched until p.work, with its own, has reached end.
func (p *packer) newCover(demand []float64, value float64, pi []float64, have []int, end int64) *cover {
	// Room beyond whole units of the requests' common divisor is never used.
	units := make([]int64, len(demand))
	for r := range units {
		for _, it := range p.items {
			units[r] = gcd(units[r], it.req[r])
		}
		units[r] = max(1, units[r])
	}
	c := &cover{}
	for _, k := range p.kinds {
		free := make([]int64, len(demand), len(demand)+1)
		for r := range free {
			free[r] = max(0, k.free[r]) / units[r] * units[r]
		}
		if value > 0 {
			free = append(free, int64(math.Ceil(worthUnits*p.knap.bound(0, p, k, pi, have, coverProof)/value)))
		}
		c.free, c.price = append(c.free, free), append(c.price, k.price)
	}
	if value > 0 {
		demand = append(slices.Clip(demand), worthUnits)
	}
	c.open = coverings{{last: len(p.kinds) - 1, lack: demand}}
	c.limit = end - p.work
	return c
}

// worthUnits are what the worth of all pods is counted in, coverProof steps spent on
// proving how much of it a node of each kind can hold.
const (
	worthUnits = 1 << 40
	coverProof = 256
)

// next are the cheapest nodes with enough that it has not told of yet, if they cost
// less than most; nil when there are none, or the limit is reached.
func (c *cover) next(most float64) *covering {
	for len(c.open) > 0 && c.open[0].total < most && c.work < c.limit {
		c.work += int64(4*len(c.free) + len(c.done)/4)
		x := heap.Pop(&c.open).(*covering)
		if c.replaced(x) {
			continue
		}
		if !x.exact {
			before := x.total
			if c.look(x); x.total > before {
				heap.Push(&c.open, x)
				continue
			}
		}
		if slices.Max(x.lack) <= 0 {
			return x
		}
		c.done = append(c.done, x)
		for t, free := range c.free[:x.last+1] {
			n := &covering{from: x, last: t, price: x.price + c.price[t], lack: slices.Clone(x.lack)}
			for r, f := range free {
				n.lack[r] = max(0, n.lack[r]-float64(max(f, 0)))
			}
			if n.total = max(x.total, n.price+c.least(n)); n.total < most {
				heap.Push(&c.open, n)
			}
		}
	}
	return nil
}

// bound is what any nodes with enough cost at least of which next, with this most,
// has not told yet.
func (c *cover) bound(most float64) float64 {
	if len(c.open) == 0 {
		return most
	}
	return min(most, c.open[0].total)
}

// least is the best of the duals' bounds of what the rest will cost.
func (c *cover) least(x *covering) float64 {
	top := 0.0
	for i := range c.duals {
		if d := &c.duals[i]; d.last >= x.last {
			top = max(top, d.worth(x.lack))
		}
	}
	return top
}

func (d *dual) worth(lack []float64) float64 {
	v := 0.0
	for r, l := range lack {
		v += d.y[r] * l
	}
	return v
}

// look solves the linear relaxation of what the covering lacks.
func (c *cover) look(x *covering) {
	x.exact = true
	if slices.Max(x.lack) <= 0 {
		return
	}
	d := dual{x.last, coverPrices(&c.lp, x.lack, c.free[:x.last+1], c.price)}
	if v := x.price + d.worth(x.lack); v > x.total*(1+1e-9) {
		x.total = v
		c.duals = append(c.duals, d)
	}
}

// replaced says whether one that has been looked at replaces x: likely a recent one.
func (c *cover) replaced(x *covering) bool {
	for i := len(c.done) - 1; i >= 0; i-- {
		if c.done[i].replaces(x) {
			return true
		}
	}
	return false
}

// replaces says whether whatever x could become d could become for no more.
func (d *covering) replaces(x *covering) bool {
	if d.last < x.last || d.price > x.price+1e-12 {
		return false
	}
	for r, l := range d.lack {
		if l > x.lack[r] {
			return false
		}
	}
	return true
}
