package ec2sim

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
)

type fleetInput struct {
	ClientToken string
	Type        string
	Configs     []fleetConfig `q:"LaunchTemplateConfigs"`
	OnDemand    *struct {
		AllocationStrategy         string
		SingleInstanceType         bool
		SingleAvailabilityZone     bool
		MinTargetCapacity          int
		CapacityReservationOptions *struct{ UsageStrategy string }
	} `q:"OnDemandOptions"`
	Spot *struct {
		AllocationStrategy           string
		SingleInstanceType           bool
		SingleAvailabilityZone       bool
		MinTargetCapacity            int
		InstanceInterruptionBehavior string
		InstancePoolsToUseCount      *int
	} `q:"SpotOptions"`
	Target struct {
		TotalTargetCapacity       *int
		OnDemandTargetCapacity    int
		SpotTargetCapacity        int
		DefaultTargetCapacityType string
		TargetCapacityUnitType    string
	} `q:"TargetCapacitySpecification"`
	TagSpecs                         []tagSpec `q:"TagSpecification"`
	ExcessCapacityTerminationPolicy  string
	ReplaceUnhealthyInstances        bool
	TerminateInstancesWithExpiration bool
	Context                          string
}

type fleetConfig struct {
	Template struct {
		templateRef
		Version string
	} `q:"LaunchTemplateSpecification"`
	Overrides []fleetOverride
}

type fleetOverride struct {
	InstanceType       string   `xml:"instanceType,omitempty"`
	MaxPrice           string   `xml:"maxPrice,omitempty"`
	SubnetID           string   `q:"SubnetId" xml:"subnetId,omitempty"`
	AvailabilityZone   string   `xml:"availabilityZone,omitempty"`
	AvailabilityZoneID string   `q:"AvailabilityZoneId" xml:"availabilityZoneId,omitempty"`
	WeightedCapacity   *float64 `xml:"weightedCapacity"`
	Priority           *float64 `xml:"priority"`
	ImageID            string   `q:"ImageId" xml:"imageId,omitempty"`
}

type templateAndOverride struct {
	Template struct {
		ID      string `xml:"launchTemplateId"`
		Version string `xml:"version"`
	} `xml:"launchTemplateSpecification"`
	Override fleetOverride `xml:"overrides"`
}

type fleetError struct {
	From      templateAndOverride `xml:"launchTemplateAndOverrides"`
	Lifecycle string              `xml:"lifecycle"`
	Code      string              `xml:"errorCode"`
	Message   string              `xml:"errorMessage"`
}

type fleetInstances struct {
	From      templateAndOverride `xml:"launchTemplateAndOverrides"`
	Lifecycle string              `xml:"lifecycle"`
	IDs       []string            `xml:"instanceIds>item"`
	Type      string              `xml:"instanceType"`
	Zone      string              `xml:"availabilityZone"`
	ZoneID    string              `xml:"availabilityZoneId"`
	SubnetID  string              `xml:"subnetId"`
}

type fleetAnswer struct {
	ID        string           `xml:"fleetId"`
	Errors    []fleetError     `xml:"errorSet>item"`
	Instances []fleetInstances `xml:"fleetInstanceSet>item"`
}

// option is one override of one template of a fleet.
type option struct {
	template *template
	version  int
	data     templateData
	override fleetOverride
}

func (o *option) wire() templateAndOverride {
	w := templateAndOverride{Override: o.override}
	w.Template.ID, w.Template.Version = o.template.id, strconv.Itoa(o.version)
	return w
}

// half is the on-demand or the spot part of a fleet, or all of one for a Capacity
// Block.
type half struct {
	spot       bool
	block      bool
	want       int
	strategy   string
	singleType bool
	singleZone bool
	least      int
	candidates []candidate
	specs      []*launchSpec // of candidates, by index; nil where refused
	grants     []grant
	failures   []failure
}

// fleetTags are the resource types that a request for an instant fleet may tag;
// others are tagged by its launch template ("Tag an EC2 Fleet").
var fleetTags = []string{"fleet", "instance", "volume"}

// createFleet does instant fleets: one try, synchronous, HTTP 200 with what was
// launched and one error for each override that was tried in vain.
func (s *Sim) createFleet(c *call, in *fleetInput) (any, error) {
	if old, ok, err := s.replay(c, "", in.ClientToken); ok || err != nil {
		return old, err
	}
	halves, err := in.halves()
	if err != nil {
		return nil, err
	}
	options, err := s.fleetOptions(in)
	if err != nil {
		return nil, err
	}
	tags, err := specTags(in.TagSpecs, fleetTags...)
	if err != nil {
		return nil, err
	}
	st := s.stock()
	for _, h := range halves {
		if err := s.plan(h, options, st); err != nil {
			return nil, err
		}
	}
	fleetID := "fleet-" + s.newUUID()
	for _, h := range halves {
		for _, l := range h.specs {
			if l == nil {
				continue
			}
			for kind, set := range tags {
				if kind == "fleet" {
					continue
				}
				merged := maps.Clone(l.tags[kind])
				if merged == nil {
					merged = map[string]string{}
				}
				maps.Copy(merged, set) // the request's tags win over the template's
				if err := maxTagged(merged); err != nil {
					return nil, err
				}
				l.tags[kind] = merged
			}
		}
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	s.tags[fleetID] = map[string]string{}
	maps.Copy(s.tags[fleetID], tags["fleet"])
	answer := &fleetAnswer{ID: fleetID}
	var launched []*instance
	for _, h := range halves {
		launched = append(launched, s.commitHalf(c, h, options, answer, in.ClientToken)...)
	}
	s.remember(c, "", in.ClientToken, answer, launched)
	return answer, nil
}

func (h *half) lifecycle() string {
	switch {
	case h.spot:
		return "spot"
	case h.block:
		return "capacity-block"
	default:
		return "on-demand"
	}
}

// checkMarket refuses a template that is for another market than the half.
func (h *half) checkMarket(l *launchSpec) *apiError {
	if l.data.block() == h.block {
		return nil
	}
	return errf("InvalidParameterCombination", "The market type of the launch template does not match the target capacity type of the fleet, %s", h.lifecycle())
}

func (s *Sim) commitHalf(c *call, h *half, options []option, answer *fleetAnswer, token string) []*instance {
	var launched []*instance
	for _, g := range h.grants {
		cand := h.candidates[g.candidate]
		l := h.specs[cand.index]
		made := s.launch(c, l, g.count, map[string]string{"aws:ec2:fleet-id": answer.ID}, token)
		item := fleetInstances{
			From: options[cand.index].wire(), Lifecycle: h.lifecycle(), Type: l.typ.Name,
			Zone: l.subnet.zone.Name, ZoneID: l.subnet.zone.ID, SubnetID: l.subnet.id,
		}
		for _, i := range made {
			item.IDs = append(item.IDs, i.id)
		}
		answer.Instances = append(answer.Instances, item)
		launched = append(launched, made...)
	}
	for _, f := range h.failures {
		answer.Errors = append(answer.Errors, fleetError{options[h.candidates[f.candidate].index].wire(), h.lifecycle(), f.err.code, f.err.message})
	}
	return launched
}

// halves reads the target: how many on demand, how many spot, and how each is
// allocated.
func (in *fleetInput) halves() ([]*half, error) {
	if in.Type != "instant" {
		return nil, errf("InvalidParameterValue", "Only fleets of type instant are implemented here, not '%s'", in.Type)
	}
	t := in.Target
	if t.TotalTargetCapacity == nil {
		return nil, missing("TargetCapacitySpecification.TotalTargetCapacity")
	}
	total := *t.TotalTargetCapacity
	rest := total - t.OnDemandTargetCapacity - t.SpotTargetCapacity
	if total < 1 || total > 10_000 || t.OnDemandTargetCapacity < 0 || t.SpotTargetCapacity < 0 || rest < 0 {
		return nil, errf("InvalidTargetCapacitySpecification", "The target capacities do not add up: total %d, on-demand %d, spot %d", total, t.OnDemandTargetCapacity, t.SpotTargetCapacity)
	}
	if t.TargetCapacityUnitType != "" && t.TargetCapacityUnitType != "units" {
		return nil, errf("InvalidParameterValue", "Only target capacities in units are implemented here, not '%s'", t.TargetCapacityUnitType)
	}
	// The defaults are EC2's: on-demand and spot by lowest price.
	od := &half{want: t.OnDemandTargetCapacity, strategy: "lowest-price"}
	spot := &half{spot: true, want: t.SpotTargetCapacity, strategy: "lowest-price"}
	switch t.DefaultTargetCapacityType {
	case "on-demand":
		od.want += rest
	case "spot":
		spot.want += rest
	case "capacity-block":
		// "Using OnDemandTargetCapacity or SpotTargetCapacity is not supported"; nor
		// are CapacityReservationOptions, and here no options at all.
		if rest != total || in.OnDemand != nil || in.Spot != nil {
			return nil, errf("InvalidFleetConfig", "A fleet for a Capacity Block has neither target capacities nor options for On-Demand or Spot")
		}
		return []*half{{block: true, want: total, strategy: od.strategy}}, nil
	case "":
		if rest > 0 {
			return nil, missing("TargetCapacitySpecification.DefaultTargetCapacityType")
		}
	default:
		return nil, invalidValue("DefaultTargetCapacityType", t.DefaultTargetCapacityType)
	}
	if o := in.OnDemand; o != nil {
		od.strategy = cmp.Or(o.AllocationStrategy, od.strategy)
		if !slices.Contains([]string{"lowest-price", "lowestPrice", "prioritized"}, od.strategy) {
			return nil, errf("InvalidParameterValue", "The on-demand allocation strategy '%s' is not valid", od.strategy)
		}
		od.singleType, od.singleZone, od.least = o.SingleInstanceType, o.SingleAvailabilityZone, o.MinTargetCapacity
	}
	if o := in.Spot; o != nil {
		spot.strategy = cmp.Or(o.AllocationStrategy, spot.strategy)
		if spot.strategy == "prioritized" {
			return nil, errf("InvalidParameterValue", "The spot allocation strategy '%s' is not valid", spot.strategy)
		}
		if o.InstanceInterruptionBehavior != "" && o.InstanceInterruptionBehavior != "terminate" {
			return nil, errf("InvalidParameterValue", "The interruption behavior '%s' is not valid for an instant fleet", o.InstanceInterruptionBehavior)
		}
		spot.singleType, spot.singleZone, spot.least = o.SingleInstanceType, o.SingleAvailabilityZone, o.MinTargetCapacity
	}
	var out []*half
	for _, h := range []*half{od, spot} {
		if h.least < 0 || h.least > 0 && !h.singleType && !h.singleZone {
			return nil, errf("InvalidFleetConfig", "MinTargetCapacity needs SingleInstanceType or SingleAvailabilityZone")
		}
		if h.want > 0 {
			out = append(out, h)
		}
	}
	return out, nil
}

// maxOptions is how many overrides a fleet may have ("EC2 Fleet quotas": 300
// launch specifications).
const maxOptions = 300

// fleetOptions looks up templates and checks overrides. What is wrong here
// fails the whole call.
func (s *Sim) fleetOptions(in *fleetInput) ([]option, error) {
	if len(in.Configs) == 0 {
		return nil, missing("LaunchTemplateConfigs")
	}
	if len(in.Configs) > 50 {
		return nil, errf("InvalidFleetConfig", "A fleet may have 50 launch template configurations, not %d", len(in.Configs))
	}
	var out []option
	seen := map[string]bool{}
	for _, cfg := range in.Configs {
		t, err := s.findTemplate(cfg.Template.templateRef)
		if err != nil {
			return nil, err
		}
		n, err := t.version(cfg.Template.Version)
		if err != nil {
			return nil, err
		}
		overrides := cfg.Overrides
		if len(overrides) == 0 {
			overrides = []fleetOverride{{}}
		}
		for _, o := range overrides {
			opt := option{template: t, version: n, data: t.versions[n-1].data, override: o}
			opt.data.InstanceType = cmp.Or(o.InstanceType, opt.data.InstanceType)
			opt.data.ImageID = cmp.Or(o.ImageID, opt.data.ImageID)
			if o.WeightedCapacity != nil && *o.WeightedCapacity != 1 {
				return nil, errf("InvalidParameterValue", "Weighted capacity is not implemented here")
			}
			zone := cmp.Or(o.AvailabilityZone, o.AvailabilityZoneID)
			if sn, err := s.placeSubnet(&opt.data, o.SubnetID, zone); err == nil {
				// EC2 has one pool for a type in a zone, whatever the subnet.
				key := opt.data.InstanceType + " " + sn.zone.Name
				if seen[key] {
					return nil, errf("InvalidFleetConfig", "The fleet configuration contains duplicate instance pools: %s in %s", opt.data.InstanceType, sn.zone.Name)
				}
				seen[key] = true
			}
			out = append(out, opt)
		}
	}
	targets := map[string]bool{}
	for _, o := range out {
		if o.data.block() {
			targets[o.data.target()] = true
		}
	}
	if len(targets) > 1 {
		return nil, errf("InvalidFleetConfig", "Multiple Capacity Blocks in the same EC2 Fleet request are not supported")
	}
	if len(out) > maxOptions {
		return nil, errf("InvalidInput", "The payload for the body of the request is too large: %d overrides, at most %d", len(out), maxOptions)
	}
	return out, nil
}

// wholeCall are the codes of wrong overrides that fail the call; others
// become an error of the override, as a launch that EC2 tried.
var wholeCall = []string{"InvalidSubnetID.NotFound", "MissingParameter", "MissingInput", "InvalidParameterCombination"}

// plan resolves the overrides for one half and grants its instances.
func (s *Sim) plan(h *half, options []option, st *stock) error {
	h.specs = make([]*launchSpec, len(options))
	for n, o := range options {
		cand := candidate{index: n}
		if o.override.Priority != nil {
			cand.priority = *o.override.Priority
		}
		l, err := s.resolve(o.data, o.override.SubnetID, cmp.Or(o.override.AvailabilityZone, o.override.AvailabilityZoneID), h.spot)
		var api *apiError
		switch {
		case errors.As(err, &api) && (slices.Contains(wholeCall, api.code) || isProfile(api)):
			return api
		case errors.As(err, &api):
			cand.refusal = api
		case err != nil:
			return err
		default:
			l.template, l.version = o.template, o.version
			h.specs[n] = l
			cand.pool, cand.subnet, cand.vcpus = l.pool(), l.subnet.id, l.typ.VCPUs
			cand.price = s.price(cand.pool)
			cand.reservation, cand.usesOpen, cand.block = l.data.target(), l.mayUseOpen(), l.data.block()
			cand.refusal = cmp.Or(h.checkMarket(l), s.offered(cand.pool, cand.block), s.checkTarget(l), overPrice(o.override.MaxPrice, cand.price, h.spot))
			if cand.refusal == nil {
				cand.refusal = s.refusedPool("CreateFleet", cand.pool)
			}
		}
		h.candidates = append(h.candidates, cand)
	}
	if err := sortCandidates(h.candidates, h.strategy, h.want, st); err != nil {
		return err
	}
	if h.singleType || h.singleZone {
		h.grants, h.failures = fillSingle(h.candidates, h.want, st, func(c candidate) string {
			key := ""
			if h.singleType {
				key = c.pool.typeName
			}
			if h.singleZone {
				key += " " + c.pool.zone
			}
			return key
		})
	} else {
		h.grants, h.failures = fill(h.candidates, h.want, st)
		return nil // fill drew the stock down for the other half
	}
	total := 0
	for _, g := range h.grants {
		total += g.count
	}
	if total < h.least {
		// "If the minimum target capacity is not reached, the fleet launches
		// no instances" (API reference, MinTargetCapacity).
		h.grants = nil
	}
	for _, g := range h.grants {
		st.take(h.candidates[g.candidate], g.count)
	}
	return nil
}

// isProfile tells the one InvalidParameterValue that fails a whole fleet: an
// instance profile that does not exist (yet).
func isProfile(e *apiError) bool {
	return strings.Contains(e.message, "iamInstanceProfile")
}

// overPrice refuses a spot pool that costs more than the override allows.
func overPrice(maxPrice string, price float64, spot bool) *apiError {
	if maxPrice == "" || !spot {
		return nil
	}
	limit, err := strconv.ParseFloat(maxPrice, 64)
	if err != nil || limit <= 0 {
		return invalidValue("MaxPrice", maxPrice)
	}
	if price > limit {
		return errf("SpotMaxPriceTooLow", "Your Spot request price of %s is lower than the minimum required Spot request fulfillment price of %v.", maxPrice, price)
	}
	return nil
}
