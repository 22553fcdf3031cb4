package v1alpha1

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
)

// Group is the domain of every key that Berth owns.
const Group = "berth.dev"

// Labels that Berth puts on every node that it launches. They can be used in
// a Provisioner's requirements and in pods' node selectors and affinities.
const (
	// LabelProvisioner names the Provisioner that a node or claim belongs to.
	LabelProvisioner = Group + "/provisioner"
	// LabelNodeClaim names the NodeClaim behind a node.
	LabelNodeClaim = Group + "/nodeclaim"
	// LabelCapacityType is one of the CapacityType… values.
	LabelCapacityType = Group + "/capacity-type"
	// LabelInstanceCategory is the leading letters of the family: c, m, r, p, …
	LabelInstanceCategory = Group + "/instance-category"
	// LabelInstanceFamily is the part of the type before the dot: m7g.
	LabelInstanceFamily = Group + "/instance-family"
	// LabelInstanceGeneration is the number in the family: 7. Comparable by Gt and Lt.
	LabelInstanceGeneration = Group + "/instance-generation"
	// LabelInstanceSize is the part of the type after the dot: 2xlarge.
	LabelInstanceSize = Group + "/instance-size"
	// LabelInstanceCPU is the number of vCPUs.
	LabelInstanceCPU = Group + "/instance-cpu"
	// LabelInstanceCPUManufacturer is intel, amd, aws or apple.
	LabelInstanceCPUManufacturer = Group + "/instance-cpu-manufacturer"
	// LabelInstanceMemory is the advertised memory in MiB.
	LabelInstanceMemory = Group + "/instance-memory"
	// LabelInstanceGPUName is the accelerator's name in lower case: a10g, t4, h100.
	LabelInstanceGPUName = Group + "/instance-gpu-name"
	// LabelInstanceGPUManufacturer is nvidia, amd, habana or aws.
	LabelInstanceGPUManufacturer = Group + "/instance-gpu-manufacturer"
	// LabelInstanceGPUCount is the number of GPUs.
	LabelInstanceGPUCount = Group + "/instance-gpu-count"
	// LabelInstanceGPUMemory is the memory of one GPU in MiB.
	LabelInstanceGPUMemory = Group + "/instance-gpu-memory"
	// LabelInstanceLocalNVMe is the total local NVMe storage in GB.
	LabelInstanceLocalNVMe = Group + "/instance-local-nvme"
	// LabelInstanceNetworkBandwidth is the baseline network bandwidth in Mbps.
	LabelInstanceNetworkBandwidth = Group + "/instance-network-bandwidth"
	// LabelInstanceHypervisor is nitro or xen; absent on bare metal.
	LabelInstanceHypervisor = Group + "/instance-hypervisor"
	// LabelInstanceBareMetal is "true" or "false".
	LabelInstanceBareMetal = Group + "/instance-bare-metal"
	// LabelZoneID is the account-independent zone id: usw2-az1.
	LabelZoneID = "topology.k8s.aws/zone-id"
)

// InstanceLabels are the labels whose values follow from the instance type alone.
var InstanceLabels = []string{
	corev1.LabelInstanceTypeStable, corev1.LabelArchStable, corev1.LabelOSStable,
	LabelInstanceCategory, LabelInstanceFamily, LabelInstanceGeneration, LabelInstanceSize,
	LabelInstanceCPU, LabelInstanceCPUManufacturer, LabelInstanceMemory,
	LabelInstanceGPUName, LabelInstanceGPUManufacturer, LabelInstanceGPUCount, LabelInstanceGPUMemory,
	LabelInstanceLocalNVMe, LabelInstanceNetworkBandwidth, LabelInstanceHypervisor, LabelInstanceBareMetal,
}

// OfferingLabels are the labels whose values follow from where and how an
// instance is bought.
var OfferingLabels = []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion, LabelZoneID, LabelCapacityType}

// LabelZoneEBS is the zone as the EBS CSI driver says it: its node plugin puts it
// on Nodes, and volumes and storage classes ask for it.
const LabelZoneEBS = "topology.ebs.csi.aws.com/zone"

// CurrentLabel is the key under which Berth knows what an older or another label
// of Kubernetes says too: Nodes carry both. Other keys are returned as they are.
// Pods, volumes and requirements may use either; Berth writes the current one.
// kube-controller-manager and the cloud controller manager put the older ones on
// Nodes, the EBS CSI driver its own.
func CurrentLabel(key string) string {
	switch key {
	case "beta.kubernetes.io/os":
		return corev1.LabelOSStable
	case "beta.kubernetes.io/arch":
		return corev1.LabelArchStable
	case corev1.LabelInstanceType:
		return corev1.LabelInstanceTypeStable
	case corev1.LabelFailureDomainBetaZone, LabelZoneEBS:
		return corev1.LabelTopologyZone
	case corev1.LabelFailureDomainBetaRegion:
		return corev1.LabelTopologyRegion
	}
	return key
}

// otherLabels are the keys that CurrentLabel replaces.
var otherLabels = []string{"beta.kubernetes.io/os", "beta.kubernetes.io/arch", corev1.LabelInstanceType,
	corev1.LabelFailureDomainBetaZone, LabelZoneEBS, corev1.LabelFailureDomainBetaRegion}

// WithOtherLabels adds to the labels of a Node to come those that it will carry
// for the same facts: see CurrentLabel. The map is new.
func WithOtherLabels(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels)+len(otherLabels))
	maps.Copy(out, labels)
	for _, key := range otherLabels {
		if v, ok := out[CurrentLabel(key)]; ok && out[key] == "" {
			out[key] = v
		}
	}
	return out
}

// Values of LabelCapacityType.
const (
	CapacityTypeOnDemand = "on-demand"
	CapacityTypeSpot     = "spot"
	CapacityTypeReserved = "reserved"
)

// Annotations.
const (
	// AnnotationPlacement is the webhook's placement hint on a pod. Advisory.
	AnnotationPlacement = Group + "/placement"
	// AnnotationShape is the hash of the pod's scheduling-relevant part. Advisory.
	AnnotationShape = Group + "/shape"
	// AnnotationDoNotDisrupt on a pod or node holds off voluntary disruption:
	// "true", or a duration counted from the pod's start.
	AnnotationDoNotDisrupt = Group + "/do-not-disrupt"
	// AnnotationProvisionerHash on a NodeClaim is the hash of the Provisioner's
	// template at the time of the decision; a difference is drift.
	AnnotationProvisionerHash = Group + "/provisioner-hash"
	// AnnotationDisruptionReason on a NodeClaim says why it is being removed; on
	// a Node, why it was taken out of use.
	AnnotationDisruptionReason = Group + "/disruption-reason"
	// AnnotationCordoned on a Node remembers when a drain began and what it
	// added to the node, so that exactly that can be taken back.
	AnnotationCordoned = Group + "/cordoned"
	// AnnotationPauseDisruption on a Provisioner, or on Berth's own namespace for
	// all of them, keeps nodes from being chosen for disruption until then: a
	// time (RFC 3339). A duration, or anything else, is read once and replaced
	// by the time that it stands for ("true": an hour).
	AnnotationPauseDisruption = Group + "/pause-disruption"
	// AnnotationPauseLaunching likewise keeps nodes from being bought.
	AnnotationPauseLaunching = Group + "/pause-launching"
	// AnnotationAcknowledgeDrift on a Provisioner lets more nodes drift than its
	// disruption.driftShare: the target that condition DriftStopped names.
	AnnotationAcknowledgeDrift = Group + "/acknowledge-drift"
	// AnnotationReplaces on a NodeClaim names the claims that it was bought in
	// place of, separated by commas, while they are still to go.
	AnnotationReplaces = Group + "/replaces"
	// AnnotationDecision on a NodeClaim is the one-line record of why it was bought.
	AnnotationDecision = Group + "/decision"
	// AnnotationAcknowledge on a Provisioner lets an update pass that replaces more
	// of its nodes than may be replaced unasked: the value that the refusal names.
	AnnotationAcknowledge = Group + "/acknowledge"
	// AnnotationDeletion on a Provisioner says what becomes of its nodes when it
	// is deleted: DeletionOrphan or DeletionDrain.
	AnnotationDeletion = Group + "/deletion"
)

// Values of AnnotationDeletion.
const (
	// DeletionOrphan leaves the nodes: they are drained before EC2 takes them, and
	// else stay until somebody deletes them. Without a Provisioner nothing says when
	// they expire or are empty for too long.
	DeletionOrphan = "orphan"
	// DeletionDrain drains and terminates them first; the Provisioner goes last.
	DeletionDrain = "drain"
)

// Annotations on a workload's pod template that divide its pods between spot
// and on-demand nodes.
const (
	// AnnotationSpotShare is the share of a controller's pods that are to run on
	// spot nodes: "70%", from 0% to 100%. On-demand nodes get the others.
	AnnotationSpotShare = Group + "/spot-share"
	// AnnotationMinOnDemand is how many of its pods are to run on on-demand nodes
	// in any case, before the share counts: "2". Optional.
	AnnotationMinOnDemand = Group + "/min-on-demand"
)

// LabelCapacityChoice on a pod is the capacity type that was chosen for it to keep
// AnnotationSpotShare: CapacityTypeSpot or CapacityTypeOnDemand.
const LabelCapacityChoice = Group + "/capacity-choice"

// Annotations on pods that make them a group without a PodGroup object. All pods
// of the group, in one namespace, carry the same; spec.schedulingGroup comes first.
const (
	// AnnotationPodGroup names the group: its pods get nodes all or nothing.
	AnnotationPodGroup = Group + "/pod-group"
	// AnnotationPodGroupMinCount is how many pods must be able to run at once for
	// any to get a node: a number of 1 or more. Required with AnnotationPodGroup.
	AnnotationPodGroupMinCount = Group + "/pod-group-min-count"
	// AnnotationPodGroupTopology is the key of a node label that must have the same
	// value for all pods of the group: topology.kubernetes.io/zone. Optional.
	AnnotationPodGroupTopology = Group + "/pod-group-topology"
)

// Annotations of other projects that Berth honours like AnnotationDoNotDisrupt.
const (
	AnnotationKarpenterDoNotDisrupt = "karpenter.sh/do-not-disrupt"
	AnnotationSafeToEvict           = "cluster-autoscaler.kubernetes.io/safe-to-evict"
)

// LabelGated is on nodes that open together, while a pod keeps all others off them until the
// last one is open, and on that pod.
const LabelGated = Group + "/gated"

// Taints.
const (
	// TaintUnregistered keeps pods off a node until Berth has put all labels
	// and taints on it. The kubelet registers with it; Berth removes it. Its effect
	// is NoSchedule: kube-controller-manager learns of pods and of Nodes by watches of
	// their own, and under NoExecute it evicts pods of whose binding it hears before
	// it hears that the taint is gone.
	TaintUnregistered = Group + "/unregistered"
	// TaintDisrupted keeps new pods off a node that is being removed.
	TaintDisrupted = Group + "/disrupted"
)

// Finalizer is on every NodeClaim and Node of Berth: neither goes before the
// node is drained and EC2 says that the instance is terminated.
const Finalizer = Group + "/termination"

// Keys of EC2 tags that Berth puts on all that it creates.
const (
	// TagClusterPrefix + cluster name = "owned".
	TagClusterPrefix = "kubernetes.io/cluster/"
	// TagClusterUID is the UID of the cluster's kube-system namespace.
	TagClusterUID = Group + "/cluster-uid"
	// TagProvisioner is the name of the Provisioner.
	TagProvisioner = Group + "/provisioner"
	// TagLaunch is the ClientToken of the launch. An instance of a launch of
	// several claims has it from its first moment, and the tags of its claim soon
	// after.
	TagLaunch = Group + "/launch"
	// TagNodeClaim is the name of the NodeClaim.
	TagNodeClaim = Group + "/nodeclaim"
	// TagNodeClaimUID is the UID of the NodeClaim, so that a claim re-created
	// under an old name never adopts the old one's instance.
	TagNodeClaimUID = Group + "/nodeclaim-uid"
)

// Keys of a Provisioner's limits beside resource names.
const (
	// LimitNodes bounds the number of nodes.
	LimitNodes corev1.ResourceName = "nodes"
	// LimitHourlyCost bounds the sum of the nodes' prices in $/h.
	LimitHourlyCost corev1.ResourceName = "hourlyCost"
)

// ConsolidationConfigMap is the ConfigMap in Berth's namespace in which the
// leading provisioner remembers which workloads it has moved, and which
// replacements have failed.
const ConsolidationConfigMap = "berth-consolidation"

// OfferingsConfigMap is the ConfigMap in Berth's namespace in which the leading
// provisioner publishes its offerings snapshot for the webhook.
const OfferingsConfigMap = "berth-offerings"
