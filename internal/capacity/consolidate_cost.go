package capacity

import (
	"fmt"
	"math"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const (
	// overlap is how long a node and those bought in its place are paid for side
	// by side: boot, then drain.
	overlap = 5 * time.Minute
	// slowStart is how long an ordinary pod takes to start; a pod that takes that
	// much longer costs as much again.
	slowStart = time.Minute
	// bigImage likewise for the images to pull.
	bigImage = 2 * gib
	// minSpotTypes is among how many instance types EC2 must be able to choose
	// when a spot node is replaced by a spot node.
	minSpotTypes = 5
	// maxPoolShare is the share of a Provisioner's spot nodes, by price, that a
	// replacement may leave in one pool (type and zone) unless more was there
	// before.
	maxPoolShare = 0.25
)

// moveCost is what moving the pod costs in $, by how much longer it takes to
// start and to pull, how important it is, and whether it is the only one: base
// for an ordinary pod.
func moveCost(base float64, p *corev1.Pod, f PodFacts) float64 {
	w := 1 + f.Start.Seconds()/slowStart.Seconds() + float64(f.ImageBytes)/float64(bigImage)
	w *= emphasis(float64(priorityOf(p)))
	if v, ok := p.Annotations[corev1.PodDeletionCost]; ok {
		if cost, err := strconv.ParseInt(v, 10, 32); err == nil {
			w *= emphasis(float64(cost))
		}
	}
	if f.Replicas == 1 {
		w *= 2
	}
	return base * w
}

// emphasis turns a priority into a factor: 1 for 0, 2 for 9, 4 for 1,000, a half
// for less than nothing.
func emphasis(x float64) float64 {
	if x < 0 {
		return 0.5
	}
	return 1 + math.Log10(1+x)
}

// terms are the strictest of the policies of some nodes, and what these cost.
type dealTerms struct {
	minSaving     float64
	payback       time.Duration
	price, moving float64
}

func termsOf(group []*sender) dealTerms {
	t := dealTerms{payback: math.MaxInt64}
	for _, x := range group {
		t.minSaving = max(t.minSaving, x.policy.MinSaving)
		t.payback = min(t.payback, x.policy.Payback)
		t.price += x.price
		t.moving += x.cost
	}
	return t
}

// cost of a deal in $: the moves, and the nodes bought while the old ones are
// still there.
func (t *dealTerms) cost(bought float64) float64 { return t.moving + bought*overlap.Hours() }

// most is what nodes bought in place of these may cost, in $/h, for the deal to
// be worth it. Leniency 1 asks for all that the policy asks for.
func (t *dealTerms) most(leniency float64) float64 {
	bySaving := t.price * (1 - t.minSaving*leniency)
	h := t.payback.Hours()
	// (price − bought) · h ≥ moving + bought · overlap
	byPayback := (t.price*h - t.moving*leniency) / (h + overlap.Hours()*leniency)
	return min(bySaving, byPayback)
}

// poolOf names the offering that a node with these labels is of.
func poolOf(provisioner string, labels map[string]string) offeringName {
	return offeringName{provisioner, labels[corev1.LabelInstanceTypeStable], labels[corev1.LabelTopologyZone], labels[v1alpha1.LabelCapacityType]}
}

// diverse says whether spot nodes bought in place of spot nodes leave EC2 a
// choice among enough types, and the Provisioner's spot nodes in enough pools.
// launches are cut to what may still be bought.
func (c *consolidator) diverse(group []*sender, launches []Launch) bool {
	fromSpot := false
	leaving := map[*sender]bool{}
	for _, x := range group {
		leaving[x] = true
		fromSpot = fromSpot || x.node.Labels[v1alpha1.LabelCapacityType] == v1alpha1.CapacityTypeSpot
	}
	if !fromSpot {
		return true
	}
	before, after := map[offeringName]float64{}, map[offeringName]float64{}
	for _, x := range c.nodes {
		if x.node.Claim == "" || x.node.Labels[v1alpha1.LabelCapacityType] != v1alpha1.CapacityTypeSpot || x.gone && !leaving[x] {
			continue
		}
		pool := poolOf("", x.node.Labels)
		before[pool] += x.price
		if !leaving[x] {
			after[pool] += x.price
		}
	}
	for _, d := range c.drafts {
		for i := range d.launches {
			if l := &d.launches[i]; l.CapacityType == v1alpha1.CapacityTypeSpot {
				pool := offeringName{"", l.InstanceType, l.Zone, l.CapacityType}
				before[pool] += l.Price
				after[pool] += l.Price
			}
		}
	}
	for i := range launches {
		l := &launches[i]
		if l.CapacityType != v1alpha1.CapacityTypeSpot {
			continue
		}
		types := map[string]bool{l.InstanceType: true}
		for _, a := range l.Alternatives {
			if a.CapacityType == l.CapacityType {
				types[a.InstanceType] = true
			}
		}
		if len(types) < minSpotTypes {
			return false
		}
		pool := offeringName{"", l.InstanceType, l.Zone, l.CapacityType}
		after[pool] += l.Price
	}
	was := max(maxPoolShare, largestShare(before))
	return largestShare(after) <= was+1e-9
}

// largestShare is the share of the largest pool.
func largestShare(pools map[offeringName]float64) float64 {
	sum, most := 0.0, 0.0
	for _, x := range pools {
		sum += x
		most = max(most, x)
	}
	if sum == 0 {
		return 0
	}
	return most / sum
}

// BeyondLimits names a limit of a launch's Provisioner that leaves no room for
// all of the launches; empty: none does.
func BeyondLimits(launches []Launch) string {
	left := map[*Provisioner]limitsLeft{}
	for i := range launches {
		l := &launches[i]
		p := l.Provisioner
		if left[p] == nil {
			left[p] = newLimitsLeft(p)
		}
		var room corev1.ResourceName
		if l.CapacityType == v1alpha1.CapacityTypeReserved {
			room = ReservedRoom(l.InstanceType, l.Zone)
		}
		for _, name := range sortedNames(left[p]) {
			n := takes(name, l.Capacity, l.Price, room)
			if left[p][name] -= n; left[p][name] < 0 && n > 0 {
				return fmt.Sprintf("%s of Provisioner %s", name, p.Name)
			}
		}
	}
	return ""
}
