package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// explanation is what --explain says of one pod: the node that it goes to and
// why that is bought, or why it can run nowhere.
type explanation struct {
	Pod string `json:"pod"`
	// Node that the pod goes to, of launches or placements; empty: none.
	Node string `json:"node,omitempty"`
	// Launch when Node is to be bought.
	Launch *launch `json:"launch,omitempty"`
	// Reasons when the pod has no node: the nearest miss first, one for each
	// Provisioner, or one without Provisioner where it holds for all.
	Reasons []reason `json:"reasons"`
	// HourlyCost, LowerBound and Gap of the whole plan, as in the report.
	HourlyCost float64  `json:"hourlyCost"`
	LowerBound float64  `json:"lowerBound"`
	Gap        *float64 `json:"gap"`
	// Objective is what the whole plan was judged by, in $/h.
	Objective map[string]float64 `json:"objective"`
}

// explain finds a pod, "namespace/name" or a name in namespace default, in a
// plan. It fails for pods that the plan is not about.
func explain(r *report, o *capacity.Objective, s *capacity.Snapshot, pod string) (*explanation, error) {
	if !strings.Contains(pod, "/") {
		pod = corev1.NamespaceDefault + "/" + pod
	}
	x := &explanation{Pod: pod, Reasons: []reason{}, HourlyCost: r.HourlyCost, LowerBound: r.LowerBound, Gap: r.Gap, Objective: objectiveParts(o)}
	for i := range r.Launches {
		if slices.Contains(r.Launches[i].Pods, pod) {
			x.Node, x.Launch = r.Launches[i].Name, &r.Launches[i]
			return x, nil
		}
	}
	for _, p := range r.Placements {
		if p.Pod == pod {
			x.Node = p.Node
			return x, nil
		}
	}
	for _, u := range r.Unschedulable {
		if u.Pod == pod {
			x.Reasons = u.Reasons
			return x, nil
		}
	}
	return nil, notPlanned(s, pod)
}

// objectiveParts are what the objective adds up, and what it comes to.
func objectiveParts(o *capacity.Objective) map[string]float64 {
	return map[string]float64{
		"price": o.Price, "spotPremium": o.SpotPremium, "interruptions": o.Interruptions, "blastRadius": o.BlastRadius,
		"nodes": o.Nodes, "preferences": o.Preferences, "salvage": 0 - o.Salvage, "total": o.Total(),
	}
}

// notPlanned says why a plan does not speak of a pod, and which it does.
func notPlanned(s *capacity.Snapshot, pod string) error {
	for _, n := range s.Nodes {
		if slices.ContainsFunc(n.Pods, func(p *corev1.Pod) bool { return podName(p) == pod }) {
			return fmt.Errorf("--explain: pod %s has its place on node %s already", pod, n.Name)
		}
	}
	names := podNames(s.Pods)
	if len(names) == 0 {
		return fmt.Errorf("--explain: no pod waits for a place")
	}
	// Names that controllers make are hard to guess: show those that begin alike.
	alike := func(name string) int {
		n := 0
		for n < min(len(name), len(pod)) && name[n] == pod[n] {
			n++
		}
		return n
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(alike(b), alike(a)) })
	more := ""
	if len(names) > 3 {
		names, more = names[:3], ", …"
	}
	return fmt.Errorf("--explain: no pod %s waits for a place; there are %s%s", pod, strings.Join(names, ", "), more)
}

// writeExplanation writes an explanation for people.
func writeExplanation(w io.Writer, x *explanation) error {
	switch {
	case x.Launch != nil:
		fmt.Fprintf(w, "%s goes to %s, to be bought of Provisioner %s for %s\n  why: %s\n", x.Pod, x.Node, x.Launch.Provisioner, count(len(x.Launch.Pods), "pod"), x.Launch.Why)
		fmt.Fprintf(w, "  the whole plan: %s\n", costLine(x.HourlyCost, x.LowerBound, x.Gap))
	case x.Node != "":
		fmt.Fprintf(w, "%s goes to %s, which is there already\n", x.Pod, x.Node)
	default:
		fmt.Fprintf(w, "%s can run nowhere; the nearest miss first:\n\n", x.Pod)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "PROVISIONER\tCONSTRAINT\tDETAIL\tFIX")
		for _, r := range x.Reasons {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", cmp.Or(r.Provisioner, "(any)"), r.Constraint, r.Detail, r.Fix)
		}
		return t.Flush()
	}
	return nil
}
