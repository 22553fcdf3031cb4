package provisioner

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// joining is a launched claim, its Node as a kubelet has registered it, and the
// loops that watch both.
type joining struct {
	api    client.WithWatch
	loops  *lifecycle
	events *events.FakeRecorder
}

const patience = 15 * time.Minute

func newJoining(t *testing.T, change func(*v1alpha1.NodeClaim, *corev1.Node)) *joining {
	scheme := testScheme(t)
	claim := &v1alpha1.NodeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "uid-a", Finalizers: []string{v1alpha1.Finalizer}},
		Spec:       v1alpha1.NodeClaimSpec{Provisioner: v1alpha1.ProvisionerRef{Name: "pool"}},
		Status:     v1alpha1.NodeClaimStatus{InstanceID: ourInstance, ProviderID: "aws:///us-west-2a/" + ourInstance, NodeName: "node-a"},
	}
	claim.Spec.Offerings = []v1alpha1.ClaimOffering{{InstanceType: "m5.large"}}
	claim.Spec.Taints = []corev1.Taint{{Key: "team", Effect: corev1.TaintEffectNoSchedule}}
	claim.Spec.StartupTaints = []corev1.Taint{{Key: "cni", Effect: corev1.TaintEffectNoSchedule}}
	setCondition(claim, v1alpha1.ConditionLaunched, metav1.ConditionTrue, "Launched", "")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", UID: "uid-node-a"},
		Spec: corev1.NodeSpec{ProviderID: claim.Status.ProviderID, Taints: []corev1.Taint{{Key: v1alpha1.TaintUnregistered, Effect: corev1.TaintEffectNoSchedule}}}}
	node.Status.NodeInfo.KubeletVersion = "v1.37.0"
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if change != nil {
		change(claim, node)
	}
	j := &joining{events: events.NewFakeRecorder(100)}
	j.api = fake.NewClientBuilder().WithScheme(scheme).WithObjects(claim, node).WithStatusSubresource(claim, node).Build()
	p := &Loops{cfg: Config{Client: j.api, APIReader: j.api, Recorder: j.events, RegistrationTimeout: patience}, log: logr.Discard(),
		stores: &stores{claims: informerOf[*v1alpha1.NodeClaim](t, nil), nodes: informerOf[*corev1.Node](t, nil), pods: informerOf[*corev1.Pod](t, nil),
			provisioners: informerOf[*v1alpha1.Provisioner](t, nil)}, book: newBook()}
	p.planned.Store(true)
	var err error
	if p.metrics, err = newMetrics(prometheus.NewRegistry(), p); err != nil {
		t.Fatal(err)
	}
	p.catalogue = newCatalogue("us-west-2")
	p.nominator = newNominator(p)
	p.doors = newDoors(p)
	p.lifter = newLifter(p, nil)
	j.loops = &lifecycle{Loops: p}
	return j
}

// turn shows the loops what the API server has and lets them take one turn.
func (j *joining) turn(t *testing.T) ctrl.Result {
	t.Helper()
	var nodes corev1.NodeList
	if err := j.api.List(context.Background(), &nodes); err != nil {
		t.Fatal(err)
	}
	if err := j.loops.stores.nodes.GetStore().Replace(pointers(nodes.Items), ""); err != nil {
		t.Fatal(err)
	}
	res, err := j.loops.join(context.Background(), j.claim(t))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func (j *joining) claim(t *testing.T) *v1alpha1.NodeClaim {
	t.Helper()
	c := &v1alpha1.NodeClaim{}
	if err := j.api.Get(context.Background(), client.ObjectKey{Name: "a"}, c); err != nil {
		t.Fatal(err)
	}
	return c
}

// node changes the Node and returns it.
func (j *joining) node(t *testing.T, change func(*corev1.Node)) *corev1.Node {
	t.Helper()
	n := &corev1.Node{}
	if err := j.api.Get(context.Background(), client.ObjectKey{Name: "node-a"}, n); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(n)
		status := n.Status.DeepCopy()
		if err := j.api.Update(context.Background(), n); err != nil {
			t.Fatal(err)
		}
		n.Status = *status
		if err := j.api.Status().Update(context.Background(), n); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// initialize takes the startup taint off and lets the claim become ready.
func (j *joining) initialize(t *testing.T) {
	t.Helper()
	j.turn(t)
	j.node(t, func(n *corev1.Node) { n.Spec.Taints = n.Spec.Taints[:1] })
	j.turn(t)
	if c := j.claim(t); !isTrue(c.Status.Conditions, v1alpha1.ConditionReady) {
		t.Fatalf("not ready: %+v", c.Status.Conditions)
	}
}

func TestNodesThatAreNeverReadyForPodsAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJoining(t, nil)
		j.turn(t)
		res := j.turn(t)
		if res.RequeueAfter <= 0 || res.RequeueAfter > patience {
			t.Fatalf("looks again after %s", res.RequeueAfter)
		}
		time.Sleep(res.RequeueAfter - time.Second)
		j.turn(t)
		if j.claim(t).DeletionTimestamp != nil {
			t.Fatal("given up too early")
		}
		time.Sleep(2 * time.Second)
		j.turn(t)
		c := j.claim(t)
		cond := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionInitialized)
		if c.DeletionTimestamp == nil || cond.Reason != reasonNeverInitialized || !strings.Contains(cond.Message, "startup taint cni") {
			t.Fatalf("deleted at %v, %+v", c.DeletionTimestamp, cond)
		}
		if got := <-j.events.Events; !strings.Contains(got, reasonNeverInitialized) {
			t.Fatalf("event %q", got)
		}
	})
}

func TestANodeThatIsDeletedTakesItsClaimAlong(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *joining){
		"before it is ready for pods": func(t *testing.T, j *joining) { j.turn(t) },
		"ready":                       func(t *testing.T, j *joining) { j.initialize(t) },
	} {
		t.Run(name, func(t *testing.T) {
			j := newJoining(t, nil)
			change(t, j)
			if err := j.api.Delete(context.Background(), j.node(t, nil)); err != nil {
				t.Fatal(err)
			}
			j.turn(t)
			if j.claim(t).DeletionTimestamp == nil {
				t.Fatal("the claim stays")
			}
		})
	}
}

func TestAKubeletThatRegistersWithoutTheTaint(t *testing.T) {
	j := newJoining(t, func(_ *v1alpha1.NodeClaim, n *corev1.Node) { n.Spec.Taints = nil })
	j.turn(t)
	n := j.node(t, nil)
	if !hasTaint(n.Spec.Taints, "team") || !hasTaint(n.Spec.Taints, "cni") {
		t.Fatalf("taints %v", n.Spec.Taints)
	}
	j.node(t, func(n *corev1.Node) { n.Spec.Taints = n.Spec.Taints[:1] })
	j.turn(t)
	if n := j.node(t, nil); hasTaint(n.Spec.Taints, "cni") {
		t.Fatal("a startup taint that was removed came back")
	}
}

func TestAReadyClaimIsTrueToItsNode(t *testing.T) {
	ready := func(s corev1.ConditionStatus) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Status.Conditions[0].Status = s }
	}
	j := newJoining(t, nil)
	j.initialize(t)
	j.node(t, ready(corev1.ConditionUnknown))
	j.turn(t)
	c := meta.FindStatusCondition(j.claim(t).Status.Conditions, v1alpha1.ConditionReady)
	if c.Status != metav1.ConditionFalse || c.Reason != reasonNodeUnready {
		t.Fatalf("%+v", c)
	}
	j.node(t, ready(corev1.ConditionTrue))
	j.turn(t)
	if !isTrue(j.claim(t).Status.Conditions, v1alpha1.ConditionReady) {
		t.Fatal("not ready again")
	}
}

func TestANodeThatIsGone(t *testing.T) {
	// Somebody has taken the finalizer off and deleted it.
	strip := func(t *testing.T, j *joining) {
		n := j.node(t, func(n *corev1.Node) { controllerutil.RemoveFinalizer(n, v1alpha1.Finalizer) })
		if err := j.api.Delete(context.Background(), n); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("for good", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			j := newJoining(t, nil)
			j.initialize(t)
			strip(t, j)
			if pn := planClaim(j.claim(t)); !pn.Unschedulable {
				t.Fatal("counts as room for pods")
			}
			res := j.turn(t)
			if c := meta.FindStatusCondition(j.claim(t).Status.Conditions, v1alpha1.ConditionReady); c.Reason != reasonNodeGone {
				t.Fatalf("%+v", c)
			}
			time.Sleep(res.RequeueAfter + time.Second)
			j.turn(t)
			if j.claim(t).DeletionTimestamp == nil {
				t.Fatal("the claim stays")
			}
		})
	})
	t.Run("and registered anew", func(t *testing.T) {
		j := newJoining(t, nil)
		j.initialize(t)
		old := j.node(t, nil)
		strip(t, j)
		j.turn(t)
		fresh := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: old.Name, UID: "uid-node-b"}, Spec: corev1.NodeSpec{ProviderID: old.Spec.ProviderID,
			Taints: []corev1.Taint{{Key: v1alpha1.TaintUnregistered, Effect: corev1.TaintEffectNoSchedule}}}, Status: old.Status}
		if err := j.api.Create(context.Background(), fresh); err != nil {
			t.Fatal(err)
		}
		j.turn(t)
		n := j.node(t, nil)
		if hasTaint(n.Spec.Taints, v1alpha1.TaintUnregistered) || !hasTaint(n.Spec.Taints, "team") || !hasTaint(n.Spec.Taints, "cni") || !controllerutil.ContainsFinalizer(n, v1alpha1.Finalizer) {
			t.Fatalf("taints %v, finalizers %v", n.Spec.Taints, n.Finalizers)
		}
		j.turn(t)
		if c := j.claim(t); c.DeletionTimestamp != nil || !isTrue(c.Status.Conditions, v1alpha1.ConditionReady) {
			t.Fatalf("%+v", c.Status.Conditions)
		}
	})
}
