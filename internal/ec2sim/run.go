package ec2sim

import (
	"cmp"
	"slices"
)

type runInput struct {
	templateData
	ClientToken    string
	MinCount       int
	MaxCount       int
	SubnetID       string `q:"SubnetId"`
	LaunchTemplate *struct {
		templateRef
		Version string
	}
}

// runInstances launches between MinCount and MaxCount instances of one kind in
// one zone, or none.
func (s *Sim) runInstances(c *call, in *runInput) (any, error) {
	scope := in.SubnetID
	if in.Placement != nil {
		scope += in.Placement.AvailabilityZone
	}
	if sn, err := s.subnet(in.SubnetID); err == nil {
		scope = sn.zone.Name // a token counts for the zone, not for the subnet
	}
	if old, ok, err := s.replay(c, scope, in.ClientToken); ok || err != nil {
		return s.reservationAgain(c, scope, in.ClientToken, old), err
	}
	if in.MinCount < 1 || in.MaxCount < in.MinCount {
		return nil, errf("InvalidParameterCombination", "MinCount %d and MaxCount %d are not a range from 1", in.MinCount, in.MaxCount)
	}
	data := in.templateData
	var t *template
	version := 0
	if in.LaunchTemplate != nil {
		var err error
		if t, err = s.findTemplate(in.LaunchTemplate.templateRef); err != nil {
			return nil, err
		}
		if version, err = t.version(in.LaunchTemplate.Version); err != nil {
			return nil, err
		}
		data = overlay(t.versions[version-1].data, in.templateData)
	}
	if err := data.check(); err != nil {
		return nil, err
	}
	spot := false
	maxPrice := ""
	if m := data.Market; m != nil {
		spot = m.MarketType == "spot"
		if m.SpotOptions != nil {
			maxPrice = m.SpotOptions.MaxPrice
		}
	}
	l, err := s.resolve(data, in.SubnetID, "", spot)
	if err != nil {
		return nil, err
	}
	l.template, l.version = t, version
	if err := s.offered(l.pool(), l.data.block()); err != nil {
		return nil, err
	}
	if err := overPrice(maxPrice, s.price(l.pool()), spot); err != nil {
		return nil, err
	}
	if err := maxTagged(l.tags["instance"]); err != nil {
		return nil, err
	}
	if err := s.refusedPool(c.action, l.pool()); err != nil {
		return nil, err
	}
	st := s.stock()
	if st.launches < in.MaxCount { // EC2 does not say what it does with a part
		return nil, throttled(c.action)
	}
	if err := s.checkTarget(l); err != nil {
		return nil, err
	}
	grants, failures := fill([]candidate{{pool: l.pool(), subnet: l.subnet.id, vcpus: l.typ.VCPUs, reservation: l.data.target(), usesOpen: l.mayUseOpen(), block: l.data.block()}}, in.MaxCount, st)
	count := 0
	for _, g := range grants {
		count += g.count
	}
	if count < in.MinCount {
		return nil, failures[0].err
	}
	if err := c.commit(); err != nil {
		return nil, err
	}
	launched := s.launch(c, l, count, nil, in.ClientToken)
	answer := &s.reservations(launched)[0]
	s.remember(c, scope, in.ClientToken, answer, launched)
	return answer, nil
}

// reservationAgain answers a repeated call with the instances as they are now.
func (s *Sim) reservationAgain(c *call, scope, token string, old any) any {
	rec := s.tokens[tokenKey{c.action, scope, token}]
	if old == nil || rec == nil || len(rec.instances) == 0 {
		return old
	}
	return &s.reservations(rec.instances)[0]
}

// overlay lays a request over a template: what the request says replaces the
// template's member; tags are merged by resource type, the request's first.
func overlay(base, over templateData) templateData {
	out := base
	for _, f := range []struct {
		to   *string
		from string
	}{
		{&out.ImageID, over.ImageID}, {&out.InstanceType, over.InstanceType}, {&out.KeyName, over.KeyName}, {&out.UserData, over.UserData},
		{&out.InstanceInitiatedShutdownBehavior, over.InstanceInitiatedShutdownBehavior},
	} {
		*f.to = cmp.Or(f.from, *f.to)
	}
	out.EbsOptimized = cmp.Or(over.EbsOptimized, out.EbsOptimized)
	out.Profile = cmp.Or(over.Profile, out.Profile)
	out.Metadata = cmp.Or(over.Metadata, out.Metadata)
	out.Placement = cmp.Or(over.Placement, out.Placement)
	out.Market = cmp.Or(over.Market, out.Market)
	out.Monitoring = cmp.Or(over.Monitoring, out.Monitoring)
	out.CapacityReservation = cmp.Or(over.CapacityReservation, out.CapacityReservation)
	out.CPU = cmp.Or(over.CPU, out.CPU)
	out.Credit = cmp.Or(over.Credit, out.Credit)
	out.PrivateDNS = cmp.Or(over.PrivateDNS, out.PrivateDNS)
	out.DisableApiTermination = cmp.Or(over.DisableApiTermination, out.DisableApiTermination)
	if len(over.SecurityGroupIDs) > 0 {
		out.SecurityGroupIDs = over.SecurityGroupIDs
	}
	if len(over.Interfaces) > 0 {
		out.Interfaces = over.Interfaces
	}
	out.Devices = slices.Clone(base.Devices)
	for _, d := range over.Devices {
		out.Devices = slices.DeleteFunc(out.Devices, func(o blockDevice) bool { return o.DeviceName == d.DeviceName })
		out.Devices = append(out.Devices, d)
	}
	out.TagSpecs = slices.Clone(over.TagSpecs)
	for _, spec := range base.TagSpecs {
		at := slices.IndexFunc(out.TagSpecs, func(o tagSpec) bool { return o.ResourceType == spec.ResourceType })
		if at < 0 {
			out.TagSpecs = append(out.TagSpecs, spec)
			continue
		}
		merged := tagSpec{spec.ResourceType, slices.Clone(out.TagSpecs[at].Tags)}
		for _, t := range spec.Tags {
			if !slices.ContainsFunc(merged.Tags, func(o tag) bool { return o.Key == t.Key }) {
				merged.Tags = append(merged.Tags, t)
			}
		}
		out.TagSpecs[at] = merged
	}
	return out
}
