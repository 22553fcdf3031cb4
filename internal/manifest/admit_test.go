package manifest

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const classes = `
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: boxed}
handler: boxed
overhead: {podFixed: {cpu: 250m}}
scheduling: {nodeSelector: {sandbox: "yes", disk: fast}, tolerations: [{key: sandbox, operator: Exists}]}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: bare}
handler: bare
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 1000
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: usual}
value: 7
globalDefault: true
`

func TestClassesGiveNewPodsWhatTheAPIServerWouldGiveThem(t *testing.T) {
	pod := func(spec string) string {
		return "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {" + spec + "containers: [{name: c}]}\n"
	}
	type got struct {
		Overhead, Selector, Tolerations, Notes string
		Priority                               int32
	}
	tests := map[string]struct {
		in   string
		want got
	}{
		"overhead, selector and tolerations of a RuntimeClass": {classes + pod("runtimeClassName: boxed, nodeSelector: {zone: a, disk: slow}, "),
			got{Overhead: "250m", Selector: "disk=fast,sandbox=yes,zone=a", Tolerations: "sandbox", Priority: 7}},
		"a RuntimeClass that gives nothing": {classes + pod("runtimeClassName: bare, "), got{Priority: 7}},
		"a RuntimeClass that is not given":  {classes + pod("runtimeClassName: other, "), got{Priority: 7, Notes: "RuntimeClass other is not given: its pods are taken to have no overhead"}},
		"what the pod brings from a cluster": {classes + pod("runtimeClassName: boxed, overhead: {cpu: 1}, priority: 3, priorityClassName: high, "),
			got{Overhead: "1", Priority: 3}},
		"the priority of a class":            {classes + pod("priorityClassName: high, "), got{Priority: 1000}},
		"of one that every cluster has":      {classes + pod("priorityClassName: system-node-critical, "), got{Priority: 2000001000}},
		"of one that is not given":           {classes + pod("priorityClassName: other, "), got{Notes: "PriorityClass other is not given: its pods are taken to have priority 0"}},
		"no priority without a default":      {pod(""), got{}},
		"workloads' pods, too":               {classes + "---\napiVersion: v1\nkind: ReplicationController\nmetadata: {name: r}\nspec: {template: {spec: {runtimeClassName: boxed, containers: [{name: c}]}}}\n", got{Overhead: "250m", Selector: "disk=fast,sandbox=yes", Tolerations: "sandbox", Priority: 7}},
		"DaemonSets' pods, with less to say": {classes + "---\napiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: d}\nspec: {template: {spec: {runtimeClassName: boxed, containers: [{name: c}]}}}\n", got{Overhead: "250m", Selector: "disk=fast,sandbox=yes", Tolerations: "sandbox", Priority: 7}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			set := read(t, tt.in)
			snap := set.Snapshot(Options{})
			p := slices.Concat(snap.Pods, snap.DaemonSetPods)[0]
			g := got{Selector: metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: p.Spec.NodeSelector})}
			if len(p.Spec.NodeSelector) == 0 {
				g.Selector = ""
			}
			if q, ok := p.Spec.Overhead[corev1.ResourceCPU]; ok {
				g.Overhead = q.String()
			}
			for _, x := range p.Spec.Tolerations {
				if !strings.HasPrefix(x.Key, "node.kubernetes.io/") {
					g.Tolerations += x.Key
				}
			}
			if p.Spec.Priority != nil {
				g.Priority = *p.Spec.Priority
			}
			for _, n := range set.Notes() {
				if strings.Contains(n, "Class") {
					g.Notes += n
				}
			}
			if d := cmp.Diff(tt.want, g); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestPodsOfOneWorkloadDoNotShareTolerationsByAccident(t *testing.T) {
	set := read(t, classes+"---\napiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: r}\nspec: {replicas: 2, template: {spec: {runtimeClassName: boxed, tolerations: [{key: a}], containers: [{name: c}]}}}\n")
	for range 2 {
		for _, p := range set.Snapshot(Options{}).Pods {
			if len(p.Spec.Tolerations) != 2 {
				t.Errorf("%s has tolerations %v", p.Name, p.Spec.Tolerations)
			}
		}
	}
}

func TestDefaultSpreadKnowsWhatPodsBelongTo(t *testing.T) {
	spread := []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule}}
	set := read(t, `
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {selector: {app: web}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c}]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: s}
spec: {selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c}]}}}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: r}
spec: {selector: {app: old}, template: {metadata: {labels: {app: old}}, spec: {containers: [{name: c}]}}}
`)
	if snap := set.Snapshot(Options{}); len(snap.DefaultSpread)+len(snap.Services)+len(snap.OwnerSelectors) > 0 {
		t.Error("something is read without default constraints")
	}
	snap := set.Snapshot(Options{DefaultSpread: spread})
	if len(snap.Services) != 1 || len(snap.DefaultSpread) != 1 {
		t.Errorf("%d Services, %d constraints", len(snap.Services), len(snap.DefaultSpread))
	}
	for _, p := range snap.Pods {
		o := metav1.GetControllerOf(p)
		sel, err := metav1.LabelSelectorAsSelector(snap.OwnerSelectors[o.Kind+"/"+p.Namespace+"/"+o.Name])
		if err != nil || sel.Empty() || sel.String() == "" {
			t.Errorf("%s %s has no selector", o.Kind, o.Name)
		}
	}
}
