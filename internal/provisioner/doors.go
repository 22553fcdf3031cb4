package provisioner

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

const (
	// gatherFor is how long a node that is ready waits for others that are not.
	gatherFor = time.Second
	// openers is the number of nodes that are opened at once: few, so that they open in
	// order.
	openers = 3
	// seatingFor is how long a node that is ready waits for its seats to be shown while
	// none of them is.
	seatingFor = time.Second
	// quietFor is how long kube-scheduler has forgotten no seat when nodes open: longer than it
	// takes from one pod to the next while it tries them in vain.
	quietFor = 60 * time.Millisecond
	// settleFor is how long a node that is ready waits for kube-scheduler to have tried
	// the pods of the nodes that were opened before, while it tries none of them: it tries
	// those of nodes that are closed in between. By default it writes 50 times a second.
	settleFor = 3 * time.Second
	// settleMost bounds each of the two while there is progress.
	settleMost = 10 * time.Second
	// comesWithin is how long after its launch a node is waited for: one that takes
	// longer may never come, and nobody else is to wait for it.
	comesWithin = 2 * time.Minute
	// doorsLook is how often the doors look whether what they wait for has come.
	doorsLook = 20 * time.Millisecond
	// doorsPatience is how long a claim that waits to open goes without asking again.
	doorsPatience = time.Second
)

// doors open nodes to pods. With each node that joins or opens, and with each nomination
// that it forgets, kube-scheduler tries all pods that wait, and forgets the nominations
// of those whose own node is still closed. So a node on which seats are held stays
// closed until it is ready, those that are ready at about the same time open together,
// right after all their seats were written, and the next ones when kube-scheduler has
// been through the pods of these.
type doors struct {
	*Loops
	mu sync.Mutex
	// asked are the claims whose nodes are ready to open.
	asked map[string]bool
	// opening are the claims whose nodes are being opened, or were last.
	opening map[string]bool
	// untried are the pods with seats on nodes that were opened last, while others are closed:
	// kube-scheduler has not tried them since.
	untried map[types.UID]bool
	// forgotten is when kube-scheduler last forgot a seat.
	forgotten time.Time
	ready     chan struct{}
}

func newDoors(p *Loops) *doors {
	return &doors{Loops: p, asked: map[string]bool{}, ready: make(chan struct{}, 1)}
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
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.ready:
		}
		d.until(ctx, gatherFor, gatherFor, d.othersCome)
		d.mu.Lock()
		batch := slices.Sorted(maps.Keys(d.asked))
		clear(d.asked)
		d.mu.Unlock()
		d.open(ctx, batch)
		d.until(ctx, settleFor, settleMost, func() int {
			d.mu.Lock()
			defer d.mu.Unlock()
			return len(d.untried)
		})
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

// open writes the seats of these claims and takes the taint off their nodes.
func (d *doors) open(ctx context.Context, names []string) {
	var batch []*v1alpha1.NodeClaim
	opening := map[string]bool{}
	for _, name := range names {
		c, ok := one[*v1alpha1.NodeClaim](d.stores.claims, name)
		if !ok || c.DeletionTimestamp != nil {
			continue
		}
		if node, ok := one[*corev1.Node](d.stores.nodes, c.Status.NodeName); ok && hasTaint(node.Spec.Taints, v1alpha1.TaintUnregistered) {
			batch = append(batch, c)
			opening[name] = true
		}
	}
	if len(batch) == 0 {
		return
	}
	batch = d.arrange(batch)
	d.mu.Lock()
	d.opening = opening
	d.mu.Unlock()
	// Those last that are tried first: until their node is open, a try costs them the seat.
	for _, c := range slices.Backward(batch) {
		d.nominator.seatPods(ctx, c)
	}
	d.until(ctx, seatingFor, settleMost, func() int { return d.unseated(batch) })
	untried := map[types.UID]bool{}
	if slices.ContainsFunc(d.closed(), func(c *v1alpha1.NodeClaim) bool {
		return !opening[c.Name] && slices.ContainsFunc(d.nominator.seatHolders(c), forgetful)
	}) {
		for _, c := range batch {
			for _, p := range d.nominator.seatHolders(c) {
				untried[p.UID] = true
			}
		}
	}
	d.mu.Lock()
	d.untried = untried
	d.mu.Unlock()
	began := time.Now()
	each(batch, openers, func(_ int, c *v1alpha1.NodeClaim) {
		node, ok := one[*corev1.Node](d.stores.nodes, c.Status.NodeName)
		if !ok {
			return
		}
		after := node.DeepCopy()
		dress(after, c, true)
		err := d.patchNode(ctx, node, after, "opening")
		if err == nil {
			d.mu.Lock()
			delete(d.asked, c.Name) // It may have asked once more while it was waited for.
			d.mu.Unlock()
		} else if ctx.Err() == nil {
			d.log.V(1).Info("a node will be opened again", "node", node.Name, "reason", err.Error()) // Its claim asks again.
		}
	})
	d.log.Info("nodes opened", "nodes", len(batch), "podsAwaited", len(untried), "took", time.Since(began).String())
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
	opening := d.opening[c.Name]
	d.mu.Unlock()
	return !opening && len(c.Spec.StartupTaints) == 0 && d.shut(c)
}

// forgot notes that kube-scheduler has forgotten a seat.
func (d *doors) forgot(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forgotten = at
}

// tried notes that kube-scheduler has found no room for a pod, has bound it, or that
// it is gone.
func (d *doors) tried(pod types.UID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.untried, pod)
}

// targetOf is the node that a DaemonSet's unbound pod was made for; empty: none.
func targetOf(p *corev1.Pod) string {
	if !unbound(p) {
		return ""
	}
	return capacity.DaemonSetTarget(p)
}
