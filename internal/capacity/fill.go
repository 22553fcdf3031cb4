package capacity

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// fillExisting puts pods of the items onto nodes that exist or have been bought
// already: higher priorities first, large pods before small ones, the fullest
// nodes first, of those in flight the first to come.
func (v *solver) fillExisting(items []*item) { v.fill(items, v.bins) }

func (v *solver) fill(items []*item, bins []*bin) {
	if len(bins) == 0 {
		return
	}
	items = slices.Clone(items)
	slices.SortStableFunc(items, func(a, b *item) int {
		return cmp.Or(cmp.Compare(b.s.priority, a.s.priority), cmp.Compare(b.s.bulk, a.s.bulk), cmp.Compare(a.s.id, b.s.id))
	})
	bins = slices.Clone(bins)
	slices.SortStableFunc(bins, func(a, b *bin) int {
		flying := func(b *bin) int {
			switch {
			case b.node == nil:
				return 2
			case b.node.InFlight:
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(flying(a), flying(b)), since(a).Compare(since(b)), cmp.Compare(binBulk(a), binBulk(b)), cmp.Compare(a.index, b.index))
	})
	for _, it := range items {
		v.fillItem(it, bins)
	}
}

// since is when the bin's node in flight was asked for; zero for others.
func since(b *bin) time.Time {
	if b.node == nil {
		return time.Time{}
	}
	return b.node.Since
}

// bulk is a pod's size in one number: a core counts as much as 4 GiB.
func bulk(requests Resources) float64 {
	return float64(requests[corev1.ResourceCPU])/1000 + float64(requests[corev1.ResourceMemory])/float64(4*gib)
}

func binBulk(b *bin) float64 { return float64(b.free[0])/1000 + float64(b.free[1])/float64(4*gib) }

func (v *solver) fillItem(it *item, bins []*bin) {
	s := it.s
	tied, choosy := v.hostTied(s), s.wishes.any()
	inCell := v.inCell(it.cell)
	for _, avoided := range []bool{false, true} {
		var usable []*bin
		for _, b := range bins {
			if it.n == 0 {
				return
			}
			if !inCell(b) || b.copies(s) == 0 || avoids(s.pod.Spec.Tolerations, b.taints) != avoided || !v.reachable(s, b) {
				continue
			}
			if tied || choosy {
				usable = append(usable, b)
				continue
			}
			n := min(it.n, b.copies(s))
			v.put(s, b, n)
			it.n -= n
		}
		if choosy {
			slices.SortStableFunc(usable, func(a, b *bin) int { return cmp.Compare(v.dislikesBin(s, a), v.dislikesBin(s, b)) })
		}
		if choosy && !tied {
			v.chooseSeats(it, usable)
			continue
		}
		// One pod for each node in turn, so that hosts fill evenly.
		for progress := tied; progress && it.n > 0; {
			progress = false
			for _, b := range usable {
				if it.n > 0 && b.copies(s) > 0 && v.blocked(s, b, hostOnly) == "" {
					v.put(s, b, 1)
					it.n--
					progress = true
				}
			}
		}
	}
}

// inCell says which bins lie in the cell; all do without one.
func (v *solver) inCell(c *cell) func(*bin) bool {
	if c == nil {
		return func(*bin) bool { return true }
	}
	there := v.placesOf(c.keys)
	holds := make([]bool, len(there.domains))
	for i, d := range there.domains {
		holds[i] = c.holds(d.label)
	}
	return func(b *bin) bool {
		if b.node != nil {
			k := there.of[b.index]
			return k >= 0 && holds[k]
		}
		return c.holds(func(key string) (string, bool) { return v.label(b, key) })
	}
}

// hostTied says whether what else is on a node matters to the shape beyond
// resources and ports.
func (v *solver) hostTied(s *shape) bool {
	for _, list := range [][]*counter{s.antiCounts, s.heldOff, s.spreadCounts, s.affinityCounts} {
		for _, c := range list {
			if c.key == corev1.LabelHostname {
				return true
			}
		}
	}
	return false
}

// chooseSeats puts pods of the item onto the bins that they like best: by what
// they prefer of nodes, in which order the bins come, then by who is there.
func (v *solver) chooseSeats(it *item, bins []*bin) {
	s := it.s
	for from := 0; from < len(bins) && it.n > 0; {
		to := from + 1
		for to < len(bins) && v.dislikesBin(s, bins[to]) == v.dislikesBin(s, bins[from]) {
			to++
		}
		equal := bins[from:to]
		from = to
		if len(s.wishes.ties) == 0 || it.n*len(equal) > maxSeatWork {
			for _, b := range equal {
				n := min(it.n, b.copies(s))
				if n > 0 {
					v.put(s, b, n)
					it.n -= n
				}
			}
			continue
		}
		for it.n > 0 {
			var best *bin
			least := 0
			for _, b := range equal {
				if b.copies(s) == 0 {
					continue
				}
				if x := v.crowd(s, b); best == nil || x < least {
					best, least = b, x
				}
			}
			if best == nil {
				break
			}
			v.put(s, best, 1)
			it.n--
		}
	}
}
