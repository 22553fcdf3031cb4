package ec2

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestPlacementGroups(t *testing.T) {
	c := newStandIn(t, nil).cloud(nil)
	_, err := c.ec2.CreatePlacementGroup(t.Context(), &ec2.CreatePlacementGroupInput{GroupName: aws.String("rack"), Strategy: types.PlacementStrategyCluster})
	if err != nil {
		t.Fatal(err)
	}
	claim := newClaim("a", m5)
	resolve := func(group string, subnets []v1alpha1.SelectorTerm) (Resolved, string) {
		t.Helper()
		claim.Spec.EC2.PlacementGroup, claim.Spec.EC2.Subnets = group, subnets
		r, err := c.Resolve(t.Context(), "default", &claim.Spec.NodeTemplate)
		if err != nil {
			t.Fatal(err)
		}
		return r, r.Findings[0].Message
	}
	if r, says := resolve("nothing", nil); r.Ready() || !strings.Contains(says, "create-placement-group") {
		t.Errorf("a group that is not there: ready %v, %q", r.Ready(), says)
	}
	r, says := resolve("rack", nil)
	if r.Ready() || !strings.Contains(says, "select subnets of one zone") {
		t.Errorf("a cluster group and three zones: ready %v, %q", r.Ready(), says)
	}
	var one []v1alpha1.SelectorTerm
	for _, s := range r.Subnets {
		if s.Zone == "us-west-2a" {
			one = append(one, v1alpha1.SelectorTerm{ID: s.ID})
		}
	}
	if r, says := resolve("rack", one); !r.Ready() || !strings.Contains(says, "placement group: rack (cluster)") {
		t.Fatalf("ready %v, %q", r.Ready(), says)
	}
	record(t, c, claim)
	inst := mustLaunch(t, c, claim)
	out, err := c.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{inst.ID}})
	if err != nil {
		t.Fatal(err)
	}
	if got := aws.ToString(out.Reservations[0].Instances[0].Placement.GroupName); got != "rack" {
		t.Errorf("launched into placement group %q", got)
	}
}
