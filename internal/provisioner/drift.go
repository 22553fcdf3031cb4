package provisioner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2"
)

const (
	// driftEvery is how often nodes are compared with what would be made today.
	driftEvery = 2 * time.Second
	// driftTemplate and driftRequirements are reasons of condition Drifted, beside
	// those of package ec2.
	driftTemplate     = "TemplateDrifted"
	driftRequirements = "RequirementsDrifted"
)

// driftVerdict is in what a node differs from what would be made today; reason
// is empty when in nothing.
type driftVerdict struct{ reason, message string }

// driftOf compares a claim and its instance with what its Provisioner stands
// for. inst is nil when EC2's list does not show it, machine when the type is not
// known; what depends on them is then not judged. alike is capacity.MadeAlike's of the Provisioner.
func driftOf(pr *v1alpha1.Provisioner, alike func(*v1alpha1.NodeClaim) bool, c *v1alpha1.NodeClaim, r ec2.Resolved, inst *ec2.Instance, machine *capacity.Machine) driftVerdict {
	if !alike(c) {
		return driftVerdict{driftTemplate, "the Provisioner's template has changed since"}
	}
	labels := capacity.ClaimLabels(c)
	if un := capacity.Unmet(pr.Spec.Requirements, labels); un != nil {
		return driftVerdict{driftRequirements, fmt.Sprintf("%s=%s does not meet requirement %s %v", un.Key, labels[un.Key], un.Operator, un.Values)}
	}
	if inst == nil {
		return driftVerdict{}
	}
	reason, message := r.Drift(*inst, machine)
	return driftVerdict{reason, message}
}

// ownFacts reports whether a verdict rests on the Provisioner and the claim
// alone, not on what EC2 says.
func (v driftVerdict) ownFacts() bool {
	return v.reason == driftTemplate || v.reason == driftRequirements
}

// suspicion is a verdict that has still to repeat.
type suspicion struct {
	driftVerdict
	// at is when it was first reached, asOf when EC2 had given the answers that
	// it rests on.
	at, asOf time.Time
}

// driftTarget identifies what a Provisioner stands for: template and images.
func driftTarget(pr *v1alpha1.Provisioner, clusterName string, r ec2.Resolved) string {
	h := sha256.New()
	fmt.Fprintln(h, capacity.TemplateHash(&pr.Spec, clusterName))
	for _, req := range pr.Spec.Requirements {
		fmt.Fprintln(h, req.Key, req.Operator, req.Values)
	}
	for _, i := range r.Images {
		fmt.Fprintln(h, i.ID)
	}
	fmt.Fprintln(h, r.SecurityGroups)
	for _, s := range r.Subnets {
		fmt.Fprintln(h, s.ID)
	}
	return hex.EncodeToString(h.Sum(nil)[:5])
}

// watch compares all nodes, again and again.
func (d *drift) watch(ctx context.Context) error {
	for pause(ctx, driftEvery) {
		for _, pr := range all[*v1alpha1.Provisioner](d.stores.provisioners) {
			if pr.DeletionTimestamp != nil {
				continue
			}
			if err := d.compare(ctx, pr, time.Now()); err != nil && ctx.Err() == nil {
				d.log.Error(err, "comparing nodes with their Provisioner failed; the verdicts so far stay", "provisioner", pr.Name)
			}
			if err := d.tellStopped(ctx, pr); client.IgnoreNotFound(err) != nil && ctx.Err() == nil {
				d.log.Error(err, "storing why drift is stopped failed; tried again", "provisioner", pr.Name)
			}
		}
	}
	return nil
}

// compare reaches a verdict on each node of a Provisioner and stores it once it
// has repeated.
func (d *drift) compare(ctx context.Context, pr *v1alpha1.Provisioner, now time.Time) error {
	r, err := d.cloud.Resolve(ctx, pr.Name, &pr.Spec.NodeTemplate)
	if err != nil {
		return err // A look-up that failed says nothing.
	}
	target := ""
	if r.Ready() {
		target = driftTarget(pr, d.cfg.ClusterName, r)
	}
	live := d.fleet.snapshot()
	alike := capacity.MadeAlike(&pr.Spec, d.cfg.ClusterName)
	maps.DeleteFunc(d.suspects, func(name string, _ suspicion) bool {
		_, there := one[*v1alpha1.NodeClaim](d.stores.claims, name)
		return !there
	})
	var failed []error
	verdicts, asToday := map[*v1alpha1.NodeClaim]driftVerdict{}, map[string]bool{}
	for _, c := range all[*v1alpha1.NodeClaim](d.stores.claims) {
		if c.Spec.Provisioner.Name != pr.Name {
			continue // Its suspicions are for another comparison.
		}
		if c.DeletionTimestamp != nil || !isTrue(c.Status.Conditions, v1alpha1.ConditionInitialized) {
			delete(d.suspects, c.Name)
			continue
		}
		var inst *ec2.Instance
		if i, ok := live[c.Status.InstanceID]; ok {
			inst = &i
		}
		v := driftOf(pr, alike, c, r, inst, d.catalogue.machine(c.Status.InstanceType))
		verdicts[c] = v
		if v.reason == "" && inst != nil {
			asToday[c.Name] = true
		}
	}
	// Before any condition is stored: a node that is about to be called drifted
	// must not be taken for one of today's kind.
	d.compared(pr.Name, target, asToday, now)
	for c, v := range verdicts {
		sure, err := d.repeated(ctx, pr, c, v, r.AsOf, now)
		if err == nil && sure {
			err = d.store(ctx, c, v)
		}
		if client.IgnoreNotFound(err) != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// repeated reports whether a verdict may be acted on: a first one is kept until
// it is reached again on data that is newer than the first. No drift needs no
// second look.
func (d *drift) repeated(ctx context.Context, pr *v1alpha1.Provisioner, c *v1alpha1.NodeClaim, v driftVerdict, asOf, now time.Time) (bool, error) {
	if v.reason == "" {
		delete(d.suspects, c.Name)
		return true, nil
	}
	s, ok := d.suspects[c.Name]
	if !ok || s.driftVerdict != v {
		d.suspects[c.Name] = suspicion{v, now, asOf}
		return false, nil
	}
	if !v.ownFacts() {
		return asOf.After(s.at), nil
	}
	if isTrue(c.Status.Conditions, v1alpha1.ConditionDrifted) {
		return true, nil
	}
	var fresh v1alpha1.Provisioner
	if err := d.cfg.APIReader.Get(ctx, client.ObjectKeyFromObject(pr), &fresh); err != nil {
		return false, fmt.Errorf("reading Provisioner %s: %w", pr.Name, err)
	}
	again := driftOf(&fresh, capacity.MadeAlike(&fresh.Spec, d.cfg.ClusterName), c, ec2.Resolved{}, nil, nil)
	return again == v, nil
}

// store writes condition Drifted, where it has changed.
func (d *drift) store(ctx context.Context, c *v1alpha1.NodeClaim, v driftVerdict) error {
	old := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionDrifted)
	if v.reason == "" && (old == nil || old.Status == metav1.ConditionFalse) || old != nil && old.Reason == v.reason && old.Message == clip(v.message) {
		return nil
	}
	own := d.written.newer(c.DeepCopy())
	err := d.patchStatus(ctx, own, func(c *v1alpha1.NodeClaim) {
		if v.reason == "" {
			setCondition(c, v1alpha1.ConditionDrifted, metav1.ConditionFalse, "AsOfToday", "")
			return
		}
		setCondition(c, v1alpha1.ConditionDrifted, metav1.ConditionTrue, v.reason, clip(v.message))
	})
	if err != nil {
		return err
	}
	d.log.Info("drift", "claim", c.Name, "reason", v.reason, "why", v.message)
	if v.reason != "" {
		d.cfg.Recorder.Eventf(c, nil, corev1.EventTypeNormal, v.reason, "Compare", "%s", clip(v.message))
	}
	d.lookForIdle()
	return nil
}

// tellStopped keeps the Provisioner's condition DriftStopped.
func (d *drift) tellStopped(ctx context.Context, pr *v1alpha1.Provisioner) error {
	reason, message := d.stoppedNow(pr.Name)
	old := meta.FindStatusCondition(pr.Status.Conditions, v1alpha1.ConditionDriftStopped)
	if reason == "" && old == nil {
		return nil
	}
	want := metav1.Condition{Type: v1alpha1.ConditionDriftStopped, Status: metav1.ConditionTrue, Reason: reason, Message: clip(message), ObservedGeneration: pr.Generation}
	if reason == "" {
		want.Status, want.Reason = metav1.ConditionFalse, "NotStopped"
	}
	if old != nil && old.Status == want.Status && old.Reason == want.Reason && old.Message == want.Message {
		return nil
	}
	after := pr.DeepCopy()
	meta.SetStatusCondition(&after.Status.Conditions, want)
	if err := d.cfg.Client.Status().Patch(ctx, after, client.MergeFromWithOptions(pr.DeepCopy(), client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("storing the status of Provisioner %s: %w", pr.Name, err)
	}
	if want.Status == metav1.ConditionTrue {
		d.log.Info("drift is stopped", "provisioner", pr.Name, "reason", reason, "why", message)
		d.cfg.Recorder.Eventf(pr, nil, corev1.EventTypeWarning, "DriftStopped", "Compare", "%s", clip(message))
	}
	return nil
}

// stoppedReasons are the reasons of condition DriftStopped.
const (
	stoppedCanary = "CanaryUnhealthy"
	stoppedShare  = "NeedsAcknowledgement"
)

// acknowledged reports whether the Provisioner's owner has agreed to this target.
func acknowledged(pr *v1alpha1.Provisioner, target string) bool {
	return target != "" && pr.Annotations[v1alpha1.AnnotationAcknowledgeDrift] == target
}

// howToAcknowledge is the way out of a stop.
func howToAcknowledge(pr *v1alpha1.Provisioner, target string) string {
	return fmt.Sprintf("to go on: kubectl annotate --overwrite provisioner %s %s=%s", pr.Name, v1alpha1.AnnotationAcknowledgeDrift, target)
}
