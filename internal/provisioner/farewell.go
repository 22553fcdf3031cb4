package provisioner

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// farewell keeps the finalizer of a Provisioner whose nodes are to be drained
// when it is deleted, and drains them then. It reports whether the Provisioner is
// on its way out, so that there is nothing else to do for it.
//
// Each step can be the last before a crash: claims that are deleted stay so, and
// the finalizer goes when the API server itself says that there are none.
func (k *statusKeeper) farewell(ctx context.Context, pr *v1alpha1.Provisioner) (bool, error) {
	drains := pr.Annotations[v1alpha1.AnnotationDeletion] == v1alpha1.DeletionDrain
	has := controllerutil.ContainsFinalizer(pr, v1alpha1.Finalizer)
	if pr.DeletionTimestamp == nil {
		if drains == has {
			return false, nil
		}
		return false, k.setFinalizer(ctx, pr, drains)
	}
	if !has {
		return true, nil
	}
	if !drains {
		return true, k.setFinalizer(ctx, pr, false) // It was changed to orphan meanwhile.
	}
	var claims v1alpha1.NodeClaimList
	// Not from the cache, which may not show yet what was created last.
	if err := k.cfg.APIReader.List(ctx, &claims, client.MatchingLabels{v1alpha1.LabelProvisioner: pr.Name}); err != nil {
		return true, fmt.Errorf("listing the claims of Provisioner %s: %w", pr.Name, err)
	}
	for i := range claims.Items {
		c := &claims.Items[i]
		if c.DeletionTimestamp != nil {
			continue
		}
		if err := client.IgnoreNotFound(k.cfg.Client.Delete(ctx, c, client.Preconditions{UID: &c.UID})); err != nil {
			return true, fmt.Errorf("deleting claim %s: %w", c.Name, err)
		}
		k.log.Info("claim deleted with its Provisioner", "claim", c.Name, "provisioner", pr.Name)
	}
	if len(claims.Items) > 0 {
		return true, nil // Their end wakes us.
	}
	if err := k.setFinalizer(ctx, pr, false); err != nil {
		return true, err
	}
	k.cfg.Recorder.Eventf(pr, nil, corev1.EventTypeNormal, "Drained", "Delete", "all nodes are gone")
	return true, nil
}

// setFinalizer adds or removes the finalizer, and nothing else.
func (k *statusKeeper) setFinalizer(ctx context.Context, pr *v1alpha1.Provisioner, wanted bool) error {
	before := pr.DeepCopy()
	if wanted {
		controllerutil.AddFinalizer(pr, v1alpha1.Finalizer)
	} else {
		controllerutil.RemoveFinalizer(pr, v1alpha1.Finalizer)
	}
	// With the resourceVersion: a merge patch replaces the list as a whole.
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := k.cfg.Client.Patch(ctx, pr, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("storing the finalizer of Provisioner %s: %w", pr.Name, err)
	}
	return nil
}
