package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// pki is the key material of one cluster. PEM throughout.
type pki struct {
	caCert      []byte
	serverCert  []byte // for kube-apiserver, kube-controller-manager, kube-scheduler
	serverKey   []byte
	serviceKey  []byte // signs service account tokens
	servicePub  []byte
	adminToken  string
	tokenFile   []byte // kube-apiserver's --token-auth-file
	memberToken map[string]string
}

// memberGroup is the group of the control plane's own clients. memberBinding
// makes them cluster administrators: what RBAC grants each controller is not
// what this cluster is for.
//
// They are not in system:masters, because priority and fairness lets that
// group's requests through without any limit.
const memberGroup = "devcluster:members"

const memberBinding = `{
	"apiVersion": "rbac.authorization.k8s.io/v1",
	"kind": "ClusterRoleBinding",
	"metadata": {"name": "` + memberGroup + `"},
	"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
	"subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "` + memberGroup + `"}]
}`

// members are the control plane's own clients. Each has its own name, so that
// logs, metrics and priority and fairness can tell them apart.
var members = []string{"kube-controller-manager", "kube-scheduler", "kwok"}

// newPKI makes new keys. Nothing is kept of the CA's private key.
//
// Clients authenticate with static tokens: a token is found in a map, while a
// client certificate's chain is verified again at every request.
func newPKI(now time.Time) (*pki, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	caTemplate := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "devcluster-ca"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(1, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, caTemplate, caTemplate, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serverTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "devcluster"},
		NotBefore:    caTemplate.NotBefore,
		NotAfter:     caTemplate.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
		IPAddresses:  []net.IP{net.ParseIP(host)},
	}
	serverDER, err := x509.CreateCertificate(rand.Reader, serverTemplate, caTemplate, serverKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	serviceKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}

	k := &pki{
		caCert:      pemBlock("CERTIFICATE", caDER),
		serverCert:  pemBlock("CERTIFICATE", serverDER),
		adminToken:  newToken(),
		memberToken: map[string]string{},
	}
	if k.serverKey, err = pemKey(serverKey); err != nil {
		return nil, err
	}
	if k.serviceKey, err = pemKey(serviceKey); err != nil {
		return nil, err
	}
	servicePub, err := x509.MarshalPKIXPublicKey(serviceKey.Public())
	if err != nil {
		return nil, err
	}
	k.servicePub = pemBlock("PUBLIC KEY", servicePub)

	// token,user,uid,"groups"
	k.tokenFile = fmt.Appendf(nil, "%s,admin,admin,\"system:masters\"\n", k.adminToken)
	for _, name := range members {
		k.memberToken[name] = newToken()
		k.tokenFile = fmt.Appendf(k.tokenFile, "%s,system:%s,%s,%s\n", k.memberToken[name], name, name, memberGroup)
	}
	return k, nil
}

// newToken returns 128 random bits in hex.
func newToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func pemKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pemBlock("PRIVATE KEY", der), nil
}

// kubeconfig returns a kubeconfig file, which holds all it needs (no paths).
// It is JSON, and so YAML. Its clients want nothing compressed: the API server
// would compress each watch event for each watcher, and over loopback that only
// costs.
func kubeconfig(clusterName, server, user, token string, ca []byte) ([]byte, error) {
	type object = map[string]any
	return json.MarshalIndent(object{
		"apiVersion": "v1",
		"kind":       "Config",
		"clusters": []object{{"name": clusterName, "cluster": object{
			"server":                     server,
			"certificate-authority-data": base64.StdEncoding.EncodeToString(ca),
			"disable-compression":        true,
		}}},
		"users": []object{{"name": user, "user": object{"token": token}}},
		"contexts": []object{{"name": clusterName, "context": object{
			"cluster": clusterName, "user": user,
		}}},
		"current-context": clusterName,
	}, "", "  ")
}
