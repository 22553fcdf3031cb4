package capacity

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// ConsolidationPolicy is what a Provisioner says about moving pods to save
// money.
type ConsolidationPolicy struct {
	// MinSaving is the least share of the price of the nodes that go which must
	// be saved: 0.05 is 5 %.
	MinSaving float64
	// Payback is the time within which the saving must have paid for the moves.
	Payback time.Duration
	// MoveCost is what moving one ordinary pod is taken to cost, in $.
	MoveCost float64
	// MinNodeAge is how long a node must have been there to be taken away.
	MinNodeAge time.Duration
	// Settle is how long no pod may have come to a node for it to be taken away.
	Settle time.Duration
	// MovesPerDay bounds the moves of a workload within 24 hours: a share of its
	// replicas in percent where MovesPercent is set, else a number.
	MovesPerDay, MovesPercent int
	// LeaveEmpty leaves nodes without workload to whoever else takes them away.
	LeaveEmpty bool
}

// NodeFacts is what consolidation must know of one of Berth's nodes beside what
// the Snapshot says.
type NodeFacts struct {
	// Since is when the node became ready for pods.
	Since time.Time
	// Keep is why it must not be disrupted now; empty: it may be.
	Keep string
	// NoReplacement is why no node may be bought in its place for now; empty: one
	// may.
	NoReplacement string
	// Going: it is on its way out, and its pods will look for places.
	Going bool
	// Chosen: a decision under way takes it away. It may be judged although it is
	// cordoned for that, and although pods have come to it since it was decided.
	Chosen bool
	// Reserved: bought in place of others whose pods are still to come, or about to
	// go itself. Nobody else's pods are planned onto it.
	Reserved bool
}

// PodFacts is what consolidation must know of a pod on one of Berth's nodes.
type PodFacts struct {
	// Stays: it ends with its node, or does not matter (of a DaemonSet, static,
	// finished).
	Stays bool
	// Keep is why it must not be moved; empty: it may be.
	Keep string
	// Workload is its controller, and Replicas how many pods that has.
	Workload string
	Replicas int
	// Bound is when it came to its node.
	Bound time.Time
	// Start is how long it took from there until it was ready.
	Start time.Duration
	// ImageBytes to pull where no other pod has brought its images.
	ImageBytes int64
}

// ConsolidationInput is all that Consolidate depends on.
type ConsolidationInput struct {
	Snapshot *Snapshot
	// Policies by Provisioner; nodes of others are never taken away.
	Policies map[string]ConsolidationPolicy
	// Nodes by name. A node without facts is never taken away.
	Nodes map[string]NodeFacts
	// Pods on the Snapshot's nodes. A pod without facts is not moved.
	Pods map[*corev1.Pod]PodFacts
	// Moved is how many moves each workload has had in the last 24 hours.
	Moved map[string]int
}

// Move is one pod's way to another node.
type Move struct {
	Pod  *corev1.Pod
	From *Node
	// To is a node that exists; nil when the pod is to run on the decision's
	// launch number Launch.
	To     *Node
	Launch int
}

// Decision takes some nodes away, after buying others in their place or none.
type Decision struct {
	Nodes    []*Node
	Launches []Launch
	Moves    []Move
	// Saving in $/h.
	Saving float64
	// Price of Nodes in $/h, before.
	Price float64
	// Cost of the moves in $.
	Cost float64
	// Why, in one line: what it saves and what it costs.
	Why string
}

// Payback is how long the saving takes to pay for the moves.
func (d *Decision) Payback() time.Duration {
	return time.Duration(d.Cost / d.Saving * float64(time.Hour))
}

// Consolidation is Consolidate's answer. The decisions do not conflict: no node
// or pod is in two of them, and no room is used twice. Carried out in this order,
// kube-scheduler accepts each pod; where some are left out, or pods are tied to
// others by spread or affinity, Recheck says what still holds.
type Consolidation struct {
	// Decisions, in about the order of what they save for their cost.
	Decisions []Decision
	// Kept says of each node with a policy why it stays, by name.
	Kept map[string]string
}

// Saving of all decisions in $/h.
func (c *Consolidation) Saving() float64 {
	sum := 0.0
	for i := range c.Decisions {
		sum += c.Decisions[i].Saving
	}
	return sum
}

// Moves of all decisions.
func (c *Consolidation) Moves() int {
	n := 0
	for i := range c.Decisions {
		n += len(c.Decisions[i].Moves)
	}
	return n
}

// Consolidate finds nodes that can be taken away, or replaced by cheaper ones,
// so that money is saved at the least disruption. Every pod is moved at most
// once, and only where kube-scheduler will find a place for it whichever way it
// chooses among the nodes: see sure. The same input gives the same answer.
//
// All nodes are weighed against one Snapshot. Nodes are taken away in the order
// of what they save per dollar that their moves cost (greedy, evaluated lazily);
// a node whose pods fit nowhere else is weighed with the cheapest nodes that can
// be bought for the rest of them; then nodes are weighed a few together.
func Consolidate(in *ConsolidationInput) *Consolidation {
	c := newConsolidator(in)
	c.seatHomeless()
	c.search()
	return c.answer()
}

// Intent is a decision that is under way: these nodes are to go, now that those
// bought in their place are ready. Nodes are named.
type Intent struct {
	Nodes, Replacements []string
}

// Recheck says of each intent why it must not be carried out as things are now;
// empty: it may. It asks for half the saving that Consolidate asks for, so that
// what has been decided is not dropped for a trifle. Intents are taken one after
// the other, each with those before it.
func Recheck(in *ConsolidationInput, intents []Intent) []string {
	c := newConsolidator(in)
	c.seatHomeless()
	out := make([]string, len(intents))
	for i := range intents {
		out[i] = c.recheck(&intents[i])
	}
	return out
}
