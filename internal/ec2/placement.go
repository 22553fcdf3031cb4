package ec2

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// placementGroup of EC2.
type placementGroup struct {
	state    types.PlacementGroupState
	strategy types.PlacementStrategy
}

// resolvePlacement looks up the placement group that a Provisioner names. remark
// says what it is; wrong, when not empty, why nothing can be launched into it.
func (c *Cloud) resolvePlacement(ctx context.Context, e *v1alpha1.EC2, subnets []Subnet) (remark, wrong string, err error) {
	if e.PlacementGroup == "" {
		return "", "", nil
	}
	found, err := c.placements.get(ctx, e.PlacementGroup, func(ctx context.Context) ([]placementGroup, time.Duration, error) {
		got, err := c.describePlacement(ctx, e.PlacementGroup)
		return got, resolveTTL, err
	})
	switch {
	case isDeniedCode(codeOf(err)):
		return "", "placement group " + e.PlacementGroup + ": " + err.Error(), nil
	case err != nil:
		return "", "", err
	case len(found) == 0:
		return "", "there is no placement group " + e.PlacementGroup + ": create it (aws ec2 create-placement-group) or set ec2.placementGroup", nil
	}
	g := found[0]
	if g.state != types.PlacementGroupStateAvailable {
		return "", fmt.Sprintf("placement group %s is %s", e.PlacementGroup, g.state), nil
	}
	if zones := subnetZones(subnets); g.strategy == types.PlacementStrategyCluster && len(zones) > 1 {
		// EC2: a cluster placement group can't span multiple Availability Zones.
		return "", fmt.Sprintf("placement group %s keeps its instances close together, in one zone, and the subnets are in %s: select subnets of one zone in ec2.subnets",
			e.PlacementGroup, strings.Join(zones, ", ")), nil
	}
	return fmt.Sprintf("placement group: %s (%s)", e.PlacementGroup, g.strategy), "", nil
}

func (c *Cloud) describePlacement(ctx context.Context, name string) ([]placementGroup, error) {
	out, err := c.ec2.DescribePlacementGroups(ctx, &ec2.DescribePlacementGroupsInput{GroupNames: []string{name}})
	if err != nil {
		err = translate("DescribePlacementGroups", err)
		if codeOf(err) == "InvalidPlacementGroup.Unknown" {
			return nil, nil
		}
		return nil, err
	}
	var found []placementGroup
	for _, g := range out.PlacementGroups {
		if aws.ToString(g.GroupName) == name {
			found = append(found, placementGroup{g.State, g.Strategy})
		}
	}
	return found, nil
}
