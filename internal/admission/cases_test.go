package admission

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func describeDecision(d Decision) string {
	var b strings.Builder
	fmt.Fprintf(&b, "result: %s\n", d.Result)
	if d.Denied != "" {
		fmt.Fprintf(&b, "denied:\n  %s\n", strings.ReplaceAll(d.Denied, "; spec.", "\n  spec."))
	}
	for _, w := range d.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	if len(d.Patch) > 0 {
		fmt.Fprintf(&b, "patch: %s\n", d.Patch)
	}
	return b.String()
}

func gpuProvisioner() *v1alpha1.Provisioner {
	p := &v1alpha1.Provisioner{}
	p.Name, p.UID, p.Generation = "gpu", "2", 1
	p.Spec.Weight = 1
	p.Spec.Requirements = []v1alpha1.Requirement{requireIn(v1alpha1.LabelInstanceGPUManufacturer, "nvidia")}
	p.Spec.Taints = append(p.Spec.Taints, taint("nvidia.com/gpu"))
	return p
}

func TestPodCases(t *testing.T) {
	s := testSnapshot(defaultProvisioner(), gpuProvisioner())
	eachCase(t, "pods", func(t *testing.T, files map[string]string) string {
		doc := asJSON(t, files["pod.yaml"])
		uid, d, err := reviewPod(reviewOf("Pod", "pods", "CREATE", doc, ""), s)
		if err != nil || uid == "" {
			t.Fatalf("uid %q, error %v", uid, err)
		}
		if len(d.Patch) > 0 {
			after := applyPatch(t, doc, d.Patch)
			_, again, err := reviewPod(reviewOf("Pod", "pods", "CREATE", after, ""), s)
			if err != nil || len(again.Patch) > 0 {
				t.Errorf("the second time: patch %s, error %v", again.Patch, err)
			}
		}
		return describeDecision(d)
	})
}

func applyPatch(t testing.TB, doc string, patch []byte) string {
	t.Helper()
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatalf("patch %s: %v", patch, err)
	}
	after, err := p.Apply([]byte(doc))
	if err != nil {
		t.Fatalf("patch %s on %s: %v", patch, doc, err)
	}
	return string(after)
}

func TestValidationCases(t *testing.T) {
	eachCase(t, "validate", func(t *testing.T, files map[string]string) string {
		in := Inputs{Now: testNow, Offerings: testOfferings(), Provisioners: []*v1alpha1.Provisioner{defaultProvisioner()}}
		if doc, ok := files["others.yaml"]; ok {
			in.Provisioners = []*v1alpha1.Provisioner{provisionerFrom(t, doc)}
		}
		switch strings.TrimSpace(files["offerings"]) {
		case "none":
			in.Offerings = nil
		case "stale":
			in.Offerings.At = testNow.Add(-24 * time.Hour)
		}
		operation, old := "CREATE", ""
		if doc, ok := files["old.yaml"]; ok {
			operation, old = "UPDATE", asJSON(t, doc)
		}
		_, d, err := reviewValidation(reviewOf("Provisioner", "provisioners", operation, asJSON(t, files["provisioner.yaml"]), old), NewSnapshot(in))
		if err != nil {
			t.Fatal(err)
		}
		return describeDecision(d)
	})
}

func provisionerFrom(t testing.TB, doc string) *v1alpha1.Provisioner {
	t.Helper()
	p := &v1alpha1.Provisioner{}
	if err := yaml.UnmarshalStrict([]byte(doc), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaultingCases(t *testing.T) {
	eachCase(t, "defaults", func(t *testing.T, files map[string]string) string {
		doc := asJSON(t, files["provisioner.yaml"])
		_, d, err := reviewDefaults(reviewOf("Provisioner", "provisioners", "CREATE", doc, ""), "prod")
		if err != nil {
			t.Fatal(err)
		}
		out := fmt.Sprintf("result: %s\n", d.Result)
		if len(d.Patch) == 0 {
			return out
		}
		after := applyPatch(t, doc, d.Patch)
		again, err := DefaultProvisioner([]byte(after), "prod")
		if err != nil || len(again.Patch) > 0 {
			t.Errorf("the second time: patch %s, error %v", again.Patch, err)
		}
		spec := struct{ Spec json.RawMessage }{}
		if err := json.Unmarshal([]byte(after), &spec); err != nil {
			t.Fatal(err)
		}
		y, err := yaml.JSONToYAML(spec.Spec)
		if err != nil {
			t.Fatal(err)
		}
		return out + string(y)
	})
}
