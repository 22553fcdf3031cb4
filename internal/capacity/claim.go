package capacity

import (
	"cmp"
	"maps"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// ClaimLabels are the labels that a claim's node has, or will have. The map is the
// caller's.
func ClaimLabels(c *v1alpha1.NodeClaim) map[string]string {
	out := maps.Clone(c.Spec.Labels)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, c.Labels)
	out[v1alpha1.LabelProvisioner] = c.Spec.Provisioner.Name
	out[v1alpha1.LabelNodeClaim] = c.Name
	out[corev1.LabelHostname] = cmp.Or(c.Status.NodeName, c.Name)
	return out
}
