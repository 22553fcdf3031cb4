package provisioner

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/drain"
)

// Make before break. A node that was taken out of use, for whatever reason, has
// pods that will need room elsewhere. The provision loop plans for them as if
// they waited: each has a stand-in in the Snapshot, and what the stand-ins need
// is bought like anything else, limits and all. Nothing of that is stored: a
// restart finds the tainted node, and the claims in flight have the room.

// movedFor is how long room stays reserved after its pod has gone, for the pod
// that its controller makes instead.
const movedFor = 15 * time.Second

const (
	// claimWrites is about how often the API server is written to for a claim, events
	// included, from its creation to its node's opening.
	claimWrites = 12
	// smallWave is up to how many nodes whose pods are to leave have all that these need
	// bought at once.
	smallWave = 12
	// spreadPause is when launches that were put off are looked at again.
	spreadPause = 500 * time.Millisecond
	// hurriedDrain is how near its deadline a drain is for whose pods nothing is put off.
	hurriedDrain = 10 * time.Minute
)

// seating is what a planning round found for the pods of one node on its way out.
type seating struct {
	// coming is the number of pods whose room is bought, but does not run yet.
	coming int
	// stuck says why a pod has no room and none is to be bought; empty: none is.
	stuck string
	// lacks has the pods, by UID, that could not start elsewhere now: why none is to
	// be bought for them, or "" while their room is coming.
	lacks map[types.UID]string
}

// awaits notes a pod whose room is coming.
func (s *seating) awaits(pod types.UID) {
	s.coming++
	s.lack(pod, "")
}

// without notes a pod that no room is to be bought for.
func (s *seating) without(pod types.UID, why string) {
	s.stuck = why
	s.lack(pod, why)
}

func (s *seating) lack(pod types.UID, why string) {
	if s.lacks == nil {
		s.lacks = map[types.UID]string{}
	}
	s.lacks[types.UID(strings.TrimSuffix(string(pod), movingMark))] = why
}

// ready reports whether all pods could start elsewhere now.
func (s seating) ready() bool { return s.coming == 0 && s.stuck == "" }

// moves is what the last planning round found, by claim. The zero value is
// ready. Safe for concurrent use.
type moves struct {
	mu    sync.Mutex
	found map[string]seating
	// lastSeen is when a stand-in that has a seat was planned for last.
	lastSeen map[types.UID]time.Time
}

// of returns what is known of a claim's pods; false when no round has planned
// for them yet.
func (m *moves) of(claim string) (seating, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.found[claim]
	return s, ok
}

// replace stores what a round found, and reports whether that is news.
func (m *moves) replace(found map[string]seating) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	news := len(found) != len(m.found)
	for name, s := range found {
		old, ok := m.found[name]
		news = news || !ok || old.ready() != s.ready() || old.stuck != s.stuck
	}
	m.found = found
	return news
}

// seen notes that a stand-in was planned for.
func (m *moves) seen(uid types.UID, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lastSeen == nil {
		m.lastSeen = map[types.UID]time.Time{}
	}
	m.lastSeen[uid] = now
}

// lapsed returns the stand-ins that were not planned for any more for movedFor.
func (m *moves) lapsed(now time.Time) []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []types.UID
	for uid, at := range m.lastSeen {
		if now.Sub(at) >= movedFor {
			out = append(out, uid)
			delete(m.lastSeen, uid)
		}
	}
	return out
}

// movesLater is how much later than its node was taken out of use a stand-in counts
// as created: after all pods that wait, and those whose node goes first before
// others. Else nodes that begin to go later take the room, and those before them
// wait for what is bought instead, time and again.
const movesLater = 100 * 365 * 24 * time.Hour

// movingMark is in the UID of the stand-in of a pod that is to move, and in no
// UID of a real pod.
const movingMark = "/moving/"

// moving tells the stand-in of a pod that is to move from a real pod.
func moving(p *corev1.Pod) bool { return strings.Contains(string(p.UID), movingMark) }

// departures are a planning round's work on nodes that are on their way out.
type departures struct {
	found map[string]seating
	// from is the claim that a stand-in's pod is to leave.
	from map[types.UID]string
	// patient stand-ins are of nodes that do not have to go soon.
	patient map[types.UID]bool
	// frugal stand-ins are to move only where there is room: their node goes to
	// save money, and what is bought in its place is bought already.
	frugal map[types.UID]bool
}

// mover returns the stand-in of a pod that will have to run elsewhere: it is
// told to go or will be, and its controller makes another. nil: it stays, goes
// for good, or goes already.
func mover(pod *corev1.Pod, node *corev1.Node) *corev1.Pod {
	if _, owned := controllerOf(pod); !owned || pod.DeletionTimestamp != nil || terminal(pod) || !drain.Counts(pod, node) {
		return nil
	}
	stand := *pod
	stand.Name = pod.Name + "-moved"
	stand.UID = types.UID(string(pod.UID) + movingMark)
	stand.CreationTimestamp = metav1.Time{Time: drain.Since(node).Add(movesLater)}
	stand.Spec.NodeName = ""
	stand.Status = corev1.PodStatus{}
	return &stand
}

// depart plans for the pods of nodes on their way out: it replaces them on their
// node by stand-ins that wait, or that sit where they were planned before.
func (p *Loops) depart(v *view, nodes *nodeSet, now time.Time) *departures {
	d := &departures{found: map[string]seating{}, from: map[types.UID]string{}, frugal: map[types.UID]bool{}, patient: map[types.UID]bool{}}
	for _, n := range all[*corev1.Node](p.stores.nodes) {
		pn := nodes.byNode[n.Name]
		if pn == nil || pn.Claim == "" || !p.leaving(n, v.claims[pn.Claim]) {
			continue
		}
		var s seating
		var stay []*corev1.Pod
		for _, pod := range pn.Pods {
			stand := mover(pod, n)
			if stand == nil {
				stay = append(stay, pod)
				continue
			}
			p.moves.seen(stand.UID, now)
			d.from[stand.UID] = pn.Claim
			d.patient[stand.UID] = !hurried(v.claims[pn.Claim], now)
			d.frugal[stand.UID] = v.claims[pn.Claim].DeletionTimestamp == nil &&
				n.Annotations[v1alpha1.AnnotationDisruptionReason] == string(v1alpha1.ReasonConsolidated)
			if seat := p.movedTo(stand, nodes); seat != nil {
				seat.Pods = append(seat.Pods, stand)
				if seat.InFlight {
					s.awaits(pod.UID)
				}
				continue
			}
			if why, stop := p.stoppedShape(stand, now); stop {
				s.without(pod.UID, stuckText(pod, why))
				continue
			}
			v.snapshot.Pods = append(v.snapshot.Pods, stand)
		}
		pn.Pods = stay
		d.found[pn.Claim] = s
	}
	for _, uid := range p.moves.lapsed(now) {
		p.book.take(uid)
	}
	return d
}

// leaving reports whether a node's pods are to run elsewhere.
func (p *Loops) leaving(n *corev1.Node, c *v1alpha1.NodeClaim) bool {
	return c != nil && (c.DeletionTimestamp != nil || drain.Cordoned(n)) && !isTrue(c.Status.Conditions, v1alpha1.ConditionDrained)
}

// movedTo is the node where a stand-in has a seat that is still good.
func (p *Loops) movedTo(stand *corev1.Pod, nodes *nodeSet) *capacity.Node {
	claim, ok := p.book.of(stand.UID)
	if !ok {
		return nil
	}
	n := nodes.byClaim[claim]
	if n == nil || n.Unschedulable || nodes.ready[claim] && !hasRoom(n, stand) {
		p.book.take(stand.UID)
		return nil
	}
	return n
}

// alone reports whether a pod, or those that leave with it, are all that there is of its
// workload: its controller has no other pod that runs on a node which stays. stays has
// the names of those.
func (p *Loops) alone(pod *corev1.Pod, node string, stays map[string]bool) bool {
	uid, _ := controllerOf(pod)
	for _, other := range p.stores.podsBy(controllerIndex, string(uid)) {
		if other.Spec.NodeName != node && stays[other.Spec.NodeName] && other.DeletionTimestamp == nil && !terminal(other) {
			return false
		}
	}
	return true
}

// staying are the nodes, by name, that are not on their way out. One whose claim is
// being removed is, though it may not have the taint yet.
func (p *Loops) staying() map[string]bool {
	out := map[string]bool{}
	for _, n := range all[*corev1.Node](p.stores.nodes) {
		if n.DeletionTimestamp == nil && !drain.Cordoned(n) {
			out[n.Name] = true
		}
	}
	for _, c := range all[*v1alpha1.NodeClaim](p.stores.claims) {
		if c.DeletionTimestamp != nil {
			delete(out, c.Status.NodeName)
		}
	}
	return out
}

// forgo takes launches out of a plan that nobody needs but pods which are to
// move for the sake of money.
func (d *departures) forgo(plan *capacity.Plan) {
	leaveOut(plan, d.frugal, func() bool { return false }, func(pod *corev1.Pod) {
		plan.Unschedulable = append(plan.Unschedulable, capacity.Unschedulable{Pod: pod, Reasons: []capacity.Reason{{
			Constraint: capacity.ConstraintResources, Detail: "there is no room left on the nodes that run"}}})
	})
}

// leaveOut takes launches out of a plan that nobody needs but these stand-ins, and tells
// of each of their pods; a launch that may stay all the same does. It returns how many it
// took out.
func leaveOut(plan *capacity.Plan, these map[types.UID]bool, stays func() bool, tell func(*corev1.Pod)) int {
	before := len(plan.Launches)
	plan.Launches = slices.DeleteFunc(plan.Launches, func(l capacity.Launch) bool {
		if slices.ContainsFunc(l.Pods, func(p *corev1.Pod) bool { return !these[p.UID] }) || stays() {
			return false
		}
		for _, pod := range l.Pods {
			tell(pod)
		}
		plan.HourlyCost -= l.Price
		return true
	})
	return before - len(plan.Launches)
}

// hurried reports whether a node goes whether there is room for its pods or not, and soon.
func hurried(c *v1alpha1.NodeClaim, now time.Time) bool {
	end := c.Status.DrainDeadline
	return end != nil && end.Sub(now) < hurriedDrain || v1alpha1.DisruptionReason(c.Annotations[v1alpha1.AnnotationDisruptionReason]) == v1alpha1.ReasonInterrupted
}

// spread takes out of a plan what only patient stand-ins need, once the drains' pace
// has no turns left for what a claim writes, where more than smallWave nodes have pods
// that are to leave. The launches that it takes are for later: it returns how many they
// are.
func (d *departures) spread(plan *capacity.Plan, pace *drain.Pace) int {
	leaving := map[string]bool{}
	for _, claim := range d.from {
		leaving[claim] = true
	}
	turn := func() bool { return len(leaving) <= smallWave || pace.Spend(claimWrites) }
	return leaveOut(plan, d.patient, turn, func(pod *corev1.Pod) {
		d.note(pod, func(s *seating) { s.awaits(pod.UID) })
	})
}

// note changes what is known of the node that a stand-in's pod is to leave.
func (d *departures) note(pod *corev1.Pod, change func(*seating)) {
	claim, ok := d.from[pod.UID]
	if !ok {
		return
	}
	s := d.found[claim]
	change(&s)
	d.found[claim] = s
}

// settle notes what a plan has for the stand-ins. It returns what is known of
// each departing node now.
func (d *departures) settle(plan *capacity.Plan) map[string]seating {
	for _, pl := range plan.Placements {
		if pl.Node.InFlight {
			d.note(pl.Pod, func(s *seating) { s.awaits(pl.Pod.UID) })
		}
	}
	for i := range plan.Launches {
		for _, pod := range plan.Launches[i].Pods {
			d.note(pod, func(s *seating) { s.awaits(pod.UID) })
		}
	}
	for _, u := range plan.Unschedulable {
		switch {
		case len(u.Reasons) == 0:
		case u.Reasons[0].Constraint == capacity.ConstraintNotReady:
			// A Provisioner may become ready; the loop's patience is bounded.
			d.note(u.Pod, func(s *seating) { s.awaits(u.Pod.UID) })
		default:
			d.note(u.Pod, func(s *seating) { s.without(u.Pod.UID, stuckText(u.Pod, u.Reasons[0])) })
		}
	}
	return d.found
}

// stuckText says why a pod cannot move.
func stuckText(pod *corev1.Pod, r capacity.Reason) string {
	return fmt.Sprintf("pod %s/%s: %s", pod.Namespace, strings.TrimSuffix(pod.Name, "-moved"), strings.TrimPrefix(verdictText(r), "no node can be bought for this pod: "))
}
