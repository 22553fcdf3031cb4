package admission

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
)

const (
	// headerTimeout is how long a connection may take to say what it wants.
	headerTimeout = 5 * time.Second
	// idleTimeout of kept connections; longer than the API server's own 90 s.
	idleTimeout = 2 * time.Minute
	// writeTimeout bounds a whole exchange: the longest timeout that the API
	// server allows, and a little.
	writeTimeout = 35 * time.Second
	// finishTimeout is how long requests in flight may take at the end.
	finishTimeout = 30 * time.Second
	// lingerTimeout is how long, after the delay, connections that are kept open may
	// take to come to rest, and lingerEvery how often it is looked at.
	lingerTimeout = 2 * time.Second
	lingerEvery   = 20 * time.Millisecond
	// restFor is how long nothing must have come over a connection for it to be at
	// rest: who has not used it for that long takes another for the next call.
	restFor = time.Second
	// maxHeader is what request headers may take, in bytes.
	maxHeader = 16 << 10
)

// ServerConfig is what a Server needs.
type ServerConfig struct {
	// Listener to serve on; the Server closes it. Required.
	Listener net.Listener
	// Certificate is asked in each handshake. Required.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Handler of requests. Required.
	Handler http.Handler
	// DrainDelay is how long to serve on after the end was asked for, so that
	// callers learn of it. 0: not at all.
	DrainDelay time.Duration
	Log        logr.Logger
}

// Server serves the webhooks and ends without losing a call. After Run's
// context ends it serves on for DrainDelay, telling each caller to close its
// connection, then closes those that are at rest, stops listening and finishes
// what is in flight. Handlers never see the end of the process: it would turn
// into answers.
//
// HTTP/1.1 has no way to end a connection that is kept open without a chance that
// a call is on its way over it, and API servers do not repeat a call that ends so.
// Therefore none is closed that is in use: after one answer it is closed by the
// caller, and what nobody has used for restFor is closed by us.
type Server struct {
	config   ServerConfig
	draining atomic.Bool
	resting  resting
}

// NewServer returns a Server.
func NewServer(c ServerConfig) (*Server, error) {
	if c.Listener == nil || c.Certificate == nil || c.Handler == nil || c.DrainDelay < 0 {
		return nil, errors.New("admission server: Listener, Certificate and Handler are required and DrainDelay is not negative")
	}
	return &Server{config: c}, nil
}

// Draining reports whether the end was asked for: the process is not ready.
func (s *Server) Draining() bool { return s.draining.Load() }

// Run serves until ctx ends and the Server is drained.
func (s *Server) Run(ctx context.Context) error {
	server := &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			if s.draining.Load() {
				rw.Header().Set("Connection", "close")
			}
			s.config.Handler.ServeHTTP(rw, req)
		}),
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS13,
			GetCertificate: s.config.Certificate,
			NextProtos:     []string{"h2", "http/1.1"},
		},
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnState:         s.resting.note,
		ErrorLog:          log.New(connectionErrors{s.config.Log}, "", 0),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(s.config.Listener, "", "") }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving webhooks: %w", err)
	case <-ctx.Done():
	}
	s.draining.Store(true)
	s.config.Log.Info("draining", "delay", s.config.DrainDelay.String())
	if s.config.DrainDelay > 0 {
		delay := time.NewTimer(s.config.DrainDelay)
		defer delay.Stop()
		select {
		case err := <-failed:
			return fmt.Errorf("serving webhooks: %w", err)
		case <-delay.C:
		}
	}
	s.linger()
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	if err := server.Shutdown(finish); err != nil {
		return fmt.Errorf("finishing webhook calls in flight: %w", err)
	}
	return nil
}

// linger returns when no connection over HTTP/1.1 is open any more, closing those
// that are at rest, or when they take too long.
func (s *Server) linger() {
	tick := time.NewTicker(lingerEvery)
	defer tick.Stop()
	for end := time.Now().Add(lingerTimeout); s.resting.close(time.Now()) > 0 && time.Now().Before(end); {
		<-tick.C
	}
}

// resting are the connections that are open, and since when they are idle.
type resting struct {
	mu   sync.Mutex
	open map[net.Conn]openConn
}

type openConn struct {
	// idleSince is zero while a request is being answered, or awaited first.
	idleSince time.Time
	// h2: it speaks HTTP/2, in which Shutdown says that the end has come.
	h2 bool
}

// note is for http.Server.ConnState.
func (r *resting) note(c net.Conn, state http.ConnState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = map[net.Conn]openConn{}
	}
	switch state {
	case http.StateClosed, http.StateHijacked:
		delete(r.open, c)
	case http.StateIdle: // So the handshake is over, and asking about it does not wait.
		t, ok := c.(*tls.Conn)
		r.open[c] = openConn{idleSince: time.Now(), h2: ok && t.ConnectionState().NegotiatedProtocol == "h2"}
	default:
		r.open[c] = openConn{h2: r.open[c].h2}
	}
}

// close closes the connections that are at rest and returns how many are left.
func (r *resting) close(now time.Time) int {
	r.mu.Lock()
	var rest []net.Conn
	left := 0
	for c, o := range r.open {
		switch {
		case o.h2:
		case !o.idleSince.IsZero() && now.Sub(o.idleSince) >= restFor:
			rest = append(rest, c)
		default:
			left++
		}
	}
	r.mu.Unlock()
	for _, c := range rest {
		_ = c.Close() // Whatever it says, it is closed.
	}
	return left
}

// connectionErrors takes what net/http has to say about single connections:
// broken handshakes, mostly, which anybody can cause.
type connectionErrors struct{ log logr.Logger }

func (w connectionErrors) Write(p []byte) (int, error) {
	w.log.V(1).Info("connection failed", "detail", printable(clip(string(p), 512)))
	return len(p), nil
}
