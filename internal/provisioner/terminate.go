package provisioner

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
	"github.com/berth-dev/berth/internal/ec2"
)

const (
	// defaultDrainDeadline holds where the Provisioner is gone or names none.
	defaultDrainDeadline = time.Hour
	// drainCalls is how often all drains together may write in a second: evictions and
	// deletions, to claims and Nodes, and for the claims that take their place. What
	// cannot wait is written all the same, and the rest waits for it.
	drainCalls = 22
	// endWrites is how often the API server is written to for a claim from the end of
	// its drain on.
	endWrites = 6
	// drainTellEvery is how often the condition of a drain under way is written
	// at most, drainTellMoving of one whose pods go.
	drainTellEvery  = 8 * time.Second
	drainTellMoving = 30 * time.Second
	// terminatePoll is how often a claim looks whether its instance has ended.
	terminatePoll = time.Second
)

// remove takes a claim down, in this order: cordon, drain, terminate the
// instance, free what its kubelet cannot, remove the Node, let the claim go.
func (r *lifecycle) remove(ctx context.Context, claim *v1alpha1.NodeClaim) (ctrl.Result, error) {
	r.book.drop(claim.Name)
	r.removing.Delete(claim.UID)
	if !controllerutil.ContainsFinalizer(claim, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	if claim.Status.InstanceID == "" {
		if res, settled, err := r.lifter.settle(ctx, claim); !settled || err != nil {
			return res, err
		}
	}
	node, hasNode := r.nodeOf(claim)
	if hasNode && !isTrue(claim.Status.Conditions, v1alpha1.ConditionDrained) {
		if res, done, err := r.empty(ctx, claim, node); !done || err != nil {
			return res, err
		}
	}
	if claim.Status.InstanceID != "" && !gone(claim) {
		if res, done, err := r.terminate(ctx, claim, hasNode && nodeReady(node) || unshown(claim, time.Now())); !done || err != nil {
			return res, err
		}
	}
	if hasNode {
		switch vacated, err := r.vacate(ctx, claim, node); {
		case err != nil:
			return ctrl.Result{}, err
		case !vacated:
			return ctrl.Result{RequeueAfter: terminatePoll}, nil
		}
	}
	if r.lifter.needed(claim) {
		return ctrl.Result{RequeueAfter: resumePause}, nil
	}
	return ctrl.Result{}, r.release(ctx, claim)
}

// empty drains a node, unless nothing is left to drain: its instance has ended
// without us, and with it whatever ran there.
func (r *lifecycle) empty(ctx context.Context, claim *v1alpha1.NodeClaim, node *corev1.Node) (ctrl.Result, bool, error) {
	state, err := r.fleet.stateOf(ctx, claim.Status.InstanceID, nodeReady(node))
	if err != nil {
		return ctrl.Result{}, false, err
	}
	if !slices.Contains(endingStates, state) {
		return r.drain(ctx, claim, node)
	}
	message := fmt.Sprintf("instance %s is %s, and not by Berth: nothing is left to wait for", claim.Status.InstanceID, state)
	r.log.Info("drain ended", "claim", claim.Name, "node", node.Name, "why", message)
	r.cfg.Recorder.Eventf(claim, nil, corev1.EventTypeWarning, "InstanceEnded", "Drain", "%s", message)
	return ctrl.Result{}, true, r.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) {
		setCondition(c, v1alpha1.ConditionDrained, metav1.ConditionTrue, "InstanceEnded", message)
	})
}

// stateOf is an instance's state in the last reading, or terminated for certain;
// empty when it is not known. Unlike ended it asks for no reading sooner.
func (f *fleet) stateOf(ctx context.Context, id string, nodeLives bool) (string, error) {
	f.mu.Lock()
	inst, live := f.live[id]
	read := !f.at.IsZero()
	f.mu.Unlock()
	if live || !read || id == "" {
		return inst.State, nil
	}
	if ended, err := f.ended(ctx, id, nodeLives); !ended || err != nil {
		return "", err
	}
	return ec2.StateTerminated, nil
}

// drain makes one pass over the node's pods.
func (r *lifecycle) drain(ctx context.Context, claim *v1alpha1.NodeClaim, node *corev1.Node) (ctrl.Result, bool, error) {
	if !drain.Cordoned(node) || !drain.Excluded(node) {
		if hurried(claim, time.Now()) {
			r.pace.Charge(1)
		} else if !r.pace.Turn(ctx) {
			return ctrl.Result{RequeueAfter: time.Second}, false, nil // A hundred others come first.
		}
		after := node.DeepCopy()
		drain.Cordon(after, time.Now())
		if err := r.patchNode(ctx, node, after, "cordoning"); err != nil {
			return ctrl.Result{}, false, err
		}
		r.log.Info("node cordoned", "node", node.Name, "claim", claim.Name, "reason", claim.Annotations[v1alpha1.AnnotationDisruptionReason])
		return ctrl.Result{}, false, nil // The watch shows the taint and brings us back.
	}
	if claim.Status.DrainDeadline == nil && !r.mayBegin(ctx, node) {
		return ctrl.Result{RequeueAfter: time.Second}, false, nil
	}
	now := time.Now()
	seen := r.taintSeen(claim, now)
	if err := r.recordDeadline(ctx, claim, node, now); err != nil {
		return ctrl.Result{}, false, err
	}
	in := r.drainInput(claim, node, seen, now)
	in.Pods = r.stores.podsOn(node.Name)
	res := drain.Pass(ctx, r.evictor, in)
	if res.Done {
		// That nothing is left must be true of now, not of what the cache shows.
		var err error
		if in.Pods, err = r.livePods(ctx, node.Name); err != nil {
			return ctrl.Result{}, false, err
		}
		res = drain.Pass(ctx, r.evictor, in)
	}
	r.reportDrain(claim, node, res)
	if !r.worthTelling(ctx, claim, res, now) {
		return ctrl.Result{RequeueAfter: res.NextTry}, false, nil
	}
	err := r.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) {
		switch {
		case res.Expired:
			setCondition(c, v1alpha1.ConditionDrained, metav1.ConditionTrue, "DeadlinePassed", clip(res.Message()))
		case res.Done:
			setCondition(c, v1alpha1.ConditionDrained, metav1.ConditionTrue, "Drained", "")
		case len(res.Blocked) > 0:
			setCondition(c, v1alpha1.ConditionDrained, metav1.ConditionFalse, "Blocked", blockedText(res))
		default:
			setCondition(c, v1alpha1.ConditionDrained, metav1.ConditionFalse, "Draining", clip(res.Message()))
		}
	})
	if err != nil {
		return ctrl.Result{}, false, err
	}
	return ctrl.Result{RequeueAfter: res.NextTry}, res.Done, nil
}

// mayBegin reports whether it is a node's turn to be drained. One that nothing has to
// leave does not wait behind those that take long, nor behind a few of its own kind.
func (r *lifecycle) mayBegin(ctx context.Context, node *corev1.Node) bool {
	if r.occupied(node) {
		return r.pace.Turn(ctx)
	}
	return r.pace.Borrow()
}

// taintSeen is when our watch first showed the claim's node with the taint; it
// is the caller who knows that it does now.
func (p *Loops) taintSeen(claim *v1alpha1.NodeClaim, now time.Time) time.Time {
	at, _ := p.tainted.LoadOrStore(claim.UID, now)
	return at.(time.Time)
}

// recordDeadline stores when the drain ends at the latest, and at first that it has
// begun. It only ever moves earlier, never so early that pods could not be asked first,
// and not because its Provisioner is gone. A drain whose time was over before it began,
// because Berth was not there, has all of it.
func (r *lifecycle) recordDeadline(ctx context.Context, claim *v1alpha1.NodeClaim, node *corev1.Node, now time.Time) error {
	patience := defaultDrainDeadline
	pr, ok := one[*v1alpha1.Provisioner](r.stores.provisioners, claim.Spec.Provisioner.Name)
	switch {
	case !ok && claim.Status.DrainDeadline != nil:
		return nil
	case ok && pr.Spec.Drain != nil && pr.Spec.Drain.Deadline.Duration > 0:
		patience = pr.Spec.Drain.Deadline.Duration
	}
	began := now
	if claim.DeletionTimestamp != nil {
		began = claim.DeletionTimestamp.Time
	}
	first := now
	said := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionDrained)
	if said != nil {
		first = said.LastTransitionTime.Time
	}
	wanted := began.Add(patience)
	if !wanted.After(first) {
		wanted = first.Add(patience)
	}
	if soonest := drain.Soonest(r.stores.podsOn(node.Name), node, now, patience); wanted.Before(soonest) {
		wanted = soonest
	}
	var recorded time.Time
	if claim.Status.DrainDeadline != nil {
		recorded = claim.Status.DrainDeadline.Time
	}
	deadline := drain.Deadline(recorded, wanted)
	if deadline.Equal(recorded) {
		return nil
	}
	r.told.LoadOrStore(claim.UID, drainTold{at: now, moved: now})
	return r.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) {
		c.Status.DrainDeadline = &metav1.Time{Time: deadline}
		if said == nil {
			meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionDrained, Status: metav1.ConditionFalse,
				Reason: "Draining", Message: "the drain has begun", ObservedGeneration: c.Generation, LastTransitionTime: metav1.Time{Time: now}})
		}
	})
}

// worthTelling reports whether a drain's condition is to be written now: at the
// beginning and the end, soon after it has come to a stop, and rarely as long as
// pods go, lest a hundred drains write a hundred times a second what is no longer
// true in the next.
func (r *lifecycle) worthTelling(ctx context.Context, claim *v1alpha1.NodeClaim, res drain.Result, now time.Time) bool {
	var last drainTold
	if v, ok := r.told.Load(claim.UID); ok {
		last = v.(drainTold)
	}
	if len(res.Evicted)+len(res.Deleted) > 0 {
		last.moved = now
	}
	defer func() { r.told.Store(claim.UID, last) }()
	stuck := now.Sub(last.moved) >= drainTellEvery
	if since := now.Sub(last.at); !res.Done && (since < drainTellEvery || !stuck && since < drainTellMoving) {
		return false
	}
	if !res.Done && !r.pace.Turn(ctx) {
		return false
	}
	// A budget that is used up by the drain itself blocks for moments only.
	if text := blockedText(res); text != "" && text != last.event && stuck && now.Sub(claim.DeletionTimestamp.Time) >= drainTellEvery {
		r.cfg.Recorder.Eventf(claim, nil, corev1.EventTypeWarning, "DrainBlocked", "Drain", "%s", clip(text))
		last.event = text
	}
	last.at = now
	return true
}

// drainTold is when a drain's condition was written last, when a pod was last
// told to go, and the event of what blocked it.
type drainTold struct {
	at, moved time.Time
	event     string
}

// livePods lists the pods of a node past the cache.
func (p *Loops) livePods(ctx context.Context, node string) ([]*corev1.Pod, error) {
	var pods corev1.PodList
	err := p.cfg.APIReader.List(ctx, &pods, &client.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node)})
	if err != nil {
		return nil, fmt.Errorf("listing the pods of node %s: %w", node, err)
	}
	out := make([]*corev1.Pod, len(pods.Items))
	for i := range pods.Items {
		out[i] = &pods.Items[i]
	}
	return out, nil
}

// drainInput gathers what a pass depends on, but for the pods.
func (r *lifecycle) drainInput(claim *v1alpha1.NodeClaim, node *corev1.Node, seen, now time.Time) drain.Input {
	in := drain.Input{
		Node: drain.Facts(node, seen), Now: now, Started: claim.DeletionTimestamp.Time,
		Deadline:    claim.Status.DrainDeadline.Time,
		PDBs:        all[*policyv1.PodDisruptionBudget](r.stores.pdbs),
		Attachments: all[*storagev1.VolumeAttachment](r.stores.attachments),
		PVCs:        map[string]*corev1.PersistentVolumeClaim{},
		Held:        r.heldBack(claim, node, now),
		Ledger:      &r.ledger, Pace: r.pace,
		Settled: r.settledAt(node, seen, now),
	}
	for _, c := range all[*corev1.PersistentVolumeClaim](r.stores.pvcs) {
		in.PVCs[c.Namespace+"/"+c.Name] = c
	}
	return in
}

// heldBack are the pods that must not go yet.
func (r *lifecycle) heldBack(claim *v1alpha1.NodeClaim, node *corev1.Node, now time.Time) map[types.UID]string {
	held := map[types.UID]string{}
	s, known := r.moves.of(claim.Name)
	lastOwn := r.lastOwn(node.Name, nil)
	stays := sync.OnceValue(r.staying)
	voluntary := slices.Contains(budgeted, v1alpha1.DisruptionReason(claim.Annotations[v1alpha1.AnnotationDisruptionReason]))
	// What has no room now may have some in a moment: half of the drain, at most.
	patience := forcedPatience
	if d := claim.Status.DrainDeadline; d != nil {
		patience = min(patience, d.Sub(claim.DeletionTimestamp.Time)/2)
	}
	for _, pod := range r.stores.podsOn(node.Name) {
		last := lastOwn && r.own(pod)
		why, lacks := s.lacks[pod.UID]
		switch {
		case mover(pod, node) == nil:
		case voluntary && metav1.GetControllerOfNoCopy(pod).Kind == "Job":
			held[pod.UID] = "is a Job's, and would begin again: has the time until it has to be deleted"
		case !last && !r.alone(pod, node.Name, stays()):
		case !known || lacks && why == "":
			held[pod.UID] = "the only one of its workload: waits for room elsewhere"
		case lacks && now.Sub(claim.DeletionTimestamp.Time) < patience:
			held[pod.UID] = "the only one of its workload, without room elsewhere: " + why
		case last:
			if why := r.ownTurn(pod); why != "" {
				held[pod.UID] = why
			}
		}
	}
	return held
}

// reportDrain logs what a pass did, and queues the drain for the budgets that it
// waits for.
func (r *lifecycle) reportDrain(claim *v1alpha1.NodeClaim, node *corev1.Node, res drain.Result) {
	if n := len(res.Evicted); n > 0 {
		r.metrics.evicted.Add(float64(n))
		r.log.Info("pods evicted", "node", node.Name, "pods", n)
	}
	for _, pod := range res.Deleted {
		r.log.Info("pod deleted: the drain's deadline leaves it no more time", "node", node.Name, "pod", pod)
	}
	var budgets []string
	for _, b := range res.Blocked {
		for _, pdb := range b.PDB {
			namespace, _, _ := strings.Cut(b.Pod, "/")
			budgets = append(budgets, namespace+"/"+pdb)
		}
	}
	r.waiters.wait(claim.Name, budgets)
	if res.Expired {
		r.cfg.Recorder.Eventf(claim, nil, corev1.EventTypeWarning, "DrainDeadlinePassed", "Drain", "%s", clip(res.Message()))
	}
	if res.Done {
		r.pace.Charge(endWrites)
		r.metrics.drained.Inc()
		r.log.Info("node drained", "node", node.Name, "claim", claim.Name, "deadlinePassed", res.Expired, "left", res.Remaining)
	}
}

// blockedText names the blockers, the first few in full.
func blockedText(res drain.Result) string {
	var lines []string
	for _, b := range res.Blocked[:min(3, len(res.Blocked))] {
		lines = append(lines, b.String())
	}
	slices.Sort(lines)
	if more := len(res.Blocked) - len(lines); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, "; ")
}

// terminate asks EC2 to end the instance, once, and waits until it says so.
func (r *lifecycle) terminate(ctx context.Context, claim *v1alpha1.NodeClaim, nodeLives bool) (ctrl.Result, bool, error) {
	ended, err := r.fleet.ended(ctx, claim.Status.InstanceID, nodeLives)
	if err != nil {
		return ctrl.Result{}, false, err
	}
	if ended {
		r.tainted.Delete(claim.UID)
		r.told.Delete(claim.UID)
		r.log.Info("instance terminated", "claim", claim.Name, "instance", claim.Status.InstanceID)
		return ctrl.Result{}, true, r.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) {
			setCondition(c, v1alpha1.ConditionTerminated, metav1.ConditionTrue, "Terminated", claim.Status.InstanceID)
		})
	}
	asked := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionTerminated)
	if asked == nil || time.Since(asked.LastTransitionTime.Time) > 30*time.Second && !r.fleet.ending(claim.Status.InstanceID) {
		if err := r.cloud.Terminate(ctx, claim.Status.InstanceID); err != nil {
			return ctrl.Result{}, false, fmt.Errorf("terminating instance %s of claim %s: %w", claim.Status.InstanceID, claim.Name, err)
		}
		r.log.Info("instance asked to terminate", "claim", claim.Name, "instance", claim.Status.InstanceID)
		err := r.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) {
			setCondition(c, v1alpha1.ConditionTerminated, metav1.ConditionFalse, "Terminating", claim.Status.InstanceID)
		})
		if err != nil {
			return ctrl.Result{}, false, err
		}
	}
	return ctrl.Result{RequeueAfter: terminatePoll}, false, nil
}

// release removes the Node and lets the claim go.
func (r *lifecycle) release(ctx context.Context, claim *v1alpha1.NodeClaim) error {
	if claim.Status.NodeName != "" {
		if err := r.removeNode(ctx, claim); err != nil {
			return err
		}
	}
	before := claim.DeepCopy()
	controllerutil.RemoveFinalizer(claim, v1alpha1.Finalizer)
	err := r.cfg.Client.Patch(ctx, claim, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("releasing claim %s: %w", claim.Name, err)
	}
	r.written.note(claim) // Until the cache shows it.
	r.log.Info("claim gone", "claim", claim.Name)
	r.trigger()
	return nil
}

// removeNode deletes the claim's Node and takes our finalizer off it.
func (r *lifecycle) removeNode(ctx context.Context, claim *v1alpha1.NodeClaim) error {
	node := &corev1.Node{}
	err := r.cfg.APIReader.Get(ctx, client.ObjectKey{Name: claim.Status.NodeName}, node)
	if apierrors.IsNotFound(err) || err == nil && node.Spec.ProviderID != claim.Status.ProviderID {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading node %s: %w", claim.Status.NodeName, err)
	}
	if node.DeletionTimestamp == nil {
		uid := node.UID
		if err := r.cfg.Client.Delete(ctx, node, client.Preconditions{UID: &uid}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting node %s: %w", node.Name, err)
		}
		// The finalizer is taken off the object as it is now.
		if err := r.cfg.APIReader.Get(ctx, client.ObjectKeyFromObject(node), node); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	before := node.DeepCopy()
	if !controllerutil.RemoveFinalizer(node, v1alpha1.Finalizer) {
		return nil
	}
	err = r.cfg.Client.Patch(ctx, node, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("releasing node %s: %w", node.Name, err)
	}
	return nil
}

// addFinalizer puts our finalizer on a node.
func addFinalizer(node *corev1.Node) bool {
	return controllerutil.AddFinalizer(node, v1alpha1.Finalizer)
}
