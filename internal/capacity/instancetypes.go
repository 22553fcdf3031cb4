package capacity

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// InstanceTypes are the machines that a Provisioner may buy, as it would run
// them, sorted by name. Requirements on labels of the type choose types, those
// on labels of the offering choose offerings; resolved.Zones and resolved.Archs
// restrict both further unless they are nil. An offering counts again from its
// UnavailableUntil on; a type whose offerings are all exhausted stays in the
// list without any, so that a Reason can say so.
//
// What the requirements do not speak of is decided for the user:
//   - capacity type: on-demand, and reserved where reservations are named;
//     arch: amd64.
//   - without a requirement on instance type, family or category: categories
//     c, m and r of a generation above 2, and accelerated types.
//   - bare metal and generations that AWS calls previous are left out, unless
//     an instance type, family, size or the generation is asked for by name.
//   - an accelerated type is OnlyFor pods that request its accelerators, unless
//     type, family, category or a GPU label is asked for by name.
func InstanceTypes(machines []Machine, spec *v1alpha1.ProvisionerSpec, resolved Resolved, now time.Time) []InstanceType {
	var types []InstanceType
	for i := range machines {
		m := &machines[i]
		if resolved.Archs != nil && !slices.Contains(resolved.Archs, m.Arch) {
			continue
		}
		labels := MachineLabels(m)
		if !typeAllowed(m, labels, spec.Requirements) {
			continue
		}
		sold := append(slices.Clip(m.Offerings), reservedOfferings(m, resolved.Reservations)...)
		offerings, soldOut := allowedOfferings(sold, spec.Requirements, resolved.Zones, now)
		if len(offerings)+len(soldOut) == 0 {
			continue
		}
		t := InstanceType{Machine: m, Labels: labels, Offerings: offerings, SoldOut: soldOut, VolumeLimits: machineVolumeLimits(m, launchVolumes(spec, resolved))}
		t.Capacity = machineCapacity(m, spec, resolved)
		t.Allocatable = machineAllocatable(m, spec, resolved.Networking, t.Capacity)
		if name := gpuResource(m); name != "" && !acceleratorNamed(labels, spec.Requirements) {
			t.OnlyFor = name
		}
		types = append(types, t)
	}
	slices.SortFunc(types, func(a, b InstanceType) int { return cmp.Compare(a.Machine.Name, b.Machine.Name) })
	return types
}

// MachineLabels are the labels of a node that follow from its instance type
// alone. A label whose value is unknown or nothing is absent.
func MachineLabels(m *Machine) map[string]string {
	family, size, _ := strings.Cut(m.Name, ".")
	category, generation := splitFamily(family)
	l := map[string]string{
		corev1.LabelInstanceTypeStable:  m.Name,
		corev1.LabelArchStable:          m.Arch,
		corev1.LabelOSStable:            "linux",
		v1alpha1.LabelInstanceFamily:    family,
		v1alpha1.LabelInstanceCPU:       strconv.FormatInt(int64(m.VCPUs), 10),
		v1alpha1.LabelInstanceMemory:    strconv.FormatInt(m.MemoryMiB, 10),
		v1alpha1.LabelInstanceBareMetal: strconv.FormatBool(m.BareMetal),
	}
	set := func(key, value string) {
		if value != "" && value != "0" {
			l[key] = value
		}
	}
	set(v1alpha1.LabelInstanceCategory, category)
	set(v1alpha1.LabelInstanceGeneration, generation)
	set(v1alpha1.LabelInstanceSize, size)
	set(v1alpha1.LabelInstanceCPUManufacturer, m.CPUManufacturer)
	set(v1alpha1.LabelInstanceHypervisor, m.Hypervisor)
	set(v1alpha1.LabelInstanceLocalNVMe, strconv.FormatInt(m.LocalNVMeGB, 10))
	set(v1alpha1.LabelInstanceNetworkBandwidth, strconv.FormatInt(m.NetworkMbps, 10))
	if g := m.GPU; g != nil && g.Count > 0 {
		set(v1alpha1.LabelInstanceGPUName, g.Name)
		set(v1alpha1.LabelInstanceGPUManufacturer, g.Manufacturer)
		set(v1alpha1.LabelInstanceGPUCount, strconv.FormatInt(int64(g.Count), 10))
		set(v1alpha1.LabelInstanceGPUMemory, strconv.FormatInt(g.MemoryMiB, 10))
	}
	return l
}

// splitFamily finds category and generation in a family: m7g is m and 7,
// u-6tb1 is u and 1, u7i-12tb is u and 7.
func splitFamily(family string) (category, generation string) {
	n := strings.IndexFunc(family, func(r rune) bool { return r < 'a' || r > 'z' })
	if n < 0 {
		return family, ""
	}
	category, rest := family[:n], family[n:]
	if after, ok := strings.CutPrefix(rest, "-"); ok {
		if _, tail, found := strings.Cut(after, "tb"); found {
			rest = tail
		}
	}
	n = strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if n < 0 {
		n = len(rest)
	}
	return category, rest[:n]
}

func typeAllowed(m *Machine, labels map[string]string, rs []v1alpha1.Requirement) bool {
	label := func(key string) (string, bool) { v, ok := labels[key]; return v, ok }
	if !requirementsAllow(rs, isInstanceLabel, label) {
		return false
	}
	if m.Arch != "amd64" && !hasKey(rs, corev1.LabelArchStable) && !typeNamed(labels, rs) {
		return false
	}
	named := typeNamed(labels, rs)
	if m.BareMetal && !named && !hasKey(rs, v1alpha1.LabelInstanceBareMetal) &&
		!names(rs, v1alpha1.LabelInstanceSize, labels[v1alpha1.LabelInstanceSize]) {
		return false
	}
	if !m.CurrentGeneration && !named && !hasKey(rs, v1alpha1.LabelInstanceGeneration) {
		return false
	}
	if hasKey(rs, corev1.LabelInstanceTypeStable, v1alpha1.LabelInstanceFamily, v1alpha1.LabelInstanceCategory) {
		return true
	}
	if gpuResource(m) != "" {
		return true
	}
	switch labels[v1alpha1.LabelInstanceCategory] {
	case "c", "m", "r":
	default:
		return false
	}
	if hasKey(rs, v1alpha1.LabelInstanceGeneration) {
		return true
	}
	generation, err := strconv.Atoi(labels[v1alpha1.LabelInstanceGeneration])
	return err == nil && generation > 2
}

// typeNamed says whether the user asks for the type or its family by name.
func typeNamed(labels map[string]string, rs []v1alpha1.Requirement) bool {
	return names(rs, corev1.LabelInstanceTypeStable, labels[corev1.LabelInstanceTypeStable]) ||
		names(rs, v1alpha1.LabelInstanceFamily, labels[v1alpha1.LabelInstanceFamily])
}

// acceleratorNamed says whether the user asks for accelerated machines as such.
func acceleratorNamed(labels map[string]string, rs []v1alpha1.Requirement) bool {
	if typeNamed(labels, rs) || names(rs, v1alpha1.LabelInstanceCategory, labels[v1alpha1.LabelInstanceCategory]) {
		return true
	}
	for i := range rs {
		switch rs[i].Key {
		case v1alpha1.LabelInstanceGPUName, v1alpha1.LabelInstanceGPUManufacturer, v1alpha1.LabelInstanceGPUCount, v1alpha1.LabelInstanceGPUMemory:
			// NotIn and DoesNotExist say what is not wanted; they name nothing.
			if op := rs[i].Operator; op != v1alpha1.OperatorNotIn && op != v1alpha1.OperatorDoesNotExist {
				return true
			}
		}
	}
	return false
}

const (
	// reservedShare of the on-demand price is what an instance in a reservation is
	// planned with: it is paid for already, used or not. The little that is left
	// keeps the order among types, and nothing free.
	reservedShare = 1.0 / 1000
	// usualVCPUPrice in $/h stands in for the on-demand price of types that are sold
	// in capacity blocks alone: about what a vCPU of a general-purpose type costs.
	usualVCPUPrice = 0.05
)

// reservedOfferings are the machine's offerings in reservations, full ones too.
func reservedOfferings(m *Machine, reservations []Reservation) []Offering {
	var out []Offering
	for _, r := range reservations {
		if r.InstanceType != m.Name {
			continue
		}
		o := Offering{Zone: r.Zone, ZoneID: r.ZoneID, CapacityType: v1alpha1.CapacityTypeReserved,
			Price: usualVCPUPrice * float64(m.VCPUs) * reservedShare, Room: r.Available}
		for _, other := range m.Offerings {
			if other.CapacityType == v1alpha1.CapacityTypeOnDemand {
				o.Price = other.Price * reservedShare
			}
		}
		out = append(out, o)
	}
	return out
}

// allowedOfferings are the machine's offerings that can be bought now, cheapest
// first, and those that could be if there were any.
func allowedOfferings(sold []Offering, rs []v1alpha1.Requirement, zones []string, now time.Time) (list, soldOut []Offering) {
	anyCapacityType := hasKey(rs, v1alpha1.LabelCapacityType)
	for i := range sold {
		o := &sold[i]
		if zones != nil && !slices.Contains(zones, o.Zone) {
			continue
		}
		if !anyCapacityType && o.CapacityType == v1alpha1.CapacityTypeSpot {
			continue
		}
		if !requirementsAllow(rs, isOfferingLabel, o.label) {
			continue
		}
		if now.Before(o.UnavailableUntil) || o.CapacityType == v1alpha1.CapacityTypeReserved && o.Room <= 0 {
			soldOut = append(soldOut, *o)
			continue
		}
		list = append(list, *o)
	}
	slices.SortFunc(list, func(a, b Offering) int {
		return cmp.Or(cmp.Compare(a.Price, b.Price), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.CapacityType, b.CapacityType))
	})
	return list, soldOut
}

// label is the offering's value for one of v1alpha1.OfferingLabels.
func (o *Offering) label(key string) (string, bool) {
	v := ""
	switch key {
	case corev1.LabelTopologyZone:
		v = o.Zone
	case corev1.LabelTopologyRegion:
		v = regionOf(o.Zone)
	case v1alpha1.LabelZoneID:
		v = o.ZoneID
	case v1alpha1.LabelCapacityType:
		v = o.CapacityType
	}
	return v, v != ""
}

// regionOf is the region that a zone is in: us-west-2 for us-west-2b and for
// the local zone us-west-2-lax-1a. Region names end in their first number.
func regionOf(zone string) string {
	parts := strings.Split(zone, "-")
	for i, p := range parts {
		if p != "" && p[0] >= '0' && p[0] <= '9' {
			n := strings.IndexFunc(p, func(r rune) bool { return r < '0' || r > '9' })
			if n >= 0 {
				p = p[:n]
			}
			return strings.Join(append(parts[:i:i], p), "-")
		}
	}
	return ""
}
