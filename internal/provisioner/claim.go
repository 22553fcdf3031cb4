package provisioner

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// isTrue reports whether a condition is True.
func isTrue(conditions []metav1.Condition, kind string) bool {
	return meta.IsStatusConditionTrue(conditions, kind)
}

// gone reports whether EC2 has said that a claim's instance is terminated, or
// there never was one to wait for.
func gone(c *v1alpha1.NodeClaim) bool {
	return isTrue(c.Status.Conditions, v1alpha1.ConditionTerminated)
}

// priceOf is a claim's price in $/h: what was bought, or is to be bought.
func priceOf(c *v1alpha1.NodeClaim) float64 {
	if c.Status.HourlyPrice != "" {
		return c.Status.HourlyPrice.Dollars()
	}
	return c.Spec.Offerings[0].HourlyPrice.Dollars()
}

// reservedPrice is what a claim takes of a limit on the cost, in $/h: its price,
// and before EC2 has chosen, that of the dearest offering that it may choose.
func reservedPrice(c *v1alpha1.NodeClaim) float64 {
	if c.Status.HourlyPrice != "" {
		return c.Status.HourlyPrice.Dollars()
	}
	most := 0.0
	for _, o := range c.Spec.Offerings {
		most = max(most, o.HourlyPrice.Dollars())
	}
	return most
}

// entersReservation reports whether a claim is to be launched into a reservation,
// so that EC2 still counts its room there as free.
func entersReservation(c *v1alpha1.NodeClaim) bool {
	l := c.Status.Launch
	return c.Status.InstanceID == "" && c.Spec.Offerings[0].CapacityType == v1alpha1.CapacityTypeReserved &&
		(l == nil || l.CapacityType == v1alpha1.CapacityTypeReserved)
}

// capacityOf and allocatableOf are what a claim's node has, or is expected to.
func capacityOf(c *v1alpha1.NodeClaim) capacity.Resources {
	if len(c.Status.Capacity) > 0 {
		return capacity.FromResourceList(c.Status.Capacity)
	}
	return capacity.FromResourceList(c.Spec.Capacity)
}

func allocatableOf(c *v1alpha1.NodeClaim) capacity.Resources {
	if len(c.Status.Allocatable) > 0 {
		return capacity.FromResourceList(c.Status.Allocatable)
	}
	return capacity.FromResourceList(c.Spec.Allocatable)
}

// withDefaults returns have plus what is only in defaults.
func withDefaults(have, defaults map[string]string) map[string]string {
	out := maps.Clone(defaults)
	maps.Copy(out, have)
	return out
}

func hasTaint(taints []corev1.Taint, key string) bool {
	for i := range taints {
		if taints[i].Key == key {
			return true
		}
	}
	return false
}
