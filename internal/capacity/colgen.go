package capacity

import (
	"math"
	"slices"
)

// master is the linear program over patterns: the cheapest mixture of patterns,
// in fractions, that seats all pods (Gilmore and Gomory, 1961). Patterns are
// generated as they are needed: at the duals of the current mixture the knapsack
// finds patterns that are worth more than they cost. The mixture, rounded, is a
// good plan when there are more nodes than items; the duals are what pods are
// worth, and prove a lower bound.
type master struct {
	// demand, inverse of the basis (rows × rows), values of the basis, duals.
	demand []float64
	inv    []float64
	x, pi  []float64
	w      []float64
	basis  []masterColumn
	pivots int
}

// mixture is the answer of a master.
type mixture struct {
	// whole are its patterns, each as often as it is whole.
	whole []pattern
	// worth of a pod of each item.
	worth []float64
	// cost of it all, fractions too.
	cost float64
	// near are patterns that the mixture has, or almost.
	near []pattern
}

// masterColumn is a pattern with its cost; without a kind it is the surplus of
// item load[0].item, which may be seated more often than there are pods.
type masterColumn struct {
	kind *kind
	load []share
	cost float64
}

// each tells the column's coefficients, by item.
func (c *masterColumn) each(f func(item int, a float64)) {
	if c.kind == nil {
		f(c.load[0].item, -1)
		return
	}
	for _, l := range c.load {
		f(l.item, float64(l.n))
	}
}

const (
	// refactorAfter pivots the inverse is computed afresh: errors add up.
	refactorAfter = 150
	// naps is how many rounds a kind is left out per 100 % that its best content
	// is short of its price.
	naps = 100
	// closeEnough to the mixture's cost, as a share, a plan is done.
	closeEnough = 0.0005
	// leastGain is by what share of its price a pattern must be worth more.
	leastGain = 1e-7
	// smoothing is the center's share in the worths that patterns are sought at.
	smoothing = 0.5
	// mostSteps are spent on the search of each knapsack before nothing better is
	// taken to exist.
	mostSteps = 200000
	// almost in the mixture is a pattern that is worth its price but for that share.
	almost = 0.03
	// maxMasterItems bounds the rows: a pivot costs their square.
	maxMasterItems = 400
)

// generate solves the master until nothing better is found or p.work has
// reached end. start are patterns that seat all pods, worth what pods are worth
// there. Not ok when there was no basis to start with.
func (p *packer) generate(start []pattern, worth []float64, end int64) (mix mixture, ok bool) {
	m := newMaster(p)
	if m == nil {
		return mixture{}, false
	}
	// All patterns that were found, for those that the mixture did not want may be
	// wanted at other duals.
	var pool []masterColumn
	for i := range start {
		pool = append(pool, masterColumn{start[i].kind, slices.Clone(start[i].load), start[i].kind.cost(start[i].load)})
	}
	m.optimise(p, pool, end)
	have := p.demand()
	// Duals jump about while they are far from the best; so patterns are sought
	// at a mean of the duals and of the worths that have proven most so far
	// (Wentges, 1997).
	center, sought := slices.Clone(worth), make([]float64, len(m.pi))
	proven, smooth := 0.0, smoothing
	// Kinds that are far from being worth their price are left out for a while.
	// Where nothing better is found, kinds of which it is not proven that they have
	// nothing are looked at more closely.
	asleep, steps, upper := make([]int, len(p.kinds)), make([]int, len(p.kinds)), make([]float64, len(p.kinds))
	var load []share
	for rounds := 1; p.work < end; rounds++ {
		// Where more pods than wanted would cost less, let there be more.
		for j, y := range m.pi {
			if y < -1e-10 && p.work < end {
				m.enter(p, masterColumn{load: []share{{j, 1}}})
			}
		}
		value := 0.0
		for j := range sought {
			sought[j] = max(0, smooth*center[j]+(1-smooth)*m.pi[j])
			value += sought[j] * m.demand[j]
		}
		known, top, whole := len(pool), 0.0, true
		for t, k := range p.kinds {
			if asleep[t] > rounds {
				whole = false
				continue
			}
			var v float64
			load, v, upper[t] = p.knap.best(p, k, sought, have, load[:0], steps[t])
			upper[t] /= k.price
			top = max(top, upper[t])
			asleep[t] = rounds + 1 + int(min(20, max(0, 1-v/k.price)*naps))
			gain := -k.price
			for _, l := range load {
				gain += k.worth(m.pi, l.item) * float64(l.n)
			}
			if gain > leastGain*k.price {
				pool = append(pool, masterColumn{k, slices.Clone(load), k.cost(load)})
			}
		}
		if whole && top > 0 && value/top > proven {
			proven = value / top
			copy(center, sought)
			if proven >= m.cost()*(1-1e-5) {
				break
			}
		}
		if len(pool) > known {
			m.optimise(p, pool, end)
			smooth = smoothing
			continue
		}
		clear(asleep)
		switch {
		case !whole:
		case smooth > 0:
			smooth = 0
		case !closer(steps, upper):
			end = p.work
		}
	}
	for i, c := range m.basis {
		if times := int(m.x[i] + 1e-6); times > 0 && c.kind != nil {
			mix.whole = append(mix.whole, pattern{c.kind, c.load, times})
		}
	}
	for i := range pool {
		if c := &pool[i]; m.reduced(c) < almost*c.cost {
			mix.near = append(mix.near, pattern{c.kind, c.load, 1})
		}
	}
	mix.worth, mix.cost = m.pi, m.cost()
	for j, y := range mix.worth {
		mix.worth[j] = max(0, y)
	}
	return mix, true
}

// blend is the plan, or that of the best mixture where it is cheaper, with what pods
// are worth then, and by what share it is dearer than the mixture: infinite where
// there is none. Patterns found before are considered; those near the mixture are kept.
func (p *packer) blend(best []pattern, pi []float64, end int64) (ps []pattern, worth []float64, above float64) {
	mix, ok := p.generate(slices.Concat(best, p.near), pi, end)
	if !ok {
		return best, pi, inf
	}
	p.near = mix.near
	if ps := p.complete(mix.whole, mix.worth); cost(ps) < cost(best)-1e-9 {
		best = ps
	}
	return best, mix.worth, cost(best)/mix.cost - 1
}

// closer raises the steps for kinds whose content may be worth more than their
// price; false when there are none that can be looked at more closely.
func closer(steps []int, upper []float64) bool {
	raised := false
	for t := range steps {
		if upper[t] > 1+leastGain && steps[t] < mostSteps {
			steps[t], raised = max(searchSteps, 8*steps[t]), true
		}
	}
	return raised
}

// newMaster starts with a pattern for each item alone, on the kind that is
// cheapest for it.
func newMaster(p *packer) *master {
	n := len(p.items)
	if n > maxMasterItems {
		return nil
	}
	m := &master{demand: make([]float64, n), inv: make([]float64, n*n), x: make([]float64, n), pi: make([]float64, n),
		w: make([]float64, n), basis: make([]masterColumn, n)}
	for j, it := range p.items {
		m.demand[j] = float64(it.it.n)
		best := math.Inf(1)
		for _, k := range p.kinds {
			if !k.allows.has(j) {
				continue
			}
			u := min(copies(it.req, k.free), it.most, it.it.n)
			load := []share{{j, u}}
			if c := k.cost(load) / float64(u); c < best {
				best = c
				m.basis[j] = masterColumn{k, load, k.cost(load)}
			}
		}
		if m.basis[j].kind == nil {
			return nil
		}
		u := float64(m.basis[j].load[0].n)
		m.inv[j*n+j] = 1 / u
		m.x[j] = m.demand[j] / u
	}
	m.duals()
	return m
}

func (m *master) cost() float64 {
	c := 0.0
	for i := range m.basis {
		c += m.basis[i].cost * m.x[i]
	}
	return c
}

func (m *master) duals() {
	n := len(m.demand)
	clear(m.pi)
	for i := range n {
		c := m.basis[i].cost
		if c == 0 {
			continue
		}
		for k, v := range m.inv[i*n : i*n+n] {
			m.pi[k] += c * v
		}
	}
}

// enter brings the column into the basis when that lowers the cost.
func (m *master) enter(p *packer, c masterColumn) bool {
	n := len(m.demand)
	reduced := c.cost
	c.each(func(j int, a float64) { reduced -= m.pi[j] * a })
	if reduced >= -1e-9 {
		return false
	}
	clear(m.w)
	c.each(func(j int, a float64) {
		for i := range n {
			m.w[i] += m.inv[i*n+j] * a
		}
	})
	leave, step := -1, math.Inf(1)
	for i, w := range m.w {
		if w <= 1e-9 {
			continue
		}
		if t := max(0, m.x[i]) / w; t < step-1e-12 || t <= step+1e-12 && leave >= 0 && w > m.w[leave] {
			step, leave = min(step, t), i
		}
	}
	p.work += int64(n * n / 16)
	if leave < 0 {
		return false
	}
	for i, w := range m.w {
		m.x[i] -= step * w
	}
	m.x[leave] = step
	m.basis[leave] = c
	replaceRow(m.inv, m.w, leave)
	// The duals change along the leaving row only.
	for k, v := range m.inv[leave*n : leave*n+n] {
		m.pi[k] += reduced * v
	}
	if m.pivots++; m.pivots%refactorAfter == 0 {
		m.invert(p)
	}
	return true
}

// invert computes the inverse of the basis afresh, by Gauss and Jordan with
// partial pivoting.
func (m *master) invert(p *packer) {
	n := len(m.demand)
	a := make([]float64, n*n)
	inv := make([]float64, n*n)
	for i := range m.basis {
		m.basis[i].each(func(j int, v float64) { a[j*n+i] = v })
		inv[i*n+i] = 1
	}
	p.work += int64(n * n * n / 8)
	for col := range n {
		pivot := col
		for r := col + 1; r < n; r++ {
			if math.Abs(a[r*n+col]) > math.Abs(a[pivot*n+col]) {
				pivot = r
			}
		}
		if math.Abs(a[pivot*n+col]) < 1e-11 {
			return // keep the old one
		}
		if pivot != col {
			for k := range n {
				a[pivot*n+k], a[col*n+k] = a[col*n+k], a[pivot*n+k]
				inv[pivot*n+k], inv[col*n+k] = inv[col*n+k], inv[pivot*n+k]
			}
		}
		f := 1 / a[col*n+col]
		for k := range n {
			a[col*n+k] *= f
			inv[col*n+k] *= f
		}
		for r := range n {
			g := a[r*n+col]
			if r == col || g == 0 {
				continue
			}
			for k := range n {
				a[r*n+k] -= g * a[col*n+k]
				inv[r*n+k] -= g * inv[col*n+k]
			}
		}
	}
	copy(m.inv, inv)
	for i := range n {
		x := 0.0
		for k, v := range m.inv[i*n : i*n+n] {
			x += v * m.demand[k]
		}
		m.x[i] = x
	}
	m.duals()
}

// reduced is what a column of the pool costs more than its pods are worth.
func (m *master) reduced(c *masterColumn) float64 {
	cost := c.cost
	for _, l := range c.load {
		cost -= m.pi[l.item] * float64(l.n)
	}
	return cost
}

// optimise brings columns of the pool into the mixture until none lowers its cost.
func (m *master) optimise(p *packer, pool []masterColumn, end int64) {
	for p.work < end {
		best, at := -leastGain, -1
		for i := range pool {
			c := &pool[i]
			if reduced := m.reduced(c); reduced < best*c.cost {
				best, at = reduced/c.cost, i
			}
		}
		p.work += int64(len(pool) / 2)
		if at < 0 || !m.enter(p, pool[at]) {
			return
		}
	}
}
