package capacity_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// TestNodesWithLittleOnThemAreGivenUp: domain by domain, and beside pods that need a host
// each, 77 nodes would be bought.
func TestNodesWithLittleOnThemAreGivenUp(t *testing.T) {
	s := &capacity.Snapshot{Now: time.Now(), Region: "us-west-2", Pods: teamBesideBig(), Provisioners: []*capacity.Provisioner{benchProvisioner("us-west-2", "on-demand")}}
	plan := capacity.Solve(s)
	for _, wrong := range judge(s, plan) {
		t.Error(wrong)
	}
	t.Logf("%d nodes, %.3f $/h", len(plan.Launches), plan.HourlyCost)
	if n := len(plan.Launches); n > 70 {
		t.Errorf("%d nodes for %.3f $/h", n, plan.HourlyCost)
	}
}

// TestRoomThatIsLeftIsOnFewNodes: where pods are the next best for room that is left on
// nodes bought for others, kube-scheduler has them sit there.
func TestRoomThatIsLeftIsOnFewNodes(t *testing.T) {
	sizes := [][2]int64{{250, 400}, {310, 1900}, {470, 700}, {650, 2700}, {900, 1300}, {1300, 2300}, {1700, 6100}, {2300, 3700}}
	var pods []*corev1.Pod
	for i, size := range sizes {
		for k := range 29 {
			pods = append(pods, benchPod(fmt.Sprintf("shape-%d-%d", i, k), fmt.Sprintf("shape-%d", i), size[0], size[1]))
		}
	}
	s := &capacity.Snapshot{Now: time.Now(), Region: "us-west-2", Pods: pods, Provisioners: []*capacity.Provisioner{benchProvisioner("us-west-2", "on-demand")}}
	plan := capacity.Solve(s)
	for _, wrong := range judge(s, plan) {
		t.Error(wrong)
	}
	small := capacity.PodRequests(pods[0])
	roomy := 0
	for _, l := range plan.Launches {
		need := l.Requests.Clone()
		for name, x := range small {
			need[name] += x
		}
		if need.Fits(l.Allocatable) {
			roomy++
		}
	}
	t.Logf("%d nodes, %.3f $/h, %d with room for another pod", len(plan.Launches), plan.HourlyCost, roomy)
	if roomy > 1 {
		t.Errorf("%d of %d nodes have room for another pod of the smallest size", roomy, len(plan.Launches))
	}
}
