package provisioner

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

// leaveTries is how often a step of leave that lost a race is taken again.
const leaveTries = 5

// departure is the removal of a node that nobody has asked for: EC2 takes the
// instance away, or it has failed.
type departure struct {
	reason v1alpha1.DisruptionReason
	// deadline at which the drain ends; zero: the Provisioner's drain.deadline.
	deadline time.Time
	// event is the reason of the event on the claim, why its text.
	event, why string
}

// leave starts the removal of a claim by the same path as all others (the
// finalizer, terminate.go), with a deadline that only moves earlier. Each step
// may have been taken before: whoever repeats it after a crash finishes it. The
// last step taints the node without waiting for the lifecycle's turn; from then
// on no pod is bound there, and the provision loop plans for those that are.
func (p *Loops) leave(ctx context.Context, name string, d departure) error {
	claim := &v1alpha1.NodeClaim{}
	first := false
	err := p.retryConflicts(ctx, func() error {
		if err := p.cfg.APIReader.Get(ctx, client.ObjectKey{Name: name}, claim); err != nil {
			return err
		}
		var recorded time.Time
		if claim.Status.DrainDeadline != nil {
			recorded = claim.Status.DrainDeadline.Time
		}
		if wanted := drain.Deadline(recorded, d.deadline); !d.deadline.IsZero() && !wanted.Equal(recorded) {
			err := p.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) { c.Status.DrainDeadline = &metav1.Time{Time: wanted} })
			if err != nil {
				return err
			}
		}
		first = claim.DeletionTimestamp == nil
		return p.deleteClaim(ctx, claim, d.reason)
	})
	if apierrors.IsNotFound(err) {
		return nil // It has gone in the meantime.
	}
	if err != nil {
		return fmt.Errorf("removing claim %s: %w", name, err)
	}
	if first {
		p.cfg.Recorder.Eventf(claim, nil, corev1.EventTypeWarning, d.event, "Remove", "%s", clip(d.why))
		p.log.Info("node is leaving", "claim", name, "node", claim.Status.NodeName, "instance", claim.Status.InstanceID,
			"reason", d.event, "why", d.why, "deadline", claim.Status.DrainDeadline)
	}
	return p.taint(ctx, claim)
}

// taint cordons the node of a claim that is being removed.
func (p *Loops) taint(ctx context.Context, claim *v1alpha1.NodeClaim) error {
	if claim.Status.NodeName == "" {
		return nil // It has not joined.
	}
	return p.retryConflicts(ctx, func() error {
		node := &corev1.Node{}
		err := p.cfg.APIReader.Get(ctx, client.ObjectKey{Name: claim.Status.NodeName}, node)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading node %s: %w", claim.Status.NodeName, err)
		}
		if node.Spec.ProviderID != claim.Status.ProviderID {
			return nil // A name that is used again.
		}
		after := node.DeepCopy()
		if !drain.Cordon(after, time.Now()) {
			return nil
		}
		return p.patchNode(ctx, node, after, "cordoning")
	})
}

// retryConflicts takes a step again that lost a race, at once: it reads the
// object anew each time.
func (p *Loops) retryConflicts(ctx context.Context, step func() error) error {
	var err error
	for range leaveTries {
		if err = step(); !apierrors.IsConflict(err) || ctx.Err() != nil {
			return err
		}
	}
	return err
}
