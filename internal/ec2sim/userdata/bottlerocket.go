package userdata

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/BurntSushi/toml"
)

// bottlerocketSettings are the members of settings.kubernetes that have no
// effect on the simulated node (bottlerocket.dev, settings.kubernetes). The
// real API refuses what is neither here nor in bottlerocketDocument.
var bottlerocketSettings = []string{
	"allowed-unsafe-sysctls", "authentication-mode", "bootstrap-token", "cloud-provider", "cluster-domain",
	"container-log-max-files", "container-log-max-size", "container-log-max-workers", "container-log-monitor-interval",
	"cpu-cfs-quota-enforced", "cpu-manager-policy", "cpu-manager-policy-options", "cpu-manager-reconcile-period",
	"credential-providers", "device-ownership-from-security-context", "event-burst", "event-qps", "eviction-max-pod-grace-period",
	"eviction-soft", "eviction-soft-grace-period", "hostname-override", "hostname-override-source", "ids-per-pod",
	"image-gc-high-threshold-percent", "image-gc-low-threshold-percent", "kube-api-burst", "kube-api-qps", "log-level",
	"memory-manager-policy", "memory-manager-reserved-memory", "node-ip", "pod-infra-container-image", "pod-pids-limit",
	"provider-id", "registry-burst", "registry-qps", "reserved-cpus", "seccomp-default", "server-certificate", "server-key",
	"server-tls-bootstrap", "shutdown-grace-period", "shutdown-grace-period-for-critical-pods", "single-process-oom-kill",
	"standalone-mode", "static-pods", "topology-manager-policy", "topology-manager-policy-options", "topology-manager-scope",
}

type bottlerocketDocument struct {
	Settings struct {
		Kubernetes struct {
			APIServer          string            `toml:"api-server"`
			ClusterCertificate string            `toml:"cluster-certificate"`
			ClusterName        string            `toml:"cluster-name"`
			ClusterDNS         any               `toml:"cluster-dns-ip"`
			MaxPods            *int32            `toml:"max-pods"`
			NodeLabels         map[string]string `toml:"node-labels"`
			NodeTaints         map[string]any    `toml:"node-taints"`
			KubeReserved       map[string]string `toml:"kube-reserved"`
			SystemReserved     map[string]string `toml:"system-reserved"`
			EvictionHard       map[string]string `toml:"eviction-hard"`
		} `toml:"kubernetes"`
	} `toml:"settings"`
}

func parseBottlerocket(data []byte) (*Config, error) {
	data, err := unwrap(data)
	if err != nil {
		return nil, err
	}
	var doc bottlerocketDocument
	meta, err := toml.Decode(string(data), &doc)
	if err != nil {
		return nil, fmt.Errorf("decoding the settings: %w", err)
	}
	for _, key := range meta.Undecoded() {
		if key[0] != "settings" {
			return nil, fmt.Errorf("unknown key %q outside [settings]", key.String())
		}
		if len(key) > 2 && key[1] == "kubernetes" && !slices.Contains(bottlerocketSettings, key[2]) {
			return nil, fmt.Errorf("unknown setting %q", key.String())
		}
	}
	k := doc.Settings.Kubernetes
	switch {
	case k.ClusterName == "":
		return nil, errors.New("settings.kubernetes.cluster-name is missing")
	case k.APIServer == "":
		return nil, errors.New("settings.kubernetes.api-server is missing")
	case k.ClusterCertificate == "":
		return nil, errors.New("settings.kubernetes.cluster-certificate is missing")
	}
	c := &Config{
		ClusterName: k.ClusterName, Endpoint: k.APIServer, MaxPods: k.MaxPods, Labels: map[string]string{},
		KubeReserved: k.KubeReserved, SystemReserved: k.SystemReserved, EvictionHard: k.EvictionHard,
	}
	if c.CA, err = base64.StdEncoding.DecodeString(k.ClusterCertificate); err != nil {
		return nil, fmt.Errorf("settings.kubernetes.cluster-certificate: %w", err)
	}
	maps.Copy(c.Labels, k.NodeLabels)
	if c.ClusterDNS, err = stringOrList(k.ClusterDNS); err != nil {
		return nil, fmt.Errorf("settings.kubernetes.cluster-dns-ip: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(k.NodeTaints)) {
		values, err := stringOrList(k.NodeTaints[key])
		if err != nil {
			return nil, fmt.Errorf("settings.kubernetes.node-taints.%q: %w", key, err)
		}
		for _, value := range values {
			// Bottlerocket writes value:effect, with the key apart.
			t, err := parseTaint(key + "=" + value)
			if err != nil {
				return nil, fmt.Errorf("settings.kubernetes.node-taints: %w", err)
			}
			if c.Taints, err = addTaint(c.Taints, t); err != nil {
				return nil, fmt.Errorf("settings.kubernetes.node-taints: %w", err)
			}
		}
	}
	return c, nil
}

// stringOrList reads a setting that may be one string or several.
func stringOrList(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var out []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("%v is not a string", e)
			}
			out = append(out, s)
		}
		return out, nil
	default:
		return nil, fmt.Errorf("%v is neither a string nor a list of strings", v)
	}
}
