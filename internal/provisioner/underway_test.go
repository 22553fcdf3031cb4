package provisioner

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

// act shows the loops that kube-scheduler has refused a pod that was created then.
func (y *yard) act(created time.Time) {
	y.t.Helper()
	was := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "other", CreationTimestamp: metav1.Time{Time: created}}}
	is := was.DeepCopy()
	is.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/1 nodes are available"}}
	y.underway.see(was, is, y.now)
}

// TestBindingsUnderWayAreWaitedFor: kube-scheduler decides faster than it writes. What
// it had decided for a node before it saw the taint may come long after that.
func TestBindingsUnderWayAreWaitedFor(t *testing.T) {
	for name, tc := range map[string]struct {
		pod func(*corev1.Pod)
		// busy is for how long kube-scheduler goes on writing, young whether it comes to
		// pods then that are younger than the taint.
		busy  time.Duration
		young bool
		want  time.Duration
	}{
		"kube-scheduler does nothing":            {want: drain.MinDrain},
		"it was busy before":                     {busy: time.Nanosecond, want: drain.MinDrain},
		"it is busy":                             {busy: 10 * time.Second, want: 10*time.Second + drain.MinDrain},
		"it never rests":                         {busy: time.Hour, want: underwayMost},
		"it has come to pods of later":           {busy: 10 * time.Second, young: true, want: drain.MinDrain},
		"no pod waits":                           {pod: func(p *corev1.Pod) { p.Spec.NodeName = "b" }, busy: time.Hour, want: drain.MinDrain},
		"the pod that waits is younger":          {pod: func(p *corev1.Pod) { p.CreationTimestamp.Time = p.CreationTimestamp.Add(time.Hour) }, busy: time.Hour, want: drain.MinDrain},
		"the pod that waits is held by a gate":   {pod: func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }, busy: time.Hour, want: drain.MinDrain},
		"the pod that waits selects other nodes": {pod: func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"k": "v"} }, busy: time.Hour, want: drain.MinDrain},
		"the pod that waits tolerates all but berth": {pod: func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "owner", Operator: corev1.TolerationOpExists}}
		}, busy: time.Hour, want: underwayMost},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wants{v1alpha1.ReasonEmpty, []string{"a"}}
			y := newYard(t, 1, v1alpha1.ProvisionerSpec{}, w)
			var node corev1.Node
			if err := y.api.Get(t.Context(), client.ObjectKey{Name: "a"}, &node); err != nil {
				t.Fatal(err)
			}
			node.Spec.Taints = []corev1.Taint{{Key: "owner", Value: "us", Effect: corev1.TaintEffectNoSchedule}}
			if tc.pod == nil {
				tc.pod = func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }
			}
			if err := y.api.Update(t.Context(), &node); err != nil {
				t.Fatal(err)
			}
			p := ownedPod("waits", "rs", "")
			p.Namespace, p.CreationTimestamp = "default", metav1.Time{Time: y.now.Add(-time.Minute)}
			tc.pod(p)
			y.create(p)
			y.turn(0)
			y.turn(0) // The watch shows the taint.
			y.expect("a", "")
			for passed := time.Duration(0); ; passed += time.Second {
				if passed < tc.busy {
					created := y.now.Add(-time.Hour)
					if tc.young {
						created = y.now
					}
					y.act(created)
				}
				y.turn(0)
				if _, going := y.out(); len(going) > 0 {
					if over := passed - tc.want; over < -time.Second || over > time.Second {
						t.Errorf("it goes after %s, want %s", passed, tc.want)
					}
					return
				}
				if passed > 2*underwayMost {
					t.Fatal("it never goes")
				}
				y.now = y.now.Add(time.Second)
			}
		})
	}
}

// TestWhatBindsLateKeepsItsNode: a pod that is bound to a node out of use while
// bindings are under way has the node back.
func TestWhatBindsLateKeepsItsNode(t *testing.T) {
	y := newYard(t, 1, v1alpha1.ProvisionerSpec{TTLSecondsAfterEmpty: ptr(int64(1))})
	y.proposers = []proposer{newEmptiness(y.Loops)}
	y.planned.Store(true)
	p := ownedPod("waits", "rs", "")
	p.Namespace, p.CreationTimestamp = "default", metav1.Time{Time: y.now.Add(-time.Hour)}
	y.create(p)
	y.turn(time.Minute)
	y.turn(time.Minute)
	y.turn(0)
	y.expect("a", "")
	y.act(y.now.Add(-time.Hour))
	y.turn(drain.MinDrain - time.Second)
	y.act(y.now.Add(-time.Hour))
	y.turn(2 * time.Second)
	y.expect("a", "")
	p.Spec.NodeName = "a"
	if err := y.api.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	y.turn(time.Second)
	y.expect("", "")
}

// TestWhatGoesIsNotPutBackIntoUse: the cache may show a claim as it was before it was
// deleted.
func TestWhatGoesIsNotPutBackIntoUse(t *testing.T) {
	w := &wants{v1alpha1.ReasonEmpty, []string{"a"}}
	y := newYard(t, 1, v1alpha1.ProvisionerSpec{}, w)
	y.turn(0)
	y.turn(0)
	y.now = y.now.Add(drain.MinDrain)
	y.pass(t.Context(), y.now)
	w.claims = nil
	y.pass(t.Context(), y.now.Add(time.Second)) // The cache shows neither.
	y.watch()
	y.expect("a", "a")
}

// TestDrainsWaitForBindingsUnderWay: what is bound while a drain has nothing left to
// do is drained, too; but no longer than until its deadline.
func TestDrainsWaitForBindingsUnderWay(t *testing.T) {
	now := time.Unix(1e9, 0)
	in := drain.Input{Node: drain.NodeFacts{Name: "n", TaintSeen: now.Add(-time.Minute)}, Now: now, Settled: now.Add(time.Second), Deadline: now.Add(time.Minute)}
	if r := drain.Pass(t.Context(), nil, in); r.Done || r.NextTry > time.Second {
		t.Errorf("with bindings under way: done %t, looks again after %s", r.Done, r.NextTry)
	}
	in.Deadline = now
	if r := drain.Pass(t.Context(), nil, in); !r.Done {
		t.Error("at its deadline it waits still")
	}
	in.Deadline, in.Now = now.Add(time.Minute), in.Settled
	if r := drain.Pass(t.Context(), nil, in); !r.Done {
		t.Error("settled, it waits still")
	}
}
