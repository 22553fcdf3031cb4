// Package userdata reads the bootstrap documents of EKS machine images the way
// the images do: nodeadm's NodeConfig in MIME on Amazon Linux 2023 (awslabs/
// amazon-eks-ami, nodeadm/internal/configprovider and api), and TOML settings
// on Bottlerocket (bottlerocket.dev, settings.kubernetes). It is stricter where
// the originals ignore what they do not know, so that a wrong document shows.
package userdata

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	kubeletapis "k8s.io/kubelet/pkg/apis"
)

// Family is a line of machine images with a bootstrap document of its own.
type Family string

// The families.
const (
	AL2023       Family = "al2023"
	Bottlerocket Family = "bottlerocket"
)

// Config is what a bootstrap document says of the node that is to come.
type Config struct {
	// ClusterName, Endpoint (a URL) and CA (PEM) say which cluster to join.
	ClusterName, Endpoint string
	CA                    []byte
	// ClusterDNS is what was said explicitly; nil leaves it to the image.
	ClusterDNS []string
	// MaxPods is nil when the image is to choose.
	MaxPods *int32
	// PodsPerCore limits the pods by CPUs; 0 is no limit.
	PodsPerCore int32
	// KubeReserved, SystemReserved and EvictionHard are what the document
	// says, by resource or signal; the image's defaults are not in them.
	KubeReserved, SystemReserved, EvictionHard map[string]string
	Labels                                     map[string]string
	Taints                                     []corev1.Taint
	// LocalStorage is nodeadm's strategy for instance-store disks: empty,
	// RAID0, RAID10 or Mount.
	LocalStorage string
}

// Parse reads the user data of an instance (decoded from EC2's base64). The
// error says what the machine would have said before it gave up.
func Parse(family Family, data []byte) (*Config, error) {
	var c *Config
	var err error
	switch family {
	case AL2023:
		c, err = parseNodeadm(data)
	case Bottlerocket:
		c, err = parseBottlerocket(data)
	default:
		return nil, fmt.Errorf("no bootstrap document is known for the image family %q", family)
	}
	if err != nil {
		return nil, err
	}
	if c.MaxPods != nil && *c.MaxPods <= 0 {
		return nil, fmt.Errorf("maxPods is %d, want at least 1", *c.MaxPods)
	}
	if c.PodsPerCore < 0 {
		return nil, fmt.Errorf("podsPerCore is %d, want at least 0", c.PodsPerCore)
	}
	if err := checkLabels(c.Labels); err != nil {
		return nil, err
	}
	return c, nil
}

// checkLabels refuses what the kubelet refuses at its start
// (cmd/kubelet/app/options, ValidateKubeletFlags): labels under kubernetes.io
// and k8s.io that a kubelet may not set on itself, and malformed ones.
func checkLabels(labels map[string]string) error {
	for key, value := range labels {
		prefix, _, ok := strings.Cut(key, "/")
		if !ok {
			prefix = ""
		}
		reserved := prefix == "kubernetes.io" || strings.HasSuffix(prefix, ".kubernetes.io") || prefix == "k8s.io" || strings.HasSuffix(prefix, ".k8s.io")
		if reserved && !kubeletapis.IsKubeletLabel(key) {
			return fmt.Errorf("unknown 'kubernetes.io' or 'k8s.io' label specified with --node-labels: %s: it must begin with an allowed prefix (%s) or be one of %s",
				key, strings.Join(kubeletapis.KubeletLabelNamespaces(), ", "), strings.Join(kubeletapis.KubeletLabels(), ", "))
		}
		if errs := validation.IsQualifiedName(key); len(errs) > 0 {
			return fmt.Errorf("invalid node label %q: %s", key, strings.Join(errs, "; "))
		}
		if errs := validation.IsValidLabelValue(value); len(errs) > 0 {
			return fmt.Errorf("invalid value %q of node label %q: %s", value, key, strings.Join(errs, "; "))
		}
	}
	return nil
}

// parseTaint reads key[=value]:effect.
func parseTaint(text string) (corev1.Taint, error) {
	keyValue, effect, ok := strings.Cut(text, ":")
	if !ok {
		return corev1.Taint{}, fmt.Errorf("invalid taint %q: want key=value:effect", text)
	}
	key, value, _ := strings.Cut(keyValue, "=")
	return checkTaint(corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
}

func checkTaint(t corev1.Taint) (corev1.Taint, error) {
	if errs := validation.IsQualifiedName(t.Key); len(errs) > 0 {
		return t, fmt.Errorf("invalid taint key %q: %s", t.Key, strings.Join(errs, "; "))
	}
	if errs := validation.IsValidLabelValue(t.Value); len(errs) > 0 {
		return t, fmt.Errorf("invalid taint value %q: %s", t.Value, strings.Join(errs, "; "))
	}
	switch t.Effect {
	case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		return t, nil
	default:
		return t, fmt.Errorf("invalid effect %q of taint %q", t.Effect, t.Key)
	}
}

// addTaint appends a taint unless one of the same key and effect is there,
// which the kubelet refuses.
func addTaint(taints []corev1.Taint, t corev1.Taint) ([]corev1.Taint, error) {
	for _, have := range taints {
		if have.Key == t.Key && have.Effect == t.Effect {
			return nil, fmt.Errorf("duplicated taints with the same key and effect: %s:%s", t.Key, t.Effect)
		}
	}
	return append(taints, t), nil
}
