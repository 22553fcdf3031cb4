package ec2sim

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const (
	onDemand = types.DefaultTargetCapacityTypeOnDemand
	spot     = types.DefaultTargetCapacityTypeSpot
)

func TestFleetAnswerAndInstance(t *testing.T) {
	w := newWorld(t)
	lt := w.template("t-1")
	out := w.createFleet(w.fleet(lt, 2, onDemand, w.override("m5.large", "us-west-2b")))
	if len(out.Instances) != 1 || len(out.Errors) != 0 || len(ids(out)) != 2 || !strings.HasPrefix(*out.FleetId, "fleet-") {
		t.Fatalf("%+v", out)
	}
	got := out.Instances[0]
	o := got.LaunchTemplateAndOverrides
	if *o.LaunchTemplateSpecification.LaunchTemplateId != lt || *o.LaunchTemplateSpecification.Version != "1" || o.Overrides.InstanceType != "m5.large" ||
		*o.Overrides.SubnetId != w.subnet("us-west-2b") || *o.Overrides.AvailabilityZone != "us-west-2b" {
		t.Errorf("override %+v", o)
	}
	if got.InstanceType != "m5.large" || got.Lifecycle != types.InstanceLifecycleOnDemand || *got.AvailabilityZone != "us-west-2b" || *got.AvailabilityZoneId != "usw2-az1" || *got.SubnetId != w.subnet("us-west-2b") || got.Platform != "" {
		t.Errorf("%+v", got)
	}

	i := w.instance(ids(out)[0])
	wantTags := map[string]string{
		"from": "template", "from-fleet": "yes", "both": "fleet", "aws:ec2launchtemplate:id": lt, "aws:ec2launchtemplate:version": "1", "aws:ec2:fleet-id": *out.FleetId,
	}
	if diff := cmp.Diff(wantTags, tagMap(i.Tags)); diff != "" {
		t.Error(diff)
	}
	if *i.PrivateIpAddress != "10.0.32.4" || *i.PrivateDnsName != "ip-10-0-32-4.us-west-2.compute.internal" || i.State.Name != types.InstanceStateNamePending {
		t.Errorf("%s %s %s", *i.PrivateIpAddress, *i.PrivateDnsName, i.State.Name)
	}
	if i.InstanceLifecycle != "" || i.Architecture != "x86_64" || *i.ImageId != w.imageID("x86_64") || *i.SubnetId != w.subnet("us-west-2b") || *i.VpcId != w.sim.vpc ||
		*i.SecurityGroups[0].GroupId != w.sim.groups[0].id || !strings.HasSuffix(*i.IamInstanceProfile.Arn, "/berth-node") || *i.Placement.AvailabilityZone != "us-west-2b" ||
		*i.MetadataOptions.HttpPutResponseHopLimit != 1 || i.MetadataOptions.HttpTokens != types.HttpTokensStateRequired || *i.CpuOptions.CoreCount != 1 || !i.LaunchTime.Equal(start) {
		t.Errorf("%+v", i)
	}
	if len(i.BlockDeviceMappings) != 1 || len(i.NetworkInterfaces) != 1 {
		t.Fatalf("%+v %+v", i.BlockDeviceMappings, i.NetworkInterfaces)
	}
	volume := *i.BlockDeviceMappings[0].Ebs.VolumeId
	td := must(w.ec2.DescribeTags(t.Context(), &ec2.DescribeTagsInput{Filters: []types.Filter{{Name: aws.String("resource-id"), Values: []string{volume, *out.FleetId}}}}))(t)
	have := map[string]string{}
	for _, d := range td.Tags {
		have[string(d.ResourceType)] = *d.Key + "=" + *d.Value
	}
	if diff := cmp.Diff(map[string]string{"volume": "kind=volume", "fleet": "kind=fleet"}, have); diff != "" {
		t.Error(diff)
	}
	if cost := w.state().HourlyCost; math.Abs(cost-2*0.096) > 1e-9 {
		t.Errorf("two m5.large cost %v $/h", cost)
	}
}

func TestFleetSpotPricesAndOrder(t *testing.T) {
	w := newWorld(t)
	lt := w.template("t-1")
	var overrides []types.FleetLaunchTemplateOverridesRequest
	for _, ty := range []types.InstanceType{"m5.xlarge", "m5.large", "c5.large"} {
		for _, z := range []string{"us-west-2a", "us-west-2b", "us-west-2c"} {
			overrides = append(overrides, w.override(ty, z))
		}
	}
	cheapest, price := "", math.MaxFloat64
	for _, o := range overrides {
		if p, ok := w.sim.cfg.Catalog.SpotPrice("us-west-2", string(o.InstanceType), *o.AvailabilityZone); ok && p < price {
			cheapest, price = string(o.InstanceType)+" "+*o.AvailabilityZone, p
		}
	}
	for _, strategy := range []types.SpotAllocationStrategy{"lowest-price", "price-capacity-optimized"} {
		in := w.fleet(lt, 1, spot, overrides...)
		in.SpotOptions = &types.SpotOptionsRequest{AllocationStrategy: strategy}
		out := w.createFleet(in)
		i := w.instance(ids(out)[0])
		if got := string(i.InstanceType) + " " + *i.Placement.AvailabilityZone; got != cheapest || i.InstanceLifecycle != types.InstanceLifecycleTypeSpot || i.SpotInstanceRequestId == nil {
			t.Errorf("%s: got %s, want %s", strategy, got, cheapest)
		}
	}
	// A pool that cannot take all comes after one that can.
	typeName, zone, _ := strings.Cut(cheapest, " ")
	w.order("pools", PoolState{typeName, zone, "spot", 1})
	in := w.fleet(lt, 2, spot, overrides...)
	in.SpotOptions = &types.SpotOptionsRequest{AllocationStrategy: "price-capacity-optimized"}
	out := w.createFleet(in)
	if len(out.Instances) != 1 || string(out.Instances[0].InstanceType)+" "+*out.Instances[0].AvailabilityZone == cheapest {
		t.Errorf("%+v", out.Instances)
	}
}

func TestFleetPriority(t *testing.T) {
	w := newWorld(t)
	lt := w.template("t-1")
	dear, cheap := w.override("m5.4xlarge", "us-west-2a"), w.override("m5.large", "us-west-2a")
	dear.Priority, cheap.Priority = aws.Float64(1), aws.Float64(2)
	in := w.fleet(lt, 1, onDemand, cheap, dear)
	if got := w.createFleet(in).Instances[0].InstanceType; got != "m5.large" {
		t.Errorf("lowest-price gives %s", got)
	}
	in.OnDemandOptions = &types.OnDemandOptionsRequest{AllocationStrategy: types.FleetOnDemandAllocationStrategyPrioritized}
	if got := w.createFleet(in).Instances[0].InstanceType; got != "m5.4xlarge" {
		t.Errorf("prioritized gives %s", got)
	}
	in = w.fleet(lt, 1, spot, cheap, dear)
	in.SpotOptions = &types.SpotOptionsRequest{AllocationStrategy: types.SpotAllocationStrategyCapacityOptimizedPrioritized}
	if got := w.createFleet(in).Instances[0].InstanceType; got != "m5.4xlarge" {
		t.Errorf("capacity-optimized-prioritized gives %s", got)
	}
	w.order("pools", PoolState{"m5.4xlarge", "us-west-2a", "spot", 5})
	in.SpotOptions.AllocationStrategy = types.SpotAllocationStrategyCapacityOptimized
	if got := w.createFleet(in).Instances[0].InstanceType; got != "m5.large" {
		t.Errorf("capacity-optimized gives %s", got)
	}
}

// errorsOf are the errors as "type zone code".
func errorsOf(out *ec2.CreateFleetOutput) []string {
	got := []string{}
	for _, e := range out.Errors {
		o := e.LaunchTemplateAndOverrides.Overrides
		got = append(got, fmt.Sprintf("%s %s %s %s", o.InstanceType, *o.AvailabilityZone, e.Lifecycle, *e.ErrorCode))
	}
	return got
}

func TestFleetDepletesPoolsAndSaysWhichOverridesFailed(t *testing.T) {
	w := newWorld(t)
	lt := w.template("t-1")
	w.order("pools", PoolState{"m5.large", "us-west-2a", "on-demand", 1})
	w.order("pools", PoolState{"m5.xlarge", "*", "*", 0})
	in := w.fleet(lt, 3, onDemand, w.override("m5.xlarge", "us-west-2b"), w.override("m5.large", "us-west-2a"), w.override("m5.2xlarge", "us-west-2b"), w.override("m5.4xlarge", "us-west-2b"))
	out := w.createFleet(in)
	if len(ids(out)) != 3 || len(out.Instances) != 2 || len(out.Instances[0].InstanceIds) != 1 || out.Instances[1].InstanceType != "m5.2xlarge" {
		t.Errorf("%+v", out.Instances)
	}
	// m5.4xlarge was not needed, so it was not tried.
	want := []string{"m5.large us-west-2a on-demand InsufficientInstanceCapacity", "m5.xlarge us-west-2b on-demand InsufficientInstanceCapacity"}
	if diff := cmp.Diff(want, errorsOf(out)); diff != "" {
		t.Error(diff)
	}
	// Nothing at all is HTTP 200 with errors only.
	out = w.createFleet(w.fleet(lt, 1, onDemand, w.override("m5.xlarge", "us-west-2a")))
	if len(out.Instances) != 0 || !cmp.Equal(errorsOf(out), []string{"m5.xlarge us-west-2a on-demand InsufficientInstanceCapacity"}) || !strings.Contains(*out.Errors[0].ErrorMessage, "m5.xlarge capacity in the Availability Zone you requested (us-west-2a)") {
		t.Errorf("%+v", out)
	}
	// A termination gives the slot back.
	w.terminate(ids(w.createFleet(w.fleet(lt, 1, onDemand, w.override("m5.2xlarge", "us-west-2a"))))...)
	w.order("pools", PoolState{"m5.large", "us-west-2a", "on-demand", 0})
	w.terminate(*w.find("m5.large").InstanceId)
	if out := w.createFleet(w.fleet(lt, 1, onDemand, w.override("m5.large", "us-west-2a"))); len(ids(out)) != 1 {
		t.Errorf("%+v", out)
	}
}

// find returns the first live instance of a type.
func (w *world) find(typeName string) types.Instance {
	w.t.Helper()
	out := must(w.ec2.DescribeInstances(w.t.Context(), &ec2.DescribeInstancesInput{Filters: []types.Filter{
		{Name: aws.String("instance-type"), Values: []string{typeName}}, {Name: aws.String("instance-state-name"), Values: []string{"pending", "running"}},
	}}))(w.t)
	if len(out.Reservations) == 0 {
		w.t.Fatalf("no %s lives", typeName)
	}
	return out.Reservations[0].Instances[0]
}

// terminate terminates and waits until it is done.
func (w *world) terminate(ids ...string) {
	w.t.Helper()
	must(w.ec2.TerminateInstances(w.t.Context(), &ec2.TerminateInstancesInput{InstanceIds: ids}))(w.t)
	w.clock.Step(terminateDelay)
}

func TestFleetErrorsOfOneOverride(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*world, *types.FleetLaunchTemplateOverridesRequest)
		spot   bool
		want   string
	}{
		"an image of another architecture": {func(w *world, o *types.FleetLaunchTemplateOverridesRequest) { o.ImageId = ptr(w.imageID("arm64")) }, false, "InvalidParameterValue"},
		"an image that is not there": {func(_ *world, o *types.FleetLaunchTemplateOverridesRequest) {
			o.ImageId = ptr("ami-00000000000000000")
		}, false, "InvalidAMIID.NotFound"},
		"an unknown type":                     {func(_ *world, o *types.FleetLaunchTemplateOverridesRequest) { o.InstanceType = "m5.enormous" }, false, "InvalidParameterValue"},
		"a type the zone does not offer":      {func(_ *world, o *types.FleetLaunchTemplateOverridesRequest) { o.InstanceType = "trn1.32xlarge" }, false, "Unsupported"},
		"a type that is never sold as spot":   {func(_ *world, o *types.FleetLaunchTemplateOverridesRequest) { o.InstanceType = "mac1.metal" }, true, "InvalidParameterValue"},
		"a spot price above the highest paid": {func(_ *world, o *types.FleetLaunchTemplateOverridesRequest) { o.MaxPrice = ptr("0.001") }, true, "SpotMaxPriceTooLow"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			// trn1 is offered in usw2-az1 and az4, which are us-west-2b and c.
			o := w.override("m5.large", "us-west-2a")
			tc.change(w, &o)
			kind := onDemand
			if tc.spot {
				kind = spot
			}
			out := w.createFleet(w.fleet(w.template("t-1"), 1, kind, o))
			if len(out.Instances) != 0 || len(out.Errors) != 1 || *out.Errors[0].ErrorCode != tc.want {
				t.Errorf("%+v", out)
			}
		})
	}
}

func TestFleetErrorsOfTheWholeCall(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*world, *ec2.CreateFleetInput)
		want   string
	}{
		"no such template": {func(_ *world, in *ec2.CreateFleetInput) {
			in.LaunchTemplateConfigs[0].LaunchTemplateSpecification.LaunchTemplateId = ptr("lt-0")
		}, "InvalidLaunchTemplateId.NotFound"},
		"no such template name": {func(_ *world, in *ec2.CreateFleetInput) {
			in.LaunchTemplateConfigs[0].LaunchTemplateSpecification = &types.FleetLaunchTemplateSpecificationRequest{LaunchTemplateName: ptr("gone"), Version: ptr("1")}
		}, "InvalidLaunchTemplateName.NotFoundException"},
		"no such version": {func(_ *world, in *ec2.CreateFleetInput) {
			in.LaunchTemplateConfigs[0].LaunchTemplateSpecification.Version = ptr("7")
		}, "InvalidLaunchTemplateId.VersionNotFound"},
		"no such subnet": {func(_ *world, in *ec2.CreateFleetInput) {
			in.LaunchTemplateConfigs[0].Overrides[0].SubnetId = ptr("subnet-0")
		}, "InvalidSubnetID.NotFound"},
		"a zone that is not the subnet's": {func(w *world, in *ec2.CreateFleetInput) {
			in.LaunchTemplateConfigs[0].Overrides[0].AvailabilityZone = ptr("us-west-2b")
			in.LaunchTemplateConfigs[0].Overrides[0].SubnetId = ptr(w.subnet("us-west-2a"))
		}, ""},
		"neither subnet nor zone": {func(_ *world, in *ec2.CreateFleetInput) {
			in.LaunchTemplateConfigs[0].Overrides[0].SubnetId, in.LaunchTemplateConfigs[0].Overrides[0].AvailabilityZone = nil, nil
		}, "MissingInput"},
		"another type of fleet": {func(_ *world, in *ec2.CreateFleetInput) { in.Type = types.FleetTypeMaintain }, "InvalidParameterValue"},
		"the same pool twice": {func(_ *world, in *ec2.CreateFleetInput) {
			o := &in.LaunchTemplateConfigs[0].Overrides
			*o = append(*o, (*o)[0])
		}, "InvalidFleetConfig"},
		"no kind of capacity": {func(_ *world, in *ec2.CreateFleetInput) {
			in.TargetCapacitySpecification.DefaultTargetCapacityType = ""
		}, "MissingParameter"},
		"parts beyond the total": {func(_ *world, in *ec2.CreateFleetInput) {
			in.TargetCapacitySpecification.SpotTargetCapacity = ptr(int32(2))
		}, "InvalidTargetCapacitySpecification"},
		"a minimum without a single type": {func(_ *world, in *ec2.CreateFleetInput) {
			in.OnDemandOptions = &types.OnDemandOptionsRequest{MinTargetCapacity: ptr(int32(1))}
		}, "InvalidFleetConfig"},
		"a strategy that on-demand has not": {func(_ *world, in *ec2.CreateFleetInput) {
			in.OnDemandOptions = &types.OnDemandOptionsRequest{AllocationStrategy: "cheapest"}
		}, "InvalidParameterValue"},
		"a parameter that is not implemented": {func(_ *world, in *ec2.CreateFleetInput) {
			in.OnDemandOptions = &types.OnDemandOptionsRequest{MaxTotalPrice: ptr("1")}
		}, "UnknownParameter"},
		"51 tags": {func(_ *world, in *ec2.CreateFleetInput) {
			for n := range 49 {
				in.TagSpecifications[0].Tags = append(in.TagSpecifications[0].Tags, tags(fmt.Sprint("t", n), "x")...)
			}
		}, "TagLimitExceeded"},
		"50 tags and one of the template": {func(_ *world, in *ec2.CreateFleetInput) {
			for n := range 48 {
				in.TagSpecifications[0].Tags = append(in.TagSpecifications[0].Tags, tags(fmt.Sprint("t", n), "x")...)
			}
		}, "TagLimitExceeded"},
		"a tag twice": {func(_ *world, in *ec2.CreateFleetInput) {
			in.TagSpecifications[0].Tags = tags("a", "1", "a", "2")
		}, "InvalidParameterValue"},
		"a tag of AWS's": {func(_ *world, in *ec2.CreateFleetInput) {
			in.TagSpecifications[0].Tags = tags("aws:x", "1")
		}, "InvalidParameterValue"},
		"tags for another resource": {func(_ *world, in *ec2.CreateFleetInput) {
			in.TagSpecifications[0].ResourceType = types.ResourceTypeVpc
		}, "InvalidParameterValue"},
		"tags for the network interface": {func(w *world, in *ec2.CreateFleetInput) {
			in.TagSpecifications[0].ResourceType = types.ResourceTypeNetworkInterface
		}, "InvalidParameterValue"},
		"a token that is too long": {func(_ *world, in *ec2.CreateFleetInput) { in.ClientToken = ptr(strings.Repeat("x", 65)) }, "InvalidParameterValue"},
		"too many overrides": {func(w *world, in *ec2.CreateFleetInput) {
			in.LaunchTemplateConfigs[0].Overrides = nil
			for i := range 301 {
				in.LaunchTemplateConfigs[0].Overrides = append(in.LaunchTemplateConfigs[0].Overrides, w.override(types.InstanceType(w.sim.cfg.Catalog.Types[i].Name), "us-west-2a"))
			}
		}, "InvalidInput"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			in := w.fleet(w.template("t-1"), 1, onDemand, w.override("m5.large", "us-west-2a"))
			tc.change(w, in)
			out, err := w.ec2.CreateFleet(t.Context(), in)
			if tc.want == "" {
				// What is wrong with one override is one error.
				if err != nil || len(out.Errors) != 1 || len(out.Instances) != 0 {
					t.Errorf("%+v, %v", out, err)
				}
				return
			}
			wantCode(t, err, tc.want, http.StatusBadRequest)
			if live := w.state().Live; live != 0 {
				t.Errorf("%d instances were launched all the same", live)
			}
		})
	}
}

func TestFleetUnknownProfileFailsTheCall(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.InstanceProfiles = []string{"other"} })
	_, err := w.ec2.CreateFleet(t.Context(), w.fleet(w.template("t-1"), 1, onDemand, w.override("m5.large", "us-west-2a")))
	wantCode(t, err, "InvalidParameterValue", http.StatusBadRequest)
	if !strings.Contains(err.Error(), "Invalid IAM Instance Profile name") {
		t.Error(err)
	}
}

func TestFleetSubnetWithoutAddresses(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Subnets = []SubnetConfig{{"us-west-2a", "10.0.1.0/28"}, {"us-west-2b", "10.0.2.0/28"}}
	})
	lt := w.template("t-1")
	out := w.createFleet(w.fleet(lt, 12, onDemand, w.override("m5.large", "us-west-2a")))
	if len(ids(out)) != 11 || !cmp.Equal(errorsOf(out), []string{"m5.large us-west-2a on-demand InsufficientFreeAddressesInSubnet"}) {
		t.Errorf("%d instances, %v", len(ids(out)), errorsOf(out))
	}
	if free := w.state().Subnets[0].Free; free != 0 {
		t.Errorf("%d addresses are free", free)
	}
	w.terminate(ids(out)[:2]...)
	sn := must(w.ec2.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{SubnetIds: []string{w.subnet("us-west-2a")}}))(t)
	if *sn.Subnets[0].AvailableIpAddressCount != 2 {
		t.Errorf("%d addresses are free", *sn.Subnets[0].AvailableIpAddressCount)
	}
}

func TestFleetSingleInstanceTypeAndMinimum(t *testing.T) {
	w := newWorld(t)
	lt := w.template("t-1")
	w.order("pools", PoolState{"m5.large", "*", "on-demand", 1})
	w.order("pools", PoolState{"m5.2xlarge", "*", "on-demand", 0})
	overrides := []types.FleetLaunchTemplateOverridesRequest{w.override("m5.large", "us-west-2a"), w.override("m5.large", "us-west-2b"), w.override("m5.xlarge", "us-west-2a")}
	in := w.fleet(lt, 3, onDemand, overrides...)
	in.OnDemandOptions = &types.OnDemandOptionsRequest{SingleInstanceType: ptr(true), MinTargetCapacity: ptr(int32(3))}
	if out := w.createFleet(in); len(out.Instances) != 1 || out.Instances[0].InstanceType != "m5.xlarge" || len(ids(out)) != 3 {
		t.Errorf("%+v", out.Instances)
	}
	in = w.fleet(lt, 3, onDemand, overrides[:2]...)
	in.OnDemandOptions = &types.OnDemandOptionsRequest{SingleInstanceType: ptr(true), MinTargetCapacity: ptr(int32(3))}
	if out := w.createFleet(in); len(out.Instances) != 0 || len(out.Errors) == 0 {
		t.Errorf("below the minimum nothing is launched, got %+v", out)
	}
	in.OnDemandOptions.MinTargetCapacity = ptr(int32(2))
	if out := w.createFleet(in); len(ids(out)) != 2 {
		t.Errorf("%+v", out)
	}
	in = w.fleet(lt, 2, onDemand, overrides...)
	in.OnDemandOptions = &types.OnDemandOptionsRequest{SingleAvailabilityZone: ptr(true)}
	if out := w.createFleet(in); len(ids(out)) != 2 || *out.Instances[0].AvailabilityZone != "us-west-2a" {
		t.Errorf("%+v", out)
	}
}

func TestFleetMixesOnDemandAndSpot(t *testing.T) {
	w := newWorld(t)
	in := w.fleet(w.template("t-1"), 3, spot, w.override("m5.large", "us-west-2a"))
	in.TargetCapacitySpecification.OnDemandTargetCapacity = ptr(int32(1))
	counts := map[types.InstanceLifecycle]int{}
	for _, i := range w.createFleet(in).Instances {
		counts[i.Lifecycle] += len(i.InstanceIds)
	}
	if diff := cmp.Diff(map[types.InstanceLifecycle]int{"on-demand": 1, "spot": 2}, counts); diff != "" {
		t.Error(diff)
	}
}

func TestFleetToken(t *testing.T) {
	w := newWorld(t)
	in := w.fleet(w.template("t-1"), 1, onDemand, w.override("m5.large", "us-west-2a"))
	in.ClientToken = ptr("claim-1")
	first := w.createFleet(in)
	again := w.createFleet(in)
	if *again.FleetId != *first.FleetId || !cmp.Equal(ids(first), ids(again)) || w.state().Live != 1 {
		t.Errorf("the same token launched %v, then %v", ids(first), ids(again))
	}
	// A terminated instance does not make the token new.
	w.terminate(ids(first)...)
	if again := w.createFleet(in); !cmp.Equal(ids(first), ids(again)) || w.state().Live != 0 {
		t.Errorf("%v", ids(again))
	}
	in.LaunchTemplateConfigs[0].Overrides[0].InstanceType = "m5.xlarge"
	_, err := w.ec2.CreateFleet(t.Context(), in)
	wantCode(t, err, "IdempotentParameterMismatch", http.StatusBadRequest)
	w.clock.Step(w.sim.cfg.TokenRetention + 1)
	if out := w.createFleet(in); len(ids(out)) != 1 {
		t.Errorf("a forgotten token is new: %+v", out)
	}
}

func TestFleetDryRun(t *testing.T) {
	w := newWorld(t)
	in := w.fleet(w.template("t-1"), 1, onDemand, w.override("m5.large", "us-west-2a"))
	in.DryRun = ptr(true)
	in.ClientToken = ptr("x")
	_, err := w.ec2.CreateFleet(t.Context(), in)
	wantCode(t, err, "DryRunOperation", http.StatusPreconditionFailed)
	if w.state().Live != 0 {
		t.Error("a dry run launched")
	}
	in.DryRun = nil
	if len(ids(w.createFleet(in))) != 1 {
		t.Error("a dry run used up the token")
	}
}

// TestFillIsExact: whatever the pools, no more is granted than there is, every
// shortfall has its failure, and what can be granted is.
func TestFillIsExact(t *testing.T) {
	zones := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		st := &stock{pools: map[pool]int{}, subnets: map[string]int{}, launches: rapid.SampledFrom([]int{0, 3, 8, noLimit}).Draw(t, "launches"), vcpus: map[quotaKey]int{}}
		quota := quotaKey{"standard", false}
		if rapid.Bool().Draw(t, "quota") {
			st.vcpus[quota] = rapid.IntRange(-2, 20).Draw(t, "vCPUs left")
		}
		for _, z := range zones {
			st.subnets[z] = rapid.IntRange(0, 6).Draw(t, "free "+z)
		}
		var list []candidate
		for i := range rapid.IntRange(0, 6).Draw(t, "candidates") {
			z := rapid.SampledFrom(zones).Draw(t, "zone")
			c := candidate{index: i, pool: pool{fmt.Sprint("t", i), z, false}, subnet: z, vcpus: 2, price: float64(rapid.IntRange(1, 3).Draw(t, "price"))}
			if rapid.Bool().Draw(t, "limited") {
				st.pools[c.pool] = rapid.IntRange(0, 4).Draw(t, "left")
			}
			if rapid.IntRange(0, 5).Draw(t, "refused") == 0 {
				c.refusal = errf("Unsupported", "no")
			}
			list = append(list, c)
		}
		want := rapid.IntRange(1, 12).Draw(t, "want")
		before := st.clone()
		grants, failures := fill(list, want, st)
		total := 0
		perPool, perSubnet := map[pool]int{}, map[string]int{}
		for _, g := range grants {
			c := list[g.candidate]
			if c.refusal != nil || g.count < 1 {
				t.Fatalf("granted %+v to %+v", g, c)
			}
			total += g.count
			perPool[c.pool] += g.count
			perSubnet[c.subnet] += g.count
		}
		for p, n := range perPool {
			if left, ok := before.pools[p]; ok && (n > left || st.pools[p] != left-n) {
				t.Fatalf("pool %v had %d, gave %d, has %d", p, left, n, st.pools[p])
			}
		}
		for s, n := range perSubnet {
			if n > before.subnets[s] || st.subnets[s] != before.subnets[s]-n {
				t.Fatalf("subnet %s had %d, gave %d, has %d", s, before.subnets[s], n, st.subnets[s])
			}
		}
		if total > before.launches || st.launches != before.launches-total {
			t.Fatalf("%d granted of %d that the throttle lets through", total, before.launches)
		}
		if left, ok := before.vcpus[quota]; ok && total > 0 && (2*total > left || st.vcpus[quota] != left-2*total) {
			t.Fatalf("%d vCPUs granted of %d", 2*total, left)
		}
		if total > want || total < want && len(failures) != len(list) {
			t.Fatalf("%d of %d granted, %d of %d candidates failed", total, want, len(failures), len(list))
		}
	})
}
