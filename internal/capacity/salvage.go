package capacity

import (
	"slices"
)

// Room that a new node has left is worth something to pods yet to come. A batch
// that is planned as if it were the last buys nodes that fit it exactly: small
// ones, which DaemonSets and the ends that no pod fits make dear for their size.
//
// The worth of left-over room at resource prices y, share·y·(free - requests), is
// a constant less share·y·free for each node that is bought: so it only makes
// nodes cheaper, large ones and those at a good price per resource most. No bound
// is touched: those are in plain prices.

// maxSalvage is the largest share of its worth that left-over room is credited
// with. How likely it is to be used is guessed from how much has come before:
// nothing on an empty cluster, whose first batch may be its last.
const maxSalvage = 0.9

// credit says what the left-over room of new nodes is worth.
type credit struct {
	// y are prices of resources, by dimension, share what of their worth counts.
	y     []float64
	share float64
}

// of is what that much room is credited with, in $/h.
func (c *credit) of(free []int64) float64 {
	w := 0.0
	for r, y := range c.y {
		w += y * float64(max(free[r], 0))
	}
	return c.share * w
}

// setCredits makes the kinds cheaper by what their room is worth. Where limits
// make room scarce it does not: what is bought beyond need could be missing
// elsewhere.
func (v *solver) setCredits(p *packer) {
	v.credit = nil
	standing := v.standing()
	if p.limited || slices.Max(standing) == 0 {
		return
	}
	c := &credit{y: p.resourcePricesFor(standing)[:len(v.dims.names)], share: 1}
	there, batch := 0.0, 0.0
	for r, x := range standing {
		there += c.y[r] * x
	}
	for _, it := range p.items {
		batch += c.of(it.it.s.vector) * float64(it.it.n)
	}
	c.share = maxSalvage * there / (there + batch)
	for _, k := range p.kinds {
		k.credit = c.of(k.free)
		k.price -= k.credit
	}
	p.byPrice()
	v.credit = c
}

// standing is what the pods on Berth's nodes take, by dimension: what is to come
// is likely to be of the same kind.
func (v *solver) standing() []float64 {
	sum := make([]float64, len(v.dims.names))
	for _, b := range v.bins[:v.existing] {
		if b.node.Provisioner == "" {
			continue
		}
		for r, name := range v.dims.names {
			sum[r] += float64(max(0, b.node.Allocatable[name]-b.start[r]))
		}
	}
	return sum
}
