package provisioner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
	"github.com/berth-dev/berth/internal/ec2"
)

// vacateMost bounds the wait for the pods and volumes of a node out of service.
const vacateMost = 2 * time.Minute

// outOfService tells Kubernetes that a node is off for good ("Non-graceful node
// shutdown handling"): the pods on it are removed and its volumes detached
// without a word from its kubelet.
var outOfService = corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: v1alpha1.Group, Effect: corev1.TaintEffectNoExecute}

// vacate frees what a dead kubelet still holds, before the Node goes: names of
// pods that others wait for, and volumes. It reports whether there is nothing,
// or nothing more, to wait for.
//
// The taint lets two machines use one volume if the first still runs. So it is
// set only when the kubelet is silent and EC2, asked anew, says that the instance
// is terminated, and taken back should the node report after all.
func (r *lifecycle) vacate(ctx context.Context, claim *v1alpha1.NodeClaim, node *corev1.Node) (bool, error) {
	after := node.DeepCopy()
	if nodeReady(node) {
		after.Spec.Taints = slices.DeleteFunc(after.Spec.Taints, func(t corev1.Taint) bool {
			return t.MatchTaint(&outOfService) && t.Value == outOfService.Value
		})
		return true, r.patchNode(ctx, node, after, "putting back into service")
	}
	c := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionTerminated)
	if c == nil || time.Since(c.LastTransitionTime.Time) >= vacateMost || !r.occupied(node) {
		return true, nil
	}
	if hasTaint(node.Spec.Taints, outOfService.Key) {
		return false, nil
	}
	switch inst, err := r.cloud.Instance(ctx, claim.Status.InstanceID); {
	case errors.Is(err, ec2.ErrNotFound):
		return true, nil // Gone as far as we are concerned, but nobody has seen it off.
	case err != nil:
		return false, fmt.Errorf("reading instance %s: %w", claim.Status.InstanceID, err)
	case inst.State != ec2.StateTerminated:
		// It was denied so often that it counted as gone.
		return false, r.patchStatus(ctx, claim, func(c *v1alpha1.NodeClaim) {
			setCondition(c, v1alpha1.ConditionTerminated, metav1.ConditionFalse, "Terminating", "EC2 knows the instance again: "+inst.State)
		})
	}
	after.Spec.Taints = append(after.Spec.Taints, outOfService)
	if err := r.patchNode(ctx, node, after, "taking out of service"); err != nil {
		return false, err
	}
	r.log.Info("node out of service: its instance is terminated, its kubelet silent", "node", node.Name, "claim", claim.Name)
	return false, nil
}

// populated reports whether pods that a drain waits for are on a node.
func (p *Loops) populated(node *corev1.Node) bool {
	return slices.ContainsFunc(p.stores.podsOn(node.Name), func(pod *corev1.Pod) bool { return drain.Counts(pod, node) })
}

// occupied reports whether pods that a drain moves, or volumes, are on a node.
func (r *lifecycle) occupied(node *corev1.Node) bool {
	return r.populated(node) ||
		slices.ContainsFunc(all[*storagev1.VolumeAttachment](r.stores.attachments), func(a *storagev1.VolumeAttachment) bool {
			return a.Spec.NodeName == node.Name
		})
}
