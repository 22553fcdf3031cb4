package provisioner

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
			y.silence(strings.Fields(tc.unready)...)
			y.turn(0)
			y.expect(tc.out, "")
		})
	}
}

// silence makes nodes look as if their kubelets had stopped to report.
func (y *yard) silence(nodes ...string) {
	y.t.Helper()
	for _, n := range nodes {
		node := &corev1.Node{}
		if err := y.api.Get(y.t.Context(), client.ObjectKey{Name: n}, node); err != nil {
			y.t.Fatal(err)
		}
		node.Status.Conditions[0].Status = corev1.ConditionUnknown
		if err := y.api.Status().Update(y.t.Context(), node); err != nil {
			y.t.Fatal(err)
		}
	}
}

// TestNodesThatDoNotWorkAreForcedNoFaster: past their grace they go a few at a time,
// ready or not.
func TestNodesThatDoNotWorkAreForcedNoFaster(t *testing.T) {
	for name, tc := range map[string]struct{ unready, budget, out string }{
		"all work":                      {"", "1", "a"},
		"none works":                    {"a b c d", "1", "a"},
		"some do not":                   {"b c", "2", "a b"},
		"none works, and none is to go": {"a b c d", "0", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, 4, v1alpha1.ProvisionerSpec{TTLSecondsUntilExpired: ptr(int64(60)), Disruption: &v1alpha1.Disruption{
				Budgets: []v1alpha1.Budget{{Nodes: tc.budget}}, ExpiryGrace: &metav1.Duration{}}}, expiry{})
			y.silence(strings.Fields(tc.unready)...)
			for range 3 {
				y.turn(time.Second)
			}
			y.expect(tc.out, "")
		})
	}
}
