package admission

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// TestBlastGoesByWhatNodesAre: not by the difference between two specs.
func TestBlastGoesByWhatNodesAre(t *testing.T) {
	spec := func(label string, rs ...v1alpha1.Requirement) *v1alpha1.Provisioner {
		p := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
		p.Spec.Labels, p.Spec.Requirements = map[string]string{"team": label}, rs
		return p
	}
	claims := func(of *v1alpha1.Provisioner, n int) (out []*v1alpha1.NodeClaim) {
		for i := range n {
			c := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c-", i), Annotations: map[string]string{
				v1alpha1.AnnotationProvisionerHash: capacity.TemplateHash(&of.Spec, "prod")}}}
			c.Spec.NodeTemplate = of.Spec.NodeTemplate
			out = append(out, c)
		}
		return out
	}
	good, bad := spec("good"), spec("bad")
	in := v1alpha1.Requirement{Key: "rack", Operator: v1alpha1.OperatorIn, Values: []string{"a"}}
	for name, tc := range map[string]struct {
		old, now *v1alpha1.Provisioner
		nodes    []*v1alpha1.NodeClaim
		want     int
	}{
		"a new template":                   {good, bad, claims(good, 12), 12},
		"back to it before nodes are gone": {bad, good, claims(good, 12), 0},
		"some are of the bad one already":  {bad, good, append(claims(good, 9), claims(bad, 3)...), 3},
		"a label that nodes may carry":     {good, spec("good", in), claims(good, 12), 0},
		"drifting anyway":                  {bad, spec("worse"), claims(good, 12), 0},
	} {
		t.Run(name, func(t *testing.T) {
			var s *Snapshot
			if b := s.blastOf(tc.now, tc.old, Fleet{Claims: tc.nodes, ClusterName: "prod"}); b.drift != tc.want {
				t.Errorf("%d nodes drift, want %d", b.drift, tc.want)
			}
		})
	}
}
