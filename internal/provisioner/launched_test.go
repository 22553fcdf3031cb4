package provisioner

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2"
)

// TestAClaimHasTheLabelsOfWhatItGot: of the type that was planned nothing is
// left, where EC2 gave another.
func TestAClaimHasTheLabelsOfWhatItGot(t *testing.T) {
	planned := map[string]string{
		"team": "web", "node.kubernetes.io/instance-type": "g5d.large", v1alpha1.LabelInstanceFamily: "g5d", v1alpha1.LabelInstanceLocalNVMe: "475",
		v1alpha1.LabelInstanceGPUName: "a10g", v1alpha1.LabelInstanceGPUCount: "1", v1alpha1.LabelZoneID: "usw2-az9",
	}
	for name, tc := range map[string]struct {
		gives string
		want  map[string]string
	}{
		"another type": {"m5.large", map[string]string{
			"team": "web", "node.kubernetes.io/instance-type": "m5.large", v1alpha1.LabelInstanceFamily: "m5", v1alpha1.LabelZoneID: "usw2-az1"}},
		"a type that nobody knows": {"x9.large", planned},
	} {
		t.Run(name, func(t *testing.T) {
			claim := wanted("g", 1)[0]
			for k, v := range planned {
				claim.Labels[k] = v
			}
			w := newWorld(t, 0, claim)
			p := w.start(&killer{})
			p.loops.catalogue.byName = map[string]*capacity.Machine{"m5.large": {Name: "m5.large", Arch: "amd64", VCPUs: 2, MemoryMiB: 8192, ENIs: 3, IPv4PerENI: 10,
				Offerings: []capacity.Offering{{Zone: "a", ZoneID: "usw2-az1", CapacityType: "on-demand", Price: 0.1}}}}
			got := &v1alpha1.NodeClaim{}
			if err := w.api.Get(t.Context(), client.ObjectKeyFromObject(claim), got); err != nil {
				t.Fatal(err)
			}
			if err := p.loops.lifter.launched(t.Context(), got, ec2.Instance{ID: "i-1", Type: tc.gives, Zone: "a", CapacityType: "on-demand", PrivateDNSName: "n", ClaimUID: "u"}); err != nil {
				t.Fatal(err)
			}
			if err := w.api.Get(t.Context(), client.ObjectKeyFromObject(claim), got); err != nil {
				t.Fatal(err)
			}
			labels := map[string]string{}
			for k, v := range got.Labels {
				if _, there := planned[k]; there {
					labels[k] = v
				}
			}
			if diff := cmp.Diff(tc.want, labels); diff != "" || got.Status.InstanceID != "i-1" {
				t.Errorf("labels (-want +got):\n%s", diff)
			}
		})
	}
}
