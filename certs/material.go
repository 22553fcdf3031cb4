package certs

import (
	"bytes"
	"slices"
)

// Keys of the Secret.
const (
	keyCert         = "tls.crt"
	keyKey          = "tls.key"
	keyPreviousCert = "previous.crt"
	keyPreviousKey  = "previous.key"
	keyCACert       = "ca.crt"
	keyCAKey        = "ca.key"
)

// Material is the content of our Secret.
type Material struct {
	// Authorities, newest first.
	Authorities []*Authority
	// Leaves, newest first; at most two.
	Leaves []*Pair
}

// DecodeMaterial reads a Secret's data. What does not parse is left out, and
// damaged says so: whatever a hand or a disk has done to the Secret, the rest
// is used and the lost part made anew.
func DecodeMaterial(data map[string][]byte) (m Material, damaged bool) {
	keys := parseKeys(data[keyCAKey])
	for _, c := range parseCertificates(data[keyCACert]) {
		if !c.IsCA {
			damaged = true
			continue
		}
		a := &Authority{Cert: c}
		for _, k := range keys {
			if samePublic(k, c) {
				a.key = k
			}
		}
		m.Authorities = append(m.Authorities, a)
	}
	if len(m.Authorities) == 0 && len(data[keyCACert]) > 0 || len(keys) == 0 && len(data[keyCAKey]) > 0 {
		damaged = true
	}
	slices.SortStableFunc(m.Authorities, func(a, b *Authority) int { return b.Cert.NotBefore.Compare(a.Cert.NotBefore) })
	for _, names := range [][2]string{{keyCert, keyKey}, {keyPreviousCert, keyPreviousKey}} {
		cert, key := data[names[0]], data[names[1]]
		if len(cert) == 0 && len(key) == 0 {
			continue
		}
		p, err := ParsePair(cert, key)
		if err != nil {
			damaged = true
			continue
		}
		m.Leaves = append(m.Leaves, p)
	}
	slices.SortStableFunc(m.Leaves, func(a, b *Pair) int { return b.Leaf.NotBefore.Compare(a.Leaf.NotBefore) })
	return m, damaged
}

// Encode is the Secret's data. The error is one of encoding a key.
func (m Material) Encode() (map[string][]byte, error) {
	data := map[string][]byte{keyCACert: m.Bundle()}
	var keys bytes.Buffer
	for _, a := range m.Authorities {
		if a.key == nil {
			continue
		}
		k, err := encodeKey(a.key)
		if err != nil {
			return nil, err
		}
		keys.Write(k)
	}
	data[keyCAKey] = keys.Bytes()
	if len(m.Leaves) > 0 {
		data[keyCert], data[keyKey] = m.Leaves[0].CertPEM, m.Leaves[0].KeyPEM
	}
	if len(m.Leaves) > 1 {
		data[keyPreviousCert], data[keyPreviousKey] = m.Leaves[1].CertPEM, m.Leaves[1].KeyPEM
	}
	return data, nil
}

// Bundle is what the API server is to trust, as PEM.
func (m Material) Bundle() []byte { return bundleOf(m.Authorities) }
