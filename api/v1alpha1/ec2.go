package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
)

// EC2 says how instances are made.
//
// +kubebuilder:validation:XValidation:rule="self.amiFamily != 'Custom' || has(self.launchTemplate) || (has(self.amis) && size(self.amis) > 0 && self.amis.all(a, !has(a.alias)))",message="amiFamily Custom needs ec2.amis without alias, or a launchTemplate"
// +kubebuilder:validation:XValidation:rule="self.amiFamily == 'Custom' || !has(self.amis) || self.amis.all(a, !has(a.alias) || a.alias.startsWith('bottlerocket@') == (self.amiFamily == 'Bottlerocket'))",message="amis: the alias is of another family than amiFamily; al2023@ goes with AL2023, bottlerocket@ with Bottlerocket"
// +kubebuilder:validation:XValidation:rule="!has(self.launchTemplate) || !(has(self.amis) || has(self.userData) || has(self.blockDevices) || has(self.instanceProfile) || has(self.placementGroup))",message="launchTemplate replaces amis, userData, blockDevices, instanceProfile and placementGroup; set either it or them"
type EC2 struct {
	// AMIFamily says what user data the image understands.
	// +optional
	// +kubebuilder:default=AL2023
	AMIFamily AMIFamily `json:"amiFamily,omitempty"`

	// AMIs to choose from; the newest that fits an instance's architecture is
	// used. Default: the family's newest for the cluster's version.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=30
	// +kubebuilder:validation:XValidation:rule="size(self) == 1 || self.all(a, !has(a.alias))",message="amis: an alias stands alone"
	AMIs []AMITerm `json:"amis,omitempty"`

	// Subnets to launch into, by tag or id. Default: tagged
	// kubernetes.io/cluster/<name> with any value.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=30
	Subnets []SelectorTerm `json:"subnets,omitempty"`

	// SecurityGroups of instances, by tag or id. Default: tagged
	// kubernetes.io/cluster/<name> with any value.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=30
	SecurityGroups []SelectorTerm `json:"securityGroups,omitempty"`

	// InstanceProfile is the name of the IAM instance profile of nodes.
	// Default: the provisioner's --default-instance-profile.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9+=,.@_-]*$`
	InstanceProfile string `json:"instanceProfile,omitempty"`

	// UserData is merged with Berth's own, which comes last (Custom: used as it is).
	// +optional
	// +kubebuilder:validation:MaxLength=16384
	UserData string `json:"userData,omitempty"`

	// BlockDevices of instances. Default: a root volume of 20Gi gp3, encrypted.
	// +optional
	// +listType=map
	// +listMapKey=deviceName
	// +kubebuilder:validation:MaxItems=26
	// +kubebuilder:validation:XValidation:rule="self.filter(d, has(d.rootVolume) && d.rootVolume).size() <= 1",message="blockDevices: at most one rootVolume"
	BlockDevices []BlockDevice `json:"blockDevices,omitempty"`

	// MetadataOptions of the instance metadata service.
	// +optional
	// +kubebuilder:default={}
	MetadataOptions MetadataOptions `json:"metadataOptions,omitempty"`

	// Tags on instances, volumes and network interfaces, beside Berth's own.
	// +optional
	// +kubebuilder:validation:MaxProperties=40
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.size() > 0 && k.size() <= 128 && self[k].size() <= 256)",message="tags: a key has 1 to 128 characters, a value at most 256"
	// +kubebuilder:validation:XValidation:rule="self.all(k, !k.startsWith('aws:') && !k.startsWith('berth.dev/') && !k.startsWith('kubernetes.io/cluster/'))",message="tags: keys under aws:, berth.dev/ and kubernetes.io/cluster/ are reserved"
	Tags map[string]string `json:"tags,omitempty"`

	// CapacityReservations to use first, by tag or id; Capacity Blocks for ML too.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=30
	CapacityReservations []SelectorTerm `json:"capacityReservations,omitempty"`

	// PlacementGroup of EC2, by name, that instances are launched into. It must be
	// there already. One of strategy cluster lies in one zone: select subnets of one.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	PlacementGroup string `json:"placementGroup,omitempty"`

	// LaunchTemplate of your own, used as it is; Berth adds only tags,
	// instance type and subnet. Kubelet says what its user data tells the kubelet.
	// +optional
	LaunchTemplate *LaunchTemplateRef `json:"launchTemplate,omitempty"`
}

// AMIFamily is the family of an image.
//
// +kubebuilder:validation:Enum=AL2023;Bottlerocket;Custom
type AMIFamily string

// AMI families.
const (
	AMIFamilyAL2023       AMIFamily = "AL2023"
	AMIFamilyBottlerocket AMIFamily = "Bottlerocket"
	AMIFamilyCustom       AMIFamily = "Custom"
)

// AMITerm selects images.
//
// +kubebuilder:validation:XValidation:rule="[has(self.alias), has(self.id), has(self.ssmParameter), has(self.name) || has(self.tags)].filter(x, x).size() == 1",message="an amis term is exactly one of alias, id, ssmParameter, or name and/or tags"
// +kubebuilder:validation:XValidation:rule="!has(self.owner) || has(self.name) || has(self.tags)",message="owner goes with name or tags"
// +kubebuilder:validation:XValidation:rule="!has(self.name) || self.name.matches('[^*?]') || has(self.tags) || (has(self.owner) && self.owner != 'amazon')",message="name matches every image of Amazon; give more of it than wildcards, or tags, or another owner"
type AMITerm struct {
	// Alias is al2023@latest, al2023@v20260101, bottlerocket@latest or bottlerocket@1.20.0.
	// +optional
	// +kubebuilder:validation:MaxLength=60
	// +kubebuilder:validation:Pattern=`^(al2023@(latest|v[0-9]{8})|bottlerocket@(latest|v?[0-9]+\.[0-9]+\.[0-9]+))$`
	Alias string `json:"alias,omitempty"`
	// ID of the image.
	// +optional
	// +kubebuilder:validation:Pattern=`^ami-[0-9a-z]+$`
	// +kubebuilder:validation:MaxLength=30
	ID string `json:"id,omitempty"`
	// SSMParameter whose value is an image id.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1011
	SSMParameter string `json:"ssmParameter,omitempty"`
	// Name of the image, * and ? as wildcards.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name,omitempty"`
	// Tags of the image; "*" stands for any value.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=20
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.size() > 0 && k.size() <= 128 && self[k].size() <= 256)",message="tags: a key has 1 to 128 characters, a value at most 256 (* for any)"
	Tags map[string]string `json:"tags,omitempty"`
	// Owner: an account id, self or amazon. Default: self and amazon.
	// +optional
	// +kubebuilder:validation:Pattern=`^([0-9]{12}|self|amazon)$`
	// +kubebuilder:validation:MaxLength=12
	Owner string `json:"owner,omitempty"`
}

// SelectorTerm selects EC2 objects by tags (all must match) or by id.
//
// +kubebuilder:validation:XValidation:rule="has(self.id) != has(self.tags)",message="a term is either id or tags"
type SelectorTerm struct {
	// Tags that the object has; "*" stands for any value.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=20
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.size() > 0 && k.size() <= 128 && self[k].size() > 0 && self[k].size() <= 256)",message="tags: a key has 1 to 128 characters, a value 1 to 256 (* for any)"
	Tags map[string]string `json:"tags,omitempty"`
	// ID of the object.
	// +optional
	// +kubebuilder:validation:Pattern=`^(subnet|sg|cr)-[0-9a-z]+$`
	// +kubebuilder:validation:MaxLength=30
	ID string `json:"id,omitempty"`
}

// BlockDevice is a volume of an instance. What its kind of volume can and must be
// given is said in "Amazon EBS volume types".
//
// +kubebuilder:validation:XValidation:rule="!has(self.iops) || !has(self.volumeType) || self.volumeType in ['gp3','io1','io2']",message="iops goes with volumeType gp3, io1 or io2"
// +kubebuilder:validation:XValidation:rule="!has(self.volumeType) || !(self.volumeType in ['io1','io2']) || has(self.iops)",message="volumeType io1 and io2 need iops"
// +kubebuilder:validation:XValidation:rule="!has(self.iops) || (has(self.volumeType) && self.volumeType != 'gp3') || self.iops >= 3000",message="iops: a gp3 volume has at least 3000"
// +kubebuilder:validation:XValidation:rule="!has(self.throughput) || !has(self.volumeType) || self.volumeType == 'gp3'",message="throughput goes with volumeType gp3"
// +kubebuilder:validation:XValidation:rule="!has(self.kmsKeyID) || size(self.kmsKeyID) == 0 || !has(self.encrypted) || self.encrypted",message="kmsKeyID encrypts; it does not go with encrypted: false"
type BlockDevice struct {
	// DeviceName such as /dev/xvda.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	DeviceName string `json:"deviceName"`
	// RootVolume marks the device that holds pods' ephemeral storage.
	// +optional
	RootVolume bool `json:"rootVolume,omitempty"`
	// VolumeSize, 1Gi to 64Ti, rounded up to whole GiB. Default: 20Gi, or the size of the image where that is more. A bare
	// number would be bytes, and is no text: it is refused.
	// +optional
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=20
	// +kubebuilder:validation:Pattern=`^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2}|[numkMGTPE]|[KMGTPE]i)?$`
	VolumeSize *resource.Quantity `json:"volumeSize,omitempty"`
	// VolumeType. Default gp3.
	// +optional
	// +kubebuilder:validation:Enum=gp2;gp3;io1;io2;st1;sc1;standard
	VolumeType string `json:"volumeType,omitempty"`
	// IOPS, for gp3, io1 and io2.
	// +optional
	// +kubebuilder:validation:Minimum=100
	IOPS *int32 `json:"iops,omitempty"`
	// Throughput in MiB/s, for gp3.
	// +optional
	// +kubebuilder:validation:Minimum=125
	Throughput *int32 `json:"throughput,omitempty"`
	// Encrypted. Default true.
	// +optional
	Encrypted *bool `json:"encrypted,omitempty"`
	// KMSKeyID to encrypt with.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	KMSKeyID string `json:"kmsKeyID,omitempty"`
	// SnapshotID to start from.
	// +optional
	// +kubebuilder:validation:Pattern=`^snap-[0-9a-z]+$`
	// +kubebuilder:validation:MaxLength=30
	SnapshotID string `json:"snapshotID,omitempty"`
	// DeleteOnTermination. Default true.
	// +optional
	DeleteOnTermination *bool `json:"deleteOnTermination,omitempty"`
}

// MetadataOptions of the instance metadata service.
type MetadataOptions struct {
	// HTTPEndpoint enabled or disabled.
	// +optional
	// +kubebuilder:default=enabled
	// +kubebuilder:validation:Enum=enabled;disabled
	HTTPEndpoint string `json:"httpEndpoint,omitempty"`
	// HTTPTokens required means IMDSv2 only.
	// +optional
	// +kubebuilder:default=required
	// +kubebuilder:validation:Enum=required;optional
	HTTPTokens string `json:"httpTokens,omitempty"`
	// HTTPPutResponseHopLimit: 1 keeps pods from the node's credentials.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=64
	HTTPPutResponseHopLimit int32 `json:"httpPutResponseHopLimit,omitempty"`
}

// LaunchTemplateRef names a launch template.
//
// +kubebuilder:validation:XValidation:rule="has(self.id) != has(self.name)",message="launchTemplate: either id or name"
type LaunchTemplateRef struct {
	// ID of the template.
	// +optional
	// +kubebuilder:validation:Pattern=`^lt-[0-9a-z]+$`
	// +kubebuilder:validation:MaxLength=30
	ID string `json:"id,omitempty"`
	// Name of the template.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name,omitempty"`
	// Version number. A number, not $Latest: a launch must be repeatable.
	// +required
	// +kubebuilder:validation:Pattern=`^[1-9][0-9]*$`
	// +kubebuilder:validation:MaxLength=10
	Version string `json:"version"`
}
