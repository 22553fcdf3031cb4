package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
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

// sized is a number of pods and the budget to plan them with.
type sized struct {
	pods   int
	budget time.Duration
}

// groupable are the workloads in which many pods are alike.
var groupable = []string{"openb", "generic", "deploy20", "deploy40", "bigbatch", "skew"}

// bothSizes are those that the bars are for.
var bothSizes = []sized{{5000, 300 * time.Millisecond}, {20000, time.Second}}

func (b *bench) rand() *rand.Rand { return rand.New(rand.NewPCG(b.seed, 1)) }

// gaps plans every workload in every size.
func (b *bench) gaps(g gapRow) (result, error) {
	p := g.m.provisioner(b.region)
	sum, n, worst, at := 0.0, 0, 0.0, ""
	met := true
	var slowest time.Duration
	for _, w := range workloads(b.data) {
		if !slices.Contains(g.names, w.name) || b.workloads != nil && !slices.Contains(b.workloads, w.name) {
			continue
		}
		for i, size := range g.sizes {
			list := pods(w.sizes(b.rand(), size.pods))
			if g.constrained {
				constrain(b.rand(), list, g.m.zones)
			}
			plan, t, err := solve(1, b.snapshot(list, size.budget, p))
			if err != nil {
				return result{}, fmt.Errorf("%s: %w", w.name, err)
			}
			gap := 100 * plan.Gap()
			if b.details {
				fmt.Printf("| | %s, %d pods, %d shapes, %s | | %.3f %%, %d nodes, %.3f $/h in %s | |\n", w.name, size.pods, plan.Shapes, size.budget, gap, len(plan.Launches), plan.HourlyCost, t)
			}
			sum += gap
			n++
			slowest = max(slowest, t.best()-size.budget)
			if gap > worst {
				worst, at = gap, fmt.Sprintf("%s, %d pods", w.name, size.pods)
			}
			bar := g.worst
			if i > 0 && g.laterWorst > 0 {
				bar = g.laterWorst
			}
			met = met && gap <= bar
		}
	}
	if n == 0 {
		return result{"nothing to measure", true}, nil
	}
	mean := sum / float64(n)
	if g.mean > 0 {
		met = met && mean <= g.mean
	}
	return result{fmt.Sprintf("mean %.2f %%, worst %.2f %% (%s), at most %s over the budget", mean, worst, at, short(max(0, slowest))), met}, nil
}
