package provisioner

import (
	"errors"
	"testing"
	"time"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2"
)

// TestANewLeaderStartsWarm: what the last one published is planned with until
// EC2 has answered, with the user's prices applied once, and the pauses after
// refusals go on growing where they were.
func TestANewLeaderStartsWarm(t *testing.T) {
	now := time.Now()
	machines := func() []capacity.Machine {
		return []capacity.Machine{{Name: "m5.large", Arch: "amd64", VCPUs: 2, MemoryMiB: 8192, CurrentGeneration: true,
			Offerings: []capacity.Offering{{Zone: "a", CapacityType: v1alpha1.CapacityTypeOnDemand, Price: 0.1}, {Zone: "b", CapacityType: v1alpha1.CapacityTypeOnDemand, Price: 0.1}}}}
	}
	half := capacity.PriceTable{Rules: []capacity.PriceRule{{DiscountPercent: 50}}}
	refused := []ec2.Refusal{{OfferingRef: capacity.OfferingRef{InstanceType: "m5.large", Zone: "b", CapacityType: v1alpha1.CapacityTypeOnDemand}, Class: ec2.ClassCapacity}}
	old := newCatalogue("us-west-2")
	old.setMachines(machines(), now)
	old.setPrices(half, []float64{0})
	old.exhausted("pool", refused, now.Add(-4*time.Minute)) // Over by now.
	old.exhausted("pool", refused, now)
	data, err := capacity.EncodeOfferings(func() *capacity.Offerings { o := old.offerings(now); return &o }())
	if err != nil {
		t.Fatal(err)
	}
	published := func() capacity.Offerings {
		o, err := capacity.DecodeOfferings(data)
		if err != nil {
			t.Fatal(err)
		}
		return *o
	}
	c := newCatalogue("us-west-2")
	if !c.restore(published(), now) || !c.ready() || c.discovered() {
		t.Fatal("nothing is known after a start")
	}
	c.setPrices(half, []float64{0})
	pr := &v1alpha1.Provisioner{}
	c.setResolved(pr.Name, capacity.Resolved{Ready: true})
	p := c.provisioner(pr, now)
	if p.NotReady != "" || len(p.InstanceTypes) != 1 || len(p.InstanceTypes[0].Offerings) != 1 || len(p.InstanceTypes[0].SoldOut) != 1 {
		t.Fatalf("%+v", p)
	}
	if price := p.InstanceTypes[0].Offerings[0].Price; price != 0.05 {
		t.Errorf("it costs %v, want half of 0.1", price)
	}
	key := offeringKey{"m5.large", "b", v1alpha1.CapacityTypeOnDemand, ""}
	if got, want := c.ice[key], old.ice[key]; got.streak != want.streak || want.streak != 2 || !got.until.Equal(want.until) {
		t.Errorf("the refusal is %+v, was %+v", got, want)
	}
	c.setMachines(machines(), now)
	if price := c.provisioner(pr, now).InstanceTypes[0].Offerings[0].Price; !c.discovered() || price != 0.05 {
		t.Errorf("after the discovery it costs %v", price)
	}
	for name, o := range map[string]capacity.Offerings{
		"another region": func() capacity.Offerings { o := published(); o.Region = "eu-west-1"; return o }(),
		"too old":        func() capacity.Offerings { o := published(); o.At = now.Add(-25 * time.Hour); return o }(),
	} {
		if c := newCatalogue("us-west-2"); c.restore(o, now) || c.ready() {
			t.Errorf("%s: planned with", name)
		}
	}
}

// TestWhatCannotBeReadIsSaid: while EC2 does not answer and nothing is known,
// pods are told so by way of their Provisioner.
func TestWhatCannotBeReadIsSaid(t *testing.T) {
	c, pr, now := newCatalogue("us-west-2"), &v1alpha1.Provisioner{}, time.Now()
	if c.unknown() != "" {
		t.Error("something is said before EC2 was asked")
	}
	c.cannotRead(errors.New("no route to host"))
	const want = "what EC2 offers cannot be read: no route to host"
	if c.ready() || c.unknown() != want || c.provisioner(pr, now).NotReady != want {
		t.Errorf("%q, %q", c.unknown(), c.provisioner(pr, now).NotReady)
	}
	c.setResolved(pr.Name, capacity.Resolved{Ready: true})
	c.setMachines([]capacity.Machine{{Name: "m5.large"}}, now)
	if c.unknown() != "" || c.provisioner(pr, now).NotReady != "" {
		t.Error("it is said after EC2 has answered")
	}
	c.cannotRead(errors.New("again"))
	if c.unknown() != "" {
		t.Error("the last answer is not believed")
	}
}
