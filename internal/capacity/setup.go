package capacity

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// setUp prepares the packer for the items: vectors, conflicts, kinds.
func (v *solver) setUp(p *packer, items []*item) {
	p.items = make([]*packItem, len(items))
	p.knap.basis = p.knap.basis[:0]
	groups := v.hostGroups(items)
	p.width = len(v.dims.names) + len(groups)
	for j, it := range items {
		pi := &packItem{it: it, req: slices.Grow(slices.Clone(it.s.vector), len(groups)), most: v.mostPerHost(it.s)}
		for _, g := range groups {
			x := int64(0)
			if slices.Contains(g.members, it.s) {
				x = 1
			}
			pi.req = append(pi.req, x)
		}
		pi.seal()
		p.items[j] = pi
	}
	v.findConflicts(p, groups)
	v.findKinds(p, groups)
}

// hostGroup bounds pods of several shapes on one host together.
type hostGroup struct {
	members []*shape
	most    int
	// apart: they are kept apart from each other by this counter.
	apart *counter
}

// hostGroups are the hostname spread constraints that more than one of the
// items count towards, and the anti-affinities by which they keep apart from each
// other.
func (v *solver) hostGroups(items []*item) []hostGroup {
	var groups []hostGroup
	done := map[*counter]bool{}
	add := func(g hostGroup) {
		if len(g.members) > 1 {
			groups = append(groups, g)
		}
	}
	for _, it := range items {
		for i, c := range it.s.spreadCounts {
			if c.key != corev1.LabelHostname || done[c] {
				continue
			}
			done[c] = true
			g := hostGroup{most: it.s.spread[i].maxSkew}
			for _, o := range items {
				k := slices.Index(o.s.spreadCounts, c)
				if slices.Contains(o.s.adds, c) && !slices.Contains(g.members, o.s) {
					g.members = append(g.members, o.s)
				}
				if k >= 0 {
					g.most = min(g.most, o.s.spread[k].maxSkew)
				}
			}
			add(g)
		}
		for _, c := range it.s.antiCounts {
			if c.key != corev1.LabelHostname || done[c] {
				continue
			}
			done[c] = true
			g := hostGroup{most: 1, apart: c}
			for _, o := range items {
				if slices.Contains(o.s.antiCounts, c) && slices.Contains(o.s.adds, c) && !slices.Contains(g.members, o.s) {
					g.members = append(g.members, o.s)
				}
			}
			add(g)
		}
	}
	return groups
}

// mostPerHost is how many pods of the shape a new node may hold, resources
// aside.
func (v *solver) mostPerHost(s *shape) int {
	most := math.MaxInt32
	if len(s.ports) > 0 {
		most = 1
	}
	for i, t := range s.anti {
		if t.key == corev1.LabelHostname && slices.Contains(s.adds, s.antiCounts[i]) {
			most = 1
		}
	}
	for i, t := range s.spread {
		if t.key == corev1.LabelHostname && s.selfSpread[i] && !t.countsNothing {
			most = min(most, t.maxSkew)
		}
	}
	return most
}

// findConflicts notes which items cannot share a node, but for those that a group
// keeps apart.
func (v *solver) findConflicts(p *packer, groups []hostGroup) {
	grouped := func(c *counter, a, b *shape) bool {
		return slices.ContainsFunc(groups, func(g hostGroup) bool {
			return g.apart == c && slices.Contains(g.members, a) && slices.Contains(g.members, b)
		})
	}
	n := len(p.items)
	p.conflict = make([]bitset, n)
	mark := func(i, j int) {
		for _, x := range [][2]int{{i, j}, {j, i}} {
			if p.conflict[x[0]] == nil {
				p.conflict[x[0]] = newBitset(n)
			}
			p.conflict[x[0]].set(x[1])
		}
	}
	for i, a := range p.items {
		s := a.it.s
		hosts := slices.ContainsFunc(s.anti, func(t term) bool { return t.key == corev1.LabelHostname })
		if !hosts && len(s.ports) == 0 {
			continue
		}
		for j, b := range p.items {
			if b.it.s == s {
				continue
			}
			if portsConflict(s.ports, b.it.s.ports) {
				mark(i, j)
			}
			for k, t := range s.anti {
				if t.key == corev1.LabelHostname && slices.Contains(b.it.s.adds, s.antiCounts[k]) && !grouped(s.antiCounts[k], s, b.it.s) {
					mark(i, j)
				}
			}
		}
	}
	// Two items of one shape that allows one pod per host share that limit.
	for i, a := range p.items {
		if a.most > 1 {
			continue
		}
		for j, b := range p.items[:i] {
			if a.it.s == b.it.s {
				mark(i, j)
			}
		}
	}
}
