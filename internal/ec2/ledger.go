package ec2

import (
	"maps"
	"sync"
	"time"
)

// plannedTTL is how long addresses stay set aside for a launch that EC2 never
// answers: longer than a launch is repeated without news.
const plannedTTL = 5 * time.Minute

// ledger knows how many addresses of each subnet are free: what EC2 said last,
// less what launches have taken or may take since. The zero value is ready for
// use.
type ledger struct {
	mu sync.Mutex
	// free is what EC2 said, less the addresses of instances launched since.
	free map[string]int
	// planned are the addresses of launches that EC2 has not answered yet, by
	// token. They outlive a reread: EC2's count does not have them.
	planned map[string]planned
}

// planned is how many addresses are set aside, in which subnet and since when.
type planned struct {
	subnet string
	n      int
	at     time.Time
}

// reread takes over what EC2 says.
func (l *ledger) reread(subnets []Subnet, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.init()
	for _, s := range subnets {
		l.free[s.ID] = s.FreeIPs
	}
	maps.DeleteFunc(l.planned, func(_ string, p planned) bool { return now.Sub(p.at) > plannedTTL })
}

func (l *ledger) init() {
	if l.free == nil {
		l.free, l.planned = map[string]int{}, map[string]planned{}
	}
}

// plan sets n addresses aside for the launch with a token.
func (l *ledger) plan(token, subnet string, n int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.init()
	l.planned[token] = planned{subnet, n, now}
}

// settle replaces the addresses that were planned for a launch by those that EC2
// has taken. A launch that was planned by another process has planned none here.
func (l *ledger) settle(token string, got []Instance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.init()
	delete(l.planned, token)
	for _, i := range got {
		l.free[i.SubnetID] = max(0, l.free[i.SubnetID]-1)
	}
}

// exhaust records that EC2 found no free address in a subnet.
func (l *ledger) exhaust(subnet string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.init()
	l.free[subnet] = 0
}

// bestSubnets returns for each zone the subnet with the most free addresses
// (the lowest id of equals); a zone without a free address is absent.
func (l *ledger) bestSubnets(subnets []Subnet) map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	best, most, aside := map[string]string{}, map[string]int{}, map[string]int{}
	for _, p := range l.planned {
		aside[p.subnet] += p.n
	}
	for _, s := range subnets { // Sorted by id within a zone.
		if free := l.free[s.ID] - aside[s.ID]; free > most[s.Zone] {
			best[s.Zone], most[s.Zone] = s.ID, free
		}
	}
	return best
}
