package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
)

var (
	rotationCalls  = flag.Int64("rotation-calls", 400, "calls that TestRotationUnderLoadLosesNoCall makes at least")
	rotationLeaves = flag.Int("rotation-leaves", 2, "leaf rotations of TestRotationUnderLoadLosesNoCall")
	rotationCAs    = flag.Int("rotation-cas", 1, "CA rotations of TestRotationUnderLoadLosesNoCall")
)

// TestRotationUnderLoadLosesNoCall calls two replicas over TLS, without pause,
// while their leaves and CAs rotate, one look at the cluster every 10 seconds of
// a clock that runs fast. Callers are API servers that trust the caBundle as it
// was 0, 9, 18 and 27 seconds ago: less than Policy.Settle, which is what it
// allows them. No handshake may fail. `make rollout` runs it with 100,000 calls
// over 50 leaf and 5 CA rotations.
func TestRotationUnderLoadLosesNoCall(t *testing.T) {
	w := &rotating{t: t}
	w.called = sync.NewCond(&w.mu)
	w.clock.Store(day0.UnixNano())
	shared := newCluster(t)
	policy := DefaultPolicy()
	policy.CALife = policy.LeafLife * time.Duration(*rotationLeaves / *rotationCAs)
	var keepers []*Keeper
	for range 2 {
		k, err := New(Config{Mode: ModeSelf, Names: testNames, Webhooks: 1, Namespace: "berth-system", Client: shared.client,
			Registrar: w, Policy: policy, Clock: w.now, Log: logr.Discard()})
		if err != nil {
			t.Fatal(err)
		}
		keepers = append(keepers, k)
	}
	look := func() {
		for quiet := 0; quiet < 5; quiet++ { // 40 s after the last change, Settle has passed.
			for _, k := range keepers {
				again, err := k.step(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if again {
					quiet = -1
				}
			}
			w.pass(10 * time.Second)
		}
	}
	look()
	for _, k := range keepers {
		w.serve(k)
	}
	w.call()
	leaves, cas := map[string]bool{}, map[string]bool{}
	perLook := *rotationCalls / int64(10**rotationLeaves)
	for len(leaves) <= *rotationLeaves || len(cas) <= *rotationCAs || w.calls.Load() < *rotationCalls {
		w.pass(2 * day)
		look()
		leaves[keepers[0].good.Leaf.SerialNumber.String()] = true
		cas[keepers[0].good.Leaf.Issuer.String()] = true
		w.more(perLook)
	}
	w.stop()
	t.Logf("%d calls, %d handshakes, over %d leaf and %d CA rotations: %d lost", w.calls.Load(), w.handshakes.Load(), len(leaves)-1, len(cas)-1, w.lost.Load())
	if w.lost.Load() > 0 {
		t.Errorf("the first failures: %q", w.failures)
	}
	if w.handshakes.Load() < w.calls.Load()/20 {
		t.Errorf("%d handshakes in %d calls: hardly anybody looked at a certificate", w.handshakes.Load(), w.calls.Load())
	}
}

// rotating is a registrar, a clock and API servers that call.
type rotating struct {
	t     *testing.T
	clock atomic.Int64

	calls, handshakes, lost atomic.Int64

	mu sync.Mutex
	// history of the caBundle, in order of time.
	history  []published
	hosts    []string
	failures []string
	stop     func()
	// called is broadcast after each call; its lock is mu.
	called *sync.Cond
}

type published struct {
	at     time.Time
	bundle []byte
}

func (w *rotating) now() time.Time { return time.Unix(0, w.clock.Load()).UTC() }

// pass lets time pass, in steps in which some calls are made when there are callers.
func (w *rotating) pass(d time.Duration) {
	w.clock.Add(int64(d))
	w.more(2)
}

// more returns when n more calls have ended.
func (w *rotating) more(n int64) {
	if w.stop == nil {
		return
	}
	until := w.calls.Load() + n
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.calls.Load() < until {
		w.called.Wait()
	}
}

// bundleAt is the caBundle that was in force.
func (w *rotating) bundleAt(at time.Time) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.history[0].bundle
	for _, p := range w.history {
		if p.at.After(at) {
			break
		}
		b = p.bundle
	}
	return b
}

func (w *rotating) Live(context.Context) ([]Trust, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.history) == 0 {
		return nil, nil
	}
	return []Trust{{Webhook: "pods", CABundle: w.history[len(w.history)-1].bundle}}, nil
}

func (w *rotating) Publish(_ context.Context, p Publication) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.history); n > 0 && bytes.Equal(w.history[n-1].bundle, p.CABundle) {
		return false, nil
	}
	w.history = append(w.history, published{w.now(), p.CABundle})
	return true, nil
}

// serve answers TLS calls with a keeper's certificate.
func (w *rotating) serve(k *Keeper) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	server := &http.Server{
		Handler:   http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "ok") }),
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: k.GetCertificate},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	go func() { _ = server.ServeTLS(l, "", "") }()
	w.t.Cleanup(func() { _ = server.Close() })
	w.hosts = append(w.hosts, l.Addr().String())
}

// call has callers call until stop. Each makes a new connection for every tenth
// call, and whenever the caBundle that it trusts is another.
func (w *rotating) call() {
	stopping := make(chan struct{})
	var callers sync.WaitGroup
	for i := range 8 {
		lag := time.Duration(i/2) * 9 * time.Second
		callers.Go(func() {
			var client *http.Client
			var trusted []byte
			for n := 0; ; n++ {
				select {
				case <-stopping:
					return
				default:
				}
				if b := w.bundleAt(w.now().Add(-lag)); client == nil || n%10 == 0 || !bytes.Equal(b, trusted) {
					if client != nil {
						client.CloseIdleConnections()
					}
					client, trusted = w.client(b), b
				}
				if err := get(client, "https://"+w.hosts[n/2%len(w.hosts)]); err != nil {
					w.lost.Add(1)
					w.mu.Lock()
					if len(w.failures) < 5 {
						w.failures = append(w.failures, fmt.Sprintf("at %s, %s behind: %v", w.now(), lag, err))
					}
					w.mu.Unlock()
				}
				w.calls.Add(1)
				w.called.Broadcast()
			}
		})
	}
	w.stop = sync.OnceFunc(func() { close(stopping); callers.Wait() })
	w.t.Cleanup(w.stop)
}

func (w *rotating) client(bundle []byte) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, ServerName: testNames[0], Time: w.now,
		VerifyConnection: func(tls.ConnectionState) error { w.handshakes.Add(1); return nil },
	}}}
}

func get(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}
