package capacity

import (
	"cmp"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// maxPurchases bounds how often nodes are bought for pods that have lost their
// seats, or never had one.
const maxPurchases = 32

// seat is a number of pods of one shape that are bound, or to be bound, on one
// bin.
type seat struct {
	s *shape
	b *bin
	n int
}

// prove binds all that has been placed anew, in some order, by what
// kube-scheduler would count: with every node of the plan and its DaemonSet pods
// there from the start. Pods that it would refuse lose their seats and seek
// others in that state, also on further nodes. These are new domains for all:
// the proof begins again with them, and what does not seat more pods in the end
// is not bought. Where nobody is tied to others there is nothing to prove.
func (v *solver) prove() {
	if !slices.ContainsFunc(v.shapes, (*shape).tied) {
		return
	}
	for _, s := range v.shapes {
		s.neverFirst = false
	}
	order := v.inOrder()
	v.rebind(order)
	v.purchase(order)
	if v.spare(order) && v.unserved() > 0 {
		// A domain may have become free for others.
		v.purchase(order)
	}
}

// purchase buys nodes, one after the other, for pods that have no seat.
func (v *solver) purchase(order []*shape) {
	vain := map[*shape]map[string]bool{}
	for range maxPurchases {
		s, c := v.nextPurchase(order, vain)
		if s == nil {
			return
		}
		bins, bound, waiting := v.bins, slices.Clone(v.bound), v.waiting()
		if vain[s] == nil {
			v.placeShape(s)
		} else {
			// All that it wants has been too much.
			v.put(s, v.buy(c), 1)
		}
		v.rebind(order)
		if v.waiting() < waiting {
			clear(vain)
			continue
		}
		v.restore(bins, bound)
		if vain[s] == nil {
			vain[s] = map[string]bool{}
		} else {
			vain[s][v.domainsOf(c)] = true
		}
	}
}

// nextPurchase is a shape without seats for all its pods, and a column that
// kube-scheduler would accept one on. vain are domains, by shape, where that has
// cost others their seats.
func (v *solver) nextPurchase(order []*shape, vain map[*shape]map[string]bool) (*shape, *column) {
	defer func() { v.barred = nil }()
	for _, s := range order {
		if v.left[s.id] == 0 {
			continue
		}
		v.barred = vain[s]
		if c := v.chooseColumn(s, nil); c != nil {
			return s, c
		}
	}
	return nil, nil
}

// domainsOf names the domains that a node of the column would be in, as far as
// anybody counts by them.
func (v *solver) domainsOf(c *column) string {
	b := shapeKey{}
	for _, key := range v.counterKeys {
		val, _ := v.m.label(c, key)
		b.str(val)
	}
	for _, d := range c.daemons.pods {
		b.str(d.pod.Namespace)
		b.str(d.pod.Name)
	}
	return string(b)
}

// tied says whether the shape's place hangs on other pods.
func (s *shape) tied() bool {
	return len(s.spread)+len(s.affinity)+len(s.anti)+len(s.heldOff) > 0
}

// anyIdle says whether a node to buy has lost all its pods.
func (v *solver) anyIdle() bool {
	return slices.ContainsFunc(v.bins[v.existing:], func(b *bin) bool { return len(b.placed) == 0 })
}

// rebind empties the bins, binds their pods again and seats those that could not
// be, or had no place, where they may be; bins to buy that nobody is on then are
// left out, and it begins again.
func (v *solver) rebind(order []*shape) {
	for {
		old := v.bins
		if !v.bindAll(v.reopen(old), false) && !v.bindAll(v.reopen(old), true) && !v.searchOrder(v.reopen(old)) {
			v.bindAll(v.reopen(old), false)
		}
		for had := -1; had != v.waiting(); {
			had = v.waiting()
			for _, s := range order {
				if v.left[s.id] > 0 {
					v.joinBins(s, v.bins)
				}
			}
		}
		if !v.anyIdle() {
			return
		}
	}
}

// restore goes back to bins, with pods bound in this order.
func (v *solver) restore(bins []*bin, bound []seat) {
	v.reopen(bins)
	for _, t := range bound {
		v.put(t.s, v.bins[t.b.index], t.n)
	}
}

// reopen makes all bins as they are before the first pod of the plan is bound.
func (v *solver) reopen(old []*bin) []*seat {
	v.resetLimits()
	v.bins, v.bound = nil, nil
	v.bins = v.existingBins()
	var seats []*seat
	for i, b := range old {
		if b.node == nil && len(b.placed) == 0 {
			continue
		}
		var to *bin
		if b.node != nil {
			to = v.bins[i]
		} else {
			to = v.open(b.col)
			to.credit = b.credit
		}
		for _, p := range b.placed {
			seats = append(seats, &seat{p.s, to, p.n})
		}
	}
	for _, s := range v.shapes {
		v.left[s.id] = len(s.pods)
	}
	v.buildCounters()
	v.settled, v.closed = true, true
	return seats
}

// bindAll binds pods on their seats as long as any can be, and says whether all
// were. Who is tied to others comes first, the strictest before the others; who
// is only counted by others comes last, because a spread constraint may have
// been satisfied without it.
func (v *solver) bindAll(seats []*seat, reverse bool) bool {
	of := make([][]*seat, len(v.shapes))
	for _, t := range seats {
		of[t.s.id] = append(of[t.s.id], t)
	}
	order := slices.Clone(v.shapes)
	slices.SortStableFunc(order, func(a, b *shape) int {
		byID := cmp.Compare(a.id, b.id)
		if reverse {
			byID = -byID
		}
		return cmp.Or(cmp.Compare(a.bindRank(), b.bindRank()), cmp.Compare(a.strictest(), b.strictest()), byID)
	})
	for _, s := range order {
		of[s.id] = v.interleave(s, of[s.id])
	}
	for progress := true; progress; {
		progress = false
		for _, s := range order {
			if len(of[s.id]) == 0 || s.bindRank() > 0 && progress {
				continue
			}
			most := math.MaxInt
			if s.bindRank() > 0 && slices.ContainsFunc(order, func(o *shape) bool { return o.bindRank() == 0 && len(of[o.id]) > 0 }) {
				// Somebody may be waiting for just one of them.
				most = 1
			}
			var n int
			n, of[s.id] = v.bindSome(of[s.id], most)
			progress = progress || n > 0
		}
	}
	return !slices.ContainsFunc(of, func(list []*seat) bool { return len(list) > 0 })
}

// bindRank orders shapes for binding: those that are tied to others, those that
// nobody's spread counts, the others.
func (s *shape) bindRank() int {
	switch {
	case s.tied():
		return 0
	case len(s.late) == 0:
		return 1
	}
	return 2
}

// strictest is the least maxSkew of the shape's spread constraints.
func (s *shape) strictest() int {
	least := math.MaxInt
	for i := range s.spread {
		least = min(least, s.spread[i].maxSkew)
	}
	return least
}

// bindSome visits the seats of a shape once, binds one pod on each that
// kube-scheduler would accept, at most most, and returns how many it has bound
// and the seats that still have pods to come.
func (v *solver) bindSome(seats []*seat, most int) (n int, rest []*seat) {
	rest = seats[:0]
	for _, t := range seats {
		if n < most && v.blocked(t.s, t.b, everything) == "" {
			k := 1
			if !t.s.tied() {
				k = min(t.n, most-n)
			}
			v.put(t.s, t.b, k)
			t.n -= k
			n += k
		}
		if t.n > 0 {
			rest = append(rest, t)
		}
	}
	return n, rest
}

// interleave orders the seats of a shape so that its domains take turns.
func (v *solver) interleave(s *shape, seats []*seat) []*seat {
	if len(s.spread) == 0 || len(seats) < 3 {
		return seats
	}
	turn := make(map[*seat]int, len(seats))
	had := map[string]int{}
	for _, t := range seats {
		var domain strings.Builder
		for i := range s.spread {
			if key := s.spread[i].key; key != corev1.LabelHostname {
				val, _ := v.label(t.b, key)
				domain.WriteString(val)
				domain.WriteByte(0)
			}
		}
		turn[t] = had[domain.String()]
		had[domain.String()]++
	}
	slices.SortStableFunc(seats, func(a, b *seat) int { return cmp.Compare(turn[a], turn[b]) })
	return seats
}

// unserved is the number of pods that have no seat, but for those that no node could
// host: who serves the others need not regard these.
func (v *solver) unserved() int {
	n := 0
	for _, s := range v.shapes {
		if v.left[s.id] > 0 && !v.hopeless(s) {
			n += v.left[s.id]
		}
	}
	return n
}

// hopeless says whether neither a node that is there has room for a pod of the shape,
// nor a node to buy would have, other pods aside.
func (v *solver) hopeless(s *shape) bool {
	if s.hopeless == nil {
		fits := slices.ContainsFunc(v.bins[:v.existing], func(b *bin) bool { return vectorFits(s.vector, b.start) && v.reachable(s, b) })
		for i := 0; i < len(v.m.columns) && !fits; i++ {
			fits = v.seatable(s, &v.m.columns[i])
		}
		s.hopeless = new(!fits)
	}
	return *s.hopeless
}

// waiting is the number of pods that have no seat.
func (v *solver) waiting() int {
	n := 0
	for _, left := range v.left {
		n += left
	}
	return n
}
