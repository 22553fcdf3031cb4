package main

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// preferences adds what the pods of a template would rather have. A filter never
// looks at it, so that no preference may cost a pod its place.
func (g *generator) preferences(p *corev1.Pod) {
	if g.chance(50) {
		a := affinity(p)
		if a.NodeAffinity == nil {
			a.NodeAffinity = &corev1.NodeAffinity{}
		}
		for range g.upTo(1, 2) {
			a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution,
				corev1.PreferredSchedulingTerm{Weight: int32(one(g, 1, 50, 100)), Preference: g.selectorTerms().NodeSelectorTerms[0]})
		}
	}
	weighted := func() []corev1.WeightedPodAffinityTerm {
		var ts []corev1.WeightedPodAffinityTerm
		for _, t := range g.podTerms(p) {
			ts = append(ts, corev1.WeightedPodAffinityTerm{Weight: int32(one(g, 1, 50, 100)), PodAffinityTerm: t})
		}
		return ts
	}
	if g.chance(40) {
		a := affinity(p)
		if a.PodAffinity == nil {
			a.PodAffinity = &corev1.PodAffinity{}
		}
		a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = weighted()
	}
	if g.chance(40) {
		a := affinity(p)
		if a.PodAntiAffinity == nil {
			a.PodAntiAffinity = &corev1.PodAntiAffinity{}
		}
		a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = weighted()
	}
	if g.chance(40) && len(p.Spec.TopologySpreadConstraints) == 0 {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: g.topologyKey(),
			WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: g.selector(p)}}
	}
}

// resourceClaim has the pods of a template share a claim for a device. No node
// has any.
func (g *generator) resourceClaim(p *corev1.Pod) {
	name := "device-" + p.Name
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "device", ResourceClaimName: &name}}
	if g.chance(50) {
		g.s.ResourceClaims = append(g.s.ResourceClaims, &resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: name, UID: types.UID(name)},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
				Name: "one", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}}}},
		})
	}
}

// serve gives the pods of a template what kube-scheduler's default constraints
// find them by: a Service, a ReplicaSet, or both.
func (g *generator) serve(p *corev1.Pod) {
	if len(g.s.DefaultSpread) == 0 {
		for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelHostname, v1alpha1.LabelCapacityType} {
			if g.chance(50) {
				continue
			}
			g.s.DefaultSpread = append(g.s.DefaultSpread, corev1.TopologySpreadConstraint{MaxSkew: int32(one(g, 1, 1, 2)), TopologyKey: key,
				WhenUnsatisfiable: one(g, corev1.DoNotSchedule, corev1.DoNotSchedule, corev1.ScheduleAnyway)})
		}
	}
	if g.chance(60) {
		g.s.Services = append(g.s.Services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: fmt.Sprint("s", len(g.s.Services))},
			Spec: corev1.ServiceSpec{Selector: map[string]string{labelTier: p.Labels[labelTier]}}})
	}
	if g.chance(60) {
		name := fmt.Sprint("rs", len(g.s.Sets))
		g.s.Sets = append(g.s.Sets, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: name, UID: types.UID(name)},
			Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}}}})
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name, UID: types.UID(name), Controller: new(true)}}
	}
}
