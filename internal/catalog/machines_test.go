package catalog

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/internal/capacity"
)

func TestTypesBecomeMachines(t *testing.T) {
	in := Type{
		Name: "x.large", VCPUs: 2, MemoryMiB: 4096, Architectures: []string{"i386", "x86_64"}, Hypervisor: "nitro",
		CurrentGeneration: true, CPUMaker: "Intel", MaxENIs: 8, IPv4PerENI: 10, NetworkBaselineMbps: 750,
		NetworkCards: []NetworkCard{{MaxENIs: 3}, {MaxENIs: 5}}, DefaultNetworkCard: 1,
		EBSAttachments: Attachments{Max: 27}, LocalDisks: []LocalDisk{{Count: 2, SizeGB: 75}}, LocalNVMe: true,
		GPUs: []GPU{{Fraction: 0.125, Maker: "NVIDIA", Name: "L4", MemoryMiB: 3072}},
	}
	want := capacity.Machine{
		Name: "x.large", VCPUs: 2, MemoryMiB: 4096, Arch: "amd64", Hypervisor: "nitro", CPUManufacturer: "intel",
		CurrentGeneration: true, ENIs: 5, IPv4PerENI: 10, NetworkMbps: 750, LocalNVMeGB: 150, EBSAttachments: 27, EBSShared: true,
		GPU: &capacity.GPU{Count: 1, Manufacturer: "nvidia", Name: "l4", MemoryMiB: 3072},
	}
	if d := cmp.Diff(want, machineOf(&in)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if got := machineOf(&Type{Architectures: []string{"arm64_mac"}}).Arch; got != "" {
		t.Errorf("macOS machines are no nodes, got arch %q", got)
	}
}

func TestMachinesOfARegionAreAllForSale(t *testing.T) {
	ms := Default().Machines("us-west-2")
	if len(ms) < 500 {
		t.Fatalf("only %d machines", len(ms))
	}
	for i, m := range ms {
		if len(m.Offerings) == 0 || i > 0 && ms[i-1].Name >= m.Name {
			t.Errorf("%s: without offerings, or out of order", m.Name)
		}
		for _, o := range m.Offerings {
			if o.Price <= 0 || o.Zone == "" || o.ZoneID == "" {
				t.Errorf("%s: offering %+v", m.Name, o)
			}
		}
	}
	if got := Default().Machines("nowhere-1"); len(got) != 0 {
		t.Errorf("an unknown region has %d machines", len(got))
	}
}
