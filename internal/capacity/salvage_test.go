package capacity_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// inBatches plans the pods so many at a time, each batch on what the ones before
// have bought, and returns the nodes.
func inBatches(t *testing.T, pods []*corev1.Pod, size int) (nodes []*capacity.Node) {
	t.Helper()
	provisioner := benchProvisioner("us-west-2", "on-demand")
	for batch := range slices.Chunk(pods, size) {
		plan := capacity.Solve(&capacity.Snapshot{Now: time.Now(), Region: "us-west-2", Pods: batch, Nodes: nodes,
			DaemonSetPods: []*corev1.Pod{benchPod("agent", "agent", 300, 400)},
			Provisioners:  []*capacity.Provisioner{provisioner}})
		if len(plan.Unschedulable) > 0 {
			t.Fatalf("a pod has no place: %+v", plan.Unschedulable[0])
		}
		for _, p := range plan.Placements {
			p.Node.Pods = append(p.Node.Pods, p.Pod)
		}
		for i := range plan.Launches {
			l := &plan.Launches[i]
			n := &capacity.Node{Name: fmt.Sprintf("n-%d", len(nodes)), Labels: l.Labels, Taints: l.Taints, Allocatable: l.Allocatable,
				Pods: l.Pods, Provisioner: l.Provisioner.Name, HourlyPrice: l.Price}
			n.Labels[corev1.LabelHostname] = n.Name
			nodes = append(nodes, n)
		}
	}
	return nodes
}

func costOf(nodes []*capacity.Node) float64 {
	sum := 0.0
	for _, n := range nodes {
		sum += n.HourlyPrice
	}
	return sum
}

func TestSmallBatchesEndNearWhatOneThatKnowsThemAllCosts(t *testing.T) {
	pods := mixedPods(400, 40)
	whole := costOf(inBatches(t, pods, len(pods)))
	for _, size := range []int{2, 10} {
		nodes := inBatches(t, pods, size)
		t.Logf("batches of %d: %d nodes, %.1f %% above", size, len(nodes), 100*(costOf(nodes)/whole-1))
		if cost := costOf(nodes); cost > 1.15*whole {
			t.Errorf("in batches of %d: %d nodes for %.3f $/h, at once %.3f", size, len(nodes), cost, whole)
		}
	}
}

func TestOnePodMoreGetsALargerNodeTheMoreIsThere(t *testing.T) {
	price := 0.0
	for _, n := range []int{0, 500} {
		s := &capacity.Snapshot{Now: time.Now(), Region: "us-west-2", Pods: []*corev1.Pod{benchPod("more", "more", 1000, 4096)},
			Provisioners: []*capacity.Provisioner{benchProvisioner("us-west-2", "on-demand")}}
		for i := range n {
			// Full nodes.
			s.Nodes = append(s.Nodes, &capacity.Node{Name: fmt.Sprintf("n-%d", i), Provisioner: "default", HourlyPrice: 0.2,
				Labels:      map[string]string{corev1.LabelHostname: fmt.Sprintf("n-%d", i)},
				Allocatable: capacity.Resources{corev1.ResourceCPU: 4000, corev1.ResourceMemory: 16 << 30, corev1.ResourcePods: 4},
				Pods: []*corev1.Pod{benchPod(fmt.Sprintf("a-%d", i), "a", 1000, 4096), benchPod(fmt.Sprintf("b-%d", i), "a", 1000, 4096),
					benchPod(fmt.Sprintf("c-%d", i), "a", 1000, 4096), benchPod(fmt.Sprintf("d-%d", i), "a", 1000, 4096)}})
		}
		plan := capacity.Solve(s)
		if len(plan.Launches) != 1 {
			t.Fatalf("%d nodes there: %d launches", n, len(plan.Launches))
		}
		t.Logf("%d nodes there: %s for %.3f $/h, salvage %.3f", n, plan.Launches[0].InstanceType, plan.HourlyCost, plan.Objective.Salvage)
		if plan.HourlyCost <= price {
			t.Errorf("with %d nodes there a node for %.3f is bought, with fewer one for %.3f", n, plan.HourlyCost, price)
		}
		price = plan.HourlyCost
		if most := max(0.2, 0.05*0.2*float64(n)); price > most {
			t.Errorf("with %d nodes there, for %.1f $/h in all, a node for %.3f is bought", n, 0.2*float64(n), price)
		}
		if n == 0 && plan.Objective.Salvage != 0 {
			t.Errorf("on an empty cluster room is worth %.3f", plan.Objective.Salvage)
		}
	}
}
