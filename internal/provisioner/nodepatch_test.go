package provisioner

import (
	"encoding/json"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
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
