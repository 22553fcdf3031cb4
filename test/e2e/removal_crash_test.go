package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// TestRemovalGoesInOrderAcrossCrashes kills the provisioner with SIGKILL as soon
// as a step of a removal is seen from outside, and starts it again: the removal
// goes on, in the same order, and ends with one instance terminated.
func TestRemovalGoesInOrderAcrossCrashes(t *testing.T) {
	ctx, c, p := killable(t, 300*time.Millisecond)
	for _, trigger := range []struct {
		name   string
		change func(*v1alpha1.Provisioner)
		start  func(*bench)
		order  []string
	}{
		{"expiry", func(pr *v1alpha1.Provisioner) { pr.Spec.TTLSecondsUntilExpired = ptr(int64(8)) }, func(*bench) {},
			[]string{"cordoned", "evicted", "terminated", "node gone"}},
		{"the last workload goes", nil, func(b *bench) {
			if err := b.c.Client.Delete(b.ctx, b.deployment("web", 1, nil)); err != nil {
				b.t.Fatal(err)
			}
		}, []string{"evicted", "cordoned", "terminated", "node gone"}},
	} {
		for _, step := range []string{"cordoned", "evicted", "terminated"} {
			t.Run(trigger.name+", killed when it is seen "+step, func(t *testing.T) {
				p.t = t
				b := newBench(t, c, trigger.change)
				claim := b.lone("web")
				w := b.observe(claim.Status.NodeName, claim.Status.InstanceID)
				trigger.start(b)
				b.wait("the step is seen", func() (bool, error) { return slices.Contains(w.seen(), step), nil })
				p.kill()
				p.start()
				b.checkRemoval(claim, w, trigger.order...)
				all, err := c.Instances(ctx)
				if err != nil {
					t.Fatal(err)
				}
				for _, i := range all {
					if i.ID == claim.Status.InstanceID && i.State != "terminated" {
						t.Errorf("the Node is gone, the instance is %s", i.State)
					}
				}
			})
		}
	}
	p.t = t
}
