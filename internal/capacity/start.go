package capacity

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
)

// startsPerItem is how many worths for each item are tried in vain before the
// first plan is good enough.
const startsPerItem = 50

// startPlan is the best that the greedy finds from several worths, with these
// worths, and how many pods it leaves (limits only). It tries more of them until
// p.work has reached end or many were in vain. Where there is time for that, the
// patterns of all of them are kept in p.near.
func (p *packer) startPlan(end int64) (best []pattern, bestPi []float64, left int) {
	p.near = nil
	worth, improving := p.worths(), p.work < end
	mixed := func(w float64) []float64 {
		pi := make([]float64, len(p.items))
		for j := range pi {
			pi[j] = w*worth.unit[j] + (1-w)*worth.linear[j]
		}
		return pi
	}
	bestCost, left := math.Inf(1), math.MaxInt
	try := func(q *packer, pi []float64) (accept func()) {
		ps, cost, n := q.greedy(pi, q.demand(), inf, nil)
		return func() {
			if n == 0 && improving {
				p.near = append(p.near, keep(ps)...)
			}
			if n < left || n == left && (cost < bestCost-1e-9 || cost < bestCost+1e-9 && nodes(ps) < nodes(best)) {
				best, bestPi, bestCost, left = keep(ps), slices.Clone(pi), cost, n
			}
		}
	}
	weights := []float64{0, 0.5, 1, 0.25, 0.75}
	if len(p.items) > manyItems {
		weights = weights[:2]
	}
	if len(p.items)*len(p.kinds) < manyPairs {
		for _, w := range weights {
			try(p, mixed(w))()
		}
	} else {
		accept := make([]func(), len(weights))
		var all sync.WaitGroup
		for i, w := range weights {
			q := p.fork(i)
			all.Go(func() { accept[i] = try(q, mixed(w)) })
		}
		all.Wait()
		for i := range weights {
			accept[i]()
			p.work += p.forks[i].work
		}
	}
	if left > 0 {
		return best, bestPi, left
	}
	r := rand.New(rand.NewPCG(uint64(len(p.items)), uint64(len(p.kinds))))
	shaken := make([]float64, len(p.items))
	for idle := 0; p.work < end && idle < startsPerItem*len(p.items); idle++ {
		before := bestCost
		p.shake(shaken, mixed(r.Float64()), r)
		if try(p, shaken)(); bestCost < before {
			idle = 0
		}
	}
	return best, bestPi, 0
}

// demand is how many pods there are of each item.
func (p *packer) demand() []int {
	rem := make([]int, len(p.items))
	for j, it := range p.items {
		rem[j] = it.it.n
	}
	return rem
}

// fork is the i-th packer for the same problem with buffers of its own.
func (p *packer) fork(i int) *packer {
	for len(p.forks) <= i {
		p.forks = append(p.forks, &packer{})
	}
	q := p.forks[i]
	q.items, q.kinds, q.conflict, q.width, q.limited = p.items, p.kinds, p.conflict, p.width, p.limited
	q.knap.basis, q.work = q.knap.basis[:0], 0
	return q
}
