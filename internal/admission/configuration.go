package admission

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const (
	// ConfigurationName is the name of both webhook configurations. The API
	// server calls mutating configurations in the order of their names: ours
	// sees what the others have made of a pod.
	ConfigurationName = "zz-berth"
	// OptOutLabel with value OptOutIgnore on a pod or namespace keeps pods
	// away from the webhook.
	OptOutLabel  = v1alpha1.Group + "/admission"
	OptOutIgnore = "ignore"
)

// Names of the webhooks in the configurations.
const (
	webhookPods      = "pods.admission." + v1alpha1.Group
	webhookDefaults  = "defaults.provisioners.admission." + v1alpha1.Group
	webhookValidate  = "validation.provisioners.admission." + v1alpha1.Group
	webhookDeletion  = "deletion.provisioners.admission." + v1alpha1.Group
	webhookWorkloads = "workloads.admission." + v1alpha1.Group
)

// systemNamespaces hold what nodes need to come up; a pod there must never wait
// for us.
var systemNamespaces = []string{metav1.NamespaceSystem, metav1.NamespacePublic, "kube-node-lease"}

// Address is where the API server finds the webhooks: a Service, or a URL.
type Address struct {
	// URL, https://host:port without a path; empty for the Service.
	URL string
	// Namespace and Service that lead here on port 443.
	Namespace, Service string
}

// Validate says what is wrong with an Address.
func (a Address) Validate() error {
	if a.URL == "" {
		if a.Namespace == "" || a.Service == "" {
			return errors.New("a Service needs a name and a namespace")
		}
		return nil
	}
	u, err := url.Parse(a.URL)
	if err != nil {
		return err
	}
	if u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf("%q is not of the form https://host:port", a.URL)
	}
	return nil
}

// ServerName is what the API server wants the certificate to be for: a DNS name
// or an IP address.
func (a Address) ServerName() string {
	if a.URL != "" {
		if u, err := url.Parse(a.URL); err == nil {
			return u.Hostname()
		}
		return ""
	}
	return a.Service + "." + a.Namespace + ".svc"
}

func (a Address) client(path string) admissionv1.WebhookClientConfig {
	if a.URL != "" {
		u := strings.TrimSuffix(a.URL, "/") + path
		return admissionv1.WebhookClientConfig{URL: &u}
	}
	return admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{
		Namespace: a.Namespace, Name: a.Service, Path: &path, Port: new(int32(443)),
	}}
}

// Configurations are the webhook configurations as they are registered, with
// every field that the API server would default. namespace is Berth's own. The
// caller adds caBundle or an annotation for whoever does.
func Configurations(a Address, namespace string) (*admissionv1.MutatingWebhookConfiguration, *admissionv1.ValidatingWebhookConfiguration) {
	meta := metav1.ObjectMeta{Name: ConfigurationName, Labels: map[string]string{"app.kubernetes.io/name": "berth", "app.kubernetes.io/component": "webhook"}}
	provisioners := []admissionv1.RuleWithOperations{{
		Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
		Rule: admissionv1.Rule{
			APIGroups: []string{v1alpha1.Group}, APIVersions: []string{"v1alpha1"}, Resources: []string{"provisioners"}, Scope: new(admissionv1.ClusterScope),
		},
	}}
	notDeleted := []admissionv1.MatchCondition{{
		Name: "not-being-deleted", Expression: "!has(object.metadata.deletionTimestamp)",
	}}
	mutating := &admissionv1.MutatingWebhookConfiguration{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "MutatingWebhookConfiguration"},
		ObjectMeta: meta,
		Webhooks: []admissionv1.MutatingWebhook{{
			Name:         webhookPods,
			ClientConfig: a.client(PathPods),
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule: admissionv1.Rule{
					APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: new(admissionv1.NamespacedScope),
				},
			}},
			FailurePolicy:     new(admissionv1.Ignore),
			MatchPolicy:       new(admissionv1.Equivalent),
			NamespaceSelector: tenants(namespace),
			ObjectSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: OptOutLabel, Operator: metav1.LabelSelectorOpNotIn, Values: []string{OptOutIgnore}},
			}},
			SideEffects:             new(admissionv1.SideEffectClassNone),
			TimeoutSeconds:          new(int32(1)),
			AdmissionReviewVersions: []string{"v1"},
			ReinvocationPolicy:      new(admissionv1.IfNeededReinvocationPolicy),
			MatchConditions: []admissionv1.MatchCondition{
				{Name: "not-bound", Expression: `!has(object.spec.nodeName) || object.spec.nodeName == ""`},
				{Name: "not-a-mirror", Expression: `!has(object.metadata.annotations) || !("kubernetes.io/config.mirror" in object.metadata.annotations)`},
				{Name: "not-of-a-daemonset", Expression: `!has(object.metadata.ownerReferences) || !object.metadata.ownerReferences.exists(o, o.kind == "DaemonSet" && has(o.controller) && o.controller)`},
			},
		}, {
			Name:                    webhookDefaults,
			ClientConfig:            a.client(PathDefaultProvisioner),
			Rules:                   provisioners,
			FailurePolicy:           new(admissionv1.Ignore),
			MatchPolicy:             new(admissionv1.Equivalent),
			NamespaceSelector:       &metav1.LabelSelector{},
			ObjectSelector:          &metav1.LabelSelector{},
			SideEffects:             new(admissionv1.SideEffectClassNone),
			TimeoutSeconds:          new(int32(3)),
			AdmissionReviewVersions: []string{"v1"},
			ReinvocationPolicy:      new(admissionv1.IfNeededReinvocationPolicy),
			MatchConditions:         notDeleted,
		}},
	}
	validating := &admissionv1.ValidatingWebhookConfiguration{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "ValidatingWebhookConfiguration"},
		ObjectMeta: *meta.DeepCopy(),
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name:                    webhookValidate,
			ClientConfig:            a.client(PathValidateProvisioner),
			Rules:                   provisioners,
			FailurePolicy:           new(admissionv1.Fail),
			MatchPolicy:             new(admissionv1.Equivalent),
			NamespaceSelector:       &metav1.LabelSelector{},
			ObjectSelector:          &metav1.LabelSelector{},
			SideEffects:             new(admissionv1.SideEffectClassNone),
			TimeoutSeconds:          new(int32(5)),
			AdmissionReviewVersions: []string{"v1"},
			MatchConditions:         notDeleted,
		}, {
			// A guard for people, not for safety: without us deletions go through.
			Name:         webhookDeletion,
			ClientConfig: a.client(PathValidateProvisioner),
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Delete},
				Rule:       provisioners[0].Rule,
			}},
			FailurePolicy:           new(admissionv1.Ignore),
			MatchPolicy:             new(admissionv1.Equivalent),
			NamespaceSelector:       &metav1.LabelSelector{},
			ObjectSelector:          &metav1.LabelSelector{},
			SideEffects:             new(admissionv1.SideEffectClassNone),
			TimeoutSeconds:          new(int32(3)),
			AdmissionReviewVersions: []string{"v1"},
			MatchConditions: []admissionv1.MatchCondition{
				{Name: "not-being-deleted", Expression: "!has(oldObject.metadata.deletionTimestamp)"},
			},
		}, {
			Name:         webhookWorkloads,
			ClientConfig: a.client(PathWorkloads),
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule: admissionv1.Rule{
					APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments", "statefulsets", "daemonsets", "replicasets"}, Scope: new(admissionv1.NamespacedScope),
				},
			}, {
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule: admissionv1.Rule{
					APIGroups: []string{"batch"}, APIVersions: []string{"v1"}, Resources: []string{"jobs", "cronjobs"}, Scope: new(admissionv1.NamespacedScope),
				},
			}},
			FailurePolicy:     new(admissionv1.Ignore),
			MatchPolicy:       new(admissionv1.Equivalent),
			NamespaceSelector: tenants(namespace),
			ObjectSelector:    &metav1.LabelSelector{},
			// Events, afterwards; none in a dry run.
			SideEffects:             new(admissionv1.SideEffectClassNoneOnDryRun),
			TimeoutSeconds:          new(int32(1)),
			AdmissionReviewVersions: []string{"v1"},
			MatchConditions: []admissionv1.MatchCondition{
				{Name: "not-being-deleted", Expression: "!has(object.metadata.deletionTimestamp)"},
				{Name: "not-made-by-a-controller", Expression: `!has(object.metadata.ownerReferences) || !object.metadata.ownerReferences.exists(o, has(o.controller) && o.controller)`},
				{Name: "spec-changed", Expression: `request.operation == "CREATE" || object.spec != oldObject.spec`},
			},
		}},
	}
	return mutating, validating
}

// tenants are the namespaces that are looked at: all but those of the system and
// ours, and those that opt out.
func tenants(namespace string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpNotIn, Values: append(append([]string{}, systemNamespaces...), namespace)},
		{Key: OptOutLabel, Operator: metav1.LabelSelectorOpNotIn, Values: []string{OptOutIgnore}},
	}}
}
