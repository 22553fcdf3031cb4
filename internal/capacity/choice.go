package capacity

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// capacityChoiceWeight is the most that a preferred term may weigh.
const capacityChoiceWeight = 100

// CapacityChoice is the preferred term that the webhook gives a pod for which a
// capacity type was chosen to keep its owner's share of spot.
func CapacityChoice(capacityType string) corev1.PreferredSchedulingTerm {
	return corev1.PreferredSchedulingTerm{Weight: capacityChoiceWeight, Preference: corev1.NodeSelectorTerm{
		MatchExpressions: []corev1.NodeSelectorRequirement{{
			Key: v1alpha1.LabelCapacityType, Operator: corev1.NodeSelectorOpIn, Values: []string{capacityType},
		}},
	}}
}

// PreferredCapacity is the capacity type that was chosen for a pod: it carries
// both the label and the term. Empty: none was.
func PreferredCapacity(pod *corev1.Pod) string {
	choice := pod.Labels[v1alpha1.LabelCapacityChoice]
	if choice == "" || pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
		return ""
	}
	for _, t := range pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
		e := t.Preference.MatchExpressions
		if t.Weight == capacityChoiceWeight && len(t.Preference.MatchFields) == 0 && len(e) == 1 &&
			e[0].Key == v1alpha1.LabelCapacityType && e[0].Operator == corev1.NodeSelectorOpIn && slices.Equal(e[0].Values, []string{choice}) {
			return choice
		}
	}
	return ""
}

// WithCapacityType is a copy of the pod that must have a node of the capacity
// type. All but its node selector is shared with the pod.
func WithCapacityType(pod *corev1.Pod, capacityType string) *corev1.Pod {
	must := *pod
	must.Spec.NodeSelector = make(map[string]string, len(pod.Spec.NodeSelector)+1)
	for k, v := range pod.Spec.NodeSelector {
		must.Spec.NodeSelector[k] = v
	}
	must.Spec.NodeSelector[v1alpha1.LabelCapacityType] = capacityType
	return &must
}
