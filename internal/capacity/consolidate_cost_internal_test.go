package capacity

import (
	"fmt"
	"math"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestWhatAMoveCosts(t *testing.T) {
	for name, tc := range map[string]struct {
		priority int32
		deletion string
		facts    PodFacts
		want     float64 // times the cost of an ordinary pod
	}{
		"an ordinary pod":                     {0, "", PodFacts{Replicas: 2}, 1},
		"one that starts in a minute":         {0, "", PodFacts{Replicas: 2, Start: time.Minute}, 2},
		"one that starts in five minutes":     {0, "", PodFacts{Replicas: 2, Start: 5 * time.Minute}, 6},
		"one of two gibibytes":                {0, "", PodFacts{Replicas: 2, ImageBytes: 2 << 30}, 2},
		"slow and large":                      {0, "", PodFacts{Replicas: 2, Start: time.Minute, ImageBytes: 1 << 30}, 2.5},
		"of priority 9":                       {9, "", PodFacts{Replicas: 2}, 2},
		"of less than none":                   {-5, "", PodFacts{Replicas: 2}, 0.5},
		"it would rather not be deleted":      {0, "999", PodFacts{Replicas: 2}, 4},
		"it would rather be deleted":          {0, "-1", PodFacts{Replicas: 2}, 0.5},
		"a deletion cost that cannot be read": {0, "much", PodFacts{Replicas: 2}, 1},
		"the only one":                        {0, "", PodFacts{Replicas: 1}, 2},
		"all of it":                           {9, "99", PodFacts{Replicas: 1, Start: time.Minute, ImageBytes: 2 << 30}, 3 * 2 * 3 * 2},
	} {
		t.Run(name, func(t *testing.T) {
			p := &corev1.Pod{Spec: corev1.PodSpec{Priority: &tc.priority}}
			if tc.deletion != "" {
				p.Annotations = map[string]string{corev1.PodDeletionCost: tc.deletion}
			}
			if got := moveCost(0.01, p, tc.facts) / 0.01; math.Abs(got-tc.want) > 1e-9 {
				t.Errorf("costs %v times as much, want %v", got, tc.want)
			}
		})
	}
}

func TestEmphasisOfAPriority(t *testing.T) {
	for x, want := range map[float64]float64{-1000: 0.5, -1: 0.5, 0: 1, 9: 2, 99: 3, 999: 4, 999_999_999: 10} {
		if got := emphasis(x); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v: %v, want %v", x, got, want)
		}
	}
}

// TestANodeCostsWhatItsOfferingCostsNow: also while EC2 has no more of it, when what
// it was bought at may be long past.
func TestANodeCostsWhatItsOfferingCostsNow(t *testing.T) {
	spot := func(zone string, price float64) Offering {
		return Offering{Zone: zone, CapacityType: v1alpha1.CapacityTypeSpot, Price: price}
	}
	c := &consolidator{in: &ConsolidationInput{Snapshot: &Snapshot{Provisioners: []*Provisioner{{Name: "p", InstanceTypes: []InstanceType{
		{Machine: &Machine{Name: "m5.large"}, Offerings: []Offering{spot("a", 0.04)}, SoldOut: []Offering{spot("b", 0.05)}},
	}}}}}}
	c.readPrices()
	for zone, want := range map[string]float64{"a": 0.04, "b": 0.05, "c": 0.09} {
		n := &Node{Provisioner: "p", HourlyPrice: 0.09, Labels: map[string]string{corev1.LabelInstanceTypeStable: "m5.large",
			corev1.LabelTopologyZone: zone, v1alpha1.LabelCapacityType: v1alpha1.CapacityTypeSpot}}
		if got := c.priceNow(n); got != want {
			t.Errorf("in zone %s: %v $/h, want %v", zone, got, want)
		}
	}
}

func TestSpotStaysDiverse(t *testing.T) {
	node := func(instanceType, capacityType string, price float64) *sender {
		return &sender{price: price, node: &Node{Claim: "c", Labels: map[string]string{
			corev1.LabelInstanceTypeStable: instanceType, corev1.LabelTopologyZone: "a", v1alpha1.LabelCapacityType: capacityType}}}
	}
	// launch of a type, with so many others of a capacity type to choose from.
	launch := func(instanceType, capacityType string, price float64, others int, of string) Launch {
		l := Launch{OfferingRef: OfferingRef{InstanceType: instanceType, Zone: "a", CapacityType: capacityType, Price: price}}
		for i := range others {
			l.Alternatives = append(l.Alternatives, OfferingRef{InstanceType: fmt.Sprint("other-", i), Zone: "a", CapacityType: of})
		}
		return l
	}
	// Of spot there are five pools of 1 $/h each, t-0 and so on.
	for name, tc := range map[string]struct {
		from     *sender // nil: the first of the spot nodes
		planned  []Launch
		launches []Launch
		want     bool
	}{
		"nothing is bought":                       {nil, nil, nil, true},
		"five types to choose from":               {nil, nil, []Launch{launch("new", "spot", 1, 4, "spot")}, true},
		"four types":                              {nil, nil, []Launch{launch("new", "spot", 1, 3, "spot")}, false},
		"one, and on-demand ones":                 {nil, nil, []Launch{launch("new", "spot", 1, 4, "on-demand")}, false},
		"on-demand in place of spot":              {nil, nil, []Launch{launch("new", "on-demand", 1, 0, "")}, true},
		"spot in place of on-demand":              {node("x", "on-demand", 1), nil, []Launch{launch("t-1", "spot", 1, 0, "")}, true},
		"too much in a pool that is there":        {nil, nil, []Launch{launch("t-1", "spot", 0.9, 4, "spot")}, false},
		"a quarter in a pool":                     {nil, nil, []Launch{launch("t-1", "spot", 1.0/3, 4, "spot"), launch("new", "spot", 1, 4, "spot")}, true},
		"more than a quarter, and so it was":      {nil, []Launch{launch("t-2", "spot", 5, 4, "spot")}, []Launch{launch("t-2", "spot", 0.1, 4, "spot"), launch("new", "spot", 2, 4, "spot")}, true},
		"more than a quarter, and less before it": {nil, []Launch{launch("t-2", "spot", 5, 4, "spot")}, []Launch{launch("t-2", "spot", 1, 4, "spot")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := &consolidator{}
			for i := range 5 {
				c.nodes = append(c.nodes, node(fmt.Sprint("t-", i), "spot", 1))
			}
			group := c.nodes[:1]
			if tc.from != nil {
				group = []*sender{tc.from}
				c.nodes = append(c.nodes, tc.from)
			}
			if tc.planned != nil {
				c.drafts = []*draft{{launches: tc.planned}}
			}
			if got := c.diverse(group, tc.launches); got != tc.want {
				t.Errorf("diverse: %t, want %t", got, tc.want)
			}
		})
	}
}
