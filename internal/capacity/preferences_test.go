package capacity_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/internal/capacity"
)

// alike are n pods of one app to which prefer adds what they prefer.
func alike(n int, milliCPU int64, prefer func(*corev1.Pod)) []*corev1.Pod {
	pods := make([]*corev1.Pod, n)
	for i := range pods {
		pods[i] = benchPod(fmt.Sprintf("p-%03d", i), "web", milliCPU, 4*milliCPU)
		prefer(pods[i])
	}
	return pods
}

func preferZone(zone string, weight int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
			{Weight: weight, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
				{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{zone}}}}}}}}
	}
}

func preferApart(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{Weight: 100, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}}}}
	}
}

func spreadAnyway(p *corev1.Pod) {
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone,
		WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}
}

func planFor(t *testing.T, pods []*corev1.Pod, nodes ...*capacity.Node) *capacity.Plan {
	t.Helper()
	p := capacity.Solve(&capacity.Snapshot{Now: time.Now(), Region: "us-west-2", Pods: pods, Nodes: nodes, Provisioners: []*capacity.Provisioner{benchProvisioner("us-west-2", "on-demand")}})
	if len(p.Unschedulable) > 0 {
		t.Fatalf("a preference cost a pod its place: %+v", p.Unschedulable[0].Reasons)
	}
	return p
}

func TestPreferencesDecideWhereTheyCostNothing(t *testing.T) {
	plain := planFor(t, alike(60, 1000, func(*corev1.Pod) {}))
	t.Run("a preferred zone is where nodes are bought", func(t *testing.T) {
		p := planFor(t, alike(60, 1000, preferZone("us-west-2c", 1)))
		for _, l := range p.Launches {
			if l.Zone != "us-west-2c" {
				t.Errorf("a node is bought in %s", l.Zone)
			}
		}
		if p.HourlyCost > plain.HourlyCost*1.0001 || p.Objective.Unmet != 0 {
			t.Errorf("got %.4f $/h with %d pods unhappy, want %.4f with none", p.HourlyCost, p.Objective.Unmet, plain.HourlyCost)
		}
	})
	t.Run("a zone that does not exist changes nothing", func(t *testing.T) {
		p := planFor(t, alike(60, 1000, preferZone("nowhere", 100)))
		if p.HourlyCost > plain.HourlyCost*1.0001 || p.Objective.Unmet != 60 {
			t.Errorf("got %.4f $/h with %d pods unhappy, want %.4f with 60", p.HourlyCost, p.Objective.Unmet, plain.HourlyCost)
		}
	})
	t.Run("pods that would rather be apart get no nodes of their own", func(t *testing.T) {
		p := planFor(t, alike(60, 1000, preferApart(corev1.LabelHostname)))
		if p.HourlyCost > plain.HourlyCost*1.0001 {
			t.Errorf("got %.4f $/h, want %.4f", p.HourlyCost, plain.HourlyCost)
		}
	})
}

func TestScheduleAnywaySpreadsNodesOfOnePriceOverZones(t *testing.T) {
	// Each pod fills most of the largest node there is for it.
	p := planFor(t, alike(9, 180_000, spreadAnyway))
	zones := map[string]int{}
	for _, l := range p.Launches {
		zones[l.Zone] += len(l.Pods)
	}
	if len(zones) < 3 {
		t.Errorf("nine pods are in zones %v, want them spread", zones)
	}
}

func TestPodsApartTakeTheEmptierOfTwoNodesThatAreThere(t *testing.T) {
	node := func(name string, pods ...*corev1.Pod) *capacity.Node {
		return &capacity.Node{Name: name, Labels: map[string]string{corev1.LabelHostname: name}, Pods: pods,
			Allocatable: capacity.Resources{"cpu": 8000, "memory": 32 << 30, "pods": 20}}
	}
	there := benchPod("old", "web", 1000, 1000)
	there.Spec.NodeName = "a"
	p := planFor(t, alike(1, 1000, preferApart(corev1.LabelHostname)), node("a", there), node("b"))
	if len(p.Placements) != 1 || p.Placements[0].Node.Name != "b" {
		t.Errorf("got %+v, want node b", p.Placements)
	}
}

func TestPodsOfOneOwnerAreOnSeveralNewNodes(t *testing.T) {
	yes := true
	pods := alike(40, 60_000, func(*corev1.Pod) {})
	for i, p := range pods {
		name := []string{"x", "y"}[i/20]
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: name, UID: types.UID(name), Controller: &yes}}
	}
	for _, l := range planFor(t, pods).Launches {
		owners := map[types.UID]int{}
		for _, p := range l.Pods {
			owners[p.OwnerReferences[0].UID]++
		}
		if len(l.Pods) > 1 && len(owners) < 2 {
			t.Errorf("all %d pods of a node are of one owner", len(l.Pods))
		}
	}
}
