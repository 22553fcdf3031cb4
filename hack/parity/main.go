// Command parity lets kube-scheduler judge Berth's planner.
//
// It draws random scenarios - nodes, pods with every kind of hard scheduling
// constraint, Provisioners, DaemonSets, volumes - plans each with
// capacity.Solve, and asks the PreFilter and Filter plugins of kube-scheduler's
// default profile, unchanged and linked in, whether the plan is right both ways:
//
//   - there is an order in which they accept every pod on the seat that the plan
//     gives it, with all nodes of the plan and their DaemonSet pods there from
//     the start;
//   - every pod that the plan calls unschedulable is refused on each node of the
//     plan, and on an empty node of each offering that the limits leave;
//   - the plan could do without none of the nodes that it buys: where all others
//     are bound without it, nodes that are there refuse one of its pods. That costs
//     money only, and is allowed to one plan in 500.
//
// A scenario on which they disagree is made as small as it goes and printed as
// YAML, to be committed under hack/parity/testdata. Arguments are
// files with such scenarios, to be judged instead of random ones.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/internal/capacity"
)

// Of so many plans one may buy a node that it could do without, and in any case a
// few: with spread over hosts of several sizes, who shares a node with whom is
// searched, not proven.
const (
	needlessShare = 500
	fewNeedless   = 3
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "parity:", err)
		os.Exit(1)
	}
}

// options of the command.
type options struct {
	seed    uint64
	n       int
	fresh   int
	verbose bool
	show    int
}

func run(args []string, out io.Writer) error {
	var o options
	f := flag.NewFlagSet("parity", flag.ContinueOnError)
	f.SetOutput(out)
	f.Uint64Var(&o.seed, "seed", 1, "seed of the first scenario; scenario i has seed+i")
	f.IntVar(&o.n, "n", 10000, "how many scenarios to judge, from seed on")
	f.IntVar(&o.fresh, "fresh", 0, "how many more to judge from a seed that nobody knows beforehand; it is printed")
	f.IntVar(&o.show, "show", 3, "how many disagreements to shrink and print")
	f.BoolVar(&o.verbose, "v", false, "print a line for every scenario on which planner and kube-scheduler disagree, also beyond -show")
	f.Usage = func() {
		fmt.Fprint(out, "parity judges plans of random scenarios by kube-scheduler's own Filter plugins.\n\nusage: parity [flags] [FILE...]\n\nFILEs are scenarios that were written down; they are judged instead of random ones.\nIt fails when planner and kube-scheduler disagree anywhere.\n\n")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return judgeFiles(f.Args(), out)
	}
	failed, err := judgeSeeds(o.seed, o.n, o, out)
	if err != nil {
		return err
	}
	if o.fresh > 0 {
		more, err := judgeSeeds(rand.Uint64(), o.fresh, o, out)
		if err != nil {
			return err
		}
		failed += more
	}
	if failed > 0 {
		return fmt.Errorf("planner and kube-scheduler disagree on %d scenarios", failed)
	}
	return nil
}

func judgeFiles(files []string, out io.Writer) error {
	r := referees{}
	failed := 0
	for _, file := range files {
		s, err := load(file)
		if err != nil {
			return err
		}
		if d := try(r, s); d != nil {
			failed++
			fmt.Fprintf(out, "%s: %s: %s\n", file, d.kind, d.detail)
		}
	}
	if failed > 0 {
		return fmt.Errorf("planner and kube-scheduler disagree on %d of %d files", failed, len(files))
	}
	fmt.Fprintf(out, "planner and kube-scheduler agree on %d files\n", len(files))
	return nil
}

// try judges a scenario; whatever breaks is a disagreement, too.
func try(r referees, s *scenario) (d *disagreement) {
	defer func() {
		if p := recover(); p != nil {
			d = &disagreement{kind: "panic", detail: fmt.Sprintf("%v\n%s", p, debug.Stack())}
		}
	}()
	d, err := r.judge(s, capacity.Solve(s.snapshot()))
	if err != nil {
		return &disagreement{kind: "the referee fails", detail: err.Error()}
	}
	return d
}

// judgeSeeds judges n scenarios from a seed on, on all cores, and says how many
// disagreements it found.
func judgeSeeds(seed uint64, n int, o options, out io.Writer) (failed int, err error) {
	start := time.Now()
	found := make([]*disagreement, n)
	next := make(chan int, 64)
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for range workers {
		wg.Go(func() {
			r := referees{}
			for i := range next {
				found[i] = try(r, generate(seed+uint64(i)))
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	needless := 0
	for i, d := range found {
		if d == nil {
			continue
		}
		if d.kind == kindNeedless {
			needless++ // Money, not a mistake: judged by how many there are.
			if o.verbose {
				fmt.Fprintf(out, "seed %d: %s: %s\n", seed+uint64(i), d.kind, d.detail)
			}
			continue
		}
		failed++
		if failed > o.show {
			if o.verbose {
				fmt.Fprintf(out, "seed %d: %s: %s\n", seed+uint64(i), d.kind, d.detail)
			}
			continue
		}
		if err := explain(referees{}, seed+uint64(i), d, out); err != nil {
			return failed, err
		}
	}
	fmt.Fprintf(out, "%d scenarios from seed %d: %d disagreements, %d plans that could do without a node, %.1fs\n", n, seed, failed, needless, time.Since(start).Seconds())
	if most := max(fewNeedless, n/needlessShare); needless > most {
		fmt.Fprintf(out, "at most %d plans may be able to do without a node; run with -v to see which\n", most)
		failed += needless
	}
	return failed, nil
}

// explain shrinks a scenario that fails and prints it with its plan.
func explain(r referees, seed uint64, d *disagreement, out io.Writer) error {
	small, err := shrink(generate(seed), func(s *scenario) bool {
		e := try(r, s)
		return e != nil && e.kind == d.kind && e.why == d.why
	})
	if err != nil {
		return err
	}
	e := try(r, small)
	if e == nil {
		small, e = generate(seed), d
	}
	text, err := yaml.Marshal(small)
	if err != nil {
		return fmt.Errorf("writing the scenario: %w", err)
	}
	fmt.Fprintf(out, "--- seed %d: %s: %s\n%s\n# the plan: %s\n%s---\n", seed, d.kind, d.detail, "# shrunk: "+e.detail, strings.ReplaceAll(describe(small), "\n", "\n# "), text)
	return nil
}
