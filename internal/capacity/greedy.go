package capacity

import (
	"math"
	"slices"
)

// greedy packs rem pods of each item at worths pi and returns the patterns,
// their cost and how many pods have no place (limits only).
func (p *packer) greedy(pi []float64, rem []int) (ps []pattern, cost float64, left int) {
	k := len(p.kinds)
	ratio := make([]float64, k)
	fresh := make([]int, k)
	load := make([][]share, k)
	for i := range ratio {
		ratio[i], fresh[i] = inf, -1
	}
	total, value := 0, 0.0
	for j, n := range rem {
		total += n
		value += pi[j] * float64(n)
	}
	limits := p.limitsCopy()
	closing := closeOut{cost: inf}
	sum := make([]int64, p.width)
	for step := 0; total > 0; {
		p.tryToClose(rem, sum, cost, len(ps), limits, &closing)
		t := p.argmax(ratio, value)
		p.work += int64(k)
		if t < 0 {
			break
		}
		if fresh[t] != step {
			if limits.room(p.kinds[t].col) == 0 {
				ratio[t] = -1
				continue
			}
			var v float64
			load[t], v = p.knap.best(p, p.kinds[t], pi, rem, load[t][:0])
			ratio[t], fresh[t] = v/p.kinds[t].price, step
			if v <= 0 {
				ratio[t] = -1
			}
			continue
		}
		chosen := p.downsize(p.kinds[t], load[t], limits)
		times := limits.room(chosen.col)
		for _, l := range load[t] {
			times = min(times, rem[l.item]/l.n)
		}
		ps = append(ps, pattern{chosen, slices.Clone(load[t]), times})
		cost += chosen.price * float64(times)
		limits.take(chosen.col, times)
		for _, l := range load[t] {
			rem[l.item] -= l.n * times
			total -= l.n * times
			value -= pi[l.item] * float64(l.n*times)
		}
		step++
	}
	if closing.cost < inf && (total > 0 || closing.cost < cost) {
		return append(ps[:closing.patterns:closing.patterns], closing.last), closing.cost, 0
	}
	return ps, cost, total
}

// argmax is the kind with the best ratio of value to price; no node can be
// worth more than all that is left. -1: none.
func (p *packer) argmax(ratio []float64, value float64) int {
	best, r := -1, 0.0
	for t, x := range ratio {
		if x < 0 {
			continue
		}
		x = math.Min(x, value/p.kinds[t].price)
		// Among equals the larger node, so that there are fewer.
		if best < 0 || x > r*(1+1e-9) || x > r*(1-1e-9) && p.kinds[t].price > p.kinds[best].price {
			best, r = t, x
		}
	}
	return best
}

// downsize is the cheapest kind that holds the load.
func (p *packer) downsize(t *kind, load []share, limits sellerLimits) *kind {
	for _, k := range p.kinds {
		if k.price >= t.price {
			break
		}
		if k.holds(p, load) && limits.room(k.col) > 0 {
			return k
		}
	}
	return t
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
	last     pattern
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
	for _, k := range p.kinds {
		if cost+k.price >= best.cost {
			return
		}
		if !vectorFits(sum, k.free) || limits.room(k.col) == 0 {
			continue
		}
		var load []share
		for j, n := range rem {
			if n > 0 {
				load = append(load, share{j, n})
			}
		}
		if !k.holds(p, load) || p.anyConflict(load) {
			continue
		}
		*best = closeOut{cost + k.price, patterns, pattern{k, load, 1}}
		return
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
			l[s] = limitsLeft{}
			for name, x := range s.left {
				l[s][name] = x
			}
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
