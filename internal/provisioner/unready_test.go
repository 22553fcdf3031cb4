package provisioner

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// TestNodesThatDoNotWorkUseUpBudgets: a budget bounds how many do not work, for
// whatever reason; such a node itself may go within it.
func TestNodesThatDoNotWorkUseUpBudgets(t *testing.T) {
	for name, tc := range map[string]struct {
		wants, unready, out string
	}{
		"all work":                       {"a", "", "a"},
		"one that does not uses the one": {"a", "b", ""},
		"it may go itself":               {"b", "b", "b"},
		"but not beside another":         {"b", "b c", ""},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, 3, v1alpha1.ProvisionerSpec{Disruption: &v1alpha1.Disruption{Budgets: []v1alpha1.Budget{{Nodes: "1"}}}}, &wants{v1alpha1.ReasonDrifted, []string{tc.wants}})
			for _, n := range strings.Fields(tc.unready) {
				node := &corev1.Node{}
				if err := y.api.Get(t.Context(), client.ObjectKey{Name: n}, node); err != nil {
					t.Fatal(err)
				}
				node.Status.Conditions[0].Status = corev1.ConditionUnknown
				if err := y.api.Status().Update(t.Context(), node); err != nil {
					t.Fatal(err)
				}
			}
			y.turn(0)
			y.expect(tc.out, "")
		})
	}
}
