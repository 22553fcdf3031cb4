package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/manifest"
)

func fakeCluster(t *testing.T, objects ...client.Object) *fake.ClientBuilder {
	t.Helper()
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithIndex(&corev1.ConfigMap{}, "metadata.name", func(o client.Object) []string { return []string{o.GetName()} })
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: "x"} }

func TestClusterIsReadWholeAndNothingElse(t *testing.T) {
	one := corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}
	bound := one
	bound.NodeName = "n1"
	c := fakeCluster(t,
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}},
		&corev1.Pod{ObjectMeta: named("waiting"), Spec: one},
		&corev1.Pod{ObjectMeta: named("bound"), Spec: bound},
		&appsv1.DaemonSet{ObjectMeta: named("agent"), Spec: appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{Spec: one}}},
		&appsv1.Deployment{ObjectMeta: named("its pods are there already")},
		&v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "p"}},
	).Build()
	set, err := readCluster(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	s := set.Snapshot(manifest.Options{})
	got := []string{
		fmt.Sprint("pods ", podNames(s.Pods)), fmt.Sprint("on nodes ", podNames(s.Nodes[0].Pods)),
		fmt.Sprint("daemons ", podNames(s.DaemonSetPods)), "from " + s.Provisioners[0].Name,
	}
	want := []string{"pods [x/waiting]", "on nodes [x/bound]", "daemons [x/agent]", "from p"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
}

func TestClusterWithoutBerthIsReadable(t *testing.T) {
	c := fakeCluster(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}).WithInterceptorFuncs(interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			switch l.(type) {
			case *v1alpha1.ProvisionerList, *v1alpha1.NodeClaimList:
				return &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "berth.dev"}}
			}
			return c.List(ctx, l, opts...)
		},
	}).Build()
	set, err := readCluster(t.Context(), c)
	if err != nil || len(set.Nodes()) != 1 {
		t.Fatalf("%v, %d nodes", err, len(set.Nodes()))
	}
	if !slices.ContainsFunc(set.Notes(), func(n string) bool { return strings.Contains(n, "CRDs are not installed") }) {
		t.Errorf("notes %v", set.Notes())
	}
}

// TestClusterWithoutPodGroupsIsReadable: not every cluster serves them, nor may
// everybody list them.
func TestClusterWithoutPodGroupsIsReadable(t *testing.T) {
	for _, tc := range []struct {
		err  error
		note string
	}{
		{&meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "scheduling.k8s.io", Kind: "PodGroup"}}, ""},
		{apierrors.NewForbidden(schema.GroupResource{Group: "scheduling.k8s.io", Resource: "podgroups"}, "", nil), "PodGroups may not be listed"},
	} {
		c := fakeCluster(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}).WithInterceptorFuncs(interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
				if _, ok := l.(*schedulingv1beta1.PodGroupList); ok {
					return tc.err
				}
				return c.List(ctx, l, opts...)
			},
		}).Build()
		set, err := readCluster(t.Context(), c)
		if err != nil || len(set.Nodes()) != 1 {
			t.Fatalf("%v: %v, %d nodes", tc.err, err, len(set.Nodes()))
		}
		if notes := strings.Join(set.Notes(), "; "); !strings.Contains(notes, tc.note) || tc.note == "" && notes != "" {
			t.Errorf("%v: notes %q", tc.err, notes)
		}
	}
}

func TestClusterThatRefusesIsAnError(t *testing.T) {
	refused := errors.New("forbidden")
	c := fakeCluster(t).WithInterceptorFuncs(interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return refused },
	}).Build()
	if _, err := readCluster(t.Context(), c); !errors.Is(err, refused) {
		t.Errorf("objects: %v", err)
	}
	if _, _, err := readOfferings(t.Context(), c); !errors.Is(err, refused) {
		t.Errorf("offerings: %v", err)
	}
}

func TestNewestOfferingsCount(t *testing.T) {
	published := func(namespace, region string, at time.Time) *corev1.ConfigMap {
		data, err := capacity.EncodeOfferings(&capacity.Offerings{At: at, Region: region})
		if err != nil {
			t.Fatal(err)
		}
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "berth-offerings"}, BinaryData: map[string][]byte{capacity.OfferingsKey: data}}
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := fakeCluster(t, published("a", "eu-west-1", at), published("b", "us-west-2", at.Add(time.Hour)), &corev1.ConfigMap{ObjectMeta: named("other")}).Build()
	if o, namespace, err := readOfferings(t.Context(), c); err != nil || o == nil || o.Region != "us-west-2" || namespace != "b" {
		t.Errorf("got %+v, %v", o, err)
	}
	if o, _, err := readOfferings(t.Context(), fakeCluster(t).Build()); err != nil || o != nil {
		t.Errorf("without any: got %+v, %v", o, err)
	}
	broken := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "berth-offerings"}}
	if _, _, err := readOfferings(t.Context(), fakeCluster(t, broken).Build()); err == nil || !strings.Contains(err.Error(), "a/berth-offerings") {
		t.Errorf("broken: %v", err)
	}
}

func TestClusterThatIsDownIsExitCodeOne(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	config := `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]}`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := run(t, "", "plan", "--kubeconfig", file)
	if code != 1 || stdout != "" || !strings.Contains(stderr, "reading the cluster: ") {
		t.Errorf("exit code %d, output %q, error %q", code, stdout, stderr)
	}
}

// TestOldOfferingsAreDoubted: a plan by them is of little worth.
func TestOldOfferingsAreDoubted(t *testing.T) {
	for name, tc := range map[string]struct {
		age     time.Duration
		doubted bool
	}{
		"read within the hour": {time.Hour, false},
		"nobody reads them":    {50 * time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := capacity.EncodeOfferings(&capacity.Offerings{At: time.Now().Add(-tc.age), Region: "eu-west-1"})
			if err != nil {
				t.Fatal(err)
			}
			c := fakeCluster(t, &corev1.ConfigMap{ObjectMeta: named(v1alpha1.OfferingsConfigMap), BinaryData: map[string][]byte{capacity.OfferingsKey: data}}).Build()
			set, m, err := (&planOptions{}).fromCluster(t.Context(), c)
			if err != nil || m.region != "eu-west-1" || m.namespace != "x" {
				t.Fatalf("%+v, %v", m, err)
			}
			if notes := strings.Join(set.Notes(), "; "); strings.Contains(notes, "is the provisioner running?") != tc.doubted {
				t.Errorf("notes %q", notes)
			}
		})
	}
}
