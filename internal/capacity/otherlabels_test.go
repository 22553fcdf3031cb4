package capacity_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// Nodes carry older labels, and the EBS CSI driver's, beside the current ones:
// whoever asks for those gets a node like whoever asks for these.
func TestOtherLabelsSayWhatTheCurrentOnesDo(t *testing.T) {
	for name, tt := range map[string]struct {
		key, value, zone string // zone empty: no place
	}{
		"os":                     {"beta.kubernetes.io/os", "linux", "us-west-2a"},
		"another os":             {"beta.kubernetes.io/os", "windows", ""},
		"arch":                   {"beta.kubernetes.io/arch", "amd64", "us-west-2a"},
		"another arch":           {"beta.kubernetes.io/arch", "arm64", ""},
		"type":                   {corev1.LabelInstanceType, "m7i.large", "us-west-2a"},
		"zone":                   {corev1.LabelFailureDomainBetaZone, "us-west-2c", "us-west-2c"},
		"region":                 {corev1.LabelFailureDomainBetaRegion, "us-west-2", "us-west-2a"},
		"another region":         {corev1.LabelFailureDomainBetaRegion, "us-west-1", ""},
		"zone of the EBS driver": {v1alpha1.LabelZoneEBS, "us-west-2b", "us-west-2b"},
		"a label of nobody":      {"beta.kubernetes.io/other", "x", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := waitingFor(1, &storagev1.StorageClass{Provisioner: "ebs.csi.aws.com"})
			s.Pods[0].Spec.NodeSelector = map[string]string{tt.key: tt.value}
			plan := capacity.Solve(s)
			choice, _ := capacity.NewIndex(s.Provisioners, nil).Verdict(s.Pods[0])
			if tt.zone == "" {
				if len(plan.Unschedulable) != 1 || choice != nil {
					t.Errorf("plan %+v, index %+v", plan.Launches, choice)
				}
				return
			}
			if len(plan.Launches) != 1 || plan.Launches[0].Zone != tt.zone {
				t.Fatalf("plan %+v, unschedulable %+v", plan.Launches, plan.Unschedulable)
			}
			if choice == nil || choice.Zone != tt.zone {
				t.Errorf("index: %+v", choice)
			}
			if v, ok := plan.Launches[0].Labels[tt.key]; ok {
				t.Errorf("the claim would write label %s=%s", tt.key, v)
			}
		})
	}
}

func TestDaemonSetsThatSelectOtherLabelsCount(t *testing.T) {
	s := waitingFor(1, &storagev1.StorageClass{Provisioner: "ebs.csi.aws.com"})
	ds := benchPod("ds", "ds", 1000, 64)
	ds.Spec.NodeSelector = map[string]string{"beta.kubernetes.io/os": "linux"}
	s.DaemonSetPods = []*corev1.Pod{ds}
	plan := capacity.Solve(s)
	if len(plan.Launches) != 1 || plan.Launches[0].Requests[corev1.ResourceCPU] != 1100 {
		t.Errorf("plan %+v", plan)
	}
}

// A Provisioner may name them, too.
func TestRequirementsOnOtherLabelsRestrictTypes(t *testing.T) {
	spec := &v1alpha1.ProvisionerSpec{Requirements: []v1alpha1.Requirement{{Key: "beta.kubernetes.io/arch", Operator: v1alpha1.OperatorIn, Values: []string{"arm64"}}}}
	offers := []capacity.Offering{{Zone: "us-west-2a", CapacityType: "on-demand", Price: 0.1}}
	machines := []capacity.Machine{{Name: "m7g.large", VCPUs: 2, MemoryMiB: 8192, Arch: "arm64", CurrentGeneration: true, Offerings: offers},
		{Name: "m7i.large", VCPUs: 2, MemoryMiB: 8192, Arch: "amd64", CurrentGeneration: true, Offerings: offers}}
	types := capacity.InstanceTypes(machines, spec, capacity.Resolved{}, testNow)
	if len(types) != 1 || types[0].Machine.Name != "m7g.large" {
		t.Errorf("types %+v", types)
	}
	if r := capacity.Unmet(spec.Requirements, types[0].Labels); r != nil {
		t.Errorf("the node does not meet %v", r)
	}
}

// Volumes and classes of the EBS CSI driver ask for its own label.
func TestVolumesOfTheEBSDriverGetNodes(t *testing.T) {
	ebsKey := func(v *corev1.PersistentVolume) {
		v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Key = v1alpha1.LabelZoneEBS
	}
	class := func() *storagev1.StorageClass {
		return &storagev1.StorageClass{Provisioner: "ebs.csi.aws.com", AllowedTopologies: []corev1.TopologySelectorTerm{{
			MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: v1alpha1.LabelZoneEBS, Values: []string{"us-west-2b"}}}}}}
	}
	inFlight := waitingFor(1, class())
	inFlight.Nodes = []*capacity.Node{{Name: "coming", InFlight: true, Claim: "coming", Provisioner: "default",
		Labels:      v1alpha1.WithOtherLabels(map[string]string{corev1.LabelTopologyZone: "us-west-2b"}),
		Allocatable: capacity.Resources{corev1.ResourceCPU: 2000, corev1.ResourceMemory: 8 << 30, corev1.ResourcePods: 10}}}
	// A node that runs is as it is: without the plugin it has no label.
	running := waitingFor(1, class())
	running.Nodes = []*capacity.Node{{Name: "there", Labels: map[string]string{corev1.LabelTopologyZone: "us-west-2b"}, Allocatable: inFlight.Nodes[0].Allocatable}}
	for name, tt := range map[string]struct {
		s          *capacity.Snapshot
		zone, node string
	}{
		"a class":              {waitingFor(1, class()), "us-west-2b", ""},
		"a volume":             {waitingFor(1, &storagev1.StorageClass{Provisioner: "kubernetes.io/no-provisioner"}, free("v", "us-west-2c", "5Gi", ebsKey)), "us-west-2c", ""},
		"a node that comes":    {inFlight, "", "coming"},
		"a node that is there": {running, "us-west-2b", ""},
	} {
		t.Run(name, func(t *testing.T) {
			plan := capacity.Solve(tt.s)
			switch {
			case len(plan.Unschedulable) > 0:
				t.Errorf("unschedulable: %+v", plan.Unschedulable[0].Reasons)
			case tt.node != "" && (len(plan.Placements) != 1 || plan.Placements[0].Node.Name != tt.node):
				t.Errorf("plan %+v", plan)
			case tt.node == "" && (len(plan.Launches) != 1 || plan.Launches[0].Zone != tt.zone):
				t.Errorf("plan %+v", plan.Launches)
			}
		})
	}
}
