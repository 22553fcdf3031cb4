package capacity

import "sort"

// stepWork is what a step of the search takes, in units of packer.work.
const stepWork = 5

// descent is the state of a knapsack's search.
type descent struct {
	// value of the best content so far, and how many more places may be looked at.
	value float64
	steps int
	// trial is what is being tried, by candidate; best the best content found, empty
	// as long as nothing is better than what was taken before.
	trial, best []int32
	// weight and worth are what all pods of the candidates before each add up to.
	weight, worth []float64
}

// search looks for a better content depth first, densest candidates first, in
// at most that many steps, and returns a proven upper bound of any content's
// value; contents of up to least are of no use, and not told apart. The bound of a
// branch is the fractional knapsack under the surrogate constraint (the resources added
// up at the relaxation's prices), which by weak duality holds at any prices.
func (k *knapsack) search(least float64, steps int) float64 {
	d := &k.descent
	d.value, d.steps = max(k.worthOf(), least), steps
	room := 0.0
	for r, f := range k.t.free {
		room += k.y[r] * float64(max(f, 0))
	}
	k.free = append(k.free[:0], k.t.free...)
	clear(k.taken)
	d.trial = resized(d.trial, len(k.cand))
	d.best = d.best[:0]
	clear(d.trial)
	d.weight, d.worth = append(d.weight[:0], 0), append(d.worth[:0], 0)
	for i := range k.cand {
		c := &k.cand[i]
		d.weight = append(d.weight, d.weight[i]+c.weight*float64(c.upper))
		d.worth = append(d.worth, d.worth[i]+c.value*float64(c.upper))
	}
	top := k.descend(0, room, 0)
	k.p.work += int64(len(k.cand)/8 + (steps-d.steps)*stepWork)
	for i, n := range d.best {
		k.cand[i].n = int(n)
	}
	// Floating point may have rounded down.
	return max(top, d.value) * (1 + 1e-9)
}

// fraction bounds what the candidates from i on add with that much room.
func (k *knapsack) fraction(i int, room float64) float64 {
	d := &k.descent
	j := i + sort.Search(len(k.cand)-i, func(x int) bool { return d.weight[i+x+1]-d.weight[i] > room })
	v := d.worth[j] - d.worth[i]
	if j < len(k.cand) {
		v += k.cand[j].value * max(0, room-(d.weight[j]-d.weight[i])) / k.cand[j].weight
	}
	return v
}

// descend decides on candidate i and those behind it, value being what has been
// taken, and returns an upper bound of the value of any content that has it.
func (k *knapsack) descend(i int, room, value float64) float64 {
	d := &k.descent
	if i == len(k.cand) {
		if value > d.value*(1+1e-12) {
			d.value = value
			d.best = append(d.best[:0], d.trial...)
		}
		return value
	}
	c := &k.cand[i]
	it := k.p.items[c.item]
	top := 0.0
	n := it.copies(k.free, c.upper)
	picky := k.p.conflict[c.item] != nil
	if picky && k.conflicts(c.item) {
		n = 0
	}
	for ; n >= 0; n-- {
		left := max(0, room-c.weight*float64(n))
		above := value + c.value*float64(n) + k.fraction(i+1, left)
		// Taking fewer of the densest candidate can only lower the bound.
		if above <= d.value*(1+1e-9) || d.steps <= 0 {
			return max(top, above)
		}
		d.steps--
		k.use(it, n)
		d.trial[i] = int32(n)
		if picky && n > 0 {
			k.taken.set(c.item)
		}
		top = max(top, k.descend(i+1, left, value+c.value*float64(n)))
		d.trial[i] = 0
		if picky {
			k.taken.clear(c.item)
		}
		k.use(it, -n)
	}
	return top
}
