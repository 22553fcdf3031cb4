package capacity

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestAllocatableFollowsTheDocumentedFormulae(t *testing.T) {
	m7g := &Machine{Name: "m7g.2xlarge", VCPUs: 8, MemoryMiB: 32768, Arch: "arm64", ENIs: 4, IPv4PerENI: 15}
	// 4*(15-1)+2 = 58 pods; memory 32704 - ceil(2452.8) = 30251 MiB.
	const pods, mem = 58, 30251
	// What partitions and the file system keep; 1 part in 59 on Bottlerocket.
	disk := func(gibs int64) int64 { return gibs*gib - 77_844<<10 }
	bottle := 20*gib - 20*gib/59
	// A share as the kubelet has it: rounded to float32, and Berth up.
	share := func(of, percent int64) int64 { v := (of*percent + 99) / 100; return v + v>>24 + 1 }
	eight := int32(8)
	for name, tc := range map[string]struct {
		spec  v1alpha1.ProvisionerSpec
		root  int64
		cap   Resources
		alloc Resources
	}{
		"defaults": {
			cap: Resources{"cpu": 8000, "memory": mem * mib, "pods": pods, "ephemeral-storage": disk(20)},
			// 60+10+10+10 = 90 millicores; 11*58+255 = 893 MiB; 100 MiB; 1 GiB and 2 GiB of disk.
			alloc: Resources{"cpu": 7910, "memory": (mem - 893 - 100) * mib, "pods": pods, "ephemeral-storage": disk(20) - gib - share(disk(20), 10)},
		},
		"kubeReserved replaces key by key, systemReserved adds, evictionHard takes quantity and share": {
			spec: v1alpha1.ProvisionerSpec{NodeTemplate: v1alpha1.NodeTemplate{Kubelet: &v1alpha1.Kubelet{
				KubeReserved:   corev1.ResourceList{"cpu": resource.MustParse("200m")},
				SystemReserved: corev1.ResourceList{"memory": resource.MustParse("1Gi"), "cpu": resource.MustParse("0.1")},
				EvictionHard:   map[string]v1alpha1.Threshold{"memory.available": "5%", "nodefs.available": "5Gi"},
			}}},
			root: 100 * gib,
			cap:  Resources{"cpu": 8000, "memory": mem * mib, "pods": pods, "ephemeral-storage": disk(100)},
			alloc: Resources{"cpu": 7700, "memory": mem*mib - (893+1024)*mib - share(mem*mib, 5), "pods": pods,
				"ephemeral-storage": disk(100) - 6*gib},
		},
		"what is below zero makes no room": {
			spec: v1alpha1.ProvisionerSpec{NodeTemplate: v1alpha1.NodeTemplate{Kubelet: &v1alpha1.Kubelet{
				KubeReserved:   corev1.ResourceList{"cpu": resource.MustParse("-2")},
				SystemReserved: corev1.ResourceList{"memory": resource.MustParse("-1Gi")},
			}}},
			cap:   Resources{"cpu": 8000, "memory": mem * mib, "pods": pods, "ephemeral-storage": disk(20)},
			alloc: Resources{"cpu": 8000, "memory": (mem - 893 - 100) * mib, "pods": pods, "ephemeral-storage": disk(20) - gib - share(disk(20), 10)},
		},
		"podsPerCore bounds pods, and with them what the kubelet keeps": {
			spec: v1alpha1.ProvisionerSpec{NodeTemplate: v1alpha1.NodeTemplate{Kubelet: &v1alpha1.Kubelet{PodsPerCore: ptrTo[int32](2)}}},
			cap:  Resources{"cpu": 8000, "memory": mem * mib, "pods": 16, "ephemeral-storage": disk(20)},
			alloc: Resources{"cpu": 7910, "memory": (mem - (11*16 + 255) - 100) * mib, "pods": 16,
				"ephemeral-storage": disk(20) - gib - share(disk(20), 10)},
		},
		"Bottlerocket has no podsPerCore; maxPods is taken as it is": {
			spec: v1alpha1.ProvisionerSpec{NodeTemplate: v1alpha1.NodeTemplate{
				Kubelet: &v1alpha1.Kubelet{PodsPerCore: ptrTo[int32](2), MaxPods: &eight},
				EC2:     v1alpha1.EC2{AMIFamily: v1alpha1.AMIFamilyBottlerocket},
			}},
			cap: Resources{"cpu": 8000, "memory": mem * mib, "pods": 8, "ephemeral-storage": bottle},
			alloc: Resources{"cpu": 7910, "memory": (mem - (11*8 + 255) - 100) * mib, "pods": 8,
				"ephemeral-storage": bottle - gib - share(bottle, 10)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := machineCapacity(m7g, &tc.spec, Resolved{RootVolumeBytes: tc.root})
			if d := cmp.Diff(tc.cap, c); d != "" {
				t.Errorf("capacity (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tc.alloc, machineAllocatable(m7g, &tc.spec, Networking{}, c)); d != "" {
				t.Errorf("allocatable (-want +got):\n%s", d)
			}
		})
	}
}

func ptrTo[T any](v T) *T { return &v }

func TestReservedCPUFollowsTheLadder(t *testing.T) {
	for cores, want := range map[int64]int64{0: 0, 1: 60, 2: 70, 3: 75, 4: 80, 8: 90, 64: 230, 192: 550} {
		if got := reservedMilliCPU(cores); got != want {
			t.Errorf("%d cores: got %dm, want %dm", cores, got, want)
		}
	}
}

func TestFamilyNamesAreTakenApart(t *testing.T) {
	for family, want := range map[string][2]string{
		"m7g": {"m", "7"}, "u-6tb1": {"u", "1"}, "u7i-12tb": {"u", "7"}, "x2iedn": {"x", "2"},
		"inf2": {"inf", "2"}, "hpc7g": {"hpc", "7"}, "mac": {"mac", ""}, "g4dn": {"g", "4"}, "": {"", ""},
	} {
		c, g := splitFamily(family)
		if c != want[0] || g != want[1] {
			t.Errorf("%s: got %q and %q, want %q", family, c, g, want)
		}
	}
}

func TestRegionsAreFoundInZones(t *testing.T) {
	for zone, want := range map[string]string{
		"us-west-2a": "us-west-2", "us-west-2-lax-1a": "us-west-2", "us-gov-east-1b": "us-gov-east-1", "nowhere": "",
	} {
		if got := regionOf(zone); got != want {
			t.Errorf("%s: got %q, want %q", zone, got, want)
		}
	}
}

var typesNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func typesCatalogue() []Machine {
	both := func(price float64) []Offering {
		var os []Offering
		for i, z := range []string{"us-west-2a", "us-west-2b"} {
			os = append(os,
				Offering{Zone: z, ZoneID: []string{"usw2-az2", "usw2-az1"}[i], CapacityType: "on-demand", Price: price},
				Offering{Zone: z, ZoneID: []string{"usw2-az2", "usw2-az1"}[i], CapacityType: "spot", Price: price * float64(3+i) / 10})
		}
		return os
	}
	return []Machine{
		{Name: "t3.large", VCPUs: 2, MemoryMiB: 8192, Arch: "amd64", CurrentGeneration: true, Offerings: both(0.08)},
		{Name: "m7g.large", VCPUs: 2, MemoryMiB: 8192, Arch: "arm64", CurrentGeneration: true, Offerings: both(0.08)},
		{Name: "m7i.large", VCPUs: 2, MemoryMiB: 8192, Arch: "amd64", CurrentGeneration: true, Hypervisor: "nitro", CPUManufacturer: "intel", Offerings: both(0.1)},
		{Name: "m7i.metal-24xl", VCPUs: 96, MemoryMiB: 393216, Arch: "amd64", CurrentGeneration: true, BareMetal: true, Offerings: both(5)},
		{Name: "m3.large", VCPUs: 2, MemoryMiB: 7680, Arch: "amd64", Offerings: both(0.13)},
		{Name: "c2.large", VCPUs: 2, MemoryMiB: 7680, Arch: "amd64", CurrentGeneration: true, Offerings: both(0.13)},
		{Name: "g5.xlarge", VCPUs: 4, MemoryMiB: 16384, Arch: "amd64", CurrentGeneration: true, Offerings: both(1),
			GPU: &GPU{Count: 1, Manufacturer: "nvidia", Name: "a10g", MemoryMiB: 24576}},
	}
}

func TestRequirementsChooseTypesAndOfferings(t *testing.T) {
	req := func(key string, op v1alpha1.Operator, values ...string) v1alpha1.Requirement {
		return v1alpha1.Requirement{Key: key, Operator: op, Values: values}
	}
	for name, tc := range map[string]struct {
		rs       []v1alpha1.Requirement
		resolved Resolved
		want     []string
	}{
		"nothing said: amd64 c, m, r above generation 2 and GPU types, on-demand": {
			want: []string{"g5.xlarge(nvidia.com/gpu): od/a od/b", "m7i.large: od/a od/b"},
		},
		"a named GPU name makes GPU types ordinary": {
			rs:   []v1alpha1.Requirement{req(v1alpha1.LabelInstanceGPUName, v1alpha1.OperatorIn, "a10g")},
			want: []string{"g5.xlarge: od/a od/b"},
		},
		"GPU count not wanted leaves the others": {
			rs:   []v1alpha1.Requirement{req(v1alpha1.LabelInstanceGPUCount, v1alpha1.OperatorDoesNotExist)},
			want: []string{"m7i.large: od/a od/b"},
		},
		"arm64 and spot on request, cheapest first": {
			rs: []v1alpha1.Requirement{
				req(corev1.LabelArchStable, v1alpha1.OperatorIn, "arm64"),
				req(v1alpha1.LabelCapacityType, v1alpha1.OperatorExists),
			},
			want: []string{"m7g.large: spot/a spot/b od/a od/b"},
		},
		"category t on request": {
			rs:   []v1alpha1.Requirement{req(v1alpha1.LabelInstanceCategory, v1alpha1.OperatorIn, "t", "m")},
			want: []string{"m7i.large: od/a od/b", "t3.large: od/a od/b"},
		},
		"previous generations and metal when named": {
			rs:   []v1alpha1.Requirement{req(corev1.LabelInstanceTypeStable, v1alpha1.OperatorIn, "m3.large", "m7i.metal-24xl")},
			want: []string{"m3.large: od/a od/b", "m7i.metal-24xl: od/a od/b"},
		},
		"Gt and Lt compare numbers": {
			rs: []v1alpha1.Requirement{
				req(v1alpha1.LabelInstanceMemory, v1alpha1.OperatorGt, "8192"),
				req(v1alpha1.LabelInstanceCPU, v1alpha1.OperatorLt, "10"),
			},
			want: []string{"g5.xlarge(nvidia.com/gpu): od/a od/b"},
		},
		"NotIn is satisfied by an absent label": {
			rs:   []v1alpha1.Requirement{req(v1alpha1.LabelInstanceHypervisor, v1alpha1.OperatorNotIn, "nitro")},
			want: []string{"g5.xlarge(nvidia.com/gpu): od/a od/b"},
		},
		"zones by name, by id and by subnets": {
			rs: []v1alpha1.Requirement{
				req(v1alpha1.LabelZoneID, v1alpha1.OperatorIn, "usw2-az2", "usw2-az1"),
				req(corev1.LabelTopologyRegion, v1alpha1.OperatorIn, "us-west-2"),
				req(corev1.LabelInstanceTypeStable, v1alpha1.OperatorNotIn, "t3.large", "m3.large", "c2.large", "g5.xlarge"),
			},
			resolved: Resolved{Zones: []string{"us-west-2b", "us-west-2c"}},
			want:     []string{"m7i.large: od/b"},
		},
		"another region offers nothing": {
			rs: []v1alpha1.Requirement{req(corev1.LabelTopologyRegion, v1alpha1.OperatorIn, "eu-west-1")},
		},
		"no image for the arch": {resolved: Resolved{Archs: []string{"arm64"}}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, it := range InstanceTypes(typesCatalogue(), &v1alpha1.ProvisionerSpec{Requirements: tc.rs}, tc.resolved, typesNow) {
				s := it.Machine.Name
				if it.OnlyFor != "" {
					s += "(" + string(it.OnlyFor) + ")"
				}
				s += ":"
				for _, o := range it.Offerings {
					ct := o.CapacityType
					if ct == "on-demand" {
						ct = "od"
					}
					s += " " + ct + "/" + o.Zone[len(o.Zone)-1:]
				}
				got = append(got, s)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("types (-want +got):\n%s", d)
			}
		})
	}
}

func TestAnExhaustedOfferingComesBack(t *testing.T) {
	ms := []Machine{{Name: "m7i.large", VCPUs: 2, MemoryMiB: 8192, Arch: "amd64", CurrentGeneration: true,
		Offerings: []Offering{{Zone: "us-west-2a", CapacityType: "on-demand", Price: 1, UnavailableUntil: typesNow.Add(time.Minute)}}}}
	count := func(now time.Time) int {
		its := InstanceTypes(ms, &v1alpha1.ProvisionerSpec{}, Resolved{}, now)
		if len(its) != 1 {
			t.Fatalf("the type must stay in the list, got %d types", len(its))
		}
		return len(its[0].Offerings)
	}
	if got := count(typesNow); got != 0 {
		t.Errorf("before: %d offerings, want 0", got)
	}
	if got := count(typesNow.Add(time.Minute)); got != 1 {
		t.Errorf("at the time: %d offerings, want 1", got)
	}
}

func FuzzParseThreshold(f *testing.F) {
	for _, s := range []string{"10%", "100Mi", "0.5%", "100%", "", "%", "-1", "1e3", "99.999999999%", "1.5Gi"} {
		f.Add(s, int64(1)<<40)
	}
	f.Fuzz(func(t *testing.T, s string, capacity int64) {
		v, err := parseThreshold(s, capacity)
		if err != nil {
			return
		}
		if v < 0 {
			t.Errorf("%q of %d: negative threshold %d", s, capacity, v)
		}
		if len(s) > 0 && s[len(s)-1] == '%' && v > max(capacity, 0) {
			t.Errorf("%q of %d: threshold %d exceeds everything", s, capacity, v)
		}
	})
}

func FuzzRequirementAllows(f *testing.F) {
	f.Add("Gt", "7", "8", true)
	f.Add("NotIn", "", "a", false)
	f.Add("nonsense", "a", "a", true)
	f.Fuzz(func(t *testing.T, op, value, have string, present bool) {
		r := v1alpha1.Requirement{Key: "k", Operator: v1alpha1.Operator(op), Values: []string{value}}
		got := requirementAllows(&r, have, present)
		// Opposite operators never agree.
		opposite := map[v1alpha1.Operator]v1alpha1.Operator{"In": "NotIn", "Exists": "DoesNotExist", "NotIn": "In", "DoesNotExist": "Exists"}
		if o, ok := opposite[r.Operator]; ok {
			r.Operator = o
			if requirementAllows(&r, have, present) == got {
				t.Errorf("%s and %s agree on %q (present %v)", op, o, have, present)
			}
		}
	})
}
