package capacity_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// The EBS CSI driver attaches the volumes of the in-tree plugin, inline ones
// too, and counts what is attached though no pod uses it.
func TestWhatTakesRoomForVolumes(t *testing.T) {
	inTree := func() *storagev1.StorageClass { return &storagev1.StorageClass{Provisioner: "kubernetes.io/aws-ebs"} }
	inline := func(id string) corev1.Volume {
		return corev1.Volume{Name: "w", VolumeSource: corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: id}}}
	}
	csi := func(name, handle string) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{ObjectMeta: free(name, "", "5Gi").ObjectMeta, Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "ebs.csi.aws.com", VolumeHandle: handle}}}}
	}
	for name, tt := range map[string]struct {
		class    *storagev1.StorageClass
		limit    int64
		running  []corev1.Volume
		volumes  []corev1.Volume // of the waiting pod; nil: a claim of the class
		attached []string
		fits     bool
	}{
		"an in-tree class, no room":                {class: inTree(), limit: 0},
		"an in-tree class, room":                   {class: inTree(), limit: 1, fits: true},
		"an inline volume, no room":                {class: inTree(), limit: 0, volumes: []corev1.Volume{inline("vol-1")}},
		"beside an inline volume":                  {class: inTree(), limit: 1, running: []corev1.Volume{inline("vol-1")}},
		"an inline volume that is there":           {class: inTree(), limit: 1, running: []corev1.Volume{inline("aws://us-west-2a/vol-1")}, volumes: []corev1.Volume{inline("vol-1")}, fits: true},
		"beside one that is attached still":        {class: inTree(), limit: 1, attached: []string{"left"}},
		"attached and in use counts once":          {class: inTree(), limit: 2, running: []corev1.Volume{inline("vol-left")}, attached: []string{"left"}, fits: true},
		"attached twice counts once":               {class: inTree(), limit: 2, attached: []string{"left", "left"}, fits: true},
		"attached and without a volume counts not": {class: inTree(), limit: 1, attached: []string{"gone"}, fits: true},
		"of another driver counts not":             {class: inTree(), limit: 1, attached: []string{"other"}, fits: true},
	} {
		t.Run(name, func(t *testing.T) {
			other := csi("other", "x")
			other.Spec.CSI.Driver = "efs.csi.aws.com"
			s := waitingFor(1, tt.class, csi("left", "vol-left"), other)
			if tt.volumes != nil {
				s.Pods[0].Spec.Volumes = tt.volumes
			}
			runs := benchPod("runs", "r", 100, 64)
			runs.Spec.Volumes = tt.running
			s.Nodes = []*capacity.Node{{Name: "n", Labels: map[string]string{corev1.LabelHostname: "n"}, Pods: []*corev1.Pod{runs}, Attached: tt.attached,
				VolumeLimits: map[string]int64{"ebs.csi.aws.com": tt.limit},
				Allocatable:  capacity.Resources{corev1.ResourceCPU: 2000, corev1.ResourceMemory: 8 << 30, corev1.ResourcePods: 10}}}
			if plan := capacity.Solve(s); (len(plan.Placements) == 1) != tt.fits {
				t.Errorf("placements %d, launches %d, unschedulable %+v", len(plan.Placements), len(plan.Launches), plan.Unschedulable)
			}
		})
	}
}

// kube-scheduler asks for the driver's label where the in-tree plugin's volume
// says its zone.
func TestVolumesOfTheInTreePluginAreTheDrivers(t *testing.T) {
	for name, change := range map[string]func(*corev1.PersistentVolume){
		"by affinity": func(*corev1.PersistentVolume) {},
		"by the older label": func(v *corev1.PersistentVolume) {
			v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Key = corev1.LabelFailureDomainBetaZone
		},
		"by the volume's label": func(v *corev1.PersistentVolume) {
			v.Spec.NodeAffinity, v.Labels = nil, map[string]string{corev1.LabelFailureDomainBetaZone: "us-west-2c"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := free("v", "us-west-2c", "5Gi", change)
			v.Spec.AWSElasticBlockStore = &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "aws://us-west-2c/vol-1"}
			before := v.DeepCopy()
			s := waitingFor(1, &storagev1.StorageClass{Provisioner: "kubernetes.io/aws-ebs"}, v)
			s.PVCs["one/c-0"].Spec.VolumeName = "v"
			node := func(name string, labels map[string]string) *capacity.Node {
				labels[corev1.LabelTopologyZone] = "us-west-2c"
				return &capacity.Node{Name: name, Labels: labels, Allocatable: capacity.Resources{corev1.ResourceCPU: 2000, corev1.ResourceMemory: 8 << 30, corev1.ResourcePods: 10}}
			}
			s.Nodes = []*capacity.Node{node("bare", map[string]string{})}
			if plan := capacity.Solve(s); len(plan.Launches) != 1 || plan.Launches[0].Zone != "us-west-2c" {
				t.Errorf("without the label: %+v", plan)
			}
			s.Nodes = append(s.Nodes, node("labelled", map[string]string{v1alpha1.LabelZoneEBS: "us-west-2c"}))
			if plan := capacity.Solve(s); len(plan.Placements) != 1 || plan.Placements[0].Node.Name != "labelled" {
				t.Errorf("with it: %+v", plan)
			}
			if len(before.Spec.PersistentVolumeSource.AWSElasticBlockStore.VolumeID) == 0 || before.String() != v.String() {
				t.Error("the volume has changed")
			}
		})
	}
}
