package v1alpha1

import "reflect"

// ClusterTerms select what carries the cluster's tag with any value: the subnets
// and security groups of a Provisioner that names none.
func ClusterTerms(clusterName string) []SelectorTerm {
	return []SelectorTerm{{Tags: map[string]string{TagClusterPrefix + clusterName: "*"}}}
}

// DefaultAlias is the alias of a family's newest image: what a Provisioner gets that
// names no images. Empty where there is none.
func (f AMIFamily) DefaultAlias() string {
	switch f {
	case AMIFamilyAL2023, "":
		return "al2023@latest"
	case AMIFamilyBottlerocket:
		return "bottlerocket@latest"
	default:
		return ""
	}
}

// Complete returns the template with what Berth takes where it says nothing, and
// without what a launch template of one's own replaces. Templates that stand for
// the same nodes are then equal, whether the webhook has completed them or not.
// Without a clusterName, subnets and security groups stay as they are. The result
// shares memory with the template.
func (t NodeTemplate) Complete(clusterName string) NodeTemplate {
	e := &t.EC2
	if e.AMIFamily == "" {
		e.AMIFamily = AMIFamilyAL2023
	}
	m := &e.MetadataOptions
	if e.LaunchTemplate != nil {
		e.SecurityGroups, e.CapacityReservations, *m = nil, nil, MetadataOptions{}
		if t.Kubelet != nil {
			k := *t.Kubelet
			k.ClusterDNS = nil
			t.Kubelet = &k
		}
	}
	if t.Kubelet != nil && reflect.DeepEqual(*t.Kubelet, Kubelet{}) {
		t.Kubelet = nil
	}
	if m.HTTPEndpoint == "" {
		m.HTTPEndpoint = "enabled"
	}
	if m.HTTPTokens == "" {
		m.HTTPTokens = "required"
	}
	if m.HTTPPutResponseHopLimit == 0 {
		m.HTTPPutResponseHopLimit = 1
	}
	if len(e.Subnets) == 0 && clusterName != "" {
		e.Subnets = ClusterTerms(clusterName)
	}
	if e.LaunchTemplate != nil {
		return t
	}
	if len(e.SecurityGroups) == 0 && clusterName != "" {
		e.SecurityGroups = ClusterTerms(clusterName)
	}
	if alias := e.AMIFamily.DefaultAlias(); alias != "" && len(e.AMIs) == 0 {
		e.AMIs = []AMITerm{{Alias: alias}}
	}
	return t
}
