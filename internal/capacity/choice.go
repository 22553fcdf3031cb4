package capacity

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// capacityChoiceWeight is the most that a preferred term may weigh.
const capacityChoiceWeight = 100

// ChosenTypes are the capacity types that keep a choice: what is reserved is paid for
// and not taken back, and counts as on-demand.
func ChosenTypes(choice string) []string {
	if choice == v1alpha1.CapacityTypeOnDemand {
		return []string{v1alpha1.CapacityTypeOnDemand, v1alpha1.CapacityTypeReserved}
	}
	return []string{choice}
}

// CapacityChoice is the preferred term that the webhook gives a pod for which a
// capacity type was chosen to keep its owner's share of spot.
func CapacityChoice(choice string) corev1.PreferredSchedulingTerm {
	return corev1.PreferredSchedulingTerm{Weight: capacityChoiceWeight, Preference: corev1.NodeSelectorTerm{
		MatchExpressions: []corev1.NodeSelectorRequirement{hasChosenType(choice)},
	}}
}

func hasChosenType(choice string) corev1.NodeSelectorRequirement {
	return corev1.NodeSelectorRequirement{Key: v1alpha1.LabelCapacityType, Operator: corev1.NodeSelectorOpIn, Values: ChosenTypes(choice)}
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
		// Pods of before have terms with the choice alone.
		if t.Weight == capacityChoiceWeight && len(t.Preference.MatchFields) == 0 && len(e) == 1 &&
			e[0].Key == v1alpha1.LabelCapacityType && e[0].Operator == corev1.NodeSelectorOpIn &&
			(slices.Equal(e[0].Values, ChosenTypes(choice)) || slices.Equal(e[0].Values, []string{choice})) {
			return choice
		}
	}
	return ""
}

// RestrictsCapacityType says whether the pod itself requires something of its node's
// capacity type: then there is nothing to choose.
func RestrictsCapacityType(pod *corev1.Pod) bool {
	if _, ok := pod.Spec.NodeSelector[v1alpha1.LabelCapacityType]; ok {
		return true
	}
	required := requiredNodeAffinity(pod)
	return required != nil && slices.ContainsFunc(required.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
		return slices.ContainsFunc(t.MatchExpressions, func(e corev1.NodeSelectorRequirement) bool { return e.Key == v1alpha1.LabelCapacityType })
	})
}

// KeepsChoice selects the nodes that keep a choice.
func KeepsChoice(choice string) *corev1.NodeSelector {
	return &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
		{MatchExpressions: []corev1.NodeSelectorRequirement{hasChosenType(choice)}}}}
}

// NotOn selects all nodes but those of these names.
func NotOn(nodes []string) *corev1.NodeSelector {
	away := make([]corev1.NodeSelectorRequirement, len(nodes))
	for i, n := range nodes {
		away[i] = corev1.NodeSelectorRequirement{Key: fieldNodeName, Operator: corev1.NodeSelectorOpNotIn, Values: []string{n}}
	}
	return &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: away}}}
}

// WithCapacityType is a copy of the pod that must have a node that keeps the choice,
// beside all that it requires anyway: for an Index, where no pod counts others. All but
// its node affinity is shared with the pod.
func WithCapacityType(pod *corev1.Pod, choice string) *corev1.Pod {
	must := *pod
	var affinity corev1.Affinity
	if pod.Spec.Affinity != nil {
		affinity = *pod.Spec.Affinity
	}
	var node corev1.NodeAffinity
	if affinity.NodeAffinity != nil {
		node = *affinity.NodeAffinity
	}
	required := KeepsChoice(choice)
	if r := node.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		more := required.NodeSelectorTerms[0].MatchExpressions
		required = &corev1.NodeSelector{NodeSelectorTerms: slices.Clone(r.NodeSelectorTerms)}
		for i := range required.NodeSelectorTerms {
			// A term without anything matches nothing, and is to go on so.
			if t := &required.NodeSelectorTerms[i]; len(t.MatchExpressions)+len(t.MatchFields) > 0 {
				t.MatchExpressions = slices.Concat(t.MatchExpressions, more)
			}
		}
	}
	node.RequiredDuringSchedulingIgnoredDuringExecution = required
	affinity.NodeAffinity = &node
	must.Spec.Affinity = &affinity
	return &must
}
