package admission

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/certs"
)

// Scope is what a Registrar writes.
type Scope int

// Scopes.
const (
	// ScopeNothing: the configurations are somebody else's; they are only read.
	ScopeNothing Scope = iota
	// ScopeTrust: caBundle alone.
	ScopeTrust
	// ScopeAll: the configurations, created and repaired.
	ScopeAll
)

// writesPerMinute bounds how often a configuration is written when somebody
// else writes it too: a quarrel must not become a load.
const writesPerMinute = 3

// RegistrarConfig is what a Registrar needs. All fields are required.
type RegistrarConfig struct {
	// Client reads and writes without a cache.
	Client client.Client
	// Address of the webhooks.
	Address Address
	// Namespace of Berth.
	Namespace string
	Scope     Scope
	Log       logr.Logger
}

// Registrar keeps the webhook configurations in the cluster as they are to be.
// It is used from one goroutine.
type Registrar struct {
	config RegistrarConfig
	writes *rate.Limiter
}

// NewRegistrar returns a Registrar.
func NewRegistrar(c RegistrarConfig) (*Registrar, error) {
	if c.Client == nil || c.Namespace == "" {
		return nil, errors.New("registrar: Client and Namespace are required")
	}
	if err := c.Address.Validate(); err != nil {
		return nil, fmt.Errorf("registrar: address: %w", err)
	}
	// Two objects are written each time.
	return &Registrar{config: c, writes: rate.NewLimiter(rate.Limit(2*writesPerMinute)/60, 2*writesPerMinute)}, nil
}

// Webhooks is how many webhooks there are when all is registered.
func (r *Registrar) Webhooks() int {
	m, v := Configurations(r.config.Address, r.config.Namespace)
	return len(m.Webhooks) + len(v.Webhooks)
}

// Live returns the caBundle of each webhook that is registered.
func (r *Registrar) Live(ctx context.Context) ([]certs.Trust, error) {
	m, v, err := r.read(ctx)
	if err != nil {
		return nil, err
	}
	var out []certs.Trust
	for _, h := range hooksOf(m, v) {
		out = append(out, certs.Trust{Webhook: h.name, CABundle: h.client.CABundle})
	}
	return out, nil
}

// read returns the live configurations; nil for one that is not there.
func (r *Registrar) read(ctx context.Context) (*admissionv1.MutatingWebhookConfiguration, *admissionv1.ValidatingWebhookConfiguration, error) {
	m, v := &admissionv1.MutatingWebhookConfiguration{}, &admissionv1.ValidatingWebhookConfiguration{}
	key := client.ObjectKey{Name: ConfigurationName}
	if err := r.config.Client.Get(ctx, key, m); apierrors.IsNotFound(err) {
		m = nil
	} else if err != nil {
		return nil, nil, fmt.Errorf("reading MutatingWebhookConfiguration %s: %w", ConfigurationName, err)
	}
	if err := r.config.Client.Get(ctx, key, v); apierrors.IsNotFound(err) {
		v = nil
	} else if err != nil {
		return nil, nil, fmt.Errorf("reading ValidatingWebhookConfiguration %s: %w", ConfigurationName, err)
	}
	return m, v, nil
}

// hook is a webhook of either kind.
type hook struct {
	name   string
	client *admissionv1.WebhookClientConfig
}

func hooksOf(m *admissionv1.MutatingWebhookConfiguration, v *admissionv1.ValidatingWebhookConfiguration) []hook {
	var out []hook
	if m != nil {
		for i := range m.Webhooks {
			out = append(out, hook{m.Webhooks[i].Name, &m.Webhooks[i].ClientConfig})
		}
	}
	if v != nil {
		for i := range v.Webhooks {
			out = append(out, hook{v.Webhooks[i].Name, &v.Webhooks[i].ClientConfig})
		}
	}
	return out
}

// Publish brings the configurations into line with p, as far as Scope goes. It
// writes what differs and nothing else, and at most writesPerMinute times.
func (r *Registrar) Publish(ctx context.Context, p certs.Publication) (bool, error) {
	if r.config.Scope == ScopeNothing || r.config.Scope == ScopeTrust && p.CABundle == nil {
		return false, nil
	}
	m, v, err := r.read(ctx)
	if err != nil {
		return false, err
	}
	var objects []client.Object
	if r.config.Scope == ScopeTrust {
		objects = r.trust(m, v, p.CABundle)
	} else {
		objects = r.all(m, v, p)
	}
	wrote := false
	for _, o := range objects {
		kind := o.GetObjectKind().GroupVersionKind().Kind
		if !r.writes.Allow() {
			r.config.Log.Info("somebody else keeps changing a webhook configuration; waiting before it is repaired again", "kind", kind)
			return wrote, nil
		}
		if err := certs.Apply(ctx, r.config.Client, o); err != nil {
			return wrote, fmt.Errorf("applying %s %s: %w", kind, ConfigurationName, err)
		}
		r.config.Log.Info("registered", "kind", kind)
		wrote = true
	}
	if p.CABundle != nil {
		return wrote, injected(m, v)
	}
	return wrote, nil
}

// injected is an error when cert-manager has been told by somebody else to
// write the caBundle that we write.
func injected(m *admissionv1.MutatingWebhookConfiguration, v *admissionv1.ValidatingWebhookConfiguration) error {
	var live []client.Object
	if m != nil {
		live = append(live, m)
	}
	if v != nil {
		live = append(live, v)
	}
	for _, o := range live {
		for _, key := range injectAnnotations {
			if _, ok := o.GetAnnotations()[key]; ok && !appliedByUs(o, key) {
				return fmt.Errorf("annotation %s on a webhook configuration %s has cert-manager write the caBundle that --cert-mode=self writes: remove it, or use --cert-mode=cert-manager", key, ConfigurationName)
			}
		}
	}
	return nil
}

var injectAnnotations = []string{certs.ManagerInjectAnnotation, certs.ManagerInjectSecretAnnotation, certs.ManagerInjectAPIServerAnnotation}

// appliedByUs says whether an annotation is in what we have applied ourselves:
// the next Publish takes it away.
func appliedByUs(o client.Object, annotation string) bool {
	return slices.ContainsFunc(o.GetManagedFields(), func(f metav1.ManagedFieldsEntry) bool {
		return f.Manager == certs.FieldOwner && f.FieldsV1 != nil && strings.Contains(f.FieldsV1.GetRawString(), `"f:`+annotation+`"`)
	})
}

// all are the configurations to apply as a whole: those that are missing or
// differ.
func (r *Registrar) all(m *admissionv1.MutatingWebhookConfiguration, v *admissionv1.ValidatingWebhookConfiguration, p certs.Publication) []client.Object {
	wantM, wantV := Configurations(r.config.Address, r.config.Namespace)
	live := map[string]*admissionv1.WebhookClientConfig{}
	for _, h := range hooksOf(m, v) {
		live[h.name] = h.client
	}
	for _, h := range hooksOf(wantM, wantV) {
		h.client.CABundle = p.CABundle
		// While others write the bundle, what they have written stays; also what
		// we wrote before they began, or nobody would be trusted in between.
		if was := live[h.name]; p.InjectFrom != "" && was != nil {
			h.client.CABundle = was.CABundle
		}
	}
	if p.InjectFrom != "" {
		wantM.Annotations = map[string]string{certs.ManagerInjectAnnotation: p.InjectFrom}
		wantV.Annotations = maps.Clone(wantM.Annotations)
	}
	var out []client.Object
	if m == nil || !apiequality.Semantic.DeepEqual(m.Webhooks, wantM.Webhooks) || !r.meta(m, wantM) {
		out = append(out, wantM)
	}
	if v == nil || !apiequality.Semantic.DeepEqual(v.Webhooks, wantV.Webhooks) || !r.meta(v, wantV) {
		out = append(out, wantV)
	}
	return out
}

// meta says whether a live object has the labels and annotations that it is to
// have, and none of ours that it is not to have.
func (r *Registrar) meta(live, want client.Object) bool {
	for k, v := range want.GetLabels() {
		if live.GetLabels()[k] != v {
			return false
		}
	}
	for k, v := range want.GetAnnotations() {
		if live.GetAnnotations()[k] != v {
			return false
		}
	}
	_, wanted := want.GetAnnotations()[certs.ManagerInjectAnnotation]
	_, has := live.GetAnnotations()[certs.ManagerInjectAnnotation]
	return wanted || !has || !appliedByUs(live, certs.ManagerInjectAnnotation)
}

// trust are the configurations to apply with nothing but the bundle: those in
// which some webhook has another.
func (r *Registrar) trust(m *admissionv1.MutatingWebhookConfiguration, v *admissionv1.ValidatingWebhookConfiguration, bundle []byte) []client.Object {
	var out []client.Object
	for _, c := range []struct {
		kind  string
		hooks []hook
	}{{"MutatingWebhookConfiguration", hooksOf(m, nil)}, {"ValidatingWebhookConfiguration", hooksOf(nil, v)}} {
		if !slices.ContainsFunc(c.hooks, func(h hook) bool { return !bytes.Equal(h.client.CABundle, bundle) }) {
			continue
		}
		var webhooks []any
		for _, h := range c.hooks {
			webhooks = append(webhooks, map[string]any{"name": h.name, "clientConfig": map[string]any{"caBundle": base64.StdEncoding.EncodeToString(bundle)}})
		}
		out = append(out, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": admissionv1.SchemeGroupVersion.String(), "kind": c.kind,
			"metadata": map[string]any{"name": ConfigurationName}, "webhooks": webhooks,
		}})
	}
	return out
}
