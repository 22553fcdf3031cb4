package v1alpha1

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Provisioner says what capacity may be bought and how it is given back.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes`
// +kubebuilder:printcolumn:name="$/h",type=string,JSONPath=`.status.hourlyCost`
// +kubebuilder:printcolumn:name="CPU",type=string,JSONPath=`.status.resources.cpu`
// +kubebuilder:printcolumn:name="Memory",type=string,JSONPath=`.status.resources.memory`,priority=1
// +kubebuilder:printcolumn:name="Weight",type=integer,JSONPath=`.spec.weight`,priority=1
// +kubebuilder:printcolumn:name="Why not ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="the name is used as a label value: at most 63 characters"
type Provisioner struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec ProvisionerSpec `json:"spec"`
	// +optional
	Status ProvisionerStatus `json:"status,omitempty"`
}

// ProvisionerList is a list of Provisioners.
//
// +kubebuilder:object:root=true
type ProvisionerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Provisioner `json:"items"`
}

// ProvisionerSpec is the wish of whoever runs the cluster.
//
// The rules here are about the template and yet not at NodeTemplate, which a
// NodeClaim has too: what they refuse could be used before there were rules, and
// the claims of a Provisioner that was stored then must go on being accepted.
//
// +kubebuilder:validation:XValidation:rule="!has(self.labels) || self.labels.all(k, !(k in ['beta.kubernetes.io/os','beta.kubernetes.io/arch','beta.kubernetes.io/instance-type','failure-domain.beta.kubernetes.io/zone','failure-domain.beta.kubernetes.io/region']))",fieldPath=".labels",message="labels: beta.kubernetes.io/ and failure-domain.beta.kubernetes.io/ keys follow from the instance; restrict kubernetes.io/os, kubernetes.io/arch, node.kubernetes.io/instance-type, topology.kubernetes.io/zone or topology.kubernetes.io/region under requirements instead"
// +kubebuilder:validation:XValidation:rule="!has(self.ec2) || !has(self.ec2.subnets) || self.ec2.subnets.all(t, !has(t.id) || t.id.startsWith('subnet-'))",fieldPath=".ec2.subnets",message="subnets: an id begins with subnet-"
// +kubebuilder:validation:XValidation:rule="!has(self.ec2) || !has(self.ec2.securityGroups) || self.ec2.securityGroups.all(t, !has(t.id) || t.id.startsWith('sg-'))",fieldPath=".ec2.securityGroups",message="securityGroups: an id begins with sg-"
// +kubebuilder:validation:XValidation:rule="!has(self.ec2) || !has(self.ec2.capacityReservations) || self.ec2.capacityReservations.all(t, !has(t.id) || t.id.startsWith('cr-'))",fieldPath=".ec2.capacityReservations",message="capacityReservations: an id begins with cr-"
// +kubebuilder:validation:XValidation:rule="!has(self.ec2) || !has(self.ec2.blockDevices) || self.ec2.blockDevices.all(d, !has(d.volumeSize) || d.volumeSize.matches('[eE][+-]?[0-9]{3}') || !isQuantity(d.volumeSize) || (quantity(d.volumeSize).compareTo(quantity('1Gi')) >= 0 && quantity(d.volumeSize).compareTo(quantity('64Ti')) <= 0))",fieldPath=".ec2.blockDevices",message="blockDevices: a volumeSize is 1Gi to 64Ti; without a unit it would be in bytes"
// +kubebuilder:validation:XValidation:rule="!has(self.ec2) || !has(self.ec2.launchTemplate) || !(has(self.ec2.securityGroups) && size(self.ec2.securityGroups) > 0 || has(self.ec2.capacityReservations) && size(self.ec2.capacityReservations) > 0)",fieldPath=".ec2.launchTemplate",message="launchTemplate brings its own security groups and capacity reservation; set them there, and leave out ec2.securityGroups and ec2.capacityReservations"
// +kubebuilder:validation:XValidation:rule="!has(self.ec2) || !has(self.ec2.launchTemplate) || !has(self.ec2.metadataOptions) || (self.ec2.metadataOptions.httpEndpoint == 'enabled' && self.ec2.metadataOptions.httpTokens == 'required' && self.ec2.metadataOptions.httpPutResponseHopLimit == 1)",fieldPath=".ec2.launchTemplate",message="launchTemplate brings its own metadata options; set them there, and leave out ec2.metadataOptions"
// +kubebuilder:validation:XValidation:rule="!has(self.ec2) || !has(self.ec2.launchTemplate) || !has(self.kubelet) || !has(self.kubelet.clusterDNS) || size(self.kubelet.clusterDNS) == 0",fieldPath=".ec2.launchTemplate",message="launchTemplate brings its own user data; set the cluster's DNS there, and leave out kubelet.clusterDNS"
// +kubebuilder:validation:XValidation:rule="!has(self.ec2) || self.ec2.amiFamily != 'Bottlerocket' || !has(self.kubelet) || !has(self.kubelet.podsPerCore)",fieldPath=".kubelet.podsPerCore",message="podsPerCore: Bottlerocket has no such setting; set kubelet.maxPods"
type ProvisionerSpec struct {
	NodeTemplate `json:",inline"`

	// Requirements restrict what may be bought, by the labels that the node
	// would have: zone, instance type, family, size, arch, capacity type, …
	// On a label of your own, the values that nodes may carry.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=100
	Requirements []Requirement `json:"requirements,omitempty"`

	// Weight orders Provisioners: of those that can host a pod, the heaviest
	// is used; the cheapest among equals. Default 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Weight int32 `json:"weight,omitempty"`

	// Limits bound all nodes together. Keys: cpu, memory, ephemeral-storage, pods,
	// any extended resource, "nodes" and "hourlyCost" (in $/h). Quote a decimal
	// number: hourlyCost: "5.5". Reserved before a launch and never overrun.
	// +optional
	// +kubebuilder:validation:MaxProperties=24
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.size() <= 253 && (k in ['cpu','memory','ephemeral-storage','pods','nodes','hourlyCost'] || k.contains('/')))",message="limits: keys are cpu, memory, ephemeral-storage, pods, nodes, hourlyCost, or an extended resource such as nvidia.com/gpu"
	// +kubebuilder:validation:XValidation:rule="self.all(k, !string(self[k]).startsWith('-'))",message="limits: values must not be negative"
	// +kubebuilder:validation:XValidation:rule="['nodes','pods'].all(k, !(k in self) || string(self[k]).matches('[eE][+-]?[0-9]{3}') || !isQuantity(string(self[k])) || quantity(string(self[k])).isInteger())",message="limits: nodes and pods are whole numbers"
	Limits corev1.ResourceList `json:"limits,omitempty"`

	// TTLSecondsAfterEmpty removes a node that has carried no workload pod
	// for that long, at most ten years. Unset: never. 0: at once.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=315360000
	TTLSecondsAfterEmpty *int64 `json:"ttlSecondsAfterEmpty,omitempty"`

	// TTLSecondsUntilExpired removes a node that old, at most ten years. Unset: never.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=315360000
	TTLSecondsUntilExpired *int64 `json:"ttlSecondsUntilExpired,omitempty"`

	// Consolidation replaces or removes nodes when that is cheaper.
	// +optional
	Consolidation *Consolidation `json:"consolidation,omitempty"`

	// Disruption bounds how much may be removed at once.
	// +optional
	Disruption *Disruption `json:"disruption,omitempty"`

	// Drain says how nodes are emptied.
	// +optional
	Drain *Drain `json:"drain,omitempty"`

	// Binding says how pods get to the nodes that were bought for them.
	// +optional
	// +kubebuilder:default=Nominate
	Binding Binding `json:"binding,omitempty"`
}

// maxTTL is the Maximum of both times above. What was stored before there was one
// stands for this: beyond 292 years, a time.Duration would turn negative.
const maxTTL = 315_360_000

// AfterEmpty is TTLSecondsAfterEmpty as a time; ok is false where it is not set.
func (s *ProvisionerSpec) AfterEmpty() (ttl time.Duration, ok bool) {
	return seconds(s.TTLSecondsAfterEmpty)
}

// UntilExpired is TTLSecondsUntilExpired as a time; ok is false where it is not set.
func (s *ProvisionerSpec) UntilExpired() (ttl time.Duration, ok bool) {
	return seconds(s.TTLSecondsUntilExpired)
}

func seconds(n *int64) (time.Duration, bool) {
	if n == nil {
		return 0, false
	}
	return time.Duration(max(0, min(*n, maxTTL))) * time.Second, true
}

// NodeTemplate is what a Provisioner hands on, unchanged, to each NodeClaim.
type NodeTemplate struct {
	// Labels that every node gets.
	// +optional
	// +kubebuilder:validation:MaxProperties=100
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.size() <= 317)",message="labels: a key is at most 317 characters"
	// +kubebuilder:validation:XValidation:rule="self.all(k, self[k].size() <= 63)",message="labels: a value is at most 63 characters"
	// +kubebuilder:validation:XValidation:rule="self.all(k, !(k.startsWith('berth.dev/') || k in ['kubernetes.io/hostname','kubernetes.io/arch','kubernetes.io/os','node.kubernetes.io/instance-type','topology.kubernetes.io/zone','topology.kubernetes.io/region','topology.k8s.aws/zone-id']))",message="labels: berth.dev/ keys and labels that follow from the instance are set by Berth; restrict them under requirements instead"
	Labels map[string]string `json:"labels,omitempty"`

	// Annotations that every node gets.
	// +optional
	// +kubebuilder:validation:MaxProperties=100
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.size() <= 317 && !k.startsWith('berth.dev/'))",message="annotations: keys under berth.dev/ are set by Berth"
	Annotations map[string]string `json:"annotations,omitempty"`

	// Taints that every node gets; pods must tolerate them to be placed here.
	// +optional
	// +listType=map
	// +listMapKey=key
	// +listMapKey=effect
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.effect in ['NoSchedule','PreferNoSchedule','NoExecute'])",message="taints: effect must be NoSchedule, PreferNoSchedule or NoExecute"
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.key.size() > 0 && t.key.size() <= 317 && !t.key.startsWith('berth.dev/'))",message="taints: a key of 1 to 317 characters is required, and keys under berth.dev/ are set by Berth"
	Taints []corev1.Taint `json:"taints,omitempty"`

	// StartupTaints are on a node when it joins and removed by somebody else
	// (a CNI, a driver). Pods need not tolerate them; the node is
	// not Initialized while they are there.
	// +optional
	// +listType=map
	// +listMapKey=key
	// +listMapKey=effect
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.effect in ['NoSchedule','PreferNoSchedule','NoExecute'])",message="startupTaints: effect must be NoSchedule, PreferNoSchedule or NoExecute"
	// +kubebuilder:validation:XValidation:rule="self.all(t, t.key.size() > 0 && t.key.size() <= 317 && !t.key.startsWith('berth.dev/'))",message="startupTaints: a key of 1 to 317 characters is required, and keys under berth.dev/ are set by Berth"
	StartupTaints []corev1.Taint `json:"startupTaints,omitempty"`

	// Kubelet settings that Berth must know to compute what a node can hold.
	// +optional
	Kubelet *Kubelet `json:"kubelet,omitempty"`

	// EC2 says how instances are made.
	// +optional
	EC2 EC2 `json:"ec2,omitempty"`
}

// Operator of a Requirement.
//
// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist;Gt;Lt
type Operator string

// Requirement restricts the values of one label.
//
// +kubebuilder:validation:XValidation:rule="self.operator in ['In','NotIn'] ? has(self.values) && size(self.values) > 0 : true",message="operators In and NotIn need at least one value"
// +kubebuilder:validation:XValidation:rule="self.operator in ['Exists','DoesNotExist'] ? !has(self.values) || size(self.values) == 0 : true",message="operators Exists and DoesNotExist take no values"
// +kubebuilder:validation:XValidation:rule="self.operator in ['Gt','Lt'] ? (has(self.values) && size(self.values) == 1 && self.values.all(v, v.matches('^[0-9]+$'))) : true",message="operators Gt and Lt take exactly one whole number"
// +kubebuilder:validation:XValidation:rule="!(self.key in ['kubernetes.io/hostname','berth.dev/nodeclaim','berth.dev/provisioner'])",message="this label is chosen per node and cannot be required; remove the requirement"
// +kubebuilder:validation:XValidation:rule="!(self.key in ['beta.kubernetes.io/os','beta.kubernetes.io/arch','beta.kubernetes.io/instance-type','failure-domain.beta.kubernetes.io/zone','failure-domain.beta.kubernetes.io/region'])",message="this label has a newer name; use kubernetes.io/os, kubernetes.io/arch, node.kubernetes.io/instance-type, topology.kubernetes.io/zone or topology.kubernetes.io/region",messageExpression="self.key + ' is the old name of ' + {'beta.kubernetes.io/os':'kubernetes.io/os','beta.kubernetes.io/arch':'kubernetes.io/arch','beta.kubernetes.io/instance-type':'node.kubernetes.io/instance-type','failure-domain.beta.kubernetes.io/zone':'topology.kubernetes.io/zone','failure-domain.beta.kubernetes.io/region':'topology.kubernetes.io/region'}[self.key] + '; use that'"
// +kubebuilder:validation:XValidation:rule="self.key != 'berth.dev/capacity-type' || !has(self.values) || self.values.all(v, v in ['spot','on-demand','reserved'])",message="berth.dev/capacity-type: values are spot, on-demand and reserved"
// +kubebuilder:validation:XValidation:rule="self.key != 'kubernetes.io/arch' || !has(self.values) || self.values.all(v, v in ['amd64','arm64'])",message="kubernetes.io/arch: values are amd64 and arm64"
// +kubebuilder:validation:XValidation:rule="self.key != 'kubernetes.io/os' || !has(self.values) || self.values.all(v, v == 'linux')",message="kubernetes.io/os: only linux is supported"
// +kubebuilder:validation:XValidation:rule="!self.key.startsWith('berth.dev/') || self.key in ['berth.dev/capacity-type','berth.dev/instance-category','berth.dev/instance-family','berth.dev/instance-generation','berth.dev/instance-size','berth.dev/instance-cpu','berth.dev/instance-cpu-manufacturer','berth.dev/instance-memory','berth.dev/instance-gpu-name','berth.dev/instance-gpu-manufacturer','berth.dev/instance-gpu-count','berth.dev/instance-gpu-memory','berth.dev/instance-local-nvme','berth.dev/instance-network-bandwidth','berth.dev/instance-hypervisor','berth.dev/instance-bare-metal']",message="unknown berth.dev/ label; the known ones are berth.dev/capacity-type and berth.dev/instance-{category,family,generation,size,cpu,cpu-manufacturer,memory,gpu-name,gpu-manufacturer,gpu-count,gpu-memory,local-nvme,network-bandwidth,hypervisor,bare-metal}"
type Requirement struct {
	// Key is a label key.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	Key string `json:"key"`
	// Operator relates the label's value to Values.
	// +required
	Operator Operator `json:"operator"`
	// Values of the label.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=200
	// +kubebuilder:validation:items:MaxLength=63
	Values []string `json:"values,omitempty"`
}

// Operators of a Requirement.
const (
	OperatorIn           Operator = "In"
	OperatorNotIn        Operator = "NotIn"
	OperatorExists       Operator = "Exists"
	OperatorDoesNotExist Operator = "DoesNotExist"
	OperatorGt           Operator = "Gt"
	OperatorLt           Operator = "Lt"
)

// Consolidation moves pods so that nodes can go, or be replaced by cheaper ones.
// Every decision has to pay: what it saves is weighed against what it disturbs.
type Consolidation struct {
	// Enabled lets Berth move pods of this Provisioner's nodes to save money.
	// Default true where consolidation is set at all.
	// +optional
	// +kubebuilder:default=true
	Enabled bool `json:"enabled"`
	// MinSavingsPercent is the least share of the price of the nodes that go
	// which must be saved. Default 5.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=99
	MinSavingsPercent *int32 `json:"minSavingsPercent,omitempty"`
	// Payback is the time within which the saving must have earned what the
	// moves cost. Default 1h.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('720h')",message="payback: 1m to 720h"
	Payback *metav1.Duration `json:"payback,omitempty"`
	// MoveCost is what moving one ordinary pod is taken to cost, in dollars. Pods
	// that start slowly, have large images, a high priority or a
	// pod-deletion-cost, or are the only one of their workload, cost more.
	// Default 0.002.
	// +optional
	MoveCost Price `json:"moveCost,omitempty"`
	// MinNodeAge is how long a node must have been ready. Default 10m.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="minNodeAge: not negative"
	MinNodeAge *metav1.Duration `json:"minNodeAge,omitempty"`
	// Settle is how long no pod may have come to a node before its pods are
	// moved: neither pods that start nor pods that have just been moved. Default 5m.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="settle: not negative"
	Settle *metav1.Duration `json:"settle,omitempty"`
	// MovesPerDay bounds how many pods of one workload are moved within 24 hours:
	// a number ("3") or a share of its replicas ("100%", rounded up). Default 100%.
	// +optional
	// +kubebuilder:validation:Pattern=`^([1-9][0-9]{0,3}%|[1-9][0-9]{0,5})$`
	MovesPerDay string `json:"movesPerDay,omitempty"`
}

// Disruption bounds voluntary removals.
type Disruption struct {
	// Budgets bound how many nodes of this Provisioner may be on their way out
	// at the same time. The strictest active budget holds. Without any: 10%.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=50
	Budgets []Budget `json:"budgets,omitempty"`

	// ExpiryGrace is how long after its expiry a node may stay for want of
	// budget, of a replacement, or of its pods' consent. Then it is drained
	// without them. Default 24h.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="expiryGrace: not negative"
	ExpiryGrace *metav1.Duration `json:"expiryGrace,omitempty"`

	// DriftShare is the largest share of the Provisioner's nodes that may drift
	// at once without being asked for: above it, replacing them waits for the
	// annotation berth.dev/acknowledge-drift on the Provisioner. Default 100%.
	// +optional
	// +kubebuilder:validation:Pattern=`^(100|[0-9]{1,2})%$`
	DriftShare string `json:"driftShare,omitempty"`

	// Rebalance says what EC2's recommendation to move off a spot instance does:
	// Ignore it (there will be a notice, two minutes before the end), or Replace
	// the node while there is time, a tenth of the Provisioner's nodes in ten
	// minutes and never one younger than that. Default Ignore.
	// +optional
	Rebalance RebalancePolicy `json:"rebalance,omitempty"`
}

// RebalancePolicy is what a rebalance recommendation does.
//
// +kubebuilder:validation:Enum=Ignore;Replace
type RebalancePolicy string

// Policies.
const (
	RebalanceIgnore  RebalancePolicy = "Ignore"
	RebalanceReplace RebalancePolicy = "Replace"
)

// DisruptionReason is why a node is removed.
//
// +kubebuilder:validation:Enum=Empty;Expired;Drifted;Consolidated;Interrupted;Unhealthy;Deleted
type DisruptionReason string

// Reasons for which nodes are removed. Budgets apply to the first four.
const (
	ReasonEmpty        DisruptionReason = "Empty"
	ReasonExpired      DisruptionReason = "Expired"
	ReasonDrifted      DisruptionReason = "Drifted"
	ReasonConsolidated DisruptionReason = "Consolidated"
	ReasonInterrupted  DisruptionReason = "Interrupted"
	ReasonUnhealthy    DisruptionReason = "Unhealthy"
	ReasonDeleted      DisruptionReason = "Deleted"
)

// Budget bounds simultaneous removals.
//
// +kubebuilder:validation:XValidation:rule="has(self.schedule) == has(self.duration)",message="schedule and duration go together"
// +kubebuilder:validation:XValidation:rule="!has(self.window) || self.window != 'Allow' || has(self.schedule)",message="window Allow needs a schedule"
type Budget struct {
	// Nodes is a number ("3") or a share of the Provisioner's nodes ("20%",
	// rounded up). "0" forbids.
	// +required
	// +kubebuilder:validation:Pattern=`^((100|[0-9]{1,2})%|[0-9]{1,6})$`
	Nodes string `json:"nodes"`
	// Reasons that this budget is for. Default: all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:items:Enum=Empty;Expired;Drifted;Consolidated
	Reasons []DisruptionReason `json:"reasons,omitempty"`
	// Schedule is a cron line (five fields) at which the budget begins to be
	// in force, for Duration. Default: always in force.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=120
	Schedule string `json:"schedule,omitempty"`
	// Duration for which the budget is in force after each Schedule.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m')",message="duration: at least 1m"
	Duration *metav1.Duration `json:"duration,omitempty"`
	// TimeZone of the Schedule, an IANA name. Default UTC.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	TimeZone string `json:"timeZone,omitempty"`
	// Window says what the schedule is: Limit, at which times this budget
	// binds; or Allow, at which times nodes may go at all. Where there are
	// budgets with Allow for a reason, nodes go for it only while one of them
	// is in force, and then as many as the largest of these allows. Default Limit.
	// +optional
	Window Window `json:"window,omitempty"`
}

// Window is what a Budget's schedule means.
//
// +kubebuilder:validation:Enum=Limit;Allow
type Window string

// Windows.
const (
	WindowLimit Window = "Limit"
	WindowAllow Window = "Allow"
)

// Drain settings.
type Drain struct {
	// Deadline after which pods are deleted, not evicted, whatever their
	// disruption budgets say; each still gets its own grace period. Default 1h.
	// +optional
	// +kubebuilder:default="1h0m0s"
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s') && duration(self) <= duration('168h')",message="deadline: more than 0s, at most 168h"
	Deadline metav1.Duration `json:"deadline,omitempty"`
}

// Binding is how pods get to their nodes.
//
// +kubebuilder:validation:Enum=Nominate;Immediate;Scheduler
type Binding string

const (
	// BindingNominate writes status.nominatedNodeName as the node opens, so that
	// kube-scheduler holds the seat.
	BindingNominate Binding = "Nominate"
	// BindingImmediate creates the Node object and binds pods before the
	// kubelet joins, for pods that may safely skip the scheduler.
	BindingImmediate Binding = "Immediate"
	// BindingScheduler leaves all to kube-scheduler.
	BindingScheduler Binding = "Scheduler"
)

// Kubelet settings; they go into the instance's user data.
type Kubelet struct {
	// MaxPods on a node. Default: as many as the instance's network
	// interfaces have addresses for.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxPods *int32 `json:"maxPods,omitempty"`
	// PodsPerCore bounds pods by vCPU, beside MaxPods.
	// +optional
	// +kubebuilder:validation:Minimum=1
	PodsPerCore *int32 `json:"podsPerCore,omitempty"`
	// SystemReserved resources: cpu, memory, ephemeral-storage, pid. Quote a decimal number: "0.5".
	// +optional
	// +kubebuilder:validation:MaxProperties=4
	// +kubebuilder:validation:XValidation:rule="self.all(k, k in ['cpu','memory','ephemeral-storage','pid'])",message="systemReserved: keys are cpu, memory, ephemeral-storage and pid"
	// +kubebuilder:validation:XValidation:rule="self.all(k, !string(self[k]).startsWith('-'))",message="systemReserved: values must not be negative"
	SystemReserved corev1.ResourceList `json:"systemReserved,omitempty"`
	// KubeReserved resources; each key replaces the computed value. Quote a decimal number: "0.5".
	// +optional
	// +kubebuilder:validation:MaxProperties=4
	// +kubebuilder:validation:XValidation:rule="self.all(k, k in ['cpu','memory','ephemeral-storage','pid'])",message="kubeReserved: keys are cpu, memory, ephemeral-storage and pid"
	// +kubebuilder:validation:XValidation:rule="self.all(k, !string(self[k]).startsWith('-'))",message="kubeReserved: values must not be negative"
	KubeReserved corev1.ResourceList `json:"kubeReserved,omitempty"`
	// EvictionHard thresholds by signal: a quantity or a percentage.
	// +optional
	// +kubebuilder:validation:MaxProperties=5
	// +kubebuilder:validation:XValidation:rule="self.all(k, k in ['memory.available','nodefs.available','nodefs.inodesFree','imagefs.available','pid.available'])",message="evictionHard: keys are memory.available, nodefs.available, nodefs.inodesFree, imagefs.available and pid.available"
	EvictionHard map[string]Threshold `json:"evictionHard,omitempty"`
	// ClusterDNS addresses. Default: found by the node.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="self.all(a, isIP(a))",message="clusterDNS: IP addresses"
	ClusterDNS []string `json:"clusterDNS,omitempty"`
}

// Threshold of an eviction signal: a quantity (100Mi) or a percentage (5%).
//
// +kubebuilder:validation:MaxLength=20
// +kubebuilder:validation:Pattern=`^([0-9]{1,2}(\.[0-9]+)?%|[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?)$`
type Threshold string

// ProvisionerStatus is what Berth found and did.
type ProvisionerStatus struct {
	// ObservedGeneration of the spec that the conditions speak of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: Ready, SubnetsReady, SecurityGroupsReady, AMIsReady,
	// InstanceProfileReady, ValidationSucceeded.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Resources of all nodes and claims of this Provisioner together.
	// +optional
	Resources corev1.ResourceList `json:"resources,omitempty"`
	// Nodes is the number of claims that are not gone.
	// +optional
	Nodes int32 `json:"nodes"`
	// HourlyCost of those claims, in $/h.
	// +optional
	HourlyCost Price `json:"hourlyCost,omitempty"`
	// HeldNodes are the nodes that cannot be drained now, by the
	// PodDisruptionBudget that allows no eviction; those that hold most first.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	HeldNodes []HeldNodes `json:"heldNodes,omitempty"`
}

// HeldNodes are nodes that a PodDisruptionBudget keeps from being drained.
type HeldNodes struct {
	// Budget is namespace/name of the PodDisruptionBudget.
	Budget string `json:"budget"`
	// Nodes is how many.
	Nodes int32 `json:"nodes"`
}

// Condition types of a Provisioner.
const (
	ConditionReady                = "Ready"
	ConditionValid                = "ValidationSucceeded"
	ConditionSubnetsReady         = "SubnetsReady"
	ConditionSecurityGroupsReady  = "SecurityGroupsReady"
	ConditionAMIsReady            = "AMIsReady"
	ConditionInstanceProfileReady = "InstanceProfileReady"
	// ConditionLaunchesSucceed: EC2 has refused no launch since the last one that
	// succeeded. The reason of False is the class of the refusal.
	ConditionLaunchesSucceed = "LaunchesSucceed"
	// ConditionDriftStopped: drifted nodes are not being replaced, and why.
	ConditionDriftStopped = "DriftStopped"
)
