package provisioner

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// asking is a pod that requests so much processor time.
func asking(name, cpu string) *corev1.Pod {
	p := podNamed(name)
	p.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}}
	return p
}

// TestNoSeatIsBoughtWhereTheSchedulerMakesRoom: a pod that kube-scheduler has
// nominated for a node waits there for its victims; elsewhere it is planned for.
func TestNoSeatIsBoughtWhereTheSchedulerMakesRoom(t *testing.T) {
	pod := func(name string, cpu string, leaving bool) *corev1.Pod {
		p := asking(name, cpu)
		if leaving {
			p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		}
		return p
	}
	tests := map[string]struct {
		node capacity.Node
		on   []*corev1.Pod
		want bool
	}{
		"victims are leaving Berth's node":              {capacity.Node{Claim: "c"}, []*corev1.Pod{pod("v", "2", true), pod("s", "1", false)}, true},
		"nobody leaves: the nomination is an old one":   {capacity.Node{Claim: "c"}, []*corev1.Pod{pod("v", "2", false)}, false},
		"those that leave make too little room":         {capacity.Node{Claim: "c"}, []*corev1.Pod{pod("v", "1", true), pod("s", "2", false)}, false},
		"there is room already: planned for as any pod": {capacity.Node{Claim: "c"}, []*corev1.Pod{pod("v", "100m", true)}, false},
		"the node is going away":                        {capacity.Node{Claim: "c", Unschedulable: true}, []*corev1.Pod{pod("v", "2", true)}, false},
		"a node that is not Berth's":                    {capacity.Node{}, nil, true},
		"a seat from before a restart":                  {capacity.Node{Claim: "c", InFlight: true}, nil, true},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			c.node.Allocatable = capacity.Resources{corev1.ResourceCPU: 3000, corev1.ResourcePods: 10}
			c.node.Pods = c.on
			p := &Loops{book: newBook()}
			preemptor := pod("preemptor", "2", false)
			preemptor.Status.NominatedNodeName = "n"
			nodes := &nodeSet{byNode: map[string]*capacity.Node{"n": &c.node}}
			if got, _ := p.seatOf(preemptor, nodes, false, time.Unix(10, 0)); (got != nil) != c.want {
				t.Errorf("has a place there: %t, want %t", got != nil, c.want)
			}
		})
	}
}

// TestAGangIsNotOverdueBeforeAllItsNodesAreThere: kube-scheduler binds none of a
// PodGroup's pods until it can bind as many as the group needs.
func TestAGangIsNotOverdueBeforeAllItsNodesAreThere(t *testing.T) {
	p := &Loops{book: newBook()}
	group := "train"
	member := func(name, claim string) *corev1.Pod {
		pod := podNamed(name)
		pod.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: &group}
		p.book.give(pod.UID, claim)
		return pod
	}
	first, second := member("first", "a"), member("second", "b")
	room := capacity.Resources{corev1.ResourcePods: 10}
	nodes := &nodeSet{
		byClaim: map[string]*capacity.Node{"a": {Claim: "a", Allocatable: room}, "b": {Claim: "b", InFlight: true, Allocatable: room}},
		ready:   map[string]bool{"a": true},
	}
	look := func(at time.Time) bool {
		early := p.incomplete([]*corev1.Pod{first, second}, nodes)["default/train"]
		on, _ := p.seatOf(first, nodes, early, at)
		return on != nil
	}
	start := time.Unix(1000, 0)
	for _, after := range []time.Duration{0, seatPatience, 10 * seatPatience} {
		if !look(start.Add(after)) {
			t.Fatalf("after %s the seat is given up, though the group waits for another node", after)
		}
	}
	nodes.ready["b"] = true
	ready := start.Add(11 * seatPatience)
	if !look(ready) || !look(ready.Add(seatPatience/2)) {
		t.Error("the seat is given up before kube-scheduler had its time")
	}
	first.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/2 nodes are available"}}
	if look(ready.Add(seatPatience)) {
		t.Error("the seat is kept for ever")
	}
}

// TestANodeThatIsTooSmallIsNotBoughtForEver: a node may offer less than was planned
// (an image of one's own), or DaemonSets take more of it. The same would be
// bought again as soon as it is ready.
func TestANodeThatIsTooSmallIsNotBoughtForEver(t *testing.T) {
	with := func(p *corev1.Pod, f func(*corev1.Pod)) *corev1.Pod {
		f(p)
		return p
	}
	owned := func(kind string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Controller: ptr(true)}}
		}
	}
	for name, tc := range map[string]struct {
		cpu  int64
		on   []*corev1.Pod
		want string // what the pod hears after two such nodes; empty: more are bought
	}{
		"it offers less":               {1500, nil, "node n has too little cpu"},
		"a DaemonSet's pod takes more": {2500, []*corev1.Pod{with(asking("d", "1"), owned("DaemonSet"))}, "node n has too little cpu"},
		"a static pod takes more":      {2500, []*corev1.Pod{with(asking("s", "1"), owned("Node"))}, "node n has too little cpu"},
		"another pod has its room":     {2500, []*corev1.Pod{with(asking("w", "1"), owned("ReplicaSet"))}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Loops{book: newBook()}
			pod, now := asking("p", "2"), time.Unix(1000, 0)
			for _, claim := range []string{"a", "b"} {
				p.book.give(pod.UID, claim)
				node := &capacity.Node{Name: "n", Claim: claim, Allocatable: capacity.Resources{corev1.ResourceCPU: tc.cpu, corev1.ResourcePods: 10}, Pods: tc.on}
				nodes := &nodeSet{byClaim: map[string]*capacity.Node{claim: node}, ready: map[string]bool{claim: true}}
				if on, crowded := p.seatOf(pod, nodes, false, now); on != nil || crowded {
					t.Fatalf("a seat that it cannot take: on %v, crowded %t", on, crowded)
				}
				if _, seated := p.book.of(pod.UID); seated {
					t.Fatal("the seat is still in the book")
				}
				now = now.Add(time.Minute)
			}
			why, stop := p.stoppedShape(pod, now)
			if stop != (tc.want != "") || !strings.Contains(why.Detail, tc.want) {
				t.Errorf("stopped: %t, %q", stop, why.Detail)
			}
		})
	}
}

// TestSeatsOfPodsWhoseVolumesAreBeingMade: kube-scheduler has chosen the node then,
// and waits.
func TestSeatsOfPodsWhoseVolumesAreBeingMade(t *testing.T) {
	pod := podNamed("p")
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	p := &Loops{book: newBook(), stores: storesWith(t, pod)}
	p.book.give(pod.UID, "a")
	node := &capacity.Node{Claim: "a", Allocatable: capacity.Resources{corev1.ResourcePods: 10}}
	nodes := &nodeSet{byClaim: map[string]*capacity.Node{"a": node}, ready: map[string]bool{"a": true}}
	start := time.Unix(1000, 0)
	for _, after := range []time.Duration{0, seatPatience, 4 * time.Minute} {
		if on, _ := p.seatOf(pod, nodes, false, start.Add(after)); on == nil {
			t.Fatalf("after %s the seat is given up", after)
		}
	}
	if on, _ := p.seatOf(pod, nodes, false, start.Add(seatPatienceMost)); on != nil {
		t.Error("the seat is kept for ever")
	}
}

// TestWhoIsCrowdedOutMayFindRoomHimself: who sits down on another's seat leaves his own
// free, and kube-scheduler needs no new plan to find it. Who had none leaves none.
func TestWhoIsCrowdedOutMayFindRoomHimself(t *testing.T) {
	for name, tc := range map[string]struct {
		thief string // CPUs of the pod that sits down on the seat
		had   string // the claim that it had its own seat on
		full  bool   // somebody else sits there
		want  string // what becomes of the pod at once, and after crowdedFor
	}{
		"by one of its kind":                               {"2", "b", false, "seat on b"},
		"by one of its kind, whose seat is taken":          {"2", "b", true, "planned"},
		"by one of another kind":                           {"1500m", "b", false, "waits, planned"},
		"by one that had no seat":                          {"2", "", false, "planned"},
		"by one of its kind, whose node is on its way out": {"2", "c", false, "planned"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Loops{book: newBook()}
			p.nominator = newNominator(p)
			pod, thief, now := asking("p", "2"), asking("thief", tc.thief), time.Unix(1000, 0)
			nodes := &nodeSet{byClaim: map[string]*capacity.Node{}, ready: map[string]bool{"a": true}}
			for _, claim := range []string{"a", "b", "c"} {
				nodes.byClaim[claim] = &capacity.Node{Claim: claim, Unschedulable: claim == "c", Allocatable: capacity.Resources{corev1.ResourceCPU: 3000, corev1.ResourcePods: 10}}
			}
			p.book.give(pod.UID, "a")
			if tc.had != "" {
				p.book.give(thief.UID, tc.had)
			}
			if tc.full {
				nodes.byClaim["b"].Pods = []*corev1.Pod{asking("third", "2")}
			}
			thief.Spec.NodeName, thief.Labels = "node", map[string]string{corev1.LabelTopologyZone: "z", corev1.LabelTopologyRegion: "r"}
			nodes.byClaim["a"].Pods = []*corev1.Pod{thief}
			p.book.bound(thief, "a", now)
			var got []string
			for range 2 {
				on, crowded := p.seatOf(pod, nodes, false, now)
				claim, seated := p.book.of(pod.UID)
				switch {
				case on != nil && on.Claim == claim:
					got = append(got, "seat on "+claim)
				case on == nil && crowded && seated:
					got = append(got, "waits")
				case on == nil && !crowded && !seated:
					got = append(got, "planned")
				default:
					t.Fatalf("on %v, crowded %t, seat on %q", on, crowded, claim)
				}
				if !crowded {
					break
				}
				now = now.Add(crowdedFor)
			}
			if s := strings.Join(got, ", "); s != tc.want {
				t.Errorf("it %s; want %s", s, tc.want)
			}
		})
	}
}

// TestACrowdFromBeforeDoesNotCount: the room was free again meanwhile.
func TestACrowdFromBeforeDoesNotCount(t *testing.T) {
	p, pod, now := &Loops{book: newBook()}, asking("p", "2"), time.Unix(1000, 0)
	node := &capacity.Node{Claim: "a", Allocatable: capacity.Resources{corev1.ResourceCPU: 3000, corev1.ResourcePods: 10}}
	nodes := &nodeSet{byClaim: map[string]*capacity.Node{"a": node}, ready: map[string]bool{"a": true}}
	p.book.give(pod.UID, "a")
	for i, crowd := range []bool{true, false, true} {
		node.Pods = nil
		if crowd {
			thief := asking("thief", "1500m")
			p.book.give(thief.UID, "b")
			p.book.bound(thief, "a", now)
			node.Pods = []*corev1.Pod{thief}
		}
		if on, crowded := p.seatOf(pod, nodes, false, now); (on == nil) != crowd || crowded != crowd {
			t.Errorf("look %d: on %v, crowded %t", i, on, crowded)
		}
		now = now.Add(crowdedFor / 2)
	}
}
