package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// hooks stand in for the webhook configurations: three webhooks, and whoever
// injects for cert-manager.
type hooks struct {
	bundles [3][]byte
	there   bool
	inject  string
	// lost: so many of the last are not registered.
	lost int
	// stuck: publications fail.
	stuck error
	// injector is what cainjector would write, nil where there is none.
	injector func() []byte
	writes   int
}

func (h *hooks) Live(context.Context) ([]Trust, error) {
	if !h.there {
		return nil, nil
	}
	var out []Trust
	for i, b := range h.bundles[:len(h.bundles)-h.lost] {
		out = append(out, Trust{Webhook: string(rune('a' + i)), CABundle: b})
	}
	return out, nil
}

func (h *hooks) Publish(_ context.Context, p Publication) (bool, error) {
	if h.stuck != nil {
		return false, h.stuck
	}
	changed := !h.there || h.inject != p.InjectFrom
	h.there, h.inject = true, p.InjectFrom
	for i := range h.bundles {
		if p.CABundle != nil && !bytes.Equal(h.bundles[i], p.CABundle) {
			h.bundles[i], changed = p.CABundle, true
		}
		if p.InjectFrom != "" && h.injector != nil {
			h.bundles[i] = h.injector()
		}
	}
	if changed {
		h.writes++
	}
	return changed, nil
}

// cluster is what several keepers share.
type cluster struct {
	t      *testing.T
	client client.WithWatch
	hooks  *hooks
	now    time.Time
	// groups that discovery finds.
	managed  bool
	discover error
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, cmapi.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	// Like the API server, and unlike the stand-in: no Secret without its namespace.
	c := fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			if ns := obj.GetNamespace(); ns != "" {
				if err := c.Get(ctx, client.ObjectKey{Name: ns}, &corev1.Namespace{}); err != nil {
					return err
				}
			}
			return c.Create(ctx, obj, opts...)
		},
	}).Build()
	return &cluster{t: t, client: c, hooks: &hooks{}, now: day0}
}

func (c *cluster) ServerResourcesForGroupVersion(string) (*metav1.APIResourceList, error) {
	if c.discover != nil {
		return nil, c.discover
	}
	if !c.managed {
		return nil, apierrors.NewNotFound(schema.GroupResource{}, "")
	}
	return &metav1.APIResourceList{APIResources: []metav1.APIResource{{Kind: "Certificate"}, {Kind: "Issuer"}}}, nil
}

func (c *cluster) keeper(mode Mode) *Keeper {
	c.t.Helper()
	k, err := New(Config{
		Mode: mode, Names: testNames, Webhooks: 3, Namespace: "berth-system", Client: c.client, Registrar: c.hooks, Discovery: c,
		Clock: func() time.Time { return c.now }, Log: logr.Discard(),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return k
}

// settle steps the keepers until none wants to at once, and lets Settle pass.
func (c *cluster) settle(ks ...*Keeper) {
	c.t.Helper()
	for range 2 {
		for n, again := 0, true; again; n++ {
			if n > 10 {
				c.t.Fatal("no end of steps")
			}
			again = false
			for _, k := range ks {
				a, err := k.step(c.t.Context())
				if err != nil {
					c.t.Fatal(err)
				}
				again = again || a
			}
		}
		c.now = c.now.Add(time.Minute)
	}
}

func (c *cluster) secret() *corev1.Secret {
	c.t.Helper()
	s := &corev1.Secret{}
	if err := c.client.Get(c.t.Context(), client.ObjectKey{Namespace: "berth-system", Name: SelfSecret}, s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// call makes a TLS connection as the API server would for each webhook.
func (c *cluster) call(k *Keeper) error {
	var errs []error
	for i, b := range c.hooks.bundles {
		if i > 0 && bytes.Equal(b, c.hooks.bundles[i-1]) {
			continue
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(b)
		near, far := net.Pipe()
		server := tls.Server(far, &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: k.GetCertificate})
		done := make(chan struct{})
		go func() { _ = server.Handshake(); close(done) }()
		conn := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: testNames[0], Time: func() time.Time { return c.now }})
		// A client that refuses the certificate and a server that is still
		// writing wait for each other on a pipe without buffer: end that.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		errs = append(errs, conn.HandshakeContext(ctx))
		cancel()
		near.Close()
		<-done
		far.Close()
	}
	return errors.Join(errs...)
}

func (c *cluster) mustCall(what string, ks ...*Keeper) {
	c.t.Helper()
	for i, k := range ks {
		if err := c.call(k); err != nil {
			c.t.Fatalf("%s: calling replica %d: %v", what, i, err)
		}
		if err := k.Ready(); err != nil {
			c.t.Fatalf("%s: replica %d is not ready: %v", what, i, err)
		}
	}
}

func TestSelfStartsInAnEmptyCluster(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(ModeSelf)
	if _, err := k.GetCertificate(nil); err == nil || k.Ready() == nil || k.Left() != 0 {
		t.Error("something is served before the first look")
	}
	if _, err := k.step(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mustCall("after one look", k)
	if left := k.Left(); left < 29*day || left > 30*day {
		t.Errorf("%s left", left)
	}
	c.settle(k)
	writes := c.hooks.writes
	version := c.secret().ResourceVersion
	c.settle(k)
	if c.hooks.writes != writes || c.secret().ResourceVersion != version {
		t.Error("something is written although nothing is due")
	}
}

// TestADeletedSecretThatMayNotBeMadeIsAskedFor: the chart makes the Secret and grants
// no more than to fill it; whoever reads the error knows what brings it back.
func TestADeletedSecretThatMayNotBeMadeIsAskedFor(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(ModeSelf)
	c.settle(k)
	if err := c.client.Delete(t.Context(), c.secret()); err != nil {
		t.Fatal(err)
	}
	k.sources[ModeSelf].(*selfSource).config.Client = interceptor.NewClient(c.client, interceptor.Funcs{
		Create: func(_ context.Context, _ client.WithWatch, obj client.Object, _ ...client.CreateOption) error {
			return apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, obj.GetName(), errors.New("no right to create"))
		},
	})
	if _, err := k.step(t.Context()); err == nil || !strings.Contains(err.Error(), "helm upgrade puts it back") {
		t.Errorf("error %v, want one that says what to do", err)
	}
	c.mustCall("without the Secret", k)
	empty := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: SelfSecret}}
	if err := c.client.Create(t.Context(), empty); err != nil {
		t.Fatal(err)
	}
	c.settle(k)
	c.mustCall("with an empty one", k)
	if m, _ := DecodeMaterial(c.secret().Data); len(m.Leaves) == 0 {
		t.Error("the empty Secret was not filled")
	}
}

func TestTwoReplicasAgreeOnOneCA(t *testing.T) {
	c := newCluster(t)
	a, b := c.keeper(ModeSelf), c.keeper(ModeSelf)
	c.settle(a, b)
	c.mustCall("after the start", a, b)
	if !a.good.equal(b.good) {
		t.Error("the replicas serve different certificates")
	}
	if m, _ := DecodeMaterial(c.secret().Data); len(m.Authorities) != 1 || len(m.Leaves) != 1 {
		t.Errorf("%d CAs and %d leaves", len(m.Authorities), len(m.Leaves))
	}
}

func TestALostRaceIsReadAgain(t *testing.T) {
	c := newCluster(t)
	a, b := c.keeper(ModeSelf), c.keeper(ModeSelf)
	// b writes between a's look and a's write.
	once := true
	a.sources[ModeSelf].(*selfSource).config.Client = interceptor.NewClient(c.client, interceptor.Funcs{
		Create: func(ctx context.Context, w client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			if _, ok := obj.(*corev1.Secret); ok && once {
				once = false
				if _, err := b.step(ctx); err != nil {
					return err
				}
			}
			return w.Create(ctx, obj, opts...)
		},
	})
	again, err := a.step(t.Context())
	if err != nil || !again {
		t.Fatalf("again %v, error %v", again, err)
	}
	c.mustCall("the winner", b)
	c.settle(a, b)
	c.mustCall("both", a, b)
}

func TestRenewalAndRotationLoseNoCall(t *testing.T) {
	c := newCluster(t)
	a, b := c.keeper(ModeSelf), c.keeper(ModeSelf)
	for _, k := range []*Keeper{a, b} {
		k.config.Policy.CALife = 120 * day
		k.sources[ModeSelf].(*selfSource).config.Policy.CALife = 120 * day
	}
	c.settle(a, b)
	serials, cas := map[string]bool{}, map[string]bool{}
	for c.now.Before(day0.Add(365 * day)) {
		c.now = c.now.Add(4 * day)
		for _, k := range []*Keeper{a, b} {
			if err := c.call(k); err != nil {
				t.Fatalf("at %s: %v", c.now, err)
			}
		}
		c.settle(a, b)
		c.mustCall(c.now.String(), a, b)
		serials[a.good.Leaf.SerialNumber.String()] = true
		cas[a.good.Leaf.Issuer.String()] = true
	}
	if len(serials) < 365/24 || len(cas) < 4 {
		t.Errorf("%d leaves of %d CAs in a year", len(serials), len(cas))
	}
	if m, damaged := DecodeMaterial(c.secret().Data); damaged || len(m.Authorities) > 3 {
		t.Errorf("%d CAs are kept, damaged %v", len(m.Authorities), damaged)
	}
}

func TestDamagedSecretsAreMendedWhileTheLastGoodLeafServes(t *testing.T) {
	for name, damage := range map[string]func(c *cluster, s *corev1.Secret) error{
		"deleted":                 func(c *cluster, s *corev1.Secret) error { return c.client.Delete(c.t.Context(), s) },
		"emptied":                 func(c *cluster, s *corev1.Secret) error { s.Data = nil; return c.client.Update(c.t.Context(), s) },
		"with a certificate cut":  func(c *cluster, s *corev1.Secret) error { return c.cut(s, keyCert) },
		"with a key cut":          func(c *cluster, s *corev1.Secret) error { return c.cut(s, keyKey) },
		"with the CA's key cut":   func(c *cluster, s *corev1.Secret) error { return c.cut(s, keyCAKey) },
		"with the CA cut":         func(c *cluster, s *corev1.Secret) error { return c.cut(s, keyCACert) },
		"with another's key":      func(c *cluster, s *corev1.Secret) error { return c.swap(s, keyKey) },
		"with another's CA":       func(c *cluster, s *corev1.Secret) error { return c.swap(s, keyCACert) },
		"with a leaf for another": func(c *cluster, s *corev1.Secret) error { return c.foreign(s) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			k := c.keeper(ModeSelf)
			c.settle(k)
			if err := damage(c, c.secret()); err != nil {
				t.Fatal(err)
			}
			if _, err := k.step(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.mustCall("at once", k)
			c.settle(k)
			c.mustCall("afterwards", k)
			fresh := c.keeper(ModeSelf)
			c.settle(fresh)
			c.mustCall("a new replica", fresh)
			m, damaged := DecodeMaterial(c.secret().Data)
			if damaged || len(m.Leaves) == 0 || !m.Authorities[0].CanSign() {
				t.Errorf("not mended: %d leaves, damaged %v", len(m.Leaves), damaged)
			}
		})
	}
}

func (c *cluster) cut(s *corev1.Secret, key string) error {
	s.Data[key] = s.Data[key][:len(s.Data[key])/2]
	return c.client.Update(c.t.Context(), s)
}

func (c *cluster) swap(s *corev1.Secret, key string) error {
	other, err := Material{[]*Authority{mustAuthority(c.t, c.now)}, []*Pair{mustSign(c.t, mustAuthority(c.t, c.now), c.now)}}.Encode()
	if err != nil {
		return err
	}
	s.Data[key] = other[key]
	return c.client.Update(c.t.Context(), s)
}

func (c *cluster) foreign(s *corev1.Secret) error {
	p := mustSign(c.t, mustAuthority(c.t, c.now), c.now, "other.svc")
	s.Data[keyCert], s.Data[keyKey] = p.CertPEM, p.KeyPEM
	return c.client.Update(c.t.Context(), s)
}

// TestReadyNeedsTheTrustOfSomeWebhook: one that somebody has broken or deleted does
// not take the others with it.
func TestReadyNeedsTheTrustOfSomeWebhook(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(ModeSelf)
	c.settle(k)
	good := c.hooks.bundles[1]
	c.hooks.bundles[1] = []byte("garbage")
	c.hooks.stuck = errors.New("forbidden")
	if _, err := k.step(t.Context()); err == nil || !strings.Contains(err.Error(), "registering the webhooks: forbidden") {
		t.Errorf("error %v", err)
	}
	if err := k.Ready(); err != nil || k.Missing() != 1 {
		t.Errorf("one is broken; ready: %v, %d missing", err, k.Missing())
	}
	c.hooks.lost = 2
	if _, err := k.step(t.Context()); err == nil {
		t.Error("publishing works")
	}
	if err := k.Ready(); err != nil || k.Missing() != 2 {
		t.Errorf("one is left; ready: %v, %d missing", err, k.Missing())
	}
	c.hooks.lost, c.hooks.bundles[0], c.hooks.bundles[2] = 0, nil, nil
	if _, err := k.step(t.Context()); err == nil {
		t.Error("publishing works")
	}
	if err := k.Ready(); err == nil || !strings.Contains(err.Error(), "webhook 1 of 3") || k.Missing() != 3 {
		t.Errorf("all are broken; ready: %v, %d missing", err, k.Missing())
	}
	c.hooks.bundles = [3][]byte{good, good, good}
	c.hooks.stuck = nil
	c.settle(k)
	c.mustCall("mended", k)
	c.now = c.now.Add(40 * day) // The process slept.
	if err := k.Ready(); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("ready after the expiry: %v", err)
	}
	if k.Left() != 0 {
		t.Errorf("%s left after the expiry", k.Left())
	}
	c.settle(k)
	c.mustCall("awake", k)
}

func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	ca := mustAuthority(t, day0)
	write := func(p *Pair) {
		t.Helper()
		for name, data := range map[string][]byte{keyCert: p.CertPEM, keyKey: p.KeyPEM, keyCACert: ca.bundle()} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := newCluster(t)
	k, err := New(Config{Mode: ModeFiles, Names: testNames, Webhooks: 3, Dir: dir, Registrar: c.hooks, Clock: func() time.Time { return c.now }, Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.step(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
	first, second := mustSign(t, ca, day0), mustSign(t, ca, day0.Add(time.Hour))
	write(first)
	c.settle(k)
	c.mustCall("the first", k)
	if err := os.WriteFile(filepath.Join(dir, keyCert), second.CertPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.step(t.Context()); err == nil {
		t.Error("a pair that does not match is taken")
	}
	c.mustCall("while they are replaced", k)
	write(second)
	c.now = day0.Add(2 * time.Hour)
	c.settle(k)
	c.mustCall("the second", k)
	if !k.good.Leaf.Equal(second.Leaf) {
		t.Error("the first is still served")
	}
}

// TestFilesWithoutACANeedNone: an empty caBundle means that the API server's own CAs
// verify the certificate, which is not to be checked from here.
func TestFilesWithoutACANeedNone(t *testing.T) {
	dir := t.TempDir()
	c := newCluster(t)
	c.hooks.there = true
	k, err := New(Config{Mode: ModeFiles, Names: testNames, Webhooks: 3, Dir: dir, Registrar: c.hooks, Clock: func() time.Time { return c.now }, Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		p := mustSign(t, mustAuthority(t, day0), day0.Add(time.Duration(i)*time.Hour))
		for name, data := range map[string][]byte{keyCert: p.CertPEM, keyKey: p.KeyPEM} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c.now = day0.Add(2 * time.Hour)
		c.settle(k)
		if err := k.Ready(); err != nil || k.Missing() != 0 || !k.good.Leaf.Equal(p.Leaf) {
			t.Errorf("ready: %v, %d missing", err, k.Missing())
		}
	}
	if err := os.Remove(filepath.Join(dir, keyCert)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.step(t.Context()); err == nil || k.Ready() != nil {
		t.Errorf("without the file: %v, ready: %v", err, k.Ready())
	}
	// Somebody else's CA in caBundle is checked all the same.
	other := mustAuthority(t, day0).bundle()
	c.hooks.bundles = [3][]byte{other, other, other}
	if _, err := k.step(t.Context()); err == nil || k.Ready() == nil {
		t.Errorf("with another CA in caBundle: %v, ready: %v", err, k.Ready())
	}
}

func TestNewRefuses(t *testing.T) {
	c := newCluster(t)
	for name, change := range map[string]func(*Config){
		"no names":                    func(c *Config) { c.Names = nil },
		"an empty name":               func(c *Config) { c.Names = []string{""} },
		"an unknown mode":             func(c *Config) { c.Mode = "magic" },
		"files without a folder":      func(c *Config) { c.Mode = ModeFiles },
		"self without a namespace":    func(c *Config) { c.Namespace = "" },
		"auto without discovery":      func(c *Config) { c.Mode, c.Discovery = ModeAuto, nil },
		"no webhooks":                 func(c *Config) { c.Webhooks = 0 },
		"nobody to register them all": func(c *Config) { c.Registrar = nil },
	} {
		t.Run(name, func(t *testing.T) {
			config := Config{Mode: ModeSelf, Names: testNames, Webhooks: 3, Namespace: "a", Client: c.client, Registrar: c.hooks, Discovery: c}
			if _, err := New(config); err != nil {
				t.Fatalf("without the change: %v", err)
			}
			change(&config)
			if _, err := New(config); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestMaterialSurvivesTheSecret(t *testing.T) {
	old, ca := mustAuthority(t, day0.Add(-400*day)), mustAuthority(t, day0)
	m := Material{[]*Authority{ca, withoutKey(old)}, []*Pair{mustSign(t, ca, day0), mustSign(t, old, day0.Add(-day))}}
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, damaged := DecodeMaterial(data)
	if damaged {
		t.Error("damaged")
	}
	again, err := got.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(data, again); diff != "" {
		t.Errorf("changed in a round trip (-first +second):\n%s", diff)
	}
	if !got.Authorities[0].CanSign() || got.Authorities[1].CanSign() {
		t.Error("the keys went to the wrong CAs")
	}
}

// FuzzDecodeMaterial: whatever is in the Secret, no panic, and what is read can
// be written and read again.
func FuzzDecodeMaterial(f *testing.F) {
	ca := mustAuthority(f, day0)
	data, err := Material{[]*Authority{ca}, []*Pair{mustSign(f, ca, day0)}}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[keyCert], data[keyKey], data[keyCACert], data[keyCAKey])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"), []byte{}, []byte("x"), data[keyKey])
	f.Add(data[keyCACert], data[keyCAKey], data[keyCert], data[keyKey])
	f.Fuzz(func(t *testing.T, cert, key, caCert, caKey []byte) {
		m, _ := DecodeMaterial(map[string][]byte{keyCert: cert, keyKey: key, keyCACert: caCert, keyCAKey: caKey})
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, damaged := DecodeMaterial(again)
		if damaged || len(back.Authorities) != len(m.Authorities) || len(back.Leaves) != len(m.Leaves) {
			t.Errorf("%d CAs and %d leaves became %d and %d, damaged %v", len(m.Authorities), len(m.Leaves), len(back.Authorities), len(back.Leaves), damaged)
		}
	})
}
