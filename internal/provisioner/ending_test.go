package provisioner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
)

// deathbed is the world around a claim that is drained and to end: EC2 with its
// lies, the API server, and what the provisioner's cache shows of it. It holds
// every write to the invariants D7 to D9 (reference: reliability §3.4) by what EC2
// has said, and knows nothing of how the provisioner decides.
type deathbed struct {
	cloud // Nil: what is not implemented here is not called.
	api   client.WithWatch
	loops *lifecycle

	state string
	// denied: EC2 claims not to know the instance, once: one more time; broken: it does not answer;
	// foreign: the instance does not carry our tags.
	denied, once, broken, foreign bool
	effects                       int

	// seenOff: EC2 has said terminated. denials are its answers since it last
	// admitted to knowing the instance, and whether the node was ready then.
	seenOff bool
	denials []denial
	faults  []string
}

type denial struct {
	at    time.Time
	ready bool
}

func (d *deathbed) fault(format string, args ...any) {
	d.faults = append(d.faults, fmt.Sprintf(format, args...))
}

func (d *deathbed) Instances(context.Context) ([]ec2.Instance, error) {
	switch {
	case d.broken:
		return nil, errors.New("no answer")
	case d.denied || d.state == ec2.StateTerminated:
		return nil, nil
	}
	return []ec2.Instance{{ID: ourInstance, State: d.state}}, nil
}

func (d *deathbed) Instance(_ context.Context, id string) (ec2.Instance, error) {
	switch {
	case id != ourInstance:
		d.fault("D8: asks about %s", id)
	case d.broken:
		return ec2.Instance{}, errors.New("no answer")
	case d.denied:
		d.denied = !d.once
		d.denials = append(d.denials, denial{time.Now(), d.cachedReady()})
		return ec2.Instance{}, ec2.ErrNotFound
	}
	d.denials = nil
	d.seenOff = d.seenOff || d.state == ec2.StateTerminated
	return ec2.Instance{ID: id, State: d.state}, nil
}

// Terminate is what internal/ec2 makes of it: tags are read first.
func (d *deathbed) Terminate(_ context.Context, id string) error {
	switch {
	case id != ourInstance:
		d.fault("D8: terminates %s", id)
	case d.broken:
		return errors.New("no answer")
	case d.denied:
		return ec2.ErrNotFound
	case d.foreign:
		return ec2.ErrForeign
	case d.state != ec2.StateShuttingDown && d.state != ec2.StateTerminated:
		d.state = ec2.StateShuttingDown
		d.effects++
	}
	return nil
}

// proven is the reference's own rule for when an instance is gone.
func (d *deathbed) proven() bool {
	if d.seenOff {
		return true
	}
	for _, x := range d.denials {
		for _, y := range d.denials {
			if y.at.Sub(x.at) >= 30*time.Second && !y.ready {
				return true
			}
		}
	}
	return false
}

// written judges a Node or claim as a write of the provisioner left it.
func (d *deathbed) written(before, after client.Object) {
	if controllerutil.ContainsFinalizer(before, v1alpha1.Finalizer) && !controllerutil.ContainsFinalizer(after, v1alpha1.Finalizer) && !d.proven() {
		d.fault("D7: %T let go while EC2 says %s (denied: %v)", after, d.state, d.denials)
	}
	was, _ := before.(*corev1.Node)
	is, _ := after.(*corev1.Node)
	if is == nil || marked(was) || !marked(is) {
		return
	}
	if d.state != ec2.StateTerminated && d.state != ec2.StateStopped {
		d.fault("D9: out of service while the instance is %s", d.state)
	}
	if d.cachedReady() {
		d.fault("D9: out of service while the kubelet reports")
	}
}

// marked reports whether a node is out of service by our word.
func marked(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService && t.Value == "berth.dev" })
}

// judging passes writes on and has them judged.
func (d *deathbed) judging(base client.WithWatch) client.WithWatch {
	return interceptor.NewClient(base, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, opts ...client.PatchOption) error {
			before, ok := o.DeepCopyObject().(client.Object)
			if !ok || c.Get(ctx, client.ObjectKeyFromObject(o), before) != nil {
				before = o
			}
			err := c.Patch(ctx, o, patch, opts...)
			if err == nil {
				d.written(before, o)
			}
			return err
		},
	})
}

const dyingNode = "node-a"

func newDeathbed(t testing.TB, left ...client.Object) *deathbed {
	scheme := testScheme(t)
	claim := &v1alpha1.NodeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "uid-a", Finalizers: []string{v1alpha1.Finalizer}},
		Spec:       v1alpha1.NodeClaimSpec{Provisioner: v1alpha1.ProvisionerRef{Name: "pool"}},
		Status:     v1alpha1.NodeClaimStatus{InstanceID: ourInstance, ProviderID: "aws:///us-west-2a/" + ourInstance, NodeName: dyingNode},
	}
	setCondition(claim, v1alpha1.ConditionDrained, metav1.ConditionTrue, "DeadlinePassed", "")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: dyingNode, UID: "uid-node-a", Finalizers: []string{v1alpha1.Finalizer}}, Spec: corev1.NodeSpec{ProviderID: claim.Status.ProviderID}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	d := &deathbed{state: ec2.StateRunning}
	d.api = fake.NewClientBuilder().WithScheme(scheme).WithObjects(claim, node).WithStatusSubresource(claim, node).Build()
	if err := d.api.Delete(context.Background(), claim.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	for _, o := range left {
		if err := d.api.Create(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
	d.start(t)
	return d
}

// start begins a process that remembers nothing.
func (d *deathbed) start(t testing.TB) {
	c := d.judging(d.api)
	p := &Loops{cfg: Config{Client: c, APIReader: c, Recorder: events.NewFakeRecorder(10_000)}, log: logr.Discard(),
		stores: &stores{claims: informerOf[*v1alpha1.NodeClaim](t, nil), nodes: informerOf[*corev1.Node](t, nil), pods: informerOf[*corev1.Pod](t, nil),
			attachments: informerOf[*storagev1.VolumeAttachment](t, nil)}, book: newBook()}
	var err error
	if p.metrics, err = newMetrics(prometheus.NewRegistry(), p); err != nil {
		t.Fatal(err)
	}
	p.fleet, p.lifter = newFleet(p, d), newLifter(p, d)
	d.loops = &lifecycle{Loops: p, cloud: d}
	d.watch(t)
}

// watch brings the cache up to date.
func (d *deathbed) watch(t testing.TB) {
	var nodes corev1.NodeList
	var pods corev1.PodList
	var attached storagev1.VolumeAttachmentList
	for _, l := range []client.ObjectList{&nodes, &pods, &attached} {
		if err := d.api.List(context.Background(), l); err != nil {
			t.Fatal(err)
		}
	}
	s := d.loops.stores
	for _, err := range []error{
		s.nodes.GetStore().Replace(pointers(nodes.Items), ""),
		s.pods.GetStore().Replace(pointers(pods.Items), ""),
		s.attachments.GetStore().Replace(pointers(attached.Items), ""),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func pointers[T any](list []T) []any {
	out := make([]any, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

func (d *deathbed) cachedReady() bool {
	n, ok := one[*corev1.Node](d.loops.stores.nodes, dyingNode)
	return ok && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// step is one turn of the reconciler; it reports whether the claim is gone.
func (d *deathbed) step(t testing.TB) bool {
	claim := &v1alpha1.NodeClaim{}
	err := d.api.Get(context.Background(), client.ObjectKey{Name: "a"}, claim)
	if apierrors.IsNotFound(err) {
		return true
	}
	if err != nil {
		t.Fatal(err)
	}
	_, _ = d.loops.remove(context.Background(), claim) // What fails is done again.
	return false
}

// node changes the Node, if it is there.
func (d *deathbed) node(t testing.TB, change func(*corev1.Node)) {
	n := &corev1.Node{}
	if d.api.Get(context.Background(), client.ObjectKey{Name: dyingNode}, n) != nil {
		return
	}
	status := n.DeepCopy()
	change(n)
	change(status)
	if err := d.api.Update(context.Background(), n); err != nil {
		t.Fatal(err)
	}
	n = &corev1.Node{}
	if d.api.Get(context.Background(), client.ObjectKey{Name: dyingNode}, n) != nil {
		return // That was its last finalizer.
	}
	n.Status = status.Status
	if err := d.api.Status().Update(context.Background(), n); err != nil {
		t.Fatal(err)
	}
}

// TestInstancesAreSeenOff checks D7, D8 and D9 under random events: an instance
// that ends, by us or not, an EC2 that denies it or does not answer, a kubelet that
// falls silent and comes back, pods and volumes that are left, a Node that others
// delete, a provisioner that forgets everything. And in the end all is gone.
func TestInstancesAreSeenOff(t *testing.T) {
	synctest.Test(t, func(st *testing.T) {
		rapid.Check(outer{st}, func(t *rapid.T) {
			ctx := context.Background()
			ready := func(s corev1.ConditionStatus) func(*corev1.Node) {
				return func(n *corev1.Node) { n.Status.Conditions[0].Status = s }
			}
			attached := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: dyingNode, Attacher: "ebs"}}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p"}, Spec: corev1.PodSpec{NodeName: dyingNode}}
			left := rapid.SampledFrom([][]client.Object{nil, {attached.DeepCopy()}, {pod.DeepCopy()}}).Draw(t, "left")
			d := newDeathbed(st, left...)
			t.Repeat(map[string]func(*rapid.T){
				"reconcile":  func(t *rapid.T) { d.step(st) },
				"reconcile2": func(t *rapid.T) { d.watch(st); d.step(st) },
				"list":       func(t *rapid.T) { _ = d.loops.fleet.poll(ctx) },
				"watch":      func(t *rapid.T) { d.watch(st) },
				"restart":    func(t *rapid.T) { d.start(st) },
				"time passes": func(t *rapid.T) {
					time.Sleep(time.Duration(rapid.SampledFrom([]int{1, 10, 29, 31, 130}).Draw(t, "seconds")) * time.Second)
				},
				"EC2 moves on": func(t *rapid.T) {
					next := map[string][]string{
						ec2.StateRunning: {ec2.StateStopping, ec2.StateShuttingDown}, ec2.StateStopping: {ec2.StateStopped},
						ec2.StateStopped: {ec2.StateRunning, ec2.StateShuttingDown}, ec2.StateShuttingDown: {ec2.StateTerminated},
					}
					if to := next[d.state]; len(to) > 0 {
						d.state = rapid.SampledFrom(to).Draw(t, "state")
					}
				},
				"EC2 denies it for a while": func(t *rapid.T) {
					d.denied = true
					d.node(st, ready(corev1.ConditionUnknown))
					d.watch(st)
					_ = d.loops.fleet.poll(ctx)
					d.step(st)
					time.Sleep(missingFor)
					d.once = rapid.Bool().Draw(t, "once more")
					d.step(st)
					d.denied = false
				},
				"it dies": func(t *rapid.T) {
					d.state = ec2.StateTerminated
					d.node(st, ready(corev1.ConditionUnknown))
					d.watch(st)
					d.step(st)
				},
				"EC2 denies":          func(t *rapid.T) { d.denied, d.once = !d.denied, false },
				"EC2 does not answer": func(t *rapid.T) { d.broken = !d.broken },
				"retagged":            func(t *rapid.T) { d.foreign = !d.foreign },
				"kubelet is silent":   func(t *rapid.T) { d.node(st, ready(corev1.ConditionUnknown)) },
				"kubelet is back":     func(t *rapid.T) { d.node(st, ready(corev1.ConditionTrue)) },
				"a volume":            func(t *rapid.T) { _ = d.api.Create(ctx, attached.DeepCopy()) },
				"no volume":           func(t *rapid.T) { _ = d.api.Delete(ctx, attached.DeepCopy()) },
				"a pod":               func(t *rapid.T) { _ = d.api.Create(ctx, pod.DeepCopy()) },
				"no pod":              func(t *rapid.T) { _ = d.api.Delete(ctx, pod.DeepCopy()) },
				"another deletes the Node": func(t *rapid.T) {
					_ = d.api.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: dyingNode}})
				},
				"another strips its finalizer": func(t *rapid.T) { d.node(st, func(n *corev1.Node) { n.Finalizers = nil }) },
				"": func(t *rapid.T) {
					if d.effects > 1 {
						d.fault("D8: terminated %d times", d.effects)
					}
					if len(d.faults) > 0 {
						t.Fatal(d.faults)
					}
				},
			})
			d.denied, d.broken, d.foreign = false, false, false
			for range 400 {
				if d.state == ec2.StateShuttingDown {
					d.state = ec2.StateTerminated
				}
				d.watch(st)
				_ = d.loops.fleet.poll(ctx)
				if d.step(st) {
					break
				}
				time.Sleep(time.Second)
			}
			if !d.step(st) {
				t.Fatalf("the claim is not gone; the instance is %s", d.state)
			}
			if !d.proven() {
				t.Fatalf("D7: the claim is gone, the instance %s", d.state)
			}
			if len(d.faults) > 0 {
				t.Fatal(d.faults)
			}
		})
	})
}

// TestOutOfService: the node of a terminated instance whose kubelet is silent is
// out of service as long as it has a volume, and not for ever; one that has
// nothing, or that reports, is not.
func TestOutOfService(t *testing.T) {
	volume := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: dyingNode}}
	for name, tc := range map[string]struct {
		ready    corev1.ConditionStatus
		left     []client.Object
		detached time.Duration // When the volume goes.
		out      bool
		gone     time.Duration // When the claim is gone, at the latest.
	}{
		"a volume that is detached":  {corev1.ConditionUnknown, []client.Object{volume}, 20 * time.Second, true, 25 * time.Second},
		"a volume that never is":     {corev1.ConditionUnknown, []client.Object{volume}, time.Hour, true, vacateMost + 5*time.Second},
		"nothing is left":            {corev1.ConditionUnknown, nil, 0, false, 5 * time.Second},
		"a kubelet that reports yet": {corev1.ConditionTrue, []client.Object{volume}, time.Hour, false, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var left []client.Object
				for _, o := range tc.left {
					left = append(left, o.DeepCopyObject().(client.Object))
				}
				d := newDeathbed(t, left...)
				d.state = ec2.StateTerminated
				d.node(t, func(n *corev1.Node) { n.Status.Conditions[0].Status = tc.ready })
				d.watch(t)
				out, start := false, time.Now()
				for !d.step(t) {
					if time.Since(start) > tc.gone {
						t.Fatalf("not gone after %s", time.Since(start))
					}
					if time.Since(start) >= tc.detached && len(left) > 0 {
						_ = d.api.Delete(t.Context(), left[0]) // Once is enough.
					}
					time.Sleep(time.Second)
					d.watch(t)
					d.node(t, func(n *corev1.Node) { out = out || marked(n) })
				}
				if out != tc.out || len(d.faults) > 0 {
					t.Errorf("out of service: %v, want %v; %v", out, tc.out, d.faults)
				}
				if took := time.Since(start); out && took < min(tc.detached, vacateMost) {
					t.Errorf("let go after %s", took)
				}
			})
		})
	}
}

// outer is a test whose deadline nobody asks for: inside a bubble there is none.
type outer struct{ *testing.T }
