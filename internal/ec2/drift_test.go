package ec2

import (
	"strings"
	"testing"

	"github.com/berth-dev/berth/internal/capacity"
)

func TestDrift(t *testing.T) {
	amd, arm := &capacity.Machine{Arch: "amd64"}, &capacity.Machine{Arch: "arm64"}
	gpu := &capacity.Machine{Arch: "amd64", GPU: &capacity.GPU{Manufacturer: makerNVIDIA}}
	today := Resolved{
		Subnets: []Subnet{{ID: "subnet-1"}}, SecurityGroups: []string{"sg-1", "sg-2"}, Findings: []Finding{{OK: true}},
		Images: []Image{{ID: "ami-new", Arch: "amd64", Accelerators: []string{""}}, {ID: "ami-old", Arch: "amd64", Accelerators: []string{""}},
			{ID: "ami-gpu", Arch: "amd64", Accelerators: []string{makerNVIDIA}}},
	}
	own, unsure, noGroups := today, today, today
	own.Own = &Template{ID: "lt-1", Version: "1"}
	unsure.Findings = []Finding{{OK: false}}
	noGroups.SecurityGroups = nil
	runs := func(image string, groups ...string) Instance {
		return Instance{ImageID: image, SubnetID: "subnet-1", SecurityGroups: groups}
	}
	for name, tc := range map[string]struct {
		r      Resolved
		i      Instance
		m      *capacity.Machine
		reason string
		says   string
	}{
		"as of today":                            {today, runs("ami-new", "sg-1", "sg-2"), amd, "", ""},
		"an older image":                         {today, runs("ami-old", "sg-1", "sg-2"), amd, DriftImage, "runs ami-old; ami-new is the image of today"},
		"an image that is not selected any more": {today, runs("ami-0", "sg-1", "sg-2"), amd, DriftImage, "runs ami-0"},
		"the image for its accelerator":          {today, runs("ami-gpu", "sg-1", "sg-2"), gpu, "", ""},
		"the image of a plain machine on a GPU":  {today, runs("ami-new", "sg-1", "sg-2"), gpu, DriftImage, "ami-gpu is the image of today"},
		"no image of today for its type":         {today, runs("ami-0", "sg-1", "sg-2"), arm, "", ""},
		"a type that is not known":               {today, runs("ami-old", "sg-1", "sg-2"), nil, "", ""},
		"an image that EC2 does not tell":        {today, runs("", "sg-1", "sg-2"), amd, "", ""},
		"a group less":                           {today, runs("ami-new", "sg-1"), amd, DriftSecurityGroups, "has sg-1; selected are sg-1, sg-2"},
		"a group more":                           {today, runs("ami-new", "sg-1", "sg-2", "sg-3"), amd, DriftSecurityGroups, "sg-3"},
		"another group":                          {today, runs("ami-new", "sg-1", "sg-3"), amd, DriftSecurityGroups, "sg-3"},
		"groups that EC2 does not tell":          {today, runs("ami-new"), amd, "", ""},
		"groups that were not looked up":         {noGroups, runs("ami-new", "sg-1"), amd, "", ""},
		"a launch template of the user's":        {own, runs("ami-old", "sg-3"), amd, "", ""},
		"a look-up that is not complete":         {unsure, runs("ami-old", "sg-3"), amd, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			reason, message := tc.r.Drift(tc.i, tc.m)
			if reason != tc.reason || !strings.Contains(message, tc.says) || (reason == "") != (message == "") {
				t.Errorf("%s: %q; want %s with %q", reason, message, tc.reason, tc.says)
			}
		})
	}
}

// TestDriftOfWhatWasLaunched: groups are compared as EC2 lists them.
func TestDriftOfWhatWasLaunched(t *testing.T) {
	c := newStandIn(t, nil).cloud(nil)
	claim := newClaim("a", m5)
	record(t, c, claim)
	got, err := one(c.Launch(t.Context(), claim))
	if err != nil {
		t.Fatal(err)
	}
	inst, err := c.Instance(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	r := resolve(t, c, &claim.Spec.NodeTemplate)
	if reason, message := r.Drift(inst, c.machine(inst.Type)); reason != "" {
		t.Errorf("just launched, and already %s: %s", reason, message)
	}
	r.SecurityGroups = []string{"sg-0"}
	if reason, _ := r.Drift(inst, c.machine(inst.Type)); reason != DriftSecurityGroups {
		t.Errorf("with other groups: %q", reason)
	}
}
