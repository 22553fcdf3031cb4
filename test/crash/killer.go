// Package crash kills the provisioner where it hurts and looks whether anything
// comes of it. One real control plane serves all runs; each run has an ec2sim of
// its own, in this process, and a real provisioner process that reaches both
// through proxies which count its calls.
package crash

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// moment is when during a call the process is killed.
type moment string

// The moments of a call.
const (
	before      moment = "before"
	afterEffect moment = "after the effect of"
	afterReply  moment = "after the reply to"
)

// killer counts the calls that a process makes, and kills it at one of them.
type killer struct {
	kill func()

	mu     sync.Mutex
	calls  []string
	at     int // 1 is the first call; 0 is never.
	moment moment
	struck string
}

// arm has the process killed at its nth call from now.
func (k *killer) arm(n int, m moment) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls, k.at, k.moment, k.struck = nil, n, m, ""
}

// made are the calls since arm, and the one at which the process was killed.
func (k *killer) made() (calls []string, struck string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.calls...), k.struck
}

// count notes a call and reports whether the process dies of it.
func (k *killer) count(name string) (moment, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls = append(k.calls, name)
	if k.at == 0 || len(k.calls) != k.at {
		return "", false
	}
	k.struck = name
	return k.moment, true
}

// wrap has the calls to next counted. name says what a call is called.
func (k *killer) wrap(next http.Handler, name func(*http.Request) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, hit := k.count(name(r))
		switch {
		case !hit:
			next.ServeHTTP(w, r)
		case m == before:
			k.kill()
			panic(http.ErrAbortHandler)
		case isWatch(r):
			// A watch has no effect; its reply begins and does not end.
			k.kill()
			panic(http.ErrAbortHandler)
		default:
			held := &heldReply{header: http.Header{}, code: http.StatusOK}
			next.ServeHTTP(held, r)
			if m == afterEffect {
				k.kill()
				panic(http.ErrAbortHandler)
			}
			held.release(w)
			k.kill()
		}
	})
}

func isWatch(r *http.Request) bool { return r.URL.Query().Get("watch") != "" }

// heldReply keeps an answer back.
type heldReply struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (h *heldReply) Header() http.Header         { return h.header }
func (h *heldReply) WriteHeader(code int)        { h.code = code }
func (h *heldReply) Write(p []byte) (int, error) { return h.body.Write(p) }

func (h *heldReply) release(w http.ResponseWriter) {
	for key, values := range h.header {
		w.Header()[key] = values
	}
	w.WriteHeader(h.code)
	_, _ = w.Write(h.body.Bytes()) // The process may be gone; that is the point.
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}

// kubeCall names a call to the API server without the names of objects.
func kubeCall(r *http.Request) string {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	skip := 3 // api/v1/<kind>: apis/<group>/<version>/<kind> has one more.
	if len(parts) > 0 && parts[0] == "apis" {
		skip = 4
	}
	if len(parts) > skip+1 && parts[skip-1] == "namespaces" {
		skip += 2
	}
	what := strings.Join(parts[min(len(parts), skip-1):min(len(parts), skip)], "/")
	if len(parts) > skip+1 {
		what += "/" + parts[len(parts)-1]
	}
	verb := r.Method
	if isWatch(r) {
		verb = "WATCH"
	}
	return strings.TrimSpace(verb + " " + what)
}

// awsCall names a call to AWS and gives the body back to the request.
func awsCall(r *http.Request) (string, url.Values) {
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		return target, nil
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(r.Body); err != nil {
		return "unread", nil
	}
	r.Body = readCloser{bytes.NewReader(body.Bytes())}
	form, err := url.ParseQuery(body.String())
	if err != nil {
		return "unparsed", nil
	}
	return form.Get("Action"), form
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// reads reports whether a call, by its name, leaves the world as it was: events are
// for people, nobody decides by them.
func reads(name string) bool {
	for _, verb := range []string{"GET", "WATCH", "Describe", "Get", "AmazonSSM.Get", "AWSPriceListService.Get", "POST events"} {
		if strings.HasPrefix(name, verb) {
			return true
		}
	}
	return false
}
