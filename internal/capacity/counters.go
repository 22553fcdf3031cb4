package capacity

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// counter counts pods of one kind by the value of one node label: the state
// behind spread constraints, affinities and anti-affinities, kept as
// kube-scheduler counts.
type counter struct {
	key    string
	counts map[string]int
	// eligible says which nodes count; nil: all that have the label.
	eligible func(*bin) bool
	// matches says whether an existing pod counts.
	matches func(*corev1.Pod) bool
	// phantom values have no node yet, but could get one.
	phantom map[string]bool
	// members are the shapes whose pods count, of an affinity's counter.
	members []*shape
	// sum of the counts; low is the smallest of them, lows how many there are of
	// that: 0 when neither is known.
	sum, low, lows int
}

// add counts n more pods at the value, which has a node from then on.
func (c *counter) add(val string, n int) {
	was, known := c.counts[val]
	now := was + n
	c.counts[val] = now
	c.sum += n
	if c.lows == 0 {
		return
	}
	if known && was == c.low {
		c.lows--
	}
	switch {
	case now < c.low:
		c.low, c.lows = now, 1
	case now == c.low:
		c.lows++
	}
}

// forget the value: it has no node.
func (c *counter) forget(val string) {
	c.add(val, -c.counts[val])
	delete(c.counts, val)
	c.lows = 0
}

// clone is a counter to try things out on.
func (c *counter) clone() *counter {
	d := *c
	d.counts = maps.Clone(c.counts)
	d.phantom = maps.Clone(c.phantom)
	return &d
}

// foresee counts a value that has no node yet.
func (c *counter) foresee(val string) {
	if _, known := c.counts[val]; known {
		return
	}
	c.add(val, 0)
	if c.phantom == nil {
		c.phantom = map[string]bool{}
	}
	c.phantom[val] = true
}

// total is the number of pods counted.
func (c *counter) total() int {
	return c.sum
}

// least is the smallest count of any domain; 0 while there are fewer domains
// than minDomains.
func (c *counter) least(minDomains int) int {
	if len(c.counts) < minDomains || len(c.counts) == 0 {
		return 0
	}
	if c.lows == 0 {
		for _, x := range c.counts {
			switch {
			case c.lows == 0 || x < c.low:
				c.low, c.lows = x, 1
			case x == c.low:
				c.lows++
			}
		}
	}
	return c.low
}

// buildCounters makes the counters that the shapes need and connects them. It
// must run once existing bins are known.
func (v *solver) buildCounters() {
	v.spreadCounters, v.allCounters = nil, map[string]*counter{}
	for _, s := range v.shapes {
		s.affinityCounts, s.antiCounts, s.spreadCounts, s.heldOff, s.adds, s.late = nil, nil, nil, nil, nil, nil
	}
	for _, s := range v.shapes {
		v.affinityCounters(s)
		for _, t := range s.anti {
			s.antiCounts = append(s.antiCounts, v.antiCounter(t))
		}
		v.spreadCountersOf(s)
	}
	v.holdCounters()
	v.wishCounters()
	for _, s := range v.shapes {
		for _, list := range [2][]*counter{s.affinityCounts, s.spreadCounts} {
			for _, c := range list {
				s.meetsDaemons = s.meetsDaemons || slices.ContainsFunc(v.snap.DaemonSetPods, c.matches)
			}
		}
	}
}

// counterFor finds or makes a counter; made says that it is new.
func (v *solver) counterFor(id, key string, matches func(*corev1.Pod) bool, eligible func(*bin) bool) (c *counter, made bool) {
	id += "\x00" + key
	if c := v.allCounters[id]; c != nil {
		return c, false
	}
	c = &counter{key: key, counts: map[string]int{}, eligible: eligible, matches: matches}
	v.allCounters[id] = c
	for _, b := range v.bins {
		val, ok := v.label(b, key)
		if !ok || eligible != nil && !eligible(b) {
			continue
		}
		n := 0
		for _, list := range [2][]*corev1.Pod{b.pods(), b.daemons} {
			for _, p := range list {
				if matches(p) {
					n++
				}
			}
		}
		if n > 0 || eligible != nil {
			c.add(val, n)
		}
	}
	return c, true
}

// affinityCounters count pods that match all of a shape's affinity terms: that
// is how kube-scheduler reads several terms.
func (v *solver) affinityCounters(s *shape) {
	if len(s.affinity) == 0 {
		return
	}
	ids := make([]string, len(s.affinity))
	for i, t := range s.affinity {
		ids[i] = t.q.key
	}
	slices.Sort(ids)
	id := "all of\x00" + strings.Join(slices.Compact(ids), "\x00")
	all := func(p *corev1.Pod) bool { return s.affinityMatches(v, p.Namespace, p.Labels) }
	for _, t := range s.affinity {
		c, made := v.counterFor(id, t.key, all, nil)
		s.affinityCounts = append(s.affinityCounts, c)
		if !made {
			continue
		}
		for _, o := range v.shapes {
			if s.affinityMatches(v, o.pod.Namespace, o.pod.Labels) {
				o.adds = append(o.adds, c)
				c.members = append(c.members, o)
			}
		}
	}
}

// affinityMatches says whether a pod matches all affinity terms of the shape.
func (s *shape) affinityMatches(v *solver, ns string, l map[string]string) bool {
	for _, t := range s.affinity {
		if !t.q.matches(v.snap.Namespaces, ns, l) {
			return false
		}
	}
	return len(s.affinity) > 0
}

func (v *solver) antiCounter(t term) *counter {
	c, made := v.counterFor("any\x00"+t.q.key, t.key, func(p *corev1.Pod) bool {
		return t.q.matches(v.snap.Namespaces, p.Namespace, p.Labels)
	}, nil)
	if made {
		for _, o := range v.shapes {
			if v.selfMatches(t.q, o) {
				o.adds = append(o.adds, c)
			}
		}
	}
	return c
}

// spreadCountersOf counts what the spread constraints of a shape count: pods
// that are not on their way out, on nodes that have all the constraints' labels
// and pass the constraint's inclusion policies. A waiting shape that nothing
// ties to others is not counted: its pods can be bound last.
func (v *solver) spreadCountersOf(s *shape) {
	keys := make([]string, len(s.spread))
	for i := range s.spread {
		keys[i] = s.spread[i].key
	}
	for i := range s.spread {
		t := &s.spread[i]
		id := "spread\x00" + t.q.key + "\x00" + strings.Join(keys, "\x00")
		if t.honorAffinity {
			id += "\x00affinity\x00" + s.selects.key
		}
		if t.honorTaints {
			b := shapeKey{}
			b.tolerations(s.pod.Spec.Tolerations)
			id += "\x00taints\x00" + string(b)
		}
		eligible := func(b *bin) bool {
			for _, k := range keys {
				if _, ok := v.label(b, k); !ok {
					return false
				}
			}
			if t.honorAffinity && !v.matchesBin(s.selects, b) {
				return false
			}
			return !t.honorTaints || untolerated(s.pod.Spec.Tolerations, b.taints) == nil &&
				(b.node == nil || !b.node.Unschedulable || tolerates(s.pod.Spec.Tolerations, &cordoned))
		}
		c, made := v.counterFor(id, t.key, func(p *corev1.Pod) bool {
			return !t.countsNothing && p.DeletionTimestamp == nil && t.q.matches(v.snap.Namespaces, p.Namespace, p.Labels)
		}, eligible)
		s.spreadCounts = append(s.spreadCounts, c)
		if made {
			v.spreadCounters = append(v.spreadCounters, c)
			for _, o := range v.shapes {
				tied := len(o.spread) > 0 || len(o.affinity) > 0 || len(s.affinity) > 0
				if t.countsNothing || !v.selfMatches(t.q, o) {
					continue
				}
				if tied {
					o.adds = append(o.adds, c)
				} else {
					o.late = append(o.late, c)
				}
			}
		}
	}
}

// holdCounters count, for each anti-affinity term of an existing pod, a
// DaemonSet's pod or a shape, who holds it where; shapes that the term selects
// keep away from there.
func (v *solver) holdCounters() {
	type holder struct {
		t       term
		counter *counter
	}
	holders := map[string]*holder{}
	hold := func(t term) *holder {
		id := "held\x00" + t.q.key + "\x00" + t.key
		h := holders[id]
		if h == nil {
			h = &holder{t, &counter{key: t.key, counts: map[string]int{}}}
			holders[id] = h
		}
		return h
	}
	for _, b := range v.bins {
		var tied []*corev1.Pod
		if b.node != nil {
			tied = v.factsOf(b.node).tied
		}
		for _, list := range [2][]*corev1.Pod{tied, b.daemons} {
			for _, p := range list {
				if p.Spec.Affinity == nil || p.Spec.Affinity.PodAntiAffinity == nil {
					continue
				}
				_, anti := v.existingTerms(p)
				for _, t := range anti {
					if val, ok := v.label(b, t.key); ok {
						hold(t).counter.add(val, 1)
					}
				}
			}
		}
	}
	for _, s := range v.shapes {
		for _, t := range s.anti {
			s.adds = append(s.adds, hold(t).counter)
		}
	}
	for _, id := range sortedNames(holders) {
		h := holders[id]
		for _, s := range v.shapes {
			if v.selfMatches(h.t.q, s) {
				s.heldOff = append(s.heldOff, h.counter)
			}
		}
	}
}

// existingTerms are affinityTerms of an existing pod, remembered.
func (v *solver) existingTerms(p *corev1.Pod) (affinity, anti []term) {
	t, ok := v.terms[p]
	if !ok {
		t[0], t[1] = affinityTerms(p)
		v.terms[p] = t
	}
	return t[0], t[1]
}

// scope says which of a shape's ties to other nodes are to be checked.
type scope int

const (
	everything scope = iota
	// hostOnly: those within one node; the others are settled already.
	hostOnly
	// everythingButHosts: those across nodes, for a place without a host.
	everythingButHosts
)

// blocked says which tie to other pods keeps a pod of the shape off the bin;
// empty: none.
func (v *solver) blocked(s *shape, b *bin, sc scope) Constraint {
	var try map[*counter]*counter
	if s.meetsDaemons && b.probe {
		try = v.withDaemons(s, b)
	}
	return blockedAt(s, func(key string) (string, bool) { return v.label(b, key) }, sc, (v.strict[s.id] || v.settled) && !v.closed, try)
}

// withDaemons are the shape's counters as they would be once the node is there
// with its DaemonSets' pods.
func (v *solver) withDaemons(s *shape, b *bin) map[*counter]*counter {
	try := map[*counter]*counter{}
	for _, list := range [2][]*counter{s.affinityCounts, s.spreadCounts} {
		for _, c := range list {
			val, ok := v.label(b, c.key)
			if !ok || try[c] != nil || c.eligible != nil && !c.eligible(b) {
				continue
			}
			try[c] = c.clone()
			for _, d := range b.col.daemons.pods {
				if c.matches(d.pod) {
					try[c].add(val, 1)
				}
			}
		}
	}
	return try
}

// blockedAt is blocked for a place that is known by its labels alone. try maps
// counters to stand-ins.
func blockedAt(s *shape, label func(string) (string, bool), sc scope, strictHosts bool, try map[*counter]*counter) Constraint {
	at := func(c *counter) *counter {
		if t := try[c]; t != nil {
			return t
		}
		return c
	}
	skip := func(c *counter) bool {
		host := c.key == corev1.LabelHostname
		return sc == hostOnly && !host || sc == everythingButHosts && host
	}
	for _, list := range [2][]*counter{s.antiCounts, s.heldOff} {
		for _, c := range list {
			if skip(c) {
				continue
			}
			if val, ok := label(c.key); ok && at(c).counts[val] > 0 {
				return ConstraintAntiAffinity
			}
		}
	}
	if len(s.affinityCounts) > 0 && !affinityHolds(s, label, skip, at) {
		return ConstraintPodAffinity
	}
	for i, c := range s.spreadCounts {
		if skip(c) {
			continue
		}
		val, ok := label(c.key)
		if !ok {
			return ConstraintTopologySpread
		}
		t := &s.spread[i]
		c := at(c)
		least := c.least(t.minDomains)
		if _, known := c.counts[val]; !known || strictHosts && c.key == corev1.LabelHostname {
			least = 0
		}
		self := 0
		if s.selfSpread[i] {
			self = 1
		}
		if c.counts[val]+self-least > t.maxSkew {
			return ConstraintTopologySpread
		}
	}
	return ""
}

func affinityHolds(s *shape, label func(string) (string, bool), skip func(*counter) bool, at func(*counter) *counter) bool {
	any, all := false, true
	for _, c := range s.affinityCounts {
		if at(c).total() > 0 {
			any = true
		}
		if skip(c) {
			continue
		}
		val, ok := label(c.key)
		if !ok {
			return false
		}
		if at(c).counts[val] <= 0 {
			all = false
		}
	}
	// The first of a group that wants to be together has nobody to join.
	return all || !any && s.selfAffine && !s.neverFirst
}

// hostValue names a host that is not there yet, uniquely.
func hostValue(n int) string { return "\x00" + strconv.Itoa(n) }
