package capacity_test

import (
	"testing"
	"time"

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
