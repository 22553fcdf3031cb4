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

// entry is what a configuration says of a webhook; what is not here is the same
// for all.
type entry struct {
	name, path string
	rules      []admissionv1.RuleWithOperations
	failure    admissionv1.FailurePolicyType
	// seconds is the timeout.
	seconds int32
	// namespaces and objects are selectors; nil: all.
	namespaces, objects *metav1.LabelSelector
	sideEffects         admissionv1.SideEffectClass
	conditions          []admissionv1.MatchCondition
}

func (e *entry) mutating(a Address) admissionv1.MutatingWebhook {
	return admissionv1.MutatingWebhook{
		Name: e.name, ClientConfig: a.client(e.path), Rules: e.rules,
		FailurePolicy: &e.failure, TimeoutSeconds: &e.seconds, SideEffects: &e.sideEffects,
		NamespaceSelector: orAll(e.namespaces), ObjectSelector: orAll(e.objects), MatchConditions: e.conditions,
		MatchPolicy: new(admissionv1.Equivalent), AdmissionReviewVersions: []string{"v1"},
		ReinvocationPolicy: new(admissionv1.IfNeededReinvocationPolicy),
	}
}

func (e *entry) validating(a Address) admissionv1.ValidatingWebhook {
	return admissionv1.ValidatingWebhook{
		Name: e.name, ClientConfig: a.client(e.path), Rules: e.rules,
		FailurePolicy: &e.failure, TimeoutSeconds: &e.seconds, SideEffects: &e.sideEffects,
		NamespaceSelector: orAll(e.namespaces), ObjectSelector: orAll(e.objects), MatchConditions: e.conditions,
		MatchPolicy: new(admissionv1.Equivalent), AdmissionReviewVersions: []string{"v1"},
	}
}

func orAll(s *metav1.LabelSelector) *metav1.LabelSelector {
	if s == nil {
		return &metav1.LabelSelector{}
	}
	return s
}

// rule is for resources of one version of a group.
func rule(group, version string, scope admissionv1.ScopeType, resources []string, operations ...admissionv1.OperationType) admissionv1.RuleWithOperations {
	return admissionv1.RuleWithOperations{Operations: operations, Rule: admissionv1.Rule{
		APIGroups: []string{group}, APIVersions: []string{version}, Resources: resources, Scope: &scope,
	}}
}

// Configurations are the webhook configurations as they are registered, with
// every field that the API server would default. namespace is Berth's own. The
// caller adds caBundle or an annotation for whoever does.
func Configurations(a Address, namespace string) (*admissionv1.MutatingWebhookConfiguration, *admissionv1.ValidatingWebhookConfiguration) {
	const create, update, remove = admissionv1.Create, admissionv1.Update, admissionv1.Delete
	meta := metav1.ObjectMeta{Name: ConfigurationName, Labels: map[string]string{"app.kubernetes.io/name": "berth", "app.kubernetes.io/component": "webhook"}}
	ours := func(operations ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
		return []admissionv1.RuleWithOperations{rule(v1alpha1.Group, "v1alpha1", admissionv1.ClusterScope, []string{"provisioners"}, operations...)}
	}
	notDeleted := admissionv1.MatchCondition{Name: "not-being-deleted", Expression: "!has(object.metadata.deletionTimestamp)"}
	pods := &entry{
		name: webhookPods, path: PathPods, failure: admissionv1.Ignore, seconds: 1, sideEffects: admissionv1.SideEffectClassNone,
		rules:      []admissionv1.RuleWithOperations{rule("", "v1", admissionv1.NamespacedScope, []string{"pods"}, create)},
		namespaces: tenants(namespace),
		objects: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: OptOutLabel, Operator: metav1.LabelSelectorOpNotIn, Values: []string{OptOutIgnore}},
		}},
		conditions: []admissionv1.MatchCondition{
			{Name: "not-bound", Expression: `!has(object.spec.nodeName) || object.spec.nodeName == ""`},
			{Name: "not-a-mirror", Expression: `!has(object.metadata.annotations) || !("kubernetes.io/config.mirror" in object.metadata.annotations)`},
			{Name: "not-of-a-daemonset", Expression: `!has(object.metadata.ownerReferences) || !object.metadata.ownerReferences.exists(o, o.kind == "DaemonSet" && has(o.controller) && o.controller)`},
		},
	}
	defaults := &entry{
		name: webhookDefaults, path: PathDefaultProvisioner, failure: admissionv1.Ignore, seconds: 3, sideEffects: admissionv1.SideEffectClassNone,
		rules: ours(create, update), conditions: []admissionv1.MatchCondition{notDeleted},
	}
	validation := &entry{
		name: webhookValidate, path: PathValidateProvisioner, failure: admissionv1.Fail, seconds: 5, sideEffects: admissionv1.SideEffectClassNone,
		rules: ours(create, update), conditions: []admissionv1.MatchCondition{notDeleted},
	}
	// A guard for people, not for safety: without us deletions go through.
	deletion := &entry{
		name: webhookDeletion, path: PathValidateProvisioner, failure: admissionv1.Ignore, seconds: 3, sideEffects: admissionv1.SideEffectClassNone,
		rules:      ours(remove),
		conditions: []admissionv1.MatchCondition{{Name: notDeleted.Name, Expression: "!has(oldObject.metadata.deletionTimestamp)"}},
	}
	workloads := &entry{
		name: webhookWorkloads, path: PathWorkloads, failure: admissionv1.Ignore, seconds: 1,
		sideEffects: admissionv1.SideEffectClassNoneOnDryRun, // Events, afterwards; none in a dry run.
		rules: []admissionv1.RuleWithOperations{
			rule("apps", "v1", admissionv1.NamespacedScope, []string{"deployments", "statefulsets", "daemonsets", "replicasets"}, create, update),
			rule("batch", "v1", admissionv1.NamespacedScope, []string{"jobs", "cronjobs"}, create, update),
		},
		namespaces: tenants(namespace),
		conditions: []admissionv1.MatchCondition{
			notDeleted,
			{Name: "not-made-by-a-controller", Expression: `!has(object.metadata.ownerReferences) || !object.metadata.ownerReferences.exists(o, has(o.controller) && o.controller)`},
			{Name: "spec-changed", Expression: `request.operation == "CREATE" || object.spec != oldObject.spec`},
		},
	}
	return &admissionv1.MutatingWebhookConfiguration{
			TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "MutatingWebhookConfiguration"},
			ObjectMeta: meta,
			Webhooks:   []admissionv1.MutatingWebhook{pods.mutating(a), defaults.mutating(a)},
		}, &admissionv1.ValidatingWebhookConfiguration{
			TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "ValidatingWebhookConfiguration"},
			ObjectMeta: *meta.DeepCopy(),
			Webhooks:   []admissionv1.ValidatingWebhook{validation.validating(a), deletion.validating(a), workloads.validating(a)},
		}
}

// tenants are the namespaces that are looked at: all but those of the system and
// ours, and those that opt out.
func tenants(namespace string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpNotIn, Values: append(append([]string{}, systemNamespaces...), namespace)},
		{Key: OptOutLabel, Operator: metav1.LabelSelectorOpNotIn, Values: []string{OptOutIgnore}},
	}}
}
