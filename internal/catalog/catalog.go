// Package catalog holds facts about EC2 instance types: their shape, the
// zones that offer them and what they cost. It is data and look-ups only; it
// knows no AWS client and nothing of Kubernetes.
//
// The file format is JSON, compact because it is committed: short keys, tuples
// in arrays, zone ids as digits. Its own "meta.keys" object documents every
// key. [Load] reads it, gzip-compressed or not; [Default] is the catalogue
// that ships with Berth, written by the command hack/catalog.
package catalog

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"hash/fnv"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

//go:generate go run -C ../../hack/catalog .

//go:embed catalog.json.gz
var embedded []byte

// Default returns the catalogue that ships with Berth: the types that
// us-east-1, us-west-2 and eu-west-1 offer. It is parsed once; callers share
// it and must not change it.
func Default() *Catalog { return parseEmbedded() }

var parseEmbedded = sync.OnceValue(func() *Catalog {
	c, err := Load(bytes.NewReader(embedded))
	if err != nil {
		// The file is part of the binary and a test loads it.
		panic("the embedded catalogue is broken: " + err.Error())
	}
	return c
})

// Catalog is a set of instance types and the Regions they are offered in. It
// is immutable after Load and safe for use from many goroutines.
type Catalog struct {
	// Date of the data that it was made from; zero where the file does not say.
	Date time.Time
	// Regions are sorted by name.
	Regions []Region
	// Types are sorted by name.
	Types []Type

	byName map[string]int
}

// Region is one AWS Region of the catalogue.
type Region struct {
	// Name is the Region's name, for example "us-east-1".
	Name string
	// ZonePrefix is what its zone ids start with, for example "use1".
	ZonePrefix string
	// Zones are the Availability Zones, sorted by name.
	Zones []Zone
}

// Zone is an Availability Zone.
type Zone struct {
	// Name is what the account calls it, for example "us-east-1a".
	Name string
	// ID is what AWS calls it in every account, for example "use1-az4".
	ID string
}

// Type is one EC2 instance type. A zero field means false, none or unknown.
type Type struct {
	// Name is the API name, for example "m5.large".
	Name string
	// VCPUs is the default number of vCPUs.
	VCPUs int
	// MemoryMiB is the advertised memory. The guest sees less.
	MemoryMiB int
	// Architectures as EC2 names them: i386, x86_64, arm64, arm64_mac, x86_64_mac.
	Architectures []string
	// Hypervisor is nitro or xen, empty on bare metal.
	Hypervisor string
	BareMetal  bool
	// CurrentGeneration is false for types AWS files as previous generation.
	CurrentGeneration bool
	// Burstable types earn CPU credits.
	Burstable bool
	// ThreadsPerCore is the default number of vCPUs on one core.
	ThreadsPerCore int
	// CPUMaker is Intel, AMD, AWS or Apple.
	CPUMaker string
	// ClockGHz is the sustained clock speed.
	ClockGHz float64
	// UsageClasses are how it is sold: on-demand, spot, capacity-block.
	UsageClasses []string

	// MaxENIs is the number of network interfaces over all cards.
	MaxENIs    int
	IPv4PerENI int
	IPv6PerENI int
	// BranchENIs is the number of branch interfaces where trunking works.
	BranchENIs int
	// NetworkCards has one element a card; DefaultNetworkCard is an index in it.
	NetworkCards       []NetworkCard
	DefaultNetworkCard int
	// NetworkPerformance is AWS's text, for example "Up to 10 Gigabit".
	NetworkPerformance string
	// NetworkBaselineMbps is the sustained bandwidth over all cards.
	NetworkBaselineMbps int
	MaxEFAs             int
	EncryptionInTransit bool

	// EBS is the bandwidth to volumes, nil where it is not dedicated.
	EBS *EBS
	// EBSAttachments is how many volumes can be attached.
	EBSAttachments Attachments
	// LocalDisks are the instance-store disks; LocalNVMe says that they are NVMe.
	LocalDisks []LocalDisk
	LocalNVMe  bool

	GPUs      []GPU
	Neuron    []Neuron
	Inference []Accelerator
	FPGAs     []Accelerator

	// PlacementStrategies are cluster, partition, spread.
	PlacementStrategies []string

	// zones are the offering zones by Region name, sorted by zone name.
	zones        map[string][]Zone
	onDemand     map[string]float64
	estimated    map[string]bool
	spot         map[string][]float64
	interruption map[string]Interruption
}

// NetworkCard is one network card; bandwidths are Mbps, 0 is unknown.
type NetworkCard struct{ MaxENIs, BaselineMbps, PeakMbps int }

// EBS is the dedicated bandwidth to EBS.
type EBS struct{ BaselineMbps, MaxMbps, BaselineIOPS, MaxIOPS int }

// Attachments is the limit on attached volumes. A limit that is not
// Dedicated is shared with network interfaces and local disks.
type Attachments struct {
	Max       int
	Dedicated bool
}

// LocalDisk is a set of equal instance-store disks of SizeGB (decimal) each.
// Kind is ssd or hdd.
type LocalDisk struct {
	Count, SizeGB int
	Kind          string
}

// GPU is a set of equal GPUs. Fraction is the share of one physical GPU where
// the type has a partition of it (Count is 0 then), else 0.
type GPU struct {
	Count       int
	Maker, Name string
	MemoryMiB   int
	Fraction    float64
}

// Neuron is a set of equal AWS Neuron devices.
type Neuron struct {
	Count     int
	Name      string
	Cores     int
	MemoryMiB int
}

// Accelerator is a set of equal inference accelerators or FPGAs.
type Accelerator struct {
	Count       int
	Maker, Name string
}

// Interruption is what the Spot Advisor says of a type in a Region: Band 0 is
// under 5 % interruptions a month, 1 5-10 %, 2 10-15 %, 3 15-20 %, 4 more;
// SavingPercent is the saving over on-demand.
type Interruption struct{ Band, SavingPercent int }

// Type returns the type called name.
func (c *Catalog) Type(name string) (*Type, bool) {
	i, ok := c.byName[name]
	if !ok {
		return nil, false
	}
	return &c.Types[i], true
}

// Region returns the Region called name.
func (c *Catalog) Region(name string) (*Region, bool) {
	i := sort.Search(len(c.Regions), func(i int) bool { return c.Regions[i].Name >= name })
	if i == len(c.Regions) || c.Regions[i].Name != name {
		return nil, false
	}
	return &c.Regions[i], true
}

// Zone returns the Region's zone with that name or id.
func (r *Region) Zone(nameOrID string) (Zone, bool) {
	for _, z := range r.Zones {
		if z.Name == nameOrID || z.ID == nameOrID {
			return z, true
		}
	}
	return Zone{}, false
}

// OfferedZones returns the zones of the region that offer the type, sorted by
// name; none for a type or region that is not there. The slice is shared.
func (c *Catalog) OfferedZones(region, typeName string) []Zone {
	t, ok := c.Type(typeName)
	if !ok {
		return nil
	}
	return t.zones[region]
}

// Offers reports whether the zone (a name) offers the type.
func (c *Catalog) Offers(region, typeName, zone string) bool {
	return slices.ContainsFunc(c.OfferedZones(region, typeName), func(z Zone) bool { return z.Name == zone })
}

// OnDemandPrice returns the price of an hour in USD, and false where the type
// has none (it is not offered, or sold on dedicated hosts only).
func (c *Catalog) OnDemandPrice(region, typeName string) (float64, bool) {
	t, ok := c.Type(typeName)
	if !ok {
		return 0, false
	}
	price, ok := t.onDemand[region]
	return price, ok
}

// OnDemandEstimated reports whether the on-demand price is an estimate of the
// catalogue's maker and not a published price.
func (c *Catalog) OnDemandEstimated(region, typeName string) bool {
	t, ok := c.Type(typeName)
	return ok && t.estimated[region]
}

// SpotPrice returns the spot price of an hour in USD in the zone (a name),
// and false where the type is not sold as spot there.
//
// The catalogue's samples do not say which zone they are of. They are dealt to
// the type's zones in a fixed order that starts at a zone chosen by the hash of
// the type's name, so that no zone is the cheapest for every type; where there
// are fewer samples than zones, the remaining zones sell no spot.
func (c *Catalog) SpotPrice(region, typeName, zone string) (float64, bool) {
	t, ok := c.Type(typeName)
	if !ok {
		return 0, false
	}
	samples, zones := t.spot[region], t.zones[region]
	at := slices.IndexFunc(zones, func(z Zone) bool { return z.Name == zone })
	if at < 0 {
		return 0, false
	}
	h := fnv.New32a()
	h.Write([]byte(typeName))
	nth := (at + int(h.Sum32()%uint32(len(zones)))) % len(zones)
	if nth >= len(samples) {
		return 0, false
	}
	return samples[nth], true
}

// SpotInterruption returns the Spot Advisor's figures for the type.
func (c *Catalog) SpotInterruption(region, typeName string) (Interruption, bool) {
	t, ok := c.Type(typeName)
	if !ok {
		return Interruption{}, false
	}
	i, ok := t.interruption[region]
	return i, ok
}

// Family is the part of the name before the dot, for example "m5".
func (t *Type) Family() string {
	family, _, _ := strings.Cut(t.Name, ".")
	return family
}

// Size is the part of the name after the dot, for example "large".
func (t *Type) Size() string {
	_, size, _ := strings.Cut(t.Name, ".")
	return size
}

// gzipMagic starts every gzip stream (RFC 1952, 2.3.1).
var gzipMagic = []byte{0x1f, 0x8b}

// unpack returns the data itself, or what it unpacks to.
func unpack(data []byte, limit int64) ([]byte, error) {
	if !bytes.HasPrefix(data, gzipMagic) {
		return data, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return readAll(z, limit)
}
