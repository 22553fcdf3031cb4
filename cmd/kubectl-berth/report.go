package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/manifest"
)

// report is the JSON form of a plan. Its field names are a promise (design §5).
type report struct {
	Launches      []launch        `json:"launches"`
	Placements    []placement     `json:"placements"`
	Unschedulable []unschedulable `json:"unschedulable"`
	// HourlyCost and LowerBound in $/h of the launches; Gap 0.02 is 2 %, null when
	// no bound above 0 is proven.
	HourlyCost float64  `json:"hourlyCost"`
	LowerBound float64  `json:"lowerBound"`
	Gap        *float64 `json:"gap"`
	// Pods that were planned for, and their distinct Shapes.
	Pods            int     `json:"pods"`
	Shapes          int     `json:"shapes"`
	SolveSeconds    float64 `json:"solveSeconds"`
	PeakMemoryBytes int64   `json:"peakMemoryBytes"`
}

// launch is a node to buy. Why says why this one, Next what the next three types
// would cost. Labels, Taints and Allocatable are what the planner assumes of it.
type launch struct {
	Name         string              `json:"name"`
	Provisioner  string              `json:"provisioner"`
	InstanceType string              `json:"instanceType"`
	CapacityType string              `json:"capacityType"`
	Zone         string              `json:"zone"`
	HourlyPrice  float64             `json:"hourlyPrice"`
	Why          string              `json:"why"`
	Next         []offering          `json:"next"`
	Alternatives []string            `json:"alternatives"`
	Labels       map[string]string   `json:"labels"`
	Taints       []corev1.Taint      `json:"taints"`
	Allocatable  corev1.ResourceList `json:"allocatable"`
	Pods         []string            `json:"pods"`
}

// offering is what could be bought instead.
type offering struct {
	InstanceType string  `json:"instanceType"`
	CapacityType string  `json:"capacityType"`
	Zone         string  `json:"zone"`
	HourlyPrice  float64 `json:"hourlyPrice"`
}

type placement struct {
	Pod  string `json:"pod"`
	Node string `json:"node"`
}

type unschedulable struct {
	Pod     string   `json:"pod"`
	Reasons []reason `json:"reasons"`
}

type reason struct {
	Provisioner string `json:"provisioner"`
	Constraint  string `json:"constraint"`
	Detail      string `json:"detail"`
	Fix         string `json:"fix"`
}

// newReport puts a plan into its JSON form. pods is the number that was asked
// for, nodes those that exist, whose names no launch may have.
func newReport(p *capacity.Plan, pods int, nodes []*capacity.Node) *report {
	r := &report{
		Launches: []launch{}, Placements: []placement{}, Unschedulable: []unschedulable{},
		HourlyCost: p.HourlyCost, LowerBound: p.LowerBound,
		Pods: pods, Shapes: p.Shapes, SolveSeconds: p.SolveTime.Seconds(),
	}
	if gap := p.Gap(); !math.IsInf(gap, 1) {
		r.Gap = &gap
	}
	taken := map[string]bool{}
	for _, n := range nodes {
		taken[n.Name] = true
	}
	serial := map[string]int{}
	for i := range p.Launches {
		l := &p.Launches[i]
		name := ""
		for name == "" || taken[name] {
			serial[l.Provisioner.Name]++
			name = fmt.Sprintf("%s-%d", l.Provisioner.Name, serial[l.Provisioner.Name])
		}
		taken[name] = true
		labels := v1alpha1.WithOtherLabels(l.Labels)
		if labels[corev1.LabelHostname] == "" {
			labels[corev1.LabelHostname] = name
		}
		out := launch{
			Name: name, Provisioner: l.Provisioner.Name,
			InstanceType: l.InstanceType, CapacityType: l.CapacityType, Zone: l.Zone, HourlyPrice: l.Price,
			Why: l.Why, Next: []offering{}, Alternatives: []string{}, Labels: labels, Taints: append([]corev1.Taint{}, l.Taints...),
			Allocatable: quantities(l.Allocatable), Pods: podNames(l.Pods),
		}
		for _, n := range l.Next {
			out.Next = append(out.Next, offering{n.InstanceType, n.CapacityType, n.Zone, n.Price})
		}
		for _, a := range l.Alternatives {
			out.Alternatives = append(out.Alternatives, a.InstanceType+"/"+a.CapacityType+"/"+a.Zone)
		}
		r.Launches = append(r.Launches, out)
	}
	for _, x := range p.Placements {
		r.Placements = append(r.Placements, placement{podName(x.Pod), x.Node.Name})
	}
	slices.SortFunc(r.Placements, func(a, b placement) int { return cmp.Compare(a.Pod, b.Pod) })
	for _, u := range p.Unschedulable {
		out := unschedulable{Pod: podName(u.Pod), Reasons: []reason{}}
		for _, x := range u.Reasons {
			out.Reasons = append(out.Reasons, reason{x.Provisioner, string(x.Constraint), x.Detail, x.Fix})
		}
		r.Unschedulable = append(r.Unschedulable, out)
	}
	slices.SortFunc(r.Unschedulable, func(a, b unschedulable) int { return cmp.Compare(a.Pod, b.Pod) })
	return r
}

func podName(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }

func podNames(pods []*corev1.Pod) []string {
	out := []string{}
	for _, p := range pods {
		out = append(out, podName(p))
	}
	slices.Sort(out)
	return out
}

// quantities are Resources as a Node's status has them.
func quantities(r capacity.Resources) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, v := range r {
		switch name {
		case corev1.ResourceCPU:
			out[name] = *resource.NewMilliQuantity(v, resource.DecimalSI)
		case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			out[name] = *resource.NewQuantity(v, resource.BinarySI)
		default:
			out[name] = *resource.NewQuantity(v, resource.DecimalSI)
		}
	}
	return out
}

// writeJSON writes a report or an explanation as one object.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// writeTable writes a plan for people.
func writeTable(w io.Writer, r *report, p *capacity.Plan) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(p.Launches) > 0 {
		fmt.Fprintln(t, "LAUNCH\tTYPE\tCAPACITY\tZONE\t$/H\tNEXT BEST\tCPU\tMEMORY\tPODS")
		for i := range p.Launches {
			l := &p.Launches[i]
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.4f\t%s\t%s\t%s\t%s\n", r.Launches[i].Name, l.InstanceType, l.CapacityType, l.Zone, l.Price, nextBest(l),
				share(l, corev1.ResourceCPU), share(l, corev1.ResourceMemory), workloads(l.Pods))
		}
		fmt.Fprintln(t)
	}
	if len(p.Placements) > 0 {
		fmt.Fprintln(t, "NODE\tNEW PODS")
		byNode := map[string][]*corev1.Pod{}
		for _, x := range p.Placements {
			byNode[x.Node.Name] = append(byNode[x.Node.Name], x.Pod)
		}
		for _, name := range slices.Sorted(maps.Keys(byNode)) {
			fmt.Fprintf(t, "%s\t%s\n", name, workloads(byNode[name]))
		}
		fmt.Fprintln(t)
	}
	// Errors of a tabwriter are its destination's, and the caller flushes that.
	_ = t.Flush()
	writeUnschedulable(w, p)
	fmt.Fprintf(w, "%s of %s: %s on %s to buy, %s on nodes that are there, %s can run nowhere\n",
		count(r.Pods, "pod"), count(r.Shapes, "shape"), count(r.Pods-len(p.Placements)-len(p.Unschedulable), "pod"),
		count(len(p.Launches), "node"), count(len(p.Placements), "pod"), count(len(p.Unschedulable), "pod"))
	if len(p.Launches) > 0 {
		fmt.Fprintln(w, costLine(r.HourlyCost, r.LowerBound, r.Gap))
		if p.Objective.Price > 0 {
			fmt.Fprintln(w, objectiveLine(&p.Objective))
		}
	}
	_, err := fmt.Fprintf(w, "planned in %s with at most %d MiB of memory\n",
		time.Duration(r.SolveSeconds*float64(time.Second)).Round(100*time.Microsecond), r.PeakMemoryBytes>>20)
	return err
}

// costLine is a plan's cost and what is proven about it.
func costLine(cost, bound float64, gap *float64) string {
	if gap == nil {
		return fmt.Sprintf("%.4f $/h; no lower bound is proven", cost)
	}
	return fmt.Sprintf("%.4f $/h; no plan can cost less than %.4f $/h (gap %.1f %%)", cost, bound, 100**gap)
}

// objectiveLine says what the plan was judged by, beside its price.
func objectiveLine(o *capacity.Objective) string {
	var b strings.Builder
	fmt.Fprintf(&b, "judged at %.4f $/h: price %.4f", o.Total(), o.Price)
	for _, part := range []struct {
		name  string
		value float64
	}{
		{"the doubt about cheap spot pools", o.SpotPremium},
		{"interruptions", o.Interruptions},
		{"what is lost with a node", o.BlastRadius},
		{"number of nodes", o.Nodes},
		{"preferences not met", o.Preferences},
	} {
		if part.value > 0 {
			fmt.Fprintf(&b, ", %s %.4f", part.name, part.value)
		}
	}
	if o.Salvage > 0 {
		fmt.Fprintf(&b, ", less room left for pods to come %.4f", o.Salvage)
	}
	fmt.Fprintf(&b, "; the dearest node is %.0f %% of the price", 100*o.LargestNode)
	if o.LargestShare > 0 {
		fmt.Fprintf(&b, "; a node holds up to %.0f %% of a workload's pods", 100*o.LargestShare)
	}
	if o.SpotMean > o.Price*(1+1e-9) {
		fmt.Fprintf(&b, "; at the mean of the five cheapest pools for each spot node it would be %.4f $/h", o.SpotMean)
	}
	if o.Unmet > 0 {
		fmt.Fprintf(&b, "; %s without something preferred", count(o.Unmet, "pod"))
	}
	return b.String()
}

// writeUnschedulable names each pod that can run nowhere, those of one workload
// with the same nearest reason together.
func writeUnschedulable(w io.Writer, p *capacity.Plan) {
	type group struct {
		first capacity.Unschedulable
		n     int
	}
	groups := map[string]*group{}
	var order []*group
	for _, u := range slices.SortedFunc(slices.Values(p.Unschedulable), func(a, b capacity.Unschedulable) int {
		return cmp.Compare(podName(a.Pod), podName(b.Pod))
	}) {
		kind, name := manifest.Workload(u.Pod)
		key := fmt.Sprint(u.Pod.Namespace, " ", kind, " ", name, u.Reasons[:min(1, len(u.Reasons))])
		g := groups[key]
		if g == nil {
			g = &group{first: u}
			groups[key] = g
			order = append(order, g)
		}
		g.n++
	}
	for _, g := range order {
		fmt.Fprintf(w, "%s can run nowhere", podName(g.first.Pod))
		if kind, name := manifest.Workload(g.first.Pod); g.n > 1 {
			fmt.Fprintf(w, ", nor can %d more of %s %s", g.n-1, kind, name)
		}
		fmt.Fprintln(w)
		if len(g.first.Reasons) > 0 {
			x := g.first.Reasons[0]
			from := ""
			if x.Provisioner != "" {
				from = "Provisioner " + x.Provisioner + ", "
			}
			fmt.Fprintf(w, "  why: %s%s: %s\n", from, x.Constraint, x.Detail)
			if x.Fix != "" {
				fmt.Fprintf(w, "  fix: %s\n", x.Fix)
			}
		}
		fmt.Fprintln(w)
	}
}

// nextBest are the types that the choice was weighed against, with their prices;
// in which zone, and how they are bought, stands in the JSON form.
func nextBest(l *capacity.Launch) string {
	var out []string
	for _, n := range l.Next {
		out = append(out, fmt.Sprintf("%s %.4f", n.InstanceType, n.Price))
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, ", ")
}

// share is how much of a launch's resource its pods and DaemonSets take.
func share(l *capacity.Launch, name corev1.ResourceName) string {
	if l.Allocatable[name] == 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", (100*l.Requests[name]+l.Allocatable[name]/2)/l.Allocatable[name])
}

// workloads counts pods by what they belong to, most first.
func workloads(pods []*corev1.Pod) string {
	n := map[string]int{}
	for _, p := range pods {
		kind, name := manifest.Workload(p)
		n[kind+" "+p.Namespace+"/"+name]++
	}
	names := slices.SortedFunc(maps.Keys(n), func(a, b string) int { return cmp.Or(cmp.Compare(n[b], n[a]), cmp.Compare(a, b)) })
	for i, name := range names {
		if n[name] > 1 {
			names[i] = fmt.Sprintf("%s × %d", name, n[name])
		}
	}
	return strings.Join(names, ", ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
