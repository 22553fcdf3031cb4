package provisioner

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2"
)

func TestNodesThatAreNeverReadyStopAProvisioner(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "pool", Generation: 1}}
	p := &Loops{catalogue: newCatalogue("us-west-2")}
	c := p.catalogue
	// view is what the planner gets of the Provisioner, with so many nodes that are
	// ready and so many that are coming.
	view := func(ready, coming int) *capacity.Provisioner {
		claims := map[string]*v1alpha1.NodeClaim{}
		for i := range ready + coming {
			claim := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: string(rune('a' + i))}}
			claim.Spec.Provisioner.Name = pr.Name
			if i < ready {
				setCondition(claim, v1alpha1.ConditionInitialized, metav1.ConditionTrue, "Initialized", "")
			}
			claims[claim.Name] = claim
		}
		out := &capacity.Provisioner{Name: pr.Name, Spec: &pr.Spec}
		p.probe(out, pr, claims, now)
		return out
	}
	limit := func(v *capacity.Provisioner) int64 {
		q, ok := v.Spec.Limits[v1alpha1.LimitNodes]
		if !ok {
			return -1
		}
		return q.Value()
	}
	waste := func(bought time.Time) { c.waste(pr, bought, "no CNI", now) }
	waste(now.Add(-time.Hour))
	if v := view(1, 0); v.NotReady != "" || limit(v) != -1 {
		t.Fatalf("one wasted node stops it: %+v", v)
	}
	waste(now.Add(-time.Hour))
	if v := view(1, 0); v.NotReady == "" {
		t.Fatal("it goes on after two wasted nodes")
	}
	waste(now.Add(-time.Hour)) // Of the same burst.
	now = now.Add(wastedFirst)
	if v := view(3, 0); v.NotReady != "" || limit(v) != 4 {
		t.Fatalf("after the pause: %q, limit %d", v.NotReady, limit(v))
	}
	if v := view(3, 1); limit(v) != 4 {
		t.Fatalf("more than one probe: limit %d", limit(v))
	}
	waste(now.Add(-time.Minute))
	now = now.Add(wastedFirst)
	if v := view(3, 0); v.NotReady == "" {
		t.Fatal("the second pause is no longer than the first")
	}
	changed := pr.DeepCopy()
	changed.Generation++
	if _, ok := c.wastedBy(changed); ok {
		t.Error("it is held against a Provisioner that was changed since")
	}
	c.worked(pr.Name, now)
	if v := view(3, 0); v.NotReady != "" || limit(v) != -1 {
		t.Errorf("after a node that works: %q, limit %d", v.NotReady, limit(v))
	}
	waste(now.Add(-time.Minute))
	waste(now.Add(-time.Minute))
	if v := view(3, 0); v.NotReady != "" {
		t.Error("nodes count that were bought before one that works")
	}
}

func TestInstancesThatEndBeforeTheyHaveJoined(t *testing.T) {
	claim := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: types.UID("a"), CreationTimestamp: metav1.Now()}}
	claim.Spec.Provisioner.Name = "pool"
	pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "pool"}}
	for reason, want := range map[string]struct{ rests, counts bool }{
		"Server.InsufficientInstanceCapacity": {true, false},
		"Client.VolumeLimitExceeded":          {false, true},
		"Client.UserInitiatedShutdown":        {false, false},
		"Server.SpotInstanceTermination":      {false, false},
		"":                                    {false, false},
	} {
		t.Run(reason, func(t *testing.T) {
			p := &Loops{catalogue: newCatalogue("us-west-2"), stores: &stores{provisioners: informerOf(t, []*v1alpha1.Provisioner{pr})}}
			p.failedLate(claim, ec2.Instance{ID: "i-1", Type: "m5.large", Zone: "a", CapacityType: "spot", Reason: reason})
			if rests := p.catalogue.restsUntil("pool", "m5.large", "a", "spot").After(time.Now()); rests != want.rests {
				t.Errorf("the offering rests: %v", rests)
			}
			if counts := p.catalogue.wasted["pool"].count == 1; counts != want.counts {
				t.Errorf("it counts: %v", counts)
			}
		})
	}
}
