package provisioner

import (
	"math"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

// TestExpirySpreads: a node never expires before its time, at most a tenth of it
// later, always at the same moment, and its grace ends after that.
func TestExpirySpreads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ttl := rapid.Int64Range(1, 10*365*86400).Draw(t, "ttl")
		spec := &v1alpha1.ProvisionerSpec{TTLSecondsUntilExpired: &ttl}
		grace := defaultExpiryGrace
		if rapid.Bool().Draw(t, "own grace") {
			grace = time.Duration(rapid.Int64Range(0, 1e6).Draw(t, "grace")) * time.Second
			spec.Disruption = &v1alpha1.Disruption{ExpiryGrace: &metav1.Duration{Duration: grace}}
		}
		born := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "born"), 0)
		c := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{UID: types.UID(rapid.String().Draw(t, "uid")), CreationTimestamp: metav1.Time{Time: born}}}
		soft, hard, ok := expires(c, spec)
		again, _, _ := expires(c, spec)
		late := soft.Sub(born.Add(time.Duration(ttl) * time.Second))
		if !ok || !soft.Equal(again) || late < 0 || late > expiryJitterMost || late > time.Duration(ttl)*time.Second/10 || hard.Sub(soft) != grace {
			t.Fatalf("expires %s late, gone %s after that (%v)", late, hard.Sub(soft), ok)
		}
	})
	if _, _, ok := expires(&v1alpha1.NodeClaim{}, &v1alpha1.ProvisionerSpec{}); ok {
		t.Error("a node expires without ttlSecondsUntilExpired")
	}
}

// TestHugeTimesMeanNever: what was stored before there was a Maximum is not taken
// for a time that has passed.
func TestHugeTimesMeanNever(t *testing.T) {
	now := time.Unix(1e9, 0)
	year := 365 * 24 * time.Hour
	for _, ttl := range []int64{315360000, 315360001, 9223372036, 9223372037, 9999999999, math.MaxInt64} {
		c := candidate{provisioner: &v1alpha1.Provisioner{Spec: v1alpha1.ProvisionerSpec{TTLSecondsUntilExpired: &ttl, TTLSecondsAfterEmpty: &ttl}},
			node: &corev1.Node{}, claim: &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Time{Time: now.Add(-year)}}}}
		if ps, next := (expiry{}).propose(now, []candidate{c}); len(ps) != 0 || next < 8*year {
			t.Errorf("ttlSecondsUntilExpired %d: proposes %+v, looks again in %s", ttl, ps, next)
		}
		e := newEmptiness(&Loops{stores: &stores{pods: informerOf[*corev1.Pod](t, nil), claims: informerOf[*v1alpha1.NodeClaim](t, nil)}, book: newBook()})
		e.used[c.claim.Name] = true
		e.planned.Store(true)
		for _, at := range []time.Time{now, now.Add(year)} {
			if ps, next := e.propose(at, []candidate{c}); len(ps) != 0 || next < 8*year {
				t.Errorf("ttlSecondsAfterEmpty %d: proposes %+v, looks again in %s", ttl, ps, next)
			}
		}
	}
}

func TestExpiryIsSoftThenHard(t *testing.T) {
	now := time.Unix(1e9, 0)
	pr := &v1alpha1.Provisioner{Spec: v1alpha1.ProvisionerSpec{TTLSecondsUntilExpired: ptr(int64(100)),
		Disruption: &v1alpha1.Disruption{ExpiryGrace: &metav1.Duration{Duration: time.Minute}}}}
	for name, tc := range map[string]struct {
		age, due     time.Duration // due: since when that is known.
		want, forced bool
	}{
		"young":                             {99 * time.Second, 0, false, false},
		"past its time and all of the jit":  {111 * time.Second, 0, true, false},
		"past its grace too":                {200 * time.Second, 90 * time.Second, true, true},
		"old when the ttl was made shorter": {time.Hour, 0, true, false},
		"not for as long as its grace":      {time.Hour, 59 * time.Second, true, false},
		"for as long as its grace":          {time.Hour, time.Minute, true, true},
		"its grace counts from its end":     {130 * time.Second, time.Hour, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := candidate{provisioner: pr, node: &corev1.Node{}, claim: &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Time{Time: now.Add(-tc.age)}}}}
			if tc.due > 0 {
				c.claim.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionExpired, Status: metav1.ConditionTrue, LastTransitionTime: metav1.Time{Time: now.Add(-tc.due)}}}
			}
			ps, next := expiry{}.propose(now, []candidate{c})
			if (len(ps) == 1) != tc.want || tc.want && ps[0].forced != tc.forced {
				t.Fatalf("proposes %+v", ps)
			}
			if !tc.forced && next <= 0 {
				t.Error("does not say when it will look again")
			}
		})
	}
}

func TestAllowWindows(t *testing.T) {
	// A Saturday, 02:30 in UTC.
	now := time.Date(2026, 11, 21, 2, 30, 0, 0, time.UTC)
	hour := &metav1.Duration{Duration: time.Hour}
	open := v1alpha1.Budget{Nodes: "5", Schedule: "0 2 * * *", Duration: hour, Window: v1alpha1.WindowAllow}
	wide := v1alpha1.Budget{Nodes: "8", Schedule: "15 2 * * *", Duration: hour, Window: v1alpha1.WindowAllow}
	shut := v1alpha1.Budget{Nodes: "5", Schedule: "0 12 * * *", Duration: hour, Window: v1alpha1.WindowAllow}
	drifted := shut
	drifted.Reasons = []v1alpha1.DisruptionReason{v1alpha1.ReasonDrifted}
	for name, tc := range map[string]struct {
		budgets []v1alpha1.Budget
		want    int
	}{
		"while one is open, as many as it says":         {[]v1alpha1.Budget{open}, 5},
		"of several that are open, the largest":         {[]v1alpha1.Budget{open, wide, shut}, 8},
		"while all are shut, none":                      {[]v1alpha1.Budget{shut}, 0},
		"a limit holds inside a window":                 {[]v1alpha1.Budget{wide, {Nodes: "2"}}, 2},
		"a window that denies holds inside one as well": {[]v1alpha1.Budget{open, {Nodes: "0", Schedule: "0 2 * * 6", Duration: hour}}, 0},
		"a window for another reason says nothing":      {[]v1alpha1.Budget{drifted}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := allowed(&v1alpha1.Disruption{Budgets: tc.budgets}, v1alpha1.ReasonExpired, 20, now)
			if err != nil || got != tc.want {
				t.Fatalf("allowed = %d, %v; want %d", got, err, tc.want)
			}
		})
	}
}

// TestAllowanceIsAllOrNothing: whatever is proposed in whatever order, no more
// nodes begin to go than the budget of any reason allows, and a proposal of
// several nodes begins with all or none.
func TestAllowanceIsAllOrNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := map[v1alpha1.DisruptionReason]int{}
		a := allowance{}
		for _, why := range budgeted {
			limit[why] = rapid.IntRange(0, 10).Draw(t, "limit")
			a[budgetKey{"p", why}] = limit[why]
		}
		begun := 0
		for range rapid.IntRange(0, 30).Draw(t, "proposals") {
			p := proposal{reason: rapid.SampledFrom(budgeted).Draw(t, "reason")}
			fresh := 0
			for range rapid.IntRange(1, 4).Draw(t, "nodes") {
				n := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
				if rapid.Bool().Draw(t, "tainted") {
					drain.Hold(n, time.Unix(1, 0)) // Counted as going before.
				} else {
					fresh++
				}
				p.nodes = append(p.nodes, candidate{node: n, provisioner: &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "p"}}})
			}
			if a.take(p) {
				begun += fresh
				if fresh > 0 && begun > limit[p.reason] {
					t.Fatalf("%d nodes begin to go, the last for %s, which allows %d", begun, p.reason, limit[p.reason])
				}
			} else if begun+fresh <= limit[p.reason] {
				t.Fatalf("%d nodes are refused beside %d, %s allows %d", fresh, begun, p.reason, limit[p.reason])
			}
		}
	})
}

func TestPauseEnds(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]struct {
		in      time.Duration
		written bool
	}{
		"2026-11-28T14:00:00Z":      {2 * time.Hour, true},
		"2026-11-28T15:00:00+01:00": {2 * time.Hour, true},
		"2026-11-28T11:00:00Z":      {-time.Hour, true},
		"2036-01-01T00:00:00Z":      {v1alpha1.PauseMost, false},
		"4h":                        {4 * time.Hour, false},
		"100000h":                   {v1alpha1.PauseMost, false},
		"true":                      {v1alpha1.PauseDefault, false},
		"-5m":                       {v1alpha1.PauseDefault, false},
	} {
		end, written := v1alpha1.PauseEnd(value, now)
		if end.Sub(now) != want.in || written != want.written {
			t.Errorf("%q ends in %s, written %t; want %s, %t", value, end.Sub(now), written, want.in, want.written)
		}
	}
	if !v1alpha1.PausedUntil("", now).IsZero() || !v1alpha1.PausedUntil("false", now).IsZero() || !v1alpha1.PausedUntil("2026-11-28T11:00:00Z", now).IsZero() {
		t.Error("paused without a pause, or after its end")
	}
}

func FuzzPauseEnd(f *testing.F) {
	f.Add("true")
	f.Add("4h")
	f.Add("2026-11-28T14:00:00Z")
	f.Fuzz(func(t *testing.T, value string) {
		now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
		if end, _ := v1alpha1.PauseEnd(value, now); end.After(now.Add(v1alpha1.PauseMost)) {
			t.Errorf("%q pauses until %s", value, end)
		}
	})
}

// TestEmptyNodesGoAsSoonAsTheyWillBe: with ttlSecondsAfterEmpty 0 a node is
// proposed MinDrain before its last pods have to be gone, and waits for them then.
func TestEmptyNodesGoAsSoonAsTheyWillBe(t *testing.T) {
	now := time.Unix(1e9, 0)
	ends := func(in time.Duration) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: in.String(), DeletionTimestamp: &metav1.Time{Time: now.Add(in)}}, Spec: corev1.PodSpec{NodeName: "n"}}
	}
	runs := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "runs"}, Spec: corev1.PodSpec{NodeName: "n"}}
	for name, tc := range map[string]struct {
		ttl          int64
		pods         []*corev1.Pod
		want, commit bool
		next         time.Duration
	}{
		"nothing runs":                        {0, nil, true, true, 0},
		"its pods end soon":                   {0, []*corev1.Pod{ends(drain.MinDrain), ends(time.Second)}, true, false, 0},
		"a pod should have ended":             {0, []*corev1.Pod{ends(-time.Second)}, true, false, 0},
		"a pod takes its time":                {0, []*corev1.Pod{ends(drain.MinDrain), ends(drain.MinDrain + time.Minute)}, false, false, time.Minute},
		"a pod stays":                         {0, []*corev1.Pod{ends(time.Second), runs}, false, false, 0},
		"it is to be kept for a while anyway": {1, []*corev1.Pod{ends(time.Second)}, false, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := candidate{claim: &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", UID: "c"},
				Spec: v1alpha1.NodeClaimSpec{Offerings: []v1alpha1.ClaimOffering{{HourlyPrice: "0.1"}}}},
				node:        &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}},
				provisioner: &v1alpha1.Provisioner{Spec: v1alpha1.ProvisionerSpec{TTLSecondsAfterEmpty: &tc.ttl}}}
			p := &Loops{book: newBook(), stores: &stores{pods: informerOf(t, tc.pods)}}
			p.planned.Store(true)
			e := newEmptiness(p)
			got, next := e.propose(now, []candidate{c})
			if (len(got) == 1) != tc.want || next != tc.next {
				t.Fatalf("proposes %d, looks again after %s", len(got), next)
			}
			if !tc.want {
				return
			}
			p.tainted.Store(c.claim.UID, now.Add(-drain.MinDrain))
			if s, _ := (&disruption{Loops: p}).progress(got[0], now); (s == stepCommit) != tc.commit {
				t.Errorf("step %d", s)
			}
		})
	}
}

// TestNewNodesAwaitTheirFirstPods: a node that was bought for pods which do not
// exist yet is not empty before they had a chance to come.
func TestNewNodesAwaitTheirFirstPods(t *testing.T) {
	now := time.Unix(1e9, 0)
	made := func(ago time.Duration, node string) []*corev1.Pod {
		return []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: metav1.NewTime(now.Add(-ago)),
			OwnerReferences: []metav1.OwnerReference{{UID: "rs", Controller: new(true)}}}, Spec: corev1.PodSpec{NodeName: node}}}
	}
	for name, tc := range map[string]struct {
		open   time.Duration
		bought types.UID
		pods   []*corev1.Pod
		used   bool
		want   bool
	}{
		"it has just joined":                        {open: firstPods - time.Second},
		"nobody came":                               {open: firstPods, want: true},
		"its owner makes pods":                      {open: time.Minute, bought: "rs", pods: made(expectFresh, "")},
		"its owner makes no more":                   {open: time.Minute, bought: "rs", pods: made(expectFresh+time.Second, ""), want: true},
		"somebody else makes pods":                  {open: time.Minute, bought: "other", pods: made(0, "m"), want: true},
		"its first pod has come and gone":           {open: time.Second, used: true, want: true},
		"its first pod has come, its owner goes on": {open: time.Minute, bought: "rs", pods: made(0, "n")},
	} {
		t.Run(name, func(t *testing.T) {
			c := candidate{claim: &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"},
				Spec: v1alpha1.NodeClaimSpec{Offerings: []v1alpha1.ClaimOffering{{HourlyPrice: "0.1"}}},
				Status: v1alpha1.NodeClaimStatus{Conditions: []metav1.Condition{{Type: v1alpha1.ConditionInitialized,
					Status: metav1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-tc.open))}}}},
				node:        &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}},
				provisioner: &v1alpha1.Provisioner{Spec: v1alpha1.ProvisionerSpec{TTLSecondsAfterEmpty: new(int64)}}}
			e := newEmptiness(&Loops{book: newBook(), stores: &stores{pods: informerOf(t, tc.pods)}})
			if tc.bought != "" {
				e.book.expect(tc.bought, "c")
			}
			e.used["c"] = tc.used
			if got, _ := e.propose(now, []candidate{c}); (len(got) == 1) != tc.want {
				t.Errorf("%d proposals", len(got))
			}
		})
	}
}
