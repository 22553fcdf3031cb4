package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/catalog"
	"github.com/berth-dev/berth/internal/manifest"
)

// answer is what kubectl-berth plan -o json prints, as its readers know it.
type answer struct {
	Launches []struct {
		Name, Provisioner, InstanceType, CapacityType, Zone string
		HourlyPrice                                         float64
		Alternatives                                        []string
		Labels                                              map[string]string
		Taints                                              []corev1.Taint
		Allocatable                                         corev1.ResourceList
		Pods                                                []string
	}
	Placements    []struct{ Pod, Node string }
	Unschedulable []struct {
		Pod     string
		Reasons []struct{ Provisioner, Constraint, Detail, Fix string }
	}
	HourlyCost, LowerBound float64
	Pods                   int
}

// TestKubeSchedulerAcceptsWhatKubectlBerthPrints: from the command's output alone
// nodes are made as it describes them, and kube-scheduler's filters judge.
func TestKubeSchedulerAcceptsWhatKubectlBerthPrints(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "kubectl-berth")
	build := exec.Command("go", "build", "-o", bin, "./cmd/kubectl-berth")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building kubectl-berth: %v\n%s", err, out)
	}
	prices := filepath.Join("..", "..", "cmd", "kubectl-berth", "testdata", "catalog.json")
	examples := filepath.Join("..", "..", "examples")
	tests := map[string]struct {
		files  []string
		args   []string
		placed int
		nobody []string
	}{
		"all kinds in one file": {files: []string{filepath.Join("testdata", "manifests", "odd.yaml")}, placed: 18,
			nobody: []string{"default/device", "default/gated", "default/giant", "default/lonely-1"}},
		"pods and no Provisioner": {files: []string{filepath.Join("testdata", "manifests", "no-provisioner.json")}, placed: 4, nobody: []string{"default/apart-2", "default/b"}},
		"both, on spot":           {files: []string{filepath.Join("testdata", "manifests", "no-provisioner.json"), filepath.Join(examples, "provisioner-default.yaml")}, args: []string{"--capacity-types", "spot"}, placed: -1},
		"the examples":            {files: []string{examples}, placed: -1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			args := []string{"plan", "-o", "json", "--region", region, "--catalog", prices}
			for _, f := range tt.files {
				args = append(args, "-f", f)
			}
			cmd := exec.Command(bin, append(args, tt.args...)...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, stderr.String())
			}
			var a answer
			if err := json.Unmarshal(out, &a); err != nil {
				t.Fatal(err)
			}
			s := fromManifests(t, tt.files, prices, tt.args)
			plan := a.plan(t, s)
			d, err := (referees{}).judge(s, plan)
			if err != nil {
				t.Fatal(err)
			}
			if d != nil {
				t.Errorf("%s: %s\n%s", d.kind, d.detail, out)
			}
			var nobody []string
			for _, u := range a.Unschedulable {
				nobody = append(nobody, u.Pod)
				if len(u.Reasons) == 0 || u.Reasons[0].Detail == "" || u.Reasons[0].Fix == "" {
					t.Errorf("%s has no place and no reason", u.Pod)
				}
			}
			if tt.placed >= 0 && (a.Pods-len(a.Unschedulable) != tt.placed || !slices.Equal(nobody, tt.nobody)) {
				t.Errorf("%d pods have a place, want %d; %v have none, want %v\n%s", a.Pods-len(a.Unschedulable), tt.placed, nobody, tt.nobody, stderr.String())
			}
			cost := 0.0
			for _, l := range a.Launches {
				cost += l.HourlyPrice
			}
			if diff := cost - a.HourlyCost; diff > 1e-9 || diff < -1e-9 || a.LowerBound > a.HourlyCost+1e-9 {
				t.Errorf("launches cost %v, hourlyCost %v, lowerBound %v", cost, a.HourlyCost, a.LowerBound)
			}
		})
	}
}

// fromManifests is the scenario that manifests amount to.
func fromManifests(t *testing.T, files []string, prices string, args []string) *scenario {
	t.Helper()
	f, err := os.Open(prices)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := catalog.Load(f)
	if err != nil {
		t.Fatal(err)
	}
	var set manifest.Set
	for _, file := range files {
		names := []string{file}
		if info, err := os.Stat(file); err != nil {
			t.Fatal(err)
		} else if info.IsDir() {
			if names, err = filepath.Glob(filepath.Join(file, "*.yaml")); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := set.Read(name, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
		}
	}
	o := manifest.Options{Now: now, Region: region, Machines: c.Machines(region)}
	if len(args) > 1 {
		o.CapacityTypes = strings.Split(args[1], ",")
	}
	snap := set.Snapshot(o)
	s := &scenario{Machines: o.Machines, Nodes: snap.Nodes, Pods: snap.Pods, DaemonSetPods: snap.DaemonSetPods, Namespaces: snap.Namespaces}
	for _, p := range snap.Provisioners {
		s.Provisioners = append(s.Provisioners, provisioner{Name: p.Name, Spec: *p.Spec, NotReady: p.NotReady, Used: p.Used, UsedHourlyCost: p.UsedHourlyCost})
	}
	s.Claims = slices.Collect(maps.Values(snap.PVCs))
	s.Volumes = slices.Collect(maps.Values(snap.PVs))
	s.Classes = slices.Collect(maps.Values(snap.StorageClasses))
	for _, c := range s.Claims {
		// The volume controller says so of what it has bound.
		if c.ResourceVersion = "1"; c.Spec.VolumeName != "" {
			c.Annotations = map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
		}
	}
	for _, v := range s.Volumes {
		v.ResourceVersion = "1"
	}
	return s
}

// plan makes the planner's plan again of what was printed.
func (a *answer) plan(t *testing.T, s *scenario) *capacity.Plan {
	t.Helper()
	pods := map[string]*corev1.Pod{}
	for _, p := range s.Pods {
		pods[p.Namespace+"/"+p.Name] = p
	}
	find := func(name string) *corev1.Pod {
		if pods[name] == nil {
			t.Fatalf("the plan has pod %s, which nobody asked for", name)
		}
		return pods[name]
	}
	plan := &capacity.Plan{}
	for _, l := range a.Launches {
		n := capacity.Launch{
			Provisioner: &capacity.Provisioner{Name: l.Provisioner}, Labels: l.Labels, Taints: l.Taints,
			OfferingRef: capacity.OfferingRef{InstanceType: l.InstanceType, CapacityType: l.CapacityType, Zone: l.Zone, Price: l.HourlyPrice},
			Allocatable: capacity.FromResourceList(l.Allocatable),
		}
		for _, p := range l.Pods {
			n.Pods = append(n.Pods, find(p))
		}
		plan.Launches = append(plan.Launches, n)
	}
	for _, p := range a.Placements {
		i := slices.IndexFunc(s.Nodes, func(n *capacity.Node) bool { return n.Name == p.Node })
		if i < 0 {
			t.Fatalf("%s is placed on %s, which is not there", p.Pod, p.Node)
		}
		plan.Placements = append(plan.Placements, capacity.Placement{Pod: find(p.Pod), Node: s.Nodes[i]})
	}
	for _, u := range a.Unschedulable {
		plan.Unschedulable = append(plan.Unschedulable, capacity.Unschedulable{Pod: find(u.Pod)})
	}
	return plan
}
