package provisioner

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
	"github.com/berth-dev/berth/internal/ec2"
)

// ills are what EC2 says is wrong with instances.
type ills []ec2.Trouble

func (i ills) Troubles(context.Context) ([]ec2.Trouble, error) { return i, nil }

// TestFailedNodesAreReplaced: from the node's condition, or EC2's status check, to
// the removal of the claim.
func TestFailedNodesAreReplaced(t *testing.T) {
	failing := func(y *yard, ago time.Duration) ills {
		return ills{{InstanceID: "i-a", Failing: []string{"system"}, Since: y.now.Add(-ago)}}
	}
	for name, tc := range map[string]struct {
		ready corev1.ConditionStatus
		since time.Duration // Of the condition.
		ills  time.Duration // For which EC2's checks have failed; 0: they have not.
		claim func(*v1alpha1.NodeClaim)
		want  []string
	}{
		"a node that is well":                    {ready: corev1.ConditionTrue, since: time.Hour},
		"a kubelet that is silent for long":      {ready: corev1.ConditionUnknown, since: 11 * time.Minute, want: []string{"a"}},
		"a kubelet that is silent for a moment":  {ready: corev1.ConditionUnknown, since: time.Minute},
		"EC2 finds the instance impaired":        {ready: corev1.ConditionTrue, since: time.Hour, ills: impairedAlone, want: []string{"a"}},
		"EC2 has found it impaired a moment ago": {ready: corev1.ConditionTrue, since: time.Hour, ills: time.Minute},
		"a node that has never been well": {ready: corev1.ConditionUnknown, since: time.Hour, claim: func(c *v1alpha1.NodeClaim) {
			setCondition(c, v1alpha1.ConditionInitialized, metav1.ConditionFalse, "Waiting", "")
		}},
		"the Node of another instance, same name": {ready: corev1.ConditionUnknown, since: time.Hour, claim: func(c *v1alpha1.NodeClaim) { c.Status.ProviderID = "aws:///z/i-other" }},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, 5, v1alpha1.ProvisionerSpec{})
			node, claim := &corev1.Node{}, &v1alpha1.NodeClaim{}
			for _, o := range []client.Object{node, claim} {
				if err := y.api.Get(t.Context(), client.ObjectKey{Name: "a"}, o); err != nil {
					t.Fatal(err)
				}
			}
			node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: tc.ready, LastTransitionTime: metav1.Time{Time: y.now.Add(-tc.since)}}}
			if tc.claim != nil {
				tc.claim(claim)
			}
			for _, o := range []client.Object{node, claim} {
				if err := y.api.Status().Update(t.Context(), o); err != nil {
					t.Fatal(err)
				}
			}
			y.watch()
			y.fleet = newFleet(y.Loops, newEstate())
			h := newCheckup(y.Loops, ills(nil))
			if tc.ills > 0 {
				h.cloud = failing(y, tc.ills)
			}
			h.read(t.Context())
			for range 2 { // The second look finds it under way.
				h.pass(t.Context(), y.now)
				y.watch()
				if _, going := y.out(); !cmp.Equal(tc.want, going) {
					t.Fatalf("removed are %v, want %v", going, tc.want)
				}
			}
			if len(tc.want) == 0 {
				return
			}
			for _, o := range []client.Object{node, claim} {
				if err := y.api.Get(t.Context(), client.ObjectKey{Name: "a"}, o); err != nil {
					t.Fatal(err)
				}
			}
			if claim.Annotations[v1alpha1.AnnotationDisruptionReason] != string(v1alpha1.ReasonUnhealthy) || !drain.Cordoned(node) ||
				claim.Status.DrainDeadline == nil || !claim.Status.DrainDeadline.Time.Equal(y.now.Add(repairDrain)) {
				t.Errorf("annotations %v, deadline %v, taints %v", claim.Annotations, claim.Status.DrainDeadline, node.Spec.Taints)
			}
			if !y.said("NodeFailed") {
				t.Error("nothing is said")
			}
		})
	}
}

// TestWhatIsPlannedHastensARemovalUnderWay: a node that is being removed for
// another reason has its pods leave before EC2 takes it.
func TestWhatIsPlannedHastensARemovalUnderWay(t *testing.T) {
	for name, tc := range map[string]struct {
		code           string
		in             time.Duration
		deadline, want time.Duration // From now; 0: none is recorded.
	}{
		"a stop before the drain's deadline":            {"instance-stop", 2 * time.Hour, 24 * time.Hour, 2*time.Hour - noticeMargin},
		"a block that ends before the drain's deadline": {ec2.CodeBlockEnd, 9 * time.Minute, time.Hour, 9*time.Minute - noticeMargin},
		"a stop in a moment":                            {"instance-stop", time.Second, time.Hour, leastNotice},
		"a stop soon, and the drain has not begun":      {"instance-stop", 30 * time.Minute, 0, 30*time.Minute - noticeMargin},
		"a stop after the drain's deadline":             {"instance-stop", 2 * time.Hour, time.Hour, time.Hour},
		"a stop in days, and the drain has not begun":   {"instance-stop", 48 * time.Hour, 0, 0},
		"a stop that AWS gives no time for":             {"instance-stop", 0, time.Hour, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, 2, v1alpha1.ProvisionerSpec{})
			claim := &v1alpha1.NodeClaim{}
			if err := y.api.Get(t.Context(), client.ObjectKey{Name: "a"}, claim); err != nil {
				t.Fatal(err)
			}
			if tc.deadline > 0 {
				claim.Status.DrainDeadline = &metav1.Time{Time: y.now.Add(tc.deadline)}
				if err := y.api.Status().Update(t.Context(), claim); err != nil {
					t.Fatal(err)
				}
			}
			if err := y.api.Delete(t.Context(), claim); err != nil {
				t.Fatal(err)
			}
			y.watch()
			y.fleet = newFleet(y.Loops, newEstate())
			e := ec2.PlannedEvent{Code: tc.code}
			if tc.in > 0 {
				e.NotBefore = y.now.Add(tc.in)
			}
			h := newCheckup(y.Loops, ills{{InstanceID: "i-a", Events: []ec2.PlannedEvent{e}}})
			h.read(t.Context())
			for range 2 { // The second look finds it done.
				h.pass(t.Context(), y.now)
				y.watch()
				if err := y.api.Get(t.Context(), client.ObjectKey{Name: "a"}, claim); err != nil {
					t.Fatal(err)
				}
				var got time.Duration
				if claim.Status.DrainDeadline != nil {
					got = claim.Status.DrainDeadline.Sub(y.now)
				}
				if got != tc.want {
					t.Errorf("the drain ends in %s, want %s", got, tc.want)
				}
			}
		})
	}
}
