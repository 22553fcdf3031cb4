package main

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// TestWhyTellsOfPauses: those of the Provisioner and those of all, as long as they
// last.
func TestWhyTellsOfPauses(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		own, everywhere string
		forbidden       bool
		want            string
	}{
		"none":                        {"", "", false, ""},
		"of the Provisioner":          {"2026-01-01T01:00:00Z", "", false, "disruption of Provisioner p is paused until 2026-01-01T01:00:00Z"},
		"of all":                      {"", "2026-01-01T02:00:00Z", false, "disruption of all Provisioners is paused until 2026-01-01T02:00:00Z"},
		"of all, the longer one":      {"2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z", false, "disruption of all Provisioners is paused until 2026-01-01T02:00:00Z"},
		"over":                        {"2025-12-31T23:00:00Z", "", false, ""},
		"switched off":                {"false", "", false, ""},
		"that may not be looked into": {"", "2026-01-01T02:00:00Z", true, "whether disruption is paused everywhere is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			annotated := func(value string) map[string]string {
				return map[string]string{v1alpha1.AnnotationPauseDisruption: value}
			}
			claim := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}}
			claim.Spec.Provisioner.Name = "p"
			claim.Spec.Offerings = []v1alpha1.ClaimOffering{{HourlyPrice: "1"}}
			claim.Status.NodeName = "n"
			c := fakeCluster(t, claim,
				&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}},
				&v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: annotated(tc.own)}},
				&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "berth-system", Annotations: annotated(tc.everywhere)}},
				&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: v1alpha1.OfferingsConfigMap}},
			).WithIndex(&corev1.Pod{}, "spec.nodeName", func(o client.Object) []string { return nil }).
				WithIndex(&corev1.Event{}, "involvedObject.kind", func(o client.Object) []string { return nil }).
				WithIndex(&corev1.Event{}, "involvedObject.name", func(o client.Object) []string { return nil }).
				WithInterceptorFuncs(interceptor.Funcs{
					List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
						if _, ok := l.(*metav1.PartialObjectMetadataList); ok && tc.forbidden {
							return apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "", nil)
						}
						return c.List(ctx, l, opts...)
					},
				}).Build()
			var out strings.Builder
			if err := (&why{c: c, out: &out, now: now}).claim(t.Context(), "c"); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out.String(), tc.want) || tc.want == "" && strings.Contains(out.String(), "paused") {
				t.Errorf("want %q in:\n%s", tc.want, &out)
			}
		})
	}
}
