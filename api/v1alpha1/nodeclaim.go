package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// NodeClaim is one wanted instance, from intent to gone. Its existence is the
// intent: it is written before EC2 is called.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=berth
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.status.instanceType`
// +kubebuilder:printcolumn:name="Capacity",type=string,JSONPath=`.status.capacityType`
// +kubebuilder:printcolumn:name="Zone",type=string,JSONPath=`.status.zone`
// +kubebuilder:printcolumn:name="$/h",type=string,JSONPath=`.status.hourlyPrice`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.nodeName`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Why",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Provisioner",type=string,JSONPath=`.spec.provisioner.name`,priority=1
// +kubebuilder:printcolumn:name="Instance",type=string,JSONPath=`.status.instanceID`,priority=1
type NodeClaim struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a NodeClaim's spec is immutable; delete the claim and let Berth make another"
	Spec NodeClaimSpec `json:"spec"`
	// +optional
	Status NodeClaimStatus `json:"status,omitempty"`
}

// NodeClaimList is a list of NodeClaims.
//
// +kubebuilder:object:root=true
type NodeClaimList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeClaim `json:"items"`
}

// NodeClaimSpec is the decision. It never changes.
type NodeClaimSpec struct {
	NodeTemplate `json:",inline"`

	// Provisioner that the claim belongs to.
	// +required
	Provisioner ProvisionerRef `json:"provisioner"`

	// Offerings, any of which hosts what the claim is for: the planner's
	// choice first, then its alternatives by price.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	Offerings []ClaimOffering `json:"offerings"`

	// Capacity and Allocatable expected of the first offering.
	// +optional
	Capacity corev1.ResourceList `json:"capacity,omitempty"`
	// +optional
	Allocatable corev1.ResourceList `json:"allocatable,omitempty"`

	// Requests of the pods (and DaemonSets) that the claim was made for.
	// +optional
	Requests corev1.ResourceList `json:"requests,omitempty"`

	// Binding of the Provisioner at the time of the decision.
	// +optional
	Binding Binding `json:"binding,omitempty"`

	// LaunchWith is the launch that the claim takes part in at first, where it
	// was created together with claims like it. Its lead has none.
	// +optional
	LaunchWith *LaunchMembership `json:"launchWith,omitempty"`
}

// LaunchMembership names a launch of several claims.
type LaunchMembership struct {
	// Lead is the claim whose status holds the request and its answer.
	// +required
	Lead string `json:"lead"`
	// Token of the launch.
	// +required
	Token string `json:"token"`
}

// ProvisionerRef names a Provisioner.
type ProvisionerRef struct {
	// +required
	Name string `json:"name"`
	// +required
	UID types.UID `json:"uid"`
}

// ClaimOffering is an instance type in a zone, bought in one way, at a price.
type ClaimOffering struct {
	// +required
	InstanceType string `json:"instanceType"`
	// +required
	Zone string `json:"zone"`
	// CapacityType is on-demand, spot or reserved.
	// +required
	CapacityType string `json:"capacityType"`
	// HourlyPrice in $/h as known at the time of the decision.
	// +required
	HourlyPrice Price `json:"hourlyPrice"`
}

// NodeClaimStatus is the state of the instance and its node.
type NodeClaimStatus struct {
	// Conditions: Launched, Registered, Initialized, Ready, Drifted, Expired, Drained, Terminated.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Launch is the intent of the launch under way or done, written before EC2 is called.
	// +optional
	Launch *LaunchIntent `json:"launch,omitempty"`

	// InstanceID, once launched.
	// +optional
	InstanceID string `json:"instanceID,omitempty"`
	// ProviderID as on the node: aws:///<zone>/<instance id>.
	// +optional
	ProviderID string `json:"providerID,omitempty"`
	// NodeName is the instance's private DNS name.
	// +optional
	NodeName string `json:"nodeName,omitempty"`
	// InstanceType that EC2 chose among the offerings.
	// +optional
	InstanceType string `json:"instanceType,omitempty"`
	// Zone that EC2 chose.
	// +optional
	Zone string `json:"zone,omitempty"`
	// CapacityType that it was bought as.
	// +optional
	CapacityType string `json:"capacityType,omitempty"`
	// HourlyPrice in $/h of that offering.
	// +optional
	HourlyPrice Price `json:"hourlyPrice,omitempty"`
	// ImageID that the instance runs.
	// +optional
	ImageID string `json:"imageID,omitempty"`
	// Capacity expected of the instance that was launched, then as its node reports it.
	// +optional
	Capacity corev1.ResourceList `json:"capacity,omitempty"`
	// Allocatable expected of the instance that was launched, then as its node reports it.
	// +optional
	Allocatable corev1.ResourceList `json:"allocatable,omitempty"`
	// DrainDeadline once removal has begun. Only ever moves earlier.
	// +optional
	DrainDeadline *metav1.Time `json:"drainDeadline,omitempty"`
}

// LaunchIntent makes a launch repeatable: the same token with the same request
// gives the same instance, whatever crashed in between.
type LaunchIntent struct {
	// Attempt counts from 1; a new one starts only after EC2 has definitely
	// refused the one before.
	// +required
	Attempt int32 `json:"attempt"`
	// Token is the ClientToken: a hash of cluster, claim UID and attempt; in a
	// launch of several claims those of the lead.
	// +required
	Token string `json:"token"`
	// StartedAt is when the attempt was recorded.
	// +required
	StartedAt metav1.Time `json:"startedAt"`
	// LaunchTemplateID and LaunchTemplateVersion, pinned.
	// +optional
	LaunchTemplateID string `json:"launchTemplateID,omitempty"`
	// +optional
	LaunchTemplateVersion string `json:"launchTemplateVersion,omitempty"`
	// CapacityType of this attempt.
	// +optional
	CapacityType string `json:"capacityType,omitempty"`
	// CapacityBlock is true where it goes into a Capacity Block, which EC2 takes a
	// request of its own kind for.
	// +optional
	CapacityBlock bool `json:"capacityBlock,omitempty"`
	// Overrides of the request, in order.
	// +optional
	// +listType=atomic
	Overrides []LaunchOverride `json:"overrides,omitempty"`

	// Lead is the claim whose status holds the request and its answer, where one
	// call launches several identical claims. Empty on the lead itself and on a
	// claim that is launched alone.
	// +optional
	Lead string `json:"lead,omitempty"`
	// Members are the claims that the call launches, the lead first; empty for a
	// claim that is launched alone. A claim that names a lead which does not name
	// it here takes no part in the launch.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=500
	Members []LaunchMember `json:"members,omitempty"`
	// Answered is true once Members hold what EC2 answered: those without an
	// instance got none.
	// +optional
	Answered bool `json:"answered,omitempty"`
}

// LaunchRecord is the launch that a claim takes part in: the one in its status,
// before that the one that it was created for; nil without either.
func (c *NodeClaim) LaunchRecord() *LaunchIntent {
	if c.Status.Launch != nil || c.Spec.LaunchWith == nil {
		return c.Status.Launch
	}
	return &LaunchIntent{Attempt: 1, Token: c.Spec.LaunchWith.Token, StartedAt: c.CreationTimestamp, Lead: c.Spec.LaunchWith.Lead}
}

// LaunchMember is a claim in a launch of several, and the instance that it got.
type LaunchMember struct {
	Name string `json:"name"`
	// +optional
	InstanceID string `json:"instanceID,omitempty"`
	// +optional
	InstanceType string `json:"instanceType,omitempty"`
	// +optional
	Zone string `json:"zone,omitempty"`
}

// LaunchOverride is one line of a CreateFleet request.
type LaunchOverride struct {
	InstanceType string `json:"instanceType"`
	Zone         string `json:"zone"`
	SubnetID     string `json:"subnetID"`
	// LaunchTemplateID and LaunchTemplateVersion of this line, where they are
	// not the intent's: a type of another architecture, or with accelerators
	// that need an image of their own.
	// +optional
	LaunchTemplateID string `json:"launchTemplateID,omitempty"`
	// +optional
	LaunchTemplateVersion string `json:"launchTemplateVersion,omitempty"`
}

// Condition types of a NodeClaim.
const (
	// ConditionLaunched: EC2 has the instance.
	ConditionLaunched = "Launched"
	// ConditionRegistered: the kubelet has joined and the node carries all labels and taints.
	ConditionRegistered = "Registered"
	// ConditionInitialized: node ready, startup taints gone, resources real.
	ConditionInitialized = "Initialized"
	// ConditionDrifted: the Provisioner would make it differently today.
	ConditionDrifted = "Drifted"
	// ConditionExpired: the node is older than its Provisioner lets it become; since
	// when that is so, disruption.expiryGrace counts.
	ConditionExpired = "Expired"
	// ConditionDrained: nothing is left on the node that must be waited for.
	ConditionDrained = "Drained"
	// ConditionTerminated: EC2 says that the instance is gone.
	ConditionTerminated = "Terminated"
)
