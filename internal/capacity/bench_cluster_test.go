package capacity_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// tie makes a pod's place hang on the others of its app.
type tie func(p *corev1.Pod)

func spreadTie(keys ...string) tie {
	return func(p *corev1.Pod) {
		for _, key := range keys {
			p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, corev1.TopologySpreadConstraint{MaxSkew: 1, TopologyKey: key,
				WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}}})
		}
	}
}

func apartTie(key string, preferred bool) tie {
	return func(p *corev1.Pod) {
		t := corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}}}
		a := &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{t}}
		if preferred {
			a = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: t}}}
		}
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: a}
	}
}

func plainTie(*corev1.Pod) {}

// busyCluster is a Snapshot of 1,000 nodes with 20,000 pods of 1,000 apps, tied
// like those that wait, of which there are each of the first apps apps.
func busyCluster(apps, each int, t tie) *capacity.Snapshot {
	spec := &v1alpha1.ProvisionerSpec{Requirements: []v1alpha1.Requirement{
		{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: []string{"spot", "on-demand"}},
		{Key: corev1.LabelArchStable, Operator: v1alpha1.OperatorIn, Values: []string{"amd64", "arm64"}},
		{Key: v1alpha1.LabelInstanceCategory, Operator: v1alpha1.OperatorExists},
		{Key: v1alpha1.LabelInstanceGeneration, Operator: v1alpha1.OperatorGt, Values: []string{"0"}},
	}}
	p := benchProvisioner("us-west-2", "spot", "on-demand")
	p.Spec = spec
	p.InstanceTypes = capacity.InstanceTypes(benchMachines("us-west-2"), spec, capacity.Resolved{}, time.Now())
	s := &capacity.Snapshot{Now: time.Now(), Region: "us-west-2", Provisioners: []*capacity.Provisioner{p}}
	zones := []string{"us-west-2a", "us-west-2b", "us-west-2c"}
	for n := range 1000 {
		node := &capacity.Node{Name: fmt.Sprintf("node-%04d", n), Provisioner: "default", HourlyPrice: 0.768,
			Labels:      map[string]string{corev1.LabelTopologyZone: zones[n%3], corev1.LabelArchStable: "amd64", corev1.LabelInstanceTypeStable: "m6i.4xlarge"},
			Allocatable: capacity.Resources{corev1.ResourceCPU: 15890, corev1.ResourceMemory: 57 << 30, corev1.ResourcePods: 234}}
		node.Labels[corev1.LabelHostname] = node.Name
		for k := range 20 {
			// The twenty pods of an app are on twenty nodes, in all zones.
			bound := benchPod(fmt.Sprintf("bound-%d-%d", n, k), fmt.Sprintf("app-%d", (n+51*k)%1000), 700, 2048)
			bound.Spec.NodeName = node.Name
			t(bound)
			node.Pods = append(node.Pods, bound)
		}
		s.Nodes = append(s.Nodes, node)
	}
	for i := range apps * each {
		pending := benchPod(fmt.Sprintf("pending-%05d", i), fmt.Sprintf("app-%d", i/each), 500+int64(i/each%10)*100, 1024)
		t(pending)
		s.Pods = append(s.Pods, pending)
	}
	return s
}

// The first plan of a large cluster whose pods are tied to each other.
func BenchmarkFirstPlanOfABusyCluster(b *testing.B) {
	for _, bc := range []struct {
		name       string
		apps, each int
		tie        tie
	}{
		{"plain-1000x3", 1000, 3, plainTie},
		{"zone-spread-100x3", 100, 3, spreadTie(corev1.LabelTopologyZone)},
		{"zone-spread-1000x3", 1000, 3, spreadTie(corev1.LabelTopologyZone)},
		{"zone-and-host-spread-1000x3", 1000, 3, spreadTie(corev1.LabelTopologyZone, corev1.LabelHostname)},
		{"host-anti-affinity-1000x3", 1000, 3, apartTie(corev1.LabelHostname, false)},
		{"preferred-anti-affinity-1000x3", 1000, 3, apartTie(corev1.LabelHostname, true)},
	} {
		b.Run(bc.name, func(b *testing.B) {
			s := busyCluster(bc.apps, bc.each, bc.tie)
			for b.Loop() {
				capacity.Solve(s)
			}
		})
	}
	b.Run("zone-anti-affinity-1000x3", func(b *testing.B) {
		// Of apps that are new: those that run are in all zones.
		s := busyCluster(1000, 3, apartTie(corev1.LabelTopologyZone, false))
		for _, p := range s.Pods {
			p.Labels["app"] = "new-" + p.Labels["app"]
			apartTie(corev1.LabelTopologyZone, false)(p)
		}
		for b.Loop() {
			capacity.Solve(s)
		}
	})
}

// One more pod, on a cluster that is remembered.
func BenchmarkOneMorePodOfABusyCluster(b *testing.B) {
	for _, bc := range []struct {
		name string
		tie  tie
	}{
		{"plain", plainTie},
		{"zone-spread", spreadTie(corev1.LabelTopologyZone)},
		{"zone-and-host-spread", spreadTie(corev1.LabelTopologyZone, corev1.LabelHostname)},
		{"host-anti-affinity", apartTie(corev1.LabelHostname, false)},
		{"preferred-anti-affinity", apartTie(corev1.LabelHostname, true)},
	} {
		b.Run(bc.name, func(b *testing.B) {
			s := busyCluster(1, 1, bc.tie)
			m := capacity.NewMemory()
			m.Solve(s)
			n := 0
			for b.Loop() {
				n++
				more := *s
				pod := benchPod(fmt.Sprintf("more-%d", n), fmt.Sprintf("app-%d", n%1000), 500, 1024)
				bc.tie(pod)
				more.Pods = []*corev1.Pod{pod}
				m.Solve(&more)
			}
		})
	}
}
