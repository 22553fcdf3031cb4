package capacity

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// bin is a node that pods can be put on: one of the Snapshot's, or one to buy.
type bin struct {
	index int
	node  *Node
	col   *column
	// probe: not a node yet, only looked at.
	probe bool
	// host is the value of kubernetes.io/hostname.
	host   string
	taints []corev1.Taint
	free   []int64
	// start is free before the plan.
	start []int64
	ports []hostPort
	// daemons are DaemonSets' pods that are still to come.
	daemons []*corev1.Pod
	// attached are the volumes of the Snapshot's pods there, and those of pods
	// placed there that other pods may use too.
	attached map[attachment]bool
	placed   []placed
	// credit is what room on a node to buy is worth; nil: nothing.
	credit *credit
}

// placed is how many pods of a shape a bin got in this plan.
type placed struct {
	s *shape
	n int
}

// label is the node's value for a label; hosts that are not there yet have one
// that nobody can name.
func (v *solver) label(b *bin, key string) (string, bool) {
	if b.node != nil {
		l, ok := b.node.Labels[key]
		return l, ok
	}
	if key == corev1.LabelHostname {
		return b.host, true
	}
	return v.m.label(b.col, key)
}

// pods are those that the Snapshot says are on the bin.
func (b *bin) pods() []*corev1.Pod {
	if b.node == nil {
		return nil
	}
	return b.node.Pods
}

// reachable says whether labels, name and taints of the bin suit the shape.
func (v *solver) reachable(s *shape, b *bin) bool {
	if b.node == nil {
		return v.sigs[s.sig].seats.has(b.col.index)
	}
	if b.node.Unschedulable {
		return false
	}
	return v.matchesBin(s.node, b) && untolerated(s.pod.Spec.Tolerations, b.taints) == nil
}

func (v *solver) matchesBin(r *nodeReq, b *bin) bool {
	if b.node != nil {
		return r.matches(func(key string) (string, bool) { l, ok := b.node.Labels[key]; return l, ok }, b.node.Name)
	}
	return r.matches(func(key string) (string, bool) { return v.m.label(b.col, key) }, unknownValue)
}

// existingBins are bins of the Snapshot's nodes as they are before the plan.
func (v *solver) existingBins() []*bin {
	if v.fresh == nil {
		v.fresh = v.freshBins()
	}
	copies := slices.Clone(v.fresh)
	bins, width := make([]*bin, len(copies)), len(v.dims.names)
	room := make([]int64, len(copies)*width)
	for i := range copies {
		b := &copies[i]
		b.free = append(room[i*width:i*width:(i+1)*width], b.start...)
		b.ports, b.attached = slices.Clip(b.ports), maps.Clone(b.attached)
		bins[i] = b
	}
	return bins
}

// freshBins are the Snapshot's nodes with the room that they have left:
// what is allocatable less the pods there and the DaemonSet pods that are still
// to come. Ready ones first, then those in flight, the first to come first.
func (v *solver) freshBins() []bin {
	nodes := slices.Clone(v.snap.Nodes)
	slices.SortFunc(nodes, func(a, b *Node) int {
		if a.InFlight != b.InFlight {
			if b.InFlight {
				return -1
			}
			return 1
		}
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Name, b.Name))
	})
	bins := make([]bin, len(nodes))
	for i, n := range nodes {
		b := &bins[i]
		*b = bin{index: i, node: n, taints: n.Taints, host: n.Labels[corev1.LabelHostname]}
		facts := v.factsOf(n)
		b.free = v.dims.vector(n.Allocatable)
		for k, name := range v.dims.names {
			b.free[k] -= facts.used[name]
		}
		b.ports = slices.Clone(facts.ports)
		if len(v.dims.attach) > 0 && len(facts.storing) > 0 {
			b.attached = map[attachment]bool{}
			for _, p := range facts.storing {
				needs, _ := v.volumes.volumeNeeds(p)
				for _, id := range needs.ids {
					b.attached[id] = true
				}
			}
		}
		for _, a := range v.dims.attach {
			b.free[a.index] = v.volumeLimit(n, a.driver)
			for id := range b.attached {
				if id.driver == a.driver {
					b.free[a.index]--
				}
			}
			b.free[a.index] -= v.leftAttached(n, a.driver, b.attached)
		}
		for _, d := range v.daemons {
			v.reserveDaemon(b, d, facts.daemons)
		}
		b.start = b.free
	}
	return bins
}

// reserveDaemon keeps room for a DaemonSet pod that the node will get but does
// not have yet; where there is no room for it, it will not come.
func (v *solver) reserveDaemon(b *bin, d *daemon, present map[string]bool) {
	name := d.pod.Namespace + "/" + d.pod.Name
	if ref := metav1.GetControllerOf(d.pod); ref != nil {
		name = d.pod.Namespace + "/" + ref.Name
	}
	label := func(key string) (string, bool) { l, ok := b.node.Labels[key]; return l, ok }
	if present[name] || untolerated(d.pod.Spec.Tolerations, b.taints) != nil || !d.req.matches(label, b.node.Name) || !d.welcome(label) {
		return
	}
	req := v.dims.vector(d.requests)
	if !vectorFits(req, b.free) || portsConflict(d.ports, b.ports) {
		return
	}
	for k, x := range req {
		b.free[k] -= x
	}
	b.ports = append(b.ports, d.ports...)
	b.daemons = append(b.daemons, d.pod)
}

// buy opens a bin for a node of the column and books it against the limits.
func (v *solver) buy(c *column) *bin {
	b := v.open(c)
	v.enter(b)
	return b
}

// open adds an empty bin for a node of the column and books it against the
// limits, without telling the counters.
func (v *solver) open(c *column) *bin {
	b := &bin{index: len(v.bins), col: c, host: hostValue(len(v.bins)), taints: c.seller.p.Spec.Taints,
		free: slices.Clone(c.free), ports: slices.Clone(c.daemons.ports)}
	for _, d := range c.daemons.pods {
		b.daemons = append(b.daemons, d.pod)
	}
	v.bins = append(v.bins, b)
	c.seller.left.take(c, 1)
	return b
}

// compileDaemons prepares the DaemonSets' pods.
func (v *solver) compileDaemons() {
	v.daemons = compileDaemons(v.snap.DaemonSetPods)
	if len(v.daemons) == 0 {
		return
	}
	against := map[int32][]*daemon{}
	for _, n := range v.snap.Nodes {
		if len(v.factsOf(n).antiKeys) == 0 {
			continue
		}
		for _, x := range v.counted(n).holdings {
			t := &v.census().terms[x.term]
			list, ok := against[x.term]
			if !ok {
				for _, d := range v.daemons {
					if t.q.matches(v.snap.Namespaces, d.pod.Namespace, d.pod.Labels) {
						list = append(list, d)
					}
				}
				against[x.term] = list
			}
			if val, ok := n.Labels[t.key]; ok {
				for _, d := range list {
					d.shun(t.key, val)
				}
			}
		}
	}
}

// put places n pods of the shape on the bin.
func (v *solver) put(s *shape, b *bin, n int) {
	b.change(s, n)
	if len(s.ports) > 0 {
		b.ports = append(b.ports, s.ports...)
	}
	for i, id := range s.limited {
		if b.attached[id] {
			continue
		}
		if b.attached == nil {
			b.attached = map[attachment]bool{}
		}
		b.attached[id] = true
		b.free[s.limitedBy[i]]--
	}
	v.count(s.adds, b, n)
	v.count(s.softAdds, b, n)
	if v.settled {
		v.count(s.late, b, n)
	}
	v.left[s.id] -= n
	v.bound = append(v.bound, seat{s, b, n})
}

// change notes that n more pods of the shape are on the bin, or fewer where n is
// negative, and the room that this takes; counters, ports and volumes are left alone.
func (b *bin) change(s *shape, n int) {
	for k, x := range s.vector {
		b.free[k] -= x * int64(n)
	}
	i := slices.IndexFunc(b.placed, func(p placed) bool { return p.s == s })
	if i < 0 {
		b.placed = append(b.placed, placed{s, n})
	} else if b.placed[i].n += n; b.placed[i].n == 0 {
		b.placed = slices.Delete(b.placed, i, i+1)
	}
}

// only says whether all shapes on the bin are of a sort.
func (b *bin) only(are func(*shape) bool) bool {
	return !slices.ContainsFunc(b.placed, func(p placed) bool { return !are(p.s) })
}

func (v *solver) count(counters []*counter, b *bin, n int) {
	for _, k := range counters {
		if !k.realm.has(b) {
			continue
		}
		if val, ok := v.label(b, k.key); ok {
			k.add(val, n)
		}
	}
}

// settle counts all pods that have a place, also those that were taken to be
// bound last.
func (v *solver) settle() {
	v.settled = true
	for _, b := range v.bins {
		for _, p := range b.placed {
			v.count(p.s.late, b, p.n)
		}
	}
}

// copies is how many pods of the shape the bin's resources still hold.
func (b *bin) copies(s *shape) int {
	n := copiesBeside(s, b.free, b.attached)
	if len(s.ports) > 0 {
		n = min(n, 1)
		if portsConflict(s.ports, b.ports) {
			n = 0
		}
	}
	return n
}

// sharedVolumes counts, by dimension, the volumes of pods placed on the bin that
// other pods may use too.
func (b *bin) sharedVolumes() map[int]int64 {
	var n map[int]int64
	seen := map[attachment]bool{}
	for _, p := range b.placed {
		for i, id := range p.s.limited {
			if seen[id] {
				continue
			}
			if n == nil {
				n = map[int]int64{}
			}
			seen[id] = true
			n[p.s.limitedBy[i]]++
		}
	}
	return n
}

// copiesBeside is how many pods of the shape fit into free, where these volumes
// are attached already.
func copiesBeside(s *shape, free []int64, attached map[attachment]bool) int {
	if !slices.ContainsFunc(s.limited, func(id attachment) bool { return !attached[id] }) {
		return copies(s.vector, free)
	}
	free = slices.Clone(free)
	for i, id := range s.limited {
		if attached[id] {
			continue
		}
		if free[s.limitedBy[i]] <= 0 {
			return 0
		}
		free[s.limitedBy[i]]--
	}
	return copies(s.vector, free)
}

// copies is how often req fits into free.
func copies(req, free []int64) int {
	if !vectorFits(req, free) {
		return 0
	}
	n := int64(1) << 30
	for k, x := range req {
		if x > 0 {
			n = min(n, max(free[k], 0)/x)
		}
	}
	return int(n)
}
