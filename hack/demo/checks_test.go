package main

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// arrivalChecksOf are all checks of a life whose pod is to run once.
func arrivalChecksOf(l *life) []check {
	var out []check
	l.j.look(func(w *world) {
		out = []check{
			checkRunning(w, workload{name: "Pod default/web", pods: 1, spec: l.pod.Spec}),
			checkFits(w), checkInstances(w, "dev"), checkNodes(w), checkHints(w, "Pod default/impossible"), checkSeats(w),
			checkCapacityType(w, "Pod default/web", "spot"), checkUnhostable(w, "Pod default/impossible"),
		}
	})
	return out
}

func TestArrivalChecks(t *testing.T) {
	tests := map[string]struct {
		// bend changes the life before it is played, more adds to it after.
		bend, more func(*life)
		// want is part of the only complaint; empty for none.
		want string
	}{
		"all is well": {},
		"a Job's pod that is done has run": {
			more: func(l *life) {
				l.pod.Status.Phase = corev1.PodSucceeded
				l.j.seePod(l.pod)
			},
		},
		"what the node becomes when it is taken away does not count": {
			more: func(l *life) {
				l.node = l.node.DeepCopy()
				l.node.Labels = nil
				l.node.Spec.Taints = append(l.node.Spec.Taints, corev1.Taint{Key: v1alpha1.TaintDisrupted, Effect: corev1.TaintEffectNoSchedule})
				l.j.seeNode(l.node)
			},
		},
		"room that a finished pod has left may be taken": {
			more: func(l *life) {
				l.pod.Status.Phase = corev1.PodSucceeded
				l.j.seePod(l.pod.DeepCopy())
				l.after(10, func() { l.j.seePod(second(l)) })
			},
		},
		"wrong architecture": {
			bend: func(l *life) {
				l.node.Labels[corev1.LabelArchStable], l.node.Status.NodeInfo.Architecture = "amd64", "amd64"
			},
			want: "whose labels its selector or affinity does not match",
		},
		"the label says another architecture than the kubelet": {
			bend: func(l *life) { l.node.Status.NodeInfo.Architecture = "amd64" },
			want: `label kubernetes.io/arch is "arm64", not "amd64"`,
		},
		"a taint that the pod does not tolerate": {
			bend: func(l *life) {
				taint := corev1.Taint{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}
				l.claim.Spec.Taints = append(l.claim.Spec.Taints, taint)
				l.node.Spec.Taints = l.claim.Spec.Taints
			},
			want: "does not tolerate its taint gpu:NoSchedule",
		},
		"too small": {
			bend: func(l *life) { l.node.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("900m") },
			want: "n1 has 900m cpu and its pods want 1 once web is there",
		},
		"too small for two at once": {
			more: func(l *life) { l.j.seePod(second(l)) },
			want: "n1 has 1 cpu and its pods want 2",
		},
		"no GPU": {
			bend: func(l *life) {
				l.pod.Spec.Containers[0].Resources.Requests["nvidia.com/gpu"] = resource.MustParse("1")
			},
			want: "n1 has 0 nvidia.com/gpu and its pods want 1",
		},
		"on a node of somebody else": {
			bend: func(l *life) { l.node.Spec.ProviderID = "aws:///a/i-9" },
			want: `no Node has the provider id "aws:///a/i-1"`,
		},
		"another type than the claim says": {
			bend: func(l *life) { l.instance.Type = "m7g.large" },
			want: "the claim says i-1 m7g.medium spot a, EC2 says i-1 m7g.large spot a",
		},
		"bought as on-demand": {
			bend: func(l *life) { l.claim.Spec.Offerings[0].CapacityType = "on-demand" },
			want: "i-1 is none of the claim's 1 offerings",
		},
		"without the tag of its claim's UID": {
			bend: func(l *life) { delete(l.instance.Tags, v1alpha1.TagNodeClaimUID) },
			want: `tag berth.dev/nodeclaim-uid of i-1 is "", not "claim-1"`,
		},
		"two instances for one claim": {
			more: func(l *life) {
				twin := l.instance
				twin.ID = "i-2"
				l.j.seeInstances([]cluster.Instance{twin})
			},
			want: "EC2 has 2 instances for claim default-a",
		},
		"a label of the claim is missing": {
			bend: func(l *life) { delete(l.node.Labels, "team") },
			want: `label team is "", not "x"`,
		},
		"a taint of the claim is missing": {
			bend: func(l *life) { l.node.Spec.Taints = nil },
			want: "taint own:PreferNoSchedule is missing",
		},
		"the taint of an unregistered node stays": {
			bend: func(l *life) {
				l.node.Spec.Taints = append(l.node.Spec.Taints, corev1.Taint{Key: v1alpha1.TaintUnregistered, Effect: corev1.TaintEffectPreferNoSchedule})
			},
			want: "taint berth.dev/unregistered:PreferNoSchedule is none of the claim's",
		},
		"no finalizer": {
			bend: func(l *life) { l.node.Finalizers = nil },
			want: "lacks the finalizer",
		},
		"no seat was held": {
			bend: func(l *life) { l.seat = "" },
			want: "that is fewer than half",
		},
		"no seat is to be held": {
			bend: func(l *life) { l.claim.Spec.Binding, l.seat = v1alpha1.BindingScheduler, "" },
		},
		"the impossible pod needs no hint": {
			bend: func(l *life) { l.impossible.Annotations = nil },
		},
		"no hint": {
			bend: func(l *life) { l.pod.Annotations = nil },
			want: "web has no annotation berth.dev/placement",
		},
		"the impossible pod is not told": {
			bend: func(l *life) { l.noBerth.Reason = "Other" },
			want: "it was told 0 times",
		},
		"the impossible pod is told twice": {
			more: func(l *life) {
				again := l.noBerth.DeepCopy()
				again.UID = "event-2"
				l.j.seeEvent(again)
			},
			want: "it was told 2 times",
		},
		"the impossible pod is told again and again": {
			bend: func(l *life) { l.noBerth.Series = &corev1.EventSeries{Count: 7} },
			want: "it was told 7 times",
		},
		"the impossible pod runs": {
			bend: func(l *life) { l.impossible.Status.Phase = corev1.PodRunning },
			want: "it is Running",
		},
		"a node that carries nothing": {
			more: func(l *life) {
				idle := l.claim.DeepCopy()
				idle.UID, idle.Name, idle.Status = "claim-2", "default-b", v1alpha1.NodeClaimStatus{}
				l.j.seeClaim(idle)
			},
			want: "n2 (m7g.medium spot a) carries no pod",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLife()
			if tt.bend != nil {
				tt.bend(l)
			}
			l.arrive()
			if tt.more != nil {
				tt.more(l)
			}
			var problems []string
			for _, c := range arrivalChecksOf(l) {
				problems = append(problems, c.problems...)
			}
			got := strings.Join(problems, "\n")
			if tt.want == "" && got != "" {
				t.Errorf("complaints:\n%s\nwant none", got)
			}
			if !strings.Contains(got, tt.want) {
				t.Errorf("complaints:\n%s\nnone says %q", got, tt.want)
			}
		})
	}
}

// second is another pod on the node, bound now.
func second(l *life) *corev1.Pod {
	p := l.pod.DeepCopy()
	p.UID, p.Name, p.Status.Phase, p.Status.NominatedNodeName = "pod-3", "web-2", corev1.PodRunning, "ip-1"
	return p
}

func TestCheckSpread(t *testing.T) {
	three := int32(3)
	tests := map[string]struct {
		zones      []string
		minDomains *int32
		// name and problem are what the check must say; "" for no problem.
		name, problem string
	}{
		"even over three zones": {
			zones: []string{"a", "b", "c", "a", "b", "c"}, minDomains: &three,
			name: "Deployment default/web is spread over zones: a x2, b x2, c x2",
		},
		"one more in one zone": {zones: []string{"a", "b", "a"}, name: "Deployment default/web is spread over zones: a x2, b x1"},
		"too many in one zone": {zones: []string{"a", "b", "a", "a"}, name: "Deployment default/web is spread over zones: a x3, b x1", problem: "skew 2, at most 1 is allowed"},
		"all in one zone":      {zones: []string{"a"}, name: "Deployment default/web is spread over zones: a x1", problem: "1 zones, at least 2 were to be used"},
		"fewer zones than its minDomains": {
			zones: []string{"a", "b"}, minDomains: &three,
			name: "Deployment default/web is spread over zones: a x1, b x1", problem: "2 zones, at least 3 were to be used",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLife()
			yes := true
			for i, zone := range tt.zones {
				id := string(rune('1' + i))
				claim := l.claim.DeepCopy()
				claim.UID, claim.Name = types.UID("claim-"+id), "claim-"+id
				claim.Status.NodeName, claim.Status.ProviderID = "ip-"+id, "aws:///"+zone+"/i-"+id
				l.j.seeClaim(claim)
				node := l.node.DeepCopy()
				node.UID, node.Name, node.Spec.ProviderID, node.Labels[corev1.LabelTopologyZone] = types.UID("node-"+id), "ip-"+id, claim.Status.ProviderID, zone
				l.j.seeNode(node)
				pod := l.pod.DeepCopy()
				pod.UID, pod.Name, pod.Spec.NodeName = types.UID("pod-"+id), "web-h-"+id, "ip-"+id
				pod.Labels = map[string]string{"pod-template-hash": "h"}
				pod.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-h", Controller: &yes}}
				l.j.seePod(pod)
			}
			want := workload{name: "Deployment default/web", spec: corev1.PodSpec{TopologySpreadConstraints: []corev1.TopologySpreadConstraint{
				{MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, MinDomains: tt.minDomains},
				{MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway},
			}}}
			var checks []check
			l.j.look(func(w *world) { checks = checkSpread(w, want) })
			if len(checks) != 1 {
				t.Fatalf("%d checks, want 1: only hard constraints count", len(checks))
			}
			if checks[0].name != tt.name {
				t.Errorf("name %q, want %q", checks[0].name, tt.name)
			}
			if got := strings.Join(checks[0].problems, "\n"); got != tt.problem {
				t.Errorf("problem %q, want %q", got, tt.problem)
			}
		})
	}
}

func TestCheckStatus(t *testing.T) {
	p := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	p.Status.Nodes, p.Status.HourlyCost = 1, "0.1"
	if got := checkStatus(p, 1, 0.1); len(got) > 0 {
		t.Errorf("complaints %q, want none", got)
	}
	want := "the status of Provisioner default says 1 nodes at $0.1000/h; it has 0 at $0.0000/h"
	if got := checkStatus(p, 0, 0); len(got) != 1 || got[0] != want {
		t.Errorf("complaints %q, want %q", got, want)
	}
}
