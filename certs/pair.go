package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
)

// Pair is a leaf with its key, and what lies between it and its CA.
type Pair struct {
	// Leaf is the certificate itself.
	Leaf *x509.Certificate
	// CertPEM is the leaf and intermediates, KeyPEM the key.
	CertPEM, KeyPEM []byte
	tls             tls.Certificate
}

// ParsePair reads a leaf (with intermediates) and its key; the key must be the
// leaf's own.
func ParsePair(certPEM, keyPEM []byte) (*Pair, error) {
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	return &Pair{Leaf: c.Leaf, CertPEM: certPEM, KeyPEM: keyPEM, tls: c}, nil
}

// equal says whether both are the same certificate; nil equals nothing.
func (p *Pair) equal(q *Pair) bool { return p != nil && q != nil && p.Leaf.Equal(q.Leaf) }

// validAt says whether the leaf may be served at now.
func (p *Pair) validAt(now time.Time) bool { return within(p.Leaf, now) }

// covers says whether the leaf is for all the names.
func (p *Pair) covers(names []string) bool {
	for _, n := range names {
		if p.Leaf.VerifyHostname(n) != nil {
			return false
		}
	}
	return true
}

// trustedBy says why a client that trusts the bundle alone would refuse the
// leaf for the server name; nil when it would not.
func (p *Pair) trustedBy(bundle []byte, serverName string, now time.Time) error {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return errors.New("caBundle holds no certificate")
	}
	between := x509.NewCertPool()
	for _, der := range p.tls.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	_, err := p.Leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, DNSName: serverName, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

// Authority is a CA; without a key it only verifies what it has signed before.
type Authority struct {
	Cert *x509.Certificate
	key  crypto.Signer
}

// CanSign says whether the key is there.
func (a *Authority) CanSign() bool { return a.key != nil }

// in says whether the bundle holds exactly this CA.
func (a *Authority) in(bundle []byte) bool {
	for _, c := range parseCertificates(bundle) {
		if c.Equal(a.Cert) {
			return true
		}
	}
	return false
}

// signed says whether the leaf is this CA's.
func (a *Authority) signed(leaf *x509.Certificate) bool {
	return leaf.CheckSignatureFrom(a.Cert) == nil
}

// within says whether a certificate is valid at now.
func within(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore) && now.Before(c.NotAfter)
}

// parseCertificates reads all certificates of a PEM file and passes over what
// is none, as TLS clients do.
func parseCertificates(data []byte) []*x509.Certificate {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return out
		}
		if block.Type != pemCertificate || len(block.Headers) != 0 {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, c)
		}
	}
}

// parseKeys reads all signing keys of a PEM file and passes over the rest.
func parseKeys(data []byte) []crypto.Signer {
	var out []crypto.Signer
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return out
		}
		if k, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if s, ok := k.(crypto.Signer); ok {
				out = append(out, s)
			}
		}
	}
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// samePublic says whether a key is the one of a certificate.
func samePublic(key crypto.Signer, c *x509.Certificate) bool {
	k, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(c.PublicKey)
}

// newAuthority makes a CA: ECDSA P-256, valid from Backdate before now.
func newAuthority(p Policy, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a CA key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The serial in the name keeps the subjects of two CAs apart.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("berth-webhook-ca-%x", serial.Bytes()[:4])},
		NotBefore:             now.Add(-p.Backdate),
		NotAfter:              now.Add(p.CALife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making a CA: %w", err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making a CA: %w", err)
	}
	return &Authority{Cert: c, key: key}, nil
}

// sign makes a leaf for the names, which never outlives the CA.
func (a *Authority) sign(p Policy, names []string, now time.Time) (*Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a serving key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	until := now.Add(p.LeafLife)
	if until.After(a.Cert.NotAfter) {
		until = a.Cert.NotAfter
	}
	from := now.Add(-p.Backdate)
	if from.Before(a.Cert.NotBefore) {
		from = a.Cert.NotBefore
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "berth-webhook"},
		NotBefore:    from,
		NotAfter:     until,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("signing a serving certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a serving key: %w", err)
	}
	return ParsePair(encodeCertificate(der), keyPEM)
}

// newSerial is 128 random bits, never 0.
func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	b[0] |= 0x40 // Positive, and of full length.
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b), nil
}

// renewAt is when a certificate is to be replaced: at two thirds of its life
// after it was issued, less up to a twentieth of it that follows from the serial
// number, so that replicas and clusters do not all renew at once and each asks
// at the same time again.
func renewAt(c *x509.Certificate, p Policy) time.Time {
	issued := c.NotBefore.Add(p.Backdate)
	if issued.After(c.NotAfter) {
		return c.NotBefore
	}
	life := c.NotAfter.Sub(issued)
	h := sha256.Sum256(c.SerialNumber.Bytes())
	jitter := life / 20 / 1000 * time.Duration(binary.BigEndian.Uint16(h[:])%1000)
	return issued.Add(life*2/3 - jitter)
}

// bundleOf is the authorities' certificates as PEM.
func bundleOf(as []*Authority) []byte {
	var b bytes.Buffer
	for _, a := range as {
		b.Write(encodeCertificate(a.Cert.Raw))
	}
	return b.Bytes()
}
