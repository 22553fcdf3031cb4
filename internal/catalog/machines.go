package catalog

import (
	"slices"
	"strings"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// Machines are the region's instance types as the planner takes them, sorted by
// name: what discovery would find in EC2. Types without a Linux architecture
// that Kubernetes runs on, and prices that are not known, are left out. An
// unknown region has none.
func (c *Catalog) Machines(region string) []capacity.Machine {
	var ms []capacity.Machine
	for i := range c.Types {
		t := &c.Types[i]
		m := machineOf(t)
		if m.Arch == "" || m.VCPUs <= 0 || m.MemoryMiB <= 0 {
			continue
		}
		for _, z := range c.OfferedZones(region, t.Name) {
			if price, ok := c.OnDemandPrice(region, t.Name); ok && slices.Contains(t.UsageClasses, "on-demand") {
				m.Offerings = append(m.Offerings, capacity.Offering{Zone: z.Name, ZoneID: z.ID, CapacityType: v1alpha1.CapacityTypeOnDemand, Price: price})
			}
			if price, ok := c.SpotPrice(region, t.Name, z.Name); ok && slices.Contains(t.UsageClasses, "spot") {
				m.Offerings = append(m.Offerings, capacity.Offering{Zone: z.Name, ZoneID: z.ID, CapacityType: v1alpha1.CapacityTypeSpot, Price: price})
			}
		}
		if len(m.Offerings) > 0 {
			ms = append(ms, m)
		}
	}
	return ms
}

func machineOf(t *Type) capacity.Machine {
	m := capacity.Machine{
		Name:              t.Name,
		VCPUs:             int32(t.VCPUs),
		MemoryMiB:         int64(t.MemoryMiB),
		Hypervisor:        t.Hypervisor,
		BareMetal:         t.BareMetal,
		CPUManufacturer:   strings.ToLower(t.CPUMaker),
		CurrentGeneration: t.CurrentGeneration,
		ENIs:              int32(t.MaxENIs),
		IPv4PerENI:        int32(t.IPv4PerENI),
		NetworkMbps:       int64(t.NetworkBaselineMbps),
		EBSAttachments:    int32(t.EBSAttachments.Max),
		EBSShared:         t.EBSAttachments.Max > 0 && !t.EBSAttachments.Dedicated,
		GPU:               gpuOf(t),
	}
	switch {
	case slices.Contains(t.Architectures, "x86_64"):
		m.Arch = "amd64"
	case slices.Contains(t.Architectures, "arm64"):
		m.Arch = "arm64"
	}
	if n := t.DefaultNetworkCard; n < len(t.NetworkCards) {
		m.ENIs = int32(t.NetworkCards[n].MaxENIs)
	}
	if t.LocalNVMe {
		for _, d := range t.LocalDisks {
			m.LocalNVMeGB += int64(d.Count) * int64(d.SizeGB)
		}
	}
	return m
}

// gpuOf are the type's GPUs, Neuron devices or older inference accelerators, in
// this order; nil without any. A share of a GPU is one device to Kubernetes.
func gpuOf(t *Type) *capacity.GPU {
	var g *capacity.GPU
	add := func(count int, maker, name string, memoryMiB int) {
		maker, name = labelValue(maker), labelValue(name)
		if count <= 0 {
			return
		}
		if g == nil {
			g = &capacity.GPU{Manufacturer: maker, Name: name, MemoryMiB: int64(memoryMiB)}
		}
		if g.Name == name {
			g.Count += int32(count)
		}
	}
	for _, x := range t.GPUs {
		count := x.Count
		if count == 0 && x.Fraction > 0 {
			count = 1
		}
		add(count, x.Maker, x.Name, x.MemoryMiB)
	}
	for _, x := range t.Neuron {
		if g == nil || g.Manufacturer == "aws" {
			add(x.Count, "aws", x.Name, x.MemoryMiB)
		}
	}
	if g == nil {
		for _, x := range t.Inference {
			add(x.Count, x.Maker, x.Name, 0)
		}
	}
	return g
}

// labelValue is a name as a label value: "Radeon Pro V520" is radeon-pro-v520.
func labelValue(s string) string {
	return strings.Join(strings.Fields(strings.ToLower(s)), "-")
}
