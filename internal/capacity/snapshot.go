package capacity

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Resources are amounts by resource name: cpu in millicores, everything else
// in its own unit (memory and ephemeral-storage in bytes, pods and extended
// resources as counts). Absent means zero.
type Resources map[corev1.ResourceName]int64

// Machine is what EC2 says about an instance type, and where and at what price
// it is offered in one region. Zero means none or unknown.
type Machine struct {
	// Name of the type: m7g.2xlarge.
	Name string `json:"n"`
	// VCPUs by default.
	VCPUs int32 `json:"v"`
	// MemoryMiB advertised.
	MemoryMiB int64 `json:"m"`
	// Arch is amd64 or arm64.
	Arch string `json:"a"`
	// Hypervisor is nitro or xen; empty on bare metal.
	Hypervisor string `json:"h,omitempty"`
	BareMetal  bool   `json:"bm,omitempty"`
	// CPUManufacturer is intel, amd or aws.
	CPUManufacturer   string `json:"cm,omitempty"`
	CurrentGeneration bool   `json:"cg,omitempty"`
	// ENIs on the default network card, IPv4PerENI addresses on each: together
	// they bound the pods that the VPC CNI can give an address.
	ENIs       int32 `json:"e,omitempty"`
	IPv4PerENI int32 `json:"ip,omitempty"`
	// NetworkMbps is the baseline bandwidth.
	NetworkMbps int64 `json:"nb,omitempty"`
	// LocalNVMeGB in total.
	LocalNVMeGB int64 `json:"nv,omitempty"`
	// EBSAttachments is the most volumes that can be attached, the root volume
	// included; when EBSShared, network interfaces count too.
	EBSAttachments int32 `json:"ea,omitempty"`
	EBSShared      bool  `json:"es,omitempty"`
	// GPUs of the type; nil without.
	GPU *GPU `json:"g,omitempty"`
	// Learned is the memory in bytes that the kubelets of such machines have
	// reported as capacity, the least of them, by image id.
	Learned map[string]int64 `json:"l,omitempty"`
	// Offerings of the type in the region.
	Offerings []Offering `json:"o"`
}

// GPU describes a machine's accelerators.
type GPU struct {
	Count int32 `json:"c"`
	// Manufacturer is nvidia, amd, habana or aws, in lower case.
	Manufacturer string `json:"f"`
	// Name is the model, in lower case with dashes: a10g, t4, h100.
	Name string `json:"n"`
	// MemoryMiB of one GPU.
	MemoryMiB int64 `json:"m,omitempty"`
}

// Offering is an instance type in a zone, bought in one way.
type Offering struct {
	Zone   string `json:"z"`
	ZoneID string `json:"i,omitempty"`
	// CapacityType is one of v1alpha1.CapacityType….
	CapacityType string `json:"c"`
	// Price in $/h.
	Price float64 `json:"p"`
	// Room is how many more instances fit into a reservation. Of other offerings it
	// is 0 and says nothing.
	Room int `json:"r,omitempty"`
	// UnavailableUntil is set while EC2 is known to have none (learned from a
	// refusal); the offering counts again from then on.
	UnavailableUntil time.Time `json:"u,omitzero"`
}

// Offerings is all that is known about what can be bought in a region: the
// content of ConfigMap berth-offerings.
type Offerings struct {
	// Version grows with each change of content.
	Version int64 `json:"version"`
	// At is when it was put together.
	At     time.Time `json:"at"`
	Region string    `json:"region"`
	// Machines, sorted by name.
	Machines []Machine `json:"machines"`
	// Streaks is how often in a row EC2 refused offerings that are unavailable, by
	// "type/zone/capacity type"; absent: once.
	Streaks map[string]int `json:"streaks,omitempty"`
	// Provisioners says by name what only EC2 could tell about each.
	Provisioners map[string]Resolved `json:"provisioners,omitempty"`
}

// Resolved is what discovery found for one Provisioner.
type Resolved struct {
	// Ready is false when something that the Provisioner names was not found;
	// Why then says what.
	Ready bool   `json:"ready"`
	Why   string `json:"why,omitempty"`
	// Zones that it has subnets in; nil: not known, any.
	Zones []string `json:"zones,omitempty"`
	// Archs that it has an image for; nil: not known, any.
	Archs []string `json:"archs,omitempty"`
	// RootVolumeBytes for pods' ephemeral storage.
	RootVolumeBytes int64 `json:"rootVolumeBytes,omitempty"`
	// Volumes is how many EBS volumes instances are launched with at most; 0: not known.
	Volumes int `json:"volumes,omitempty"`
	// Images that it uses, the first that fits a machine: what was learned about
	// a machine holds for an image.
	Images []ResolvedImage `json:"images,omitempty"`
	// Reservations of capacity that it may use, one for each type and zone.
	Reservations []Reservation `json:"reservations,omitempty"`
	// Networking of the cluster.
	Networking Networking `json:"networking,omitzero"`
}

// ResolvedImage is an image that a Provisioner uses.
type ResolvedImage struct {
	ID string `json:"id"`
	// Arch is amd64 or arm64.
	Arch string `json:"arch"`
	// Accelerators whose drivers it has, "" for none needed; nil for any.
	Accelerators []string `json:"accelerators,omitempty"`
}

// Reservation is capacity of a type in a zone that is paid for already.
type Reservation struct {
	InstanceType string `json:"instanceType"`
	Zone         string `json:"zone"`
	ZoneID       string `json:"zoneID,omitempty"`
	// Available is how many more instances fit.
	Available int `json:"available"`
}

// Networking says how the VPC CNI gives addresses to pods.
type Networking struct {
	// Prefixes: it assigns prefixes of 16 addresses in the place of single ones.
	Prefixes bool `json:"prefixes,omitempty"`
	// ReservedENIs are network interfaces that pods get no addresses from: the
	// first one under custom networking.
	ReservedENIs int32 `json:"reservedENIs,omitempty"`
}

// InstanceType is a Machine as one Provisioner would run it.
type InstanceType struct {
	Machine *Machine
	// Labels that follow from the type alone (v1alpha1.InstanceLabels).
	Labels map[string]string
	// Capacity and Allocatable that the kubelet will report.
	Capacity, Allocatable Resources
	// VolumeLimits by CSI driver name, as the CSINode will state them; absent:
	// unlimited or unknown.
	VolumeLimits map[string]int64
	// Offerings that the Provisioner allows and that are not known to be
	// exhausted, cheapest first (ties by zone, then capacity type).
	Offerings []Offering
	// SoldOut are the others that it allows: known to be exhausted, or in
	// reservations without room.
	SoldOut []Offering
	// OnlyFor, when set, keeps the type for pods that request this resource:
	// accelerated machines that nobody has asked for by name.
	OnlyFor corev1.ResourceName
}

// Provisioner as the planner sees it.
type Provisioner struct {
	Name string
	UID  types.UID
	Spec *v1alpha1.ProvisionerSpec
	// NotReady, when not empty, is why nothing may be bought from it now.
	NotReady string
	// InstanceTypes that its requirements allow, sorted by name.
	InstanceTypes []InstanceType
	// Used is what its claims take from its limits already, "nodes" included;
	// UsedHourlyCost the sum of their prices in $/h.
	Used           Resources
	UsedHourlyCost float64
}

// Node is capacity that exists or is coming.
type Node struct {
	// Name of the Node object, or of the NodeClaim while there is none.
	Name string
	// Labels as kube-scheduler sees them, or will (v1alpha1.WithOtherLabels).
	Labels map[string]string
	// Taints that pods must tolerate to be placed here (taints that vanish by
	// themselves before pods run are left out by whoever builds the Snapshot).
	Taints      []corev1.Taint
	Allocatable Resources
	// Pods that take room here: bound, or holding a seat.
	Pods []*corev1.Pod
	// Provisioner and Claim behind it; empty for nodes that are not Berth's.
	Provisioner, Claim string
	// InFlight: bought, but not yet ready for pods.
	InFlight bool
	// Since is when a node in flight was asked for, zero for others: those that come
	// first are filled first.
	Since time.Time
	// Unschedulable: nothing new may be placed here (cordoned, going away), but
	// its pods still count for topology.
	Unschedulable bool
	// VolumeLimits by CSI driver name, from CSINode; absent: unlimited, or on a
	// node in flight what its instance type says.
	VolumeLimits map[string]int64
	// Attached are the PersistentVolumes that are attached there by their
	// VolumeAttachments, whether a pod uses them (still) or not.
	Attached []string
	// HourlyPrice in $/h; 0 for nodes that are not Berth's.
	HourlyPrice float64
}

// Snapshot is all that a Plan depends on. The planner changes nothing in it.
type Snapshot struct {
	// Now is the time of the Snapshot.
	Now time.Time
	// Pods that wait for a seat.
	Pods []*corev1.Pod
	// Held are pods that wait too, but are not to be planned for now, and why. They
	// are members of their groups without a place; the Plan does not list them.
	Held []Unschedulable
	// Also is what a pod's node must match beside what the pod itself requires, its own
	// or one of a node's pods; by labels that each node has, and by name. kube-scheduler
	// does not know of it, so that no topology spread honors it.
	Also map[*corev1.Pod][]*corev1.NodeSelector
	// Nodes that exist or are coming.
	Nodes []*Node
	// DaemonSetPods: for each DaemonSet one pod as its controller would make
	// it, without the affinity to one node.
	DaemonSetPods []*corev1.Pod
	// Provisioners, in any order.
	Provisioners []*Provisioner
	// Namespaces' labels by name, for namespace selectors.
	Namespaces map[string]map[string]string
	// Claims, volumes and classes that the pods' volumes refer to, by
	// namespace/name and name.
	PVCs           map[string]*corev1.PersistentVolumeClaim
	PVs            map[string]*corev1.PersistentVolume
	StorageClasses map[string]*storagev1.StorageClass
	// Groups are the PodGroup objects, by namespace/name. Groups that pods'
	// annotations make are not among them.
	Groups map[string]PodGroup
	// DefaultSpread are the spread constraints that kube-scheduler is configured
	// to give pods that have none (PodTopologySpreadArgs.defaultConstraints); their
	// selectors do not matter. By Services and OwnerSelectors it knows which pods
	// belong together; nobody needs these without DefaultSpread.
	DefaultSpread []corev1.TopologySpreadConstraint
	Services      []*corev1.Service
	// OwnerSelectors of ReplicaSets, StatefulSets and ReplicationControllers, by
	// Kind/namespace/name.
	OwnerSelectors map[string]*metav1.LabelSelector
	// Region that new nodes are in.
	Region string
	// Budget is the time that the plan may take on a slow core, in counted steps. The
	// first plan is made whatever it takes; what is left goes into improving it and
	// into proving how good it is. It only cuts between improvements.
	Budget time.Duration
}

// Require adds to Also.
func (s *Snapshot) Require(p *corev1.Pod, node *corev1.NodeSelector) {
	if s.Also == nil {
		s.Also = map[*corev1.Pod][]*corev1.NodeSelector{}
	}
	s.Also[p] = append(s.Also[p], node)
}
