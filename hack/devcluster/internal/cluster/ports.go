package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// host is where everything listens. Nothing is reachable from elsewhere.
const host = "127.0.0.1"

// Ports are taken from below the ranges that Linux (32768 and up) and other
// systems (49152 and up) give to outgoing connections. A port that the kernel
// hands out for "port 0" comes from that range, and between our closing it and
// a component's opening it one of the many connections on loopback can take
// it.
const (
	firstPort = 20000
	lastPort  = 32000
)

// port is a reserved port: while it is held, no other process can take it.
type port struct {
	number   int
	listener net.Listener
}

// reservePorts holds n free loopback ports.
func reservePorts(n int) ([]*port, error) {
	var ports []*port
	for range 50 * n {
		if len(ports) == n {
			return ports, nil
		}
		number := firstPort + rand.IntN(lastPort-firstPort)
		listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(number)))
		if err != nil {
			continue // taken
		}
		ports = append(ports, &port{number: number, listener: listener})
	}
	for _, p := range ports {
		p.release()
	}
	return nil, errors.New("found no free ports on loopback")
}

// release lets go of the port so that its component can listen on it.
func (p *port) release() {
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
}

func (p *port) address() string { return fmt.Sprintf("%s:%d", host, p.number) }
