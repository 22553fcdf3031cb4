package capacity

import (
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
)

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
	byPrice := slices.Clone(pools)
	slices.SortFunc(byPrice, func(a, b *column) int { return m.compare(int32(a.index), int32(b.index)) })
	// Columns of one type lie together and have equal room.
	var last *column
	var found [spotPools]float64
	n := 0
	for _, c := range pools {
		if last == nil || &last.free[0] != &c.free[0] {
			n = 0
			for _, d := range byPrice {
				if d.typ.OnlyFor == c.typ.OnlyFor && dominates(d.free, c.free) {
					found[n] = d.price
					if n++; n == spotPools {
						break
					}
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
		c.rate = c.price + spotDoubt*(mean-c.price)
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
