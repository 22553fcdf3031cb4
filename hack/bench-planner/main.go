// Command bench-planner measures the planner against its bars: speed, memory,
// how far plans are above the proven lower bound, and what planning batch by
// batch costs. It prints a Markdown table with a row for each bar, and with
// -details one table for each market with every workload in it.
//
// Times are medians. Beside the time on the clock stands the processor time of
// the whole process, which other work on the machine does not lengthen much;
// the smaller of the two is held against the bar.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/catalog"
)

// bench is what all rows have in common.
type bench struct {
	data, region string
	seed         uint64
	rounds       int
	workloads    []string
	details      bool
}

// row is one bar. run measures it.
type row struct {
	id, workload, bar string
	run               func(*bench) (result, error)
}

// result of a row: what was measured, in words, and whether it meets the bar.
type result struct {
	measured string
	met      bool
}

func main() {
	b := &bench{}
	flag.StringVar(&b.data, "data", "../shared/data", "folder with the pod trace; without it, that workload is left out")
	flag.StringVar(&b.region, "region", "us-east-1", "region of the embedded catalogue")
	flag.Uint64Var(&b.seed, "seed", 1, "of the random workloads")
	flag.IntVar(&b.rounds, "rounds", 3, "how often times are measured")
	flag.BoolVar(&b.details, "details", false, "print what each workload of a row came to")
	only := flag.String("rows", "", "only these rows, comma-separated")
	workloads := flag.String("workloads", "", "only these workloads, comma-separated, in the rows about gaps")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this file")
	problem := flag.String("write-fifths", "", "only write the pods and types of the row fifths to this file, for another planner")
	child := flag.Bool("child", false, "plan the large cluster once and print the time and memory that it took")
	flag.Parse()
	b.workloads = names(*workloads)
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		exitOn(err)
		defer pprof.StopCPUProfile()
	}
	if *problem != "" {
		exitOn(write(*problem, b.fifths()))
		return
	}
	if *child {
		exitOn(plainCluster(b))
		return
	}
	missed, err := b.report(names(*only))
	pprof.StopCPUProfile()
	exitOn(err)
	if missed > 0 {
		fmt.Printf("\n%d of the bars are missed.\n", missed)
	}
}

func exitOn(err error) {
	if err != nil {
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

// report runs the rows and returns how many miss their bar.
func (b *bench) report(only []string) (missed int, err error) {
	for _, id := range only {
		if !slices.ContainsFunc(rows, func(r row) bool { return r.id == id }) {
			var ids []string
			for _, r := range rows {
				ids = append(ids, r.id)
			}
			return 0, fmt.Errorf("-rows %q: there are %s", id, strings.Join(ids, ", "))
		}
	}
	fmt.Print("| row | workload | bar | measured | |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		if only != nil && !slices.Contains(only, r.id) {
			continue
		}
		res, err := r.run(b)
		if err != nil {
			return missed, fmt.Errorf("%s: %w", r.id, err)
		}
		verdict := "met"
		if !res.met {
			verdict = "missed"
			missed++
		}
		fmt.Printf("| %s | %s | %s | %s | %s |\n", r.id, r.workload, r.bar, res.measured, verdict)
	}
	return missed, nil
}

// market is what may be bought.
type market struct {
	archs, capacityTypes []string
	// zones of the region; nil: all.
	zones []string
}

var (
	onDemand = market{archs: []string{"amd64"}, capacityTypes: []string{v1alpha1.CapacityTypeOnDemand}}
	arm64Too = market{archs: []string{"amd64", "arm64"}, capacityTypes: []string{v1alpha1.CapacityTypeOnDemand}}
	spot     = market{archs: []string{"amd64"}, capacityTypes: []string{v1alpha1.CapacityTypeSpot}}
)

// provisioner buys categories c, m and r above generation 2.
func (m market) provisioner(region string) *capacity.Provisioner {
	rs := []v1alpha1.Requirement{
		in(v1alpha1.LabelInstanceCategory, "c", "m", "r"),
		{Key: v1alpha1.LabelInstanceGeneration, Operator: v1alpha1.OperatorGt, Values: []string{"2"}},
		in(v1alpha1.LabelInstanceBareMetal, "false"),
		in(corev1.LabelArchStable, m.archs...),
		in(v1alpha1.LabelCapacityType, m.capacityTypes...),
	}
	if m.zones != nil {
		rs = append(rs, in(corev1.LabelTopologyZone, m.zones...))
	}
	return newProvisioner("default", region, &v1alpha1.ProvisionerSpec{Requirements: rs})
}

func in(key string, values ...string) v1alpha1.Requirement {
	return v1alpha1.Requirement{Key: key, Operator: v1alpha1.OperatorIn, Values: values}
}

func newProvisioner(name, region string, spec *v1alpha1.ProvisionerSpec) *capacity.Provisioner {
	return &capacity.Provisioner{Name: name, Spec: spec,
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

func (b *bench) snapshot(pods []*corev1.Pod, budget time.Duration, ps ...*capacity.Provisioner) *capacity.Snapshot {
	return &capacity.Snapshot{Now: time.Now(), Region: b.region, Pods: pods, DaemonSetPods: daemons(), Provisioners: ps, Budget: budget}
}

// zones are the first three zones that the region's m6i types are offered in.
func (b *bench) zones() []string {
	var zones []string
	for _, m := range catalog.Default().Machines(b.region) {
		if m.Name != "m6i.large" {
			continue
		}
		for _, o := range m.Offerings {
			if !slices.Contains(zones, o.Zone) {
				zones = append(zones, o.Zone)
			}
		}
	}
	slices.Sort(zones)
	return zones[:min(3, len(zones))]
}
