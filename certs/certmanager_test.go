package certs

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// issue plays cert-manager: a CA and a leaf in the serving Certificate's Secret.
func (c *cluster) issue(ca *Authority) {
	c.t.Helper()
	p := mustSign(c.t, ca, c.now)
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: managerSecret,
		Annotations: map[string]string{cmapi.CertificateNameKey: managerServing}},
		Data: map[string][]byte{"tls.crt": p.CertPEM, "tls.key": p.KeyPEM, "ca.crt": ca.bundle()}}
	if err := c.client.Delete(c.t.Context(), s.DeepCopy()); client.IgnoreNotFound(err) != nil {
		c.t.Fatal(err)
	}
	if err := c.client.Create(c.t.Context(), s); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) namespace() {
	c.t.Helper()
	if err := c.client.Create(c.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "berth-system"}}); err != nil {
		c.t.Fatal(err)
	}
}

func TestCertManagerIsGivenItsObjectsAndWaitedFor(t *testing.T) {
	c := newCluster(t)
	c.namespace()
	k := c.keeper(ModeCertManager)
	if _, err := k.step(t.Context()); err == nil || !strings.Contains(err.Error(), "has not issued yet") {
		t.Fatalf("before it has issued: %v", err)
	}
	var cert cmapi.Certificate
	if err := c.client.Get(t.Context(), client.ObjectKey{Namespace: "berth-system", Name: managerServing}, &cert); err != nil {
		t.Fatal(err)
	}
	if cert.Spec.SecretName != managerSecret || cert.Spec.IssuerRef.Name != managerCA {
		t.Errorf("serving Certificate: %+v", cert.Spec)
	}
	ca := mustAuthority(t, c.now)
	c.issue(ca)
	c.settle(k)
	if c.hooks.inject != "berth-system/berth-webhook" {
		t.Errorf("inject from %q", c.hooks.inject)
	}
	if err := k.Ready(); err == nil || !strings.Contains(err.Error(), "caBundle") {
		t.Errorf("ready without cainjector: %v", err)
	}
	c.hooks.injector = func() []byte { return ca.bundle() }
	c.settle(k)
	c.settle(k)
	c.mustCall("injected", k)
}

func TestAutoSwitchesWithoutLosingACall(t *testing.T) {
	c := newCluster(t)
	k := c.keeper(ModeAuto)
	c.settle(k)
	c.mustCall("without cert-manager", k)
	own := k.good

	c.managed = true
	for range 3 {
		c.settle(k)
		c.mustCall("cert-manager is there but has not issued", k)
	}
	if !k.good.equal(own) {
		t.Error("the certificate changed although nothing else was issued")
	}
	ca := mustAuthority(t, c.now)
	c.issue(ca)
	c.settle(k)
	c.mustCall("issued, not injected", k)
	both := append(bytes.Clone(c.hooks.bundles[0]), ca.bundle()...)
	c.hooks.injector = func() []byte { return both }
	c.hooks.bundles = [3][]byte{both, both, both}
	c.settle(k)
	c.mustCall("injected", k)
	if k.good.equal(own) {
		t.Error("cert-manager's certificate is not served")
	}

	c.discover = errors.New("timeout")
	c.settle(k)
	c.settle(k)
	c.mustCall("discovery fails", k)
	if k.current.Load().mode != ModeCertManager {
		t.Error("a failing discovery counts as absence")
	}
	c.discover, c.managed = nil, false
	for range 2 * managerAbsences {
		c.settle(k)
		c.mustCall("cert-manager has gone", k)
	}
	if k.current.Load().mode != ModeSelf {
		t.Error("still in mode cert-manager")
	}
}

func TestIssuedIsChecked(t *testing.T) {
	ca := mustAuthority(t, day0)
	good := mustSign(t, ca, day0)
	of := map[string]string{cmapi.CertificateNameKey: managerServing}
	data := func(p *Pair, bundle []byte) map[string][]byte {
		return map[string][]byte{"tls.crt": p.CertPEM, "tls.key": p.KeyPEM, "ca.crt": bundle}
	}
	for name, c := range map[string]struct {
		annotations map[string]string
		data        map[string][]byte
		want        string
	}{
		"good":                {of, data(good, ca.bundle()), ""},
		"of another":          {map[string]string{cmapi.CertificateNameKey: "x"}, data(good, ca.bundle()), "not of Certificate"},
		"incomplete":          {of, map[string][]byte{"tls.crt": good.CertPEM}, "PEM"},
		"expired":             {of, data(mustSign(t, ca, day0.Add(-60*day)), ca.bundle()), "not valid now"},
		"for another name":    {of, data(mustSign(t, ca, day0, "other.svc"), ca.bundle()), "not for"},
		"of another CA":       {of, data(good, mustAuthority(t, day0).bundle()), "not from the CA"},
		"without a CA":        {of, data(good, nil), "not from the CA"},
		"with another's leaf": {of, map[string][]byte{"tls.crt": good.CertPEM, "tls.key": mustSign(t, ca, day0).KeyPEM, "ca.crt": ca.bundle()}, "private key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := issued(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Annotations: c.annotations}, Data: c.data}, testNames, day0)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

var update = flag.Bool("update", false, "rewrite the expected cert-manager objects")

func TestManagerObjects(t *testing.T) {
	var got bytes.Buffer
	for _, o := range ManagerObjects("berth-system", append(testNames, "127.0.0.1")) {
		doc, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString("---\n")
		got.Write(doc)
	}
	path := filepath.Join("testdata", "cert-manager.yaml")
	if *update {
		if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("objects differ (-want +got):\n%s", diff)
	}
}
