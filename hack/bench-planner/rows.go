package main

import (
	"fmt"
	"time"

	"github.com/berth-dev/berth/internal/capacity"
)

// rows are the bars, in the order of what they ask for.
var rows = []row{
	{"fifths", "5,000 pods: fifths of generic, zone spread, hostname spread, zone affinity, hostname anti-affinity", "≥ 30,000 pods/s",
		func(b *bench) (result, error) {
			return b.speed(b.fifths(), 30000)
		}},
	{"preferences", "4,000 pods that prefer a zone and prefer to be apart", "≥ 20,000 pods/s, few nodes",
		func(b *bench) (result, error) {
			return b.speed(b.snapshot(preferences(b.seed, 4000, b.zones()), 0, market{onDemand.archs, onDemand.capacityTypes, b.zones()}.provisioner(b.region)), 20000)
		}},
	{"distinct", "5,000 pods, no two alike, all types", "≥ 5,000 pods/s",
		func(b *bench) (result, error) {
			return b.speed(b.snapshot(pods(distinct(b.rand(), 5000)), 0, newProvisioner("default", b.region, anything(nil))), 5000)
		}},
	{"cluster", "20,000 pending pods, 1,000 nodes with 20,000 pods, 20 Provisioners, all types × 3 zones × 2 capacity types", "first plan ≤ 1 s, peak RSS ≤ 500 MB", largeCluster},
	{"one-more", "one more pod on that cluster", "≤ 10 ms", oneMore},
	{"tied-cluster", "spread and anti-affinity on a large cluster: 3 pending pods of each of 1,000 apps, 1,000 nodes with 20,000 pods of theirs", "first plan ≤ 1 s", tiedCluster},
	{"one-more-tied", "one more pod with spread or anti-affinity on that cluster", "≤ 10 ms", oneMoreTied},
	{"gap", "gap, on-demand amd64", "mean ≤ 0.3 %, none > 1 %, 5,000 pods in 300 ms and 20,000 in 1 s", func(b *bench) (result, error) {
		return b.gaps(gapRow{m: onDemand, names: groupable, mean: 0.3, worst: 1, sizes: bothSizes})
	}},
	{"gap-arm64", "gap, arm64 allowed too", "mean ≤ 0.6 %, none > 1.5 % where the bound is tight, likewise", func(b *bench) (result, error) {
		return b.gaps(gapRow{m: arm64Too, names: groupable, mean: 0.6, worst: 1.5, sizes: bothSizes})
	}},
	{"gap-spot", "gap, spot", "mean ≤ 0.6 %, none > 1.5 % where the bound is tight, likewise", func(b *bench) (result, error) {
		return b.gaps(gapRow{m: spot, names: groupable, mean: 0.6, worst: 1.5, sizes: bothSizes})
	}},
	{"gap-constraints", "gap, zones, architectures and spread, 5,000 pods", "≤ 3 % in 300 ms, ≤ 2 % in 1 s", func(b *bench) (result, error) {
		m := market{arm64Too.archs, arm64Too.capacityTypes, b.zones()}
		return b.gaps(gapRow{m: m, names: []string{"generic", "deploy20", "deploy40", "mixed"}, worst: 3, laterWorst: 2, constrained: true,
			sizes: []sized{{5000, 300 * time.Millisecond}, {5000, time.Second}}})
	}},
	{"gap-near-50", "gap, 50 apps of 3 pods that must be in the zone of a pod that waits too", "≤ 3 % in 300 ms", func(b *bench) (result, error) { return b.near(50) }},
	{"gap-near-300", "gap, 300 such apps", "≤ 3 % in 300 ms", func(b *bench) (result, error) { return b.near(300) }},
	{"gap-daemons", "gap, 500 apps of 3 pods, spread over zones as a whole, where a DaemonSet's pods count too", "≤ 3 % in 300 ms", gapWithDaemons},
	{"gap-distinct", "gap, no two pods alike, on-demand amd64", "≤ 1.5 % in 300 ms and 1 s", func(b *bench) (result, error) {
		return b.gaps(gapRow{m: onDemand, names: []string{"vpa"}, worst: 1.5, sizes: bothSizes})
	}},
	{"fifty", "50 pods, on-demand amd64, above the integer optimum", "≤ 1 % in 100 ms", func(b *bench) (result, error) { return b.fifty(onDemand.provisioner(b.region)) }},
	{"online", "5,000 pods in 500 batches of 10, above the bound that knows all of them", "mean ≤ 8 %, never dearer than first-fit-decreasing", online},
	{"memory", "memory for each pending pod, 20,000 pods of 40 deployments", "≤ 2 KB", memoryPerPod},
}

// fifths is the row of that name.
func (b *bench) fifths() *capacity.Snapshot {
	return b.snapshot(fifths(b.seed, 5000), 0, market{onDemand.archs, onDemand.capacityTypes, b.zones()}.provisioner(b.region))
}

// speed plans without a budget and holds the pods in a second against the bar.
func (b *bench) speed(s *capacity.Snapshot, bar float64) (result, error) {
	p, t, err := solve(b.rounds, s)
	if err != nil {
		return result{}, err
	}
	rate := float64(len(s.Pods)) / t.best().Seconds()
	return result{fmt.Sprintf("%.0f pods/s: %s, %d nodes, %.2f $/h, gap %.2f %%", rate, t, len(p.Launches), p.HourlyCost, 100*p.Gap()), rate >= bar}, nil
}

// companyBudget is for the rows about pods whose place hangs on others'.
const companyBudget = 300 * time.Millisecond

// near plans apps that must be in the zone of a pod that waits, and the same with
// the zone given.
func (b *bench) near(apps int) (result, error) {
	p := market{onDemand.archs, onDemand.capacityTypes, b.zones()}.provisioner(b.region)
	return b.against(b.snapshot(near(b.seed, apps, ""), companyBudget, p),
		"with a node selector for the zone", b.snapshot(near(b.seed, apps, b.zones()[0]), companyBudget, p))
}

// gapWithDaemons plans apps whose spread a DaemonSet's pods count for, and the
// same where they do not.
func gapWithDaemons(b *bench) (result, error) {
	p := market{onDemand.archs, onDemand.capacityTypes, b.zones()}.provisioner(b.region)
	s := b.snapshot(oneTeam(b.seed, 500), companyBudget, p)
	d := s.DaemonSetPods[0]
	d.Namespace, d.Labels = "default", map[string]string{"team": "red"}
	return b.against(s, "where they do not count", b.snapshot(oneTeam(b.seed, 500), companyBudget, p))
}

// against holds the gap of a plan against the bar and reports beside it what an
// easier Snapshot comes to.
func (b *bench) against(s *capacity.Snapshot, what string, easier *capacity.Snapshot) (result, error) {
	const bar = 0.03
	p, t, err := solve(b.rounds, s)
	if err != nil {
		return result{}, err
	}
	e, _, err := solve(1, easier)
	if err != nil {
		return result{}, err
	}
	measured := func(p *capacity.Plan) string {
		return fmt.Sprintf("%.2f %%, %d nodes, %.3f $/h", 100*p.Gap(), len(p.Launches), p.HourlyCost)
	}
	return result{fmt.Sprintf("%s in %s; %s: %s", measured(p), t, what, measured(e)), p.Gap() <= bar && t.best() <= s.Budget}, nil
}
