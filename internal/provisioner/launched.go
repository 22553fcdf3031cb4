package provisioner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
)

// launched stores what EC2 gave. Its answer to a launch does not tell the host
// name; one look may save a write, and is no more than that.
func (l *lifter) launched(ctx context.Context, claim *v1alpha1.NodeClaim, inst ec2.Instance) error {
	if inst.PrivateDNSName == "" {
		if seen, err := l.cfg.Cloud.Instance(ctx, inst.ID); err == nil {
			inst.PrivateDNSName, inst.ImageID = seen.PrivateDNSName, seen.ImageID
		}
	}
	first := claim.Status.InstanceID == ""
	facts, known := l.catalogue.instance(claim, inst.Type, inst.Zone, inst.CapacityType)
	// Labels go first: until the instance is in the status, this is done again.
	if err := l.relabel(ctx, claim, facts.labels); err != nil {
		return err
	}
	err := l.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) {
		c.Status.InstanceID = inst.ID
		c.Status.ProviderID = inst.ProviderID()
		c.Status.NodeName = inst.PrivateDNSName
		c.Status.InstanceType = inst.Type
		c.Status.Zone = inst.Zone
		c.Status.CapacityType = inst.CapacityType
		c.Status.ImageID = inst.ImageID
		c.Status.HourlyPrice = v1alpha1.NewPrice(facts.price)
		if known {
			c.Status.Capacity = facts.capacity.List()
			c.Status.Allocatable = facts.allocatable.List()
		}
		setCondition(c, v1alpha1.ConditionLaunched, metav1.ConditionTrue, "Launched", inst.ID)
		setCondition(c, v1alpha1.ConditionRegistered, metav1.ConditionFalse, "Booting", "waiting for the kubelet to join")
	})
	if err != nil {
		return err
	}
	l.nominator.enqueue(claim.Name)
	if !first {
		return nil
	}
	if inst.ClaimUID == "" {
		go l.tag(ctx, claim.DeepCopy())
	}
	l.catalogue.succeeded(claim.Spec.Provisioner.Name)
	if inst.CapacityType == v1alpha1.CapacityTypeReserved {
		l.catalogue.occupied(claim.Spec.Provisioner.Name, inst.Type, inst.Zone)
	}
	l.metrics.launched(claim, inst)
	l.log.Info("instance launched", "claim", claim.Name, "instance", inst.ID, "type", inst.Type, "zone", inst.Zone,
		"capacityType", inst.CapacityType, "price", facts.price, "node", inst.PrivateDNSName)
	l.cfg.Recorder.Eventf(claim, nil, corev1.EventTypeNormal, "Launched", "Launch", "%s", clip(fmt.Sprintf("%s is %s %s in %s at $%.4f/h; %s",
		inst.ID, inst.Type, inst.CapacityType, inst.Zone, facts.price, claim.Annotations[v1alpha1.AnnotationDecision])))
	return nil
}

// relabel gives a claim the labels of the instance that it got, where that is
// not the planner's first choice, and takes those of the first choice that the
// instance does not have. Without labels its type is not known.
func (l *lifter) relabel(ctx context.Context, claim *v1alpha1.NodeClaim, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	before := claim.DeepCopy()
	changed := false
	for _, k := range slices.Concat(v1alpha1.InstanceLabels, v1alpha1.OfferingLabels) {
		if _, planned := claim.Labels[k]; planned && labels[k] == "" {
			delete(claim.Labels, k)
			changed = true
		}
	}
	for k, v := range labels {
		if claim.Labels[k] != v {
			claim.Labels[k], changed = v, true
		}
	}
	if !changed {
		return nil
	}
	status := claim.Status // The answer to the patch brings back the stored one.
	if err := l.cfg.Client.Patch(ctx, claim, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("labelling claim %s: %w", claim.Name, err)
	}
	claim.Status = status
	l.written.note(claim)
	return nil
}

// tag puts its claim's tags on an instance that was launched together with
// others. It is for people and for the hour in which the claims are lost; the
// claims say whose an instance is. What fails is repeated by the sweep.
func (l *lifter) tag(ctx context.Context, claim *v1alpha1.NodeClaim) {
	err := l.cloud.Tag(ctx, claim.Status.InstanceID, claim)
	if err != nil && ctx.Err() == nil && !errors.Is(err, ec2.ErrNotFound) {
		l.log.Error(err, "tagging failed; tried again by the next sweep", "claim", claim.Name)
	}
}

// cannotLaunch gives a claim up when EC2 has refused it for good, and else
// leaves it to be tried again as it is.
func (l *lifter) cannotLaunch(ctx context.Context, claim *v1alpha1.NodeClaim, err error) error {
	var badConfig *ec2.ConfigError
	switch {
	case errors.As(err, &badConfig):
		l.catalogue.refused(claim.Spec.Provisioner.Name, badConfig, time.Now())
		return l.giveUp(ctx, claim, reasonRefused, badConfig.Error())
	case ec2.Definite(err):
		l.catalogue.refused(claim.Spec.Provisioner.Name, err, time.Now())
		return l.giveUp(ctx, claim, reasonNoCapacity, err.Error())
	case errors.Is(err, ec2.ErrThrottled):
		l.metrics.throttled.Inc()
	}
	return fmt.Errorf("launching claim %s: %w", claim.Name, err)
}

// giveUp ends a claim that cannot be launched; its pods are planned again.
func (p *Loops) giveUp(ctx context.Context, claim *v1alpha1.NodeClaim, reason, message string) error {
	return p.giveUpAt(ctx, claim, v1alpha1.ConditionLaunched, "Launch", reason, message)
}

// giveUpAt ends a claim that has failed at a stage, a condition of it; action is the
// event's.
func (p *Loops) giveUpAt(ctx context.Context, claim *v1alpha1.NodeClaim, stage, action, reason, message string) error {
	p.log.Info("claim given up", "claim", claim.Name, "reason", reason, "message", message)
	p.cfg.Recorder.Eventf(claim, nil, corev1.EventTypeWarning, reason, action, "%s", clip(message))
	err := p.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) {
		setCondition(c, stage, metav1.ConditionFalse, reason, clip(message))
	})
	if err != nil {
		return err
	}
	return p.deleteClaim(ctx, claim, v1alpha1.ReasonUnhealthy)
}
