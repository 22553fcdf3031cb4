package certs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Names of the objects in mode cert-manager.
const (
	managerBootstrap = "berth-webhook-bootstrap"
	managerCA        = "berth-webhook-ca"
	managerServing   = "berth-webhook"
	// managerSecret holds the serving certificate; never SelfSecret.
	managerSecret = "berth-webhook-cert"
)

const (
	// ManagerInjectAnnotation on a webhook configuration has cainjector write
	// the CA of that Certificate into every caBundle.
	ManagerInjectAnnotation = cmapi.WantInjectAnnotation
	// ManagerInjectSecretAnnotation and ManagerInjectAPIServerAnnotation are
	// its siblings, which we do not use.
	ManagerInjectSecretAnnotation    = cmapi.WantInjectFromSecretAnnotation
	ManagerInjectAPIServerAnnotation = cmapi.WantInjectAPIServerCAAnnotation
	// FieldOwner is our name for server-side apply.
	FieldOwner = "berth-webhook"
	// managerEnsure is how often the objects are applied again.
	managerEnsure = 5 * time.Minute
)

// ManagerObjects are the cert-manager objects: a self-signed Issuer that signs
// a CA Certificate, whose Secret is an Issuer that signs the serving
// Certificate. namespace is ours; names are what the leaf is for.
func ManagerObjects(namespace string, names []string) []client.Object {
	at := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name,
			Labels: map[string]string{"app.kubernetes.io/name": "berth", "app.kubernetes.io/component": "webhook"}}
	}
	kind := func(k string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: cmapi.SchemeGroupVersion.String(), Kind: k}
	}
	ecdsa := func() *cmapi.CertificatePrivateKey {
		return &cmapi.CertificatePrivateKey{Algorithm: cmapi.ECDSAKeyAlgorithm, Size: 256, RotationPolicy: cmapi.RotationPolicyAlways}
	}
	issuer := func(name string) cmmeta.IssuerReference {
		return cmmeta.IssuerReference{Name: name, Kind: cmapi.IssuerKind, Group: cmapi.SchemeGroupVersion.Group}
	}
	p := DefaultPolicy()
	serving := cmapi.CertificateSpec{
		SecretName: managerSecret,
		Duration:   &metav1.Duration{Duration: p.LeafLife},
		PrivateKey: ecdsa(),
		Usages:     []cmapi.KeyUsage{cmapi.UsageDigitalSignature, cmapi.UsageServerAuth},
		IssuerRef:  issuer(managerCA),
	}
	for _, n := range names {
		if net.ParseIP(n) != nil {
			serving.IPAddresses = append(serving.IPAddresses, n)
		} else {
			serving.DNSNames = append(serving.DNSNames, n)
		}
	}
	return []client.Object{
		&cmapi.Issuer{TypeMeta: kind(cmapi.IssuerKind), ObjectMeta: at(managerBootstrap),
			Spec: cmapi.IssuerSpec{IssuerConfig: cmapi.IssuerConfig{SelfSigned: &cmapi.SelfSignedIssuer{}}}},
		&cmapi.Certificate{TypeMeta: kind(cmapi.CertificateKind), ObjectMeta: at(managerCA),
			Spec: cmapi.CertificateSpec{
				IsCA: true,
				// Without a subject the issuer of the leaf would be nameless.
				CommonName: "berth-webhook-ca",
				SecretName: managerCA,
				Duration:   &metav1.Duration{Duration: p.CALife},
				PrivateKey: ecdsa(),
				IssuerRef:  issuer(managerBootstrap),
			}},
		&cmapi.Issuer{TypeMeta: kind(cmapi.IssuerKind), ObjectMeta: at(managerCA),
			Spec: cmapi.IssuerSpec{IssuerConfig: cmapi.IssuerConfig{CA: &cmapi.CAIssuer{SecretName: managerCA}}}},
		&cmapi.Certificate{TypeMeta: kind(cmapi.CertificateKind), ObjectMeta: at(managerServing), Spec: serving},
	}
}

// managerSource has cert-manager issue and cainjector publish.
type managerSource struct {
	config Config
	// ensured is when the objects were last applied.
	ensured time.Time
}

func (s *managerSource) step(ctx context.Context, l look) ([]*Pair, *Publication, bool, error) {
	fail := func(err error) ([]*Pair, *Publication, bool, error) { return nil, nil, false, err }
	if since := l.now.Sub(s.ensured); since >= managerEnsure || since < 0 {
		for _, o := range ManagerObjects(s.config.Namespace, s.config.Names) {
			if err := Apply(ctx, s.config.Client, o); err != nil {
				return fail(fmt.Errorf("applying cert-manager %s %s: %w", o.GetObjectKind().GroupVersionKind().Kind, o.GetName(), err))
			}
		}
		s.ensured = l.now
	}
	var secret corev1.Secret
	err := s.config.Client.Get(ctx, client.ObjectKey{Namespace: s.config.Namespace, Name: managerSecret}, &secret)
	if apierrors.IsNotFound(err) {
		return fail(fmt.Errorf("cert-manager has not issued yet: there is no Secret %s/%s; see kubectl describe certificate -n %s %s",
			s.config.Namespace, managerSecret, s.config.Namespace, managerServing))
	}
	if err != nil {
		return fail(fmt.Errorf("reading Secret %s/%s: %w", s.config.Namespace, managerSecret, err))
	}
	p, err := issued(&secret, s.config.Names, l.now)
	if err != nil {
		return fail(fmt.Errorf("secret %s/%s: %w", s.config.Namespace, managerSecret, err))
	}
	return []*Pair{p}, &Publication{InjectFrom: s.config.Namespace + "/" + managerServing}, false, nil
}

// issued checks what cert-manager has put into the Secret: it must be the
// Certificate's own, complete, for our names, and from the CA beside it.
func issued(secret *corev1.Secret, names []string, now time.Time) (*Pair, error) {
	if of := secret.Annotations[cmapi.CertificateNameKey]; of != managerServing {
		return nil, fmt.Errorf("it is not of Certificate %s but of %q", managerServing, of)
	}
	p, err := ParsePair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, err
	}
	if !p.validAt(now) {
		return nil, errors.New("the certificate is not valid now")
	}
	if !p.covers(names) {
		return nil, fmt.Errorf("the certificate is not for %v", names)
	}
	if err := p.trustedBy(secret.Data[cmmeta.TLSCAKey], names[0], now); err != nil {
		return nil, fmt.Errorf("the certificate is not from the CA beside it: %w", err)
	}
	return p, nil
}

// Apply is server-side apply, as FieldOwner, of exactly the fields that are set.
// Conflicts with other owners are won.
func Apply(ctx context.Context, c client.Client, o client.Object) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return err
	}
	u := &unstructured.Unstructured{Object: content}
	unstructured.RemoveNestedField(u.Object, "status")
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(FieldOwner), client.ForceOwnership)
}

const (
	// managerLook is how often cert-manager's presence is looked up.
	managerLook = time.Minute
	// managerAbsences is how many looks in a row must miss it before it counts
	// as gone: an upgrade takes its CRDs away for a moment.
	managerAbsences = 3
)

// chooser is mode auto: cert-manager while its kinds are served, ourselves
// otherwise.
type chooser struct {
	mode     Mode
	looked   time.Time
	absences int
}

func (c *chooser) choose(d discoverer, now time.Time) Mode {
	if since := now.Sub(c.looked); since >= 0 && since < managerLook && !c.looked.IsZero() {
		return c.mode
	}
	c.looked = now
	list, err := d.ServerResourcesForGroupVersion(cmapi.SchemeGroupVersion.String())
	switch {
	case err == nil && hasKinds(list, cmapi.CertificateKind, cmapi.IssuerKind):
		c.mode, c.absences = ModeCertManager, 0
	case err == nil || apierrors.IsNotFound(err):
		if c.absences++; c.absences >= managerAbsences {
			c.mode = ModeSelf
		}
	default:
		// Discovery failed: that says nothing about cert-manager.
	}
	return c.mode
}

func hasKinds(list *metav1.APIResourceList, kinds ...string) bool {
	have := map[string]bool{}
	for _, r := range list.APIResources {
		have[r.Kind] = true
	}
	for _, k := range kinds {
		if !have[k] {
			return false
		}
	}
	return true
}
