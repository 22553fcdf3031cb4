package capacity

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Choice is what an empty new node for one pod would be.
type Choice struct {
	Provisioner *Provisioner
	OfferingRef
}

// Index answers, for one pod at a time, whether an empty new node of some
// Provisioner can host it and which is the cheapest. It is built once for a set
// of Provisioners and may be asked from many goroutines.
type Index struct {
	m           *market
	provs       []*Provisioner
	daemons     []*corev1.Pod
	openLabels  map[string]bool
	unselective *shelf

	mu     sync.Mutex
	memory map[string]*shelf
}

// shelf is what remains of a market for pods with one node requirement: by
// seller the columns that no other column beats on price and room together.
type shelf struct {
	m      *market
	sought map[*seller][]int32
}

// maxShelves bounds the Index's memory of node requirements.
const maxShelves = 256

// NewIndex prepares an Index. daemonSetPods are as in Snapshot.
func NewIndex(provisioners []*Provisioner, daemonSetPods []*corev1.Pod) *Index {
	x := &Index{provs: provisioners, daemons: daemonSetPods, openLabels: map[string]bool{}, memory: map[string]*shelf{}}
	looked := map[string][]string{}
	for _, p := range provisioners {
		for i := range p.Spec.Requirements {
			r := &p.Spec.Requirements[i]
			if isOwnLabel(r.Key) {
				looked[r.Key] = nil
				if r.Operator != v1alpha1.OperatorIn {
					x.openLabels[r.Key] = true
				}
			}
		}
	}
	x.m = x.market(looked)
	x.unselective = newShelf(x.m, newNodeReq(&corev1.Pod{}, nil))
	return x
}

func (x *Index) market(wanted map[string][]string) *market {
	var rs []Resources
	for _, d := range x.daemons {
		rs = append(rs, PodRequests(d))
	}
	for _, p := range x.provs {
		for i := range p.InstanceTypes {
			rs = append(rs, p.InstanceTypes[i].Allocatable)
		}
	}
	return newMarket("", x.provs, compileDaemons(x.daemons), wanted, newDimensions(rs...))
}

func newShelf(m *market, req *nodeReq) *shelf {
	sh := &shelf{m: m, sought: map[*seller][]int32{}}
	for _, s := range m.sellers {
		var cols []int32
		for i := s.first; i < s.end; i++ {
			c := &m.columns[i]
			if req.matches(func(key string) (string, bool) { return m.label(c, key) }, unknownValue) {
				cols = append(cols, int32(i))
			}
		}
		slices.SortStableFunc(cols, func(a, b int32) int { return m.compare(a, b) })
		if s.left == nil {
			cols = m.unbeaten(cols)
		}
		sh.sought[s] = cols
	}
	return sh
}

// compare orders columns by price; among equals those without a PreferNoSchedule
// taint come first, then those with more room, then by name, zone and capacity
// type.
func (m *market) compare(a, b int32) int {
	x, y := &m.columns[a], &m.columns[b]
	switch {
	case x.price != y.price:
		return cmp.Compare(x.price, y.price)
	case x.seller.shunned != y.seller.shunned:
		if x.seller.shunned {
			return 1
		}
		return -1
	case x.free[0] != y.free[0]:
		return cmp.Compare(y.free[0], x.free[0])
	case x.free[1] != y.free[1]:
		return cmp.Compare(y.free[1], x.free[1])
	case x.seller != y.seller:
		return cmp.Compare(x.seller.p.Name, y.seller.p.Name)
	}
	return cmp.Or(
		cmp.Compare(x.typ.Machine.Name, y.typ.Machine.Name),
		cmp.Compare(x.offer.Zone, y.offer.Zone),
		cmp.Compare(x.offer.CapacityType, y.offer.CapacityType),
		cmp.Compare(x.variant, y.variant),
	)
}

// unbeaten drops, from columns in order of price, those that a cheaper one
// replaces for any pod.
func (m *market) unbeaten(cols []int32) []int32 {
	kept := cols[:0:0]
next:
	for _, i := range cols {
		c := &m.columns[i]
		for _, k := range kept {
			if m.columns[k].covers(c) {
				continue next
			}
		}
		kept = append(kept, i)
	}
	return kept
}

// covers says whether every pod that fits an empty node of d fits one of c.
func (c *column) covers(d *column) bool {
	if c.typ.OnlyFor != "" && c.typ.OnlyFor != d.typ.OnlyFor {
		return false
	}
	if c.daemons != d.daemons && len(c.daemons.ports) > 0 {
		return false
	}
	for k, v := range d.free {
		if c.free[k] < v {
			return false
		}
	}
	return true
}

// Cheapest is the cheapest empty node that can host the pod, of the heaviest
// Provisioner that can; nil when none can. It looks at the pod alone: requests,
// node selector and affinity, tolerations, host ports, gates and claims, against
// types, taints, labels, DaemonSets, limits and exhausted offerings; other pods
// and volumes are not known here.
func (x *Index) Cheapest(pod *corev1.Pod) *Choice {
	if ownReason(pod) != nil {
		return nil
	}
	n, sh := x.need(pod)
	if c := sh.cheapest(n); c != nil {
		return &Choice{Provisioner: c.seller.p, OfferingRef: c.ref()}
	}
	return nil
}

// Reasons say for each Provisioner why it cannot host a pod for which Cheapest
// finds nothing, the nearest miss first. They cost a hundred times what the
// choice does: ask only for somebody who reads them.
func (x *Index) Reasons(pod *corev1.Pod) []Reason {
	if r := ownReason(pod); r != nil {
		return []Reason{*r}
	}
	n, sh := x.need(pod)
	n.vector, _ = sh.m.vectorOf(n.requests)
	if n.node == nil {
		n.node = newNodeReq(pod, nil)
	}
	return sh.m.reasons(n)
}

// need is what the pod needs, and the shelf to look on.
func (x *Index) need(pod *corev1.Pod) (*need, *shelf) {
	sh := x.unselective
	var req *nodeReq
	if key := nodeReqKey(pod, nil); key != "" {
		sh, req = x.shelf(key, pod)
	}
	return &need{pod: pod, requests: PodRequests(pod), ports: hostPorts(pod), node: req}, sh
}

func (c *column) ref() OfferingRef {
	return OfferingRef{InstanceType: c.typ.Machine.Name, CapacityType: c.offer.CapacityType, Zone: c.offer.Zone, Price: c.price}
}

// shelf finds or makes the shelf for a node requirement. The requirement that
// comes with it is the caller's own.
func (x *Index) shelf(key string, pod *corev1.Pod) (*shelf, *nodeReq) {
	x.mu.Lock()
	sh := x.memory[key]
	x.mu.Unlock()
	if sh != nil {
		return sh, nil
	}
	req := newNodeReq(pod, nil)
	m := x.m
	wanted := map[string][]string{}
	wantedLabels(pod, wanted)
	for key, values := range wanted {
		if x.openLabels[key] && len(values) > 0 {
			m = x.market(wanted)
			break
		}
	}
	sh = newShelf(m, req)
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.memory) >= maxShelves {
		clear(x.memory)
	}
	x.memory[key] = sh
	return sh, req
}

// cheapest is the cheapest column of the heaviest seller that hosts the pod.
func (sh *shelf) cheapest(n *need) *column {
	vector, ok := sh.m.vectorOf(n.requests)
	if !ok {
		return nil
	}
	n.vector = vector
	var best *column
	for _, s := range sh.m.sellers {
		if best != nil && s.p.Spec.Weight < best.seller.p.Spec.Weight {
			break
		}
		if len(sh.sought[s]) == 0 || untolerated(n.pod.Spec.Tolerations, s.p.Spec.Taints) != nil {
			continue
		}
		for _, i := range sh.sought[s] {
			c := &sh.m.columns[i]
			if best != nil && sh.m.compare(i, int32(best.index)) >= 0 {
				break
			}
			if n.fits(c) && s.left.room(c) > 0 {
				best = c
				break
			}
		}
	}
	return best
}

// need is what one pod needs of an empty node.
type need struct {
	pod      *corev1.Pod
	requests Resources
	vector   []int64
	node     *nodeReq
	ports    []hostPort
	// pinned is the label that the pod's gang is to share, as key=value.
	pinned string
	// stored: its volumes cannot be reached from every node.
	stored bool
}

// vectorOf is a vector of requests; not ok when something is requested that no
// column has.
func (m *market) vectorOf(r Resources) ([]int64, bool) {
	for name, v := range r {
		if _, known := m.dims.index[name]; !known && v > 0 {
			return nil, false
		}
	}
	return m.dims.vector(r), true
}

// fits says whether the pod fits an empty node of the column beside its
// DaemonSets, and may use the type at all; labels and taints aside.
func (n *need) fits(c *column) bool {
	if c.typ.OnlyFor != "" && n.requests[c.typ.OnlyFor] == 0 {
		return false
	}
	return vectorFits(n.vector, c.free) && (len(n.ports) == 0 || !portsConflict(n.ports, c.daemons.ports))
}

func vectorFits(req, free []int64) bool {
	for i, v := range req {
		if v > 0 && v > free[i] {
			return false
		}
	}
	return true
}

// CouldHost returns what says of a node whether it could host the pod if it were
// empty: by labels, name, allocatable and taints. Those that Kubernetes sets for a
// while (cordoned, not ready, under pressure) do not count, nor do other pods and
// volumes.
func CouldHost(pod *corev1.Pod) func(*Node) bool {
	requests, req := PodRequests(pod), newNodeReq(pod, nil)
	return func(n *Node) bool {
		for i := range n.Taints {
			passing := strings.HasPrefix(n.Taints[i].Key, "node.kubernetes.io/") || strings.HasPrefix(n.Taints[i].Key, "node.cloudprovider.kubernetes.io/")
			if !passing && untolerated(pod.Spec.Tolerations, n.Taints[i:i+1]) != nil {
				return false
			}
		}
		for name, v := range requests {
			if v > n.Allocatable[name] {
				return false
			}
		}
		return req.matches(func(key string) (string, bool) { v, ok := n.Labels[key]; return v, ok }, n.Name)
	}
}
