package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Policy is how long things last. DefaultPolicy has the values to use.
type Policy struct {
	// CALife and LeafLife from issuance to expiry.
	CALife, LeafLife time.Duration
	// Backdate is how far before now certificates begin, for clocks that are behind.
	Backdate time.Duration
	// Settle is how long all live caBundles must have held a CA before it signs.
	Settle time.Duration
}

// DefaultPolicy: CA 2 years, leaf 30 days, 1 hour of backdating, 30 seconds to settle.
func DefaultPolicy() Policy {
	return Policy{CALife: 2 * 365 * 24 * time.Hour, LeafLife: 30 * 24 * time.Hour, Backdate: time.Hour, Settle: 30 * time.Second}
}

// fingerprint tells certificates apart.
type fingerprint [sha256.Size]byte

func fingerprintOf(c *x509.Certificate) fingerprint { return sha256.Sum256(c.Raw) }

// State is all that Next depends on.
type State struct {
	Now    time.Time
	Policy Policy
	// Names that a leaf must be for; ServerName, one of them, is what the API
	// server asks for.
	Names      []string
	ServerName string
	// Stored is what the Secret holds.
	Stored Material
	// Serving is the leaf that this process serves now; nil before the first.
	Serving *Pair
	// Bundles are the live caBundles, one for each webhook. None: nobody calls yet.
	Bundles [][]byte
	// TrustedSince is since when all Bundles have held a CA, by what this
	// process has seen.
	TrustedSince map[fingerprint]time.Time
}

// Step is what is due. The zero Step is nothing.
type Step struct {
	// Change: the Secret is to be written.
	Change bool
	// Authorities that stay, newest first, as they are to be stored.
	Authorities []*Authority
	// Leaves that stay, newest first.
	Leaves []*Pair
	// NewAuthority: a CA is to be made and put first.
	NewAuthority bool
	// NewLeaf: a leaf is to be signed and put first; by Signer, or by the new
	// CA when that is nil.
	NewLeaf bool
	Signer  *Authority
	// Why, for the log.
	Why []string
}

// Next decides what is to be done about the Secret.
func Next(s State) Step {
	st := Step{}
	say := func(format string, args ...any) { st.Why = append(st.Why, fmt.Sprintf(format, args...)) }

	// What has ended goes.
	for _, a := range s.Stored.Authorities {
		if !s.Now.Before(a.Cert.NotAfter) {
			say("a CA has expired")
			continue
		}
		st.Authorities = append(st.Authorities, a)
	}
	for _, l := range s.Stored.Leaves {
		if s.Now.Before(l.Leaf.NotAfter) {
			st.Leaves = append(st.Leaves, l)
		}
	}
	if lost := s.lostAuthorities(st.Authorities); len(lost) > 0 {
		// The Secret was damaged while we serve. What is trusted stays so until
		// it expires.
		say("the CA of the certificate in use is missing from the Secret")
		st.Authorities = append(st.Authorities, lost...)
	}

	// A CA that can sign, and is not about to end.
	newest := slices.IndexFunc(st.Authorities, func(a *Authority) bool { return a.CanSign() && within(a.Cert, s.Now) })
	switch {
	case newest < 0:
		say("there is no CA that can sign")
		st.NewAuthority = true
	case !s.Now.Before(renewAt(st.Authorities[newest].Cert, s.Policy)):
		say("the CA is due for renewal")
		st.NewAuthority = true
	}

	// Who may sign: the newest that is trusted everywhere.
	settled := slices.IndexFunc(st.Authorities, func(a *Authority) bool {
		return a.CanSign() && within(a.Cert, s.Now) && s.settled(a)
	})
	if settled >= 0 {
		st.Signer = st.Authorities[settled]
		for i, a := range st.Authorities[settled+1:] {
			if a.CanSign() {
				say("a newer CA is trusted everywhere, the old key goes")
				st.Authorities[settled+1+i] = &Authority{Cert: a.Cert}
			}
		}
	}

	usable := slices.IndexFunc(st.Leaves, func(l *Pair) bool {
		return l.validAt(s.Now) && l.covers(s.Names) && signedByAny(st.Authorities, l)
	})
	switch {
	case usable < 0:
		// Nothing can be served by a process that starts now, trusted or not:
		// there is nothing to wait for.
		say("there is no usable serving certificate")
		st.NewLeaf = true
		if st.Signer == nil && !st.NewAuthority {
			st.Signer = st.Authorities[newest]
		}
	case st.Signer == nil:
		// Whatever was signed now would not be trusted. Publishing comes first.
	case !s.Now.Before(renewAt(st.Leaves[usable].Leaf, s.Policy)):
		// A leaf that ends with its CA cannot be made longer by the same CA.
		if st.Signer.signed(st.Leaves[usable].Leaf) && !st.Leaves[usable].Leaf.NotAfter.Before(st.Signer.Cert.NotAfter) {
			break
		}
		say("the serving certificate is due for renewal")
		st.NewLeaf = true
	case !trustedByAll(st.Leaves[usable], s.Bundles, s.ServerName, s.Now) && !st.Signer.signed(st.Leaves[usable].Leaf):
		say("the serving certificate is not trusted, one by the current CA would be")
		st.NewLeaf = true
	}
	if !st.NewLeaf {
		st.Signer = nil
	}
	keep := 2
	if st.NewLeaf {
		keep = 1
	}
	if len(st.Leaves) > keep {
		st.Leaves = st.Leaves[:keep]
	}
	st.Change = st.NewAuthority || st.NewLeaf || len(st.Why) > 0
	return st
}

// settled says whether all live caBundles have held the CA for long enough.
// Where nobody calls yet there is nobody to wait for.
func (s *State) settled(a *Authority) bool {
	if len(s.Bundles) == 0 {
		return true
	}
	since, ok := s.TrustedSince[fingerprintOf(a.Cert)]
	return ok && s.Now.Sub(since) >= s.Policy.Settle && inAll(a, s.Bundles)
}

// lostAuthorities are the CAs of the live caBundles that the given ones lack,
// when the CA of the leaf in use is among them: the Secret has been damaged, and
// other replicas may serve leaves of any of them.
func (s *State) lostAuthorities(have []*Authority) []*Authority {
	if s.Serving == nil || !s.Serving.validAt(s.Now) || signedByAny(have, s.Serving) {
		return nil
	}
	var lost []*Authority
	seen := map[fingerprint]bool{}
	for _, a := range have {
		seen[fingerprintOf(a.Cert)] = true
	}
	for _, b := range s.Bundles {
		for _, c := range parseCertificates(b) {
			if f := fingerprintOf(c); c.IsCA && within(c, s.Now) && !seen[f] {
				seen[f] = true
				lost = append(lost, &Authority{Cert: c})
			}
		}
	}
	if !signedByAny(lost, s.Serving) {
		return nil
	}
	return lost
}

func signedByAny(as []*Authority, p *Pair) bool {
	return slices.ContainsFunc(as, func(a *Authority) bool { return a.signed(p.Leaf) })
}

func inAll(a *Authority, bundles [][]byte) bool {
	return !slices.ContainsFunc(bundles, func(b []byte) bool { return !a.in(b) })
}

func trustedByAll(p *Pair, bundles [][]byte, serverName string, now time.Time) bool {
	return !slices.ContainsFunc(bundles, func(b []byte) bool { return p.trustedBy(b, serverName, now) != nil })
}

// carryOut makes what a Step asks for and returns the Material to store.
func (st Step) carryOut(s State) (Material, error) {
	m := Material{Authorities: st.Authorities, Leaves: st.Leaves}
	if st.NewAuthority {
		a, err := newAuthority(s.Policy, s.Now)
		if err != nil {
			return m, err
		}
		m.Authorities = append([]*Authority{a}, m.Authorities...)
	}
	if st.NewLeaf {
		signer := st.Signer
		if signer == nil {
			signer = m.Authorities[0]
		}
		l, err := signer.sign(s.Policy, s.Names, s.Now)
		if err != nil {
			return m, err
		}
		m.Leaves = append([]*Pair{l}, m.Leaves...)
	}
	return m, nil
}

// Live is what the API server trusts, for Choose.
type Live struct {
	Now    time.Time
	Policy Policy
	// ServerName is what the API server asks for.
	ServerName string
	// Bundles and TrustedSince as in State.
	Bundles      [][]byte
	TrustedSince map[fingerprint]time.Time
}

// settledBundle are the CAs that all live caBundles have held for long enough.
func (l *Live) settledBundle() []byte {
	if len(l.Bundles) == 0 {
		return nil
	}
	var as []*Authority
	for _, c := range parseCertificates(l.Bundles[0]) {
		if since, ok := l.TrustedSince[fingerprintOf(c)]; ok && l.Now.Sub(since) >= l.Policy.Settle {
			as = append(as, &Authority{Cert: c})
		}
	}
	return bundleOf(as)
}

// Choose picks the leaf to serve: of those that are valid and for the server
// name, one that the most live caBundles verify; among equals one whose trust
// has settled; among those the newest, and the first of equally new ones. So
// whenever some leaf is trusted by all, only such a leaf is served, a leaf that
// no API server can be expected to trust yet waits while there is another, and
// a caBundle that somebody has broken costs no other webhook. nil when none is
// valid. The error says what is not as it should be with the choice: no webhook
// is registered, or one does not trust it.
func Choose(leaves []*Pair, l Live) (*Pair, error) {
	settled := l.settledBundle()
	var best *Pair
	most := -1
	for _, p := range leaves {
		if p == nil || !p.validAt(l.Now) || p.Leaf.VerifyHostname(l.ServerName) != nil {
			continue
		}
		rank := 0
		verified := map[string]bool{} // Mostly all bundles are the same.
		verifies := func(bundle []byte) bool {
			ok, known := verified[string(bundle)]
			if !known {
				ok = p.trustedBy(bundle, l.ServerName, l.Now) == nil
				verified[string(bundle)] = ok
			}
			return ok
		}
		for _, b := range l.Bundles {
			if verifies(b) {
				rank += 2
			}
		}
		if len(settled) > 0 && verifies(settled) {
			rank++
		}
		if rank > most || rank == most && p.Leaf.NotBefore.After(best.Leaf.NotBefore) {
			best, most = p, rank
		}
	}
	if best == nil {
		return nil, fmt.Errorf("there is no valid certificate for %s", l.ServerName)
	}
	if len(l.Bundles) == 0 {
		return best, errors.New("no webhook is registered")
	}
	for i, b := range l.Bundles {
		if err := best.trustedBy(b, l.ServerName, l.Now); err != nil {
			return best, fmt.Errorf("the caBundle of webhook %d of %d does not verify the certificate: %w", i+1, len(l.Bundles), err)
		}
	}
	return best, nil
}
