package ec2

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// Resolved is what a Provisioner's EC2 settings stand for at the moment.
type Resolved struct {
	// Subnets sorted by zone and id.
	Subnets []Subnet
	// SecurityGroups are ids, sorted.
	SecurityGroups []string
	// Images, the newest first.
	Images []Image
	// Reservations of capacity that the Provisioner selects, with room or without.
	Reservations []Reservation
	// InstanceProfile's name; may be empty.
	InstanceProfile string
	// Own is the launch template that the Provisioner names, to be used as it is.
	Own *Template
	// RootVolumeBytes of the volume that holds pods' ephemeral storage.
	RootVolumeBytes int64
	// Volumes is how many EBS volumes an instance is launched with, on the image
	// that brings most; 0 before images are found.
	Volumes int
	// AsOf is when the oldest of the answers was given that this rests on.
	AsOf time.Time
	// Findings has one entry for each of the Provisioner's conditions
	// ValidationSucceeded, SubnetsReady, SecurityGroupsReady, AMIsReady and
	// InstanceProfileReady, in this order.
	Findings []Finding
}

// Finding is the state of one condition of a Provisioner.
type Finding struct {
	// Condition is one of v1alpha1.Condition….
	Condition string
	OK        bool
	// Reason is a constant in CamelCase.
	Reason string
	// Message says what was found, or what was looked for and what to do.
	Message string
}

// Reasons of Findings.
const (
	ReasonResolved     = "Resolved"
	ReasonNotFound     = "NotFound"
	ReasonUnauthorized = "Unauthorized"
	ReasonInvalid      = "Invalid"
	ReasonConflict     = "VPCMismatch"
	ReasonWaiting      = "NotVerified"
)

// Subnet to launch into.
type Subnet struct {
	ID, Zone, ZoneID, VPC string
	// FreeIPs is the number of free IPv4 addresses.
	FreeIPs int
}

// subnetZones are the zones of subnets that are sorted by zone.
func subnetZones(subnets []Subnet) []string {
	var zones []string
	for _, s := range subnets {
		zones = append(zones, s.Zone)
	}
	return slices.Compact(zones)
}

// securityGroup of instances.
type securityGroup struct{ id, vpc string }

// Image is a machine image.
type Image struct {
	ID, Name string
	// Arch is amd64 or arm64.
	Arch string
	// Accelerators whose drivers the image has: nvidia, aws, "" for none
	// needed; nil where the Provisioner chose the image for whatever it runs on.
	Accelerators []string
	// RootDevice such as /dev/xvda.
	RootDevice string
	// VolumeGiB are the EBS volumes that it brings, the root's among them, by
	// device. One made from its snapshot cannot be smaller.
	VolumeGiB map[string]int32
	// Created as EC2 gives it, RFC 3339.
	Created string
	// Deprecated is the day from which its owner advises against it; empty while
	// he does not. It can be launched all the same.
	Deprecated string
}

// Ready reports whether nodes can be made.
func (r Resolved) Ready() bool {
	return len(r.Findings) > 0 && !slices.ContainsFunc(r.Findings, func(f Finding) bool { return !f.OK })
}

// Planner is the part that the planner and the webhook need.
func (r Resolved) Planner() capacity.Resolved {
	out := capacity.Resolved{Ready: r.Ready(), RootVolumeBytes: r.RootVolumeBytes, Volumes: r.Volumes}
	var why []string
	for _, f := range r.Findings {
		if !f.OK && f.Reason != ReasonWaiting { // What it waits for is among the others.
			why = append(why, f.Message)
		}
	}
	out.Why = strings.Join(why, "; ")
	out.Zones = subnetZones(r.Subnets)
	for _, i := range r.Images {
		out.Archs = append(out.Archs, i.Arch)
		out.Images = append(out.Images, capacity.ResolvedImage{ID: i.ID, Arch: i.Arch, Accelerators: i.Accelerators})
	}
	out.Reservations = plannerReservations(r.Reservations, time.Now())
	slices.Sort(out.Archs)
	out.Archs = slices.Compact(out.Archs)
	return out
}

// image returns the newest image for a machine.
func (r Resolved) image(m *capacity.Machine) (Image, bool) {
	need := ""
	if m.GPU != nil && (m.GPU.Manufacturer == makerNVIDIA || m.GPU.Manufacturer == makerAWS) {
		need = m.GPU.Manufacturer
	}
	for _, i := range r.Images {
		if i.Arch == m.Arch && (i.Accelerators == nil || slices.Contains(i.Accelerators, need)) {
			return i, true
		}
	}
	return Image{}, false
}

// Resolve looks up what a Provisioner's settings stand for. What is missing or
// forbidden is a Finding, not an error; an error means that EC2 could not be
// asked and nothing is known from before. Answers are remembered for a minute
// and shared between Provisioners. provisioner is its name.
func (c *Cloud) Resolve(ctx context.Context, provisioner string, t *v1alpha1.NodeTemplate) (Resolved, error) {
	var r Resolved
	e := &t.EC2
	wrap := func(err error) error {
		return fmt.Errorf("resolving the EC2 settings of provisioner %s: %w", provisioner, err)
	}

	valid := c.validate(provisioner, t)
	subnets, subnetsFound, err := c.resolveSubnets(ctx, e)
	if err != nil {
		return r, wrap(err)
	}
	r.Subnets = subnets
	var groupsFound, imagesFound, profileFound Finding
	if e.LaunchTemplate != nil {
		found, err := c.resolveOwn(ctx, e, &r)
		if err != nil {
			return r, wrap(err)
		}
		imagesFound = found
		by := "as the launch template says"
		groupsFound = resolved(v1alpha1.ConditionSecurityGroupsReady, by)
		profileFound = resolved(v1alpha1.ConditionInstanceProfileReady, by)
	} else {
		if r.SecurityGroups, groupsFound, err = c.resolveGroups(ctx, e, subnets); err != nil {
			return r, wrap(err)
		}
		if valid.OK {
			if r.Images, imagesFound, err = c.resolveImages(ctx, e); err != nil {
				return r, wrap(err)
			}
		} else {
			imagesFound = Finding{Condition: v1alpha1.ConditionAMIsReady, Reason: ReasonWaiting, Message: "not looked for before the settings are valid"}
		}
		r.InstanceProfile = e.InstanceProfile
		if r.InstanceProfile == "" {
			r.InstanceProfile = c.cfg.DefaultInstanceProfile
		}
		if profileFound, err = c.resolveProfile(ctx, e, &r); err != nil {
			return r, wrap(err)
		}
		r.RootVolumeBytes = rootVolumeBytes(family(e), e.BlockDevices, r.Images)
		for _, i := range r.Images {
			r.Volumes = max(r.Volumes, volumesOf(i, blockDevices(family(e), e.BlockDevices, i)))
		}
	}
	r.AsOf = c.asOf(e)
	var remark string
	if r.Reservations, remark, err = c.resolveReservations(ctx, e); err != nil {
		return r, wrap(err)
	}
	if valid.OK && remark != "" {
		valid.Message += "; " + remark
	}
	remark, wrong, err := c.resolvePlacement(ctx, e, subnets)
	if err != nil {
		return r, wrap(err)
	}
	switch {
	case wrong != "":
		valid = Finding{Condition: v1alpha1.ConditionValid, Reason: ReasonInvalid, Message: wrong}
	case valid.OK && remark != "":
		valid.Message += "; " + remark
	}
	r.Findings = []Finding{valid, subnetsFound, groupsFound, imagesFound, profileFound}
	return r, nil
}

// family of a Provisioner's images; the CRD's default where none is given.
func family(e *v1alpha1.EC2) v1alpha1.AMIFamily {
	if e.AMIFamily == "" {
		return v1alpha1.AMIFamilyAL2023
	}
	return e.AMIFamily
}

// validate checks what needs no look-up: images against family, user data.
func (c *Cloud) validate(provisioner string, t *v1alpha1.NodeTemplate) Finding {
	invalid := func(message string) Finding {
		return Finding{Condition: v1alpha1.ConditionValid, Reason: ReasonInvalid, Message: message}
	}
	if t.EC2.LaunchTemplate == nil {
		if _, wrong := planImages(family(&t.EC2), t.EC2.AMIs, c.KubernetesVersion()); wrong != "" {
			return invalid(wrong)
		}
		if wrong := emptyTerm("ec2.capacityReservations", t.EC2.CapacityReservations); wrong != "" {
			return invalid(wrong)
		}
		if _, err := userData(family(&t.EC2), c.bootstrap(provisioner, t)); err != nil {
			return invalid(flat(err.Error()))
		}
	}
	return resolved(v1alpha1.ConditionValid, "the settings are valid")
}

// resolved is a Finding that all is well.
func resolved(condition, message string) Finding {
	return Finding{Condition: condition, OK: true, Reason: ReasonResolved, Message: message}
}

// denied turns a refusal into a Finding. Other errors stay errors.
func denied(condition string, err error) (Finding, error) {
	if !isDeniedCode(codeOf(err)) {
		return Finding{}, err
	}
	return Finding{Condition: condition, Reason: ReasonUnauthorized, Message: err.Error()}, nil
}

// resolveSubnets finds the subnets to launch into.
func (c *Cloud) resolveSubnets(ctx context.Context, e *v1alpha1.EC2) ([]Subnet, Finding, error) {
	const condition = v1alpha1.ConditionSubnetsReady
	terms := e.Subnets
	if len(terms) == 0 {
		terms = v1alpha1.ClusterTerms(c.cfg.ClusterName)
	}
	if wrong := emptyTerm("ec2.subnets", terms); wrong != "" {
		return nil, Finding{Condition: condition, Reason: ReasonInvalid, Message: wrong}, nil
	}
	all, missed, err := each(ctx, &c.subnets, selectorQueries(terms, "subnet-id"), c.describeSubnets)
	if err != nil {
		found, err := denied(condition, err)
		return nil, found, err
	}
	slices.SortFunc(all, func(a, b Subnet) int {
		return strings.Compare(a.Zone+"/"+a.ID, b.Zone+"/"+b.ID)
	})
	all = slices.CompactFunc(all, func(a, b Subnet) bool { return a.ID == b.ID })
	if len(all) == 0 {
		return nil, Finding{Condition: condition, Reason: ReasonNotFound,
			Message: "no subnet with " + strings.Join(missed, ", nor with ") + ": tag the subnets or set ec2.subnets"}, nil
	}
	var said []string
	for _, s := range all {
		said = append(said, s.ID+" ("+s.Zone+")")
	}
	return all, resolved(condition, strings.Join(said, ", ")+misses(missed)), nil
}

// misses tells which terms matched nothing beside others that did.
func misses(missed []string) string {
	if len(missed) == 0 {
		return ""
	}
	return "; none with " + strings.Join(missed, ", nor with ")
}

// each asks all queries of one kind; missed are those without an answer, in
// words.
func each[T any](ctx context.Context, s *store[[]T], queries []query, ask func(context.Context, query) ([]T, error)) (all []T, missed []string, err error) {
	for _, q := range queries {
		got, err := s.get(ctx, q.key(), func(ctx context.Context) ([]T, time.Duration, error) {
			got, err := ask(ctx, q)
			return got, resolveTTL, err
		})
		if err != nil {
			return nil, nil, err
		}
		if len(got) == 0 {
			missed = append(missed, q.says)
		}
		all = append(all, got...)
	}
	return all, missed, nil
}

func (c *Cloud) describeSubnets(ctx context.Context, q query) ([]Subnet, error) {
	var out []Subnet
	p := ec2.NewDescribeSubnetsPaginator(c.ec2, &ec2.DescribeSubnetsInput{Filters: append(q.filters, filter("state", "available"))})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, translate("DescribeSubnets", err)
		}
		for _, s := range page.Subnets {
			out = append(out, Subnet{ID: aws.ToString(s.SubnetId), Zone: aws.ToString(s.AvailabilityZone),
				ZoneID: aws.ToString(s.AvailabilityZoneId), VPC: aws.ToString(s.VpcId), FreeIPs: int(aws.ToInt32(s.AvailableIpAddressCount))})
		}
	}
	c.addresses.reread(out, time.Now())
	return out, nil
}

// resolveGroups finds the instances' security groups, which must be in the
// subnets' VPC.
func (c *Cloud) resolveGroups(ctx context.Context, e *v1alpha1.EC2, subnets []Subnet) ([]string, Finding, error) {
	const condition = v1alpha1.ConditionSecurityGroupsReady
	terms := e.SecurityGroups
	if len(terms) == 0 {
		terms = v1alpha1.ClusterTerms(c.cfg.ClusterName)
	}
	if wrong := emptyTerm("ec2.securityGroups", terms); wrong != "" {
		return nil, Finding{Condition: condition, Reason: ReasonInvalid, Message: wrong}, nil
	}
	all, missed, err := each(ctx, &c.groups, selectorQueries(terms, "group-id"), c.describeGroups)
	if err != nil {
		found, err := denied(condition, err)
		return nil, found, err
	}
	if len(all) == 0 {
		return nil, Finding{Condition: condition, Reason: ReasonNotFound,
			Message: "no security group with " + strings.Join(missed, ", nor with ") + ": tag the groups or set ec2.securityGroups"}, nil
	}
	var ids []string
	for _, g := range all {
		for _, s := range subnets {
			if s.VPC != g.vpc {
				return nil, Finding{Condition: condition, Reason: ReasonConflict,
					Message: fmt.Sprintf("security group %s is in %s, but subnet %s is in %s: select groups and subnets of one VPC", g.id, g.vpc, s.ID, s.VPC)}, nil
			}
		}
		ids = append(ids, g.id)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	return ids, resolved(condition, strings.Join(ids, ", ")+misses(missed)), nil
}

func (c *Cloud) describeGroups(ctx context.Context, q query) ([]securityGroup, error) {
	var out []securityGroup
	p := ec2.NewDescribeSecurityGroupsPaginator(c.ec2, &ec2.DescribeSecurityGroupsInput{Filters: q.filters})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, translate("DescribeSecurityGroups", err)
		}
		for _, g := range page.SecurityGroups {
			out = append(out, securityGroup{aws.ToString(g.GroupId), aws.ToString(g.VpcId)})
		}
	}
	return out, nil
}

// profileVerdict is what a check of an instance profile found; "" is good.
type profileVerdict string

// resolveProfile checks the instance profile with a dry run of RunInstances:
// that needs no permission of IAM beyond what a launch needs. A dry run that
// fails for another reason says nothing about the profile: of permissions, only
// that to pass the profile's role is about it. Policies that deny a type, an
// unencrypted volume or a tag judge each launch.
func (c *Cloud) resolveProfile(ctx context.Context, e *v1alpha1.EC2, r *Resolved) (Finding, error) {
	const condition = v1alpha1.ConditionInstanceProfileReady
	name := r.InstanceProfile
	if name == "" {
		return resolved(condition, "none is set: instances have no IAM role, which suits only nodes that need none"), nil
	}
	if len(r.Images) == 0 || len(r.Subnets) == 0 || len(r.SecurityGroups) == 0 {
		return Finding{Condition: condition, Reason: ReasonWaiting,
			Message: "instance profile " + name + " is verified once subnets, security groups and images are found"}, nil
	}
	in := c.dryRunRequest(e, r)
	key, err := json.Marshal(in)
	if err != nil {
		return Finding{}, fmt.Errorf("writing down a dry run: %w", err)
	}
	verdict, err := c.profiles.get(ctx, string(key), func(ctx context.Context) (profileVerdict, time.Duration, error) {
		err := c.dryRun(ctx, in)
		code := codeOf(err)
		switch {
		case isDeniedCode(code) && strings.Contains(faultOf(err).Message, actPassRole), isProfileFault(code, err.Error()):
			return profileVerdict(err.Error()), resolveTTL, nil
		case isTransient(err):
			return "", 0, err
		default:
			return "", profileTTL, nil
		}
	})
	if err != nil {
		return Finding{}, err
	}
	if verdict != "" {
		return Finding{Condition: condition, Reason: ReasonNotFound, Message: "instance profile " + name + ": " + string(verdict)}, nil
	}
	return resolved(condition, name), nil
}

// dryRunRequest asks for an instance as the Provisioner's are, with the first
// image and subnet, so that policies find in it what they demand of a launch.
func (c *Cloud) dryRunRequest(e *v1alpha1.EC2, r *Resolved) *ec2.RunInstancesInput {
	kind := types.InstanceTypeM5Large
	if r.Images[0].Arch == "arm64" {
		kind = types.InstanceTypeM6gLarge
	}
	tags := c.withClusterTags(e.Tags)
	meta := metadataOptions(e.MetadataOptions)
	in := &ec2.RunInstancesInput{
		DryRun:           aws.Bool(true),
		MinCount:         aws.Int32(1),
		MaxCount:         aws.Int32(1),
		InstanceType:     kind,
		ImageId:          aws.String(r.Images[0].ID),
		SubnetId:         aws.String(r.Subnets[0].ID),
		SecurityGroupIds: r.SecurityGroups,
		MetadataOptions: &types.InstanceMetadataOptionsRequest{HttpEndpoint: types.InstanceMetadataEndpointState(meta.HttpEndpoint),
			HttpTokens: types.HttpTokensState(meta.HttpTokens), HttpPutResponseHopLimit: meta.HttpPutResponseHopLimit},
		TagSpecifications: append(launchTags(tags), types.TagSpecification{ResourceType: types.ResourceTypeNetworkInterface, Tags: tagList(tags)}),
	}
	for _, d := range blockDevices(family(e), e.BlockDevices, r.Images[0]) {
		in.BlockDeviceMappings = append(in.BlockDeviceMappings, types.BlockDeviceMapping{DeviceName: d.DeviceName, Ebs: &types.EbsBlockDevice{
			VolumeSize: d.Ebs.VolumeSize, VolumeType: d.Ebs.VolumeType, Iops: d.Ebs.Iops, Throughput: d.Ebs.Throughput, SnapshotId: d.Ebs.SnapshotId,
			Encrypted: d.Ebs.Encrypted, KmsKeyId: d.Ebs.KmsKeyId, DeleteOnTermination: d.Ebs.DeleteOnTermination}})
	}
	if r.InstanceProfile != "" {
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String(r.InstanceProfile)}
	}
	return in
}

// dryRun asks whether an instance could be launched. The error is never nil:
// DryRunOperation means yes.
func (c *Cloud) dryRun(ctx context.Context, in *ec2.RunInstancesInput) error {
	_, err := c.ec2.RunInstances(ctx, in)
	if err == nil {
		return &CallError{Kind: ErrUnknown, Fault: Fault{Action: "RunInstances", Message: "a dry run succeeded, which EC2 never says"}}
	}
	return translate("RunInstances", err)
}
