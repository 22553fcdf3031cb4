package capacity

import "slices"

// Objective is what a plan is judged by, in $/h: the launches' prices, and
// beside them stated weights for what money does not show. Only Price is paid.
type Objective struct {
	// Price of the launches: the plan's HourlyCost.
	Price float64
	// SpotPremium is what is added because nobody can count on the cheapest spot
	// pool: spotDoubt of what the mean price of the five cheapest interchangeable
	// pools is above the price.
	SpotPremium float64
	// SpotMean is what the launches would cost if every spot node came at the mean
	// price of its five cheapest interchangeable pools. It is information, not part
	// of the Total.
	SpotMean float64
	// Interruptions of spot nodes: interruptionShare of their price.
	Interruptions float64
	// BlastRadius is how much is lost when a node is: concentration of the
	// launches' prices, each times its share of the whole.
	BlastRadius float64
	// Nodes is nodePrice for each launch.
	Nodes float64
	// Preferences that are not met: preferenceShare of what the pod's share of its
	// node costs, for each that has the full weight.
	Preferences float64
	// Unmet is how many pods have a preference that is not met. Information.
	Unmet int
	// LargestNode is the share of the launches' price that the dearest one has;
	// LargestShare the largest share of a workload's pods, of those with at least
	// two waiting, that is on one node of the plan. Information.
	LargestNode, LargestShare float64
	// Salvage is what is taken off for room that is left over on new nodes for pods
	// to come.
	Salvage float64
}

// Total is what the planner makes small.
func (o *Objective) Total() float64 {
	return o.Price + o.SpotPremium + o.Interruptions + o.BlastRadius + o.Nodes + o.Preferences - o.Salvage
}

// objective takes the last attempt apart into what the objective counts.
func (v *solver) objective() Objective {
	var o Objective
	bought := v.bins[v.existing:]
	for _, b := range bought {
		c := b.col
		o.Price += c.price
		o.SpotMean += c.pooled
		o.SpotPremium += c.premium()
		o.Interruptions += c.risk()
		o.Nodes += nodePrice
	}
	for _, b := range bought {
		share := b.col.price / o.Price
		o.BlastRadius += concentration * share * b.col.price
		o.LargestNode = max(o.LargestNode, share)
	}
	for _, b := range v.bins {
		for _, q := range b.placed {
			if n := len(q.s.pods); n > 1 {
				o.LargestShare = max(o.LargestShare, float64(q.n)/float64(n))
			}
			if !q.s.wishes.any() && !slices.ContainsFunc(b.taints, prefersNot) {
				continue
			}
			w := v.dislikesBin(q.s, b) + v.unmet(q.s, b)
			if w > 0 {
				o.Unmet += q.n
				o.Preferences += preferenceShare * float64(w) / fullWeight * v.costOf(q.s, b) * float64(q.n)
			}
		}
	}
	for _, b := range bought {
		if b.credit != nil {
			o.Salvage += b.credit.of(b.free)
		}
	}
	return o
}

// costOf is what a pod of the shape costs on the bin: its largest share of any
// resource, of the node's price.
func (v *solver) costOf(s *shape, b *bin) float64 {
	var price float64
	var all []int64
	if b.node != nil {
		price, all = b.node.HourlyPrice, v.dims.vector(b.node.Allocatable)
	} else {
		price, all = b.col.price, b.col.free
	}
	most := 0.0
	for r, x := range s.vector {
		if x > 0 && all[r] > 0 {
			most = max(most, float64(x)/float64(all[r]))
		}
	}
	return price * min(1, most)
}
