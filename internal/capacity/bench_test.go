package capacity_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/catalog"
)

// benchProvisioner buys amd64 c, m and r types in one region of the embedded
// catalogue with these capacity types.
func benchProvisioner(region string, capacityTypes ...string) *capacity.Provisioner {
	spec := &v1alpha1.ProvisionerSpec{Requirements: []v1alpha1.Requirement{
		{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: capacityTypes},
	}}
	return &capacity.Provisioner{Name: "default", Spec: spec,
		InstanceTypes: capacity.InstanceTypes(catalog.Default().Machines(region), spec, capacity.Resolved{}, time.Now())}
}

func benchMachines(region string) []capacity.Machine { return catalog.Default().Machines(region) }

func benchPod(name, app string, milliCPU, memoryMiB int64) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU:    *resource.NewMilliQuantity(milliCPU, resource.DecimalSI),
			corev1.ResourceMemory: *resource.NewQuantity(memoryMiB<<20, resource.BinarySI),
		}}}}},
	}
}

// mixedPods are n pods of that many shapes of everyday sizes.
func mixedPods(n, shapes int) []*corev1.Pod {
	r := rand.New(rand.NewPCG(1, uint64(shapes)))
	type size struct{ cpu, mem int64 }
	sizes := make([]size, shapes)
	for i := range sizes {
		cpu := int64(50 * (1 + r.IntN(80)))
		sizes[i] = size{cpu, cpu * int64(64*(1+r.IntN(100))) / 1000}
	}
	pods := make([]*corev1.Pod, n)
	for i := range pods {
		s := i % shapes
		pods[i] = benchPod(fmt.Sprintf("p-%05d", i), fmt.Sprintf("app-%d", s), sizes[s].cpu, sizes[s].mem)
	}
	return pods
}

func BenchmarkSolveWithBudget(b *testing.B) {
	for _, bc := range []struct {
		name          string
		pods          []*corev1.Pod
		capacityTypes []string
	}{
		{"5000-pods-50-shapes-on-demand-100ms", mixedPods(5000, 50), []string{"on-demand"}},
		{"5000-pods-50-shapes-spot-too-100ms", mixedPods(5000, 50), []string{"on-demand", "spot"}},
		{"50-pods-100ms", mixedPods(50, 15), []string{"on-demand"}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			benchSolve(b, &capacity.Snapshot{Now: time.Now(), Region: "us-west-2", Pods: bc.pods, Budget: 100 * time.Millisecond,
				Provisioners: []*capacity.Provisioner{benchProvisioner("us-west-2", bc.capacityTypes...)}})
		})
	}
}

func benchSolve(b *testing.B, s *capacity.Snapshot) {
	b.Helper()
	b.ReportAllocs()
	var p *capacity.Plan
	for b.Loop() {
		p = capacity.Solve(s)
	}
	if len(p.Unschedulable) > 0 {
		b.Fatalf("%d pods have no place: %+v", len(p.Unschedulable), p.Unschedulable[0])
	}
	b.ReportMetric(100*p.Gap(), "gap%")
	b.ReportMetric(float64(len(p.Launches)), "nodes")
	b.ReportMetric(float64(len(s.Pods))/(b.Elapsed().Seconds()/float64(b.N)), "pods/s")
}

func BenchmarkSolve(b *testing.B) {
	for _, bc := range []struct {
		name          string
		pods          func() []*corev1.Pod
		capacityTypes []string
	}{
		{"1000-identical", func() []*corev1.Pod { return mixedPods(1000, 1) }, []string{"on-demand"}},
		{"5000-pods-50-shapes-on-demand", func() []*corev1.Pod { return mixedPods(5000, 50) }, []string{"on-demand"}},
		{"5000-pods-50-shapes-spot-too", func() []*corev1.Pod { return mixedPods(5000, 50) }, []string{"on-demand", "spot"}},
		{"5000-pods-in-fifths-of-constraints", func() []*corev1.Pod { return fifths(5000) }, []string{"on-demand", "spot"}},
		{"50-pods", func() []*corev1.Pod { return mixedPods(50, 15) }, []string{"on-demand"}},
		{"5000-all-distinct", func() []*corev1.Pod { return mixedPods(5000, 5000) }, []string{"on-demand"}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			benchSolve(b, &capacity.Snapshot{Now: time.Now(), Region: "us-west-2", Pods: bc.pods(),
				Provisioners: []*capacity.Provisioner{benchProvisioner("us-west-2", bc.capacityTypes...)}})
		})
	}
}

// fifths are pods of which a fifth each is plain, spread over zones, spread
// over hosts, together in a zone, and apart on hosts.
func fifths(n int) []*corev1.Pod {
	pods := mixedPods(n, 50)
	for i, p := range pods {
		self := &metav1.LabelSelector{MatchLabels: p.Labels}
		spread := func(key string) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: key,
				WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: self}}
		}
		terms := func(key string) []corev1.PodAffinityTerm {
			return []corev1.PodAffinityTerm{{TopologyKey: key, LabelSelector: self}}
		}
		switch i % 5 {
		case 1:
			spread(corev1.LabelTopologyZone)
		case 2:
			spread(corev1.LabelHostname)
		case 3:
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms(corev1.LabelTopologyZone)}}
		case 4:
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms(corev1.LabelHostname)}}
		}
	}
	return pods
}

func BenchmarkVerdict(b *testing.B) {
	index := capacity.NewIndex([]*capacity.Provisioner{benchProvisioner("us-west-2", "on-demand", "spot")}, nil)
	plain := benchPod("p", "a", 500, 1024)
	arch := benchPod("p", "a", 500, 1024)
	arch.Spec.NodeSelector = map[string]string{corev1.LabelArchStable: "amd64", corev1.LabelTopologyZone: "us-west-2b"}
	huge := benchPod("p", "a", 500_000, 1024)
	for _, bc := range []struct {
		name string
		pod  *corev1.Pod
		fits bool
	}{{"plain", plain, true}, {"selective", arch, true}, {"hopeless", huge, false}} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if c, rs := index.Verdict(bc.pod); (c != nil) != bc.fits {
					b.Fatalf("got %v and %v", c, rs)
				}
			}
		})
	}
}
