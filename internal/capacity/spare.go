package capacity

import (
	"cmp"
	"slices"
)

// maxSpareWork bounds, in bins and seats gone through, how many nodes are tried in
// vain to be done without.
const maxSpareWork = 8000

// spare does without nodes to buy, the dearest first, whose pods find seats on
// the others: domains without nodes that were counted beforehand may have kept
// them from nodes that are there, or others that got their seats later. What is left is bound anew in a proven order. It says whether there are fewer nodes now.
func (v *solver) spare(order []*shape) (fewer bool) {
	var tried []*column
	for work := 0; work < maxSpareWork; {
		b := v.sparable(tried)
		if b == nil {
			return fewer
		}
		bins, bound, waiting := v.bins, slices.Clone(v.bound), v.waiting()
		v.bins = slices.DeleteFunc(slices.Clone(bins), func(x *bin) bool { return x == b })
		if v.rebind(order); v.waiting() > waiting {
			v.restore(bins, bound)
			tried = append(tried, b.col)
			work += len(bins) + len(bound)
			continue
		}
		fewer = true
	}
	return fewer
}

// sparable is the dearest node to buy, but of these columns, whose pods existing
// nodes have room for and of which some are tied to others, or others to them.
func (v *solver) sparable(but []*column) *bin {
	list := slices.Clone(v.bins[v.existing:])
	slices.SortStableFunc(list, func(a, b *bin) int { return cmp.Compare(b.col.price, a.col.price) })
	for _, b := range list {
		if slices.Contains(but, b.col) || !slices.ContainsFunc(b.placed, func(p placed) bool { return p.s.tied() || p.s.counted }) {
			continue
		}
		if v.roomFor(b.placed) {
			return b
		}
	}
	return nil
}

// roomFor says whether the first existing nodes with room take all these pods, ties
// to other pods aside.
func (v *solver) roomFor(pods []placed) bool {
	free := map[*bin][]int64{}
	for _, p := range pods {
		n := p.n
		for _, b := range v.bins[:v.existing] {
			if n == 0 {
				break
			}
			if b.copies(p.s) == 0 || !v.reachable(p.s, b) {
				continue
			}
			left := free[b]
			if left == nil {
				left = b.free
			}
			k := min(n, copies(p.s.vector, left))
			if k == 0 {
				continue
			}
			left = slices.Clone(left)
			for r, x := range p.s.vector {
				left[r] -= x * int64(k)
			}
			free[b] = left
			n -= k
		}
		if n > 0 {
			return false
		}
	}
	return true
}
