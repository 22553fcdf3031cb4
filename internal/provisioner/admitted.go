package provisioner

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// agreement is how the webhook's hint on a pod compares with what was decided.
type agreement string

// Agreements. A hint is never the basis of a decision: each pod is planned for
// from its spec alone, as soon as it is there.
const (
	hintMatched  agreement = "matched"
	hintDiffered agreement = "differed"
	hintMissing  agreement = "missing"
	// hintStale: it follows from older offerings than the plan.
	hintStale agreement = "stale"
	// hintContradicted: it is unreadable, or for another spec than the pod's.
	hintContradicted agreement = "contradicted"
)

// agreements are all of them, so that the metric's series exist from the start.
var agreements = []agreement{hintMatched, hintDiffered, hintMissing, hintStale, hintContradicted}

// compareHint compares a pod's hint with the Provisioner and the capacity type that
// were decided on, by offerings of a version. Instance type and zone are not compared:
// the hint's are those of the cheapest node for the pod alone, and pods are bought for
// together, so that they would differ as a rule and mean nothing.
func compareHint(pod *corev1.Pod, provisioner, capacityType string, offerings int64) agreement {
	value, ok := pod.Annotations[v1alpha1.AnnotationPlacement]
	if !ok {
		return hintMissing
	}
	h, err := capacity.ParseHint(value)
	switch {
	case err != nil || pod.Annotations[v1alpha1.AnnotationShape] != capacity.ShapeHash(pod):
		return hintContradicted
	case h.Version < offerings:
		return hintStale
	case h.Provisioner != provisioner || h.CapacityType != capacityType:
		return hintDiffered
	}
	return hintMatched
}

// choices are the pods that are planned for with the capacity type that was chosen
// for them, to keep their owner's share of spot, as a requirement.
type choices map[*corev1.Pod]*corev1.NodeSelector

// insist has the pods of a Snapshot for which a capacity type was chosen keep to it,
// where some Provisioner sells it now. Stand-ins of such pods go: for which type the
// next one will be is not known.
func insist(s *capacity.Snapshot) choices {
	c := choices{}
	var sold map[string]bool
	s.Pods = slices.DeleteFunc(s.Pods, func(pod *corev1.Pod) bool {
		choice := capacity.PreferredCapacity(pod)
		if choice == "" || standIn(pod) {
			return choice != ""
		}
		if sold == nil {
			sold = capacityTypesSold(s)
		}
		if slices.ContainsFunc(capacity.ChosenTypes(choice), func(t string) bool { return sold[t] }) {
			c[pod] = capacity.KeepsChoice(choice)
			s.Require(pod, c[pod])
		}
		return false
	})
	return c
}

// relent takes the requirement away from pods that a plan has no place for, and
// reports whether there were any: a preference must never keep a pod waiting.
func (c choices) relent(s *capacity.Snapshot, plan *capacity.Plan) bool {
	some := false
	for _, u := range plan.Unschedulable {
		if choice, ok := c[u.Pod]; ok {
			s.Also[u.Pod] = slices.DeleteFunc(s.Also[u.Pod], func(n *corev1.NodeSelector) bool { return n == choice })
			some = true
		}
	}
	return some
}

// capacityTypesSold are the capacity types of all offerings in a Snapshot.
func capacityTypesSold(s *capacity.Snapshot) map[string]bool {
	sold := map[string]bool{}
	for _, pr := range s.Provisioners {
		if pr.NotReady != "" {
			continue
		}
		for i := range pr.InstanceTypes {
			for j := range pr.InstanceTypes[i].Offerings {
				if o := &pr.InstanceTypes[i].Offerings[j]; !o.UnavailableUntil.After(s.Now) {
					sold[o.CapacityType] = true
				}
			}
		}
	}
	return sold
}
