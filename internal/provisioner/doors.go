package provisioner

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

const (
	// gatherFor is how long a node that is ready waits for others that are not.
	gatherFor = time.Second
	// seatingFor is how long a node that is ready waits for its seats to be shown while
	// none of them is, and seatingMost in all.
	seatingFor  = time.Second
	seatingMost = 10 * time.Second
	// quietFor is how long kube-scheduler has forgotten no seat when nodes open: longer than it
	// takes from one pod to the next while it tries them in vain.
	quietFor = 60 * time.Millisecond
	// triedFor is how long nothing was written to any pod that waits when kube-scheduler is
	// taken to have tried them all, and tryingMost is how long that is waited for. It writes to
	// a pod that it has tried what it found, 50 times a second unless it is told otherwise.
	triedFor   = 250 * time.Millisecond
	tryingMost = 3 * time.Second
	// comesWithin is how long after its launch a node is waited for: one that takes
	// longer may never come, and nobody else is to wait for it.
	comesWithin = 2 * time.Minute
	// doorsLook is how often the doors look whether what they wait for has come.
	doorsLook = 20 * time.Millisecond
	// doorsPatience is how long a claim that waits to open goes without asking again.
	doorsPatience = time.Second
)

// doors open nodes to pods. With each node that joins or opens, kube-scheduler tries all
// pods that wait, and forgets the nominations of those whose own node is still closed. So a node
// on which seats are held stays closed until it is ready, and those that are ready at about
// the same time open together, behind a gate, right after all their seats were written.
type doors struct {
	*Loops
	gate *gate
	mu   sync.Mutex
	// asked are the claims whose nodes are ready to open.
	asked map[string]bool
	// seating are the claims whose seats are being written, or were last.
	seating map[string]bool
	// gated are the claims whose nodes are behind the gate.
	gated map[string]bool
	// forgotten is when kube-scheduler last forgot a seat, and stirred when last something was
	// written to a pod that waits.
	forgotten, stirred time.Time
	ready              chan struct{}
}

func newDoors(p *Loops) *doors {
	return &doors{Loops: p, gate: &gate{Loops: p}, asked: map[string]bool{}, ready: make(chan struct{}, 1)}
}

// keeps reports whether a node that has joined stays closed. Where it is ready, it is
// opened soon.
func (d *doors) keeps(claim *v1alpha1.NodeClaim, node *corev1.Node) bool {
	if !hasTaint(node.Spec.Taints, v1alpha1.TaintUnregistered) || claim.Spec.Binding == v1alpha1.BindingImmediate ||
		len(claim.Spec.StartupTaints) > 0 || !d.holdsSeats(claim) {
		return false
	}
	if !nodeReady(node) || hasTaint(node.Spec.Taints, corev1.TaintNodeNotReady) {
		return !d.bars(node)
	}
	d.mu.Lock()
	d.asked[claim.Name] = true
	d.mu.Unlock()
	select {
	case d.ready <- struct{}{}:
	default:
	}
	return true
}

// holdsSeats reports whether pods wait for the claim's node whose seats others might
// take.
func (d *doors) holdsSeats(claim *v1alpha1.NodeClaim) bool {
	return claim.Spec.Binding != v1alpha1.BindingScheduler && d.contested.Load() && len(d.nominator.seatHolders(claim)) > 0
}

// bars reports whether a DaemonSet's pod waits for nothing but the node's opening:
// it may be the one that makes the node ready.
func (d *doors) bars(node *corev1.Node) bool {
	for _, p := range d.stores.podsBy(targetIndex, node.Name) {
		keptOut := func(byUs bool) bool {
			return keptOff(p, node, func(t *corev1.Taint) bool { return (t.Key == v1alpha1.TaintUnregistered) == byUs })
		}
		if keptOut(true) && !keptOut(false) {
			return true
		}
	}
	return false
}

// keptOff reports whether one of the node's taints that count keeps the pod off it.
func keptOff(p *corev1.Pod, node *corev1.Node, counts func(*corev1.Taint) bool) bool {
	_, found := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, p.Spec.Tolerations, func(t *corev1.Taint) bool {
		return t.Effect != corev1.TaintEffectPreferNoSchedule && counts(t)
	}, true)
	return found
}

// run opens nodes until the context ends.
func (d *doors) run(ctx context.Context) error {
	d.gate.lift(ctx) // One that a process before this one has left.
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.ready:
		}
		d.until(ctx, gatherFor, gatherFor, d.othersCome)
		d.mu.Lock()
		names := slices.Sorted(maps.Keys(d.asked))
		clear(d.asked)
		d.mu.Unlock()
		if batch := d.batchOf(names); len(batch) > 0 {
			d.open(ctx, batch)
		}
	}
}

// until waits until nothing is left to wait for, at most so long without progress and
// at most so long in all.
func (d *doors) until(ctx context.Context, idle, most time.Duration, left func() int) {
	tick := time.NewTicker(doorsLook)
	defer tick.Stop()
	end := time.Now().Add(most)
	least, since := left(), time.Now()
	for least > 0 && time.Since(since) < idle && time.Now().Before(end) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n := left(); n < least {
			least, since = n, time.Now()
		}
	}
}

// closed are the claims with seats on nodes that are not open yet and may be soon,
// whether they have joined or are still on their way.
func (d *doors) closed() []*v1alpha1.NodeClaim {
	return slices.DeleteFunc(all[*v1alpha1.NodeClaim](d.stores.claims), func(c *v1alpha1.NodeClaim) bool {
		launched := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionLaunched)
		if launched == nil || time.Since(launched.LastTransitionTime.Time) > comesWithin || c.DeletionTimestamp != nil || c.Status.NodeName == "" || isTrue(c.Status.Conditions, v1alpha1.ConditionInitialized) {
			return true
		}
		return !d.shut(c) || !d.holdsSeats(c)
	})
}

// shut reports whether a claim's node has not joined or has not been opened.
func (d *doors) shut(c *v1alpha1.NodeClaim) bool {
	node, ok := one[*corev1.Node](d.stores.nodes, c.Status.NodeName)
	return !ok || hasTaint(node.Spec.Taints, v1alpha1.TaintUnregistered)
}

// othersCome counts the closed nodes that are not ready to open.
func (d *doors) othersCome() int {
	list := d.closed()
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(slices.DeleteFunc(list, func(c *v1alpha1.NodeClaim) bool { return d.asked[c.Name] }))
}

// forgetful reports whether kube-scheduler forgets a pod's nomination when it finds no
// room for it.
func forgetful(p *corev1.Pod) bool {
	return p.Spec.PreemptionPolicy == nil || *p.Spec.PreemptionPolicy != corev1.PreemptNever
}

// batchOf are those of the claims whose nodes are still closed.
func (d *doors) batchOf(names []string) []*v1alpha1.NodeClaim {
	var batch []*v1alpha1.NodeClaim
	for _, name := range names {
		c, ok := one[*v1alpha1.NodeClaim](d.stores.claims, name)
		if !ok || c.DeletionTimestamp != nil {
			continue
		}
		if node, ok := one[*corev1.Node](d.stores.nodes, c.Status.NodeName); ok && hasTaint(node.Spec.Taints, v1alpha1.TaintUnregistered) {
			batch = append(batch, c)
		}
	}
	return batch
}

// open writes the seats of these claims and opens their nodes: one after the other, or,
// where kube-scheduler may forget a seat between the first and the last, behind a gate.
func (d *doors) open(ctx context.Context, batch []*v1alpha1.NodeClaim) {
	names := map[string]bool{}
	forget := false
	for _, c := range batch {
		names[c.Name] = true
		forget = forget || slices.ContainsFunc(d.nominator.seatHolders(c), forgetful)
	}
	gated := len(batch) > 1 && forget && d.gate.shut(ctx, batch[0].Status.NodeName)
	began := time.Now()
	if gated {
		d.mu.Lock()
		d.gated, d.seating = names, nil
		d.mu.Unlock()
		d.unlock(ctx, batch, true)
		d.stir(time.Now())
		d.until(ctx, tryingMost, tryingMost, d.trying)
	}
	d.mu.Lock()
	d.seating = names
	d.mu.Unlock()
	for _, c := range batch {
		d.nominator.seatPods(ctx, c)
	}
	d.until(ctx, seatingFor, seatingMost, func() int { return d.unseated(batch) })
	if gated {
		d.gate.lift(ctx)
		d.mu.Lock()
		d.gated = nil
		d.mu.Unlock()
	} else {
		d.unlock(ctx, batch, false)
	}
	d.log.Info("nodes opened", "nodes", len(batch), "gated", gated, "took", time.Since(began).String())
}

// unlock takes the taint off the claims' nodes, the first one's first.
func (d *doors) unlock(ctx context.Context, batch []*v1alpha1.NodeClaim, gated bool) {
	unlock := func(_ int, c *v1alpha1.NodeClaim) {
		node, ok := one[*corev1.Node](d.stores.nodes, c.Status.NodeName)
		if !ok {
			return
		}
		after := node.DeepCopy()
		dress(after, c, true)
		if gated {
			after.Labels[v1alpha1.LabelGated] = gateName
		}
		err := d.patchNode(ctx, node, after, "opening")
		if err == nil {
			d.mu.Lock()
			delete(d.asked, c.Name) // It may have asked once more while it was waited for.
			d.mu.Unlock()
		} else if ctx.Err() == nil {
			d.log.V(1).Info("a node will be opened again", "node", node.Name, "reason", err.Error()) // Its claim asks again.
		}
	}
	each(batch[:1], 1, unlock) // It has the gate.
	each(batch[1:], writers, unlock)
}

// trying is 1 while kube-scheduler still tries pods, as far as can be seen.
func (d *doors) trying() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.stirred) < triedFor {
		return 1
	}
	return 0
}

// unseated counts the seats of claims that are not written; one more where
// kube-scheduler has forgotten a seat just now.
func (d *doors) unseated(claims []*v1alpha1.NodeClaim) int {
	n := 0
	for _, c := range claims {
		for _, p := range d.nominator.seatHolders(c) {
			if p.Status.NominatedNodeName != c.Status.NodeName {
				n++
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if n == 0 && time.Since(d.forgotten) < quietFor {
		n++
	}
	return n
}

// hold reports whether a claim's node is shut, and its seats are written when it
// opens.
func (d *doors) hold(c *v1alpha1.NodeClaim) bool {
	d.mu.Lock()
	seating, gated := d.seating[c.Name], d.gated[c.Name]
	d.mu.Unlock()
	return !seating && len(c.Spec.StartupTaints) == 0 && (gated || d.shut(c))
}

// isGated reports whether a claim's node is behind the gate.
func (d *doors) isGated(c *v1alpha1.NodeClaim) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.gated[c.Name]
}

// forgot notes that kube-scheduler has forgotten a seat.
func (d *doors) forgot(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forgotten = at
}

// stir notes that something was written to a pod that waits.
func (d *doors) stir(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stirred = at
}

// targetOf is the node that a DaemonSet's unbound pod was made for; empty: none.
func targetOf(p *corev1.Pod) string {
	if !unbound(p) {
		return ""
	}
	return capacity.DaemonSetTarget(p)
}
