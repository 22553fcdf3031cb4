package capacity

import (
	"fmt"
	"maps"
	"math"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// microDollars is the unit in which hourly cost is counted against a limit, so
// that sums are exact: 1e-6 $/h.
const microDollars = 1e6

// micros is a price in whole microdollars, rounded up.
func micros(price float64) int64 { return int64(math.Ceil(price*microDollars - 1e-3)) }

// limitsLeft is what a Provisioner's limits leave, by resource name, hourly cost in
// microdollars; and the room of its reservations, by ReservedRoom. Nil: no limits.
type limitsLeft map[corev1.ResourceName]int64

// ReservedRoom is the name of the room in the reservations of a type in a zone.
// Provisioner.Used counts by it the instances that are to be in them, where EC2
// cannot know that yet.
func ReservedRoom(instanceType, zone string) corev1.ResourceName {
	return corev1.ResourceName("berth.dev/reserved-" + instanceType + "-" + zone)
}

func newLimitsLeft(p *Provisioner) limitsLeft {
	l := limitsLeft{}
	if len(p.Spec.EC2.CapacityReservations) > 0 {
		for i := range p.InstanceTypes {
			t := &p.InstanceTypes[i]
			for _, o := range t.Offerings {
				if o.Room > 0 {
					name := ReservedRoom(t.Machine.Name, o.Zone)
					l[name] = int64(o.Room) - p.Used[name]
				}
			}
		}
	}
	if len(l)+len(p.Spec.Limits) == 0 {
		return nil
	}
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
			s.left = maps.Clone(s.limits)
		}
	}
}

// withinLimits says whether what was bought without regard to limits is within
// all of them. From then on they are counted.
func (v *solver) withinLimits() bool {
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
	return takes(name, c.typ.Capacity, c.price, c.room)
}

// takes is what a node takes of a limit; room is the name of the room in reservations
// that it takes, empty for none.
func takes(name corev1.ResourceName, capacity Resources, price float64, room corev1.ResourceName) int64 {
	switch name {
	case v1alpha1.LimitNodes, room:
		return 1
	case v1alpha1.LimitHourlyCost:
		return micros(price)
	default:
		return capacity[name]
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

// lacks names the limit that leaves no room for a node of the column, and what
// would help, in words.
func (l limitsLeft) lacks(p *Provisioner, c *column) (detail, fix string) {
	for _, name := range sortedNames(l) {
		t := c.takes(name)
		if t == 0 || l[name] >= t {
			continue
		}
		q := p.Spec.Limits[name]
		fix = "raise the limit in Provisioner " + p.Name
		switch name {
		case v1alpha1.LimitHourlyCost:
			detail = fmt.Sprintf("limit hourlyCost %.4g $/h leaves %.4g $/h, the cheapest node takes %.4g", q.AsApproximateFloat64(), max(0, float64(l[name]))/microDollars, c.price)
		case v1alpha1.LimitNodes:
			detail = fmt.Sprintf("limit nodes %s is reached", q.String())
		case c.room:
			detail = fmt.Sprintf("the capacity reservations of %s in %s have room for %d more nodes, which others take", c.typ.Machine.Name, c.offer.Zone, c.offer.Room)
			fix = "reserve more, or allow other capacity types in Provisioner " + p.Name
		default:
			detail = fmt.Sprintf("limit %s %s leaves %s, the cheapest node takes %s", name, quantityOf(name, quantityValue(name, &q)), quantityOf(name, max(0, l[name])), quantityAtLeast(name, t))
		}
		return detail, fix
	}
	return "", ""
}
