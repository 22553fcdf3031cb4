package main

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

func (g *generator) node(i int, templates []*corev1.Pod) {
	name := fmt.Sprint("node-", i)
	n := &capacity.Node{
		Name: name, InFlight: g.chance(30),
		Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelTopologyZone: one(g, append(slices.Clone(zones), "us-west-2d")...),
			v1alpha1.LabelCapacityType: one(g, v1alpha1.CapacityTypeSpot, v1alpha1.CapacityTypeOnDemand), corev1.LabelArchStable: "amd64",
		},
		Allocatable: capacity.Resources{corev1.ResourceCPU: int64(g.upTo(1, 8)) * 1000, corev1.ResourceMemory: int64(g.upTo(1, 16)) << 30, corev1.ResourcePods: int64(g.upTo(1, 20))},
	}
	if g.chance(10) {
		delete(n.Labels, corev1.LabelTopologyZone)
	}
	if g.chance(30) {
		n.Labels[labelTeam] = one(g, "a", "b")
	}
	if g.has.teams && g.chance(30) {
		n.Labels[labelGrade] = one(g, "1", "3", "5")
	}
	if g.has.extended && g.chance(30) {
		n.Allocatable[one(g, gpu, fpga)] = int64(g.upTo(1, 2))
	}
	if g.has.storage && g.chance(50) {
		n.Allocatable[corev1.ResourceEphemeralStorage] = int64(g.upTo(5, 50)) << 30
		n.Allocatable[hugePages] = int64(g.upTo(0, 2)) << 26
	}
	if g.has.taints {
		n.Taints = g.taints(25)
	}
	if g.chance(12) {
		n.Unschedulable = true
	}
	if n.InFlight {
		n.Provisioner = g.s.Provisioners[0].Name
		n.Labels[corev1.LabelInstanceTypeStable] = one(g, g.s.Machines...).Name
	}
	if n.InFlight || g.chance(60) {
		n.Labels = v1alpha1.WithOtherLabels(n.Labels)
		if !n.InFlight && g.chance(40) {
			delete(n.Labels, v1alpha1.LabelZoneEBS) // The driver's plugin does not run there.
		}
	}
	if g.has.volumes && g.chance(50) {
		n.VolumeLimits = map[string]int64{ebs: int64(g.upTo(0, 3))}
	}
	g.s.Nodes = append(g.s.Nodes, n)
	for j := range g.upTo(0, 3) {
		t := one(g, templates...)
		if g.chance(30) {
			// Of another time: what it asks for does not hold any more.
			t = g.template(g.IntN(4))
			t.Name = fmt.Sprint("old-", i, "-", j)
		}
		if len(t.Spec.SchedulingGates) > 0 || len(t.Spec.ResourceClaims) > 0 {
			continue
		}
		p := g.replica(t, 100+10*i+j)
		p.Spec.NodeName = name
		if g.chance(10) {
			p.DeletionTimestamp = &metav1.Time{Time: now}
		}
		if g.has.resized {
			g.resize(p)
		}
		n.Pods = append(n.Pods, p)
	}
	for _, d := range g.s.DaemonSetPods {
		if g.chance(40) {
			p := d.DeepCopy()
			p.Name += "-at-" + name
			p.UID = types.UID(p.Namespace + "/" + p.Name)
			p.Spec.NodeName = name
			n.Pods = append(n.Pods, p)
		}
	}
}

// resize gives a running pod the status of a resize in place: done, under way,
// put off or impossible.
func (g *generator) resize(p *corev1.Pod) {
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		st := corev1.ContainerStatus{Name: c.Name, AllocatedResources: requests(one(g, 0, 100, 900), one(g, 0, 64, 900))}
		if g.chance(70) {
			st.Resources = &corev1.ResourceRequirements{Requests: requests(one(g, 0, 100, 1200), one(g, 0, 64, 1200))}
		}
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, st)
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy != nil && g.chance(50) {
			p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, corev1.ContainerStatus{Name: c.Name,
				AllocatedResources: requests(one(g, 100, 500), 64), Resources: &corev1.ResourceRequirements{Requests: requests(one(g, 100, 700), 32)}})
		}
	}
	if p.Spec.Resources != nil && g.chance(50) {
		p.Status.AllocatedResources = requests(one(g, 500, 3000), one(g, 500, 7000))
		p.Status.Resources = &corev1.ResourceRequirements{Requests: requests(one(g, 500, 5000), one(g, 500, 9000))}
	}
	if why := one(g, "", corev1.PodReasonInfeasible, corev1.PodReasonDeferred); why != "" {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: why})
	}
}
