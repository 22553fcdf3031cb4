package capacity

import (
	"cmp"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// The mean that a spot pool is rated at is that of itself and the four cheapest
// others that hold as much, by a search through all of them.
func TestSpotPoolsAreRatedOverTheFiveCheapestThatHoldAsMuch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &market{}
		types := make([]InstanceType, rapid.IntRange(1, 8).Draw(t, "types"))
		p := &Provisioner{Name: "p", InstanceTypes: types}
		for i := range types {
			types[i].Machine = &Machine{Name: string(rune('a' + i))}
			free := []int64{int64(rapid.IntRange(1, 4).Draw(t, "cpu")), int64(rapid.IntRange(1, 4).Draw(t, "memory")), 10}
			for range rapid.IntRange(1, 3).Draw(t, "zones") {
				price := float64(rapid.IntRange(1, 20).Draw(t, "price"))
				m.columns = append(m.columns, column{index: len(m.columns), typ: &types[i], offer: &Offering{CapacityType: v1alpha1.CapacityTypeSpot, Price: price},
					price: price, free: free})
			}
		}
		s := &seller{p: p, variants: []map[string]string{nil}, end: len(m.columns)}
		m.sellers = []*seller{s}
		for i := range m.columns {
			m.columns[i].seller = s
		}
		m.setRates()
		for i := range m.columns {
			c := &m.columns[i]
			var others []float64
			for k := range m.columns {
				if k != i && dominates(m.columns[k].free, c.free) {
					others = append(others, m.columns[k].price)
				}
			}
			slices.SortFunc(others, cmp.Compare[float64])
			sum := c.price
			dearest := c.price
			for n := range spotPools - 1 {
				if n < len(others) {
					dearest = max(dearest, others[n])
					sum += others[n]
				} else {
					sum += dearest
				}
			}
			if want := sum / spotPools; math.Abs(c.pooled-want) > 1e-9 {
				t.Fatalf("pool %d at %v beside %v: got mean %v, want %v", i, c.price, others, c.pooled, want)
			}
			if c.rate < c.price {
				t.Fatalf("pool %d is rated below its price", i)
			}
		}
	})
}
