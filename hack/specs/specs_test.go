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

	"github.com/berth-dev/berth/api/v1alpha1"
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

// decodes fails the test for what the API server stores and no client could read: it
// would keep all Provisioners from everybody who watches them.
func decodes(t *testing.T, object map[string]any) {
	t.Helper()
	doc, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(doc, &v1alpha1.Provisioner{}); err != nil {
		t.Errorf("accepted, and cannot be read: %v", err)
	}
}

// complete has the webhook complete a Provisioner; old is what it replaces, nil for
// a new one.
func complete(t *testing.T, object, old map[string]any) map[string]any {
	t.Helper()
	doc, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var before []byte
	if old != nil {
		if before, err = json.Marshal(old); err != nil {
			t.Fatal(err)
		}
	}
	d, err := admission.DefaultProvisioner(doc, before, "prod")
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

		"an image without a name":         {`ec2: {amis: [{name: ""}]}`, "spec.ec2.amis[0].name"},
		"an image without tags":           {`ec2: {amis: [{tags: {}}]}`, "spec.ec2.amis[0].tags"},
		"an image whose tag has no key":   {`ec2: {amis: [{tags: {"": a}}]}`, "a key has 1 to 128 characters"},
		"an image of no parameter":        {`ec2: {amis: [{ssmParameter: ""}]}`, "spec.ec2.amis[0].ssmParameter"},
		"an image of no id":               {`ec2: {amis: [{id: ""}]}`, "spec.ec2.amis[0].id"},
		"an image of no alias":            {`ec2: {amis: [{alias: ""}]}`, "spec.ec2.amis[0].alias"},
		"an image of nothing":             {`ec2: {amis: [{}]}`, "exactly one of alias, id, ssmParameter"},
		"any image of Amazon":             {`ec2: {amis: [{name: "*"}]}`, "matches every image of Amazon"},
		"any image of Amazon, by owner":   {`ec2: {amis: [{name: "?*", owner: amazon}]}`, "matches every image of Amazon"},
		"any image of one's own":          {`ec2: {amis: [{name: "*", owner: self}]}`, ""},
		"an image by name":                {`ec2: {amis: [{name: "base-*", tags: {team: ""}}]}`, ""},
		"a subnet of no id":               {`ec2: {subnets: [{id: ""}]}`, "spec.ec2.subnets[0].id"},
		"a subnet without tags":           {`ec2: {subnets: [{tags: {}}]}`, "spec.ec2.subnets[0].tags"},
		"a subnet whose tag has no value": {`ec2: {subnets: [{tags: {a: ""}}]}`, "a value 1 to 256"},
		"a group without tags":            {`ec2: {securityGroups: [{tags: {}}]}`, "spec.ec2.securityGroups[0].tags"},
		"a reservation without tags":      {`ec2: {capacityReservations: [{tags: {}}]}`, "spec.ec2.capacityReservations[0].tags"},

		"cpu below zero for the system":        {`kubelet: {systemReserved: {cpu: "-2"}}`, "systemReserved: values must not be negative"},
		"memory below zero for the kubelet":    {`kubelet: {kubeReserved: {memory: -1}}`, "kubeReserved: values must not be negative"},
		"what the system and the kubelet keep": {`kubelet: {systemReserved: {cpu: 100m}, kubeReserved: {memory: 1Gi, pid: 1000}}`, ""},

		"a volume below zero":                    {`ec2: {blockDevices: [{deviceName: a, volumeSize: -5Gi}]}`, "a volumeSize is 1Gi to 64Ti"},
		"a volume of nothing":                    {`ec2: {blockDevices: [{deviceName: a, volumeSize: "0"}]}`, "a volumeSize is 1Gi to 64Ti"},
		"a volume of 100 bytes":                  {`ec2: {blockDevices: [{deviceName: a, volumeSize: 100}]}`, "spec.ec2.blockDevices[0].volumeSize"},
		"a volume of 100 bytes, as text":         {`ec2: {blockDevices: [{deviceName: a, volumeSize: "100"}]}`, "a volumeSize is 1Gi to 64Ti"},
		"a volume of a hundred tebibytes":        {`ec2: {blockDevices: [{deviceName: a, volumeSize: 100Ti}]}`, "a volumeSize is 1Gi to 64Ti"},
		"a volume of no size":                    {`ec2: {blockDevices: [{deviceName: a, volumeSize: big}]}`, "spec.ec2.blockDevices[0].volumeSize"},
		"volumes of all sizes":                   {`ec2: {blockDevices: [{deviceName: a, volumeSize: 1Gi}, {deviceName: b, volumeSize: 64Ti}, {deviceName: c, volumeSize: "107374182400"}]}`, ""},
		"iops of gp2":                            {`ec2: {blockDevices: [{deviceName: a, volumeType: gp2, iops: 3000}]}`, "iops goes with volumeType gp3, io1 or io2"},
		"iops of a disk":                         {`ec2: {blockDevices: [{deviceName: a, volumeType: st1, iops: 3000}]}`, "iops goes with volumeType gp3, io1 or io2"},
		"throughput of gp2":                      {`ec2: {blockDevices: [{deviceName: a, volumeType: gp2, throughput: 125}]}`, "throughput goes with volumeType gp3"},
		"throughput of io2":                      {`ec2: {blockDevices: [{deviceName: a, volumeType: io2, iops: 3000, throughput: 125}]}`, "throughput goes with volumeType gp3"},
		"io1 without iops":                       {`ec2: {blockDevices: [{deviceName: a, volumeType: io1}]}`, "io1 and io2 need iops"},
		"io2 without iops":                       {`ec2: {blockDevices: [{deviceName: a, volumeType: io2}]}`, "io1 and io2 need iops"},
		"few iops of gp3":                        {`ec2: {blockDevices: [{deviceName: a, iops: 200}]}`, "a gp3 volume has at least 3000"},
		"volumes of all types":                   {`ec2: {blockDevices: [{deviceName: a, iops: 4000, throughput: 250}, {deviceName: b, volumeType: io1, iops: 100}, {deviceName: c, volumeType: gp2}, {deviceName: d, volumeType: sc1, volumeSize: 125Gi}]}`, ""},
		"a key to encrypt with that is not used": {`ec2: {blockDevices: [{deviceName: a, encrypted: false, kmsKeyID: alias/a}]}`, "kmsKeyID encrypts"},
		"a key to encrypt with":                  {`ec2: {blockDevices: [{deviceName: a, encrypted: true, kmsKeyID: alias/a}, {deviceName: b, kmsKeyID: alias/a}, {deviceName: c, encrypted: false}]}`, ""},

		"a volume size with two points":          {`ec2: {blockDevices: [{deviceName: a, volumeSize: 1.2.3Gi}]}`, "spec.ec2.blockDevices[0].volumeSize"},
		"a volume size of a point":               {`ec2: {blockDevices: [{deviceName: a, volumeSize: .}]}`, "spec.ec2.blockDevices[0].volumeSize"},
		"a volume size beyond all bounds":        {`ec2: {blockDevices: [{deviceName: a, volumeSize: "1e999999999"}]}`, "spec.ec2.blockDevices[0].volumeSize"},
		"a volume size with an exponent":         {`ec2: {blockDevices: [{deviceName: a, volumeSize: "1.5e10"}, {deviceName: b, volumeSize: +.5Ti}]}`, ""},
		"a limit with a broken exponent":         {`limits: {cpu: "1e1.5"}`, "spec.limits.cpu"},
		"a limit with an exponent out of range":  {`limits: {nodes: "1e-999999999"}`, "spec.limits.nodes"},
		"limits in all forms":                    {`limits: {cpu: "1e3", memory: 1.5Ti, nodes: 5, pods: +5, ephemeral-storage: .5k, hourlyCost: 5.}`, ""},
		"system reservation, broken exponent":    {`kubelet: {systemReserved: {memory: "1e1.5"}}`, "spec.kubelet.systemReserved.memory"},
		"kubelet reservation, broken exponent":   {`kubelet: {kubeReserved: {cpu: "1e.5"}}`, "spec.kubelet.kubeReserved.cpu"},
		"more iops than there are numbers":       {`ec2: {blockDevices: [{deviceName: a, iops: 3000000000}]}`, "iops"},
		"more throughput than there are numbers": {`ec2: {blockDevices: [{deviceName: a, throughput: 3000000000}]}`, "throughput"},
		"more pods than there are numbers":       {`kubelet: {podsPerCore: 3000000000}`, "podsPerCore"},

		"a group for a subnet":                           {`ec2: {subnets: [{id: sg-1}]}`, "subnets: an id begins with subnet-"},
		"a subnet for a group":                           {`ec2: {securityGroups: [{id: sg-1}, {id: subnet-1}]}`, "securityGroups: an id begins with sg-"},
		"a group for a reservation":                      {`ec2: {capacityReservations: [{id: sg-1}]}`, "capacityReservations: an id begins with cr-"},
		"ids of each kind":                               {`ec2: {subnets: [{id: subnet-1}], securityGroups: [{id: sg-1}], capacityReservations: [{id: cr-1}]}`, ""},
		"an alias of another family":                     {`ec2: {amis: [{alias: bottlerocket@latest}]}`, "the alias is of another family"},
		"an alias of yet another family":                 {`ec2: {amiFamily: Bottlerocket, amis: [{alias: al2023@latest}]}`, "the alias is of another family"},
		"an alias of the family":                         {`ec2: {amiFamily: Bottlerocket, amis: [{alias: bottlerocket@1.20.0}]}`, ""},
		"an alias of no family":                          {`ec2: {amiFamily: Custom, amis: [{alias: al2023@latest}]}`, "Custom needs ec2.amis without alias"},
		"a family without any image":                     {`ec2: {amiFamily: Custom, amis: []}`, "Custom needs ec2.amis"},
		"pods by core on Bottlerocket":                   {`{kubelet: {podsPerCore: 5}, ec2: {amiFamily: Bottlerocket}}`, "Bottlerocket has no such setting; set kubelet.maxPods"},
		"pods by core":                                   {`kubelet: {podsPerCore: 5}`, ""},
		"two nodes and a half":                           {`limits: {nodes: "2.5"}`, "whole numbers"},
		"half a node":                                    {`limits: {nodes: 500m}`, "whole numbers"},
		"half a pod":                                     {`limits: {pods: 0.5k, nodes: 5}`, ""},
		"a pod and a half":                               {`limits: {pods: "1.5"}`, "whole numbers"},
		"whole nodes, and half a CPU":                    {`limits: {nodes: 2k, cpu: "0.5", hourlyCost: "5.5", nvidia.com/gpu: 8}`, ""},
		"version 0 of a launch template":                 {`ec2: {launchTemplate: {name: t, version: "0"}}`, "spec.ec2.launchTemplate.version"},
		"a budget with a duration and an empty schedule": {`disruption: {budgets: [{nodes: "1", schedule: "", duration: 1h}]}`, "spec.disruption.budgets[0].schedule"},

		"groups beside a launch template":                      {`ec2: {securityGroups: [{id: sg-1}], launchTemplate: {name: t, version: "1"}}`, "leave out ec2.securityGroups"},
		"reservations beside a launch template":                {`ec2: {capacityReservations: [{id: cr-1}], launchTemplate: {name: t, version: "1"}}`, "leave out ec2.securityGroups and ec2.capacityReservations"},
		"metadata options beside a launch template":            {`ec2: {metadataOptions: {httpPutResponseHopLimit: 2}, launchTemplate: {name: t, version: "1"}}`, "leave out ec2.metadataOptions"},
		"DNS beside a launch template":                         {`{kubelet: {clusterDNS: [10.0.0.1]}, ec2: {launchTemplate: {name: t, version: "1"}}}`, "leave out kubelet.clusterDNS"},
		"pods beside a launch template, as its user data says": {`{kubelet: {maxPods: 110}, ec2: {subnets: [{id: subnet-1}], tags: {a: b}, launchTemplate: {name: t, version: "1"}}}`, ""},

		"a label by its old name":             {`labels: {beta.kubernetes.io/arch: amd64}`, "kubernetes.io/arch"},
		"another label by its old name":       {`labels: {failure-domain.beta.kubernetes.io/zone: a}`, "topology.kubernetes.io/zone"},
		"an operating system by its old name": {`requirements: [{key: beta.kubernetes.io/os, operator: In, values: [linux]}]`, "beta.kubernetes.io/os is the old name of kubernetes.io/os; use that"},
		"an architecture by its old name":     {`requirements: [{key: beta.kubernetes.io/arch, operator: In, values: [amd64]}]`, "is the old name of kubernetes.io/arch"},
		"a type by its old name":              {`requirements: [{key: beta.kubernetes.io/instance-type, operator: Exists}]`, "is the old name of node.kubernetes.io/instance-type"},
		"a zone by its old name":              {`requirements: [{key: failure-domain.beta.kubernetes.io/zone, operator: In, values: [a]}]`, "is the old name of topology.kubernetes.io/zone"},
		"a region by its old name":            {`requirements: [{key: failure-domain.beta.kubernetes.io/region, operator: In, values: [a]}]`, "is the old name of topology.kubernetes.io/region"},
	} {
		t.Run(name, func(t *testing.T) {
			object := provisionerOf(t, tc.spec)
			got := crd.refuse(t, object)
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("refused with %q, want %q", got, tc.want)
			}
			if got == "" {
				decodes(t, object)
			}
			if completed := crd.refuse(t, complete(t, provisionerOf(t, tc.spec), nil)); completed != got {
				t.Errorf("refused with %q, and completed by the webhook with %q", got, completed)
			}
		})
	}
}

// TestEditsOfWhatTheWebhookCompleted: nobody is refused an edit because of what the
// webhook has written, today or when it still wrote images and groups. edit is
// applied to what is stored, as kubectl apply does to fields that it does not own.
func TestEditsOfWhatTheWebhookCompleted(t *testing.T) {
	crd := rulesOf(t, "provisioners")
	const terms = `[{tags: {kubernetes.io/cluster/prod: "*"}}]`
	for name, tc := range map[string]struct{ stored, edit, want string }{
		"another family":          {`{}`, `{ec2: {amiFamily: Bottlerocket}}`, ""},
		"a launch template":       {`{}`, `{ec2: {launchTemplate: {name: t, version: "1"}}}`, ""},
		"another family, older":   {`{ec2: {amis: [{alias: al2023@latest}], subnets: ` + terms + `, securityGroups: ` + terms + `}}`, `{ec2: {amiFamily: Bottlerocket}}`, ""},
		"back to the first":       {`{ec2: {amiFamily: Bottlerocket, amis: [{alias: bottlerocket@latest}]}}`, `{ec2: {amiFamily: AL2023}}`, ""},
		"images of one's own":     {`{ec2: {amis: [{alias: al2023@latest}]}}`, `{ec2: {amiFamily: Custom, amis: [{id: ami-1}]}}`, ""},
		"a template, older":       {`{ec2: {amis: [{alias: al2023@latest}], subnets: ` + terms + `, securityGroups: ` + terms + `}}`, `{ec2: {launchTemplate: {name: t, version: "1"}}}`, ""},
		"a template and a family": {`{ec2: {amis: [{alias: al2023@latest}], securityGroups: ` + terms + `}}`, `{ec2: {amiFamily: Custom, launchTemplate: {name: t, version: "1"}}}`, ""},

		"a pinned image of another family": {`{ec2: {amis: [{alias: al2023@v20260101}]}}`, `{ec2: {amiFamily: Bottlerocket}}`, "the alias is of another family"},
		"groups of one's own":              {`{ec2: {securityGroups: [{id: sg-1}]}}`, `{ec2: {launchTemplate: {name: t, version: "1"}}}`, "leave out ec2.securityGroups"},
		"an image that comes with it":      {`{}`, `{ec2: {amiFamily: Bottlerocket, amis: [{alias: al2023@latest}]}}`, "the alias is of another family"},
	} {
		t.Run(name, func(t *testing.T) {
			stored := complete(t, provisionerOf(t, tc.stored), nil)
			if got := crd.refuse(t, stored); got != "" {
				t.Fatalf("refused to begin with: %s", got)
			}
			before, err := json.Marshal(stored)
			if err != nil {
				t.Fatal(err)
			}
			edit, err := json.Marshal(map[string]any{"spec": provisionerOf(t, tc.edit)["spec"]})
			if err != nil {
				t.Fatal(err)
			}
			after, err := jsonpatch.MergePatch(before, edit)
			if err != nil {
				t.Fatal(err)
			}
			got := crd.refuse(t, complete(t, objectOf(t, after), stored))
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("refused with %q, want %q", got, tc.want)
			}
		})
	}
}

// TestClaimsOfOlderProvisionersPassTheCRD: what could be used before a rule
// refused it is still handed on to claims, of Provisioners stored before.
func TestClaimsOfOlderProvisionersPassTheCRD(t *testing.T) {
	crd := rulesOf(t, "nodeclaims")
	for _, template := range []string{
		`{labels: {beta.kubernetes.io/arch: amd64}}`,
		`{ec2: {subnets: [{id: subnet-1}, {id: sg-1}], securityGroups: [{id: sg-1}, {id: subnet-1}]}}`,
		`{ec2: {blockDevices: [{deviceName: a, volumeSize: "0"}, {deviceName: b, volumeSize: 500M}]}}`,
		`{ec2: {securityGroups: [{id: sg-1}], capacityReservations: [{id: cr-1}], metadataOptions: {httpTokens: optional}, launchTemplate: {name: t, version: "1"}}}`,
		`{kubelet: {clusterDNS: [10.0.0.1]}, ec2: {launchTemplate: {name: t, version: "1"}}}`,
	} {
		claim := provisionerOf(t, template)
		claim["kind"] = "NodeClaim"
		spec := claim["spec"].(map[string]any)
		spec["provisioner"] = map[string]any{"name": "p", "uid": "u"}
		spec["offerings"] = []any{map[string]any{"instanceType": "m5.large", "zone": "a", "capacityType": "spot", "hourlyPrice": "0.1"}}
		if got := crd.refuse(t, claim); got != "" {
			t.Errorf("%s: %s", template, got)
		}
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
