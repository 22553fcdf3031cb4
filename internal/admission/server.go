package admission

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
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
// connection, then stops listening and finishes what is in flight. Handlers
// never see the end of the process: it would turn into answers.
type Server struct {
	config   ServerConfig
	draining atomic.Bool
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
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	if err := server.Shutdown(finish); err != nil {
		return fmt.Errorf("finishing webhook calls in flight: %w", err)
	}
	return nil
}

// connectionErrors takes what net/http has to say about single connections:
// broken handshakes, mostly, which anybody can cause.
type connectionErrors struct{ log logr.Logger }

func (w connectionErrors) Write(p []byte) (int, error) {
	w.log.V(1).Info("connection failed", "detail", printable(clip(string(p), 512)))
	return len(p), nil
}
