package ec2

import "sync"

// ledger counts the addresses of subnets that launches have been planned into
// since EC2 was last asked how many are free. The zero value is ready for use.
type ledger struct {
	mu sync.Mutex
	// free addresses by subnet, less what was planned since.
	free map[string]int
}

// reread takes over what EC2 says.
func (l *ledger) reread(subnets []Subnet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free == nil {
		l.free = map[string]int{}
	}
	for _, s := range subnets {
		l.free[s.ID] = s.FreeIPs
	}
}

// plan takes one address.
func (l *ledger) plan(subnet string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free[subnet] > 0 {
		l.free[subnet]--
	}
}

// exhaust records that EC2 found no free address in a subnet.
func (l *ledger) exhaust(subnet string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free == nil {
		l.free = map[string]int{}
	}
	l.free[subnet] = 0
}

// bestSubnets returns for each zone the subnet with the most free addresses
// (the lowest id of equals); a zone without a free address is absent.
func (l *ledger) bestSubnets(subnets []Subnet) map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	best, most := map[string]string{}, map[string]int{}
	for _, s := range subnets { // Sorted by id within a zone.
		if free := l.free[s.ID]; free > most[s.Zone] {
			best[s.Zone], most[s.Zone] = s.ID, free
		}
	}
	return best
}
