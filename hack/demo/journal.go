package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// moment is a thing worth telling while it happens.
type moment struct {
	at time.Time
	// node is the number of the claim that it is about, 0 for none.
	node int
	what string
	// who, several of which make one line.
	who string
	// rest of the line.
	rest string
}

// journal turns what watches show into a world, and tells what is new.
type journal struct {
	now func() time.Time

	mu   sync.Mutex
	w    *world
	feed []moment
}

func newJournal(now func() time.Time) *journal { return &journal{now: now, w: newWorld()} }

// look shows the world to f. Nothing of it may be kept or changed.
func (j *journal) look(f func(*world)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f(j.w)
}

// take returns the moments since the last call.
func (j *journal) take() []moment {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := j.feed
	j.feed = nil
	return out
}

// tell adds a moment. The caller holds the lock.
func (j *journal) tell(m moment) { j.feed = append(j.feed, m) }

// note adds a moment from outside.
func (j *journal) note(what, rest string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.tell(moment{at: j.now(), what: what, rest: rest})
}

// stamp sets *t to now where it is not set, if the thing is so. It reports
// whether it did.
func stamp(t *time.Time, now time.Time, so bool) bool {
	if !so || !t.IsZero() {
		return false
	}
	*t = now
	return true
}

// seePod takes in a pod that is new or has changed.
func (j *journal) seePod(pod *corev1.Pod) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := j.now()
	r := j.w.pods[pod.UID]
	if r == nil {
		r = &podRecord{}
		j.w.pods[pod.UID] = r
	}
	r.pod = pod
	who := shortName(workloadOf(pod))
	if stamp(&r.created, now, true) {
		j.tell(moment{at: now, what: "created", who: who})
	}
	if seat := pod.Status.NominatedNodeName; seat != "" && r.bound.IsZero() {
		r.seat = seat
	}
	stamp(&r.bound, now, pod.Spec.NodeName != "")
	up := pod.Status.Phase == corev1.PodRunning || pod.Status.Phase == corev1.PodSucceeded
	if stamp(&r.running, now, up) {
		j.tell(moment{at: now, node: j.numberOf(pod.Spec.NodeName), what: "running", who: who})
	}
	stamp(&r.done, now, pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed)
	if stamp(&r.deleting, now, pod.DeletionTimestamp != nil) {
		j.tell(moment{at: now, node: j.numberOf(pod.Spec.NodeName), what: "leaving", who: who})
	}
}

// losePod takes in that a pod has gone.
func (j *journal) losePod(pod *corev1.Pod) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r := j.w.pods[pod.UID]; r != nil {
		stamp(&r.done, j.now(), true)
		stamp(&r.deleting, j.now(), true)
		stamp(&r.gone, j.now(), true)
	}
}

// numberOf finds the number of the claim that has a node by its name: of
// those that had it, the latest.
func (j *journal) numberOf(node string) int {
	number := 0
	for _, c := range j.w.claims {
		if node != "" && c.claim.Status.NodeName == node {
			number = max(number, c.number)
		}
	}
	return number
}

// seeClaim takes in a claim that is new or has changed.
func (j *journal) seeClaim(claim *v1alpha1.NodeClaim) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := j.now()
	r := j.w.claims[claim.UID]
	if r == nil {
		r = &claimRecord{number: len(j.w.claims) + 1, turned: map[string]time.Time{}}
		j.w.claims[claim.UID] = r
	}
	r.claim = claim
	if stamp(&r.decided, now, true) {
		o := r.offering()
		j.tell(moment{at: now, node: r.number, what: "decided", rest: fmt.Sprintf("%s at $%.4f/h, Provisioner %s", o, o.price, claim.Spec.Provisioner.Name)})
	}
	for _, c := range claim.Status.Conditions {
		if _, known := r.turned[c.Type]; known || c.Status != metav1.ConditionTrue {
			continue
		}
		r.turned[c.Type] = now
		j.tellCondition(r, c.Type, now)
	}
	if stamp(&r.deleting, now, claim.DeletionTimestamp != nil) {
		why := claim.Annotations[v1alpha1.AnnotationDisruptionReason]
		if why == "" {
			why = "deleted by hand"
		}
		j.tell(moment{at: now, node: r.number, what: "removing", rest: why})
	}
}

func (j *journal) tellCondition(r *claimRecord, condition string, now time.Time) {
	m := moment{at: now, node: r.number}
	switch condition {
	case v1alpha1.ConditionLaunched:
		m.what, m.rest = "launched", r.claim.Status.InstanceID
		if o := r.offering(); len(r.claim.Spec.Offerings) > 0 && o.instanceType != r.claim.Spec.Offerings[0].InstanceType {
			m.rest += ", " + o.String()
		}
	case v1alpha1.ConditionRegistered:
		m.what, m.rest = "registered", r.claim.Status.NodeName
	case v1alpha1.ConditionInitialized:
		m.what = "initialized"
	case v1alpha1.ConditionDrained:
		m.what = "drained"
	default:
		return // Ready repeats Initialized; Terminated is told of the instance.
	}
	j.tell(m)
}

// loseClaim takes in that a claim has gone.
func (j *journal) loseClaim(claim *v1alpha1.NodeClaim) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r := j.w.claims[claim.UID]; r != nil {
		stamp(&r.deleting, j.now(), true)
		stamp(&r.gone, j.now(), true)
	}
}

// seeNode takes in a Node that is new or has changed.
func (j *journal) seeNode(node *corev1.Node) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := j.now()
	r := j.w.nodes[node.UID]
	if r == nil {
		r = &nodeRecord{serving: node}
		j.w.nodes[node.UID] = r
	}
	r.node = node
	stamp(&r.seen, now, true)
	marked := hasTaint(node, v1alpha1.TaintDisrupted)
	if stamp(&r.tainted, now, marked) {
		j.tell(moment{at: now, node: j.numberOf(node.Name), what: "cordoned"})
	}
	if !marked && node.DeletionTimestamp == nil {
		r.serving = node
	}
}

// loseNode takes in that a Node has gone, and the state of its instance as
// asked just after.
func (j *journal) loseNode(node *corev1.Node, stateAtEnd string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.w.nodes[node.UID]
	if r == nil || !stamp(&r.gone, j.now(), true) {
		return
	}
	r.stateAtEnd = stateAtEnd
	j.tell(moment{at: r.gone, node: j.numberOf(node.Name), what: "node gone"})
}

// seeInstances takes in an answer of ec2sim.
func (j *journal) seeInstances(instances []cluster.Instance) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := j.now()
	for _, i := range instances {
		r := j.w.instances[i.ID]
		if r == nil {
			r = &instanceRecord{}
			j.w.instances[i.ID] = r
		}
		r.instance = i
		stamp(&r.seen, now, true)
		if stamp(&r.ending, now, i.State == stateShuttingDown || i.State == stateTerminated) {
			j.tell(moment{at: now, node: j.numberOfInstance(i), what: "terminating", rest: i.ID})
		}
		if stamp(&r.terminated, now, i.State == stateTerminated) {
			j.tell(moment{at: now, node: j.numberOfInstance(i), what: "terminated", rest: fmt.Sprintf("%s; $%.4f/h left", i.ID, j.w.cost())})
		}
	}
}

func (j *journal) numberOfInstance(i cluster.Instance) int {
	for _, c := range j.w.claims {
		if c.claim.Name == i.Tags[v1alpha1.TagNodeClaim] {
			return c.number
		}
	}
	return 0
}

// seeEvent takes in an Event.
func (j *journal) seeEvent(e *corev1.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, known := j.w.events[e.UID]
	j.w.events[e.UID] = e
	if !known && e.Reason == reasonNoBerth {
		j.tell(moment{at: j.now(), what: "no berth", who: e.InvolvedObject.Name, rest: e.Message})
	}
}

// reasonNoBerth is the reason of the event on a pod that no node can host.
const reasonNoBerth = "NoBerth"

// tellEvery is how often news is told and an awaited state looked for.
const tellEvery = 150 * time.Millisecond

// await tells the news, and returns once missing returns nothing: "" for all
// is there, else what is still missing. After limit it gives up, with that as
// the error.
func (j *journal) await(ctx context.Context, limit time.Duration, tell func([]moment), missing func(*world) string) error {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		var lack string
		j.look(func(w *world) { lack = missing(w) })
		tell(j.take())
		if lack == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline.C:
			return fmt.Errorf("gave up after %s; still missing: %s", limit, lack)
		case <-tick.C:
		}
	}
}

// feedLines makes lines of moments: what happened at once to many is one line.
// start is the time that the lines count from.
func feedLines(moments []moment, start time.Time) []string {
	type group struct {
		moment
		order []string
		count map[string]int
	}
	var groups []*group
	for _, m := range moments {
		var g *group
		for _, have := range groups {
			if m.who != "" && have.what == m.what && have.node == m.node && have.rest == m.rest {
				g = have
			}
		}
		if g == nil {
			g = &group{moment: m, count: map[string]int{}}
			groups = append(groups, g)
		}
		if m.who != "" {
			if g.count[m.who] == 0 {
				g.order = append(g.order, m.who)
			}
			g.count[m.who]++
		}
	}
	var lines []string
	for _, g := range groups {
		node := ""
		if g.node > 0 {
			node = fmt.Sprintf("n%d", g.node)
		}
		text := countNames(g.order, g.count)
		if g.rest != "" {
			if text != "" {
				text += ": "
			}
			text += g.rest
		}
		head := fmt.Sprintf("  %+8.3f s  %-11s %-4s ", g.at.Sub(start).Seconds(), g.what, node)
		for i, l := range wrap(text, width-len(head)) {
			if i > 0 {
				head = strings.Repeat(" ", len(head))
			}
			lines = append(lines, strings.TrimRight(head+l, " "))
		}
	}
	return lines
}

// countNames writes "web x6, batch x4".
func countNames(order []string, count map[string]int) string {
	parts := make([]string, len(order))
	for i, name := range order {
		parts[i] = name
		if count[name] > 1 {
			parts[i] = fmt.Sprintf("%s x%d", name, count[name])
		}
	}
	return strings.Join(parts, ", ")
}
