package admission

import (
	"strings"
	"testing"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestSettingsThatAreNotInForceAreWarnedOf(t *testing.T) {
	p := &v1alpha1.Provisioner{}
	p.Name = "p"
	if d := ValidateProvisioner(p, nil, nil); len(d.Warnings) > 0 {
		t.Errorf("warned of nothing: %q", d.Warnings)
	}
	p.Spec.EC2.CapacityReservations = []v1alpha1.SelectorTerm{{ID: "cr-0abc"}}
	d := ValidateProvisioner(p, nil, nil)
	got := strings.Join(d.Warnings, "\n")
	if d.Denied != "" || !strings.Contains(got, "spec.ec2.capacityReservations") {
		t.Errorf("denied %q, warnings %q", d.Denied, d.Warnings)
	}
}
