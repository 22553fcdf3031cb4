package admission

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// parsed is a document as read by the reader, as encoding/json would read it
// into an any, but for numbers, which stay text.
func parsed(r *reader) any {
	switch r.peek() {
	case '{':
		m := map[string]any{}
		r.object(func(key string) { m[key] = parsed(r) })
		return m
	case '[':
		l := []any{}
		r.array(func() { l = append(l, parsed(r)) })
		return l
	case '"':
		return r.text()
	case 'n':
		if !r.null() {
			r.fail("null is expected")
		}
		return nil
	case 't', 'f':
		return r.boolean()
	default:
		return json.Number(r.scalar())
	}
}

func oracle(doc string) (any, error) {
	d := json.NewDecoder(strings.NewReader(doc))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

// FuzzReader: no panic whatever comes; and of valid JSON that is not nested too
// deeply it reads, skips and copies what encoding/json reads.
func FuzzReader(f *testing.F) {
	for _, s := range []string{
		`{}`, `[]`, `null`, `true`, `-1.5e+3`, `"a\u00e9\ud83d\ude00\ud800\n"`, `{"a":{"b":[1,2,{"c":null}],"d":"\\"},"a":1}`,
		`{"a":1,}`, `[1 2]`, `{"a"}`, `"`, `"\`, `{"a":}`, `[,]`, `tru`, "\t{ \"a\" : [ ] }\r\n", strings.Repeat("[", 65) + strings.Repeat("]", 65),
		`"\"\\\"\n\\"`, `["\\\\","\\\""]`, strings.Repeat(`\n`, 50), `"` + strings.Repeat(`\n\"`, 50) + `"`, `"\\" "`,
		`{"x":"\u12"}`, `{"k\u0065y":1}`, "\"\xff\"", `{"a":[}`, `nul`, `nullnull`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		r := &reader{s: doc}
		got := parsed(r)
		err := r.end()
		sk := &reader{s: doc}
		raw := sk.raw()
		skipErr := sk.end()
		uidOf(doc)
		if !json.Valid([]byte(doc)) || !utf8.ValidString(doc) {
			return
		}
		want, wantErr := oracle(doc)
		if wantErr != nil {
			t.Fatalf("valid, and yet: %v", wantErr)
		}
		if depth(want) > maxNesting {
			if err == nil || skipErr == nil {
				t.Fatalf("nesting of %d accepted", depth(want))
			}
			return
		}
		if err != nil || skipErr != nil {
			t.Fatalf("valid JSON refused: %v, %v", err, skipErr)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("read differently (-encoding/json +ours):\n%s", diff)
		}
		if raw != strings.Trim(doc, " \t\r\n") {
			t.Errorf("copied %q of %q", raw, doc)
		}
	})
}

func depth(v any) int {
	most := 0
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			most = max(most, depth(x))
		}
		return most + 1
	case []any:
		for _, x := range v {
			most = max(most, depth(x))
		}
		return most + 1
	default:
		return 0
	}
}

// TestEscapesCostWhatTheirBytesDo: reading a string takes time in proportion to
// its length, whatever it is made of. Pods carry scripts of many lines in args.
func TestEscapesCostWhatTheirBytesDo(t *testing.T) {
	for name, unit := range map[string]string{"newlines": `\n`, "quotes": `\"`, "backslashes": `\\`, "plain text": `ab`} {
		t.Run(name, func(t *testing.T) {
			took := func(n int) time.Duration {
				doc := `"` + strings.Repeat(unit, n) + `"`
				best := time.Hour
				for range 8 {
					start := time.Now()
					r := &reader{s: doc}
					r.skip()
					if err := r.end(); err != nil {
						t.Fatal(err)
					}
					best = min(best, time.Since(start))
				}
				return best
			}
			const n, times = 1 << 11, 32
			short, long := took(n), took(n*times)
			// In proportion: 32 times. By the square: 1,024 times.
			if long > 8*times*max(short, 2*time.Microsecond) {
				t.Errorf("%d units take %v, %d times as many %v", n, short, times, long)
			}
		})
	}
}

// FuzzAppendString: what is written is one JSON string that reads as it was.
func FuzzAppendString(f *testing.F) {
	f.Add("a\"b\\c\n\x00\x7f é \u2028 \xff")
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(appendString(nil, s), &got); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); utf8.ValidString(s) && got != want {
			t.Errorf("%q became %q", s, got)
		}
	})
}

// FuzzPodReview: whatever a review holds, the mutator never panics, never
// denies, and its patch applies and touches nothing but our two annotations.
func FuzzPodReview(f *testing.F) {
	s := testSnapshot(defaultProvisioner(), gpuProvisioner())
	for _, doc := range []string{
		`{"metadata":{"name":"a"},"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1Gi"}}}]}}`,
		`{"metadata":{"annotations":{"berth.dev/placement":"x","a~b/c":"d"}},"spec":{}}`,
		`{"metadata":null,"spec":null}`, `{"metadata":{"annotations":null}}`, `{"spec":{"containers":{}}}`, `null`, `[]`, `{"metadata":[]}`,
		`{"metadata":{"annotations":{"berth.dev/shape":7}}}`, `{"metadata":{},"metadata":{"annotations":{}}}`,
		`{"metadata":{"labels":{"a":null}},"spec":{"priority":null,"nodeSelector":{"a":"b"},"containers":[{"resources":{"requests":{"cpu":1,"memory":null}}}]}}`,
		fullPod,
	} {
		f.Add(reviewOf("Pod", "pods", "CREATE", doc, ""))
	}
	f.Add(`{}`)
	f.Add(``)
	f.Fuzz(func(t *testing.T, body string) {
		uid, d, err := reviewPod(body, s, nil, 0)
		if d.Denied != "" {
			t.Fatalf("denied: %s", d.Denied)
		}
		if err != nil || len(d.Patch) == 0 {
			return
		}
		if uid == "" {
			t.Fatal("a patch for nobody")
		}
		var review struct {
			Request struct{ Object json.RawMessage }
		}
		if json.Unmarshal([]byte(body), &review) != nil {
			return // Not JSON, though close enough to be understood.
		}
		var keys map[string]any
		if json.Unmarshal([]byte(body), &keys) == nil && ambiguous(body) {
			return // The API server never writes a key twice.
		}
		before := string(review.Request.Object)
		after := applyPatch(t, before, d.Patch)
		if diff := cmp.Diff(withoutOurs(t, before), withoutOurs(t, after)); diff != "" {
			t.Errorf("more than our annotations changed (-before +after):\n%s", diff)
		}
	})
}

// ambiguous says whether some object holds a key twice, or two that differ only
// in case, which encoding/json takes for the same, or whether it is no UTF-8, which
// encoding/json rewrites. The API server writes none of these.
func ambiguous(doc string) bool {
	found := !utf8.ValidString(doc)
	r := &reader{s: doc}
	var walk func()
	walk = func() {
		switch r.peek() {
		case '{':
			seen := map[string]bool{}
			r.object(func(key string) {
				k := strings.ToLower(key)
				found = found || seen[k]
				seen[k] = true
				walk()
			})
		case '[':
			r.array(walk)
		default:
			r.skip()
		}
	}
	walk()
	return found
}

// withoutOurs is a document without our annotations, and without annotations
// when none are left.
func withoutOurs(t testing.TB, doc string) any {
	t.Helper()
	v, err := oracle(doc)
	if err != nil {
		t.Fatalf("%v: %s", err, doc)
	}
	m, _ := v.(map[string]any)
	metadata, _ := m["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	delete(annotations, v1alpha1.AnnotationPlacement)
	delete(annotations, v1alpha1.AnnotationShape)
	if len(annotations) == 0 {
		delete(metadata, "annotations")
	}
	return v
}

// fullPod uses every member that scheduling looks at.
const fullPod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"full","namespace":"shop","labels":{"app":"a","apps.kubernetes.io/pod-index":"3"},
"annotations":{"x":"y"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"StatefulSet","name":"a","uid":"1","controller":true}]},
"spec":{"schedulerName":"default-scheduler","priority":100,"nodeSelector":{"kubernetes.io/arch":"amd64"},
"overhead":{"cpu":"10m","memory":"1Mi"},"resources":{"requests":{"cpu":"2"},"limits":{"cpu":"3"}},
"tolerations":[{"key":"a","operator":"Equal","value":"b","effect":"NoSchedule","tolerationSeconds":5},{"operator":"Exists"}],
"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"k","operator":"In","values":["v","w"]}],"matchFields":[{"key":"metadata.name","operator":"In","values":["n"]}]}]},
"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":3,"preference":{"matchExpressions":[{"key":"z","operator":"Gt","values":["4"]}]}}]},
"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"topology.kubernetes.io/zone","labelSelector":{"matchLabels":{"app":"a"},"matchExpressions":[{"key":"t","operator":"NotIn","values":["u"]}]},"namespaces":["m"],"namespaceSelector":{},"matchLabelKeys":["pod-template-hash"],"mismatchLabelKeys":["q"]}]},
"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":9,"podAffinityTerm":{"topologyKey":"kubernetes.io/hostname","labelSelector":{"matchLabels":{"app":"a"}}}}]}},
"topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"topology.kubernetes.io/zone","whenUnsatisfiable":"DoNotSchedule","labelSelector":{"matchLabels":{"app":"a"}},"minDomains":2,"nodeAffinityPolicy":"Honor","nodeTaintsPolicy":"Ignore","matchLabelKeys":["h"]}],
"initContainers":[{"name":"i","restartPolicy":"Always","image":"x","resources":{"requests":{"cpu":"50m"}},"ports":[{"containerPort":1,"hostPort":9}]}],
"containers":[{"name":"a","image":"x","command":["a","b\"c"],"env":[{"name":"E","value":"{\"j\":[1,2]}"}],"ports":[{"containerPort":80,"hostPort":8080,"hostIP":"10.0.0.1","protocol":"UDP"},{"containerPort":81}],"resources":{"requests":{"cpu":"250m","memory":"1.5Gi","nvidia.com/gpu":"1","ephemeral-storage":"1e9"},"limits":{"memory":"2Gi"}},"livenessProbe":{"httpGet":{"path":"/","port":80}}}],
"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"c","readOnly":true}},{"name":"e","ephemeral":{"volumeClaimTemplate":{"metadata":{"labels":{"a":"b"}},"spec":{"storageClassName":"gp3","volumeName":"vol","accessModes":["ReadWriteOnce"]}}}},{"name":"s","csi":{"driver":"d.example.com","volumeAttributes":{"a":"b"}}},{"name":"t","emptyDir":{}}],
"resourceClaims":[{"name":"rc","resourceClaimName":"x"}],"schedulingGates":[{"name":"g"}],"serviceAccountName":"default","future":{"deep":[{"er":1}]}},"status":{"phase":"Pending"}}`

// sameToThePlanner compares a pod as read by us with the same pod as read by
// the API machinery.
func sameToThePlanner(t interface{ Errorf(string, ...any) }, ours, theirs *corev1.Pod) {
	if a, b := capacity.ShapeHash(ours), capacity.ShapeHash(theirs); a != b {
		t.Errorf("shape %s, want %s", a, b)
	}
	if diff := cmp.Diff(capacity.PodRequests(theirs), capacity.PodRequests(ours)); diff != "" {
		t.Errorf("requests differ (-want +got):\n%s", diff)
	}
	if a, b := len(ours.Spec.SchedulingGates)+len(ours.Spec.ResourceClaims), len(theirs.Spec.SchedulingGates)+len(theirs.Spec.ResourceClaims); a != b {
		t.Errorf("%d gates and claims, want %d", a, b)
	}
}

func TestPodIsReadAsTheAPIMachineryReadsIt(t *testing.T) {
	in, err := ParsePod(fullPod)
	if err != nil {
		t.Fatal(err)
	}
	theirs := podFrom(t, fullPod)
	sameToThePlanner(t, &in.pod, theirs)
	if in.owner != "StatefulSet" || !in.annotated || !in.hasMetadata || in.mirror || len(in.ours) != 0 {
		t.Errorf("metadata read as %+v", in)
	}

	// Member by member, too: what is lost must show.
	whole, err := oracle(fullPod)
	if err != nil {
		t.Fatal(err)
	}
	spec := whole.(map[string]any)["spec"].(map[string]any)
	for key, value := range spec {
		doc, err := json.Marshal(map[string]any{"metadata": map[string]any{"namespace": "shop"}, "spec": map[string]any{key: value}})
		if err != nil {
			t.Fatal(err)
		}
		in, err := ParsePod(string(doc))
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		theirs := podFrom(t, string(doc))
		sameToThePlanner(t, &in.pod, theirs)
		if empty := capacity.ShapeHash(podFrom(t, `{"metadata":{"namespace":"shop"}}`)); (capacity.ShapeHash(&in.pod) == empty) != (capacity.ShapeHash(theirs) == empty) {
			t.Errorf("%s is lost", key)
		}
	}
}

// TestAdmittingTwiceChangesNothing: for any pod, the patch of the patched pod is
// empty, and nothing but our annotations is touched, whatever is annotated.
func TestAdmittingTwiceChangesNothing(t *testing.T) {
	s := testSnapshot(defaultProvisioner(), gpuProvisioner())
	text := rapid.StringMatching(`[a-z0-9.]{1,12}`)
	rapid.Check(t, func(t *rapid.T) {
		pod := map[string]any{"apiVersion": "v1", "kind": "Pod"}
		metadata := map[string]any{"namespace": "shop", "name": text.Draw(t, "name")}
		if rapid.Bool().Draw(t, "annotated") {
			a := rapid.MapOfN(rapid.SampledFrom([]string{v1alpha1.AnnotationPlacement, v1alpha1.AnnotationShape, "a/b~c", "berth.dev/placement2", "x"}),
				rapid.String(), 0, 4).Draw(t, "annotations")
			metadata["annotations"] = a
		}
		if rapid.Bool().Draw(t, "labelled") {
			metadata["labels"] = rapid.MapOfN(text, text, 0, 3).Draw(t, "labels")
		}
		requests := map[string]string{}
		for _, name := range []string{"cpu", "memory", "nvidia.com/gpu"} {
			if rapid.Bool().Draw(t, name) {
				requests[name] = rapid.SampledFrom([]string{"1", "2", "100m", "0", "1Gi", "64Gi", "1e3"}).Draw(t, "amount")
			}
		}
		spec := map[string]any{"containers": []any{map[string]any{"name": "a", "resources": map[string]any{"requests": requests}}}}
		if rapid.Bool().Draw(t, "selective") {
			spec["nodeSelector"] = map[string]string{corev1.LabelArchStable: rapid.SampledFrom([]string{"amd64", "arm64", "s390x"}).Draw(t, "arch")}
		}
		if rapid.Bool().Draw(t, "tolerant") {
			spec["tolerations"] = []any{map[string]any{"operator": "Exists"}}
		}
		pod["metadata"], pod["spec"] = metadata, spec
		doc, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		var typed corev1.Pod
		if err := json.Unmarshal(doc, &typed); err != nil {
			t.Fatal(err)
		}
		in, err := ParsePod(string(doc))
		if err != nil {
			t.Fatal(err)
		}
		sameToThePlanner(t, &in.pod, &typed)
		first := DecidePod(in, s, "", 0)
		if first.Denied != "" {
			t.Fatalf("denied: %s", first.Denied)
		}
		if len(first.Patch) == 0 {
			return
		}
		after := rapidPatch(t, string(doc), first.Patch)
		again, err := ParsePod(after)
		if err != nil {
			t.Fatal(err)
		}
		if second := DecidePod(again, s, "", 0); len(second.Patch) != 0 {
			t.Fatalf("the second time: %s\nafter: %s", second.Patch, first.Patch)
		}
	})
}
