package provisioner

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

// holds says what keeps a proposal from going on; empty: nothing. Nodes that
// were tainted for it are put back into use.
func (d *disruption) holds(p proposal, now time.Time) string {
	also := d.taken
	if len(p.nodes) > 1 {
		also = maps.Clone(d.taken)
		for _, c := range p.nodes {
			also[c.node.Name] = true
		}
	}
	for _, c := range p.nodes {
		if until := d.paused(v1alpha1.AnnotationPauseDisruption, c.provisioner, now); !until.IsZero() {
			return "disruption is paused until " + until.UTC().Format(time.RFC3339)
		}
		if d.lastOwn(c.node.Name, also) {
			return "the last ready replica of Berth itself runs there"
		}
		if p.forced || p.reason == v1alpha1.ReasonEmpty {
			continue
		}
		if r, ok := d.refused[c.claim.Name]; ok && now.Before(r.until) {
			return "it was tried in vain; the next try is at " + r.until.UTC().Format(time.RFC3339)
		}
		if why := protected(c.node, d.stores.podsOn(c.node.Name), now); why != "" {
			return why
		}
	}
	return ""
}

// tellHeld makes an event of what keeps a node from going, once for each
// reason. Empty nodes are not worth a word.
func (d *disruption) tellHeld(p proposal, why string) {
	for _, c := range p.nodes {
		if d.held[c.claim.Name] == why {
			continue
		}
		d.held[c.claim.Name] = why
		d.log.Info("disruption held off", "claim", c.claim.Name, "node", c.node.Name, "reason", string(p.reason), "why", why)
		d.cfg.Recorder.Eventf(c.claim, nil, corev1.EventTypeNormal, "DisruptionHeldOff", "Disrupt", "%s: %s", string(p.reason), clip(why))
	}
}

// protected says who asks that a node be left alone: itself or one of its pods
// that a drain would move. Pods that have finished, that belong to the node or
// are on their way out have no say.
func protected(node *corev1.Node, pods []*corev1.Pod, now time.Time) string {
	// A node is annotated like a pod; a duration counts from its creation.
	asPod := &corev1.Pod{ObjectMeta: *node.ObjectMeta.DeepCopy()}
	if by, ok := drain.DoNotDisrupt(asPod, now); ok {
		return "node " + node.Name + " is annotated " + by
	}
	for _, v := range drain.Classify(pods, drain.Facts(node, time.Time{}), now, time.Time{}) {
		if v.Action != drain.Skip && v.Pod.DeletionTimestamp == nil && v.Protected != "" {
			return "pod " + v.Pod.Namespace + "/" + v.Pod.Name + " is annotated " + v.Protected
		}
	}
	return ""
}

// ownLabel and ownName mark Berth's own pods (deploy/chart).
const (
	ownLabel = "app.kubernetes.io/name"
	ownName  = "berth"
)

// ownComponent tells the parts of Berth apart: a replica of one is none of another.
const ownComponent = "app.kubernetes.io/component"

// lastOwn reports whether a ready pod of Berth runs on a node and none of its
// component does on another node that is in use. also are nodes that are about to
// be taken out of use.
func (p *Loops) lastOwn(node string, also map[string]bool) bool {
	last := map[string]bool{}
	for _, pod := range p.stores.podsOn(node) {
		if p.own(pod) {
			last[pod.Labels[ownComponent]] = true
		}
	}
	if len(last) == 0 {
		return false
	}
	for _, pod := range all[*corev1.Pod](p.stores.pods) {
		if pod.Spec.NodeName == node || also[pod.Spec.NodeName] || !p.own(pod) {
			continue
		}
		n, ok := one[*corev1.Node](p.stores.nodes, pod.Spec.NodeName)
		if ok && n.DeletionTimestamp == nil && !drain.Cordoned(n) {
			delete(last, pod.Labels[ownComponent])
		}
	}
	return len(last) > 0
}

// ownTurn says why a replica of Berth must not go yet although there is room for
// it: where all that are ready are on nodes on their way out, they go one after
// the other, in the order of their names, each once all others run again.
func (p *Loops) ownTurn(pod *corev1.Pod) string {
	for _, other := range all[*corev1.Pod](p.stores.pods) {
		switch {
		case other.UID == pod.UID || terminal(other) || other.Namespace != pod.Namespace ||
			other.Labels[ownLabel] != ownName || other.Labels[ownComponent] != pod.Labels[ownComponent]:
		case !p.own(other):
			return "the last ready replica of Berth itself: waits for pod " + other.Name
		case other.Name < pod.Name:
			return "a replica of Berth itself: pod " + other.Name + " goes first"
		}
	}
	return ""
}

// own reports whether a pod is a ready replica of Berth.
func (p *Loops) own(pod *corev1.Pod) bool {
	return pod.Namespace == p.cfg.Namespace && pod.Labels[ownLabel] == ownName && pod.DeletionTimestamp == nil && podReady(pod)
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
