package capacity

import (
	"maps"
	"math"
	"slices"
)

// sameRatio is by what share ratios may differ that count as equal.
const sameRatio = 1e-9

// greedy packs rem pods of each item at worths pi and returns the patterns,
// their cost and how many pods have no place (limits only). It gives up, with
// an infinite cost, once that reaches most. Kinds in banned are not bought. The
// patterns are valid until the next call.
func (p *packer) greedy(pi []float64, rem []int, most float64, banned bitset) (ps []pattern, cost float64, left int) {
	g := &p.grd
	g.start(p)
	total, value := 0, 0.0
	for j, n := range rem {
		total += n
		value += pi[j] * float64(n)
	}
	limits := p.limitsCopy()
	closing := closeOut{cost: inf}
	// least is what ratio is not worth looking at: another content for what is left
	// now has more.
	least := 0.0
	for step, tried := 0, -1; total > 0; {
		if tried < step {
			p.tryToClose(rem, g.sum, cost, len(g.out), limits, &closing)
			tried = step
		}
		// What is left is worth something everywhere; that much it will cost.
		if cost >= most {
			break
		}
		t := p.argmax(g.ratio, value, banned)
		p.work += int64(len(p.kinds))
		if t < 0 {
			break
		}
		k := p.kinds[t]
		if g.fresh[t] != step {
			if limits.room(k.col) == 0 {
				g.ratio[t] = -1
				continue
			}
			v := g.ceiling(p, t, pi, rem)
			promising := v > least*k.price
			if promising {
				g.load[t], v, _ = p.knap.above(least*k.price, p, k, pi, rem, g.load[t][:0], searchSteps)
				if len(p.knap.y) > 0 {
					g.duals[t] = append(g.duals[t][:0], p.knap.y...)
					g.latest = g.duals[t]
				}
			}
			switch g.ratio[t] = v / k.price; {
			case v <= 0:
				g.ratio[t] = -1
			case promising && g.ratio[t] > least:
				least, g.fresh[t] = max(least, g.ratio[t]*(1-2*sameRatio)), step
			}
			continue
		}
		chosen := p.downsize(k, g.load[t], limits, banned)
		times := limits.room(chosen.col)
		for _, l := range g.load[t] {
			times = min(times, rem[l.item]/l.n)
		}
		g.add(chosen, g.load[t], times)
		cost += chosen.cost(g.load[t]) * float64(times)
		limits.take(chosen.col, times)
		for _, l := range g.load[t] {
			rem[l.item] -= l.n * times
			total -= l.n * times
			value -= pi[l.item] * float64(l.n*times)
		}
		step++
		least = 0
	}
	if closing.cost < inf && (total > 0 || closing.cost < cost) {
		g.out = g.out[:closing.patterns]
		g.add(closing.kind, closing.load, 1)
		return g.out, closing.cost, 0
	}
	if cost >= most {
		return nil, inf, total
	}
	return g.out, cost, total
}

// greedyState are the greedy's buffers, reused.
type greedyState struct {
	ratio []float64
	fresh []int
	load  [][]share
	// duals of the last relaxation for each kind, and those of the latest for any;
	// empty: there was none.
	duals  [][]float64
	latest []float64
	sum    []int64
	out    []pattern
	arena  []share
}

func (g *greedyState) start(p *packer) {
	n := len(p.kinds)
	g.ratio, g.fresh, g.load = resized(g.ratio, n), resized(g.fresh, n), resized(g.load, n)
	g.duals = resized(g.duals, n)
	for i := range n {
		g.ratio[i], g.fresh[i] = inf, -1
		g.duals[i] = g.duals[i][:0]
	}
	g.sum = resized(g.sum, p.width)
	g.out, g.arena, g.latest = g.out[:0], g.arena[:0], nil
}

// ceiling bounds what a kind can hold without a relaxation of its own: most kinds can be
// told from the best by what was scarce before, on their own nodes or on others.
func (g *greedyState) ceiling(p *packer, t int, pi []float64, rem []int) float64 {
	v := inf
	for _, y := range [][]float64{g.duals[t], g.latest} {
		if len(y) > 0 {
			v = min(v, p.ceiling(p.kinds[t], pi, rem, y))
		}
	}
	return v
}

func (g *greedyState) add(k *kind, load []share, times int) {
	from := len(g.arena)
	g.arena = append(g.arena, load...)
	g.out = append(g.out, pattern{kind: k, load: g.arena[from:len(g.arena):len(g.arena)], times: times})
}

// keep copies patterns out of the greedy's buffers.
func keep(ps []pattern) []pattern {
	out := slices.Clone(ps)
	for i := range out {
		out[i].load = slices.Clone(out[i].load)
	}
	return out
}

// argmax is the kind with the best ratio of value to price; no node can be
// worth more than all that is left. -1: none.
func (p *packer) argmax(ratio []float64, value float64, banned bitset) int {
	best, r := -1, 0.0
	for t, x := range ratio {
		if x < 0 || banned != nil && banned.has(t) {
			continue
		}
		x = min(x, value/p.kinds[t].price)
		// Among equals the larger node, so that there are fewer.
		if best < 0 || x > r*(1+sameRatio) || x > r*(1-sameRatio) && p.kinds[t].price > p.kinds[best].price {
			best, r = t, x
		}
	}
	return best
}

// downsize is the kind that holds the load at the least cost.
func (p *packer) downsize(t *kind, load []share, limits sellerLimits, banned bitset) *kind {
	best, cost := t, t.cost(load)
	for i, k := range p.kinds {
		if k.price >= cost {
			break
		}
		if (banned == nil || !banned.has(i)) && k.holds(p, load) && limits.room(k.col) > 0 {
			if c := k.cost(load); c < cost {
				best, cost = k, c
			}
		}
	}
	return best
}

func (k *kind) holds(p *packer, load []share) bool {
	for _, l := range load {
		if !k.allows.has(l.item) {
			return false
		}
	}
	for r, free := range k.free {
		x := int64(0)
		for _, l := range load {
			x += p.items[l.item].req[r] * int64(l.n)
		}
		if x > 0 && x > free {
			return false
		}
	}
	return true
}

// closeOut remembers the cheapest way to finish with one last node.
type closeOut struct {
	cost     float64
	patterns int
	kind     *kind
	load     []share
}

// tryToClose notes the cost of one node for all that is left, if there is such
// a node: without it the greedy would end in a tail of small ones.
func (p *packer) tryToClose(rem []int, sum []int64, cost float64, patterns int, limits sellerLimits, best *closeOut) {
	clear(sum)
	for j, n := range rem {
		if n == 0 {
			continue
		}
		if n > p.items[j].most {
			return
		}
		for r, x := range p.items[j].req {
			sum[r] += x * int64(n)
		}
	}
	var load []share
	for _, k := range p.kinds {
		if cost+k.price >= best.cost {
			return
		}
		if !vectorFits(sum, k.free) || limits.room(k.col) == 0 {
			continue
		}
		if load == nil {
			for j, n := range rem {
				if n > 0 {
					load = append(load, share{j, n})
				}
			}
			if p.anyConflict(load) {
				return
			}
		}
		if !k.holds(p, load) || cost+k.cost(load) >= best.cost {
			continue
		}
		*best = closeOut{cost + k.cost(load), patterns, k, load}
	}
}

func (p *packer) anyConflict(load []share) bool {
	for i, a := range load {
		c := p.conflict[a.item]
		if c == nil {
			continue
		}
		for _, b := range load[:i] {
			if c.has(b.item) {
				return true
			}
		}
	}
	return false
}

// sellerLimits are limits to plan against, by seller; nil: none has any.
type sellerLimits map[*seller]limitsLeft

func (p *packer) limitsCopy() sellerLimits {
	if !p.limited {
		return nil
	}
	l := sellerLimits{}
	for _, k := range p.kinds {
		s := k.col.seller
		if s.left != nil && l[s] == nil {
			l[s] = maps.Clone(s.left)
		}
	}
	return l
}

func (l sellerLimits) room(c *column) int {
	if l == nil {
		return math.MaxInt32
	}
	return l[c.seller].room(c)
}

func (l sellerLimits) take(c *column, n int) {
	if l != nil {
		l[c.seller].take(c, n)
	}
}
