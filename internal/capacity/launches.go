package capacity

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// maxAlternatives bounds a Launch's alternatives: as many as EC2 takes. For a
// choice that may run out as a kind, such as spot, minFallback of them at least
// are on-demand, where there are as many.
const (
	maxAlternatives = 60
	minFallback     = 24
)

// maxNext bounds a Launch's Next.
const maxNext = 3

// plan turns the last attempt into a Plan: pods, oldest first, take the places
// that their shapes have.
func (v *solver) plan() *Plan {
	p := &Plan{Shapes: len(v.shapes), Unschedulable: v.unplaced()}
	next := make([]int, len(v.shapes))
	seated := make([]int, len(v.shapes))
	for _, s := range v.shapes {
		seated[s.id] = len(s.pods) - v.left[s.id]
	}
	take := func(l placed) []*corev1.Pod {
		from := next[l.s.id]
		next[l.s.id] += l.n
		return l.s.pods[from:next[l.s.id]]
	}
	v.mixOwners(seated)
	var bought []*bin
	var aboard [][]*corev1.Pod
	for _, b := range v.bins {
		if b.node != nil {
			for _, l := range b.placed {
				for _, pod := range take(l) {
					p.Placements = append(p.Placements, Placement{Pod: pod, Node: b.node})
				}
			}
			continue
		}
		var pods []*corev1.Pod
		for _, l := range b.placed {
			pods = append(pods, take(l)...)
		}
		bought, aboard = append(bought, b), append(aboard, pods)
	}
	launches := v.describe(bought)
	for i, l := range launches {
		l.Pods = aboard[i]
		p.HourlyCost += l.Price
	}
	slices.SortFunc(p.Placements, func(a, b Placement) int { return comparePods(a.Pod, b.Pod) })
	slices.SortFunc(p.Unschedulable, func(a, b Unschedulable) int { return comparePods(a.Pod, b.Pod) })
	slices.SortStableFunc(launches, func(a, b *Launch) int {
		return cmp.Or(cmp.Compare(a.Provisioner.Name, b.Provisioner.Name), cmp.Compare(b.Price, a.Price), cmp.Compare(a.InstanceType, b.InstanceType),
			cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.CapacityType, b.CapacityType), comparePods(a.Pods[0], b.Pods[0]))
	})
	for _, l := range launches {
		p.Launches = append(p.Launches, *l)
	}
	room := make([][]int64, v.existing)
	for i := range room {
		room[i] = v.bins[i].start
	}
	for _, s := range v.shapes {
		v.unpin(s)
	}
	p.Objective = v.objective()
	if len(p.Launches) > 0 {
		p.LowerBound = v.lowerBound(seated, room, p.HourlyCost)
	}
	return p
}

// mixOwners puts the pods of each shape that get new nodes in such an order that
// those of one owner are on as many of them as can be: a node that is lost should
// not take all of a workload with it. The oldest have the nodes that are there.
func (v *solver) mixOwners(seated []int) {
	there := make([]int, len(v.shapes))
	for _, b := range v.bins[:v.existing] {
		for _, q := range b.placed {
			there[q.s.id] += q.n
		}
	}
	for _, s := range v.shapes {
		pods := s.pods[there[s.id]:seated[s.id]]
		owned := map[types.UID]int{}
		owner := func(p *corev1.Pod) types.UID {
			if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
				return ref.UID
			}
			return ""
		}
		for _, p := range pods {
			owned[owner(p)]++
		}
		if len(owned) < 2 {
			continue
		}
		turn := make(map[*corev1.Pod]float64, len(pods))
		had := map[types.UID]int{}
		for _, p := range pods {
			u := owner(p)
			turn[p] = (float64(had[u]) + 0.5) / float64(owned[u])
			had[u]++
		}
		slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { return cmp.Compare(turn[a], turn[b]) })
	}
}

// unplaced are the pods for which the last attempt has no place: the youngest of
// each shape.
func (v *solver) unplaced() []Unschedulable {
	list := slices.Clone(v.refused)
	for _, s := range v.shapes {
		if v.left[s.id] == 0 {
			continue
		}
		rs := v.whyNot(s)
		for _, pod := range s.pods[len(s.pods)-v.left[s.id]:] {
			list = append(list, Unschedulable{Pod: pod, Reasons: rs})
		}
	}
	return list
}

// cost of the nodes that the last attempt buys, in $/h.
func (v *solver) cost() float64 {
	sum := 0.0
	for _, b := range v.bins[v.existing:] {
		sum += b.col.price
	}
	return sum
}

// choice is a launch as far as it depends on which offerings could host the
// node's content.
type choice struct {
	alternatives, next []OfferingRef
	why                string
	labels             map[string]string
}

// describedAtOnce is how many launches are worth a processor of their own.
const describedAtOnce = 100

// describe says what nodes are bought for these bins.
func (v *solver) describe(bought []*bin) []*Launch {
	out := make([]*Launch, len(bought))
	for _, b := range bought {
		v.m.offersOf(b.col.seller) // It is sorted once.
	}
	part := max(describedAtOnce, (len(bought)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	var all sync.WaitGroup
	for from := 0; from < len(bought); from += part {
		all.Go(func() {
			known := map[string]*choice{}
			for i := from; i < min(from+part, len(bought)); i++ {
				l := v.launch(bought[i], known)
				out[i] = &l
			}
		})
	}
	all.Wait()
	return out
}

// launch describes the node to buy for a bin. Equal contents are looked into
// once; contents with the same alternatives share them.
func (v *solver) launch(b *bin, known map[string]*choice) Launch {
	c := b.col
	l := Launch{Provisioner: c.seller.p, OfferingRef: c.ref(), Taints: c.seller.p.Spec.Taints,
		Capacity: c.typ.Capacity, Allocatable: c.typ.Allocatable, VolumeLimits: c.typ.VolumeLimits, Requests: c.daemons.requests.Clone()}
	key := shapeKey{}
	key.str("content")
	key.num(int64(c.index))
	for _, q := range b.placed {
		key.num(int64(q.s.id))
		key.num(int64(q.n))
		for name, x := range q.s.requests {
			l.Requests[name] += x * int64(q.n)
		}
	}
	ch := known[string(key)]
	if ch == nil {
		ch = v.choose(b, l.Requests, known)
		known[string(key)] = ch
	}
	l.Alternatives, l.Next, l.Why, l.Labels = ch.alternatives, ch.next, ch.why, ch.labels
	return l
}

// choose finds the alternatives of a bin's column: offerings of the same
// Provisioner and own labels that may host all that is on the bin, in the same
// place as far as that matters to anybody, and no nearer to a limit than the
// choice; and what the next types would cost. Those of the choice's capacity
// type come first, cheapest first, then on-demand ones: when EC2 has no spot, the
// same claim is launched without it.
func (v *solver) choose(b *bin, requests Resources, known map[string]*choice) *choice {
	c := b.col
	pinned := v.pinnedKeys(b)
	values := map[string]string{}
	for _, key := range pinned {
		values[key] = v.m.labelOrAbsent(c, key)
	}
	need := make([]int64, len(c.free))
	b.load(need)
	var alike, fallback, next []*column
	for _, i := range v.m.offersOf(c.seller) {
		d := &v.m.columns[i]
		var list *[]*column // The alternatives that it may be one of.
		switch d.offer.CapacityType {
		case c.offer.CapacityType:
			list = &alike
		case v1alpha1.CapacityTypeOnDemand:
			list = &fallback
		}
		wanted := list != nil && len(*list) < maxAlternatives
		if len(next) == maxNext {
			if len(alike) >= maxAlternatives && (c.offer.CapacityType == v1alpha1.CapacityTypeOnDemand || len(fallback) >= minFallback) {
				break
			}
			if !wanted {
				continue
			}
		}
		if !vectorFits(need, d.free) || d.variant != c.variant || d == c || !v.suits(b, d) {
			continue
		}
		// Beside the same DaemonSets the room that they leave says it all.
		if d.daemons != c.daemons && !requests.Fits(d.typ.Allocatable) || d.typ.OnlyFor != "" && requests[d.typ.OnlyFor] == 0 {
			continue
		}
		if slices.ContainsFunc(pinned, func(key string) bool { return v.m.labelOrAbsent(d, key) != values[key] }) {
			continue
		}
		if d.typ != c.typ && len(next) < maxNext && !slices.ContainsFunc(next, func(o *column) bool { return o.typ.Machine.Name == d.typ.Machine.Name }) {
			next = append(next, d)
		}
		if wanted && c.withinLimitsOf(d) {
			*list = append(*list, d)
		}
	}
	alike = alike[:min(len(alike), maxAlternatives-min(len(fallback), minFallback))]
	alike = append(alike, fallback[:min(len(fallback), maxAlternatives-len(alike))]...)
	key := shapeKey{}
	key.str("alternatives")
	for _, list := range [][]*column{{c}, next, alike} {
		key.num(int64(len(list)))
		for _, d := range list {
			key.num(int64(d.index))
		}
	}
	ch := known[string(key)]
	if ch == nil {
		ch = &choice{labels: v.m.labels(c), alternatives: refs(alike), next: refs(next)}
		ch.why = why(c.ref(), ch.next)
		known[string(key)] = ch
	}
	return ch
}

func refs(cols []*column) []OfferingRef {
	list := make([]OfferingRef, len(cols))
	for i, c := range cols {
		list[i] = c.ref()
	}
	return list
}

// withinLimitsOf says whether buying d instead of c takes no more of any limited
// resource. The limit on the cost is left to the buyer, who knows how much of it
// is free beyond the plan: alternatives are dearer by nature, and a launch
// without any could not be saved when EC2 has no capacity.
func (c *column) withinLimitsOf(d *column) bool {
	for name := range c.seller.left {
		if name != v1alpha1.LimitHourlyCost && d.takes(name) > c.takes(name) {
			return false
		}
	}
	return true
}

// suits says whether all shapes on the bin may use the column.
func (v *solver) suits(b *bin, d *column) bool {
	for _, q := range b.placed {
		if !v.sigs[q.s.sig].seats.has(d.index) {
			return false
		}
	}
	return true
}

// pinnedKeys are the labels of the node that some pod's place in the plan hangs
// on: the topology keys of all constraints that its pods have or are counted by.
func (v *solver) pinnedKeys(b *bin) []string {
	var keys []string
	for _, q := range b.placed {
		for _, list := range [][]*counter{q.s.affinityCounts, q.s.antiCounts, q.s.spreadCounts, q.s.heldOff, q.s.adds} {
			for _, c := range list {
				if c.key != corev1.LabelHostname && !slices.Contains(keys, c.key) {
					keys = append(keys, c.key)
				}
			}
		}
	}
	return keys
}

// why is the choice with its price, and what comes next, in one line.
func why(o OfferingRef, next []OfferingRef) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s in %s at %.4f $/h", o.CapacityType, o.InstanceType, o.Zone, o.Price)
	if len(next) == 0 {
		b.WriteString("; no other type would do")
	}
	for i, n := range next {
		b.WriteString([]string{"; next best ", ", "}[min(i, 1)])
		fmt.Fprintf(&b, "%s %s in %s at %.4f", n.CapacityType, n.InstanceType, n.Zone, n.Price)
	}
	return b.String()
}

// whyNot says why the shape's remaining pods have no place.
func (v *solver) whyNot(s *shape) []Reason {
	if rs := v.m.reasons(&s.need); len(rs) == len(v.m.sellers) || len(v.m.sellers) == 0 {
		return rs
	}
	rs := v.m.reasons(&s.need)
	for _, seller := range v.m.sellers {
		if slices.ContainsFunc(rs, func(r Reason) bool { return r.Provisioner == seller.p.Name }) {
			continue
		}
		rs = append(rs, v.topologyReason(s, seller))
	}
	slices.SortStableFunc(rs, func(a, b Reason) int {
		return cmp.Compare(slices.Index(constraintsByDistance, a.Constraint), slices.Index(constraintsByDistance, b.Constraint))
	})
	return rs
}

// topologyReason says which tie to other pods keeps the shape from nodes of the
// seller that could host it otherwise.
func (v *solver) topologyReason(s *shape, seller *seller) Reason {
	probe := &bin{host: hostValue(-1), probe: true}
	r := Reason{Provisioner: seller.p.Name}
	kind := Constraint("") // What keeps it off the first node; empty: there is none that would do.
	for i := seller.first; i < seller.end; i++ {
		c := &v.m.columns[i]
		if !v.usable(s, c) {
			continue
		}
		probe.col, probe.taints = c, seller.p.Spec.Taints
		if k := v.blocked(s, probe, everything); k != "" {
			kind = cmp.Or(kind, k)
			continue
		}
		if lacks, fix := seller.left.lacks(seller.p, c); lacks != "" {
			r.Constraint, r.Detail, r.Fix = ConstraintLimits, lacks, fix
			return r
		}
		r.Constraint = ConstraintTopologySpread
		r.Detail = "a node for it would be a domain more, and put pods that have a place beyond their maxSkew"
		r.Fix = "nothing: it is planned again when those pods run"
		return r
	}
	switch r.Constraint = kind; {
	case kind == ConstraintAntiAffinity:
		r.Detail = "every domain it could go to has a pod that it must keep apart from" + keysOf(s.anti)
		r.Fix = "allow more zones in Provisioner " + seller.p.Name + ", run fewer replicas, or make the anti-affinity preferred"
	case kind == ConstraintPodAffinity:
		r.Detail = "no pod that it must be near is where Provisioner " + seller.p.Name + " can buy a node" + keysOf(s.affinity)
		r.Fix = "start the pods that it must be near first, or correct the affinity's selector"
	case kind == ConstraintTopologySpread:
		r.Detail = "one more pod in any domain that can get a node would exceed maxSkew" + keysOfSpread(s.spread)
		r.Fix = "allow the missing domains in Provisioner " + seller.p.Name + ", raise maxSkew, or use ScheduleAnyway"
	case len(v.dims.attach) > 0 && len(s.volumes.ids) > 0:
		r.Constraint = ConstraintVolume
		r.Detail = fmt.Sprintf("none of its nodes that would do can attach %d volumes for the pod beside the root volume", len(s.volumes.ids))
		r.Fix = "allow instance types that attach more volumes in Provisioner " + seller.p.Name + ", or use fewer volumes"
	default:
		r.Constraint, r.Detail, r.Fix = ConstraintAntiAffinity, "pods of DaemonSets on its nodes must keep apart from it", "change the anti-affinity between the pod and the DaemonSet"
	}
	return r
}

func keysOf(ts []term) string {
	var keys []string
	for _, t := range ts {
		keys = append(keys, t.key)
	}
	return keyList(keys)
}

func keysOfSpread(ts []spreadTerm) string {
	var keys []string
	for _, t := range ts {
		keys = append(keys, t.key)
	}
	return keyList(keys)
}

func keyList(keys []string) string {
	slices.Sort(keys)
	if keys = slices.Compact(keys); len(keys) == 0 {
		return ""
	}
	return " (" + strings.Join(keys, ", ") + ")"
}
