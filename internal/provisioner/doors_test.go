package provisioner

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// quay has doors, and claims whose nodes have joined, each with a pod that waits
// for it.
type quay struct {
	*doors
	claims map[string]*v1alpha1.NodeClaim
	// opened is when pods could first get onto each node, and seated whether its pod had its
	// seat by then.
	opened map[string]time.Duration
	seated map[string]bool
	began  time.Time
	api    client.Client
	// shuts and lifts count the gate's pods made and deleted; refuse says why one is not.
	shuts, lifts int
	refuse       func(what string) error
}

// opens notes that pods get onto a node now.
func (q *quay) opens(name string) {
	q.opened[name] = time.Since(q.began)
	pod, ok := one[*corev1.Pod](q.stores.pods, "default/pod-"+name)
	q.seated[name] = ok && pod.Status.NominatedNodeName == "node-"+name
}

func newQuay(t *testing.T, names ...string) *quay {
	q := &quay{claims: map[string]*v1alpha1.NodeClaim{}, opened: map[string]time.Duration{}, seated: map[string]bool{}, began: time.Now(), refuse: func(string) error { return nil }}
	var objects []client.Object
	var pods []*corev1.Pod
	var nodes []*corev1.Node
	var claims []*v1alpha1.NodeClaim
	kube := kubefake.NewClientset()
	p := &Loops{log: logr.Discard(), book: newBook()}
	for _, name := range names {
		c := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.NodeClaimStatus{NodeName: "node-" + name}}
		setCondition(c, v1alpha1.ConditionLaunched, metav1.ConditionTrue, "Launched", "")
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-" + name, UID: "uid-" + "n"},
			Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: v1alpha1.TaintUnregistered, Effect: corev1.TaintEffectNoSchedule}}}}
		dress(n, c, false)
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		pod := podNamed("pod-" + name)
		pod.Labels = map[string]string{"app": name} // None has the seat of another.
		q.claims[name] = c
		claims, nodes, pods, objects = append(claims, c), append(nodes, n), append(pods, pod), append(objects, n)
		p.book.give(pod.UID, name)
	}
	p.stores = &stores{claims: informerOf(t, claims), nodes: informerOf(t, nodes), pods: informerOf(t, pods)}
	kube.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		name := a.(clienttesting.PatchAction).GetName()
		pod := podNamed(name)
		pod.Status.NominatedNodeName = "node-" + name[len("pod-"):]
		return true, pod, p.stores.pods.GetStore().Update(pod)
	})
	q.api = fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, opts ...client.PatchOption) error {
			if err := c.Patch(ctx, o, patch, opts...); err != nil {
				return err
			}
			q.mu.Lock()
			defer q.mu.Unlock()
			name, gated := o.GetName()[len("node-"):], o.GetLabels()[v1alpha1.LabelGated] != "" && q.shuts > q.lifts
			if _, before := q.opened[name]; !before && !gated {
				q.opens(name)
			}
			return p.stores.nodes.GetStore().Update(o)
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := errors.Join(q.refuse("create"), c.Create(ctx, o, opts...)); err != nil {
				return err
			}
			q.shuts++
			return nil
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			if err := q.refuse("delete"); err != nil {
				return err
			}
			if err := c.Delete(ctx, o, opts...); err != nil {
				return err
			}
			q.mu.Lock()
			defer q.mu.Unlock()
			q.lifts++
			for _, n := range all[*corev1.Node](p.stores.nodes) {
				if n.Labels[v1alpha1.LabelGated] != "" && !hasTaint(n.Spec.Taints, v1alpha1.TaintUnregistered) {
					q.opens(n.Name[len("node-"):])
				}
			}
			return nil
		},
	}).Build()
	p.cfg = Config{Client: q.api, Kube: kube, Namespace: "berth"}
	p.contested.Store(true)
	var err error
	if p.metrics, err = newMetrics(prometheus.NewRegistry(), p); err != nil {
		t.Fatal(err)
	}
	p.nominator = newNominator(p)
	q.doors = newDoors(p)
	p.doors = q.doors
	return q
}

func (q *quay) node(t *testing.T, name string) *corev1.Node {
	n, ok := one[*corev1.Node](q.stores.nodes, "node-"+name)
	if !ok {
		t.Fatalf("no node of %s", name)
	}
	return n
}

// asks has the claim's node ready after a time.
func (q *quay) asks(t *testing.T, name string, at time.Duration) {
	time.Sleep(at - time.Since(q.began))
	if !q.keeps(q.claims[name], q.node(t, name)) {
		t.Errorf("%s is not kept closed", name)
	}
}

func (q *quay) openedAt(name string) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.opened[name]
}

func TestNodesWithSeatsOpenTogether(t *testing.T) {
	forbidden := apierrors.NewForbidden(corev1.Resource("pods"), gateName, errors.New("quota"))
	for name, tc := range map[string]struct {
		change func(*testing.T, *quay)
		gates  int
		lifted time.Duration // after the seats were written
	}{
		"behind a gate": {nil, 1, 0},
		"who lost his seat has it again": {func(_ *testing.T, q *quay) {
			time.AfterFunc(gatherFor+gateSeen+triedFor, func() { q.forgot(time.Now()) })
		}, 1, quietFor},
		"kube-scheduler tries pods for some time": {func(_ *testing.T, q *quay) {
			for at := gatherFor; at < gatherFor+gateSeen+time.Second; at += 50 * time.Millisecond {
				time.AfterFunc(at, func() { q.stir(time.Now()) })
			}
		}, 1, 950 * time.Millisecond},
		"it never ends": {func(_ *testing.T, q *quay) {
			for at := gatherFor; at < 10*time.Second; at += 50 * time.Millisecond {
				time.AfterFunc(at, func() { q.stir(time.Now()) })
			}
		}, 1, tryingMost - triedFor},
		"the gate is not lifted at once": {func(_ *testing.T, q *quay) {
			q.refuse = func(what string) error {
				if what == "delete" && time.Since(q.began) < 2*time.Second && q.shuts > 0 {
					return errors.New("timeout")
				}
				return nil
			}
		}, 1, gatePause},
		"a gate was left": {func(t *testing.T, q *quay) {
			if err := q.api.Create(t.Context(), gatePod("berth", "elsewhere")); err != nil {
				t.Fatal(err)
			}
		}, 2, 0},
		"another process leaves one meanwhile": {func(t *testing.T, q *quay) {
			time.AfterFunc(gatherFor/2, func() {
				if err := q.api.Create(t.Context(), gatePod("berth", "elsewhere")); err != nil {
					t.Error(err)
				}
			})
		}, 2, 0},
		"no gate is allowed": {func(_ *testing.T, q *quay) {
			q.refuse = func(what string) error {
				if what == "create" {
					return forbidden
				}
				return nil
			}
		}, 0, -gateSeen - triedFor},
		"nobody forgets a seat": {func(_ *testing.T, q *quay) {
			for _, p := range all[*corev1.Pod](q.stores.pods) {
				p.Spec.PreemptionPolicy = new(corev1.PreemptNever)
			}
		}, 0, -gateSeen - triedFor},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQuay(t, "a", "b", "c")
				if tc.change != nil {
					tc.change(t, q)
				}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				go func() { _ = q.run(ctx) }()
				q.asks(t, "a", 0)
				q.asks(t, "b", 500*time.Millisecond)
				q.asks(t, "c", 10*time.Second)
				time.Sleep(10 * time.Second)
				together := gatherFor + gateSeen + triedFor + tc.lifted
				for name, want := range map[string]time.Duration{"a": together, "b": together, "c": 10 * time.Second} {
					if d := q.openedAt(name) - want; d < 0 || d > 100*time.Millisecond {
						t.Errorf("%s opened after %s, want %s", name, q.openedAt(name), want)
					}
					if !q.seated[name] {
						t.Errorf("%s opened before its pod had its seat", name)
					}
					if n := q.node(t, name); hasTaint(n.Spec.Taints, v1alpha1.TaintUnregistered) || n.Labels[v1alpha1.LabelGated] != "" {
						t.Errorf("%s is closed: %v, %v", name, n.Spec.Taints, n.Labels)
					}
				}
				if q.shuts != tc.gates || q.lifts != tc.gates {
					t.Errorf("%d gates were shut and %d lifted, want %d", q.shuts, q.lifts, tc.gates)
				}
			})
		})
	}
}

func TestSeatsAreWrittenWhenTheirNodeOpens(t *testing.T) {
	gated := func(q *quay) {
		n, _ := one[*corev1.Node](q.stores.nodes, "node-a")
		n.Spec.Taints = nil
		setCondition(q.claims["a"], v1alpha1.ConditionInitialized, metav1.ConditionTrue, "Initialized", "")
	}
	for name, tc := range map[string]struct {
		change func(*quay)
		want   bool
	}{
		"the node is closed":         {func(*quay) {}, false},
		"it has not joined":          {func(q *quay) { q.claims["a"].Status.NodeName = "later" }, false},
		"it is being opened":         {func(q *quay) { q.seating = map[string]bool{"a": true} }, true},
		"it is open behind a gate":   {func(q *quay) { gated(q); q.gated = map[string]bool{"a": true} }, false},
		"the gate is to be lifted":   {func(q *quay) { gated(q); q.gated, q.seating = map[string]bool{"a": true}, map[string]bool{"a": true} }, true},
		"it is open and initialized": {gated, false},
		"its owner opens it":         {func(q *quay) { q.claims["a"].Spec.StartupTaints = []corev1.Taint{{Key: "cni"}} }, true},
		"it was opened before ready": {func(q *quay) { n, _ := one[*corev1.Node](q.stores.nodes, "node-a"); n.Spec.Taints = nil }, true},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQuay(t, "a")
			tc.change(q)
			q.nominator.seatPods(t.Context(), q.claims["a"])
			pod, _ := one[*corev1.Pod](q.stores.pods, "default/pod-a")
			if got := pod.Status.NominatedNodeName != ""; got != tc.want {
				t.Errorf("written: %t", got)
			}
		})
	}
}

func TestNodesOpenWhenNoSeatWasForgottenJustNow(t *testing.T) {
	for name, c := range map[string]struct{ forgets, want time.Duration }{
		"never":      {0, 0},
		"for a time": {400 * time.Millisecond, 380*time.Millisecond + quietFor},
		"all along":  {5 * time.Second, seatingFor},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQuay(t, "a")
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				if c.forgets > 0 {
					q.forgot(time.Now())
				}
				go func() { _ = q.run(ctx) }()
				q.asks(t, "a", 0)
				for time.Since(q.began) < c.forgets {
					q.forgot(time.Now())
					time.Sleep(20 * time.Millisecond)
				}
				time.Sleep(2 * time.Second)
				if d := q.openedAt("a") - c.want; d < 0 || d > 100*time.Millisecond {
					t.Errorf("opened after %s, want %s", q.openedAt("a"), c.want)
				}
			})
		})
	}
}

func TestANodeThatNeverComesKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuay(t, "a", "broken")
		time.Sleep(comesWithin)
		setCondition(q.claims["a"], v1alpha1.ConditionLaunched, metav1.ConditionTrue, "Again", "")
		q.claims["a"].Status.Conditions[0].LastTransitionTime = metav1.Now()
		time.Sleep(time.Second)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = q.run(ctx) }()
		q.began = time.Now()
		q.asks(t, "a", 0)
		time.Sleep(5 * time.Second)
		if at := q.openedAt("a"); at > 100*time.Millisecond || !q.seated["a"] {
			t.Errorf("opened after %s", at)
		}
	})
}

func TestNodesThatNeedNotStayClosed(t *testing.T) {
	unready := func(_ *testing.T, q *quay) { q.unready("a") }
	daemon := func(tolerations ...corev1.Toleration) func(*testing.T, *quay) {
		return func(t *testing.T, q *quay) {
			unready(t, q)
			pod := podNamed("daemon")
			pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "cni"}}, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}
			pod.Spec.Tolerations = tolerations
			pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"node-a"}}}}}}}}
			if err := q.stores.pods.GetStore().Add(pod); err != nil {
				t.Fatal(err)
			}
		}
	}
	notReady := corev1.Toleration{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists}
	for name, tc := range map[string]struct {
		change func(*testing.T, *quay)
		want   bool
	}{
		"its seats can be taken":                       {func(*testing.T, *quay) {}, true},
		"it is not ready yet":                          {unready, true},
		"a DaemonSet's pod waits for its opening":      {daemon(notReady), false},
		"a DaemonSet's pod waits for it to be ready":   {daemon(), true},
		"a DaemonSet's pod may come any time":          {daemon(corev1.Toleration{Operator: corev1.TolerationOpExists}), true},
		"nobody would take the seats":                  {func(_ *testing.T, q *quay) { q.contested.Store(false) }, false},
		"nobody waits for it":                          {func(_ *testing.T, q *quay) { q.book.drop("a") }, false},
		"somebody else's startup taint is still there": {func(_ *testing.T, q *quay) { q.claims["a"].Spec.StartupTaints = []corev1.Taint{{Key: "cni"}} }, false},
		"kube-scheduler does as it likes":              {func(_ *testing.T, q *quay) { q.claims["a"].Spec.Binding = v1alpha1.BindingScheduler }, false},
		"pods are bound before it is ready":            {func(_ *testing.T, q *quay) { q.claims["a"].Spec.Binding = v1alpha1.BindingImmediate }, false},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQuay(t, "a")
			tc.change(t, q)
			if got := q.keeps(q.claims["a"], q.node(t, "a")); got != tc.want {
				t.Errorf("kept closed: %t", got)
			}
		})
	}
}

// unready takes back that a node is ready.
func (q *quay) unready(name string) {
	n, _ := one[*corev1.Node](q.stores.nodes, "node-"+name)
	n.Status.Conditions[0].Status = corev1.ConditionFalse
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
}

func TestDoorsWaitLongerWhileThereIsProgress(t *testing.T) {
	for name, c := range map[string]struct {
		things int
		done   []time.Duration // when one thing less is left
		want   time.Duration
	}{
		"nothing happens":   {1, nil, 3 * time.Second},
		"all is done":       {3, []time.Duration{2 * time.Second, 4 * time.Second, 6 * time.Second}, 6 * time.Second},
		"it stops":          {2, []time.Duration{2 * time.Second}, 5 * time.Second},
		"it takes too long": {5, []time.Duration{2 * time.Second, 4500 * time.Millisecond, 7 * time.Second, 9500 * time.Millisecond, 12 * time.Second}, 10 * time.Second},
		"nothing is to do":  {0, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				new(doors).until(t.Context(), 3*time.Second, 10*time.Second, func() int {
					left := c.things
					for _, at := range c.done {
						if time.Since(began) >= at {
							left--
						}
					}
					return left
				})
				if d := time.Since(began) - c.want; d < 0 || d > 100*time.Millisecond {
					t.Errorf("waited %s, want %s", time.Since(began), c.want)
				}
			})
		})
	}
}
