package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The story names parts of the examples: they must be there.
func TestReadExamples(t *testing.T) {
	t.Chdir("../..")
	d := &demo{}
	if err := d.read(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{web, spotZonal, batch} {
		if w := d.wanted(name); w.pods < 2 {
			t.Errorf("%s makes %d pods, want several", name, w.pods)
		}
	}
	if got := d.wanted(spotZonal).spec.TopologySpreadConstraints; len(got) == 0 || got[0].WhenUnsatisfiable != corev1.DoNotSchedule {
		t.Errorf("%s has no hard spread to check: %v", spotZonal, got)
	}
}

func TestWorkloads(t *testing.T) {
	objects, err := decode([]byte(`
# nothing but a comment
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  template:
    spec:
      nodeSelector: {berth.dev/capacity-type: spot}
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}
      containers:
      - {name: a, resources: {requests: {cpu: 500m, memory: 1Gi}}}
      - {name: b, resources: {requests: {cpu: "1"}, limits: {nvidia.com/gpu: 2, cpu: "4"}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
---
apiVersion: batch/v1
kind: Job
metadata: {name: batch}
spec: {template: {spec: {containers: [{name: a}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/arch, operator: In, values: [arm64, amd64]}, {key: x, operator: Exists}]}]}}}
  containers: [{name: a}]
`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := workloads(objects)
	if err != nil {
		t.Fatal(err)
	}
	type seen struct {
		Name string
		Pods int
		Wish string
	}
	var all []seen
	for _, w := range got {
		all = append(all, seen{w.name, w.pods, wish(&w.spec)})
	}
	want := []seen{
		{"Deployment shop/web", 3, "1500m CPU, 1Gi, 2 nvidia.com/gpu, capacity-type=spot, spread over zones, skew at most 1"},
		{"Job default/batch", 1, ""},
		{"Pod default/one", 1, "arch In arm64|amd64, x Exists"},
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("workloads (-want +got):\n%s", diff)
	}
}

func TestWorkloadOf(t *testing.T) {
	yes := true
	pod := func(kind, owner, hash string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Labels: map[string]string{"pod-template-hash": hash}}}
		if kind != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: owner, Controller: &yes}}
		}
		return p
	}
	tests := map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"of a Deployment":        {pod("ReplicaSet", "web-7d9", "7d9"), "Deployment ns/web"},
		"of a ReplicaSet itself": {pod("ReplicaSet", "web", ""), "ReplicaSet ns/web"},
		"of a Job":               {pod("Job", "batch", ""), "Job ns/batch"},
		"on its own":             {pod("", "", ""), "Pod ns/p"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := workloadOf(tt.pod); got != tt.want {
				t.Errorf("workload %q, want %q", got, tt.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n{\"kind\":\"Job\"}"))
	f.Add([]byte("- a list\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		objects, err := decode(data)
		if err == nil {
			_, _ = workloads(objects) // Must not panic on what only looks like a manifest.
		}
	})
}
