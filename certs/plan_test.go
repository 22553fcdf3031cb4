package certs

import (
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	testNames = []string{"berth-webhook.berth-system.svc", "berth-webhook.berth-system.svc.cluster.local"}
	day0      = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

const day = 24 * time.Hour

func mustAuthority(t testing.TB, at time.Time) *Authority {
	t.Helper()
	a, err := newAuthority(DefaultPolicy(), at)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mustSign(t testing.TB, a *Authority, at time.Time, names ...string) *Pair {
	t.Helper()
	if len(names) == 0 {
		names = testNames
	}
	p, err := a.sign(DefaultPolicy(), names, at)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// sinceForever says that all bundles have held the CAs for a year.
func sinceForever(as ...*Authority) map[fingerprint]time.Time {
	m := map[fingerprint]time.Time{}
	for _, a := range as {
		m[fingerprintOf(a.Cert)] = day0.Add(-365 * day)
	}
	return m
}

func withoutKey(a *Authority) *Authority { return &Authority{Cert: a.Cert} }

func TestNext(t *testing.T) {
	ca, next := mustAuthority(t, day0), mustAuthority(t, day0.Add(490*day))
	leaf := mustSign(t, ca, day0)
	late := day0.Add(491 * day) // The first CA is past two thirds of its life.
	leafThen := mustSign(t, ca, late.Add(-day))
	both := bundleOf([]*Authority{next, ca})
	one := ca.bundle()

	type want struct {
		newCA, newLeaf bool
		signer         *Authority // nil: the new CA, or no leaf
		change         bool
		why            string
		authorities    int
	}
	for name, c := range map[string]struct {
		state State
		want  want
	}{
		"an empty Secret gets a CA and a leaf at once": {
			State{Now: day0},
			want{newCA: true, newLeaf: true, change: true, why: "no CA"},
		},
		"a fresh Secret that all trust is left alone": {
			State{Now: day0.Add(day), Stored: Material{[]*Authority{ca}, []*Pair{leaf}}, Bundles: [][]byte{one, one}, TrustedSince: sinceForever(ca)},
			want{authorities: 1},
		},
		"a leaf past two thirds of its life is renewed by the same CA": {
			State{Now: day0.Add(20 * day), Stored: Material{[]*Authority{ca}, []*Pair{leaf}}, Bundles: [][]byte{one, one}, TrustedSince: sinceForever(ca)},
			want{newLeaf: true, signer: ca, change: true, why: "due for renewal", authorities: 1},
		},
		"a leaf is not renewed by a CA that a caBundle does not hold": {
			State{Now: day0.Add(20 * day), Stored: Material{[]*Authority{ca}, []*Pair{leaf}}, Bundles: [][]byte{one, nil}},
			want{authorities: 1},
		},
		"a leaf for another name is replaced": {
			State{Now: day0.Add(day), Stored: Material{[]*Authority{ca}, []*Pair{mustSign(t, ca, day0, "other.svc")}}, Bundles: [][]byte{one}, TrustedSince: sinceForever(ca)},
			want{newLeaf: true, signer: ca, change: true, why: "no usable", authorities: 1},
		},
		"an expired leaf is replaced although nobody trusts the CA": {
			State{Now: day0.Add(31 * day), Stored: Material{[]*Authority{ca}, []*Pair{leaf}}, Bundles: [][]byte{{}}},
			want{newLeaf: true, signer: ca, change: true, why: "no usable", authorities: 1},
		},
		"a CA past two thirds of its life gets a successor, and the leaf stays": {
			State{Now: late, Stored: Material{[]*Authority{ca}, []*Pair{leafThen}}, Bundles: [][]byte{one, one}, TrustedSince: sinceForever(ca)},
			want{newCA: true, change: true, why: "CA is due", authorities: 1},
		},
		"a successor that is published but has not settled does not sign": {
			State{Now: late, Stored: Material{[]*Authority{next, ca}, []*Pair{leafThen}}, Bundles: [][]byte{both, both},
				TrustedSince: map[fingerprint]time.Time{fingerprintOf(ca.Cert): day0, fingerprintOf(next.Cert): late.Add(-29 * time.Second)}},
			want{authorities: 2},
		},
		"a successor that is missing from one caBundle does not sign a leaf that is due; the old CA does": {
			State{Now: late.Add(20 * day), Stored: Material{[]*Authority{next, ca}, []*Pair{leafThen}}, Bundles: [][]byte{both, one}, TrustedSince: sinceForever(ca)},
			want{newLeaf: true, signer: ca, change: true, why: "due for renewal", authorities: 2},
		},
		"once the successor has settled the old key goes, and the leaf stays until it is due": {
			State{Now: late, Stored: Material{[]*Authority{next, ca}, []*Pair{leafThen}}, Bundles: [][]byte{both, both}, TrustedSince: sinceForever(ca, next)},
			want{change: true, why: "old key goes", authorities: 2},
		},
		"a leaf that is due is signed by the successor that has settled": {
			State{Now: late.Add(20 * day), Stored: Material{[]*Authority{next, withoutKey(ca)}, []*Pair{leafThen}}, Bundles: [][]byte{both, both}, TrustedSince: sinceForever(ca, next)},
			want{newLeaf: true, signer: next, change: true, why: "due for renewal", authorities: 2},
		},
		"an expired CA goes": {
			State{Now: day0.Add(731 * day), Stored: Material{[]*Authority{next, withoutKey(ca)}, []*Pair{mustSign(t, next, day0.Add(730*day))}},
				Bundles: [][]byte{both, both}, TrustedSince: sinceForever(ca, next)},
			want{change: true, why: "has expired", authorities: 1},
		},
		"when the Secret is lost the CA behind the leaf in use stays trusted": {
			State{Now: day0.Add(day), Serving: leaf, Bundles: [][]byte{one, one}, TrustedSince: sinceForever(ca)},
			want{newCA: true, newLeaf: true, change: true, why: "missing from the Secret", authorities: 1},
		},
		"a leaf that is not trusted is replaced by one of a CA that is": {
			State{Now: late, Stored: Material{[]*Authority{next, withoutKey(ca)}, []*Pair{leafThen}}, Bundles: [][]byte{bundleOf([]*Authority{next})}, TrustedSince: sinceForever(next)},
			want{newLeaf: true, signer: next, change: true, why: "not trusted", authorities: 2},
		},
		"a CA without its key is succeeded": {
			State{Now: day0.Add(day), Stored: Material{[]*Authority{withoutKey(ca)}, []*Pair{leaf}}, Bundles: [][]byte{one}, TrustedSince: sinceForever(ca)},
			want{newCA: true, change: true, why: "no CA that can sign", authorities: 1},
		},
		"a clock that went back before the CA began makes one that is valid now": {
			State{Now: day0.Add(-2 * time.Hour), Stored: Material{[]*Authority{ca}, []*Pair{leaf}}, Bundles: [][]byte{one}, TrustedSince: sinceForever(ca)},
			want{newCA: true, newLeaf: true, change: true, why: "no CA that can sign", authorities: 1},
		},
		"a clock that is half an hour behind changes nothing": {
			State{Now: day0.Add(-30 * time.Minute), Stored: Material{[]*Authority{ca}, []*Pair{leaf}}, Bundles: [][]byte{one}, TrustedSince: sinceForever(ca)},
			want{authorities: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.state
			s.Policy, s.Names, s.ServerName = DefaultPolicy(), testNames, testNames[0]
			got := Next(s)
			if got.NewAuthority != c.want.newCA || got.NewLeaf != c.want.newLeaf || got.Change != c.want.change {
				t.Errorf("new CA %v, new leaf %v, change %v (%v); want %v, %v, %v", got.NewAuthority, got.NewLeaf, got.Change, got.Why, c.want.newCA, c.want.newLeaf, c.want.change)
			}
			if (got.Signer == nil) != (c.want.signer == nil) || got.Signer != nil && !got.Signer.Cert.Equal(c.want.signer.Cert) {
				t.Errorf("signer %v, want %v", got.Signer, c.want.signer)
			}
			if why := strings.Join(got.Why, "; "); !strings.Contains(why, c.want.why) {
				t.Errorf("why %q, want %q in it", why, c.want.why)
			}
			if len(got.Authorities) != c.want.authorities {
				t.Errorf("%d authorities stay, want %d", len(got.Authorities), c.want.authorities)
			}
		})
	}
}

func (a *Authority) bundle() []byte { return bundleOf([]*Authority{a}) }

func TestNextDoesNothingTwice(t *testing.T) {
	s := State{Now: day0, Policy: DefaultPolicy(), Names: testNames, ServerName: testNames[0]}
	st := Next(s)
	m, err := st.carryOut(s)
	if err != nil {
		t.Fatal(err)
	}
	s.Stored = m
	if st := Next(s); st.Change {
		t.Errorf("a fresh Secret is changed again: %v", st.Why)
	}
}

func TestChoose(t *testing.T) {
	a, b := mustAuthority(t, day0), mustAuthority(t, day0.Add(time.Minute))
	older, newer := mustSign(t, a, day0), mustSign(t, b, day0.Add(time.Hour))
	now := day0.Add(2 * time.Hour)
	both := bundleOf([]*Authority{a, b})
	fresh := map[fingerprint]time.Time{fingerprintOf(a.Cert): day0, fingerprintOf(b.Cert): now.Add(-time.Second)}
	for name, c := range map[string]struct {
		leaves  []*Pair
		bundles [][]byte
		since   map[fingerprint]time.Time
		now     time.Time
		want    *Pair
		fault   string
	}{
		"the newest that all trust":                                   {[]*Pair{older, newer}, [][]byte{both, both}, sinceForever(a, b), now, newer, ""},
		"the older while one caBundle lacks the newer's CA":           {[]*Pair{newer, older}, [][]byte{both, a.bundle()}, sinceForever(a), now, older, ""},
		"the older while the newer's CA has not settled":              {[]*Pair{newer, older}, [][]byte{both, both}, fresh, now, older, ""},
		"the newer, though not settled, when there is no other":       {[]*Pair{newer}, [][]byte{both, both}, fresh, now, newer, ""},
		"the newer when the older has expired":                        {[]*Pair{older, newer}, [][]byte{both, both}, sinceForever(a, b), day0.Add(30*day + time.Minute), newer, ""},
		"the one that most trust when a caBundle is broken":           {[]*Pair{older, newer}, [][]byte{both, []byte("garbage"), a.bundle()}, nil, now, older, "webhook 2 of 3"},
		"nothing when all have expired":                               {[]*Pair{older, newer}, [][]byte{both}, nil, day0.Add(60 * day), nil, "no valid certificate"},
		"nothing when none is for the name":                           {[]*Pair{mustSign(t, a, day0, "other.svc")}, [][]byte{both}, nil, now, nil, "no valid certificate"},
		"the newest, with a fault, when nobody is registered":         {[]*Pair{older, newer}, nil, nil, now, newer, "no webhook is registered"},
		"the newest, with a fault, when nobody trusts any":            {[]*Pair{older, newer}, [][]byte{nil}, nil, now, newer, "webhook 1 of 1"},
		"the first of the same, so that nothing changes without need": {[]*Pair{older, older}, [][]byte{both}, nil, now, older, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Choose(c.leaves, Live{Now: c.now, Policy: DefaultPolicy(), ServerName: testNames[0], Bundles: c.bundles, TrustedSince: c.since})
			if got != c.want {
				t.Errorf("chose %v, want %v", describe(got), describe(c.want))
			}
			switch {
			case c.fault == "" && err != nil:
				t.Errorf("fault %v, want none", err)
			case c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)):
				t.Errorf("fault %v, want one with %q", err, c.fault)
			}
		})
	}
}

func describe(p *Pair) string {
	if p == nil {
		return "none"
	}
	return p.Leaf.NotBefore.String()
}

func TestCertificatesAreWhatTheDocumentSays(t *testing.T) {
	ca := mustAuthority(t, day0)
	leaf := mustSign(t, ca, day0, "berth-webhook.berth-system.svc", "127.0.0.1")
	for what, c := range map[string]*x509.Certificate{"CA": ca.Cert, "leaf": leaf.Leaf} {
		if !c.NotBefore.Equal(day0.Add(-time.Hour)) {
			t.Errorf("%s begins at %s", what, c.NotBefore)
		}
		if c.SerialNumber.BitLen() < 120 || c.SerialNumber.BitLen() > 128 {
			t.Errorf("%s has a serial of %d bits", what, c.SerialNumber.BitLen())
		}
		if c.PublicKeyAlgorithm != x509.ECDSA {
			t.Errorf("%s has a key of %s", what, c.PublicKeyAlgorithm)
		}
	}
	if life := ca.Cert.NotAfter.Sub(day0); life != 730*day {
		t.Errorf("the CA lives %s", life)
	}
	if life := leaf.Leaf.NotAfter.Sub(day0); life != 30*day {
		t.Errorf("the leaf lives %s", life)
	}
	if err := leaf.trustedBy(ca.bundle(), "127.0.0.1", day0); err != nil {
		t.Errorf("by IP address: %v", err)
	}
	if at := renewAt(leaf.Leaf, DefaultPolicy()); at.After(day0.Add(20*day)) || at.Before(day0.Add(18*day)) {
		t.Errorf("the leaf is renewed at %s", at)
	}
	if other := mustAuthority(t, day0); other.Cert.SerialNumber.Cmp(ca.Cert.SerialNumber) == 0 || other.Cert.Subject.String() == ca.Cert.Subject.String() {
		t.Error("two CAs share serial number or subject")
	}
	old := mustAuthority(t, day0.Add(-725*day))
	if l := mustSign(t, old, day0); l.Leaf.NotAfter.After(old.Cert.NotAfter) {
		t.Error("a leaf outlives its CA")
	}
}

// world is a cluster in which replicas rotate: one Secret, two webhooks, and
// publications that may fail for a while.
type world struct {
	t        *rapid.T
	now      time.Time
	policy   Policy
	secret   *Material
	version  int
	bundles  [2][]byte
	blocked  [2]bool
	since    time.Time // of the blockade
	replicas []*replica
	live     bool // all bundles have been published once
}

type replica struct {
	good  *Pair
	since map[fingerprint]time.Time
}

func (w *world) bundleList() [][]byte {
	if !w.live && w.bundles[0] == nil && w.bundles[1] == nil {
		return nil
	}
	return w.bundles[:]
}

// step is what Keeper.step does with mode self, without a cluster. between
// happens after the Secret was read and before it is written.
func (w *world) step(r *replica, between func()) {
	observe(r.since, w.bundleList(), w.now)
	var stored Material
	if w.secret != nil {
		stored = *w.secret
	}
	version := w.version
	s := State{Now: w.now, Policy: w.policy, Names: testNames, ServerName: testNames[0], Stored: stored, Serving: r.good, Bundles: w.bundleList(), TrustedSince: r.since}
	due := Next(s)
	m := stored
	if due.Change {
		var err error
		if m, err = due.carryOut(s); err != nil {
			w.t.Fatal(err)
		}
		between()
		if w.version != version {
			return // A conflict: look again later.
		}
		w.secret, w.version = &m, w.version+1
	}
	w.choose(r, m.Leaves)
	for i := range w.bundles {
		if !w.blocked[i] {
			w.bundles[i] = m.Bundle()
		}
	}
	w.live = w.live || w.bundles[0] != nil && w.bundles[1] != nil
	observe(r.since, w.bundleList(), w.now)
	w.choose(r, m.Leaves)
}

func (w *world) choose(r *replica, leaves []*Pair) {
	best, _ := Choose(append(slices.Clone(leaves), r.good), Live{Now: w.now, Policy: w.policy, ServerName: testNames[0], Bundles: w.bundleList(), TrustedSince: r.since})
	if best != nil {
		r.good = best
	}
}

// TestNoCallFailsWhileReplicasRotate: whatever the order of looks, lost races,
// restarts, failing publications (for up to a sixth of a leaf's life) and a lost
// Secret, a replica that has once served what all trust never serves anything
// else, and never anything expired.
func TestNoCallFailsWhileReplicasRotate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, now: day0, policy: Policy{CALife: 12 * time.Hour, LeafLife: 6 * time.Hour, Backdate: time.Hour, Settle: time.Minute}}
		for range 2 {
			w.replicas = append(w.replicas, &replica{since: map[fingerprint]time.Time{}})
		}
		check := func() {
			if !w.live {
				return
			}
			for i, r := range w.replicas {
				if r.good == nil {
					continue
				}
				if !r.good.validAt(w.now) {
					t.Fatalf("replica %d serves a leaf of %s to %s at %s", i, r.good.Leaf.NotBefore, r.good.Leaf.NotAfter, w.now)
				}
				for j, b := range w.bundles {
					if j > 0 && string(b) == string(w.bundles[0]) {
						continue
					}
					if err := r.good.trustedBy(b, testNames[0], w.now); err != nil {
						t.Fatalf("replica %d serves what webhook %d does not trust: %v", i, j, err)
					}
				}
			}
		}
		all := func() {
			for _, r := range w.replicas {
				w.step(r, func() {})
			}
		}
		all()
		pass := func(d time.Duration) {
			w.now = w.now.Add(d)
			check() // Nothing may run out before it is looked at.
			if (w.blocked[0] || w.blocked[1]) && w.now.Sub(w.since) > w.policy.LeafLife/6 {
				w.blocked = [2]bool{}
			}
			all()
		}
		for range rapid.IntRange(1, 16).Draw(t, "actions") {
			switch rapid.IntRange(0, 5).Draw(t, "action") {
			case 0, 1:
				pass(time.Duration(rapid.IntRange(1, 40).Draw(t, "minutes")) * time.Minute)
			case 2: // Both look at the same instant.
				a, b := w.replicas[0], w.replicas[1]
				w.step(a, func() { w.step(b, func() {}) })
			case 3:
				if !w.blocked[0] && !w.blocked[1] {
					w.since = w.now
				}
				w.blocked[rapid.IntRange(0, 1).Draw(t, "webhook")] = true
			case 4: // A restart, while the Secret holds what is trusted.
				if slices.ContainsFunc(w.secret.Leaves, func(p *Pair) bool {
					return p.validAt(w.now) && trustedByAll(p, w.bundles[:], testNames[0], w.now)
				}) {
					i := rapid.IntRange(0, 1).Draw(t, "replica")
					w.replicas[i] = &replica{since: map[fingerprint]time.Time{}}
					w.step(w.replicas[i], func() {})
				}
			case 5:
				if trustedByAll(w.replicas[0].good, w.bundles[:], testNames[0], w.now) {
					w.secret, w.version = nil, w.version+1
					all()
				}
			}
			check()
		}
		// Left in peace it renews, leaf and CA.
		w.blocked = [2]bool{}
		ca, leaf := w.replicas[0].good.Leaf.Issuer.String(), w.replicas[0].good
		for range 14 {
			pass(time.Hour)
			check()
		}
		for i, r := range w.replicas {
			if r.good.equal(leaf) || r.good.Leaf.Issuer.String() == ca {
				t.Fatalf("after 14 hours replica %d has not renewed; leaves live 6, CAs 12", i)
			}
		}
	})
}
