package capacity

import (
	"cmp"
	"slices"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const (
	// spotPools is how many interchangeable spot pools a spot node is priced over:
	// nobody can count on the single cheapest one, which others want as well.
	spotPools = 5
	// spotDoubt is the weight of that: by what share of the difference between the
	// mean price of these pools and its own a spot node is dearer to the objective.
	// The cost that the plan reports stays the price of the pool that it names.
	spotDoubt = 0.02
	// interruptionShare is what spot's interruptions are taken to cost, as a share
	// of the node's price: about one in ten nodes is lost in a month, and with each
	// some hours of work and of room that stands ready twice.
	interruptionShare = 0.01
)

// premium is what the objective adds to the price of a spot pool because others
// want it too.
func (c *column) premium() float64 { return spotDoubt * max(0, c.pooled-c.price) }

// risk is what the objective adds to the price of a spot node for interruptions.
func (c *column) risk() float64 {
	if c.offer.CapacityType != v1alpha1.CapacityTypeSpot {
		return 0
	}
	return interruptionShare * c.price
}

// setRates gives every column its rate: what the objective takes a node of it to
// cost. For on-demand that is the price. For spot it lies between the price and the
// mean price of the cheapest pools (types in zones, the same Provisioner's) that
// hold all that the column holds, itself among them; where there are fewer than
// spotPools, the dearest of them stands for those that are missing.
func (m *market) setRates() {
	for i := range m.columns {
		m.columns[i].rate, m.columns[i].pooled = m.columns[i].price, m.columns[i].price
	}
	var pools []*column
	for _, s := range m.sellers {
		for v := range s.variants {
			pools = pools[:0]
			for i := s.first; i < s.end; i++ {
				if c := &m.columns[i]; c.variant == v && c.offer.CapacityType == v1alpha1.CapacityTypeSpot {
					pools = append(pools, c)
				}
			}
			m.rate(pools)
		}
	}
	m.rateOrder = nil
}

// rate sets the rates of spot pools that belong to one Provisioner.
func (m *market) rate(pools []*column) {
	// By amount of CPU, of which there are few, each cheapest first.
	var sizes [][]*column
	for _, c := range pools {
		i, there := slices.BinarySearchFunc(sizes, c.free[0], func(list []*column, cpu int64) int { return cmp.Compare(list[0].free[0], cpu) })
		if !there {
			sizes = slices.Insert(sizes, i, nil)
		}
		sizes[i] = append(sizes[i], c)
	}
	for _, list := range sizes {
		slices.SortFunc(list, func(a, b *column) int { return cmp.Compare(a.price, b.price) })
	}
	// Columns of one type lie together and have equal room.
	var last *column
	var found [spotPools]float64
	n := 0
	for _, c := range pools {
		if last == nil || &last.free[0] != &c.free[0] {
			n = 0
			for i := len(sizes) - 1; i >= 0 && sizes[i][0].free[0] >= c.free[0]; i-- {
				for _, d := range sizes[i] {
					if n == spotPools && d.price >= found[n-1] {
						break
					}
					if d.typ.OnlyFor != c.typ.OnlyFor || !dominates(d.free, c.free) {
						continue
					}
					n = min(n+1, spotPools)
					at := n - 1
					for ; at > 0 && found[at-1] > d.price; at-- {
						found[at] = found[at-1]
					}
					found[at] = d.price
				}
			}
			last = c
		}
		sum, counted := c.price, 1
		skipped := false
		for _, price := range found[:n] {
			if price == c.price && !skipped {
				skipped = true
				continue
			}
			if counted < spotPools {
				sum += price
				counted++
			}
		}
		mean := (sum + float64(spotPools-counted)*max(c.price, found[n-1])) / spotPools
		c.pooled = mean
		c.rate = c.price + c.premium() + c.risk()
	}
}

// byRate are all columns' indices in the order in which the objective prefers
// them, fit aside.
func (m *market) byRate() []int32 {
	if m.rateOrder == nil {
		m.rateOrder = slices.Clone(m.byPrice())
		slices.SortStableFunc(m.rateOrder, func(a, b int32) int {
			x, y := m.columns[a].rate, m.columns[b].rate
			switch {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return 0
		})
	}
	return m.rateOrder
}
