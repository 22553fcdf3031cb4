package provisioner

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
)

// TestADeniedYoungInstanceIsNotGone: EC2 may deny for minutes to know what it has
// just launched. The claim that is to go waits until EC2 shows the instance, has
// it terminated, and goes then; that of an old instance waits for half a minute.
func TestADeniedYoungInstanceIsNotGone(t *testing.T) {
	for name, age := range map[string]time.Duration{"young": 0, "old": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDeathbed(t)
				claim := &v1alpha1.NodeClaim{}
				if err := d.api.Get(t.Context(), client.ObjectKey{Name: "a"}, claim); err != nil {
					t.Fatal(err)
				}
				setCondition(claim, v1alpha1.ConditionLaunched, metav1.ConditionTrue, "Launched", ourInstance)
				claim.Status.Conditions[len(claim.Status.Conditions)-1].LastTransitionTime = metav1.NewTime(time.Now().Add(-age))
				if err := d.api.Status().Update(t.Context(), claim); err != nil {
					t.Fatal(err)
				}
				d.node(t, func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown })
				d.watch(t)
				d.denied = true
				gone := false
				for range 300 {
					if gone = d.step(t); gone {
						break
					}
					time.Sleep(time.Second)
				}
				if young := age == 0; gone == young {
					t.Fatalf("gone: %t", gone)
				}
				if gone {
					return
				}
				d.denied = false
				for range 60 {
					if d.step(t) {
						break
					}
					if d.state == ec2.StateShuttingDown {
						d.state = ec2.StateTerminated
					}
					time.Sleep(time.Second)
				}
				if !d.step(t) || d.effects != 1 {
					t.Errorf("the claim is not gone, or %d terminations", d.effects)
				}
			})
		})
	}
}
