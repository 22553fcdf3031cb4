package e2e

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
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
	var claim v1alpha1.NodeClaim
	b.wait("the claim is ready", func() (bool, error) {
		claims, err := b.claims(b.ctx)
		if err != nil || len(claims) != 1 {
			return false, err
		}
		claim = claims[0]
		return meta.IsStatusConditionTrue(claim.Status.Conditions, v1alpha1.ConditionReady), nil
	})
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
