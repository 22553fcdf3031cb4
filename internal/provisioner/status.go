package provisioner

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

const (
	// resolveEvery is how often a Provisioner's selectors are looked up again.
	resolveEvery = time.Minute
	// resolveRetry is how soon they are when something was missing.
	resolveRetry = 10 * time.Second
)

// statusKeeper looks up what each Provisioner names in EC2 and reports it,
// together with what its claims amount to.
type statusKeeper struct {
	*Loops
	cloud discoverer
}

// Reconcile brings one Provisioner's status up to date.
func (k *statusKeeper) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	pr := &v1alpha1.Provisioner{}
	if err := k.cfg.Client.Get(ctx, req.NamespacedName, pr); err != nil {
		if apierrors.IsNotFound(err) {
			k.catalogue.forget(req.Name)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("reading Provisioner %s: %w", req.Name, err)
	}
	if leaving, err := k.farewell(ctx, pr); leaving || err != nil {
		return ctrl.Result{}, err
	}
	net := k.networking()
	k.cloud.SetNetworking(net)
	found, err := k.cloud.Resolve(ctx, pr.Name, &pr.Spec.NodeTemplate)
	if err != nil {
		return ctrl.Result{}, err
	}
	planner := found.Planner()
	planner.Networking = net
	if k.catalogue.setResolved(pr.Name, planner) {
		k.trigger()
	}
	before := pr.DeepCopy()
	s := &pr.Status
	s.ObservedGeneration = pr.Generation
	var bad []string
	for _, f := range found.Findings {
		status := metav1.ConditionTrue
		if !f.OK {
			status = metav1.ConditionFalse
			bad = append(bad, f.Message)
		}
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: f.Condition, Status: status,
			Reason: f.Reason, Message: f.Message, ObservedGeneration: pr.Generation})
	}
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Ready", ObservedGeneration: pr.Generation}
	if why, ok := k.catalogue.blamedFor(pr.Name, time.Now()); ok {
		bad = append(bad, why)
	}
	if b, ok := k.catalogue.wastedBy(pr); ok && time.Now().Before(b.until) {
		bad = append(bad, b.text())
	}
	if why := k.catalogue.unknown(); why != "" {
		bad = append(bad, why)
	}
	if len(bad) > 0 {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, "NotReady", strings.Join(bad, "; ")
	}
	meta.SetStatusCondition(&s.Conditions, ready)
	k.reportLaunches(pr)
	k.sum(pr)
	if !apiEqual(before.Status, pr.Status) {
		// Under a lock: a patch replaces all conditions, and drift keeps one of its own there.
		err := k.cfg.Client.Status().Patch(ctx, pr, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		if client.IgnoreNotFound(err) != nil {
			return ctrl.Result{}, fmt.Errorf("storing the status of Provisioner %s: %w", pr.Name, err)
		}
		k.announceReadiness(before, pr)
	}
	if len(bad) > 0 {
		return ctrl.Result{RequeueAfter: resolveRetry}, nil
	}
	return ctrl.Result{RequeueAfter: resolveEvery}, nil
}

// reportLaunches says whether EC2 refused the last launch, what it said, and
// what to do about it.
func (k *statusKeeper) reportLaunches(pr *v1alpha1.Provisioner) {
	c := metav1.Condition{Type: v1alpha1.ConditionLaunchesSucceed, Status: metav1.ConditionTrue, Reason: "NothingRefused", ObservedGeneration: pr.Generation}
	r, refused := k.catalogue.lastRefusal(pr.Name)
	if w, ok := k.catalogue.wastedBy(pr); ok && !refused {
		r, refused = w, true
	}
	switch {
	case refused:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, string(r.class), r.text()
	case !k.catalogue.works(pr.Name) && meta.FindStatusCondition(pr.Status.Conditions, c.Type) != nil:
		return // What was known before a restart stands.
	}
	meta.SetStatusCondition(&pr.Status.Conditions, c)
}

// announceReadiness makes an event of a Provisioner that turned ready or not.
func (k *statusKeeper) announceReadiness(before, after *v1alpha1.Provisioner) {
	was := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionReady)
	is := meta.FindStatusCondition(after.Status.Conditions, v1alpha1.ConditionReady)
	if was != nil && was.Status == is.Status && was.Message == is.Message {
		return
	}
	if is.Status == metav1.ConditionTrue {
		k.cfg.Recorder.Eventf(after, nil, corev1.EventTypeNormal, "Ready", "Resolve", "subnets, security groups, images and instance profile were found")
		return
	}
	k.log.Info("Provisioner is not ready", "provisioner", after.Name, "why", is.Message)
	k.cfg.Recorder.Eventf(after, nil, corev1.EventTypeWarning, "NotReady", "Resolve", "%s", clip(is.Message))
}

// sum adds up what the Provisioner's claims amount to.
func (k *statusKeeper) sum(pr *v1alpha1.Provisioner) {
	total, cost := capacity.Resources{}, 0.0
	pr.Status.Nodes = 0
	for _, c := range all[*v1alpha1.NodeClaim](k.stores.claims) {
		if c.Spec.Provisioner.Name != pr.Name || gone(c) {
			continue
		}
		pr.Status.Nodes++
		cost += priceOf(c)
		total.Add(capacityOf(c))
	}
	pr.Status.Resources = total.List()
	pr.Status.HourlyCost = v1alpha1.NewPrice(cost)
	pr.Status.HeldNodes = k.held.of(pr.Name)
}
