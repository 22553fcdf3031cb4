package capacity

import (
	"cmp"
	"slices"
)

// outcome is what attempts have come to.
type outcome struct {
	bins    []*bin
	bound   []seat
	worth   []float64
	unspent int64
	scarce  bool
	// left are pods without a place, waiting all together, by shape in the order of
	// service.
	left    []int
	waiting int
	cost    float64
	exceeds bool
}

func (v *solver) outcome() *outcome {
	o := &outcome{bins: v.bins, bound: slices.Clone(v.bound), worth: slices.Clone(v.worth), unspent: v.unspent, scarce: v.scarce,
		waiting: v.waiting(), cost: v.cost()}
	boundless := v.boundless
	o.exceeds = !v.withinLimits()
	v.boundless = boundless
	for _, s := range v.inOrder() {
		o.left = append(o.left, v.left[s.id])
	}
	return o
}

// better says whether the outcome has places for more pods, or for those that
// come first, or else costs less.
func (o *outcome) better(p *outcome) bool {
	if o.exceeds != p.exceeds {
		return p.exceeds
	}
	return cmp.Or(cmp.Compare(o.waiting, p.waiting), slices.Compare(o.left, p.left), cmp.Compare(o.cost, p.cost-1e-9)) < 0
}

// recall goes back to an outcome.
func (v *solver) recall(o *outcome) {
	v.restore(o.bins, o.bound)
	v.worth, v.unspent, v.scarce = o.worth, o.unspent, o.scarce
}
