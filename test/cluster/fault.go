package cluster

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Fault is what a Proxy does to connections.
type Fault int32

// Faults.
const (
	// FaultNone passes everything on.
	FaultNone Fault = iota
	// FaultHang accepts and reads, and answers nothing.
	FaultHang
	// FaultReset ends connections at the first bytes.
	FaultReset
	// FaultSlow holds all that the first call on a connection says back for SlowBy.
	FaultSlow
	// FaultCut passes on the first bytes of an answer and ends the connection.
	FaultCut
)

// SlowBy is how long FaultSlow holds a call back: within the webhook's timeout.
const SlowBy = 800 * time.Millisecond

// Proxy stands between the API server and the webhook and breaks what it is told
// to. It passes TLS on unread.
type Proxy struct {
	listener net.Listener
	target   atomic.Value // string
	fault    atomic.Int32

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// NewProxy listens on loopback and passes on to target, which can be changed.
func NewProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: l, conns: map[net.Conn]bool{}}
	p.target.Store(target)
	go p.serve(l)
	return p, nil
}

// Address to connect to.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Set changes what happens to connections; those that are open are ended, so
// that it holds for the next call.
func (p *Proxy) Set(f Fault) {
	p.fault.Store(int32(f))
	p.drop()
}

// Target changes where new connections go. Open ones stay, as they do behind a
// Service.
func (p *Proxy) Target(address string) { p.target.Store(address) }

// Close ends everything; connections are refused from then on.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.drop()
}

func (p *Proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func (p *Proxy) track(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
}

func (p *Proxy) forget(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) serve(l net.Listener) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		p.track(in)
		go p.handle(in)
	}
}

func (p *Proxy) handle(in net.Conn) {
	defer p.forget(in)
	switch Fault(p.fault.Load()) {
	case FaultHang:
		_, _ = io.Copy(io.Discard, in)
		return
	case FaultReset:
		_, _ = in.Read(make([]byte, 1))
		if tcp, ok := in.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		return
	case FaultSlow:
		<-time.After(SlowBy)
	}
	out, err := net.Dial("tcp", p.target.Load().(string))
	if err != nil {
		return
	}
	p.track(out)
	defer p.forget(out)
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(out, in)
		_ = out.(*net.TCPConn).CloseWrite()
		close(done)
	}()
	if Fault(p.fault.Load()) == FaultCut {
		_, _ = io.CopyN(in, out, 900)
		return
	}
	_, _ = io.Copy(in, out)
	_ = in.(*net.TCPConn).CloseWrite()
	<-done
}
