package catalog

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const small = `{"meta":{"regions":{"use1":"us-east-1"},"zoneLetter":{"use1":{"a":"4","b":"6"}}},
"types":{"m5.large":{"v":2,"m":8192,"a":["x86_64"],"h":"nitro","tc":2,"cm":"Intel","uc":"os","eni":3,"ip4":10,"nc":[[2,3,750,10000]],"np":"Up to 10 Gigabit",
"eb":[650,4750,3600,18750],"ea":[27,"s"],"ls":[[1,75,"ssd"]],"nv":1,"gpu":[[0,"NVIDIA","L4",2861,0.125]],"pg":"cps","z":{"use1":"64"},"od":{"use1":0.096},"est":["use1"],"sp":{"use1":[0.04,0.03]},"ir":{"use1":[3,66]}}}}`

func TestLoadReadsEveryKey(t *testing.T) {
	c, err := Load(strings.NewReader(small))
	if err != nil {
		t.Fatal(err)
	}
	got, ok := c.Type("m5.large")
	if !ok {
		t.Fatal("m5.large is not there")
	}
	want := Type{
		Name: "m5.large", VCPUs: 2, MemoryMiB: 8192, Architectures: []string{"x86_64"}, Hypervisor: "nitro", ThreadsPerCore: 2,
		CPUMaker: "Intel", UsageClasses: []string{"on-demand", "spot"}, MaxENIs: 3, IPv4PerENI: 10,
		NetworkCards:       []NetworkCard{{3, 750, 10000}, {3, 750, 10000}},
		NetworkPerformance: "Up to 10 Gigabit", EBS: &EBS{650, 4750, 3600, 18750}, EBSAttachments: Attachments{Max: 27},
		LocalDisks: []LocalDisk{{1, 75, "ssd"}}, LocalNVMe: true, GPUs: []GPU{{0, "NVIDIA", "L4", 2861, 0.125}},
		PlacementStrategies: []string{"cluster", "partition", "spread"},
		zones:               map[string][]Zone{"us-east-1": {{"us-east-1a", "use1-az4"}, {"us-east-1b", "use1-az6"}}},
		onDemand:            map[string]float64{"us-east-1": 0.096}, estimated: map[string]bool{"us-east-1": true},
		spot: map[string][]float64{"us-east-1": {0.03, 0.04}}, interruption: map[string]Interruption{"us-east-1": {3, 66}},
	}
	if diff := cmp.Diff(want, *got, cmp.AllowUnexported(Type{})); diff != "" {
		t.Error(diff)
	}
	if got.Family() != "m5" || got.Size() != "large" {
		t.Errorf("family %q, size %q", got.Family(), got.Size())
	}
	if price, ok := c.OnDemandPrice("us-east-1", "m5.large"); !ok || price != 0.096 || !c.OnDemandEstimated("us-east-1", "m5.large") {
		t.Errorf("on-demand price %v, %v", price, ok)
	}
	if ir, ok := c.SpotInterruption("us-east-1", "m5.large"); !ok || ir.Band != 3 {
		t.Errorf("interruption %v, %v", ir, ok)
	}
}

func TestLoadReadsPackedData(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(small)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := Load(&b)
	if err != nil || len(c.Types) != 1 {
		t.Fatalf("%v, %v", c, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	replace := func(old, new string) string {
		if !strings.Contains(small, old) {
			t.Fatalf("the base document has no %q", old)
		}
		return strings.Replace(small, old, new, 1)
	}
	for name, tc := range map[string]struct{ in, want string }{
		"an empty file":                    {"", "EOF"},
		"a list":                           {"[]", "cannot unmarshal"},
		"something after the document":     {small + "{}", "after the document"},
		"an unknown key":                   {replace(`"v":2`, `"v":2,"colour":"red"`), `unknown field "colour"`},
		"an unknown meta key":              {replace(`"regions"`, `"nations":1,"regions"`), `unknown field "nations"`},
		"no regions":                       {`{"meta":{},"types":{}}`, "meta.regions is missing"},
		"no types":                         {`{"meta":{"regions":{"use1":"us-east-1"}}}`, `"types" is missing`},
		"types that are a list":            {`{"meta":{"regions":{"use1":"us-east-1"}},"types":[]}`, "not an object"},
		"a type twice":                     {replace(`"types":{`, `"types":{"m5.large":{"v":1,"m":1,"a":["arm64"],"tc":1},`), "there twice"},
		"a name without a size":            {replace(`"m5.large"`, `"m5"`), "family.size"},
		"no memory":                        {replace(`"m":8192`, `"m":0`), "positive"},
		"a negative number":                {replace(`"eni":3`, `"eni":-3`), "eni is negative"},
		"a negative number in a tuple":     {replace(`[2,3,750,10000]`, `[2,-3,750,10000]`), "nc: element 1 is negative"},
		"a short tuple":                    {replace(`[2,3,750,10000]`, `[2,3,750]`), "nc: 3 elements"},
		"a million network cards":          {replace(`[2,3,750,10000]`, `[1000000,3,750,10000]`), "nc: 1000000 cards"},
		"a default card that is not there": {replace(`"nc":`, `"dc":2,"nc":`), "no network card 2"},
		"three EBS numbers":                {replace(`[650,4750,3600,18750]`, `[650,4750,3600]`), "eb: want four"},
		"an attachment kind":               {replace(`[27,"s"]`, `[27,"x"]`), "neither s nor d"},
		"an unknown usage class":           {replace(`"uc":"os"`, `"uc":"ox"`), "uc: letter"},
		"a zone that is not there":         {replace(`"use1":"64"`, `"use1":"65"`), `zone "use1-az5"`},
		"a region that is not there":       {replace(`"od":{"use1"`, `"od":{"use9"`), `no "use9"`},
		"a price of nothing":               {replace(`0.096`, `0`), "not a price"},
		"a negative spot price":            {replace(`[0.04,0.03]`, `[0.04,-0.03]`), "are not prices"},
		"an unknown band":                  {replace(`[3,66]`, `[5,66]`), "band 5"},
		"a broken gzip stream":             {"\x1f\x8bno", "unpacking"},
		"two letters for one zone":         {replace(`"b":"6"`, `"b":"4"`), "used once"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Load(strings.NewReader(tc.in))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, %v; want an error with %q", c, err, tc.want)
			}
		})
	}
}

// TestDefault pins facts of well-known types, so that a generator that breaks
// is found here and not in a plan.
func TestDefault(t *testing.T) {
	if len(embedded) > 300<<10 {
		t.Errorf("the embedded catalogue has %d bytes, want at most 300 KiB", len(embedded))
	}
	c := Default()
	if len(c.Types) < 850 || len(c.Regions) != 3 {
		t.Fatalf("%d types in %d regions", len(c.Types), len(c.Regions))
	}
	m5, _ := c.Type("m5.large")
	if m5.VCPUs != 2 || m5.MemoryMiB != 8192 || m5.MaxENIs != 3 || m5.IPv4PerENI != 10 || m5.Hypervisor != "nitro" || m5.CPUMaker != "Intel" || m5.ThreadsPerCore != 2 {
		t.Errorf("m5.large: %+v", m5)
	}
	if price, _ := c.OnDemandPrice("us-east-1", "m5.large"); price != 0.096 {
		t.Errorf("m5.large costs %v", price)
	}
	if g5, _ := c.Type("g5.xlarge"); g5.GPUs[0] != (GPU{Count: 1, Maker: "NVIDIA", Name: "A10G", MemoryMiB: 22888}) {
		t.Errorf("g5.xlarge: %+v", g5.GPUs)
	}
	if m7g, _ := c.Type("m7g.metal"); !m7g.BareMetal || m7g.Hypervisor != "" || !slices.Equal(m7g.Architectures, []string{"arm64"}) {
		t.Errorf("m7g.metal: %+v", m7g)
	}
	if p5, _ := c.Type("p5.48xlarge"); len(p5.NetworkCards) != 32 || p5.NetworkCards[0].MaxENIs != 2 {
		t.Errorf("p5.48xlarge: %+v", p5.NetworkCards)
	}
	if trn, _ := c.Type("trn1.32xlarge"); len(trn.GPUs) != 0 || trn.Neuron[0].Name != "Trainium" || trn.Neuron[0].Count != 16 {
		t.Errorf("trn1.32xlarge: %+v %+v", trn.GPUs, trn.Neuron)
	}
	if c.Offers("us-east-1", "m5.large", "us-east-1e") || !c.Offers("us-east-1", "m5.large", "us-east-1a") {
		t.Error("m5.large is offered in us-east-1a and not in us-east-1e (use1-az3)")
	}
	for i := range c.Types {
		ty := &c.Types[i]
		if ty.MaxENIs == 0 || ty.IPv4PerENI == 0 || len(ty.NetworkCards) == 0 || ty.BareMetal != (ty.Hypervisor == "") {
			t.Errorf("%s: %+v", ty.Name, ty)
		}
	}
}

func TestNothingIsThereForUnknownNames(t *testing.T) {
	c := Default()
	if _, ok := c.Type("m5.enormous"); ok {
		t.Error("an unknown type is there")
	}
	if _, ok := c.Region("mars-north-1"); ok {
		t.Error("an unknown region is there")
	}
	if _, ok := c.OnDemandPrice("us-east-1", "m5.enormous"); ok {
		t.Error("an unknown type has a price")
	}
	if _, ok := c.SpotPrice("mars-north-1", "m5.large", "mars-north-1a"); ok {
		t.Error("an unknown region has a spot price")
	}
	if zones := c.OfferedZones("mars-north-1", "m5.large"); zones != nil {
		t.Error("an unknown region has zones", zones)
	}
}

// TestSpotSamplesAreDealt checks that every sample lands in exactly one of the
// type's zones, and that no zone has a price without offering the type.
func TestSpotSamplesAreDealt(t *testing.T) {
	c := Default()
	rapid.Check(t, func(t *rapid.T) {
		ty := rapid.SampledFrom(c.Types).Draw(t, "type")
		region := rapid.SampledFrom(c.Regions).Draw(t, "region")
		var dealt []float64
		for _, z := range region.Zones {
			price, ok := c.SpotPrice(region.Name, ty.Name, z.Name)
			if ok {
				dealt = append(dealt, price)
			}
			if ok && !c.Offers(region.Name, ty.Name, z.Name) {
				t.Fatalf("%s has a spot price in %s, where it is not offered", ty.Name, z.Name)
			}
		}
		slices.Sort(dealt)
		want := ty.spot[region.Name]
		want = want[:min(len(want), len(c.OfferedZones(region.Name, ty.Name)))]
		if !slices.Equal(dealt, want) {
			t.Fatalf("%s in %s: dealt %v of %v", ty.Name, region.Name, dealt, want)
		}
	})
}

func TestSpotIsNotAlwaysCheapestInOneZone(t *testing.T) {
	c := Default()
	cheapest := map[string]int{}
	for i := range c.Types {
		zone, least := "", 0.0
		for _, z := range c.OfferedZones("us-east-1", c.Types[i].Name) {
			if price, ok := c.SpotPrice("us-east-1", c.Types[i].Name, z.Name); ok && (zone == "" || price < least) {
				zone, least = z.Name, price
			}
		}
		cheapest[zone]++
	}
	delete(cheapest, "")
	if len(cheapest) < 4 {
		t.Errorf("the cheapest zone of all types: %v", cheapest)
	}
}

// TestReferenceCatalogue loads a larger catalogue of the same format, where it
// is laid beside the repository, and checks that the two agree on shapes.
func TestReferenceCatalogue(t *testing.T) {
	f, err := os.Open(filepath.FromSlash("../../../shared/data/ec2-catalog.json"))
	if err != nil {
		t.Skip("no reference catalogue beside the repository")
	}
	defer f.Close()
	ref, err := Load(f)
	if err != nil {
		t.Fatal(err)
	}
	same, differ := 0, []string{}
	for i := range ref.Types {
		want := &ref.Types[i]
		got, ok := Default().Type(want.Name)
		if !ok {
			continue
		}
		if got.VCPUs != want.VCPUs || got.Hypervisor != want.Hypervisor || got.BareMetal != want.BareMetal || got.MaxENIs != want.MaxENIs ||
			got.IPv4PerENI != want.IPv4PerENI || !slices.Equal(got.Architectures, want.Architectures) || !slices.Equal(got.GPUs, want.GPUs) || got.CPUMaker != want.CPUMaker {
			differ = append(differ, want.Name)
			continue
		}
		same++
	}
	if same < 800 || len(differ) > 10 {
		t.Errorf("%d types agree, these do not: %v", same, differ)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(small))
	f.Add(embedded)
	f.Add([]byte(`{"meta":{"regions":{"a":"b"},"zoneLetter":{"a":{"a":"1"}}},"types":{"a.b":{"v":1,"m":1,"tc":1,"a":["x"],"nc":[[1,1,1,1]],"ea":[1,"d"]}}}`))
	f.Add([]byte(`{"meta":{"regions":{"":""}},"types":{}}`))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Load(bytes.NewReader(data))
		if err != nil {
			return
		}
		for i := range c.Types {
			ty, ok := c.Type(c.Types[i].Name)
			if !ok || ty != &c.Types[i] || ty.VCPUs <= 0 || ty.MemoryMiB <= 0 {
				t.Fatalf("type %q: %+v", c.Types[i].Name, ty)
			}
			for _, r := range c.Regions {
				for _, z := range c.OfferedZones(r.Name, ty.Name) {
					if got, ok := r.Zone(z.ID); !ok || got != z {
						t.Fatalf("zone %v of %s is not in the region", z, ty.Name)
					}
				}
			}
		}
	})
}
