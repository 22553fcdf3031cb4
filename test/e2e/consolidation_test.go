package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// consolidating lets a Provisioner buy machines of 2 or 4 vCPUs, on which one or
// three pods of a bench fit, and move pods as soon as they have settled.
func consolidating(p *v1alpha1.Provisioner) {
	p.Spec.Requirements = append(p.Spec.Requirements,
		v1alpha1.Requirement{Key: v1alpha1.LabelInstanceFamily, Operator: v1alpha1.OperatorIn, Values: []string{"m6i"}},
		v1alpha1.Requirement{Key: v1alpha1.LabelInstanceCPU, Operator: v1alpha1.OperatorIn, Values: []string{"2", "4"}})
	p.Spec.Consolidation = &v1alpha1.Consolidation{
		Enabled:    true,
		MinNodeAge: &metav1.Duration{}, Settle: &metav1.Duration{Duration: time.Second},
	}
}

// cost is the price of the bench's live instances in $/h.
func (b *bench) cost() float64 {
	b.t.Helper()
	live, err := b.instances()
	if err != nil {
		b.t.Fatal(err)
	}
	sum := 0.0
	for _, i := range live {
		sum += i.Price
	}
	return sum
}

// readiness watches, from outside, how many pods of the bench are ready.
type readiness struct {
	mu    sync.Mutex
	ready map[types.UID]bool
	least int
	begun bool
}

func (r *readiness) lowest() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.least
}

// count starts to note the least number of ready pods from now on.
func (r *readiness) count() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun, r.least = true, len(r.ready)
}

func (b *bench) watchReadiness() *readiness {
	b.t.Helper()
	r := &readiness{ready: map[types.UID]bool{}}
	w, err := b.c.Client.Watch(b.ctx, &corev1.PodList{}, client.InNamespace(b.namespace))
	if err != nil {
		b.t.Fatal(err)
	}
	var wg sync.WaitGroup
	b.t.Cleanup(func() { w.Stop(); wg.Wait() })
	wg.Go(func() {
		for ev := range w.ResultChan() {
			p, ok := ev.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			is := ev.Type != "DELETED" && p.DeletionTimestamp == nil
			if is {
				is = false
				for _, c := range p.Status.Conditions {
					is = is || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
				}
			}
			r.mu.Lock()
			if is {
				r.ready[p.UID] = true
			} else {
				delete(r.ready, p.UID)
			}
			if r.begun {
				r.least = min(r.least, len(r.ready))
			}
			r.mu.Unlock()
		}
	})
	return r
}

// sweeps reads from the provisioner's metrics how often it has weighed all nodes.
func (b *bench) sweeps() int {
	b.t.Helper()
	res, err := http.Get("http://" + strings.TrimPrefix(b.c.ProvisionerMetrics, "http://"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		if v, ok := strings.CutPrefix(line, "berth_consolidation_sweep_duration_seconds_count "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				b.t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// state is what must not change while all is quiet.
func (b *bench) state() string {
	b.t.Helper()
	var pods corev1.PodList
	if err := b.c.Client.List(b.ctx, &pods, client.InNamespace(b.namespace)); err != nil {
		b.t.Fatal(err)
	}
	claims, err := b.claims(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	var lines []string
	for _, p := range pods.Items {
		lines = append(lines, fmt.Sprintf("pod %s on %s", p.Name, p.Spec.NodeName))
	}
	for _, c := range claims {
		lines = append(lines, "claim "+c.Name)
	}
	return strings.Join(lines, "\n")
}

// waitClaims waits until exactly n claims are there, all ready.
func (b *bench) waitClaims(n int) []v1alpha1.NodeClaim {
	b.t.Helper()
	var claims []v1alpha1.NodeClaim
	b.wait(fmt.Sprintf("%d claims are there and ready", n), func() (bool, error) {
		var err error
		if claims, err = b.claims(b.ctx); err != nil || len(claims) != n {
			return false, err
		}
		for i := range claims {
			if claims[i].DeletionTimestamp != nil || !meta.IsStatusConditionTrue(claims[i].Status.Conditions, v1alpha1.ConditionReady) {
				return false, nil
			}
		}
		return true, nil
	})
	return claims
}

func (b *bench) scale(name string, n int) {
	b.t.Helper()
	d := b.deployment(name, n, nil)
	if err := b.c.Client.Patch(b.ctx, d, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n))); err != nil {
		b.t.Fatal(err)
	}
}

// TestFragmentedClusterIsConsolidated thins out 12 pods on 4 nodes to 6: they
// end on 2 nodes, never with fewer ready than their budget wants, and then
// nothing moves any more.
func TestFragmentedClusterIsConsolidated(t *testing.T) {
	t.Parallel()
	b := newBench(t, shared, consolidating)
	b.patience = 2 * patience
	b.create(&policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr(intstr.FromInt32(5)),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	})
	b.create(b.deployment("web", 12, nil))
	b.waitRunning(12)
	b.waitClaims(4)
	before := b.cost()
	r := b.watchReadiness()
	b.scale("web", 6)
	b.wait("6 pods are left", func() (bool, error) {
		var pods corev1.PodList
		err := b.c.Client.List(b.ctx, &pods, client.InNamespace(b.namespace))
		return len(pods.Items) == 6, err
	})
	r.count()
	b.waitClaims(2)
	b.waitRunning(6)
	if got := r.lowest(); got < 5 {
		t.Errorf("%d pods were ready at a time, the budget wants 5", got)
	}
	b.wait("the instances are gone", func() (bool, error) {
		live, err := b.instances()
		return len(live) == 2, err
	})
	if after := b.cost(); after > 0.51*before {
		t.Errorf("cost fell from %.4f to %.4f $/h, not to a half", before, after)
	}
	was, swept := b.state(), b.sweeps()
	b.wait("all nodes were weighed four times more", func() (bool, error) { return b.sweeps() >= swept+4, nil })
	if is := b.state(); is != was {
		t.Errorf("not quiet:\n%s\nbecame\n%s", was, is)
	}
}

// TestReplacementComesFirst leaves one pod on a node that is too large for it: a
// smaller node is ready before the pod is evicted.
func TestReplacementComesFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t, shared, consolidating)
	b.patience = 2 * patience
	old := b.oversized()
	b.scale("web", 1)
	b.wait("one pod is left", func() (bool, error) {
		var pods corev1.PodList
		err := b.c.Client.List(b.ctx, &pods, client.InNamespace(b.namespace))
		return len(pods.Items) == 1, err
	})
	w := b.observe(old.Status.NodeName, old.Status.InstanceID)
	claims, err := b.c.Client.Watch(b.ctx, &v1alpha1.NodeClaimList{}, client.MatchingLabels{v1alpha1.LabelProvisioner: b.name})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { claims.Stop(); wg.Wait() })
	wg.Go(func() {
		for ev := range claims.ResultChan() {
			c, ok := ev.Object.(*v1alpha1.NodeClaim)
			if ok && c.Name != old.Name && meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionInitialized) {
				w.note("replacement initialized")
			}
		}
	})
	b.checkRemoval(old, w, "replacement initialized", "cordoned", "evicted", "terminated", "node gone")
	left := b.waitClaims(1)[0]
	if left.Labels[v1alpha1.LabelInstanceCPU] != "2" || !contains(left.Annotations[v1alpha1.AnnotationDecision], "consolidation: saves", "1 pod moves") {
		t.Errorf("the replacement has %s vCPUs, decision %q", left.Labels[v1alpha1.LabelInstanceCPU], left.Annotations[v1alpha1.AnnotationDecision])
	}
	b.waitRunning(1)
}

// oversized makes 3 pods run on one node, which is too large for one of them.
func (b *bench) oversized() v1alpha1.NodeClaim {
	b.t.Helper()
	b.create(b.deployment("web", 3, nil))
	b.waitRunning(3)
	return b.waitClaims(1)[0]
}

// TestProvisionerKilledWhileItConsolidates kills the provisioner with SIGKILL
// when the replacement is claimed, when the old node is out of use, and when its
// claim is being deleted. Each time it ends with one node and nothing left over.
func TestProvisionerKilledWhileItConsolidates(t *testing.T) {
	ctx, c, p := killable(t, time.Second)
	for _, tc := range []struct {
		when string
		is   func(b *bench, old *v1alpha1.NodeClaim) bool
	}{
		{"the replacement is claimed", func(b *bench, _ *v1alpha1.NodeClaim) bool {
			claims, err := b.claims(b.ctx)
			return err == nil && len(claims) == 2
		}},
		{"the old node is out of use", func(b *bench, old *v1alpha1.NodeClaim) bool {
			var n corev1.Node
			err := b.c.Client.Get(b.ctx, client.ObjectKey{Name: old.Status.NodeName}, &n)
			return err == nil && n.Annotations[v1alpha1.AnnotationDisruptionReason] == string(v1alpha1.ReasonConsolidated)
		}},
		{"the old claim is deleted", func(b *bench, old *v1alpha1.NodeClaim) bool {
			var c v1alpha1.NodeClaim
			err := b.c.Client.Get(b.ctx, client.ObjectKeyFromObject(old), &c)
			return err == nil && c.DeletionTimestamp != nil
		}},
	} {
		t.Run(tc.when, func(t *testing.T) {
			b := newBench(t, c, consolidating)
			if err := cluster.WaitProvisioner(ctx, c, b.name); err != nil {
				t.Fatal(err)
			}
			old := b.oversized()
			b.scale("web", 1)
			b.wait(tc.when, func() (bool, error) { return tc.is(b, &old), nil })
			p.kill()
			p.start()
			b.wait("the old claim is gone", func() (bool, error) {
				err := b.c.Client.Get(b.ctx, client.ObjectKeyFromObject(&old), &v1alpha1.NodeClaim{})
				return client.IgnoreNotFound(err) == nil && err != nil, client.IgnoreNotFound(err)
			})
			left := b.waitClaims(1)[0]
			if got := left.Labels[v1alpha1.LabelInstanceCPU]; got != "2" {
				t.Errorf("the node that is left has %s vCPUs", got)
			}
			b.waitRunning(1)
			b.wait("one instance is left", func() (bool, error) {
				live, err := b.instances()
				return len(live) == 1, err
			})
		})
	}
}
