package capacity

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// placeCarefully plans shapes pod by pod: each pod goes where kube-scheduler
// would accept it in the state that the pods before it have left, so the order
// of planning is an order in which the pods can be bound. Shapes that want to be
// near others come after those.
func (v *solver) placeCarefully(shapes []*shape) {
	done := map[*shape]bool{}
	var visit func(s *shape)
	visit = func(s *shape) {
		if done[s] {
			return
		}
		done[s] = true
		for _, o := range shapes {
			if o != s && s.affinityMatches(v, o.pod.Namespace, o.pod.Labels) {
				visit(o)
			}
		}
		v.placeShape(s)
	}
	for _, s := range shapes {
		visit(s)
	}
}

func (v *solver) placeShape(s *shape) {
	extra := v.followers(s)
	v.joinBins(s, v.bins)
	for v.left[s.id] > 0 {
		c := v.chooseColumn(s, extra)
		if c == nil && extra != nil {
			c = v.chooseColumn(s, nil)
		}
		if c == nil && (!v.strict[s.id] || v.settled) && v.forgetPhantoms(s) {
			v.joinBins(s, v.bins)
			continue
		}
		if c == nil {
			return
		}
		b := v.buy(c)
		v.put(s, b, 1)
		v.joinBins(s, v.bins)
	}
}

// joinBins puts as many pods as may go onto the bins. Nodes that ask to be
// avoided come last.
func (v *solver) joinBins(s *shape, bins []*bin) {
	for _, avoided := range []bool{false, true} {
		var usable []*bin
		for _, b := range bins {
			if b.copies(s) > 0 && avoids(s.pod.Spec.Tolerations, b.taints) == avoided && v.reachable(s, b) {
				usable = append(usable, b)
			}
		}
		for progress := true; progress && v.left[s.id] > 0; {
			progress = false
			for _, b := range usable {
				for v.left[s.id] > 0 && b.copies(s) > 0 && v.blocked(s, b, everything) == "" {
					v.put(s, b, 1)
					progress = true
				}
			}
		}
	}
}

// followers is the room that pods which must share a host with the shape's will
// need beside each of them; nil when there are none.
func (v *solver) followers(s *shape) []int64 {
	var extra []int64
	for _, o := range v.hostAffine {
		if o == s || v.left[o.id] == 0 || v.left[s.id] == 0 ||
			!o.affinityMatches(v, s.pod.Namespace, s.pod.Labels) {
			continue
		}
		if extra == nil {
			extra = make([]int64, len(s.vector))
		}
		each := int64((v.left[o.id] + v.left[s.id] - 1) / v.left[s.id])
		for r, x := range o.vector {
			extra[r] += x * each
		}
	}
	return extra
}

// chooseColumn is the node to buy for the next pods of the shape: of the
// heaviest Provisioners that can host one, the cheapest per pod.
func (v *solver) chooseColumn(s *shape, extra []int64) *column {
	together := s.hostAffine()
	most := v.worthwhile(s)
	probe := &bin{host: hostValue(-1), probe: true}
	var best *column
	bestScore, bestFit := math.Inf(1), 0
	for _, seller := range v.m.sellers {
		if best != nil && seller.p.Spec.Weight < best.seller.p.Spec.Weight {
			break
		}
		for i := seller.first; i < seller.end; i++ {
			c := &v.m.columns[i]
			if !v.usable(s, c) || v.barred != nil && v.barred[v.domainsOf(c)] {
				continue
			}
			fit := v.fitWith(s, extra, c, most)
			if fit == 0 {
				continue
			}
			score := c.rate / float64(fit)
			if together {
				if fit < bestFit || fit == bestFit && score >= bestScore {
					continue
				}
			} else if score > bestScore*(1-1e-9) {
				continue
			}
			probe.col, probe.taints = c, seller.p.Spec.Taints
			if v.blocked(s, probe, everything) != "" {
				continue
			}
			if seller.left.room(c) == 0 {
				v.scarce = true
				continue
			}
			best, bestScore, bestFit = c, score, fit
		}
	}
	return best
}

// fitWith is how many pods of the shape, each with what follows it, the column
// holds, at most most.
func (v *solver) fitWith(s *shape, extra []int64, c *column, most int) int {
	if extra == nil {
		return min(most, copiesBeside(s, c.free, nil))
	}
	sum := slices.Clone(s.vector)
	for r, x := range extra {
		sum[r] += x
	}
	return min(most, copies(sum, c.free))
}

// worthwhile is how many pods of the shape are likely to end on one new node.
func (v *solver) worthwhile(s *shape) int {
	n := min(v.left[s.id], v.mostPerHost(s))
	for i, t := range s.anti {
		if slices.Contains(s.adds, s.antiCounts[i]) && t.key != "" {
			n = 1
		}
	}
	for _, c := range s.spreadCounts {
		if d := c.domains(); c.key != corev1.LabelHostname && d > 1 {
			n = min(n, (v.left[s.id]+d-1)/d)
		}
	}
	return max(n, 1)
}

// forgetPhantoms stops counting domains that could have got a node but did not,
// and says whether there were any: where nothing can be bought in them, they are
// none.
func (v *solver) forgetPhantoms(s *shape) bool {
	any := false
	for _, c := range s.spreadCounts {
		any = c.forgetPhantoms() || any
	}
	return any
}
