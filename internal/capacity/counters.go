package capacity

import (
	"cmp"
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
	key string
	// who counts.
	who matcher
	// realm are the nodes that count; nil: all that have the label.
	realm *realm
	// base are the counts before the plan; counts, those of now, are base itself
	// until they change. Both hold what is not 0.
	base, counts map[string]int
	shared       bool
	// own are values known to this counter that no node of the realm has: true for
	// phantoms, which could get a node.
	own map[string]bool
	// members are the shapes whose pods count, of an affinity's counter.
	members []*shape
	// meetsDaemons: some DaemonSet's pod counts.
	meetsDaemons bool
	// sum of the counts; low is the smallest of them, lows how many there are of
	// that: 0 when neither is known.
	sum, low, lows int
}

// matcher says which pods count: those that all queries select.
type matcher struct {
	queries []*query
	// staying: not those that are being deleted.
	staying bool
}

// reset goes back to what is counted before the plan.
func (c *counter) reset() {
	c.counts, c.shared, c.own = c.base, true, nil
	c.low, c.lows, c.sum = 0, 0, 0
	for _, n := range c.base {
		c.sum += n
	}
}

// known says whether the value has a node that counts, or could get one.
func (c *counter) known(val string) bool {
	if c.realm != nil && c.realm.nodes[val] {
		return true
	}
	_, ok := c.own[val]
	return ok
}

// domains is how many values are known.
func (c *counter) domains() int { return len(c.realm.nodes) + len(c.own) }

// add counts n more pods at the value, which is known from then on.
func (c *counter) add(val string, n int) {
	if c.realm != nil && !c.known(val) {
		c.learn(val, false)
	}
	if n == 0 {
		return
	}
	if c.shared {
		c.counts, c.shared = maps.Clone(c.counts), false
	}
	was := c.counts[val]
	now := was + n
	if now == 0 {
		delete(c.counts, val)
	} else {
		if c.counts == nil {
			c.counts = map[string]int{}
		}
		c.counts[val] = now
	}
	c.sum += n
	if c.lows == 0 {
		return
	}
	if was != 0 && was == c.low {
		c.lows--
	}
	switch {
	case now == 0:
	case now < c.low:
		c.low, c.lows = now, 1
	case now == c.low:
		c.lows++
	}
}

func (c *counter) learn(val string, phantom bool) {
	if c.own == nil {
		c.own = map[string]bool{}
	}
	c.own[val] = phantom
}

// foresee counts a value that has no node yet.
func (c *counter) foresee(val string) {
	if !c.known(val) {
		c.learn(val, true)
	}
}

// phantoms are the values that could get a node.
func (c *counter) phantoms() []string {
	var list []string
	for val, phantom := range c.own {
		if phantom {
			list = append(list, val)
		}
	}
	return list
}

// foresees says whether there are phantoms.
func (c *counter) foresees() bool { return len(c.own) > 0 && len(c.phantoms()) > 0 }

// forgetPhantoms stops counting values that could have got a node but did not, and
// says whether there were any.
func (c *counter) forgetPhantoms() bool {
	list := c.phantoms()
	for _, val := range list {
		c.add(val, -c.counts[val])
		delete(c.own, val)
	}
	return len(list) > 0
}

// clone is a counter to try things out on.
func (c *counter) clone() *counter {
	d := *c
	d.counts, d.shared = maps.Clone(c.counts), false
	d.own = maps.Clone(c.own)
	return &d
}

// total is the number of pods counted.
func (c *counter) total() int {
	return c.sum
}

// least is the smallest count of any domain; 0 while there are fewer domains
// than minDomains.
func (c *counter) least(minDomains int) int {
	n := c.domains()
	if n < minDomains || n == 0 || n > len(c.counts) {
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

// realm are the nodes that spread constraints with certain keys and policies
// count, by the value of one of the keys.
type realm struct {
	key      string
	eligible func(*bin) bool
	// existing are the eligible bins of the Snapshot, columns those to buy: 0 where
	// that is not known yet, 1 or -1.
	existing bitset
	columns  []int8
	// first are the values of existing nodes, nodes those of now: first itself until
	// there are more.
	first, nodes map[string]bool
	counters     []*counter
	// foreseen are the values that nodes of any column could have; nil: not known.
	foreseen []string
}

// has says whether pods on the bin count.
func (r *realm) has(b *bin) bool {
	if r == nil {
		return true
	}
	if b.node != nil {
		return r.existing.has(b.index)
	}
	x := &r.columns[b.col.index]
	if *x == 0 {
		*x = -1
		if r.eligible(b) {
			*x = 1
		}
	}
	return *x > 0
}

// open notes that a node has the value.
func (r *realm) open(val string) {
	if r.nodes[val] {
		return
	}
	if len(r.nodes) == len(r.first) {
		r.nodes = maps.Clone(r.first)
	}
	r.nodes[val] = true
	for _, c := range r.counters {
		delete(c.own, val)
	}
}

// close is the reverse of open.
func (r *realm) close(val string) {
	delete(r.nodes, val)
}

// buildCounters makes the counters that the shapes need and connects them, or
// sets them back to the Snapshot, with the bins that are to buy. It must run once
// existing bins are known.
func (v *solver) buildCounters() {
	if v.allCounters == nil {
		v.linkCounters()
	}
	for _, r := range v.realms {
		r.nodes = r.first
	}
	for _, c := range v.allCounters {
		c.reset()
	}
	for _, h := range v.holders {
		h.counter.reset()
	}
	for _, b := range v.bins {
		if b.node != nil {
			continue
		}
		v.enter(b)
		for _, p := range b.daemons {
			v.holdBy(p, b)
		}
	}
}

func (v *solver) linkCounters() {
	v.allCounters, v.realms, v.holders = map[string]*counter{}, map[string]*realm{}, map[string]*holder{}
	for _, s := range v.shapes {
		v.affinityCounters(s)
		for _, t := range s.anti {
			s.antiCounts = append(s.antiCounts, v.antiCounter(t))
		}
		v.spreadCountersOf(s)
	}
	v.holdCounters()
	v.wishCounters()
	keys := map[string]bool{}
	for _, c := range v.allCounters {
		keys[c.key] = true
	}
	v.counterKeys = sortedNames(keys)
	for _, s := range v.shapes {
		for _, list := range [2][]*counter{s.affinityCounts, s.spreadCounts} {
			for _, c := range list {
				s.meetsDaemons = s.meetsDaemons || c.meetsDaemons
			}
		}
	}
}

// enter tells the counters that there is one node more, with its DaemonSets' pods.
func (v *solver) enter(b *bin) {
	for _, r := range v.realms {
		if val, ok := v.label(b, r.key); ok && r.has(b) {
			r.open(val)
		}
	}
	v.countDaemons(b, 1)
}

// countDaemons counts each of the node's DaemonSets' pods n times more.
func (v *solver) countDaemons(b *bin, n int) {
	for _, p := range b.daemons {
		v.count(v.countersOf(p), b, n)
	}
}

// countersOf are those that a DaemonSet's pod counts for.
func (v *solver) countersOf(p *corev1.Pod) []*counter {
	list, ok := v.daemonCounters[p]
	if !ok {
		for _, c := range v.allCounters {
			if v.selected(&c.who, p) {
				list = append(list, c)
			}
		}
		v.daemonCounters[p] = list
	}
	return list
}

// selected says whether a pod counts.
func (v *solver) selected(who *matcher, p *corev1.Pod) bool {
	if who.staying && p.DeletionTimestamp != nil {
		return false
	}
	for _, q := range who.queries {
		if !q.matches(v.snap.Namespaces, p.Namespace, p.Labels) {
			return false
		}
	}
	return len(who.queries) > 0
}

// findIn calls f for each member of the roster that the queries all select.
func (v *solver) findIn(r *roster, queries []*query, f func(i int32)) {
	if len(queries) == 0 {
		return
	}
	r.find(queries[0], v.snap.Namespaces, func(i int32) {
		m := &r.members[i]
		for _, q := range queries[1:] {
			if !q.matches(v.snap.Namespaces, m.namespace, m.labels) {
				return
			}
		}
		f(i)
	})
}

// shapesOf are the shapes that the queries all select, in order.
func (v *solver) shapesOf(queries ...*query) []*shape {
	if v.shapeRoster == nil {
		v.shapeRoster = &roster{}
		for _, s := range v.shapes {
			v.shapeRoster.add(s.pod.Namespace, s.pod.Labels)
		}
	}
	var list []*shape
	v.findIn(v.shapeRoster, queries, func(i int32) { list = append(list, v.shapes[i]) })
	slices.SortFunc(list, func(a, b *shape) int { return cmp.Compare(a.id, b.id) })
	return list
}

// counterFor finds or makes a counter; made says that it is new.
func (v *solver) counterFor(id, key string, who matcher, r *realm) (c *counter, made bool) {
	id += "\x00" + key
	if c := v.allCounters[id]; c != nil {
		return c, false
	}
	c = &counter{key: key, who: who, realm: r, base: map[string]int{}}
	v.allCounters[id] = c
	if r != nil {
		r.counters = append(r.counters, c)
	}
	add := func(i int32, n int32) {
		if b := &v.fresh[i]; n > 0 && c.realm.has(b) {
			if val, ok := b.node.Labels[key]; ok {
				c.base[val] += int(n)
			}
		}
	}
	people, there := v.census(), v.residentsOf()
	v.findIn(&people.sets, who.queries, func(set int32) {
		for _, x := range there.of(set) {
			if who.staying {
				add(x.bin, x.staying)
			} else {
				add(x.bin, x.pods)
			}
		}
	})
	for p, bins := range v.awaited() {
		if v.selected(&who, p) {
			for _, i := range bins {
				add(i, 1)
			}
		}
	}
	c.meetsDaemons = slices.ContainsFunc(v.snap.DaemonSetPods, func(p *corev1.Pod) bool { return v.selected(&who, p) })
	return c, true
}

// awaited are the existing bins that DaemonSets' pods are still to come to.
func (v *solver) awaited() map[*corev1.Pod][]int32 {
	if v.awaiting == nil {
		v.awaiting = map[*corev1.Pod][]int32{}
		for i := range v.fresh {
			for _, p := range v.fresh[i].daemons {
				v.awaiting[p] = append(v.awaiting[p], int32(i))
			}
		}
	}
	return v.awaiting
}

// realmFor finds or makes a realm.
func (v *solver) realmFor(id, key string, eligible func(*bin) bool) *realm {
	id += "\x00" + key
	if r := v.realms[id]; r != nil {
		return r
	}
	r := &realm{key: key, eligible: eligible, existing: newBitset(len(v.fresh)), columns: make([]int8, len(v.m.columns)), first: map[string]bool{}}
	v.realms[id] = r
	for i := range v.fresh {
		b := &v.fresh[i]
		if val, ok := b.node.Labels[key]; ok && eligible(b) {
			r.existing.set(i)
			r.first[val] = true
		}
	}
	return r
}

// affinityCounters count pods that match all of a shape's affinity terms: that
// is how kube-scheduler reads several terms.
func (v *solver) affinityCounters(s *shape) {
	if len(s.affinity) == 0 {
		return
	}
	ids, queries := make([]string, len(s.affinity)), make([]*query, len(s.affinity))
	for i, t := range s.affinity {
		ids[i], queries[i] = t.q.key, t.q
	}
	slices.Sort(ids)
	id := "all of\x00" + strings.Join(slices.Compact(ids), "\x00")
	for _, t := range s.affinity {
		c, made := v.counterFor(id, t.key, matcher{queries: queries}, nil)
		s.affinityCounts = append(s.affinityCounts, c)
		if !made {
			continue
		}
		c.members = v.shapesOf(queries...)
		for _, o := range c.members {
			o.adds = append(o.adds, c)
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
	c, made := v.counterFor("any\x00"+t.q.key, t.key, matcher{queries: []*query{t.q}}, nil)
	if made {
		for _, o := range v.shapesOf(t.q) {
			o.adds = append(o.adds, c)
		}
	}
	return c
}

// spreadCountersOf counts what the spread constraints of a shape count: pods
// that are not on their way out, on nodes that have all the constraints' labels
// and pass the constraint's inclusion policies. A waiting shape that nothing
// ties to others is not counted: its pods can be bound last.
func (v *solver) spreadCountersOf(s *shape) {
	if len(s.spread) == 0 {
		return
	}
	keys := make([]string, len(s.spread))
	for i := range s.spread {
		keys[i] = s.spread[i].key
	}
	for i := range s.spread {
		t := &s.spread[i]
		where := strings.Join(keys, "\x00")
		if t.honorAffinity {
			where += "\x00affinity\x00" + s.selects.key
		}
		if t.honorTaints {
			b := shapeKey{}
			b.tolerations(s.pod.Spec.Tolerations)
			where += "\x00taints\x00" + string(b)
		}
		r := v.realmFor(where, t.key, func(b *bin) bool {
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
		})
		who := matcher{queries: []*query{t.q}, staying: true}
		if t.countsNothing {
			who.queries = nil
		}
		c, made := v.counterFor("spread\x00"+t.q.key+"\x00"+where, t.key, who, r)
		s.spreadCounts = append(s.spreadCounts, c)
		if !made {
			continue
		}
		for _, o := range v.shapesOf(who.queries...) {
			if len(o.spread) > 0 || len(o.affinity) > 0 || len(s.affinity) > 0 {
				o.adds = append(o.adds, c)
			} else {
				o.late = append(o.late, c)
			}
		}
	}
}

// holder counts pods that hold an anti-affinity term.
type holder struct {
	t       term
	counter *counter
}

// holdCounters count, for each anti-affinity term of an existing pod, a
// DaemonSet's pod or a shape, who holds it where; shapes that the term selects
// keep away from there.
func (v *solver) holdCounters() {
	for _, s := range v.shapes {
		for _, t := range s.anti {
			s.adds = append(s.adds, v.holderOf(t).counter)
		}
	}
	// Terms of existing pods matter where they select a shape.
	var matter []*counter
	var looked bitset
	for i := range v.fresh {
		b := &v.fresh[i]
		if len(v.factsOf(b.node).antiKeys) == 0 {
			continue
		}
		for _, x := range v.counted(b.node).holdings {
			if k := int(x.term); k >= len(matter) {
				n := len(v.census().terms)
				matter = append(matter, make([]*counter, n-len(matter))...)
				looked = append(looked, make(bitset, len(newBitset(n))-len(looked))...)
			}
			t := &v.census().terms[x.term]
			val, ok := b.node.Labels[t.key]
			if !ok {
				continue
			}
			if !looked.has(int(x.term)) {
				looked.set(int(x.term))
				if v.holders[t.id()] != nil || len(v.shapesOf(t.q)) > 0 {
					matter[x.term] = v.holderOf(*t).counter
				}
			}
			if c := matter[x.term]; c != nil {
				c.base[val] += int(x.pods)
			}
		}
	}
	for p, bins := range v.awaited() {
		_, anti := v.existingTerms(p)
		for _, t := range anti {
			for _, i := range bins {
				if val, ok := v.fresh[i].node.Labels[t.key]; ok {
					v.holderOf(t).counter.base[val]++
				}
			}
		}
	}
	for _, id := range sortedNames(v.holders) {
		v.holders[id].keepOff(v)
	}
}

// holderOf finds or makes a holder.
func (v *solver) holderOf(t term) *holder {
	h := v.holders[t.id()]
	if h == nil {
		h = &holder{t, &counter{key: t.key, base: map[string]int{}}}
		v.holders[t.id()] = h
	}
	return h
}

// keepOff connects the holder with the shapes that its term selects.
func (h *holder) keepOff(v *solver) {
	for _, s := range v.shapesOf(h.t.q) {
		s.heldOff = append(s.heldOff, h.counter)
	}
}

// holdBy counts what a DaemonSet's pod holds on a node that is to come.
func (v *solver) holdBy(p *corev1.Pod, b *bin) {
	_, anti := v.existingTerms(p)
	for _, t := range anti {
		val, ok := v.label(b, t.key)
		if !ok {
			continue
		}
		h := v.holders[t.id()]
		if h == nil {
			h = v.holderOf(t)
			h.keepOff(v)
		}
		h.counter.add(val, 1)
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
			if !ok || try[c] != nil || !c.realm.has(b) {
				continue
			}
			try[c] = c.clone()
			for _, d := range b.col.daemons.pods {
				if v.selected(&c.who, d.pod) {
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
		if !c.known(val) || strictHosts && c.key == corev1.LabelHostname {
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
