package capacity_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

var update = flag.Bool("update", false, "rewrite the expected plans in testdata/plans")

// A scenario file has a few lines of input, a line of dashes and the expected
// plan. Input lines:
//
//	type NAME VCPUS MEMORY ON-DEMAND SPOT [zones=a,b] [gpu=N] [arch=arm64] [soldout]
//	provisioner NAME {ProvisionerSpec as JSON}
//	node NAME CPU MEMORY {labels as JSON}
//	on NODE NAME CPU MEMORY {PodSpec as JSON}
//	daemonset NAME CPU MEMORY {PodSpec as JSON}
//	pod NAME REPLICAS CPU MEMORY {PodSpec as JSON}
//	claim NAME {PersistentVolumeClaimSpec as JSON}
//	volume NAME {PersistentVolumeSpec as JSON}
//	class NAME {StorageClass as JSON}
//	group NAME MIN-COUNT [TOPOLOGY]
//	annotate POD {annotations as JSON}
//	age POD SECONDS
//
// A pod's label app is its name up to the first dot; JSON and options may be
// left out. A spot price of 0 means none.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/plans/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(b), "----\n")
			s, err := parseScenario(input)
			if err != nil {
				t.Fatal(err)
			}
			plan := capacity.Solve(s)
			if wrong := judge(s, plan); len(wrong) > 0 {
				t.Errorf("the referee says: %s", strings.Join(wrong, "\n"))
			}
			got := summarize(plan)
			if *update {
				if err := os.WriteFile(f, []byte(input+"----\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := gocmp.Diff(want, got); d != "" {
				t.Errorf("plan (-want +got):\n%s", d)
			}
		})
	}
}

// summarize writes a plan with equal launches together.
func summarize(p *capacity.Plan) string {
	var b strings.Builder
	names := func(pods []*corev1.Pod) string {
		var ns []string
		for _, p := range pods {
			ns = append(ns, p.Name)
		}
		slices.Sort(ns)
		return strings.Join(ns, " ")
	}
	for _, l := range p.Launches {
		var own []string
		for k, v := range l.Labels {
			if !strings.Contains(k, "/") {
				own = append(own, k+"="+v)
			}
		}
		slices.Sort(own)
		fmt.Fprintf(&b, "buy %s %s of %s %s: %s\n    %s; %d alternatives\n", l.CapacityType, l.InstanceType, l.Provisioner.Name, strings.Join(own, ","), names(l.Pods), l.Why, len(l.Alternatives))
	}
	seats := map[string][]*corev1.Pod{}
	for _, pl := range p.Placements {
		seats[pl.Node.Name] = append(seats[pl.Node.Name], pl.Pod)
	}
	for _, n := range sorted(seats) {
		fmt.Fprintf(&b, "place on %s: %s\n", n, names(seats[n]))
	}
	refused := map[string][]*corev1.Pod{}
	for _, u := range p.Unschedulable {
		var rs []string
		for _, r := range u.Reasons {
			rs = append(rs, fmt.Sprintf("    %s %s: %s\n        fix: %s\n", cmp.Or(r.Provisioner, "(any)"), r.Constraint, r.Detail, r.Fix))
		}
		refused[strings.Join(rs, "")] = append(refused[strings.Join(rs, "")], u.Pod)
	}
	for _, why := range sorted(refused) {
		fmt.Fprintf(&b, "no place for %s\n%s", names(refused[why]), why)
	}
	fmt.Fprintf(&b, "cost %.4f, at least %.4f\n", p.HourlyCost, p.LowerBound)
	return b.String()
}

func sorted[V any](m map[string]V) []string {
	var ks []string
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}

type scenario struct {
	s        *capacity.Snapshot
	machines []capacity.Machine
}

func parseScenario(input string) (*capacity.Snapshot, error) {
	sc := &scenario{s: &capacity.Snapshot{Now: testNow, Region: "us-west-2", Namespaces: map[string]map[string]string{},
		PVCs: map[string]*corev1.PersistentVolumeClaim{}, PVs: map[string]*corev1.PersistentVolume{}, StorageClasses: map[string]*storagev1.StorageClass{}}}
	scan := bufio.NewScanner(strings.NewReader(input))
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSpace(scan.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		text, doc := line, ""
		if i := strings.Index(line, "{"); i >= 0 {
			text, doc = line[:i], line[i:]
		}
		f := strings.Fields(text)
		if len(f) == 0 {
			return nil, fmt.Errorf("line %d, %q: no verb", n, line)
		}
		if err := sc.line(f[0], f[1:], doc); err != nil {
			return nil, fmt.Errorf("line %d, %q: %w", n, line, err)
		}
	}
	for _, p := range sc.s.Provisioners {
		p.InstanceTypes = capacity.InstanceTypes(sc.machines, p.Spec, capacity.Resolved{}, testNow)
	}
	return sc.s, scan.Err()
}

func (sc *scenario) line(verb string, args []string, doc string) error {
	into := func(v any) error {
		if doc == "" {
			return nil
		}
		d := json.NewDecoder(strings.NewReader(doc))
		d.DisallowUnknownFields()
		return d.Decode(v)
	}
	want := map[string]int{"type": 5, "provisioner": 1, "node": 3, "on": 4, "daemonset": 3, "pod": 4, "claim": 1, "volume": 1, "class": 1, "group": 2, "annotate": 1, "age": 2}
	if n, ok := want[verb]; !ok || len(args) < n {
		return fmt.Errorf("unknown or too short")
	}
	name := args[0]
	switch verb {
	case "type":
		return sc.machine(args)
	case "provisioner":
		p := &capacity.Provisioner{Name: name, Spec: &v1alpha1.ProvisionerSpec{}}
		sc.s.Provisioners = append(sc.s.Provisioners, p)
		return into(p.Spec)
	case "node":
		alloc, err := amounts(args[1], args[2])
		if err != nil {
			return err
		}
		n := &capacity.Node{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelArchStable: "amd64"}, Allocatable: capacity.FromResourceList(alloc)}
		n.Allocatable[corev1.ResourcePods] = 10
		sc.s.Nodes = append(sc.s.Nodes, n)
		return into(&n.Labels)
	case "on":
		p, err := newPod(args[1], args[2], args[3])
		if err != nil {
			return err
		}
		i := slices.IndexFunc(sc.s.Nodes, func(n *capacity.Node) bool { return n.Name == name })
		if i < 0 {
			return fmt.Errorf("no such node")
		}
		sc.s.Nodes[i].Pods = append(sc.s.Nodes[i].Pods, p)
		if err := into(&p.Spec); err != nil {
			return err
		}
		p.Spec.NodeName = name
	case "daemonset":
		p, err := newPod(name, args[1], args[2])
		if err != nil {
			return err
		}
		sc.s.DaemonSetPods = append(sc.s.DaemonSetPods, p)
		return into(&p.Spec)
	case "pod":
		n, err := strconv.Atoi(args[1])
		if err != nil || n > 10000 {
			return fmt.Errorf("replicas %q: %w", args[1], err)
		}
		for i := range n {
			p, err := newPod(fmt.Sprintf("%s.%d", name, i), args[2], args[3])
			if err != nil {
				return err
			}
			if err := into(&p.Spec); err != nil {
				return err
			}
			sc.s.Pods = append(sc.s.Pods, p)
		}
	case "group":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		if sc.s.Groups == nil {
			sc.s.Groups = map[string]capacity.PodGroup{}
		}
		sc.s.Groups["default/"+name] = capacity.PodGroup{MinCount: n, Topology: strings.Join(args[2:], "")}
	case "annotate":
		for _, p := range sc.named(name) {
			if err := into(&p.Annotations); err != nil {
				return err
			}
		}
	case "age":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		for _, p := range sc.named(name) {
			p.CreationTimestamp = metav1.NewTime(testNow.Add(-time.Duration(n) * time.Second))
		}
	case "claim":
		c := &corev1.PersistentVolumeClaim{}
		sc.s.PVCs["default/"+name] = c
		return into(&c.Spec)
	case "volume":
		v := &corev1.PersistentVolume{}
		sc.s.PVs[name] = v
		return into(&v.Spec)
	case "class":
		c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
		sc.s.StorageClasses[name] = c
		return into(c)
	}
	return nil
}

// named are the pods, waiting and bound, whose name up to the first dot or as a
// whole is this.
func (sc *scenario) named(name string) []*corev1.Pod {
	pods := slices.Clone(sc.s.Pods)
	for _, n := range sc.s.Nodes {
		pods = append(pods, n.Pods...)
	}
	return slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return p.Name != name && p.Labels["app"] != name })
}

func amounts(cpu, memory string) (corev1.ResourceList, error) {
	c, err := resource.ParseQuantity(cpu)
	if err != nil {
		return nil, err
	}
	m, err := resource.ParseQuantity(memory)
	return corev1.ResourceList{corev1.ResourceCPU: c, corev1.ResourceMemory: m}, err
}

// newPod is a pod with one container; a PodSpec that is decoded into it later
// must not name containers.
func newPod(name, cpu, memory string) (*corev1.Pod, error) {
	rs, err := amounts(cpu, memory)
	app, _, _ := strings.Cut(name, ".")
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": app}, CreationTimestamp: metav1.NewTime(testNow)},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: rs}}}},
	}, err
}

func (sc *scenario) machine(args []string) error {
	vcpu, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	mem, err := resource.ParseQuantity(args[2])
	if err != nil {
		return err
	}
	m := capacity.Machine{Name: args[0], VCPUs: int32(vcpu), MemoryMiB: mem.Value() >> 20, Arch: "amd64", CurrentGeneration: true, ENIs: 4, IPv4PerENI: 15}
	zones, soldOut := "abc", false
	for _, a := range args[5:] {
		k, v, _ := strings.Cut(a, "=")
		switch k {
		case "zones":
			zones = strings.ReplaceAll(v, ",", "")
		case "arch":
			m.Arch = v
		case "gpu":
			n, err := strconv.Atoi(v)
			if err != nil {
				return err
			}
			m.GPU = &capacity.GPU{Count: int32(n), Manufacturer: "nvidia", Name: "t4"}
		case "soldout":
			soldOut = true
		default:
			return fmt.Errorf("unknown option %s", k)
		}
	}
	for _, z := range zones {
		for i, ct := range []string{v1alpha1.CapacityTypeOnDemand, v1alpha1.CapacityTypeSpot} {
			price, err := strconv.ParseFloat(args[3+i], 64)
			if err != nil {
				return err
			}
			o := capacity.Offering{Zone: "us-west-2" + string(z), CapacityType: ct, Price: price}
			if soldOut {
				o.UnavailableUntil = testNow.Add(300e9)
			}
			if price > 0 {
				m.Offerings = append(m.Offerings, o)
			}
		}
	}
	sc.machines = append(sc.machines, m)
	return nil
}

// FuzzScenario feeds the planner whatever parses: it must end, with every pod in
// one bucket and no bound above the cost.
func FuzzScenario(f *testing.F) {
	files, _ := filepath.Glob("testdata/plans/*.txt")
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		input, _, _ := strings.Cut(string(b), "----\n")
		f.Add(input)
	}
	f.Fuzz(func(t *testing.T, input string) {
		s, err := parseScenario(input)
		if err != nil || len(s.Pods) > 60 || len(s.Nodes) > 10 {
			return
		}
		plan := capacity.Solve(s)
		pods := len(plan.Placements) + len(plan.Unschedulable)
		for _, l := range plan.Launches {
			pods += len(l.Pods)
		}
		if pods != len(s.Pods) {
			t.Errorf("%d pods of %d in the plan", pods, len(s.Pods))
		}
		if plan.LowerBound > plan.HourlyCost+1e-9 {
			t.Errorf("bound %v above cost %v", plan.LowerBound, plan.HourlyCost)
		}
	})
}
