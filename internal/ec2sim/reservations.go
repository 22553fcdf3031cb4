package ec2sim

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/berth-dev/berth/internal/ec2sim/query"
)

// reservation is an On-Demand Capacity Reservation ("Reserve compute capacity
// with EC2 On-Demand Capacity Reservations"), or a Capacity Block ("Capacity
// Blocks for ML").
type reservation struct {
	id, typeName string
	zone, zoneID string
	total, used  int
	targeted     bool
	created      time.Time
	// block is true for a Capacity Block, which is from starts to ends.
	block        bool
	starts, ends time.Time
}

const (
	// blockTaken is how long before the end of a Capacity Block its instances are
	// terminated, blockNotice how long before that an event says so.
	blockTaken  = 30 * time.Minute
	blockNotice = 10 * time.Minute
)

// state of a reservation.
func (r *reservation) state(now time.Time) string {
	switch {
	case !r.block:
		return "active"
	case now.Before(r.starts):
		return "scheduled"
	case now.Before(r.ends):
		return "active"
	default:
		return "expired"
	}
}

// left is how many more instances can be launched into a reservation. One that
// begins later or has ended has no room ("Insufficient Capacity Error").
func (r *reservation) left(now time.Time) int {
	if r.state(now) != "active" {
		return 0
	}
	return r.total - r.used
}

// kind of a reservation.
func (r *reservation) kind() string {
	if r.block {
		return "capacity-block"
	}
	return "default"
}

// inBlocks are the families that are sold in Capacity Blocks, by how they begin.
var inBlocks = []string{"p4d.", "p4de.", "p5.", "p5e.", "p5en.", "p6", "trn1.", "trn2."}

// soldInBlocks reports whether a type is sold in Capacity Blocks.
func soldInBlocks(typeName string) bool {
	return slices.ContainsFunc(inBlocks, func(begin string) bool { return strings.HasPrefix(typeName, begin) })
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
	// EndsIn makes it a Capacity Block, which is targeted, and ends after that
	// duration. StartsIn is when it begins; empty: now.
	EndsIn   string `json:"endsIn,omitempty"`
	StartsIn string `json:"startsIn,omitempty"`
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
	r.starts = r.created
	if in.EndsIn+in.StartsIn != "" {
		starts, err := duration("startsIn", in.StartsIn)
		if err != nil {
			return "", err
		}
		ends, err := duration("endsIn", in.EndsIn)
		if err != nil {
			return "", err
		}
		switch {
		case ends <= starts:
			return "", fmt.Errorf("endsIn %q is not after startsIn %q", in.EndsIn, in.StartsIn)
		case in.Match == "open":
			return "", errors.New("a Capacity Block is targeted")
		case !soldInBlocks(in.InstanceType):
			return "", fmt.Errorf("%q is not sold in Capacity Blocks", in.InstanceType)
		}
		r.block, r.targeted, r.starts, r.ends = true, true, r.created.Add(starts), r.created.Add(ends)
	}
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
func (d *templateData) target() string {
	if c := d.CapacityReservation; c != nil && c.Target != nil {
		return c.Target.ID
	}
	return ""
}

// block reports whether a launch is into a Capacity Block.
func (d *templateData) block() bool {
	return d.Market != nil && d.Market.MarketType == "capacity-block"
}

// mayUseOpen reports whether a launch uses open reservations that match it: on
// demand, and unless it says otherwise.
func (l *launchSpec) mayUseOpen() bool {
	c := l.data.CapacityReservation
	return !l.spot && !l.data.block() && (c == nil || c.Preference == "" && c.Target == nil || c.Preference == "open")
}

// checkTarget refuses a reservation that is not there or is for something else.
func (s *Sim) checkTarget(l *launchSpec) *apiError {
	id := l.data.target()
	switch {
	case id == "" && l.data.block():
		return errf("MissingParameter", "A launch into a Capacity Block must specify a CapacityReservationTarget")
	case id == "":
		return nil
	}
	r := s.reservationByID(id)
	switch {
	case r == nil:
		return errf("InvalidCapacityReservationId.NotFound", "The capacity reservation '%s' could not be found", id)
	case l.spot:
		return errf("InvalidParameterCombination", "A Spot Instance cannot be launched into a Capacity Reservation")
	case l.data.block() != r.block:
		return errf("InvalidParameterCombination", "The capacity reservation '%s' is of type %s and does not match the market type of the launch", id, r.kind())
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
	r := s.reservationByID(l.data.target())
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

// endWithBlock has an instance in a Capacity Block announced its end and taken.
func (s *Sim) endWithBlock(i *instance) {
	taken := i.capacity.ends.Add(-blockTaken)
	s.schedule(taken.Add(-blockNotice), dueBlockNotice, i)
	s.schedule(taken, dueBlockEnd, i)
}

// announceBlockEnd says that an instance is about to be taken, as EventBridge does
// ("Monitor Capacity Blocks using EventBridge").
func (s *Sim) announceBlockEnd(i *instance) {
	s.publish("EC2 Capacity Reservation Instance Interruption Warning", s.arn("ec2", "instance/"+i.id), map[string]any{
		"instance-id": i.id, "instance-action": "terminate", "instance-lifecycle": "capacity-block",
		"instance-termination-time": i.capacity.ends.Add(-blockTaken).UTC().Format(time.RFC3339), "availability-zone-id": i.capacity.zoneID,
	})
}

// reservationFull is EC2's refusal of a reservation without room; that of a block
// is as of a pool.
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
	Ends      string `xml:"endDate,omitempty"`
	Tags      []tag  `xml:"tagSet>item"`
}

func (r *reservation) match() string {
	if r.targeted {
		return "targeted"
	}
	return "open"
}

func (r *reservation) endType() string {
	if r.block {
		return "limited"
	}
	return "unlimited"
}

// endDate is empty without an end.
func (r *reservation) endDate() string {
	if r.ends.IsZero() {
		return ""
	}
	return query.Time(r.ends)
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
	now := s.clock.Now()
	kept, err := apply(all, in.Filters, fields[*reservation]{
		"instance-type":           one(func(r *reservation) string { return r.typeName }),
		"availability-zone":       one(func(r *reservation) string { return r.zone }),
		"availability-zone-id":    one(func(r *reservation) string { return r.zoneID }),
		"state":                   one(func(r *reservation) string { return r.state(now) }),
		"owner-id":                one(func(*reservation) string { return AccountID }),
		"tenancy":                 one(func(*reservation) string { return "default" }),
		"instance-match-criteria": one((*reservation).match),
		"instance-platform":       one(func(*reservation) string { return linux }),
		"reservation-type":        one((*reservation).kind),
		"end-date-type":           one((*reservation).endType),
		"start-date":              one(func(r *reservation) string { return query.Time(r.starts) }),
		"end-date":                some((*reservation).endDate),
		"placement-group-arn":     none, "outpost-arn": none,
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
			Zone: r.zone, ZoneID: r.zoneID, Tenancy: "default", Total: r.total, Available: r.left(now), State: r.state(now),
			EndType: r.endType(), Match: r.match(), Kind: r.kind(), Created: query.Time(r.created), Started: query.Time(r.starts), Ends: r.endDate(),
			Tags: tagList(s.tags[r.id]),
		})
	}
	return &struct {
		Items []capacityReservationItem `xml:"capacityReservationSet>item"`
		Next  string                    `xml:"nextToken,omitempty"`
	}{items, next}, nil
}
