package ec2

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// shape of a type, the part that every type has.
func shape(name string, vcpus int32, mib int64, archs ...types.ArchitectureType) types.InstanceTypeInfo {
	return types.InstanceTypeInfo{
		InstanceType:  types.InstanceType(name),
		VCpuInfo:      &types.VCpuInfo{DefaultVCpus: aws.Int32(vcpus)},
		MemoryInfo:    &types.MemoryInfo{SizeInMiB: aws.Int64(mib)},
		ProcessorInfo: &types.ProcessorInfo{SupportedArchitectures: archs, Manufacturer: aws.String("Intel")},
	}
}

func with(t types.InstanceTypeInfo, change func(*types.InstanceTypeInfo)) types.InstanceTypeInfo {
	change(&t)
	return t
}

func TestMachineOf(t *testing.T) {
	tests := map[string]struct {
		in   types.InstanceTypeInfo
		want capacity.Machine
		ok   bool
	}{
		"a general purpose type with all that EC2 tells": {
			in: with(shape("m6id.large", 2, 8192, "x86_64"), func(i *types.InstanceTypeInfo) {
				i.Hypervisor = types.InstanceTypeHypervisorNitro
				i.CurrentGeneration = aws.Bool(true)
				i.NetworkInfo = &types.NetworkInfo{Ipv4AddressesPerInterface: aws.Int32(10), MaximumNetworkInterfaces: aws.Int32(3),
					DefaultNetworkCardIndex: aws.Int32(0),
					NetworkCards:            []types.NetworkCardInfo{{NetworkCardIndex: aws.Int32(0), MaximumNetworkInterfaces: aws.Int32(3), BaselineBandwidthInGbps: aws.Float64(0.781)}}}
				i.InstanceStorageInfo = &types.InstanceStorageInfo{TotalSizeInGB: aws.Int64(118), NvmeSupport: types.EphemeralNvmeSupportRequired}
				i.EbsInfo = &types.EbsInfo{MaximumEbsAttachments: aws.Int32(27), AttachmentLimitType: types.AttachmentLimitTypeShared}
			}),
			want: capacity.Machine{Name: "m6id.large", VCPUs: 2, MemoryMiB: 8192, Arch: "amd64", Hypervisor: "nitro", CPUManufacturer: "intel",
				CurrentGeneration: true, ENIs: 3, IPv4PerENI: 10, NetworkMbps: 781, LocalNVMeGB: 118, EBSAttachments: 27, EBSShared: true},
			ok: true,
		},
		"interfaces count on the default card alone, bandwidth on all cards": {
			in: with(shape("p4d.24xlarge", 96, 1179648, "x86_64"), func(i *types.InstanceTypeInfo) {
				i.NetworkInfo = &types.NetworkInfo{Ipv4AddressesPerInterface: aws.Int32(50), MaximumNetworkInterfaces: aws.Int32(60), DefaultNetworkCardIndex: aws.Int32(1),
					NetworkCards: []types.NetworkCardInfo{
						{NetworkCardIndex: aws.Int32(0), MaximumNetworkInterfaces: aws.Int32(9), BaselineBandwidthInGbps: aws.Float64(100)},
						{NetworkCardIndex: aws.Int32(1), MaximumNetworkInterfaces: aws.Int32(15), BaselineBandwidthInGbps: aws.Float64(100)},
					}}
				i.GpuInfo = &types.GpuInfo{Gpus: []types.GpuDeviceInfo{{Count: aws.Int32(8), Manufacturer: aws.String("NVIDIA"), Name: aws.String("A100"), MemoryInfo: &types.GpuDeviceMemoryInfo{SizeInMiB: aws.Int32(40960)}}}}
			}),
			want: capacity.Machine{Name: "p4d.24xlarge", VCPUs: 96, MemoryMiB: 1179648, Arch: "amd64", CPUManufacturer: "intel", ENIs: 15, IPv4PerENI: 50, NetworkMbps: 200_000,
				GPU: &capacity.GPU{Count: 8, Manufacturer: "nvidia", Name: "a100", MemoryMiB: 40960}},
			ok: true,
		},
		"a share of a GPU is one device": {
			in: with(shape("g6f.large", 2, 8192, "x86_64"), func(i *types.InstanceTypeInfo) {
				i.GpuInfo = &types.GpuInfo{Gpus: []types.GpuDeviceInfo{{Count: aws.Int32(0), LogicalGpuCount: aws.Int32(1), Manufacturer: aws.String("NVIDIA"), Name: aws.String("L4"), MemoryInfo: &types.GpuDeviceMemoryInfo{SizeInMiB: aws.Int32(2861)}}}}
			}),
			want: capacity.Machine{Name: "g6f.large", VCPUs: 2, MemoryMiB: 8192, Arch: "amd64", CPUManufacturer: "intel",
				GPU: &capacity.GPU{Count: 1, Manufacturer: "nvidia", Name: "l4", MemoryMiB: 2861}},
			ok: true,
		},
		"Neuron devices are of AWS": {
			in: with(shape("inf2.xlarge", 4, 16384, "x86_64"), func(i *types.InstanceTypeInfo) {
				i.NeuronInfo = &types.NeuronInfo{NeuronDevices: []types.NeuronDeviceInfo{{Count: aws.Int32(1), Name: aws.String("Inferentia2"), MemoryInfo: &types.NeuronDeviceMemoryInfo{SizeInMiB: aws.Int32(32768)}}}}
			}),
			want: capacity.Machine{Name: "inf2.xlarge", VCPUs: 4, MemoryMiB: 16384, Arch: "amd64", CPUManufacturer: "intel",
				GPU: &capacity.GPU{Count: 1, Manufacturer: "aws", Name: "inferentia2", MemoryMiB: 32768}},
			ok: true,
		},
		"a name of several words becomes a label value": {
			in: with(shape("g4ad.xlarge", 4, 16384, "x86_64"), func(i *types.InstanceTypeInfo) {
				i.GpuInfo = &types.GpuInfo{Gpus: []types.GpuDeviceInfo{{Count: aws.Int32(1), Manufacturer: aws.String("AMD"), Name: aws.String("Radeon Pro V520")}}}
			}),
			want: capacity.Machine{Name: "g4ad.xlarge", VCPUs: 4, MemoryMiB: 16384, Arch: "amd64", CPUManufacturer: "intel",
				GPU: &capacity.GPU{Count: 1, Manufacturer: "amd", Name: "radeon-pro-v520"}},
			ok: true,
		},
		"magnetic disks are not NVMe": {
			in: with(shape("d2.xlarge", 4, 31232, "x86_64"), func(i *types.InstanceTypeInfo) {
				i.InstanceStorageInfo = &types.InstanceStorageInfo{TotalSizeInGB: aws.Int64(6144), NvmeSupport: types.EphemeralNvmeSupportUnsupported}
			}),
			want: capacity.Machine{Name: "d2.xlarge", VCPUs: 4, MemoryMiB: 31232, Arch: "amd64", CPUManufacturer: "intel"},
			ok:   true,
		},
		"32 bits beside 64 are 64":         {in: shape("t2.small", 1, 2048, "i386", "x86_64"), want: capacity.Machine{Name: "t2.small", VCPUs: 1, MemoryMiB: 2048, Arch: "amd64", CPUManufacturer: "intel"}, ok: true},
		"macOS is no node":                 {in: shape("mac2.metal", 8, 16384, "arm64_mac")},
		"a type without memory is no node": {in: shape("x.large", 8, 0, "x86_64")},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := machineOf(tc.in)
			if ok != tc.ok {
				t.Fatalf("ok = %v, want %v", ok, tc.ok)
			}
			if !ok {
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOfferingsOf(t *testing.T) {
	both := []types.UsageClassType{types.UsageClassTypeOnDemand, types.UsageClassTypeSpot}
	ids := map[string]string{"a": "az1", "b": "az2"}
	spot := map[poolKey]float64{{"m5.large", "a"}: 0.03, {"m5.large", "c"}: 0.02}
	od := func(zone, id string) capacity.Offering {
		return capacity.Offering{Zone: zone, ZoneID: id, CapacityType: v1alpha1.CapacityTypeOnDemand, Price: 0.1}
	}
	spotA := capacity.Offering{Zone: "a", ZoneID: "az1", CapacityType: v1alpha1.CapacityTypeSpot, Price: 0.03}
	tests := map[string]struct {
		classes  []types.UsageClassType
		onDemand float64
		want     []capacity.Offering
	}{
		"zones that the account may not use and pools without a price are left out": {both, 0.1, []capacity.Offering{od("a", "az1"), spotA, od("b", "az2")}},
		"without an on-demand price nothing is sold for nothing":                    {both, 0, []capacity.Offering{spotA}},
		"a type that is not sold as spot":                                           {both[:1], 0.1, []capacity.Offering{od("a", "az1"), od("b", "az2")}},
		"a type that is only sold in capacity blocks":                               {[]types.UsageClassType{types.UsageClassTypeCapacityBlock}, 0.1, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := offeringsOf(tc.classes, "m5.large", []string{"a", "b", "c"}, ids, tc.onDemand, spot)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNewestSpot(t *testing.T) {
	at := func(minutes int) *time.Time {
		v := time.Date(2026, 1, 1, 0, minutes, 0, 0, time.UTC)
		return &v
	}
	row := func(zone, price string, when *time.Time) types.SpotPrice {
		return types.SpotPrice{InstanceType: "m5.large", AvailabilityZone: aws.String(zone), SpotPrice: aws.String(price), Timestamp: when}
	}
	got := newestSpot([]types.SpotPrice{
		row("a", "0.030", at(1)), row("a", "0.040", at(3)), row("a", "0.050", at(2)),
		row("b", "0", at(1)), row("c", "NaN", at(1)), row("d", "cheap", at(1)), row("e", "-1", at(1)), row("f", "1e99", at(1)),
	})
	if diff := cmp.Diff(map[poolKey]float64{{"m5.large", "a"}: 0.04}, got, cmp.AllowUnexported(poolKey{})); diff != "" {
		t.Error(diff)
	}
}

const product = `{"product":{"attributes":{"instanceType":"m5.large"}},"terms":{"OnDemand":{"SKU.TERM":{"priceDimensions":{"D":{"unit":"Hrs","pricePerUnit":{"USD":"0.0960000000"}}}}}}}`

func TestPriceOf(t *testing.T) {
	tests := map[string]struct {
		in    string
		name  string
		price float64
		ok    bool
	}{
		"a product":                  {product, "m5.large", 0.096, true},
		"in yuan":                    {`{"product":{"attributes":{"instanceType":"m5.large"}},"terms":{"OnDemand":{"a":{"priceDimensions":{"b":{"unit":"Hrs","pricePerUnit":{"CNY":"1.5"}}}}}}}`, "m5.large", 1.5, true},
		"free of charge is no price": {`{"product":{"attributes":{"instanceType":"m5.large"}},"terms":{"OnDemand":{"a":{"priceDimensions":{"b":{"unit":"Hrs","pricePerUnit":{"USD":"0.0"}}}}}}}`, "m5.large", 0, false},
		"not by the hour":            {`{"product":{"attributes":{"instanceType":"m5.large"}},"terms":{"OnDemand":{"a":{"priceDimensions":{"b":{"unit":"Quantity","pricePerUnit":{"USD":"7"}}}}}}}`, "m5.large", 0, false},
		"no terms":                   {`{"product":{"attributes":{"instanceType":"m5.large"}}}`, "m5.large", 0, false},
		"not an instance":            {`{"product":{"attributes":{}}}`, "", 0, false},
		"not JSON":                   {`<html>`, "", 0, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			gotName, price, ok := priceOf([]byte(tc.in))
			if ok != tc.ok || price != tc.price || gotName != tc.name {
				t.Errorf("got %q, %v, %v", gotName, price, ok)
			}
		})
	}
}

func FuzzPriceOf(f *testing.F) {
	f.Add([]byte(product))
	f.Add([]byte(`{"terms":{"OnDemand":{"a":{"priceDimensions":{"b":{"pricePerUnit":{"USD":"Inf"}}}}}}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		name, price, ok := priceOf(in)
		if ok && (name == "" || !(price > 0) || price > maxPrice) {
			t.Errorf("%q costs %v", name, price)
		}
	})
}
