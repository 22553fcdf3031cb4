package capacity

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// defaultSpread gives pods the spread constraints that kube-scheduler gives
// them. Nil gives none.
type defaultSpread struct {
	constraints []corev1.TopologySpreadConstraint
	services    map[string][]*corev1.Service
	owners      map[string]*metav1.LabelSelector
}

func newDefaultSpread(s *Snapshot) *defaultSpread {
	if len(s.DefaultSpread) == 0 {
		return nil
	}
	d := &defaultSpread{constraints: s.DefaultSpread, services: map[string][]*corev1.Service{}, owners: s.OwnerSelectors}
	for _, svc := range s.Services {
		if len(svc.Spec.Selector) > 0 {
			d.services[svc.Namespace] = append(d.services[svc.Namespace], svc)
		}
	}
	return d
}

// apply is the pod as kube-scheduler reads it: itself, or, where it has no spread
// constraint of its own and belongs to something, a copy with the default ones.
func (d *defaultSpread) apply(p *corev1.Pod) *corev1.Pod {
	if d == nil || len(p.Spec.TopologySpreadConstraints) > 0 {
		return p
	}
	selector := d.selectorOf(p)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		return p
	}
	out := *p
	out.Spec.TopologySpreadConstraints = make([]corev1.TopologySpreadConstraint, len(d.constraints))
	for i, c := range d.constraints {
		c.LabelSelector, c.MatchLabelKeys = selector, nil
		out.Spec.TopologySpreadConstraints[i] = c
	}
	return &out
}

// selectorOf is what the pod's Services and its owner together select: kube-
// scheduler's plugins/helper.DefaultSelector.
func (d *defaultSpread) selectorOf(p *corev1.Pod) *metav1.LabelSelector {
	out := &metav1.LabelSelector{MatchLabels: map[string]string{}}
	for _, svc := range d.services[p.Namespace] {
		if labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(p.Labels)) {
			maps.Copy(out.MatchLabels, svc.Spec.Selector)
		}
	}
	o := metav1.GetControllerOfNoCopy(p)
	if o == nil || !selects[o.APIVersion+" "+o.Kind] {
		return out
	}
	if s := d.owners[o.Kind+"/"+p.Namespace+"/"+o.Name]; s != nil {
		maps.Copy(out.MatchLabels, s.MatchLabels)
		out.MatchExpressions = s.MatchExpressions
	}
	return out
}

// selects are the kinds of owners whose selectors count.
var selects = map[string]bool{"apps/v1 ReplicaSet": true, "apps/v1 StatefulSet": true, "v1 ReplicationController": true}
