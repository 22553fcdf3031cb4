// Command bench-consolidate measures consolidation without a cluster: how long it
// takes to weigh 1,000 nodes with 10,000 pods, how much of what can be saved at
// all with as many moves it finds, and whether it comes to rest.
package main

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/berth-dev/berth/internal/capacity"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if err := sweep(); err != nil {
		return err
	}
	if err := quality(); err != nil {
		return err
	}
	return quiet()
}

// sweep times whole evaluations.
func sweep() error {
	fmt.Println("Sweep: one whole evaluation")
	fmt.Printf("%-44s %6s %7s %10s %10s %9s %6s\n", "", "nodes", "pods", "wall", "CPU", "decisions", "moves")
	for _, spot := range []bool{false, true} {
		w, err := newTown(townConfig{nodes: 1000, spot: spot, steps: map[bool]int{false: 13, true: 6}[spot], seed: 1})
		if err != nil {
			return err
		}
		w.thin(0.4, false)
		market := map[bool]string{false: "on-demand", true: "spot too"}[spot]
		for _, state := range []string{"fragmented by deleting 40 % of the pods", "after that: nothing left to save"} {
			var out *capacity.Consolidation
			for {
				in := w.input(thrifty)
				var cpu, wall time.Duration
				out, cpu, wall = timed(in)
				if state[0] == 'f' || len(out.Decisions) == 0 {
					fmt.Printf("%-44s %6d %7d %8dms %8dms %9d %6d\n", market+", "+state, len(w.nodes), w.pods(), wall.Milliseconds(), cpu.Milliseconds(), len(out.Decisions), out.Moves())
				}
				w.apply(out.Decisions)
				if state[0] == 'f' || len(out.Decisions) == 0 {
					break
				}
			}
		}
	}
	return nil
}

// timed weighs once, and says what that took of this process's time and of the clock's.
func timed(in *capacity.ConsolidationInput) (out *capacity.Consolidation, cpu, wall time.Duration) {
	var a, b syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &a) // Cannot fail with these arguments.
	start := time.Now()
	out = capacity.Consolidate(in)
	wall = time.Since(start)
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &b)
	return out, time.Duration(b.Utime.Nano() - a.Utime.Nano() + b.Stime.Nano() - a.Stime.Nano()), wall
}

// quality compares the saving with a bound on what any plan can save with as many
// moves, in one evaluation.
func quality() error {
	fmt.Println("\nQuality: share of a bound on what any plan can save with as many moves")
	fmt.Printf("%-34s %6s %6s %9s %8s %7s | %s\n", "", "nodes", "pods", "saving", "moves", "share", "share with at most 5, 10, 20 % of the pods moved")
	sum, n := 0.0, 0
	for _, nodes := range []int{200, 1000} {
		for _, share := range []float64{0.2, 0.4, 0.6} {
			for _, byApp := range []bool{false, true} {
				w, err := newTown(townConfig{nodes: nodes, steps: 20, seed: uint64(100*share) + 1})
				if err != nil {
					return err
				}
				w.thin(share, byApp)
				out := capacity.Consolidate(w.input(thrifty))
				part := out.Saving() / bound(w, out.Moves())
				sum, n = sum+part, n+1
				fmt.Printf("%-34s %6d %6d %7.2f$/h %8d %6.1f%% |", fmt.Sprintf("%d %% deleted, %s", int(100*share), map[bool]string{false: "at random", true: "whole workloads"}[byApp]),
					len(w.nodes), w.pods(), out.Saving(), out.Moves(), 100*part)
				for _, p := range []float64{0.05, 0.1, 0.2} {
					saving, moves := first(out, int(p*float64(w.pods())))
					fmt.Printf(" %5.1f%%", 100*saving/bound(w, moves))
				}
				fmt.Println()
			}
		}
	}
	fmt.Printf("mean %.1f%%\n", 100*sum/float64(n))
	return nil
}

// first are the decisions in their order that together move at most that many pods.
func first(out *capacity.Consolidation, most int) (saving float64, moves int) {
	for i := range out.Decisions {
		d := &out.Decisions[i]
		if moves+len(d.Moves) <= most {
			saving, moves = saving+d.Saving, moves+len(d.Moves)
		}
	}
	return saving, moves
}
