package ec2sim

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// ipPool hands out the addresses of a subnet. AWS keeps five: the first four
// and the last ("Subnet CIDR blocks", VPC user guide).
type ipPool struct {
	prefix netip.Prefix
	used   []bool
	free   int
	next   int
}

const reservedAddresses = 5

func newIPPool(prefix netip.Prefix) (*ipPool, error) {
	if !prefix.Addr().Is4() || prefix.Bits() < 16 || prefix.Bits() > 28 || prefix != prefix.Masked() {
		return nil, fmt.Errorf("%s is not an IPv4 range of /16 to /28", prefix)
	}
	size := 1 << (32 - prefix.Bits())
	return &ipPool{prefix: prefix, used: make([]bool, size), free: size - reservedAddresses, next: 4}, nil
}

// take returns a free address, and false when there is none. Addresses are
// dealt in turn, so that one is reused as late as possible: the node names that
// are made of them stay apart.
func (p *ipPool) take() (netip.Addr, bool) {
	if p.free == 0 {
		return netip.Addr{}, false
	}
	last := len(p.used) - 1
	for p.used[p.next] {
		if p.next++; p.next >= last {
			p.next = 4
		}
	}
	at := p.next
	p.used[at] = true
	p.free--
	if p.next++; p.next >= last {
		p.next = 4
	}
	base := p.prefix.Addr().As4()
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], binary.BigEndian.Uint32(base[:])+uint32(at))
	return netip.AddrFrom4(raw), true
}

// give takes an address back.
func (p *ipPool) give(a netip.Addr) {
	base, raw := p.prefix.Addr().As4(), a.As4()
	at := int(binary.BigEndian.Uint32(raw[:]) - binary.BigEndian.Uint32(base[:]))
	if !p.used[at] {
		panic("ec2sim: address " + a.String() + " was given back twice")
	}
	p.used[at] = false
	p.free++
}
