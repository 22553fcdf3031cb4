package admission

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// Bounds on what a pod may ask of its node to be looked at. The time that it takes
// grows with their product by the market; what people and operators write is far
// below.
const (
	maxConditions = 128
	maxValues     = 2048
)

// tooIntricate says whether a pod asks so many things of its node that looking for
// one would take longer than a review may. It is admitted without a hint; the
// provisioner plans for it all the same.
func tooIntricate(pod *corev1.Pod) bool {
	conditions, values := len(pod.Spec.NodeSelector), 0
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		conditions += len(terms)
		for i := range terms {
			conditions += len(terms[i].MatchExpressions) + len(terms[i].MatchFields)
			for j := range terms[i].MatchExpressions {
				values += len(terms[i].MatchExpressions[j].Values)
			}
		}
	}
	ports := 0
	for _, cs := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range cs {
			ports += len(cs[i].Ports)
		}
	}
	return conditions > maxConditions || values > maxValues || ports > maxConditions || len(pod.Spec.Tolerations) > maxValues
}

// why is why no node would be bought for a shape.
type why struct {
	// reason is nil when there is nothing to tell.
	reason *capacity.Reason
	// later: a node could be bought as soon as there is room for it again.
	later bool
}

// why says why nothing would be bought for a pod for which place has no answer. It
// costs much more than place: for whoever reads it alone.
func (s *Snapshot) why(pod *corev1.Pod, shape string) why {
	s.mu.Lock()
	w, ok := s.whys[shape]
	s.mu.Unlock()
	if ok {
		return w
	}
	w = s.findWhy(pod)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.whys) >= maxAnswers {
		clear(s.whys)
	}
	s.whys[shape] = w
	return w
}

func (s *Snapshot) findWhy(pod *corev1.Pod) why {
	could, index := s.idle().Cheapest(pod), s.index
	if could == nil {
		index = s.idle() // What would be in the way even then.
	}
	reasons := index.Reasons(pod)
	if len(reasons) == 0 || !worthTelling(reasons[0].Constraint) {
		return why{}
	}
	// Nodes that Berth has bought may be full and come to no more; others may be
	// what the pod is for.
	hosts := capacity.CouldHost(pod)
	if slices.ContainsFunc(s.nodes, func(n *capacity.Node) bool { return (could == nil || n.Provisioner == "") && hosts(n) }) {
		return why{}
	}
	if could == nil {
		return why{reason: &reasons[0]}
	}
	for _, p := range s.provisioners {
		if p.Name == could.Provisioner.Name && p.NotReady == "" && len(p.InstanceTypes) == 0 { // It buys in reservations alone.
			return why{reason: &capacity.Reason{Provisioner: p.Name, Constraint: capacity.ConstraintUnavailable,
				Detail: "no capacity reservation for Provisioner " + p.Name + " has been found"}, later: true}
		}
	}
	i := slices.IndexFunc(reasons, func(r capacity.Reason) bool { return r.Provisioner == could.Provisioner.Name })
	return why{reason: &reasons[max(i, 0)], later: true}
}

// worthTelling says whether a reason is news to whoever applies a pod: a gate
// they have set themselves, and a cluster without Provisioners buys nothing.
func worthTelling(c capacity.Constraint) bool {
	return c != capacity.ConstraintGated && c != capacity.ConstraintNoProvisioner
}

// advice puts it into words.
func (w why) advice() []Advice {
	switch {
	case w.reason == nil:
		return nil
	case !w.later:
		return []Advice{{ReasonNeverRuns, reasonText("no new node: ", w.reason)}}
	case w.reason.Constraint == capacity.ConstraintNotReady:
		r := capacity.Reason{Detail: "Provisioner " + w.reason.Provisioner + " is not ready: " + w.reason.Detail}
		return []Advice{{ReasonNoRoomNow, reasonText("no new node now: ", &r)}}
	default:
		return []Advice{{ReasonNoRoomNow, reasonText("no new node now: ", w.reason)}}
	}
}

// idleIndex is the index of the same Provisioners as if they were ready, nothing of
// theirs were used and nothing sold out: what it cannot place can never run.
func (s *Snapshot) idleIndex(daemonSetPods []*corev1.Pod) *capacity.Index {
	idle := make([]*capacity.Provisioner, len(s.provisioners))
	for i, p := range s.provisioners {
		q := &capacity.Provisioner{Name: p.Name, UID: p.UID, Spec: p.Spec, InstanceTypes: slices.Clone(p.InstanceTypes)}
		// What it names in EC2 is taken to exist.
		resolved := s.offerings.Provisioners[p.Name]
		if p.NotReady != "" {
			resolved = capacity.Resolved{Reservations: resolved.Reservations}
		}
		if p.NotReady != "" || len(p.Spec.EC2.CapacityReservations) > 0 && len(resolved.Reservations) == 0 {
			q.InstanceTypes = s.sellable(p.Spec, resolved)
		}
		for j := range q.InstanceTypes {
			t := &q.InstanceTypes[j]
			if len(t.SoldOut) == 0 {
				continue
			}
			t.Offerings = slices.Concat(t.Offerings, t.SoldOut)
			slices.SortStableFunc(t.Offerings, func(a, b capacity.Offering) int { return cmp.Compare(a.Price, b.Price) })
			t.SoldOut = nil
		}
		idle[i] = q
	}
	return capacity.NewIndex(idle, daemonSetPods)
}

// readNodes is what is known of the nodes that exist.
func readNodes(nodes []*corev1.Node) []*capacity.Node {
	out := make([]*capacity.Node, len(nodes))
	for i, n := range nodes {
		out[i] = &capacity.Node{
			Name: n.Name, Labels: n.Labels, Taints: n.Spec.Taints, Allocatable: capacity.FromResourceList(n.Status.Allocatable),
			Provisioner: n.Labels[v1alpha1.LabelProvisioner],
		}
	}
	return out
}
