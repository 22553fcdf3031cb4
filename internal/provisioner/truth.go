package provisioner

import (
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// modelled are the resources whose prediction is measured.
var modelled = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods}

// newModelError makes the metric of how wrong predictions were.
func newModelError() *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "berth", Name: "capacity_model_error_ratio",
		Help: "How far what was expected of the last node of a type to offer pods was above what it offers; 0.01 is 1 % too much, below 0 too little."},
		[]string{"instance_type", "resource"})
}

// learn compares a node that has just become ready with what was expected of
// it, and remembers what the next one of its type and image will have. claim is
// as it was before the node's own figures were stored in it.
func (p *Loops) learn(claim *v1alpha1.NodeClaim, node *corev1.Node) {
	expected, actual := allocatableOf(claim), capacity.FromResourceList(node.Status.Allocatable)
	for _, name := range modelled {
		if actual[name] > 0 && expected[name] > 0 {
			p.metrics.modelError.WithLabelValues(claim.Status.InstanceType, string(name)).Set(float64(expected[name]-actual[name]) / float64(actual[name]))
		}
	}
	if expected[corev1.ResourceMemory] > actual[corev1.ResourceMemory] {
		p.log.Info("a node has less memory than was expected; the next of its type and image will not be overrated", "node", node.Name,
			"type", claim.Status.InstanceType, "image", claim.Status.ImageID, "expected", expected[corev1.ResourceMemory], "actual", actual[corev1.ResourceMemory])
	}
	p.catalogue.learn(claim.Status.InstanceType, claim.Status.ImageID, capacity.FromResourceList(node.Status.Capacity)[corev1.ResourceMemory])
}

// The VPC CNI is a DaemonSet of this name in kube-system, with its settings in
// the environment of its container of the same name ("CNI Configuration
// Variables" in amazon-vpc-cni-k8s).
const (
	cniKey        = "kube-system/aws-node"
	cniContainer  = "aws-node"
	cniPrefixes   = "ENABLE_PREFIX_DELEGATION"
	cniCustomised = "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG"
)

// networking reads how the cluster's CNI gives addresses to pods.
func (p *Loops) networking() capacity.Networking {
	ds, ok := one[*appsv1.DaemonSet](p.stores.daemonSets, cniKey)
	if !ok {
		return capacity.Networking{}
	}
	return networkingOf(ds)
}

func networkingOf(ds *appsv1.DaemonSet) capacity.Networking {
	var net capacity.Networking
	for _, c := range ds.Spec.Template.Spec.Containers {
		if c.Name != cniContainer {
			continue
		}
		for _, e := range c.Env {
			switch {
			case e.Name == cniPrefixes && e.Value == "true":
				net.Prefixes = true
			case e.Name == cniCustomised && e.Value == "true":
				net.ReservedENIs = 1
			}
		}
	}
	return net
}
