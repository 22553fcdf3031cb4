package capacity

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// unknownValue stands for labels and names that a node will have but that
// nobody knows before it is there. No selector can name it: it is not a valid
// label value.
const unknownValue = "berth.dev/unknown"

// nodeReq is what a pod requires of a node's labels and name: node selector,
// required node affinity, and more, such as where its volumes can be reached. It is matched
// by component-helpers, as kube-scheduler does; answers are remembered by the
// values of the labels that it looks at.
type nodeReq struct {
	// key identifies equal requirements.
	key string
	// labels that it looks at, sorted; empty with always: everything matches.
	labels []string
	always bool
	// named: it looks at the node's name.
	named    bool
	affinity nodeaffinity.RequiredNodeAffinity
	// more node selectors; each must match.
	more    []*nodeaffinity.LazyErrorNodeSelector
	memo    map[string]bool
	scratch []byte
	node    corev1.Node
}

// nodeReqKey encodes what newNodeReq looks at.
func nodeReqKey(pod *corev1.Pod, more []*corev1.NodeSelector) string {
	if len(pod.Spec.NodeSelector) == 0 && requiredNodeAffinity(pod) == nil && len(more) == 0 {
		return ""
	}
	b := make(shapeKey, 0, 256)
	b.labels(pod.Spec.NodeSelector, nil)
	b.nodeSelector(requiredNodeAffinity(pod))
	for _, m := range more {
		b.nodeSelector(m)
	}
	return string(b)
}

func requiredNodeAffinity(pod *corev1.Pod) *corev1.NodeSelector {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// newNodeReq compiles the requirement of a pod with these selectors.
func newNodeReq(pod *corev1.Pod, more []*corev1.NodeSelector) *nodeReq {
	r := &nodeReq{
		key:      nodeReqKey(pod, more),
		affinity: nodeaffinity.GetRequiredNodeAffinity(pod),
		memo:     map[string]bool{},
	}
	r.always = r.key == ""
	for k := range pod.Spec.NodeSelector {
		r.labels = append(r.labels, k)
	}
	look := func(s *corev1.NodeSelector) {
		if s == nil {
			return
		}
		for i := range s.NodeSelectorTerms {
			t := &s.NodeSelectorTerms[i]
			for j := range t.MatchExpressions {
				r.labels = append(r.labels, t.MatchExpressions[j].Key)
			}
			r.named = r.named || len(t.MatchFields) > 0
		}
	}
	look(requiredNodeAffinity(pod))
	for _, m := range more {
		look(m)
		r.more = append(r.more, nodeaffinity.NewLazyErrorNodeSelector(m))
	}
	slices.Sort(r.labels)
	r.labels = slices.Compact(r.labels)
	return r
}

// matches says whether a node with these labels and this name will do. A
// selector that does not parse matches nothing.
func (r *nodeReq) matches(label func(key string) (string, bool), name string) bool {
	if r.always {
		return true
	}
	b := r.scratch[:0]
	for _, k := range r.labels {
		v, ok := label(k)
		if ok {
			b = append(b, v...)
			b = append(b, 0)
		} else {
			b = append(b, 1)
		}
	}
	if r.named {
		b = append(b, name...)
	}
	r.scratch = b
	if ok, known := r.memo[string(b)]; known {
		return ok
	}
	r.node.Name = ""
	if r.named {
		r.node.Name = name
	}
	r.node.ObjectMeta = metav1.ObjectMeta{Name: r.node.Name, Labels: make(map[string]string, len(r.labels))}
	for _, k := range r.labels {
		if v, ok := label(k); ok {
			r.node.Labels[k] = v
		}
	}
	ok, err := r.affinity.Match(&r.node)
	ok = ok && err == nil
	for _, m := range r.more {
		if !ok {
			break
		}
		ok, err = m.Match(&r.node)
		ok = ok && err == nil
	}
	r.memo[string(b)] = ok
	return ok
}
