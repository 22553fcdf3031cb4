package ec2

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// Reasons for which an instance differs from what would be made today.
const (
	DriftImage          = "ImageDrifted"
	DriftSubnet         = "SubnetDrifted"
	DriftSecurityGroups = "SecurityGroupsDrifted"
)

// Drift says in what an instance differs from what would be made today of the
// settings behind r: one of the Drift… reasons and a sentence; empty when in
// nothing. m is the instance's type; nil: unknown, and the image is not judged.
//
// An image, a subnet or a group that was not looked up, because the Provisioner
// names a launch template of its own or because r is not Ready, is not judged.
func (r Resolved) Drift(i Instance, m *capacity.Machine) (reason, message string) {
	if !r.Ready() {
		return "", ""
	}
	if m != nil && r.Own == nil && i.ImageID != "" {
		if image, ok := r.image(m); ok && image.ID != i.ImageID {
			return DriftImage, fmt.Sprintf("runs %s; %s is the image of today", i.ImageID, image.ID)
		}
	}
	if i.SubnetID != "" && len(r.Subnets) > 0 && !slices.ContainsFunc(r.Subnets, func(s Subnet) bool { return s.ID == i.SubnetID }) {
		return DriftSubnet, fmt.Sprintf("is in %s, which is not selected any more", i.SubnetID)
	}
	if r.Own == nil && len(i.SecurityGroups) > 0 && len(r.SecurityGroups) > 0 && !slices.Equal(i.SecurityGroups, r.SecurityGroups) {
		return DriftSecurityGroups, fmt.Sprintf("has %s; selected are %s", strings.Join(i.SecurityGroups, ", "), strings.Join(r.SecurityGroups, ", "))
	}
	return "", ""
}

// asOf is when the oldest of the answers was given that Resolve goes by for
// these settings. Two verdicts are independent when the second rests on answers
// that were all given after the first.
func (c *Cloud) asOf(e *v1alpha1.EC2) time.Time {
	var oldest time.Time
	older := func(t time.Time) {
		if !t.IsZero() && (oldest.IsZero() || t.Before(oldest)) {
			oldest = t
		}
	}
	subnets, groups := e.Subnets, e.SecurityGroups
	if len(subnets) == 0 {
		subnets = v1alpha1.ClusterTerms(c.cfg.ClusterName)
	}
	if len(groups) == 0 {
		groups = v1alpha1.ClusterTerms(c.cfg.ClusterName)
	}
	for _, q := range selectorQueries(subnets, "subnet-id") {
		older(c.subnets.asked(q.key()))
	}
	if ref := e.LaunchTemplate; ref != nil {
		older(c.ownTemplates.asked(ref.ID + "\n" + ref.Name + "\n" + ref.Version))
		return oldest
	}
	for _, q := range selectorQueries(groups, "group-id") {
		older(c.groups.asked(q.key()))
	}
	plan, _ := planImages(family(e), e.AMIs, c.KubernetesVersion())
	for _, q := range plan.queries {
		older(c.images.asked(q.key()))
	}
	if len(plan.params) > 0 {
		older(c.params.asked(paramsKey(plan.params)))
	}
	return oldest
}

// paramsKey is what the answer about a set of parameters is stored under.
func paramsKey(params []imageParam) string {
	names := make([]string, len(params))
	for i, p := range params {
		names[i] = p.name
	}
	return strings.Join(names, "\n")
}
