package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/berth-dev/berth/internal/capacity"
)

// gapRow is a row about how far plans are above the proven bound.
type gapRow struct {
	m     market
	names []string
	// mean and worst are the bars in percent; 0: none. laterWorst is the one for
	// the sizes after the first.
	mean, worst, laterWorst float64
	sizes                   []sized
	// constrained: pods also ask for zones, architectures and spread.
	constrained bool
}

// sized is a number of pods and the budget to plan them with: what the plan may take
// on the clock, its lower bound included.
type sized struct {
	pods   int
	budget time.Duration
}

// groupable are the workloads in which many pods are alike.
var groupable = []string{"openb", "generic", "deploy20", "deploy40", "bigbatch", "skew"}

// bothSizes are those that the bars are for.
var bothSizes = []sized{{5000, 300 * time.Millisecond}, {20000, time.Second}}

// looseGap is from where on a gap may be the bound's, not the plan's: the bound is then
// proven again with moreBudget times the budget.
const looseGap, moreBudget = 0.01, 10

// aboveBound is how far a plan is above the best bound that there is for its Snapshot:
// its own or, where that is loose, that of another plan which had more time to prove it.
func aboveBound(p *capacity.Plan, s *capacity.Snapshot) float64 {
	if p.Gap() < looseGap {
		return p.Gap()
	}
	longer := *s
	longer.Budget *= moreBudget
	return p.HourlyCost/max(p.LowerBound, capacity.Solve(&longer).LowerBound) - 1
}

func (b *bench) rand() *rand.Rand { return seeded(b.seed) }

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// gaps plans every workload in every size.
func (b *bench) gaps(g gapRow) (result, error) {
	p := g.m.provisioner(b.region)
	sum, n, worst, at := 0.0, 0, 0.0, ""
	met := true
	slowest := make([]span, len(g.sizes))
	for _, w := range workloads(b.data) {
		if !slices.Contains(g.names, w.name) || b.workloads != nil && !slices.Contains(b.workloads, w.name) {
			continue
		}
		for i, size := range g.sizes {
			list := pods(w.sizes(b.rand(), size.pods))
			if g.constrained {
				constrain(b.rand(), list, g.m.zones)
			}
			s := b.snapshot(list, size.budget, p)
			plan, t, err := solve(b.rounds, s)
			if err != nil {
				return result{}, fmt.Errorf("%s: %w", w.name, err)
			}
			gap := 100 * aboveBound(plan, s)
			if b.details {
				fmt.Printf("| | %s, %d pods, %d shapes, %s | | %.3f %% (above its own bound %.3f %%), %d nodes, %.3f $/h in %s | |\n", w.name, size.pods, plan.Shapes, size.budget, gap, 100*plan.Gap(), len(plan.Launches), plan.HourlyCost, t)
			}
			sum += gap
			n++
			slowest[i] = slower(slowest[i], t)
			if gap > worst {
				worst, at = gap, fmt.Sprintf("%s, %d pods", w.name, size.pods)
			}
			bar := g.worst
			if i > 0 && g.laterWorst > 0 {
				bar = g.laterWorst
			}
			met = met && gap <= bar && t.best() <= size.budget
		}
	}
	if n == 0 {
		return result{"nothing to measure", true}, nil
	}
	mean := sum / float64(n)
	if g.mean > 0 {
		met = met && mean <= g.mean
	}
	var times []string
	for i, size := range g.sizes {
		times = append(times, fmt.Sprintf("%d pods in %s", size.pods, slowest[i]))
	}
	return result{fmt.Sprintf("mean %.2f %%, worst %.2f %% (%s); the slowest: %s", mean, worst, at, strings.Join(times, ", ")), met}, nil
}

// draws of each workload of 50 pods, and how long the optimum of each is sought.
const (
	draws        = 5
	optimumLimit = 10 * time.Second
)

// fifty holds plans of 50 pods against the integer optimum, or the bound of it
// that is proven in time.
func (b *bench) fifty(p *capacity.Provisioner) (result, error) {
	const bar, budget = 1, 100 * time.Millisecond
	sum, linear, n, optima, above, worst, at := 0.0, 0.0, 0, 0, 0, 0.0, ""
	var slowest span
	for _, w := range workloads(b.data) {
		if w.name != "vpa" && !slices.Contains(groupable, w.name) || b.workloads != nil && !slices.Contains(b.workloads, w.name) {
			continue
		}
		for i := range uint64(draws) {
			list := pods(w.sizes(seeded(b.seed+i), 50))
			plan, t, err := solve(b.rounds, b.snapshot(list, budget, p))
			if err != nil {
				return result{}, fmt.Errorf("%s: %w", w.name, err)
			}
			bound, proven := newProblem(list, p, daemons()).least(plan.HourlyCost, optimumLimit)
			gap := max(0, 100*(plan.HourlyCost/bound-1))
			if b.details {
				fmt.Printf("| | %s, seed %d | | %.4f $/h in %s, %.2f %% above the plan's own bound, %.2f %% above %.4f, proven to be the optimum: %v | |\n",
					w.name, b.seed+i, plan.HourlyCost, t, 100*plan.Gap(), gap, bound, proven)
			}
			slowest = slower(slowest, t)
			n++
			sum += gap
			linear += 100 * plan.Gap()
			if proven {
				optima++
			}
			if gap > bar {
				above++
			}
			if gap > worst {
				worst, at = gap, fmt.Sprintf("%s, seed %d", w.name, b.seed+i)
			}
		}
	}
	if n == 0 {
		return result{"nothing to measure", true}, nil
	}
	return result{fmt.Sprintf("mean %.2f %%, worst %.2f %% (%s), %d of %d above 1 %%; the optimum is proven for %d, for the others a bound of it in %s; above the plans' own bounds: mean %.2f %%; the slowest in %s",
		sum/float64(n), worst, at, above, n, optima, optimumLimit, linear/float64(n), slowest), worst <= bar && slowest.best() <= budget}, nil
}
