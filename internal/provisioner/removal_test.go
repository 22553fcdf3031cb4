package provisioner

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
	"github.com/berth-dev/berth/internal/ec2"
)

// leave takes a claim's node out of use and deletes the claim.
func (y *yard) leave(name string, why v1alpha1.DisruptionReason) (*lifecycle, *v1alpha1.NodeClaim, *corev1.Node) {
	y.t.Helper()
	claim, node := &v1alpha1.NodeClaim{}, &corev1.Node{}
	for _, o := range []client.Object{claim, node} {
		if err := y.api.Get(y.t.Context(), client.ObjectKey{Name: name}, o); err != nil {
			y.t.Fatal(err)
		}
	}
	drain.Cordon(node, y.now)
	if err := y.api.Update(y.t.Context(), node); err != nil {
		y.t.Fatal(err)
	}
	if err := y.deleteClaim(y.t.Context(), claim, why); err != nil {
		y.t.Fatal(err)
	}
	if err := y.api.Get(y.t.Context(), client.ObjectKey{Name: name}, claim); err != nil {
		y.t.Fatal(err)
	}
	y.watch()
	return &lifecycle{Loops: y.Loops}, claim, node
}

// berth puts a ready replica of Berth on a node.
func (y *yard) berth(name, node, component string) *corev1.Pod {
	p := ownedPod(name, "berth", node)
	p.Namespace, p.Labels = y.cfg.Namespace, map[string]string{ownLabel: ownName, ownComponent: component}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	y.create(p)
	return p
}

// TestOwnReplicasAreNotChosenTogether: of two nodes with the two replicas, one is
// taken out of use, and stays so.
func TestOwnReplicasAreNotChosenTogether(t *testing.T) {
	w := &wants{v1alpha1.ReasonDrifted, []string{"a", "b"}}
	y := newYard(t, 3, v1alpha1.ProvisionerSpec{Disruption: &v1alpha1.Disruption{Budgets: []v1alpha1.Budget{{Nodes: "100%"}}}}, w)
	y.berth("one", "a", "")
	y.berth("two", "b", "")
	y.berth("hook", "b", "webhook") // No replica of the provisioner.
	for range 3 {
		y.turn(time.Second)
		y.expect("a", "")
	}
}

// TestOwnReplicasLeaveOneAfterTheOther: when both of their nodes are drained they
// go in order, the second once the first runs again.
func TestOwnReplicasLeaveOneAfterTheOther(t *testing.T) {
	y := newYard(t, 3, v1alpha1.ProvisionerSpec{})
	one, two := y.berth("one", "a", ""), y.berth("two", "b", "")
	ra, claimA, nodeA := y.leave("a", v1alpha1.ReasonDeleted)
	_, claimB, nodeB := y.leave("b", v1alpha1.ReasonDeleted)
	held := func(claim *v1alpha1.NodeClaim, node *corev1.Node, pod *corev1.Pod) bool {
		t.Helper()
		y.watch()
		return ra.heldBack(claim, node, claim.DeletionTimestamp.Add(time.Hour))[pod.UID] != ""
	}
	if !held(claimA, nodeA, one) || !held(claimB, nodeB, two) {
		t.Fatal("one goes before anything is known of room for it")
	}
	y.room(seating{})
	if held(claimA, nodeA, one) || !held(claimB, nodeB, two) {
		t.Fatal("with room for both, the first is held, or the second not")
	}
	if err := y.api.Delete(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	again := y.berth("one-again", "c", "")
	again.Status.Conditions = nil
	if err := y.api.Status().Update(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if !held(claimB, nodeB, two) {
		t.Fatal("the second goes before the first runs again")
	}
	again.Status.Conditions = one.Status.Conditions
	if err := y.api.Status().Update(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if held(claimB, nodeB, two) {
		t.Fatal("the second is held although the first runs again")
	}
}

// TestTheOnlyReplicaOfBerthGoesOnceThereIsRoom: it does not wait for its deadline.
func TestTheOnlyReplicaOfBerthGoesOnceThereIsRoom(t *testing.T) {
	y := newYard(t, 2, v1alpha1.ProvisionerSpec{})
	y.berth("one", "a", "")
	r, claim, node := y.leave("a", v1alpha1.ReasonDeleted)
	y.room(seating{lacks: map[types.UID]string{"uid-one": ""}, coming: 1})
	if len(r.heldBack(claim, node, y.now)) != 1 {
		t.Fatal("it goes before there is room")
	}
	y.room(seating{})
	if held := r.heldBack(claim, node, y.now); len(held) != 0 {
		t.Fatalf("held with room elsewhere: %v", held)
	}
}

// TestOneStuckPodTakesNothingFromTheOthers: each pod waits for its own room, and
// one that has none for a while only.
func TestOneStuckPodTakesNothingFromTheOthers(t *testing.T) {
	y := newYard(t, 2, v1alpha1.ProvisionerSpec{})
	for _, name := range []string{"coming", "stuck", "ready"} {
		y.pod(name, "rs-"+name, "a")
	}
	r, claim, node := y.leave("a", v1alpha1.ReasonDeleted)
	var s seating
	s.awaits("uid-coming" + movingMark)
	s.without("uid-stuck"+movingMark, "limits")
	y.room(s)
	held := func(after time.Duration) string {
		var names []string
		for uid := range r.heldBack(claim, node, claim.DeletionTimestamp.Add(after)) {
			names = append(names, string(uid))
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	if got := held(time.Second); got != "uid-coming uid-stuck" {
		t.Errorf("held at first: %s", got)
	}
	if got := held(forcedPatience); got != "uid-coming" {
		t.Errorf("held after a while: %s", got)
	}
	claim.Status.DrainDeadline = &metav1.Time{Time: claim.DeletionTimestamp.Add(20 * time.Second)}
	if got := held(10 * time.Second); got != "uid-coming" {
		t.Errorf("held after half of a short drain: %s", got)
	}
}

// TestSiblingsOnLeavingNodesWaitForRoom: where all nodes of a workload leave at once, each
// of its pods goes when there is room for it; none waits for another's room.
func TestSiblingsOnLeavingNodesWaitForRoom(t *testing.T) {
	y := newYard(t, 3, v1alpha1.ProvisionerSpec{})
	y.pod("one", "rs", "a")
	y.pod("two", "rs", "b")
	for _, on := range []string{"a", "b", "c"} { // One of these stays.
		y.pod("many-"+on, "many", on)
	}
	r, claimA, nodeA := y.leave("a", v1alpha1.ReasonDeleted)
	_, claimB, nodeB := y.leave("b", v1alpha1.ReasonDeleted)
	expect := func(a, b string) {
		t.Helper()
		held := func(claim *v1alpha1.NodeClaim, node *corev1.Node) string {
			var names []string
			for uid := range r.heldBack(claim, node, claim.DeletionTimestamp.Add(time.Second)) {
				names = append(names, string(uid))
			}
			return strings.Join(names, " ")
		}
		if ga, gb := held(claimA, nodeA), held(claimB, nodeB); ga != a || gb != b {
			t.Fatalf("held are %q and %q, want %q and %q", ga, gb, a, b)
		}
	}
	expect("uid-one", "uid-two")
	var coming seating
	coming.awaits("uid-two" + movingMark)
	y.moves.replace(map[string]seating{"a": {}, "b": coming})
	expect("", "uid-two")
	y.pod("one-again", "rs", "c")
	y.watch()
	expect("", "")
}

// TestJobsMayFinishWhenNobodyIsInAHurry: for voluntary reasons a Job's pods keep
// the time that the drain has.
func TestJobsMayFinishWhenNobodyIsInAHurry(t *testing.T) {
	for why, want := range map[v1alpha1.DisruptionReason]int{v1alpha1.ReasonDrifted: 1, v1alpha1.ReasonExpired: 1, v1alpha1.ReasonInterrupted: 0, v1alpha1.ReasonDeleted: 0} {
		y := newYard(t, 2, v1alpha1.ProvisionerSpec{})
		for _, on := range []string{"a", "b"} { // It is not alone.
			job := ownedPod("job-"+on, "job", on)
			job.Namespace, job.OwnerReferences[0].Kind, job.OwnerReferences[0].APIVersion = "default", "Job", "batch/v1"
			y.create(job)
		}
		r, claim, node := y.leave("a", why)
		y.room(seating{})
		if held := r.heldBack(claim, node, y.now); len(held) != want {
			t.Errorf("%s: held %v", why, held)
		}
	}
}

// TestADrainKeepsItsTimeWithoutItsProvisioner: the deadline that was recorded
// holds when the Provisioner goes.
func TestADrainKeepsItsTimeWithoutItsProvisioner(t *testing.T) {
	y := newYard(t, 1, v1alpha1.ProvisionerSpec{Drain: &v1alpha1.Drain{Deadline: metav1.Duration{Duration: 6 * time.Hour}}})
	r, claim, node := y.leave("a", v1alpha1.ReasonDeleted)
	want := claim.DeletionTimestamp.Add(6 * time.Hour)
	for range 2 {
		if err := r.recordDeadline(t.Context(), claim, node, y.now); err != nil || !claim.Status.DrainDeadline.Time.Equal(want) {
			t.Fatalf("deadline %v, want %v (%v)", claim.Status.DrainDeadline, want, err)
		}
		pr, _ := one[*v1alpha1.Provisioner](y.stores.provisioners, "p")
		if pr != nil {
			if err := y.stores.provisioners.GetStore().Delete(pr); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestNoDrainIsGivenLessTimeThanItsPodsNeed: a deadline that is shortened, or was over
// before Berth came back, leaves pods the time to be asked and to end.
func TestNoDrainIsGivenLessTimeThanItsPodsNeed(t *testing.T) {
	for name, tc := range map[string]struct {
		// recorded and want count from the deletion, now does too.
		recorded, patience, now, want time.Duration
	}{
		"an ordinary drain":                        {0, time.Hour, time.Second, time.Hour},
		"shortened in time":                        {time.Hour, 20 * time.Minute, time.Minute, 20 * time.Minute},
		"shortened to what is past":                {time.Hour, 5 * time.Minute, 30 * time.Minute, 33 * time.Minute},
		"shortened to what is nearly past":         {time.Hour, 31 * time.Minute, 30 * time.Minute, 33 * time.Minute},
		"shortened to less than pods need":         {time.Hour, 30 * time.Second, 30 * time.Minute, 30*time.Minute + 30*time.Second},
		"nearly over already":                      {time.Hour, 5 * time.Minute, 59 * time.Minute, time.Hour},
		"over already":                             {time.Hour, 5 * time.Minute, 2 * time.Hour, time.Hour},
		"Berth was away for longer":                {0, time.Hour, 3 * time.Hour, 4 * time.Hour},
		"Berth was away for nearly as long":        {0, time.Hour, 58 * time.Minute, 61 * time.Minute},
		"Berth was away, and enough of it is left": {0, time.Hour, 57 * time.Minute, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, 1, v1alpha1.ProvisionerSpec{Drain: &v1alpha1.Drain{Deadline: metav1.Duration{Duration: tc.patience}}})
			long := ownedPod("long", "rs", "a")
			long.Namespace, long.Spec.TerminationGracePeriodSeconds = "default", ptr(int64(120))
			y.create(long)
			y.pod("web", "rs", "a")
			r, claim, node := y.leave("a", v1alpha1.ReasonDeleted)
			began := claim.DeletionTimestamp.Time
			if tc.recorded > 0 {
				claim.Status.DrainDeadline = &metav1.Time{Time: began.Add(tc.recorded)}
				claim.Status.Conditions = append(claim.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionDrained,
					Status: metav1.ConditionFalse, Reason: "Draining", LastTransitionTime: metav1.Time{Time: began}})
			}
			now := began.Add(tc.now)
			for range 3 { // It does not move with time.
				if err := r.recordDeadline(t.Context(), claim, node, now); err != nil {
					t.Fatal(err)
				}
				now = now.Add(10 * time.Second)
			}
			if got := claim.Status.DrainDeadline.Sub(began); got != tc.want {
				t.Errorf("deadline %s after the deletion, want %s", got, tc.want)
			}
		})
	}
}

// TestADrainEndsWithItsInstance: what ends in EC2 by itself has nothing left to
// wait for, however long its pods may take.
func TestADrainEndsWithItsInstance(t *testing.T) {
	for state, ends := range map[string]bool{ec2.StateRunning: false, ec2.StateShuttingDown: true, ec2.StateStopped: true, ec2.StateTerminated: true} {
		y := newYard(t, 1, v1alpha1.ProvisionerSpec{})
		y.pod("web", "rs", "a")
		d := &deathbed{state: state}
		y.fleet = newFleet(y.Loops, aliased{d})
		r, claim, node := y.leave("a", v1alpha1.ReasonDeleted)
		if err := y.fleet.poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !ends {
			if s, err := y.fleet.stateOf(t.Context(), "i-a", false); s != state || err != nil {
				t.Errorf("%s: state %q, %v", state, s, err)
			}
			continue
		}
		_, done, err := r.empty(t.Context(), claim, node)
		if c := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionDrained); err != nil || !done || c == nil || c.Reason != "InstanceEnded" {
			t.Errorf("%s: done %t, %v, %v", state, done, c, err)
		}
	}
}

// aliased is the one instance of a deathbed under the name that a yard has for it.
type aliased struct{ *deathbed }

func (a aliased) Instances(ctx context.Context) ([]ec2.Instance, error) {
	list, err := a.deathbed.Instances(ctx)
	for i := range list {
		list[i].ID = "i-a"
	}
	return list, err
}

func (a aliased) Instance(ctx context.Context, _ string) (ec2.Instance, error) {
	return a.deathbed.Instance(ctx, ourInstance)
}
