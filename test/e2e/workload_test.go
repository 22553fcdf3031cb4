package e2e

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// advice are the notes of the webhook's Events of a reason about an object.
func (b *bench) advice(reason, name string) []string {
	b.t.Helper()
	var list corev1.EventList
	if err := b.c.Client.List(b.ctx, &list, client.InNamespace(b.namespace)); err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		if e.Reason == reason && e.InvolvedObject.Name == name && e.ReportingController == "berth-webhook" {
			out = append(out, e.Message)
		}
	}
	return out
}

// TestWhoeverAppliesAWorkloadIsTold: of a Deployment that can never run by a warning
// and an Event, in a dry run by the warning alone; and a share of spot is kept.
func TestWhoeverAppliesAWorkloadIsTold(t *testing.T) {
	b := newAdmissionBench(t)
	var warnings warningList
	cfg := rest.CopyConfig(b.c.Config)
	cfg.WarningHandler = &warnings
	warned, err := client.New(cfg, client.Options{Scheme: b.c.Client.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	never := func(name string) *appsv1.Deployment {
		return b.deployment(name, 2, func(s *corev1.PodSpec) { s.NodeSelector[corev1.LabelArchStable] = "arm64" })
	}
	const says = "allow arm64 under arch"

	if err := warned.Create(b.ctx, never("dry"), client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(warnings, "\n"); !contains(all, says) {
		t.Errorf("a dry run is warned: %q", all)
	}
	warnings = nil
	if err := warned.Create(b.ctx, never("never")); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(warnings, func(w string) bool { return contains(w, "no new node", says) && len(w) <= 120 }) {
		t.Errorf("whoever applies it is warned: %q", warnings)
	}
	b.wait("the Event is there", func() (bool, error) {
		notes := b.advice("NeverRuns", "never")
		return len(notes) > 0 && contains(notes[0], says), nil
	})
	if notes := b.advice("NeverRuns", "dry"); len(notes) > 0 {
		t.Errorf("a dry run left Events: %q", notes)
	}
	var left appsv1.Deployment
	if err := b.c.Client.Get(b.ctx, client.ObjectKey{Namespace: b.namespace, Name: "dry"}, &left); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("after the dry run: %v", err)
	}

	shared := b.deployment("shared", 10, nil)
	shared.Spec.Template.Annotations = map[string]string{v1alpha1.AnnotationSpotShare: "70%", v1alpha1.AnnotationMinOnDemand: "2"}
	warnings = nil
	if err := warned.Create(b.ctx, shared.DeepCopy(), client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(warnings, "\n"); !contains(all, "no Provisioner sells spot") {
		t.Errorf("a share of spot that nobody sells: %q", all)
	}
	spot := []byte(`{"spec":{"requirements":[{"key":"` + v1alpha1.LabelCapacityType + `","operator":"In","values":["spot","on-demand"]}]}}`)
	if err := b.c.Client.Patch(b.ctx, &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: b.name}}, client.RawPatch(types.MergePatchType, spot)); err != nil {
		t.Fatal(err)
	}
	b.wait("the webhook knows of spot", func() (bool, error) {
		warnings = nil
		err := warned.Create(b.ctx, shared.DeepCopy(), client.DryRunAll)
		return len(warnings) == 0, err
	})
	b.create(shared)
	pods := b.waitRunning(10)
	on := map[string]int{}
	for i := range pods {
		var node corev1.Node
		if err := b.c.Client.Get(b.ctx, client.ObjectKey{Name: pods[i].Spec.NodeName}, &node); err != nil {
			t.Fatal(err)
		}
		choice := pods[i].Labels[v1alpha1.LabelCapacityChoice]
		on["chosen "+choice]++
		on["on "+node.Labels[v1alpha1.LabelCapacityType]]++
	}
	if on["chosen spot"] != 7 || on["chosen on-demand"] != 3 || on["on spot"] < 1 || on["on on-demand"] < 1 {
		t.Errorf("pods are divided so: %v", on)
	}
}
