package capacity_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// waitingFor is a Snapshot with pods t-0, t-1, …, one second apart, each with a
// claim c-0, c-1, … of class local, and volumes of that class.
func waitingFor(pods int, class *storagev1.StorageClass, volumes ...*corev1.PersistentVolume) *capacity.Snapshot {
	d := &drawn{int: fromSeed(1), zones: []string{"us-west-2a", "us-west-2b", "us-west-2c"}}
	machines := []capacity.Machine{{Name: "m7i.large", VCPUs: 2, MemoryMiB: 8192, Arch: "amd64", CurrentGeneration: true}}
	for _, z := range d.zones {
		machines[0].Offerings = append(machines[0].Offerings, capacity.Offering{Zone: z, CapacityType: "on-demand", Price: 0.1})
	}
	p := d.provisioner("default", machines)
	p.Spec.Limits, p.Spec.Taints, p.Spec.Requirements = nil, nil, nil
	p.InstanceTypes = capacity.InstanceTypes(machines, p.Spec, capacity.Resolved{}, testNow)
	s := &capacity.Snapshot{Now: testNow, Region: "us-west-2", Provisioners: []*capacity.Provisioner{p},
		PVCs: map[string]*corev1.PersistentVolumeClaim{}, PVs: map[string]*corev1.PersistentVolume{},
		StorageClasses: map[string]*storagev1.StorageClass{"local": class}}
	class.Name, class.VolumeBindingMode = "local", ptrTo(storagev1.VolumeBindingWaitForFirstConsumer)
	for _, v := range volumes {
		s.PVs[v.Name] = v
	}
	for i := range pods {
		pod := benchPod(fmt.Sprint("t-", i), "t", 100, 64)
		pod.Namespace, pod.CreationTimestamp = "one", metav1.NewTime(testNow.Add(time.Duration(i)*time.Second))
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: fmt.Sprint("c-", i)}}}}
		s.Pods = append(s.Pods, pod)
		s.PVCs["one/c-"+fmt.Sprint(i)] = &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "one", Name: fmt.Sprint("c-", i), UID: "u"},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: ptrTo("local"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("5Gi")}}}}
	}
	return s
}

// free is a volume of class local in a zone that no claim has.
func free(name, zone, size string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
		Spec: corev1.PersistentVolumeSpec{StorageClassName: "local", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{zone}}}}}}}}}
	for _, f := range change {
		f(v)
	}
	return v
}

func TestVolumesThatAreThereDecideWherePodsGo(t *testing.T) {
	nobody := func() *storagev1.StorageClass {
		return &storagev1.StorageClass{Provisioner: "kubernetes.io/no-provisioner"}
	}
	inA := func() *storagev1.StorageClass {
		return &storagev1.StorageClass{Provisioner: "ebs.csi.aws.com", AllowedTopologies: []corev1.TopologySelectorTerm{{
			MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelTopologyZone, Values: []string{"us-west-2a"}}}}}}
	}
	for _, tt := range []struct {
		name  string
		s     *capacity.Snapshot
		zones map[string]string // by pod; absent: anywhere; empty: no place
	}{
		{"a volume that is there is where its pod goes", waitingFor(1, nobody(), free("v", "us-west-2c", "5Gi")), map[string]string{"t-0": "us-west-2c"}},
		{"one that is too small is none", waitingFor(1, nobody(), free("v", "us-west-2c", "4Gi")), map[string]string{"t-0": ""}},
		{"one for two pods is the older one's", waitingFor(2, nobody(), free("v", "us-west-2c", "5Gi")), map[string]string{"t-0": "us-west-2c", "t-1": ""}},
		{"the smallest is promised first", waitingFor(2, nobody(), free("big", "us-west-2b", "9Gi"), free("small", "us-west-2c", "5Gi")), map[string]string{"t-0": "us-west-2c", "t-1": "us-west-2b"}},
		{"one that is kept for a claim is that claim's", waitingFor(2, nobody(), free("v", "us-west-2b", "5Gi", func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "one", Name: "c-1"}
		})), map[string]string{"t-0": "", "t-1": "us-west-2b"}},
		{"one that is released is nobody's", waitingFor(1, nobody(), free("v", "us-west-2b", "5Gi", func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeReleased })), map[string]string{"t-0": ""}},
		{"one of other access modes is none", waitingFor(1, nobody(), free("v", "us-west-2b", "5Gi", func(v *corev1.PersistentVolume) {
			v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
		})), map[string]string{"t-0": ""}},
		{"one of a block device is none", waitingFor(1, nobody(), free("v", "us-west-2b", "5Gi", func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptrTo(corev1.PersistentVolumeBlock) })), map[string]string{"t-0": ""}},
		{"without any, a new one is made in the class's zones", waitingFor(1, inA()), map[string]string{"t-0": "us-west-2a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plan := capacity.Solve(tt.s)
			got := map[string]string{}
			for _, l := range plan.Launches {
				for _, p := range l.Pods {
					got[p.Name] = l.Zone
				}
			}
			for pod, zone := range tt.zones {
				if got[pod] != zone {
					t.Errorf("%s goes to %q, want %q\n%s", pod, got[pod], zone, describe(plan))
				}
			}
		})
	}
}

// TestVolumesArePromisedToPodsThatCanUseThem: t-0 is the older pod, and the only
// volume is in zone c.
func TestVolumesArePromisedToPodsThatCanUseThem(t *testing.T) {
	seat := func(zone string) func(*capacity.Snapshot) {
		return func(s *capacity.Snapshot) {
			s.Nodes = []*capacity.Node{{Name: "claim", Claim: "claim", InFlight: true, Pods: s.Pods[:1:1], Labels: map[string]string{corev1.LabelTopologyZone: zone}}}
			s.Pods = s.Pods[1:]
		}
	}
	for name, tc := range map[string]struct {
		change func(*capacity.Snapshot)
		want   string // the zone of t-1; empty: no place
	}{
		"both wait": {func(*capacity.Snapshot) {}, ""},
		"the older one is gated": {func(s *capacity.Snapshot) {
			s.Pods[0].Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "later"}}
		}, "us-west-2c"},
		"the older one has a seat there":                 {seat("us-west-2c"), ""},
		"the older one has a seat where it is of no use": {seat("us-west-2b"), "us-west-2c"},
		"the younger one has a seat there": {func(s *capacity.Snapshot) {
			s.Pods[0].CreationTimestamp = metav1.NewTime(testNow.Add(time.Hour))
			seat("us-west-2c")(s)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := waitingFor(2, &storagev1.StorageClass{Provisioner: "kubernetes.io/no-provisioner"}, free("v", "us-west-2c", "5Gi"))
			tc.change(s)
			plan, got := capacity.Solve(s), ""
			for _, l := range plan.Launches {
				if slices.ContainsFunc(l.Pods, func(p *corev1.Pod) bool { return p.Name == "t-1" }) {
					got = l.Zone
				}
			}
			if got != tc.want {
				t.Errorf("t-1 goes to %q, want %q\n%s", got, tc.want, describe(plan))
			}
		})
	}
}

func TestAVolumeThatIsThereOpensOneMoreZone(t *testing.T) {
	s := waitingFor(1, &storagev1.StorageClass{Provisioner: "ebs.csi.aws.com", AllowedTopologies: []corev1.TopologySelectorTerm{{
		MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelTopologyZone, Values: []string{"us-west-2a"}}}}}}, free("v", "us-west-2c", "5Gi"))
	s.Pods[0].Spec.NodeSelector = map[string]string{corev1.LabelTopologyZone: "us-west-2c"}
	if plan := capacity.Solve(s); len(plan.Launches) != 1 || plan.Launches[0].Zone != "us-west-2c" {
		t.Error(describe(plan))
	}
	s.Pods[0].Spec.NodeSelector = map[string]string{corev1.LabelTopologyZone: "us-west-2b"}
	if plan := capacity.Solve(s); len(plan.Launches) != 0 {
		t.Error(describe(plan))
	}
}

func TestDefaultSpreadConstraintsDivideWhatBelongsTogether(t *testing.T) {
	s := waitingFor(3, &storagev1.StorageClass{Provisioner: "ebs.csi.aws.com"})
	for _, p := range s.Pods {
		p.Spec.Volumes = nil
	}
	zones := func() int {
		seen := map[string]bool{}
		for _, l := range capacity.Solve(s).Launches {
			seen[l.Zone] = true
		}
		return len(seen)
	}
	s.DefaultSpread = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule}}
	if n := zones(); n != 1 {
		t.Errorf("pods that belong to nothing are in %d zones", n)
	}
	s.Services = []*corev1.Service{{ObjectMeta: metav1.ObjectMeta{Namespace: "one"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "t"}}}}
	if n := zones(); n != 3 {
		t.Errorf("pods of one Service are in %d zones", n)
	}
	s.Services = nil
	for _, p := range s.Pods {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "r", Controller: ptrTo(true)}}
	}
	s.OwnerSelectors = map[string]*metav1.LabelSelector{"ReplicaSet/one/r": {MatchLabels: map[string]string{"app": "t"}}}
	if n := zones(); n != 3 {
		t.Errorf("pods of one ReplicaSet are in %d zones", n)
	}
	for _, p := range s.Pods {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{}}}
	}
	if n := zones(); n != 1 {
		t.Errorf("pods with a constraint of their own are in %d zones", n)
	}
}
