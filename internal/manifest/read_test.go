package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

const podSpec = "spec: {containers: [{name: c, image: nginx}]}"

// held lists a Set's objects as Kind namespace/name.
func held(s *Set) []string {
	var out []string
	for _, o := range s.objects {
		out = append(out, describe(kindOf(o), o.GetNamespace(), o.GetName()))
	}
	return out
}

func TestReadUnderstandsWhatPeopleWrite(t *testing.T) {
	tests := map[string]struct {
		in    string
		want  []string
		notes []string
	}{
		"nothing at all":               {in: ""},
		"comments only":                {in: "# nothing here\n---\n# nor here\n"},
		"one document":                 {in: "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n" + podSpec, want: []string{"Pod default/a"}},
		"a byte order mark":            {in: "\ufeffapiVersion: v1\nkind: Pod\nmetadata: {name: a}\n" + podSpec, want: []string{"Pod default/a"}},
		"a leading and a closing mark": {in: "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n" + podSpec + "\n...\n", want: []string{"Pod default/a"}},
		"Windows line ends": {
			in:   "apiVersion: v1\r\nkind: Pod\r\nmetadata: {name: a}\r\n" + podSpec + "\r\n---\r\napiVersion: v1\r\nkind: Node\r\nmetadata: {name: n1}\r\n",
			want: []string{"Pod default/a", "Node n1"}},
		"comments after the mark, as tools write them": {
			in: "--- # Source: a.yaml\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n---\n# Source: b.yaml\napiVersion: v1\nkind: Node\nmetadata: {name: m1}\n", want: []string{"Node n1", "Node m1"}},
		"content on the mark's line": {in: "--- {apiVersion: v1, kind: Node, metadata: {name: n1}}\n", want: []string{"Node n1"}},
		"a directive":                {in: "%YAML 1.2\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n", want: []string{"Node n1"}},
		"dashes inside a block are no mark": {
			in:    "apiVersion: v1\nkind: Node\nmetadata:\n  name: n1\n  annotations:\n    a: |\n      ---\n      x\n---x: y\n",
			notes: []string{`f.yaml: document 1 (Node n1): unknown field "---x"; ignored`}, want: []string{"Node n1"}},
		"empty documents between":       {in: "---\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n---\nnull\n", want: []string{"Node n1"}},
		"JSON":                          {in: `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}`, want: []string{"Node n1"}},
		"JSON values one after another": {in: `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}` + "\n\t" + `{"apiVersion":"v1","kind":"Node","metadata":{"name":"m1"}}`, want: []string{"Node n1", "Node m1"}},
		"YAML that begins like JSON":    {in: "{apiVersion: v1, kind: Node, metadata: {name: n1}}", want: []string{"Node n1"}},
		"a List":                        {in: `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}},{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Node","metadata":{"name":"m1"}}]}]}`, want: []string{"Node n1", "Node m1"}},
		"a typed list, whose items need not say what they are": {
			in: `{"apiVersion":"v1","kind":"NodeList","items":[{"metadata":{"name":"n1"}}]}`, want: []string{"Node n1"}},
		"namespaces where they belong": {
			in: "apiVersion: v1\nkind: Node\nmetadata: {name: n1, namespace: x}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x}\n" + podSpec, want: []string{"Node n1", "Pod x/a"}},
		"generated names": {
			in: "apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n" + podSpec + "\n---\napiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n" + podSpec, want: []string{"Pod default/a-1", "Pod default/a-2"}},
		"the last of two wins, with a note": {
			in: "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n", want: []string{"Node n1"},
			notes: []string{"f.yaml: document 2 (Node n1): given more than once; the last one counts"}},
		"what there is nothing to plan for is ignored, with a note": {
			in:    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: t}\n---\napiVersion: apps/v1beta1\nkind: Deployment\nmetadata: {name: old}\n",
			notes: []string{"2 × ConfigMap (v1): nothing to plan for; ignored", "1 × Deployment (apps/v1beta1): nothing to plan for; ignored"}},
		"a field that does not exist is ignored, with a note": {
			in: "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, resource: {}}]}", want: []string{"Pod default/a"},
			notes: []string{`f.yaml: document 1 (Pod a): unknown field "spec.containers[0].resource"; ignored`}},
		"numbers where quantities belong": {
			in: "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, resources: {requests: {cpu: 2, memory: 1.5Gi, nvidia.com/gpu: 1}}}]}", want: []string{"Pod default/a"}},
		"a CRD's own object that shares a kind's name": {
			in:    "apiVersion: example.com/v1\nkind: Node\nmetadata: {name: n1}\n",
			notes: []string{"1 × Node (example.com/v1): nothing to plan for; ignored"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var s Set
			if err := s.Read("f.yaml", strings.NewReader(tc.in)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, held(&s)); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.notes, s.Notes()); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadNamesWhatIsWrong(t *testing.T) {
	ok := "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n---\n"
	provisioner := "apiVersion: berth.dev/v1alpha1\nkind: Provisioner\nmetadata: {name: p}\nspec: {requirements: [{key: a, operator: In, values: [x]}, "
	tests := map[string]struct{ in, want string }{
		"broken YAML":          {ok + "a: [", "f.yaml: document 2: line 5: did not find expected node content"},
		"a key twice":          {ok + "a: 1\na: 2\n", `f.yaml: document 2: line 6: key "a" already set in map`},
		"text":                 {"hello", "f.yaml: document 1: not an object with apiVersion and kind"},
		"no kind":              {"apiVersion: v1\n", "f.yaml: document 1: kind: is missing"},
		"no version":           {"kind: Pod\n", "f.yaml: document 1: apiVersion: is missing"},
		"a kind of wrong type": {"kind: [Pod]\n", "f.yaml: document 1: kind: array where a string belongs"},
		"no name":              {"apiVersion: v1\nkind: Node\n", "f.yaml: document 1 (Node): metadata.name: is missing"},
		"no name in a List": {`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}},{"apiVersion":"v1","kind":"Node"}]}`,
			"f.yaml: document 1 (Node): items[1].metadata.name: is missing"},
		"a quantity that is none": {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, resources: {requests: {cpu: 1, memory: lots}}}]}",
			"f.yaml: document 1 (Pod a): spec.containers[0].resources.requests.memory: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"},
		"two quantities that are none": {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, resources: {requests: {cpu: x, memory: x}}}]}",
			"f.yaml: document 1 (Pod a): spec.containers[0].resources.requests.cpu: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"},
		"a word where a number belongs": {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: x}\nspec: {replicas: three}",
			"f.yaml: document 1 (Deployment x/d): spec.replicas: string where a whole number belongs"},
		"a map where a list belongs": {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: {name: c}}",
			"f.yaml: document 1 (Pod a): spec.containers: object where a list belongs"},
		"a number where a string belongs": {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {nodeSelector: {a: 1}, containers: [{name: c}]}",
			"f.yaml: document 1 (Pod a): spec.nodeSelector.a: number where a string belongs"},
		"no containers": {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", "f.yaml: document 1 (Pod a): spec.containers: at least one is needed"},
		"negative requests": {"apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {template: {spec: {initContainers: [{name: c, resources: {limits: {cpu: -1}}}], containers: [{name: c}]}}}",
			"f.yaml: document 1 (Job j): spec.template.spec.initContainers[0].resources.limits.cpu: must not be negative"},
		"more replicas than anybody means": {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: 2000000000, template: {" + podSpec + "}}",
			"f.yaml: document 1 (Deployment d): spec.replicas: 2000000000 is not between 0 and 1000000"},
		"an operator that is none":       {provisioner + "{key: b, operator: in, values: [x]}]}", `f.yaml: document 1 (Provisioner p): spec.requirements[1].operator: "in" is none of In, NotIn, Exists, DoesNotExist, Gt, Lt`},
		"In without values":              {provisioner + "{key: b, operator: In}]}", "f.yaml: document 1 (Provisioner p): spec.requirements[1].values: operator In needs at least one"},
		"Exists with values":             {provisioner + "{key: b, operator: Exists, values: [x]}]}", "f.yaml: document 1 (Provisioner p): spec.requirements[1].values: operator Exists takes none"},
		"Gt with two values":             {provisioner + "{key: b, operator: Gt, values: ['1', '2']}]}", "f.yaml: document 1 (Provisioner p): spec.requirements[1].values: operator Gt takes exactly one"},
		"Gt with a word":                 {provisioner + "{key: b, operator: Gt, values: [many]}]}", `f.yaml: document 1 (Provisioner p): spec.requirements[1].values[0]: "many" is not a whole number`},
		"a claim that names no offering": {"apiVersion: berth.dev/v1alpha1\nkind: NodeClaim\nmetadata: {name: c}\n", "f.yaml: document 1 (NodeClaim c): spec.offerings: at least one is needed"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var s Set
			err := s.Read("f.yaml", strings.NewReader(tc.in))
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want an *Error", err)
			}
			if diff := cmp.Diff(tc.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadPassesOnErrorsOfReading(t *testing.T) {
	var s Set
	broken := errors.New("disk")
	if err := s.Read("f", readerFunc(func([]byte) (int, error) { return 0, broken })); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestReadTakesEachObjectOnce: the same objects, as documents, as JSON values
// or as a List, give the same Set.
func TestReadTakesEachObjectOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var docs []string
		var want []string
		for i := range rapid.IntRange(0, 8).Draw(t, "objects") {
			text := rapid.StringMatching(`[ -~\n]{0,40}`).Draw(t, "annotation")
			o := map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{
				"name": fmt.Sprintf("n%d", i), "annotations": map[string]string{"text": text}}}
			data, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			docs = append(docs, string(data))
			want = append(want, fmt.Sprintf("n%d %s", i, text))
		}
		forms := []string{
			strings.Join(docs, "\n---\n"),
			"# first\n---\n" + strings.Join(docs, "\n...\n---\n\n"),
			strings.Join(docs, ""),
			`{"apiVersion":"v1","kind":"List","items":[` + strings.Join(docs, ",") + "]}",
		}
		var s Set
		in := rapid.SampledFrom(forms).Draw(t, "form")
		if err := s.Read("f", strings.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range s.Nodes() {
			got = append(got, n.Name+" "+n.Annotations["text"])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("nodes (-want +got):\n%s", diff)
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n" + podSpec)
	f.Add(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"s"},"spec":{"replicas":3,"template":{"spec":{"containers":[{}]}},"volumeClaimTemplates":[{"metadata":{"name":"v"}}]}}]}`)
	f.Add("apiVersion: berth.dev/v1alpha1\nkind: Provisioner\nmetadata: {name: p}\nspec: {requirements: [{key: a, operator: Gt, values: ['1']}]}")
	f.Add("--- # x\n%YAML\n...\na: &a [*a]\n")
	f.Add("apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: j-}\nspec: {completionMode: Indexed, completions: 2, template: {spec: {containers: [{resources: {limits: {cpu: 1}}}]}}}")
	f.Fuzz(func(t *testing.T, in string) {
		var s Set
		if err := s.Read("f", strings.NewReader(in)); err != nil {
			var e *Error
			if !errors.As(err, &e) || e.File != "f" || strings.TrimSpace(e.Err.Error()) == "" {
				t.Fatalf("%#v does not say what is wrong", err)
			}
			return
		}
		if wanted(&s) > 1000 {
			return
		}
		snapshot := s.Snapshot(Options{})
		seen := map[string]bool{}
		for _, p := range snapshot.Pods {
			if id := p.Namespace + "/" + p.Name; seen[id] {
				t.Fatalf("pod %s twice", id)
			} else {
				seen[id] = true
			}
		}
	})
}

// wanted is how many pods a Set's workloads ask for.
func wanted(s *Set) int {
	data, err := json.Marshal(s.objects)
	if err != nil {
		return 0
	}
	var list []struct {
		Spec struct{ Replicas, Parallelism *int }
	}
	if json.Unmarshal(data, &list) != nil {
		return 1 << 30
	}
	n := 0
	for _, o := range list {
		for _, x := range []*int{o.Spec.Replicas, o.Spec.Parallelism} {
			if x != nil {
				n += *x
			}
		}
	}
	return n
}

var _ Object = (*corev1.Pod)(nil)

// kindOf is an object's kind, whether or not it says so itself.
func kindOf(o Object) string {
	t := fmt.Sprintf("%T", o)
	return t[strings.LastIndex(t, ".")+1:]
}
