package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// witness watches one node and its instance from outside and notes, in order,
// what becomes of them.
type witness struct {
	mu    sync.Mutex
	steps []string
}

func (w *witness) note(step string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.steps, step) {
		w.steps = append(w.steps, step)
	}
}

func (w *witness) seen() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.steps)
}

// observe starts a witness of a node.
func (b *bench) observe(node, instance string) *witness {
	b.t.Helper()
	w := &witness{}
	nodes, err := b.c.Client.Watch(b.ctx, &corev1.NodeList{}, &client.ListOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	pods, err := b.c.Client.Watch(b.ctx, &corev1.PodList{}, client.InNamespace(b.namespace))
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.ctx)
	var wg sync.WaitGroup
	b.t.Cleanup(func() { cancel(); nodes.Stop(); pods.Stop(); wg.Wait() })
	wg.Go(func() {
		for ev := range nodes.ResultChan() {
			n, ok := ev.Object.(*corev1.Node)
			if !ok || n.Name != node {
				continue
			}
			if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1alpha1.TaintDisrupted }) {
				w.note("cordoned")
			}
			if ev.Type == watch.Deleted {
				w.note("node gone")
			}
		}
	})
	wg.Go(func() {
		for ev := range pods.ResultChan() {
			p, ok := ev.Object.(*corev1.Pod)
			if ok && p.Spec.NodeName == node && p.DeletionTimestamp != nil {
				w.note("evicted")
			}
		}
	})
	wg.Go(func() {
		_ = cluster.Until(ctx, func() (bool, error) {
			all, err := b.c.Instances(ctx)
			if err != nil {
				return false, nil // The next look may do.
			}
			for _, i := range all {
				if i.ID == instance && (i.State == "shutting-down" || i.State == "terminated") {
					w.note("terminated")
					return true, nil
				}
			}
			return false, nil
		})
	})
	return w
}

// lone starts one pod on a node of its own and returns its claim.
func (b *bench) lone(name string) v1alpha1.NodeClaim {
	b.t.Helper()
	b.create(b.deployment(name, 1, nil))
	b.waitRunning(1)
	return b.readyClaim()
}

// readyClaim waits until the bench has one claim and it is ready.
func (b *bench) readyClaim() v1alpha1.NodeClaim {
	b.t.Helper()
	var claim v1alpha1.NodeClaim
	b.wait("the claim is ready", func() (bool, error) {
		claims, err := b.claims(b.ctx)
		if err != nil || len(claims) != 1 {
			return false, err
		}
		claim = claims[0]
		return meta.IsStatusConditionTrue(claim.Status.Conditions, v1alpha1.ConditionReady), nil
	})
	return claim
}

// checkRemoval waits until the claim is gone and compares the order of steps.
func (b *bench) checkRemoval(claim v1alpha1.NodeClaim, w *witness, want ...string) {
	b.t.Helper()
	b.wait("the claim is gone", func() (bool, error) {
		err := b.c.Client.Get(b.ctx, client.ObjectKeyFromObject(&claim), &v1alpha1.NodeClaim{})
		return client.IgnoreNotFound(err) == nil && err != nil, client.IgnoreNotFound(err)
	})
	b.wait("the Node is seen to go", func() (bool, error) { return slices.Contains(w.seen(), "node gone"), nil })
	if got := w.seen(); !slices.Equal(got, want) {
		b.t.Errorf("order of removal: %q, want %q", got, want)
	}
}

func TestRemovalGoesInOrder(t *testing.T) {
	whole := []string{"cordoned", "evicted", "terminated", "node gone"}
	for name, tc := range map[string]struct {
		change func(*v1alpha1.Provisioner)
		start  func(*bench, v1alpha1.NodeClaim)
		want   []string
	}{
		"kubectl delete nodeclaim": {nil, func(b *bench, c v1alpha1.NodeClaim) {
			if err := b.c.Client.Delete(b.ctx, &c); err != nil {
				b.t.Fatal(err)
			}
		}, whole},
		"kubectl delete node": {nil, func(b *bench, c v1alpha1.NodeClaim) {
			if err := b.c.Client.Delete(b.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: c.Status.NodeName}}); err != nil {
				b.t.Fatal(err)
			}
		}, whole},
		"expiry": {func(p *v1alpha1.Provisioner) { p.Spec.TTLSecondsUntilExpired = ptr(int64(8)) }, func(*bench, v1alpha1.NodeClaim) {}, whole},
		"the last workload goes": {nil, func(b *bench, _ v1alpha1.NodeClaim) {
			if err := b.c.Client.Delete(b.ctx, b.deployment("web", 1, nil)); err != nil {
				b.t.Fatal(err)
			}
		}, []string{"evicted", "cordoned", "terminated", "node gone"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, shared, tc.change)
			claim := b.lone("web")
			w := b.observe(claim.Status.NodeName, claim.Status.InstanceID)
			tc.start(b, claim)
			b.checkRemoval(claim, w, tc.want...)
		})
	}
}

func TestBudgetHoldsThePodUntilTheDeadline(t *testing.T) {
	b := newBench(t, shared, func(p *v1alpha1.Provisioner) {
		p.Spec.Drain = &v1alpha1.Drain{Deadline: metav1.Duration{Duration: 12 * time.Second}}
	})
	b.create(&policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: "never"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: ptr(intstr.FromInt32(0)),
			Selector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
	})
	dep := b.deployment("web", 1, func(s *corev1.PodSpec) { s.TerminationGracePeriodSeconds = ptr(int64(2)) })
	b.create(dep)
	pod := b.waitRunning(1)[0]
	claim := b.readyClaim()
	w := b.observe(claim.Status.NodeName, claim.Status.InstanceID)
	began := time.Now()
	if err := b.c.Client.Delete(b.ctx, &claim); err != nil {
		t.Fatal(err)
	}
	b.wait("the claim says who blocks", func() (bool, error) {
		var c v1alpha1.NodeClaim
		if err := b.c.Client.Get(b.ctx, client.ObjectKeyFromObject(&claim), &c); err != nil {
			return false, err
		}
		d := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionDrained)
		return d != nil && d.Reason == "Blocked" && contains(d.Message, pod.Name, "never"), nil
	})
	b.checkRemoval(claim, w, "cordoned", "evicted", "terminated", "node gone")
	if took := time.Since(began); took < 10*time.Second {
		t.Errorf("removed after %s: the budget was not honoured until deadline − grace (10 s)", took)
	}
}

// TestWhySaysWhoBlocksADrain asks kubectl berth why while a budget holds a pod:
// one line names the pod, its owner, the budget, and until when that can last.
func TestWhySaysWhoBlocksADrain(t *testing.T) {
	const grace = 2 * time.Second
	b := newBench(t, shared, func(p *v1alpha1.Provisioner) {
		p.Spec.Drain = &v1alpha1.Drain{Deadline: metav1.Duration{Duration: time.Hour}}
	})
	pdb := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: "never"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: ptr(intstr.FromInt32(0)),
			Selector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
	}
	b.create(pdb)
	b.create(b.deployment("web", 1, func(s *corev1.PodSpec) { s.TerminationGracePeriodSeconds = ptr(int64(grace / time.Second)) }))
	pod := b.waitRunning(1)[0]
	claim := b.readyClaim()
	why := func(object string) string {
		t.Helper()
		var stderr strings.Builder
		cmd := exec.CommandContext(b.ctx, filepath.Join(b.c.Bin, "kubectl-berth"), "why", object, "--kubeconfig", b.c.Kubeconfig)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("kubectl berth why %s: %v\n%s", object, err, stderr.String())
		}
		return string(out)
	}
	if out := why("node/" + claim.Status.NodeName); !contains(out, "it stays:", "it goes 1s after its last workload pod", pod.Name) || strings.Contains(out, "being removed") {
		t.Errorf("of a node that stays:\n%s", out)
	}
	if err := b.c.Client.Delete(b.ctx, &claim); err != nil {
		t.Fatal(err)
	}
	b.wait("the claim says who blocks", func() (bool, error) {
		if err := b.c.Client.Get(b.ctx, client.ObjectKeyFromObject(&claim), &claim); err != nil {
			return false, err
		}
		d := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionDrained)
		return d != nil && d.Reason == "Blocked", nil
	})
	deadline := claim.Status.DrainDeadline.UTC()
	owner := metav1.GetControllerOf(&pod)
	out := why("node/" + claim.Status.NodeName)
	if !contains(out, "being removed since", "gone at "+deadline.Format(time.RFC3339)) {
		t.Errorf("no word about the removal and its deadline %s:\n%s", deadline, out)
	}
	lines := strings.Split(out, "\n")
	row := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, b.namespace+"/"+pod.Name+" ") })
	if row < 0 {
		t.Fatalf("no line about pod %s:\n%s", pod.Name, out)
	}
	if !contains(lines[row], owner.Kind+"/"+owner.Name, deadline.Add(-grace).Format(time.RFC3339), "PodDisruptionBudget never (1 healthy, 1 are the least)") {
		t.Errorf("the line about the pod does not name owner %s, budget and the time it is deleted: %s", owner.Name, lines[row])
	}
	if out := why("pod/" + b.namespace + "/" + pod.Name); !contains(out, "is on node "+claim.Status.NodeName) {
		t.Errorf("of the pod:\n%s", out)
	}
	if err := b.c.Client.Delete(b.ctx, pdb); err != nil {
		t.Fatal(err)
	}
	b.wait("the claim is gone once nothing holds the pod", func() (bool, error) {
		err := b.c.Client.Get(b.ctx, client.ObjectKeyFromObject(&claim), &v1alpha1.NodeClaim{})
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	})
}
