package capacity

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestMaxPods(t *testing.T) {
	nitro := func(enis, addresses, vcpus int32) *Machine {
		return &Machine{Name: "x", Hypervisor: "nitro", ENIs: enis, IPv4PerENI: addresses, VCPUs: vcpus}
	}
	pods := int32(42)
	for name, tc := range map[string]struct {
		m    *Machine
		net  Networking
		spec v1alpha1.ProvisionerSpec
		want int64
	}{
		// Values of amazon-eks-ami's eni-max-pods.txt and max-pods-calculator.sh.
		"m5.large":                                     {nitro(3, 10, 2), Networking{}, v1alpha1.ProvisionerSpec{}, 29},
		"m5.large under custom networking":             {nitro(3, 10, 2), Networking{ReservedENIs: 1}, v1alpha1.ProvisionerSpec{}, 20},
		"m5.large with prefixes":                       {nitro(3, 10, 2), Networking{Prefixes: true}, v1alpha1.ProvisionerSpec{}, 110},
		"t3.nano with prefixes: fewer than the bound":  {nitro(2, 2, 2), Networking{Prefixes: true}, v1alpha1.ProvisionerSpec{}, 34},
		"and under custom networking":                  {nitro(2, 2, 2), Networking{Prefixes: true, ReservedENIs: 1}, v1alpha1.ProvisionerSpec{}, 18},
		"m5.16xlarge with prefixes":                    {nitro(15, 50, 64), Networking{Prefixes: true}, v1alpha1.ProvisionerSpec{}, 250},
		"a Xen machine has no prefixes":                {&Machine{Hypervisor: "xen", ENIs: 3, IPv4PerENI: 10, VCPUs: 2}, Networking{Prefixes: true}, v1alpha1.ProvisionerSpec{}, 29},
		"bare metal is Nitro":                          {&Machine{BareMetal: true, ENIs: 15, IPv4PerENI: 50, VCPUs: 96}, Networking{Prefixes: true}, v1alpha1.ProvisionerSpec{}, 250},
		"one interface, and that is the node's":        {nitro(1, 10, 2), Networking{ReservedENIs: 1}, v1alpha1.ProvisionerSpec{}, 2},
		"what the Provisioner says wins over prefixes": {nitro(3, 10, 2), Networking{Prefixes: true}, v1alpha1.ProvisionerSpec{NodeTemplate: v1alpha1.NodeTemplate{Kubelet: &v1alpha1.Kubelet{MaxPods: &pods}}}, 42},
	} {
		t.Run(name, func(t *testing.T) {
			if got := MaxPods(tc.m, &tc.spec, tc.net); got != tc.want {
				t.Errorf("%d pods, want %d", got, tc.want)
			}
		})
	}
}

func TestPodsToSay(t *testing.T) {
	m := &Machine{Name: "m5.large", Hypervisor: "nitro", ENIs: 3, IPv4PerENI: 10, VCPUs: 2}
	template := func(change func(*v1alpha1.NodeTemplate)) v1alpha1.ProvisionerSpec {
		s := v1alpha1.ProvisionerSpec{NodeTemplate: v1alpha1.NodeTemplate{Kubelet: &v1alpha1.Kubelet{}}}
		change(&s.NodeTemplate)
		return s
	}
	none := v1alpha1.ProvisionerSpec{}
	for name, tc := range map[string]struct {
		net  Networking
		spec v1alpha1.ProvisionerSpec
		want int64
	}{
		"the image counts right":                        {Networking{}, none, 0},
		"prefixes":                                      {Networking{Prefixes: true}, none, 110},
		"custom networking":                             {Networking{ReservedENIs: 1}, none, 20},
		"maxPods is said already":                       {Networking{Prefixes: true, ReservedENIs: 1}, template(func(n *v1alpha1.NodeTemplate) { n.Kubelet.MaxPods = ptrTo[int32](9) }), 0},
		"podsPerCore: memory is reserved for so many":   {Networking{}, template(func(n *v1alpha1.NodeTemplate) { n.Kubelet.PodsPerCore = ptrTo[int32](4) }), 8},
		"Bottlerocket has no podsPerCore":               {Networking{ReservedENIs: 1}, template(func(n *v1alpha1.NodeTemplate) { n.EC2.AMIFamily = v1alpha1.AMIFamilyBottlerocket }), 20},
		"nobody to say it to: the user's own user data": {Networking{ReservedENIs: 1}, template(func(n *v1alpha1.NodeTemplate) { n.EC2.AMIFamily = v1alpha1.AMIFamilyCustom }), 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := PodsToSay(m, &tc.spec, tc.net); got != tc.want {
				t.Errorf("%d pods, want %d", got, tc.want)
			}
		})
	}
	// An image that Berth tells nothing may reserve for its own number of pods.
	custom := template(func(n *v1alpha1.NodeTemplate) {
		n.EC2.AMIFamily, n.Kubelet.MaxPods = v1alpha1.AMIFamilyCustom, ptrTo[int32](10)
	})
	if got := KubeReserved(m, &custom, Networking{})[corev1.ResourceMemory]; got != (11*29+255)*mib {
		t.Errorf("%d MiB reserved", got/mib)
	}
}

func TestVolumesFromTheLaunchTakeAttachments(t *testing.T) {
	m := &Machine{Name: "m5.large", Arch: "amd64", VCPUs: 2, MemoryMiB: 8192, CurrentGeneration: true, ENIs: 3, EBSAttachments: 27, EBSShared: true,
		Offerings: []Offering{{Zone: "a", CapacityType: v1alpha1.CapacityTypeOnDemand, Price: 0.1}}}
	for name, tc := range map[string]struct {
		ec2  v1alpha1.EC2
		r    Resolved
		want int64
	}{
		"one volume, and the second interface":   {v1alpha1.EC2{}, Resolved{}, 25},
		"Bottlerocket has two":                   {v1alpha1.EC2{AMIFamily: v1alpha1.AMIFamilyBottlerocket}, Resolved{}, 24},
		"three in the settings":                  {v1alpha1.EC2{BlockDevices: make([]v1alpha1.BlockDevice, 3)}, Resolved{}, 23},
		"four were found, by the image":          {v1alpha1.EC2{BlockDevices: make([]v1alpha1.BlockDevice, 3)}, Resolved{Volumes: 4}, 22},
		"one is always believed to be left over": {v1alpha1.EC2{}, Resolved{Volumes: 40}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			got := InstanceTypes([]Machine{*m}, &v1alpha1.ProvisionerSpec{NodeTemplate: v1alpha1.NodeTemplate{EC2: tc.ec2}}, tc.r, time.Time{})
			if len(got) != 1 || got[0].VolumeLimits[ebsDriver] != tc.want {
				t.Errorf("%v, want %d", got[0].VolumeLimits, tc.want)
			}
		})
	}
}

func TestMemoryIsLearned(t *testing.T) {
	r := Resolved{Images: []ResolvedImage{{ID: "ami-gpu", Arch: "amd64", Accelerators: []string{"nvidia"}}, {ID: "ami-1", Arch: "amd64", Accelerators: []string{""}}}}
	formula := int64(8192-615) * mib
	for name, tc := range map[string]struct {
		learned map[string]int64
		want    int64
	}{
		"nothing is known: the formula":                  {nil, formula},
		"this image's nodes have been seen":              {map[string]int64{"ami-1": 7900 * mib, "ami-0": 7800 * mib}, 7900 * mib},
		"another image's: a little less than the least":  {map[string]int64{"ami-0": 7900 * mib, "ami-gpu": 8000 * mib}, 7900*mib - 7900*mib/50},
		"another image's, but less than the formula has": {map[string]int64{"ami-0": 7000 * mib}, formula},
		"this image's is believed even then":             {map[string]int64{"ami-1": 7000 * mib}, 7000 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			m := &Machine{Name: "m5.large", Arch: "amd64", MemoryMiB: 8192, VCPUs: 2, Learned: tc.learned}
			if got := machineCapacity(m, &v1alpha1.ProvisionerSpec{}, r)[corev1.ResourceMemory]; got != tc.want {
				t.Errorf("%d MiB, want %d", got/mib, tc.want/mib)
			}
		})
	}
}

func TestReservedOfferings(t *testing.T) {
	m := Machine{Name: "m5.large", Arch: "amd64", VCPUs: 2, MemoryMiB: 8192, CurrentGeneration: true, Offerings: []Offering{
		{Zone: "a", CapacityType: v1alpha1.CapacityTypeOnDemand, Price: 0.1}, {Zone: "a", CapacityType: v1alpha1.CapacityTypeSpot, Price: 0.04},
		{Zone: "b", CapacityType: v1alpha1.CapacityTypeOnDemand, Price: 0.1},
	}}
	here := []Reservation{{InstanceType: "m5.large", Zone: "a", Available: 2}, {InstanceType: "m5.large", Zone: "b"}, {InstanceType: "m5.xlarge", Zone: "b", Available: 1}}
	require := func(values ...string) []v1alpha1.Requirement {
		return []v1alpha1.Requirement{{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: values}}
	}
	inBlocks := Machine{Name: "m5.large", Arch: "amd64", VCPUs: 2, MemoryMiB: 8192, CurrentGeneration: true}
	for name, tc := range map[string]struct {
		requirements []v1alpha1.Requirement
		reservations []Reservation
		want         []string
	}{
		"without reservations, on-demand":            {nil, nil, []string{"a/on-demand", "b/on-demand"}},
		"a reservation with room comes first":        {nil, here, []string{"a/reserved", "a/on-demand", "b/on-demand"}},
		"reserved alone":                             {require("reserved"), here, []string{"a/reserved"}},
		"who asks for on-demand alone gets no other": {require("on-demand"), here, []string{"a/on-demand", "b/on-demand"}},
		"reserved before spot":                       {require("spot", "reserved"), here, []string{"a/reserved", "a/spot"}},
	} {
		t.Run(name, func(t *testing.T) {
			offered := func(m Machine) (list []Offering) {
				for _, ty := range InstanceTypes([]Machine{m}, &v1alpha1.ProvisionerSpec{Requirements: tc.requirements}, Resolved{Ready: true, Reservations: tc.reservations}, time.Time{}) {
					list = append(list, ty.Offerings...)
				}
				return list
			}
			var got []string
			for _, o := range offered(m) {
				got = append(got, o.Zone+"/"+o.CapacityType)
				if room := map[bool]int{true: 2}[o.CapacityType == "reserved"]; o.Room != room {
					t.Errorf("%s %s has room for %d, want %d", o.Zone, o.CapacityType, o.Room, room)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			// What is sold in no other way is still not free.
			for _, o := range offered(inBlocks) {
				if o.CapacityType != "reserved" || o.Price <= 0 || o.Price >= 0.001 {
					t.Errorf("%+v", o)
				}
			}
		})
	}
}
