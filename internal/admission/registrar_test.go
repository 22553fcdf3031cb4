package admission

import (
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/berth-dev/berth/certs"
)

type registry struct {
	t      *testing.T
	client client.Client
	*Registrar
}

func newRegistry(t *testing.T, scope Scope) *registry {
	t.Helper()
	c := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithReturnManagedFields().Build()
	return &registry{t, c, registrarOn(t, c, scope)}
}

func registrarOn(t *testing.T, c client.Client, scope Scope) *Registrar {
	t.Helper()
	r, err := NewRegistrar(RegistrarConfig{
		Client: c, Address: Address{URL: "https://127.0.0.1:9443"}, Namespace: "berth-system", Scope: scope, Log: logr.Discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *registry) publish(p certs.Publication) bool {
	r.t.Helper()
	wrote, err := r.Publish(r.t.Context(), p)
	if err != nil {
		r.t.Fatal(err)
	}
	return wrote
}

func (r *registry) bundles() []string {
	r.t.Helper()
	trust, err := r.Live(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, l := range trust {
		out = append(out, string(l.CABundle))
	}
	return out
}

func (r *registry) mutating() *admissionv1.MutatingWebhookConfiguration {
	r.t.Helper()
	m := &admissionv1.MutatingWebhookConfiguration{}
	if err := r.client.Get(r.t.Context(), client.ObjectKey{Name: ConfigurationName}, m); err != nil {
		r.t.Fatal(err)
	}
	return m
}

// webhooks is how many there are.
const webhooks = 5

// bundles is the same bundle for all of them.
func bundles(b string) []string { return slices.Repeat([]string{b}, webhooks) }

func TestRegistrarCreatesOnceAndRepairs(t *testing.T) {
	r := newRegistry(t, ScopeAll)
	if got := r.bundles(); len(got) != 0 {
		t.Fatalf("live before: %q", got)
	}
	if !r.publish(certs.Publication{CABundle: []byte("one")}) {
		t.Fatal("nothing was created")
	}
	if diff := cmp.Diff(bundles("one"), r.bundles()); diff != "" {
		t.Errorf("live:\n%s", diff)
	}
	if r.Webhooks() != webhooks {
		t.Errorf("%d webhooks", r.Webhooks())
	}
	if r.publish(certs.Publication{CABundle: []byte("one")}) {
		t.Error("what is in line was written again")
	}
	m := r.mutating()
	m.Webhooks[0].ClientConfig.CABundle = []byte("garbage")
	m.Webhooks[0].TimeoutSeconds = new(int32(30))
	if err := r.client.Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if !r.publish(certs.Publication{CABundle: []byte("one")}) {
		t.Error("a broken configuration was not repaired")
	}
	if m := r.mutating(); *m.Webhooks[0].TimeoutSeconds != 1 || string(m.Webhooks[0].ClientConfig.CABundle) != "one" {
		t.Errorf("after the repair: %+v", m.Webhooks[0])
	}
	if err := r.client.Delete(t.Context(), r.mutating()); err != nil {
		t.Fatal(err)
	}
	if !r.publish(certs.Publication{CABundle: []byte("two")}) {
		t.Error("a deleted configuration was not created")
	}
	if diff := cmp.Diff(bundles("two"), r.bundles()); diff != "" {
		t.Errorf("live:\n%s", diff)
	}
}

func TestRegistrarDoesNotQuarrelForEver(t *testing.T) {
	r := newRegistry(t, ScopeAll)
	wrote := 0
	for range 20 {
		if r.publish(certs.Publication{CABundle: []byte("one")}) {
			wrote++
		}
		m, _ := Configurations(r.config.Address, "berth-system")
		if err := r.client.Delete(t.Context(), m); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
	if wrote < 1 || wrote > 2*writesPerMinute {
		t.Errorf("written %d times at once", wrote)
	}
}

func TestRegistrarWritesTrustAloneWhereTheRestIsInstalled(t *testing.T) {
	r := newRegistry(t, ScopeTrust)
	if r.publish(certs.Publication{CABundle: []byte("one")}) {
		t.Fatal("configurations were created")
	}
	m, v := Configurations(Address{Namespace: "berth-system", Service: "berth-webhook"}, "berth-system")
	m.Webhooks[0].TimeoutSeconds = new(int32(2)) // The installer's own wish.
	for _, o := range []client.Object{m, v} {
		if err := r.client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if !r.publish(certs.Publication{CABundle: []byte("one")}) {
		t.Fatal("the bundle was not written")
	}
	if diff := cmp.Diff(bundles("one"), r.bundles()); diff != "" {
		t.Errorf("live:\n%s", diff)
	}
	got := r.mutating()
	if *got.Webhooks[0].TimeoutSeconds != 2 || got.Webhooks[0].ClientConfig.Service == nil || len(got.Webhooks[0].Rules) != 1 {
		t.Errorf("more than the bundle was written: %+v", got.Webhooks[0])
	}
	if r.publish(certs.Publication{CABundle: []byte("one")}) || r.publish(certs.Publication{InjectFrom: "a/b"}) {
		t.Error("written again")
	}
	if n := newRegistry(t, ScopeNothing); n.publish(certs.Publication{CABundle: []byte("one")}) {
		t.Error("ScopeNothing writes")
	}
}

func TestRegistrarLeavesTheBundleToCertManager(t *testing.T) {
	r := newRegistry(t, ScopeAll)
	r.publish(certs.Publication{CABundle: []byte("own")})
	if !r.publish(certs.Publication{InjectFrom: "berth-system/berth-webhook"}) {
		t.Fatal("the annotation was not written")
	}
	m := r.mutating()
	if m.Annotations[certs.ManagerInjectAnnotation] != "berth-system/berth-webhook" {
		t.Errorf("annotations %v", m.Annotations)
	}
	if diff := cmp.Diff(bundles("own"), r.bundles()); diff != "" {
		t.Errorf("the bundle did not stay until another came:\n%s", diff)
	}
	for i := range m.Webhooks {
		m.Webhooks[i].ClientConfig.CABundle = []byte("injected")
	}
	if err := r.client.Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if r.publish(certs.Publication{InjectFrom: "berth-system/berth-webhook"}) {
		t.Error("what cainjector wrote was written over")
	}
	// And back.
	r.Registrar = registrarOn(t, r.client, ScopeAll)
	if !r.publish(certs.Publication{CABundle: []byte("own")}) {
		t.Fatal("not taken back")
	}
	if m := r.mutating(); m.Annotations[certs.ManagerInjectAnnotation] != "" {
		t.Errorf("the annotation stayed: %v", m.Annotations)
	}
	if diff := cmp.Diff(bundles("own"), r.bundles()); diff != "" {
		t.Errorf("live:\n%s", diff)
	}
}

func TestRegistrarSaysWhenCertManagerWritesTheSameField(t *testing.T) {
	r := newRegistry(t, ScopeAll)
	r.publish(certs.Publication{CABundle: []byte("own")})
	m := r.mutating()
	m.Annotations = map[string]string{certs.ManagerInjectAnnotation: "elsewhere/x"}
	if err := r.client.Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	_, err := r.Publish(t.Context(), certs.Publication{CABundle: []byte("own")})
	if err == nil || !strings.Contains(err.Error(), "cert-manager.io/inject-ca-from") {
		t.Errorf("error %v", err)
	}
}
