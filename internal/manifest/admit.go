package manifest

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// admit does to new pods what the API server's admission does from classes. What
// pods bring from a cluster stands.
func (s *Set) admit(pods, daemons []*corev1.Pod) {
	classes := capacity.NewClasses(all[*nodev1.RuntimeClass](s), all[*schedulingv1.PriorityClass](s))
	unknown := map[string]int{}
	for _, list := range [2][]*corev1.Pod{pods, daemons} {
		for _, p := range list {
			runtime, priority := classes.Admit(p)
			if runtime != "" {
				unknown[fmt.Sprintf("RuntimeClass %s is not given: its pods are taken to have no overhead", runtime)]++
			}
			if priority != "" {
				unknown[fmt.Sprintf("PriorityClass %s is not given: its pods are taken to have priority 0", priority)]++
			}
		}
	}
	for _, note := range sortedKeys(unknown) {
		s.Note("%s", note)
	}
}

// spread adds kube-scheduler's default constraints, and what says which pods
// belong together.
func (s *Set) spread(out *capacity.Snapshot, defaults []corev1.TopologySpreadConstraint) {
	if len(defaults) == 0 {
		return
	}
	out.DefaultSpread, out.Services = defaults, all[*corev1.Service](s)
	out.OwnerSelectors = map[string]*metav1.LabelSelector{}
	add := func(kind string, o Object, selector *metav1.LabelSelector) {
		out.OwnerSelectors[kind+"/"+o.GetNamespace()+"/"+o.GetName()] = selector
	}
	for _, o := range all[*appsv1.ReplicaSet](s) {
		add("ReplicaSet", o, o.Spec.Selector)
	}
	for _, o := range all[*appsv1.StatefulSet](s) {
		add("StatefulSet", o, o.Spec.Selector)
	}
	for _, o := range all[*corev1.ReplicationController](s) {
		add("ReplicationController", o, &metav1.LabelSelector{MatchLabels: o.Spec.Selector})
	}
	for _, o := range all[*appsv1.Deployment](s) {
		hash := templateHash(&o.Spec.Template)
		selector := &metav1.LabelSelector{}
		if o.Spec.Selector != nil {
			selector = o.Spec.Selector.DeepCopy()
		}
		metav1.AddLabelToSelector(selector, appsv1.DefaultDeploymentUniqueLabelKey, hash)
		out.OwnerSelectors["ReplicaSet/"+o.Namespace+"/"+o.Name+"-"+hash] = selector
	}
}
