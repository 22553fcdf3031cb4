package admission

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Paths of the webhooks.
const (
	PathPods                = "/mutate/pods"
	PathDefaultProvisioner  = "/mutate/provisioners"
	PathValidateProvisioner = "/validate/provisioners"
	PathWorkloads           = "/validate/workloads"
)

const (
	// defaultTimeout is the API server's, where it sends none.
	defaultTimeout = 10 * time.Second
	// answerMargin is what of the API server's timeout is kept to answer in.
	answerMargin = 50 * time.Millisecond
	// queueLimit is how many reviews of a webhook may wait for a slot.
	queueLimit = 1024
	// maxWarning is where the API server cuts a warning (apiserver/pkg/warning).
	maxWarning = 256
	// uidWithin is how far into a review its UID is looked for when it is shed.
	uidWithin = 4 << 10
)

// HandlerConfig is what a Handler needs. Knowledge and Registry are required.
type HandlerConfig struct {
	// Knowledge is the Snapshot in force; nil while nothing is known.
	Knowledge func() *Snapshot
	// ClusterName completes selectors of Provisioners; empty: they are left.
	ClusterName string
	// Fleet is what a Provisioner has bought, from memory; nil: nothing is known.
	Fleet func(provisioner string) Fleet
	// Ledger counts pods that share spot; nil: annotations about it do nothing.
	Ledger *SpotLedger
	// WarnHourlyCost is what the pods of a workload, or a bare pod, may cost, in $/h,
	// without a warning; 0: anything.
	WarnHourlyCost float64
	// Tell passes Advice about an object on, as an Event; it must not wait. Nil:
	// nobody is told.
	Tell     func(about *metav1.PartialObjectMetadata, advice []Advice)
	Registry prometheus.Registerer
	Log      logr.Logger
}

// Handler answers admission reviews.
type Handler struct {
	mux    *http.ServeMux
	bodies *budget
	tell   func(about *metav1.PartialObjectMetadata, advice []Advice)
	log    logr.Logger
}

// NewHandler returns a Handler for the four paths; all others are not found.
func NewHandler(c HandlerConfig) (*Handler, error) {
	if c.Knowledge == nil || c.Registry == nil {
		return nil, errors.New("admission handler: Knowledge and Registry are required")
	}
	m, err := newMetrics(c.Registry)
	if err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	if c.Fleet == nil {
		c.Fleet = func(string) Fleet { return Fleet{} }
	}
	h := &Handler{mux: http.NewServeMux(), bodies: newBudget(maxBodies), tell: c.Tell, log: c.Log}
	slots := 2 * runtime.GOMAXPROCS(0)
	for _, w := range []*webhook{
		{name: "pods", path: PathPods, mutates: true, decide: func(body string) (string, Decision, error) {
			return reviewPod(body, c.Knowledge(), c.Ledger, c.WarnHourlyCost)
		}},
		{name: "provisioner-defaults", path: PathDefaultProvisioner, mutates: true, decide: func(body string) (string, Decision, error) {
			return reviewDefaults(body, c.ClusterName)
		}},
		{name: "provisioner-validation", path: PathValidateProvisioner, decide: func(body string) (string, Decision, error) {
			return reviewValidation(body, c.Knowledge(), func(provisioner string) Fleet {
				f := c.Fleet(provisioner)
				f.ClusterName = c.ClusterName
				return f
			})
		}},
		// Advice only: like a mutator it never denies.
		{name: "workloads", path: PathWorkloads, mutates: true, decide: func(body string) (string, Decision, error) {
			return reviewWorkload(body, c.Knowledge(), c.WarnHourlyCost)
		}},
	} {
		w.handler, w.metrics, w.slots = h, m.of(w.name), make(chan struct{}, slots)
		h.mux.Handle("POST "+w.path, w)
	}
	return h, nil
}

func (h *Handler) ServeHTTP(rw http.ResponseWriter, req *http.Request) { h.mux.ServeHTTP(rw, req) }

// webhook is one path.
type webhook struct {
	name, path string
	handler    *Handler
	metrics    gauges
	// mutates, or advises: it never denies; what goes wrong is allowed.
	mutates bool
	// decide answers a review. It returns the UID also with an error, if it
	// came to know it.
	decide func(body string) (uid string, d Decision, err error)
	// slots bound how many decide at the same time; waiting, how many wait.
	slots   chan struct{}
	waiting atomic.Int32
}

func (w *webhook) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	start := time.Now()
	deadline := start.Add(timeoutOf(req) - answerMargin)
	// Slow senders are cut off. The error is ignored: a ResponseWriter that
	// knows no deadlines is a recorder in a test.
	_ = http.NewResponseController(rw).SetReadDeadline(deadline)
	// The request's context is not looked at: neither the caller's nor the process's
	// end must turn into an answer.
	result := w.answer(deadline, rw, req)
	w.metrics.observe(result, time.Since(start))
}

// answer reads, decides and writes.
func (w *webhook) answer(deadline time.Time, rw http.ResponseWriter, req *http.Request) Result {
	body, taken, err := w.handler.bodies.readBody(req.Body, req.ContentLength)
	defer func() { w.handler.bodies.left.Add(taken) }()
	switch {
	case errors.Is(err, errNoRoom):
		return w.shed(rw, req, body)
	case errors.Is(err, errTooLarge):
		http.Error(rw, "the review is "+err.Error(), http.StatusRequestEntityTooLarge)
		return ResultError
	case err != nil:
		http.Error(rw, "reading the review failed", http.StatusBadRequest)
		return ResultError
	}
	if !w.enter(deadline) {
		return w.shed(rw, req, body)
	}
	// No copy: nobody writes to the body any more.
	review := unsafe.String(unsafe.SliceData(body), len(body))
	uid, d, err := w.decideSafely(review)
	<-w.slots
	if err != nil {
		return w.failed(rw, review, uid, err)
	}
	d = w.write(rw, uid, d)
	if d.About != nil && w.handler.tell != nil {
		w.handler.tell(d.About, d.Advice)
	}
	return d.Result
}

// errDenies is a decision of a mutator to deny, which is a mistake of ours.
var errDenies = errors.New("a webhook that only changes or advises wanted to deny")

// write answers with a Decision and returns it: without the denial, and what else
// comes of the same mistake, where the webhook never denies.
func (w *webhook) write(rw http.ResponseWriter, uid string, d Decision) Decision {
	if w.mutates && d.Denied != "" {
		w.handler.log.Error(errDenies, "admitted without a look", "webhook", w.name, "reason", clip(d.Denied, 1024))
		d = Decision{Result: ResultError, Warnings: []string{"berth: admitted without a look: " + errPanic.Error()}}
	}
	writeReview(rw, uid, d)
	return d
}

// enter waits for a slot until there would be no time left to answer.
func (w *webhook) enter(deadline time.Time) bool {
	select {
	case w.slots <- struct{}{}:
		return true
	default:
	}
	defer w.waiting.Add(-1)
	if w.waiting.Add(1) > queueLimit {
		return false
	}
	late := time.NewTimer(time.Until(deadline))
	defer late.Stop()
	select {
	case w.slots <- struct{}{}:
		return true
	case <-late.C:
		return false
	}
}

// errPanic is a decision that panicked.
var errPanic = errors.New("internal error")

func (w *webhook) decideSafely(body string) (uid string, d Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			w.metrics.panics.Inc()
			w.handler.log.Error(errPanic, "deciding panicked", "webhook", w.name, "panic", clip(fmt.Sprint(p), 1024), "stack", clip(string(debug.Stack()), 8192))
			err = errPanic
		}
	}()
	return w.decide(body)
}

// failed answers a review that was not understood.
func (w *webhook) failed(rw http.ResponseWriter, body, uid string, err error) Result {
	if !errors.Is(err, errPanic) {
		w.handler.log.V(1).Info("review not understood", "webhook", w.name, "error", clip(err.Error(), 1024))
	}
	if uid == "" {
		uid = uidOf(body)
	}
	if w.mutates && uid != "" && !errors.Is(err, errNoReview) {
		w.write(rw, uid, Decision{Warnings: []string{"berth: admitted without a look: " + err.Error()}})
		return ResultError
	}
	status := http.StatusBadRequest
	if errors.Is(err, errPanic) {
		status = http.StatusInternalServerError
	}
	http.Error(rw, clip(err.Error(), maxWarning), status)
	return ResultError
}

// shed answers without a look: a mutator allows, if it can find the UID in what
// it has or in the next bytes; a validator asks to try again.
func (w *webhook) shed(rw http.ResponseWriter, req *http.Request, body []byte) Result {
	w.metrics.shed.Inc()
	if w.mutates {
		if len(body) < uidWithin {
			// readBody fails for want of room only when its buffer is full or none.
			more := make([]byte, uidWithin)
			n, _ := req.Body.Read(more) // What came with the headers; an error leaves n bytes.
			body = append(body[:len(body):len(body)], more[:n]...)
		}
		if uid := uidOf(string(body[:min(len(body), uidWithin)])); uid != "" {
			w.write(rw, uid, Decision{Warnings: []string{"berth: too busy, admitted without a look"}})
			return ResultShed
		}
	}
	rw.Header().Set("Retry-After", "1")
	http.Error(rw, "too busy, try again", http.StatusServiceUnavailable)
	return ResultShed
}

// timeoutOf is the time that the API server gives: ?timeout=1s.
func timeoutOf(req *http.Request) time.Duration {
	if _, v, ok := strings.Cut(req.URL.RawQuery, "timeout="); ok {
		v, _, _ = strings.Cut(v, "&")
		if d, err := time.ParseDuration(v); err == nil && d > answerMargin && d <= 30*time.Second {
			return d
		}
	}
	return defaultTimeout
}

// writeReview writes an AdmissionReview with the response.
func writeReview(rw http.ResponseWriter, uid string, d Decision) {
	b := make([]byte, 0, 256+base64.StdEncoding.EncodedLen(len(d.Patch))+len(d.Denied))
	b = append(b, `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{"uid":`...)
	b = appendString(b, uid)
	if d.Denied == "" {
		b = append(b, `,"allowed":true`...)
	} else {
		b = append(b, `,"allowed":false,"status":{"status":"Failure",`...)
		if d.Forbidden {
			b = append(b, `"reason":"Forbidden","code":403`...)
		} else {
			b = append(b, `"reason":"Invalid","code":422`...)
		}
		b = append(b, `,"message":`...)
		b = appendString(b, d.Denied)
		b = append(b, '}')
	}
	if len(d.Patch) > 0 {
		b = append(b, `,"patchType":"JSONPatch","patch":"`...)
		b = base64.StdEncoding.AppendEncode(b, d.Patch)
		b = append(b, '"')
	}
	for i, w := range d.Warnings {
		if i == 0 {
			b = append(b, `,"warnings":[`...)
		} else {
			b = append(b, ',')
		}
		b = appendString(b, printable(clip(w, maxWarning)))
	}
	if len(d.Warnings) > 0 {
		b = append(b, ']')
	}
	b = append(b, `}}`...)
	rw.Header()["Content-Type"] = []string{"application/json"}
	// An error here is the caller's end, who is gone.
	_, _ = rw.Write(b)
}

// clip cuts s to at most n bytes, at the border of a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const dots = "…"
	n -= len(dots)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + dots
}

// printable replaces control characters: the API server drops warnings with any.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// reviewPod answers the pods webhook.
func reviewPod(body string, s *Snapshot, ledger *SpotLedger, cost float64) (string, Decision, error) {
	in := new(PodInput)
	v, err := parseReview(body, func(r *reader) { decodePod(r, in) })
	if err != nil {
		return v.uid, Decision{}, err
	}
	if v.kind != "Pod" || v.subResource != "" || v.operation != "CREATE" {
		return v.uid, Decision{Result: ResultSkipped}, nil
	}
	if in.pod.Namespace == "" {
		in.pod.Namespace = v.namespace
	}
	return v.uid, DecidePod(in, s, choiceFor(in, ledger, v.dryRun), cost), nil
}
