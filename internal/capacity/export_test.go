package capacity

import corev1 "k8s.io/api/core/v1"

// Verdict is Cheapest and, when that is nil, Reasons.
func (x *Index) Verdict(pod *corev1.Pod) (*Choice, []Reason) {
	if c := x.Cheapest(pod); c != nil {
		return c, nil
	}
	return nil, x.Reasons(pod)
}
