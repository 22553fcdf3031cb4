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
// open are of the pods that kube-scheduler tries last, and returns the claims in the order in
// which it will want their nodes. From the first node that opens on it tries all pods
// that wait, one every few milliseconds, and forgets the seats of those whose own node
// is not open by then: it is to begin with pods that have no seat to lose yet, and to come to the others
// as their nodes open.
func (d *doors) arrange(batch []*v1alpha1.NodeClaim) []*v1alpha1.NodeClaim {
	claims := slices.Clone(batch)
	for _, c := range d.closed() {
		if !slices.ContainsFunc(batch, func(b *v1alpha1.NodeClaim) bool { return b.Name == c.Name }) {
			claims = append(claims, c)
		}
	}
	// seats are how many pods of each kind a claim has seats for.
	seats := make([]map[string]int, len(claims))
	kinds := map[types.UID]string{}
	var queue []*corev1.Pod
	for i, c := range claims {
		seats[i] = map[string]int{}
		for _, p := range d.nominator.seatHolders(c) {
			kind := kindOf(p)
			kinds[p.UID] = kind
			seats[i][kind]++
			queue = append(queue, p)
		}
	}
	slices.SortFunc(queue, triedBefore)
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
		next := -1
		for i := range batch {
			if seats[i][kinds[p.UID]] > 0 && (next < 0 || total(seats[i]) > total(seats[next])) {
				next = i
			}
		}
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

func total(counts map[string]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

// triedBefore orders pods as kube-scheduler will try them: by priority, then those
// first whose last vain try is longest ago. It writes each new reason to the pod, so that the pod's
// version tells.
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
// scheduler looks at tells one from another. A pod that has volumes, devices or a
// group of its own, or its seat already, is of a kind of its own.
func kindOf(p *corev1.Pod) string {
	_, grouped := p.Annotations[v1alpha1.AnnotationPodGroup]
	if grouped || p.Spec.SchedulingGroup != nil || len(p.Spec.ResourceClaims) > 0 || p.Status.NominatedNodeName != "" ||
		slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.PersistentVolumeClaim != nil || v.Ephemeral != nil }) {
		return string(p.UID)
	}
	return capacity.ShapeHash(p)
}
