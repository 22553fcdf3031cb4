package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/catalog"
	"github.com/berth-dev/berth/internal/manifest"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

// run executes the command and returns its exit code and what it wrote.
func run(t testing.TB, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = execute(t.Context(), args, streams{strings.NewReader(stdin), &out, &err})
	return code, out.String(), err.String()
}

// volatile is what differs from run to run.
var volatile = regexp.MustCompile(`("solveSeconds": |"peakMemoryBytes": |planned in |with at most )[0-9.e+µms-]+`)

// expect compares with a file of testdata, or rewrites it.
func expect(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s: run with -update if this is right (-want +got):\n%s", name, diff)
	}
}

// TestPlanLooksAsExpected runs the whole command where the best plan is plain
// to see.
func TestPlanLooksAsExpected(t *testing.T) {
	t.Setenv("AWS_REGION", "us-west-2")
	examples := filepath.Join("..", "..", "examples")
	tests := map[string][]string{
		"web-default-provisioner": {"-f", filepath.Join(examples, "web-deployment.yaml")},
		"gpu-spot":                {"-f", filepath.Join(examples, "gpu-pod.yaml"), "-f", filepath.Join(examples, "provisioner-default.yaml"), "--capacity-types", "spot"},
		"arm64-on-demand":         {"-f", filepath.Join(examples, "arm64-pod.yaml"), "-f", filepath.Join(examples, "provisioner-default.yaml"), "--capacity-types", "on-demand"},
		"nodes-first":             {"-f", filepath.Join("testdata", "nodes-first.yaml")},
		"nothing-to-do":           {"-f", filepath.Join(examples, "provisioner-default.yaml")},
		"explain-impossible":      {"-f", filepath.Join("testdata", "explain.yaml"), "--explain", "shop/big"},
		"explain-impossible-json": {"-f", filepath.Join("testdata", "explain.yaml"), "--explain", "shop/big", "-o", "json"},
		"explain-bought":          {"-f", filepath.Join("testdata", "explain.yaml"), "--explain", "shop/fits"},
		"gang":                    {"-f", filepath.Join(examples, "gang-job.yaml")},
		"gang-limited":            {"-f", filepath.Join("testdata", "gang-limited.yaml")},
		"explain-gang":            {"-f", filepath.Join("testdata", "gang-limited.yaml"), "--explain", "default/worker-2"},
		"explain-unknown":         {"-f", filepath.Join("testdata", "explain.yaml"), "--explain", "fits"},
	}
	for name, args := range tests {
		t.Run(name, func(t *testing.T) {
			args = append([]string{"plan", "--catalog", filepath.Join("testdata", "catalog.json"), "--budget", "0"}, args...)
			code, stdout, stderr := run(t, "", args...)
			expect(t, name+".txt", fmt.Sprintf("$ kubectl-berth %s\n%s--- standard error\n%s--- exit code %d\n",
				filepath.ToSlash(strings.Join(args, " ")), volatile.ReplaceAllString(stdout, "${1}…"), stderr, code))
		})
	}
}

// TestReportShowsAllOfAPlan writes a plan with everything in it in both forms.
func TestReportShowsAllOfAPlan(t *testing.T) {
	controller := true
	pod := func(name, kind, owner string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		if kind != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: owner, Controller: &controller}}
		}
		return p
	}
	node := &capacity.Node{Name: "general-1"}
	why := []capacity.Reason{{
		Provisioner: "general", Constraint: capacity.ConstraintResources, Detail: "largest has 192 CPU, the pod asks for 500", Fix: "ask for less",
	}, {Provisioner: "other", Constraint: capacity.ConstraintTaint, Detail: "a taint"}}
	plan := &capacity.Plan{
		Launches: []capacity.Launch{{
			Provisioner: &capacity.Provisioner{Name: "general"},
			OfferingRef: capacity.OfferingRef{InstanceType: "m7i.large", CapacityType: "spot", Zone: "us-west-2a", Price: 0.04},
			Alternatives: []capacity.OfferingRef{
				{InstanceType: "m7i.large", CapacityType: "spot", Zone: "us-west-2b", Price: 0.05},
				{InstanceType: "m7i.xlarge", CapacityType: "on-demand", Zone: "us-west-2a", Price: 0.2}},
			Next:        []capacity.OfferingRef{{InstanceType: "m7i.xlarge", CapacityType: "on-demand", Zone: "us-west-2a", Price: 0.2}},
			Why:         "spot m7i.large in us-west-2a at 0.0400 $/h; next best on-demand m7i.xlarge in us-west-2a at 0.2000",
			Labels:      map[string]string{"topology.kubernetes.io/zone": "us-west-2a"},
			Taints:      []corev1.Taint{{Key: "t", Value: "v", Effect: corev1.TaintEffectNoSchedule}},
			Allocatable: capacity.Resources{"cpu": 1930, "memory": 7 << 30, "pods": 29, "nvidia.com/gpu": 1},
			Requests:    capacity.Resources{"cpu": 1500, "memory": 1 << 30, "pods": 3},
			Pods:        []*corev1.Pod{pod("b", "StatefulSet", "db"), pod("w-2", "ReplicaSet", "w"), pod("w-1", "ReplicaSet", "w")},
		}, {
			Provisioner: &capacity.Provisioner{Name: "bare"},
			OfferingRef: capacity.OfferingRef{InstanceType: "c7g.large", CapacityType: "on-demand", Zone: "us-west-2b", Price: 0.07},
			Pods:        []*corev1.Pod{pod("alone", "", "")},
		}},
		Placements:    []capacity.Placement{{Pod: pod("w-4", "ReplicaSet", "w"), Node: node}, {Pod: pod("w-3", "ReplicaSet", "w"), Node: node}},
		Unschedulable: []capacity.Unschedulable{{Pod: pod("x-2", "Job", "x"), Reasons: why}, {Pod: pod("x-1", "Job", "x"), Reasons: why}, {Pod: pod("lost", "", ""), Reasons: []capacity.Reason{{Constraint: capacity.ConstraintGated, Detail: "is gated"}}}},
		HourlyCost:    0.11, LowerBound: 0.1, Shapes: 5, SolveTime: 1500 * time.Microsecond,
	}
	r := newReport(plan, 9, []*capacity.Node{node})
	r.PeakMemoryBytes = 32 << 20
	var asJSON, asTable strings.Builder
	if err := errors.Join(writeJSON(&asJSON, r), writeTable(&asTable, r, plan)); err != nil {
		t.Fatal(err)
	}
	expect(t, "report.json", asJSON.String())
	expect(t, "report.txt", asTable.String())
}

// TestJSONHasTheFieldsThatAreCountedOn: tools read these names.
func TestJSONHasTheFieldsThatAreCountedOn(t *testing.T) {
	in := `
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {allocatable: {cpu: 1, memory: 1Gi, pods: 10}}
---
apiVersion: v1
kind: Pod
metadata: {name: fits}
spec: {containers: [{name: c, resources: {requests: {cpu: 1}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: new}
spec: {containers: [{name: c, resources: {requests: {cpu: "1.5"}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: never}
spec: {containers: [{name: c, resources: {requests: {cpu: 1000}}}]}
`
	code, stdout, _ := run(t, in, "plan", "-f", "-", "-o", "json")
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	d := json.NewDecoder(strings.NewReader(stdout))
	var plan map[string]any
	if err := d.Decode(&plan); err != nil {
		t.Fatal(err)
	}
	if d.More() {
		t.Error("more than one JSON value")
	}
	keys := func(path string, v any, want ...string) map[string]any {
		m, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("%s is %T", path, v)
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(m))); diff != "" {
			t.Errorf("keys of %s (-want +got):\n%s", path, diff)
		}
		return m
	}
	first := func(path string, v any) any {
		l, ok := v.([]any)
		if !ok || len(l) != 1 {
			t.Fatalf("%s is %v, want one element", path, v)
		}
		return l[0]
	}
	keys("plan", plan, "launches", "placements", "unschedulable", "hourlyCost", "lowerBound", "gap", "pods", "shapes", "solveSeconds", "peakMemoryBytes")
	l := keys("launches", first("launches", plan["launches"]),
		"name", "provisioner", "instanceType", "capacityType", "zone", "hourlyPrice", "why", "next", "alternatives", "labels", "taints", "allocatable", "pods")
	if first("pods", l["pods"]) != "default/new" {
		t.Errorf("launched for %v", l["pods"])
	}
	for _, a := range l["alternatives"].([]any) {
		if strings.Count(a.(string), "/") != 2 {
			t.Errorf("alternative %q", a)
		}
	}
	p := keys("placements", first("placements", plan["placements"]), "pod", "node")
	if p["pod"] != "default/fits" || p["node"] != "n1" {
		t.Errorf("placement %v", p)
	}
	u := keys("unschedulable", first("unschedulable", plan["unschedulable"]), "pod", "reasons")
	keys("reasons", first("reasons", u["reasons"]), "provisioner", "constraint", "detail", "fix")
	for _, k := range []string{"hourlyCost", "lowerBound", "solveSeconds", "peakMemoryBytes"} {
		if v, ok := plan[k].(float64); !ok || v <= 0 {
			t.Errorf("%s is %v", k, plan[k])
		}
	}
	if plan["pods"] != 3.0 || plan["shapes"] != 3.0 {
		t.Errorf("%v pods of %v shapes", plan["pods"], plan["shapes"])
	}
}

// TestEveryPodIsAccountedForOnce: whatever is asked, each pod is in exactly one
// place of the plan, launches hold no more than they can, and the cost is the
// sum of their prices.
func TestEveryPodIsAccountedForOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var in strings.Builder
		want := map[string]bool{}
		cpu := map[string]int64{}
		nodes := rapid.IntRange(0, 3).Draw(rt, "nodes")
		for i := range nodes {
			fmt.Fprintf(&in, "---\napiVersion: v1\nkind: Node\nmetadata: {name: default-%d}\nstatus: {allocatable: {cpu: %d, memory: 8Gi, pods: 20}}\n", i+1, rapid.IntRange(1, 8).Draw(rt, "node cpu"))
		}
		for i := range rapid.IntRange(0, 6).Draw(rt, "workloads") {
			replicas := rapid.IntRange(0, 12).Draw(rt, "replicas")
			milli := rapid.SampledFrom([]int64{0, 100, 500, 1500, 3000, 100000}).Draw(rt, "cpu")
			extra := rapid.SampledFrom([]string{
				"", "nodeSelector: {kubernetes.io/arch: arm64}, ", "nodeSelector: {berth.dev/capacity-type: spot}, ",
				"topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {a: b}}}], ",
			}).Draw(rt, "extra")
			fmt.Fprintf(&in, "---\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: w%d}\nspec: {replicas: %d, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {%scontainers: [{name: c, resources: {requests: {cpu: %dm}}}]}}}\n", i, replicas, extra, milli)
			for r := range replicas {
				name := fmt.Sprintf("default/w%d-%d", i, r)
				want[name] = true
				cpu[name] = milli
			}
		}
		if len(want) == 0 {
			in.WriteString("---\n# nothing\n")
		}
		types := rapid.SampledFrom([]string{"on-demand", "spot", "on-demand,spot"}).Draw(rt, "types")
		code, stdout, stderr := run(t, in.String(), "plan", "-f", "-", "-o", "json", "--budget", "0", "--catalog", filepath.Join("testdata", "catalog.json"), "--capacity-types", types)
		if code != 0 {
			rt.Fatalf("exit code %d: %s", code, stderr)
		}
		var r report
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			rt.Fatal(err)
		}
		seen := map[string]string{}
		account := func(pod, place string) {
			if !want[pod] {
				rt.Fatalf("pod %s is in the plan and nowhere else", pod)
			}
			if was, twice := seen[pod]; twice {
				rt.Fatalf("pod %s is in %s and in %s", pod, was, place)
			}
			seen[pod] = place
		}
		cost := 0.0
		for i := range nodes {
			seen[fmt.Sprintf("node default-%d", i+1)] = "there"
		}
		for _, l := range r.Launches {
			if seen["node "+l.Name] != "" {
				rt.Fatalf("two nodes called %s", l.Name)
			}
			seen["node "+l.Name] = "launched"
			taken := int64(0)
			for _, p := range l.Pods {
				account(p, l.Name)
				taken += cpu[p]
			}
			if have := l.Allocatable["cpu"]; taken > have.MilliValue() {
				rt.Fatalf("%s holds %dm CPU and is asked for %dm", l.Name, have.MilliValue(), taken)
			}
			if len(l.Pods) == 0 {
				rt.Fatalf("%s is bought for nothing", l.Name)
			}
			if l.Labels["kubernetes.io/hostname"] != l.Name || l.Labels["node.kubernetes.io/instance-type"] != l.InstanceType ||
				l.Labels["topology.kubernetes.io/zone"] != l.Zone || l.Labels["berth.dev/capacity-type"] != l.CapacityType {
				rt.Fatalf("labels of %s: %v", l.Name, l.Labels)
			}
			cost += l.HourlyPrice
		}
		for _, p := range r.Placements {
			account(p.Pod, p.Node)
			if seen["node "+p.Node] == "" {
				rt.Fatalf("%s is placed on %s, which is not there", p.Pod, p.Node)
			}
		}
		for _, u := range r.Unschedulable {
			account(u.Pod, "unschedulable")
			if len(u.Reasons) == 0 || u.Reasons[0].Detail == "" {
				rt.Fatalf("%s can run nowhere for no reason", u.Pod)
			}
		}
		if n := len(seen) - nodes - len(r.Launches); n != len(want) || r.Pods != len(want) {
			rt.Fatalf("%d of %d pods are in the plan, which says %d", n, len(want), r.Pods)
		}
		if d := cost - r.HourlyCost; d > 1e-9 || d < -1e-9 {
			rt.Fatalf("cost %v, prices sum to %v", r.HourlyCost, cost)
		}
		if r.LowerBound > r.HourlyCost+1e-9 {
			rt.Fatalf("cost %v is below the bound %v", r.HourlyCost, r.LowerBound)
		}
	})
}

func TestBadInputIsOneLineAndExitCodeTwo(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bad.yaml"), []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, resources: {requests: {cpu: lots}}}]}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	refused := filepath.Join(t.TempDir(), "refused.yaml")
	if err := os.WriteFile(refused, []byte("apiVersion: berth.dev/v1alpha1\nkind: Provisioner\nmetadata: {name: p}\nspec: {taints: [{key: 'a b', effect: NoSchedule}]}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	bad, empty := filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "empty")
	tests := map[string]struct {
		args []string
		want string
	}{
		"a file that is not there":               {[]string{"plan", "-f", filepath.Join(dir, "none.yaml")}, "no such file"},
		"a directory without manifests":          {[]string{"plan", "-f", empty}, "no .yaml, .yml or .json file"},
		"a quantity that is none":                {[]string{"plan", "-f", bad}, "bad.yaml: document 1 (Pod a): spec.containers[0].resources.requests.cpu: "},
		"a Provisioner that the webhook refuses": {[]string{"plan", "-f", refused}, "Provisioner p: spec.taints[0].key: "},
		"the same, in a directory":               {[]string{"plan", "-f", dir}, "bad.yaml: document 1"},
		"a flag that does not exist":             {[]string{"plan", "--files", "x"}, "unknown flag: --files; see kubectl berth plan --help"},
		"a command that does not exist":          {[]string{"plann"}, `unknown command "plann"; see kubectl berth --help`},
		"a file without -f":                      {[]string{"plan", bad}, "name files with -f"},
		"an output that does not exist":          {[]string{"plan", "-f", "-", "-o", "yaml"}, `--output is table or json, not "yaml"`},
		"a budget below zero":                    {[]string{"plan", "-f", "-", "--budget", "-1s"}, "--budget must not be negative"},
		"a budget without unit":                  {[]string{"plan", "-f", "-", "--budget", "100"}, "invalid argument"},
		"a capacity type that is none":           {[]string{"plan", "-f", "-", "--capacity-types", "ondemand"}, `--capacity-types are on-demand, spot, reserved, not "ondemand"`},
		"a region that is not there":             {[]string{"plan", "-f", "-", "--region", "mars-north-1"}, `no region "mars-north-1" (--region); it has eu-west-1, us-east-1, us-west-2`},
		"a catalogue that is not there":          {[]string{"plan", "-f", "-", "--catalog", filepath.Join(dir, "none.json")}, "--catalog: open"},
		"a catalogue that is something else":     {[]string{"plan", "-f", "-", "--catalog", bad}, "--catalog " + bad + ": "},
		"neither files nor cluster":              {[]string{"plan", "--kubeconfig", filepath.Join(dir, "none")}, "no manifests (-f) and no cluster"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := run(t, "", tc.args...)
			if code != 2 || stdout != "" {
				t.Errorf("exit code %d, output %q", code, stdout)
			}
			if !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "kubectl-berth: ") {
				t.Errorf("standard error %q, want one line with %q", stderr, tc.want)
			}
		})
	}
}

func TestFilesMayComeFromAPattern(t *testing.T) {
	examples := filepath.Join("..", "..", "examples")
	code, stdout, stderr := run(t, "", "plan", "-f", filepath.Join(examples, "arm64-pod.yaml"), filepath.Join(examples, "gpu-pod.yaml"), "-o", "json")
	var r report
	if err := json.Unmarshal([]byte(stdout), &r); code != 0 || err != nil || r.Pods != 2 {
		t.Errorf("exit code %d, %v, %d pods: %s", code, err, r.Pods, stderr)
	}
}

func TestHelpTeaches(t *testing.T) {
	code, stdout, _ := run(t, "", "plan", "--help")
	if code != 0 || !strings.Contains(stdout, "kubectl berth plan -f examples/web-deployment.yaml") {
		t.Errorf("exit code %d: %s", code, stdout)
	}
	for _, f := range []string{"--catalog", "--region", "--capacity-types", "--budget", "--output", "--filename"} {
		if !strings.Contains(stdout, f) {
			t.Errorf("help does not speak of %s", f)
		}
	}
}

// TestExamplesHaveNothingUnknown: a slip in an example would only be a note.
func TestExamplesHaveNothingUnknown(t *testing.T) {
	var set manifest.Set
	if err := readFiles(&set, []string{filepath.Join("..", "..", "examples")}, nil); err != nil {
		t.Fatal(err)
	}
	if notes := set.Notes(); len(notes) > 0 {
		t.Errorf("notes: %q", notes)
	}
}

func TestRegionIsFoundWhereItIsSaid(t *testing.T) {
	node := "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {%s}}\n"
	provisioner := "---\napiVersion: berth.dev/v1alpha1\nkind: Provisioner\nmetadata: {name: p}\nspec: {requirements: [{key: %s, operator: In, values: [%s]}]}\n"
	tests := map[string]struct {
		flag, in, env string
		want, how     string
	}{
		"the flag comes first":            {"eu-west-1", fmt.Sprintf(node, "topology.kubernetes.io/region: us-west-2"), "us-east-1", "eu-west-1", "--region"},
		"then a node's region":            {"", fmt.Sprintf(node, "topology.kubernetes.io/region: us-west-2"), "us-east-1", "us-west-2", "node n1"},
		"or its zone":                     {"", fmt.Sprintf(node, "topology.kubernetes.io/zone: eu-west-1b"), "", "eu-west-1", "node n1"},
		"then a Provisioner's region":     {"", fmt.Sprintf(provisioner, "topology.kubernetes.io/region", "eu-west-1"), "us-east-1", "eu-west-1", "Provisioner p"},
		"or its zone, too":                {"", fmt.Sprintf(provisioner, "topology.kubernetes.io/zone", "us-west-2b"), "us-east-1", "us-west-2", "Provisioner p"},
		"or its zone's id":                {"", fmt.Sprintf(provisioner, "topology.k8s.aws/zone-id", "euw1-az2"), "", "eu-west-1", "Provisioner p"},
		"then the environment":            {"", fmt.Sprintf(node, "a: b") + fmt.Sprintf(provisioner, "a", "b"), "us-west-2", "us-west-2", "$AWS_REGION"},
		"and where nothing says anything": {"", "", "", "us-east-1", "the default; use --region"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var set manifest.Set
			if err := set.Read("f", strings.NewReader(tc.in)); err != nil {
				t.Fatal(err)
			}
			got, how := chooseRegion(tc.flag, catalog.Default(), &set, func(name string) string {
				if name == "AWS_REGION" {
					return tc.env
				}
				return ""
			})
			if got != tc.want || how != tc.how {
				t.Errorf("got %s (%s), want %s (%s)", got, how, tc.want, tc.how)
			}
		})
	}
}

func TestSharedCatalogueIsReadable(t *testing.T) {
	file := filepath.Join("..", "..", "..", "shared", "data", "ec2-catalog.json")
	if _, err := os.Stat(file); err != nil {
		t.Skip("no shared data here")
	}
	code, stdout, stderr := run(t, "", "plan", "-f", filepath.Join("..", "..", "examples", "web-deployment.yaml"), "--catalog", file, "-o", "json")
	var r report
	if err := json.Unmarshal([]byte(stdout), &r); code != 0 || err != nil || len(r.Launches) == 0 || len(r.Unschedulable) > 0 {
		t.Errorf("exit code %d, %v, %d launches: %s", code, err, len(r.Launches), stderr)
	}
}

func TestWrittenQuantitiesAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"cpu", "memory", "ephemeral-storage", "pods", "nvidia.com/gpu"}).Draw(t, "resource")
		want := rapid.Int64Range(0, 1<<50).Draw(t, "amount")
		data, err := json.Marshal(quantities(capacity.Resources{corev1.ResourceName(name): want}))
		if err != nil {
			t.Fatal(err)
		}
		var back map[string]resource.Quantity
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		q := back[name]
		got := q.Value()
		if name == "cpu" {
			got = q.MilliValue()
		}
		if got != want {
			t.Fatalf("%s: %d became %s", name, want, data)
		}
	})
}

// TestInterruptEndsPlan: also while it waits for what is to be typed.
func TestInterruptEndsPlan(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	in, typed := io.Pipe()
	defer typed.Close() // Only then its reader ends.
	time.AfterFunc(50*time.Millisecond, cancel)
	var out, stderr strings.Builder
	code := make(chan int)
	go func() { code <- execute(ctx, []string{"plan", "-f", "-"}, streams{in, &out, &stderr}) }()
	select {
	case got := <-code:
		if got != 1 || out.String() != "" || !strings.Contains(stderr.String(), "interrupted") {
			t.Errorf("exit code %d, output %q, error %q", got, &out, &stderr)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on waiting for standard input")
	}
}
