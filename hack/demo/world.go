package main

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// world is all that has been seen from outside. Times are when the demo saw
// something; zero means not yet.
type world struct {
	pods      map[types.UID]*podRecord
	claims    map[types.UID]*claimRecord
	nodes     map[types.UID]*nodeRecord
	instances map[string]*instanceRecord // by instance id
	events    map[types.UID]*corev1.Event
}

func newWorld() *world {
	return &world{
		pods: map[types.UID]*podRecord{}, claims: map[types.UID]*claimRecord{}, nodes: map[types.UID]*nodeRecord{},
		instances: map[string]*instanceRecord{}, events: map[types.UID]*corev1.Event{},
	}
}

// podRecord is one pod.
type podRecord struct {
	// pod as last seen.
	pod *corev1.Pod
	// created, bound, running (or further), done with its work or failed,
	// deleting, gone.
	created, bound, running, done, deleting, gone time.Time
	// seat is the node that was last nominated for the pod before it was bound.
	seat string
}

// claimRecord is one NodeClaim.
type claimRecord struct {
	// number of the claim in the order of decisions, from 1.
	number int
	// claim as last seen.
	claim *v1alpha1.NodeClaim
	// decided is when the claim appeared.
	decided, deleting, gone time.Time
	// turned is when a condition was first True.
	turned map[string]time.Time
}

// nodeRecord is one Node object.
type nodeRecord struct {
	// node as last seen.
	node *corev1.Node
	// serving is the node as last seen before it was marked for removal.
	serving *corev1.Node
	// seen, tainted with TaintDisrupted, gone.
	seen, tainted, gone time.Time
	// stateAtEnd is the state of the node's instance when ec2sim was asked
	// right after the Node had gone.
	stateAtEnd string
}

// instanceRecord is one instance of ec2sim.
type instanceRecord struct {
	// instance as last seen.
	instance cluster.Instance
	// seen, ending (shutting down or further), terminated.
	seen, ending, terminated time.Time
}

// EC2's names of instance states.
const (
	stateShuttingDown = "shutting-down"
	stateTerminated   = "terminated"
)

// byNumber returns the claims in the order of decisions.
func (w *world) byNumber() []*claimRecord {
	return slices.SortedFunc(maps.Values(w.claims), func(a, b *claimRecord) int { return cmp.Compare(a.number, b.number) })
}

// byAge returns the pods in the order of their appearance.
func (w *world) byAge() []*podRecord {
	return slices.SortedFunc(maps.Values(w.pods), func(a, b *podRecord) int {
		return cmp.Or(a.created.Compare(b.created), strings.Compare(a.pod.Name, b.pod.Name))
	})
}

// nodeOf returns the Node of a claim, nil while there is none.
func (w *world) nodeOf(c *claimRecord) *nodeRecord {
	for _, n := range w.nodes {
		if n.node.Spec.ProviderID != "" && n.node.Spec.ProviderID == c.claim.Status.ProviderID {
			return n
		}
	}
	return nil
}

// instancesOf returns the instances that carry a claim's tag. There should be
// one, so that two are a finding.
func (w *world) instancesOf(c *claimRecord) []*instanceRecord {
	var out []*instanceRecord
	for _, i := range w.instances {
		if i.instance.Tags[v1alpha1.TagNodeClaim] == c.claim.Name {
			out = append(out, i)
		}
	}
	return out
}

// podsOf returns the pods that were bound to a claim's node.
func (w *world) podsOf(c *claimRecord) []*podRecord {
	var out []*podRecord
	for _, p := range w.byAge() {
		if c.claim.Status.NodeName != "" && p.pod.Spec.NodeName == c.claim.Status.NodeName && !p.bound.Before(c.decided) {
			out = append(out, p)
		}
	}
	return out
}

// live are the instances that somebody pays for.
func (w *world) live() []*instanceRecord {
	var out []*instanceRecord
	for _, i := range w.instances {
		if i.instance.Live() {
			out = append(out, i)
		}
	}
	return out
}

// cost is what the live instances cost together, in $/h.
func (w *world) cost() float64 {
	sum := 0.0
	for _, i := range w.live() {
		sum += i.instance.Price
	}
	return sum
}

// eventsOf returns the events with a reason about an object.
func (w *world) eventsOf(about types.UID, reason string) []*corev1.Event {
	var out []*corev1.Event
	for _, e := range w.events {
		if e.InvolvedObject.UID == about && e.Reason == reason {
			out = append(out, e)
		}
	}
	return out
}

// workloadOf names what a pod belongs to as "Kind namespace/name", as its
// manifest does: the Deployment, not its ReplicaSet.
func workloadOf(pod *corev1.Pod) string {
	kind, name := "Pod", pod.Name
	if o := metav1.GetControllerOf(pod); o != nil {
		kind, name = o.Kind, o.Name
		if hash := pod.Labels["pod-template-hash"]; kind == "ReplicaSet" && hash != "" {
			kind, name = "Deployment", strings.TrimSuffix(name, "-"+hash)
		}
	}
	return kind + " " + pod.Namespace + "/" + name
}

// shortName is the name alone of what workloadOf returns.
func shortName(workload string) string { return workload[strings.LastIndex(workload, "/")+1:] }

// hasTaint reports whether a node carries a taint with a key.
func hasTaint(node *corev1.Node, key string) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key })
}

// offering is what a claim was bought as, or is to be.
type offering struct {
	instanceType, capacityType, zone string
	// price in $/h.
	price float64
}

func (o offering) String() string { return o.instanceType + " " + o.capacityType + " " + o.zone }

func (c *claimRecord) offering() offering {
	s := c.claim.Status
	if s.InstanceType != "" && s.HourlyPrice != "" {
		return offering{s.InstanceType, s.CapacityType, s.Zone, s.HourlyPrice.Dollars()}
	}
	if len(c.claim.Spec.Offerings) == 0 {
		return offering{}
	}
	f := c.claim.Spec.Offerings[0]
	return offering{f.InstanceType, f.CapacityType, f.Zone, f.HourlyPrice.Dollars()}
}
