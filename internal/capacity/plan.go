package capacity

import (
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Plan is the planner's answer. Every pod of the Snapshot is in exactly one of
// Launches, Placements and Unschedulable.
type Plan struct {
	Launches      []Launch
	Placements    []Placement
	Unschedulable []Unschedulable
	// HourlyCost of the launches, in $/h.
	HourlyCost float64
	// LowerBound in $/h: no plan for the same Snapshot that seats as many pods of
	// each shape launches for less. It allows for nodes of any size and for any
	// Provisioner, whatever its weight.
	LowerBound float64
	// Objective is what the plan was judged by, part by part.
	Objective Objective
	// Shapes is the number of distinct shapes among the pods that there was
	// something to plan for.
	Shapes int
	// SolveTime is what the caller measured around Solve; Solve leaves it 0.
	SolveTime time.Duration
}

// Gap is how far the plan's cost is above the proven bound: 0.02 is 2 %. It is
// infinite when something is bought and no bound above 0 is proven.
func (p *Plan) Gap() float64 {
	switch {
	case p.LowerBound > 0:
		return max(0, p.HourlyCost/p.LowerBound-1)
	case p.HourlyCost > 0:
		return math.Inf(1)
	default:
		return 0
	}
}

// GapText says in words what is proven about the cost, for people.
func (p *Plan) GapText() string {
	if math.IsInf(p.Gap(), 1) {
		return "no minimum is proven"
	}
	return fmt.Sprintf("at most %.1f %% above the proven minimum", 100*p.Gap())
}

// OfferingRef names an offering with its price.
type OfferingRef struct {
	InstanceType, CapacityType, Zone string
	// Price in $/h.
	Price float64
}

// Launch is one node to buy.
type Launch struct {
	Provisioner *Provisioner
	OfferingRef
	// Alternatives host the same pods, under the same Provisioner, without the
	// choice itself: those of its capacity type, cheapest first, then on-demand ones.
	Alternatives []OfferingRef
	// Labels that the planner assumes of the node when the choice is bought.
	Labels map[string]string
	// Taints that stay on the node.
	Taints []corev1.Taint
	// Capacity and Allocatable that the planner assumes; Requests what of the
	// latter is taken, DaemonSets included.
	Capacity, Allocatable, Requests Resources
	// VolumeLimits by CSI driver that the planner assumes of its CSINode.
	VolumeLimits map[string]int64
	// Pods to run there.
	Pods []*corev1.Pod
	// Next are the cheapest offerings of up to three other instance types, under
	// the same Provisioner, that could host the same pods: what the choice was
	// weighed against. Cheapest first.
	Next []OfferingRef
	// Why this offering, in one line: its price, and Next with theirs.
	Why string
}

// Placement is a seat on a node that exists or is coming.
type Placement struct {
	Pod  *corev1.Pod
	Node *Node
}

// Unschedulable is a pod that nothing can host, and why.
type Unschedulable struct {
	Pod *corev1.Pod
	// Reasons, the nearest miss first, one for each Provisioner; or a single
	// one without Provisioner where it holds for all.
	Reasons []Reason
}

// Reason is why a pod cannot have a new node of a Provisioner.
type Reason struct {
	// Provisioner's name; empty when the reason is the pod's own.
	Provisioner string
	// Constraint is the kind of obstacle, one of the Constraint… values.
	Constraint Constraint
	// Detail says what was wanted and what there is.
	Detail string
	// Fix is the smallest change that would help.
	Fix string
}

// Constraint is a kind of obstacle.
type Constraint string

// Constraints.
const (
	ConstraintNoProvisioner  Constraint = "NoProvisioner"
	ConstraintNotReady       Constraint = "ProvisionerNotReady"
	ConstraintTaint          Constraint = "Taint"
	ConstraintNodeSelector   Constraint = "NodeSelector"
	ConstraintNodeAffinity   Constraint = "NodeAffinity"
	ConstraintResources      Constraint = "Resources"
	ConstraintLimits         Constraint = "Limits"
	ConstraintPodAffinity    Constraint = "PodAffinity"
	ConstraintAntiAffinity   Constraint = "PodAntiAffinity"
	ConstraintTopologySpread Constraint = "TopologySpread"
	ConstraintHostPort       Constraint = "HostPort"
	ConstraintVolume         Constraint = "Volume"
	ConstraintUnavailable    Constraint = "Unavailable"
	ConstraintResourceClaim  Constraint = "ResourceClaim"
	ConstraintGated          Constraint = "SchedulingGate"
	// ConstraintPodGroup: too few pods of the pod's group exist or have a place.
	ConstraintPodGroup Constraint = "PodGroup"
	// ConstraintNotBound: nodes were bought for such pods and none was bound there.
	ConstraintNotBound Constraint = "NotBound"
)
