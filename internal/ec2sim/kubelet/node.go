// Package kubelet plays the part of a machine's boot and of the kubelet up to
// registration: it turns user data, image and instance type into the Node
// object that the real ones would create, creates it, and lets go of it when
// the machine stops. After registration kwok plays the kubelet.
package kubelet

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/internal/catalog"
	"github.com/berth-dev/berth/internal/ec2sim/userdata"
)

const (
	// AnnotationManaged makes kwok play the kubelet of a node
	// (kwok.sigs.k8s.io, "Manage nodes and pods").
	AnnotationManaged = "kwok.x-k8s.io/node"
	// LabelStopped makes kwok let go of a node: hack/devcluster runs it with
	// the label selector !LabelStopped.
	LabelStopped = "devcluster.berth.dev/kubelet-stopped"
)

// ResourceGPU is what NVIDIA's device plugin calls a GPU.
const ResourceGPU corev1.ResourceName = "nvidia.com/gpu"

// Machine is an instance that has booted, as far as its node depends on it.
type Machine struct {
	InstanceID, NodeName, IP string
	// Zone is the zone's name.
	Zone  string
	Type  *catalog.Type
	Image Image
	// DiskGiB is the size of the volume that holds the kubelet's data: the
	// root volume on Amazon Linux, the data volume on Bottlerocket.
	DiskGiB  int
	UserData []byte
}

// Image is the part of a machine image that shows in the Node.
type Image struct {
	Family userdata.Family
	// NVIDIA images carry the driver, so that the device plugin finds GPUs.
	NVIDIA bool
	// KubeletVersion is for example "v1.37.2-eks-0000000"; OS, Kernel and
	// Runtime are the texts of nodeInfo.
	KubeletVersion, OS, Kernel, Runtime string
}

// Cluster is the cluster that nodes can join.
type Cluster struct {
	Name string
	// Endpoint is the API server's URL.
	Endpoint string
	// CA is the API server's CA in PEM; empty when the way to the cluster
	// does not verify one, and then any is taken.
	CA []byte
}

// BuildNode returns the Node that the machine registers. The error is what
// keeps it from joining, in the words that the machine's console would show.
func BuildNode(m Machine, c Cluster) (*corev1.Node, error) {
	cfg, err := userdata.Parse(m.Image.Family, m.UserData)
	if err != nil {
		return nil, fmt.Errorf("user data: %w", err)
	}
	if err := c.check(cfg); err != nil {
		return nil, err
	}
	res, err := computeResources(m, cfg)
	if err != nil {
		return nil, fmt.Errorf("failed to start kubelet: %w", err)
	}
	labels := map[string]string{
		corev1.LabelHostname:   m.NodeName,
		corev1.LabelOSStable:   "linux",
		corev1.LabelArchStable: goArch(m.Type),
	}
	maps.Copy(labels, cfg.Labels)
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:   m.NodeName,
			Labels: labels,
			Annotations: map[string]string{
				AnnotationManaged: "fake",
				// Set by every kubelet with the default settings.
				"volumes.kubernetes.io/controller-managed-attach-detach": "true",
			},
		},
		Spec: corev1.NodeSpec{ProviderID: ProviderID(m.Zone, m.InstanceID), Taints: cfg.Taints},
		Status: corev1.NodeStatus{
			Capacity:    res.capacity,
			Allocatable: res.allocatable,
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: m.IP},
				{Type: corev1.NodeInternalDNS, Address: m.NodeName},
				{Type: corev1.NodeHostName, Address: m.NodeName},
			},
			NodeInfo: corev1.NodeSystemInfo{
				MachineID: digest(m.InstanceID, "machine"), SystemUUID: "ec2" + digest(m.InstanceID, "system")[3:], BootID: digest(m.InstanceID, "boot"),
				KernelVersion: m.Image.Kernel, OSImage: m.Image.OS, ContainerRuntimeVersion: m.Image.Runtime,
				KubeletVersion: m.Image.KubeletVersion, OperatingSystem: "linux", Architecture: goArch(m.Type),
			},
		},
	}, nil
}

// ProviderID is the id by which the AWS cloud provider knows an instance.
func ProviderID(zone, instanceID string) string {
	return "aws:///" + zone + "/" + instanceID
}

// startConditions are the conditions with which a kubelet registers: not ready
// until the network is there.
func startConditions(now time.Time) []corev1.NodeCondition {
	condition := func(t corev1.NodeConditionType, reason, message string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastHeartbeatTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now)}
	}
	return []corev1.NodeCondition{
		condition(corev1.NodeMemoryPressure, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		condition(corev1.NodeDiskPressure, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		condition(corev1.NodePIDPressure, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
		condition(corev1.NodeReady, "KubeletNotReady", "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"),
	}
}

// stopConditions are what the node controller writes when a kubelet has
// stopped reporting.
func stopConditions(now time.Time) []corev1.NodeCondition {
	conditions := startConditions(now)
	for i := range conditions {
		conditions[i].Status = corev1.ConditionUnknown
		conditions[i].Reason = "NodeStatusUnknown"
		conditions[i].Message = "Kubelet stopped posting node status."
	}
	return conditions
}

// check says why a machine with this configuration cannot reach the cluster.
func (c Cluster) check(cfg *userdata.Config) error {
	if cfg.ClusterName != c.Name {
		return fmt.Errorf("could not authenticate: the user data names cluster %q, this is cluster %q", cfg.ClusterName, c.Name)
	}
	want, err := origin(c.Endpoint)
	if err != nil {
		return fmt.Errorf("the cluster's endpoint: %w", err)
	}
	got, err := origin(cfg.Endpoint)
	if err != nil {
		return fmt.Errorf("the API server endpoint %q: %w", cfg.Endpoint, err)
	}
	if got != want {
		return fmt.Errorf("could not reach the API server: dial %s: no route to host (the cluster is at %s)", got, want)
	}
	if len(c.CA) > 0 && !bytes.Equal(bytes.TrimSpace(cfg.CA), bytes.TrimSpace(c.CA)) {
		return fmt.Errorf("could not trust the API server at %s: x509: certificate signed by unknown authority", got)
	}
	return nil
}

// origin is scheme, host and port of a URL.
func origin(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", err
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return "", fmt.Errorf("%q is not an https URL", text)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port, nil
}

// goArch is the type's architecture in Kubernetes' words.
func goArch(t *catalog.Type) string {
	if slices.Contains(t.Architectures, "arm64") {
		return "arm64"
	}
	return "amd64"
}

func digest(parts ...string) string {
	h := fnv.New128a()
	for _, p := range parts {
		h.Write([]byte(p))
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func quantity(text string) (resource.Quantity, error) {
	q, err := resource.ParseQuantity(text)
	if err != nil {
		return q, fmt.Errorf("%q is not a quantity", text)
	}
	if q.Sign() < 0 {
		return q, fmt.Errorf("%q is negative", text)
	}
	return q, nil
}
