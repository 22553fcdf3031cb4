package provisioner

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// catalogue is what can be bought: EC2's facts and prices, what discovery
// found for each Provisioner, and what refusals have taught. Safe for
// concurrent use.
type catalogue struct {
	region string

	mu      sync.Mutex
	version int64
	at      time.Time
	// raw is what EC2 says; machines is that with the user's prices and what was
	// learned from nodes.
	raw      []capacity.Machine
	machines []capacity.Machine
	// restored: raw is what a former leader published, its user's prices included.
	restored bool
	// unread is why EC2's facts could not be read, until they are.
	unread string
	byName map[string]*capacity.Machine
	prices capacity.PriceTable
	// covered is, for each rule of the table, what running nodes use of its
	// commitment, in $/h.
	covered []float64
	// learned is the least memory that nodes reported, by type and image.
	learned  map[string]map[string]int64
	ice      map[offeringKey]ice
	resolved map[string]capacity.Resolved
	blamed   map[string]blame
	wasted   map[string]wasted
	// proven are Provisioners of which a launch has succeeded.
	proven map[string]bool
	// types are derived per Provisioner, as long as nothing they depend on changes.
	types map[string]derived
}

// offeringKey is an offering, as one Provisioner may have it; for all of them
// the provisioner is empty.
type offeringKey struct{ instanceType, zone, capacityType, provisioner string }

type ice struct {
	until  time.Time
	streak int
}

type derived struct {
	generation, version int64
	until               time.Time
	types               []capacity.InstanceType
}

func newCatalogue(region string) *catalogue {
	return &catalogue{region: region, ice: map[offeringKey]ice{}, resolved: map[string]capacity.Resolved{}, learned: map[string]map[string]int64{},
		blamed: map[string]blame{}, wasted: map[string]wasted{}, proven: map[string]bool{}, types: map[string]derived{}}
}

// ready reports whether anything is known that could be bought.
func (c *catalogue) ready() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.machines) > 0
}

// discovered reports whether this process has read EC2's facts itself.
func (c *catalogue) discovered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.machines) > 0 && !c.restored
}

// cannotRead notes why EC2's facts could not be read.
func (c *catalogue) cannotRead(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unread = "what EC2 offers cannot be read: " + why.Error()
}

// unknown is why nothing is known that could be bought; empty while something
// is, and before the first try has failed.
func (c *catalogue) unknown() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.machines) > 0 {
		return ""
	}
	return c.unread
}

// setMachines replaces EC2's facts.
func (c *catalogue) setMachines(m []capacity.Machine, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw, c.at, c.restored, c.unread = m, now, false, ""
	c.rebuild()
}

// rebuild derives machines anew. Those that were handed out stay as they are.
func (c *catalogue) rebuild() {
	m := slices.Clone(c.raw)
	if !c.restored {
		m = c.prices.Apply(c.raw, c.covered)
	}
	c.byName = make(map[string]*capacity.Machine, len(m))
	for i := range m {
		m[i].Learned = maps.Clone(c.learned[m[i].Name])
		c.byName[m[i].Name] = &m[i]
	}
	c.machines = m
	c.version++
}

// setPrices replaces the user's price table and what is covered of its
// commitments, and reports whether that is news.
func (c *catalogue) setPrices(t capacity.PriceTable, covered []float64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if apiEqual(c.prices, t) && slices.Equal(t.Open(covered), c.prices.Open(c.covered)) {
		c.covered = covered
		return false
	}
	c.prices, c.covered = t, covered
	c.rebuild()
	return true
}

// listPrice is what EC2 asks for an offering, before the user's price table.
func (c *catalogue) listPrice(key offeringKey) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := slices.BinarySearchFunc(c.raw, key.instanceType, func(m capacity.Machine, name string) int { return strings.Compare(m.Name, name) })
	if !ok {
		return 0
	}
	for _, o := range c.raw[i].Offerings {
		if o.Zone == key.zone && o.CapacityType == key.capacityType {
			return o.Price
		}
	}
	return 0
}

const (
	// learnedImages bounds the images that are remembered for a type: a new
	// image comes every other week.
	learnedImages = 4
	// learnedPart is the least part of the advertised memory that is believed.
	learnedPart = 2
)

// learn remembers the memory that a node reported. The least is kept: nodes of
// a type differ by some pages from boot to boot.
func (c *catalogue) learn(instanceType, image string, memory int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.byName[instanceType]
	if m == nil || image == "" || memory > m.MemoryMiB<<20 || memory < m.MemoryMiB<<20/learnedPart {
		return // Not a node as EC2 sells it.
	}
	if known := c.learned[instanceType][image]; known > 0 && known <= memory {
		return
	}
	if c.learned[instanceType] == nil {
		c.learned[instanceType] = map[string]int64{}
	}
	of := c.learned[instanceType]
	if _, known := of[image]; !known && len(of) >= learnedImages {
		// Any of the others may be in use; the first by id is as good as another.
		delete(of, slices.Min(slices.Collect(maps.Keys(of))))
	}
	of[image] = memory
	c.rebuild()
}

// setResolved stores what discovery found for a Provisioner, and reports
// whether that is news.
func (c *catalogue) setResolved(provisioner string, r capacity.Resolved) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.resolved[provisioner]; ok && apiEqual(old, r) {
		return false
	}
	c.resolved[provisioner] = r
	c.version++
	return true
}

// occupied notes that an instance of a Provisioner is in a reservation: EC2 is
// asked how much room there is left only once a minute.
func (c *catalogue) occupied(provisioner, instanceType, zone string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.resolved[provisioner]
	at := slices.IndexFunc(r.Reservations, func(v capacity.Reservation) bool { return v.InstanceType == instanceType && v.Zone == zone })
	if at < 0 {
		return
	}
	r.Reservations = slices.Clone(r.Reservations)
	r.Reservations[at].Available--
	c.resolved[provisioner] = r
	c.version++
}

// forget drops a deleted Provisioner.
func (c *catalogue) forget(provisioner string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.resolved, provisioner)
	delete(c.types, provisioner)
	delete(c.blamed, provisioner)
	delete(c.wasted, provisioner)
	delete(c.proven, provisioner)
	c.version++
}

// open returns the offerings of a Provisioner's claim that are not known to be exhausted.
func (c *catalogue) open(provisioner string, offerings []v1alpha1.ClaimOffering, now time.Time) []v1alpha1.ClaimOffering {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []v1alpha1.ClaimOffering
	for _, o := range offerings {
		if !now.Before(c.restsUntil(provisioner, o.InstanceType, o.Zone, o.CapacityType)) {
			out = append(out, o)
		}
	}
	return out
}

// provisioner joins a Provisioner with what it may buy now.
func (c *catalogue) provisioner(pr *v1alpha1.Provisioner, now time.Time) *capacity.Provisioner {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &capacity.Provisioner{Name: pr.Name, UID: pr.UID, Spec: &pr.Spec}
	r, known := c.resolved[pr.Name]
	switch b := c.blamed[pr.Name]; {
	case len(c.machines) == 0 && c.unread != "":
		out.NotReady = c.unread
	case !known:
		out.NotReady = "its subnets, security groups and images are still being looked up"
	case !r.Ready:
		out.NotReady = r.Why
	case b.stops && now.Before(b.until):
		out.NotReady = b.why
	}
	d, ok := c.types[pr.Name]
	if !ok || d.generation != pr.Generation || d.version != c.version || !now.Before(d.until) {
		d = derived{generation: pr.Generation, version: c.version, until: now.Add(time.Minute)}
		for _, i := range c.ice {
			if i.until.After(now) && i.until.Before(d.until) {
				d.until = i.until
			}
		}
		r.Reservations = slices.Clone(r.Reservations)
		for i, v := range r.Reservations {
			if c.restsUntil(pr.Name, v.InstanceType, v.Zone, v1alpha1.CapacityTypeReserved).After(now) {
				r.Reservations[i].Available = 0
			}
		}
		d.types = capacity.InstanceTypes(c.machinesNow(pr.Name, now), &pr.Spec, r, now)
		c.types[pr.Name] = d
	}
	out.InstanceTypes = d.types
	return out
}

// machinesNow is machines with what refusals have taught, those of a Provisioner
// and those of all.
func (c *catalogue) machinesNow(provisioner string, now time.Time) []capacity.Machine {
	learned := false
	for _, i := range c.ice {
		learned = learned || i.until.After(now)
	}
	if !learned {
		return c.machines
	}
	out := slices.Clone(c.machines)
	for i := range out {
		copied := false
		for j, o := range out[i].Offerings {
			until := c.restsUntil(provisioner, out[i].Name, o.Zone, o.CapacityType)
			if !until.After(now) {
				continue
			}
			if !copied {
				out[i].Offerings = slices.Clone(out[i].Offerings)
				copied = true
			}
			out[i].Offerings[j].UnavailableUntil = until
		}
	}
	return out
}

// facts are what is expected of an instance that EC2 has chosen.
type facts struct {
	price                 float64
	labels                map[string]string
	capacity, allocatable capacity.Resources
}

// instance says what to expect of an instance of a claim. Known is false when
// EC2 chose a type that the catalogue does not have; the price is then the
// claim's own.
func (c *catalogue) instance(claim *v1alpha1.NodeClaim, instanceType, zone, capacityType string) (facts, bool) {
	f := facts{price: claim.Spec.Offerings[0].HourlyPrice.Dollars()}
	for _, o := range claim.Spec.Offerings {
		if o.InstanceType == instanceType && o.Zone == zone && o.CapacityType == capacityType {
			f.price = o.HourlyPrice.Dollars()
		}
	}
	c.mu.Lock()
	m := c.byName[instanceType]
	r := c.resolved[claim.Spec.Provisioner.Name]
	c.mu.Unlock()
	if m == nil {
		return f, false
	}
	types := capacity.InstanceTypes([]capacity.Machine{*m}, &v1alpha1.ProvisionerSpec{
		NodeTemplate: claim.Spec.NodeTemplate,
		Requirements: []v1alpha1.Requirement{
			{Key: corev1.LabelInstanceTypeStable, Operator: v1alpha1.OperatorIn, Values: []string{instanceType}},
			{Key: corev1.LabelArchStable, Operator: v1alpha1.OperatorExists},
			{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorExists},
		},
	}, capacity.Resolved{RootVolumeBytes: r.RootVolumeBytes, Images: r.Images, Networking: r.Networking,
		Reservations: []capacity.Reservation{{InstanceType: instanceType, Zone: zone, Available: 1}}}, time.Now()) // Some types are sold in no other way.
	if len(types) == 0 {
		return f, false
	}
	it := types[0]
	f.capacity, f.allocatable = it.Capacity, it.Allocatable
	f.labels = maps.Clone(it.Labels)
	f.labels[corev1.LabelTopologyZone] = zone
	f.labels[corev1.LabelTopologyRegion] = c.region
	f.labels[v1alpha1.LabelCapacityType] = capacityType
	for _, o := range m.Offerings {
		if o.Zone == zone && o.ZoneID != "" {
			f.labels[v1alpha1.LabelZoneID] = o.ZoneID
		}
	}
	return f, true
}

// offerings is the catalogue as it is published, with the refusals in it.
func (c *catalogue) offerings(now time.Time) capacity.Offerings {
	c.mu.Lock()
	defer c.mu.Unlock()
	streaks := map[string]int{}
	for key, i := range c.ice {
		if i.until.After(now) && i.streak > 1 && key.provisioner == "" {
			streaks[key.String()] = i.streak
		}
	}
	return capacity.Offerings{Version: c.version, At: c.at, Region: c.region,
		Machines: c.machinesNow("", now), Provisioners: maps.Clone(c.resolved), Streaks: streaks}
}

// String is how a key is published.
func (k offeringKey) String() string { return k.instanceType + "/" + k.zone + "/" + k.capacityType }

// restoredFor is how old published facts may be that a new leader plans with
// before it has read them itself.
const restoredFor = 24 * time.Hour

// restore takes over what a former leader published: machines and prices, so
// that planning need not wait for the first discovery, the memory that nodes
// have, and the refusals that it learned. It reports whether there are machines.
func (c *catalogue) restore(o capacity.Offerings, now time.Time) bool {
	if o.Region != c.region {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version = max(c.version, o.Version) + 1
	for i := range o.Machines {
		if l := o.Machines[i].Learned; len(l) > 0 {
			c.learned[o.Machines[i].Name] = maps.Clone(l)
		}
		for _, of := range o.Machines[i].Offerings {
			if of.UnavailableUntil.After(now) {
				key := offeringKey{o.Machines[i].Name, of.Zone, of.CapacityType, ""}
				c.ice[key] = ice{until: of.UnavailableUntil, streak: min(max(1, o.Streaks[key.String()]), 8)}
			}
		}
	}
	if len(c.raw) > 0 || len(o.Machines) == 0 || now.Sub(o.At) > restoredFor {
		return false
	}
	c.raw, c.at, c.restored = o.Machines, o.At, true
	for i := range c.raw {
		for j := range c.raw[i].Offerings {
			c.raw[i].Offerings[j].UnavailableUntil = time.Time{} // That is in ice.
		}
	}
	c.rebuild()
	return true
}

// offeringsVersion is the version of what could be published now.
func (c *catalogue) offeringsVersion() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}
