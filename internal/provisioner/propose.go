package provisioner

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

// sortByAge orders nodes, the oldest first, always in the same way.
func sortByAge(nodes []candidate) {
	slices.SortFunc(nodes, func(a, b candidate) int {
		if c := a.claim.CreationTimestamp.Compare(b.claim.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.claim.Name, b.claim.Name)
	})
}

// firstPods is how long a new node may wait for the first of its pods before it
// is called empty. EC2 charges for a minute at least, so that nothing is saved
// by being faster.
const firstPods = 30 * time.Second

// emptiness proposes nodes that have carried no workload for ttlSecondsAfterEmpty.
// With 0, a node may be taken out of use MinDrain before the last of its pods, all
// of them told to go, has to be gone: nobody waits for schedulers and load
// balancers on an empty node then. Its claim is deleted when they are.
type emptiness struct {
	*Loops
	// idleSince is when a claim's node was first seen without workload.
	idleSince map[string]time.Time
	// used are the claims whose nodes have been seen with workload.
	used map[string]bool
}

func newEmptiness(p *Loops) *emptiness {
	return &emptiness{Loops: p, idleSince: map[string]time.Time{}, used: map[string]bool{}}
}

func (e *emptiness) propose(now time.Time, nodes []candidate) ([]proposal, time.Duration) {
	var (
		out  []proposal
		soon agenda
		seen = map[string]bool{}
		// One look at all pods serves all nodes, if any needs it.
		makers = sync.OnceValue(func() map[types.UID]bool { return e.makers(now) })
	)
	for _, c := range nodes {
		name := c.claim.Name
		seen[name] = true
		ttl, wanted := c.provisioner.Spec.AfterEmpty()
		idle, in := e.emptyIn(c, now)
		if !idle || in > 0 {
			e.used[name] = true
		}
		if wanted && ttl == 0 {
			in -= drain.MinDrain
			soon.in(in)
		}
		if !idle || in > 0 || e.awaited(c.claim, now, makers) {
			delete(e.idleSince, name)
			continue
		}
		since, ok := e.idleSince[name]
		if !ok {
			since = now
			e.idleSince[name] = now
		}
		if !wanted {
			continue
		}
		// What a former leader has begun is not begun anew.
		if c.leaving() != v1alpha1.ReasonEmpty {
			left := ttl - now.Sub(since)
			if left <= 0 {
				left = e.bindingsUntil(c.node, since, now).Sub(now)
			}
			if left > 0 {
				soon.in(left)
				continue
			}
		}
		out = append(out, proposal{reason: v1alpha1.ReasonEmpty, nodes: []candidate{c},
			why: fmt.Sprintf("no workload for %.0fs; giving back $%.4f/h", ttl.Seconds(), priceOf(c.claim))})
	}
	gone := func(name string) bool { return !seen[name] }
	maps.DeleteFunc(e.idleSince, func(name string, _ time.Time) bool { return gone(name) })
	maps.DeleteFunc(e.used, func(name string, _ bool) bool { return gone(name) })
	return out, soon.next
}

// awaited reports whether pods are to come to a claim's node: those with a seat
// there, those of nodes that it replaces, and on a node that is still to be used
// for the first time those that it was bought for before their owner made them.
func (e *emptiness) awaited(claim *v1alpha1.NodeClaim, now time.Time, makers func() map[types.UID]bool) bool {
	if len(e.book.on(claim.Name)) > 0 || e.reserved(claim) {
		return true
	}
	if !isTrue(claim.Status.Conditions, v1alpha1.ConditionInitialized) && !e.planned.Load() {
		return true // Who waits for a node that is coming is known once a round has planned.
	}
	if e.used[claim.Name] {
		return false
	}
	opened := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionInitialized)
	if opened != nil && now.Sub(opened.LastTransitionTime.Time) < firstPods {
		return true
	}
	owners := e.book.expectedFrom(claim.Name)
	return slices.ContainsFunc(owners, func(owner types.UID) bool { return makers()[owner] })
}

// makers are the owners that have made a pod lately, and may be about to make more.
func (p *Loops) makers(now time.Time) map[types.UID]bool {
	out := map[types.UID]bool{}
	for _, pod := range all[*corev1.Pod](p.stores.pods) {
		if owner, ok := controllerOf(pod); ok && now.Sub(pod.CreationTimestamp.Time) <= expectFresh {
			out[owner] = true
		}
	}
	return out
}

// emptyIn reports whether nothing but what belongs to the node itself runs on it,
// or will in a while because the rest has been told to go. What should have been gone for
// long does not count: its container cannot be killed, nobody waits for it, and the node
// would be kept out of use, or kept, for ever.
func (p *Loops) emptyIn(c candidate, now time.Time) (idle bool, in time.Duration) {
	for _, pod := range p.stores.podsOn(c.node.Name) {
		switch {
		case !drain.Counts(pod, c.node) || drain.Stuck(pod, now):
		case pod.DeletionTimestamp == nil:
			return false, 0
		default:
			in = max(in, pod.DeletionTimestamp.Sub(now), 1) // Late, perhaps, but there.
		}
	}
	return true, in
}

const (
	// expiryJitter is the share of ttlSecondsUntilExpired over which the expiry
	// of nodes of the same age is spread, at most expiryJitterMost.
	expiryJitter     = 0.1
	expiryJitterMost = 12 * time.Hour
	// defaultExpiryGrace is how long an expired node may stay for want of
	// budget, room or consent.
	defaultExpiryGrace = 24 * time.Hour
)

// expiry proposes nodes that are older than ttlSecondsUntilExpired: softly,
// within budget and with room for their pods; after disruption.expiryGrace
// without. The grace counts from when the node was first found too old, which is
// in its claim: whoever shortens the life of nodes that are there, or comes back
// after an outage, gives all of them their whole grace.
type expiry struct{}

func (expiry) propose(now time.Time, nodes []candidate) ([]proposal, time.Duration) {
	var (
		out  []proposal
		soon agenda
	)
	for _, c := range nodes {
		soft, hard, ok := expires(c.claim, &c.provisioner.Spec)
		if !ok {
			continue
		}
		if left := soft.Sub(now); left > 0 {
			soon.in(left)
			continue
		}
		p := proposal{reason: v1alpha1.ReasonExpired, nodes: []candidate{c},
			why: fmt.Sprintf("older than ttlSecondsUntilExpired (%ds)", *c.provisioner.Spec.TTLSecondsUntilExpired)}
		left := hard.Sub(now)
		if _, found := dueSince(c.claim); !found {
			left = hard.Sub(soft) // It begins now.
		}
		if left > 0 {
			soon.in(left)
		} else {
			p.forced = true
			p.why += " for longer than disruption.expiryGrace: budgets and do-not-disrupt are no longer asked, and room is not waited for without end"
		}
		out = append(out, p)
	}
	return out, soon.next
}

// expires says when a node is too old, and when it has been too old for too
// long. Nodes of one burst expire spread out, each always at the same time.
func expires(c *v1alpha1.NodeClaim, spec *v1alpha1.ProvisionerSpec) (soft, hard time.Time, ok bool) {
	ttl, ok := spec.UntilExpired()
	if !ok {
		return soft, hard, false
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.UID)) // Never fails.
	spread := min(time.Duration(float64(ttl)*expiryJitter), expiryJitterMost)
	soft = c.CreationTimestamp.Add(ttl + time.Duration(float64(spread)*float64(h.Sum32())/(1<<32)))
	grace := defaultExpiryGrace
	if d := spec.Disruption; d != nil && d.ExpiryGrace != nil {
		grace = d.ExpiryGrace.Duration
	}
	hard = soft
	if since, found := dueSince(c); found && since.After(soft) {
		hard = since
	}
	return soft, hard.Add(grace), true
}

// dueSince is when a claim's node was first found too old; false while it was not.
func dueSince(c *v1alpha1.NodeClaim) (time.Time, bool) {
	cond := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionExpired)
	if cond == nil || cond.Status != metav1.ConditionTrue {
		return time.Time{}, false
	}
	return cond.LastTransitionTime.Time, true
}

// dueWrites is how many claims a pass tells at most that their node is too old.
const dueWrites = 50

// noteDue keeps condition Expired of the claims: one write when a node becomes
// too old, one when it is no longer, because its Provisioner lets it live longer.
// While disruption is paused no grace begins.
func (d *disruption) noteDue(ctx context.Context, now time.Time, nodes []candidate, soon *agenda) {
	left := dueWrites
	for _, c := range nodes {
		soft, _, ok := expires(c.claim, &c.provisioner.Spec)
		due := ok && !c.opening() && !now.Before(soft)
		if _, noted := dueSince(c.claim); due == noted || due && !d.paused(v1alpha1.AnnotationPauseDisruption, c.provisioner, now).IsZero() {
			continue
		}
		if left--; left < 0 {
			soon.in(disruptPause)
			return
		}
		err := d.patchStatus(ctx, d.written.newer(c.claim.DeepCopy()), func(c *v1alpha1.NodeClaim) {
			cond := metav1.Condition{Type: v1alpha1.ConditionExpired, Status: metav1.ConditionFalse, Reason: "MayLiveLonger", ObservedGeneration: c.Generation}
			if due {
				cond.Status, cond.Reason = metav1.ConditionTrue, "TooOld"
				cond.LastTransitionTime = metav1.Time{Time: now}
			}
			meta.SetStatusCondition(&c.Status.Conditions, cond)
		})
		if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) && ctx.Err() == nil {
			d.log.Error(err, "noting that a node has expired failed; tried again", "claim", c.claim.Name)
		}
		if err != nil {
			soon.in(time.Second)
		}
	}
}
