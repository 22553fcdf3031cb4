package provisioner

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// releaseStrays takes our finalizer off Nodes that are being deleted and that no
// claim is there to see off: somebody has taken the finalizer off the claim. claims
// are read live. A Node goes when two sweeps have found it so, and EC2 says that
// its instance is terminated (or has not known it for missingFor).
func (f *fleet) releaseStrays(ctx context.Context, claims []v1alpha1.NodeClaim) error {
	claimed := map[string]bool{}
	for i := range claims {
		claimed[claims[i].Status.ProviderID], claimed[claims[i].Status.NodeName] = true, true
		claimed[claims[i].Name] = true
	}
	strays := map[string]bool{}
	defer func() { f.strays = strays }()
	for _, n := range all[*corev1.Node](f.stores.nodes) {
		id := n.Spec.ProviderID[strings.LastIndexByte(n.Spec.ProviderID, '/')+1:]
		if n.DeletionTimestamp == nil || !controllerutil.ContainsFinalizer(n, v1alpha1.Finalizer) || id == "" ||
			claimed[n.Spec.ProviderID] || claimed[n.Name] || claimed[n.Labels[v1alpha1.LabelNodeClaim]] {
			continue
		}
		strays[string(n.UID)] = true
		ended, err := f.ended(ctx, id, nodeReady(n))
		if err != nil {
			return err
		}
		if !ended || !f.strays[string(n.UID)] {
			continue
		}
		after := n.DeepCopy()
		controllerutil.RemoveFinalizer(after, v1alpha1.Finalizer)
		if err := f.patchNode(ctx, n, after, "releasing"); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return fmt.Errorf("a node without a claim: %w", err)
		}
		f.log.Info("node released that no claim is there for", "node", n.Name, "instance", id)
	}
	return nil
}
