package capacity

import (
	"cmp"
	"math"
	"slices"
)

// Where hardly two pods are alike, patterns over shapes are of no use: there are
// too many shapes, with a pod or two each. Items of much the same size are then
// put into buckets, the plan is made for pods of mean size, and its seats are
// given to the real pods.

// maxBuckets is into how many buckets items are put.
const maxBuckets = 120

// bucket is a set of items that may use the same columns and are of much the
// same size.
type bucket struct {
	items []int
	// spread is the sum of the squared deviations from the mean, by worth.
	spread float64
	// along is the resource in which it is widest.
	along int
}

// planBuckets plans for buckets and seats the real pods; nil when the items are
// not of that kind: pods that quarrel on a node stay what they are.
func (p *packer) planBuckets(y []float64, end int64) []pattern {
	for j, it := range p.items {
		if p.conflict[j] != nil || it.most < it.it.n {
			return nil
		}
	}
	buckets := p.bucketsOf(y)
	q := p.bucketed(buckets)
	if q == nil {
		return nil
	}
	begin := q.work
	budget := end - p.work
	best, pi, _ := q.startPlan(begin + budget/8)
	best, pi, _ = q.blend(best, pi, begin+budget/2)
	best = q.improve(best, pi, begin+budget)
	p.work += q.work - begin
	return p.seat(buckets, q, best, y)
}

// bucketsOf divides the items: first by the columns that they may use and the
// groups that hosts bound, then again and again where sizes differ most.
func (p *packer) bucketsOf(y []float64) []*bucket {
	var list []*bucket
	type alike struct {
		cols   *uint64
		groups string
	}
	index := map[alike]*bucket{}
	for j, it := range p.items {
		groups := shapeKey{}
		for _, x := range it.req[len(it.it.s.vector):] {
			groups.num(x)
		}
		key := alike{&it.it.cols[0], string(groups)}
		b := index[key]
		if b == nil {
			b = &bucket{}
			index[key] = b
			list = append(list, b)
		}
		b.items = append(b.items, j)
	}
	for _, b := range list {
		p.measure(b, y)
	}
	for len(list) < maxBuckets {
		widest := slices.MaxFunc(list, func(a, b *bucket) int { return cmp.Compare(a.spread, b.spread) })
		if widest.spread == 0 {
			break
		}
		r := widest.along
		slices.SortStableFunc(widest.items, func(a, b int) int { return cmp.Compare(p.items[a].req[r], p.items[b].req[r]) })
		half := len(widest.items) / 2
		other := &bucket{items: slices.Clone(widest.items[half:])}
		widest.items = widest.items[:half]
		p.measure(widest, y)
		p.measure(other, y)
		list = append(list, other)
	}
	return list
}

// measure finds out how far the bucket's items differ.
func (p *packer) measure(b *bucket, y []float64) {
	b.spread, b.along = 0, 0
	if len(b.items) < 2 {
		return
	}
	widest := 0.0
	for r, price := range y {
		n, sum, squares := 0.0, 0.0, 0.0
		for _, j := range b.items {
			x := price * float64(p.items[j].req[r])
			k := float64(p.items[j].it.n)
			n, sum, squares = n+k, sum+k*x, squares+k*x*x
		}
		s := max(0, squares-sum*sum/n)
		b.spread += s
		if s > widest {
			widest, b.along = s, r
		}
	}
	if widest <= 0 {
		b.spread = 0
	}
}

// bucketed is the packer's problem with pods of each bucket's mean size.
func (p *packer) bucketed(buckets []*bucket) *packer {
	q := &packer{width: p.width, conflict: make([]bitset, len(buckets))}
	for _, b := range buckets {
		it := &packItem{it: &item{cols: p.items[b.items[0]].it.cols}, req: make([]int64, p.width), most: math.MaxInt32}
		for _, j := range b.items {
			n := p.items[j].it.n
			it.it.n += n
			for r, x := range p.items[j].req {
				it.req[r] += x * int64(n)
			}
		}
		for r := range it.req {
			it.req[r] = (it.req[r] + int64(it.it.n) - 1) / int64(it.it.n)
		}
		it.seal()
		q.items = append(q.items, it)
	}
	placeable := make([]bool, len(buckets))
	for _, k := range p.kinds {
		kd := &kind{col: k.col, free: k.free, price: k.price, allows: newBitset(len(buckets))}
		for b, bk := range buckets {
			if q.items[b].it.cols.has(k.col.index) && vectorFits(q.items[b].req, k.free) && k.allows.has(bk.items[0]) {
				kd.allow(b, q.items[b])
				placeable[b] = true
			}
		}
		if len(kd.allowed) > 0 {
			q.kinds = append(q.kinds, kd)
		}
	}
	if slices.Contains(placeable, false) {
		return nil
	}
	return q
}

// seatedNode is a node whose seats are being given to real pods.
type seatedNode struct {
	kind *kind
	free []int64
	// seats left, by bucket.
	seats []int
	// over is by how much the real pods exceed the mean ones, by resource, in $/h.
	over []float64
	load map[int]int
}

// seat gives the seats of a plan for buckets to the real pods, large ones first,
// each to the node whose pods it brings nearest to their means in sum. Who finds
// none goes where there is room, the rest onto nodes of their own.
func (p *packer) seat(buckets []*bucket, q *packer, plan []pattern, y []float64) []pattern {
	worth := func(req []int64) float64 {
		v := 0.0
		for r, x := range req {
			v += y[r] * float64(x)
		}
		return v
	}
	var nodes []*seatedNode
	for _, pt := range plan {
		for range pt.times {
			n := &seatedNode{kind: pt.kind, free: slices.Clone(pt.kind.free), seats: make([]int, len(buckets)), over: make([]float64, p.width), load: map[int]int{}}
			for _, l := range pt.load {
				n.seats[l.item] = l.n
			}
			nodes = append(nodes, n)
		}
	}
	order := make([]int, len(buckets))
	for b := range order {
		order[b] = b
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(worth(q.items[b].req), worth(q.items[a].req)) })
	rem := make([]int, len(p.items))
	var homeless []int
	give := func(n *seatedNode, j int) {
		for r, x := range p.items[j].req {
			n.free[r] -= x
		}
		n.load[j]++
	}
	off := make([]float64, p.width)
	for _, b := range order {
		var open []*seatedNode
		for _, n := range nodes {
			if n.seats[b] > 0 {
				open = append(open, n)
			}
		}
		members := slices.Clone(buckets[b].items)
		slices.SortStableFunc(members, func(x, z int) int {
			return cmp.Compare(worth(p.items[z].req), worth(p.items[x].req))
		})
		for _, j := range members {
			req := p.items[j].req
			for r, x := range req {
				off[r] = y[r] * float64(x-q.items[b].req[r])
			}
			for range p.items[j].it.n {
				best, least := -1, math.Inf(1)
				for i, n := range open {
					d := 0.0
					for r, x := range n.over {
						d += (x+off[r])*(x+off[r]) - x*x
					}
					if d < least && vectorFits(req, n.free) {
						best, least = i, d
					}
				}
				if best < 0 {
					homeless = append(homeless, j)
					continue
				}
				n := open[best]
				give(n, j)
				for r := range off {
					n.over[r] += off[r]
				}
				if n.seats[b]--; n.seats[b] == 0 {
					open = slices.Delete(open, best, best+1)
				}
			}
		}
	}
	// The largest first, each to the node that it fills best.
	slices.SortStableFunc(homeless, func(a, b int) int { return cmp.Compare(worth(p.items[b].req), worth(p.items[a].req)) })
	for _, j := range homeless {
		var best *seatedNode
		least := math.Inf(1)
		for _, n := range nodes {
			if n.kind.col != nil && p.items[j].it.cols.has(n.kind.col.index) && vectorFits(p.items[j].req, n.free) {
				if w := worth(n.free); w < least {
					best, least = n, w
				}
			}
		}
		if best == nil {
			rem[j]++
			continue
		}
		give(best, j)
	}
	var out []pattern
	for _, n := range nodes {
		var load []share
		for j, c := range n.load {
			load = append(load, share{j, c})
		}
		if len(load) == 0 {
			continue
		}
		slices.SortFunc(load, func(a, b share) int { return cmp.Compare(a.item, b.item) })
		i := slices.IndexFunc(p.kinds, func(k *kind) bool { return k.col == n.kind.col })
		out = append(out, pattern{p.downsize(p.kinds[i], load, nil, nil), load, 1})
	}
	pi := make([]float64, len(p.items))
	for j, it := range p.items {
		pi[j] = worth(it.req)
	}
	rest, _, _ := p.greedy(pi, rem, inf, nil)
	return append(out, keep(rest)...)
}
