package main

import (
	"encoding/json"
	"path/filepath"
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
		"a pod given up too early": {kindAccepted, func(p *capacity.Plan) bool {
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
				if !tt.tamper(plan) {
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
