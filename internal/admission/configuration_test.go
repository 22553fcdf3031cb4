package admission

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// TestDeployedConfigurationsAreTheRegisteredOnes keeps deploy/webhook, for those
// who install the configurations with the rest, the same as what the webhook
// registers by itself.
func TestDeployedConfigurationsAreTheRegisteredOnes(t *testing.T) {
	m, v := Configurations(Address{Namespace: "berth-system", Service: "berth-webhook"}, "berth-system")
	for name, object := range map[string]any{"mutating.yaml": m, "validating.yaml": v} {
		path := filepath.Join("..", "..", "deploy", "webhook", name)
		want, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			head := "# Written by: go test ./internal/admission -run Deployed -update\n"
			if err := os.WriteFile(path, append([]byte(head), want...), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, got, _ := strings.Cut(string(data), "\n")
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s differs from what is registered (-registered +file):\n%s", path, diff)
		}
	}
}

// TestThePolicyDefaultsWhatTheWebhookDoes: with either, a stored Provisioner means
// the same.
func TestThePolicyDefaultsWhatTheWebhookDoes(t *testing.T) {
	policy, err := os.ReadFile(filepath.Join("..", "..", "deploy", "policies", "mutating.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range defaultRequirements(nil)[0].Value.([]v1alpha1.Requirement) {
		want := fmt.Sprintf(`{key: %q, operator: %q, values: ["%s"]}`, r.Key, r.Operator, strings.Join(r.Values, `", "`))
		if !strings.Contains(string(policy), want) {
			t.Errorf("the policy has no %s", want)
		}
	}
}

// TestConfigurationsCannotHurt asserts what keeps the webhooks harmless, so that
// a change of any of it is deliberate.
func TestConfigurationsCannotHurt(t *testing.T) {
	m, v := Configurations(Address{Namespace: "own", Service: "berth-webhook"}, "own")
	if !strings.HasPrefix(m.Name, "zz-") {
		t.Errorf("the mutating configuration is named %s and does not sort last", m.Name)
	}
	for _, w := range m.Webhooks {
		if *w.FailurePolicy != admissionv1.Ignore || *w.TimeoutSeconds > 3 || *w.SideEffects != admissionv1.SideEffectClassNone {
			t.Errorf("%s: %+v", w.Name, w)
		}
	}
	pods := m.Webhooks[0]
	if *pods.TimeoutSeconds != 1 || *pods.ReinvocationPolicy != admissionv1.IfNeededReinvocationPolicy || *pods.MatchPolicy != admissionv1.Equivalent {
		t.Errorf("pods: %+v", pods)
	}
	if diff := cmp.Diff([]admissionv1.OperationType{admissionv1.Create}, pods.Rules[0].Operations); diff != "" {
		t.Errorf("pods are called for more than CREATE:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"kube-system", "kube-public", "kube-node-lease", "own"}, pods.NamespaceSelector.MatchExpressions[0].Values); diff != "" {
		t.Errorf("excluded namespaces:\n%s", diff)
	}
	for _, w := range v.Webhooks[1:] {
		if *w.FailurePolicy != admissionv1.Ignore {
			t.Errorf("%s fails closed; only the validation of Provisioners may", w.Name)
		}
	}
	for _, r := range v.Webhooks[0].Rules {
		for _, op := range r.Operations {
			if op == admissionv1.Delete {
				t.Error("deletions are validated: finalizers could not be removed while the webhook is down")
			}
		}
		if diff := cmp.Diff([]string{"provisioners"}, r.Resources); diff != "" {
			t.Errorf("the validator with failurePolicy Fail is for more than Provisioners:\n%s", diff)
		}
	}
}

func TestAddress(t *testing.T) {
	for name, c := range map[string]struct {
		address Address
		ok      bool
		server  string
	}{
		"a Service":            {Address{Namespace: "a", Service: "b"}, true, "b.a.svc"},
		"a Service without":    {Address{Namespace: "a"}, false, ""},
		"a URL":                {Address{URL: "https://127.0.0.1:9443"}, true, "127.0.0.1"},
		"a URL with a slash":   {Address{URL: "https://example.com/"}, true, "example.com"},
		"a URL of IPv6":        {Address{URL: "https://[::1]:9443"}, true, "::1"},
		"a URL without TLS":    {Address{URL: "http://127.0.0.1:9443"}, false, ""},
		"a URL with a path":    {Address{URL: "https://127.0.0.1:9443/x"}, false, ""},
		"a URL with user":      {Address{URL: "https://a:b@127.0.0.1"}, false, ""},
		"a URL that is none":   {Address{URL: "127.0.0.1:9443"}, false, ""},
		"a URL without a host": {Address{URL: "https://"}, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.address.Validate(); (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
			if c.ok && c.address.ServerName() != c.server {
				t.Errorf("server name %q, want %q", c.address.ServerName(), c.server)
			}
		})
	}
	m, _ := Configurations(Address{URL: "https://127.0.0.1:9443/"}, "own")
	if got := *m.Webhooks[0].ClientConfig.URL; got != "https://127.0.0.1:9443/mutate/pods" {
		t.Errorf("URL %s", got)
	}
}
