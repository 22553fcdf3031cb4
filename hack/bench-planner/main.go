// Command bench-planner measures how far the planner's plans are above the
// proven lower bound, and how long they take, for several workloads, markets and
// budgets. It prints a Markdown table for each market.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/catalog"
)

// market is what may be bought.
type market struct {
	name                 string
	archs, capacityTypes []string
}

var markets = []market{
	{"on-demand-amd64", []string{"amd64"}, []string{v1alpha1.CapacityTypeOnDemand}},
	{"on-demand-arm64-too", []string{"amd64", "arm64"}, []string{v1alpha1.CapacityTypeOnDemand}},
	{"spot-amd64", []string{"amd64"}, []string{v1alpha1.CapacityTypeSpot}},
}

func main() {
	data := flag.String("data", "../shared/data", "folder with the pod trace; without it, that workload is left out")
	region := flag.String("region", "us-east-1", "region of the embedded catalogue")
	only := flag.String("workloads", "", "only these, comma-separated")
	marketNames := flag.String("markets", "", "only these, comma-separated")
	counts := flag.String("pods", "50,500,5000,20000", "numbers of pods")
	budgets := flag.String("budgets", "0s,300ms,1s", "budgets to plan with")
	seed := flag.Uint64("seed", 1, "of the random workloads")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this file")
	flag.Parse()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench-planner:", err)
			os.Exit(1)
		}
		defer pprof.StopCPUProfile()
	}
	if err := run(*data, *region, names(*only), names(*marketNames), *counts, *budgets, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "bench-planner:", err)
		os.Exit(1)
	}
}

func names(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

func run(data, region string, only, marketNames []string, counts, budgets string, seed uint64) error {
	var ns []int
	for _, c := range strings.Split(counts, ",") {
		n, err := strconv.Atoi(c)
		if err != nil || n <= 0 {
			return fmt.Errorf("-pods %q: want numbers above 0, as in 50,5000", counts)
		}
		ns = append(ns, n)
	}
	var ds []time.Duration
	for _, b := range strings.Split(budgets, ",") {
		d, err := time.ParseDuration(b)
		if err != nil {
			return fmt.Errorf("-budgets %q: want durations, as in 0s,300ms", budgets)
		}
		ds = append(ds, d)
	}
	for _, m := range markets {
		if marketNames != nil && !slices.Contains(marketNames, m.name) {
			continue
		}
		p := m.provisioner(region)
		fmt.Printf("\n%s, %d types; gap to the proven bound and time to plan\n\n| workload | pods | shapes |", m.name, len(p.InstanceTypes))
		for _, d := range ds {
			fmt.Printf(" %s |", d)
		}
		fmt.Printf("\n|---|---|---|%s\n", strings.Repeat("---|", len(ds)))
		sums, worst := make([]float64, len(ds)), make([]float64, len(ds))
		rows := 0
		for _, w := range workloads(data) {
			if only != nil && !slices.Contains(only, w.name) {
				continue
			}
			for _, n := range ns {
				s := &capacity.Snapshot{Now: time.Now(), Region: region, Pods: pods(w.sizes(rand.New(rand.NewPCG(seed, 1)), n)),
					DaemonSetPods: daemons(), Provisioners: []*capacity.Provisioner{p}}
				rows++
				fmt.Printf("| %s | %d |", w.name, n)
				for i, d := range ds {
					s.Budget = d
					start := time.Now()
					plan := capacity.Solve(s)
					took := time.Since(start)
					if len(plan.Unschedulable) > 0 {
						return fmt.Errorf("%s: a pod has no place: %+v", w.name, plan.Unschedulable[0].Reasons)
					}
					if i == 0 {
						fmt.Printf(" %d |", plan.Shapes)
					}
					gap := 100 * plan.Gap()
					sums[i] += gap
					worst[i] = max(worst[i], gap)
					fmt.Printf(" %.2f %% in %d ms, %d nodes |", gap, took.Milliseconds(), len(plan.Launches))
				}
				fmt.Println()
			}
		}
		fmt.Printf("| mean / worst | | |")
		for i := range ds {
			fmt.Printf(" %.2f / %.2f %% |", sums[i]/float64(max(rows, 1)), worst[i])
		}
		fmt.Println()
	}
	return nil
}

// provisioner buys categories c, m and r above generation 2.
func (m market) provisioner(region string) *capacity.Provisioner {
	in := func(key string, values ...string) v1alpha1.Requirement {
		return v1alpha1.Requirement{Key: key, Operator: v1alpha1.OperatorIn, Values: values}
	}
	spec := &v1alpha1.ProvisionerSpec{Requirements: []v1alpha1.Requirement{
		in(v1alpha1.LabelInstanceCategory, "c", "m", "r"),
		{Key: v1alpha1.LabelInstanceGeneration, Operator: v1alpha1.OperatorGt, Values: []string{"2"}},
		in(v1alpha1.LabelInstanceBareMetal, "false"),
		in(corev1.LabelArchStable, m.archs...),
		in(v1alpha1.LabelCapacityType, m.capacityTypes...),
	}}
	return &capacity.Provisioner{Name: "default", Spec: spec,
		InstanceTypes: capacity.InstanceTypes(catalog.Default().Machines(region), spec, capacity.Resolved{}, time.Now())}
}

// daemons run on every node: 300 m of CPU and 400 MiB in all.
func daemons() []*corev1.Pod {
	return []*corev1.Pod{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "agent"},
		Spec: corev1.PodSpec{
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("300m"), corev1.ResourceMemory: resource.MustParse("400Mi"),
			}}}},
		},
	}}
}
