package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// anything are types of every kind, spot and on-demand.
func anything(zones []string) *v1alpha1.ProvisionerSpec {
	rs := []v1alpha1.Requirement{
		in(v1alpha1.LabelCapacityType, v1alpha1.CapacityTypeSpot, v1alpha1.CapacityTypeOnDemand),
		in(corev1.LabelArchStable, "amd64", "arm64"),
		{Key: v1alpha1.LabelInstanceCategory, Operator: v1alpha1.OperatorExists},
		{Key: v1alpha1.LabelInstanceGeneration, Operator: v1alpha1.OperatorGt, Values: []string{"0"}},
	}
	if zones != nil {
		rs = append(rs, in(corev1.LabelTopologyZone, zones...))
	}
	return &v1alpha1.ProvisionerSpec{Requirements: rs}
}

// teams is how many Provisioners the large cluster has; half of them are kept
// for pods of one team each.
const teams = 20

const labelTeam = "example.com/team"

func team(i int) string { return "team-" + strconv.Itoa(i) }

// forTeam makes the pod one that only nodes of its team's Provisioner take.
func forTeam(p *corev1.Pod, i int) {
	if i < teams/2 {
		p.Spec.NodeSelector = map[string]string{labelTeam: team(i)}
		p.Spec.Tolerations = []corev1.Toleration{{Key: labelTeam, Operator: corev1.TolerationOpEqual, Value: team(i), Effect: corev1.TaintEffectNoSchedule}}
	}
}

// cluster is a Snapshot with that many pending pods, 1,000 nodes and 20,000 pods
// on them.
func (b *bench) cluster(pending int) *capacity.Snapshot {
	zones := b.zones()
	var ps []*capacity.Provisioner
	for i := range teams {
		spec := anything(zones)
		if i < teams/2 {
			spec.Labels = map[string]string{labelTeam: team(i)}
			spec.Taints = []corev1.Taint{{Key: labelTeam, Value: team(i), Effect: corev1.TaintEffectNoSchedule}}
		}
		p := newProvisioner(team(i), b.region, spec)
		ps = append(ps, p)
	}
	s := b.snapshot(nil, 0, ps...)
	list := pods(deployments(b.rand(), 20000, 40))
	for n := range 1000 {
		node := &capacity.Node{
			Name:        fmt.Sprintf("ip-10-0-%d-%d.ec2.internal", n/250, n%250),
			Provisioner: team(n % teams), Claim: fmt.Sprintf("claim-%d", n), HourlyPrice: 0.768,
			Labels:      map[string]string{corev1.LabelTopologyZone: zones[n%3], corev1.LabelArchStable: "amd64", corev1.LabelInstanceTypeStable: "m6i.4xlarge"},
			Allocatable: capacity.Resources{corev1.ResourceCPU: 15890, corev1.ResourceMemory: 57 << 30, corev1.ResourcePods: 234, corev1.ResourceEphemeralStorage: 17 << 30},
		}
		node.Labels[corev1.LabelHostname] = node.Name
		if i := n % teams; i < teams/2 {
			node.Labels[labelTeam] = team(i)
			node.Taints = []corev1.Taint{{Key: labelTeam, Value: team(i), Effect: corev1.TaintEffectNoSchedule}}
		}
		for k := range 20 {
			p := list[k*1000+n]
			p.Name, p.Spec.NodeName = fmt.Sprintf("bound-%d-%d", n, k), node.Name
			forTeam(p, n%teams)
			node.Pods = append(node.Pods, p)
		}
		s.Nodes = append(s.Nodes, node)
	}
	s.Pods = pods(deployments(b.rand(), pending, 100))
	for i, p := range s.Pods {
		app, _ := strconv.Atoi(p.Labels["app"])
		forTeam(p, app%teams)
		p.Name = fmt.Sprintf("pending-%d", i)
	}
	return s
}

// childReport is what a child process says of its plan.
type childReport struct {
	Wall, CPU     time.Duration
	Launches      int
	Placements    int
	Unschedulable int
	Gap           float64
}

// plainCluster plans the large cluster once.
func plainCluster(b *bench) error {
	s := b.cluster(20000)
	runtime.GC()
	var p *capacity.Plan
	t := timed(func() { p = capacity.Solve(s) })
	return json.NewEncoder(os.Stdout).Encode(childReport{t.wall, t.cpu, len(p.Launches), len(p.Placements), len(p.Unschedulable), p.Gap()})
}

// largeCluster plans the large cluster in a process of its own and measures that
// process's memory, the Snapshot included.
func largeCluster(b *bench) (result, error) {
	self, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	cmd := exec.Command(self, "-child", "-region", b.region, "-seed", strconv.FormatUint(b.seed, 10))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return result{}, fmt.Errorf("the child process: %w", err)
	}
	var r childReport
	if err := json.Unmarshal(out, &r); err != nil {
		return result{}, fmt.Errorf("what the child process says: %w", err)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return result{}, fmt.Errorf("the system does not say how much memory the child used")
	}
	mb := float64(usage.Maxrss) * 1024 / 1e6
	t := span{r.Wall, r.CPU}
	return result{fmt.Sprintf("%s, peak RSS %.0f MB; %d nodes bought, %d pods on nodes that are there, %d nowhere, gap %.2f %%",
		t, mb, r.Launches, r.Placements, r.Unschedulable, 100*r.Gap), t.best() <= time.Second && mb <= 500 && r.Unschedulable == 0}, nil
}

// oneMore plans the large cluster and then one more pod, with what is remembered
// of it: once a pod for which there is room, once one that needs a node.
func oneMore(b *bench) (result, error) {
	s := b.cluster(1)
	m := capacity.NewMemory()
	m.Solve(s)
	var text []string
	met := true
	for _, milliCPU := range []int64{100, 12000} {
		var p *capacity.Plan
		n := 0
		t := median(max(b.rounds, 9), func() {
			n++
			more := *s
			more.Pods = pods([]size{{milliCPU, 1024, 1}})
			more.Pods[0].Name = fmt.Sprintf("one-more-%d", n)
			p = m.Solve(&more)
		})
		if len(p.Unschedulable) > 0 {
			return result{}, fmt.Errorf("one more pod has no place: %+v", p.Unschedulable[0].Reasons)
		}
		text = append(text, fmt.Sprintf("%s with %d nodes bought", t, len(p.Launches)))
		met = met && t.best() <= 10*time.Millisecond
	}
	return result{strings.Join(text, ", "), met}, nil
}

// memoryPerPod is what planning allocates at most at once, for each pod: the
// heap's growth in use while a plan is there, the Snapshot aside.
func memoryPerPod(b *bench) (result, error) {
	const n = 20000
	s := b.snapshot(pods(deployments(b.rand(), n, 40)), 0, onDemand.provisioner(b.region))
	capacity.Solve(b.snapshot(pods(deployments(b.rand(), 50, 40)), 0, s.Provisioners...))
	used := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used()
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	p := capacity.Solve(s)
	runtime.ReadMemStats(&m1)
	held := float64(used()-before) / n
	all := float64(m1.TotalAlloc-m0.TotalAlloc) / n
	runtime.KeepAlive(s)
	runtime.KeepAlive(p)
	return result{fmt.Sprintf("%.0f bytes allocated in all, %.0f held by the plan", all, held), all <= 2048}, nil
}
