package ec2sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/berth-dev/berth/internal/ec2sim/query"
)

// reservation is an On-Demand Capacity Reservation ("Reserve compute capacity
// with EC2 On-Demand Capacity Reservations").
type reservation struct {
	id, typeName string
	zone, zoneID string
	total, used  int
	targeted     bool
	created      time.Time
}

// Reservation makes a Capacity Reservation of this account.
type Reservation struct {
	InstanceType string `json:"instanceType"`
	// Zone is the zone's name.
	Zone string `json:"zone"`
	// Count of instances, at least 1.
	Count int `json:"count"`
	// Match is open (the default: every matching on-demand launch uses it) or
	// targeted (only launches that name it do).
	Match string            `json:"match,omitempty"`
	Tags  map[string]string `json:"tags,omitempty"`
}

// ReservationState is a Capacity Reservation in State.
type ReservationState struct {
	ID           string `json:"id"`
	InstanceType string `json:"instanceType"`
	Zone         string `json:"zone"`
	Total        int    `json:"total"`
	Available    int    `json:"available"`
	Targeted     bool   `json:"targeted"`
}

// reserve makes a reservation and returns its id.
func (s *Sim) reserve(in *Reservation) (string, error) {
	zone, ok := s.region.Zone(in.Zone)
	if !ok || !s.cfg.Catalog.Offers(s.region.Name, in.InstanceType, in.Zone) {
		return "", fmt.Errorf("%q is not offered in %q", in.InstanceType, in.Zone)
	}
	if in.Count < 1 {
		return "", fmt.Errorf("count %d is below 1", in.Count)
	}
	if in.Match != "" && in.Match != "open" && in.Match != "targeted" {
		return "", fmt.Errorf("match %q is neither open nor targeted", in.Match)
	}
	r := &reservation{id: s.newID("cr-"), typeName: in.InstanceType, zone: zone.Name, zoneID: zone.ID,
		total: in.Count, targeted: in.Match == "targeted", created: s.clock.Now()}
	s.reserved = append(s.reserved, r)
	s.tags[r.id] = maps.Clone(in.Tags)
	if s.tags[r.id] == nil {
		s.tags[r.id] = map[string]string{}
	}
	return r.id, nil
}

// reservationByID finds a reservation.
func (s *Sim) reservationByID(id string) *reservation {
	i := slices.IndexFunc(s.reserved, func(r *reservation) bool { return r.id == id })
	if i < 0 {
		return nil
	}
	return s.reserved[i]
}

// target is the reservation that a launch names, or "".
func (l *launchSpec) target() string {
	if c := l.data.CapacityReservation; c != nil && c.Target != nil {
		return c.Target.ID
	}
	return ""
}

// mayUseOpen reports whether a launch uses open reservations that match it: on
// demand, and unless it says otherwise.
func (l *launchSpec) mayUseOpen() bool {
	c := l.data.CapacityReservation
	return !l.spot && (c == nil || c.Preference == "" && c.Target == nil || c.Preference == "open")
}

// checkTarget refuses a reservation that is not there or is for something else.
func (s *Sim) checkTarget(l *launchSpec) *apiError {
	id := l.target()
	if id == "" {
		return nil
	}
	r := s.reservationByID(id)
	switch {
	case r == nil:
		return errf("InvalidCapacityReservationId.NotFound", "The capacity reservation '%s' could not be found", id)
	case l.spot:
		return errf("InvalidParameterCombination", "A Spot Instance cannot be launched into a Capacity Reservation")
	case r.typeName != l.typ.Name || r.zone != l.subnet.zone.Name:
		return errf("InvalidCapacityReservationState.Unavailable", "The capacity reservation '%s' is for %s in %s and does not match the launch", id, r.typeName, r.zone)
	}
	return nil
}

// openFor is how many instances of a pool open reservations have room for.
func (s *Sim) openFor(p pool) int {
	n := 0
	for _, r := range s.reserved {
		if !r.targeted && !p.spot && r.typeName == p.typeName && r.zone == p.zone {
			n += r.total - r.used
		}
	}
	return n
}

// occupy takes a place in the reservation that an instance runs in, if any: the
// one that its launch names, or the first open one that matches.
func (s *Sim) occupy(l *launchSpec) *reservation {
	r := s.reservationByID(l.target())
	if r == nil && l.mayUseOpen() {
		for _, o := range s.reserved {
			if !o.targeted && o.typeName == l.typ.Name && o.zone == l.subnet.zone.Name && o.used < o.total {
				r = o
				break
			}
		}
	}
	if r != nil {
		r.used++
	}
	return r
}

// reservationFull is EC2's refusal of a reservation without room.
func reservationFull(id string) *apiError {
	return errf("ReservationCapacityExceeded", "The requested reservation '%s' does not have sufficient compatible and available capacity for this request.", id)
}

type capacityReservationItem struct {
	ID        string `xml:"capacityReservationId"`
	Owner     string `xml:"ownerId"`
	Arn       string `xml:"capacityReservationArn"`
	Type      string `xml:"instanceType"`
	Platform  string `xml:"instancePlatform"`
	Zone      string `xml:"availabilityZone"`
	ZoneID    string `xml:"availabilityZoneId"`
	Tenancy   string `xml:"tenancy"`
	Total     int    `xml:"totalInstanceCount"`
	Available int    `xml:"availableInstanceCount"`
	State     string `xml:"state"`
	EndType   string `xml:"endDateType"`
	Match     string `xml:"instanceMatchCriteria"`
	Kind      string `xml:"reservationType"`
	Created   string `xml:"createDate"`
	Started   string `xml:"startDate"`
	Tags      []tag  `xml:"tagSet>item"`
}

func (r *reservation) match() string {
	if r.targeted {
		return "targeted"
	}
	return "open"
}

func (s *Sim) describeCapacityReservations(_ *call, in *struct {
	describeInput
	IDs []string `q:"CapacityReservationId"`
}) (any, error) {
	all := s.reserved
	if len(in.IDs) > 0 {
		all = nil
		for _, id := range in.IDs {
			r := s.reservationByID(id)
			if r == nil {
				return nil, errf("InvalidCapacityReservationId.NotFound", "The capacity reservation '%s' could not be found", id)
			}
			all = append(all, r)
		}
	}
	none := func(*reservation) []string { return nil }
	kept, err := apply(all, in.Filters, fields[*reservation]{
		"instance-type":           one(func(r *reservation) string { return r.typeName }),
		"availability-zone":       one(func(r *reservation) string { return r.zone }),
		"availability-zone-id":    one(func(r *reservation) string { return r.zoneID }),
		"state":                   one(func(*reservation) string { return "active" }),
		"owner-id":                one(func(*reservation) string { return AccountID }),
		"tenancy":                 one(func(*reservation) string { return "default" }),
		"instance-match-criteria": one((*reservation).match),
		"instance-platform":       one(func(*reservation) string { return linux }),
		"reservation-type":        one(func(*reservation) string { return "default" }),
		"end-date-type":           one(func(*reservation) string { return "unlimited" }),
		"start-date":              one(func(r *reservation) string { return query.Time(r.created) }),
		"end-date":                none, "placement-group-arn": none, "outpost-arn": none,
	}, func(r *reservation) map[string]string { return s.tags[r.id] })
	if err != nil {
		return nil, err
	}
	list, next, err := page(kept, byIndex, paging{1, 1000, 1000}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	var items []capacityReservationItem
	for _, r := range list {
		items = append(items, capacityReservationItem{
			ID: r.id, Owner: AccountID, Arn: s.arn("ec2", "capacity-reservation/"+r.id), Type: r.typeName, Platform: linux,
			Zone: r.zone, ZoneID: r.zoneID, Tenancy: "default", Total: r.total, Available: r.total - r.used, State: "active",
			EndType: "unlimited", Match: r.match(), Kind: "default", Created: query.Time(r.created), Started: query.Time(r.created),
			Tags: tagList(s.tags[r.id]),
		})
	}
	return &struct {
		Items []capacityReservationItem `xml:"capacityReservationSet>item"`
		Next  string                    `xml:"nextToken,omitempty"`
	}{items, next}, nil
}
