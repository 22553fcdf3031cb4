package capacity

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

const (
	// maxFew nodes are few: which they are then matters more than who goes where,
	// and there are not too many ways to choose them.
	maxFew = 16
	// maxFewPods bounds the pods that are divided among them one by one.
	maxFewPods = 400
	// packSteps are spent on each choice of nodes.
	packSteps = 20000
	// packHeat is by how much of an average pod nodes may become fuller than they
	// are, at first.
	packHeat = 0.05
)

// few looks for a plan of few nodes that is cheaper: the cheapest nodes with room
// enough in all, then the next, until the pods fit or p.work has reached end. Taking
// single nodes apart does not get there, for most changes need all of them.
// Done means that nothing cheaper has room enough.
func (p *packer) few(best []pattern, pi []float64, end int64) (ps []pattern, done bool) {
	if nodes(best) > maxFew {
		return best, false
	}
	demand, have := make([]float64, p.width), make([]int, len(p.items))
	pods, value := 0, 0.0
	for j, it := range p.items {
		if it.most < it.it.n || p.conflict[j] != nil {
			return best, false
		}
		have[j] = it.it.n
		pods += it.it.n
		value += pi[j] * float64(it.it.n)
		for r, x := range it.req {
			demand[r] += float64(x) * float64(it.it.n)
		}
	}
	if pods > maxFewPods || slices.ContainsFunc(p.kinds, func(k *kind) bool { return k.pen != nil }) {
		return best, false
	}
	c := p.newCover(demand, value, pi, have, end)
	most := cost(best) - 1e-9
	for failed := false; p.work < end; {
		before := c.work
		x := c.next(most)
		p.work += c.work - before
		if x == nil {
			return best, c.work < c.limit && !failed
		}
		if ps := p.into(x.nodes(), pods); ps != nil {
			return ps, !failed
		}
		failed = true
	}
	return best, false
}

// into puts all pods onto nodes of these kinds by simulated annealing: pods move or
// swap places until no node is overfull. Nil when that has not come about.
func (p *packer) into(kinds []int, pods int) []pattern {
	w := p.width
	scale := make([]float64, w)
	for _, t := range kinds {
		for r, f := range p.kinds[t].free {
			scale[r] += float64(max(f, 0))
		}
	}
	for r, s := range scale {
		if s > 0 {
			scale[r] = 1 / s
		}
	}
	free := make([]float64, len(kinds)*w)
	for i, t := range kinds {
		for r, f := range p.kinds[t].free {
			free[i*w+r] = scale[r] * float64(f)
		}
	}
	req, bulk := make([]float64, len(p.items)*w), make([]float64, len(p.items))
	var order []int
	mean := 0.0
	for j, it := range p.items {
		for r, x := range it.req {
			req[j*w+r] = scale[r] * float64(x)
			bulk[j] += req[j*w+r]
		}
		for range it.it.n {
			order = append(order, j)
		}
		mean += bulk[j] * float64(it.it.n) / float64(pods)
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(bulk[b], bulk[a]) })
	// change is how much more the node lacks when one pod comes and another goes.
	change := func(node, comes, goes int) float64 {
		sum := 0.0
		for r := range w {
			f := free[node*w+r]
			g := f
			if comes >= 0 {
				g -= req[comes*w+r]
			}
			if goes >= 0 {
				g += req[goes*w+r]
			}
			sum += max(0, -g) - max(0, -f)
		}
		return sum
	}
	use := func(node, item int, n float64) {
		for r := range w {
			free[node*w+r] -= n * req[item*w+r]
		}
	}
	at := make([]int, pods)
	lacking := 0.0
	for i, j := range order {
		best, least := -1, math.Inf(1)
		for k, t := range kinds {
			if l := change(k, j, -1); l < least && p.kinds[t].allows.has(j) {
				best, least = k, l
			}
		}
		if best < 0 {
			return nil
		}
		at[i] = best
		lacking += least
		use(best, j, 1)
	}
	r := rand.New(rand.NewPCG(uint64(len(kinds)), uint64(pods)))
	for step := 0; lacking > 1e-12; step++ {
		p.work += 3
		if step == packSteps {
			return nil
		}
		cool := 1 - float64(step)/packSteps
		i, k := r.IntN(pods), r.IntN(pods)
		from, to, one, other := at[i], at[k], order[i], order[k]
		if r.IntN(3) == 0 {
			to, k, other = r.IntN(len(kinds)), -1, -1
		}
		if from == to || one == other || !p.kinds[kinds[to]].allows.has(one) || k >= 0 && !p.kinds[kinds[from]].allows.has(other) {
			continue
		}
		more := change(from, other, one) + change(to, one, other)
		if more > 0 && more > -packHeat*mean*cool*cool*math.Log(r.Float64()) {
			continue
		}
		lacking += more
		use(from, one, -1)
		use(to, one, 1)
		at[i] = to
		if k >= 0 {
			use(to, other, -1)
			use(from, other, 1)
			at[k] = from
		}
	}
	return p.seated(kinds, order, at)
}

// seated are the patterns of pods, by item, on nodes of these kinds; nil when one is
// overfull after all.
func (p *packer) seated(kinds, pods, at []int) []pattern {
	counts := make([][]int, len(kinds))
	for i := range counts {
		counts[i] = make([]int, len(p.items))
	}
	for i, j := range pods {
		counts[at[i]][j]++
	}
	var ps []pattern
	for i, t := range kinds {
		var load []share
		for j, n := range counts[i] {
			if n > 0 {
				load = append(load, share{j, n})
			}
		}
		if len(load) == 0 {
			continue
		}
		if !p.kinds[t].holds(p, load) {
			return nil
		}
		ps = append(ps, pattern{p.downsize(p.kinds[t], load, nil, nil), load, 1})
	}
	return ps
}
