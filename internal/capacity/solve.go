package capacity

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Solve plans for the Snapshot: pods go onto nodes that exist or are coming
// where they fit, and for the rest nodes are bought, as cheaply as it can find.
// Heavier Provisioners come first; pods fall to lighter ones only when limits
// leave no room. When something is scarce, pods with higher priority and then
// older ones are served first. Of a pod group as many pods as it needs have a
// place, or none has.
func Solve(s *Snapshot) *Plan { return solve(s, nil) }

// solve is Solve with what is remembered, if anything is.
func solve(s *Snapshot, m *Memory) *Plan {
	if gg := newGanging(s, m); gg != nil {
		return gg.solve()
	}
	return attempted(s, nil, m).plan()
}

// attempted is a solver that has placed what it can, without regard to whether
// all pods of a gang got a place.
func attempted(s *Snapshot, gangs map[*corev1.Pod]*gang, m *Memory) *solver {
	v := newSolver(s)
	v.memory = m
	v.gangs = gangs
	v.groupPods()
	v.prepare()
	// Limits mostly leave room enough. Only where the cheapest plan goes beyond
	// one is it planned with regard to them, which is a coarser search.
	v.boundless = true
	if v.attemptInOrder(); !v.withinLimits() {
		v.attemptInOrder()
	}
	return v
}

// attemptInOrder plans with existing nodes filled first as they stand. Where that
// may have cost somebody a place, or money, it plans again with all domains that
// could get a node counted beforehand, and keeps the better plan.
func (v *solver) attemptInOrder() {
	v.realFirst, v.filled = true, nil
	v.attemptOnce()
	if v.unserved() == 0 && !slices.ContainsFunc(v.shapes, func(s *shape) bool { return v.filled[s] && v.strict[s.id] }) || len(v.filled) == 0 {
		return
	}
	first := v.outcome()
	v.realFirst = false
	v.attemptOnce()
	if second := v.outcome(); !second.better(first) {
		v.recall(first)
	}
}

// attemptOnce plans all shapes together, and one after the other where that
// cost somebody a place who comes first.
func (v *solver) attemptOnce() {
	clear(v.careful)
	clear(v.strict)
	v.brought, v.learnt = nil, 0
	v.attemptAll(false)
	if v.scarce || v.outbid() {
		v.attemptAll(true)
	}
	v.exact()
	v.prove()
	v.fold()
}

// compareService orders shapes as they are served when something is scarce.
func compareService(a, b *shape) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), a.oldest.Compare(b.oldest), cmp.Compare(a.id, b.id))
}

// inOrder are the shapes in the order of service.
func (v *solver) inOrder() []*shape {
	order := slices.Clone(v.shapes)
	slices.SortFunc(order, compareService)
	return order
}

// outbid says whether pods without a place may have lost it, on a node that
// exists, to others that are served later.
func (v *solver) outbid() bool {
	for _, s := range v.shapes {
		if v.left[s.id] == 0 {
			continue
		}
		for _, b := range v.bins[:v.existing] {
			if vectorFits(s.vector, b.start) && slices.ContainsFunc(b.placed, func(p placed) bool { return compareService(s, p.s) < 0 }) && v.reachable(s, b) {
				return true
			}
		}
	}
	return false
}

// maxRepairs bounds how often an attempt is repeated with what the last one has
// taught; each time teaches something about at least one shape.
const maxRepairs = 5

func (v *solver) attemptAll(strict bool) {
	v.attempt(strict)
	for try := 0; try < maxRepairs && v.repair(); try++ {
		v.attempt(strict)
	}
}

// solver holds one Solve's state.
type solver struct {
	snap    *Snapshot
	volumes *volumeBook
	spread  *defaultSpread
	// memory of Snapshots before; nil: none.
	memory *Memory
	// gangs that waiting pods belong to.
	gangs  map[*corev1.Pod]*gang
	dims   *dimensions
	m      *market
	shapes []*shape
	sigs   []*signature

	// fresh are the existing bins before the plan; nil: not made yet.
	fresh    []bin
	bins     []*bin
	existing int
	// allCounters but those of holders, by what they count; counterKeys are their
	// keys. All are made once and set back for each attempt.
	allCounters map[string]*counter
	counterKeys []string
	holders     map[string]*holder
	realms      map[string]*realm
	// people are the census; residents, awaiting, shapeRoster and daemonCounters are
	// made when somebody asks for them.
	people         *census
	residents      *residents
	awaiting       map[*corev1.Pod][]int32
	shapeRoster    *roster
	daemonCounters map[*corev1.Pod][]*counter
	// places of existing nodes by topology keys.
	places map[string]*places
	// left is how many pods of each shape have no place yet.
	left []int
	// boundless: nodes are bought without regard to limits. scarce: limits kept
	// some pod from a node.
	boundless, scarce bool
	// settled: counters hold all pods that have a place; closed: no more nodes
	// will be bought.
	settled, closed bool
	// realFirst: existing nodes are filled first as they stand; filled are the shapes
	// that some pods were placed of so.
	realFirst bool
	filled    map[*shape]bool
	// attempts counts calls of attempt.
	attempts int
	// hostAffine are the shapes whose pods must share a host with others.
	hostAffine []*shape
	// violated are the shapes that the last attempt has failed.
	violated []*shape

	// What an attempt taught for the next, by shape: plan pod by pod; reckon with
	// nodes for other pods where its spread would count them.
	careful, strict []bool
	// brought are the DaemonSets' pods that the nodes which the last attempt has
	// bought came with, by counter and domain; learnt is how often that was noted.
	// moved is how many pods this attempt had to move because of them.
	brought       map[string]map[string]int
	learnt, moved int

	daemons []*daemon
	refused []Unschedulable
	reqs    map[string]*nodeReq
	facts   map[*Node]*nodeFacts
	terms   map[*corev1.Pod][2][]term
	pk      packer
	// barred are domains that nodes are not to be bought in now.
	barred map[string]bool
	// orderSteps counts what searchOrder has done.
	orderSteps int
	// bound are all puts since the bins were opened, in order.
	bound []seat
	// worth of one pod of each shape, in $/h, as the packing has found it, and what
	// it has left of its work.
	worth   []float64
	unspent int64
	// near are good patterns that were found, for the lower bound: pods by shape.
	near [][]share
	// credit is what left-over room is worth; nil: nothing.
	credit *credit
}

// signature is what some shapes have in common: the columns that may be bought
// for them, and those on whose nodes they may run when somebody else needs
// these; both before fit.
type signature struct {
	key         string
	cols, seats bitset
	// domains are made by domainsBy, level by columnsAt.
	domains map[string][]*domain
	level   map[string]bitset
}

func newSolver(s *Snapshot) *solver {
	return &solver{snap: s, volumes: newVolumeBook(s), spread: newDefaultSpread(s), reqs: map[string]*nodeReq{}, facts: map[*Node]*nodeFacts{}, terms: map[*corev1.Pod][2][]term{},
		daemonCounters: map[*corev1.Pod][]*counter{}, places: map[string]*places{}}
}

func (v *solver) refuse(p *corev1.Pod, r ...Reason) {
	v.refused = append(v.refused, Unschedulable{Pod: p, Reasons: r})
}

// prepare lays out the market for the shapes and says which columns each may
// use.
func (v *solver) prepare() {
	wanted := map[string][]string{}
	var rs []Resources
	for _, s := range v.shapes {
		wantedLabels(s.pod, wanted)
		if g := s.gang; g != nil && isOwnLabel(g.Topology) && g.Topology != "" && !slices.Contains(wanted[g.Topology], g.domains[0]) {
			wanted[g.Topology] = append(wanted[g.Topology], g.domains[0])
		}
		for _, key := range s.topologyKeys() {
			wantLabel(wanted, key)
		}
		rs = append(rs, s.requests)
	}
	for _, n := range v.snap.Nodes {
		for _, key := range v.factsOf(n).antiKeys {
			wantLabel(wanted, key)
		}
	}
	for _, d := range v.snap.DaemonSetPods {
		// Where it does not come there is more room.
		wantedLabels(d, wanted)
	}
	for _, values := range wanted {
		slices.Sort(values)
	}
	for _, d := range v.snap.DaemonSetPods {
		rs = append(rs, PodRequests(d))
	}
	drivers := v.limitedDrivers()
	for _, d := range drivers {
		rs = append(rs, Resources{attachResource(d): 1})
	}
	v.dims = newDimensions(rs...)
	for _, d := range drivers {
		v.dims.attach = append(v.dims.attach, attachDimension{d, v.dims.index[attachResource(d)]})
	}
	v.compileDaemons()
	v.m = v.marketFor(wanted)
	v.worth = make([]float64, len(v.shapes))
	v.careful, v.strict = make([]bool, len(v.shapes)), make([]bool, len(v.shapes))
	byKey := map[string]int{}
	for _, s := range v.shapes {
		s.vector = v.dims.vector(s.requests)
		s.countVolumes(v.dims)
		key := v.signatureKey(s)
		id, ok := byKey[key]
		if !ok {
			id = len(v.sigs)
			byKey[key] = id
			v.sigs = append(v.sigs, v.signatureFor(s, key))
		}
		s.sig = id
	}
}

// signatureKey is equal for shapes that may use the same columns, fit aside.
func (v *solver) signatureKey(s *shape) string {
	b := make(shapeKey, 0, 128)
	b.str(s.node.key)
	b.tolerations(s.pod.Spec.Tolerations)
	for _, name := range sortedNames(s.requests) {
		if accelerated(name) {
			b.str(string(name))
		}
	}
	if len(s.ports) > 0 || len(v.snap.DaemonSetPods) > 0 && v.quarrels(s) {
		b.num(int64(s.id))
	}
	return string(b)
}

// quarrels says whether a DaemonSet's pod and the shape might keep apart.
func (v *solver) quarrels(s *shape) bool {
	anywhere := func(string) (string, bool) { return "", true }
	return slices.ContainsFunc(v.snap.DaemonSetPods, func(d *corev1.Pod) bool { return v.apart(s, d, anywhere) })
}

// apart says whether anti-affinity keeps a pod of the shape from a node with
// these labels on which the pod p is.
func (v *solver) apart(s *shape, p *corev1.Pod, label func(string) (string, bool)) bool {
	for _, t := range s.anti {
		if _, ok := label(t.key); ok && t.q.matches(v.snap.Namespaces, p.Namespace, p.Labels) {
			return true
		}
	}
	_, anti := v.existingTerms(p)
	for _, t := range anti {
		if _, ok := label(t.key); ok && v.selfMatches(t.q, s) {
			return true
		}
	}
	return false
}

func (v *solver) columnsFor(s *shape) (cols, seats bitset) {
	cols, seats = newBitset(len(v.m.columns)), newBitset(len(v.m.columns))
	for _, seller := range v.m.sellers {
		if untolerated(s.pod.Spec.Tolerations, seller.p.Spec.Taints) != nil {
			continue
		}
		for i := seller.first; i < seller.end; i++ {
			c := &v.m.columns[i]
			label := func(key string) (string, bool) { return v.m.label(c, key) }
			if !s.node.matches(label, unknownValue) || portsConflict(s.ports, c.daemons.ports) ||
				slices.ContainsFunc(c.daemons.pods, func(d *daemon) bool { return v.apart(s, d.pod, label) }) {
				continue
			}
			seats.set(i)
			if c.typ.OnlyFor == "" || s.requests[c.typ.OnlyFor] > 0 {
				cols.set(i)
			}
		}
	}
	return cols, seats
}

// usable says whether a node of the column could host a pod of the shape.
func (v *solver) usable(s *shape, c *column) bool {
	return v.sigs[s.sig].cols.has(c.index) && copiesBeside(s, c.free, nil) > 0
}

// seatable says whether a pod of the shape could run on a node of the column,
// whoever the node was bought for.
func (v *solver) seatable(s *shape, c *column) bool {
	return v.sigs[s.sig].seats.has(c.index) && copiesBeside(s, c.free, nil) > 0
}

// attempt plans from the start. strict serves one shape after the other, by
// priority and age; otherwise all are planned together.
func (v *solver) attempt(strict bool) {
	v.attempts++
	clear(v.worth)
	v.unspent, v.near = 0, nil
	v.resetLimits()
	v.scarce, v.settled, v.closed = false, false, false
	v.bins, v.bound = nil, nil
	v.bins = v.existingBins()
	v.existing = len(v.bins)
	v.left = make([]int, len(v.shapes))
	for _, s := range v.shapes {
		v.left[s.id] = len(s.pods)
	}
	v.buildCounters()
	v.classify()
	v.foresee()

	order := v.inOrder()
	if strict {
		// The shapes of a gang are one after the other: all or none has a place.
		for rest := order; len(rest) > 0; {
			n := 1
			for n < len(rest) && rest[0].gang != nil && rest[n].gang == rest[0].gang {
				n++
			}
			v.round(rest[:n])
			rest = rest[n:]
		}
	} else {
		v.round(order)
	}
	v.mend(order)
	v.violated = v.violations()
	v.placeLate(order)
}

// placeLate seeks a place for whoever has none, now that all others count as
// bound: first on nodes that are bought for them, then, once no more nodes will
// come, on all.
func (v *solver) placeLate(order []*shape) {
	v.settle()
	had := len(v.bins)
	for _, s := range order {
		if v.left[s.id] > 0 {
			v.placeShape(s)
		}
	}
	if len(v.bins) > had {
		v.violated = append(v.violated, v.violations()...)
	}
	v.closed = true
	for _, s := range order {
		if v.left[s.id] > 0 {
			v.forgetPhantoms(s)
			v.joinBins(s, v.bins)
		}
	}
}

// round plans some shapes: first those that stand alone or can be divided among
// domains beforehand, together; then the others pod by pod. Those whose domains
// hang on where the latter go come after them, together again.
func (v *solver) round(shapes []*shape) {
	for rest := shapes; len(rest) > 0; {
		waits := v.waiters(rest)
		var together, careful, later []*shape
		for _, s := range rest {
			if !waits[s] {
				v.fillReal(s)
			}
			switch {
			case waits[s]:
				later = append(later, s)
			case s.mode == modeCareful:
				careful = append(careful, s)
			default:
				together = append(together, s)
			}
		}
		if items := v.divide(together); len(items) > 0 {
			v.fillExisting(items)
			v.pack(items)
		}
		// What found no place in its domain may find one after all.
		for _, s := range together {
			if s.mode == modeSplit && v.left[s.id] > 0 {
				careful = append(careful, s)
			}
		}
		v.placeCarefully(careful)
		rest = later
	}
}

// foresee enters into the spread counters the domains that have no node yet but
// could get one for the shape (for any shape, where that has turned out to
// matter): kube-scheduler will count them once they do.
func (v *solver) foresee() {
	for _, s := range v.shapes {
		for _, c := range s.spreadCounts {
			if c.key == corev1.LabelHostname {
				continue
			}
			for _, d := range v.sigs[s.sig].domainsBy(v.m, []string{c.key}) {
				if slices.ContainsFunc(d.bestIn(v.m), func(col *column) bool { return copiesBeside(s, col.free, nil) > 0 }) {
					c.foresee(d.values[0])
				}
			}
			if !v.strict[s.id] {
				continue
			}
			for _, val := range v.foreseen(c.realm) {
				c.foresee(val)
			}
		}
	}
}

// fillReal puts pods of the shape onto existing nodes where kube-scheduler would
// bind them now, counting only domains that have nodes, however many more could
// get one. Where that has failed others, these are counted beforehand.
func (v *solver) fillReal(s *shape) {
	if !v.realFirst || v.left[s.id] == 0 || v.strict[s.id] || v.careful[s.id] || !slices.ContainsFunc(s.spreadCounts, (*counter).foresees) {
		return
	}
	hidden := make([][]string, len(s.spreadCounts))
	for i, c := range s.spreadCounts {
		hidden[i] = c.phantoms()
		c.forgetPhantoms()
	}
	left := v.left[s.id]
	if v.joinBins(s, v.bins[:v.existing]); v.left[s.id] < left {
		if v.filled == nil {
			v.filled = map[*shape]bool{}
		}
		v.filled[s] = true
	}
	for i, c := range s.spreadCounts {
		for _, val := range hidden[i] {
			c.foresee(val)
		}
	}
}

// foreseen are the values that nodes of any column would have in the realm.
func (v *solver) foreseen(r *realm) []string {
	if r.foreseen != nil {
		return r.foreseen
	}
	r.foreseen = []string{}
	probe := &bin{host: hostValue(-1), probe: true}
	for i := range v.m.columns {
		probe.col = &v.m.columns[i]
		probe.taints = probe.col.seller.p.Spec.Taints
		if val, ok := v.m.label(probe.col, r.key); ok && r.has(probe) && !slices.Contains(r.foreseen, val) {
			r.foreseen = append(r.foreseen, val)
		}
	}
	return r.foreseen
}

// violations are the shapes whose spread the pods placed so far do not satisfy,
// or whose first pods may find that a DaemonSet's pod was there before them.
func (v *solver) violations() []*shape {
	var list []*shape
	at := make([][]*bin, len(v.shapes))
	for _, b := range v.bins {
		for _, p := range b.placed {
			at[p.s.id] = append(at[p.s.id], b)
		}
	}
	for _, s := range v.shapes {
		if len(s.affinity) > 0 && s.meetsDaemons && !s.neverFirst && v.bringsCompany(s) {
			list = append(list, s)
			continue
		}
		for i, c := range s.spreadCounts {
			if !v.spreadHolds(s, i, c, at[s.id]) {
				list = append(list, s)
				break
			}
		}
	}
	return list
}

// bringsCompany says whether a node that was bought comes with a pod that
// matches the shape's affinity.
func (v *solver) bringsCompany(s *shape) bool {
	return slices.ContainsFunc(v.bins[v.existing:], func(b *bin) bool {
		return slices.ContainsFunc(b.daemons, func(p *corev1.Pod) bool { return s.affinityMatches(v, p.Namespace, p.Labels) })
	})
}

// repair says whether another attempt, more careful with the shapes that the
// last one has failed, could do better.
func (v *solver) repair() bool {
	learnt := v.learnDaemons()
	again := learnt
	for _, s := range v.violated {
		switch {
		case learnt && v.mendable(s):
		case len(s.affinity) > 0 && s.meetsDaemons && !s.neverFirst:
			s.neverFirst, again = true, true
		case !v.strict[s.id]:
			v.strict[s.id], again = true, true
		case !v.careful[s.id]:
			v.careful[s.id], again = true, true
		}
	}
	return again
}

// spreadHolds says whether some order of binding satisfies the shape's i-th
// spread constraint: no domain that got its pods is more than maxSkew above the
// least, as counted at the end. Then binding to the emptiest domain first works.
// at are the bins that hold pods of the shape.
func (v *solver) spreadHolds(s *shape, i int, c *counter, at []*bin) bool {
	t := &s.spread[i]
	if c.foresees() {
		// What has got no node so far is no domain.
		c = c.clone()
		c.forgetPhantoms()
	}
	least := c.least(t.minDomains)
	for _, b := range at {
		val, ok := v.label(b, c.key)
		if !ok || c.counts[val]-least > t.maxSkew {
			return false
		}
	}
	return true
}
