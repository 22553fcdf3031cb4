package ec2

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/BurntSushi/toml"
)

// bottlerocketUserData lays Berth's settings over the user's: tables merge,
// values are replaced ("settings.kubernetes" in Bottlerocket's documentation).
func bottlerocketUserData(b bootstrap) (string, error) {
	if b.kubelet.PodsPerCore != nil {
		return "", errors.New("kubelet.podsPerCore: Bottlerocket has no such setting; set kubelet.maxPods")
	}
	if _, err := b.nodeLabels(); err != nil {
		return "", err
	}
	if err := b.checkTaints(); err != nil {
		return "", err
	}
	doc := map[string]any{}
	if err := toml.Unmarshal([]byte(b.user), &doc); err != nil {
		return "", fmt.Errorf("ec2.userData: not TOML: %w", err)
	}
	settings, err := table(doc, "settings")
	if err != nil {
		return "", err
	}
	k, err := table(settings, "kubernetes")
	if err != nil {
		return "", err
	}
	k["cluster-name"] = b.clusterName
	k["api-server"] = b.endpoint
	k["cluster-certificate"] = b.ca

	labels, err := table(k, "node-labels")
	if err != nil {
		return "", err
	}
	for key, value := range b.labels {
		labels[key] = value
	}
	// The user's taints go: a taint that the Provisioner does not name would
	// keep off the pods that the node was bought for.
	taints := map[string][]string{}
	for _, t := range b.taints {
		taints[t.Key] = append(taints[t.Key], t.Value+":"+string(t.Effect))
	}
	k["node-taints"] = taints

	if b.kubelet.MaxPods != nil {
		k["max-pods"] = int64(*b.kubelet.MaxPods)
	}
	if len(b.kubelet.ClusterDNS) > 0 {
		k["cluster-dns-ip"] = b.kubelet.ClusterDNS
	}
	for name, values := range map[string]map[string]string{
		"system-reserved": amounts(b.kubelet.SystemReserved),
		"kube-reserved":   amounts(b.kubelet.KubeReserved),
		"eviction-hard":   b.evictionHard(),
	} {
		if len(values) == 0 {
			continue
		}
		t, err := table(k, name)
		if err != nil {
			return "", err
		}
		for key, value := range values {
			t[key] = value
		}
	}
	var out bytes.Buffer
	enc := toml.NewEncoder(&out)
	enc.Indent = ""
	if err := enc.Encode(doc); err != nil {
		return "", fmt.Errorf("ec2.userData: %w", err)
	}
	return out.String(), nil
}

// table returns the table of that name within another, and makes it where it
// is not there.
func table(in map[string]any, name string) (map[string]any, error) {
	switch t := in[name].(type) {
	case nil:
		out := map[string]any{}
		in[name] = out
		return out, nil
	case map[string]any:
		return t, nil
	default:
		return nil, fmt.Errorf("ec2.userData: %s must be a table", name)
	}
}
