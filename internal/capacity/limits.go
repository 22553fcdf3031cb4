package capacity

import (
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// microDollars is the unit in which hourly cost is counted against a limit, so
// that sums are exact: 1e-6 $/h.
const microDollars = 1e6

// micros is a price in whole microdollars, rounded up.
func micros(price float64) int64 { return int64(math.Ceil(price*microDollars - 1e-3)) }

// limitsLeft is what a Provisioner's limits leave, by resource name; hourly cost
// in microdollars. Nil: no limits.
type limitsLeft map[corev1.ResourceName]int64

func newLimitsLeft(p *Provisioner) limitsLeft {
	if len(p.Spec.Limits) == 0 {
		return nil
	}
	l := limitsLeft{}
	for name, q := range p.Spec.Limits {
		if name == v1alpha1.LimitHourlyCost {
			l[name] = int64(math.Floor(q.AsApproximateFloat64()*microDollars+1e-3)) - micros(p.UsedHourlyCost)
			continue
		}
		l[name] = quantityValue(name, &q) - p.Used[name]
	}
	return l
}

// resetLimits makes all limits as they are before anything is bought.
func (v *solver) resetLimits() {
	for _, s := range v.m.sellers {
		s.left = nil
		if !v.boundless {
			s.left = newLimitsLeft(s.p)
		}
	}
}

// withinLimits says whether what is bought is within all limits. From then on
// they are counted.
func (v *solver) withinLimits() bool {
	if !v.boundless {
		return true
	}
	within := true
	v.boundless = false
	v.resetLimits()
	for _, b := range v.bins[v.existing:] {
		within = within && b.col.seller.left.room(b.col) > 0
		b.col.seller.left.take(b.col, 1)
	}
	return within
}

// takes is what a node of the column takes of a limit.
func (c *column) takes(name corev1.ResourceName) int64 {
	switch name {
	case v1alpha1.LimitNodes:
		return 1
	case v1alpha1.LimitHourlyCost:
		return micros(c.price)
	default:
		return c.typ.Capacity[name]
	}
}

// room is how many nodes of the column the limits leave room for.
func (l limitsLeft) room(c *column) int {
	n := int64(math.MaxInt32)
	for name, left := range l {
		if t := c.takes(name); t > 0 {
			n = min(n, max(0, left)/t)
		}
	}
	return int(n)
}

// take books n nodes of the column.
func (l limitsLeft) take(c *column, n int) {
	for name := range l {
		l[name] -= c.takes(name) * int64(n)
	}
}

// lacks names the limit that leaves no room for a node of the column, in words.
func (l limitsLeft) lacks(p *Provisioner, c *column) string {
	worst := ""
	for _, name := range sortedNames(l) {
		if t := c.takes(name); t > 0 && l[name] < t {
			q := p.Spec.Limits[name]
			switch name {
			case v1alpha1.LimitHourlyCost:
				worst = fmt.Sprintf("limit hourlyCost %.4g $/h leaves %.4g $/h, the cheapest node takes %.4g", q.AsApproximateFloat64(), max(0, float64(l[name]))/microDollars, c.price)
			case v1alpha1.LimitNodes:
				worst = fmt.Sprintf("limit nodes %s is reached", q.String())
			default:
				worst = fmt.Sprintf("limit %s %s leaves %s, the cheapest node takes %s", name, quantityOf(name, quantityValue(name, &q)), quantityOf(name, max(0, l[name])), quantityAtLeast(name, t))
			}
			return worst
		}
	}
	return worst
}
