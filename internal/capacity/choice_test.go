package capacity_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// TestWhatIsRequiredBesideChangesNoSpread: kube-scheduler leaves out of a spread the
// nodes that the pod itself rules out, and no others. One pod runs in zone a, and zone
// c has a full node without any: the next may go to b or c, and not to a.
func TestWhatIsRequiredBesideChangesNoSpread(t *testing.T) {
	spot := capacity.KeepsChoice("spot")
	for name, tc := range map[string]struct {
		also  *corev1.NodeSelector
		zones []string // where nodes are sold
		want  string   // empty: no place
	}{
		"nothing":                         {nil, []string{"us-west-2a", "us-west-2b"}, "us-west-2b"},
		"a capacity type":                 {spot, []string{"us-west-2a", "us-west-2b"}, "us-west-2b"},
		"a capacity type, sold in a":      {spot, []string{"us-west-2a"}, ""},
		"not to be on nodes":              {capacity.NotOn([]string{"in-a", "in-c"}), []string{"us-west-2a", "us-west-2b"}, "us-west-2b"},
		"not to be on nodes, others in a": {capacity.NotOn([]string{"in-a", "in-c"}), []string{"us-west-2a"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := waitingFor(1, &storagev1.StorageClass{})
			pod := s.Pods[0]
			pod.Spec.Volumes = nil
			pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone,
				WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels}}}
			p := s.Provisioners[0]
			p.Spec.Requirements = []v1alpha1.Requirement{{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: []string{"spot"}}}
			machine := capacity.Machine{Name: "m7i.large", VCPUs: 2, MemoryMiB: 8192, Arch: "amd64", CurrentGeneration: true}
			for i, z := range tc.zones {
				machine.Offerings = append(machine.Offerings, capacity.Offering{Zone: z, CapacityType: "spot", Price: 0.1 + float64(i)})
			}
			p.InstanceTypes = capacity.InstanceTypes([]capacity.Machine{machine}, p.Spec, capacity.Resolved{}, testNow)
			node := func(name, zone, capacityType string, pods ...*corev1.Pod) {
				s.Nodes = append(s.Nodes, &capacity.Node{Name: name, Pods: pods, Labels: map[string]string{
					corev1.LabelHostname: name, corev1.LabelTopologyZone: zone, v1alpha1.LabelCapacityType: capacityType}})
			}
			runs := pod.DeepCopy()
			runs.Name, runs.UID, runs.Spec.NodeName = "runs", "runs", "in-a"
			node("in-a", "us-west-2a", "spot", runs)
			node("in-c", "us-west-2c", "on-demand")
			if tc.also != nil {
				s.Require(pod, tc.also)
			}
			got := ""
			plan := capacity.Solve(s)
			for _, l := range plan.Launches {
				got = l.Zone
			}
			if got != tc.want {
				t.Errorf("bought in %q, want %q\n%s", got, tc.want, describe(plan))
			}
		})
	}
}

// TestWhatIsRequiredBesideHoldsForPodsThatMove: without it, spot is bought for them.
func TestWhatIsRequiredBesideHoldsForPodsThatMove(t *testing.T) {
	bought := map[string]map[string]int{}
	for _, choice := range []string{"", "on-demand"} {
		bought[choice] = map[string]int{}
		in := spotTown(0).input()
		for p := range in.Pods {
			if choice != "" {
				in.Snapshot.Require(p, capacity.KeepsChoice(choice))
			}
		}
		for _, d := range capacity.Consolidate(in).Decisions {
			for _, l := range d.Launches {
				bought[choice][l.CapacityType]++
			}
		}
	}
	if bought[""]["spot"] == 0 || bought["on-demand"]["spot"] > 0 || bought["on-demand"]["on-demand"] == 0 {
		t.Errorf("bought: %v", bought)
	}
}

// TestWhatIsRequiredBesideHolds for nodes that are there and for those to buy.
func TestWhatIsRequiredBesideHolds(t *testing.T) {
	s := waitingFor(3, &storagev1.StorageClass{})
	for _, n := range []string{"n1", "n2"} {
		s.Nodes = append(s.Nodes, &capacity.Node{Name: n, Labels: map[string]string{corev1.LabelHostname: n, v1alpha1.LabelCapacityType: "spot"},
			Allocatable: capacity.Resources{corev1.ResourceCPU: 8000, corev1.ResourceMemory: 1 << 34, corev1.ResourcePods: 10}})
	}
	for i, p := range s.Pods {
		p.Spec.Volumes = nil
		s.Require(p, []*corev1.NodeSelector{capacity.NotOn([]string{"n1"}), capacity.NotOn([]string{"n1", "n2"}), capacity.KeepsChoice("on-demand")}[i])
	}
	plan := capacity.Solve(s)
	if len(plan.Placements) != 1 || plan.Placements[0].Pod != s.Pods[0] || plan.Placements[0].Node.Name != "n2" {
		t.Errorf("not on n2 alone: %s", describe(plan))
	}
	if len(plan.Launches) != 1 || len(plan.Launches[0].Pods) != 2 || plan.Launches[0].CapacityType != "on-demand" {
		t.Errorf("the others have no new node: %s", describe(plan))
	}
}
