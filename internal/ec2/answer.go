package ec2

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// fleetAnswer reads EC2's answer to fleetRequest: the instances, or why there
// are none. full are subnets that have no free address.
func fleetAnswer(claim *v1alpha1.NodeClaim, out *ec2.CreateFleetOutput) (got Launched, full []string, err error) {
	refused, full, err := fleetErrors(claim, out.Errors)
	for _, item := range out.Instances {
		for _, id := range item.InstanceIds {
			got.Instances = append(got.Instances, fleetInstance(claim, item, id))
		}
	}
	if len(got.Instances) == 0 {
		if err == nil {
			// Neither instance nor error: EC2 may still be at it.
			err = &CallError{Kind: ErrUnknown, Fault: Fault{Action: "CreateFleet", Message: "the answer names neither an instance nor an error"}}
		}
		return Launched{}, full, err
	}
	slices.SortFunc(got.Instances, func(a, b Instance) int { return strings.Compare(a.ID, b.ID) })
	got.Refused = refused
	want := launchSize(claim.Status.Launch)
	if len(got.Instances) < want {
		got.Short = err
		if err == nil {
			got.Short = &CallError{Kind: ErrUnknown, Answered: true, Fault: Fault{Action: "CreateFleet",
				Message: fmt.Sprintf("%d instances instead of %d, and no error", len(got.Instances), want)}}
		}
	}
	got.Instances = got.Instances[:min(want, len(got.Instances))] // More cannot be; they would be collected.
	return got, full, nil
}

// fleetInstance is one instance of an answer.
func fleetInstance(claim *v1alpha1.NodeClaim, item types.CreateFleetInstance, id string) Instance {
	inst := Instance{
		ID: id, Type: string(item.InstanceType), Zone: aws.ToString(item.AvailabilityZone), SubnetID: aws.ToString(item.SubnetId),
		CapacityType: capacityTypeOf(item.Lifecycle), State: StatePending,
		Provisioner: claim.Spec.Provisioner.Name, Launch: claim.Status.Launch.Token,
	}
	if len(claim.Status.Launch.Members) == 0 {
		inst.ClaimUID, inst.ClaimName = string(claim.UID), claim.Name
	}
	if claim.Status.Launch.CapacityType == v1alpha1.CapacityTypeReserved {
		inst.CapacityType = v1alpha1.CapacityTypeReserved // EC2 calls it on-demand.
	}
	if lo := item.LaunchTemplateAndOverrides; lo != nil && lo.Overrides != nil {
		inst.SubnetID = cmp.Or(inst.SubnetID, aws.ToString(lo.Overrides.SubnetId))
		inst.Zone = cmp.Or(inst.Zone, aws.ToString(lo.Overrides.AvailabilityZone))
	}
	for _, o := range claim.Status.Launch.Overrides {
		if inst.Zone == "" && o.SubnetID == inst.SubnetID {
			inst.Zone = o.Zone
		}
	}
	return inst
}

// fleetErrors sorts the errors of a CreateFleet answer, one for each line that
// was tried: refused offerings, each with what it was refused for, subnets
// without addresses, and the error that stands for all if no instance came of
// it. Whatever it is, it is EC2's verdict on this attempt.
//
// A setting that EC2 refuses stands for all only if every line was refused for
// the same: else it is the line's (a type that the account's policies deny), and
// other lines may still be had. Among the rest, what a person can help counts
// most: a quota, then addresses, then capacity.
func fleetErrors(claim *v1alpha1.NodeClaim, list []types.CreateFleetError) (refused []Refusal, full []string, err error) {
	var throttle, server, config Fault
	none := map[Class]Fault{}
	settings := map[Class]bool{}
	counts := map[string]int{}
	for _, e := range list {
		f := Fault{Action: "CreateFleet", Code: aws.ToString(e.ErrorCode), Message: readable(aws.ToString(e.ErrorMessage))}
		o, ok := lineOf(claim.Status.Launch, e.LaunchTemplateAndOverrides)
		if ok {
			f.Resource = fmt.Sprintf("%s %s in %s", o.InstanceType, claim.Status.Launch.CapacityType, o.Zone)
		}
		counts[f.Code]++
		_, isRefusal := refusalScopes[f.Code]
		class := roomClass(f.Code)
		switch {
		case isThrottleCode(f.Code):
			throttle = f
			continue
		case isServerCode(f.Code):
			server = f
			continue
		case !isRefusal:
			class = configClass(f.Code, f.Message)
			config, settings[class] = f, true
		default:
			none[class] = f
		}
		switch {
		case !ok:
		case class == ClassAddresses:
			full = append(full, o.SubnetID)
		default:
			refused = append(refused, refusals(class, offeringOf(claim, o))...)
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
	case len(none) == 0 && len(settings) == 1:
		return refused, full, &ConfigError{Fault: summary(config), Refused: refused, Fix: remedy(config.Code, config.Message)}
	}
	fix := ""
	if len(none) == 0 && len(settings) > 1 {
		none[ClassCapacity], fix = config, remedy(config.Code, config.Message)
	}
	for _, class := range []Class{ClassQuota, ClassAddresses, ClassCapacity} {
		f, ok := none[class]
		if !ok {
			continue
		}
		if len(refused)+len(full) == 0 {
			// EC2 did not say which lines it means.
			for _, o := range claim.Status.Launch.Overrides {
				refused = append(refused, refusals(class, offeringOf(claim, o))...)
			}
		}
		return refused, full, &CapacityError{Fault: summary(f), Refused: refused, Fix: cmp.Or(fix, roomFixes[f.Code])}
	}
	return nil, nil, nil
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
