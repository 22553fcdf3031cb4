package capacity

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const someTable = `
rules:
- {instanceTypes: ["m5.*"], hourlyCommitment: 0.15, discountPercent: 30}
- {instanceTypes: ["m5.*", "c5.*"], discountPercent: 10}
- {instanceTypes: [r5.large], capacityTypes: [spot], zones: [us-west-2a], price: 0.01}
`

func TestPriceTable(t *testing.T) {
	table, err := ParsePriceTable([]byte(someTable))
	if err != nil {
		t.Fatal(err)
	}
	offer := func(zone, how string, price float64) Offering {
		return Offering{Zone: zone, CapacityType: how, Price: price}
	}
	onDemand, spot := v1alpha1.CapacityTypeOnDemand, v1alpha1.CapacityTypeSpot
	machines := []Machine{
		{Name: "c5.large", Offerings: []Offering{offer("us-west-2a", onDemand, 0.1), offer("us-west-2a", spot, 0.05)}},
		{Name: "m5.large", Offerings: []Offering{offer("us-west-2a", onDemand, 0.1)}},
		{Name: "r5.large", Offerings: []Offering{offer("us-west-2a", spot, 0.05), offer("us-west-2b", spot, 0.05)}},
	}
	prices := func(ms []Machine) (out []float64) {
		for _, m := range ms {
			for _, o := range m.Offerings {
				out = append(out, o.Price)
			}
		}
		return out
	}
	before := prices(machines)
	near := cmpopts.EquateApprox(0, 1e-9)
	// The commitment has room: what it pays for costs next to nothing.
	if diff := cmp.Diff([]float64{0.09, 0.05, 0.00007, 0.01, 0.05}, prices(table.Apply(machines, nil)), near); diff != "" {
		t.Errorf("with room in the commitment (-want +got):\n%s", diff)
	}
	// Three nodes of m5.large use 0.14, then 0.21 of 0.15: the third is the last that it pays for.
	node := OfferingRef{InstanceType: "m5.large", Zone: "us-west-2a", CapacityType: onDemand, Price: 0.1}
	if diff := cmp.Diff([]float64{0.14, 0, 0}, table.Cover([]OfferingRef{node, node}), near); diff != "" {
		t.Errorf("two nodes (-want +got):\n%s", diff)
	}
	covered := table.Cover([]OfferingRef{node, node, node, node})
	if diff := cmp.Diff([]float64{0.21, 0, 0}, covered, near); diff != "" {
		t.Errorf("four nodes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]float64{0.09, 0.05, 0.09, 0.01, 0.05}, prices(table.Apply(machines, covered)), near); diff != "" {
		t.Errorf("with the commitment used up (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, prices(machines)); diff != "" {
		t.Errorf("what was given has changed (-want +got):\n%s", diff)
	}
}

func TestParsePriceTableRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"a misspelt field":          {"rules: [{discount: 3}]", "discount"},
		"a rule that says nothing":  {"rules: [{instanceTypes: [m5.large]}]", "needed"},
		"a bad pattern":             {"rules: [{instanceTypes: ['m5.[']}]", "pattern"},
		"more than all off":         {"rules: [{discountPercent: 100}]", "discountPercent"},
		"a negative price":          {"rules: [{price: -1}]", "price"},
		"a price that is no number": {"rules: [{price: .nan}]", "price"},
		"two prices":                {"rules: [{price: 1, discountPercent: 5}]", "exclude"},
		"a strange capacity type":   {"rules: [{price: 1, capacityTypes: [reserved]}]", "reserved"},
		"text":                      {"hello", "price table"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParsePriceTable([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one about %q", err, tc.want)
			}
		})
	}
	if table, err := ParsePriceTable(nil); err != nil || len(table.Rules) != 0 {
		t.Errorf("an empty table: %v, %v", table, err)
	}
}

func FuzzParsePriceTable(f *testing.F) {
	f.Add([]byte(someTable))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := ParsePriceTable(data)
		if err != nil {
			return
		}
		m := []Machine{{Name: "m5.large", Offerings: []Offering{{Zone: "us-west-2a", CapacityType: "on-demand", Price: 0.1}, {Zone: "us-west-2a", CapacityType: "spot", Price: 0.05}}}}
		for _, o := range table.Apply(m, nil)[0].Offerings {
			if !(o.Price > 0) {
				t.Errorf("price %v", o.Price)
			}
		}
	})
}
