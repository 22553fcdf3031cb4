package ec2sim

import (
	"slices"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/internal/catalog"
)

type countList struct {
	Items []int `xml:"item"`
}

type wordList struct {
	Items []string `xml:"item"`
}

type typeItem struct {
	Type             string    `xml:"instanceType"`
	Current          bool      `xml:"currentGeneration"`
	FreeTier         bool      `xml:"freeTierEligible"`
	UsageClasses     wordList  `xml:"supportedUsageClasses"`
	RootDeviceTypes  wordList  `xml:"supportedRootDeviceTypes"`
	Virtualization   wordList  `xml:"supportedVirtualizationTypes"`
	BareMetal        bool      `xml:"bareMetal"`
	Hypervisor       string    `xml:"hypervisor,omitempty"`
	Processor        processor `xml:"processorInfo"`
	VCPU             vcpuInfo  `xml:"vCpuInfo"`
	MemoryMiB        int       `xml:"memoryInfo>sizeInMiB"`
	StorageSupported bool      `xml:"instanceStorageSupported"`
	Storage          *storage  `xml:"instanceStorageInfo"`
	EBS              ebsInfo   `xml:"ebsInfo"`
	Network          netInfo   `xml:"networkInfo"`
	GPU              *gpuInfo  `xml:"gpuInfo"`
	FPGA             *accInfo  `xml:"fpgaInfo"`
	Inference        *infInfo  `xml:"inferenceAcceleratorInfo"`
	Neuron           *neuInfo  `xml:"neuronInfo"`
	Placement        wordList  `xml:"placementGroupInfo>supportedStrategies"`
	Hibernation      bool      `xml:"hibernationSupported"`
	Burstable        bool      `xml:"burstablePerformanceSupported"`
	DedicatedHosts   bool      `xml:"dedicatedHostsSupported"`
	AutoRecovery     bool      `xml:"autoRecoverySupported"`
	BootModes        wordList  `xml:"supportedBootModes"`
}

type processor struct {
	Architectures wordList `xml:"supportedArchitectures"`
	Clock         float64  `xml:"sustainedClockSpeedInGhz,omitempty"`
	Manufacturer  string   `xml:"manufacturer,omitempty"`
}

type vcpuInfo struct {
	VCPUs   int        `xml:"defaultVCpus"`
	Cores   int        `xml:"defaultCores"`
	Threads int        `xml:"defaultThreadsPerCore"`
	Valid   *countList `xml:"validThreadsPerCore"`
}

type storage struct {
	TotalGB int        `xml:"totalSizeInGB"`
	Disks   []diskItem `xml:"disks>item"`
	NVMe    string     `xml:"nvmeSupport"`
}

type diskItem struct {
	SizeGB int    `xml:"sizeInGB"`
	Count  int    `xml:"count"`
	Type   string `xml:"type"`
}

type ebsInfo struct {
	Support        string        `xml:"ebsOptimizedSupport"`
	Encryption     string        `xml:"encryptionSupport"`
	NVMe           string        `xml:"nvmeSupport"`
	MaxAttachments int           `xml:"maximumEbsAttachments,omitempty"`
	LimitType      string        `xml:"attachmentLimitType,omitempty"`
	Optimized      *ebsBandwidth `xml:"ebsOptimizedInfo"`
}

type ebsBandwidth struct {
	BaseMbps int     `xml:"baselineBandwidthInMbps"`
	BaseMBps float64 `xml:"baselineThroughputInMBps"`
	BaseIOPS int     `xml:"baselineIops"`
	MaxMbps  int     `xml:"maximumBandwidthInMbps"`
	MaxMBps  float64 `xml:"maximumThroughputInMBps"`
	MaxIOPS  int     `xml:"maximumIops"`
}

type netInfo struct {
	Performance string    `xml:"networkPerformance"`
	MaxENIs     int       `xml:"maximumNetworkInterfaces"`
	MaxCards    int       `xml:"maximumNetworkCards"`
	DefaultCard int       `xml:"defaultNetworkCardIndex"`
	Cards       []netCard `xml:"networkCards>item"`
	IPv4        int       `xml:"ipv4AddressesPerInterface"`
	IPv6        int       `xml:"ipv6AddressesPerInterface"`
	IPv6OK      bool      `xml:"ipv6Supported"`
	ENA         string    `xml:"enaSupport"`
	EFA         bool      `xml:"efaSupported"`
	EFAInfo     *efaInfo  `xml:"efaInfo"`
	Encryption  bool      `xml:"encryptionInTransitSupported"`
}

type efaInfo struct {
	Max int `xml:"maximumEfaInterfaces"`
}

type netCard struct {
	Index       int     `xml:"networkCardIndex"`
	Performance string  `xml:"networkPerformance"`
	MaxENIs     int     `xml:"maximumNetworkInterfaces"`
	Baseline    float64 `xml:"baselineBandwidthInGbps,omitempty"`
	Peak        float64 `xml:"peakBandwidthInGbps,omitempty"`
}

type memoryInfo struct {
	SizeMiB int `xml:"sizeInMiB"`
}

type gpuInfo struct {
	GPUs  []gpuItem `xml:"gpus>item"`
	Total int       `xml:"totalGpuMemoryInMiB"`
}

type gpuItem struct {
	Name         string     `xml:"name"`
	Manufacturer string     `xml:"manufacturer"`
	Count        int        `xml:"count"`
	Partition    float64    `xml:"gpuPartitionSize,omitempty"`
	Memory       memoryInfo `xml:"memoryInfo"`
}

type accItem struct {
	Name         string `xml:"name"`
	Manufacturer string `xml:"manufacturer"`
	Count        int    `xml:"count"`
}

type accInfo struct {
	FPGAs []accItem `xml:"fpgas>item"`
}

type infInfo struct {
	Accelerators []accItem `xml:"accelerators>member"`
}

type neuInfo struct {
	Devices []neuItem `xml:"neuronDevices>item"`
	Total   int       `xml:"totalNeuronDeviceMemoryInMiB"`
}

type neuItem struct {
	Count  int        `xml:"count"`
	Name   string     `xml:"name"`
	Cores  int        `xml:"coreInfo>count"`
	Memory memoryInfo `xml:"memoryInfo"`
}

func describeType(t *catalog.Type) typeItem {
	item := typeItem{
		Type: t.Name, Current: t.CurrentGeneration, UsageClasses: wordList{usageClasses(t)}, RootDeviceTypes: wordList{[]string{"ebs"}},
		Virtualization: wordList{[]string{"hvm"}}, BareMetal: t.BareMetal, Hypervisor: t.Hypervisor,
		Processor: processor{wordList{t.Architectures}, t.ClockGHz, t.CPUMaker},
		VCPU:      vcpuInfo{VCPUs: t.VCPUs, Cores: t.VCPUs / t.ThreadsPerCore, Threads: t.ThreadsPerCore},
		MemoryMiB: t.MemoryMiB, Placement: wordList{t.PlacementStrategies}, Burstable: t.Burstable,
		AutoRecovery: !t.BareMetal && len(t.LocalDisks) == 0, DedicatedHosts: !t.Burstable, BootModes: wordList{[]string{"legacy-bios", "uefi"}},
	}
	if slices.Contains(t.Architectures, "arm64") {
		item.BootModes.Items = []string{"uefi"}
	}
	if !t.BareMetal {
		item.VCPU.Valid = &countList{[]int{1}}
		if t.ThreadsPerCore == 2 {
			item.VCPU.Valid.Items = append(item.VCPU.Valid.Items, 2)
		}
	}
	item.EBS = describeEBS(t)
	item.Network = describeNetwork(t)
	if len(t.LocalDisks) > 0 {
		item.StorageSupported = true
		item.Storage = &storage{NVMe: "unsupported"}
		if t.LocalNVMe {
			item.Storage.NVMe = "required"
		}
		for _, d := range t.LocalDisks {
			item.Storage.TotalGB += d.Count * d.SizeGB
			item.Storage.Disks = append(item.Storage.Disks, diskItem{d.SizeGB, d.Count, d.Kind})
		}
	}
	for _, g := range t.GPUs {
		if item.GPU == nil {
			item.GPU = &gpuInfo{}
		}
		item.GPU.GPUs = append(item.GPU.GPUs, gpuItem{g.Name, g.Maker, g.Count, g.Fraction, memoryInfo{g.MemoryMiB}})
		item.GPU.Total += max(g.Count, 1) * g.MemoryMiB
	}
	for _, f := range t.FPGAs {
		if item.FPGA == nil {
			item.FPGA = &accInfo{}
		}
		item.FPGA.FPGAs = append(item.FPGA.FPGAs, accItem{f.Name, f.Maker, f.Count})
	}
	for _, a := range t.Inference {
		if item.Inference == nil {
			item.Inference = &infInfo{}
		}
		item.Inference.Accelerators = append(item.Inference.Accelerators, accItem{a.Name, a.Maker, a.Count})
	}
	for _, n := range t.Neuron {
		if item.Neuron == nil {
			item.Neuron = &neuInfo{}
		}
		item.Neuron.Devices = append(item.Neuron.Devices, neuItem{n.Count, n.Name, n.Cores, memoryInfo{n.MemoryMiB}})
		item.Neuron.Total += n.Count * n.MemoryMiB
	}
	return item
}

func describeEBS(t *catalog.Type) ebsInfo {
	e := ebsInfo{Support: "unsupported", Encryption: "supported", NVMe: "unsupported", MaxAttachments: t.EBSAttachments.Max}
	if t.Hypervisor != "xen" {
		e.NVMe = "required"
	}
	if t.EBSAttachments.Max > 0 {
		e.LimitType = "shared"
		if t.EBSAttachments.Dedicated {
			e.LimitType = "dedicated"
		}
	}
	if b := t.EBS; b != nil {
		e.Support = "default"
		e.Optimized = &ebsBandwidth{b.BaselineMbps, float64(b.BaselineMbps) / 8, b.BaselineIOPS, b.MaxMbps, float64(b.MaxMbps) / 8, b.MaxIOPS}
	}
	return e
}

func describeNetwork(t *catalog.Type) netInfo {
	n := netInfo{
		Performance: t.NetworkPerformance, MaxENIs: t.MaxENIs, MaxCards: len(t.NetworkCards), DefaultCard: t.DefaultNetworkCard,
		IPv4: t.IPv4PerENI, IPv6: t.IPv6PerENI, IPv6OK: t.IPv6PerENI > 0, ENA: "required", EFA: t.MaxEFAs > 0, Encryption: t.EncryptionInTransit,
	}
	if t.Hypervisor == "xen" {
		n.ENA = "supported"
	}
	if t.MaxEFAs > 0 {
		n.EFAInfo = &efaInfo{t.MaxEFAs}
	}
	for i, c := range t.NetworkCards {
		n.Cards = append(n.Cards, netCard{i, t.NetworkPerformance, c.MaxENIs, float64(c.BaselineMbps) / 1000, float64(c.PeakMbps) / 1000})
	}
	return n
}

// offeredTypes are the catalogue's types that the Region offers.
func (s *Sim) offeredTypes() []*catalog.Type {
	var out []*catalog.Type
	for i := range s.cfg.Catalog.Types {
		t := &s.cfg.Catalog.Types[i]
		if len(s.cfg.Catalog.OfferedZones(s.region.Name, t.Name)) > 0 {
			out = append(out, t)
		}
	}
	return out
}

// typeFields are the filters of DescribeInstanceTypes.
func typeFields() fields[*catalog.Type] {
	yes := func(f func(*catalog.Type) bool) func(*catalog.Type) []string {
		return one(func(t *catalog.Type) string { return strconv.FormatBool(f(t)) })
	}
	return fields[*catalog.Type]{
		"instance-type":                              one(func(t *catalog.Type) string { return t.Name }),
		"current-generation":                         yes(func(t *catalog.Type) bool { return t.CurrentGeneration }),
		"bare-metal":                                 yes(func(t *catalog.Type) bool { return t.BareMetal }),
		"burstable-performance-supported":            yes(func(t *catalog.Type) bool { return t.Burstable }),
		"instance-storage-supported":                 yes(func(t *catalog.Type) bool { return len(t.LocalDisks) > 0 }),
		"hypervisor":                                 one(func(t *catalog.Type) string { return t.Hypervisor }),
		"processor-info.supported-architecture":      func(t *catalog.Type) []string { return t.Architectures },
		"processor-info.manufacturer":                one(func(t *catalog.Type) string { return t.CPUMaker }),
		"supported-usage-class":                      usageClasses,
		"supported-virtualization-type":              one(func(*catalog.Type) string { return "hvm" }),
		"supported-root-device-type":                 one(func(*catalog.Type) string { return "ebs" }),
		"vcpu-info.default-vcpus":                    one(func(t *catalog.Type) string { return strconv.Itoa(t.VCPUs) }),
		"vcpu-info.default-threads-per-core":         one(func(t *catalog.Type) string { return strconv.Itoa(t.ThreadsPerCore) }),
		"memory-info.size-in-mib":                    one(func(t *catalog.Type) string { return strconv.Itoa(t.MemoryMiB) }),
		"placement-group-info.supported-strategies":  func(t *catalog.Type) []string { return t.PlacementStrategies },
		"network-info.maximum-network-interfaces":    one(func(t *catalog.Type) string { return strconv.Itoa(t.MaxENIs) }),
		"network-info.ipv4-addresses-per-interface":  one(func(t *catalog.Type) string { return strconv.Itoa(t.IPv4PerENI) }),
		"network-info.efa-supported":                 yes(func(t *catalog.Type) bool { return t.MaxEFAs > 0 }),
		"network-info.encryption-in-transit-support": yes(func(t *catalog.Type) bool { return t.EncryptionInTransit }),
	}
}

func (s *Sim) describeInstanceTypes(_ *call, in *struct {
	describeInput
	Types []string `q:"InstanceType"`
}) (any, error) {
	all := s.offeredTypes()
	if len(in.Types) > 0 {
		if in.MaxResults != nil {
			return nil, errf("InvalidParameterCombination", "The parameter InstanceTypes cannot be used with the parameter MaxResults")
		}
		if len(in.Types) > 100 {
			return nil, errf("InvalidParameterValue", "At most 100 instance types can be described at once")
		}
		var unknown []string
		known := all
		all = nil
		for _, name := range in.Types {
			at := slices.IndexFunc(known, func(t *catalog.Type) bool { return t.Name == name })
			if at < 0 {
				unknown = append(unknown, name)
				continue
			}
			all = append(all, known[at])
		}
		if len(unknown) > 0 {
			return nil, errf("InvalidInstanceType", "The following supplied instance types do not exist: [%s]", strings.Join(unknown, ", "))
		}
	}
	kept, err := apply(all, in.Filters, typeFields(), nil)
	if err != nil {
		return nil, err
	}
	list, next, err := page(kept, byIndex, paging{5, 100, 100}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	items := make([]typeItem, 0, len(list))
	for _, t := range list {
		items = append(items, describeType(t))
	}
	return &struct {
		Items []typeItem `xml:"instanceTypeSet>item"`
		Next  string     `xml:"nextToken,omitempty"`
	}{items, next}, nil
}

type offeringItem struct {
	Type         string `xml:"instanceType"`
	LocationType string `xml:"locationType"`
	Location     string `xml:"location"`
}

func (s *Sim) describeInstanceTypeOfferings(_ *call, in *struct {
	describeInput
	LocationType string
}) (any, error) {
	kind := in.LocationType
	if kind == "" {
		kind = "region"
	}
	var all []offeringItem
	for _, t := range s.offeredTypes() {
		switch kind {
		case "region":
			all = append(all, offeringItem{t.Name, kind, s.region.Name})
		case "availability-zone", "availability-zone-id":
			for _, z := range s.cfg.Catalog.OfferedZones(s.region.Name, t.Name) {
				where := z.Name
				if kind == "availability-zone-id" {
					where = z.ID
				}
				all = append(all, offeringItem{t.Name, kind, where})
			}
		default:
			return nil, invalidValue("LocationType", kind)
		}
	}
	kept, err := apply(all, in.Filters, fields[offeringItem]{
		"instance-type": one(func(o offeringItem) string { return o.Type }),
		"location":      one(func(o offeringItem) string { return o.Location }),
	}, nil)
	if err != nil {
		return nil, err
	}
	list, next, err := page(kept, byIndex, paging{5, 1000, 1000}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	return &struct {
		Items []offeringItem `xml:"instanceTypeOfferingSet>item"`
		Next  string         `xml:"nextToken,omitempty"`
	}{list, next}, nil
}

// usageClasses are how a type is sold. The catalogue does not know what is sold in
// Capacity Blocks.
func usageClasses(t *catalog.Type) []string {
	out := slices.Clone(t.UsageClasses)
	if soldInBlocks(t.Name) && !slices.Contains(out, "capacity-block") {
		out = append(out, "capacity-block")
	}
	return out
}
