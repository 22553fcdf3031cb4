package main

import (
	"strings"
	"testing"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestForecast(t *testing.T) {
	tests := map[string]struct {
		bend func(*forecast, *life)
		// want is part of the only complaint; empty for none.
		want string
	}{
		"as planned": {},
		"on an alternative": {
			bend: func(_ *forecast, l *life) { l.claim.Spec.Offerings[0].Zone = "b" },
		},
		"on something else": {
			bend: func(_ *forecast, l *life) { l.claim.Spec.Offerings[0].Zone = "c" },
			want: "n1 is m7g.medium spot c, which the plan does not name",
		},
		"dearer than planned": {
			bend: func(_ *forecast, l *life) { l.claim.Spec.Offerings[0].HourlyPrice = "0.2" },
			want: "it costs 100.0% more than planned",
		},
		"in two batches, on something else and a little dearer": {
			bend: func(f *forecast, l *life) {
				first := l.claim.DeepCopy()
				first.UID, first.Name, first.Annotations[v1alpha1.AnnotationDecision] = "claim-0", "default-0", "Why. Plan: another."
				first.Spec.Offerings[0].Zone, first.Spec.Offerings[0].HourlyPrice = "c", "0.01"
				l.j.seeClaim(first)
			},
		},
		"in two batches, and twice as dear": {
			bend: func(f *forecast, l *life) {
				first := l.claim.DeepCopy()
				first.UID, first.Name, first.Annotations[v1alpha1.AnnotationDecision] = "claim-0", "default-0", "Why. Plan: another."
				l.j.seeClaim(first)
			},
			want: "it costs 100.0% more than planned",
		},
		"for too few pods": {
			bend: func(f *forecast, _ *life) { f.Pods = 1 },
			want: "it is for 1 pods, the manifests make 2",
		},
		"a bound above the cost": {
			bend: func(f *forecast, _ *life) { f.LowerBound = 0.2 },
			want: "proven minimum $0.200000/h",
		},
		"another pod without a place": {
			bend: func(f *forecast, _ *life) { f.Unschedulable[0].Pod = "default/web" },
			want: "it finds no place for 1 pods, not just for Pod default/impossible",
		},
		"no reason": {
			bend: func(f *forecast, _ *life) { f.Unschedulable[0].Reasons = nil },
			want: "no reason is given",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := &forecast{
				Launches:      []plannedLaunch{{InstanceType: "m7g.medium", CapacityType: "spot", Zone: "a", Alternatives: []string{"m7g.medium/spot/b"}}},
				Unschedulable: []plannedNone{{Pod: "default/impossible", Reasons: []plannedReason{{Detail: "too big"}}}},
				HourlyCost:    0.1, LowerBound: 0.09, Pods: 2,
			}
			l := newLife()
			if tt.bend != nil {
				tt.bend(f, l)
			}
			l.claim.Status = v1alpha1.NodeClaimStatus{}
			l.j.seeClaim(l.claim)
			problems := f.check(2, "Pod default/impossible").problems
			l.j.look(func(w *world) { problems = append(problems, f.matches(w).problems...) })
			got := strings.Join(problems, "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("complaints %q, want %q", got, tt.want)
			}
		})
	}
}
