package capacity

import corev1 "k8s.io/api/core/v1"

// MakesRoom says whether the pod will fit the node once those of the node's pods
// are gone that are being deleted, and does not fit before: what the node looks
// like that kube-scheduler has nominated for the pod by preemption.
func (n *Node) MakesRoom(pod *corev1.Pod) bool {
	now, then := n.Allocatable.Clone(), n.Allocatable.Clone()
	for _, p := range n.Pods {
		r := PodRequests(p)
		now.Sub(r)
		if p.DeletionTimestamp == nil {
			then.Sub(r)
		}
	}
	r := PodRequests(pod)
	return r.Fits(then) && !r.Fits(now)
}
