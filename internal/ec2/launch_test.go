package ec2

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

const (
	onDemand = v1alpha1.CapacityTypeOnDemand
	spot     = v1alpha1.CapacityTypeSpot
)

// offer is a claim's offering: type zone capacity-type price.
func offer(instanceType, zone, capacityType, price string) v1alpha1.ClaimOffering {
	return v1alpha1.ClaimOffering{InstanceType: instanceType, Zone: zone, CapacityType: capacityType, HourlyPrice: v1alpha1.Price(price)}
}

// machines of a small region.
func machines(name string) *capacity.Machine {
	switch {
	case name == "unknown.large":
		return nil
	case strings.HasPrefix(name, "m7g"):
		return &capacity.Machine{Name: name, Arch: "arm64"}
	case strings.HasPrefix(name, "g5"):
		return &capacity.Machine{Name: name, Arch: "amd64", GPU: &capacity.GPU{Count: 1, Manufacturer: "nvidia"}}
	case strings.HasPrefix(name, "g4ad"):
		return &capacity.Machine{Name: name, Arch: "amd64", GPU: &capacity.GPU{Count: 1, Manufacturer: "amd"}}
	default:
		return &capacity.Machine{Name: name, Arch: "amd64"}
	}
}

func TestChooseLines(t *testing.T) {
	images := Resolved{Images: []Image{
		{ID: "ami-amd", Arch: "amd64", Accelerators: []string{""}},
		{ID: "ami-arm", Arch: "arm64", Accelerators: []string{""}},
		{ID: "ami-gpu", Arch: "amd64", Accelerators: []string{"nvidia"}},
	}}
	subnets := map[string]string{"a": "subnet-a", "b": "subnet-b"}
	var many []v1alpha1.ClaimOffering
	for i := range 70 {
		many = append(many, offer(fmt.Sprintf("m5.%dxlarge", i), "a", onDemand, "1"))
	}
	tests := map[string]struct {
		offerings []v1alpha1.ClaimOffering
		want      []string // type zone subnet capacity-type image
		refused   []string
		says      string
	}{
		"the offerings' order, their images and subnets": {
			offerings: []v1alpha1.ClaimOffering{offer("m7g.large", "b", onDemand, "0.08"), offer("m5.large", "a", onDemand, "0.09"), offer("g5.xlarge", "a", onDemand, "1")},
			want:      []string{"m7g.large b subnet-b on-demand ami-arm", "m5.large a subnet-a on-demand ami-amd", "g5.xlarge a subnet-a on-demand ami-gpu"},
		},
		"one capacity type at a time, the first": {
			offerings: []v1alpha1.ClaimOffering{offer("m5.large", "a", spot, "0.03"), offer("m5.large", "a", onDemand, "0.09"), offer("m5.large", "b", spot, "0.04")},
			want:      []string{"m5.large a subnet-a spot ami-amd", "m5.large b subnet-b spot ami-amd"},
		},
		"spot dearer than on-demand is not bought": {
			offerings: []v1alpha1.ClaimOffering{offer("m5.large", "a", spot, "0.03"), offer("c5.large", "a", onDemand, "0.09"), offer("m5.metal", "b", spot, "4")},
			want:      []string{"m5.large a subnet-a spot ami-amd"},
		},
		"a zone whose subnets are full is left out": {
			offerings: []v1alpha1.ClaimOffering{offer("m5.large", "c", onDemand, "0.09"), offer("m5.large", "a", onDemand, "0.09")},
			want:      []string{"m5.large a subnet-a on-demand ami-amd"},
		},
		"all zones full is no capacity": {
			offerings: []v1alpha1.ClaimOffering{offer("m5.large", "c", onDemand, "0.09")}, refused: []string{"m5.large c on-demand SubnetFull"}, says: "no subnet in c has a free address",
		},
		"a full zone of one capacity type gives way to the other": {
			offerings: []v1alpha1.ClaimOffering{offer("m5.large", "c", spot, "0.03"), offer("m5.large", "a", onDemand, "0.09")},
			want:      []string{"m5.large a subnet-a on-demand ami-amd"},
		},
		"an AMD GPU needs no driver of its own image": {
			offerings: []v1alpha1.ClaimOffering{offer("g4ad.xlarge", "a", onDemand, "0.5")}, want: []string{"g4ad.xlarge a subnet-a on-demand ami-amd"},
		},
		"types without image are named": {
			offerings: []v1alpha1.ClaimOffering{offer("unknown.large", "a", onDemand, "0.5")}, says: "unknown.large: not a type that this region offers",
		},
		"no more lines than a request takes": {offerings: many, want: func() []string {
			var out []string
			for i := range maxOverrides {
				out = append(out, fmt.Sprintf("m5.%dxlarge a subnet-a on-demand ami-amd", i))
			}
			return out
		}()},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			lines, err := chooseLines(tc.offerings, machines, images, subnets)
			var got []string
			for _, l := range lines {
				got = append(got, strings.Join([]string{l.instanceType, l.zone, l.subnet, l.capacityType, l.image.ID}, " "))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if (err != nil) != (tc.says != "") || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want one with %q", err, tc.says)
			}
			if diff := cmp.Diff(tc.refused, offeringNames(Refused(err))); diff != "" {
				t.Error(diff)
			}
			if err != nil && !Definite(err) {
				t.Error("nothing was sent, so a new attempt doubles nothing")
			}
		})
	}
}

// offeringNames are "type zone capacity-type".
func offeringNames(list []Refusal) []string {
	var out []string
	for _, o := range list {
		name := o.InstanceType + " " + o.Zone + " " + o.CapacityType
		if o.Class != ClassCapacity {
			name += " " + string(o.Class)
		}
		out = append(out, name)
	}
	return out
}

// launchClaim has a recorded attempt with two templates.
func launchClaim(capacityType string) *v1alpha1.NodeClaim {
	return &v1alpha1.NodeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "default-abcde", UID: "uid-1"},
		Spec: v1alpha1.NodeClaimSpec{
			Provisioner: v1alpha1.ProvisionerRef{Name: "default"},
			NodeTemplate: v1alpha1.NodeTemplate{EC2: v1alpha1.EC2{Tags: map[string]string{
				"team": "web", "Name": "mine", v1alpha1.TagClusterUID: "stolen", v1alpha1.TagNodeClaimUID: "stolen"}}},
			Offerings: []v1alpha1.ClaimOffering{offer("m5.large", "a", capacityType, "0.09"), offer("m7g.large", "b", capacityType, "0.08"), offer("c5.large", "a", capacityType, "0.1")},
		},
		Status: v1alpha1.NodeClaimStatus{Launch: &v1alpha1.LaunchIntent{
			Attempt: 2, Token: "TOKEN", LaunchTemplateID: "lt-1", LaunchTemplateVersion: "1", CapacityType: capacityType,
			Overrides: []v1alpha1.LaunchOverride{
				{InstanceType: "m5.large", Zone: "a", SubnetID: "subnet-a"},
				{InstanceType: "m7g.large", Zone: "b", SubnetID: "subnet-b", LaunchTemplateID: "lt-2", LaunchTemplateVersion: "1"},
				{InstanceType: "c5.large", Zone: "a", SubnetID: "subnet-a"},
			},
		}},
	}
}

func TestFleetRequestGolden(t *testing.T) {
	for _, capacityType := range []string{onDemand, spot} {
		in, err := fleetRequest("demo", "cluster-uid", launchClaim(capacityType))
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.MarshalIndent(in, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`\n *"[A-Za-z]+": (null|"")(,?)`).ReplaceAll(text, nil)
		golden(t, "fleet-"+capacityType+".txt", string(text)+"\n")
	}
}

func TestFleetRequestForSeveralClaims(t *testing.T) {
	claim := together(launchClaim(spot), 3)
	delete(claim.Spec.EC2.Tags, "Name")
	in, err := fleetRequest("demo", "cluster-uid", claim)
	if err != nil {
		t.Fatal(err)
	}
	if n := *in.TargetCapacitySpecification.TotalTargetCapacity; n != 3 {
		t.Errorf("%d instances are asked for", n)
	}
	want := map[string]string{"team": "web", "Name": "default", v1alpha1.TagClusterPrefix + "demo": "owned", v1alpha1.TagClusterUID: "cluster-uid",
		v1alpha1.TagProvisioner: "default", v1alpha1.TagLaunch: "TOKEN"}
	if diff := cmp.Diff(want, tagMap(in.TagSpecifications[0].Tags)); diff != "" {
		t.Errorf("tags: %s", diff)
	}
}

func TestFleetRequestNeedsARecordedLaunch(t *testing.T) {
	claim := launchClaim(onDemand)
	claim.Status.Launch.CapacityType = "scheduled"
	if _, err := fleetRequest("demo", "u", claim); err == nil || !strings.Contains(err.Error(), `"scheduled" cannot be launched`) {
		t.Errorf("a kind that nobody knows: %v", err)
	}
	claim.Status.Launch = nil
	if _, err := fleetRequest("demo", "u", claim); err == nil || !strings.Contains(err.Error(), "no launch is recorded") {
		t.Errorf("nothing recorded: %v", err)
	}
}

// fleetError for a line of launchClaim.
func fleetError(code, instanceType, subnet string) types.CreateFleetError {
	return types.CreateFleetError{ErrorCode: aws.String(code), ErrorMessage: aws.String("message of " + code),
		LaunchTemplateAndOverrides: &types.LaunchTemplateAndOverridesResponse{Overrides: &types.FleetLaunchTemplateOverrides{
			InstanceType: types.InstanceType(instanceType), SubnetId: aws.String(subnet)}}}
}

func TestFleetAnswer(t *testing.T) {
	noCapacity := fleetError("InsufficientInstanceCapacity", "m5.large", "subnet-a")
	throttled := fleetError("RequestLimitExceeded", "m7g.large", "subnet-b")
	won := types.CreateFleetInstance{InstanceIds: []string{"i-1"}, InstanceType: "m7g.large", Lifecycle: types.InstanceLifecycleOnDemand,
		LaunchTemplateAndOverrides: &types.LaunchTemplateAndOverridesResponse{Overrides: &types.FleetLaunchTemplateOverrides{SubnetId: aws.String("subnet-b")}}}
	tests := map[string]struct {
		out      ec2.CreateFleetOutput
		instance string // id type zone subnet
		kind     error
		as       any
		definite bool
		refused  []string
		full     []string
		says     string
	}{
		"an instance": {out: ec2.CreateFleetOutput{Instances: []types.CreateFleetInstance{won}}, instance: "i-1 m7g.large b subnet-b"},
		"an instance and errors: the instance counts, and what was refused is learned": {
			out:      ec2.CreateFleetOutput{Instances: []types.CreateFleetInstance{won}, Errors: []types.CreateFleetError{noCapacity, fleetError("UnauthorizedOperation", "c5.large", "subnet-a")}},
			instance: "i-1 m7g.large b subnet-b", refused: []string{"m5.large a on-demand", "c5.large a on-demand NotAuthorized"}},
		"no capacity": {
			out: ec2.CreateFleetOutput{Errors: []types.CreateFleetError{noCapacity, fleetError("UnfulfillableCapacity", "c5.large", "subnet-a")}},
			as:  new(*CapacityError), definite: true, refused: []string{"m5.large a on-demand", "c5.large a on-demand"}, says: "InsufficientInstanceCapacity ×1, UnfulfillableCapacity ×1"},
		"a throttle is never a refused offering, and the attempt is over": {
			out: ec2.CreateFleetOutput{Errors: []types.CreateFleetError{noCapacity, throttled}}, kind: ErrThrottled, definite: true, refused: []string{"m5.large a on-demand"}},
		"EC2 failed inside the answer": {
			out: ec2.CreateFleetOutput{Errors: []types.CreateFleetError{fleetError("InternalError", "m5.large", "subnet-a")}}, kind: ErrUnknown, definite: true},
		"a full subnet is not a refused offering": {
			out: ec2.CreateFleetOutput{Errors: []types.CreateFleetError{fleetError("InsufficientFreeAddressesInSubnet", "m5.large", "subnet-a")}},
			as:  new(*CapacityError), definite: true, full: []string{"subnet-a"}},
		"a quota": {
			out: ec2.CreateFleetOutput{Errors: []types.CreateFleetError{fleetError("VcpuLimitExceeded", "m5.large", "subnet-a")}},
			as:  new(*CapacityError), definite: true, refused: []string{"m5.large a on-demand QuotaExceeded"}, says: "Service Quotas"},
		"a setting": {
			out: ec2.CreateFleetOutput{Errors: []types.CreateFleetError{fleetError("InvalidAMIID.NotFound", "m5.large", "subnet-a"), fleetError("InvalidAMIID.NotFound", "c5.large", "subnet-a")}},
			as:  new(*ConfigError), definite: true, refused: []string{"m5.large a on-demand ImageUnusable", "c5.large a on-demand ImageUnusable"}, says: "ec2.amis"},
		"a setting that one line is refused for is the line's": {
			out: ec2.CreateFleetOutput{Errors: []types.CreateFleetError{noCapacity, fleetError("UnauthorizedOperation", "c5.large", "subnet-a")}},
			as:  new(*CapacityError), definite: true, refused: []string{"m5.large a on-demand", "c5.large a on-demand NotAuthorized"}},
		"settings of two kinds are the lines' too": {
			out: ec2.CreateFleetOutput{Errors: []types.CreateFleetError{fleetError("InvalidParameterCombination", "m5.large", "subnet-a"), fleetError("UnauthorizedOperation", "c5.large", "subnet-a")}},
			as:  new(*CapacityError), definite: true, refused: []string{"m5.large a on-demand SettingsRefused", "c5.large a on-demand NotAuthorized"}},
		"a type that the zone does not have": {
			out: ec2.CreateFleetOutput{Errors: []types.CreateFleetError{fleetError("InvalidFleetConfiguration", "m5.large", "subnet-a")}},
			as:  new(*CapacityError), definite: true, refused: []string{"m5.large a on-demand"}},
		"a quota before no capacity": {
			out: ec2.CreateFleetOutput{Errors: []types.CreateFleetError{fleetError("VcpuLimitExceeded", "c5.large", "subnet-a"), noCapacity}},
			as:  new(*CapacityError), definite: true, refused: []string{"c5.large a on-demand QuotaExceeded", "m5.large a on-demand"}, says: "Service Quotas"},
		"a quota after no capacity": {
			out: ec2.CreateFleetOutput{Errors: []types.CreateFleetError{noCapacity, fleetError("VcpuLimitExceeded", "c5.large", "subnet-a")}},
			as:  new(*CapacityError), definite: true, refused: []string{"m5.large a on-demand", "c5.large a on-demand QuotaExceeded"}, says: "Service Quotas"},
		"refusals that do not say of what are of all lines": {
			out: ec2.CreateFleetOutput{Errors: []types.CreateFleetError{{ErrorCode: aws.String("InsufficientInstanceCapacity")}}},
			as:  new(*CapacityError), definite: true, refused: []string{"m5.large a on-demand", "m7g.large b on-demand", "c5.large a on-demand"}},
		"neither instance nor error says nothing": {kind: ErrUnknown, says: "neither"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, full, err := fleetAnswer(launchClaim(onDemand), &tc.out)
			if tc.instance != "" {
				inst, err := one(got, err)
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Join([]string{inst.ID, inst.Type, inst.Zone, inst.SubnetID}, " "); got != tc.instance {
					t.Errorf("instance %q, want %q", got, tc.instance)
				}
				if inst.ClaimUID != "uid-1" || inst.CapacityType != onDemand || inst.ProviderID() != "aws:///b/i-1" {
					t.Errorf("instance %+v", inst)
				}
				if diff := cmp.Diff(tc.refused, offeringNames(inst.Refused)); diff != "" {
					t.Error(diff)
				}
				return
			}
			if tc.kind != nil && !errors.Is(err, tc.kind) || tc.as != nil && !errors.As(err, tc.as) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v", err)
			}
			if Definite(err) != tc.definite {
				t.Errorf("Definite = %v", Definite(err))
			}
			if diff := cmp.Diff(tc.refused, offeringNames(Refused(err))); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tc.full, full); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLaunchTokenProperties(t *testing.T) {
	rule := regexp.MustCompile(`^[A-Z2-7]{52}$`)
	rapid.Check(t, func(t *rapid.T) {
		type id struct {
			Cluster, Claim string
			Attempt        int32
		}
		gen := rapid.Custom(func(t *rapid.T) id {
			return id{rapid.StringMatching(`[a-f0-9-]{0,8}`).Draw(t, "cluster"), rapid.StringMatching(`[a-f0-9-]{0,8}`).Draw(t, "claim"), rapid.Int32Range(1, 12).Draw(t, "attempt")}
		})
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		x, y := LaunchToken(a.Cluster, a.Claim, a.Attempt), LaunchToken(b.Cluster, b.Claim, b.Attempt)
		if !rule.MatchString(x) {
			t.Fatalf("token %q", x)
		}
		if (a == b) != (x == y) {
			t.Fatalf("%v and %v have tokens %s and %s", a, b, x, y)
		}
	})
}

func TestLedgerSpreadsOverSubnets(t *testing.T) {
	now := time.Unix(0, 0)
	subnets := []Subnet{{ID: "s1", Zone: "a", FreeIPs: 3}, {ID: "s2", Zone: "a", FreeIPs: 2}, {ID: "s3", Zone: "b", FreeIPs: 1}}
	var l ledger
	l.reread(subnets, now)
	var got []string
	for n := range 6 {
		s := l.bestSubnets(subnets)["a"]
		got = append(got, s)
		l.plan(fmt.Sprint(n), s, 1, now)
	}
	if diff := cmp.Diff([]string{"s1", "s1", "s2", "s1", "s2", ""}, got); diff != "" {
		t.Error(diff)
	}
	l.exhaust("s3")
	if best := l.bestSubnets(subnets); len(best) != 0 {
		t.Errorf("all subnets are full, yet %v", best)
	}
	// EC2's count does not have what it has not answered yet.
	l.reread(subnets, now.Add(plannedTTL))
	if diff := cmp.Diff(map[string]string{"b": "s3"}, l.bestSubnets(subnets)); diff != "" {
		t.Error(diff)
	}
	// Of the three that were planned in s1, two went to s3.
	for token, subnet := range map[string]string{"0": "s1", "1": "s3", "3": "s3"} {
		l.settle(token, []Instance{{SubnetID: subnet}})
	}
	l.settle("0", nil) // Again, and of another process: nobody else's are given back.
	l.settle("another's", nil)
	if diff := cmp.Diff(map[string]string{"a": "s1"}, l.bestSubnets(subnets)); diff != "" {
		t.Error(diff)
	}
	// What is never answered is not set aside for ever.
	l.reread(subnets, now.Add(plannedTTL+time.Second))
	if diff := cmp.Diff(map[string]string{"a": "s1", "b": "s3"}, l.bestSubnets(subnets)); diff != "" {
		t.Error(diff)
	}
	l.plan("6", "s1", 2, now)
	if diff := cmp.Diff(map[string]string{"a": "s2", "b": "s3"}, l.bestSubnets(subnets)); diff != "" {
		t.Error(diff)
	}
}
