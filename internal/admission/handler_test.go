package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func testHandler(t testing.TB, s *Snapshot) *Handler {
	t.Helper()
	h, err := NewHandler(HandlerConfig{
		Knowledge: func() *Snapshot { return s }, ClusterName: "prod", Registry: prometheus.NewRegistry(), Log: logr.Discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func post(h http.Handler, path string, body io.Reader) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, path+"?timeout=1s", body))
	return rec
}

const plainPod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"shop"},"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}]}}`

// TestPodsAreNeverDenied asks the mutators everything that could go wrong: the
// answer is "allowed", or an HTTP error, to which failurePolicy Ignore applies.
func TestPodsAreNeverDenied(t *testing.T) {
	provisioner := asJSON(t, "metadata: {name: a}\nspec: {}")
	deep := strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100)
	for name, c := range map[string]struct {
		path, body string
		nothing    bool // no Snapshot
		status     int
		patched    bool
		warned     string
	}{
		"a pod":                                 {path: PathPods, body: reviewOf("Pod", "pods", "CREATE", plainPod, ""), status: 200, patched: true},
		"a pod while nothing is known":          {path: PathPods, body: reviewOf("Pod", "pods", "CREATE", plainPod, ""), nothing: true, status: 200},
		"a pod that is updated":                 {path: PathPods, body: reviewOf("Pod", "pods", "UPDATE", plainPod, plainPod), status: 200},
		"a pod that is connected to":            {path: PathPods, body: reviewOf("PodExecOptions", "pods", "CONNECT", `{"kind":"PodExecOptions"}`, ""), status: 200},
		"an unknown operation":                  {path: PathPods, body: reviewOf("Pod", "pods", "POLISH", plainPod, ""), status: 200},
		"an object of another kind":             {path: PathPods, body: reviewOf("Service", "services", "CREATE", `{"metadata":{},"spec":{"type":"ClusterIP"}}`, ""), status: 200},
		"no object":                             {path: PathPods, body: reviewOf("Pod", "pods", "CREATE", "", ""), status: 200},
		"a pod that is an array":                {path: PathPods, body: reviewOf("Pod", "pods", "CREATE", "[]", ""), status: 200, warned: "without a look"},
		"containers that are a word":            {path: PathPods, body: reviewOf("Pod", "pods", "CREATE", `{"metadata":{},"spec":{"containers":"x"}}`, ""), status: 200, warned: "without a look"},
		"a quantity that is none":               {path: PathPods, body: reviewOf("Pod", "pods", "CREATE", strings.Replace(plainPod, `"1"`, `"much"`, 1), ""), status: 200, warned: "without a look"},
		"a pod nested too deeply":               {path: PathPods, body: reviewOf("Pod", "pods", "CREATE", deep, ""), status: 200, warned: "nested deeper"},
		"a body cut short":                      {path: PathPods, body: reviewOf("Pod", "pods", "CREATE", plainPod, "")[:600], status: 200, warned: "without a look"},
		"an empty body":                         {path: PathPods, body: "", status: 400},
		"what is not JSON":                      {path: PathPods, body: "hello", status: 400},
		"a review of an old version":            {path: PathPods, body: strings.Replace(reviewOf("Pod", "pods", "CREATE", plainPod, ""), "k8s.io/v1", "k8s.io/v1beta1", 1), status: 400},
		"a review without a UID":                {path: PathPods, body: strings.Replace(reviewOf("Pod", "pods", "CREATE", plainPod, ""), `"uid"`, `"did"`, 1), status: 400},
		"a thousand times nested":               {path: PathPods, body: strings.Repeat(`{"request":`, 1000), status: 400},
		"a Provisioner to complete":             {path: PathDefaultProvisioner, body: reviewOf("Provisioner", "provisioners", "CREATE", provisioner, ""), status: 200, patched: true},
		"a Provisioner that is a word":          {path: PathDefaultProvisioner, body: reviewOf("Provisioner", "provisioners", "CREATE", `"x"`, ""), status: 200, warned: "without a look"},
		"a Provisioner that is deleted":         {path: PathDefaultProvisioner, body: reviewOf("Provisioner", "provisioners", "DELETE", "", provisioner), status: 200},
		"a pod at the Provisioners' path":       {path: PathDefaultProvisioner, body: reviewOf("Pod", "pods", "CREATE", plainPod, ""), status: 200},
		"annotations of a quarter of a million": {path: PathPods, body: reviewOf("Pod", "pods", "CREATE", strings.Replace(plainPod, `"name":"a",`, `"annotations":{"berth.dev/placement":"`+strings.Repeat("x", 256<<10)+`"},`, 1), ""), status: 200, patched: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := testSnapshot(defaultProvisioner())
			if c.nothing {
				s = nil
			}
			rec := post(testHandler(t, s), c.path, strings.NewReader(c.body))
			if rec.Code != c.status {
				t.Fatalf("status %d, want %d: %s", rec.Code, c.status, rec.Body)
			}
			if rec.Code != 200 {
				return
			}
			r := parseResponse(t, rec.Body.Bytes())
			if !r.Response.Allowed || r.Response.UID != "7f0b2c9e-4b1f-4c59-9b0c-0a8e1d0f3a11" || r.Kind != "AdmissionReview" || r.APIVersion != "admission.k8s.io/v1" {
				t.Errorf("answer %+v", r)
			}
			if patched := len(r.Response.Patch) > 0; patched != c.patched || patched != (r.Response.PatchType == "JSONPatch") {
				t.Errorf("patch %s of type %q", r.Response.Patch, r.Response.PatchType)
			}
			if w := strings.Join(r.Response.Warnings, "\n"); !strings.Contains(w, c.warned) || c.warned == "" && w != "" {
				t.Errorf("warnings %q, want %q", w, c.warned)
			}
		})
	}
}

func TestValidatorDeniesOrFails(t *testing.T) {
	h := testHandler(t, testSnapshot(defaultProvisioner()))
	bad := asJSON(t, "metadata: {name: a}\nspec: {ec2: {userData: nonsense}}")
	rec := post(h, PathValidateProvisioner, strings.NewReader(reviewOf("Provisioner", "provisioners", "CREATE", bad, "")))
	r := parseResponse(t, rec.Body.Bytes())
	if r.Response.Allowed || !strings.Contains(r.Response.Status.Message, "spec.ec2.userData") || r.Response.Status.Code != 422 {
		t.Errorf("a bad Provisioner: %+v", r)
	}
	rec = post(h, PathValidateProvisioner, strings.NewReader(reviewOf("Provisioner", "provisioners", "CREATE", `{"spec":{"weight":"heavy"}}`, "")))
	if rec.Code != 400 {
		t.Errorf("what is not understood: status %d, want 400, to which failurePolicy applies", rec.Code)
	}
	rec = post(h, PathValidateProvisioner, strings.NewReader(reviewOf("Provisioner", "provisioners", "DELETE", "", bad)))
	if r := parseResponse(t, rec.Body.Bytes()); !r.Response.Allowed {
		t.Errorf("a deletion: %+v", r)
	}
	h, err := NewHandler(HandlerConfig{Knowledge: func() *Snapshot { return nil }, Registry: prometheus.NewRegistry(), Log: logr.Discard(),
		Fleet: func(string) Fleet { return Fleet{Claims: []*v1alpha1.NodeClaim{{}}} }})
	if err != nil {
		t.Fatal(err)
	}
	rec = post(h, PathValidateProvisioner, strings.NewReader(reviewOf("Provisioner", "provisioners", "DELETE", "", bad)))
	if r := parseResponse(t, rec.Body.Bytes()); r.Response.Allowed || r.Response.Status.Code != 403 || r.Response.Status.Reason != "Forbidden" {
		t.Errorf("a deletion with a node that lives: %+v", r)
	}
}

func TestOnlyPostsToKnownPathsAreAnswered(t *testing.T) {
	h := testHandler(t, nil)
	for _, c := range []struct {
		method, path string
		want         int
	}{{"GET", PathPods, 405}, {"POST", "/", 404}, {"POST", PathPods + "/x", 404}} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(c.method, c.path, strings.NewReader("{}")))
		if rec.Code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, rec.Code, c.want)
		}
	}
}

// webhookOf makes a single webhook that decides by the function.
func webhookOf(t *testing.T, mutates bool, decide func(string) (string, Decision, error)) *webhook {
	t.Helper()
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return &webhook{
		name: "test", mutates: mutates, decide: decide, metrics: m.of("test"), slots: make(chan struct{}, 1),
		handler: &Handler{bodies: newBudget(maxBodies), log: logr.Discard()},
	}
}

func TestAPanicIsAnswered(t *testing.T) {
	body := reviewOf("Pod", "pods", "CREATE", plainPod, "")
	boom := func(string) (string, Decision, error) { panic("boom\x1b[31m") }

	w := webhookOf(t, true, boom)
	r := parseResponse(t, post(w, "/", strings.NewReader(body)).Body.Bytes())
	if !r.Response.Allowed || r.Response.UID == "" || len(r.Response.Warnings) != 1 {
		t.Errorf("a mutator that panics: %+v", r)
	}
	if n := testutil.ToFloat64(w.metrics.panics); n != 1 {
		t.Errorf("%v panics counted", n)
	}
	if rec := post(webhookOf(t, false, boom), "/", strings.NewReader(body)); rec.Code != 500 {
		t.Errorf("a validator that panics: status %d, want 500", rec.Code)
	}
	if rec := post(w, "/", strings.NewReader(body)); rec.Code != 200 {
		t.Errorf("after a panic: status %d", rec.Code)
	}
}

func TestWhatIsTooMuchIsShed(t *testing.T) {
	body := reviewOf("Pod", "pods", "CREATE", plainPod, "")
	for name, c := range map[string]struct {
		mutates bool
		full    func(*webhook)
		allowed bool
		status  int
	}{
		"a mutator without slots allows":       {true, func(w *webhook) { w.slots <- struct{}{} }, true, 200},
		"a validator without slots turns away": {false, func(w *webhook) { w.slots <- struct{}{} }, false, 503},
		"a mutator without a queue allows":     {true, func(w *webhook) { w.slots <- struct{}{}; w.waiting.Store(queueLimit) }, true, 200},
		"a mutator without memory allows":      {true, func(w *webhook) { w.handler.bodies.left.Store(10) }, true, 200},
		"a validator without memory":           {false, func(w *webhook) { w.handler.bodies.left.Store(10) }, false, 503},
	} {
		t.Run(name, func(t *testing.T) {
			w := webhookOf(t, c.mutates, func(string) (string, Decision, error) { t.Error("decided"); return "", Decision{}, nil })
			c.full(w)
			req := httptest.NewRequest(http.MethodPost, "/?timeout=60ms", strings.NewReader(body))
			rec := httptest.NewRecorder()
			w.ServeHTTP(rec, req)
			if rec.Code != c.status {
				t.Fatalf("status %d, want %d: %s", rec.Code, c.status, rec.Body)
			}
			if c.allowed && !parseResponse(t, rec.Body.Bytes()).Response.Allowed {
				t.Errorf("answer %s", rec.Body)
			}
			if n := testutil.ToFloat64(w.metrics.shed); n != 1 {
				t.Errorf("%v shed", n)
			}
			if n := testutil.ToFloat64(w.metrics.results[ResultShed]); n != 1 {
				t.Errorf("%v with result shed", n)
			}
		})
	}
}

// TestAFloodIsAnsweredWhole sends many at once to few slots: each is answered,
// and all slots and memory are there again.
func TestAFloodIsAnsweredWhole(t *testing.T) {
	h := testHandler(t, testSnapshot(defaultProvisioner()))
	body := reviewOf("Pod", "pods", "CREATE", plainPod, "")
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			rec := post(h, PathPods, strings.NewReader(body))
			if !parseResponse(t, rec.Body.Bytes()).Response.Allowed {
				t.Errorf("answer %s", rec.Body)
			}
		})
	}
	wg.Wait()
	if left := h.bodies.left.Load(); left != maxBodies {
		t.Errorf("%d bytes of the budget were not given back", maxBodies-left)
	}
}

// endless sends n bytes, then fails or ends.
type endless struct {
	n   int
	err error
}

func (e *endless) Read(p []byte) (int, error) {
	if e.n == 0 {
		return 0, e.err
	}
	n := min(len(p), e.n)
	for i := range p[:n] {
		p[i] = ' '
	}
	e.n -= n
	return n, nil
}

func TestReadBody(t *testing.T) {
	broken := errors.New("connection reset")
	for name, c := range map[string]struct {
		read, promised int
		budget         int64
		end            error
		want           error
	}{
		"as long as promised":           {1000, 1000, maxBodies, io.EOF, nil},
		"without a promise":             {100_000, -1, maxBodies, io.EOF, nil},
		"as large as may be":            {maxBody, -1, maxBodies, io.EOF, nil},
		"a byte larger":                 {maxBody + 1, -1, maxBodies, io.EOF, errTooLarge},
		"much larger":                   {50 << 20, -1, maxBodies, io.EOF, errTooLarge},
		"much larger, as promised":      {0, 50 << 20, maxBodies, io.EOF, errTooLarge},
		"larger than what is left":      {1 << 20, -1, 100_000, io.EOF, errNoRoom},
		"broken off":                    {500, 1000, maxBodies, broken, broken},
		"nothing":                       {0, 0, maxBodies, io.EOF, nil},
		"longer than promised, by many": {3000, 10, maxBodies, io.EOF, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBudget(c.budget)
			body, taken, err := b.readBody(&endless{c.read, c.end}, int64(c.promised))
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if err == nil && len(body) != c.read {
				t.Errorf("%d bytes, want %d", len(body), c.read)
			}
			if b.left.Load()+taken != c.budget {
				t.Errorf("%d left, %d taken, of %d", b.left.Load(), taken, c.budget)
			}
		})
	}
	// Who promises much and sends nothing takes little.
	b := newBudget(maxBodies)
	if _, taken, _ := b.readBody(&endless{1, broken}, maxBody); taken > firstRead {
		t.Errorf("a promise alone takes %d bytes", taken)
	}
}

func TestTimeoutOf(t *testing.T) {
	for query, want := range map[string]string{
		"?timeout=1s": "1s", "?timeout=30s": "30s", "": "10s", "?timeout=": "10s", "?timeout=1h": "10s", "?timeout=-1s": "10s", "?a=b&timeout=3s&c=d": "3s", "?timeout=1ms": "10s",
	} {
		if got := timeoutOf(httptest.NewRequest("POST", "/x"+query, nil)).String(); got != want {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
	}
}

// TestTheCallersEndIsNoAnswer: a request whose context has ended is still
// decided, not turned into a refusal.
func TestTheCallersEndIsNoAnswer(t *testing.T) {
	w := webhookOf(t, false, func(string) (string, Decision, error) {
		return "1", Decision{Result: ResultAllowed}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}")).WithContext(ctx))
	if r := parseResponse(t, rec.Body.Bytes()); !r.Response.Allowed {
		t.Errorf("answer %s", rec.Body)
	}
}

func TestWarningsAreOneLineThatTheAPIServerTakes(t *testing.T) {
	rec := httptest.NewRecorder()
	writeReview(rec, "1", Decision{Warnings: []string{"a\nb\x1b[31m" + strings.Repeat("ü", 300)}})
	w := parseResponse(t, rec.Body.Bytes()).Response.Warnings[0]
	if len(w) > maxWarning || strings.ContainsAny(w, "\n\x1b") || !strings.HasSuffix(w, "ü…") {
		t.Errorf("warning of %d bytes: %q", len(w), w)
	}
}

// benchPod is a pod of a Deployment, as the API server sends it; padded to the
// size of the review wanted with what operators put into pods.
func benchReview(size int) string {
	head := `{"kind":"Pod","apiVersion":"v1","metadata":{"generateName":"web-5dd649bbfb-","namespace":"shop","creationTimestamp":null,
"labels":{"app.kubernetes.io/name":"web","app.kubernetes.io/instance":"web","pod-template-hash":"5dd649bbfb"},"annotations":{"prometheus.io/scrape":"true"},
"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-5dd649bbfb","uid":"d9607e19-f88f-11e6-a518-42010a800195","controller":true,"blockOwnerDeletion":true}]},
"spec":{"volumes":[{"name":"kube-api-access-x","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}}],"defaultMode":420}}],
"containers":[{"name":"web","image":"nginx:1.29","ports":[{"containerPort":8080,"protocol":"TCP"}],"env":[`
	tail := `],"resources":{"limits":{"memory":"512Mi"},"requests":{"cpu":"250m","memory":"512Mi"}},"volumeMounts":[{"name":"kube-api-access-x","readOnly":true,"mountPath":"/var/run/secrets"}],"imagePullPolicy":"IfNotPresent"}],
"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"default","schedulerName":"default-scheduler",
"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300},{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}],
"priority":0,"enableServiceLinks":true,"preemptionPolicy":"PreemptLowerPriority"},"status":{}}`
	var env strings.Builder
	for len(reviewOf("Pod", "pods", "CREATE", head+env.String()+tail, "")) < size {
		if env.Len() > 0 {
			env.WriteByte(',')
		}
		env.WriteString(`{"name":"SOME_SETTING","value":"https://example.com/some/path?with=values"}`)
	}
	return reviewOf("Pod", "pods", "CREATE", head+env.String()+tail, "")
}

func benchmarkPodReview(b *testing.B, size int) {
	body := benchReview(size)
	h := testHandler(b, testSnapshot(defaultProvisioner(), gpuProvisioner()))
	if r := parseResponse(b, post(h, PathPods, strings.NewReader(body)).Body.Bytes()); len(r.Response.Patch) == 0 {
		b.Fatalf("no hint: %+v", r)
	}
	req := httptest.NewRequest(http.MethodPost, PathPods+"?timeout=1s", nil)
	req.ContentLength = int64(len(body))
	rec := httptest.NewRecorder()
	rec.Body = bytes.NewBuffer(make([]byte, 0, 4096))
	reader := strings.NewReader(body)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		reader.Reset(body)
		req.Body = io.NopCloser(reader)
		rec.Body.Reset()
		h.ServeHTTP(rec, req)
	}
	runtime.KeepAlive(rec)
}

// BenchmarkPodReview2KB and 15KB are the whole handler, without TLS and HTTP.
func BenchmarkPodReview2KB(b *testing.B)  { benchmarkPodReview(b, 2<<10) }
func BenchmarkPodReview15KB(b *testing.B) { benchmarkPodReview(b, 15<<10) }

// BenchmarkSnapshot is what a change of a Provisioner costs, in the background.
func BenchmarkSnapshot(b *testing.B) {
	in := Inputs{Now: testNow, Offerings: testOfferings(), Provisioners: []*v1alpha1.Provisioner{defaultProvisioner(), gpuProvisioner()}}
	b.ReportAllocs()
	for b.Loop() {
		NewSnapshot(in)
	}
}

// TestAMutatorNeverDenies: whatever it decides.
func TestAMutatorNeverDenies(t *testing.T) {
	for name, mutates := range map[string]bool{"a mutator": true, "a validator": false} {
		t.Run(name, func(t *testing.T) {
			m, err := newMetrics(prometheus.NewRegistry())
			if err != nil {
				t.Fatal(err)
			}
			w := &webhook{name: "pods", mutates: mutates, handler: &Handler{bodies: newBudget(maxBodies), log: logr.Discard()},
				metrics: m.of("pods"), slots: make(chan struct{}, 1), decide: func(string) (string, Decision, error) {
					return "1", Decision{Denied: "no", Result: ResultDenied, Patch: []byte("[]")}, nil
				}}
			rw := httptest.NewRecorder()
			w.ServeHTTP(rw, httptest.NewRequest("POST", PathPods, strings.NewReader("{}")))
			got := parseResponse(t, rw.Body.Bytes()).Response
			if got.Allowed != mutates || got.UID != "1" || mutates && (len(got.Warnings) != 1 || len(got.Patch) > 0) {
				t.Errorf("answer %s", rw.Body)
			}
		})
	}
}

// TestPodsWithoutRoomForMoreAnnotationsAreLeftAlone: the API server refuses a pod
// whose annotations take more than 256 KiB, and would for ours.
func TestPodsWithoutRoomForMoreAnnotationsAreLeftAlone(t *testing.T) {
	s := testSnapshot(defaultProvisioner())
	pod := func(annotations map[string]string) string {
		doc, err := json.Marshal(map[string]any{"metadata": map[string]any{"name": "a", "annotations": annotations},
			"spec": map[string]any{"containers": []any{map[string]any{"name": "a"}}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(doc)
	}
	for name, tc := range map[string]struct {
		annotations map[string]string
		want        string
	}{
		"room enough":              {map[string]string{"a": strings.Repeat("x", 250<<10)}, `[{"op":"add","path":"/metadata/annotations/berth.dev~1placement"`},
		"300 bytes are left":       {map[string]string{"a": strings.Repeat("x", 256<<10-301)}, ""},
		"room enough when decoded": {map[string]string{"a": strings.Repeat("\"", 200<<10)}, `[{"op":"add","path":"/metadata/annotations/berth.dev~1placement"`},
		"too little, and escaped":  {map[string]string{"a": strings.Repeat("\"", 256<<10-301)}, ""},
		"somebody's hint goes":     {map[string]string{"a": strings.Repeat("x", 256<<10-400), v1alpha1.AnnotationPlacement: "forged"}, `[{"op":"remove","path":"/metadata/annotations/berth.dev~1placement"}]`},
	} {
		t.Run(name, func(t *testing.T) {
			doc := pod(tc.annotations)
			_, d, err := reviewPod(reviewOf("Pod", "pods", "CREATE", doc, ""), s, nil, 0)
			if err != nil || d.Denied != "" || !strings.HasPrefix(string(d.Patch), tc.want) || tc.want == "" && len(d.Patch) > 0 {
				t.Fatalf("patch %s, error %v", d.Patch, err)
			}
			after := tc.annotations
			if len(d.Patch) > 0 {
				var p struct {
					Metadata struct{ Annotations map[string]string }
				}
				if err := json.Unmarshal([]byte(applyPatch(t, doc, d.Patch)), &p); err != nil {
					t.Fatal(err)
				}
				after = p.Metadata.Annotations
			}
			if err := apivalidation.ValidateAnnotationsSize(after); err != nil {
				t.Error(err)
			}
		})
	}
}
