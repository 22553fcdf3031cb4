package drain

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

// register is the API server's own account of one budget. Each write is a
// version; a watch delivers them in order, later.
type register struct {
	versions []*policyv1.PodDisruptionBudget
	away     []string // Evicted, and not replaced yet.
}

func newRegister(allowed int) *register {
	return &register{versions: []*policyv1.PodDisruptionBudget{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b", UID: "b", ResourceVersion: "1", Generation: 1},
		Status:     policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: int32(allowed)}}}}
}

func (r *register) now() *policyv1.PodDisruptionBudget { return r.versions[len(r.versions)-1] }

// write stores the budget anew, as change leaves it.
func (r *register) write(change func(*policyv1.PodDisruptionBudgetStatus)) {
	b := r.now().DeepCopy()
	b.ResourceVersion = fmt.Sprint(len(r.versions) + 1)
	change(&b.Status)
	r.versions = append(r.versions, b)
}

// evict is the eviction handler: it asks the status as it is now.
func (r *register) evict(pod string) bool {
	if r.now().Status.DisruptionsAllowed <= 0 {
		return false
	}
	r.write(func(s *policyv1.PodDisruptionBudgetStatus) {
		s.DisruptionsAllowed--
		if s.DisruptedPods == nil {
			s.DisruptedPods = map[string]metav1.Time{}
		}
		s.DisruptedPods[pod] = metav1.Time{Time: start}
	})
	r.away = append(r.away, pod)
	return true
}

// TestDrainsShareBudgets: however many drains ask in whatever order, with
// whatever stale copy of the budget, while answers and the watch are late, the
// API server refuses none of them; and once all has arrived, all that it allows
// may be asked for.
func TestDrainsShareBudgets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Ledger
		r := newRegister(rapid.IntRange(0, 5).Draw(t, "allowed"))
		seen, serial := 0, 0
		var asked []string
		l.Observe(r.versions[0])
		ask := func(b *policyv1.PodDisruptionBudget) bool {
			serial++
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprint("p", serial)}}
			may, says := l.take(b, p, start)
			if may {
				asked = append(asked, p.Name)
			} else if says == "" {
				t.Fatal("refused without a word")
			}
			return may
		}
		t.Repeat(map[string]func(*rapid.T){
			"a drain asks": func(t *rapid.T) { ask(r.versions[rapid.IntRange(0, seen).Draw(t, "its copy")]) },
			"a call arrives": func(t *rapid.T) {
				if len(asked) == 0 {
					return
				}
				if !r.evict(asked[0]) {
					t.Fatalf("%s is refused: %+v", asked[0], r.now().Status)
				}
				asked = asked[1:]
			},
			"a call fails": func(t *rapid.T) {
				if len(asked) > 0 {
					l.refund(r.versions[seen], &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: asked[0]}})
					asked = asked[1:]
				}
			},
			"a pod is replaced": func(t *rapid.T) {
				if len(r.away) > 0 {
					r.write(func(s *policyv1.PodDisruptionBudgetStatus) {
						s.DisruptionsAllowed++
						delete(s.DisruptedPods, r.away[0])
					})
					r.away = r.away[1:]
				}
			},
			"the watch delivers": func(t *rapid.T) {
				if seen < len(r.versions)-1 {
					seen++
					l.Observe(r.versions[seen])
				}
			},
		})
		for ; len(asked) > 0; asked = asked[1:] {
			if !r.evict(asked[0]) {
				t.Fatalf("%s is refused at last", asked[0])
			}
		}
		for ; seen < len(r.versions); seen++ {
			l.Observe(r.versions[seen])
		}
		allowed := int(r.now().Status.DisruptionsAllowed)
		for range allowed {
			if !ask(r.versions[0]) {
				t.Fatalf("%d are allowed, and may not be asked for", allowed)
			}
		}
		if ask(r.now()) {
			t.Fatalf("%d are allowed, and one more may be asked for", allowed)
		}
	})
}

// TestLedgerTrustsNobodyForLong: an eviction that no status ever accounts for is
// forgotten, a status that speaks of another budget is not believed, and a budget
// of the same name starts anew.
func TestLedgerTrustsNobodyForLong(t *testing.T) {
	var l Ledger
	one := newRegister(1).now()
	pod := func(name string) *corev1.Pod { return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	if may, _ := l.take(one, pod("x"), start); !may {
		t.Fatal("the one that is allowed is refused")
	}
	if may, _ := l.take(one, pod("y"), start.Add(owedFor-1)); may {
		t.Error("a second one may be asked for")
	}
	if may, _ := l.take(one, pod("y"), start.Add(owedFor)); !may {
		t.Error("an eviction that nobody accounts for is remembered for ever")
	}
	other := one.DeepCopy()
	other.ResourceVersion, other.Generation = "2", 2
	if may, _ := l.take(other, pod("z"), start.Add(owedFor)); !may {
		t.Error("a status that speaks of another budget is believed")
	}
	again := one.DeepCopy()
	again.UID, again.ResourceVersion = "c", "3"
	if may, _ := l.take(again, pod("z"), start.Add(owedFor)); !may {
		t.Error("a new budget has the account of the old one")
	}
}

// TestNoDrainAsksInVain: two nodes drain under one budget whose status is exact.
// The API server refuses none of their evictions, and both end.
func TestNoDrainAsksInVain(t *testing.T) {
	m := &model{now: start, pods: map[types.NamespacedName]*corev1.Pod{}, ending: map[string]bool{}, deadline: start.Add(time.Hour)}
	one, few := int64(1), intstr.FromInt32(3)
	for i := range 5 {
		for _, node := range []string{"n1", "n2"} {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprint(node, i), UID: types.UID(fmt.Sprint(node, i)), Labels: map[string]string{"app": "x"}},
				Spec:   corev1.PodSpec{NodeName: node, TerminationGracePeriodSeconds: &one},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
			m.pods[types.NamespacedName{Namespace: "a", Name: p.Name}] = p
		}
	}
	pdb := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b", ResourceVersion: "1"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &few, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}}}
	var l Ledger
	for round := range 30 {
		healthy, desired := m.health(pdb)
		pdb = pdb.DeepCopy()
		pdb.Status.DisruptionsAllowed, pdb.ResourceVersion = int32(max(healthy-desired, 0)), fmt.Sprint(round+2)
		pdb.Status.DisruptedPods = map[string]metav1.Time{}
		for _, p := range m.pods {
			pdb.Status.DisruptedPods[p.Name] = metav1.Time{} // All that was asked for is in it.
		}
		m.pdbs = []*policyv1.PodDisruptionBudget{pdb}
		for _, node := range []string{"n1", "n2"} {
			m.node = NodeFacts{Name: node, UID: types.UID(node), CordonedAt: start, TaintSeen: start}
			m.listed = m.list()
			r := Pass(t.Context(), m, Input{Node: m.node, Pods: m.listed, PDBs: m.pdbs, Now: m.now, Started: start, Deadline: m.deadline, Ledger: &l})
			if healthy, desired := m.health(pdb); healthy < desired {
				t.Fatalf("D5: %d healthy, %d must be", healthy, desired)
			}
			for _, b := range r.Blocked {
				if b.Detail == "" || len(b.PDB) != 1 {
					t.Fatalf("D11: blocked without budget or detail: %+v", b)
				}
			}
		}
		m.now = m.now.Add(2 * time.Second)
		for name, p := range m.pods {
			if p.DeletionTimestamp != nil { // It runs elsewhere, ready.
				p.DeletionTimestamp, p.Spec.NodeName = nil, "n3"
				m.pods[name] = p
			}
		}
	}
	if len(m.faults) > 0 {
		t.Fatal(m.faults)
	}
	if m.refused > 0 {
		t.Errorf("%d evictions were asked for in vain", m.refused)
	}
	for _, p := range m.pods {
		if p.Spec.NodeName != "n3" {
			t.Errorf("%s is still on %s", p.Name, p.Spec.NodeName)
		}
	}
}

// TestUnreadyPodsGoAsTheirBudgetSays: with a status that is exact, all pods go that the
// API server would let go although they are not ready, and none is asked for in vain.
func TestUnreadyPodsGoAsTheirBudgetSays(t *testing.T) {
	always, ifHealthy := policyv1.AlwaysAllow, policyv1.IfHealthyBudget
	for name, tc := range map[string]struct {
		policy                  *policyv1.UnhealthyPodEvictionPolicyType
		ready, unready, desired int
		// evicted are how many of both.
		evicted int
	}{
		"too few are healthy":                  {nil, 1, 2, 2, 0},
		"too few are healthy, and it is named": {&ifHealthy, 1, 2, 2, 0},
		"too few are healthy, always":          {&always, 1, 2, 2, 2},
		"just enough are healthy":              {nil, 2, 2, 2, 2},
		"more than enough are healthy":         {&ifHealthy, 3, 2, 2, 3},
		"more than enough are healthy, always": {&always, 3, 2, 2, 3},
		"none is, and none has to be":          {nil, 0, 2, 0, 0},
		"none is, and none has to be, always":  {&always, 0, 2, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			m := &model{now: start, node: NodeFacts{Name: "n1", UID: "n1", CordonedAt: start, TaintSeen: start}, deadline: start.Add(time.Hour),
				pods: map[types.NamespacedName]*corev1.Pod{}, ending: map[string]bool{}}
			for i := range tc.ready + tc.unready {
				p := pod(fmt.Sprint("p", i), labelled("app", "x"))
				if i < tc.ready {
					ready(p)
				}
				m.pods[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = p
			}
			least := intstr.FromInt32(int32(tc.desired))
			b := pdb("b", map[string]string{"app": "x"})
			b.Spec.MinAvailable, b.Spec.UnhealthyPodEvictionPolicy = &least, tc.policy
			b.Status.CurrentHealthy, b.Status.DesiredHealthy = int32(tc.ready), int32(tc.desired)
			b.Status.DisruptionsAllowed = int32(max(tc.ready-tc.desired, 0))
			m.pdbs, m.listed = []*policyv1.PodDisruptionBudget{b}, m.list()
			r := Pass(t.Context(), m, Input{Node: m.node, Pods: m.listed, PDBs: m.pdbs, Now: start, Started: start, Deadline: m.deadline, Ledger: &Ledger{}})
			if len(r.Evicted) != tc.evicted || len(r.Evicted)+len(r.Blocked) != tc.ready+tc.unready {
				t.Errorf("evicted %v, blocked %v; want %d evicted", r.Evicted, r.Blocked, tc.evicted)
			}
			if m.refused > 0 || len(m.faults) > 0 {
				t.Errorf("%d asked for in vain; %v", m.refused, m.faults)
			}
		})
	}
}

// TestHeldPodsWaitUntilTheyMayWaitNoLonger: a held pod is not evicted, and is
// deleted when the deadline leaves it no more time.
func TestHeldPodsWaitUntilTheyMayWaitNoLonger(t *testing.T) {
	m := &model{now: start, node: NodeFacts{Name: "n1", UID: "n", CordonedAt: start, TaintSeen: start}, pods: map[types.NamespacedName]*corev1.Pod{},
		ending: map[string]bool{}, deadline: start.Add(time.Minute)}
	grace := int64(10)
	m.pods[types.NamespacedName{Namespace: "a", Name: "p"}] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", UID: "p"},
		Spec: corev1.PodSpec{NodeName: "n1", TerminationGracePeriodSeconds: &grace}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	held := map[types.UID]string{"p": "waits for room"}
	pass := func() Result {
		m.listed = m.list()
		return Pass(t.Context(), m, Input{Node: m.node, Pods: m.listed, Now: m.now, Started: start, Deadline: m.deadline, Held: held})
	}
	for m.now.Before(m.deadline.Add(-10 * time.Second)) {
		r := pass()
		if len(r.Evicted)+len(r.Deleted) > 0 || r.Done {
			t.Fatalf("%s after the start: %+v", m.now.Sub(start), r)
		}
		m.now = m.now.Add(5 * time.Second)
	}
	if r := pass(); len(r.Deleted) != 1 {
		t.Fatalf("at deadline minus grace: %+v", r)
	}
	if len(m.faults) > 0 {
		t.Fatal(m.faults)
	}
}

func TestPaceSpacesCalls(t *testing.T) {
	p := NewPace(200)
	began := time.Now()
	for range 20 {
		if !p.Turn(t.Context()) {
			t.Fatal("a turn that is near was refused")
		}
	}
	if took := time.Since(began); took < 90*time.Millisecond {
		t.Errorf("20 calls at 200 a second took %s", took)
	}
	slow := NewPace(1)
	if !slow.Turn(t.Context()) {
		t.Fatal("the first turn was refused")
	}
	slow.next = time.Now().Add(time.Minute)
	if slow.Turn(t.Context()) {
		t.Error("a pass waited for a turn that is a minute away")
	}
	ahead := NewPace(10)
	for range 2 {
		if !ahead.Spend(3) {
			t.Error("turns in advance were refused though nobody waits")
		}
	}
	if ahead.Spend(1) {
		t.Error("turns in advance were given that others wait for")
	}
	began = time.Now()
	debt := NewPace(10)
	debt.Charge(25)
	for range 5 {
		if !debt.Borrow() {
			t.Error("a turn was not lent though less than three seconds of them were taken")
		}
	}
	if took := time.Since(began); took > 100*time.Millisecond {
		t.Errorf("borrowing took %s", took)
	}
	debt.Charge(10)
	if debt.Borrow() {
		t.Error("a turn was lent though four seconds of them were taken")
	}
	ahead.Charge(1)
	began = time.Now()
	if !ahead.Turn(t.Context()) || time.Since(began) < 500*time.Millisecond {
		t.Errorf("a turn after seven in advance was refused, or came after %s", time.Since(began))
	}
}
