package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

func TestKubeSchedulerAgreesOnEveryScenarioThatOnceBrokeThePlanner(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	r := referees{}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			s, err := load(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := try(r, s); d != nil {
				t.Errorf("%s: %s%s", d.kind, d.detail, describe(s))
			}
		})
	}
}

func TestASeedGivesOneScenario(t *testing.T) {
	for seed := range uint64(20) {
		a, err := json.Marshal(generate(seed))
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(generate(seed))
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Errorf("seed %d gives two", seed)
		}
	}
}

// anyTied says whether the place of some pod of the plan hangs on others.
func anyTied(p *capacity.Plan) bool {
	tied := func(p *corev1.Pod) bool { return ties(p) > 0 }
	return slices.ContainsFunc(p.Launches, func(l capacity.Launch) bool { return slices.ContainsFunc(l.Pods, tied) }) ||
		slices.ContainsFunc(p.Placements, func(pl capacity.Placement) bool { return tied(pl.Pod) })
}

// A referee that agrees with everything proves nothing: it must see through
// plans that were tampered with.
func TestTheRefereeSeesThroughWrongPlans(t *testing.T) {
	tests := map[string]struct {
		kind   string
		tamper func(p *capacity.Plan) bool
	}{
		"a pod in two buckets": {kindBuckets, func(p *capacity.Plan) bool {
			if len(p.Launches) == 0 {
				return false
			}
			p.Unschedulable = append(p.Unschedulable, capacity.Unschedulable{Pod: p.Launches[0].Pods[0]})
			return true
		}},
		"a pod in no bucket": {kindBuckets, func(p *capacity.Plan) bool {
			if len(p.Placements) == 0 {
				return false
			}
			p.Placements = p.Placements[1:]
			return true
		}},
		"a node without room": {kindRefused, func(p *capacity.Plan) bool {
			for i := range p.Launches {
				if len(p.Launches[i].Pods) > 1 {
					p.Launches[i].Allocatable = p.Launches[i].Allocatable.Clone()
					p.Launches[i].Allocatable[corev1.ResourcePods] = 1
					return true
				}
			}
			return false
		}},
		"a taint that nobody tolerates": {kindRefused, func(p *capacity.Plan) bool {
			if len(p.Launches) == 0 {
				return false
			}
			p.Launches[0].Taints = []corev1.Taint{{Key: "nobody", Effect: corev1.TaintEffectNoSchedule}}
			return true
		}},
		"a node that nobody needs": {kindNeedless, func(p *capacity.Plan) bool {
			if len(p.Launches) == 0 || len(p.Placements) == 0 || len(p.Unschedulable) > 0 || anyTied(p) {
				return false // Who has no place could have one on a node more.
			}
			l, pod := p.Launches[0], p.Placements[0].Pod
			if s := &pod.Spec; len(l.Taints) > 0 || gangOf(pod) != "" || s.NodeSelector != nil || s.Affinity != nil ||
				len(s.Volumes)+len(s.InitContainers)+len(s.Containers[0].Ports) > 0 {
				return false
			}
			for name, n := range capacity.PodRequests(pod) {
				if n > l.Allocatable[name]/2 {
					return false
				}
			}
			l.Pods = []*corev1.Pod{pod}
			p.Launches, p.Placements = append(p.Launches, l), p.Placements[1:]
			return true
		}},
		"a pod given up too early": {kindAccepted, func(p *capacity.Plan) bool {
			if anyTied(p) {
				// Others might have needed it.
				return false
			}
			for i := range p.Launches {
				l := &p.Launches[i]
				if last := len(l.Pods) - 1; last > 0 && gangOf(l.Pods[last]) == "" {
					p.Unschedulable = append(p.Unschedulable, capacity.Unschedulable{Pod: l.Pods[last]})
					l.Pods = l.Pods[:last]
					return true
				}
			}
			return false
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := referees{}
			tried := 0
			for seed := uint64(1); tried < 10; seed++ {
				s := generate(seed)
				plan := capacity.Solve(s.snapshot())
				// Default constraints tie pods that do not say so.
				if s.DefaultSpread != nil || !tt.tamper(plan) {
					continue
				}
				tried++
				d, err := r.judge(s, plan)
				if err != nil {
					t.Fatal(err)
				}
				if d == nil || d.kind != tt.kind {
					t.Errorf("seed %d: judged %+v, want %q", seed, d, tt.kind)
				}
			}
		})
	}
}
