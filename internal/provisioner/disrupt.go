package provisioner

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

const (
	// disruptEvery is how often nodes are looked at when nothing changes.
	disruptEvery = 5 * time.Second
	// disruptPause is how long after a pass the next one begins at the earliest:
	// a thousand pods that end change their nodes' state once.
	disruptPause = 100 * time.Millisecond
	// roomPatience is how long a node stays out of use while room for its pods
	// is being made, beyond the time that an instance may take to join.
	roomPatience = 5 * time.Minute
	// forcedPatience is how long a node that must go waits for room that cannot be
	// bought.
	forcedPatience = time.Minute
	// refusedFirst is how long a node is left alone whose disruption had to be
	// given up; each time doubles it, up to refusedMost.
	refusedFirst = time.Minute
	refusedMost  = time.Hour
)

// candidate is an initialized node that may have to go.
type candidate struct {
	claim *v1alpha1.NodeClaim
	node  *corev1.Node
	// provisioner of the claim.
	provisioner *v1alpha1.Provisioner
}

// opening reports whether the node has joined and is not ready for pods yet. Only
// emptiness looks at such nodes: what nobody waits for need not become ready first.
func (c candidate) opening() bool {
	return !isTrue(c.claim.Status.Conditions, v1alpha1.ConditionInitialized)
}

// leaving is the reason for which the node was taken out of use already;
// empty while it is in use. It survives a restart: it is on the Node.
func (c candidate) leaving() v1alpha1.DisruptionReason {
	if !drain.Cordoned(c.node) {
		return ""
	}
	return v1alpha1.DisruptionReason(c.node.Annotations[v1alpha1.AnnotationDisruptionReason])
}

// proposal is a wish to give nodes back: all of them or none.
type proposal struct {
	reason v1alpha1.DisruptionReason
	// nodes that go together. All belong to one Provisioner's budget each.
	nodes []candidate
	// why, for people: what it is good for.
	why string
	// forced proposals ask neither budgets nor pods. They wait for room elsewhere
	// only for a while, and are begun no more at a time than forcedShare.
	forced bool
}

// proposer is one reason for giving nodes back. It proposes from what it is
// given, as often as it is asked; budgets, pauses, protection, room for the
// pods and the steps of the removal are the loop's. A proposal that is not made
// again before its nodes were told to go is thereby taken back.
type proposer interface {
	// propose names the nodes that should go now, the most urgent first, and in
	// how long something may become due (0: not by itself).
	propose(now time.Time, nodes []candidate) ([]proposal, time.Duration)
}

// disruption gives back nodes that somebody proposes to give back. One
// goroutine: budgets are counted here and nowhere else.
//
// A node goes in these steps, each derived anew from the cluster:
//
//  1. within budget, it is tainted (and the reason noted on it);
//  2. from then on the provision loop plans for its pods as if they waited, and
//     buys what they need (moves.go);
//  3. when there is room for all of them on nodes that run, and no scheduler binds
//     pods to it any more (underway.go), its pods are listed live once more;
//  4. if none objects, its claim is deleted, and the lifecycle drains it; else
//     the taint is taken back.
type disruption struct {
	*Loops
	// proposers, the most important first: of two proposals for a node the
	// first counts.
	proposers []proposer
	refused   map[string]refusal
	held      map[string]string
	// failed is until when nothing is tried with a node, by claim: the API server refused.
	failed map[string]time.Time
	// taken are the nodes that this pass has chosen so far, by name.
	taken map[string]bool
	// orphans are the claims without a Provisioner that were told of.
	orphans map[string]bool
}

// refusal remembers a disruption that had to be given up.
type refusal struct {
	times int
	until time.Time
}

// newDisruption makes the loop; more are proposers beside emptiness and expiry.
func newDisruption(p *Loops, more ...proposer) *disruption {
	return &disruption{
		Loops:     p,
		proposers: append([]proposer{newEmptiness(p), expiry{}}, more...),
		refused:   map[string]refusal{},
		held:      map[string]string{},
		failed:    map[string]time.Time{},
		taken:     map[string]bool{},
		orphans:   map[string]bool{},
	}
}

func (d *disruption) run(ctx context.Context) error {
	tick := time.NewTicker(disruptEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.idle:
		case <-tick.C:
		}
		next := d.pass(ctx, time.Now())
		if next == 0 || next > disruptEvery {
			next = disruptEvery
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(disruptPause):
		}
		tick.Reset(max(next-disruptPause, time.Millisecond))
	}
}

// agenda collects when to look again.
type agenda struct{ next time.Duration }

func (a *agenda) in(d time.Duration) {
	if d > 0 && (a.next == 0 || d < a.next) {
		a.next = d
	}
}

// pass looks at every node once and moves each removal one step on. It returns
// when the next step will be due, 0 when none is foreseen.
func (d *disruption) pass(ctx context.Context, now time.Time) time.Duration {
	var soon agenda
	nodes := d.candidates()
	clear(d.taken)
	d.forget(nodes, now)
	d.noteDue(ctx, now, nodes, &soon)
	kept := map[string]bool{} // Claims whose removal goes on.
	budgets := d.allowances(now)
	var begin, commit []proposal
	for _, p := range d.gather(now, nodes, &soon) {
		if claimed(p, kept) {
			continue
		}
		switch held := d.holds(p, now); {
		case held != "":
			d.tellHeld(p, held)
			continue
		case !begun(p):
			// Budgets are about nodes that work.
			if !p.nodes[0].opening() && !budgets.take(p) {
				d.metrics.blocked.WithLabelValues(p.nodes[0].provisioner.Name, string(p.reason)).Inc()
				continue
			}
			begin = append(begin, p)
		default:
			step, in := d.progress(p, now)
			soon.in(in)
			if step == stepGiveUp {
				continue
			}
			if step == stepCommit {
				commit = append(commit, p)
			}
		}
		for _, c := range p.nodes {
			kept[c.claim.Name], d.taken[c.node.Name] = true, true
		}
	}
	d.retiring.Store(true)
	d.act(begin, now, &soon, func(p proposal) error { return d.begin(ctx, p, now) })
	d.retiring.Store(false)
	d.act(commit, now, &soon, func(p proposal) error { return d.commit(ctx, p, now) })
	d.release(ctx, nodes, kept, now, &soon)
	return soon.next
}

// act carries out a step of several proposals at the same time.
func (d *disruption) act(ps []proposal, now time.Time, soon *agenda, step func(proposal) error) {
	ps = slices.DeleteFunc(ps, func(p proposal) bool { return now.Before(d.failed[p.nodes[0].claim.Name]) })
	var mu sync.Mutex
	each(ps, writers, func(_ int, p proposal) {
		err := step(p)
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			d.log.Error(err, "disruption failed; tried again", "claim", p.nodes[0].claim.Name, "reason", string(p.reason))
		}
		mu.Lock()
		defer mu.Unlock()
		d.fail(p.nodes[0], err, now, soon)
	})
}

// fail has a step that failed tried again: soon where somebody else was faster, else
// after a pause, whatever wakes the loop before.
func (d *disruption) fail(c candidate, err error, now time.Time, soon *agenda) {
	if apierrors.IsConflict(err) {
		soon.in(100 * time.Millisecond)
		return
	}
	d.failed[c.claim.Name] = now.Add(disruptEvery)
	soon.in(disruptEvery)
}

// candidates are the nodes of live claims that have joined.
func (d *disruption) candidates() []candidate {
	var out []candidate
	for _, c := range all[*v1alpha1.NodeClaim](d.stores.claims) {
		_, goes := d.removing.Load(c.UID)
		if goes || c.DeletionTimestamp != nil || !isTrue(c.Status.Conditions, v1alpha1.ConditionRegistered) {
			continue
		}
		pr, ok := one[*v1alpha1.Provisioner](d.stores.provisioners, c.Spec.Provisioner.Name)
		d.tellOrphan(c, !ok)
		node, ok2 := one[*corev1.Node](d.stores.nodes, c.Status.NodeName)
		if ok && ok2 && node.DeletionTimestamp == nil && node.Spec.ProviderID == c.Status.ProviderID {
			out = append(out, candidate{claim: c, node: node, provisioner: pr})
		}
	}
	sortByAge(out)
	return out
}

// tellOrphan makes an event of it when a claim's Provisioner is gone: nothing but
// an interruption or its owner ends its node then.
func (d *disruption) tellOrphan(c *v1alpha1.NodeClaim, orphan bool) {
	switch told := d.orphans[c.Name]; {
	case told && !orphan:
		delete(d.orphans, c.Name)
	case orphan && !told:
		d.orphans[c.Name] = true
		d.log.Info("a claim has no Provisioner any more", "claim", c.Name, "provisioner", c.Spec.Provisioner.Name)
		d.cfg.Recorder.Eventf(c, nil, corev1.EventTypeWarning, "Orphaned", "Disrupt",
			"Provisioner %s is gone: node %s neither expires nor is given back when it is empty; delete the claim, or create the Provisioner again", c.Spec.Provisioner.Name, c.Status.NodeName)
	}
}

// gather asks all proposers, in their order.
func (d *disruption) gather(now time.Time, nodes []candidate, soon *agenda) []proposal {
	var out []proposal
	ready := slices.DeleteFunc(slices.Clone(nodes), candidate.opening)
	for _, p := range d.proposers {
		asked := ready
		if _, ok := p.(*emptiness); ok {
			asked = nodes
		}
		ps, next := p.propose(now, asked)
		soon.in(next)
		out = append(out, ps...)
	}
	return out
}

// claimed reports whether a node of the proposal goes already.
func claimed(p proposal, kept map[string]bool) bool {
	for _, c := range p.nodes {
		if kept[c.claim.Name] {
			return true
		}
	}
	return false
}

// begun reports whether all nodes of the proposal were taken out of use for it. One that
// was for another reason has to ask the budget of this one.
func begun(p proposal) bool {
	return !slices.ContainsFunc(p.nodes, func(c candidate) bool { return c.leaving() != p.reason })
}

// step is what is to be done about a proposal that was begun.
type step int

const (
	stepWait step = iota
	stepCommit
	stepGiveUp
)

// progress says how far a proposal is whose nodes are all tainted.
func (d *disruption) progress(p proposal, now time.Time) (step, time.Duration) {
	wait := time.Duration(0)
	for _, c := range p.nodes {
		seen := d.taintSeen(c.claim, now)
		if left := d.settledAt(c.node, seen, now).Sub(now); left > 0 {
			wait = max(wait, left) // A scheduler may still bind pods here.
		}
		if p.reason == v1alpha1.ReasonEmpty {
			if _, in := d.emptyIn(c, now); in > 0 {
				wait = max(wait, disruptEvery) // The last pod's end wakes us.
			}
			continue
		}
		r, known := d.moves.of(c.claim.Name)
		switch {
		case p.forced && known && r.stuck != "" && now.Sub(seen) > forcedPatience:
		case p.forced && now.Sub(seen) > d.cfg.RegistrationTimeout+roomPatience:
		case p.forced && !(known && r.ready()):
			wait = max(wait, disruptEvery)
		case known && r.stuck != "":
			d.refuse(c, now, "no room for its pods elsewhere: "+r.stuck)
			return stepGiveUp, 0
		case known && r.ready():
		case now.Sub(seen) > d.cfg.RegistrationTimeout+roomPatience:
			d.refuse(c, now, "no room for its pods came into being in time")
			return stepGiveUp, 0
		default:
			wait = max(wait, disruptEvery) // The provision loop wakes us.
		}
	}
	if wait > 0 {
		return stepWait, wait
	}
	return stepCommit, 0
}

// refuse leaves a node alone for a while, the longer the more often.
func (d *disruption) refuse(c candidate, now time.Time, why string) {
	r := d.refused[c.claim.Name]
	r.until = now.Add(min(refusedFirst<<min(r.times, 10), refusedMost))
	r.times++
	d.refused[c.claim.Name] = r
	d.log.Info("disruption given up for now", "claim", c.claim.Name, "node", c.node.Name, "why", why, "until", r.until)
	d.cfg.Recorder.Eventf(c.claim, nil, corev1.EventTypeWarning, "DisruptionPutOff", "Disrupt", "%s", clip(why))
}

// forget drops what is remembered of nodes that are gone.
func (d *disruption) forget(nodes []candidate, now time.Time) {
	there := map[string]bool{}
	for _, c := range nodes {
		there[c.claim.Name] = true
	}
	for name, r := range d.refused {
		if !there[name] || now.After(r.until.Add(refusedMost)) {
			delete(d.refused, name)
		}
	}
	for name := range d.held {
		if !there[name] {
			delete(d.held, name)
		}
	}
	maps.DeleteFunc(d.failed, func(_ string, until time.Time) bool { return !now.Before(until) })
}

// begin taints the nodes of a proposal.
func (d *disruption) begin(ctx context.Context, p proposal, now time.Time) error {
	for _, c := range p.nodes {
		if c.leaving() == p.reason {
			continue
		}
		after := c.node.DeepCopy()
		drain.Uncordon(after) // What it was taken out of use for before marked it otherwise.
		if p.reason == v1alpha1.ReasonEmpty {
			drain.Cordon(after, now) // Nothing runs there that clients could lose.
		} else {
			drain.Hold(after, now)
		}
		if after.Annotations == nil {
			after.Annotations = map[string]string{}
		}
		after.Annotations[v1alpha1.AnnotationDisruptionReason] = string(p.reason)
		if err := d.patchNode(ctx, c.node, after, "tainting"); err != nil {
			return err
		}
		d.log.Info("node taken out of use", "node", c.node.Name, "claim", c.claim.Name, "reason", string(p.reason), "why", p.why)
	}
	return nil
}

// commit looks at the nodes' pods live, now that no scheduler binds pods there
// any more, and deletes the claims; or takes the taints back.
func (d *disruption) commit(ctx context.Context, p proposal, now time.Time) error {
	for _, c := range p.nodes {
		var pods corev1.PodList
		err := d.cfg.APIReader.List(ctx, &pods, &client.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", c.node.Name)})
		if err != nil {
			return fmt.Errorf("listing the pods of node %s: %w", c.node.Name, err)
		}
		live := make([]*corev1.Pod, len(pods.Items))
		for i := range pods.Items {
			live[i] = &pods.Items[i]
		}
		if why := objection(p, c, live, now); why != "" {
			d.log.Info("node stays", "node", c.node.Name, "reason", string(p.reason), "why", why)
			for _, back := range p.nodes {
				if err := d.uncordon(ctx, back); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, c := range p.nodes {
		d.tellBare(c)
		d.cfg.Recorder.Eventf(c.claim, nil, corev1.EventTypeNormal, string(p.reason), "Disrupt", "%s", clip(p.why))
		if err := d.deleteClaim(ctx, c.claim.DeepCopy(), p.reason); err != nil {
			return err
		}
	}
	return nil
}

// tellBare warns of pods that nothing makes again when their node goes.
func (d *disruption) tellBare(c candidate) {
	var names []string
	for _, pod := range d.stores.podsOn(c.node.Name) {
		if _, owned := controllerOf(pod); !owned && !terminal(pod) && pod.DeletionTimestamp == nil && drain.Counts(pod, c.node) {
			names = append(names, pod.Namespace+"/"+pod.Name)
		}
	}
	if len(names) > 0 {
		slices.Sort(names)
		d.cfg.Recorder.Eventf(c.claim, nil, corev1.EventTypeWarning, "PodsWithoutController", "Disrupt", "%s",
			clip(fmt.Sprintf("node %s goes with %d pods that nothing makes again: %s", c.node.Name, len(names), strings.Join(names, ", "))))
	}
}

// objection is what speaks against a removal when it is about to begin.
func objection(p proposal, c candidate, pods []*corev1.Pod, now time.Time) string {
	if p.reason == v1alpha1.ReasonEmpty {
		for _, pod := range pods {
			if drain.Counts(pod, c.node) && !drain.Stuck(pod, now) {
				return "it is in use again: pod " + pod.Namespace + "/" + pod.Name
			}
		}
		return ""
	}
	if p.forced {
		return ""
	}
	return protected(c.node, pods, now)
}

// release puts nodes back into use whose removal nobody proposes any more: a
// pod came, the Provisioner has changed, something objects.
func (d *disruption) release(ctx context.Context, nodes []candidate, kept map[string]bool, now time.Time, soon *agenda) {
	for _, c := range nodes {
		if _, ok := d.noticed.Load(c.claim.UID); ok || kept[c.claim.Name] || !drain.Cordoned(c.node) || now.Before(d.failed[c.claim.Name]) {
			continue
		}
		if err := d.uncordon(ctx, c); err != nil {
			if !apierrors.IsConflict(err) && ctx.Err() == nil {
				d.log.Error(err, "putting a node back into use failed; tried again", "node", c.node.Name)
			}
			d.fail(c, err, now, soon)
		}
	}
}

func (d *disruption) uncordon(ctx context.Context, c candidate) error {
	after := c.node.DeepCopy()
	if !drain.Uncordon(after) {
		return nil
	}
	delete(after.Annotations, v1alpha1.AnnotationDisruptionReason)
	if err := d.patchNode(ctx, c.node, after, "uncordoning"); err != nil {
		return err
	}
	d.tainted.Delete(c.claim.UID)
	d.log.Info("node back in use", "node", c.node.Name, "claim", c.claim.Name)
	return nil
}
