package capacity

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// requirementAllows says whether a node with the label (present) or without
// may exist under r. The meaning of the operators is that of node affinity:
// NotIn is satisfied where the label is absent, Gt and Lt compare whole numbers
// and are not satisfied by anything else.
func requirementAllows(r *v1alpha1.Requirement, value string, present bool) bool {
	switch r.Operator {
	case v1alpha1.OperatorIn:
		return present && slices.Contains(r.Values, value)
	case v1alpha1.OperatorNotIn:
		return !present || !slices.Contains(r.Values, value)
	case v1alpha1.OperatorExists:
		return present
	case v1alpha1.OperatorDoesNotExist:
		return !present
	case v1alpha1.OperatorGt, v1alpha1.OperatorLt:
		if !present || len(r.Values) != 1 {
			return false
		}
		have, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return false
		}
		bound, err := strconv.ParseInt(r.Values[0], 10, 64)
		if err != nil {
			return false
		}
		if r.Operator == v1alpha1.OperatorGt {
			return have > bound
		}
		return have < bound
	default:
		// An operator that we do not know forbids: nothing is bought by mistake.
		return false
	}
}

// requirementsAllow says whether a node with exactly these labels passes all
// requirements on the keys for which of(key) holds.
func requirementsAllow(rs []v1alpha1.Requirement, of func(key string) bool, label func(key string) (string, bool)) bool {
	for i := range rs {
		key := v1alpha1.CurrentLabel(rs[i].Key)
		if !of(key) {
			continue
		}
		v, ok := label(key)
		if !requirementAllows(&rs[i], v, ok) {
			return false
		}
	}
	return true
}

// isInstanceLabel says whether a label follows from the instance type alone.
func isInstanceLabel(key string) bool { return slices.Contains(v1alpha1.InstanceLabels, key) }

// isOfferingLabel says whether a label follows from where and how it is bought.
func isOfferingLabel(key string) bool { return slices.Contains(v1alpha1.OfferingLabels, key) }

// isNodeLabel says whether a label is chosen per node, so that nobody can know
// its value before the node is there.
func isNodeLabel(key string) bool {
	return key == corev1.LabelHostname || key == v1alpha1.LabelNodeClaim
}

// isOwnLabel says whether a label is the user's own.
func isOwnLabel(key string) bool {
	key = v1alpha1.CurrentLabel(key)
	return !isInstanceLabel(key) && !isOfferingLabel(key) && !isNodeLabel(key) && key != v1alpha1.LabelProvisioner
}

// names says whether a requirement with operator In on key lists value: the
// user has named it.
func names(rs []v1alpha1.Requirement, key, value string) bool {
	for i := range rs {
		if v1alpha1.CurrentLabel(rs[i].Key) == key && rs[i].Operator == v1alpha1.OperatorIn && slices.Contains(rs[i].Values, value) {
			return true
		}
	}
	return false
}

// hasKey says whether any requirement is on one of the keys.
func hasKey(rs []v1alpha1.Requirement, keys ...string) bool {
	return slices.ContainsFunc(rs, func(r v1alpha1.Requirement) bool { return slices.Contains(keys, v1alpha1.CurrentLabel(r.Key)) })
}
