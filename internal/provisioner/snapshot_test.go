package provisioner

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
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

// The API server completes pods, never templates: what a DaemonSet takes of a
// node is more than its template says.
func TestDaemonSetsCountAsTheirPodsWill(t *testing.T) {
	class := "boxed"
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "agent"}}
	ds.Spec.Template.Spec = corev1.PodSpec{RuntimeClassName: &class, PriorityClassName: "high", Containers: []corev1.Container{{
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}}}}}
	p := &Loops{book: newBook(), catalogue: newCatalogue("us-west-2"), stores: storesWith(t, ds,
		&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: class},
			Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}}},
		&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000})}
	pods := p.read(time.Unix(1000, 0)).snapshot.DaemonSetPods
	if len(pods) != 1 {
		t.Fatalf("%d pods", len(pods))
	}
	if cpu := capacity.PodRequests(pods[0])[corev1.ResourceCPU]; cpu != 750 {
		t.Errorf("it counts as %d millicores, want 750", cpu)
	}
	if pods[0].Spec.Priority == nil || *pods[0].Spec.Priority != 1000 {
		t.Errorf("its priority is %v, want 1000", pods[0].Spec.Priority)
	}
	if r := ds.Spec.Template.Spec.Containers[0].Resources.Requests; r != nil {
		t.Errorf("the cached DaemonSet has changed: requests %v", r)
	}
}
