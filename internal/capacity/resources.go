package capacity

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// PodRequests is what kube-scheduler takes a pod to need of a node: containers,
// init containers, sidecars, pod-level resources and overhead by the rules of
// k8s.io/component-helpers, plus pods: 1. For a pod that is bound, what the
// kubelet has admitted in an in-place resize counts too. Requests of 0 are left
// out.
func PodRequests(pod *corev1.Pod) Resources {
	bound := pod.Spec.NodeName != ""
	if r, plain := plainRequests(pod, bound); plain {
		return r
	}
	return generalRequests(pod, bound)
}

func generalRequests(pod *corev1.Pod, bound bool) Resources {
	r := FromResourceList(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{
		UseStatusResources: bound,
		InPlacePodLevelResourcesVerticalScalingEnabled: bound,
	}))
	r[corev1.ResourcePods] = 1
	return r
}

// plainRequests are the requests of a pod that has nothing but containers, as
// most have: their sum. It spares the general rule's copies.
func plainRequests(pod *corev1.Pod, bound bool) (Resources, bool) {
	s := &pod.Spec
	if len(s.InitContainers) > 0 || s.Resources != nil || len(s.Overhead) > 0 || bound && len(pod.Status.ContainerStatuses) > 0 {
		return nil, false
	}
	r := make(Resources, 4)
	for i := range s.Containers {
		for name, q := range s.Containers[i].Resources.Requests {
			v := quantityValue(name, &q)
			// Fractions of a unit add up before they are rounded.
			if v < 0 || len(s.Containers) > 1 && !wholeUnits(name, &q, v) {
				return nil, false
			}
			if v > 0 {
				r[name] += v
			}
		}
	}
	r[corev1.ResourcePods] = 1
	return r, true
}

// wholeUnits says whether the quantity is v without rounding.
func wholeUnits(name corev1.ResourceName, q *resource.Quantity, v int64) bool {
	if name == corev1.ResourceCPU {
		return q.Cmp(*resource.NewMilliQuantity(v, resource.DecimalSI)) == 0
	}
	return q.Cmp(*resource.NewQuantity(v, resource.DecimalSI)) == 0
}

// FromResourceList converts quantities, rounding up as kube-scheduler does.
// Entries that are 0 are left out.
func FromResourceList(list corev1.ResourceList) Resources {
	r := make(Resources, len(list)+1)
	for name, q := range list {
		if v := quantityValue(name, &q); v != 0 {
			r[name] = v
		}
	}
	return r
}

// quantityValue is a quantity in the unit that Resources has for its name.
func quantityValue(name corev1.ResourceName, q *resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// List converts to quantities in their customary formats.
func (r Resources) List() corev1.ResourceList {
	list := make(corev1.ResourceList, len(r))
	for name, v := range r {
		list[name] = formatQuantity(name, v)
	}
	return list
}

func formatQuantity(name corev1.ResourceName, v int64) resource.Quantity {
	switch name {
	case corev1.ResourceCPU:
		return *resource.NewMilliQuantity(v, resource.DecimalSI)
	case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return *resource.NewQuantity(v, resource.BinarySI)
	default:
		return *resource.NewQuantity(v, resource.DecimalSI)
	}
}

// Clone is a copy that may be changed.
func (r Resources) Clone() Resources {
	if r == nil {
		return Resources{}
	}
	return maps.Clone(r)
}

// Add adds other to r in place.
func (r Resources) Add(other Resources) {
	for name, v := range other {
		r[name] += v
	}
}

// Sub subtracts other from r in place; entries may become negative.
func (r Resources) Sub(other Resources) {
	for name, v := range other {
		r[name] -= v
	}
}

// Fits says whether requests r fit into free. What is not requested does not
// matter, even when free is negative there: so does kube-scheduler judge.
func (r Resources) Fits(free Resources) bool {
	for name, v := range r {
		if v > 0 && v > free[name] {
			return false
		}
	}
	return true
}
