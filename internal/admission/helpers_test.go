package admission

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"golang.org/x/tools/txtar"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

var update = flag.Bool("update", false, "rewrite the expected output of text cases")

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// testOfferings are a few types in two zones, at round prices.
func testOfferings() *capacity.Offerings {
	offer := func(price float64, capacityTypes ...string) []capacity.Offering {
		var out []capacity.Offering
		for _, z := range []string{"us-west-2a", "us-west-2b"} {
			for _, c := range capacityTypes {
				p := price
				if c == v1alpha1.CapacityTypeSpot {
					p = price * 0.4
				}
				if z == "us-west-2b" {
					p *= 1.01
				}
				out = append(out, capacity.Offering{Zone: z, CapacityType: c, Price: p})
			}
		}
		return out
	}
	machine := func(name, arch string, cpus int32, gib int64, price float64) capacity.Machine {
		return capacity.Machine{Name: name, Arch: arch, VCPUs: cpus, MemoryMiB: gib * 1024, Hypervisor: "nitro", CurrentGeneration: true,
			CPUManufacturer: "intel", ENIs: 3, IPv4PerENI: 10, NetworkMbps: 1000, Offerings: offer(price, "on-demand", "spot")}
	}
	gpu := machine("g5.xlarge", "amd64", 4, 16, 1)
	gpu.GPU = &capacity.GPU{Count: 1, Manufacturer: "nvidia", Name: "a10g", MemoryMiB: 24576}
	return &capacity.Offerings{
		Version: 42, At: testNow.Add(-time.Minute), Region: "us-west-2",
		Machines: []capacity.Machine{
			machine("c7a.xlarge", "amd64", 4, 8, 0.2), gpu, machine("m7g.large", "arm64", 2, 8, 0.08),
			machine("m7i.2xlarge", "amd64", 8, 32, 0.4), machine("m7i.large", "amd64", 2, 8, 0.1),
		},
	}
}

func defaultProvisioner() *v1alpha1.Provisioner {
	p := &v1alpha1.Provisioner{}
	p.Name, p.UID, p.Generation = "default", "1", 1
	return p
}

func testSnapshot(provisioners ...*v1alpha1.Provisioner) *Snapshot {
	return NewSnapshot(Inputs{Now: testNow, Provisioners: provisioners, Offerings: testOfferings()})
}

// eachCase runs the text cases of a folder: what answer makes of a case must be
// its file "want". With -update the file is rewritten instead.
func eachCase(t *testing.T, folder string, answer func(t *testing.T, files map[string]string) string) {
	paths, err := filepath.Glob(filepath.Join("testdata", folder, "*.txt"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases in testdata/%s: %v", folder, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string]string{}
			for _, f := range a.Files {
				files[f.Name] = string(f.Data)
			}
			got := answer(t, files)
			if *update {
				kept := a.Files[:0]
				for _, f := range a.Files {
					if f.Name != "want" {
						kept = append(kept, f)
					}
				}
				a.Files = append(kept, txtar.File{Name: "want", Data: []byte(got)})
				if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != files["want"] {
				t.Errorf("answer:\n%s\nwant:\n%s", got, files["want"])
			}
		})
	}
}

// asJSON turns a YAML document into JSON.
func asJSON(t testing.TB, doc string) string {
	t.Helper()
	b, err := yaml.YAMLToJSON([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// reviewOf wraps an object into a review as the API server sends it.
func reviewOf(kind, resource, operation, object, old string) string {
	if object == "" {
		object = "null"
	}
	if old == "" {
		old = "null"
	}
	group, version := "", "v1"
	if kind == "Provisioner" {
		group, version = v1alpha1.Group, "v1alpha1"
	}
	return fmt.Sprintf(`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"7f0b2c9e-4b1f-4c59-9b0c-0a8e1d0f3a11",`+
		`"kind":{"group":%q,"version":%q,"kind":%q},"resource":{"group":%q,"version":%q,"resource":%q},`+
		`"requestKind":{"group":"","version":"v1","kind":"Pod"},"requestResource":{"group":"","version":"v1","resource":"pods"},`+
		`"namespace":"shop","operation":%q,"userInfo":{"username":"system:serviceaccount:kube-system:replicaset-controller","groups":["system:serviceaccounts","system:authenticated"]},`+
		`"object":%s,"oldObject":%s,"dryRun":false,"options":{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}}}`,
		group, version, kind, group, version, resource, operation, object, old)
}

// response is what the API server reads of an answer.
type response struct {
	Kind       string
	APIVersion string
	Response   struct {
		UID       string
		Allowed   bool
		Patch     []byte
		PatchType string
		Warnings  []string
		Status    struct {
			Message, Reason string
			Code            int
		}
	}
}

func parseResponse(t testing.TB, body []byte) response {
	t.Helper()
	var r response
	if err := json.Unmarshal(body, &r); err != nil {
		t.Fatalf("answer is not JSON: %v: %s", err, body)
	}
	return r
}

func podFrom(t testing.TB, doc string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{}
	if err := json.Unmarshal([]byte(doc), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func taint(key string) corev1.Taint {
	return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule}
}

// rapidPatch applies a patch inside a property.
func rapidPatch(t *rapid.T, doc string, patch []byte) string {
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
