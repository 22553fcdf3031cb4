package capacity_test

import (
	"math"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// The referee judges plans pod by pod, slowly and naively, from what the
// Kubernetes documentation says. It shares nothing with the planner but the
// types, PodRequests and what the instance types say.

// world is a cluster that pods are bound in.
type world struct {
	snap  *capacity.Snapshot
	nodes []*host
}

type host struct {
	name   string
	labels map[string]string
	taints []corev1.Taint
	alloc  capacity.Resources
	pods   []*corev1.Pod
	closed bool
	limits map[string]int64
}

func newWorld(s *capacity.Snapshot) *world {
	w := &world{snap: s}
	for _, n := range s.Nodes {
		w.nodes = append(w.nodes, &host{n.Name, n.Labels, n.Taints, n.Allocatable, slices.Clone(n.Pods), n.Unschedulable, n.VolumeLimits})
	}
	for _, h := range w.nodes {
		w.daemons(h)
	}
	return w
}

// daemons puts the DaemonSets' pods that the host lacks on it, where they fit and
// no running pod keeps apart from them.
func (w *world) daemons(h *host) {
	for _, d := range w.snap.DaemonSetPods {
		free := h.alloc.Clone()
		taken := false
		for _, q := range h.pods {
			free.Sub(capacity.PodRequests(q))
			taken = taken || portsClash(d, q)
		}
		if tolerated(d, h) && selected(d, h) && capacity.PodRequests(d).Fits(free) && !taken && !w.keptOff(d, h) {
			h.pods = append(h.pods, d)
		}
	}
}

// keptOff says whether a pod somewhere keeps apart from p on the host.
func (w *world) keptOff(p *corev1.Pod, h *host) bool {
	for _, g := range w.nodes {
		for _, q := range g.pods {
			_, others := required(q)
			for i := range others {
				if sameDomain(others[i].TopologyKey, g, h) && w.chosen(q, &others[i], p) {
					return true
				}
			}
		}
	}
	return false
}

// sameDomain says whether two nodes have the label, with the same value.
func sameDomain(key string, g, h *host) bool {
	x, ok := h.labels[key]
	y, ok2 := g.labels[key]
	return ok && ok2 && x == y
}

func portsClash(p, q *corev1.Pod) bool {
	for _, a := range ports(p) {
		for _, b := range ports(q) {
			if a.HostPort == b.HostPort && a.Protocol == b.Protocol {
				return true
			}
		}
	}
	return false
}

// join adds an empty new node with its DaemonSet pods.
func (w *world) join(name string, labels map[string]string, taints []corev1.Taint, alloc capacity.Resources) *host {
	h := &host{name: name, labels: map[string]string{corev1.LabelHostname: name}, taints: taints, alloc: alloc}
	for k, v := range labels {
		h.labels[k] = v
	}
	w.daemons(h)
	w.nodes = append(w.nodes, h)
	return h
}

// refuses says why the scheduler would not put the pod on the host now.
func (w *world) refuses(p *corev1.Pod, h *host) string {
	if h.closed {
		return "unschedulable"
	}
	if !tolerated(p, h) {
		return "taint"
	}
	if !selected(p, h) {
		return "node affinity"
	}
	free := h.alloc.Clone()
	for _, q := range h.pods {
		free.Sub(capacity.PodRequests(q))
	}
	for name, v := range capacity.PodRequests(p) {
		if v > 0 && v > free[name] {
			return "insufficient " + string(name)
		}
	}
	if slices.ContainsFunc(h.pods, func(q *corev1.Pod) bool { return portsClash(p, q) }) {
		return "host port"
	}
	if why := w.volumesRefuse(p, h); why != "" {
		return why
	}
	if why := w.affinityRefuses(p, h); why != "" {
		return why
	}
	return w.spreadRefuses(p, h)
}

func ports(p *corev1.Pod) []corev1.ContainerPort {
	var ps []corev1.ContainerPort
	for _, c := range append(slices.Clone(p.Spec.InitContainers), p.Spec.Containers...) {
		for _, x := range c.Ports {
			if x.HostPort > 0 {
				ps = append(ps, x)
			}
		}
	}
	return ps
}

func tolerated(p *corev1.Pod, h *host) bool {
	for _, t := range h.taints {
		if t.Effect == corev1.TaintEffectPreferNoSchedule {
			continue
		}
		if !slices.ContainsFunc(p.Spec.Tolerations, func(x corev1.Toleration) bool {
			return (x.Effect == "" || x.Effect == t.Effect) && (x.Key == "" || x.Key == t.Key) &&
				(x.Operator == corev1.TolerationOpExists || x.Value == t.Value)
		}) {
			return false
		}
	}
	return true
}

func selected(p *corev1.Pod, h *host) bool {
	for k, v := range p.Spec.NodeSelector {
		if h.labels[k] != v {
			return false
		}
	}
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return true
	}
	return anyTerm(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution, h)
}

func anyTerm(s *corev1.NodeSelector, h *host) bool {
	for _, t := range s.NodeSelectorTerms {
		ok := len(t.MatchExpressions)+len(t.MatchFields) > 0
		for _, e := range t.MatchExpressions {
			v, has := h.labels[e.Key]
			ok = ok && expression(e, v, has)
		}
		for _, e := range t.MatchFields {
			ok = ok && expression(e, h.name, true)
		}
		if ok {
			return true
		}
	}
	return false
}

func expression(e corev1.NodeSelectorRequirement, v string, has bool) bool {
	switch e.Operator {
	case corev1.NodeSelectorOpIn:
		return has && slices.Contains(e.Values, v)
	case corev1.NodeSelectorOpNotIn:
		return !has || !slices.Contains(e.Values, v)
	case corev1.NodeSelectorOpExists:
		return has
	case corev1.NodeSelectorOpDoesNotExist:
		return !has
	}
	have, err1 := strconv.Atoi(v)
	want, err2 := strconv.Atoi(e.Values[0])
	if !has || err1 != nil || err2 != nil {
		return false
	}
	if e.Operator == corev1.NodeSelectorOpGt {
		return have > want
	}
	return have < want
}

func (w *world) volumesRefuse(p *corev1.Pod, h *host) string {
	drivers := func(p *corev1.Pod) map[string]string {
		out := map[string]string{}
		for _, v := range p.Spec.Volumes {
			if v.PersistentVolumeClaim == nil {
				continue
			}
			name := p.Namespace + "/" + v.PersistentVolumeClaim.ClaimName
			c := w.snap.PVCs[name]
			if c == nil {
				continue
			}
			if pv := w.snap.PVs[c.Spec.VolumeName]; pv != nil {
				out[pv.Spec.CSI.VolumeHandle] = pv.Spec.CSI.Driver
			} else if c.Spec.StorageClassName != nil && w.snap.StorageClasses[*c.Spec.StorageClassName] != nil {
				out["claim "+name] = w.snap.StorageClasses[*c.Spec.StorageClassName].Provisioner
			}
		}
		return out
	}
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim == nil {
			continue
		}
		c := w.snap.PVCs[p.Namespace+"/"+v.PersistentVolumeClaim.ClaimName]
		if c == nil {
			return "no claim"
		}
		if c.Spec.VolumeName != "" {
			pv := w.snap.PVs[c.Spec.VolumeName]
			if pv == nil || pv.Spec.NodeAffinity != nil && !anyTerm(pv.Spec.NodeAffinity.Required, h) {
				return "volume elsewhere"
			}
			continue
		}
		class := w.snap.StorageClasses[*c.Spec.StorageClassName]
		if class == nil {
			return "no class"
		}
		if class.VolumeBindingMode == nil || *class.VolumeBindingMode == storagev1.VolumeBindingImmediate {
			return "not bound yet"
		}
		if len(class.AllowedTopologies) > 0 && !slices.ContainsFunc(class.AllowedTopologies, func(t corev1.TopologySelectorTerm) bool {
			for _, e := range t.MatchLabelExpressions {
				if !slices.Contains(e.Values, h.labels[e.Key]) {
					return false
				}
			}
			return true
		}) {
			return "class topology"
		}
	}
	for driver, limit := range h.limits {
		all := map[string]bool{}
		for _, q := range append(slices.Clone(h.pods), p) {
			for id, d := range drivers(q) {
				if d == driver {
					all[id] = true
				}
			}
		}
		mine := slices.Contains(slices.Collect(func(yield func(string) bool) {
			for _, d := range drivers(p) {
				if !yield(d) {
					return
				}
			}
		}), driver)
		if mine && int64(len(all)) > limit {
			return "attach limit"
		}
	}
	return ""
}

// chosen says whether the affinity term of pod p selects pod q.
func (w *world) chosen(p *corev1.Pod, t *corev1.PodAffinityTerm, q *corev1.Pod) bool {
	ns := slices.Contains(t.Namespaces, q.Namespace)
	if t.NamespaceSelector != nil {
		ns = ns || labelsMatch(t.NamespaceSelector, w.snap.Namespaces[q.Namespace])
	} else if len(t.Namespaces) == 0 {
		ns = q.Namespace == p.Namespace
	}
	if !ns || !labelsMatch(t.LabelSelector, q.Labels) {
		return false
	}
	for _, k := range t.MatchLabelKeys {
		if v, ok := p.Labels[k]; ok && (q.Labels[k] != v) {
			return false
		}
	}
	for _, k := range t.MismatchLabelKeys {
		if v, ok := p.Labels[k]; ok && q.Labels[k] == v {
			return false
		}
	}
	return true
}

func labelsMatch(s *metav1.LabelSelector, l map[string]string) bool {
	if s == nil {
		return false
	}
	for k, v := range s.MatchLabels {
		if l[k] != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		v, has := l[e.Key]
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			if !has || !slices.Contains(e.Values, v) {
				return false
			}
		case metav1.LabelSelectorOpNotIn:
			if has && slices.Contains(e.Values, v) {
				return false
			}
		case metav1.LabelSelectorOpExists:
			if !has {
				return false
			}
		case metav1.LabelSelectorOpDoesNotExist:
			if has {
				return false
			}
		}
	}
	return true
}

func required(p *corev1.Pod) (near, apart []corev1.PodAffinityTerm) {
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			near = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
		if a.PodAntiAffinity != nil {
			apart = a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		}
	}
	return near, apart
}

func (w *world) affinityRefuses(p *corev1.Pod, h *host) string {
	near, apart := required(p)
	for _, g := range w.nodes {
		for _, q := range g.pods {
			for i := range apart {
				if sameDomain(apart[i].TopologyKey, g, h) && w.chosen(p, &apart[i], q) {
					return "anti-affinity"
				}
			}
		}
	}
	if w.keptOff(p, h) {
		return "anti-affinity of another"
	}
	if len(near) == 0 {
		return ""
	}
	all := func(q *corev1.Pod) bool {
		for i := range near {
			if !w.chosen(p, &near[i], q) {
				return false
			}
		}
		return true
	}
	satisfied, anybody := true, false
	for i := range near {
		key := near[i].TopologyKey
		if _, ok := h.labels[key]; !ok {
			return "no topology label"
		}
		found := false
		for _, g := range w.nodes {
			for _, q := range g.pods {
				if all(q) {
					if _, ok := g.labels[key]; ok {
						anybody = true
					}
					found = found || sameDomain(key, g, h)
				}
			}
		}
		satisfied = satisfied && found
	}
	if satisfied || !anybody && all(p) {
		return ""
	}
	return "affinity"
}

func (w *world) spreadRefuses(p *corev1.Pod, h *host) string {
	var hard []corev1.TopologySpreadConstraint
	for _, c := range p.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			hard = append(hard, c)
		}
	}
	for _, c := range hard {
		here, ok := h.labels[c.TopologyKey]
		if !ok {
			return "no spread label"
		}
		counts := map[string]int{}
		matches := func(q *corev1.Pod) bool {
			if q.Namespace != p.Namespace || !labelsMatch(c.LabelSelector, q.Labels) {
				return false
			}
			for _, k := range c.MatchLabelKeys {
				if v, ok := p.Labels[k]; ok && q.Labels[k] != v {
					return false
				}
			}
			return true
		}
		empty := c.LabelSelector != nil && len(c.LabelSelector.MatchLabels)+len(c.LabelSelector.MatchExpressions)+len(c.MatchLabelKeys) == 0
	nodes:
		for _, g := range w.nodes {
			for _, o := range hard {
				if _, ok := g.labels[o.TopologyKey]; !ok {
					continue nodes
				}
			}
			if (c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor) && !selected(p, g) {
				continue
			}
			if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor && (!tolerated(p, g) || g.closed) {
				continue
			}
			counts[g.labels[c.TopologyKey]] += 0
			for _, q := range g.pods {
				if q.DeletionTimestamp == nil && !empty && matches(q) {
					counts[g.labels[c.TopologyKey]]++
				}
			}
		}
		least := math.MaxInt
		for _, n := range counts {
			least = min(least, n)
		}
		if c.MinDomains != nil && len(counts) < int(*c.MinDomains) || len(counts) == 0 {
			least = 0
		}
		self := 0
		if matches(p) {
			self = 1
		}
		if counts[here]+self-least > int(c.MaxSkew) {
			return "spread"
		}
	}
	return ""
}
