package provisioner

import (
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/drain"
)

func ownedPod(name, owner, node string) *corev1.Pod {
	p := podNamed(name)
	p.UID = types.UID("uid-" + name)
	p.Spec.NodeName = node
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: owner, UID: types.UID(owner), Controller: ptr(true)}}
	return p
}

func TestWhichPodsMove(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	daemon := ownedPod("daemon", "d", "n")
	daemon.OwnerReferences[0].Kind = "DaemonSet"
	leaving := ownedPod("leaving", "rs", "n")
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	done := ownedPod("done", "rs", "n")
	done.Status.Phase = corev1.PodSucceeded
	bare := ownedPod("bare", "rs", "n")
	bare.OwnerReferences = nil
	for _, p := range []*corev1.Pod{daemon, leaving, done, bare} {
		if mover(p, node) != nil {
			t.Errorf("pod %s is planned for elsewhere", p.Name)
		}
	}
	web := ownedPod("web", "rs", "n")
	stand := mover(web, node)
	if stand == nil || !moving(stand) || moving(web) || standIn(stand) || stand.Spec.NodeName != "" || web.Spec.NodeName != "n" || !waiting(stand) {
		t.Errorf("stand-in %+v of %+v", stand, web)
	}
}

// TestRoomBeforePodsGo follows one node's pods from the first plan for them to
// their having gone.
func TestRoomBeforePodsGo(t *testing.T) {
	now := time.Unix(1e6, 0)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "old"}}
	drain.Hold(n, now)
	web := ownedPod("web", "rs", "old")
	claim := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c-old"}}
	p := &Loops{book: newBook(), stores: &stores{pods: informerOf(t, []*corev1.Pod{web}), nodes: informerOf(t, []*corev1.Node{n})}}
	room := capacity.Resources{corev1.ResourcePods: 10}
	look := func(inFlight bool, at time.Time) (*view, *departures) {
		oldNode := &capacity.Node{Name: "old", Claim: "c-old", Unschedulable: true, Pods: []*corev1.Pod{web}}
		newNode := &capacity.Node{Name: "new", Claim: "c-new", InFlight: inFlight, Allocatable: room}
		set := &nodeSet{all: []*capacity.Node{oldNode, newNode}, byNode: map[string]*capacity.Node{"old": oldNode, "new": newNode},
			byClaim: map[string]*capacity.Node{"c-old": oldNode, "c-new": newNode}, ready: map[string]bool{"c-new": !inFlight}}
		v := &view{snapshot: &capacity.Snapshot{}, claims: map[string]*v1alpha1.NodeClaim{"c-old": claim}}
		return v, p.depart(v, set, at)
	}

	v, d := look(true, now)
	if len(v.snapshot.Pods) != 1 || !moving(v.snapshot.Pods[0]) {
		t.Fatalf("planned for: %v", v.snapshot.Pods)
	}
	stand := v.snapshot.Pods[0]
	found := d.settle(&capacity.Plan{Launches: []capacity.Launch{{Pods: []*corev1.Pod{stand}}}})
	if found["c-old"].ready() {
		t.Fatal("ready before anything runs")
	}
	p.book.give(stand.UID, "c-new") // What creating the claim does.

	v, d = look(true, now.Add(time.Second))
	if len(v.snapshot.Pods) != 0 || d.found["c-old"].ready() {
		t.Fatalf("with the room on its way: planned for %v again, ready %t", v.snapshot.Pods, d.found["c-old"].ready())
	}
	_, d = look(false, now.Add(2*time.Second))
	if !d.found["c-old"].ready() {
		t.Fatal("not ready with the room there")
	}
	gone := now.Add(3 * time.Second)
	web.DeletionTimestamp = &metav1.Time{Time: gone}
	if _, d = look(false, gone); !d.found["c-old"].ready() || len(p.book.on("c-new")) != 1 {
		t.Fatal("while the pod goes, its room is not held against its being given back")
	}
	if look(false, gone.Add(2*movedFor)); len(p.book.on("c-new")) != 0 {
		t.Fatal("the room is held for ever")
	}
}

// TestStandInsAreBoughtForNoFasterThanDrainsMayWrite: a hundred drains that begin at
// once need a hundred nodes, but not at once. What waits, or has to go soon, is not
// held up by that.
func TestStandInsAreBoughtForNoFasterThanDrainsMayWrite(t *testing.T) {
	now := time.Unix(1e6, 0)
	for name, tc := range map[string]struct {
		claim v1alpha1.NodeClaim
		with  *corev1.Pod
		wave  int
		want  int
	}{
		"nodes taken out of use":          {v1alpha1.NodeClaim{}, nil, 20, drainCalls / claimWrites},
		"a small wave":                    {v1alpha1.NodeClaim{}, nil, smallWave, smallWave},
		"a drain with time":               {v1alpha1.NodeClaim{Status: v1alpha1.NodeClaimStatus{DrainDeadline: &metav1.Time{Time: now.Add(time.Hour)}}}, nil, 20, drainCalls / claimWrites},
		"a drain that ends soon":          {v1alpha1.NodeClaim{Status: v1alpha1.NodeClaimStatus{DrainDeadline: &metav1.Time{Time: now.Add(time.Minute)}}}, nil, 20, 20},
		"an interruption":                 {v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationDisruptionReason: string(v1alpha1.ReasonInterrupted)}}}, nil, 20, 20},
		"a pod waits for each of the new": {v1alpha1.NodeClaim{}, podNamed("waits"), 20, 20},
	} {
		t.Run(name, func(t *testing.T) {
			d := &departures{found: map[string]seating{}, from: map[types.UID]string{}, patient: map[types.UID]bool{}}
			plan := &capacity.Plan{}
			for i := range tc.wave {
				stand := podNamed(strconv.Itoa(i))
				d.from[stand.UID], d.patient[stand.UID] = "c-"+stand.Name, !hurried(&tc.claim, now)
				l := capacity.Launch{OfferingRef: capacity.OfferingRef{Price: 1}, Pods: []*corev1.Pod{stand}}
				if tc.with != nil {
					l.Pods = append(l.Pods, tc.with)
				}
				plan.Launches = append(plan.Launches, l)
				plan.HourlyCost++
			}
			put := d.spread(plan, drain.NewPace(drainCalls))
			if len(plan.Launches) != tc.want || put != tc.wave-tc.want || plan.HourlyCost != float64(tc.want) {
				t.Errorf("%d launches at $%g/h, %d put off; want %d", len(plan.Launches), plan.HourlyCost, put, tc.want)
			}
			if len(d.found) != put {
				t.Errorf("%d nodes wait for what was put off, want %d", len(d.found), put)
			}
			for claim, s := range d.found {
				if s.ready() || s.stuck != "" {
					t.Errorf("%s: ready %t, stuck %q", claim, s.ready(), s.stuck)
				}
			}
		})
	}
}

func TestAPodThatFitsNowhereSaysSo(t *testing.T) {
	stand := mover(ownedPod("web", "rs", "n"), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	for constraint, stuck := range map[capacity.Constraint]bool{capacity.ConstraintLimits: true, capacity.ConstraintNotReady: false} {
		d := &departures{found: map[string]seating{"c": {}}, from: map[types.UID]string{stand.UID: "c"}}
		s := d.settle(&capacity.Plan{Unschedulable: []capacity.Unschedulable{{Pod: stand, Reasons: []capacity.Reason{{Constraint: constraint, Detail: "x"}}}}})["c"]
		if s.ready() || (s.stuck != "") != stuck {
			t.Errorf("%s: ready %t, stuck %q", constraint, s.ready(), s.stuck)
		}
	}
}

func TestAlone(t *testing.T) {
	for name, tc := range map[string]struct {
		others []*corev1.Pod
		want   bool
	}{
		"the only replica":                   {nil, true},
		"its siblings share the node":        {[]*corev1.Pod{ownedPod("b", "rs", "n")}, true},
		"a sibling runs elsewhere":           {[]*corev1.Pod{ownedPod("b", "rs", "m")}, false},
		"a sibling waits":                    {[]*corev1.Pod{ownedPod("b", "rs", "")}, true},
		"somebody else's pod runs elsewhere": {[]*corev1.Pod{ownedPod("b", "other", "m")}, true},
		"a sibling is on a node that leaves": {[]*corev1.Pod{ownedPod("b", "rs", "tainted")}, true},
		"a sibling's node is deleted":        {[]*corev1.Pod{ownedPod("b", "rs", "deleted")}, true},
		"a sibling's claim is deleted":       {[]*corev1.Pod{ownedPod("b", "rs", "claimed")}, true},
		"a sibling's node is gone":           {[]*corev1.Pod{ownedPod("b", "rs", "gone")}, true},
		"one of two siblings leaves too":     {[]*corev1.Pod{ownedPod("b", "rs", "tainted"), ownedPod("c", "rs", "m")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			web := ownedPod("web", "rs", "n")
			names := func(names ...string) (out []*corev1.Node) {
				for _, n := range names {
					out = append(out, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n}})
				}
				return out
			}
			nodes := names("n", "m", "claimed", "deleted", "tainted")
			nodes[3].DeletionTimestamp = &metav1.Time{Time: time.Unix(1e6, 0)}
			drain.Hold(nodes[0], time.Unix(1e6, 0))
			drain.Hold(nodes[4], time.Unix(1e6, 0))
			claim := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", DeletionTimestamp: nodes[3].DeletionTimestamp}, Status: v1alpha1.NodeClaimStatus{NodeName: "claimed"}}
			p := &Loops{stores: &stores{pods: informerOf(t, append(tc.others, web)), nodes: informerOf(t, nodes), claims: informerOf(t, []*v1alpha1.NodeClaim{claim})}}
			if got := p.alone(web, "n", p.staying()); got != tc.want {
				t.Errorf("alone: %t", got)
			}
		})
	}
}

func TestProtected(t *testing.T) {
	now := time.Unix(1e6, 0)
	pod := func(key, value string) *corev1.Pod {
		p := ownedPod("web", "rs", "n")
		p.Annotations = map[string]string{key: value}
		p.Status.StartTime = &metav1.Time{Time: now.Add(-time.Hour)}
		return p
	}
	daemon := pod(v1alpha1.AnnotationDoNotDisrupt, "true")
	daemon.OwnerReferences[0].Kind = "DaemonSet"
	leaving := pod(v1alpha1.AnnotationDoNotDisrupt, "true")
	leaving.DeletionTimestamp = &metav1.Time{Time: now}
	for name, tc := range map[string]struct {
		pod  *corev1.Pod
		want bool
	}{
		"true":                          {pod(v1alpha1.AnnotationDoNotDisrupt, "true"), true},
		"a duration that is not over":   {pod(v1alpha1.AnnotationDoNotDisrupt, "2h"), true},
		"a duration that is over":       {pod(v1alpha1.AnnotationDoNotDisrupt, "30m"), false},
		"Karpenter's":                   {pod(v1alpha1.AnnotationKarpenterDoNotDisrupt, "true"), true},
		"Cluster Autoscaler's":          {pod(v1alpha1.AnnotationSafeToEvict, "false"), true},
		"safe to evict":                 {pod(v1alpha1.AnnotationSafeToEvict, "true"), false},
		"a pod that ends with the node": {daemon, false},
		"a pod on its way out":          {leaving, false},
	} {
		t.Run(name, func(t *testing.T) {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
			c := candidate{node: node, claim: &v1alpha1.NodeClaim{}, provisioner: &v1alpha1.Provisioner{}}
			if got := objection(proposal{reason: v1alpha1.ReasonDrifted}, c, []*corev1.Pod{tc.pod}, now); (got != "") != tc.want {
				t.Errorf("objection %q", got)
			}
			if got := objection(proposal{reason: v1alpha1.ReasonExpired, forced: true}, c, []*corev1.Pod{tc.pod}, now); got != "" {
				t.Errorf("past its grace: objection %q", got)
			}
		})
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{v1alpha1.AnnotationDoNotDisrupt: "true"}}}
	if protected(node, nil, now) == "" {
		t.Error("a node's own wish is not heard")
	}
}

// TestNodesThatGoFirstGetRoomFirst: of two nodes on their way out, the pods of the
// one that began first get the room that is there, and all that wait before them.
func TestNodesThatGoFirstGetRoomFirst(t *testing.T) {
	now := time.Unix(1e6, 0)
	stand := func(name string, since time.Time) *corev1.Pod {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-" + name}}
		drain.Hold(n, since)
		return mover(ownedPod(name, "rs", n.Name), n)
	}
	waits := ownedPod("waits", "rs", "")
	waits.CreationTimestamp = metav1.Time{Time: now.Add(time.Minute)}
	snap := &capacity.Snapshot{Now: now, Region: "us-west-2",
		Pods: []*corev1.Pod{stand("a", now.Add(2*time.Second)), stand("b", now), waits},
		Nodes: []*capacity.Node{{Name: "ready", Allocatable: capacity.Resources{corev1.ResourcePods: 2}},
			{Name: "coming", Claim: "c", InFlight: true, Allocatable: capacity.Resources{corev1.ResourcePods: 2}}}}
	on := map[string]string{}
	for _, pl := range capacity.Solve(snap).Placements {
		on[pl.Pod.Name] = pl.Node.Name
	}
	if on["waits"] != "ready" || on["b-moved"] != "ready" || on["a-moved"] != "coming" {
		t.Errorf("placed: %v", on)
	}
}
