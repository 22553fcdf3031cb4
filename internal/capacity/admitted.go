package capacity

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Priorities of the classes that every cluster has (k8s.io/kubernetes,
// pkg/apis/scheduling).
const (
	priorityNodeCritical    = 2000001000
	priorityClusterCritical = 2000000000
)

// Classes are the objects from which the API server's admission completes new
// pods. The zero value knows the priorities that every cluster has.
type Classes struct {
	runtimes   map[string]*nodev1.RuntimeClass
	priorities map[string]int32
	// usual is the priority of pods that name no class; nil: none is set.
	usual *int32
}

// NewClasses are these objects, in any order.
func NewClasses(runtimes []*nodev1.RuntimeClass, priorities []*schedulingv1.PriorityClass) *Classes {
	c := &Classes{runtimes: map[string]*nodev1.RuntimeClass{}, priorities: map[string]int32{}}
	for _, r := range runtimes {
		c.runtimes[r.Name] = r
	}
	for _, p := range priorities {
		c.priorities[p.Name] = p.Value
		// Of several defaults the lowest counts.
		if p.GlobalDefault && (c.usual == nil || p.Value < *c.usual) {
			c.usual = &p.Value
		}
	}
	return c
}

// Admit does to a new pod what the API server's admission does from classes: a
// RuntimeClass gives overhead, node selector and tolerations, a PriorityClass the
// priority. What the pod has already stands. It returns the names of the classes
// that it names and nobody knows; empty: none.
func (c *Classes) Admit(p *corev1.Pod) (runtime, priority string) {
	if name := p.Spec.RuntimeClassName; name != nil && p.Spec.NodeName == "" && p.Spec.Overhead == nil {
		if class := c.runtimes[*name]; class != nil {
			admitRuntime(p, class)
		} else {
			runtime = *name
		}
	}
	switch name := p.Spec.PriorityClassName; {
	case p.Spec.Priority != nil:
	case name != "":
		if v, ok := c.priority(name); ok {
			p.Spec.Priority = &v
		} else {
			priority = name
		}
	default:
		p.Spec.Priority = c.usual
	}
	return runtime, priority
}

func (c *Classes) priority(name string) (int32, bool) {
	switch name {
	case "system-node-critical":
		return priorityNodeCritical, true
	case "system-cluster-critical":
		return priorityClusterCritical, true
	}
	v, ok := c.priorities[name]
	return v, ok
}

func admitRuntime(p *corev1.Pod, c *nodev1.RuntimeClass) {
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

// DaemonSetPod is the pod that a DaemonSet's controller makes for each node, as
// the API server stores it but for the priority and what RuntimeClasses give
// (Admit), without the affinity to one node. The tolerations are those of
// k8s.io/kubernetes/pkg/controller/daemon/util.
func DaemonSetPod(ds *appsv1.DaemonSet) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ds.Namespace, Name: ds.Name,
			Labels: ds.Spec.Template.Labels, Annotations: ds.Spec.Template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ds, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))},
		},
		Spec:   *ds.Spec.Template.Spec.DeepCopy(),
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	DefaultPodSpec(&p.Spec)
	tolerate := func(key string, effect corev1.TaintEffect) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect})
	}
	tolerate(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
	tolerate(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	tolerate(corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule)
	tolerate(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule)
	tolerate(corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule)
	tolerate(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	if p.Spec.HostNetwork {
		tolerate(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule)
	}
	return p
}

// AskAsMuchAs has a DaemonSet's pod ask for no less than one that was made: LimitRanges,
// webhooks and the VPA add to what the template says, and will add to the next one. What
// is more counts as overhead, the one part of a pod's requests that any resource may
// be in.
func AskAsMuchAs(pod, made *corev1.Pod) {
	more := Resources{}
	own := PodRequests(pod)
	for name, n := range PodRequests(made) {
		if n > own[name] {
			more[name] = n - own[name]
		}
	}
	if len(more) == 0 {
		return
	}
	more.Add(FromResourceList(pod.Spec.Overhead))
	pod.Spec.Overhead = more.List()
}

// DaemonSetTarget is the one node that a DaemonSet's controller made a pod for;
// empty for all other pods. Nothing can be bought for such a pod.
func DaemonSetTarget(p *corev1.Pod) string {
	required := requiredNodeAffinity(p)
	if required == nil {
		return ""
	}
	if ref := metav1.GetControllerOfNoCopy(p); ref == nil || ref.Kind != "DaemonSet" {
		return ""
	}
	for i := range required.NodeSelectorTerms {
		for _, f := range required.NodeSelectorTerms[i].MatchFields {
			if f.Key == fieldNodeName && f.Operator == corev1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

// DefaultPodSpec does to a pod's spec what the API server does where scheduling
// can tell the difference (k8s.io/kubernetes/pkg/apis/core/v1, SetDefaults_Pod):
// requests default to limits, host ports of host-network pods to the
// containers' ports. Workloads' templates are stored without either.
func DefaultPodSpec(spec *corev1.PodSpec) {
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			r := &list[i].Resources
			r.Requests = withDefaults(r.Requests, r.Limits)
			for j := range list[i].Ports {
				port := &list[i].Ports[j]
				if spec.HostNetwork && port.HostPort == 0 {
					port.HostPort = port.ContainerPort
				}
				if port.Protocol == "" {
					port.Protocol = corev1.ProtocolTCP
				}
			}
		}
	}
	if spec.SchedulerName == "" {
		spec.SchedulerName = corev1.DefaultSchedulerName
	}
	if r := spec.Resources; r != nil {
		// Of the pod as a whole, what its containers request comes first.
		r.Requests = withDefaults(r.Requests, withoutKeysOf(r.Limits, containerRequests(spec)))
	}
}

func containerRequests(spec *corev1.PodSpec) corev1.ResourceList {
	return resourcehelper.PodRequests(&corev1.Pod{Spec: *spec}, resourcehelper.PodResourcesOptions{SkipPodLevelResources: true, ExcludeOverhead: true})
}

func withoutKeysOf(list, other corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, q := range list {
		if _, ok := other[name]; !ok {
			out[name] = q
		}
	}
	return out
}

func withDefaults(list, defaults corev1.ResourceList) corev1.ResourceList {
	for name, q := range defaults {
		if _, ok := list[name]; !ok {
			if list == nil {
				list = corev1.ResourceList{}
			}
			list[name] = q.DeepCopy()
		}
	}
	return list
}
