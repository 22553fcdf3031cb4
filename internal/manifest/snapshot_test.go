package manifest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

func read(t *testing.T, in string) *Set {
	t.Helper()
	s := &Set{}
	if err := s.Read("f.yaml", strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	return s
}

var testOptions = Options{
	Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Region: "us-west-2",
	Machines: []capacity.Machine{{
		Name: "m7i.large", VCPUs: 2, MemoryMiB: 8192, Arch: "amd64", Hypervisor: "nitro", CurrentGeneration: true,
		Offerings: []capacity.Offering{
			{Zone: "us-west-2a", CapacityType: "on-demand", Price: 0.1}, {Zone: "us-west-2a", CapacityType: "spot", Price: 0.04}},
	}},
}

const template = "selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, resources: {limits: {cpu: 1}}}]}}"

// names replaces template hashes by HASH and sorts.
func names(pods []*corev1.Pod) []string {
	var out []string
	for _, p := range pods {
		name := p.Name
		for _, h := range []string{p.Labels["pod-template-hash"], p.Labels["controller-revision-hash"]} {
			if h != "" {
				name = strings.ReplaceAll(name, h, "HASH")
			}
		}
		kind, owner := Workload(p)
		out = append(out, name+" of "+kind+" "+owner)
	}
	slices.Sort(out)
	return out
}

func TestWorkloadsBecomePods(t *testing.T) {
	tests := map[string]struct {
		in   string
		want []string
	}{
		"a Deployment of one": {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {" + template + "}",
			[]string{"d-HASH-0 of Deployment d"}},
		"a Deployment of none": {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: 0, " + template + "}", nil},
		"a ReplicaSet": {"apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: r}\nspec: {replicas: 2, " + template + "}",
			[]string{"r-0 of ReplicaSet r", "r-1 of ReplicaSet r"}},
		"a StatefulSet from its first ordinal": {"apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: s}\nspec: {replicas: 2, ordinals: {start: 5}, " + template + "}",
			[]string{"s-5 of StatefulSet s", "s-6 of StatefulSet s"}},
		"a Job runs as many as it may at once": {"apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {parallelism: 2, completions: 9, " + template + "}",
			[]string{"j-0 of Job j", "j-1 of Job j"}},
		"a Job needs no more than are left": {"apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {parallelism: 5, completions: 9, " + template + "}\nstatus: {succeeded: 8}",
			[]string{"j-0 of Job j"}},
		"a suspended Job has none":              {"apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {suspend: true, " + template + "}", nil},
		"a finished Job has none":               {"apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {" + template + "}\nstatus: {conditions: [{type: Complete, status: 'True'}]}", nil},
		"a DaemonSet's pods are not bought for": {"apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: d}\nspec: {" + template + "}", nil},
		"pods that are there count": {`
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: r}
spec: {replicas: 3, ` + template + `}
---
apiVersion: v1
kind: Pod
metadata: {name: r-x, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: r, uid: u, controller: true}]}
` + podSpec, []string{"r-0 of ReplicaSet r", "r-1 of ReplicaSet r", "r-x of ReplicaSet r"}},
		"a Deployment speaks for its ReplicaSets and their pods": {`
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec: {replicas: 2, ` + template + `}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: d-abc, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: d, uid: u, controller: true}]}
spec: {replicas: 2, ` + template + `}
---
apiVersion: v1
kind: Pod
metadata: {name: d-abc-x, labels: {pod-template-hash: abc}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: d-abc, uid: u, controller: true}]}
` + podSpec, []string{"d-HASH-0 of Deployment d", "d-HASH-x of Deployment d"}},
		"finished pods do not count": {`
apiVersion: v1
kind: Pod
metadata: {name: p}
` + podSpec + `
status: {phase: Succeeded}
`, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, names(read(t, tc.in).Snapshot(testOptions).Pods)); diff != "" {
				t.Errorf("pods (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPodsLookAsTheAPIServerWouldMakeThem(t *testing.T) {
	s := read(t, `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: x}
spec:
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}, annotations: {a: b}}
    spec:
      hostNetwork: true
      containers:
        - name: c
          ports: [{containerPort: 5432}]
          resources: {requests: {cpu: 100m}, limits: {cpu: 1, memory: 1Gi}}
      volumes: [{name: data, emptyDir: {}}, {name: tmp, emptyDir: {}}]
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]
`).Snapshot(testOptions)
	if len(s.Pods) != 1 {
		t.Fatalf("%d pods", len(s.Pods))
	}
	p := s.Pods[0]
	want := map[string]string{"app": "db", "statefulset.kubernetes.io/pod-name": "db-0", "apps.kubernetes.io/pod-index": "0",
		"controller-revision-hash": p.Labels["controller-revision-hash"]}
	if diff := cmp.Diff(want, p.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	r := p.Spec.Containers[0].Resources.Requests
	if r.Cpu().String() != "100m" || r.Memory().String() != "1Gi" {
		t.Errorf("requests %v, want those given and, where none are, the limits", r)
	}
	if port := p.Spec.Containers[0].Ports[0]; port.HostPort != 5432 {
		t.Errorf("host port %d of a pod in the host's network", port.HostPort)
	}
	var volumes []string
	for _, v := range p.Spec.Volumes {
		claim := ""
		if v.PersistentVolumeClaim != nil {
			claim = v.PersistentVolumeClaim.ClaimName
		}
		volumes = append(volumes, v.Name+"="+claim)
	}
	if diff := cmp.Diff([]string{"data=data-db-0", "tmp="}, volumes); diff != "" {
		t.Errorf("volumes (-want +got):\n%s", diff)
	}
	c := s.PVCs["x/data-db-0"]
	if c == nil || c.Spec.StorageClassName == nil || *c.Spec.StorageClassName != "gp3" || s.StorageClasses["gp3"] == nil {
		t.Errorf("claim %+v, classes %v: want the assumed default class", c, s.StorageClasses)
	}
	if diff := cmp.Diff(map[string]string{"kubernetes.io/metadata.name": "x"}, s.Namespaces["x"]); diff != "" {
		t.Errorf("namespace (-want +got):\n%s", diff)
	}
}

func TestPodLevelLimitsAreRequestsWhereNoContainerRequests(t *testing.T) {
	spec := read(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {resources: {limits: {cpu: 2, memory: 2Gi}}, containers: [{name: c, resources: {requests: {cpu: 1}}}]}").
		Snapshot(testOptions).Pods[0].Spec
	if got := capacity.PodRequests(&corev1.Pod{Spec: spec}); got["memory"] != 2<<30 || got["cpu"] != 1000 {
		t.Errorf("requests %v", got)
	}
}

func TestDaemonSetPodToleratesWhatItsControllerAdds(t *testing.T) {
	s := read(t, "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: d}\nspec: {"+template+"}").Snapshot(testOptions)
	if len(s.DaemonSetPods) != 1 {
		t.Fatalf("%d DaemonSet pods", len(s.DaemonSetPods))
	}
	var got []string
	for _, x := range s.DaemonSetPods[0].Spec.Tolerations {
		got = append(got, x.Key+":"+string(x.Effect))
	}
	want := []string{"node.kubernetes.io/not-ready:NoExecute", "node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/disk-pressure:NoSchedule",
		"node.kubernetes.io/memory-pressure:NoSchedule", "node.kubernetes.io/pid-pressure:NoSchedule", "node.kubernetes.io/unschedulable:NoSchedule"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tolerations (-want +got):\n%s", diff)
	}
}

func TestNodesAndClaimsAreCapacity(t *testing.T) {
	set := read(t, `
apiVersion: v1
kind: Node
metadata: {name: old, labels: {zone: a}}
spec: {taints: [{key: t, effect: NoSchedule}]}
status: {capacity: {cpu: 4}, allocatable: {cpu: 3900m}}
---
apiVersion: v1
kind: Node
metadata: {name: going, labels: {berth.dev/provisioner: p}}
spec: {taints: [{key: berth.dev/disrupted, effect: NoSchedule}]}
status: {capacity: {cpu: 8}}
---
apiVersion: v1
kind: Node
metadata: {name: joining}
spec: {providerID: 'aws:///us-west-2a/i-1', taints: [{key: berth.dev/unregistered, effect: NoSchedule}]}
status: {allocatable: {cpu: 1900m}}
---
apiVersion: berth.dev/v1alpha1
kind: NodeClaim
metadata: {name: c1}
spec:
  provisioner: {name: p, uid: u}
  labels: {own: label}
  taints: [{key: kept, effect: NoSchedule}]
  offerings: [{instanceType: g5.xlarge, zone: us-west-2a, capacityType: spot, hourlyPrice: "0.5"}]
  capacity: {cpu: 4}
  allocatable: {cpu: 1, nvidia.com/gpu: 1}
status: {providerID: 'aws:///us-west-2a/i-1'}
---
apiVersion: berth.dev/v1alpha1
kind: NodeClaim
metadata: {name: c2}
spec:
  provisioner: {name: p, uid: u}
  offerings: [{instanceType: m7i.large, zone: us-west-2a, capacityType: on-demand, hourlyPrice: "0.1"}]
  allocatable: {cpu: 1900m}
  capacity: {cpu: 2}
---
apiVersion: berth.dev/v1alpha1
kind: NodeClaim
metadata: {name: gone}
spec: {provisioner: {name: p, uid: u}, offerings: [{instanceType: a, zone: b, capacityType: spot, hourlyPrice: "9"}]}
status: {conditions: [{type: Terminated, status: "True", reason: x, message: "", lastTransitionTime: null}]}
---
apiVersion: berth.dev/v1alpha1
kind: Provisioner
metadata: {name: p}
status: {conditions: [{type: Ready, status: "False", reason: SubnetsNotFound, message: no subnets, lastTransitionTime: null}]}
---
apiVersion: storage.k8s.io/v1
kind: CSINode
metadata: {name: old}
spec: {drivers: [{name: ebs.csi.aws.com, nodeID: i, allocatable: {count: 24}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: bound}
spec: {nodeName: old, containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: leaving, deletionTimestamp: "2026-01-01T00:00:00Z"}
spec: {nodeName: old, containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: lost}
spec: {nodeName: unknown, containers: [{name: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: daemon, ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: d, uid: u, controller: true}]}
spec:
  containers: [{name: c}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [old]}]}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: waiting}
spec: {containers: [{name: c}]}
`)
	s := set.Snapshot(testOptions)
	type node struct {
		CPU, GPU                int64
		Taints, Pods            []string
		Provisioner, Claim      string
		InFlight, Unschedulable bool
		Price                   float64
	}
	got := map[string]node{}
	for _, n := range s.Nodes {
		x := node{CPU: n.Allocatable["cpu"], GPU: n.Allocatable["nvidia.com/gpu"], Provisioner: n.Provisioner, Claim: n.Claim,
			InFlight: n.InFlight, Unschedulable: n.Unschedulable, Price: n.HourlyPrice}
		for _, t := range n.Taints {
			x.Taints = append(x.Taints, t.Key)
		}
		for _, p := range n.Pods {
			x.Pods = append(x.Pods, p.Name)
		}
		if n.Labels["kubernetes.io/hostname"] != n.Name {
			t.Errorf("%s has host name %q", n.Name, n.Labels["kubernetes.io/hostname"])
		}
		got[n.Name] = x
	}
	want := map[string]node{
		"old":     {CPU: 3900, Taints: []string{"t"}, Pods: []string{"bound", "leaving", "daemon"}},
		"going":   {CPU: 8000, Taints: []string{"berth.dev/disrupted"}, Provisioner: "p", Unschedulable: true},
		"joining": {CPU: 1900, GPU: 1, Taints: []string{"kept"}, Provisioner: "p", Claim: "c1", InFlight: true, Price: 0.5},
		"c2":      {CPU: 1900, Provisioner: "p", Claim: "c2", InFlight: true, Price: 0.1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"waiting of Pod waiting"}, names(s.Pods)); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
	p := s.Provisioners[0]
	if diff := cmp.Diff(capacity.Resources{"cpu": 14000, "nodes": 3}, p.Used); diff != "" || p.UsedHourlyCost != 0.6 || p.NotReady != "no subnets" {
		t.Errorf("used %v and %v $/h, not ready: %q", p.Used, p.UsedHourlyCost, p.NotReady)
	}
	for _, n := range s.Nodes {
		if n.Name == "old" && n.VolumeLimits["ebs.csi.aws.com"] != 24 {
			t.Errorf("volume limits %v", n.VolumeLimits)
		}
	}
	if diff := cmp.Diff([]string{"1 pods are on nodes that were not given; ignored"}, set.Notes()); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
}

func TestClaimsBindAsTheVolumeControllerBindsThem(t *testing.T) {
	pv := func(name, size, class, more string) string {
		return "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {name: " + name + "}\nspec: {capacity: {storage: " + size + "}, accessModes: [ReadWriteOnce], storageClassName: '" + class + "'" + more + "}\n"
	}
	pvc := func(name, size, more string) string {
		return "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: " + name + "}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: " + size + "}}" + more + "}\n"
	}
	classes := "---\napiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: late, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}\nprovisioner: x\nvolumeBindingMode: WaitForFirstConsumer\n" +
		"---\napiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: now}\nprovisioner: x\nvolumeBindingMode: Immediate\n"
	tests := map[string]struct{ in, want string }{
		"the smallest that is large enough":         {pv("big", "9Gi", "now", "") + pv("fit", "5Gi", "now", "") + pv("tiny", "1Gi", "now", "") + pvc("c", "2Gi", ", storageClassName: now"), "now fit"},
		"one that is meant for the claim":           {pv("a", "5Gi", "late", ", claimRef: {namespace: default, name: c}") + pvc("c", "2Gi", ""), "late a"},
		"none that is meant for another":            {pv("a", "5Gi", "now", ", claimRef: {namespace: default, name: d}") + pvc("c", "2Gi", ", storageClassName: now"), "now "},
		"none that another claim has":               {pv("a", "5Gi", "now", "") + pvc("b", "2Gi", ", storageClassName: now, volumeName: a") + pvc("c", "2Gi", ", storageClassName: now"), "now "},
		"none before its first consumer, if late":   {pv("a", "5Gi", "late", "") + pvc("c", "2Gi", ""), "late "},
		"one without a class for the empty class":   {pv("a", "5Gi", "", "") + pvc("c", "2Gi", ", storageClassName: ''"), " a"},
		"none of another class":                     {pv("a", "5Gi", "", "") + pvc("c", "2Gi", ", storageClassName: now"), "now "},
		"none of another mode":                      {pv("a", "5Gi", "now", ", volumeMode: Block") + pvc("c", "2Gi", ", storageClassName: now"), "now "},
		"none without the access mode":              {pv("a", "5Gi", "now", "") + pvc("c", "2Gi", ", storageClassName: now, accessModes: [ReadWriteMany]"), "now "},
		"none that the claim's selector leaves out": {pv("a", "5Gi", "now", "") + pvc("c", "2Gi", ", storageClassName: now, selector: {matchLabels: {a: b}}"), "now "},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := strings.ReplaceAll(tc.in, "accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}, storageClassName: now, accessModes:", "resources: {requests: {storage: 2Gi}}, storageClassName: now, accessModes:")
			set := read(t, classes+in)
			c := set.Snapshot(testOptions).PVCs["default/c"]
			if got := *c.Spec.StorageClassName + " " + c.Spec.VolumeName; got != tc.want {
				t.Errorf("class and volume %q, want %q", got, tc.want)
			}
			for _, x := range all[*corev1.PersistentVolumeClaim](set) {
				if x.Name == "c" && x.Spec.VolumeName != "" {
					t.Error("the Set's own claim has changed")
				}
			}
		})
	}
}

func TestCapacityTypesRestrict(t *testing.T) {
	offered := func(p *capacity.Provisioner) []string {
		var out []string
		for _, it := range p.InstanceTypes {
			for _, o := range it.Offerings {
				out = append(out, o.CapacityType)
			}
		}
		return out
	}
	both := "apiVersion: berth.dev/v1alpha1\nkind: Provisioner\nmetadata: {name: p}\nspec: {requirements: [{key: berth.dev/capacity-type, operator: In, values: [on-demand, spot]}]}"
	tests := map[string]struct {
		in    string
		types []string
		want  []string
	}{
		"unset: what the Provisioner says":        {both, nil, []string{"spot", "on-demand"}},
		"set: no more than that":                  {both, []string{"spot"}, []string{"spot"}},
		"the default Provisioner says on-demand":  {"", nil, []string{"on-demand"}},
		"unless told otherwise":                   {"", []string{"spot", "on-demand"}, []string{"spot", "on-demand"}},
		"what the Provisioner excludes stays out": {strings.Replace(both, "[on-demand, spot]", "[on-demand]", 1), []string{"spot"}, nil},
		"a Provisioner that says nothing is told": {"apiVersion: berth.dev/v1alpha1\nkind: Provisioner\nmetadata: {name: p}\n", []string{"spot"}, []string{"spot"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			set := read(t, tc.in)
			o := testOptions
			o.CapacityTypes = tc.types
			s := set.Snapshot(o)
			if diff := cmp.Diff(tc.want, offered(s.Provisioners[0])); diff != "" {
				t.Errorf("offered (-want +got):\n%s", diff)
			}
			if assumed := len(set.Notes()) > 0; assumed != (tc.in == "") {
				t.Errorf("notes %v", set.Notes())
			}
		})
	}
}

func TestWhatDiscoveryFoundCounts(t *testing.T) {
	set := &Set{}
	set.Add(&v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "p"}})
	o := testOptions
	o.Resolved = map[string]capacity.Resolved{"p": {Why: "no image found"}}
	if p := set.Snapshot(o).Provisioners[0]; p.NotReady != "no image found" {
		t.Errorf("not ready: %q", p.NotReady)
	}
	o.Resolved["p"] = capacity.Resolved{Ready: true, Zones: []string{"us-west-2b"}}
	if p := set.Snapshot(o).Provisioners[0]; len(p.InstanceTypes) != 0 || p.NotReady != "" {
		t.Errorf("%d types in a zone that offers none; not ready: %q", len(p.InstanceTypes), p.NotReady)
	}
}

func TestTheRootVolumeIsTheOneThatIsMarked(t *testing.T) {
	for devices, want := range map[string]int64{
		"[]":                                   20 << 30,
		"[{deviceName: a, volumeSize: 100Gi}]": 100 << 30,
		"[{deviceName: a, volumeSize: 100Gi}, {deviceName: b, volumeSize: 50Gi, rootVolume: true}]": 50 << 30,
	} {
		s := read(t, "apiVersion: berth.dev/v1alpha1\nkind: Provisioner\nmetadata: {name: p}\nspec: {ec2: {blockDevices: "+devices+"}}").Snapshot(testOptions)
		want -= 77_844 << 10 // What the file system keeps.
		if got := s.Provisioners[0].InstanceTypes[0].Capacity[corev1.ResourceEphemeralStorage]; got != want {
			t.Errorf("%s: %d bytes, want %d", devices, got, want)
		}
	}
}

func TestSnapshotsOfOneSetAreAlike(t *testing.T) {
	in := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: 3, " + template + "}"
	a, b := read(t, in).Snapshot(testOptions), read(t, in).Snapshot(testOptions)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Error(diff)
	}
}

func TestPodGroupsAreRead(t *testing.T) {
	s := read(t, `
apiVersion: scheduling.k8s.io/v1beta1
kind: PodGroup
metadata: {name: g}
spec: {schedulingPolicy: {gang: {minCount: 4}}, schedulingConstraints: {topology: [{key: rack}]}}
---
apiVersion: scheduling.k8s.io/v1beta1
kind: PodGroup
metadata: {name: g, namespace: other}
spec: {schedulingPolicy: {basic: {}}}
`).Snapshot(testOptions)
	want := map[string]capacity.PodGroup{"default/g": {MinCount: 4, Topology: "rack"}, "other/g": {}}
	if diff := cmp.Diff(want, s.Groups); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
}

// TestNothingIsPlannedForAPodThatTheSchedulerMakesRoomFor: it has its place where
// its victims are leaving.
func TestNothingIsPlannedForAPodThatTheSchedulerMakesRoomFor(t *testing.T) {
	const in = `
apiVersion: v1
kind: Pod
metadata: {name: preemptor}
spec: {priority: 10, containers: [{name: c, resources: {requests: {cpu: 2}}}]}
status: {nominatedNodeName: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {allocatable: {cpu: 2, memory: 4Gi, pods: 10}}
---
apiVersion: v1
kind: Pod
metadata: {name: victim%s}
spec: {nodeName: n1, containers: [{name: c, resources: {requests: {cpu: 1}}}]}
`
	for leaving, waiting := range map[string]int{"": 1, `, deletionTimestamp: "2026-01-01T00:00:00Z"`: 0} {
		s := read(t, fmt.Sprintf(in, leaving)).Snapshot(testOptions)
		if len(s.Pods) != waiting || len(s.Nodes[0].Pods) != 2-waiting {
			t.Errorf("victim%s: %d pods wait, %d are on the node; want %d and %d", leaving, len(s.Pods), len(s.Nodes[0].Pods), waiting, 2-waiting)
		}
	}
}

// TestNothingIsBoughtWhileProvisionersAreStopped: neither by Berth, nor by a plan.
func TestNothingIsBoughtWhileProvisionersAreStopped(t *testing.T) {
	for name, tc := range map[string]struct{ provisioner, namespace, want string }{
		"nothing stops it":                      {"{name: p}", "", ""},
		"its launching is paused":               {`{name: p, annotations: {berth.dev/pause-launching: "2026-01-01T01:00:00Z"}}`, "", "launching is paused until 2026-01-01T01:00:00Z"},
		"its pause is over":                     {`{name: p, annotations: {berth.dev/pause-launching: "2025-12-31T23:00:00Z"}}`, "", ""},
		"a pause that has not been read yet":    {`{name: p, annotations: {berth.dev/pause-launching: 30m}}`, "", "launching is paused until 2026-01-01T00:30:00Z"},
		"all are paused, for longer than it is": {`{name: p, annotations: {berth.dev/pause-launching: 30m}}`, `{name: berth-system, annotations: {berth.dev/pause-launching: 2h}}`, "launching is paused until 2026-01-01T02:00:00Z"},
		"another namespace's annotation":        {"{name: p}", `{name: shop, annotations: {berth.dev/pause-launching: 2h}}`, ""},
		"another pause":                         {"{name: p}", `{name: berth-system, annotations: {berth.dev/pause-disruption: 2h}}`, ""},
		"it goes, and takes its nodes with it":  {`{name: p, deletionTimestamp: "2026-01-01T00:00:00Z", annotations: {berth.dev/pause-launching: 2h}}`, "", "it is being deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			in := "apiVersion: berth.dev/v1alpha1\nkind: Provisioner\nmetadata: " + tc.provisioner
			if tc.namespace != "" {
				in += "\n---\napiVersion: v1\nkind: Namespace\nmetadata: " + tc.namespace
			}
			o := testOptions
			o.Namespace = "berth-system"
			if got := read(t, in).Snapshot(o).Provisioners[0].NotReady; got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestReplicaSetsOfLargeClustersAreKnown: whether a Deployment speaks for a
// ReplicaSet is looked up, not searched for among all objects, which took minutes.
func TestReplicaSetsOfLargeClustersAreKnown(t *testing.T) {
	s := &Set{}
	for i := range 40_000 {
		s.Add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("pod-", i)}, Spec: corev1.PodSpec{NodeName: "n"}})
	}
	for i := range 10_000 {
		owner := metav1.OwnerReference{Kind: "Deployment", Name: fmt.Sprint("d-", i/10), Controller: new(true)}
		s.Add(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: owner.Name}, Spec: appsv1.DeploymentSpec{Replicas: new(int32(0))}})
		s.Add(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("rs-", i), OwnerReferences: []metav1.OwnerReference{owner}}})
	}
	s.Add(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "alone", OwnerReferences: []metav1.OwnerReference{{Kind: "Deployment", Name: "gone", Controller: new(true)}}}})
	start := time.Now()
	w := s.expand()
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if n := len(w.pods); n != 40_001 {
		t.Errorf("%d pods; want one more than there are, of the ReplicaSet whose Deployment is gone", n)
	}
}
