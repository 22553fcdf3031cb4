package provisioner

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

// TestDrainsSayWhatHoldsThem: a drain whose pods go is told of rarely and warns of
// nothing; one that stops is told of soon, with one event for one cause.
func TestDrainsSayWhatHoldsThem(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	warnings := events.NewFakeRecorder(100)
	r := &lifecycle{Loops: &Loops{cfg: Config{Recorder: warnings}}}
	claim := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{UID: "u", DeletionTimestamp: &metav1.Time{Time: start}}}
	moving := drain.Result{Evicted: []string{"a/p"}, Blocked: []drain.Blocker{{Pod: "a/q", PDB: []string{"b"}, Reason: drain.BlockBudget}}}
	stuck := drain.Result{Blocked: moving.Blocked}
	told := func(res drain.Result, at, end time.Duration) (n int) {
		for ; at < end; at += time.Second {
			if r.worthTelling(t.Context(), claim, res, start.Add(at)) {
				n++
			}
		}
		return n
	}
	if n := told(moving, 0, time.Minute); n != 2 {
		t.Errorf("a drain that goes on was told of %d times in a minute", n)
	}
	if n := len(warnings.Events); n != 0 {
		t.Errorf("%d warnings of a drain that goes on", n)
	}
	if n := told(stuck, time.Minute, time.Minute+10*time.Second); n == 0 {
		t.Errorf("D11: a drain that has stopped is not told of within 10 s")
	}
	told(stuck, time.Minute+10*time.Second, 2*time.Minute)
	if n := len(warnings.Events); n != 1 {
		t.Errorf("%d warnings of one cause", n)
	}
	if !r.worthTelling(t.Context(), claim, drain.Result{Done: true}, start.Add(2*time.Minute)) {
		t.Error("the end was not told of")
	}
}

// TestANodeThatGoesSoonIsCordonedAtOnce: one that EC2 takes away does not wait behind
// the writes of others.
func TestANodeThatGoesSoonIsCordonedAtOnce(t *testing.T) {
	for why, want := range map[v1alpha1.DisruptionReason]bool{v1alpha1.ReasonInterrupted: true, v1alpha1.ReasonDeleted: false} {
		y := newYard(t, 1, v1alpha1.ProvisionerSpec{})
		y.pace = drain.NewPace(drainCalls)
		r, claim, node := y.leave("a", why)
		drain.Uncordon(node)
		if err := y.api.Update(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		y.pace.Rest(time.Minute)
		if _, _, err := r.drain(t.Context(), claim, node); err != nil {
			t.Fatal(err)
		}
		y.watch()
		if got, _ := one[*corev1.Node](y.stores.nodes, "a"); drain.Cordoned(got) != want {
			t.Errorf("%s: cordoned %t, want %t", why, !want, want)
		}
	}
}

// TestTheLabelComesBeforeTheFirstEviction: a node that was held is out of load balancers
// before any of its pods is told to go. There is nobody here who could tell one.
func TestTheLabelComesBeforeTheFirstEviction(t *testing.T) {
	y := newYard(t, 1, v1alpha1.ProvisionerSpec{})
	y.pod("web", "rs", "a")
	r, claim, node := y.leave("a", v1alpha1.ReasonDrifted)
	y.room(seating{})
	drain.Uncordon(node)
	drain.Hold(node, y.now)
	if err := y.api.Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if _, done, err := r.drain(t.Context(), claim, node); done || err != nil {
		t.Fatal(done, err)
	}
	y.watch()
	if n, _ := one[*corev1.Node](y.stores.nodes, "a"); !drain.Excluded(n) || drain.Facts(n, y.now).ExcludedAt.IsZero() {
		t.Error("not out of load balancers, or nobody knows since when")
	}
	if claim.Status.DrainDeadline != nil {
		t.Error("the drain has begun already")
	}
}
