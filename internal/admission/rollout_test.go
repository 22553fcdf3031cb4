package admission

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
)

var (
	rolloutCalls    = flag.Int64("rollout-calls", 1000, "calls that TestRollingRestartsLoseNoCall makes at least, in each mode")
	rolloutRestarts = flag.Int("rollout-restarts", 2, "rolling restarts of TestRollingRestartsLoseNoCall, in each mode")
)

const (
	// rolloutReplicas of the webhook, replaced one by one.
	rolloutReplicas = 2
	// rolloutCallers call at once, as requests of an API server do.
	rolloutCallers = 16
	// propagation is how long routes lag behind readiness.
	propagation = 50 * time.Millisecond
	// rolloutDelay is the servers' DrainDelay: well above propagation, also on a
	// machine that is busy with other tests, as the 10 s of cmd/webhook are above that of
	// EndpointSlices and kube-proxy.
	rolloutDelay = 2 * time.Second
)

// route is how an API server comes from the Service to a replica: the routes are
// what apiserver/pkg/util/webhook does.
type route struct {
	// name of the way.
	name string
	// perRequest: the endpoint is chosen for each request, and connections are
	// pooled by endpoint (1.37 with --enable-aggregator-routing). Otherwise it is
	// chosen for each connection, and connections are pooled by the Service's
	// name (older, or without that flag).
	perRequest bool
	// clusterIP: one address, behind which a proxy spreads connections and leaves
	// those alone that it has.
	clusterIP bool
}

var routes = []route{
	{name: "a ClusterIP, connections pooled by its name", clusterIP: true},
	{name: "endpoints, connections pooled by the Service's name"},
	{name: "endpoints, chosen for each request", perRequest: true},
}

// TestRollingRestartsLoseNoCall replaces all replicas again and again under load.
// No call may be lost or denied, and each answer must carry the hint. `make
// rollout` runs it with 100,000 calls over 20 restarts, in each mode.
func TestRollingRestartsLoseNoCall(t *testing.T) {
	for _, r := range routes {
		t.Run(r.name, func(t *testing.T) {
			f := newFleet(t)
			for range rolloutReplicas {
				f.add(f.start())
			}
			address := ""
			if r.clusterIP {
				address = f.proxy()
			}
			load := f.call(r, address)
			for range *rolloutRestarts {
				for range rolloutReplicas {
					f.replace()
				}
			}
			for load.calls.Load() < *rolloutCalls {
				load.wait() // Until the next calls have been made.
			}
			await(f.replaced) // Their ends are to be under load too.
			load.stop()
			t.Logf("%d calls over %d rolling restarts on %d connections: %d lost, %d denied, %d without a hint",
				load.calls.Load(), *rolloutRestarts, load.connections.Load(), load.lost.Load(), load.denied.Load(), load.unhinted.Load())
			if load.lost.Load()+load.denied.Load()+load.unhinted.Load() > 0 {
				t.Errorf("the first failures: %q", load.failures)
			}
			if load.connections.Load() <= rolloutCallers {
				t.Errorf("%d connections for %d callers: nobody was asked to connect anew", load.connections.Load(), rolloutCallers)
			}
		})
	}
}

// fleet is the replicas behind a Service.
type fleet struct {
	t    *testing.T
	cert *tls.Certificate
	pool *x509.CertPool

	mu sync.Mutex
	// endpoints as routes know them now.
	endpoints []string
	replicas  []*replica
	// replaced are those that were told to end.
	replaced []*replica
}

type replica struct {
	address string
	server  *Server
	stop    context.CancelFunc
	ended   chan struct{}
}

func newFleet(t *testing.T) *fleet {
	cert, pool := testCertificate(t)
	f := &fleet{t: t, cert: cert, pool: pool}
	t.Cleanup(func() {
		for _, r := range f.replicas {
			r.stop()
		}
		await(f.replaced)
		await(f.replicas)
	})
	return f
}

// start starts a replica of its own Handler.
func (f *fleet) start() *replica {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	s := testSnapshot(defaultProvisioner(), gpuProvisioner())
	h, err := NewHandler(HandlerConfig{Knowledge: func() *Snapshot { return s }, Registry: prometheus.NewRegistry(), Log: logr.Discard()})
	if err != nil {
		f.t.Fatal(err)
	}
	server, err := NewServer(ServerConfig{Listener: l, Handler: h, DrainDelay: rolloutDelay, Log: logr.Discard(),
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.cert, nil }})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &replica{address: l.Addr().String(), server: server, stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		if err := server.Run(ctx); err != nil {
			f.t.Errorf("a replica's end: %v", err)
		}
	}()
	return r
}

// await returns when all of them have ended.
func await(replicas []*replica) {
	for _, r := range replicas {
		<-r.ended
	}
}

func (f *fleet) add(r *replica) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replicas, f.endpoints = append(f.replicas, r), append(f.endpoints, r.address)
}

// replace starts a replica and ends the oldest, as a Deployment does with
// maxUnavailable 0. Routes learn of each change with a delay.
func (f *fleet) replace() {
	f.add(f.start())
	f.mu.Lock()
	old := f.replicas[0]
	f.replicas = f.replicas[1:]
	f.mu.Unlock()
	old.stop()
	f.replaced = append(f.replaced, old)
	lag := time.NewTimer(propagation)
	defer lag.Stop()
	<-lag.C
	if !old.server.Draining() {
		f.t.Error("a replica is not draining though it was told to end")
	}
	f.mu.Lock()
	f.endpoints = slices.DeleteFunc(f.endpoints, func(a string) bool { return a == old.address })
	f.mu.Unlock()
}

// endpoint is one of those that routes know of.
func (f *fleet) endpoint() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.endpoints[rand.IntN(len(f.endpoints))]
}

// proxy is what kube-proxy makes of a ClusterIP: each new connection goes to
// some endpoint, and stays there whatever becomes of the endpoint.
func (f *fleet) proxy() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go pipe(in, f.endpoint())
		}
	}()
	return l.Addr().String()
}

func pipe(in net.Conn, to string) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(out, in)
		_ = out.(*net.TCPConn).CloseWrite()
		close(done)
	}()
	_, _ = io.Copy(in, out)
	_ = in.(*net.TCPConn).CloseWrite()
	<-done
}

// load counts what becomes of calls.
type load struct {
	calls, lost, denied, unhinted, connections atomic.Int64

	mu       sync.Mutex
	failures []string
	next     chan struct{}
	stop     func()
}

// wait returns when some more calls have been made.
func (l *load) wait() { <-l.next }

func (l *load) fail(count *atomic.Int64, what string) {
	count.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.failures) < 5 {
		l.failures = append(l.failures, what)
	}
}

// call has callers review pods without pause until stop.
func (f *fleet) call(r route, address string) *load {
	const service = "berth-webhook.berth-system.svc:443"
	l := &load{next: make(chan struct{})}
	var dialer net.Dialer
	transport := &http.Transport{
		// HTTP/1.1 alone and 25 idle connections: what an API server has for Services.
		TLSClientConfig:     &tls.Config{RootCAs: f.pool, ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}},
		MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			l.connections.Add(1)
			switch {
			case r.clusterIP:
				addr = address
			case !r.perRequest:
				addr = f.endpoint()
			}
			return dialer.DialContext(ctx, network, addr)
		},
	}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	body := benchReview(2 << 10)
	stopping := make(chan struct{})
	var callers sync.WaitGroup
	for range rolloutCallers {
		callers.Go(func() {
			for {
				select {
				case <-stopping:
					return
				default:
				}
				host := service
				if r.perRequest {
					host = f.endpoint()
				}
				l.one(client, host, body)
				if l.calls.Add(1)%100 == 0 {
					select {
					case l.next <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	l.stop = sync.OnceFunc(func() {
		close(stopping)
		callers.Wait()
		transport.CloseIdleConnections()
	})
	f.t.Cleanup(l.stop)
	return l
}

func (l *load) one(client *http.Client, host, body string) {
	answer, err := reviewOver(client, "https://"+host+PathPods+"?timeout=10s", body)
	switch {
	case err != nil:
		l.fail(&l.lost, err.Error())
	case !bytes.Contains(answer, []byte(`"allowed":true`)):
		l.fail(&l.denied, string(answer))
	case !bytes.Contains(answer, []byte(`"patch":"`)):
		l.fail(&l.unhinted, string(answer))
	}
}

// reviewOver posts a review and reads the answer.
func reviewOver(client *http.Client, url, body string) ([]byte, error) {
	resp, err := client.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("status %d: %s", resp.StatusCode, answer))
	}
	return answer, errors.Join(err, resp.Body.Close())
}
