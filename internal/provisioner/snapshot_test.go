package provisioner

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// The cache may show a claim as initialized and its Node still closed: whoever
// took the Node at its word would buy another.
func TestANodeThatLagsBehindItsClaimIsComing(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tc := range map[string]struct {
		taint       string
		initialized time.Duration
		inFlight    bool
	}{
		"closed, initialized just now":          {v1alpha1.TaintUnregistered, time.Second, true},
		"not ready, initialized just now":       {corev1.TaintNodeNotReady, time.Second, true},
		"not ready, initialized long ago":       {corev1.TaintNodeNotReady, time.Minute, false},
		"another taint, initialized just now":   {"dedicated", time.Second, false},
		"without a taint, initialized just now": {"", time.Second, false},
		"without a taint, initialized long ago": {"", time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &v1alpha1.NodeClaim{Spec: v1alpha1.NodeClaimSpec{Offerings: []v1alpha1.ClaimOffering{{}}}, Status: v1alpha1.NodeClaimStatus{Conditions: []metav1.Condition{{
				Type: v1alpha1.ConditionInitialized, Status: metav1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-tc.initialized))}}}}
			node := &corev1.Node{}
			if tc.taint != "" {
				node.Spec.Taints = []corev1.Taint{{Key: tc.taint, Effect: corev1.TaintEffectNoSchedule}}
			}
			pn := planNode(node, claim, now)
			if pn.InFlight != tc.inFlight {
				t.Errorf("in flight: %t", pn.InFlight)
			}
			if tc.inFlight && len(pn.Taints) > 0 {
				t.Errorf("it comes with %v", pn.Taints)
			}
		})
	}
}
