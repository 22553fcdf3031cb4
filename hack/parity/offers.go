package main

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

func (g *generator) machines() {
	for i := range g.upTo(1, 6) {
		vcpu := int32(one(g, 1, 2, 4, 8))
		m := capacity.Machine{
			Name: fmt.Sprintf("m%d.x%d", 5+i, vcpu), VCPUs: vcpu, MemoryMiB: int64(vcpu) * 1024 * int64(one(g, 2, 4, 8)),
			Arch: one(g, "amd64", "amd64", "amd64", "arm64"), CurrentGeneration: true, ENIs: 2, IPv4PerENI: int32(one(g, 3, 4, 10)),
		}
		if g.chance(60) {
			m.EBSAttachments, m.EBSShared = int32(g.upTo(2, 6)), g.chance(50)
		}
		for _, z := range zones {
			if g.chance(75) {
				m.Offerings = append(m.Offerings, capacity.Offering{Zone: z, CapacityType: v1alpha1.CapacityTypeOnDemand, Price: float64(g.upTo(5, 20)) * float64(vcpu) / 100})
			}
			if g.chance(40) {
				m.Offerings = append(m.Offerings, capacity.Offering{Zone: z, CapacityType: v1alpha1.CapacityTypeSpot, Price: float64(g.upTo(1, 8)) * float64(vcpu) / 100})
			}
		}
		if g.has.soldOut {
			for j := range m.Offerings {
				if g.chance(40) {
					m.Offerings[j].UnavailableUntil = now.Add(time.Duration(one(g, -1, 1)) * time.Minute)
				}
			}
		}
		if g.has.extended && g.chance(40) {
			m.GPU = &capacity.GPU{Count: int32(g.upTo(1, 2)), Manufacturer: "nvidia", Name: "t4"}
		}
		g.s.Machines = append(g.s.Machines, m)
	}
}

func (g *generator) provisioner(name string) {
	p := provisioner{Name: name, Spec: v1alpha1.ProvisionerSpec{Weight: int32(one(g, 0, 0, 5))}}
	p.Spec.Requirements = []v1alpha1.Requirement{{Key: corev1.LabelArchStable, Operator: v1alpha1.OperatorExists}}
	if g.chance(60) {
		p.Spec.Requirements = append(p.Spec.Requirements, v1alpha1.Requirement{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: []string{v1alpha1.CapacityTypeSpot, v1alpha1.CapacityTypeOnDemand}})
	}
	if g.chance(20) {
		p.Spec.Requirements = append(p.Spec.Requirements, v1alpha1.Requirement{Key: corev1.LabelTopologyZone, Operator: v1alpha1.OperatorIn, Values: some(g, zones...)})
	}
	if g.has.teams {
		p.Spec.Requirements = append(p.Spec.Requirements, g.ownRequirements()...)
	}
	if g.has.soldOut && g.chance(20) {
		p.NotReady = "no subnet"
	}
	if g.chance(20) {
		p.Spec.Labels = map[string]string{"disk": one(g, "fast", "slow")}
	}
	if g.has.taints {
		p.Spec.Taints = g.taints(40)
		if g.chance(30) {
			// Whoever sets it up takes it away: nobody must tolerate it.
			p.Spec.StartupTaints = []corev1.Taint{{Key: "starting", Effect: one(g, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute)}}
		}
	}
	if g.has.limits {
		p.Spec.Limits = corev1.ResourceList{}
		p.Used = capacity.Resources{}
		switch g.IntN(4) {
		case 0:
			p.Spec.Limits[corev1.ResourceCPU] = *resource.NewQuantity(int64(g.upTo(0, 16)), resource.DecimalSI)
			p.Used[corev1.ResourceCPU] = int64(g.upTo(0, 4)) * 1000
		case 1:
			p.Spec.Limits[v1alpha1.LimitNodes] = *resource.NewQuantity(int64(g.upTo(0, 4)), resource.DecimalSI)
			p.Used[v1alpha1.LimitNodes] = int64(g.upTo(0, 2))
		case 2:
			p.Spec.Limits[v1alpha1.LimitHourlyCost] = *resource.NewMilliQuantity(int64(g.upTo(0, 900)), resource.DecimalSI)
			p.UsedHourlyCost = float64(g.upTo(0, 30)) / 100
		default:
			p.Spec.Limits[corev1.ResourceMemory] = *resource.NewQuantity(int64(g.upTo(0, 64))<<30, resource.BinarySI)
		}
	}
	g.s.Provisioners = append(g.s.Provisioners, p)
}

// ownRequirements are requirements on labels of the user's own.
func (g *generator) ownRequirements() []v1alpha1.Requirement {
	var rs []v1alpha1.Requirement
	if g.chance(60) {
		r := v1alpha1.Requirement{Key: labelTeam, Operator: one(g, v1alpha1.OperatorIn, v1alpha1.OperatorIn, v1alpha1.OperatorNotIn, v1alpha1.OperatorExists, v1alpha1.OperatorDoesNotExist)}
		switch r.Operator {
		case v1alpha1.OperatorIn:
			r.Values = []string{"a", "b"}
		case v1alpha1.OperatorNotIn:
			r.Values = some(g, "a", "b")
		}
		rs = append(rs, r)
	}
	if g.chance(30) {
		rs = append(rs, v1alpha1.Requirement{Key: labelGrade, Operator: one(g, v1alpha1.OperatorGt, v1alpha1.OperatorLt), Values: []string{one(g, "2", "4")}})
	}
	return rs
}
