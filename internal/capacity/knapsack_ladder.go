package capacity

import "slices"

// Dynamic programming over one resource, while the others are bought at the
// relaxation's prices (Lagrange): to prove, and to find.

// rungs is how finely a resource is divided.
const (
	provingRungs = 1024
	findingRungs = 256
)

// dynamic is the state of a knapsack's dynamic programming.
type dynamic struct {
	// rung is the best value by what is taken of the resource.
	rung []float64
	// lots in the order in which they were offered, and which rungs each took.
	lots []lot
	took []uint64
	// before is what was taken before, by candidate.
	before []int
}

// lot is a number of pods of a candidate that are taken together.
type lot struct{ cand, n, weight int }

// start clears the ladder for the resource, of that many rungs at most: how much
// a rung is, and which is the last one.
func (k *knapsack) start(r, rungs int) (unit int64, last int) {
	unit = 0
	for i := range k.cand {
		unit = gcd(unit, k.p.items[k.cand[i].item].req[r])
	}
	free := k.t.free[r]
	unit = max(unit, (free+int64(rungs)-1)/int64(rungs), 1)
	last = int(free / unit)
	k.dynamic.rung = resized(k.dynamic.rung, last+1)
	clear(k.dynamic.rung)
	return unit, last
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// ladder is an upper bound of the value of any content: exact in resource r, of
// which whole pods must fit, but for requests that are rounded down to units.
func (k *knapsack) ladder(r int) float64 {
	unit, last := k.start(r, provingRungs)
	base := 0.0
	for q, f := range k.t.free {
		if q != r {
			base += k.y[q] * float64(max(f, 0))
		}
	}
	for i := range k.cand {
		c := &k.cand[i]
		v := k.valueBeside(c, r)
		if v <= 0 {
			continue
		}
		w := int(k.p.items[c.item].req[r] / unit)
		if w == 0 {
			base += v * float64(c.upper)
			continue
		}
		k.climb(last, w, min(c.upper, last/w), v, nil)
	}
	// Floating point may have rounded down.
	return (base + k.dynamic.rung[last]) * (1 + 1e-9)
}

// valueBeside is the candidate's value less the prices of what it takes of all
// resources but r.
func (k *knapsack) valueBeside(c *candidateItem, r int) float64 {
	v := c.value
	for _, a := range k.p.items[c.item].takes {
		if a.r != r {
			v -= k.y[a.r] * float64(a.x)
		}
	}
	return v
}

// climb lets up to upper pods of weight w and value v onto the ladder, in lots
// of 1, 2, 4, …, so that every number can be made. It notes which lots took which
// rung, when asked.
func (k *knapsack) climb(last, w, upper int, v float64, note func(lot int) bitset) {
	for left, lot := upper, 1; left > 0; lot *= 2 {
		lot = min(lot, left)
		left -= lot
		weight, value := w*lot, v*float64(lot)
		var took bitset
		if note != nil {
			took = note(lot)
		}
		rung := k.dynamic.rung[:last+1]
		from := rung[:max(0, len(rung)-weight)]
		to := rung[len(rung)-len(from):]
		for x := len(from) - 1; x >= 0; x-- {
			if b := from[x] + value; b > to[x] {
				to[x] = b
				if took != nil {
					took.set(weight + x)
				}
			}
		}
		k.p.work += int64(last / 8)
	}
}

// rebuild looks for a better content by resource r, requests rounded up. What
// then exceeds other resources is taken out again.
func (k *knapsack) rebuild(r int) {
	d := &k.dynamic
	worth := k.worthOf()
	unit, last := k.start(r, findingRungs)
	d.lots, d.took = d.lots[:0], d.took[:0]
	words := (last + 64) / 64
	for i := range k.cand {
		c := &k.cand[i]
		v := k.valueBeside(c, r)
		w := int((k.p.items[c.item].req[r] + unit - 1) / unit)
		if v <= 0 || w == 0 {
			continue
		}
		k.climb(last, w, min(c.upper, last/w), v, func(size int) bitset {
			d.lots = append(d.lots, lot{i, size, w * size})
			from := len(d.took)
			for range words {
				d.took = append(d.took, 0)
			}
			return bitset(d.took[from : from+words])
		})
	}
	d.before = resized(d.before, len(k.cand))
	for i := range k.cand {
		d.before[i] = k.cand[i].n
		k.take(&k.cand[i], -k.cand[i].n)
	}
	for i, x := len(d.lots)-1, last; i >= 0; i-- {
		if bitset(d.took[i*words : (i+1)*words]).has(x) {
			k.take(&k.cand[d.lots[i].cand], d.lots[i].n)
			x -= d.lots[i].weight
		}
	}
	// The least dense leave first.
	for i := len(k.cand) - 1; i >= 0; i-- {
		c := &k.cand[i]
		for c.n > 0 && k.overfull(k.p.items[c.item].takes) {
			k.take(c, -1)
		}
	}
	k.topUp()
	k.exchange()
	if k.worthOf() > worth {
		return
	}
	for i := range k.cand {
		c := &k.cand[i]
		k.take(c, d.before[i]-c.n)
	}
}

// overfull says whether one of these resources is exceeded.
func (k *knapsack) overfull(takes []amount) bool {
	return slices.ContainsFunc(takes, func(a amount) bool { return k.free[a.r] < 0 })
}
