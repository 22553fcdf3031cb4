package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// drawNode draws the parts of a Node that patchNode writes.
func drawNode(t *rapid.T, label string) *corev1.Node {
	keys := rapid.SampledFrom([]string{"a", "b/c", "d~e", "f~1g"})
	m := func(name string) map[string]string {
		return rapid.MapOfN(keys, rapid.SampledFrom([]string{"", "x", "y"}), 0, 3).Draw(t, label+name)
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u", Labels: m("labels"), Annotations: m("annotations")}}
	n.Finalizers = rapid.SliceOfNDistinct(keys, 0, 3, rapid.ID).Draw(t, label+"finalizers")
	for _, k := range rapid.SliceOfNDistinct(keys, 0, 3, rapid.ID).Draw(t, label+"taints") {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k, Effect: corev1.TaintEffectNoSchedule})
	}
	return n
}

// TestNodePatchTurnsOneIntoTheOther applies the patch with the library that the
// API server uses.
func TestNodePatchTurnsOneIntoTheOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := drawNode(t, "before "), drawNode(t, "after ")
		got := apply(t, before, nodePatch(before, after))
		if got == nil || !apiEqual(got.Labels, after.Labels) || !apiEqual(got.Annotations, after.Annotations) ||
			!apiEqual(got.Finalizers, after.Finalizers) || !apiEqual(got.Spec.Taints, after.Spec.Taints) {
			t.Fatalf("got %+v, want %+v", got, after)
		}
	})
}

func TestNodePatchFailsWhenSomebodyElseChangedTheTaints(t *testing.T) {
	for name, seen := range map[string][]corev1.Taint{"from none": nil, "from one": {{Key: "a", Effect: corev1.TaintEffectNoSchedule}}} {
		t.Run(name, func(t *testing.T) {
			before := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "u"}, Spec: corev1.NodeSpec{Taints: seen}}
			after := before.DeepCopy()
			after.Spec.Taints = append(after.Spec.Taints, corev1.Taint{Key: "ours", Effect: corev1.TaintEffectNoSchedule})
			stored := before.DeepCopy()
			stored.Spec.Taints = append(stored.Spec.Taints, corev1.Taint{Key: "theirs", Effect: corev1.TaintEffectNoSchedule})
			stored.Labels = map[string]string{"heartbeat": "1"}
			if got := apply(t, stored, nodePatch(before, after)); got != nil {
				t.Fatalf("the patch applied and gave %v", got.Spec.Taints)
			}
			stored.Spec.Taints = seen
			if got := apply(t, stored, nodePatch(before, after)); got == nil || got.Labels["heartbeat"] != "1" {
				t.Fatal("another change than that of the taints made the patch fail")
			}
		})
	}
}

// TestOnlyALostRaceIsTriedAgainAtOnce: what the API server refuses is an error that is
// logged, not a conflict that is tried again for ever without a word.
func TestOnlyALostRaceIsTriedAgainAtOnce(t *testing.T) {
	nodes := schema.GroupResource{Resource: "nodes"}
	// What an admission policy makes of a refusal that names no reason.
	policy := apierrors.NewForbidden(nodes, "a", errors.New("denied"))
	policy.ErrStatus.Reason, policy.ErrStatus.Code = metav1.StatusReasonInvalid, http.StatusUnprocessableEntity
	policy.ErrStatus.Details.Causes = []metav1.StatusCause{{Message: "denied"}}
	for name, tc := range map[string]struct {
		answer   *apierrors.StatusError
		conflict bool
	}{
		"a test in the patch has failed": {apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", "test failed", 0, false), true},
		"a conflict":                     {apierrors.NewConflict(nodes, "a", errors.New("changed")), true},
		"an admission policy refuses":    {policy, false},
		"validation refuses":             {apierrors.NewInvalid(schema.GroupKind{Kind: "Node"}, "a", nil), false},
		"a webhook refuses":              {&apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid}}, false},
		"the API server is busy":         {apierrors.NewTooManyRequests("busy", 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			// As it arrives: what JSON leaves out is gone.
			raw, err := json.Marshal(tc.answer.ErrStatus)
			if err != nil {
				t.Fatal(err)
			}
			sent := &apierrors.StatusError{}
			if err := json.Unmarshal(raw, &sent.ErrStatus); err != nil {
				t.Fatal(err)
			}
			before := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "u"}}
			api := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(before).WithInterceptorFuncs(interceptor.Funcs{
				Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
					return sent
				},
			}).Build()
			after := before.DeepCopy()
			after.Labels = map[string]string{"x": "y"}
			p := &Loops{cfg: Config{Client: api}}
			err = p.patchNode(t.Context(), before, after, "tainting")
			if apierrors.IsConflict(err) != tc.conflict {
				t.Errorf("conflict: %t: %v", !tc.conflict, err)
			}
			if !tc.conflict && !errors.Is(err, sent) {
				t.Errorf("the answer is lost in %v", err)
			}
			_, err = quietly(func(context.Context, reconcile.Request) (reconcile.Result, error) { return reconcile.Result{}, err })(t.Context(), reconcile.Request{})
			if (err == nil) != tc.conflict {
				t.Errorf("the controller sees %v", err)
			}
		})
	}
}

// TestWhatIsRefusedIsNotTriedWithEachPass: nodes whose taint an admission policy refuses
// are tried again every few seconds, however often the loop is woken.
func TestWhatIsRefusedIsNotTriedWithEachPass(t *testing.T) {
	for name, tc := range map[string]struct {
		answer error
		tries  int
	}{
		"refused":     {apierrors.NewInvalid(schema.GroupKind{Kind: "Node"}, "a", nil), 3},
		"a lost race": {apierrors.NewConflict(schema.GroupResource{Resource: "nodes"}, "a", errors.New("changed")), 101},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t, 1, v1alpha1.ProvisionerSpec{}, &wants{v1alpha1.ReasonDrifted, []string{"a"}})
			tries := 0
			y.cfg.Client = interceptor.NewClient(y.api.(client.WithWatch), interceptor.Funcs{
				Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
					tries++
					return tc.answer
				},
			})
			for range 101 { // Ten seconds of a busy cluster.
				y.turn(100 * time.Millisecond)
			}
			if tries != tc.tries {
				t.Errorf("tried %d times, want %d", tries, tc.tries)
			}
		})
	}
}

type fataler interface{ Fatal(...any) }

// apply returns nil where a test of the patch fails.
func apply(t fataler, n *corev1.Node, ops []jsonPatchOp) *corev1.Node {
	doc, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(ops)
	if err != nil {
		t.Fatal(err)
	}
	if ops == nil {
		raw = []byte("[]")
	}
	p, err := jsonpatch.DecodePatch(raw)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Apply(doc)
	if err != nil {
		return nil
	}
	got := &corev1.Node{}
	if err := json.Unmarshal(out, got); err != nil {
		t.Fatal(err)
	}
	return got
}
