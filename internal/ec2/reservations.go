package ec2

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// Reservation is an On-Demand Capacity Reservation, open or targeted, that a
// Provisioner selects. Launches name it, so that an instance is in it or is not
// launched; what open reservations a launch without a name falls into is EC2's
// choice, and needs nothing of Berth.
type Reservation struct {
	ID, InstanceType, Zone string
	// Available is how many more instances fit, as EC2 said last.
	Available int
}

// resolveReservations finds the reservations that a Provisioner selects. None,
// or none that may be read, is a remark and no fault: the Provisioner buys
// otherwise.
func (c *Cloud) resolveReservations(ctx context.Context, e *v1alpha1.EC2) ([]Reservation, string, error) {
	if len(e.CapacityReservations) == 0 {
		return nil, "", nil
	}
	if e.LaunchTemplate != nil {
		return nil, "capacity reservations are not used with a launchTemplate of your own: name the reservation there", nil
	}
	all, missed, err := each(ctx, &c.reservations, reservationQueries(e.CapacityReservations), c.describeReservations)
	if err != nil {
		if isDeniedCode(codeOf(err)) {
			return nil, "capacity reservations are not used: " + err.Error(), nil
		}
		return nil, "", err
	}
	slices.SortFunc(all, func(a, b Reservation) int { return strings.Compare(a.ID, b.ID) })
	all = slices.CompactFunc(all, func(a, b Reservation) bool { return a.ID == b.ID })
	var said []string
	for _, r := range all {
		said = append(said, fmt.Sprintf("%s (%s in %s, %d free)", r.ID, r.InstanceType, r.Zone, r.Available))
	}
	if len(said) == 0 {
		return nil, "no active capacity reservation with " + strings.Join(missed, ", nor with "), nil
	}
	return all, "capacity reservations: " + strings.Join(said, ", ") + misses(missed), nil
}

// reservationQueries turn terms into calls, one for each term: an id that EC2
// does not know would fail a call for others. There is no filter by id, so that
// it travels where other queries name owners.
func reservationQueries(terms []v1alpha1.SelectorTerm) []query {
	var out []query
	for _, t := range terms {
		if t.ID != "" {
			out = append(out, query{owners: []string{t.ID}, says: saysIDs([]string{t.ID})})
			continue
		}
		out = append(out, query{filters: tagFilters(t.Tags), says: saysTags(t.Tags)})
	}
	return out
}

func (c *Cloud) describeReservations(ctx context.Context, q query) ([]Reservation, error) {
	in := &ec2.DescribeCapacityReservationsInput{
		CapacityReservationIds: q.owners,
		Filters: append(slices.Clip(q.filters), filter("state", string(types.CapacityReservationStateActive)),
			filter("reservation-type", string(types.CapacityReservationTypeDefault))),
	}
	var out []Reservation
	p := ec2.NewDescribeCapacityReservationsPaginator(c.ec2, in)
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			err = translate("DescribeCapacityReservations", err)
			if strings.HasPrefix(codeOf(err), "InvalidCapacityReservationId") {
				return nil, nil // Not there, or not this account's: a miss.
			}
			return nil, err
		}
		for _, r := range page.CapacityReservations {
			if !linuxReservation(r) {
				continue
			}
			out = append(out, Reservation{ID: aws.ToString(r.CapacityReservationId), InstanceType: aws.ToString(r.InstanceType),
				Zone: aws.ToString(r.AvailabilityZone), Available: int(aws.ToInt32(r.AvailableInstanceCount))})
		}
	}
	return out, nil
}

// linuxReservation reports whether nodes can run in a reservation: plain Linux
// on shared hardware.
func linuxReservation(r types.CapacityReservation) bool {
	return r.InstancePlatform == types.CapacityReservationInstancePlatformLinuxUnix && r.Tenancy != types.CapacityReservationTenancyDedicated
}

// plannerReservations are the rooms in reservations by type and zone.
func plannerReservations(list []Reservation) []capacity.Reservation {
	var out []capacity.Reservation
	for _, r := range list {
		at := slices.IndexFunc(out, func(o capacity.Reservation) bool { return o.InstanceType == r.InstanceType && o.Zone == r.Zone })
		if at < 0 {
			out = append(out, capacity.Reservation{InstanceType: r.InstanceType, Zone: r.Zone, Available: r.Available})
		} else {
			out[at].Available += r.Available
		}
	}
	return out
}

// reservation chooses one with room for a type in a zone: the one with the most.
func (r Resolved) reservation(instanceType, zone string) (id string, ok bool) {
	most := 0
	for _, v := range r.Reservations {
		if v.InstanceType == instanceType && v.Zone == zone && v.Available > most {
			id, most = v.ID, v.Available
		}
	}
	return id, most > 0
}

// isReserved reports whether an instance was launched into a reservation that
// its launch named.
func isReserved(i types.Instance) bool {
	s := i.CapacityReservationSpecification
	return s != nil && s.CapacityReservationTarget != nil && s.CapacityReservationTarget.CapacityReservationId != nil
}
