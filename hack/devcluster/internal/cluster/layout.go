package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// layout names the files in a cluster's folder.
type layout struct{ dir string }

func (l layout) lock() string              { return filepath.Join(l.dir, "lock") }
func (l layout) kubeconfig() string        { return filepath.Join(l.dir, "kubeconfig") }
func (l layout) log(name string) string    { return filepath.Join(l.dir, "logs", name+".log") }
func (l layout) etcdData() string          { return filepath.Join(l.dir, "etcd") }
func (l layout) caCert() string            { return filepath.Join(l.dir, "pki", "ca.crt") }
func (l layout) serverCert() string        { return filepath.Join(l.dir, "pki", "server.crt") }
func (l layout) serverKey() string         { return filepath.Join(l.dir, "pki", "server.key") }
func (l layout) serviceKey() string        { return filepath.Join(l.dir, "pki", "service-account.key") }
func (l layout) servicePub() string        { return filepath.Join(l.dir, "pki", "service-account.pub") }
func (l layout) tokens() string            { return filepath.Join(l.dir, "pki", "tokens.csv") }
func (l layout) member(name string) string { return filepath.Join(l.dir, "pki", name+".kubeconfig") }
func (l layout) schedulerConfig() string   { return filepath.Join(l.dir, "config", "scheduler.json") }
func (l layout) kwokConfig() string        { return filepath.Join(l.dir, "config", "kwok.yaml") }

// owned lists what a cluster creates in its folder, the lock aside. Nothing
// else is ever removed from it.
func (l layout) owned() []string {
	return []string{"etcd", "logs", "pki", "config", "kubeconfig"}
}

// writeFiles writes the keys and configuration that the components read.
// apiServer is kube-apiserver's URL.
func (l layout) writeFiles(c Config, keys *pki, apiServer string) error {
	files := map[string][]byte{
		l.caCert():     keys.caCert,
		l.serverCert(): keys.serverCert,
		l.serverKey():  keys.serverKey,
		l.serviceKey(): keys.serviceKey,
		l.servicePub(): keys.servicePub,
		l.tokens():     keys.tokenFile,
	}
	admin, err := kubeconfig(c.ClusterName, apiServer, "admin", keys.adminToken, keys.caCert)
	if err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	files[l.kubeconfig()] = admin
	for _, name := range members {
		files[l.member(name)], err = kubeconfig(c.ClusterName, apiServer, "system:"+name, keys.memberToken[name], keys.caCert)
		if err != nil {
			return fmt.Errorf("writing the kubeconfig of %s: %w", name, err)
		}
	}
	if files[l.schedulerConfig()], err = json.MarshalIndent(schedulerConfig(l), "", "  "); err != nil {
		return fmt.Errorf("writing the scheduler's configuration: %w", err)
	}
	if files[l.kwokConfig()], err = kwokConfig(); err != nil {
		return fmt.Errorf("writing kwok's configuration: %w", err)
	}
	for path, data := range files {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
