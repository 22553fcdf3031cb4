package kubelet

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-dev/berth/internal/catalog"
	"github.com/berth-dev/berth/internal/ec2sim/userdata"
)

type resources struct{ capacity, allocatable corev1.ResourceList }

// VisibleMemoryKiB is the memory the guest sees of the advertised one. The
// hypervisor, the firmware and the kernel keep between 1.7 and 5.3 % (the range
// seen on real EKS nodes), a share that is fixed for every type.
func VisibleMemoryKiB(t *catalog.Type) int64 {
	h := fnv.New32a()
	h.Write([]byte(t.Name))
	lost := 170 + int64(h.Sum32()%361) // of 10,000
	total := int64(t.MemoryMiB) * 1024
	return total - total*lost/10_000
}

// ENIMaxPods is how many pods the VPC CNI has addresses for: one address of
// each interface is its own, and two pods use the host's network
// (awslabs/amazon-eks-ami, eni-max-pods.txt; only the default network card's
// interfaces count there).
func ENIMaxPods(t *catalog.Type) int32 {
	enis := t.MaxENIs
	if len(t.NetworkCards) > 0 {
		enis = t.NetworkCards[t.DefaultNetworkCard].MaxENIs
	}
	return int32(enis*(t.IPv4PerENI-1) + 2)
}

// reservedCPUMillis is the share of the CPUs that both images keep for the
// kubelet and the runtime: 6 % of the first core, 1 % of the second, 0.5 % of
// the next two, 0.25 % of the rest (nodeadm, internal/kubelet).
func reservedCPUMillis(total int) int {
	bounds := []int{0, 1000, 2000, 4000, max(total, 4000)}
	shares := []int{600, 100, 50, 25} // of 10,000
	sum := 0
	for i, share := range shares {
		if total > bounds[i] {
			sum += (min(total, bounds[i+1]) - bounds[i]) * share / 10_000
		}
	}
	return sum
}

// filesystemOverhead is what partition table, boot partitions and XFS keep of
// a volume (20 GiB show as 20,893,676 KiB on an AL2023 node).
const filesystemOverhead = 77_844 << 10

// extOverhead is what ext4 keeps of each 20 GiB (which show as 20,624,592 KiB on a
// Bottlerocket node: eksctl issue 4434).
const extOverhead = 346_928 << 10

// computeResources follows the image's bootstrap (nodeadm, Bottlerocket) for
// the defaults and the kubelet for the arithmetic: allocatable is capacity less
// kube-reserved, system-reserved and the hard eviction thresholds
// (pkg/kubelet/cm, GetNodeAllocatableReservation).
func computeResources(m Machine, cfg *userdata.Config) (*resources, error) {
	defaultPods := ENIMaxPods(m.Type)
	pods := defaultPods
	if cfg.MaxPods != nil {
		pods = *cfg.MaxPods
	}
	// nodeadm reserves for the image's default number of pods, whatever the
	// user sets; Bottlerocket's template uses the setting.
	reservedFor := defaultPods
	if m.Image.Family == userdata.Bottlerocket {
		reservedFor = pods
	}
	if cfg.PodsPerCore > 0 {
		pods = min(pods, cfg.PodsPerCore*int32(m.Type.VCPUs))
	}
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(m.Type.VCPUs), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(VisibleMemoryKiB(m.Type)*1024, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(diskBytes(m, cfg), resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(pods), resource.DecimalSI),
		"hugepages-1Gi":                 *resource.NewQuantity(0, resource.DecimalSI),
		"hugepages-2Mi":                 *resource.NewQuantity(0, resource.DecimalSI),
	}
	kube := map[string]string{
		"cpu":               fmt.Sprintf("%dm", reservedCPUMillis(1000*m.Type.VCPUs)),
		"memory":            fmt.Sprintf("%dMi", 11*reservedFor+255),
		"ephemeral-storage": "1Gi",
	}
	maps.Copy(kube, cfg.KubeReserved)
	eviction := map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%"}
	maps.Copy(eviction, cfg.EvictionHard)

	allocatable := capacity.DeepCopy()
	for _, reserved := range []struct {
		name   string
		values map[string]string
	}{{"kubeReserved", kube}, {"systemReserved", cfg.SystemReserved}} {
		for _, name := range slices.Sorted(maps.Keys(reserved.values)) {
			q, err := quantity(reserved.values[name])
			if err != nil {
				return nil, fmt.Errorf("%s.%s: %w", reserved.name, name, err)
			}
			switch name {
			case "cpu", "memory", "ephemeral-storage":
				sub(allocatable, corev1.ResourceName(name), q)
			case "pid":
			default:
				return nil, fmt.Errorf("cannot reserve %q resource", name)
			}
		}
	}
	for _, signal := range slices.Sorted(maps.Keys(eviction)) {
		name, ok := evictionSignals[signal]
		if !ok {
			return nil, fmt.Errorf("unsupported eviction signal %q", signal)
		}
		q, err := threshold(eviction[signal], capacity[name])
		if err != nil {
			return nil, fmt.Errorf("evictionHard.%s: %w", signal, err)
		}
		if name != "" {
			sub(allocatable, name, q)
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q := allocatable[name]; q.Sign() < 0 {
			have := capacity[name]
			return nil, fmt.Errorf("invalid Node Allocatable configuration. Resource %q has reservations beyond its capacity of %s", name, have.String())
		}
	}
	return &resources{capacity, allocatable}, nil
}

// evictionSignals are the kubelet's signals, and the resource whose
// allocatable part they lower, if any (pkg/kubelet/eviction/api).
var evictionSignals = map[string]corev1.ResourceName{
	"memory.available": corev1.ResourceMemory, "nodefs.available": corev1.ResourceEphemeralStorage,
	"nodefs.inodesFree": "", "imagefs.available": "", "imagefs.inodesFree": "", "containerfs.available": "",
	"containerfs.inodesFree": "", "allocatableMemory.available": "", "pid.available": "",
}

// threshold reads a quantity, or a percentage of the capacity; the kubelet
// keeps percentages as float32.
func threshold(text string, capacity resource.Quantity) (resource.Quantity, error) {
	percent, ok := strings.CutSuffix(text, "%")
	if !ok {
		return quantity(text)
	}
	p, err := strconv.ParseFloat(percent, 32)
	if err != nil || p < 0 || p > 100 {
		return resource.Quantity{}, fmt.Errorf("%q is not a percentage", text)
	}
	return *resource.NewQuantity(int64(float64(capacity.Value())*float64(float32(p)/100)), resource.BinarySI), nil
}

func sub(list corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	have := list[name]
	have.Sub(q)
	list[name] = have
}

// diskBytes is the file system that holds the kubelet's data. nodeadm's RAID0
// and RAID10 strategies move it onto the local disks.
func diskBytes(m Machine, cfg *userdata.Config) int64 {
	var local int64
	for _, d := range m.Type.LocalDisks {
		local += int64(d.Count) * int64(d.SizeGB) * 1_000_000_000
	}
	switch {
	case m.Image.Family == userdata.Bottlerocket:
		return int64(m.DiskGiB)<<30 - int64(m.DiskGiB)*extOverhead/20
	case local > 0 && cfg.LocalStorage == "RAID0":
		return local - filesystemOverhead
	case local > 0 && cfg.LocalStorage == "RAID10":
		return local/2 - filesystemOverhead
	default:
		return int64(m.DiskGiB)<<30 - filesystemOverhead
	}
}

// GPUs is how many GPUs the device plugin announces: none without the driver.
// A partition of a GPU counts as one.
func GPUs(m Machine) int64 {
	if !m.Image.NVIDIA {
		return 0
	}
	var n int64
	for _, g := range m.Type.GPUs {
		if g.Maker != "NVIDIA" {
			continue
		}
		if g.Count == 0 && g.Fraction > 0 {
			n++
		}
		n += int64(g.Count)
	}
	return n
}
