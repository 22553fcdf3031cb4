package capacity

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHintSurvivesTheAnnotation(t *testing.T) {
	want := Hint{Provisioner: "default", InstanceType: "m7i.large", CapacityType: "spot", Zone: "us-west-2a", Share: 0.00312, Version: 42}
	s := want.String()
	if s != "provisioner=default,offering=m7i.large/spot/us-west-2a,share=0.00312,offerings=42" {
		t.Errorf("hint reads %q", s)
	}
	got, err := ParseHint(s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parsed differs (-want +got):\n%s", diff)
	}
}

func TestParseHintRefuses(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":                    "",
		"what is not key=value":      "default",
		"an offering of two parts":   "provisioner=a,offering=m7i.large/spot",
		"a missing Provisioner":      "offering=m7i.large/spot/us-west-2a",
		"a share that is no number":  "provisioner=a,offering=m7i.large/spot/us-west-2a,share=much",
		"a share that is not finite": "provisioner=a,offering=m7i.large/spot/us-west-2a,share=NaN",
		"a version that is no count": "provisioner=a,offering=m7i.large/spot/us-west-2a,offerings=1.5",
		"a quarter of a megabyte":    "provisioner=" + strings.Repeat("a", 256<<10),
	} {
		t.Run(name, func(t *testing.T) {
			if h, err := ParseHint(s); err == nil {
				t.Errorf("accepted as %+v", h)
			}
		})
	}
}

// FuzzParseHint: whatever a tenant writes, no panic, and what is accepted keeps
// its meaning when it is written again.
func FuzzParseHint(f *testing.F) {
	f.Add("provisioner=default,offering=m7i.large/spot/us-west-2a,share=0.00312,offerings=42")
	f.Add("provisioner=a=b,offering=//,share=NaN")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHint(s)
		if err != nil {
			return
		}
		if len(h.String()) > maxHint {
			return // Digits of a huge share; String of our own hints never gets there.
		}
		back, err := ParseHint(h.String())
		if err != nil {
			t.Fatalf("own writing of %q refused: %v", s, err)
		}
		if back.Provisioner != h.Provisioner || back.InstanceType != h.InstanceType || back.CapacityType != h.CapacityType ||
			back.Zone != h.Zone || back.Version != h.Version {
			t.Errorf("%q became %+v, then %+v", s, h, back)
		}
	})
}
