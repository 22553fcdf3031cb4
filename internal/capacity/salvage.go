package capacity

import (
	"math"
	"slices"
)

// Room that a new node has left is worth something to pods yet to come. A batch
// that is planned as if it were the last buys nodes that fit it exactly: small
// ones, which DaemonSets and the ends that no pod fits make dear for their size,
// and whose room is of a kind that the next pods cannot use.
//
// Who is to come is guessed from who is there. The pods on the nodes of the same
// Provisioners are a sample of the mix, so the room of a node is counted in what
// it holds of the mix: its scarcest resource decides, and room of which there is
// none of another is worth nothing. And they say how much is to come: a cluster
// that has grown to D grows beyond D + w with probability D / (D + w), if nothing
// is known of its scale. Room for w is then used to D·ln(1 + w/D), the rest is
// bought in vain. So the larger the cluster, the larger the nodes that pay, and
// nothing is bought ahead on an empty one.
//
// No bound is touched: those are in plain prices.

// maxSalvage is the share of its worth that room for pods to come is credited
// with at most.
const maxSalvage = 0.99

// credit says what the left-over room of new nodes is worth.
type credit struct {
	// mix is what the pods that are there and those of the batch take, by
	// dimension, worth what all of it costs, in $/h at prices y.
	mix   []float64
	worth float64
	y     []float64
	// there is the worth of what is there, batch that of the items.
	there, batch float64
	// price of room that is worth 1 $/h: on the kind of node that is cheapest for
	// the mix, risks included.
	price float64
}

// room is what that much free room holds of the mix, in $/h.
func (c *credit) room(free []int64) float64 {
	part := math.Inf(1)
	for r, x := range c.mix {
		if x > 0 {
			part = min(part, float64(max(free[r], 0))/x)
		}
	}
	return part * c.worth
}

// dear is what a node of the column costs, and how much of its room that the
// batch itself cannot fill is likely to stay empty.
func (c *credit) dear(col *column) float64 {
	ahead := max(0, c.room(col.free)-c.batch)
	share := min(1, col.rate/(c.there+c.batch))
	return col.weighed(share) + ahead - c.there*math.Log1p(ahead/c.there)
}

// of is what left-over room is credited with, in $/h.
func (c *credit) of(free []int64) float64 {
	return maxSalvage * c.there / c.worth * c.price * c.room(free)
}

// net is what a node of the column costs, less what its left-over room is worth.
func (c *credit) net(col *column, free []int64) float64 { return c.dear(col) - c.of(free) }

// setCredits makes the kinds cheaper by what their room is worth, as far as that
// can be said of an empty node: at the prices of resources, by a share that grows
// with what is there. Where limits make room scarce it does not: what is bought
// beyond need could be missing elsewhere. Nor for accelerators, which are too dear
// for guesses.
func (v *solver) setCredits(p *packer) {
	v.credit = nil
	if p.limited || len(p.kinds) == 0 || slices.ContainsFunc(p.items, func(it *packItem) bool { return v.special(it.it) }) {
		return
	}
	standing := v.standing(p)
	if slices.Max(standing) == 0 {
		return
	}
	c := &credit{mix: slices.Clone(standing), y: p.resourcePricesFor(standing)[:len(standing)]}
	for _, it := range p.items {
		for r, x := range it.it.s.vector {
			c.mix[r] += float64(x) * float64(it.it.n)
		}
	}
	for r, y := range c.y {
		c.there += y * standing[r]
		c.worth += y * c.mix[r]
	}
	if c.there <= 0 {
		return
	}
	c.batch = c.worth - c.there
	c.price = math.Inf(1)
	for _, k := range p.kinds {
		if room := c.room(k.col.free); room > 0 {
			c.price = min(c.price, c.dear(k.col)/room)
		}
	}
	if math.IsInf(c.price, 1) {
		return
	}
	share := packedSalvage * c.there / c.worth
	for _, k := range p.kinds {
		for r, y := range c.y {
			k.credit += share * y * float64(max(k.free[r], 0))
		}
		k.price -= k.credit
	}
	p.byPrice()
	v.credit = c
}

// packedSalvage is the share for the packing of whole batches, whose nodes have
// little room left.
const packedSalvage = 0.9

// standing is what the pods on nodes of the kinds' Provisioners take, by
// dimension: what is to come is likely to be of the same sort.
func (v *solver) standing(p *packer) []float64 {
	sellers := map[string]bool{}
	for _, k := range p.kinds {
		sellers[k.col.seller.p.Name] = true
	}
	sum := make([]float64, len(v.dims.names))
	for _, b := range v.bins[:v.existing] {
		if !sellers[b.node.Provisioner] {
			continue
		}
		for r, name := range v.dims.names {
			sum[r] += float64(max(0, b.node.Allocatable[name]-b.start[r]))
		}
	}
	return sum
}

// maxStocked is up to how many nodes a batch is looked at again by stock. In a
// larger one the last node's room is a small matter, and the packing a large one.
const maxStocked = 4

// stock plans the items node by node, each time the node that costs least for
// what its pods are worth when its left-over room is taken into account.
func (v *solver) stock(p *packer) []pattern {
	pi := make([]float64, len(p.items))
	rem := make([]int, len(p.items))
	unit := p.worths().unit
	left := 0
	for j, it := range p.items {
		for r, y := range v.credit.y {
			pi[j] += y * float64(it.req[r])
		}
		pi[j] = max(pi[j], 0.01*unit[j], 1e-12)
		rem[j] = it.it.n
		left += it.it.n
	}
	var out []pattern
	var load []share
	for left > 0 {
		var best pattern
		least := math.Inf(1)
		for _, k := range p.kinds {
			var worth float64
			load, worth, _ = p.knap.best(p, k, pi, rem, load[:0], searchSteps)
			if worth <= 0 {
				continue
			}
			if cost := v.netCost(p, k, load) / worth; cost < least {
				least, best = cost, pattern{k, slices.Clone(load), 1}
			}
		}
		if best.kind == nil {
			return nil
		}
		for _, l := range best.load {
			rem[l.item] -= l.n
			left -= l.n
		}
		out = append(out, best)
	}
	return out
}

// netCost is what a node of the kind with that load costs, less what its
// left-over room is worth.
func (v *solver) netCost(p *packer, k *kind, load []share) float64 {
	free := slices.Clone(k.col.free)
	pens := 0.0
	for _, l := range load {
		for r := range free {
			free[r] -= p.items[l.item].req[r] * int64(l.n)
		}
		if k.pen != nil {
			pens += k.pen[l.item] * float64(l.n)
		}
	}
	return v.credit.net(k.col, free) + pens
}

// stocked is the better of the patterns and of stock's, by what they cost less
// what their left-over room is worth.
func (v *solver) stocked(p *packer, best []pattern) []pattern {
	total := func(ps []pattern) float64 {
		sum := 0.0
		for i := range ps {
			sum += v.netCost(p, ps[i].kind, ps[i].load) * float64(ps[i].times)
		}
		return sum
	}
	if ps := v.stock(p); ps != nil && total(ps) < total(best)-1e-9 {
		return ps
	}
	return best
}
