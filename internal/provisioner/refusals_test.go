package provisioner

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2"
)

func refusedWith(code string) error {
	if slices.Contains([]string{"InsufficientInstanceCapacity", "VcpuLimitExceeded", "InsufficientFreeAddressesInSubnet"}, code) {
		return fmt.Errorf("launching: %w", &ec2.CapacityError{Fault: ec2.Fault{Action: "CreateFleet", Code: code}})
	}
	return fmt.Errorf("launching: %w", &ec2.ConfigError{Fault: ec2.Fault{Action: "CreateFleet", Code: code, Message: "Invalid IAM Instance Profile name or not"}})
}

func TestEachClassOfRefusalHasItsOwnPause(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for code, want := range map[string]struct {
		class ec2.Class
		stops []time.Duration // After the first, the second, the twentieth.
	}{
		"UnauthorizedOperation":             {ec2.ClassDenied, []time.Duration{30 * time.Second, time.Minute, 10 * time.Minute}},
		"AuthFailure":                       {ec2.ClassCredentials, []time.Duration{30 * time.Second, time.Minute, 10 * time.Minute}},
		"InvalidAMIID.NotFound":             {ec2.ClassImage, []time.Duration{30 * time.Second, time.Minute, 10 * time.Minute}},
		"InvalidParameterValue":             {ec2.ClassProfile, []time.Duration{10 * time.Second, 20 * time.Second, 5 * time.Minute}},
		"InvalidSubnetID.NotFound":          {ec2.ClassNetwork, []time.Duration{30 * time.Second, time.Minute, 10 * time.Minute}},
		"InvalidLaunchTemplateId.NotFound":  {ec2.ClassTemplate, []time.Duration{10 * time.Second, 20 * time.Second, 5 * time.Minute}},
		"InvalidBlockDeviceMapping":         {ec2.ClassSettings, []time.Duration{time.Minute, 2 * time.Minute, 10 * time.Minute}},
		"InsufficientInstanceCapacity":      {ec2.ClassCapacity, nil},
		"VcpuLimitExceeded":                 {ec2.ClassQuota, nil},
		"InsufficientFreeAddressesInSubnet": {ec2.ClassAddresses, nil},
	} {
		t.Run(code, func(t *testing.T) {
			c, now := newCatalogue("us-west-2"), start
			var stops []time.Duration
			for i := range 20 {
				c.refused("bad", refusedWith(code), now)
				c.refused("bad", refusedWith(code), now) // The same moment is the same news.
				r, ok := c.lastRefusal("bad")
				if !ok || r.class != want.class {
					t.Fatalf("class %q, want %q", r.class, want.class)
				}
				if !r.stops {
					break
				}
				if _, stopped := c.blamedFor("bad", r.until.Add(-time.Millisecond)); !stopped {
					t.Error("launches do not stop")
				}
				if i == 0 || i == 1 || i == 19 {
					stops = append(stops, r.until.Sub(now))
				}
				now = r.until
			}
			if diff := cmp.Diff(want.stops, stops); diff != "" {
				t.Error(diff)
			}
			if _, stopped := c.blamedFor("good", start); stopped {
				t.Error("another Provisioner is stopped")
			}
			c.succeeded("bad")
			if _, refused := c.lastRefusal("bad"); refused {
				t.Error("a success does not end it")
			}
		})
	}
	c := newCatalogue("us-west-2")
	c.refused("bad", errors.New("no answer"), start)
	if _, refused := c.lastRefusal("bad"); refused {
		t.Error("what says nothing counts as a refusal")
	}
}

func TestAQuotaRestsWhatNeedsAsMuchOfIt(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	machine := func(name string, vcpus int32) capacity.Machine {
		return capacity.Machine{Name: name, VCPUs: vcpus, Offerings: []capacity.Offering{
			{Zone: "a", CapacityType: "on-demand"}, {Zone: "a", CapacityType: "spot"}}}
	}
	c := newCatalogue("us-west-2")
	c.setMachines([]capacity.Machine{machine("m5.large", 2), machine("m5.xlarge", 4), machine("c5.2xlarge", 8), machine("g5.2xlarge", 8)}, now)
	c.exhausted("pool", []ec2.Refusal{
		{OfferingRef: capacity.OfferingRef{InstanceType: "m5.xlarge", Zone: "a", CapacityType: "on-demand"}, Class: ec2.ClassQuota},
		{OfferingRef: capacity.OfferingRef{InstanceType: "g5.2xlarge", Zone: "a", CapacityType: "spot"}, Class: ec2.ClassDenied},
		{OfferingRef: capacity.OfferingRef{InstanceType: "m5.large", Zone: "a", CapacityType: "spot"}, Class: ec2.ClassCapacity}}, now)
	var rests []string
	for key, i := range c.ice {
		if i.until.After(now) {
			rests = append(rests, strings.TrimSpace(key.instanceType+" "+key.capacityType+" "+key.provisioner))
		}
	}
	slices.Sort(rests)
	if diff := cmp.Diff([]string{"c5.2xlarge on-demand", "g5.2xlarge spot pool", "m5.large spot", "m5.xlarge on-demand"}, rests); diff != "" {
		t.Error(diff)
	}
}

func TestOfferingsRestForLongerEachTime(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ref := []ec2.Refusal{{OfferingRef: capacity.OfferingRef{InstanceType: "m5.large", Zone: "a", CapacityType: "spot"}, Class: ec2.ClassCapacity}}
	key := offeringKey{"m5.large", "a", "spot", ""}
	c := newCatalogue("us-west-2")
	var waits []time.Duration
	for range 6 {
		c.exhausted("pool", ref, now)
		c.exhausted("pool", ref, now.Add(time.Second)) // Of another launch of the same moment.
		waits = append(waits, c.ice[key].until.Sub(now))
		now = c.ice[key].until
	}
	m := time.Minute
	if diff := cmp.Diff([]time.Duration{3 * m, 6 * m, 12 * m, 24 * m, 30 * m, 30 * m}, waits); diff != "" {
		t.Error(diff)
	}
	now = now.Add(31 * m)
	if c.exhausted("pool", ref, now); c.ice[key].until.Sub(now) != 3*m {
		t.Errorf("after half an hour of peace it rests for %s", c.ice[key].until.Sub(now))
	}
}
