package ec2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Launched is EC2's answer to a launch that was not refused as a whole.
type Launched struct {
	// Instances that there are now, sorted by id, and never more than were asked for.
	Instances []Instance
	// Refused are the offerings that EC2 tried and had none of.
	Refused []Refusal
	// Short is why there are fewer instances than were asked for; nil when all
	// are there. It is definite.
	Short error
}

// Room says how many of want instances may be launched now: at least one, and
// no more than AWS's bucket of instances has tokens for. A launch of more would
// wait for all of its tokens before it asks for the first instance.
func (c *Cloud) Room(want int) int {
	return max(1, min(want, c.buckets.of(ec2.ServiceID, launchResources).left(time.Now())))
}

// Launch carries out the attempt that the claim's status records, for all of
// its members. Repeating it gives the same instances. An error for which
// Definite is false leaves open whether there are instances: repeat. In the
// answer's Refused, and in an error's, are the offerings that EC2 had none of.
// A refusal of the whole call (WholeCall) is definite only if it was the first
// with its token; where the SDK itself has repeated the call, it is ErrInDoubt.
func (c *Cloud) Launch(ctx context.Context, claim *v1alpha1.NodeClaim) (Launched, error) {
	wrap := func(err error) error { return fmt.Errorf("launching claim %s: %w", claim.Name, err) }
	in, err := fleetRequest(c.cfg.ClusterName, c.cfg.ClusterUID, claim)
	if err != nil {
		return Launched{}, wrap(err)
	}
	count := launchSize(claim.Status.Launch)
	if err := c.buckets.wait(ctx, ec2.ServiceID, launchResources, count); err != nil {
		return Launched{}, wrap(err)
	}
	began := time.Now()
	var lost lostCalls
	out, err := c.ec2.CreateFleet(ctx, in, c.slow, lost.watch)
	var got Launched
	if err = translate("CreateFleet", err); err != nil && Definite(err) && lost.any {
		err = &CallError{Kind: ErrInDoubt, Verdict: err, Fault: faultOf(err)}
	}
	if err == nil {
		var full []string
		got, full, err = fleetAnswer(claim, out)
		if claim.Status.Launch.CapacityType == v1alpha1.CapacityTypeReserved {
			c.reservations.expire() // There is less room now than was last said.
		}
		c.buckets.learn(ec2.ServiceID, launchResources, began, cmp.Or(err, got.Short))
		c.addresses.settle(claim.Status.Launch.Token, got.Instances)
		for _, subnet := range full {
			c.addresses.exhaust(subnet)
		}
	} else if Definite(err) {
		c.addresses.settle(claim.Status.Launch.Token, nil)
	}
	if err != nil {
		var bad *ConfigError
		if errors.As(err, &bad) || errors.Is(err, ErrInDoubt) {
			c.forget()
		}
		return Launched{}, wrap(err)
	}
	if got.Short != nil {
		got.Short = wrap(got.Short)
	}
	c.nameInstances(ctx, got.Instances)
	return got, nil
}

// lostCalls sees whether an HTTP request of a call ended without EC2's word on
// it, so that it may have had its effect. The SDK repeats such a request, and
// tells of the last one's answer only.
type lostCalls struct{ any bool }

func (l *lostCalls) watch(o *ec2.Options) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("BerthLostCalls",
			func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
				out, metadata, err := next.HandleFinalize(ctx, in)
				l.any = l.any || errors.Is(translate("CreateFleet", err), ErrUnknown)
				return out, metadata, err
			}), "Retry", middleware.After)
	})
}

// nameInstances fills in what the answer to a launch does not tell: the names
// of the nodes and the image. Where EC2 does not list an instance yet, callers
// see it later in Instance.
func (c *Cloud) nameInstances(ctx context.Context, list []Instance) {
	ids := make([]string, len(list))
	for n, i := range list {
		ids[n] = i.ID
	}
	listed, err := c.describe(ctx, ids)
	if err != nil {
		return
	}
	for n := range list {
		if seen, ok := listed[list[n].ID]; ok {
			i := &list[n]
			i.PrivateDNSName, i.ImageID, i.LaunchedAt, i.State = seen.value.PrivateDNSName, seen.value.ImageID, seen.value.LaunchedAt, seen.value.State
		}
	}
}

// launchSize is how many instances an attempt asks for.
func launchSize(l *v1alpha1.LaunchIntent) int { return max(1, len(l.Members)) }

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
			TotalTargetCapacity: aws.Int32(int32(launchSize(l))),
		},
	}
	prioritized := false
	switch kind := l.CapacityType; {
	case l.CapacityBlock:
		// There is one line, and EC2 takes no options beside it.
		in.TargetCapacitySpecification.DefaultTargetCapacityType = types.DefaultTargetCapacityTypeCapacityBlock
	case kind == v1alpha1.CapacityTypeOnDemand, kind == v1alpha1.CapacityTypeReserved:
		// The lines are in the planner's order, which knows more than EC2's
		// price list: limits, and what the money is really paid for.
		prioritized = true
		in.TargetCapacitySpecification.DefaultTargetCapacityType = types.DefaultTargetCapacityTypeOnDemand
		in.OnDemandOptions = &types.OnDemandOptionsRequest{AllocationStrategy: types.FleetOnDemandAllocationStrategyPrioritized}
	case kind == v1alpha1.CapacityTypeSpot:
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

// launchTags put tags on what CreateFleet lets a request tag. IAM policies may
// demand them, of dry runs too. The network interface gets its own from the
// launch template (interfaceTags).
func launchTags(tags map[string]string) []types.TagSpecification {
	list := tagList(tags)
	return []types.TagSpecification{
		{ResourceType: types.ResourceTypeInstance, Tags: list},
		{ResourceType: types.ResourceTypeVolume, Tags: list},
	}
}

// claimTags of all that is launched for a claim. The user's come first, so
// that ours win; a Name of theirs stands. What a launch of several claims makes
// gets its claim's own tags afterwards (Tag).
func claimTags(clusterName, clusterUID string, claim *v1alpha1.NodeClaim) map[string]string {
	l := claim.Status.Launch
	together := l != nil && len(l.Members) > 0
	tags := map[string]string{"Name": claim.Name}
	if together {
		tags["Name"] = claim.Spec.Provisioner.Name
	}
	maps.Copy(tags, claim.Spec.EC2.Tags)
	maps.Copy(tags, map[string]string{
		v1alpha1.TagClusterPrefix + clusterName: "owned",
		v1alpha1.TagClusterUID:                  clusterUID,
		v1alpha1.TagProvisioner:                 claim.Spec.Provisioner.Name,
	})
	if l != nil {
		tags[v1alpha1.TagLaunch] = l.Token
	}
	if together {
		delete(tags, v1alpha1.TagNodeClaim)
		delete(tags, v1alpha1.TagNodeClaimUID)
	} else {
		tags[v1alpha1.TagNodeClaim], tags[v1alpha1.TagNodeClaimUID] = claim.Name, string(claim.UID)
	}
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
