package capacity

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// PriceTable is what a user pays where that is not what AWS lists: discounts,
// Savings Plans, commitments. For each offering the first rule that matches
// holds; one that none matches has AWS's price.
type PriceTable struct {
	Rules []PriceRule `json:"rules,omitempty"`
}

// PriceRule sets the price of the offerings that it matches.
type PriceRule struct {
	// InstanceTypes, Zones: names, * and ? as wildcards. Empty: all.
	InstanceTypes []string `json:"instanceTypes,omitempty"`
	Zones         []string `json:"zones,omitempty"`
	// CapacityTypes: on-demand, spot. Empty: on-demand.
	CapacityTypes []string `json:"capacityTypes,omitempty"`
	// DiscountPercent of AWS's price, from 0 to below 100.
	DiscountPercent float64 `json:"discountPercent,omitempty"`
	// Price in $/h, in the place of AWS's.
	Price float64 `json:"price,omitempty"`
	// HourlyCommitment in $/h is paid in any case, as by a Savings Plan. While
	// running nodes that the rule matches use less than that, at the rule's price,
	// more of them cost next to nothing; from then on the rule matches nothing.
	HourlyCommitment float64 `json:"hourlyCommitment,omitempty"`
}

// committedShare of the rule's price is what an instance is planned with that a
// commitment pays for: the little that is left keeps the order among types.
const committedShare = 1.0 / 1000

// maxRules bounds a table.
const maxRules = 200

// ParsePriceTable reads a table from YAML or JSON. Unknown fields are refused.
func ParsePriceTable(data []byte) (PriceTable, error) {
	var t PriceTable
	if err := yaml.UnmarshalStrict(data, &t); err != nil {
		return PriceTable{}, fmt.Errorf("reading the price table: %w", err)
	}
	if len(t.Rules) > maxRules {
		return PriceTable{}, fmt.Errorf("the price table has %d rules, at most %d are read", len(t.Rules), maxRules)
	}
	for i, r := range t.Rules {
		if err := r.check(); err != nil {
			return PriceTable{}, fmt.Errorf("price table, rules[%d]: %w", i, err)
		}
	}
	return t, nil
}

func (r *PriceRule) check() error {
	for _, p := range slices.Concat(r.InstanceTypes, r.Zones) {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return fmt.Errorf("%q is no pattern", p)
		}
	}
	for _, c := range r.CapacityTypes {
		if c != v1alpha1.CapacityTypeOnDemand && c != v1alpha1.CapacityTypeSpot {
			return fmt.Errorf("capacityTypes: %q is neither on-demand nor spot", c)
		}
	}
	switch {
	case !(r.DiscountPercent >= 0 && r.DiscountPercent < 100):
		return fmt.Errorf("discountPercent %v is not from 0 to below 100", r.DiscountPercent)
	case r.Price != 0 && !(r.Price >= 1e-6 && r.Price < 10_000):
		return fmt.Errorf("price %v is not a price in $/h", r.Price)
	case !(r.HourlyCommitment >= 0 && r.HourlyCommitment < 1e9):
		return fmt.Errorf("hourlyCommitment %v is not an amount in $/h", r.HourlyCommitment)
	case r.Price > 0 && r.DiscountPercent > 0:
		return errors.New("price and discountPercent exclude each other")
	case r.Price == 0 && r.DiscountPercent == 0 && r.HourlyCommitment == 0:
		return errors.New("one of price, discountPercent and hourlyCommitment is needed")
	}
	return nil
}

// matches reports whether the rule is for an offering.
func (r *PriceRule) matches(instanceType, zone, capacityType string) bool {
	any := func(patterns []string, name string) bool {
		return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, name); return ok })
	}
	bought := capacityType == v1alpha1.CapacityTypeOnDemand
	if len(r.CapacityTypes) > 0 {
		bought = slices.Contains(r.CapacityTypes, capacityType)
	}
	return bought && any(r.InstanceTypes, instanceType) && any(r.Zones, zone)
}

// rate is the rule's price for an offering that AWS lists at a price.
func (r *PriceRule) rate(list float64) float64 {
	if r.Price > 0 {
		return r.Price
	}
	return list * (1 - r.DiscountPercent/100)
}

// Open says of each rule whether it applies, when running nodes use covered of
// its commitment.
func (t PriceTable) Open(covered []float64) []bool {
	out := make([]bool, len(t.Rules))
	for i, r := range t.Rules {
		out[i] = r.HourlyCommitment == 0 || i >= len(covered) || covered[i] < r.HourlyCommitment
	}
	return out
}

// Cover is what running nodes use of each rule's commitment, in $/h: a node
// counts for the first rule with room that matches it, else for none.
func (t PriceTable) Cover(nodes []OfferingRef) []float64 {
	covered := make([]float64, len(t.Rules))
	for _, n := range nodes {
		for i := range t.Rules {
			r := &t.Rules[i]
			if !r.matches(n.InstanceType, n.Zone, n.CapacityType) {
				continue
			}
			if r.HourlyCommitment == 0 {
				break // Its price is this rule's, and no commitment's.
			}
			if covered[i] < r.HourlyCommitment {
				covered[i] += r.rate(n.Price)
				break
			}
		}
	}
	return covered
}

// Apply returns the machines with the table's prices. It changes nothing in
// what it is given.
func (t PriceTable) Apply(machines []Machine, covered []float64) []Machine {
	out := slices.Clone(machines)
	if len(t.Rules) == 0 {
		return out
	}
	open := t.Open(covered)
	for i := range out {
		out[i].Offerings = slices.Clone(out[i].Offerings)
		for j := range out[i].Offerings {
			o := &out[i].Offerings[j]
			for k := range t.Rules {
				r := &t.Rules[k]
				if !open[k] || !r.matches(out[i].Name, o.Zone, o.CapacityType) {
					continue
				}
				o.Price = r.rate(o.Price)
				if r.HourlyCommitment > 0 {
					o.Price *= committedShare
				}
				break
			}
		}
	}
	return out
}
