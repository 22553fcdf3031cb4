package capacity

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func someOfferings() *Offerings {
	return &Offerings{
		Version: 7, At: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Region: "us-west-2",
		Machines: []Machine{{
			Name: "g5.xlarge", VCPUs: 4, MemoryMiB: 16384, Arch: "amd64", Hypervisor: "nitro", CurrentGeneration: true,
			GPU: &GPU{Count: 1, Manufacturer: "nvidia", Name: "a10g", MemoryMiB: 24576},
			Offerings: []Offering{
				{Zone: "us-west-2a", CapacityType: "on-demand", Price: 1.006},
				{Zone: "us-west-2a", CapacityType: "spot", Price: 0.4, UnavailableUntil: time.Date(2026, 3, 1, 12, 3, 0, 0, time.UTC)},
			},
		}},
		Provisioners: map[string]Resolved{"default": {Ready: true, Zones: []string{"us-west-2a"}, RootVolumeBytes: 20 << 30}},
	}
}

func TestOfferingsSurviveTheConfigMap(t *testing.T) {
	want := someOfferings()
	data, err := EncodeOfferings(want)
	if err != nil {
		t.Fatal(err)
	}
	again, err := EncodeOfferings(want)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, again) {
		t.Error("the same offerings gave different bytes")
	}
	got, err := DecodeOfferings(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded differs (-want +got):\n%s", diff)
	}
}

func pack(t testing.TB, r io.Reader) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.Copy(z, r); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// spaces is an endless supply of JSON whitespace.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestDecodeOfferingsRefuses(t *testing.T) {
	whole, err := EncodeOfferings(someOfferings())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":                          {nil, "nothing there"},
		"what is not gzip":                 {[]byte(`{"version":1}`), "unpacking"},
		"what was cut short":               {whole[:len(whole)-9], "unpacking"},
		"what is not JSON":                 {pack(t, strings.NewReader("version: 1")), "decoding"},
		"what is followed by another":      {pack(t, strings.NewReader(`{"version":1}{"version":2}`)), "decoding"},
		"a small file that unpacks to 4 G": {pack(t, io.LimitReader(spaces{}, maxOfferingsPlain+1)), "more than"},
		"what no ConfigMap can hold":       {make([]byte, maxOfferingsPacked+1), "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeOfferings(c.data)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestDecodeOfferingsIgnoresWhatANewerLeaderAdds(t *testing.T) {
	got, err := DecodeOfferings(pack(t, strings.NewReader(`{"version":3,"weather":"fine"}`)))
	if err != nil {
		t.Fatal(err)
	}
	if got.Version != 3 {
		t.Errorf("version %d, want 3", got.Version)
	}
}

// FuzzDecodeOfferings: whatever comes, no panic, and what is accepted survives
// another round.
func FuzzDecodeOfferings(f *testing.F) {
	whole, err := EncodeOfferings(someOfferings())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte("{}"))
	f.Add(pack(f, strings.NewReader(`{"machines":[{"n":"a","o":[{"p":1e300}]}]}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := DecodeOfferings(data)
		if err != nil {
			return
		}
		again, err := EncodeOfferings(o)
		if err != nil {
			return // A time that JSON cannot write, or too much for a ConfigMap.
		}
		back, err := DecodeOfferings(again)
		if err != nil {
			t.Fatalf("own encoding refused: %v", err)
		}
		if diff := cmp.Diff(o, back); diff != "" {
			t.Errorf("changed in a round trip (-first +second):\n%s", diff)
		}
	})
}
