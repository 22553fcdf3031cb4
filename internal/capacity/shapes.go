package capacity

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// shape is a set of waiting pods that are interchangeable.
type shape struct {
	id   int
	key  string
	pod  *corev1.Pod // any of them
	pods []*corev1.Pod
	need
	// priority and oldest say when the shape is served: its own, or its gang's.
	priority int32
	oldest   time.Time
	// bulk is a pod's size in one number.
	bulk    float64
	gang    *gang
	volumes volumeNeeds
	// limited are the volumes that other pods use too and whose number a node
	// limits; limitedBy are the dimensions of these limits.
	limited   []attachment
	limitedBy []int
	// also is what the Snapshot requires of the pods' nodes beside.
	also []*corev1.NodeSelector
	// selects is the node selector and affinity without what volumes and the
	// Snapshot require: what a spread constraint may honor.
	selects *nodeReq

	affinity, anti []term
	spread         []spreadTerm

	// selfAffine: the shape's pods match all its affinity terms themselves;
	// selfSpread: likewise each spread constraint.
	selfAffine bool
	selfSpread []bool

	// Counters to consult before a pod is placed, in the order of the terms.
	affinityCounts, antiCounts, spreadCounts []*counter
	// heldOff counts pods whose anti-affinity matches this shape.
	heldOff []*counter
	// adds are the counters that a placed pod of this shape goes into.
	adds []*counter
	// late are those that it goes into once all others are placed: its pods can
	// be bound after those that the counters are for.
	late []*counter
	// wishes are what its pods prefer; softAdds the counters of such preferences
	// that a placed pod goes into.
	wishes   wishes
	softAdds []*counter

	mode shapeMode
	// counted: only others, whose domains hang on it, are why it is divided.
	counted bool
	// meetsDaemons: some DaemonSet's pod counts towards the shape's affinity or
	// spread, so that a new node does not begin empty.
	meetsDaemons bool
	// neverFirst: DaemonSets' pods on new nodes match the shape's affinity, so
	// that no pod of it can count on being the first of its group.
	neverFirst bool
	// hopeless is what solver.hopeless has found; nil: nobody has asked.
	hopeless *bool
	// sig groups shapes with equal demands on columns, before fit.
	sig int
}

// shapeMode is how a shape is planned.
type shapeMode int

const (
	// modeLocal: what other nodes hold does not matter.
	modeLocal shapeMode = iota
	// modeSplit: pods are first divided among domains, then as modeLocal.
	modeSplit
	// modeCareful: pod by pod.
	modeCareful
)

// groupPods puts the Snapshot's pods into shapes, or into Unschedulable when no
// node could help them. Pods of a shape are in order of age, shapes in an order
// that does not depend on the input's.
func (v *solver) groupPods() {
	visible := v.visibleLabels()
	show := sortedNames(visible)
	users, exclusive := v.volumeUsers()
	pods := slices.Clone(v.snap.Pods)
	slices.SortFunc(pods, comparePods)
	byKey := map[string]*shape{}
	b := make(shapeKey, 0, 1024)
	for _, p := range pods {
		if r := ownReason(p); r != nil {
			v.refuse(p, *r)
			continue
		}
		var needs volumeNeeds
		if len(p.Spec.Volumes) > 0 {
			var r *Reason
			if needs, r = v.volumes.volumeNeeds(p); r != nil {
				v.refuse(p, *r)
				continue
			}
			if i := slices.IndexFunc(needs.exclusive, func(c string) bool { return exclusive[c] }); i >= 0 {
				v.refuse(p, *volumeReason("claim %s is ReadWriteOncePod and in use by another pod", "wait for the other pod to end", needs.exclusive[i]))
				continue
			}
			for _, c := range needs.exclusive {
				exclusive[c] = true
			}
			needs.sort(users)
		}
		gang, self, also := v.gangs[p], p, v.snap.Also[p]
		p = v.spread.apply(p)
		b = b[:0]
		if gang != nil {
			b.str(gang.id.key())
			if pin := gang.pin(); pin != nil {
				needs.selectors = append(needs.selectors, pin)
			}
		} else {
			b.str("")
		}
		b.pod(p)
		if visible != nil {
			b.str(p.Namespace)
			b.visibleLabels(p.Labels, show)
		}
		for _, sel := range needs.selectors {
			b.nodeSelector(sel)
		}
		for _, d := range sortedNames(needs.attach) {
			b.str(d)
			b.num(needs.attach[d])
		}
		for _, id := range needs.shared {
			b.str(id.driver)
			b.str(id.id)
		}
		if len(also) > 0 {
			b.num(-1)
			for _, sel := range also {
				b.nodeSelector(sel)
			}
		}
		s := byKey[string(b)]
		if s == nil {
			s = &shape{key: string(b), pod: p, volumes: needs, also: also, oldest: p.CreationTimestamp.Time}
			s.need = need{pod: p, requests: PodRequests(p), ports: hostPorts(p), stored: len(needs.selectors) > 0}
			s.node, s.selects = v.nodeReq(p, slices.Concat(also, needs.selectors)), v.nodeReq(p, nil)
			s.priority, s.bulk = priorityOf(p), bulk(s.requests)
			if gang != nil {
				s.gang, s.priority, s.oldest = gang, gang.priority, gang.oldest
				if gang.Topology != "" {
					s.pinned = gang.Topology + "=" + gang.domains[0]
				}
			}
			s.affinity, s.anti = affinityTerms(p)
			s.spread = spreadTerms(p)
			s.wishes = v.wishesOf(p)
			s.selfAffine = s.affinityMatches(v, p.Namespace, p.Labels)
			for i := range s.spread {
				s.selfSpread = append(s.selfSpread, v.selfMatches(s.spread[i].q, s))
			}
			byKey[s.key] = s
			v.shapes = append(v.shapes, s)
		}
		s.pods = append(s.pods, self)
	}
	slices.SortFunc(v.shapes, func(a, b *shape) int { return cmp.Compare(a.key, b.key) })
	for i, s := range v.shapes {
		s.id = i
	}
}

// comparePods orders pods by age, then by name.
func comparePods(a, b *corev1.Pod) int {
	return cmp.Or(
		a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
}

// visibleLabels are the label keys that some selector looks at; nil when nobody
// selects pods, so that neither labels nor namespaces matter.
func (v *solver) visibleLabels() map[string]bool {
	keys := map[string]bool{}
	selects := false
	look := func(p *corev1.Pod) {
		if selectsPods(p) {
			selects = true
			podSelectorKeys(p, keys)
		}
	}
	for _, p := range v.snap.Pods {
		look(v.spread.apply(p))
		preferredKeys(p, keys)
	}
	for _, p := range v.snap.DaemonSetPods {
		look(p)
	}
	for _, n := range v.snap.Nodes {
		f := v.factsOf(n)
		selects = selects || f.selects
		for _, k := range f.selectorKeys {
			keys[k] = true
		}
	}
	if !selects {
		return nil
	}
	return keys
}

// selectsPods says whether the pod's place may hang on others that it selects.
func selectsPods(p *corev1.Pod) bool {
	return len(p.Spec.TopologySpreadConstraints) > 0 || p.Spec.Affinity != nil && (p.Spec.Affinity.PodAffinity != nil || p.Spec.Affinity.PodAntiAffinity != nil)
}

// nodeReq finds or makes the compiled node requirement of a pod.
func (v *solver) nodeReq(p *corev1.Pod, more []*corev1.NodeSelector) *nodeReq {
	key := nodeReqKey(p, more)
	r := v.reqs[key]
	if r == nil {
		r = newNodeReq(p, more)
		v.reqs[key] = r
	}
	return r
}

// selfMatches says whether a pod of the shape is selected by q.
func (v *solver) selfMatches(q *query, s *shape) bool {
	return q.matches(v.snap.Namespaces, s.pod.Namespace, s.pod.Labels)
}

// topologyKeys are the keys of all the shape's ties to other pods.
func (s *shape) topologyKeys() []string {
	var keys []string
	for _, t := range append(slices.Clone(s.affinity), s.anti...) {
		keys = append(keys, t.key)
	}
	for i := range s.spread {
		keys = append(keys, s.spread[i].key)
	}
	return keys
}

// hostAffine says whether the shape's pods must share a host with others.
func (s *shape) hostAffine() bool {
	return slices.ContainsFunc(s.affinity, func(t term) bool { return t.key == corev1.LabelHostname })
}
