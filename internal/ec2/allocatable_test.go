package ec2

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/catalog"
	"github.com/berth-dev/berth/internal/ec2sim/kubelet"
	"github.com/berth-dev/berth/internal/ec2sim/userdata"
)

// nodeSettings is all that an instance's allocatable depends on beside its type.
type nodeSettings struct {
	family  v1alpha1.AMIFamily
	kubelet *v1alpha1.Kubelet
	net     capacity.Networking
	diskGiB int64
}

// expected and real are what the planner thinks that a machine offers, and what
// the kubelet says that is started with the user data of a launch. The memory
// that the machine really has is known.
func (s nodeSettings) expectedAndReal(t rapid.TB, c *Cloud, m capacity.Machine, ty *catalog.Type) (expected, real capacity.Resources) {
	template := v1alpha1.NodeTemplate{Kubelet: s.kubelet, EC2: v1alpha1.EC2{AMIFamily: s.family}}
	m.Learned = map[string]int64{"ami-1": kubelet.VisibleMemoryKiB(ty) << 10}
	m.Offerings = []capacity.Offering{{Zone: "us-west-2a", CapacityType: onDemand, Price: 1}}
	list := capacity.InstanceTypes([]capacity.Machine{m}, &v1alpha1.ProvisionerSpec{NodeTemplate: template, Requirements: []v1alpha1.Requirement{
		{Key: corev1.LabelInstanceTypeStable, Operator: v1alpha1.OperatorIn, Values: []string{m.Name}}}},
		capacity.Resolved{Ready: true, RootVolumeBytes: s.diskGiB << 30, Images: []capacity.ResolvedImage{{ID: "ami-1", Arch: m.Arch}}, Networking: s.net}, time.Time{})
	if len(list) != 1 {
		t.Fatalf("%s is %d types", m.Name, len(list))
	}
	c.SetNetworking(s.net)
	lines := []line{{instanceType: m.Name}}
	c.sayMaxPods(lines, &template)
	doc, err := c.userDataFor("default", &template, lines[0])
	if err != nil {
		t.Fatal(err)
	}
	image := kubelet.Image{Family: userdata.AL2023}
	if s.family == v1alpha1.AMIFamilyBottlerocket {
		image.Family = userdata.Bottlerocket
	}
	ca, err := base64.StdEncoding.DecodeString(c.cfg.ClusterCA)
	if err != nil {
		t.Fatal(err)
	}
	node, err := kubelet.BuildNode(kubelet.Machine{InstanceID: "i-0", NodeName: "n", Zone: "us-west-2a", Type: ty, Image: image, DiskGiB: int(s.diskGiB), UserData: []byte(doc)},
		kubelet.Cluster{Name: c.cfg.ClusterName, Endpoint: c.cfg.ClusterEndpoint, CA: ca})
	if err != nil {
		if strings.Contains(err.Error(), "beyond its capacity") {
			return nil, nil // Such a node does not start, whoever planned it.
		}
		t.Fatal(err)
	}
	return list[0].Allocatable, capacity.FromResourceList(node.Status.Allocatable)
}

// TestWhatIsPlannedIsWhatNodesOffer compares the planner's arithmetic with that
// of the images and the kubelet, over the types that there are: the planner
// never counts on more, and on little less.
func TestWhatIsPlannedIsWhatNodesOffer(t *testing.T) {
	c := newStandIn(t, nil).cloud(nil)
	if err := c.discovered(t.Context()); err != nil {
		t.Fatal(err)
	}
	types := slices.DeleteFunc(slices.Clone(catalog.Default().Types), func(ty catalog.Type) bool {
		return c.machine(ty.Name) == nil || ty.MemoryMiB < 1024
	})
	amount := func(list ...string) *rapid.Generator[string] { return rapid.SampledFrom(append(list, "")) }
	rapid.Check(t, func(t *rapid.T) {
		ty := rapid.SampledFrom(types).Draw(t, "type")
		s := nodeSettings{kubelet: &v1alpha1.Kubelet{}, diskGiB: rapid.Int64Range(20, 2000).Draw(t, "disk")}
		s.family = rapid.SampledFrom([]v1alpha1.AMIFamily{v1alpha1.AMIFamilyAL2023, v1alpha1.AMIFamilyAL2023, v1alpha1.AMIFamilyBottlerocket}).Draw(t, "family")
		s.net.Prefixes = rapid.Bool().Draw(t, "prefixes")
		s.net.ReservedENIs = rapid.Int32Range(0, 1).Draw(t, "reserved interfaces")
		if rapid.Bool().Draw(t, "maxPods") {
			s.kubelet.MaxPods = ptr(rapid.Int32Range(1, 800).Draw(t, "pods"))
		}
		if s.family == v1alpha1.AMIFamilyAL2023 && rapid.Bool().Draw(t, "podsPerCore") {
			s.kubelet.PodsPerCore = ptr(rapid.Int32Range(0, 40).Draw(t, "pods for each core"))
		}
		for name, into := range map[corev1.ResourceName]*corev1.ResourceList{"kube": &s.kubelet.KubeReserved, "system": &s.kubelet.SystemReserved} {
			*into = corev1.ResourceList{}
			if v := amount("100m", "0.25").Draw(t, string(name)+"-cpu"); v != "" {
				(*into)[corev1.ResourceCPU] = resource.MustParse(v)
			}
			if v := amount("150Mi", "300M").Draw(t, string(name)+"-memory"); v != "" {
				(*into)[corev1.ResourceMemory] = resource.MustParse(v)
			}
			if v := amount("2Gi").Draw(t, string(name)+"-disk"); v != "" {
				(*into)[corev1.ResourceEphemeralStorage] = resource.MustParse(v)
			}
		}
		s.kubelet.EvictionHard = map[string]v1alpha1.Threshold{}
		for signal, v := range map[string]string{
			"memory.available": amount("200Mi", "5%", "7.5%", "0.1%").Draw(t, "evict-memory"), "nodefs.available": amount("5Gi", "15%", "3.3%").Draw(t, "evict-disk")} {
			if v != "" {
				s.kubelet.EvictionHard[signal] = v1alpha1.Threshold(v)
			}
		}
		expected, real := s.expectedAndReal(t, c, *c.machine(ty.Name), &ty)
		if real == nil {
			return
		}
		for name, slack := range map[corev1.ResourceName]int64{
			corev1.ResourceCPU: 0, corev1.ResourcePods: 0, corev1.ResourceMemory: 1<<20 + real["memory"]>>22,
			corev1.ResourceEphemeralStorage: real["ephemeral-storage"]/1000 + 1<<20,
		} {
			if e, r := expected[name], real[name]; e > r || e < r-slack {
				t.Fatalf("%s of %s: planned with %d, the node offers %d (%d too much)", name, ty.Name, e, r, e-r)
			}
		}
	})
}

// TestFewPodsOnALargeMachineLeaveItsMemory names the amounts: nodeadm keeps
// memory for the 737 pods that a m5.16xlarge has addresses for.
func TestFewPodsOnALargeMachineLeaveItsMemory(t *testing.T) {
	c := newStandIn(t, nil).cloud(nil)
	if err := c.discovered(t.Context()); err != nil {
		t.Fatal(err)
	}
	kubeletOf := func(maxPods, podsPerCore int32, user string) (map[string]string, *int32) {
		template := v1alpha1.NodeTemplate{Kubelet: &v1alpha1.Kubelet{}, EC2: v1alpha1.EC2{UserData: user}}
		if maxPods > 0 {
			template.Kubelet.MaxPods = &maxPods
		}
		if podsPerCore > 0 {
			template.Kubelet.PodsPerCore = &podsPerCore
		}
		lines := []line{{instanceType: "m5.16xlarge"}}
		c.sayMaxPods(lines, &template)
		doc, err := c.userDataFor("default", &template, lines[0])
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := userdata.Parse(userdata.AL2023, []byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		return cfg.KubeReserved, cfg.MaxPods
	}
	const reserves = "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec: {kubelet: {config: {kubeReserved: {memory: 2Gi}}}}\n"
	for name, tc := range map[string]struct {
		net                  capacity.Networking
		maxPods, podsPerCore int32
		user                 string
		memory               string
		pods                 int32
	}{
		"nothing is said: nothing is told": {},
		"with prefixes":                    {net: capacity.Networking{Prefixes: true}, memory: "3005Mi", pods: 250},
		"under custom networking":          {net: capacity.Networking{ReservedENIs: 1}, memory: "7823Mi", pods: 688},
		"maxPods":                          {maxPods: 110, memory: "1465Mi", pods: 110},
		"podsPerCore":                      {podsPerCore: 2, memory: "1663Mi", pods: 128},
		"both":                             {maxPods: 100, podsPerCore: 2, memory: "1355Mi", pods: 100},
		"the user's NodeConfig reserves, and that is heeded": {maxPods: 110, user: reserves, memory: "2Gi", pods: 110},
	} {
		t.Run(name, func(t *testing.T) {
			c.SetNetworking(tc.net)
			reserved, pods := kubeletOf(tc.maxPods, tc.podsPerCore, tc.user)
			if reserved["memory"] != tc.memory || len(reserved) > 1 {
				t.Errorf("kubeReserved is %v, want memory of %q alone", reserved, tc.memory)
			}
			if pods == nil && tc.pods != 0 || pods != nil && *pods != tc.pods {
				t.Errorf("maxPods is %v, want %d", pods, tc.pods)
			}
		})
	}
}
