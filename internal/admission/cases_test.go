package admission

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

func describeDecision(d Decision) string {
	var b strings.Builder
	fmt.Fprintf(&b, "result: %s\n", d.Result)
	if d.Denied != "" {
		if d.Forbidden {
			b.WriteString("forbidden\n")
		}
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
		uid, d, err := reviewPod(reviewOf("Pod", "pods", "CREATE", doc, ""), s, nil, 0.5)
		if err != nil || uid == "" {
			t.Fatalf("uid %q, error %v", uid, err)
		}
		if len(d.Patch) > 0 {
			after := applyPatch(t, doc, d.Patch)
			_, again, err := reviewPod(reviewOf("Pod", "pods", "CREATE", after, ""), s, nil, 0.5)
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
		if doc, ok := files["reservations.yaml"]; ok {
			in.Offerings.Provisioners = map[string]capacity.Resolved{"new": {Ready: true, Reservations: reservationsFrom(t, doc)}}
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
		object := asJSON(t, files["provisioner.yaml"])
		if strings.TrimSpace(files["operation"]) == "DELETE" {
			operation, object = "DELETE", "null"
		}
		fleet := func(name string) Fleet {
			f := Fleet{RefuseAbove: 0.5, ClusterName: "prod"}
			if doc, ok := files["nodes.yaml"]; ok && name == "new" {
				f.Claims = claimsFrom(t, doc)
			}
			return f
		}
		_, d, err := reviewValidation(reviewOf("Provisioner", "provisioners", operation, object, old), NewSnapshot(in), fleet)
		if err != nil {
			t.Fatal(err)
		}
		return describeDecision(d)
	})
}

// reservationsFrom reads what the provisioner has found.
func reservationsFrom(t *testing.T, doc string) (out []capacity.Reservation) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(doc), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// claimsFrom reads a list of kinds of claims, each with how many there are.
func claimsFrom(t *testing.T, doc string) []*v1alpha1.NodeClaim {
	t.Helper()
	var kinds []struct {
		Count    int
		Leaving  bool
		Type     string
		Price    string
		Capacity string
		Zone     string
		Age      string
		Labels   map[string]string
		Requests corev1.ResourceList
	}
	if err := yaml.UnmarshalStrict([]byte(doc), &kinds); err != nil {
		t.Fatal(err)
	}
	var out []*v1alpha1.NodeClaim
	for _, k := range kinds {
		for range k.Count {
			c := &v1alpha1.NodeClaim{}
			c.Labels, c.Spec.Requests = k.Labels, k.Requests
			c.Status.InstanceType, c.Status.HourlyPrice = k.Type, v1alpha1.Price(k.Price)
			c.Status.CapacityType, c.Status.Zone = k.Capacity, k.Zone
			if k.Age != "" {
				age, err := time.ParseDuration(k.Age)
				if err != nil {
					t.Fatal(err)
				}
				c.CreationTimestamp = metav1.Time{Time: testNow.Add(-age)}
			}
			if k.Leaving {
				c.DeletionTimestamp = &metav1.Time{Time: testNow}
			}
			out = append(out, c)
		}
	}
	return out
}

// TestWorkloadCases: what whoever applies a workload is told, on lines of at most
// 120 bytes, and nothing is changed or denied.
func TestWorkloadCases(t *testing.T) {
	eachCase(t, "workloads", func(t *testing.T, files map[string]string) string {
		in := Inputs{Now: testNow, Offerings: testOfferings(), Provisioners: []*v1alpha1.Provisioner{defaultProvisioner(), gpuProvisioner()}}
		if doc, ok := files["provisioner.yaml"]; ok {
			in.Provisioners = []*v1alpha1.Provisioner{provisionerFrom(t, doc)}
		}
		if doc, ok := files["reservations.yaml"]; ok {
			in.Offerings.Provisioners = map[string]capacity.Resolved{in.Provisioners[0].Name: {Ready: true, Reservations: reservationsFrom(t, doc)}}
		}
		if doc, ok := files["budgets.yaml"]; ok {
			if err := yaml.UnmarshalStrict([]byte(doc), &in.Budgets); err != nil {
				t.Fatal(err)
			}
		}
		var kind struct{ Kind string }
		if err := yaml.Unmarshal([]byte(files["workload.yaml"]), &kind); err != nil {
			t.Fatal(err)
		}
		operation, old := "CREATE", ""
		if doc, ok := files["old.yaml"]; ok {
			operation, old = "UPDATE", asJSON(t, doc)
		}
		review := reviewOf(kind.Kind, "workloads", operation, asJSON(t, files["workload.yaml"]), old)
		_, d, err := reviewWorkload(review, NewSnapshot(in), 5)
		if err != nil {
			t.Fatal(err)
		}
		if d.Denied != "" || len(d.Patch) > 0 {
			t.Errorf("denied %q, patched %s", d.Denied, d.Patch)
		}
		_, dry, err := reviewWorkload(strings.Replace(review, `"dryRun":false`, `"dryRun":true`, 1), NewSnapshot(in), 5)
		if err != nil || !slices.Equal(dry.Warnings, d.Warnings) || dry.About != nil {
			t.Errorf("a dry run answers %q about %v, error %v", dry.Warnings, dry.About, err)
		}
		out := describeDecision(d)
		for i, w := range d.Warnings {
			if len(w) > maxAdvice {
				t.Errorf("a warning of %d bytes: %s", len(w), w)
			}
			out += fmt.Sprintf("event: %s %s/%s: %s\n", d.Advice[i].Reason, d.About.Kind, d.About.Name, d.Advice[i].Text)
		}
		return out
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
		operation, old := "CREATE", ""
		if before, ok := files["old.yaml"]; ok {
			operation, old = "UPDATE", asJSON(t, before)
		}
		_, d, err := reviewDefaults(reviewOf("Provisioner", "provisioners", operation, doc, old), "prod")
		if err != nil {
			t.Fatal(err)
		}
		out := fmt.Sprintf("result: %s\n", d.Result)
		for _, w := range d.Warnings {
			out += fmt.Sprintf("warning: %s\n", w)
		}
		if len(d.Patch) == 0 {
			return out
		}
		after := applyPatch(t, doc, d.Patch)
		again, err := DefaultProvisioner([]byte(after), []byte(old), "prod")
		if err != nil || len(again.Patch) > 0 {
			t.Errorf("the second time: patch %s, error %v", again.Patch, err)
		}
		stored := struct {
			Metadata struct{ Finalizers []string }
			Spec     json.RawMessage
		}{}
		if err := json.Unmarshal([]byte(after), &stored); err != nil {
			t.Fatal(err)
		}
		if list := stored.Metadata.Finalizers; list != nil {
			out += fmt.Sprintf("finalizers: %q\n", list)
		}
		y, err := yaml.JSONToYAML(stored.Spec)
		if err != nil {
			t.Fatal(err)
		}
		return out + string(y)
	})
}
