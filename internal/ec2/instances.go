package ec2

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// States of an instance, as EC2 names them.
const (
	StatePending      = string(types.InstanceStateNamePending)
	StateRunning      = string(types.InstanceStateNameRunning)
	StateShuttingDown = string(types.InstanceStateNameShuttingDown)
	StateTerminated   = string(types.InstanceStateNameTerminated)
	StateStopping     = string(types.InstanceStateNameStopping)
	StateStopped      = string(types.InstanceStateNameStopped)
)

// notTerminated are the states of an instance that may still cost money.
var notTerminated = []string{StatePending, StateRunning, StateShuttingDown, StateStopping, StateStopped}

// describePage is the most instances that a page of DescribeInstances holds.
const describePage = 1000

// Instance is an instance of this cluster.
type Instance struct {
	ID, Type, Zone string
	// CapacityType is one of v1alpha1.CapacityType….
	CapacityType string
	// PrivateDNSName is the name of its Node. It may be empty in Launch's
	// answer, and is there once EC2 lists the instance.
	PrivateDNSName string
	// ImageID may be empty as PrivateDNSName may.
	ImageID  string
	SubnetID string
	// SecurityGroups are ids, sorted; empty where EC2 did not say.
	SecurityGroups []string
	// State is one of the State… values.
	State string
	// ClaimUID, ClaimName and Provisioner are what its tags say.
	ClaimUID, ClaimName, Provisioner string
	// LaunchedAt is zero as long as EC2 does not list the instance.
	LaunchedAt time.Time
	// Launch is the token of the launch that made it, as its tags say.
	Launch string
	// Reason is the code of EC2's StateReason, why its state is what it is, such as
	// Server.InsufficientInstanceCapacity; ReasonText says it in words.
	Reason, ReasonText string
}

// ProviderID as on the node: aws:///<zone>/<instance id>.
func (i Instance) ProviderID() string { return "aws:///" + i.Zone + "/" + i.ID }

// Find returns the instances that a launch made, by its token, terminated ones
// left out, sorted by id. An empty answer is no proof: tags of a young instance
// may lag.
func (c *Cloud) Find(ctx context.Context, token string) ([]Instance, error) {
	list, err := c.list(ctx, append(c.ownFilters(), filter("tag:"+v1alpha1.TagLaunch, token)))
	slices.SortFunc(list, func(a, b Instance) int { return strings.Compare(a.ID, b.ID) })
	return list, err
}

// Tag puts the tags of its claim on an instance of a launch of several claims.
func (c *Cloud) Tag(ctx context.Context, id string, claim *v1alpha1.NodeClaim) error {
	tags := map[string]string{v1alpha1.TagNodeClaim: claim.Name, v1alpha1.TagNodeClaimUID: string(claim.UID)}
	if _, own := claim.Spec.EC2.Tags["Name"]; !own {
		tags["Name"] = claim.Name
	}
	_, err := c.ec2.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{id}, Tags: tagList(tags)})
	if err != nil {
		return fmt.Errorf("tagging instance %s: %w", id, translate("CreateTags", err))
	}
	return nil
}

// Instances returns all instances of this cluster, terminated ones left out. A
// live instance may be missing from it for a while.
func (c *Cloud) Instances(ctx context.Context) ([]Instance, error) {
	return c.list(ctx, c.ownFilters())
}

// Instance reads one instance of any state; ErrNotFound when EC2 knows none.
// Callers at the same time share a call.
func (c *Cloud) Instance(ctx context.Context, id string) (Instance, error) {
	return c.reading.do(ctx, id)
}

// Terminate asks EC2 to terminate an instance, after reading its tags afresh:
// ErrForeign when they are not this cluster's, ErrNotFound when EC2 does not
// know it (which is not the same as terminated). Callers at the same time share
// a call.
func (c *Cloud) Terminate(ctx context.Context, id string) error {
	_, err := c.ending.do(ctx, id)
	return err
}

// ownFilters select what is this cluster's and not terminated.
func (c *Cloud) ownFilters() []types.Filter {
	return append(c.clusterFilters(), filter("instance-state-name", notTerminated...))
}

// clusterFilters select what carries this cluster's tags.
func (c *Cloud) clusterFilters() []types.Filter {
	return []types.Filter{
		filter("tag:"+v1alpha1.TagClusterPrefix+c.cfg.ClusterName, "owned"),
		filter("tag:"+v1alpha1.TagClusterUID, c.cfg.ClusterUID),
	}
}

// list reads all pages of a filtered list.
func (c *Cloud) list(ctx context.Context, filters []types.Filter) ([]Instance, error) {
	var out []Instance
	err := c.pages(ctx, filters, func(i types.Instance) { out = append(out, instanceOf(i)) })
	return out, err
}

// pages hands every instance of a filtered list to visit.
func (c *Cloud) pages(ctx context.Context, filters []types.Filter, visit func(types.Instance)) error {
	p := ec2.NewDescribeInstancesPaginator(c.ec2, &ec2.DescribeInstancesInput{Filters: filters, MaxResults: aws.Int32(describePage)})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return translate("DescribeInstances", err)
		}
		for _, r := range page.Reservations {
			for _, i := range r.Instances {
				visit(i)
			}
		}
	}
	return nil
}

// describe reads instances by id. It filters instead of asking by id, since
// one unknown id would fail the call for all.
func (c *Cloud) describe(ctx context.Context, ids []string) (map[string]outcome[Instance], error) {
	out := make(map[string]outcome[Instance], len(ids))
	err := c.pages(ctx, []types.Filter{filter("instance-id", ids...)}, func(i types.Instance) {
		out[aws.ToString(i.InstanceId)] = outcome[Instance]{value: instanceOf(i)}
	})
	return out, err
}

// terminate reads the instances, leaves out what is not this cluster's or has
// ended already, and terminates the rest.
func (c *Cloud) terminate(ctx context.Context, ids []string) (map[string]outcome[struct{}], error) {
	out := make(map[string]outcome[struct{}], len(ids))
	var doomed []string
	err := c.pages(ctx, []types.Filter{filter("instance-id", ids...)}, func(i types.Instance) {
		id := aws.ToString(i.InstanceId)
		switch {
		case !c.owns(i.Tags):
			out[id] = outcome[struct{}]{err: &CallError{Kind: ErrForeign, Fault: Fault{Action: "TerminateInstances",
				Message: "instance " + id + " does not carry the tags of cluster " + c.cfg.ClusterName}}}
		case stateOf(i) == StateShuttingDown || stateOf(i) == StateTerminated:
			out[id] = outcome[struct{}]{}
		default:
			doomed = append(doomed, id)
		}
	})
	if err != nil {
		return nil, err
	}
	if len(doomed) == 0 {
		return out, nil
	}
	err = c.terminateAll(ctx, doomed)
	if err == nil || len(doomed) == 1 || isTransient(err) {
		for _, id := range doomed {
			out[id] = outcome[struct{}]{err: err}
		}
		return out, nil
	}
	// One bad id (unknown by now, protected, denied) fails the call for all.
	for _, id := range doomed {
		out[id] = outcome[struct{}]{err: c.terminateAll(ctx, []string{id})}
	}
	return out, nil
}

// terminateAll is one call.
func (c *Cloud) terminateAll(ctx context.Context, ids []string) error {
	if err := c.buckets.wait(ctx, ec2.ServiceID, terminateResources, len(ids)); err != nil {
		return err
	}
	_, err := c.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: ids})
	if err = translate("TerminateInstances", err); err != nil {
		var bad *ConfigError
		if errors.As(err, &bad) && bad.Code == "OperationNotPermitted" {
			bad.Fix = "turn off termination protection of the instance"
		}
		return fmt.Errorf("terminating %d instances: %w", len(ids), err)
	}
	return nil
}

// owns reports whether tags are this cluster's.
func (c *Cloud) owns(tags []types.Tag) bool {
	m := tagMap(tags)
	return m[v1alpha1.TagClusterUID] == c.cfg.ClusterUID && m[v1alpha1.TagClusterPrefix+c.cfg.ClusterName] == "owned"
}

// instanceOf translates what EC2 lists.
func instanceOf(i types.Instance) Instance {
	tags := tagMap(i.Tags)
	out := Instance{
		ID:             aws.ToString(i.InstanceId),
		Type:           string(i.InstanceType),
		CapacityType:   capacityTypeOf(i.InstanceLifecycle),
		PrivateDNSName: aws.ToString(i.PrivateDnsName),
		ImageID:        aws.ToString(i.ImageId),
		SubnetID:       aws.ToString(i.SubnetId),
		State:          stateOf(i),
		ClaimUID:       tags[v1alpha1.TagNodeClaimUID],
		ClaimName:      tags[v1alpha1.TagNodeClaim],
		Provisioner:    tags[v1alpha1.TagProvisioner],
		Launch:         tags[v1alpha1.TagLaunch],
		LaunchedAt:     aws.ToTime(i.LaunchTime),
	}
	if r := i.StateReason; r != nil {
		out.Reason, out.ReasonText = aws.ToString(r.Code), aws.ToString(r.Message)
	}
	for _, g := range i.SecurityGroups {
		out.SecurityGroups = append(out.SecurityGroups, aws.ToString(g.GroupId))
	}
	slices.Sort(out.SecurityGroups)
	if isReserved(i) {
		out.CapacityType = v1alpha1.CapacityTypeReserved
	}
	if i.Placement != nil {
		out.Zone = aws.ToString(i.Placement.AvailabilityZone)
	}
	return out
}

// stateOf is the name of an instance's state, "" where EC2 gives none.
func stateOf(i types.Instance) string {
	if i.State == nil {
		return ""
	}
	return string(i.State.Name)
}

// capacityTypeOf translates EC2's life cycle, which is empty for on-demand.
func capacityTypeOf[T ~string](lifecycle T) string {
	if string(lifecycle) == string(types.InstanceLifecycleTypeSpot) {
		return v1alpha1.CapacityTypeSpot
	}
	return v1alpha1.CapacityTypeOnDemand
}

// filter of a Describe call.
func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: aws.String(name), Values: values}
}

// tagMap of a list of tags.
func tagMap(tags []types.Tag) map[string]string {
	m := make(map[string]string, len(tags))
	for _, t := range tags {
		m[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return m
}
