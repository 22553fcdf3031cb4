package ec2sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// pool is one kind of capacity.
type pool struct {
	typeName, zone string
	spot           bool
}

// slots is how much of a pool is left; a pool that is not limited has none.
type slots struct{ left int }

// candidate is one override of a fleet request, resolved.
type candidate struct {
	index    int // its place in the request
	pool     pool
	subnet   string
	price    float64
	priority float64
	vcpus    int
	// reservation is the Capacity Reservation that the launch names, or "";
	// usesOpen is whether it takes room in open ones that match it.
	// block: that is a Capacity Block, which no quota counts.
	reservation     string
	usesOpen, block bool
	// refusal is why it cannot be launched whatever the capacity.
	refusal *apiError
}

// stock is what launches draw on. Pools and quotas that are not in it are
// unlimited.
type stock struct {
	pools   map[pool]int
	subnets map[string]int
	// reserved is the room in Capacity Reservations by id, open that in open
	// ones by pool.
	reserved map[string]int
	open     map[pool]int
	// launches is how many instances the throttle lets through.
	launches int
	// vcpus is what is left of quotas.
	vcpus, quotas map[quotaKey]int
}

// noLimit is more than anybody launches.
const noLimit = 1 << 30

// take draws what n instances of a candidate take.
func (st *stock) take(c candidate, n int) {
	switch _, limited := st.pools[c.pool]; {
	case c.reservation != "":
		st.reserved[c.reservation] -= n
	case c.usesOpen && st.open[c.pool] >= n:
		st.open[c.pool] -= n
	default:
		inOpen := st.openFor(c)
		if inOpen > 0 {
			st.open[c.pool] = 0
		}
		if limited {
			st.pools[c.pool] -= n - inOpen
		}
	}
	if key := c.quota(); st.limited(key) && !c.block {
		st.vcpus[key] -= n * c.vcpus
	}
	st.subnets[c.subnet] -= n
	st.launches -= n
}

// openFor is the room in open reservations for a candidate.
func (st *stock) openFor(c candidate) int {
	if !c.usesOpen {
		return 0
	}
	return max(0, st.open[c.pool])
}

func (st *stock) limited(key quotaKey) bool {
	_, ok := st.vcpus[key]
	return ok
}

func (c candidate) quota() quotaKey { return quotaKey{quotaBucket(c.pool.typeName), c.pool.spot} }

// grant is how many instances a candidate gets.
type grant struct{ candidate, count int }

// failure is why a candidate that was tried could not give all that was left.
type failure struct {
	candidate int
	err       *apiError
}

// sortCandidates orders candidates by allocation strategy ("Allocation
// strategies for EC2 Fleet"). Ties keep the order of the request.
//
//   - lowest-price: by price.
//   - prioritized: by priority, the lowest number first.
//   - capacity-optimized: by what is left, the deepest pool first.
//   - capacity-optimized-prioritized: pools that can take all before others,
//     then by priority.
//   - price-capacity-optimized: pools that can take all before others, then by
//     price.
func sortCandidates(list []candidate, strategy string, want int, st *stock) error {
	left := func(c candidate) int {
		if c.reservation != "" {
			return st.reserved[c.reservation]
		}
		n, ok := st.pools[c.pool]
		if !ok {
			return noLimit
		}
		return n
	}
	deep := func(c candidate) int {
		if left(c) >= want {
			return 0
		}
		return 1
	}
	var compare func(a, b candidate) int
	switch strategy {
	case "lowest-price", "lowestPrice":
		compare = func(a, b candidate) int { return cmp.Compare(a.price, b.price) }
	case "prioritized":
		compare = func(a, b candidate) int { return cmp.Compare(a.priority, b.priority) }
	case "capacity-optimized", "capacityOptimized":
		compare = func(a, b candidate) int { return cmp.Compare(left(b), left(a)) }
	case "capacity-optimized-prioritized", "capacityOptimizedPrioritized":
		compare = func(a, b candidate) int {
			return cmp.Or(cmp.Compare(deep(a), deep(b)), cmp.Compare(a.priority, b.priority))
		}
	case "price-capacity-optimized", "priceCapacityOptimized":
		compare = func(a, b candidate) int { return cmp.Or(cmp.Compare(deep(a), deep(b)), cmp.Compare(a.price, b.price)) }
	default:
		return errf("InvalidParameterValue", "The allocation strategy '%s' is not valid", strategy)
	}
	slices.SortStableFunc(list, compare)
	return nil
}

// fill grants want instances to the candidates in order. Each candidate that is
// tried and cannot give all that is still wanted yields a failure; candidates
// after the last one needed are not tried. The stock is drawn down.
func fill(list []candidate, want int, st *stock) (grants []grant, failures []failure) {
	for i, c := range list {
		if want == 0 {
			break
		}
		if c.refusal != nil {
			failures = append(failures, failure{i, c.refusal})
			continue
		}
		take := want
		var short *apiError
		if left, limited := st.pools[c.pool]; c.reservation == "" && limited && left+st.openFor(c) < take {
			take, short = left+st.openFor(c), noCapacity(c.pool)
		}
		if c.reservation != "" && st.reserved[c.reservation] < take {
			take, short = max(0, st.reserved[c.reservation]), reservationFull(c.reservation)
			if c.block {
				short = noCapacity(c.pool)
			}
		}
		if key := c.quota(); st.limited(key) && !c.block && max(0, st.vcpus[key])/c.vcpus < take {
			take, short = max(0, st.vcpus[key])/c.vcpus, overQuota(key, st.quotas[key])
		}
		if free := st.subnets[c.subnet]; free < take {
			take, short = free, errf("InsufficientFreeAddressesInSubnet", "There are not enough free addresses in subnet '%s' to satisfy the requested number of instances.", c.subnet)
		}
		if take > 0 && st.launches < take {
			// The whole call is HTTP 200, and this one of many errors.
			take, short = st.launches, throttled("RunInstances")
		}
		if take > 0 {
			grants = append(grants, grant{i, take})
			st.take(c, take)
			want -= take
		}
		if short != nil {
			failures = append(failures, failure{i, short})
		}
	}
	return grants, failures
}

// fillSingle is fill within one group of candidates (one instance type, one
// zone, or both): the first group in order that can give everything, else the
// one that gives the most. Groups that were tried before it count as failed.
func fillSingle(list []candidate, want int, st *stock, group func(candidate) string) ([]grant, []failure) {
	var names []string
	for _, c := range list {
		if g := group(c); !slices.Contains(names, g) {
			names = append(names, g)
		}
	}
	var best []grant
	var failures []failure
	bestCount := 0
	for _, name := range names {
		var members []candidate
		var places []int
		for i, c := range list {
			if group(c) == name {
				members, places = append(members, c), append(places, i)
			}
		}
		grants, failed := fill(members, want, st.clone())
		count := 0
		for i := range grants {
			count += grants[i].count
			grants[i].candidate = places[grants[i].candidate]
		}
		for _, f := range failed {
			failures = append(failures, failure{places[f.candidate], f.err})
		}
		if count > bestCount {
			best, bestCount = grants, count
		}
		if count == want {
			break
		}
	}
	return best, failures
}

func (st *stock) clone() *stock {
	return &stock{pools: maps.Clone(st.pools), subnets: maps.Clone(st.subnets), reserved: maps.Clone(st.reserved), open: maps.Clone(st.open),
		launches: st.launches, vcpus: maps.Clone(st.vcpus), quotas: st.quotas}
}

// noCapacity is EC2's refusal for a pool that is empty.
func noCapacity(p pool) *apiError {
	if p.spot {
		return errf("InsufficientInstanceCapacity", "There is no Spot capacity available that matches your request.")
	}
	return errf("InsufficientInstanceCapacity", "%s", fmt.Sprintf("We currently do not have sufficient %[1]s capacity in the Availability Zone you requested (%[2]s). Our system will be working on provisioning additional capacity. You can currently get %[1]s capacity by not specifying an Availability Zone in your request.", p.typeName, p.zone))
}
