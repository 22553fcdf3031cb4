package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestRemovalOrder(t *testing.T) {
	tests := map[string]struct {
		bend func(*life)
		// want are parts of the complaints, in order; none for a right order.
		want []string
	}{
		"in order": {},
		"of itself: the pod goes before the removal begins": {
			bend: func(l *life) {
				l.end = []string{"pod leaves", "pod gone", "taint", "deleting", "ending", "terminated", "node gone", "claim gone"}
			},
		},
		"a Job's finished pod keeps nothing": {
			bend: func(l *life) {
				l.pod.Status.Phase = corev1.PodSucceeded
				l.j.seePod(l.pod.DeepCopy())
				l.end = slices.DeleteFunc(l.end, func(s string) bool { return strings.HasPrefix(s, "pod") })
			},
		},
		"never tainted": {
			bend: func(l *life) { l.end = slices.DeleteFunc(l.end, func(s string) bool { return s == "taint" }) },
			want: []string{"never seen: the node carries the taint", "never seen: the node carries the taint"},
		},
		"evicted before the taint": {
			bend: func(l *life) {
				l.end = []string{"deleting", "pod leaves", "taint", "pod gone", "ending", "terminated", "node gone", "claim gone"}
			},
			want: []string{"a pod was evicted 10 ms before the node carries the taint"},
		},
		"terminated under its pod": {
			bend: func(l *life) {
				l.end = []string{"deleting", "taint", "pod leaves", "ending", "pod gone", "terminated", "node gone", "claim gone"}
			},
			want: []string{"the instance was shutting down 10 ms before the last pod had gone"},
		},
		"the pod never goes": {
			bend: func(l *life) {
				l.end = slices.DeleteFunc(l.end, func(s string) bool { return strings.HasPrefix(s, "pod") })
			},
			want: []string{"1 pods never went"},
		},
		"the Node goes while the instance runs": {
			bend: func(l *life) {
				l.end = []string{"deleting", "taint", "pod leaves", "pod gone", "node gone", "ending", "terminated", "claim gone"}
			},
			want: []string{"the Node was gone 10 ms before the instance is shutting down", `EC2 called its instance "running"`},
		},
		"the Node goes while the instance shuts down": {
			bend: func(l *life) {
				l.end = []string{"deleting", "taint", "pod leaves", "pod gone", "ending", "node gone", "terminated", "claim gone"}
			},
			want: []string{`EC2 called its instance "shutting-down"`},
		},
		"the claim stays": {
			bend: func(l *life) { l.end = l.end[:len(l.end)-1] },
			want: []string{"never seen: the NodeClaim is gone"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLife().arrive()
			if tt.bend != nil {
				tt.bend(l)
			}
			l.leave(t)
			var got []string
			l.j.look(func(w *world) {
				for _, r := range removals(w) {
					got = append(got, r.disorder()...)
				}
			})
			if len(got) != len(tt.want) {
				t.Fatalf("complaints %q, want %d", got, len(tt.want))
			}
			for i, part := range tt.want {
				if !strings.Contains(got[i], part) {
					t.Errorf("complaint %q does not say %q", got[i], part)
				}
			}
		})
	}
}

func TestStillThere(t *testing.T) {
	l := newLife().arrive()
	var lacks []string
	note := func() {
		l.j.look(func(w *world) {
			lacks = append(lacks, stillThere(w))
		})
	}
	note()
	for _, step := range l.end {
		l.after(10, func() { l.step(t, step) })
		switch step {
		case "terminated", "node gone", "claim gone":
			note()
		}
	}
	want := []string{
		"1 instances live, i-1 among them, at $0.1000/h",
		"Node ip-1 is still there",
		"NodeClaim default-a is still there",
		"",
	}
	if diff := cmp.Diff(want, lacks); diff != "" {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}
}
