package capacity

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// identityLabels are labels whose value names one pod; they tell pods of one
// template apart and are left out of a shape unless a selector looks at them.
var identityLabels = []string{
	"statefulset.kubernetes.io/pod-name",
	"apps.kubernetes.io/pod-index",
	"batch.kubernetes.io/job-completion-index",
}

// ShapeHash is a short hash, in hex, of all that matters to scheduling in a
// pod: namespace, labels, requests, node selector, affinities, tolerations,
// spread, host ports, volumes, priority, claims and gates. Owner, name, images
// and commands do not matter, nor does the pod's group. Equal shapes have equal hashes across processes.
func ShapeHash(pod *corev1.Pod) string {
	visible := func(key string) bool { return !slices.Contains(identityLabels, key) }
	if slices.ContainsFunc(identityLabels, func(key string) bool { _, ok := pod.Labels[key]; return ok }) {
		own := map[string]bool{}
		podSelectorKeys(pod, own)
		visible = func(key string) bool { return own[key] || !slices.Contains(identityLabels, key) }
	}
	b := make(shapeKey, 0, 512)
	b.str(pod.Namespace)
	b.labels(pod.Labels, visible)
	b.pod(pod)
	for i := range pod.Spec.Volumes {
		b.volume(&pod.Spec.Volumes[i])
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// shapeKey is an encoding under construction. Every part is preceded by its
// length, so that no two different inputs encode alike.
type shapeKey []byte

func (b *shapeKey) str(s string) {
	b.num(int64(len(s)))
	*b = append(*b, s...)
}

func (b *shapeKey) num(n int64) {
	if 0 <= n && n < 10 { // As most are.
		*b = append(*b, '0'+byte(n), ':')
		return
	}
	*b = strconv.AppendInt(*b, n, 36)
	*b = append(*b, ':')
}

func (b *shapeKey) strs(list []string) {
	b.num(int64(len(list)))
	for _, s := range list {
		b.str(s)
	}
}

// labels encodes the entries whose key is visible, in order of the key.
func (b *shapeKey) labels(m map[string]string, visible func(string) bool) {
	var array [32]string
	keys := visibleKeys(array[:0], m, visible)
	b.num(int64(len(keys)))
	b.entries(m, keys)
}

// visibleKeys appends the keys that are visible, in order; with nil all are.
func visibleKeys(keys []string, m map[string]string, visible func(string) bool) []string {
	for k := range m {
		if visible == nil || visible(k) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// entries encodes those of these keys that there are.
func (b *shapeKey) entries(m map[string]string, keys []string) {
	for _, k := range keys {
		if v, ok := m[k]; ok {
			b.str(k)
			b.str(v)
		}
	}
}

// visibleLabels encodes the entries of these keys, which are in order.
func (b *shapeKey) visibleLabels(m map[string]string, keys []string) {
	if len(keys) > 8*len(m) {
		keys = visibleKeys(nil, m, func(k string) bool { _, ok := slices.BinarySearch(keys, k); return ok })
	}
	b.entries(m, keys)
	b.num(-1)
}

// pod encodes what the spec says, but for namespace, labels and volumes.
func (b *shapeKey) pod(pod *corev1.Pod) {
	s := &pod.Spec
	b.containers(s.InitContainers)
	b.containers(s.Containers)
	if s.Resources == nil {
		b.num(0)
	} else {
		b.num(1)
		b.resources(s.Resources.Requests)
	}
	b.resources(s.Overhead)
	b.labels(s.NodeSelector, nil)
	b.tolerations(s.Tolerations)
	b.affinity(s.Affinity)
	b.num(int64(len(s.TopologySpreadConstraints)))
	for i := range s.TopologySpreadConstraints {
		b.spread(&s.TopologySpreadConstraints[i])
	}
	if s.Priority != nil {
		b.num(int64(*s.Priority))
	} else {
		b.num(0)
	}
	b.num(int64(len(s.ResourceClaims)))
	for i := range s.ResourceClaims {
		b.str(s.ResourceClaims[i].Name)
	}
	b.num(int64(len(s.SchedulingGates)))
	for i := range s.SchedulingGates {
		b.str(s.SchedulingGates[i].Name)
	}
	b.str(s.NodeName)
	b.str(s.SchedulerName)
}

func (b *shapeKey) containers(cs []corev1.Container) {
	b.num(int64(len(cs)))
	for i := range cs {
		c := &cs[i]
		b.resources(c.Resources.Requests)
		if c.RestartPolicy != nil {
			b.str(string(*c.RestartPolicy))
		} else {
			b.str("")
		}
		for j := range c.Ports {
			if p := &c.Ports[j]; p.HostPort > 0 {
				b.num(int64(p.HostPort))
				b.str(string(p.Protocol))
				b.str(p.HostIP)
			}
		}
		b.num(-1)
	}
}

// usualResources are those that most pods ask for alone, in order.
var usualResources = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceEphemeralStorage, corev1.ResourceMemory}

func (b *shapeKey) resources(list corev1.ResourceList) {
	b.num(int64(len(list)))
	from, found := len(*b), 0
	for _, name := range usualResources {
		if q, ok := list[name]; ok {
			b.str(string(name))
			b.num(quantityValue(name, &q))
			found++
		}
	}
	if found == len(list) {
		return // Three look-ups cost less than an iteration.
	}
	*b = (*b)[:from]
	type entry struct {
		name corev1.ResourceName
		v    int64
	}
	var array [8]entry
	es := array[:0]
	for name, q := range list {
		es = append(es, entry{name, quantityValue(name, &q)})
	}
	slices.SortFunc(es, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	for _, e := range es {
		b.str(string(e.name))
		b.num(e.v)
	}
}

func (b *shapeKey) tolerations(ts []corev1.Toleration) {
	b.num(int64(len(ts)))
	for i := range ts {
		t := &ts[i]
		b.str(t.Key)
		b.str(string(t.Operator))
		b.str(t.Value)
		b.str(string(t.Effect))
	}
}

func (b *shapeKey) affinity(a *corev1.Affinity) {
	if a == nil {
		b.num(0)
		return
	}
	b.num(1)
	if n := a.NodeAffinity; n == nil {
		b.num(0)
	} else {
		b.num(1)
		b.nodeSelector(n.RequiredDuringSchedulingIgnoredDuringExecution)
		b.num(int64(len(n.PreferredDuringSchedulingIgnoredDuringExecution)))
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			p := &n.PreferredDuringSchedulingIgnoredDuringExecution[i]
			b.num(int64(p.Weight))
			b.nodeSelectorTerm(&p.Preference)
		}
	}
	if p := a.PodAffinity; p == nil {
		b.num(0)
	} else {
		b.podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p == nil {
		b.num(0)
	} else {
		b.podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func (b *shapeKey) nodeSelector(s *corev1.NodeSelector) {
	if s == nil {
		b.num(-1)
		return
	}
	b.num(int64(len(s.NodeSelectorTerms)))
	for i := range s.NodeSelectorTerms {
		b.nodeSelectorTerm(&s.NodeSelectorTerms[i])
	}
}

func (b *shapeKey) nodeSelectorTerm(t *corev1.NodeSelectorTerm) {
	for _, rs := range [][]corev1.NodeSelectorRequirement{t.MatchExpressions, t.MatchFields} {
		b.num(int64(len(rs)))
		for i := range rs {
			b.str(rs[i].Key)
			b.str(string(rs[i].Operator))
			b.strs(rs[i].Values)
		}
	}
}

func (b *shapeKey) podTerms(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
	b.num(int64(1 + len(required)))
	for i := range required {
		b.podTerm(&required[i])
	}
	b.num(int64(len(preferred)))
	for i := range preferred {
		b.num(int64(preferred[i].Weight))
		b.podTerm(&preferred[i].PodAffinityTerm)
	}
}

func (b *shapeKey) podTerm(t *corev1.PodAffinityTerm) {
	b.str(t.TopologyKey)
	b.selector(t.LabelSelector)
	b.strs(t.Namespaces)
	b.selector(t.NamespaceSelector)
	b.strs(t.MatchLabelKeys)
	b.strs(t.MismatchLabelKeys)
}

func (b *shapeKey) selector(s *metav1.LabelSelector) {
	if s == nil {
		b.num(-1)
		return
	}
	b.labels(s.MatchLabels, nil)
	b.num(int64(len(s.MatchExpressions)))
	for i := range s.MatchExpressions {
		e := &s.MatchExpressions[i]
		b.str(e.Key)
		b.str(string(e.Operator))
		b.strs(e.Values)
	}
}

func (b *shapeKey) spread(c *corev1.TopologySpreadConstraint) {
	b.num(int64(c.MaxSkew))
	b.str(c.TopologyKey)
	b.str(string(c.WhenUnsatisfiable))
	b.selector(c.LabelSelector)
	b.strs(c.MatchLabelKeys)
	if c.MinDomains != nil {
		b.num(int64(*c.MinDomains))
	} else {
		b.num(0)
	}
	for _, p := range []*corev1.NodeInclusionPolicy{c.NodeAffinityPolicy, c.NodeTaintsPolicy} {
		if p != nil {
			b.str(string(*p))
		} else {
			b.str("")
		}
	}
}

// volume encodes what of a volume can bind a pod to a node.
func (b *shapeKey) volume(v *corev1.Volume) {
	switch {
	case v.PersistentVolumeClaim != nil:
		b.str("claim")
		b.str(v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil:
		b.str("ephemeral")
		s := &v.Ephemeral.VolumeClaimTemplate.Spec
		if s.StorageClassName != nil {
			b.str(*s.StorageClassName)
		}
		b.str(s.VolumeName)
	case v.CSI != nil:
		b.str("csi")
		b.str(v.CSI.Driver)
	}
}

// podSelectorKeys adds the label keys that the pod's own selectors look at.
func podSelectorKeys(pod *corev1.Pod, keys map[string]bool) {
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		selectorKeys(c.LabelSelector, keys)
		for _, k := range c.MatchLabelKeys {
			keys[k] = true
		}
	}
	eachPodTerm(pod, func(t *corev1.PodAffinityTerm) { termKeys(t, keys) })
}

func termKeys(t *corev1.PodAffinityTerm, keys map[string]bool) {
	selectorKeys(t.LabelSelector, keys)
	for _, k := range t.MatchLabelKeys {
		keys[k] = true
	}
	for _, k := range t.MismatchLabelKeys {
		keys[k] = true
	}
}

func selectorKeys(s *metav1.LabelSelector, keys map[string]bool) {
	if s == nil {
		return
	}
	for k := range s.MatchLabels {
		keys[k] = true
	}
	for i := range s.MatchExpressions {
		keys[s.MatchExpressions[i].Key] = true
	}
}

// eachPodTerm calls f for every required pod affinity and anti-affinity term.
func eachPodTerm(pod *corev1.Pod, f func(*corev1.PodAffinityTerm)) {
	a := pod.Spec.Affinity
	if a == nil {
		return
	}
	if a.PodAffinity != nil {
		for i := range a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			f(&a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i])
		}
	}
	if a.PodAntiAffinity != nil {
		for i := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			f(&a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i])
		}
	}
}
