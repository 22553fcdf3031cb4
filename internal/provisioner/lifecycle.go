package provisioner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2"
)

// instanceReader is what the lifecycle needs of EC2 after the launch.
type instanceReader interface {
	// Instance reads one instance; ec2.ErrNotFound when EC2 does not know it (yet).
	Instance(ctx context.Context, id string) (ec2.Instance, error)
	// Terminate asks EC2 to terminate an instance of ours.
	Terminate(ctx context.Context, id string) error
}

// lifecycle lifts claims from intent to initialized node, and takes them down.
type lifecycle struct {
	*Loops
	cloud instanceReader
}

// Reconcile moves one claim as far as it can go now.
func (r *lifecycle) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	claim := &v1alpha1.NodeClaim{}
	if err := r.cfg.Client.Get(ctx, req.NamespacedName, claim); err != nil {
		if apierrors.IsNotFound(err) {
			r.book.drop(req.Name)
			r.written.forget(req.Name)
			r.lifter.forget(req.Name)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("reading claim %s: %w", req.Name, err)
	}
	claim = r.written.newer(claim)
	if claim.DeletionTimestamp != nil {
		return r.remove(ctx, claim)
	}
	if claim.Status.InstanceID == "" {
		if res, done, err := r.lifter.place(ctx, claim); !done || err != nil {
			return res, err
		}
	}
	if claim.Status.NodeName == "" {
		if res, done, err := r.name(ctx, claim); !done || err != nil {
			return res, err
		}
	}
	return r.join(ctx, claim)
}

// name waits until EC2 shows the instance, which tells its host name.
func (r *lifecycle) name(ctx context.Context, claim *v1alpha1.NodeClaim) (ctrl.Result, bool, error) {
	inst, err := r.cloud.Instance(ctx, claim.Status.InstanceID)
	if errors.Is(err, ec2.ErrNotFound) || err == nil && inst.PrivateDNSName == "" {
		return ctrl.Result{RequeueAfter: time.Second}, false, nil
	}
	if err != nil {
		return ctrl.Result{}, false, fmt.Errorf("reading instance %s of claim %s: %w", claim.Status.InstanceID, claim.Name, err)
	}
	return ctrl.Result{}, true, r.lifter.launched(ctx, claim, inst)
}

// join follows the node from booting to initialized.
func (r *lifecycle) join(ctx context.Context, claim *v1alpha1.NodeClaim) (ctrl.Result, error) {
	node, ok := r.nodeOf(claim)
	switch {
	case ok && node.DeletionTimestamp != nil:
		return ctrl.Result{}, r.deleteClaim(ctx, claim, v1alpha1.ReasonDeleted)
	case isTrue(claim.Status.Conditions, v1alpha1.ConditionInitialized) && !ok:
		return r.missNode(ctx, claim)
	case isTrue(claim.Status.Conditions, v1alpha1.ConditionInitialized):
		return ctrl.Result{}, r.follow(ctx, claim, node)
	}
	if claim.Spec.Binding == v1alpha1.BindingImmediate {
		if err := r.ensureNode(ctx, claim); err != nil {
			return ctrl.Result{}, err
		}
	}
	if !ok || !kubeletJoined(node) {
		return r.awaitKubelet(ctx, claim)
	}
	if hasTaint(node.Spec.Taints, v1alpha1.TaintUnregistered) && r.seatsUnknown() {
		return ctrl.Result{RequeueAfter: 100 * time.Millisecond}, nil
	}
	kept := r.doors.keeps(claim, node)
	if err := r.register(ctx, claim, node, !kept); err != nil {
		return ctrl.Result{}, err
	}
	if !kept && claim.Spec.Binding == v1alpha1.BindingNominate {
		r.nominator.enqueue(claim.Name) // What was not written while it was shut.
	}
	reason, message := notInitialized(claim, node)
	if reason == "" {
		r.learn(claim, node)
	}
	err := r.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) {
		setCondition(c, v1alpha1.ConditionRegistered, metav1.ConditionTrue, "Registered", node.Name)
		if reason != "" {
			setCondition(c, v1alpha1.ConditionInitialized, metav1.ConditionFalse, reason, message)
			return
		}
		setCondition(c, v1alpha1.ConditionInitialized, metav1.ConditionTrue, "Initialized", "")
		c.Status.Capacity = node.Status.Capacity
		c.Status.Allocatable = node.Status.Allocatable
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	if reason != "" {
		res, err := r.awaitInitialized(ctx, claim, message)
		if kept {
			res.RequeueAfter = min(res.RequeueAfter, doorsPatience)
		}
		return res, err
	}
	r.metrics.initialized(claim)
	r.catalogue.worked(claim.Spec.Provisioner.Name, time.Now())
	r.log.Info("node initialized", "claim", claim.Name, "node", node.Name)
	r.cfg.Recorder.Eventf(claim, nil, corev1.EventTypeNormal, "Initialized", "Join", "node %s is ready for pods", node.Name)
	r.nominator.enqueue(claim.Name)
	r.trigger()
	return ctrl.Result{}, nil
}

// follow keeps the Ready condition of an initialized claim true to its node, and
// registers a Node anew that its kubelet has made anew.
func (r *lifecycle) follow(ctx context.Context, claim *v1alpha1.NodeClaim, node *corev1.Node) error {
	if kubeletJoined(node) && (hasTaint(node.Spec.Taints, v1alpha1.TaintUnregistered) || !controllerutil.ContainsFinalizer(node, v1alpha1.Finalizer)) {
		if err := r.register(ctx, claim, node, true); err != nil {
			return err
		}
	}
	if nodeReady(node) {
		return r.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) {
			setCondition(c, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "")
		})
	}
	return r.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) {
		setCondition(c, v1alpha1.ConditionReady, metav1.ConditionFalse, reasonNodeUnready, "the kubelet has stopped reporting Ready")
	})
}

// missNode removes an initialized claim whose Node is gone, finalizer and all, and
// that no kubelet registers again: nothing else would ever notice its instance.
func (r *lifecycle) missNode(ctx context.Context, claim *v1alpha1.NodeClaim) (ctrl.Result, error) {
	err := r.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) {
		setCondition(c, v1alpha1.ConditionReady, metav1.ConditionFalse, reasonNodeGone, fmt.Sprintf(
			"Node %s is gone; unless its kubelet registers it again, instance %s is terminated", c.Status.NodeName, c.Status.InstanceID))
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	since := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionReady).LastTransitionTime.Time
	if wait := nodeGonePatience - time.Since(since); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	node := &corev1.Node{}
	err = r.cfg.APIReader.Get(ctx, client.ObjectKey{Name: claim.Status.NodeName}, node)
	switch {
	case err == nil && node.Spec.ProviderID == claim.Status.ProviderID:
		return ctrl.Result{RequeueAfter: time.Second}, nil // The watch is about to show it.
	case client.IgnoreNotFound(err) != nil:
		return ctrl.Result{}, fmt.Errorf("reading node %s: %w", claim.Status.NodeName, err)
	}
	return ctrl.Result{}, r.deleteClaim(ctx, claim, v1alpha1.ReasonDeleted)
}

// awaitKubelet gives up on instances that never join.
func (r *lifecycle) awaitKubelet(ctx context.Context, claim *v1alpha1.NodeClaim) (ctrl.Result, error) {
	c := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionLaunched)
	if c == nil {
		return ctrl.Result{}, nil
	}
	wait := r.cfg.RegistrationTimeout - time.Since(c.LastTransitionTime.Time)
	if wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	r.metrics.neverJoined.Inc()
	message := fmt.Sprintf(
		"instance %s did not join within %s; look at its console output (aws ec2 get-console-output --instance-id %s), its security groups and the role of its instance profile",
		claim.Status.InstanceID, r.cfg.RegistrationTimeout, claim.Status.InstanceID)
	if err := r.giveUp(ctx, claim, reasonNeverJoined, message); err != nil {
		return ctrl.Result{}, err
	}
	r.waste(claim, message)
	return ctrl.Result{}, nil
}

// awaitInitialized gives up on nodes that have joined and never become ready for
// pods: their pods are planned anew, and the instance does not cost for ever.
func (r *lifecycle) awaitInitialized(ctx context.Context, claim *v1alpha1.NodeClaim, lacks string) (ctrl.Result, error) {
	since := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionRegistered).LastTransitionTime.Time
	if wait := r.cfg.RegistrationTimeout - time.Since(since); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	r.metrics.neverInitialized.Inc()
	message := fmt.Sprintf("node %s has joined, and was not ready for pods within %s: %s", claim.Status.NodeName, r.cfg.RegistrationTimeout, lacks)
	if err := r.giveUpAt(ctx, claim, v1alpha1.ConditionInitialized, "Join", reasonNeverInitialized, message); err != nil {
		return ctrl.Result{}, err
	}
	r.waste(claim, message)
	return ctrl.Result{}, nil
}

// register puts on the node what a kubelet may not, and with open lets pods in.
func (r *lifecycle) register(ctx context.Context, claim *v1alpha1.NodeClaim, node *corev1.Node, open bool) error {
	after := node.DeepCopy()
	if !dress(after, claim, open) {
		return nil
	}
	// Seats are taken before the doors open.
	r.nominator.seatPods(ctx, claim)
	if err := r.patchNode(ctx, node, after, "registering"); err != nil {
		return err
	}
	r.log.Info("node registered", "claim", claim.Name, "node", node.Name)
	return nil
}

// dress gives a node its claim's labels, annotations, taints and finalizer,
// and with open takes the unregistered taint off. It reports whether anything
// changed.
func dress(node *corev1.Node, claim *v1alpha1.NodeClaim, open bool) bool {
	changed := false
	set := func(m *map[string]string, k, v string) {
		if *m == nil {
			*m = map[string]string{}
		}
		if (*m)[k] != v {
			(*m)[k] = v
			changed = true
		}
	}
	for k, v := range capacity.ClaimLabels(claim) {
		if k != corev1.LabelHostname {
			set(&node.Labels, k, v)
		}
	}
	for k, v := range claim.Spec.Annotations {
		set(&node.Annotations, k, v)
	}
	// A kubelet with user data of one's own may register without the taint.
	had, untouched := hasTaint(node.Spec.Taints, v1alpha1.TaintUnregistered), !controllerutil.ContainsFinalizer(node, v1alpha1.Finalizer)
	if had && open || untouched {
		node.Spec.Taints = slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t corev1.Taint) bool { return open && t.Key == v1alpha1.TaintUnregistered })
		taints := slices.Clone(claim.Spec.Taints)
		if had || !isTrue(claim.Status.Conditions, v1alpha1.ConditionRegistered) {
			// Only now: a startup taint that its owner has removed later must not
			// come back.
			taints = append(taints, claim.Spec.StartupTaints...)
		}
		for _, t := range taints {
			if !carries(node.Spec.Taints, t) {
				node.Spec.Taints = append(node.Spec.Taints, t)
			}
		}
		changed = true
	}
	if addFinalizer(node) {
		changed = true
	}
	return changed
}

func carries(taints []corev1.Taint, want corev1.Taint) bool {
	for i := range taints {
		if taints[i].MatchTaint(&want) {
			return true
		}
	}
	return false
}

// closed reports whether the node has the taint of one that is still to open.
func closed(node *corev1.Node) bool {
	return hasTaint(node.Spec.Taints, v1alpha1.TaintUnregistered) || hasTaint(node.Spec.Taints, corev1.TaintNodeNotReady)
}

// notInitialized says what a registered node still lacks, or nothing.
func notInitialized(claim *v1alpha1.NodeClaim, node *corev1.Node) (reason, message string) {
	if !nodeReady(node) {
		return "NodeNotReady", "the kubelet does not report Ready yet"
	}
	if closed(node) {
		return "NodeNotReady", "the node still carries the taint of a node that is not ready"
	}
	for _, t := range claim.Spec.StartupTaints {
		if carries(node.Spec.Taints, t) {
			return "StartupTaint", fmt.Sprintf("startup taint %s is still there; whoever owns it removes it", t.ToString())
		}
	}
	for name, want := range allocatableOf(claim) {
		if want == 0 {
			continue
		}
		if q, ok := node.Status.Allocatable[name]; !ok || q.IsZero() {
			return "ResourceMissing", fmt.Sprintf("the node does not offer %s yet; is its device plugin running?", name)
		}
	}
	return "", ""
}

// nodeOf returns the Node of a claim: by name, and only with our provider id,
// so that a recycled host name is never mistaken.
func (r *lifecycle) nodeOf(claim *v1alpha1.NodeClaim) (*corev1.Node, bool) {
	if claim.Status.NodeName == "" {
		return nil, false
	}
	node, ok := one[*corev1.Node](r.stores.nodes, claim.Status.NodeName)
	if !ok || node.Spec.ProviderID != claim.Status.ProviderID {
		return nil, false
	}
	return node, true
}

// kubeletJoined tells a Node that a kubelet has registered from one that was
// created ahead of it for immediate binding.
func kubeletJoined(node *corev1.Node) bool {
	return node.Status.NodeInfo.KubeletVersion != ""
}

func nodeReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// patchStatus changes a claim's status under an optimistic lock and derives
// its Ready condition. claim is updated in place.
func (p *Loops) patchStatus(ctx context.Context, claim *v1alpha1.NodeClaim, change func(*v1alpha1.NodeClaim)) error {
	before := claim.DeepCopy()
	change(claim)
	summarize(claim)
	if apiEqual(before.Status, claim.Status) {
		return nil
	}
	err := p.cfg.Client.Status().Patch(ctx, claim, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if err != nil {
		return fmt.Errorf("storing the status of claim %s: %w", claim.Name, err)
	}
	p.written.note(claim)
	return nil
}

// deleteClaim starts the removal of a claim, noting why.
func (p *Loops) deleteClaim(ctx context.Context, claim *v1alpha1.NodeClaim, why v1alpha1.DisruptionReason) error {
	if claim.DeletionTimestamp != nil {
		return nil
	}
	before := claim.DeepCopy()
	if claim.Annotations == nil {
		claim.Annotations = map[string]string{}
	}
	claim.Annotations[v1alpha1.AnnotationDisruptionReason] = string(why)
	if err := p.cfg.Client.Patch(ctx, claim, client.MergeFrom(before)); err != nil {
		return client.IgnoreNotFound(err)
	}
	uid := claim.UID
	err := p.cfg.Client.Delete(ctx, claim, client.Preconditions{UID: &uid})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting claim %s: %w", claim.Name, err)
	}
	p.removing.Store(uid, true)
	p.metrics.removed.WithLabelValues(claim.Spec.Provisioner.Name, string(why)).Inc()
	p.log.Info("claim is being removed", "claim", claim.Name, "reason", string(why))
	return nil
}
