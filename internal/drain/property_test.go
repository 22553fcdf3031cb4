package drain

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// drawPod makes a pod of one of the kinds that a drain must tell apart.
func (m *model) drawPod(t *rapid.T, node string) *corev1.Pod {
	m.serial++
	grace := rapid.SampledFrom([]int64{0, 1, 30, 600, 7200}).Draw(t, "grace")
	yes := true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:         rapid.SampledFrom([]string{"a", "b"}).Draw(t, "namespace"),
			Name:              fmt.Sprintf("p%d", rapid.IntRange(0, 11).Draw(t, "name")),
			UID:               types.UID(fmt.Sprintf("uid-%d", m.serial)),
			CreationTimestamp: metav1.Time{Time: m.now},
			Labels:            map[string]string{"app": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "app")},
			Annotations:       map[string]string{},
		},
		Spec:   corev1.PodSpec{NodeName: node, TerminationGracePeriodSeconds: &grace},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	switch rapid.SampledFrom([]string{"plain", "plain", "plain", "critical", "daemon", "static", "spoofed", "tolerant", "wildcard", "finished", "pending"}).Draw(t, "kind") {
	case "critical":
		p.Spec.PriorityClassName = "system-cluster-critical"
	case "daemon":
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "d", UID: "d", Controller: &yes}}
	case "static":
		p.Annotations[corev1.MirrorPodAnnotationKey] = "x"
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node, UID: m.node.UID, Controller: &yes}}
	case "spoofed":
		p.Annotations[corev1.MirrorPodAnnotationKey] = "x"
	case "tolerant":
		p.Spec.Tolerations = []corev1.Toleration{{Key: "berth.dev/disrupted", Operator: corev1.TolerationOpExists}}
	case "wildcard":
		p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	case "finished":
		p.Status.Phase = corev1.PodSucceeded
	case "pending":
		p.Status.Phase = corev1.PodPending
	}
	ready := corev1.ConditionFalse
	if p.Status.Phase == corev1.PodRunning && rapid.Bool().Draw(t, "ready") {
		ready = corev1.ConditionTrue
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	return p
}

// drawPolicy draws what a budget says of pods that are not ready.
func drawPolicy(t *rapid.T) *policyv1.UnhealthyPodEvictionPolicyType {
	always, healthy := policyv1.AlwaysAllow, policyv1.IfHealthyBudget
	return rapid.SampledFrom([]*policyv1.UnhealthyPodEvictionPolicyType{nil, &healthy, &always}).Draw(t, "unhealthyPodEvictionPolicy")
}

// TestDrainKeepsItsPromises runs drains against the model under random events
// and checks D1 to D6, D10, D13, D14 and, as far as pods go, D16 after each.
func TestDrainKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			now:    start,
			node:   NodeFacts{Name: "n1", UID: "n1-uid", CordonedAt: start},
			pods:   map[types.NamespacedName]*corev1.Pod{},
			ending: map[string]bool{}, attached: map[string]bool{}, claims: map[string]*corev1.PersistentVolumeClaim{},
		}
		m.deadline = Deadline(time.Time{}, start.Add(time.Duration(rapid.IntRange(0, 7200).Draw(t, "deadline"))*time.Second))
		add := func(node string) {
			p := m.drawPod(t, node)
			name := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
			if m.pods[name] == nil {
				m.pods[name] = p
				if rapid.Bool().Draw(t, "volume") {
					m.attach(p)
				}
			}
		}
		for range rapid.IntRange(0, 8).Draw(t, "pods") {
			add("n1")
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "budgets") {
			few := intstr.FromInt32(int32(rapid.IntRange(0, 3).Draw(t, "minAvailable")))
			m.pdbs = append(m.pdbs, &policyv1.PodDisruptionBudget{
				ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprintf("b%d", i)},
				Spec: policyv1.PodDisruptionBudgetSpec{
					MinAvailable:               &few,
					UnhealthyPodEvictionPolicy: drawPolicy(t),
					Selector:                   &metav1.LabelSelector{MatchLabels: map[string]string{"app": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "selects")}},
				},
			})
		}
		var stale []*corev1.Pod
		pass := func(pods []*corev1.Pod, live bool) {
			m.listed = pods
			r := Pass(t.Context(), m, Input{
				Node: m.node, Pods: pods, PDBs: m.pdbs, Now: m.now, Started: start, Deadline: m.deadline,
				Attachments: m.attachments(), PVCs: m.claims,
			})
			if r.Done {
				if m.node.TaintSeen.IsZero() || m.now.Before(m.node.TaintSeen.Add(MinDrain)) {
					m.fault("D2: done before the taint was seen for %s", MinDrain)
				}
				if live && m.now.Before(m.deadline) {
					for _, p := range m.pods {
						if m.mustGo(p) {
							m.fault("D1: done while %s is there", p.Name)
						}
					}
					for pv := range m.attached {
						stays := func(p *corev1.Pod) bool { return !m.mustGo(p) && p.Status.Phase != corev1.PodSucceeded }
						if !m.node.Unreachable && !m.used(pv, stays) {
							m.fault("D14: done while volume %s of a drained pod is attached", pv)
						}
					}
				}
				if r.NextTry != 0 {
					m.fault("done, but asks for another pass")
				}
			} else if r.NextTry < time.Second {
				m.fault("next try after %s", r.NextTry)
			}
			if !r.Done && !m.now.Before(m.deadline) && !m.node.TaintSeen.IsZero() && !m.now.Before(m.node.TaintSeen.Add(MinDrain)) {
				m.fault("not done at the deadline")
			}
			must := 0
			for _, p := range pods {
				if m.mustGo(p) {
					must++
				}
			}
			if r.Remaining > must {
				m.fault("D13: %d remaining, only %d block", r.Remaining, must)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"pass":       func(t *rapid.T) { pass(m.list(), true) },
			"stale pass": func(t *rapid.T) { pass(stale, false) },
			"list":       func(t *rapid.T) { stale = m.list() },
			"see taint": func(t *rapid.T) {
				if m.node.TaintSeen.IsZero() {
					m.node.TaintSeen = m.now
				}
			},
			"time passes": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.SampledFrom([]int{1, 5, 31, 600}).Draw(t, "seconds")) * time.Second)
			},
			"kubelet ends a pod": func(t *rapid.T) {
				for name, p := range m.pods {
					if p.DeletionTimestamp != nil {
						delete(m.pods, name)
						return
					}
				}
			},
			"all goes well for a while": func(t *rapid.T) {
				if m.node.TaintSeen.IsZero() {
					m.node.TaintSeen = m.now
				}
				m.now = m.now.Add(MinDrain)
				for name, p := range m.pods {
					if p.DeletionTimestamp != nil {
						delete(m.pods, name)
					}
				}
				pass(m.list(), true)
			},
			"volumes are detached": func(t *rapid.T) { m.detach() },
			"another drainer deletes a pod": func(t *rapid.T) { // D16
				for _, p := range m.pods {
					if p.DeletionTimestamp == nil {
						p.DeletionTimestamp = &metav1.Time{Time: m.now.Add(time.Duration(*p.Spec.TerminationGracePeriodSeconds) * time.Second)}
						return
					}
				}
			},
			"new pod here":      func(t *rapid.T) { add("n1") },
			"new pod elsewhere": func(t *rapid.T) { add("n2") },
			"pod becomes ready": func(t *rapid.T) {
				for _, p := range m.pods {
					if p.Status.Phase == corev1.PodRunning {
						p.Status.Conditions[0].Status = corev1.ConditionTrue
					}
				}
			},
			"spot notice": func(t *rapid.T) {
				was := m.deadline
				wanted := m.now.Add(time.Duration(rapid.SampledFrom([]int{60, 120, 36000}).Draw(t, "left")) * time.Second)
				m.deadline = Deadline(was, wanted)
				if m.deadline.After(was) || m.deadline.After(wanted) {
					m.fault("D6: deadline moved from %s to %s, wanted %s", was, m.deadline, wanted)
				}
			},
			"budget removed": func(t *rapid.T) {
				if len(m.pdbs) > 0 {
					m.pdbs = m.pdbs[1:]
				}
			},
			"API server busy":  func(t *rapid.T) { m.busy = !m.busy },
			"webhook fails":    func(t *rapid.T) { m.fail = !m.fail },
			"namespace ends":   func(t *rapid.T) { m.ending["b"] = true },
			"kubelet is lost":  func(t *rapid.T) { m.node.Unreachable = true },
			"kubelet is back":  func(t *rapid.T) { m.node.Unreachable = false },
			"we forget to see": func(t *rapid.T) { m.node.TaintSeen = time.Time{} },
			"": func(t *rapid.T) {
				if len(m.faults) > 0 {
					t.Fatal(m.faults)
				}
			},
		})
	})
}

// TestDrainEnds checks D11 and the finite deadline: with a kubelet that ends
// terminating pods, following NextTry reaches Done in bounded passes, and no
// later than the deadline.
func TestDrainEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			now:    start,
			node:   NodeFacts{Name: "n1", UID: "n1-uid", CordonedAt: start, TaintSeen: start},
			pods:   map[types.NamespacedName]*corev1.Pod{},
			ending: map[string]bool{},
		}
		m.deadline = start.Add(time.Hour)
		for range rapid.IntRange(0, 12).Draw(t, "pods") {
			p := m.drawPod(t, "n1")
			m.pods[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = p
		}
		held := rapid.Bool().Draw(t, "held")
		if held {
			all := intstr.FromInt32(100)
			m.pdbs = []*policyv1.PodDisruptionBudget{{
				ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "all"},
				Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &all, Selector: &metav1.LabelSelector{}},
			}}
		}
		blockedByName := true
		for passes := 0; ; passes++ {
			m.listed = m.list()
			r := Pass(t.Context(), m, Input{Node: m.node, Pods: m.listed, PDBs: m.pdbs, Now: m.now, Started: start, Deadline: m.deadline})
			for _, b := range r.Blocked {
				blockedByName = blockedByName && len(b.PDB) == 1 && b.PDB[0] == "all" && b.Reason == BlockBudget && !b.Until.IsZero()
			}
			if len(m.faults) > 0 {
				t.Fatal(m.faults)
			}
			if r.Done {
				break
			}
			if !held && passes > 20 || passes > 1000 {
				t.Fatalf("not done after %d passes: %+v", passes, r)
			}
			m.now = m.now.Add(r.NextTry)
			for name, p := range m.pods {
				if p.DeletionTimestamp != nil {
					delete(m.pods, name)
				}
			}
		}
		if m.now.After(m.deadline.Add(2 * time.Second)) {
			t.Fatalf("done %s after the deadline", m.now.Sub(m.deadline))
		}
		if !blockedByName {
			t.Fatal("D11: a blocked pod without its budget's name or its end")
		}
	})
}

// TestUncordonRestores checks D12: whatever happens to a node between Cordon
// and Uncordon, everything that is not ours stays as it was.
func TestUncordonRestores(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		node := &corev1.Node{}
		taint := rapid.SampledFrom([]corev1.Taint{
			{Key: "a", Effect: corev1.TaintEffectNoSchedule}, {Key: "b", Value: "v", Effect: corev1.TaintEffectNoExecute},
			{Key: "berth.dev/disrupted", Effect: corev1.TaintEffectNoSchedule},
			{Key: "berth.dev/disrupted", Effect: corev1.TaintEffectNoExecute},
		})
		node.Spec.Taints = rapid.SliceOfDistinct(taint, func(x corev1.Taint) string { return x.Key + string(x.Effect) }).Draw(t, "taints")
		if rapid.Bool().Draw(t, "label") {
			node.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: rapid.SampledFrom([]string{"", "true", "berth.dev"}).Draw(t, "value")}
		}
		if rapid.Bool().Draw(t, "annotated") {
			node.Annotations = map[string]string{"x": "y"}
		}
		want := node.DeepCopy()
		for i := range rapid.IntRange(1, 3).Draw(t, "times") {
			changed := Cordon(node, start.Add(time.Duration(i)*time.Minute))
			if changed != (i == 0) {
				t.Fatalf("Cordon number %d changed: %v", i, changed)
			}
		}
		if _, ok := node.Labels[corev1.LabelNodeExcludeBalancers]; !ok || !Cordoned(node) {
			t.Fatal("D15: not cordoned")
		}
		if f := Facts(node, start); !f.CordonedAt.Equal(start) || !f.TaintSeen.Equal(start) {
			t.Fatalf("facts: %+v", f)
		}
		if rapid.Bool().Draw(t, "another manager taints") {
			x := corev1.Taint{Key: "other", Effect: corev1.TaintEffectNoSchedule}
			node.Spec.Taints = append(node.Spec.Taints, x)
			want.Spec.Taints = append(want.Spec.Taints, x)
		}
		if !Uncordon(node) {
			t.Fatal("Uncordon changed nothing")
		}
		if diff := diffNodes(want, node); diff != "" {
			t.Fatalf("D12 (-before +after):\n%s", diff)
		}
		if Uncordon(node) {
			t.Fatal("a second Uncordon changed something")
		}
	})
}

// FuzzUncordon: whatever somebody writes into the record, Uncordon takes back
// our marks at most, and the record itself.
func FuzzUncordon(f *testing.F) {
	f.Add(`{"at":"2026-01-02T03:04:05Z","taint":true,"label":true}`)
	f.Add(`{"at":1}`)
	f.Add(`{`)
	f.Fuzz(func(t *testing.T, record string) {
		other := corev1.Taint{Key: "other", Effect: corev1.TaintEffectNoSchedule}
		node := &corev1.Node{}
		Cordon(node, start)
		node.Spec.Taints = append(node.Spec.Taints, other)
		node.Labels["other"] = "x"
		node.Annotations["berth.dev/cordoned"] = record
		Uncordon(node)
		if node.Labels["other"] != "x" || len(node.Annotations) != 0 || !slices.Contains(node.Spec.Taints, other) {
			t.Fatalf("%+v", node)
		}
	})
}
