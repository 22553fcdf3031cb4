package ec2

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// maxOverrides bounds the lines of a CreateFleet request. EC2 takes 300 by
// default, and refuses payloads that are too large before that.
const maxOverrides = 60

// LaunchToken is the ClientToken of an attempt: a function of the cluster, the
// claim and the number of the attempt. 52 letters and digits; EC2 takes 64.
func LaunchToken(clusterUID, claimUID string, attempt int32) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%d", clusterUID, claimUID, attempt))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:])
}

// PrepareLaunch puts together the claim's next attempt: attempt 1, or the one
// after the attempt in its status, which EC2 must have refused for certain
// (Definite). It makes sure that the launch templates exist; it launches
// nothing. The claim's offerings should be without those that are known to be
// exhausted; one capacity type is tried in one attempt, that of the first
// offering that can be had.
//
// A *ConfigError says what a person must change; a *CapacityError, whose
// Refused is never empty, that no subnet in the offerings' zones has a free
// address.
func (c *Cloud) PrepareLaunch(ctx context.Context, claim *v1alpha1.NodeClaim) (*v1alpha1.LaunchIntent, error) {
	wrap := func(err error) error { return fmt.Errorf("preparing the launch of claim %s: %w", claim.Name, err) }
	r, err := c.Resolve(ctx, claim.Spec.Provisioner.Name, &claim.Spec.NodeTemplate)
	if err != nil {
		return nil, wrap(err)
	}
	if !r.Ready() {
		return nil, wrap(&ConfigError{Fault: Fault{Action: "PrepareLaunch", Message: r.Planner().Why}, Fix: "see the conditions of provisioner " + claim.Spec.Provisioner.Name})
	}
	if err := c.discovered(ctx); err != nil {
		return nil, wrap(err)
	}
	lines, err := chooseLines(claim.Spec.Offerings, c.machine, r, c.addresses.bestSubnets(r.Subnets))
	if err != nil {
		return nil, wrap(err)
	}
	intent := &v1alpha1.LaunchIntent{Attempt: 1, StartedAt: metav1.Now(), CapacityType: lines[0].capacityType}
	if claim.Status.Launch != nil {
		intent.Attempt = claim.Status.Launch.Attempt + 1
	}
	intent.Token = LaunchToken(c.cfg.ClusterUID, string(claim.UID), intent.Attempt)
	templates := map[string]Template{} // By image.
	for _, l := range lines {
		t, ok := templates[l.image.ID]
		if !ok {
			if t, err = c.template(ctx, claim, r, l.image); err != nil {
				return nil, wrap(err)
			}
			templates[l.image.ID] = t
		}
		o := v1alpha1.LaunchOverride{InstanceType: l.instanceType, Zone: l.zone, SubnetID: l.subnet}
		switch {
		case intent.LaunchTemplateID == "":
			intent.LaunchTemplateID, intent.LaunchTemplateVersion = t.ID, t.Version
		case intent.LaunchTemplateID != t.ID:
			o.LaunchTemplateID, o.LaunchTemplateVersion = t.ID, t.Version
		}
		intent.Overrides = append(intent.Overrides, o)
	}
	c.addresses.plan(lines[0].subnet)
	return intent, nil
}

// template returns the launch template for an image: the Provisioner's own, or
// one of Berth's.
func (c *Cloud) template(ctx context.Context, claim *v1alpha1.NodeClaim, r Resolved, image Image) (Template, error) {
	if r.Own != nil {
		return *r.Own, nil
	}
	t := &claim.Spec.NodeTemplate
	doc, err := userData(family(&t.EC2), c.bootstrap(claim.Spec.Provisioner.Name, t))
	if err != nil {
		return Template{}, &ConfigError{Fault: Fault{Action: "CreateLaunchTemplate", Message: flat(err.Error())}, Fix: "check the Provisioner"}
	}
	return c.ensureTemplate(ctx, templateData(templateInput{
		spec: &t.EC2, image: image, userData: doc, securityGroups: r.SecurityGroups, instanceProfile: r.InstanceProfile,
	}))
}

// line is one line of a request.
type line struct {
	instanceType, zone, subnet, capacityType string
	image                                    Image
}

// chooseLines turns offerings into the lines of one attempt, in the offerings'
// order: those with the capacity type of the first that has an image and a
// subnet with a free address, at most maxOverrides. Spot dearer than the same
// claim's cheapest on-demand offering is left out: it costs more and can be
// taken away.
func chooseLines(offerings []v1alpha1.ClaimOffering, machine func(string) *capacity.Machine, r Resolved, subnets map[string]string) ([]line, error) {
	cheapest := cheapestOnDemand(offerings)
	var (
		lines    []line
		noRoom   []capacity.OfferingRef
		noImages []string
	)
	for _, o := range offerings {
		if len(lines) == maxOverrides || len(lines) > 0 && o.CapacityType != lines[0].capacityType {
			continue
		}
		price := o.HourlyPrice.Dollars()
		if o.CapacityType == v1alpha1.CapacityTypeSpot && cheapest > 0 && price > cheapest {
			continue
		}
		m := machine(o.InstanceType)
		if m == nil {
			noImages = append(noImages, o.InstanceType+": not a type that this region offers")
			continue
		}
		image, ok := r.image(m)
		if !ok {
			noImages = append(noImages, o.InstanceType+": no image for "+machineNeeds(m))
			continue
		}
		subnet, ok := subnets[o.Zone]
		if !ok {
			noRoom = append(noRoom, capacity.OfferingRef{InstanceType: o.InstanceType, Zone: o.Zone, CapacityType: o.CapacityType, Price: price})
			continue
		}
		lines = append(lines, line{instanceType: o.InstanceType, zone: o.Zone, subnet: subnet, capacityType: o.CapacityType, image: image})
	}
	switch {
	case len(lines) > 0:
		return lines, nil
	case len(noRoom) > 0:
		return nil, &CapacityError{Refused: noRoom, Fix: "free addresses, or add subnets to ec2.subnets",
			Fault: Fault{Action: "PrepareLaunch", Code: "InsufficientFreeAddressesInSubnet", Message: "no subnet in the wanted zones has a free address"}}
	case len(noImages) > 0:
		slices.Sort(noImages)
		return nil, &ConfigError{Fix: "check ec2.amis", Fault: Fault{Action: "PrepareLaunch", Message: strings.Join(slices.Compact(noImages), "; ")}}
	default:
		return nil, &ConfigError{Fault: Fault{Action: "PrepareLaunch", Message: "the claim has no offering that is worth its price"}, Fix: "delete the claim"}
	}
}

// cheapestOnDemand price among offerings; 0 without any.
func cheapestOnDemand(offerings []v1alpha1.ClaimOffering) float64 {
	cheapest := 0.0
	for _, o := range offerings {
		if price := o.HourlyPrice.Dollars(); o.CapacityType == v1alpha1.CapacityTypeOnDemand && (cheapest == 0 || price < cheapest) {
			cheapest = price
		}
	}
	return cheapest
}

// machineNeeds says which image a machine needs: "arm64 with nvidia".
func machineNeeds(m *capacity.Machine) string {
	if m.GPU == nil {
		return m.Arch
	}
	return m.Arch + " with " + m.GPU.Manufacturer
}

// Launch carries out the attempt that the claim's status records. Repeating it
// gives the same instance. An error for which Definite is false leaves open
// whether there is an instance: repeat. In the answer's Refused, and in an
// error's, are the offerings that EC2 had none of.
func (c *Cloud) Launch(ctx context.Context, claim *v1alpha1.NodeClaim) (Instance, error) {
	in, err := fleetRequest(c.cfg.ClusterName, c.cfg.ClusterUID, claim)
	if err != nil {
		return Instance{}, fmt.Errorf("launching claim %s: %w", claim.Name, err)
	}
	if err := c.buckets.wait(ctx, ec2.ServiceID, launchResources, 1); err != nil {
		return Instance{}, fmt.Errorf("launching claim %s: %w", claim.Name, err)
	}
	began := time.Now()
	out, err := c.ec2.CreateFleet(ctx, in, c.slow)
	var inst Instance
	if err = translate("CreateFleet", err); err == nil {
		var full []string
		inst, full, err = fleetAnswer(claim, out)
		c.buckets.learn(ec2.ServiceID, launchResources, began, err)
		for _, subnet := range full {
			c.addresses.exhaust(subnet)
		}
	}
	if err != nil {
		var bad *ConfigError
		if errors.As(err, &bad) {
			c.forget()
		}
		return Instance{}, fmt.Errorf("launching claim %s: %w", claim.Name, err)
	}
	// The answer knows neither the name of the node nor the image. Where EC2
	// does not list the instance yet, callers see them later in Instances.
	if listed, err := c.reading.do(ctx, inst.ID); err == nil {
		inst.PrivateDNSName, inst.ImageID, inst.LaunchedAt, inst.State = listed.PrivateDNSName, listed.ImageID, listed.LaunchedAt, listed.State
	}
	return inst, nil
}

// forget makes everything be looked up again: something that a request named
// is not there any more, or never was.
func (c *Cloud) forget() {
	c.subnets.expire()
	c.groups.expire()
	c.images.expire()
	c.params.expire()
	c.ownTemplates.expire()
	c.profiles.expire()
	c.templates.expire()
}

// fleetRequest builds the CreateFleet request of the attempt in a claim's
// status. It is a function of the stored claim alone, so that its repetition
// is the same request to the last byte.
func fleetRequest(clusterName, clusterUID string, claim *v1alpha1.NodeClaim) (*ec2.CreateFleetInput, error) {
	l := claim.Status.Launch
	if l == nil || l.Token == "" || len(l.Overrides) == 0 {
		return nil, errors.New("no launch is recorded in its status")
	}
	in := &ec2.CreateFleetInput{
		ClientToken: aws.String(l.Token),
		Type:        types.FleetTypeInstant,
		TargetCapacitySpecification: &types.TargetCapacitySpecificationRequest{
			TotalTargetCapacity: aws.Int32(1),
		},
	}
	prioritized := false
	switch l.CapacityType {
	case v1alpha1.CapacityTypeOnDemand:
		// The lines are in the planner's order, which knows more than EC2's
		// price list: limits, and what the money is really paid for.
		prioritized = true
		in.TargetCapacitySpecification.DefaultTargetCapacityType = types.DefaultTargetCapacityTypeOnDemand
		in.OnDemandOptions = &types.OnDemandOptionsRequest{AllocationStrategy: types.FleetOnDemandAllocationStrategyPrioritized}
	case v1alpha1.CapacityTypeSpot:
		in.TargetCapacitySpecification.DefaultTargetCapacityType = types.DefaultTargetCapacityTypeSpot
		in.SpotOptions = &types.SpotOptionsRequest{AllocationStrategy: types.SpotAllocationStrategyPriceCapacityOptimized}
	default:
		return nil, fmt.Errorf("capacity type %q cannot be launched", l.CapacityType)
	}
	index := map[Template]int{}
	for i, o := range l.Overrides {
		t := Template{o.LaunchTemplateID, o.LaunchTemplateVersion}
		if t.ID == "" {
			t = Template{l.LaunchTemplateID, l.LaunchTemplateVersion}
		}
		at, ok := index[t]
		if !ok {
			at = len(in.LaunchTemplateConfigs)
			index[t] = at
			in.LaunchTemplateConfigs = append(in.LaunchTemplateConfigs, types.FleetLaunchTemplateConfigRequest{
				LaunchTemplateSpecification: &types.FleetLaunchTemplateSpecificationRequest{
					LaunchTemplateId: aws.String(t.ID), Version: aws.String(t.Version)},
			})
		}
		r := types.FleetLaunchTemplateOverridesRequest{InstanceType: types.InstanceType(o.InstanceType), SubnetId: aws.String(o.SubnetID)}
		if prioritized {
			r.Priority = aws.Float64(float64(i))
		}
		in.LaunchTemplateConfigs[at].Overrides = append(in.LaunchTemplateConfigs[at].Overrides, r)
	}
	in.TagSpecifications = launchTags(claimTags(clusterName, clusterUID, claim))
	return in, nil
}

// launchTags put tags on all that a launch creates. IAM policies may demand
// them, of dry runs too.
func launchTags(tags map[string]string) []types.TagSpecification {
	list := tagList(tags)
	return []types.TagSpecification{
		{ResourceType: types.ResourceTypeInstance, Tags: list},
		{ResourceType: types.ResourceTypeVolume, Tags: list},
		{ResourceType: types.ResourceTypeNetworkInterface, Tags: list},
	}
}

// claimTags of all that is launched for a claim. The user's come first, so
// that ours win; a Name of theirs stands.
func claimTags(clusterName, clusterUID string, claim *v1alpha1.NodeClaim) map[string]string {
	tags := map[string]string{"Name": claim.Name}
	maps.Copy(tags, claim.Spec.EC2.Tags)
	maps.Copy(tags, map[string]string{
		v1alpha1.TagClusterPrefix + clusterName: "owned",
		v1alpha1.TagClusterUID:                  clusterUID,
		v1alpha1.TagProvisioner:                 claim.Spec.Provisioner.Name,
		v1alpha1.TagNodeClaim:                   claim.Name,
		v1alpha1.TagNodeClaimUID:                string(claim.UID),
	})
	return tags
}

// tagList sorted by key.
func tagList(tags map[string]string) []types.Tag {
	out := make([]types.Tag, 0, len(tags))
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, types.Tag{Key: aws.String(k), Value: aws.String(tags[k])})
	}
	return out
}

// fleetAnswer reads EC2's answer to fleetRequest: the instance, or why there
// is none. full are subnets that have no free address.
func fleetAnswer(claim *v1alpha1.NodeClaim, out *ec2.CreateFleetOutput) (inst Instance, full []string, err error) {
	refused, full, err := fleetErrors(claim, out.Errors)
	at := slices.IndexFunc(out.Instances, func(i types.CreateFleetInstance) bool { return len(i.InstanceIds) > 0 })
	if at < 0 {
		if err == nil {
			// Neither instance nor error: EC2 may still be at it.
			err = &CallError{Kind: ErrUnknown, Fault: Fault{Action: "CreateFleet", Message: "the answer names neither an instance nor an error"}}
		}
		return Instance{}, full, err
	}
	i := out.Instances[at]
	inst = Instance{
		ID: i.InstanceIds[0], Type: string(i.InstanceType), Zone: aws.ToString(i.AvailabilityZone), SubnetID: aws.ToString(i.SubnetId),
		CapacityType: capacityTypeOf(i.Lifecycle), State: StatePending,
		ClaimUID: string(claim.UID), ClaimName: claim.Name, Provisioner: claim.Spec.Provisioner.Name,
		Refused: refused,
	}
	if lo := i.LaunchTemplateAndOverrides; lo != nil && lo.Overrides != nil {
		inst.SubnetID = cmp.Or(inst.SubnetID, aws.ToString(lo.Overrides.SubnetId))
		inst.Zone = cmp.Or(inst.Zone, aws.ToString(lo.Overrides.AvailabilityZone))
	}
	for _, o := range claim.Status.Launch.Overrides {
		if inst.Zone == "" && o.SubnetID == inst.SubnetID {
			inst.Zone = o.Zone
		}
	}
	return inst, full, nil
}

// fleetErrors sorts the errors of a CreateFleet answer, one for each line that
// was tried: refused offerings, subnets without addresses, and the error that
// stands for all if no instance came of it. Whatever it is, it is EC2's verdict
// on this attempt.
func fleetErrors(claim *v1alpha1.NodeClaim, list []types.CreateFleetError) (refused []capacity.OfferingRef, full []string, err error) {
	var throttle, server, config, none Fault
	fix := ""
	counts := map[string]int{}
	for _, e := range list {
		f := Fault{Action: "CreateFleet", Code: aws.ToString(e.ErrorCode), Message: readable(aws.ToString(e.ErrorMessage))}
		counts[f.Code]++
		scope, isRefusal := refusalScopes[f.Code]
		switch {
		case isThrottleCode(f.Code):
			throttle = f
		case isServerCode(f.Code):
			server = f
		case !isRefusal:
			config = f
		default:
			none = f
			if fix == "" {
				fix = quotaFixes[f.Code]
			}
			o, ok := lineOf(claim.Status.Launch, e.LaunchTemplateAndOverrides)
			switch {
			case !ok:
			case scope == scopeSubnet:
				full = append(full, o.SubnetID)
			default:
				refused = append(refused, offeringOf(claim, o))
			}
		}
	}
	summary := func(f Fault) Fault {
		if len(counts) > 1 || counts[f.Code] > 1 {
			var parts []string
			for _, code := range slices.Sorted(maps.Keys(counts)) {
				parts = append(parts, fmt.Sprintf("%s ×%d", code, counts[code]))
			}
			f.Message += " (" + strings.Join(parts, ", ") + ")"
		}
		return f
	}
	switch {
	case throttle.Code != "":
		return refused, full, &CallError{Fault: summary(throttle), Kind: ErrThrottled, Answered: true, Refused: refused}
	case server.Code != "":
		return refused, full, &CallError{Fault: summary(server), Kind: ErrUnknown, Answered: true, Refused: refused}
	case config.Code != "":
		return refused, full, &ConfigError{Fault: summary(config), Refused: refused, Fix: remedy(config.Code, config.Message)}
	case none.Code != "":
		if len(refused)+len(full) == 0 {
			// EC2 did not say which lines it means.
			for _, o := range claim.Status.Launch.Overrides {
				refused = append(refused, offeringOf(claim, o))
			}
		}
		return refused, full, &CapacityError{Fault: summary(none), Refused: refused, Fix: fix}
	default:
		return nil, nil, nil
	}
}

// lineOf finds the line of the request that an answer speaks of.
func lineOf(intent *v1alpha1.LaunchIntent, lo *types.LaunchTemplateAndOverridesResponse) (v1alpha1.LaunchOverride, bool) {
	if lo == nil || lo.Overrides == nil {
		return v1alpha1.LaunchOverride{}, false
	}
	for _, o := range intent.Overrides {
		sameType := o.InstanceType == string(lo.Overrides.InstanceType)
		samePlace := o.SubnetID == aws.ToString(lo.Overrides.SubnetId) ||
			lo.Overrides.SubnetId == nil && o.Zone == aws.ToString(lo.Overrides.AvailabilityZone)
		if sameType && samePlace {
			return o, true
		}
	}
	return v1alpha1.LaunchOverride{}, false
}

// offeringOf a line, with the price that the claim knows.
func offeringOf(claim *v1alpha1.NodeClaim, o v1alpha1.LaunchOverride) capacity.OfferingRef {
	ref := capacity.OfferingRef{InstanceType: o.InstanceType, Zone: o.Zone, CapacityType: claim.Status.Launch.CapacityType}
	for _, c := range claim.Spec.Offerings {
		if c.InstanceType == ref.InstanceType && c.Zone == ref.Zone && c.CapacityType == ref.CapacityType {
			ref.Price = c.HourlyPrice.Dollars()
		}
	}
	return ref
}
