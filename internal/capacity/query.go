package capacity

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// query selects pods by namespace and labels.
type query struct {
	// key identifies equal queries.
	key        string
	namespaces []string
	// nsSelector selects more namespaces by their labels; nil: none.
	nsSelector labels.Selector
	selector   labels.Selector
}

func (q *query) matches(namespaces map[string]map[string]string, ns string, l map[string]string) bool {
	return q.selectsNamespace(namespaces, ns) && q.selector.Matches(labels.Set(l))
}

func (q *query) selectsNamespace(namespaces map[string]map[string]string, ns string) bool {
	return slices.Contains(q.namespaces, ns) || q.nsSelector != nil && q.nsSelector.Matches(labels.Set(namespaces[ns]))
}

// withLabelKeys adds matchLabelKeys and mismatchLabelKeys to a selector. The API
// server has done so already for pods that it has admitted; doing it again
// changes nothing.
func withLabelKeys(s *metav1.LabelSelector, l map[string]string, match, mismatch []string) *metav1.LabelSelector {
	if s == nil || len(match)+len(mismatch) == 0 {
		return s
	}
	s = s.DeepCopy()
	add := func(keys []string, op metav1.LabelSelectorOperator) {
		for _, k := range keys {
			if v, ok := l[k]; ok {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
			}
		}
	}
	add(match, metav1.LabelSelectorOpIn)
	add(mismatch, metav1.LabelSelectorOpNotIn)
	return s
}

// selectorOf compiles a label selector; one that does not parse selects nothing.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return sel
}

// termQuery is the query of a pod affinity or anti-affinity term of a pod.
func termQuery(pod *corev1.Pod, t *corev1.PodAffinityTerm) *query {
	s := withLabelKeys(t.LabelSelector, pod.Labels, t.MatchLabelKeys, t.MismatchLabelKeys)
	q := &query{namespaces: slices.Clone(t.Namespaces), selector: selectorOf(s)}
	if t.NamespaceSelector != nil {
		q.nsSelector = selectorOf(t.NamespaceSelector)
	} else if len(t.Namespaces) == 0 {
		q.namespaces = []string{pod.Namespace}
	}
	slices.Sort(q.namespaces)
	b := make(shapeKey, 0, 128)
	b.strs(q.namespaces)
	b.selector(t.NamespaceSelector)
	b.selector(s)
	q.key = string(b)
	return q
}

// spreadQuery is the query of a spread constraint of a pod.
func spreadQuery(pod *corev1.Pod, c *corev1.TopologySpreadConstraint) *query {
	s := withLabelKeys(c.LabelSelector, pod.Labels, c.MatchLabelKeys, nil)
	b := make(shapeKey, 0, 128)
	b.strs([]string{pod.Namespace})
	b.num(-1)
	b.selector(s)
	return &query{key: string(b), namespaces: []string{pod.Namespace}, selector: selectorOf(s)}
}

// term is a required pod affinity or anti-affinity term.
type term struct {
	q   *query
	key string
}

// spreadTerm is a DoNotSchedule spread constraint.
type spreadTerm struct {
	q          *query
	key        string
	maxSkew    int
	minDomains int
	// countsNothing: an empty selector, whose pods kube-scheduler does not count.
	countsNothing              bool
	honorAffinity, honorTaints bool
}

func affinityTerms(pod *corev1.Pod) (affinity, anti []term) {
	a := pod.Spec.Affinity
	if a == nil {
		return nil, nil
	}
	if a.PodAffinity != nil {
		for i := range a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			t := &a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i]
			affinity = append(affinity, term{termQuery(pod, t), t.TopologyKey})
		}
	}
	if a.PodAntiAffinity != nil {
		for i := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			t := &a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i]
			anti = append(anti, term{termQuery(pod, t), t.TopologyKey})
		}
	}
	return affinity, anti
}

func spreadTerms(pod *corev1.Pod) []spreadTerm {
	var ts []spreadTerm
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable != corev1.DoNotSchedule && c.WhenUnsatisfiable != "" {
			continue
		}
		t := spreadTerm{q: spreadQuery(pod, c), key: c.TopologyKey, maxSkew: int(c.MaxSkew), minDomains: 1, honorAffinity: true}
		t.countsNothing = t.q.selector.Empty()
		if c.MinDomains != nil {
			t.minDomains = int(*c.MinDomains)
		}
		if c.NodeAffinityPolicy != nil {
			t.honorAffinity = *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
		}
		if c.NodeTaintsPolicy != nil {
			t.honorTaints = *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
		}
		ts = append(ts, t)
	}
	return ts
}

// sortedNames are the keys of a map in order.
func sortedNames[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
