package capacity

import (
	"cmp"
	"math"
	"slices"
)

// knapsack finds a valuable content for one node: linear relaxation, rounded
// down, filled up by value per resource at the relaxation's prices, improved by
// single exchanges. Its buffers are reused.
type knapsack struct {
	lp    simplex
	cand  []candidateItem
	free  []int64
	taken bitset
}

type candidateItem struct {
	item    int
	upper   int
	n       int
	x       float64
	density float64
}

const (
	// maxExchange bounds how many candidates the exchange step looks at.
	maxExchange = 48
	// maxCandidates bounds the items that one knapsack chooses from. Where there
	// are more, most are much alike, and every so manieth will do.
	maxCandidates = 256
)

// best appends the content for kind t to load and returns its value at worths
// pi. rem bounds the pods of each item.
func (k *knapsack) best(p *packer, t *kind, pi []float64, rem []int, load []share) ([]share, float64) {
	k.cand = k.cand[:0]
	k.free = append(k.free[:0], t.free...)
	all := true
	conflicts := false
	left := 0
	for _, j := range t.allowed {
		if rem[j] > 0 {
			left++
		}
	}
	stride := max(1, left/maxCandidates)
	for _, j := range t.allowed {
		it := p.items[j]
		if rem[j] == 0 || pi[j] <= 0 {
			continue
		}
		if left--; stride > 1 && left%stride != 0 {
			all = false
			continue
		}
		u := min(rem[j], it.most, copies(it.req, t.free))
		all = all && u == rem[j]
		conflicts = conflicts || p.conflict[j] != nil
		k.cand = append(k.cand, candidateItem{item: int(j), upper: u})
	}
	p.work += int64(len(t.allowed)/16 + 4*len(k.cand))
	if len(k.cand) == 0 {
		return load, 0
	}
	if all && !conflicts && k.takeAll(p) {
		return k.result(pi, load)
	}
	if conflicts {
		k.taken = resized(k.taken, (len(p.items)+63)/64)
		clear(k.taken)
	}
	k.relax(p, t, pi)
	// Denser ones first, so that of two that conflict the better one stays.
	for i := range k.cand {
		c := &k.cand[i]
		if n := min(int(c.x+1e-9), c.upper); n > 0 && !k.conflicts(p, c.item) {
			k.take(p, c, n)
		}
	}
	k.topUp(p)
	k.exchange(p, pi)
	return k.result(pi, load)
}

func (k *knapsack) conflicts(p *packer, item int) bool {
	c := p.conflict[item]
	return c != nil && c.intersects(k.taken)
}

func (k *knapsack) take(p *packer, c *candidateItem, n int) {
	for r, x := range p.items[c.item].req {
		k.free[r] -= x * int64(n)
	}
	c.n += n
	if p.conflict[c.item] != nil {
		if c.n > 0 {
			k.taken.set(c.item)
		} else {
			k.taken.clear(c.item)
		}
	}
}

// takeAll takes everything if it fits.
func (k *knapsack) takeAll(p *packer) bool {
	for i := range k.cand {
		c := &k.cand[i]
		for r, x := range p.items[c.item].req {
			k.free[r] -= x * int64(c.upper)
		}
	}
	for _, f := range k.free {
		if f < 0 {
			for i := range k.cand {
				c := &k.cand[i]
				for r, x := range p.items[c.item].req {
					k.free[r] += x * int64(c.upper)
				}
			}
			return false
		}
	}
	for i := range k.cand {
		k.cand[i].n = k.cand[i].upper
	}
	return true
}

// relax solves the linear relaxation and orders the candidates by value per
// resource at its prices.
func (k *knapsack) relax(p *packer, t *kind, pi []float64) {
	k.lp.reset(p.width)
	for r, f := range t.free {
		k.lp.b[r] = 0
		if f > 0 {
			k.lp.b[r] = 1
		}
	}
	top := 0.0
	for i := range k.cand {
		top = math.Max(top, pi[k.cand[i].item])
	}
	for i := range k.cand {
		c := &k.cand[i]
		a := k.lp.add(pi[c.item]/top, float64(c.upper))
		for r, x := range p.items[c.item].req {
			if x > 0 {
				a[r] = float64(x) / float64(t.free[r])
			}
		}
	}
	k.lp.solve()
	for i := range k.cand {
		c := &k.cand[i]
		cost := 1e-12
		for r, x := range p.items[c.item].req {
			if x > 0 {
				cost += (k.lp.y[r] + 1e-9) * float64(x) / float64(t.free[r])
			}
		}
		c.x, c.density = k.lp.x[i], pi[c.item]/cost
	}
	slices.SortFunc(k.cand, func(a, b candidateItem) int {
		return cmp.Or(cmp.Compare(b.density, a.density), cmp.Compare(a.item, b.item))
	})
}

// topUp adds what still fits, densest first.
func (k *knapsack) topUp(p *packer) {
	for i := range k.cand {
		c := &k.cand[i]
		if c.n == c.upper || k.conflicts(p, c.item) {
			continue
		}
		if n := min(c.upper-c.n, copies(p.items[c.item].req, k.free)); n > 0 {
			k.take(p, c, n)
		}
	}
}

// exchange gives up one pod for others where that gains.
func (k *knapsack) exchange(p *packer, pi []float64) {
	n := min(len(k.cand), maxExchange)
	for out := range n {
		a := &k.cand[out]
		if a.n == 0 {
			continue
		}
		k.take(p, a, -1)
		best, many, gain := -1, 0, pi[a.item]*(1+1e-9)
		for in := range n {
			b := &k.cand[in]
			if in == out || b.n == b.upper || k.conflicts(p, b.item) {
				continue
			}
			m := min(b.upper-b.n, copies(p.items[b.item].req, k.free))
			if g := pi[b.item] * float64(m); m > 0 && g > gain {
				best, many, gain = in, m, g
			}
		}
		if best < 0 {
			k.take(p, a, 1)
			continue
		}
		k.take(p, &k.cand[best], many)
		k.topUp(p)
	}
}

func (k *knapsack) result(pi []float64, load []share) ([]share, float64) {
	v := 0.0
	for i := range k.cand {
		c := &k.cand[i]
		if c.n > 0 {
			load = append(load, share{c.item, c.n})
			v += pi[c.item] * float64(c.n)
		}
	}
	slices.SortFunc(load, func(a, b share) int { return cmp.Compare(a.item, b.item) })
	return load, v
}
