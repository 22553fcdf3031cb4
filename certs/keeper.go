package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Mode is where the serving certificate comes from.
type Mode string

// Modes.
const (
	ModeAuto        Mode = "auto"
	ModeSelf        Mode = "self"
	ModeCertManager Mode = "cert-manager"
	ModeFiles       Mode = "files"
)

const (
	// lookEvery is how often everything is looked at anew. It bounds how long a
	// webhook configuration that somebody has broken stays so, and a machine
	// that wakes from sleep with old certificates.
	lookEvery = 5 * time.Second
	// retryEvery is how soon after a failure, or a write that lost a race.
	retryEvery = time.Second
)

// Publication is what the API server is to be told about trust.
type Publication struct {
	// CABundle as PEM, written by us. Nil leaves the field to others.
	CABundle []byte
	// InjectFrom, namespace/name of a cert-manager Certificate, has cainjector
	// write the bundle.
	InjectFrom string
}

// Trust is what is known of a webhook's clientConfig.
type Trust struct {
	// Webhook is its name.
	Webhook string
	// CABundle in force.
	CABundle []byte
}

// registrar is the way to the webhook configurations.
type registrar interface {
	// Live returns the trust of each webhook that is registered now.
	Live(ctx context.Context) ([]Trust, error)
	// Publish brings the configurations into line. It writes only what differs
	// and may put a write off so as not to fight with somebody. It reports
	// whether it has written.
	Publish(ctx context.Context, p Publication) (bool, error)
}

// discoverer tells what kinds a group version has; discovery.DiscoveryInterface
// is one.
type discoverer interface {
	ServerResourcesForGroupVersion(groupVersion string) (*metav1.APIResourceList, error)
}

// Config is what a Keeper needs.
type Config struct {
	// Mode; required.
	Mode Mode
	// Names, DNS names and IP addresses, that a leaf is for. The first is what
	// the API server asks for. At least one.
	Names []string
	// Webhooks is how many webhooks there are when all is registered; Missing counts
	// from there. At least 1.
	Webhooks int
	// Namespace of the Secrets and cert-manager objects; required but in mode files.
	Namespace string
	// Dir with tls.crt, tls.key and, where the API server's own CAs do not
	// verify them, ca.crt; required in mode files.
	Dir string
	// Client reads and writes without a cache; required but in mode files.
	Client client.Client
	// Registrar; required.
	Registrar registrar
	// Discovery finds cert-manager; required in mode auto.
	Discovery discoverer
	// Policy; zero: DefaultPolicy.
	Policy Policy
	// Clock; nil: time.Now.
	Clock func() time.Time
	Log   logr.Logger
}

// Keeper keeps a serving certificate.
type Keeper struct {
	config Config
	// sources of leaves by mode. Of the goroutine of Run alone, as all but current.
	sources map[Mode]source
	// good is the leaf that is served, to fall back on when its source fails.
	good    *Pair
	since   map[fingerprint]time.Time
	chooser chooser
	lastErr string
	// lacking is what was said last of webhooks that are missing.
	lacking string
	// elsewhere as in look.
	elsewhere []byte
	current   atomic.Pointer[serving]
}

// serving is what handshakes get.
type serving struct {
	cert *tls.Certificate
	leaf *Pair
	// fault says what keeps the leaf from being trusted by anybody; empty for nothing.
	fault string
	// missing is how many webhooks are not registered or do not trust it.
	missing int
	mode    Mode
}

// look is one look at the cluster.
type look struct {
	now    time.Time
	trust  []Trust
	since  map[fingerprint]time.Time
	serves *Pair
	// elsewhere is what stands for an empty caBundle; nil: nothing.
	elsewhere []byte
}

// bundles are the caBundles. Where the API server's own CAs are to verify the leaf,
// in mode files without ca.crt, an empty one stands for those: which they are is not
// known here, so the leaf itself is taken for one of them.
func (l *look) bundles() [][]byte {
	out := make([][]byte, 0, len(l.trust))
	for _, t := range l.trust {
		if len(t.CABundle) == 0 && l.elsewhere != nil {
			t.CABundle = l.elsewhere
		}
		out = append(out, t.CABundle)
	}
	return out
}

// source is a way to come by leaves. A step does what is due and returns the
// leaves that could be served, and what is to be published for them, nil to
// leave that as it is. again asks
// for another look at once: something was written, or a race was lost.
type source interface {
	step(ctx context.Context, l look) (leaves []*Pair, publish *Publication, again bool, err error)
}

// New returns a Keeper that serves nothing until Run has looked once.
func New(c Config) (*Keeper, error) {
	if c.Policy == (Policy{}) {
		c.Policy = DefaultPolicy()
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	switch {
	case len(c.Names) == 0:
		return nil, errors.New("certificates: at least one name is required")
	case c.Webhooks < 1:
		return nil, errors.New("certificates: at least one webhook is required")
	case c.Registrar == nil:
		return nil, errors.New("certificates: Registrar is required")
	case c.Mode == ModeFiles && c.Dir == "":
		return nil, errors.New("certificates: mode files needs a folder")
	case c.Mode != ModeFiles && (c.Client == nil || c.Namespace == ""):
		return nil, fmt.Errorf("certificates: mode %s needs Client and Namespace", c.Mode)
	case c.Mode == ModeAuto && c.Discovery == nil:
		return nil, errors.New("certificates: mode auto needs Discovery")
	}
	for _, n := range c.Names {
		if net.ParseIP(n) == nil && (n == "" || len(n) > 253) {
			return nil, fmt.Errorf("certificates: %q is neither a DNS name nor an IP address", n)
		}
	}
	k := &Keeper{config: c, since: map[fingerprint]time.Time{}}
	k.sources = map[Mode]source{}
	switch c.Mode {
	case ModeSelf, ModeCertManager, ModeAuto:
		k.sources[ModeSelf] = &selfSource{config: c}
		k.sources[ModeCertManager] = &managerSource{config: c}
	case ModeFiles:
		k.sources[ModeFiles] = &fileSource{config: c}
	default:
		return nil, fmt.Errorf("certificates: unknown mode %q; it is one of auto, self, cert-manager and files", c.Mode)
	}
	k.chooser.mode = c.Mode
	if c.Mode == ModeAuto {
		k.chooser.mode = ModeSelf
	}
	return k, nil
}

// GetCertificate is for tls.Config.
func (k *Keeper) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s := k.current.Load()
	if s == nil || s.cert == nil {
		return nil, errors.New("there is no serving certificate yet")
	}
	return s.cert, nil
}

// Ready says why the API server could not make a TLS connection now; nil when
// it could: the leaf is there, has not expired, and is verified by the caBundle
// of some webhook. One that was deleted or broken must not take the others with it:
// those are Missing.
func (k *Keeper) Ready() error {
	s := k.current.Load()
	switch {
	case s == nil || s.cert == nil:
		return errors.New("there is no serving certificate yet")
	case s.fault != "":
		return errors.New(s.fault)
	case !s.leaf.validAt(k.config.Clock()):
		return errors.New("the serving certificate has expired or is not yet valid")
	}
	return nil
}

// Missing is how many of the webhooks are not registered, or do not trust the leaf
// that is served.
func (k *Keeper) Missing() int {
	if s := k.current.Load(); s != nil {
		return s.missing
	}
	return k.config.Webhooks
}

// Left is how long the leaf that is served is still valid; 0 without one.
func (k *Keeper) Left() time.Duration {
	if s := k.current.Load(); s != nil && s.leaf != nil {
		return max(0, s.leaf.Leaf.NotAfter.Sub(k.config.Clock()))
	}
	return 0
}

// Run keeps the certificate until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		again, err := k.step(ctx)
		if ctx.Err() != nil {
			return nil
		}
		k.report(err)
		pause := lookEvery
		if again || err != nil {
			pause = retryEvery
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// report says a failure once, and again when it is another or is over.
func (k *Keeper) report(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == k.lastErr {
		return
	}
	k.lastErr = text
	if err != nil {
		k.config.Log.Error(err, "keeping the serving certificate failed; the last one stays in use")
	} else {
		k.config.Log.Info("keeping the serving certificate works again")
	}
}

// step looks at everything once and does what is due.
func (k *Keeper) step(ctx context.Context) (again bool, err error) {
	trust, err := k.config.Registrar.Live(ctx)
	if err != nil {
		return false, fmt.Errorf("reading the webhook configurations: %w", err)
	}
	l := look{now: k.config.Clock(), trust: trust, serves: k.good, elsewhere: k.elsewhere}
	observe(k.since, l.bundles(), l.now)
	l.since = k.since

	mode := k.chooser.mode
	if k.config.Mode == ModeAuto {
		mode = k.chooser.choose(k.config.Discovery, l.now)
	}
	leaves, publish, again, err := k.sources[mode].step(ctx, l)
	if k.config.Mode == ModeAuto && mode == ModeCertManager && (err != nil || !anyTrusted(leaves, l, k.config.Names[0])) {
		// Not issued yet, not injected yet, or no longer: what we do ourselves
		// holds until then. Trust stays cert-manager's to write once it has issued.
		k.config.Log.V(1).Info("cert-manager is there but its certificate is not in force; serving our own", "error", err)
		own, publishOwn, againOwn, errOwn := k.sources[ModeSelf].step(ctx, l)
		leaves, again = append(leaves, own...), again || againOwn
		if err != nil {
			publish, err, mode = publishOwn, errOwn, ModeSelf
		}
	}
	if err != nil {
		k.serve(nil, l, mode)
		return false, err
	}
	if k.elsewhere = nil; k.config.Mode == ModeFiles && publish != nil && len(publish.CABundle) == 0 && len(leaves) > 0 {
		k.elsewhere = leaves[0].CertPEM
	}
	l.elsewhere = k.elsewhere
	k.serve(leaves, l, mode)
	if publish == nil {
		return again, nil
	}
	wrote, err := k.config.Registrar.Publish(ctx, *publish)
	if err != nil {
		return false, fmt.Errorf("registering the webhooks: %w", err)
	}
	if !wrote {
		return again, nil
	}
	if trust, err = k.config.Registrar.Live(ctx); err != nil {
		return false, fmt.Errorf("reading the webhook configurations: %w", err)
	}
	l.trust = trust
	observe(k.since, l.bundles(), l.now)
	k.serve(leaves, l, mode)
	return again, nil
}

// anyTrusted says whether all live caBundles verify one of the leaves.
func anyTrusted(leaves []*Pair, l look, serverName string) bool {
	return slices.ContainsFunc(leaves, func(p *Pair) bool { return trustedByAll(p, l.bundles(), serverName, l.now) })
}

// observe notes in since, from when on all live caBundles hold a CA.
func observe(since map[fingerprint]time.Time, bundles [][]byte, now time.Time) {
	in := map[fingerprint]bool{}
	if len(bundles) > 0 {
		for _, c := range parseCertificates(bundles[0]) {
			if inAll(&Authority{Cert: c}, bundles) {
				in[fingerprintOf(c)] = true
			}
		}
	}
	for f := range since {
		if !in[f] {
			delete(since, f)
		}
	}
	for f := range in {
		if at, ok := since[f]; !ok || at.After(now) {
			since[f] = now
		}
	}
}

// serve puts the best of the leaves, and of the one in use, into handshakes.
func (k *Keeper) serve(leaves []*Pair, l look, mode Mode) {
	bundles := l.bundles()
	best, err := Choose(append(slices.Clone(leaves), k.good), Live{
		Now: l.now, Policy: k.config.Policy, ServerName: k.config.Names[0], Bundles: bundles, TrustedSince: k.since,
	})
	if err == nil && len(bundles) < k.config.Webhooks {
		err = fmt.Errorf("%d of %d webhooks are registered", len(bundles), k.config.Webhooks)
	}
	s := &serving{mode: mode, missing: k.config.Webhooks}
	if best != nil {
		if !best.equal(k.good) {
			k.config.Log.Info("serving a certificate", "mode", mode, "serial", fmt.Sprintf("%x", best.Leaf.SerialNumber), "until", best.Leaf.NotAfter.UTC().Format(time.RFC3339))
		}
		k.good, s.leaf, s.cert = best, best, &best.tls
		trusting := 0
		for _, b := range bundles {
			if best.trustedBy(b, k.config.Names[0], l.now) == nil {
				trusting++
			}
		}
		s.missing = max(0, k.config.Webhooks-trusting)
	}
	lacking := ""
	switch {
	case err == nil:
	case s.missing < k.config.Webhooks:
		lacking = err.Error()
	default:
		s.fault = err.Error()
	}
	if lacking != k.lacking {
		k.lacking = lacking
		k.config.Log.Info("webhooks that cannot be called", "missing", s.missing, "why", lacking)
	}
	k.current.Store(s)
}
