package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// TestPoliciesDoWithoutAWebhook applies deploy/policies on a cluster on which
// neither the webhook nor the provisioner runs, and tries each rule.
func TestPoliciesDoWithoutAWebhook(t *testing.T) {
	c := ownCluster(t.Context(), t, "--ec2=false")
	for _, name := range []string{"validating", "mutating"} {
		data, err := os.ReadFile(filepath.Join("..", "..", "deploy", "policies", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for doc := range strings.SplitSeq(string(data), "\n---\n") {
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
				t.Fatal(err)
			}
			if err := c.Client.Create(t.Context(), o, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
				t.Fatalf("applying %s %s: %v", o.GetKind(), o.GetName(), err)
			}
		}
	}
	var warnings warningList
	cfg := rest.CopyConfig(c.Config)
	cfg.WarningHandler = &warnings
	warned, err := client.New(cfg, client.Options{Scheme: c.Client.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	provisioner := func(spec string) *v1alpha1.Provisioner {
		pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "p-" + utilrand.String(6)}}
		if err := yaml.UnmarshalStrict([]byte(spec), &pr.Spec); err != nil {
			t.Fatal(err)
		}
		return pr
	}
	refused := func(err error, words ...string) bool { return err != nil && contains(err.Error(), words...) }

	// Policies come into force a moment after they are stored.
	if err := cluster.Until(t.Context(), func() (bool, error) {
		err := c.Client.Create(t.Context(), provisioner(`{ec2: {tags: {"AWS:x": "y"}}}`), client.DryRunAll)
		return refused(err, "upper or lower case"), nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Until(t.Context(), func() (bool, error) {
		pr := provisioner(`{}`)
		err := c.Client.Create(t.Context(), pr, client.DryRunAll)
		return len(pr.Spec.Requirements) > 0, err
	}); err != nil {
		t.Fatal(err)
	}

	pr := provisioner(`{requirements: [{key: kubernetes.io/os, operator: In, values: [linux]}, {key: berth.dev/instance-family, operator: In, values: [m7g]}]}`)
	if err := c.Client.Create(t.Context(), pr); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, r := range pr.Spec.Requirements {
		keys = append(keys, r.Key)
	}
	if want := []string{"kubernetes.io/os", "berth.dev/instance-family", "berth.dev/capacity-type"}; !slices.Equal(keys, want) {
		t.Errorf("requirements on %v after defaulting, want %v", keys, want)
	}
	if err := c.Client.Create(t.Context(), provisioner(`{taints: [{key: a, effect: NoSchedule}], startupTaints: [{key: a, effect: NoSchedule}]}`), client.DryRunAll); !refused(err, "startup") {
		t.Errorf("a taint of both kinds: %v", err)
	}
	odd := provisioner(`{}`)
	odd.Annotations = map[string]string{v1alpha1.AnnotationDeletion: "burn"}
	if err := c.Client.Create(t.Context(), odd, client.DryRunAll); !refused(err, "orphan or drain") {
		t.Errorf("an unknown wish: %v", err)
	}

	pr.Status.Nodes = 3
	if err := c.Client.Status().Update(t.Context(), pr); err != nil {
		t.Fatal(err)
	}
	if err := c.Client.Delete(t.Context(), pr); !apierrors.IsForbidden(err) || !refused(err, "has 3 nodes", v1alpha1.AnnotationDeletion) {
		t.Errorf("deleting a Provisioner with nodes: %v", err)
	}
	before := pr.DeepCopy()
	pr.Annotations = map[string]string{v1alpha1.AnnotationDeletion: v1alpha1.DeletionDrain}
	if err := c.Client.Patch(t.Context(), pr, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	if err := c.Client.Delete(t.Context(), pr); !apierrors.IsForbidden(err) || !refused(err, "has not taken effect") {
		t.Errorf("deleting it to drain them, without the finalizer: %v", err)
	}
	before = pr.DeepCopy()
	pr.Annotations = map[string]string{v1alpha1.AnnotationDeletion: v1alpha1.DeletionOrphan}
	if err := c.Client.Patch(t.Context(), pr, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	if err := c.Client.Delete(t.Context(), pr); err != nil {
		t.Errorf("deleting it with a word about them: %v", err)
	}

	b := &bench{t: t, ctx: t.Context(), c: c, name: "x", namespace: "default"}
	pod := b.pod("hinted", nil)
	pod.Spec.ServiceAccountName = "default"
	pod.Annotations = map[string]string{v1alpha1.AnnotationPlacement: "as admitted"}
	b.create(pod)
	forged := pod.DeepCopy()
	forged.Annotations[v1alpha1.AnnotationPlacement] = "elsewhere"
	if err := c.Client.Patch(t.Context(), forged, client.MergeFrom(pod)); !refused(err, "not changed after") {
		t.Errorf("changing a hint: %v", err)
	}
	other := pod.DeepCopy()
	other.Annotations["example.com/note"] = "x"
	if err := c.Client.Patch(t.Context(), other, client.MergeFrom(pod)); err != nil {
		t.Errorf("changing another annotation: %v", err)
	}

	dep := b.deployment("held", 1, nil)
	dep.Spec.Template.Annotations = map[string]string{v1alpha1.AnnotationDoNotDisrupt: "true", v1alpha1.AnnotationSpotShare: "70"}
	if err := warned.Create(t.Context(), dep, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(warnings, "\n"); !contains(all, "holds its node for ever", "no share from 0% to 100%") {
		t.Errorf("warnings: %q", all)
	}
}

// warningList keeps the warnings of answers.
type warningList []string

func (w *warningList) HandleWarningHeader(_ int, _ string, text string) { *w = append(*w, text) }
