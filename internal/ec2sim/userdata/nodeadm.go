package userdata

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/netip"
	"slices"
	"strings"

	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

const (
	nodeConfigAPIVersion = "node.eks.aws/v1alpha1"
	nodeConfigMediaType  = "application/node.eks.aws"
	// maxDocument bounds what a compressed document may unpack to. EC2 takes
	// 16 KiB of user data.
	maxDocument = 1 << 20
)

// nodeConfig is the NodeConfig document (awslabs/amazon-eks-ami,
// nodeadm/api/v1alpha1). Members that have no effect on the simulated node are
// here so that they are known, and kept raw.
type nodeConfig struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   json.RawMessage `json:"metadata,omitempty"`
	Spec       struct {
		Cluster struct {
			Name                 string `json:"name,omitempty"`
			APIServerEndpoint    string `json:"apiServerEndpoint,omitempty"`
			CertificateAuthority []byte `json:"certificateAuthority,omitempty"`
			CIDR                 string `json:"cidr,omitempty"`
			EnableOutpost        *bool  `json:"enableOutpost,omitempty"`
			ID                   string `json:"id,omitempty"`
		} `json:"cluster,omitempty"`
		Containerd json.RawMessage `json:"containerd,omitempty"`
		Instance   struct {
			LocalStorage struct {
				Strategy       string   `json:"strategy,omitempty"`
				MountPath      string   `json:"mountPath,omitempty"`
				DisabledMounts []string `json:"disabledMounts,omitempty"`
			} `json:"localStorage,omitempty"`
			Storage     json.RawMessage `json:"storage,omitempty"`
			Environment json.RawMessage `json:"environment,omitempty"`
			Network     json.RawMessage `json:"network,omitempty"`
		} `json:"instance,omitempty"`
		Kubelet struct {
			Config map[string]any `json:"config,omitempty"`
			Flags  []string       `json:"flags,omitempty"`
		} `json:"kubelet,omitempty"`
		FeatureGates map[string]bool `json:"featureGates,omitempty"`
	} `json:"spec,omitempty"`
}

func parseNodeadm(data []byte) (*Config, error) {
	data, err := unwrap(data)
	if err != nil {
		return nil, err
	}
	docs, err := nodeConfigParts(data)
	if err != nil {
		return nil, err
	}
	if len(docs) == 0 {
		return nil, errors.New("could not find NodeConfig within UserData")
	}
	merged, err := decodeNodeConfig(docs[0])
	if err != nil {
		return nil, err
	}
	for _, doc := range docs[1:] {
		next, err := decodeNodeConfig(doc)
		if err != nil {
			return nil, err
		}
		merged.merge(next)
	}
	return merged.config()
}

// unwrap undoes base64 and gzip, either of which nodeadm accepts.
func unwrap(data []byte) ([]byte, error) {
	trimmed := bytes.TrimSpace(data)
	if decoded, err := base64.StdEncoding.DecodeString(string(trimmed)); err == nil && len(decoded) > 0 {
		data = decoded
	}
	if !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		return data, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("failed to decompress user data: %w", err)
	}
	data, err = io.ReadAll(io.LimitReader(z, maxDocument))
	if err != nil {
		return nil, fmt.Errorf("failed to decompress user data: %w", err)
	}
	return data, nil
}

// nodeConfigParts returns the NodeConfig documents of MIME user data in order.
// User data that is not multipart MIME is a NodeConfig itself. Parts of other
// types (shell scripts, cloud-config) are cloud-init's business.
func nodeConfigParts(data []byte) ([][]byte, error) {
	msg, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		return [][]byte{data}, nil
	}
	mediaType, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(mediaType, "multipart/") {
		return [][]byte{data}, nil
	}
	if params["boundary"] == "" {
		return nil, errors.New("the MIME document has no boundary")
	}
	var docs [][]byte
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the MIME document: %w", err)
		}
		header := part.Header.Get("Content-Type")
		if header == "" {
			continue
		}
		partType, _, err := mime.ParseMediaType(header)
		if err != nil {
			return nil, fmt.Errorf("a part's Content-Type: %w", err)
		}
		if partType != nodeConfigMediaType {
			continue
		}
		doc, err := io.ReadAll(io.LimitReader(part, maxDocument))
		if err != nil {
			return nil, fmt.Errorf("reading the MIME document: %w", err)
		}
		if doc, err = unwrap(doc); err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
}

func decodeNodeConfig(doc []byte) (*nodeConfig, error) {
	var c nodeConfig
	text, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return nil, fmt.Errorf("decoding NodeConfig: %w", err)
	}
	if err := strict(text, &c); err != nil {
		return nil, fmt.Errorf("decoding NodeConfig: %w", err)
	}
	if c.APIVersion != nodeConfigAPIVersion || c.Kind != "NodeConfig" {
		return nil, fmt.Errorf("decoding NodeConfig: no kind %q is registered for version %q, want NodeConfig of %s", c.Kind, c.APIVersion, nodeConfigAPIVersion)
	}
	return &c, nil
}

// strict decodes as Kubernetes does: names are case-sensitive, and an unknown
// or repeated one is an error.
func strict(text []byte, to any) error {
	unknown, err := kjson.UnmarshalStrict(text, to)
	if err != nil {
		return err
	}
	return errors.Join(unknown...)
}

// merge lays next over c as nodeadm does (internal/api/merge.go): what is set
// overrides, flags are appended, the kubelet's config is merged by key.
func (c *nodeConfig) merge(next *nodeConfig) {
	over := func(to *string, from string) {
		if from != "" {
			*to = from
		}
	}
	to, from := &c.Spec.Cluster, &next.Spec.Cluster
	over(&to.Name, from.Name)
	over(&to.APIServerEndpoint, from.APIServerEndpoint)
	over(&to.CIDR, from.CIDR)
	over(&to.ID, from.ID)
	if len(from.CertificateAuthority) > 0 {
		to.CertificateAuthority = from.CertificateAuthority
	}
	if from.EnableOutpost != nil {
		to.EnableOutpost = from.EnableOutpost
	}
	over(&c.Spec.Instance.LocalStorage.Strategy, next.Spec.Instance.LocalStorage.Strategy)
	c.Spec.Kubelet.Flags = append(c.Spec.Kubelet.Flags, next.Spec.Kubelet.Flags...)
	if c.Spec.Kubelet.Config == nil {
		c.Spec.Kubelet.Config = map[string]any{}
	}
	mergeMaps(c.Spec.Kubelet.Config, next.Spec.Kubelet.Config)
	if c.Spec.FeatureGates == nil {
		c.Spec.FeatureGates = map[string]bool{}
	}
	maps.Copy(c.Spec.FeatureGates, next.Spec.FeatureGates)
}

func mergeMaps(to, from map[string]any) {
	for k, v := range from {
		sub, isMap := v.(map[string]any)
		have, hasMap := to[k].(map[string]any)
		if isMap && hasMap {
			mergeMaps(have, sub)
			continue
		}
		to[k] = v
	}
}

// config checks the merged document (nodeadm, internal/api/validation.go) and
// applies the kubelet's config and flags, flags last.
func (c *nodeConfig) config() (*Config, error) {
	cluster := c.Spec.Cluster
	switch {
	case cluster.Name == "":
		return nil, errors.New("cluster configuration: name is missing")
	case cluster.APIServerEndpoint == "":
		return nil, errors.New("cluster configuration: apiServerEndpoint is missing")
	case len(cluster.CertificateAuthority) == 0:
		return nil, errors.New("cluster configuration: certificateAuthority is missing")
	case cluster.CIDR == "":
		return nil, errors.New("cluster configuration: cidr is missing")
	}
	if _, err := netip.ParsePrefix(cluster.CIDR); err != nil {
		return nil, fmt.Errorf("the cluster's CIDR: %w", err)
	}
	strategy := c.Spec.Instance.LocalStorage.Strategy
	if !slices.Contains([]string{"", "RAID0", "RAID10", "Mount"}, strategy) {
		return nil, fmt.Errorf("unknown local storage strategy %q", strategy)
	}
	out := &Config{
		ClusterName: cluster.Name, Endpoint: cluster.APIServerEndpoint, CA: cluster.CertificateAuthority,
		Labels: map[string]string{}, LocalStorage: strategy,
	}
	if err := out.applyKubeletConfig(c.Spec.Kubelet.Config); err != nil {
		return nil, fmt.Errorf("the kubelet's config: %w", err)
	}
	if err := out.applyFlags(c.Spec.Kubelet.Flags); err != nil {
		return nil, fmt.Errorf("the kubelet's flags: %w", err)
	}
	return out, nil
}

// applyKubeletConfig reads the part of a KubeletConfiguration that shapes the
// Node. A key that KubeletConfiguration does not have is an error.
func (c *Config) applyKubeletConfig(raw map[string]any) error {
	if len(raw) == 0 {
		return nil
	}
	text, err := json.Marshal(raw)
	if err != nil {
		return err
	}
	var k kubeletv1beta1.KubeletConfiguration
	if err := strict(text, &k); err != nil {
		return err
	}
	if k.MaxPods != 0 {
		c.MaxPods = &k.MaxPods
	}
	c.PodsPerCore = k.PodsPerCore
	c.ClusterDNS = k.ClusterDNS
	c.KubeReserved, c.SystemReserved, c.EvictionHard = k.KubeReserved, k.SystemReserved, k.EvictionHard
	for _, t := range k.RegisterWithTaints {
		t, err := checkTaint(t)
		if err != nil {
			return err
		}
		if c.Taints, err = addTaint(c.Taints, t); err != nil {
			return err
		}
	}
	return nil
}
