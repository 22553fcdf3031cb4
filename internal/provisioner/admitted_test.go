package provisioner

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

func TestHintsAreComparedAndNeverBelieved(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}}
	hint := func(provisioner string, version int64) string {
		return capacity.Hint{Provisioner: provisioner, InstanceType: "m7i.large", CapacityType: "spot", Zone: "us-west-2a", Version: version}.String()
	}
	shape := capacity.ShapeHash(pod)
	for name, c := range map[string]struct {
		annotations map[string]string
		want        agreement
	}{
		"none":                      {nil, hintMissing},
		"of what was decided":       {map[string]string{v1alpha1.AnnotationPlacement: hint("a", 7), v1alpha1.AnnotationShape: shape}, hintMatched},
		"of newer offerings":        {map[string]string{v1alpha1.AnnotationPlacement: hint("a", 8), v1alpha1.AnnotationShape: shape}, hintMatched},
		"of another Provisioner":    {map[string]string{v1alpha1.AnnotationPlacement: hint("b", 7), v1alpha1.AnnotationShape: shape}, hintDiffered},
		"of another capacity type":  {map[string]string{v1alpha1.AnnotationPlacement: strings.Replace(hint("a", 7), "spot", "on-demand", 1), v1alpha1.AnnotationShape: shape}, hintDiffered},
		"of older offerings":        {map[string]string{v1alpha1.AnnotationPlacement: hint("b", 6), v1alpha1.AnnotationShape: shape}, hintStale},
		"for another spec":          {map[string]string{v1alpha1.AnnotationPlacement: hint("a", 7), v1alpha1.AnnotationShape: "0"}, hintContradicted},
		"forged, without a shape":   {map[string]string{v1alpha1.AnnotationPlacement: hint("a", 7)}, hintContradicted},
		"that nobody could read":    {map[string]string{v1alpha1.AnnotationPlacement: "x", v1alpha1.AnnotationShape: shape}, hintContradicted},
		"of a Provisioner far away": {map[string]string{v1alpha1.AnnotationPlacement: hint("zzz", 99), v1alpha1.AnnotationShape: shape}, hintDiffered},
	} {
		t.Run(name, func(t *testing.T) {
			p := pod.DeepCopy()
			p.Annotations = c.annotations
			if got := compareHint(p, "a", "spot", 7); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func chosenPod(uid types.UID, choice string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Labels: map[string]string{v1alpha1.LabelCapacityChoice: choice}}}
	p.Spec.NodeSelector = map[string]string{"a": "b"}
	p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{capacity.CapacityChoice(choice)}}}
	return p
}

// TestChoicesAreInsistedOnAsLongAsTheyCanBeHad: a chosen type is a requirement
// where it is sold, and a preference again for pods without a place.
func TestChoicesAreInsistedOnAsLongAsTheyCanBeHad(t *testing.T) {
	now := time.Unix(1000, 0)
	plain := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "plain"}}
	spot, onDemand := chosenPod("spot", "spot"), chosenPod("od", "on-demand")
	stand := chosenPod("od"+standInMark+"1", "on-demand")
	labelled := plain.DeepCopy()
	labelled.Labels = map[string]string{v1alpha1.LabelCapacityChoice: "spot"} // Without the term, it is somebody's own.
	s := &capacity.Snapshot{Now: now, Pods: []*corev1.Pod{plain, spot, stand, onDemand, labelled},
		Provisioners: []*capacity.Provisioner{
			{Name: "a", InstanceTypes: []capacity.InstanceType{{Offerings: []capacity.Offering{
				{CapacityType: "spot", UnavailableUntil: now.Add(time.Minute)}, {CapacityType: "on-demand"}}}}},
			{Name: "b", NotReady: "no subnet", InstanceTypes: []capacity.InstanceType{{Offerings: []capacity.Offering{{CapacityType: "spot"}}}}},
		}}
	c := insist(s)
	if len(s.Pods) != 4 || s.Pods[0] != plain || s.Pods[1] != spot || s.Pods[3] != labelled {
		t.Fatalf("pods are %v", s.Pods)
	}
	if s.Pods[2] != onDemand || len(s.Also) != 1 {
		t.Fatalf("pods %v, and beside %v", s.Pods, s.Also)
	}
	want := &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
		{Key: v1alpha1.LabelCapacityType, Operator: corev1.NodeSelectorOpIn, Values: []string{"on-demand", "reserved"}}}}}}
	if diff := cmp.Diff([]*corev1.NodeSelector{want}, s.Also[onDemand]); diff != "" {
		t.Errorf("it is planned for with (-want +got):\n%s", diff)
	}
	other := capacity.NotOn([]string{"n"})
	s.Require(onDemand, other)
	if c.relent(s, &capacity.Plan{Unschedulable: []capacity.Unschedulable{{Pod: plain}}}) {
		t.Error("relented for a pod that nothing was chosen for")
	}
	if !c.relent(s, &capacity.Plan{Unschedulable: []capacity.Unschedulable{{Pod: onDemand}}}) || len(s.Also[onDemand]) != 1 || s.Also[onDemand][0] != other {
		t.Errorf("did not relent for a pod without a place: %v", s.Also[onDemand])
	}
}

func TestHeldNodesAreCountedByBudget(t *testing.T) {
	pod := func(ns, app string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Labels: map[string]string{"app": app}}}
	}
	done := pod("web", "x")
	done.Status.Phase = corev1.PodSucceeded
	on := map[string][]*corev1.Pod{
		"n1": {pod("web", "x"), pod("web", "x"), pod("web", "y")}, "n2": {pod("web", "x")}, "n3": {pod("other", "x"), done}, "n4": {pod("web", "free")},
	}
	var claims []*v1alpha1.NodeClaim
	for _, n := range []string{"n1", "n2", "n3", "n4", ""} {
		c := &v1alpha1.NodeClaim{}
		c.Spec.Provisioner.Name, c.Status.NodeName = "a", n
		claims = append(claims, c)
	}
	budget := func(name, app string, allowed int32) *policyv1.PodDisruptionBudget {
		b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "web", Name: name}}
		b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
		b.Status.DisruptionsAllowed = allowed
		return b
	}
	got := heldNodes([]*policyv1.PodDisruptionBudget{budget("y", "y", 0), budget("x", "x", 0), budget("free", "free", 1)}, claims, func(n string) []*corev1.Pod { return on[n] })
	want := map[string][]v1alpha1.HeldNodes{"a": {{Budget: "web/x", Nodes: 2}, {Budget: "web/y", Nodes: 1}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("held nodes (-want +got):\n%s", diff)
	}
}
