package provisioner

import (
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/events"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

func (y *yard) said(event string) bool {
	rec, ok := y.cfg.Recorder.(*events.FakeRecorder)
	if !ok {
		y.t.Fatal("no fake recorder")
	}
	for len(rec.Events) > 0 {
		if strings.Contains(<-rec.Events, event) {
			return true
		}
	}
	return false
}

// TestOrphansAreToldOf: with one event each.
func TestOrphansAreToldOf(t *testing.T) {
	y := newYard(t, 1, v1alpha1.ProvisionerSpec{})
	pr, _ := one[*v1alpha1.Provisioner](y.stores.provisioners, "p")
	if err := y.stores.provisioners.GetStore().Delete(pr); err != nil {
		t.Fatal(err)
	}
	y.turn(0)
	if !y.said("Orphaned") {
		t.Error("nothing is said")
	}
	y.turn(time.Second)
	if y.said("Orphaned") {
		t.Error("it is said again")
	}
}

// TestPodsThatNothingMakesAgainAreNamed: with an event, when their node goes.
func TestPodsThatNothingMakesAgainAreNamed(t *testing.T) {
	y := newYard(t, 1, v1alpha1.ProvisionerSpec{}, &wants{v1alpha1.ReasonDrifted, []string{"a"}})
	bare := ownedPod("bare", "x", "a")
	bare.Namespace, bare.OwnerReferences = "default", nil
	y.create(bare)
	y.turn(0)
	y.room(seating{})
	y.turn(time.Second)
	y.turn(drain.MinDrain)
	y.expect("a", "a")
	if !y.said("default/bare") {
		t.Error("nothing is said of the pod")
	}
}
