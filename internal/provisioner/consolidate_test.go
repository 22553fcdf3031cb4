package provisioner

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

var consolidationNow = time.Date(2026, 1, 1, 12, 30, 0, 0, time.UTC)

func TestMovesCountForADay(t *testing.T) {
	h := newMoveHistory()
	h.add(map[string]int{"a": 2, "b": 1}, consolidationNow)
	h.add(map[string]int{"a": 1}, consolidationNow.Add(3*time.Hour))
	for _, tc := range []struct {
		after time.Duration
		want  map[string]int
	}{
		{4 * time.Hour, map[string]int{"a": 3, "b": 1}},
		{25 * time.Hour, map[string]int{"a": 1}},
		{28 * time.Hour, map[string]int{}},
	} {
		if diff := cmp.Diff(tc.want, h.moved(consolidationNow.Add(tc.after))); diff != "" {
			t.Errorf("after %s: %s", tc.after, diff)
		}
	}
}

func TestFailedReplacementsAreRememberedLongerEachTime(t *testing.T) {
	h := newMoveHistory()
	h.fail("x", "no capacity", consolidationNow)
	h.fail("x", "no capacity", consolidationNow)
	if _, held := h.failed("x", consolidationNow.Add(19*time.Minute)); !held {
		t.Error("the second failure holds for less than 20 minutes")
	}
	if why, held := h.failed("x", consolidationNow.Add(20*time.Minute)); held {
		t.Error("held for too long: " + why)
	}
	for range 20 {
		h.fail("x", "no capacity", consolidationNow)
	}
	if _, held := h.failed("x", consolidationNow.Add(failedMost)); held {
		t.Error("held for more than a day")
	}
}

func TestHistorySurvivesARestart(t *testing.T) {
	h := newMoveHistory()
	h.add(map[string]int{"default/Deployment/web": 3}, consolidationNow)
	h.fail("kept", "never joined", consolidationNow)
	h.fail("gone", "never joined", consolidationNow)
	data, changed, err := h.encode(func(name string) bool { return name == "kept" }, consolidationNow)
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	if _, changed, _ := h.encode(func(string) bool { return true }, consolidationNow); changed {
		t.Error("what is stored is stored again")
	}
	next := newMoveHistory()
	if err := next.decode(data); err != nil {
		t.Fatal(err)
	}
	if got := next.moved(consolidationNow)["default/Deployment/web"]; got != 3 {
		t.Errorf("%d moves, want 3", got)
	}
	if _, held := next.failed("kept", consolidationNow); !held {
		t.Error("the failure is forgotten")
	}
	if _, held := next.failed("gone", consolidationNow); held {
		t.Error("the failure of a claim that is gone is kept")
	}
	if err := next.decode("{"); err == nil {
		t.Error("half a history is read as a whole one")
	}
}

func TestConsolidationHasSaneDefaults(t *testing.T) {
	spec := &v1alpha1.ProvisionerSpec{Consolidation: &v1alpha1.Consolidation{Enabled: true}}
	want := capacity.ConsolidationPolicy{MinSaving: 0.05, Payback: time.Hour, MoveCost: 0.002, MinNodeAge: 10 * time.Minute, Settle: 5 * time.Minute, MovesPercent: 100}
	if diff := cmp.Diff(want, policyOf(spec)); diff != "" {
		t.Error(diff)
	}
	percent, ttl := int32(0), int64(30)
	spec.TTLSecondsAfterEmpty = &ttl
	spec.Consolidation.MinSavingsPercent = &percent
	spec.Consolidation.MoveCost, spec.Consolidation.MovesPerDay = "0", "3"
	spec.Consolidation.MinNodeAge, spec.Consolidation.Settle = &metav1.Duration{}, &metav1.Duration{Duration: time.Second}
	spec.Consolidation.Payback = &metav1.Duration{Duration: time.Minute}
	want = capacity.ConsolidationPolicy{Payback: time.Minute, Settle: time.Second, MovesPerDay: 3, LeaveEmpty: true}
	if diff := cmp.Diff(want, policyOf(spec)); diff != "" {
		t.Error(diff)
	}
}

func TestAMoveThatNoBudgetLetsGoIsNotBegun(t *testing.T) {
	budget := func(name string, allowed int32, app string) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec:   policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
			Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed}}
	}
	all := budget("all", 0, "e")
	all.Status.ExpectedPods, all.Status.DesiredHealthy = 3, 3
	b := newBudgets([]*policyv1.PodDisruptionBudget{budget("none", 0, "a"), budget("some", 1, "b"), budget("one", 1, "c"), budget("two", 1, "c"), all})
	for app, want := range map[string]string{
		"a": "PodDisruptionBudget none allows no disruption",
		"b": "",
		"c": "more than one PodDisruptionBudget selects it (one, two), so that nobody can evict it",
		"d": "",
		"e": "PodDisruptionBudget all allows no disruption",
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", Labels: map[string]string{"app": app}}}
		if got := b.forbids(pod, false); got != want {
			t.Errorf("%s: %q, want %q", app, got, want)
		}
		if app == "a" {
			want = "" // Its turn may come.
		}
		if got := b.forbids(pod, true); got != want {
			t.Errorf("%s, begun: %q, want %q", app, got, want)
		}
	}
}

func TestPodsThatMoveForMoneyBuyNothing(t *testing.T) {
	moved, real := podNamed("moved"), podNamed("real")
	d := &departures{frugal: map[types.UID]bool{moved.UID: true}}
	plan := &capacity.Plan{HourlyCost: 3, Launches: []capacity.Launch{
		{OfferingRef: capacity.OfferingRef{Price: 1}, Pods: []*corev1.Pod{moved}},
		{OfferingRef: capacity.OfferingRef{Price: 2}, Pods: []*corev1.Pod{moved, real}},
	}}
	d.forgo(plan)
	if len(plan.Launches) != 1 || plan.Launches[0].Price != 2 || plan.HourlyCost != 2 {
		t.Errorf("launches %+v, cost %v", plan.Launches, plan.HourlyCost)
	}
	if len(plan.Unschedulable) != 1 || plan.Unschedulable[0].Pod != moved {
		t.Errorf("without a place: %+v", plan.Unschedulable)
	}
}

// consolidatingYard has two nodes, and a decision to take the first away.
func consolidatingYard(t *testing.T) (*yard, *consolidation) {
	t.Helper()
	y := newYard(t, 2, v1alpha1.ProvisionerSpec{Consolidation: &v1alpha1.Consolidation{Enabled: true}, TTLSecondsAfterEmpty: ptr(int64(60)),
		Disruption: &v1alpha1.Disruption{Budgets: []v1alpha1.Budget{{Nodes: "100%"}}}})
	c := newConsolidation(y.Loops, y.disruption)
	y.proposers = []proposer{c}
	y.now = y.now.Add(time.Hour) // All has settled.
	y.watch()
	return y, c
}

// TestAWorkloadOfOneReplicaMovesWithinItsBudget: with the default of a move a day
// for each replica, the decision's own move does not speak against it, is in the
// history once it happens, and speaks against the next.
func TestAWorkloadOfOneReplicaMovesWithinItsBudget(t *testing.T) {
	y, c := consolidatingYard(t)
	web := y.pod("web", "rs", "a")
	y.pod("other", "rs2", "b")
	y.watch()
	plan := capacity.Consolidate(c.input(y.now, nil))
	if len(plan.Decisions) != 1 || plan.Decisions[0].Nodes[0].Name != "a" {
		t.Fatalf("decisions %+v, kept %v", plan.Decisions, plan.Kept)
	}
	c.planned, c.plannedAt = plan.Decisions, y.now
	workload := c.workloadOf(web)
	y.turn(0)
	y.expect("a", "")
	if got := c.history.moved(y.now)[workload]; got != 0 {
		t.Errorf("%d moves are in the history before any", got)
	}
	if got := c.input(y.now, nil).Moved[workload]; got != 1 {
		t.Errorf("the next sweep counts %d moves of what is under way", got)
	}
	y.room(seating{})
	for range 8 {
		y.turn(2 * time.Second)
	}
	y.expect("a", "a")
	if got := c.history.moved(y.now)[workload]; got != 1 {
		t.Errorf("%d moves are in the history after one", got)
	}
}

// TestADroppedDecisionUsesNoMoves: nothing has moved when a decision is given up
// whose nodes were out of use already.
func TestADroppedDecisionUsesNoMoves(t *testing.T) {
	y, c := consolidatingYard(t)
	web := y.pod("web", "rs", "a")
	y.pod("other", "rs2", "b")
	y.watch()
	c.planned, c.plannedAt = capacity.Consolidate(c.input(y.now, nil)).Decisions, y.now
	y.turn(0)
	y.turn(2 * time.Second)
	y.expect("a", "")
	y.room(seating{stuck: "no room"})
	for range 3 {
		y.turn(2 * time.Second)
	}
	y.expect("", "")
	if len(c.intents) != 0 || c.history.moved(y.now)[c.workloadOf(web)] != 0 || c.input(y.now, nil).Moved[c.workloadOf(web)] != 0 {
		t.Errorf("%d intents, history %v", len(c.intents), c.history.moved(y.now))
	}
}

// TestConsolidationKeepsChoices: pods that run on the capacity type that was
// chosen for them are weighed as if they had to have it.
func TestConsolidationKeepsChoices(t *testing.T) {
	y, c := consolidatingYard(t)
	node := &corev1.Node{}
	if err := y.api.Get(t.Context(), client.ObjectKey{Name: "a"}, node); err != nil {
		t.Fatal(err)
	}
	node.Labels = map[string]string{v1alpha1.LabelCapacityType: v1alpha1.CapacityTypeOnDemand}
	if err := y.api.Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	for _, choice := range []string{v1alpha1.CapacityTypeOnDemand, v1alpha1.CapacityTypeSpot} {
		p := chosenPod(types.UID(choice), choice)
		p.Namespace, p.Name, p.Spec.NodeName, p.OwnerReferences = "default", choice, "a", ownedPod("x", "rs", "a").OwnerReferences
		y.create(p)
	}
	y.watch()
	in := c.input(y.now, nil)
	got := map[string]bool{}
	for _, p := range in.Snapshot.Nodes[0].Pods {
		got[p.Name] = len(in.Snapshot.Also[p]) > 0
		if _, ok := in.Pods[p]; !ok {
			t.Errorf("nothing is known of pod %s", p.Name)
		}
	}
	if diff := cmp.Diff(map[string]bool{"on-demand": true, "spot": false}, got); diff != "" {
		t.Errorf("pods that must have a capacity type (-want +got):\n%s", diff)
	}
}

// TestNodesThatWaitForReplacementsGetNoPods: until what is bought in their place is
// ready, nobody else's pods are moved to them, nor are nodes taken away that pods of
// theirs are to move to.
func TestNodesThatWaitForReplacementsGetNoPods(t *testing.T) {
	y, c := consolidatingYard(t)
	y.pod("web", "rs", "a")
	y.pod("other", "rs2", "b")
	y.watch()
	before := capacity.Consolidate(c.input(y.now, nil))
	if len(before.Decisions) != 1 || before.Decisions[0].Nodes[0].Name != "a" {
		t.Fatalf("decisions %+v, kept %v", before.Decisions, before.Kept)
	}
	for name, i := range map[string]*intent{
		"the node that pods would move to is to be replaced": {claims: []string{"b"}},
		"the node is to take pods of one that is replaced":   {claims: []string{"z"}, onto: []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			i.asked = &wish{}
			c.intents = []*intent{i}
			c.planned, c.plannedAt = before.Decisions, y.now
			c.begin(y.now, candidatesOf(y))
			if len(c.intents) != 1 {
				t.Errorf("begun: %+v", c.intents[1])
			}
		})
	}
	c.intents = []*intent{{claims: []string{"b"}, asked: &wish{}}}
	c.pledge()
	if got := capacity.Consolidate(c.input(y.now, nil)).Decisions; len(got) > 0 {
		t.Errorf("a sweep moves pods to a node that is to be replaced: %s", got[0].Why)
	}
	why := capacity.Recheck(c.input(y.now, map[string]bool{"a": true}), []capacity.Intent{{Nodes: []string{"a"}}})
	if why[0] == "" {
		t.Error("what is under way goes on although its pods could move only to a node that is to be replaced")
	}
}

func candidatesOf(y *yard) map[string]candidate {
	out := map[string]candidate{}
	for _, c := range y.candidates() {
		out[c.claim.Name] = c
	}
	return out
}

// TestADecisionEndsOnce: when its nodes were told to go, whether the watch shows that
// yet or not; when nobody can take them away any more, it is dropped, and its
// replacement let go.
func TestADecisionEndsOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		gone                       bool // The Provisioner.
		done, dropped, moves, left float64
	}{
		"the claim was told to go":    {done: 1, moves: 1},
		"its Provisioner was deleted": {gone: true, dropped: 1, left: 1},
	} {
		t.Run(name, func(t *testing.T) {
			y, c := consolidatingYard(t)
			web := y.pod("web", "rs", "a")
			y.watch()
			bought, _ := one[*v1alpha1.NodeClaim](y.stores.claims, "b")
			bought.Annotations = map[string]string{v1alpha1.AnnotationReplaces: "a"}
			c.intents = []*intent{{claims: []string{"a"}, replacements: []string{"b"}, wanted: 1, moves: c.movesFrom([]string{"a"})}}
			if tc.gone {
				pr, _ := one[*v1alpha1.Provisioner](y.stores.provisioners, "p")
				if err := y.stores.provisioners.GetStore().Delete(pr); err != nil {
					t.Fatal(err)
				}
			} else {
				y.removing.Store(types.UID("uid-a"), true)
			}
			for range 3 {
				c.propose(y.now, y.candidates())
			}
			_, released := y.wishes.takeAll()
			got := []float64{testutil.ToFloat64(y.metrics.consolidated.WithLabelValues("replace", "done")), testutil.ToFloat64(y.metrics.consolidated.WithLabelValues("replace", "dropped")),
				float64(c.history.moved(y.now)[c.workloadOf(web)]), float64(len(released))}
			if diff := cmp.Diff([]float64{tc.done, tc.dropped, tc.moves, tc.left}, got); diff != "" {
				t.Errorf("done, dropped, moves in the history, replacements let go (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReplacementsThatCouldNotBeUsedAreNotBoughtAgainSoon: where other reasons keep
// using the budgets up, nodes would be bought in vain every few minutes.
func TestReplacementsThatCouldNotBeUsedAreNotBoughtAgainSoon(t *testing.T) {
	for wanted, remembered := range map[int]bool{0: false, 1: true} {
		y, c := consolidatingYard(t)
		i := &intent{claims: []string{"a"}, replacements: []string{"b"}[:wanted], wanted: wanted, readyAt: y.now}
		c.intents = []*intent{i}
		late := y.now.Add(beginWithin + time.Second)
		c.advance(late, candidatesOf(y))
		if _, held := c.history.failed("a", late); len(c.intents) > 0 || held != remembered {
			t.Errorf("%d replacements: %d intents, remembered %t; want none, %t", wanted, len(c.intents), held, remembered)
		}
	}
}
