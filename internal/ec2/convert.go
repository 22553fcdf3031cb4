package ec2

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// Manufacturers of accelerators, as capacity.GPU names them.
const (
	makerNVIDIA = "nvidia"
	makerAWS    = "aws"
)

// machineOf translates what EC2 says about an instance type; false for types
// that cannot be nodes: of another architecture, or without a shape.
func machineOf(t types.InstanceTypeInfo) (capacity.Machine, bool) {
	m := capacity.Machine{
		Name:              string(t.InstanceType),
		Arch:              archOf(t.ProcessorInfo),
		BareMetal:         aws.ToBool(t.BareMetal),
		Hypervisor:        string(t.Hypervisor),
		CurrentGeneration: aws.ToBool(t.CurrentGeneration),
		GPU:               acceleratorOf(t),
	}
	if t.VCpuInfo != nil {
		m.VCPUs = aws.ToInt32(t.VCpuInfo.DefaultVCpus)
	}
	if t.MemoryInfo != nil {
		m.MemoryMiB = aws.ToInt64(t.MemoryInfo.SizeInMiB)
	}
	if t.ProcessorInfo != nil {
		m.CPUManufacturer = strings.ToLower(aws.ToString(t.ProcessorInfo.Manufacturer))
	}
	if n := t.NetworkInfo; n != nil {
		m.ENIs = defaultCardENIs(n)
		m.IPv4PerENI = aws.ToInt32(n.Ipv4AddressesPerInterface)
		var gbps float64
		for _, card := range n.NetworkCards {
			gbps += aws.ToFloat64(card.BaselineBandwidthInGbps)
		}
		m.NetworkMbps = int64(gbps*1000 + 0.5)
	}
	if s := t.InstanceStorageInfo; s != nil && s.NvmeSupport != types.EphemeralNvmeSupportUnsupported {
		m.LocalNVMeGB = aws.ToInt64(s.TotalSizeInGB)
	}
	if e := t.EbsInfo; e != nil {
		m.EBSAttachments = aws.ToInt32(e.MaximumEbsAttachments)
		m.EBSShared = e.AttachmentLimitType == types.AttachmentLimitTypeShared
	}
	return m, m.Name != "" && m.Arch != "" && m.VCPUs > 0 && m.MemoryMiB > 0
}

// archOf is Kubernetes' name of the architecture that nodes of a type run:
// amd64 where several are possible; "" for macOS and 32 bits alone.
func archOf(p *types.ProcessorInfo) string {
	switch {
	case p == nil:
		return ""
	case slices.Contains(p.SupportedArchitectures, types.ArchitectureTypeX8664):
		return "amd64"
	case slices.Contains(p.SupportedArchitectures, types.ArchitectureTypeArm64):
		return "arm64"
	default:
		return ""
	}
}

// defaultCardENIs is the number of interfaces on the network card that pods'
// addresses come from.
func defaultCardENIs(n *types.NetworkInfo) int32 {
	for _, card := range n.NetworkCards {
		if aws.ToInt32(card.NetworkCardIndex) == aws.ToInt32(n.DefaultNetworkCardIndex) && card.MaximumNetworkInterfaces != nil {
			return *card.MaximumNetworkInterfaces
		}
	}
	return aws.ToInt32(n.MaximumNetworkInterfaces)
}

// acceleratorOf translates GPUs, Neuron devices and the older inference
// accelerators, in this order; nil for a type without.
func acceleratorOf(t types.InstanceTypeInfo) *capacity.GPU {
	var out *capacity.GPU
	add := func(count int32, maker, name string, memoryMiB int32) {
		if count <= 0 {
			return
		}
		if out == nil {
			out = &capacity.GPU{Manufacturer: acceleratorName(maker), Name: acceleratorName(name), MemoryMiB: int64(memoryMiB)}
		}
		if out.Name == acceleratorName(name) {
			out.Count += count
		}
	}
	if t.GpuInfo != nil {
		for _, g := range t.GpuInfo.Gpus {
			var memory int32
			if g.MemoryInfo != nil {
				memory = aws.ToInt32(g.MemoryInfo.SizeInMiB)
			}
			count := aws.ToInt32(g.Count)
			if count == 0 {
				count = aws.ToInt32(g.LogicalGpuCount) // A share of a GPU is one device to Kubernetes.
			}
			add(count, aws.ToString(g.Manufacturer), aws.ToString(g.Name), memory)
		}
	}
	if out == nil && t.NeuronInfo != nil {
		for _, n := range t.NeuronInfo.NeuronDevices {
			var memory int32
			if n.MemoryInfo != nil {
				memory = aws.ToInt32(n.MemoryInfo.SizeInMiB)
			}
			add(aws.ToInt32(n.Count), makerAWS, aws.ToString(n.Name), memory)
		}
	}
	if out == nil && t.InferenceAcceleratorInfo != nil {
		for _, i := range t.InferenceAcceleratorInfo.Accelerators {
			add(aws.ToInt32(i.Count), aws.ToString(i.Manufacturer), aws.ToString(i.Name), 0)
		}
	}
	return out
}

// acceleratorName is a name as a label value: "Radeon Pro V520" is radeon-pro-v520.
func acceleratorName(s string) string {
	return strings.Join(strings.Fields(strings.ToLower(s)), "-")
}

// offeringsOf lists how a type is sold: one offering for each zone and way of
// buying that has a price above zero. Sorted by zone, on-demand before spot.
func offeringsOf(classes []types.UsageClassType, name string, zones []string, zoneIDs map[string]string, onDemand float64, spot map[poolKey]float64) []capacity.Offering {
	var out []capacity.Offering
	for _, zone := range zones {
		id, usable := zoneIDs[zone]
		if !usable {
			continue // Not enabled for this account.
		}
		if onDemand > 0 && slices.Contains(classes, types.UsageClassTypeOnDemand) {
			out = append(out, capacity.Offering{Zone: zone, ZoneID: id, CapacityType: v1alpha1.CapacityTypeOnDemand, Price: onDemand})
		}
		if price := spot[poolKey{name, zone}]; price > 0 && slices.Contains(classes, types.UsageClassTypeSpot) {
			out = append(out, capacity.Offering{Zone: zone, ZoneID: id, CapacityType: v1alpha1.CapacityTypeSpot, Price: price})
		}
	}
	return out
}

// newestSpot keeps the newest price of each pool.
func newestSpot(history []types.SpotPrice) map[poolKey]float64 {
	out := map[poolKey]float64{}
	newest := map[poolKey]int64{}
	for _, h := range history {
		price, err := strconv.ParseFloat(aws.ToString(h.SpotPrice), 64)
		if err != nil || !(price > 0) || price > maxPrice {
			continue
		}
		key := poolKey{string(h.InstanceType), aws.ToString(h.AvailabilityZone)}
		at := aws.ToTime(h.Timestamp).UnixNano()
		if last, ok := newest[key]; !ok || at > last {
			out[key], newest[key] = price, at
		}
	}
	return out
}

// maxPrice in $/h is above any instance's; more is a misread number.
const maxPrice = 10_000

// priceOf reads one product of the Price List: its instance type and on-demand
// price in USD (CNY in China) for an hour. False where the product is something
// else or costs nothing. The format is "Reading the service price list file".
func priceOf(product []byte) (instanceType string, price float64, ok bool) {
	var p struct {
		Product struct {
			Attributes struct {
				InstanceType string `json:"instanceType"`
			} `json:"attributes"`
		} `json:"product"`
		Terms struct {
			OnDemand map[string]struct {
				PriceDimensions map[string]struct {
					Unit         string            `json:"unit"`
					PricePerUnit map[string]string `json:"pricePerUnit"`
				} `json:"priceDimensions"`
			} `json:"OnDemand"`
		} `json:"terms"`
	}
	if err := json.Unmarshal(product, &p); err != nil || p.Product.Attributes.InstanceType == "" {
		return "", 0, false
	}
	for _, term := range p.Terms.OnDemand {
		for _, d := range term.PriceDimensions {
			text := d.PricePerUnit["USD"]
			if text == "" {
				text = d.PricePerUnit["CNY"]
			}
			v, err := strconv.ParseFloat(text, 64)
			// The smallest price, so that the order of a map does not matter.
			if err == nil && v > 0 && v < maxPrice && d.Unit == "Hrs" && (!ok || v < price) {
				price, ok = v, true
			}
		}
	}
	return p.Product.Attributes.InstanceType, price, ok
}
