package admission

import corev1 "k8s.io/api/core/v1"

const (
	keyRequired  = "requiredDuringSchedulingIgnoredDuringExecution"
	keyPreferred = "preferredDuringSchedulingIgnoredDuringExecution"
)

func readAffinity(r *reader) *corev1.Affinity {
	a := &corev1.Affinity{}
	r.object(func(key string) {
		switch key {
		case "nodeAffinity":
			if !r.null() {
				a.NodeAffinity = readNodeAffinity(r)
			}
		case "podAffinity":
			if !r.null() {
				required, preferred := readPodTerms(r)
				a.PodAffinity = &corev1.PodAffinity{
					RequiredDuringSchedulingIgnoredDuringExecution:  required,
					PreferredDuringSchedulingIgnoredDuringExecution: preferred,
				}
			}
		case "podAntiAffinity":
			if !r.null() {
				required, preferred := readPodTerms(r)
				a.PodAntiAffinity = &corev1.PodAntiAffinity{
					RequiredDuringSchedulingIgnoredDuringExecution:  required,
					PreferredDuringSchedulingIgnoredDuringExecution: preferred,
				}
			}
		default:
			r.skip()
		}
	})
	return a
}

func readNodeAffinity(r *reader) *corev1.NodeAffinity {
	n := &corev1.NodeAffinity{}
	r.object(func(key string) {
		switch key {
		case keyRequired:
			if r.null() {
				return
			}
			s := &corev1.NodeSelector{}
			n.RequiredDuringSchedulingIgnoredDuringExecution = s
			r.object(func(key string) {
				if key != "nodeSelectorTerms" {
					r.skip()
					return
				}
				s.NodeSelectorTerms = nil
				r.array(func() { s.NodeSelectorTerms = append(s.NodeSelectorTerms, readNodeTerm(r)) })
			})
		case keyPreferred:
			r.array(func() {
				var t corev1.PreferredSchedulingTerm
				r.object(func(key string) {
					switch key {
					case "weight":
						t.Weight = r.integer()
					case "preference":
						t.Preference = readNodeTerm(r)
					default:
						r.skip()
					}
				})
				n.PreferredDuringSchedulingIgnoredDuringExecution = append(n.PreferredDuringSchedulingIgnoredDuringExecution, t)
			})
		default:
			r.skip()
		}
	})
	return n
}

func readNodeTerm(r *reader) corev1.NodeSelectorTerm {
	var t corev1.NodeSelectorTerm
	r.object(func(key string) {
		switch key {
		case "matchExpressions":
			t.MatchExpressions = readNodeRequirements(r)
		case "matchFields":
			t.MatchFields = readNodeRequirements(r)
		default:
			r.skip()
		}
	})
	return t
}

func readNodeRequirements(r *reader) []corev1.NodeSelectorRequirement {
	var out []corev1.NodeSelectorRequirement
	r.array(func() {
		var q corev1.NodeSelectorRequirement
		r.object(func(key string) {
			switch key {
			case "key":
				q.Key = r.text()
			case "operator":
				q.Operator = corev1.NodeSelectorOperator(r.text())
			case "values":
				q.Values = r.texts()
			default:
				r.skip()
			}
		})
		out = append(out, q)
	})
	return out
}

func readPodTerms(r *reader) (required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
	r.object(func(key string) {
		switch key {
		case keyRequired:
			r.array(func() { required = append(required, readPodTerm(r)) })
		case keyPreferred:
			r.array(func() {
				var w corev1.WeightedPodAffinityTerm
				r.object(func(key string) {
					switch key {
					case "weight":
						w.Weight = r.integer()
					case "podAffinityTerm":
						w.PodAffinityTerm = readPodTerm(r)
					default:
						r.skip()
					}
				})
				preferred = append(preferred, w)
			})
		default:
			r.skip()
		}
	})
	return required, preferred
}

func readPodTerm(r *reader) corev1.PodAffinityTerm {
	var t corev1.PodAffinityTerm
	r.object(func(key string) {
		switch key {
		case "topologyKey":
			t.TopologyKey = r.text()
		case "labelSelector":
			t.LabelSelector = readSelector(r)
		case "namespaces":
			t.Namespaces = r.texts()
		case "namespaceSelector":
			t.NamespaceSelector = readSelector(r)
		case "matchLabelKeys":
			t.MatchLabelKeys = r.texts()
		case "mismatchLabelKeys":
			t.MismatchLabelKeys = r.texts()
		default:
			r.skip()
		}
	})
	return t
}
