package capacity

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Preferences are weights in the objective. What a pod prefers of its node
// (preferred node affinity, no PreferNoSchedule taint) makes nodes without it
// dearer for the pod; what it prefers of the pods near it (preferred affinity
// and anti-affinity, spread with ScheduleAnyway) decides who gets which of the
// seats that have been bought, and in which of several zones at one price a node
// is bought. So preferences never cost more than they are worth, and never a
// pod its place.

const (
	// preferenceShare is what a preference of weight 100 is worth, as a share of
	// what the pod costs alone.
	preferenceShare = 0.2
	// fullWeight is the largest weight of a preference, and that of a
	// PreferNoSchedule taint and of a spread constraint with ScheduleAnyway.
	fullWeight = 100
	// maxSeatWork bounds how many seats are looked at for one class of pods: beyond
	// it pods take them in turn.
	maxSeatWork = 1 << 18
)

// wishes are what pods of a shape prefer.
type wishes struct {
	// key is equal for shapes that prefer the same of nodes; empty: nothing.
	key   string
	nodes []nodeWish
	ties  []tieWish
}

func (w *wishes) any() bool { return len(w.nodes)+len(w.ties) > 0 }

// nodeWish is a preferred node affinity term.
type nodeWish struct {
	req    *nodeReq
	weight int
}

// tieWish is a preference about pods in the same domain.
type tieWish struct {
	q      *query
	key    string
	kind   tieKind
	weight int
	// maxSkew of an even spread.
	maxSkew int
	// self: the shape's own pods count.
	self    bool
	counter *counter
}

type tieKind int

const (
	near tieKind = iota
	apart
	even
)

// wishesOf compiles what a pod prefers.
func (v *solver) wishesOf(p *corev1.Pod) wishes {
	var w wishes
	key := shapeKey{}
	if a := p.Spec.Affinity; a != nil {
		if a.NodeAffinity != nil {
			for i := range a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
				t := &a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution[i]
				if t.Weight <= 0 || len(t.Preference.MatchExpressions)+len(t.Preference.MatchFields) == 0 {
					continue // matches everything
				}
				r := v.nodeReq(preferring(t), nil)
				w.nodes = append(w.nodes, nodeWish{r, int(t.Weight)})
				key.str(r.key)
				key.num(int64(t.Weight))
			}
		}
		tie := func(ts []corev1.WeightedPodAffinityTerm, kind tieKind) {
			for i := range ts {
				t := &ts[i].PodAffinityTerm
				w.ties = append(w.ties, tieWish{q: termQuery(p, t), key: t.TopologyKey, kind: kind, weight: int(ts[i].Weight)})
			}
		}
		if a.PodAffinity != nil {
			tie(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, near)
		}
		if a.PodAntiAffinity != nil {
			tie(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, apart)
		}
	}
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable == corev1.ScheduleAnyway {
			w.ties = append(w.ties, tieWish{q: spreadQuery(p, c), key: c.TopologyKey, kind: even, weight: fullWeight, maxSkew: int(c.MaxSkew)})
		}
	}
	w.key = string(key)
	return w
}

// preferring is a pod that requires what the term prefers.
func preferring(t *corev1.PreferredSchedulingTerm) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{t.Preference}}}}}}
}

// preferredKeys adds the labels that a pod's preferred terms about pods look at.
func preferredKeys(p *corev1.Pod, keys map[string]bool) {
	a := p.Spec.Affinity
	if a == nil {
		return
	}
	add := func(ts []corev1.WeightedPodAffinityTerm) {
		for i := range ts {
			termKeys(&ts[i].PodAffinityTerm, keys)
		}
	}
	if a.PodAffinity != nil {
		add(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		add(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

// wishCounters makes the counters for preferences about pods.
func (v *solver) wishCounters() {
	for _, s := range v.shapes {
		for i := range s.wishes.ties {
			t := &s.wishes.ties[i]
			id := "wish\x00" + t.q.key
			var r *realm
			if t.kind == even {
				id, r = "even\x00"+t.q.key, v.realmFor("all", t.key, func(*bin) bool { return true })
			}
			c, made := v.counterFor(id, t.key, matcher{queries: []*query{t.q}, staying: true}, r)
			t.counter, t.self = c, v.selfMatches(t.q, s)
			if !made {
				continue
			}
			for _, o := range v.shapesOf(t.q) {
				o.softAdds = append(o.softAdds, c)
			}
		}
	}
}

// disliked is the weight of what a pod of the shape prefers of a node and does
// not find.
func (s *shape) disliked(label func(string) (string, bool), name string, taints []corev1.Taint) int {
	w := 0
	for i := range taints {
		if t := &taints[i]; t.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(s.pod.Spec.Tolerations, t) {
			w += fullWeight
		}
	}
	for _, n := range s.wishes.nodes {
		if !n.req.matches(label, name) {
			w += n.weight
		}
	}
	return w
}

// dislikes is disliked for a node of the column.
func (v *solver) dislikes(s *shape, c *column) int {
	if len(s.wishes.nodes) == 0 && !c.seller.shunned {
		return 0
	}
	return s.disliked(func(key string) (string, bool) { return v.m.label(c, key) }, unknownValue, c.seller.p.Spec.Taints)
}

// dislikesBin is disliked for a bin.
func (v *solver) dislikesBin(s *shape, b *bin) int {
	if b.node == nil {
		return v.dislikes(s, b.col)
	}
	return s.disliked(func(key string) (string, bool) { return v.label(b, key) }, b.node.Name, b.taints)
}

// crowd says how little a pod of the shape would like the bin for the pods near
// it; only differences mean anything.
func (v *solver) crowd(s *shape, b *bin) int {
	x := 0
	for i := range s.wishes.ties {
		t := &s.wishes.ties[i]
		val, ok := v.label(b, t.key)
		switch n := t.counter.counts[val]; {
		case !ok:
		case t.kind == near && n > 0:
			x -= t.weight
		case t.kind != near:
			x += t.weight * n
		}
	}
	return x
}

// unmet is the weight of the preferences about pods that do not hold for a pod
// of the shape on the bin, once all have their places.
func (v *solver) unmet(s *shape, b *bin) int {
	x := 0
	for i := range s.wishes.ties {
		t := &s.wishes.ties[i]
		val, ok := v.label(b, t.key)
		if !ok {
			continue
		}
		others := t.counter.counts[val]
		if t.self {
			others--
		}
		switch t.kind {
		case near:
			if others <= 0 {
				x += t.weight
			}
		case apart:
			if others > 0 {
				x += t.weight
			}
		case even:
			if t.counter.counts[val]-t.counter.least(1) > t.maxSkew {
				x += t.weight
			}
		}
	}
	return x
}

// setPenalties makes the kinds dearer for items that prefer others.
func (v *solver) setPenalties(p *packer) {
	some := slices.ContainsFunc(p.kinds, func(k *kind) bool { return k.col.seller.shunned }) ||
		slices.ContainsFunc(p.items, func(it *packItem) bool { return len(it.it.s.wishes.nodes) > 0 })
	if !some {
		return
	}
	unit := make([]float64, len(p.items))
	for j := range unit {
		unit[j] = math.Inf(1)
	}
	for _, k := range p.kinds {
		for _, j := range k.allowed {
			it := p.items[j]
			unit[j] = min(unit[j], k.price/float64(min(copies(it.req, k.free), it.most)))
		}
	}
	for _, k := range p.kinds {
		for _, j := range k.allowed {
			if w := v.dislikes(p.items[j].it.s, k.col); w > 0 {
				if k.pen == nil {
					k.pen = make([]float64, len(p.items))
				}
				k.pen[j] = preferenceShare * float64(w) / fullWeight * unit[j]
			}
		}
	}
}

// vacancy is a number of seats on one bin for a class of pods.
type vacancy struct {
	b *bin
	n int
}

// seatClass gives a class's pods their seats. Where pods prefer company, or none,
// each takes the seat that it likes best in the state that those before it have
// left.
func (v *solver) seatClass(c *item, offers []vacancy) {
	work := 0
	for _, it := range c.parts {
		if len(it.s.wishes.ties) > 0 {
			work += it.n * len(offers)
		}
	}
	next := 0
	for _, it := range c.parts {
		if len(it.s.wishes.ties) == 0 {
			continue
		}
		for it.n > 0 {
			best := -1
			if work > maxSeatWork {
				for range offers {
					if next = (next + 1) % len(offers); offers[next].n > 0 {
						best = next
						break
					}
				}
			} else {
				least := math.MaxInt
				for i := range offers {
					if offers[i].n == 0 {
						continue
					}
					if x := v.crowd(it.s, offers[i].b); x < least {
						best, least = i, x
					}
				}
			}
			if best < 0 {
				break
			}
			v.put(it.s, offers[best].b, 1)
			offers[best].n--
			it.n--
			c.n--
		}
	}
	for _, o := range offers {
		v.putClass(c, o.b, o.n)
	}
}

// liked is the column to buy for a load instead of c: the same type, bought in
// the same way at the same price, in a zone that the load's pods like better. had
// counts the nodes bought so far by zone.
func (v *solver) liked(c *column, load []share, classes []*item, had map[string]int) *column {
	var key string
	kind := near
	for _, l := range load {
		for _, it := range classes[l.item].parts {
			for i := range it.s.wishes.ties {
				if t := &it.s.wishes.ties[i]; t.key != corev1.LabelHostname && (key == "" || t.kind > kind) {
					key, kind = t.key, t.kind
				}
			}
		}
	}
	if key == "" {
		return c
	}
	best := c
	score := func(d *column) int {
		val, _ := v.m.label(d, key)
		if kind != near {
			return had[val]
		}
		// Where those are that they want to be near.
		n := 0
		for _, l := range load {
			for _, it := range classes[l.item].parts {
				for i := range it.s.wishes.ties {
					if t := &it.s.wishes.ties[i]; t.key == key {
						n -= t.weight * t.counter.counts[val]
					}
				}
			}
		}
		return n
	}
	for _, step := range [2]int{-1, 1} {
		for i := c.index + step; i >= c.seller.first && i < c.seller.end; i += step {
			d := &v.m.columns[i]
			if d.typ != c.typ || d.variant != c.variant {
				break
			}
			if d.offer.CapacityType != c.offer.CapacityType || d.price != c.price || d.daemons != c.daemons {
				continue
			}
			if slices.ContainsFunc(load, func(l share) bool {
				it := classes[l.item]
				return !it.cols.has(d.index) || v.dislikes(it.s, d) > v.dislikes(it.s, c)
			}) {
				continue
			}
			if x, y := score(d), score(best); x < y || x == y && d.index < best.index {
				best = d
			}
		}
	}
	if val, ok := v.m.label(best, key); ok {
		had[val]++
	}
	return best
}
