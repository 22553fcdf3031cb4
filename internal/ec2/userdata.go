package ec2

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// maxUserData is how much user data EC2 takes, before base64 ("Run commands
// when you launch an EC2 instance").
const maxUserData = 16 << 10

// mediaNodeConfig is the type of a part that nodeadm reads (awslabs/amazon-eks-ami).
const mediaNodeConfig = "application/node.eks.aws"

// bootstrap is all that an instance must be told to become a node. Of what is in
// it only kubelet.maxPods may depend on the instance type, which EC2 chooses:
// types that differ in it have launch templates of their own.
type bootstrap struct {
	clusterName, endpoint, ca, serviceCIDR string
	labels                                 map[string]string
	taints                                 []corev1.Taint
	kubelet                                v1alpha1.Kubelet
	user                                   string
}

// bootstrap of the nodes of a Provisioner.
func (c *Cloud) bootstrap(provisioner string, t *v1alpha1.NodeTemplate) bootstrap {
	b := bootstrap{
		clusterName: c.cfg.ClusterName, endpoint: c.cfg.ClusterEndpoint, ca: c.cfg.ClusterCA, serviceCIDR: c.cfg.ServiceCIDR,
		labels: kubeletLabels(t.Labels),
		user:   t.EC2.UserData,
	}
	b.labels[v1alpha1.LabelProvisioner] = provisioner
	b.taints = slices.Concat(t.Taints, t.StartupTaints,
		[]corev1.Taint{{Key: v1alpha1.TaintUnregistered, Effect: corev1.TaintEffectNoSchedule}})
	if t.Kubelet != nil {
		b.kubelet = *t.Kubelet
	}
	return b
}

// userData writes the document that an image of the family understands.
func userData(f v1alpha1.AMIFamily, b bootstrap) (string, error) {
	var doc string
	var err error
	if f != v1alpha1.AMIFamilyCustom {
		if err := b.checkReserved(); err != nil {
			return "", err
		}
	}
	switch f {
	case v1alpha1.AMIFamilyAL2023:
		doc, err = al2023UserData(b)
	case v1alpha1.AMIFamilyBottlerocket:
		doc, err = bottlerocketUserData(b)
	case v1alpha1.AMIFamilyCustom:
		doc = b.user
	default:
		return "", fmt.Errorf("unknown amiFamily %q", f)
	}
	if err != nil {
		return "", err
	}
	if len(doc) > maxUserData {
		return "", fmt.Errorf("user data is %d bytes with Berth's part; EC2 takes %d: shorten ec2.userData", len(doc), maxUserData)
	}
	return doc, nil
}

// kubeletLabels are the labels that a kubelet may give its own node: the rest
// would be refused by the kubelet (--node-labels) or by the NodeRestriction
// admission plugin. Berth adds those when the node registers.
func kubeletLabels(labels map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range labels {
		if kubeletMayLabel(k) {
			out[k] = v
		}
	}
	return out
}

// kubeletMayLabel is the rule of k8s.io/kubelet's IsKubeletLabel: outside of
// kubernetes.io and k8s.io everything, inside of them what is listed.
func kubeletMayLabel(key string) bool {
	prefix, _, hasPrefix := strings.Cut(key, "/")
	if !hasPrefix {
		return true
	}
	within := func(domain string) bool { return prefix == domain || strings.HasSuffix(prefix, "."+domain) }
	if within("kubelet.kubernetes.io") || within("node.kubernetes.io") {
		return true
	}
	return !within("kubernetes.io") && !within("k8s.io")
}

// nodeLabels is the value of --node-labels.
func (b bootstrap) nodeLabels() (string, error) {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(b.labels)) {
		v := b.labels[k]
		if errs := append(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)...); len(errs) > 0 {
			return "", fmt.Errorf("label %q=%q: %s", k, v, strings.Join(errs, "; "))
		}
		parts = append(parts, k+"="+v)
	}
	return strings.Join(parts, ","), nil
}

// checkTaints reports taints that a kubelet would not start with.
func (b bootstrap) checkTaints() error {
	for _, t := range b.taints {
		if errs := append(validation.IsQualifiedName(t.Key), validation.IsValidLabelValue(t.Value)...); len(errs) > 0 {
			return fmt.Errorf("taint %q=%q: %s", t.Key, t.Value, strings.Join(errs, "; "))
		}
	}
	return nil
}

// checkReserved reports reservations that a kubelet would not start with.
func (b bootstrap) checkReserved() error {
	for _, list := range []struct {
		name    string
		amounts corev1.ResourceList
	}{{"systemReserved", b.kubelet.SystemReserved}, {"kubeReserved", b.kubelet.KubeReserved}} {
		for _, k := range slices.Sorted(maps.Keys(list.amounts)) {
			if q := list.amounts[k]; q.Sign() < 0 {
				return fmt.Errorf("kubelet.%s[%s]: %s is negative", list.name, k, q.String())
			}
		}
	}
	return nil
}

// registerWithTaints is the value of --register-with-taints.
func (b bootstrap) registerWithTaints() string {
	parts := make([]string, 0, len(b.taints))
	for _, t := range b.taints {
		parts = append(parts, t.ToString())
	}
	return strings.Join(parts, ",")
}

// evictionHard is the whole map: the kubelet replaces its defaults by whatever
// map it is given, so those that are not overridden are repeated. The defaults
// are the kubelet's and those of EKS's images.
func (b bootstrap) evictionHard() map[string]string {
	if len(b.kubelet.EvictionHard) == 0 {
		return nil
	}
	out := map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%"}
	for signal, t := range b.kubelet.EvictionHard {
		out[signal] = string(t)
	}
	return out
}

// amounts writes a resource list as the kubelet reads it.
func amounts(list corev1.ResourceList) map[string]string {
	if len(list) == 0 {
		return nil
	}
	out := make(map[string]string, len(list))
	for k, v := range list {
		out[string(k)] = v.String()
	}
	return out
}

// nodeConfig is the part of nodeadm's NodeConfig, node.eks.aws/v1alpha1, that
// Berth writes.
type nodeConfig struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Spec       nodeConfigSpec `json:"spec"`
}

type nodeConfigSpec struct {
	Cluster struct {
		Name                 string `json:"name"`
		APIServerEndpoint    string `json:"apiServerEndpoint"`
		CertificateAuthority string `json:"certificateAuthority"`
		CIDR                 string `json:"cidr"`
	} `json:"cluster"`
	Kubelet struct {
		Config kubeletConfig `json:"config"`
		Flags  []string      `json:"flags"`
	} `json:"kubelet"`
}

// kubeletConfig is the part of KubeletConfiguration that a Provisioner sets.
type kubeletConfig struct {
	MaxPods        *int32            `json:"maxPods,omitempty"`
	PodsPerCore    *int32            `json:"podsPerCore,omitempty"`
	SystemReserved map[string]string `json:"systemReserved,omitempty"`
	KubeReserved   map[string]string `json:"kubeReserved,omitempty"`
	EvictionHard   map[string]string `json:"evictionHard,omitempty"`
	ClusterDNS     []string          `json:"clusterDNS,omitempty"`
}

// al2023UserData is a MIME document: the user's parts in their order, then
// Berth's NodeConfig. nodeadm merges NodeConfigs in order, so Berth's is last.
func al2023UserData(b bootstrap) (string, error) {
	parts, err := mimeParts(b.user)
	if err != nil {
		return "", fmt.Errorf("ec2.userData: %w", err)
	}
	config, err := al2023NodeConfig(b, reservesMemory(parts))
	if err != nil {
		return "", err
	}
	return writeMIME(append(parts, mimePart{header: textproto.MIMEHeader{"Content-Type": {mediaNodeConfig}}, body: config})), nil
}

// reservesMemory reports whether a NodeConfig of the user's says how much memory
// the kubelet keeps.
func reservesMemory(parts []mimePart) bool {
	for _, p := range parts {
		if t, _, _ := mime.ParseMediaType(p.header.Get("Content-Type")); t != mediaNodeConfig {
			continue
		}
		var c struct {
			Spec struct {
				Kubelet struct {
					Config struct {
						KubeReserved map[string]any `json:"kubeReserved"`
					} `json:"config"`
				} `json:"kubelet"`
			} `json:"spec"`
		}
		// What cannot be read here, nodeadm will complain of.
		if err := yaml.Unmarshal(p.body, &c); err == nil && c.Spec.Kubelet.Config.KubeReserved[string(corev1.ResourceMemory)] != nil {
			return true
		}
	}
	return false
}

// kubeReserved is what nodeadm is told of kube-reserved; it adds its own values
// of the other resources. nodeadm reserves memory for the pods that the image
// would run by itself, on large types for many more than maxPods, so that the
// amount is said with the number. elsewhere: the user's part says it.
func (b bootstrap) kubeReserved(elsewhere bool) map[string]string {
	out := amounts(b.kubelet.KubeReserved)
	if _, said := out[string(corev1.ResourceMemory)]; said || elsewhere || b.kubelet.MaxPods == nil {
		return out
	}
	if out == nil {
		out = map[string]string{}
	}
	out[string(corev1.ResourceMemory)] = fmt.Sprintf("%dMi", capacity.ReservedMemory(int64(*b.kubelet.MaxPods))>>20)
	return out
}

// al2023NodeConfig is Berth's own part. reserved: the user's parts say how much
// memory the kubelet keeps.
func al2023NodeConfig(b bootstrap, reserved bool) ([]byte, error) {
	labels, err := b.nodeLabels()
	if err != nil {
		return nil, err
	}
	if err := b.checkTaints(); err != nil {
		return nil, err
	}
	c := nodeConfig{APIVersion: "node.eks.aws/v1alpha1", Kind: "NodeConfig"}
	c.Spec.Cluster.Name = b.clusterName
	c.Spec.Cluster.APIServerEndpoint = b.endpoint
	c.Spec.Cluster.CertificateAuthority = b.ca
	c.Spec.Cluster.CIDR = b.serviceCIDR
	c.Spec.Kubelet.Config = kubeletConfig{
		MaxPods: b.kubelet.MaxPods, PodsPerCore: b.kubelet.PodsPerCore,
		SystemReserved: amounts(b.kubelet.SystemReserved), KubeReserved: b.kubeReserved(reserved),
		EvictionHard: b.evictionHard(), ClusterDNS: b.kubelet.ClusterDNS,
	}
	c.Spec.Kubelet.Flags = []string{"--node-labels=" + labels, "--register-with-taints=" + b.registerWithTaints()}
	out, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("writing the NodeConfig: %w", err)
	}
	return out, nil
}

// mimePart is one part of a MIME document, its body as it was written.
type mimePart struct {
	header textproto.MIMEHeader
	body   []byte
}

// mimeParts reads the user's part of the user data: a multipart MIME document,
// or a single document of a kind that cloud-init or nodeadm knows by its
// beginning. Everything else is an error: the instance would silently ignore it.
func mimeParts(user string) ([]mimePart, error) {
	switch {
	case strings.TrimSpace(user) == "":
		return nil, nil
	case strings.HasPrefix(user, "#!"):
		return single("text/x-shellscript", user), nil
	case strings.HasPrefix(user, "#cloud-config"):
		return single("text/cloud-config", user), nil
	}
	var kind struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal([]byte(user), &kind); err == nil && kind.Kind == "NodeConfig" && strings.HasPrefix(kind.APIVersion, "node.eks.aws/") {
		return single(mediaNodeConfig, user), nil
	}
	return multiparts(user)
}

// single is a document of one part.
func single(mediaType, body string) []mimePart {
	return []mimePart{{header: textproto.MIMEHeader{"Content-Type": {mediaType + `; charset="us-ascii"`}}, body: []byte(body)}}
}

// errNotUserData says what user data may be.
var errNotUserData = errors.New("it must be a multipart MIME document, a script (#!), cloud-config (#cloud-config) or a NodeConfig (apiVersion: node.eks.aws/v1alpha1)")

// multiparts reads a multipart MIME document (RFC 2046) to its closing line.
func multiparts(doc string) ([]mimePart, error) {
	m, err := mail.ReadMessage(strings.NewReader(doc))
	if err != nil {
		return nil, errNotUserData
	}
	mediaType, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(mediaType, "multipart/") || params["boundary"] == "" {
		return nil, errNotUserData
	}
	r := multipart.NewReader(m.Body, params["boundary"])
	var parts []mimePart
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("part %d of the MIME document: %w", len(parts)+1, err)
		}
		body, err := io.ReadAll(p)
		if err != nil {
			return nil, fmt.Errorf("part %d of the MIME document: %w", len(parts)+1, err)
		}
		if t := p.Header.Get("Content-Type"); t == "" {
			return nil, fmt.Errorf("part %d of the MIME document has no Content-Type", len(parts)+1)
		} else if _, _, err := mime.ParseMediaType(t); err != nil {
			return nil, fmt.Errorf("part %d of the MIME document: Content-Type %q: %w", len(parts)+1, t, err)
		}
		parts = append(parts, mimePart{header: p.Header, body: body})
	}
	if len(parts) == 0 {
		return nil, errors.New("the MIME document has no parts")
	}
	return parts, nil
}

// writeMIME is a function of its parts alone: the boundary is a hash of them,
// so that equal user data makes equal launch templates.
func writeMIME(parts []mimePart) string {
	var body bytes.Buffer
	hash := sha256.New()
	for _, p := range parts {
		for _, k := range slices.Sorted(maps.Keys(p.header)) {
			fmt.Fprintf(hash, "%q%q", k, p.header[k])
		}
		fmt.Fprintf(hash, "%q", p.body)
	}
	boundary := "BERTH-" + hex.EncodeToString(hash.Sum(nil))[:24]
	fmt.Fprintf(&body, "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"%s\"\n\n", boundary)
	for _, p := range parts {
		fmt.Fprintf(&body, "--%s\n", boundary)
		for _, k := range slices.Sorted(maps.Keys(p.header)) {
			for _, v := range p.header[k] {
				fmt.Fprintf(&body, "%s: %s\n", k, v)
			}
		}
		body.WriteString("\n")
		body.Write(p.body)
		body.WriteString("\n") // Belongs to the boundary, not to the part (RFC 2046, 5.1.1).
	}
	fmt.Fprintf(&body, "--%s--\n", boundary)
	return body.String()
}
