package capacity

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// DaemonSets' pods may count towards a shape's spread or affinity. How many come
// is only known once nodes have been bought. So pods are divided among domains as
// if as many came as the last attempt has seen (at first, none), and those that
// turn out to be too many in a domain are moved, pod by pod.

const (
	// maxLearnt bounds how often an attempt is repeated because the DaemonSets' pods
	// were too many, or too few, to move pods for: more than muchMoved of them, and
	// more than one pod in muchMovedShare.
	maxLearnt      = 2
	muchMoved      = 8
	muchMovedShare = 50
)

// mendable says whether DaemonSets' pods count towards one of the spread
// constraints of the shape, which is not planned pod by pod.
func (v *solver) mendable(s *shape) bool {
	return s.mode != modeCareful && s.meetsDaemons && slices.ContainsFunc(s.spreadCounts, func(c *counter) bool { return c.meetsDaemons })
}

// expectDaemons adds to the counters in try the DaemonSets' pods that new nodes
// are expected to bring.
func (v *solver) expectDaemons(shapes []*shape, cells map[*shape][]*cell, try map[*counter]*counter) {
	stand := func(c *counter) *counter {
		if try[c] == nil {
			try[c] = c.clone()
		}
		return try[c]
	}
	if v.brought != nil {
		now := v.bringing()
		for id, domains := range v.brought {
			if c := v.allCounters[id]; c != nil {
				for val, n := range domains {
					if n -= now[id][val]; n > 0 {
						stand(c).add(val, n)
					}
				}
			}
		}
	}
	for _, s := range shapes {
		if !s.meetsDaemons || len(s.affinity) == 0 {
			continue
		}
		for _, c := range s.affinityCounts {
			for _, cell := range cells[s] {
				val, _ := cell.label(c.key)
				if stand(c).counts[val] == 0 && v.bringsTo(s, cell, c) {
					stand(c).add(val, 1)
					// It will not be the first of its group.
					s.neverFirst = true
				}
			}
		}
	}
}

// bringsTo says whether any node that is worth buying for the shape in the cell
// comes with a pod that counts.
func (v *solver) bringsTo(s *shape, in *cell, c *counter) bool {
	any := false
	for _, col := range in.bestIn(v.m) {
		if copiesBeside(s, col.free, nil) == 0 {
			continue
		}
		if !slices.ContainsFunc(col.daemons.pods, func(d *daemon) bool { return v.selected(&c.who, d.pod) }) {
			return false
		}
		any = true
	}
	return any
}

// bringing are the DaemonSets' pods that the nodes bought so far come with, by
// spread counter and domain.
func (v *solver) bringing() map[string]map[string]int {
	all := map[string]map[string]int{}
	for id, c := range v.allCounters {
		if c.realm == nil || c.key == corev1.LabelHostname || !c.meetsDaemons {
			continue
		}
		all[id] = map[string]int{}
		for _, b := range v.bins[v.existing:] {
			val, ok := v.label(b, c.key)
			if !ok || !c.realm.has(b) {
				continue
			}
			for _, d := range b.daemons {
				if v.selected(&c.who, d) {
					all[id][val]++
				}
			}
		}
	}
	return all
}

// learnDaemons notes what nodes have brought and says whether another attempt,
// which reckons with that, could do better.
func (v *solver) learnDaemons() bool {
	much := v.moved > max(muchMoved, len(v.snap.Pods)/muchMovedShare)
	if v.learnt >= maxLearnt || !much && !slices.ContainsFunc(v.violated, v.mendable) {
		return false
	}
	now := v.bringing()
	if maps.EqualFunc(now, v.brought, maps.Equal) {
		return false
	}
	v.brought = now
	v.learnt++
	return true
}

// mend moves pods, small ones first, out of domains that have too many for their
// spread constraints because DaemonSets' pods have come with new nodes.
func (v *solver) mend(shapes []*shape) {
	v.moved = 0
	var list []*shape
	for _, s := range shapes {
		if v.mendable(s) {
			list = append(list, s)
		}
	}
	slices.SortStableFunc(list, func(a, b *shape) int { return cmp.Compare(a.bulk, b.bulk) })
	for _, s := range list {
		for i, c := range s.spreadCounts {
			for {
				b := v.fullest(s, i, c)
				if b == nil {
					break
				}
				v.takeOff(s, b)
				v.moved++
				v.joinBins(s, v.bins)
			}
		}
	}
	if v.moved == 0 {
		return
	}
	for _, s := range list {
		if v.left[s.id] > 0 {
			v.placeShape(s)
		}
	}
}

// fullest is a bin with pods of the shape in the domain that is the furthest
// beyond what its i-th spread constraint allows; nil: none is.
func (v *solver) fullest(s *shape, i int, c *counter) *bin {
	t := &s.spread[i]
	var fullest *bin
	most := c.least(t.minDomains) + t.maxSkew
	within := true
	for _, n := range c.counts {
		within = within && n <= most
	}
	if within {
		return nil
	}
	for _, b := range v.bins {
		if val, ok := v.label(b, c.key); ok && c.counts[val] > most && slices.ContainsFunc(b.placed, func(p placed) bool { return p.s == s }) {
			fullest, most = b, c.counts[val]
		}
	}
	return fullest
}

// takeOff takes one pod of the shape off the bin, which has no limited volumes:
// the reverse of put.
func (v *solver) takeOff(s *shape, b *bin) {
	b.change(s, -1)
	b.ports = slices.DeleteFunc(slices.Clone(b.ports), func(p hostPort) bool { return slices.Contains(s.ports, p) })
	v.count(s.adds, b, -1)
	v.count(s.softAdds, b, -1)
	v.left[s.id]++
	for i := len(v.bound) - 1; i >= 0; i-- {
		if t := &v.bound[i]; t.s == s && t.b == b {
			if t.n--; t.n == 0 {
				v.bound = slices.Delete(v.bound, i, i+1)
			}
			break
		}
	}
}
