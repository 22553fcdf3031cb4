package specs

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/internal/admission"
)

// rules are a CRD's, applied as the API server applies them.
type rules struct {
	structural *structuralschema.Structural
	schema     validation.SchemaValidator
	cel        *cel.Validator
}

// rulesOf reads a CRD of deploy/crds. A CRD that the API server would refuse, for
// the cost of its rules for example, fails the test.
func rulesOf(t *testing.T, plural string) *rules {
	t.Helper()
	raw, err := os.ReadFile("../../deploy/crds/berth.dev_" + plural + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(raw, crd); err != nil {
		t.Fatal(err)
	}
	apiextensionsv1.SetDefaults_CustomResourceDefinition(crd)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
	var internal apiextensions.CustomResourceDefinition
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(crd, &internal, nil); err != nil {
		t.Fatal(err)
	}
	internal.Status.StoredVersions = []string{crd.Spec.Versions[0].Name}
	if errs := crdvalidation.ValidateCustomResourceDefinition(t.Context(), &internal); len(errs) > 0 {
		t.Fatalf("the API server would refuse the CRD: %v", errs.ToAggregate())
	}
	// The conversion keeps what the versions have in common at the top.
	schema := internal.Spec.Validation
	if schema == nil {
		schema = internal.Spec.Versions[0].Schema
	}
	structural, err := structuralschema.NewStructural(schema.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	validator, _, err := validation.NewSchemaValidator(schema.OpenAPIV3Schema)
	if err != nil {
		t.Fatal(err)
	}
	return &rules{structural, validator, cel.NewValidator(structural, true, celconfig.PerCallLimit)}
}

// refuse completes an object and says what is wrong with it.
func (r *rules) refuse(t *testing.T, object map[string]any) string {
	t.Helper()
	defaulting.Default(object, r.structural)
	errs := validation.ValidateCustomResource(nil, object, r.schema)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, r.structural, object)...)
	var broken field.ErrorList
	broken, _ = r.cel.Validate(t.Context(), nil, r.structural, object, nil, math.MaxInt64)
	if errs = append(errs, broken...); len(errs) == 0 {
		return ""
	}
	return errs.ToAggregate().Error()
}

// provisionerOf is a Provisioner with a spec in YAML.
func provisionerOf(t *testing.T, spec string) map[string]any {
	t.Helper()
	doc, err := yaml.YAMLToJSON([]byte(spec))
	if err != nil {
		t.Fatal(err)
	}
	object := objectOf(t, doc)
	return map[string]any{"apiVersion": "berth.dev/v1alpha1", "kind": "Provisioner", "metadata": map[string]any{"name": "p"}, "spec": object}
}

// objectOf decodes as the API server does: whole numbers stay whole.
func objectOf(t *testing.T, doc []byte) map[string]any {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal(doc, &object); err != nil {
		t.Fatal(err)
	}
	var whole func(any) any
	whole = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			for k := range v {
				v[k] = whole(v[k])
			}
		case []any:
			for i := range v {
				v[i] = whole(v[i])
			}
		case float64:
			if v == math.Trunc(v) && math.Abs(v) < 1<<63 {
				return int64(v)
			}
		}
		return v
	}
	return whole(object).(map[string]any)
}

// complete has the webhook complete a Provisioner.
func complete(t *testing.T, object map[string]any) map[string]any {
	t.Helper()
	doc, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	d, err := admission.DefaultProvisioner(doc, "prod")
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Patch) > 0 {
		patch, err := jsonpatch.DecodePatch(d.Patch)
		if err != nil {
			t.Fatal(err)
		}
		if doc, err = patch.Apply(doc); err != nil {
			t.Fatal(err)
		}
	}
	return objectOf(t, doc)
}

// TestSpecsAgainstTheCRD: what the CRD alone refuses, and with which words. want
// is empty for what is accepted.
func TestSpecsAgainstTheCRD(t *testing.T) {
	crd := rulesOf(t, "provisioners")
	for name, tc := range map[string]struct{ spec, want string }{
		"nothing":                                  {"{}", ""},
		"a limit that is negative":                 {`limits: {cpu: "-1"}`, "must not be negative"},
		"a limit of something unknown":             {`limits: {apples: 3}`, "keys are cpu, memory"},
		"a label that Berth sets":                  {`labels: {kubernetes.io/arch: arm64}`, "restrict them under requirements instead"},
		"a requirement on one node":                {`requirements: [{key: kubernetes.io/hostname, operator: In, values: [a]}]`, "remove the requirement"},
		"both an id and tags":                      {`ec2: {subnets: [{id: subnet-1, tags: {a: b}}]}`, "either id or tags"},
		"a family without images":                  {`ec2: {amiFamily: Custom}`, "amiFamily Custom needs ec2.amis"},
		"an image beside a launch template":        {`ec2: {amis: [{id: ami-1}], launchTemplate: {name: t, version: "1"}}`, "launchTemplate replaces amis"},
		"a launch template in its newest version":  {`ec2: {launchTemplate: {name: t, version: $Latest}}`, "spec.ec2.launchTemplate.version"},
		"a launch template":                        {`ec2: {launchTemplate: {name: t, version: "1"}}`, ""},
		"a budget with a schedule and no duration": {`disruption: {budgets: [{nodes: "1", schedule: "0 0 * * *"}]}`, "schedule and duration go together"},
		"two volumes for pods":                     {`ec2: {blockDevices: [{deviceName: a, rootVolume: true}, {deviceName: b, rootVolume: true}]}`, "at most one rootVolume"},
		"a threshold below zero":                   {`kubelet: {evictionHard: {memory.available: "-5%"}}`, "spec.kubelet.evictionHard"},
		"a threshold of more than there is":        {`kubelet: {evictionHard: {memory.available: "100%"}}`, "spec.kubelet.evictionHard"},
		"a threshold that is whole":                {`kubelet: {evictionHard: {memory.available: 5%}}`, ""},
		"reservations for what nobody can reserve": {`kubelet: {kubeReserved: {gpu: 1}}`, "keys are cpu, memory, ephemeral-storage and pid"},
		"a life of ten years":                      {`{ttlSecondsUntilExpired: 315360000, ttlSecondsAfterEmpty: 315360000}`, ""},
		"a life of centuries":                      {`ttlSecondsUntilExpired: 9999999999`, "spec.ttlSecondsUntilExpired"},
		"centuries of emptiness":                   {`ttlSecondsAfterEmpty: 9999999999`, "spec.ttlSecondsAfterEmpty"},
		"a tag of Berth's own":                     {`ec2: {tags: {berth.dev/x: y}}`, "are reserved"},
		"two aliases":                              {`ec2: {amis: [{alias: al2023@latest}, {alias: al2023@v20260101}]}`, "an alias stands alone"},
	} {
		t.Run(name, func(t *testing.T) {
			object := provisionerOf(t, tc.spec)
			got := crd.refuse(t, object)
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("refused with %q, want %q", got, tc.want)
			}
			if completed := crd.refuse(t, complete(t, provisionerOf(t, tc.spec))); completed != got {
				t.Errorf("refused with %q, and completed by the webhook with %q", got, completed)
			}
		})
	}
}

// yamlBlock is an example in a page.
var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestExamplesPassTheCRD: every Provisioner that a user may copy is accepted.
func TestExamplesPassTheCRD(t *testing.T) {
	crd := rulesOf(t, "provisioners")
	docs := map[string][]byte{}
	for _, path := range []string{"../../README.md", "../../docs/install.md", "../../docs/provisioner.md", "../../examples/provisioner-default.yaml"} {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, ".md") {
			var blocks [][]byte
			for _, m := range yamlBlock.FindAllSubmatch(raw, -1) {
				blocks = append(blocks, m[1])
			}
			raw = bytes.Join(blocks, []byte("\n---\n"))
		}
		docs[path] = raw
	}
	for _, path := range slices.Sorted(maps.Keys(docs)) {
		found := 0
		reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(docs[path])))
		for {
			doc, err := reader.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(doc, []byte("kind: Provisioner")) {
				continue
			}
			found++
			doc, err = yaml.YAMLToJSON(doc)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if got := crd.refuse(t, objectOf(t, doc)); got != "" {
				t.Errorf("%s: %s", path, got)
			}
		}
		if found == 0 {
			t.Logf("%s has no Provisioner", path)
		}
	}
}
