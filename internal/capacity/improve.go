package capacity

import (
	"math/rand/v2"
	"slices"
)

// Ruin and recreate: take a few nodes of the plan apart and pack their pods
// anew at slightly different worths, sometimes without some of the kinds. What
// costs a little more is accepted too, ever less of it, so that the search does
// not stay in the first dead end; the best plan seen is kept. How many rounds
// there are follows from counted work, never from a clock, and the random
// numbers from a fixed seed, so that a Snapshot has one plan.
const (
	// workPerSecond is how much of packer.work a slow core does in a second.
	workPerSecond = 29e6
	// planPart of the budget goes into improving the plan, boundPart into proving how
	// good it is; the rest is for what is not counted.
	planPart, boundPart = 0.78, 0.12
	// maxRuined nodes are taken apart at once.
	maxRuined = 4
	// temperature is how much dearer, as a share of an average node, a change
	// may be at first.
	temperature = 0.02
	// roundsPerNode and roundsPerShare bound the rounds: a plan of few nodes, or of
	// few different ones, is soon as good as it gets.
	roundsPerNode, roundsPerShare = 10, 500
)

// builtNode is one node of a plan under improvement.
type builtNode struct {
	kind *kind
	load []share
	// cost and waste: the latter is its cost less what its pods are worth.
	cost, waste float64
}

func newBuiltNode(pt pattern, pi []float64) builtNode {
	b := builtNode{kind: pt.kind, load: pt.load, cost: pt.kind.cost(pt.load)}
	b.waste = b.cost
	for _, l := range pt.load {
		b.waste -= pi[l.item] * float64(l.n)
	}
	return b
}

// build makes nodes of patterns.
func build(ps []pattern, pi []float64) []builtNode {
	var built []builtNode
	for _, pt := range ps {
		b := newBuiltNode(pt, pi)
		for range pt.times {
			built = append(built, b)
		}
	}
	return built
}

// improve works on the patterns until p.work has reached end, or until there
// have been as many rounds as the plan is worth.
func (p *packer) improve(patterns []pattern, pi []float64, end int64) []pattern {
	if p.limited || p.work >= end || len(patterns) == 0 {
		return patterns
	}
	built := build(patterns, pi)
	cost := 0.0
	for i := range built {
		cost += built[i].cost
	}
	best, bestCost, atBest := slices.Clone(built), cost, true
	begin := p.work
	rounds, most := 0, roundsPerNode*len(built)+roundsPerShare*len(patterns)*len(p.items)
	r := rand.New(rand.NewPCG(uint64(len(built)), uint64(len(p.items))))
	rem := make([]int, len(p.items))
	worth := make([]float64, len(pi))
	banned := newBitset(len(p.kinds))
	for ; p.work < end && rounds < most; rounds++ {
		// Work that leads nowhere counts too, so that the loop ends.
		p.work += 10
		done := max(float64(p.work-begin)/float64(end-begin), float64(rounds)/float64(most))
		heat := temperature * cost / float64(len(built)) * max(0, 1-1.25*done)
		chosen := ruin(built, r)
		clear(rem)
		old := 0.0
		for _, i := range chosen {
			old += built[i].cost
			for _, l := range built[i].load {
				rem[l.item] += l.n
			}
		}
		p.shake(worth, pi, r)
		var without bitset
		if r.IntN(2) == 0 {
			without = banned
			clear(without)
			for t := range p.kinds {
				if r.IntN(3) == 0 {
					without.set(t)
				}
			}
		}
		ps, c, left := p.greedy(worth, rem, old+heat+1e-9, without)
		if left > 0 || c > old+heat || c > old-1e-9 && c < old+1e-9 && nodes(ps) > len(chosen) {
			continue
		}
		if c > old+1e-9 && atBest {
			best, atBest = append(best[:0], built...), false
		}
		cost += c - old
		slices.Sort(chosen)
		for k := len(chosen) - 1; k >= 0; k-- {
			last := len(built) - 1
			built[chosen[k]] = built[last]
			built = built[:last]
		}
		for _, pt := range ps {
			pt.load = slices.Clone(pt.load)
			b := newBuiltNode(pt, pi)
			for range pt.times {
				built = append(built, b)
			}
		}
		if cost < bestCost+1e-9 {
			bestCost, atBest = cost, true
		}
	}
	if !atBest {
		built = best
	}
	out := make([]pattern, len(built))
	for i, b := range built {
		out[i] = pattern{kind: b.kind, load: b.load, times: 1}
	}
	return out
}

// shake sets worth to pi with some noise, sometimes none.
func (p *packer) shake(worth, pi []float64, r *rand.Rand) {
	sigma := [...]float64{0, 0.01, 0.03, 0.1}[r.IntN(4)]
	for j := range worth {
		worth[j] = pi[j]
		if sigma > 0 {
			worth[j] *= max(0.1, 1+sigma*r.NormFloat64())
		}
	}
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
