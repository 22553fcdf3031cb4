package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// row is one node in the timeline.
type row struct {
	number   int
	offering offering
	// pods by workload, as countNames writes them.
	pods string
	// stages are the times from one stage to the next; whole from the first
	// pod's creation to the last pod's binding.
	stages [5]stage
	whole  stage
	// why is the decision as the claim records it, plan what it says of the
	// plan that it was part of.
	why, plan string
}

// stage is how long something took; it is unknown where an end was not seen.
type stage struct {
	took  time.Duration
	known bool
}

// stageNames head the timeline, in the order of row.stages: decided, launched,
// registered, initialized, bound.
var stageNames = [5]string{"decided", "launched", "regist.", "init.", "bound"}

func between(a, b time.Time) stage {
	return stage{b.Sub(a), !a.IsZero() && !b.IsZero()}
}

// String is the time in milliseconds. Pods that are bound at once are bound
// before their node has joined: that stage is over before it begins.
func (s stage) String() string {
	switch {
	case !s.known:
		return "?"
	case s.took < 0:
		return "before"
	default:
		return fmt.Sprint(s.took.Milliseconds())
	}
}

// timeline is what happened to each claim so far.
func timeline(w *world) []row {
	var out []row
	for _, c := range w.byNumber() {
		r := row{number: c.number, offering: c.offering()}
		var order []string
		count := map[string]int{}
		var created, bound time.Time
		for _, p := range w.podsOf(c) {
			name := shortName(workloadOf(p.pod))
			if count[name]++; count[name] == 1 {
				order = append(order, name)
			}
			if created.IsZero() || p.created.Before(created) {
				created = p.created
			}
			if p.bound.After(bound) {
				bound = p.bound
			}
		}
		r.pods = countNames(order, count)
		at := []time.Time{created, c.decided, c.turned[v1alpha1.ConditionLaunched], c.turned[v1alpha1.ConditionRegistered], c.turned[v1alpha1.ConditionInitialized], bound}
		for i := range r.stages {
			r.stages[i] = between(at[i], at[i+1])
		}
		r.whole = between(created, bound)
		r.why, r.plan, _ = strings.Cut(c.claim.Annotations[v1alpha1.AnnotationDecision], " Plan: ")
		out = append(out, r)
	}
	return out
}

// timelineTable writes the rows as an aligned table with a heading.
func timelineTable(rows []row) []string {
	head := append([]string{"node", "bought", "zone", "$/h"}, stageNames[:]...)
	cells := [][]string{append(head, "total")}
	for _, r := range rows {
		line := []string{fmt.Sprintf("n%d", r.number), r.offering.instanceType + " " + r.offering.capacityType, r.offering.zone, fmt.Sprintf("%.4f", r.offering.price)}
		for _, s := range r.stages {
			line = append(line, s.String())
		}
		cells = append(cells, append(line, r.whole.String()))
	}
	return columns(cells, append([]string{"$/h", "total"}, stageNames[:]...)...)
}

// plansOf are the plans that the rows were part of, each once.
func plansOf(rows []row) []string {
	var out []string
	for _, r := range rows {
		if r.plan != "" && !slices.Contains(out, r.plan) {
			out = append(out, r.plan)
		}
	}
	return out
}

// timeToBound are the times from creation to binding of all pods bound so
// far, in order of length.
func timeToBound(w *world) []time.Duration {
	var out []time.Duration
	for _, p := range w.pods {
		if s := between(p.created, p.bound); s.known {
			out = append(out, s.took)
		}
	}
	slices.Sort(out)
	return out
}
