package capacity

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const (
	mib = int64(1) << 20
	gib = int64(1) << 30
)

// Amounts that the formulas below share with the node's own configuration.
const (
	// defaultRootVolume is the root volume's size when nothing says otherwise.
	defaultRootVolume = 20 * gib
	// defaultMaxPods is for machines whose addresses are not known.
	defaultMaxPods = 110
	// prefixAddresses is how many addresses a prefix has, each in the place of
	// one address of an interface.
	prefixAddresses = 16
	// prefixPods and prefixPodsLarge bound pods where addresses do not: what EKS
	// recommends below 30 vCPUs and from there on (max-pods-calculator.sh).
	prefixPods, prefixPodsLarge = 110, 250
	prefixLargeVCPUs            = 30
	// xfsOverhead, and the part of a volume that ext4 keeps: 1.7 %.
	xfsOverhead      = 77_844 << 10
	extOverheadShare = 59
	// otherImageShare of what nodes with another image have is left out: 2 %.
	otherImageShare = 50
)

// Names of accelerators' resources, by manufacturer.
var gpuResources = map[string]corev1.ResourceName{
	"nvidia": "nvidia.com/gpu",
	"amd":    "amd.com/gpu",
	"habana": "habana.ai/gaudi",
	"aws":    "aws.amazon.com/neuron",
}

// gpuResource is the resource under which the machine's accelerators are
// requested; empty without any.
func gpuResource(m *Machine) corev1.ResourceName {
	if m.GPU == nil || m.GPU.Count == 0 {
		return ""
	}
	return gpuResources[m.GPU.Manufacturer]
}

// MaxPods is how many pods the kubelet on such a machine admits: spec's
// maxPods, or as many as the VPC CNI can give addresses to, bounded by
// podsPerCore, which Bottlerocket does not know.
func MaxPods(m *Machine, spec *v1alpha1.ProvisionerSpec, net Networking) int64 {
	n := addresses(m, spec, net)
	if k := spec.Kubelet; k != nil {
		if k.MaxPods != nil {
			n = int64(*k.MaxPods)
		}
		if k.PodsPerCore != nil && *k.PodsPerCore > 0 && spec.EC2.AMIFamily != v1alpha1.AMIFamilyBottlerocket {
			n = min(n, int64(*k.PodsPerCore)*int64(m.VCPUs))
		}
	}
	return n
}

// addresses is how many pods the VPC CNI has addresses for: ENIs × (addresses
// − 1) + 2, since the first address of an interface is its own and two pods use
// the host's ("Choose an optimal Amazon EC2 node instance type", EKS user
// guide). Under custom networking the first interface is for the node alone.
// With prefixes, which Nitro alone has, each address makes room for sixteen;
// kubelets must be told, which Berth cannot do in user data that is not its own.
func addresses(m *Machine, spec *v1alpha1.ProvisionerSpec, net Networking) int64 {
	if m.ENIs <= 0 || m.IPv4PerENI <= 0 {
		return defaultMaxPods
	}
	n := int64(max(m.ENIs-net.ReservedENIs, 0)) * (int64(m.IPv4PerENI) - 1)
	if !net.Prefixes || ownUserData(spec) || m.Hypervisor != "nitro" && !m.BareMetal {
		return n + 2
	}
	most := int64(prefixPods)
	if m.VCPUs >= prefixLargeVCPUs {
		most = prefixPodsLarge
	}
	return min(n*prefixAddresses+2, most)
}

// ownUserData: the nodes are told nothing by Berth, only by the user.
func ownUserData(spec *v1alpha1.ProvisionerSpec) bool {
	return spec.EC2.AMIFamily == v1alpha1.AMIFamilyCustom || spec.EC2.LaunchTemplate != nil
}

// PodsToSay is the number of pods that the kubelet on such a machine must be
// told because the image would come to another one: it counts single addresses
// of all interfaces, and reserves memory for them whatever podsPerCore says. 0
// where there is nothing to say beyond spec, or nobody to say it to.
func PodsToSay(m *Machine, spec *v1alpha1.ProvisionerSpec, net Networking) int64 {
	k := spec.Kubelet
	if k == nil {
		k = &v1alpha1.Kubelet{}
	}
	addresses := k.MaxPods == nil && (net.Prefixes || net.ReservedENIs > 0)
	if ownUserData(spec) || !addresses && (k.PodsPerCore == nil || *k.PodsPerCore <= 0) {
		return 0
	}
	return MaxPods(m, spec, net)
}

// diskOf is what a file system shows of the volume that holds pods' ephemeral
// storage. On AL2023's XFS, partitions and log take an amount that does not
// depend on the size (20 GiB show as 20,893,676 KiB); ext4, which Bottlerocket
// has used, a share (20 GiB show as 20,624,592 KiB: eksctl issue 4434).
func diskOf(volume int64, spec *v1alpha1.ProvisionerSpec) int64 {
	if spec.EC2.AMIFamily == v1alpha1.AMIFamilyBottlerocket || ownUserData(spec) {
		return volume - volume/extOverheadShare
	}
	return max(0, volume-xfsOverhead)
}

// machineCapacity is what the kubelet will report as capacity.
func machineCapacity(m *Machine, spec *v1alpha1.ProvisionerSpec, r Resolved) Resources {
	rootVolume := r.RootVolumeBytes
	if rootVolume <= 0 {
		rootVolume = defaultRootVolume
	}
	c := Resources{
		corev1.ResourceCPU:              int64(m.VCPUs) * 1000,
		corev1.ResourceMemory:           memoryOf(m, r),
		corev1.ResourceEphemeralStorage: diskOf(rootVolume, spec),
		corev1.ResourcePods:             MaxPods(m, spec, r.Networking),
	}
	if name := gpuResource(m); name != "" {
		c[name] = int64(m.GPU.Count)
	}
	return c
}

// memoryOf is the memory that the kernel of such a machine will have, in bytes:
// what nodes with the same image have reported; else a little less than any
// node of the type has; else the advertised amount less 64 MiB that Graviton's
// firmware keeps and 7.5 %, rounded up, for what the hypervisor and the kernel
// keep: Karpenter's formula, which no type is known to fall below.
func memoryOf(m *Machine, r Resolved) int64 {
	if learned := m.Learned[r.imageFor(m)]; learned > 0 {
		return learned
	}
	mem := m.MemoryMiB
	if m.Arch == "arm64" {
		mem -= 64
	}
	mem -= (mem*75 + 999) / 1000
	least := int64(0)
	for _, learned := range m.Learned {
		if least == 0 || learned < least {
			least = learned
		}
	}
	// Another image may keep another amount, for a crash kernel for example.
	return max(mem*mib, least-least/otherImageShare)
}

// imageFor is the id of the image that a machine would run, or "".
func (r Resolved) imageFor(m *Machine) string {
	need := ""
	if m.GPU != nil && (m.GPU.Manufacturer == "nvidia" || m.GPU.Manufacturer == "aws") {
		need = m.GPU.Manufacturer
	}
	for _, i := range r.Images {
		if i.Arch == m.Arch && (i.Accelerators == nil || slices.Contains(i.Accelerators, need)) {
			return i.ID
		}
	}
	return ""
}

// KubeReserved is what the kubelet keeps for itself: cpu 6 % of the first core,
// 1 % of the second, 0.5 % of the third and fourth, 0.25 % of the others;
// memory as ReservedMemory has it; 1 GiB of ephemeral storage. Keys of
// spec.kubelet.kubeReserved replace the computed values.
func KubeReserved(m *Machine, spec *v1alpha1.ProvisionerSpec, net Networking) Resources {
	pods := MaxPods(m, spec, net)
	if ownUserData(spec) {
		// Berth cannot say what to reserve. The image may reserve for as many pods
		// as it would run by itself, as nodeadm does, or for as many as it is told.
		pods = max(pods, addresses(m, spec, Networking{}))
	}
	r := Resources{
		corev1.ResourceCPU:              reservedMilliCPU(int64(m.VCPUs)),
		corev1.ResourceMemory:           ReservedMemory(pods),
		corev1.ResourceEphemeralStorage: gib,
	}
	if spec.Kubelet != nil {
		for name, q := range spec.Kubelet.KubeReserved {
			r[name] = max(0, quantityValue(name, &q))
		}
	}
	return r
}

// ReservedMemory is what the kubelet keeps, in bytes, when it may run so many
// pods: 11 MiB for each and 255 MiB (nodeadm and Bottlerocket). nodeadm counts
// the pods that it would set by itself, so that Berth says the amount wherever
// it sets another number.
func ReservedMemory(pods int64) int64 { return (11*pods + 255) * mib }

func reservedMilliCPU(cores int64) int64 {
	r := int64(0)
	if cores > 0 {
		r += 60
	}
	if cores > 1 {
		r += 10
	}
	r += 5 * min(max(cores-2, 0), 2)
	return r + max(cores-4, 0)*5/2
}

// machineAllocatable is capacity less kube-reserved, system-reserved and hard
// eviction thresholds (100 MiB of memory and 10 % of ephemeral storage unless
// spec.kubelet.evictionHard says otherwise). Soft thresholds do not count: the
// kubelet does not subtract them. What is negative, which the CRD refuses, is 0.
func machineAllocatable(m *Machine, spec *v1alpha1.ProvisionerSpec, net Networking, capacity Resources) Resources {
	a := capacity.Clone()
	take := func(name corev1.ResourceName, v int64) {
		if _, ok := a[name]; ok {
			a[name] = max(0, a[name]-v)
		}
	}
	for name, v := range KubeReserved(m, spec, net) {
		take(name, v)
	}
	memory, disk := "100Mi", "10%"
	if spec.Kubelet != nil {
		for name, q := range spec.Kubelet.SystemReserved {
			take(name, max(0, quantityValue(name, &q)))
		}
		if v, ok := spec.Kubelet.EvictionHard["memory.available"]; ok {
			memory = string(v)
		}
		if v, ok := spec.Kubelet.EvictionHard["nodefs.available"]; ok {
			disk = string(v)
		}
	}
	for name, s := range map[corev1.ResourceName]string{corev1.ResourceMemory: memory, corev1.ResourceEphemeralStorage: disk} {
		// The CRD has checked the form; what slips through reserves nothing,
		// as the kubelet would refuse to start with it anyway.
		if v, err := parseThreshold(s, capacity[name]); err == nil {
			take(name, v)
		}
	}
	return a
}

// parseThreshold is an eviction threshold in bytes: a quantity, or a percentage
// of capacity (rounded up). Negative amounts and shares over 100 % are refused.
func parseThreshold(s string, capacity int64) (int64, error) {
	share, isShare := strings.CutSuffix(s, "%")
	if !isShare {
		q, err := resource.ParseQuantity(s)
		if err != nil {
			return 0, fmt.Errorf("eviction threshold %q: %w", s, err)
		}
		if q.Sign() < 0 {
			return 0, fmt.Errorf("eviction threshold %q: negative", s)
		}
		return q.Value(), nil
	}
	whole, fraction, _ := strings.Cut(share, ".")
	if len(fraction) > 9 || len(whole) > 3 {
		return 0, fmt.Errorf("eviction threshold %q: too many digits", s)
	}
	num, err := strconv.ParseUint(whole+fraction, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("eviction threshold %q: %w", s, err)
	}
	den := uint64(100)
	for range fraction {
		den *= 10
	}
	if num > den {
		return 0, fmt.Errorf("eviction threshold %q: more than everything", s)
	}
	// capacity × num overflows 64 bits for terabytes, so in 128.
	hi, lo := bits.Mul64(uint64(max(capacity, 0)), num)
	lo, carry := bits.Add64(lo, den-1, 0)
	v, _ := bits.Div64(hi+carry, lo, den)
	// The kubelet keeps shares as float32, whose error is at most 1 in 2^24.
	return min(int64(v)+int64(v>>24)+1, max(capacity, 0)), nil
}
