package admission

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// maxBlame bounds how many requirements are tried one by one for the one that
// leaves nothing to buy; each try looks at the whole catalogue.
const maxBlame = 24

// checkMarket judges a Provisioner by what can be bought and by the others.
func (s *Snapshot) checkMarket(p *v1alpha1.Provisioner) (problems, warnings []string) {
	var types []capacity.InstanceType
	if s.offerings != nil && len(s.offerings.Machines) > 0 {
		types = s.typesOf(&p.Spec, s.reservationsOf(p))
		switch {
		case len(types) > 0:
		case len(s.sellable(&p.Spec, capacity.Resolved{})) > 0:
			warnings = append(warnings, "spec.ec2.capacityReservations: the requirements leave nothing else to buy, and none that fits them has been found yet: there are no nodes before")
		default:
			text := s.nothingToBuy(&p.Spec)
			if s.trusted {
				return []string{text}, nil
			}
			return nil, []string{text + " (by offerings of " + s.offerings.At.UTC().Format("2006-01-02 15:04 MST") + ", which may be out of date)"}
		}
		warnings = append(warnings, s.unknownValues(&p.Spec)...)
		warnings = append(warnings, smallLimits(&p.Spec, types)...)
	}
	return nil, append(warnings, s.overlaps(p, types)...)
}

// typesOf are the types that the requirements allow, in reservations too; what else
// discovery found for an older spec of the same name is left out.
func (s *Snapshot) typesOf(spec *v1alpha1.ProvisionerSpec, reservations []capacity.Reservation) []capacity.InstanceType {
	return capacity.InstanceTypes(s.offerings.Machines, spec, capacity.Resolved{Reservations: reservations}, s.now)
}

// reservationsOf are those that the provisioner has found for a Provisioner, as long
// as it selects the same ones.
func (s *Snapshot) reservationsOf(p *v1alpha1.Provisioner) []capacity.Reservation {
	for _, stored := range s.provisioners {
		if stored.Name == p.Name && apiequality.Semantic.DeepEqual(stored.Spec.EC2.CapacityReservations, p.Spec.EC2.CapacityReservations) {
			return s.offerings.Provisioners[p.Name].Reservations
		}
	}
	return nil
}

// sellable are the types that the requirements allow where reservations that are
// named, and of which none was found, may yet be of any type in any zone.
func (s *Snapshot) sellable(spec *v1alpha1.ProvisionerSpec, resolved capacity.Resolved) []capacity.InstanceType {
	machines := s.offerings.Machines
	if len(spec.EC2.CapacityReservations) > 0 && len(resolved.Reservations) == 0 {
		machines = reservedEverywhere(machines)
	}
	return capacity.InstanceTypes(machines, spec, resolved, s.now)
}

// reservedEverywhere are the machines as if there were room for each in a reservation
// in every zone, paid for already.
func reservedEverywhere(machines []capacity.Machine) []capacity.Machine {
	var reserved []capacity.Offering
	for i := range machines {
		for _, o := range machines[i].Offerings {
			if !slices.ContainsFunc(reserved, func(r capacity.Offering) bool { return r.Zone == o.Zone }) {
				reserved = append(reserved, capacity.Offering{Zone: o.Zone, ZoneID: o.ZoneID, CapacityType: v1alpha1.CapacityTypeReserved, Room: math.MaxInt32})
			}
		}
	}
	out := slices.Clone(machines)
	for i := range out {
		out[i].Offerings = slices.Concat(out[i].Offerings, reserved)
	}
	return out
}

// nothingToBuy says which requirement leaves no instance type.
func (s *Snapshot) nothingToBuy(spec *v1alpha1.ProvisionerSpec) string {
	if len(spec.Requirements) <= maxBlame {
		for i := range spec.Requirements {
			without := *spec
			without.Requirements = slices.Delete(slices.Clone(spec.Requirements), i, i+1)
			if len(s.sellable(&without, capacity.Resolved{})) > 0 {
				return fmt.Sprintf("spec.requirements[%d].values: with %s no instance type in %s is left; without it there are some: change the values or remove the requirement",
					i, requirementText(&spec.Requirements[i]), s.offerings.Region)
			}
		}
	}
	return fmt.Sprintf("spec.requirements: together they leave no instance type in %s: remove or widen some", s.offerings.Region)
}

// unknownValues warns of names that nothing in the catalogue has.
func (s *Snapshot) unknownValues(spec *v1alpha1.ProvisionerSpec) []string {
	var warnings []string
	known := map[string]map[string]bool{
		corev1.LabelInstanceTypeStable: {}, v1alpha1.LabelInstanceFamily: {}, corev1.LabelTopologyZone: {},
	}
	for i := range s.offerings.Machines {
		m := &s.offerings.Machines[i]
		family, _, _ := strings.Cut(m.Name, ".")
		known[corev1.LabelInstanceTypeStable][m.Name] = true
		known[v1alpha1.LabelInstanceFamily][family] = true
		for j := range m.Offerings {
			known[corev1.LabelTopologyZone][m.Offerings[j].Zone] = true
		}
	}
	for i := range spec.Requirements {
		r := &spec.Requirements[i]
		names := known[r.Key]
		if names == nil || r.Operator != v1alpha1.OperatorIn && r.Operator != v1alpha1.OperatorNotIn {
			continue
		}
		for j, v := range r.Values {
			if !names[v] {
				warnings = append(warnings, fmt.Sprintf("spec.requirements[%d].values[%d]: nothing in %s has %s %s; check the spelling", i, j, s.offerings.Region, r.Key, v))
			}
		}
	}
	return warnings
}

// smallLimits warns of limits that leave no room for the smallest node.
func smallLimits(spec *v1alpha1.ProvisionerSpec, types []capacity.InstanceType) []string {
	var warnings []string
	names := make([]corev1.ResourceName, 0, len(spec.Limits))
	for name := range spec.Limits {
		// A volume of its own decides on ephemeral storage, not the type.
		if name != corev1.ResourceEphemeralStorage {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		limit := spec.Limits[name]
		least := smallest(name, types)
		if limit.Cmp(least) < 0 {
			warnings = append(warnings, fmt.Sprintf("spec.limits[%s]: %s leaves no room for a single node, the smallest takes %s; raise it", name, limitText(name, limit), limitText(name, least)))
		}
	}
	return warnings
}

// limitText is a limit as people write it: money as decimals, not as 51320u.
func limitText(name corev1.ResourceName, q resource.Quantity) string {
	if name == v1alpha1.LimitHourlyCost {
		return strconv.FormatFloat(q.AsApproximateFloat64(), 'g', 6, 64) + " $/h"
	}
	return q.String()
}

// smallest is the least that any node takes of a limit.
func smallest(name corev1.ResourceName, types []capacity.InstanceType) resource.Quantity {
	switch name {
	case v1alpha1.LimitNodes:
		return *resource.NewQuantity(1, resource.DecimalSI)
	case v1alpha1.LimitHourlyCost:
		price := math.Inf(1)
		for i := range types {
			for j := range types[i].Offerings {
				price = min(price, types[i].Offerings[j].Price)
			}
		}
		if math.IsInf(price, 1) {
			return resource.Quantity{}
		}
		// Rounded down, so that a limit of exactly the price is no warning.
		return *resource.NewScaledQuantity(int64(price*1e6), resource.Micro)
	}
	least := capacity.Resources{name: math.MaxInt64}
	for i := range types {
		least[name] = min(least[name], types[i].Capacity[name])
	}
	return least.List()[name]
}

// overlaps warns of other Provisioners of the same weight from which the same
// pods could get the same instances, so that only the price decides between them.
func (s *Snapshot) overlaps(p *v1alpha1.Provisioner, types []capacity.InstanceType) []string {
	var warnings []string
	for _, other := range s.provisioners {
		if other.Name == p.Name || other.Spec.Weight != p.Spec.Weight || !sameTaints(other.Spec.Taints, p.Spec.Taints) || !compatible(&p.Spec, other.Spec) {
			continue
		}
		shared := ""
		if s.index != nil {
			if shared = sharedOffering(types, other.InstanceTypes); shared == "" {
				continue
			}
			shared = ", " + shared + " for one"
		}
		warnings = append(warnings, fmt.Sprintf("spec.weight: Provisioner %s has weight %d too and sells the same nodes%s: only price decides between them; give one a higher weight, or set them apart by requirements or taints",
			other.Name, p.Spec.Weight, shared))
	}
	return warnings
}

// sameTaints says whether the same pods tolerate both.
func sameTaints(a, b []corev1.Taint) bool {
	hard := func(ts []corev1.Taint) []string {
		var out []string
		for _, t := range ts {
			if t.Effect != corev1.TaintEffectPreferNoSchedule {
				out = append(out, t.ToString())
			}
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(hard(a), hard(b))
}

// compatible says whether one node could satisfy the requirements and labels of
// both.
func compatible(a, b *v1alpha1.ProvisionerSpec) bool {
	for key, value := range a.Labels {
		if other, ok := b.Labels[key]; ok && other != value {
			return false
		}
	}
	byKey := map[string][]*v1alpha1.Requirement{}
	for _, spec := range []*v1alpha1.ProvisionerSpec{a, b} {
		for i := range spec.Requirements {
			r := &spec.Requirements[i]
			byKey[r.Key] = append(byKey[r.Key], r)
		}
	}
	for key, rs := range byKey {
		set := valuesOf(rs)
		value, labelled := a.Labels[key]
		if !labelled {
			value, labelled = b.Labels[key]
		}
		if set.empty() || labelled && !set.allows(value) {
			return false
		}
	}
	return true
}

// sharedOffering names an offering that both allow, the cheapest; empty for none.
func sharedOffering(a, b []capacity.InstanceType) string {
	best, price := "", math.Inf(1)
	for i := range a {
		t := &a[i]
		n, found := slices.BinarySearchFunc(b, t.Machine.Name, func(x capacity.InstanceType, name string) int {
			return cmp.Compare(x.Machine.Name, name)
		})
		if !found {
			continue
		}
		for j := range t.Offerings {
			o := &t.Offerings[j]
			if o.Price < price && slices.ContainsFunc(b[n].Offerings, func(x capacity.Offering) bool {
				return x.Zone == o.Zone && x.CapacityType == o.CapacityType
			}) {
				best, price = t.Machine.Name+" "+o.CapacityType+" in "+o.Zone, o.Price
			}
		}
	}
	return best
}
