package capacity

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Ruin and recreate: take a few nodes of the plan apart and pack their pods
// anew at slightly different worths; keep what is cheaper. The number of rounds
// follows from the time budget through counted work, never from a clock, and
// the random numbers from a fixed seed, so that a Snapshot has one plan.
const (
	// workPerSecond is how much of packer.work a slow core does in a second.
	workPerSecond = 10e6
	// maxRuined nodes are taken apart at once.
	maxRuined = 4
)

// builtNode is one node of a plan under improvement.
type builtNode struct {
	kind *kind
	load []share
	// waste is its price less what its pods are worth.
	waste float64
}

// improve spends the budget on making patterns cheaper.
func (p *packer) improve(patterns []pattern, pi []float64, budget time.Duration) []pattern {
	if budget <= 0 || p.limited || len(patterns) == 0 {
		return patterns
	}
	var built []builtNode
	for _, pt := range patterns {
		for range pt.times {
			built = append(built, builtNode{kind: pt.kind, load: pt.load, waste: waste(pt.kind, pt.load, pi)})
		}
	}
	r := rand.New(rand.NewPCG(uint64(len(built)), uint64(len(p.items))))
	rem := make([]int, len(p.items))
	worth := make([]float64, len(pi))
	end := p.work + int64(budget.Seconds()*workPerSecond)
	for p.work < end && len(built) > 0 {
		chosen := ruin(built, r)
		clear(rem)
		old := 0.0
		for _, i := range chosen {
			old += built[i].kind.price
			for _, l := range built[i].load {
				rem[l.item] += l.n
			}
		}
		sigma := [...]float64{0, 0.01, 0.03, 0.1}[r.IntN(4)]
		for j := range worth {
			worth[j] = pi[j] * math.Max(0.1, 1+sigma*r.NormFloat64())
		}
		ps, cost, left := p.greedy(worth, rem)
		// Work that leads nowhere counts too, so that the loop ends.
		p.work++
		if left > 0 || cost > old-1e-9 && (cost > old+1e-9 || nodes(ps) >= len(chosen)) {
			continue
		}
		slices.Sort(chosen)
		for k := len(chosen) - 1; k >= 0; k-- {
			last := len(built) - 1
			built[chosen[k]] = built[last]
			built = built[:last]
		}
		for _, pt := range ps {
			for range pt.times {
				built = append(built, builtNode{kind: pt.kind, load: pt.load, waste: waste(pt.kind, pt.load, pi)})
			}
		}
	}
	out := make([]pattern, len(built))
	for i, b := range built {
		out[i] = pattern{kind: b.kind, load: b.load, times: 1}
	}
	return out
}

func waste(k *kind, load []share, pi []float64) float64 {
	w := k.price
	for _, l := range load {
		w -= pi[l.item] * float64(l.n)
	}
	return w
}

// ruin picks one to maxRuined different nodes, those that waste more rather.
func ruin(built []builtNode, r *rand.Rand) []int {
	n := min(1+r.IntN(maxRuined), len(built))
	var chosen []int
	for range n {
		best := -1
		for range 3 {
			if i := r.IntN(len(built)); !slices.Contains(chosen, i) && (best < 0 || built[i].waste > built[best].waste) {
				best = i
			}
		}
		if best >= 0 {
			chosen = append(chosen, best)
		}
	}
	return chosen
}
