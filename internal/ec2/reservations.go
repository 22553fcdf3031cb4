package ec2

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// Reservation is an On-Demand Capacity Reservation, open or targeted, or a
// Capacity Block for ML, that a Provisioner selects. Launches name it, so that an
// instance is in it or is not launched; what open reservations a launch without a
// name falls into is EC2's choice, and needs nothing of Berth.
type Reservation struct {
	ID, InstanceType, Zone, ZoneID string
	// Available is how many more instances fit, as EC2 said last.
	Available int
	// Block is true for a Capacity Block, which ends at Ends. Ends is zero for a
	// reservation without an end.
	Block bool
	Ends  time.Time
}

const (
	// blockTaken is how long before a Capacity Block's end EC2 begins to take its
	// instances ("Capacity Blocks for ML"), blockNotice how long before that
	// EventBridge says so.
	blockTaken  = 30 * time.Minute
	blockNotice = 10 * time.Minute
	// blockClosed is how long before a block's end nothing is launched into it any
	// more: it would be announced its end within twenty minutes.
	blockClosed = time.Hour
)

// open is how many more instances may be launched into the reservation now.
func (r Reservation) open(now time.Time) int {
	if r.Block && r.Ends.Sub(now) < blockClosed {
		return 0
	}
	return r.Available
}

// resolveReservations finds the reservations that a Provisioner selects. None,
// or none that may be read, is a remark and no fault: the Provisioner buys
// otherwise.
func (c *Cloud) resolveReservations(ctx context.Context, e *v1alpha1.EC2) ([]Reservation, string, error) {
	if len(e.CapacityReservations) == 0 || emptyTerm("", e.CapacityReservations) != "" { // validate has said so.
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
		text := fmt.Sprintf("%s (%s in %s, %d free", r.ID, r.InstanceType, r.Zone, r.Available)
		if r.Block {
			text += ", a block that ends at " + r.Ends.UTC().Format(time.RFC3339)
			if r.open(time.Now()) < r.Available {
				text += " and is not launched into any more"
			}
		}
		said = append(said, text+")")
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
		Filters:                append(slices.Clip(q.filters), filter("state", string(types.CapacityReservationStateActive))),
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
			if !usableReservation(r) {
				continue
			}
			out = append(out, Reservation{ID: aws.ToString(r.CapacityReservationId), InstanceType: aws.ToString(r.InstanceType),
				Zone: aws.ToString(r.AvailabilityZone), ZoneID: aws.ToString(r.AvailabilityZoneId), Available: int(aws.ToInt32(r.AvailableInstanceCount)),
				Block: r.ReservationType == types.CapacityReservationTypeCapacityBlock, Ends: aws.ToTime(r.EndDate)})
		}
	}
	return out, nil
}

// usableReservation reports whether nodes can run in a reservation: plain Linux on
// shared hardware, and nobody else may take it back.
func usableReservation(r types.CapacityReservation) bool {
	return r.InstancePlatform == types.CapacityReservationInstancePlatformLinuxUnix && r.Tenancy != types.CapacityReservationTenancyDedicated &&
		!aws.ToBool(r.Interruptible)
}

// plannerReservations are the rooms in reservations by type and zone.
func plannerReservations(list []Reservation, now time.Time) []capacity.Reservation {
	var out []capacity.Reservation
	for _, r := range list {
		at := slices.IndexFunc(out, func(o capacity.Reservation) bool { return o.InstanceType == r.InstanceType && o.Zone == r.Zone })
		if at < 0 {
			out = append(out, capacity.Reservation{InstanceType: r.InstanceType, Zone: r.Zone, ZoneID: r.ZoneID, Available: r.open(now)})
		} else {
			out[at].Available += r.open(now)
		}
	}
	return out
}

// reservation chooses one with room for a type in a zone: the one with the most.
func (r Resolved) reservation(instanceType, zone string, now time.Time) (best Reservation, ok bool) {
	for _, v := range r.Reservations {
		if v.InstanceType == instanceType && v.Zone == zone && v.open(now) > best.open(now) {
			best = v
		}
	}
	return best, best.open(now) > 0
}

// endingBlocks are the instances in Capacity Blocks that EC2 is about to take,
// and from when on. Blocks are those that Provisioners have selected lately.
func (c *Cloud) endingBlocks(ctx context.Context) (map[string]time.Time, error) {
	ends := map[string]time.Time{}
	for _, list := range c.reservations.values() {
		for _, r := range list {
			if left := time.Until(r.Ends); r.Block && left < blockTaken+blockNotice && left > 0 {
				ends[r.ID] = r.Ends.Add(-blockTaken)
			}
		}
	}
	if len(ends) == 0 {
		return nil, nil
	}
	taken := map[string]time.Time{}
	p := ec2.NewDescribeInstancesPaginator(c.ec2, &ec2.DescribeInstancesInput{
		Filters: []types.Filter{filter("capacity-reservation-id", slices.Sorted(maps.Keys(ends))...)}, MaxResults: aws.Int32(describePage)})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, translate("DescribeInstances", err)
		}
		for _, r := range page.Reservations {
			for _, i := range r.Instances {
				taken[aws.ToString(i.InstanceId)] = ends[aws.ToString(i.CapacityReservationId)]
			}
		}
	}
	return taken, nil
}

// isReserved reports whether an instance was launched into a reservation that
// its launch named.
func isReserved(i types.Instance) bool {
	s := i.CapacityReservationSpecification
	return i.InstanceLifecycle == types.InstanceLifecycleTypeCapacityBlock || s != nil && s.CapacityReservationTarget != nil && s.CapacityReservationTarget.CapacityReservationId != nil
}
