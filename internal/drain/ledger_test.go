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

// TestDrainsShareBudgets: however many drains ask in whatever order, they ask
// for no more disruptions than the status allows, and for all of those.
func TestDrainsShareBudgets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Ledger
		allowed := rapid.IntRange(0, 20).Draw(t, "allowed")
		b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b", ResourceVersion: "1", Generation: 1},
			Status: policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: int32(allowed)}}
		asked := 0
		drains := rapid.IntRange(1, 40).Draw(t, "drains")
		for range drains {
			if ok, says := l.take(b); ok {
				asked++
			} else if says == "" {
				t.Fatal("refused without a word")
			}
		}
		if asked != min(allowed, drains) {
			t.Fatalf("%d of %d drains may ask, %d are allowed", asked, drains, allowed)
		}
		newer := b.DeepCopy()
		newer.ResourceVersion, newer.Status.DisruptionsAllowed = "2", 1
		if ok, _ := l.take(newer); !ok {
			t.Fatal("a new status changes nothing")
		}
		newer.Generation = 2
		if ok, _ := l.take(newer); !ok {
			t.Fatal("a status that speaks of another budget is believed")
		}
	})
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
	pdb := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b", ResourceVersion: "0"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &few, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}}}
	m.pdbs = []*policyv1.PodDisruptionBudget{pdb}
	var l Ledger
	for round := range 30 {
		healthy, desired := m.health(pdb)
		pdb.Status.DisruptionsAllowed, pdb.ResourceVersion = int32(max(healthy-desired, 0)), fmt.Sprint(round)
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
}
