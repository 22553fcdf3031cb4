package capacity

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// PodGroup is a set of pods of one namespace that are planned all or nothing.
type PodGroup struct {
	// MinCount is how many of its pods must have a place, those that are bound
	// included, before any gets one. At most 1: each pod stands for itself.
	MinCount int
	// Topology is the key of a node label that must have the same value for all
	// pods of the group; empty: they may be anywhere.
	Topology string
}

// NewPodGroup is what a Kubernetes PodGroup asks of the planner: the gang's
// minCount and the topology constraint. Composite pod groups are not looked at:
// each of their groups is planned for itself.
func NewPodGroup(g *schedulingv1beta1.PodGroup) PodGroup {
	var out PodGroup
	if gang := g.Spec.SchedulingPolicy.Gang; gang != nil {
		out.MinCount = int(gang.MinCount)
	}
	if c := g.Spec.SchedulingConstraints; c != nil && len(c.Topology) > 0 {
		out.Topology = c.Topology[0].Key
	}
	return out
}

// maxGangTries is how often a plan is made anew because one gang, the first by
// priority and age, has failed where it would do alone; after that all that fail
// are given up together, so that the time for a plan is bounded.
const maxGangTries = 8

// groupID names a group. Groups of annotations and PodGroup objects of one name
// are not the same.
type groupID struct {
	namespace, name string
	annotated       bool
}

func (id groupID) compare(o groupID) int {
	return cmp.Or(cmp.Compare(id.namespace, o.namespace), cmp.Compare(id.name, o.name), strings.Compare(id.key(), o.key()))
}

func (id groupID) String() string { return id.namespace + "/" + id.name }

func (id groupID) key() string { return fmt.Sprintf("%s/%s/%t", id.namespace, id.name, id.annotated) }

// minCountAt says where a group's least count is written, for a Fix.
func (id groupID) minCountAt() string {
	if id.annotated {
		return "annotation " + v1alpha1.AnnotationPodGroupMinCount
	}
	return "minCount of PodGroup " + id.String()
}

// gang is a group with waiting pods of which some must be planned together.
type gang struct {
	PodGroup
	id groupID
	// pods that wait, oldest first; bound is how many others have a node.
	pods  []*corev1.Pod
	bound int
	// spoilt are members that wait and cannot be planned for: they are held, or
	// their annotations are wrong.
	spoilt []Unschedulable
	// at are the values of Topology on the nodes of the bound, topologies all
	// keys that the pods' annotations name.
	at, topologies map[string]bool
	// priority is the highest of its pods', oldest the age of the first.
	priority int32
	oldest   time.Time
	// domains of Topology that are left to try, the best first; a single empty
	// one without Topology.
	domains []string
	// tested: it is known what it could have if no other pod waited.
	tested bool
	// out, when not nil, is why none of its pods has a place.
	out *Reason
	// miss is the failure that came nearest so far, with the pods that lacked a
	// place.
	miss    *Reason
	fit     int
	lacking []Unschedulable
}

// pin keeps the gang's pods in the domain that is tried; nil without.
func (g *gang) pin() *corev1.NodeSelector {
	if g.Topology == "" {
		return nil
	}
	return &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
		{Key: g.Topology, Operator: corev1.NodeSelectorOpIn, Values: []string{g.domains[0]}}}}}}
}

// unpin lets the shape's pods go wherever their gang could have gone instead: a
// bound that is to hold for every plan cannot rest on the choice of a domain.
func (v *solver) unpin(s *shape) {
	g := s.gang
	if g == nil || g.Topology == "" || len(g.at) > 0 {
		return
	}
	s.node = v.nodeReq(s.pod, slices.Concat(s.also, s.volumes.selectors[:len(s.volumes.selectors)-1]))
	sig := &signature{}
	sig.cols, sig.seats = v.columnsFor(s)
	s.sig = len(v.sigs)
	v.sigs = append(v.sigs, sig)
}

// dependent says whether a pod of the gang must be near others, so that what it
// could have alone says nothing.
func (g *gang) dependent() bool {
	return slices.ContainsFunc(g.pods, func(p *corev1.Pod) bool { return p.Spec.Affinity != nil && p.Spec.Affinity.PodAffinity != nil })
}

// ganging is the planning of a Snapshot with gangs.
type ganging struct {
	snap   *Snapshot
	memory *Memory
	// gangs by priority, age and name.
	gangs []*gang
	byPod map[*corev1.Pod]*gang
	// refused are pods whose group is not to be understood.
	refused []Unschedulable
	// costs of gangs that have places for all their pods when no other pod waits,
	// by what they ask for; nil when labels matter too.
	costs map[string]float64
}

// newGanging finds the Snapshot's gangs; nil when no pod belongs to a group.
func newGanging(s *Snapshot, m *Memory) *ganging {
	grouped := func(p *corev1.Pod) bool { _, ok := groupOf(p); return ok }
	if !slices.ContainsFunc(s.Pods, grouped) {
		return nil
	}
	gg := &ganging{snap: s, memory: m, byPod: map[*corev1.Pod]*gang{}}
	if newSolver(s).visibleLabels() == nil {
		gg.costs = map[string]float64{}
	}
	byID := map[groupID]*gang{}
	join := func(p *corev1.Pod, id groupID) (*gang, *Reason) {
		spec, r := s.groupSpec(p, id)
		if r != nil {
			return byID[id], r
		}
		g := byID[id]
		if g == nil {
			g = &gang{id: id, at: map[string]bool{}, topologies: map[string]bool{}, domains: []string{""}}
			byID[id] = g
		}
		g.MinCount = max(g.MinCount, spec.MinCount)
		if spec.Topology != "" {
			g.Topology = spec.Topology
			g.topologies[spec.Topology] = true
		}
		return g, nil
	}
	spoilt := map[groupID][]Unschedulable{}
	for _, u := range s.Held {
		if id, ok := groupOf(u.Pod); ok {
			spoilt[id] = append(spoilt[id], u)
		}
	}
	for _, p := range slices.SortedFunc(slices.Values(s.Pods), comparePods) {
		id, ok := groupOf(p)
		if !ok {
			continue
		}
		g, r := join(p, id)
		if r != nil {
			u := Unschedulable{Pod: p, Reasons: []Reason{*r}}
			gg.refused = append(gg.refused, u)
			spoilt[id] = append(spoilt[id], u)
			continue
		}
		g.pods = append(g.pods, p)
		gg.byPod[p] = g
		if prio := priorityOf(p); len(g.pods) == 1 || prio > g.priority {
			g.priority = prio
		}
		if len(g.pods) == 1 {
			g.oldest = p.CreationTimestamp.Time
		}
	}
	running := map[groupID][]*Node{}
	for _, n := range s.Nodes {
		for _, p := range n.Pods {
			if id, ok := groupOf(p); ok && byID[id] != nil && p.DeletionTimestamp == nil {
				_, _ = join(p, id) // The annotations of a pod that runs may be wrong without harm.
				running[id] = append(running[id], n)
			}
		}
	}
	for id, g := range byID {
		g.spoilt = spoilt[id]
		g.bound = len(running[id])
		for _, n := range running[id] {
			if v, ok := n.Labels[g.Topology]; ok {
				g.at[v] = true
			}
		}
		if g.MinCount <= 1 && g.Topology == "" {
			for _, p := range g.pods {
				delete(gg.byPod, p)
			}
			continue
		}
		gg.gangs = append(gg.gangs, g)
	}
	slices.SortFunc(gg.gangs, func(a, b *gang) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), a.oldest.Compare(b.oldest), a.id.compare(b.id))
	})
	for _, g := range gg.gangs {
		gg.open(g)
	}
	return gg
}

// groupOf names the group that a pod belongs to, if any: that of its spec, or
// else that of its annotations.
func groupOf(p *corev1.Pod) (groupID, bool) {
	if g := p.Spec.SchedulingGroup; g != nil && g.PodGroupName != nil {
		return groupID{namespace: p.Namespace, name: *g.PodGroupName}, true
	}
	name, ok := p.Annotations[v1alpha1.AnnotationPodGroup]
	return groupID{namespace: p.Namespace, name: name, annotated: true}, ok
}

// groupSpec is what a pod's group asks for, or why that is not known.
func (s *Snapshot) groupSpec(p *corev1.Pod, id groupID) (PodGroup, *Reason) {
	if !id.annotated {
		g, ok := s.Groups[id.String()]
		if !ok {
			return g, &Reason{Constraint: ConstraintPodGroup,
				Detail: fmt.Sprintf("PodGroup %s, which the pod names, does not exist", id),
				Fix:    "create PodGroup " + id.String() + ", or remove schedulingGroup from the pod's spec"}
		}
		return g, g.topologyReason()
	}
	if id.name == "" {
		return PodGroup{}, &Reason{Constraint: ConstraintPodGroup, Detail: "annotation " + v1alpha1.AnnotationPodGroup + " is empty",
			Fix: "name a group in annotation " + v1alpha1.AnnotationPodGroup + ", or remove it"}
	}
	value, given := p.Annotations[v1alpha1.AnnotationPodGroupMinCount]
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || n < 1 {
		detail := fmt.Sprintf("annotation %s is %q, not a number of 1 or more", v1alpha1.AnnotationPodGroupMinCount, value)
		if !given {
			detail = "annotation " + v1alpha1.AnnotationPodGroupMinCount + " is missing"
		}
		return PodGroup{}, &Reason{Constraint: ConstraintPodGroup, Detail: detail,
			Fix: "say how many pods of group " + id.name + " must start together: " + v1alpha1.AnnotationPodGroupMinCount + `: "8"`}
	}
	g := PodGroup{MinCount: int(n), Topology: p.Annotations[v1alpha1.AnnotationPodGroupTopology]}
	return g, g.topologyReason()
}

// topologyReason is why the planner cannot keep the group together by its
// topology key; nil when it can.
func (g PodGroup) topologyReason() *Reason {
	r := &Reason{Constraint: ConstraintPodGroup, Fix: "name a label that nodes of one zone or one rack share, such as " + corev1.LabelTopologyZone}
	switch {
	case g.Topology == "":
		return nil
	case g.Topology == corev1.LabelHostname:
		r.Detail = "a pod group on a single host (" + corev1.LabelHostname + ") is not planned for"
		r.Fix = "give the pods a required pod affinity to each other with topologyKey " + corev1.LabelHostname + " instead"
	case len(validation.IsQualifiedName(g.Topology)) > 0:
		r.Detail = fmt.Sprintf("the pod group's topology %q is no label key", g.Topology)
	default:
		return nil
	}
	return r
}

func priorityOf(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// open readies a gang for the first attempt, or says why there need be none.
func (gg *ganging) open(g *gang) {
	if exist := len(g.pods) + len(g.spoilt) + g.bound; exist < g.MinCount {
		g.out = &Reason{Constraint: ConstraintPodGroup,
			Detail: fmt.Sprintf("pod group %s: %d of %d pods exist", g.id.name, exist, g.MinCount),
			Fix:    fmt.Sprintf("create %d more pods of the group, or lower %s", g.MinCount-exist, g.id.minCountAt())}
		return
	}
	if g.Topology == "" {
		return
	}
	if len(g.topologies) > 1 {
		g.out = &Reason{Constraint: ConstraintPodGroup,
			Detail: fmt.Sprintf("pods of group %s name different topologies: %s", g.id.name, strings.Join(slices.Sorted(maps.Keys(g.topologies)), ", ")),
			Fix:    "give all pods of the group the same annotation " + v1alpha1.AnnotationPodGroupTopology}
		return
	}
	if len(g.at) > 1 {
		g.out = &Reason{Constraint: ConstraintPodGroup,
			Detail: fmt.Sprintf("pods of group %s run in more than one %s already: %s", g.id.name, g.Topology, strings.Join(slices.Sorted(maps.Keys(g.at)), ", ")),
			Fix:    "delete the pods in all of them but one"}
		return
	}
	if g.domains = slices.Sorted(maps.Keys(g.at)); len(g.domains) == 0 {
		g.domains = gg.snap.domains(g.Topology)
	}
	if len(g.domains) == 0 {
		g.out = &Reason{Constraint: ConstraintPodGroup,
			Detail: fmt.Sprintf("pod group %s must share a value of %s, and no node has or could have one", g.id.name, g.Topology),
			Fix:    "name another topology, or let a Provisioner set label " + g.Topology}
		return
	}
	gg.testAlone(g)
}

// domains are the values that nodes which exist, or could be bought, may have
// for a label.
func (s *Snapshot) domains(key string) []string {
	values := map[string]bool{}
	for _, n := range s.Nodes {
		if v, ok := n.Labels[key]; ok && !n.Unschedulable {
			values[v] = true
		}
	}
	key = v1alpha1.CurrentLabel(key)
	for _, p := range s.Provisioners {
		if v, ok := p.Spec.Labels[key]; ok {
			values[v] = true
		}
		for i := range p.InstanceTypes {
			t := &p.InstanceTypes[i]
			if v, ok := t.Labels[key]; ok {
				values[v] = true
			}
			for j := range t.Offerings {
				if v, ok := t.Offerings[j].label(key); ok {
					values[v] = true
				}
			}
		}
		for _, r := range p.Spec.Requirements {
			if r.Key == key && r.Operator == v1alpha1.OperatorIn && isOwnLabel(key) {
				for _, v := range r.Values {
					values[v] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(values))
}

// testAlone asks what the gang could have if no other pod waited, in each
// domain. Domains come into the order: those for most of its pods first, then
// the cheapest; those that would not do are struck out.
func (gg *ganging) testAlone(g *gang) {
	g.tested = true
	results := map[string]alone{}
	for _, d := range g.domains {
		results[d] = gg.alone(g, d)
	}
	slices.SortStableFunc(g.domains, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(results[a].lacking), len(results[b].lacking)), cmp.Compare(results[a].cost, results[b].cost))
	})
	for !g.dependent() && g.out == nil && g.seated(results[g.domains[0]].lacking) < g.MinCount {
		g.next(results[g.domains[0]].lacking)
	}
}

// alone is what a gang could have if no other pod waited: at which cost, in $/h,
// and which of its pods had no place.
type alone struct {
	cost    float64
	lacking []Unschedulable
}

// alone plans for the gang's pods only, in one domain.
func (gg *ganging) alone(g *gang, domain string) alone {
	s := *gg.snap
	s.Pods, s.Budget = g.pods, 0
	there := *g
	there.domains = []string{domain}
	key := gg.demand(&there)
	memorable := gg.costs != nil && !slices.ContainsFunc(g.pods, hasStorage)
	if cost, known := gg.costs[key]; known && memorable {
		return alone{cost: cost}
	}
	byPod := make(map[*corev1.Pod]*gang, len(g.pods))
	for _, p := range g.pods {
		byPod[p] = &there
	}
	v := attempted(&s, byPod, gg.memory)
	result := alone{v.cost(), v.unplaced()}
	if memorable && len(result.lacking) == 0 {
		gg.costs[key] = result.cost
	}
	return result
}

// hasStorage says whether a pod has a volume that may tie it to nodes: another
// kind than those that come with the pod.
func hasStorage(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected == nil && v.EmptyDir == nil && v.ConfigMap == nil && v.Secret == nil && v.DownwardAPI == nil && v.HostPath == nil
	})
}

// seated is how many pods of the gang have a place, those that run included,
// when these have none.
func (g *gang) seated(lacking []Unschedulable) int { return g.bound + len(g.pods) - len(lacking) }

// next gives up the domain that was tried, in which these pods had no place.
// With the last domain the gang is out, and the nearest miss is why.
func (g *gang) next(lacking []Unschedulable) {
	if fit := g.seated(lacking); g.miss == nil || fit > g.fit {
		g.fit, g.lacking = fit, lacking
		g.miss = g.failure()
	}
	if g.domains = g.domains[1:]; len(g.domains) == 0 {
		g.out = g.miss
	}
}

// failure says which pod of the gang had no place in the domain that was tried,
// and why.
func (g *gang) failure() *Reason {
	first := slices.MinFunc(append(slices.Clone(g.lacking), g.spoilt...), func(a, b Unschedulable) int { return comparePods(a.Pod, b.Pod) })
	cause := first.Reasons[0]
	where, from := "", ""
	if g.Topology != "" {
		where = fmt.Sprintf(" in one %s: in %s", g.Topology, g.domains[0])
	}
	if cause.Provisioner != "" {
		from = "Provisioner " + cause.Provisioner + ", "
	}
	return &Reason{Constraint: ConstraintPodGroup,
		Detail: fmt.Sprintf("pod group %s needs %d pods at once%s, %d could have a place; %s/%s has none: %s%s: %s",
			g.id.name, g.MinCount, where, g.fit, first.Pod.Namespace, first.Pod.Name, from, cause.Constraint, cause.Detail),
		Fix: cause.Fix}
}

// demand is the same for gangs that ask for the same: where one has no place, one
// that is served later has none either.
func (gg *ganging) demand(g *gang) string {
	b := shapeKey{}
	b.num(int64(g.MinCount - g.bound))
	b.str(g.Topology)
	b.str(g.domains[0])
	for _, p := range g.pods {
		b.pod(p)
		also := gg.snap.Also[p]
		b.num(int64(len(also)))
		for _, sel := range also {
			b.nodeSelector(sel)
		}
	}
	return string(b)
}

// attempt plans for all pods but those of gangs that are out.
func (gg *ganging) attempt() *solver {
	s := *gg.snap
	s.Pods = nil
	refused := map[*corev1.Pod]bool{}
	for _, u := range gg.refused {
		refused[u.Pod] = true
	}
	for _, p := range gg.snap.Pods {
		if g := gg.byPod[p]; !refused[p] && (g == nil || g.out == nil) {
			s.Pods = append(s.Pods, p)
		}
	}
	return attempted(&s, gg.byPod, gg.memory)
}

// solve plans until no gang is placed in part. A gang that fails is planned in
// another domain, or is left out and the rest is planned as if it did not exist.
// The first by priority and age has failed though it was served first, so it
// goes first, with those that ask for the same; what remains may then have room.
func (gg *ganging) solve() *Plan {
	for tries := 1; ; {
		v := gg.attempt()
		lacking := map[*gang][]Unschedulable{}
		for _, u := range v.unplaced() {
			if g := gg.byPod[u.Pod]; g != nil {
				lacking[g] = append(lacking[g], u)
			}
		}
		var failed []*gang
		for _, g := range gg.gangs {
			if g.out == nil && g.seated(lacking[g]) < g.MinCount {
				failed = append(failed, g)
			}
		}
		if len(failed) == 0 {
			plan := v.plan()
			gg.report(plan)
			return plan
		}
		hopeless := false
		for _, g := range failed {
			if !g.tested {
				gg.testAlone(g)
				hopeless = hopeless || g.out != nil
			}
		}
		if hopeless {
			continue
		}
		demand := gg.demand(failed[0])
		for _, g := range failed {
			if tries > maxGangTries || gg.demand(g) == demand {
				g.next(lacking[g])
			}
		}
		tries++
	}
}

// report adds the pods that were left out to the plan.
func (gg *ganging) report(plan *Plan) {
	plan.Unschedulable = append(plan.Unschedulable, gg.refused...)
	for _, g := range gg.gangs {
		if g.out == nil {
			continue
		}
		own := map[*corev1.Pod][]Reason{}
		for _, u := range g.lacking {
			own[u.Pod] = u.Reasons
		}
		for _, p := range g.pods {
			plan.Unschedulable = append(plan.Unschedulable, Unschedulable{Pod: p, Reasons: append([]Reason{*g.out}, own[p]...)})
		}
	}
	slices.SortFunc(plan.Unschedulable, func(a, b Unschedulable) int { return comparePods(a.Pod, b.Pod) })
}
