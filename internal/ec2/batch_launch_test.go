package ec2

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2sim"
)

// together makes a claim's recorded attempt one for n claims.
func together(claim *v1alpha1.NodeClaim, n int) *v1alpha1.NodeClaim {
	for i := range n {
		name := claim.Name
		if i > 0 {
			name = fmt.Sprint(claim.Name, i)
		}
		claim.Status.Launch.Members = append(claim.Status.Launch.Members, v1alpha1.LaunchMember{Name: name})
	}
	return claim
}

func TestFleetAnswerForSeveralClaims(t *testing.T) {
	item := func(instanceType, subnet string, ids ...string) types.CreateFleetInstance {
		return types.CreateFleetInstance{InstanceIds: ids, InstanceType: types.InstanceType(instanceType), SubnetId: &subnet}
	}
	noCapacity := fleetError("InsufficientInstanceCapacity", "m5.large", "subnet-a")
	for name, tc := range map[string]struct {
		out       ec2.CreateFleetOutput
		instances []string
		short     bool
		kind      error
	}{
		"all of them, from two pools, in an order that does not depend on EC2's": {
			out: ec2.CreateFleetOutput{Instances: []types.CreateFleetInstance{item("m7g.large", "subnet-b", "i-3"), item("m5.large", "subnet-a", "i-2", "i-1")},
				Errors: []types.CreateFleetError{noCapacity}},
			instances: []string{"i-1 m5.large a", "i-2 m5.large a", "i-3 m7g.large b"}},
		"fewer, and why": {
			out:       ec2.CreateFleetOutput{Instances: []types.CreateFleetInstance{item("m5.large", "subnet-a", "i-1")}, Errors: []types.CreateFleetError{noCapacity}},
			instances: []string{"i-1 m5.large a"}, short: true},
		"fewer for a throttle: no offering is to blame": {
			out: ec2.CreateFleetOutput{Instances: []types.CreateFleetInstance{item("m5.large", "subnet-a", "i-1")},
				Errors: []types.CreateFleetError{fleetError("RequestLimitExceeded", "m5.large", "subnet-a")}},
			instances: []string{"i-1 m5.large a"}, short: true, kind: ErrThrottled},
		"fewer without a word": {
			out:       ec2.CreateFleetOutput{Instances: []types.CreateFleetInstance{item("m5.large", "subnet-a", "i-1")}},
			instances: []string{"i-1 m5.large a"}, short: true, kind: ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := fleetAnswer(together(launchClaim(onDemand), 3), &tc.out)
			if err != nil {
				t.Fatal(err)
			}
			var list []string
			for _, i := range got.Instances {
				list = append(list, i.ID+" "+i.Type+" "+i.Zone)
				if i.ClaimUID != "" || i.Launch != "TOKEN" {
					t.Errorf("whose it is shows later: %+v", i)
				}
			}
			if diff := cmp.Diff(tc.instances, list); diff != "" {
				t.Error(diff)
			}
			if (got.Short != nil) != tc.short || tc.short && !Definite(got.Short) || tc.kind != nil && !errors.Is(got.Short, tc.kind) {
				t.Errorf("short: %v", got.Short)
			}
			if throttled := errors.Is(got.Short, ErrThrottled); throttled != (len(got.Refused) == 0) && len(tc.out.Errors) > 0 {
				t.Errorf("refused %v", got.Refused)
			}
		})
	}
}

func TestLaunchSeveralOnceWhateverHappensToTheReply(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	claim := newClaim("a", m5)
	record(t, c, claim)
	together(claim, 5)
	sim.post("pools", ec2sim.PoolState{InstanceType: "m5.large", Zone: "us-west-2a", CapacityType: "on-demand", Capacity: 3})
	sim.fault(ec2sim.Fault{Action: "CreateFleet", DropReply: true, Count: 3})
	if _, err := c.Launch(t.Context(), claim); !errors.Is(err, ErrUnknown) || Definite(err) {
		t.Fatalf("error %v; nobody knows whether there are instances", err)
	}
	var answers [][]string
	for range 2 { // Other processes repeat.
		got, err := sim.cloud(nil).Launch(t.Context(), claim)
		if err != nil {
			t.Fatal(err)
		}
		var noMore *CapacityError
		if !errors.As(got.Short, &noMore) || len(got.Instances) != 3 {
			t.Fatalf("%d instances, short: %v", len(got.Instances), got.Short)
		}
		var ids []string
		for _, i := range got.Instances {
			if i.PrivateDNSName == "" {
				t.Errorf("%s has no name", i.ID)
			}
			ids = append(ids, i.ID)
		}
		answers = append(answers, ids)
	}
	if diff := cmp.Diff(answers[0], answers[1]); diff != "" || !slices.IsSorted(answers[0]) {
		t.Errorf("the answers differ, or are not sorted: %s", diff)
	}
	if n := len(sim.state().Instances); n != 3 {
		t.Errorf("%d instances", n)
	}

	member := newClaim("a1", m5)
	if err := c.Tag(t.Context(), answers[0][1], member); err != nil {
		t.Fatal(err)
	}
	found, err := c.Find(t.Context(), claim.Status.Launch.Token)
	if err != nil || len(found) != 3 {
		t.Fatalf("found %+v, %v", found, err)
	}
	if found[1].ClaimName != "a1" || found[1].ClaimUID != "uid-a1" || found[0].ClaimName != "" || found[0].Launch != claim.Status.Launch.Token {
		t.Errorf("tags: %+v", found)
	}
}

func TestRoomFollowsTheBucketOfInstances(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	if n := c.Room(100); n != 100 {
		t.Errorf("room for %d of 100 in a full bucket", n)
	}
	if err := c.buckets.wait(t.Context(), ec2.ServiceID, launchResources, 880); err != nil {
		t.Fatal(err)
	}
	if n := c.Room(100); n < 20 || n > 22 {
		t.Errorf("room for %d, 20 are left", n)
	}
	if err := c.buckets.wait(t.Context(), ec2.ServiceID, launchResources, 20); err != nil {
		t.Fatal(err)
	}
	if n := c.Room(100); n != 1 {
		t.Errorf("room for %d in an empty bucket; one is always asked for, and waits", n)
	}
}

func TestLinesAreBoundedInBytes(t *testing.T) {
	long := make([]v1alpha1.ClaimOffering, maxOverrides)
	for i := range long {
		long[i] = offer(fmt.Sprintf("m5.%0400d", i), "a", onDemand, "1")
	}
	lines, err := chooseLines(long, machines, Resolved{Images: []Image{{ID: "ami", Arch: "amd64", Accelerators: []string{""}}}}, map[string]string{"a": "subnet-a"})
	if err != nil || len(lines) == 0 || len(lines)*400 > maxLineBytes {
		t.Errorf("%d lines, %v", len(lines), err)
	}
}
