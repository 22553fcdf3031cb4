package provisioner

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// arrange exchanges seats among pods alike, so that those on claims that are about to
// open are of the pods that kube-scheduler tries last, and returns the claims in the
// order in which it will want their nodes. From the first node that opens on it tries
// all pods that wait, one every few milliseconds, and forgets the seats of those whose
// own node is not open by then: it is to begin with pods that have no seat to lose yet,
// and to come to the others as their nodes open. Those sit down where room is left, be
// their own seat elsewhere: so it becomes their seat first.
func (d *doors) arrange(batch []*v1alpha1.NodeClaim) []*v1alpha1.NodeClaim {
	claims := slices.Clone(batch)
	for _, c := range d.closed() {
		if !slices.ContainsFunc(batch, func(b *v1alpha1.NodeClaim) bool { return b.Name == c.Name }) {
			claims = append(claims, c)
		}
	}
	holders := map[string][]*corev1.Pod{}
	var queue []*corev1.Pod
	for _, c := range claims {
		holders[c.Name] = d.nominator.seatHolders(c)
		queue = append(queue, holders[c.Name]...)
	}
	slices.SortFunc(queue, triedBefore)
	d.fill(claims[:len(batch)], claims[len(batch):], holders, queue)
	// Of two nodes that a pod may have its seat on, that of more pods opens first.
	slices.SortStableFunc(claims[:len(batch)], func(a, b *v1alpha1.NodeClaim) int {
		return cmp.Compare(len(holders[b.Name]), len(holders[a.Name]))
	})
	// seats are how many pods of each kind a claim has seats for; nil once they are given.
	seats := make([]map[string]int, len(claims))
	kinds := map[types.UID]string{}
	for i, c := range claims {
		seats[i] = map[string]int{}
		for _, p := range holders[c.Name] {
			kind := kindOf(p)
			kinds[p.UID] = kind
			seats[i][kind]++
		}
	}
	alike := map[string][]types.UID{}
	for _, p := range queue {
		alike[kinds[p.UID]] = append(alike[kinds[p.UID]], p.UID)
	}
	given := map[types.UID]string{}
	give := func(i int) {
		for kind, n := range seats[i] {
			for _, uid := range alike[kind][:n] {
				given[uid] = claims[i].Name
			}
			alike[kind] = alike[kind][n:]
		}
		seats[i] = nil
	}
	for i := len(batch); i < len(claims); i++ {
		give(i)
	}
	order := make([]*v1alpha1.NodeClaim, 0, len(batch))
	for _, p := range queue {
		if given[p.UID] != "" {
			continue
		}
		next := slices.IndexFunc(seats[:len(batch)], func(of map[string]int) bool { return of[kinds[p.UID]] > 0 })
		order = append(order, claims[next])
		give(next)
	}
	for i := range batch {
		if seats[i] != nil { // Nobody waits for it any more.
			order = append(order, claims[i])
		}
	}
	d.book.exchange(given)
	return order
}

// fill moves pods from claims that open later to room that is left on those that open
// now, in the order of the queue.
func (d *doors) fill(now, later []*v1alpha1.NodeClaim, holders map[string][]*corev1.Pod, queue []*corev1.Pod) {
	from := map[types.UID]*v1alpha1.NodeClaim{}
	for _, c := range later {
		for _, p := range holders[c.Name] {
			if undemanding(p) {
				from[p.UID] = c
			}
		}
	}
	for _, c := range now {
		node, ok := one[*corev1.Node](d.stores.nodes, c.Status.NodeName)
		if !ok {
			continue
		}
		free := roomBeside(&capacity.Node{
			Allocatable: capacity.FromResourceList(node.Status.Allocatable),
			Pods:        slices.Concat(slices.DeleteFunc(d.stores.podsOn(node.Name), terminal), d.stores.podsBy(targetIndex, node.Name), holders[c.Name]),
		}, anyPod)
		for _, p := range queue {
			old := from[p.UID]
			if old == nil || old.Spec.Provisioner.Name != c.Spec.Provisioner.Name {
				continue
			}
			needs := capacity.PodRequests(p)
			if !needs.Fits(free) {
				continue
			}
			free.Sub(needs)
			delete(from, p.UID)
			holders[old.Name] = slices.DeleteFunc(holders[old.Name], func(other *corev1.Pod) bool { return other == p })
			holders[c.Name] = append(holders[c.Name], p)
		}
	}
}

// undemanding reports whether any node of its Provisioner that has the room takes a pod.
func undemanding(p *corev1.Pod) bool {
	s := &p.Spec
	return len(s.NodeSelector) == 0 && s.Affinity == nil && len(s.TopologySpreadConstraints) == 0 && !itself(p) &&
		!slices.ContainsFunc(slices.Concat(s.InitContainers, s.Containers), func(c corev1.Container) bool {
			return slices.ContainsFunc(c.Ports, func(port corev1.ContainerPort) bool { return port.HostPort != 0 })
		})
}

// triedBefore orders pods as kube-scheduler will try them: by priority, then those
// first whose last vain try is longest ago. It writes each new reason to the pod, so
// that the pod's version tells.
func triedBefore(a, b *corev1.Pod) int {
	if c := cmp.Compare(corev1helpers.PodPriority(b), corev1helpers.PodPriority(a)); c != 0 {
		return c
	}
	if c, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion); err == nil && c != 0 {
		return c
	}
	return cmp.Compare(a.UID, b.UID)
}

// kindOf is the same for pods that may have each other's seats: nothing that a
// scheduler looks at tells one from another.
func kindOf(p *corev1.Pod) string {
	if itself(p) {
		return string(p.UID)
	}
	return capacity.ShapeHash(p)
}

// itself reports whether no other pod may have a pod's seat: it is particular about it, or
// has it already.
func itself(p *corev1.Pod) bool { return particular(p) || p.Status.NominatedNodeName != "" }

// particular reports whether a seat of a pod of its shape may not do for a pod: it has volumes,
// devices or a group of its own.
func particular(p *corev1.Pod) bool {
	return grouped(p) || claimsVolumes(p) || len(p.Spec.ResourceClaims) > 0
}
