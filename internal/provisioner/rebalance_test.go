package provisioner

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// spotNodes are n candidates of one Provisioner, of an age.
func spotNodes(n int, age time.Duration, policy v1alpha1.RebalancePolicy) []candidate {
	pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "pool"}}
	pr.Spec.Disruption = &v1alpha1.Disruption{Rebalance: policy}
	var out []candidate
	for i := range n {
		claim := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", i), UID: types.UID(fmt.Sprint("uid-", i)),
			CreationTimestamp: metav1.Time{Time: repairNow.Add(-age)}}}
		out = append(out, candidate{claim: claim, provisioner: pr})
	}
	return out
}

func TestRebalancePolicyAndGuard(t *testing.T) {
	for name, tc := range map[string]struct {
		nodes   []candidate
		advised int
		want    int
	}{
		"the default ignores it":                      {spotNodes(10, time.Hour, ""), 10, 0},
		"Ignore ignores it":                           {spotNodes(10, time.Hour, v1alpha1.RebalanceIgnore), 10, 0},
		"Replace replaces the node":                   {spotNodes(10, time.Hour, v1alpha1.RebalanceReplace), 1, 1},
		"a node alone too":                            {spotNodes(1, time.Hour, v1alpha1.RebalanceReplace), 1, 1},
		"nothing is replaced without a reason":        {spotNodes(10, time.Hour, v1alpha1.RebalanceReplace), 0, 0},
		"a young node stays: its pool was the choice": {spotNodes(10, 5*time.Minute, v1alpha1.RebalanceReplace), 10, 0},
		"a tenth of the nodes in ten minutes":         {spotNodes(30, time.Hour, v1alpha1.RebalanceReplace), 30, 3},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rebalancing{Loops: &Loops{}}
			for _, c := range tc.nodes[:tc.advised] {
				r.advice.note(c.claim.UID, repairNow)
			}
			got, _ := r.propose(repairNow, tc.nodes)
			if len(got) != tc.want {
				t.Errorf("%d nodes are proposed, want %d", len(got), tc.want)
			}
			// What was begun is proposed again, and nothing else before its time.
			again, _ := r.propose(repairNow.Add(time.Minute), tc.nodes)
			if len(again) != tc.want {
				t.Errorf("a minute later %d nodes are proposed, want %d", len(again), tc.want)
			}
		})
	}
}

func TestRebalanceGoesOnAndForgets(t *testing.T) {
	nodes := spotNodes(2, time.Hour, v1alpha1.RebalanceReplace)
	r := &rebalancing{Loops: &Loops{}}
	for _, c := range nodes {
		r.advice.note(c.claim.UID, repairNow)
	}
	if got, _ := r.propose(repairNow, nodes); len(got) != 1 {
		t.Fatalf("%d at first", len(got))
	}
	// The first is gone by then; the second's turn has come.
	if got, _ := r.propose(repairNow.Add(rebalanceEvery), nodes[1:]); len(got) != 1 {
		t.Errorf("%d after ten minutes", len(got))
	}
	if got, _ := r.propose(repairNow.Add(adviceFor), nodes); len(got) != 0 {
		t.Errorf("%d long after the recommendation", len(got))
	}
	r.advice.note(nodes[0].claim.UID, repairNow.Add(2*adviceFor))
	if got, _ := r.propose(repairNow.Add(2*adviceFor), nodes); len(got) != 1 {
		t.Errorf("%d after a new recommendation", len(got))
	}
}
