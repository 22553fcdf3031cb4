package capacity

import "github.com/berth-dev/berth/api/v1alpha1"

// Unmet returns the first of the requirements that a node with these labels
// does not meet; nil when it meets all. A label of the user's own that the node
// does not carry is met: it says which values nodes may carry, not that they do.
func Unmet(rs []v1alpha1.Requirement, labels map[string]string) *v1alpha1.Requirement {
	for i := range rs {
		key := v1alpha1.CurrentLabel(rs[i].Key)
		v, ok := labels[key]
		if !ok && isOwnLabel(key) {
			continue
		}
		if !requirementAllows(&rs[i], v, ok) {
			return &rs[i]
		}
	}
	return nil
}
