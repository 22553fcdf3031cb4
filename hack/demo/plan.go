package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
)

// forecast is what kubectl-berth plan -o json says, as far as the demo uses it.
type forecast struct {
	Launches      []plannedLaunch `json:"launches"`
	Unschedulable []plannedNone   `json:"unschedulable"`
	HourlyCost    float64         `json:"hourlyCost"`
	LowerBound    float64         `json:"lowerBound"`
	Gap           float64         `json:"gap"`
	Pods          int             `json:"pods"`
	SolveSeconds  float64         `json:"solveSeconds"`
}

type plannedLaunch struct {
	InstanceType string  `json:"instanceType"`
	CapacityType string  `json:"capacityType"`
	Zone         string  `json:"zone"`
	HourlyPrice  float64 `json:"hourlyPrice"`
	// Alternatives as type/capacity type/zone.
	Alternatives []string `json:"alternatives"`
	Pods         []string `json:"pods"`
}

type plannedNone struct {
	Pod     string          `json:"pod"`
	Reasons []plannedReason `json:"reasons"`
}

type plannedReason struct {
	Detail string `json:"detail"`
	Fix    string `json:"fix"`
}

// runPlan asks the planner without a cluster what it would buy.
func runPlan(ctx context.Context, program, region string, files []string) (*forecast, error) {
	args := []string{"plan", "--output", "json", "--region", region}
	for _, f := range files {
		args = append(args, "--filename", f)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("kubectl-berth plan: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	var f forecast
	if err := json.Unmarshal(stdout.Bytes(), &f); err != nil {
		return nil, fmt.Errorf("reading the plan: %w", err)
	}
	return &f, nil
}

// table shows the launches.
func (f *forecast) table() []string {
	cells := [][]string{{"would buy", "zone", "$/h", "pods", "alternatives"}}
	for _, l := range f.Launches {
		cells = append(cells, []string{l.InstanceType + " " + l.CapacityType, l.Zone, fmt.Sprintf("%.4f", l.HourlyPrice), fmt.Sprint(len(l.Pods)), fmt.Sprint(len(l.Alternatives))})
	}
	return columns(cells, "$/h", "pods", "alternatives")
}

// check compares a plan with what was to be planned for.
func (f *forecast) check(pods int, unhostable string) check {
	c := check{name: fmt.Sprintf("a plan for all %d pods, and the one pod that fits nowhere is named with a reason", pods)}
	if f.Pods != pods {
		c.fail("it is for %d pods, the manifests make %d", f.Pods, pods)
	}
	if len(f.Launches) == 0 || f.HourlyCost <= 0 || f.LowerBound <= 0 || f.LowerBound > f.HourlyCost+1e-9 {
		c.fail("%d launches at $%f/h, proven minimum $%f/h", len(f.Launches), f.HourlyCost, f.LowerBound)
	}
	if len(f.Unschedulable) != 1 || "Pod "+f.Unschedulable[0].Pod != unhostable {
		c.fail("it finds no place for %d pods, not just for %s", len(f.Unschedulable), unhostable)
	} else if len(f.Unschedulable[0].Reasons) == 0 {
		c.fail("no reason is given for %s", unhostable)
	}
	return c
}

// matches compares what was bought with the plan. Where all pods came in one
// batch it is the same plan: offerings that it names, at no higher cost. Pods
// that came in several batches were planned in several, each without knowing
// of the next.
func (f *forecast) matches(w *world) check {
	cost := 0.0
	named := map[string]bool{}
	for _, l := range f.Launches {
		named[l.InstanceType+"/"+l.CapacityType+"/"+l.Zone] = true
		for _, a := range l.Alternatives {
			named[a] = true
		}
	}
	var c check
	batches := len(plansOf(timeline(w)))
	for _, claim := range w.byNumber() {
		o := claim.offering()
		cost += o.price
		if key := o.instanceType + "/" + o.capacityType + "/" + o.zone; batches <= 1 && !named[key] {
			c.fail("n%d is %s, which the plan does not name", claim.number, o)
		}
	}
	more := cost/f.HourlyCost - 1
	if batches <= 1 {
		c.name = fmt.Sprintf("what was bought is what the plan named, at $%.4f/h (planned: $%.4f/h)", cost, f.HourlyCost)
		if more > spotTolerance {
			c.fail("it costs %.1f%% more than planned", 100*more)
		}
		return c
	}
	c.name = fmt.Sprintf("what was bought costs $%.4f/h: the pods came in %d batches, the plan for all at once was $%.4f/h", cost, batches, f.HourlyCost)
	if more > batchTolerance {
		c.fail("it costs %.1f%% more than planned", 100*more)
	}
	return c
}

// By how much the cluster may cost more than the plan.
const (
	// spotTolerance: EC2 chooses among spot offerings by their capacity as
	// well as by price.
	spotTolerance = 0.05
	// batchTolerance: every batch may leave a node with room that a later one
	// cannot use.
	batchTolerance = 0.5
)
