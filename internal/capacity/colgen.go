package capacity

import (
	"cmp"
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

// masterColumn is a pattern with its cost; without a kind it is the surplus of
// item load[0].item, which may be seated more often than there are pods.
type masterColumn struct {
	kind *kind
	load []share
	cost float64
}

// entry is the column's coefficients, by item.
func (c *masterColumn) each(f func(item int, a float64)) {
	if c.kind == nil {
		f(c.load[0].item, -1)
		return
	}
	for _, l := range c.load {
		f(l.item, float64(l.n))
	}
}

// priced is a candidate to enter the mixture.
type pricedPattern struct {
	masterColumn
	gain float64
}

const (
	// refactorAfter pivots the inverse is computed afresh: errors add up.
	refactorAfter = 150
	// naps is how many rounds a kind is left out per 100 % that its best content
	// is short of its price.
	naps = 100
	// smoothing is the center's share in the worths that patterns are sought at.
	smoothing = 0.8
	// mostSteps are spent on the search of each knapsack before nothing better is
	// taken to exist.
	mostSteps = 20000
	// maxMasterItems bounds the rows: a pivot costs their square.
	maxMasterItems = 400
)

// generate solves the master until nothing better is found or p.work has
// reached end. start are patterns that seat all pods, worth what pods are worth
// there. It returns the mixture's
// patterns, rounded down, and the duals; not ok when the start was no basis.
func (p *packer) generate(start []pattern, worth []float64, end int64) (rounded []pattern, pi []float64, ok bool) {
	m := newMaster(p)
	if m == nil {
		return nil, nil, false
	}
	for i := range start {
		m.enter(p, masterColumn{start[i].kind, slices.Clone(start[i].load), start[i].kind.cost(start[i].load)})
	}
	have := make([]int, len(p.items))
	for j, it := range p.items {
		have[j] = it.it.n
	}
	var found []pricedPattern
	var load []share
	// Duals jump about while they are far from the best; so patterns are sought
	// at a mean of the duals and of the worths that have proven most so far
	// (Wentges, 1997).
	center, sought := slices.Clone(worth), make([]float64, len(m.pi))
	proven, steps, rounds := 0.0, searchSteps, 0
	smooth := smoothing
	// Kinds that are far from being worth their price are left out for a while.
	asleep := make([]int, len(p.kinds))
	for p.work < end {
		// Where more pods than wanted would cost less, let there be more.
		for j, y := range m.pi {
			if y < -1e-10 && p.work < end {
				m.enter(p, masterColumn{load: []share{{j, 1}}})
			}
		}
		rounds++
		value := 0.0
		for j := range sought {
			sought[j] = max(0, smooth*center[j]+(1-smooth)*m.pi[j])
			value += sought[j] * m.demand[j]
		}
		found = found[:0]
		top := 0.0
		whole := true
		for t, k := range p.kinds {
			if asleep[t] > rounds {
				whole = false
				continue
			}
			var v float64
			load, v = p.knap.best(p, k, sought, have, load[:0], steps)
			top = max(top, v/k.price)
			asleep[t] = rounds + 1 + int(min(20, max(0, 1-v/k.price)*naps))
			v = -k.price
			for _, l := range load {
				v += k.worth(m.pi, l.item) * float64(l.n)
			}
			if v > 1e-7*k.price {
				found = append(found, pricedPattern{masterColumn{k, slices.Clone(load), k.cost(load)}, v / k.price})
			}
		}
		if top > 0 && value/top > proven {
			proven = value / top
			copy(center, sought)
		}
		if whole && proven >= m.cost()*(1-1e-5) || len(found) == 0 {
			clear(asleep)
			switch {
			case !whole:
			case smooth > 0 && len(found) == 0:
				smooth = 0
			case steps < mostSteps:
				// The knapsacks may just not have been looked at closely enough.
				steps, proven = 8*steps, 0
			default:
				end = p.work
			}
			if len(found) == 0 {
				continue
			}
		}
		smooth = smoothing
		slices.SortStableFunc(found, func(a, b pricedPattern) int { return cmp.Compare(b.gain, a.gain) })
		for i := range found[:min(len(found), 12)] {
			m.enter(p, found[i].masterColumn)
		}
	}
	for i, c := range m.basis {
		if times := int(m.x[i] + 1e-6); times > 0 && c.kind != nil {
			rounded = append(rounded, pattern{c.kind, c.load, times})
		}
	}
	return rounded, center, true
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
		if t := math.Max(0, m.x[i]) / w; t < step-1e-12 || t <= step+1e-12 && leave >= 0 && w > m.w[leave] {
			step, leave = math.Min(step, t), i
		}
	}
	p.work += int64(n * n / 4)
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
	p.work += int64(n * n * n / 4)
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
