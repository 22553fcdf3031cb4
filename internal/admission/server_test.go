package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
)

func testCertificate(t *testing.T) (*tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// running is a Server on loopback and a client that trusts it.
type running struct {
	server *Server
	url    string
	client *http.Client
	stop   context.CancelFunc
	ended  chan error
}

func start(t *testing.T, h http.Handler, delay time.Duration) *running {
	t.Helper()
	cert, pool := testCertificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(ServerConfig{
		Listener: l, Handler: h, DrainDelay: delay, Log: logr.Discard(),
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	r := &running{server: s, url: "https://" + l.Addr().String(), stop: stop, ended: make(chan error, 1)}
	go func() { r.ended <- s.Run(ctx) }()
	// HTTP/1.1, as the API server speaks to Services.
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	r.client = &http.Client{Transport: transport}
	return r
}

// TestTheEndLosesNoCall: while the Server drains it answers old and new calls
// and asks for their connections to be closed; what is in flight when it stops
// is finished, with a context that has not ended.
func TestTheEndLosesNoCall(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	var inFlight error
	r := start(t, http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/slow" {
			close(entered)
			<-release
			inFlight = req.Context().Err()
		}
		_, _ = io.WriteString(rw, "ok")
	}), 3*time.Second)

	get := func(path string) (*http.Response, error) {
		resp, err := r.client.Get(r.url + path)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return resp, errors.Join(err, resp.Body.Close())
	}
	resp, err := get("/")
	if err != nil || resp.Close {
		t.Fatalf("before the end: %v, close %v", err, resp != nil && resp.Close)
	}
	slow := make(chan error, 1)
	go func() {
		_, err := get("/slow")
		slow <- err
	}()
	<-entered
	r.stop()
	for !r.server.Draining() {
		if _, err := get("/"); err != nil {
			t.Fatalf("until it drains: %v", err)
		}
	}
	resp, err = get("/")
	if err != nil || !resp.Close {
		t.Fatalf("while it drains: %v, close %v", err, resp != nil && resp.Close)
	}
	select {
	case err := <-r.ended:
		t.Fatalf("ended with a call in flight: %v", err)
	default:
	}
	// Let it come to where it waits for that call alone.
	for {
		if _, err := get("/"); err != nil {
			break
		}
	}
	close(release)
	if err := <-slow; err != nil {
		t.Errorf("the call in flight: %v", err)
	}
	if err := <-r.ended; err != nil {
		t.Errorf("the end: %v", err)
	}
	if inFlight != nil {
		t.Errorf("the handler saw the end of the process: %v", inFlight)
	}
}

func TestServerSpeaksNothingOlderThanTLS13(t *testing.T) {
	r := start(t, http.NotFoundHandler(), 0)
	old := r.client.Transport.(*http.Transport).Clone()
	old.TLSClientConfig.MaxVersion = tls.VersionTLS12
	if _, err := (&http.Client{Transport: old}).Get(r.url); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: %v", err)
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

// TestSlowSendersAreCutOff: a body that does not come is not waited for longer
// than the API server waits for the answer.
func TestSlowSendersAreCutOff(t *testing.T) {
	r := start(t, testHandler(t, nil), 0)
	pr, pw := io.Pipe()
	go func() { _, _ = pw.Write([]byte("{")) }()
	resp, err := r.client.Post(r.url+PathPods+"?timeout=100ms", "application/json", pr)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	_ = pw.Close()
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}
