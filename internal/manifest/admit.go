package manifest

import (
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// Priorities of the classes that every cluster has (k8s.io/kubernetes,
// pkg/apis/scheduling).
const (
	priorityNodeCritical    = 2000001000
	priorityClusterCritical = 2000000000
)

// admit does to new pods what the API server's admission does from classes: a
// RuntimeClass gives overhead, node selector and tolerations, a PriorityClass the
// priority. What pods bring from a cluster stands.
func (s *Set) admit(pods, daemons []*corev1.Pod) {
	runtimes := map[string]*nodev1.RuntimeClass{}
	for _, c := range all[*nodev1.RuntimeClass](s) {
		runtimes[c.Name] = c
	}
	priorities := map[string]int32{"system-node-critical": priorityNodeCritical, "system-cluster-critical": priorityClusterCritical}
	var byDefault *schedulingv1.PriorityClass
	for _, c := range all[*schedulingv1.PriorityClass](s) {
		priorities[c.Name] = c.Value
		// Of several defaults the lowest counts.
		if c.GlobalDefault && (byDefault == nil || c.Value < byDefault.Value) {
			byDefault = c
		}
	}
	unknown := map[string]int{}
	for _, list := range [2][]*corev1.Pod{pods, daemons} {
		for _, p := range list {
			s.admitRuntime(p, runtimes, unknown)
			switch name := p.Spec.PriorityClassName; {
			case p.Spec.Priority != nil:
			case name != "":
				if v, ok := priorities[name]; ok {
					p.Spec.Priority = &v
				} else {
					unknown[fmt.Sprintf("PriorityClass %s is not given: its pods are taken to have priority 0", name)]++
				}
			case byDefault != nil:
				p.Spec.Priority = &byDefault.Value
			}
		}
	}
	for _, note := range sortedKeys(unknown) {
		s.Note("%s", note)
	}
}

func (s *Set) admitRuntime(p *corev1.Pod, classes map[string]*nodev1.RuntimeClass, unknown map[string]int) {
	if p.Spec.RuntimeClassName == nil || p.Spec.NodeName != "" || p.Spec.Overhead != nil {
		return
	}
	c := classes[*p.Spec.RuntimeClassName]
	if c == nil {
		unknown[fmt.Sprintf("RuntimeClass %s is not given: its pods are taken to have no overhead", *p.Spec.RuntimeClassName)]++
		return
	}
	if c.Overhead != nil {
		p.Spec.Overhead = c.Overhead.PodFixed
	}
	if c.Scheduling == nil {
		return
	}
	if len(c.Scheduling.NodeSelector) > 0 {
		// Where pod and class contradict each other, the API server refuses the pod;
		// here the class's label keeps it off every node but the class's.
		selector := maps.Clone(c.Scheduling.NodeSelector)
		for k, v := range p.Spec.NodeSelector {
			if _, ok := selector[k]; !ok {
				selector[k] = v
			}
		}
		p.Spec.NodeSelector = selector
	}
	// Pods of one workload share the slice behind their tolerations.
	p.Spec.Tolerations = append(p.Spec.Tolerations[:len(p.Spec.Tolerations):len(p.Spec.Tolerations)], c.Scheduling.Tolerations...)
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
