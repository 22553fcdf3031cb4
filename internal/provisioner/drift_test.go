package provisioner

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2"
)

func TestDriftOf(t *testing.T) {
	pr := &v1alpha1.Provisioner{Spec: v1alpha1.ProvisionerSpec{Requirements: []v1alpha1.Requirement{
		{Key: v1alpha1.LabelInstanceCPU, Operator: v1alpha1.OperatorLt, Values: []string{"9"}},
		{Key: "team", Operator: v1alpha1.OperatorIn, Values: []string{"a"}},
	}}}
	hash := capacity.TemplateHash(&pr.Spec, "prod")
	found := ec2.Resolved{Subnets: []ec2.Subnet{{ID: "subnet-1"}}, SecurityGroups: []string{"sg-1"}, Findings: []ec2.Finding{{OK: true}}}
	unsure := found
	unsure.Findings = []ec2.Finding{{OK: false}}
	inst := &ec2.Instance{ID: "i-1", SubnetID: "subnet-1", SecurityGroups: []string{"sg-1"}}
	elsewhere := &ec2.Instance{ID: "i-1", SubnetID: "subnet-0", SecurityGroups: []string{"sg-1"}}
	for name, tc := range map[string]struct {
		hash, cpu string
		r         ec2.Resolved
		inst      *ec2.Instance
		want      string
	}{
		"as of today":                                 {hash, "8", found, inst, ""},
		"another template":                            {"old", "8", found, inst, driftTemplate},
		"a claim from before there were hashes":       {"", "8", found, inst, ""},
		"a requirement that its type does not meet":   {hash, "16", found, inst, driftRequirements},
		"a subnet that is not selected any more":      {hash, "8", found, elsewhere, ec2.DriftSubnet},
		"the same, while the look-up is not complete": {hash, "8", unsure, elsewhere, ""},
		"an instance that EC2 does not list":          {hash, "8", found, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LabelInstanceCPU: tc.cpu},
				Annotations: map[string]string{v1alpha1.AnnotationProvisionerHash: tc.hash}}}
			if got := driftOf(pr, capacity.MadeAlike(&pr.Spec, "prod"), c, tc.r, tc.inst, nil); got.reason != tc.want {
				t.Fatalf("verdict %+v, want %q", got, tc.want)
			}
		})
	}
}

func TestADriftVerdictMustRepeatOnNewerAnswers(t *testing.T) {
	d := newDrift(&Loops{}, nil)
	c := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}}
	pr := &v1alpha1.Provisioner{}
	image := driftVerdict{ec2.DriftImage, "runs ami-1; ami-2 is the image of today"}
	other := driftVerdict{ec2.DriftImage, "runs ami-1; ami-3 is the image of today"}
	start := time.Unix(1000, 0)
	for i, s := range []struct {
		v        driftVerdict
		at, asOf int
		sure     bool
	}{
		{image, 0, -30, false},
		{image, 10, -30, false}, // The same answer, read once more.
		{image, 20, 15, true},   // An answer given after the first verdict.
		{other, 30, 25, false},  // Another verdict begins anew.
		{other, 90, 85, true},
		{driftVerdict{}, 91, 85, true},
		{other, 92, 91, false},
	} {
		at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
		sure, err := d.repeated(t.Context(), pr, c, s.v, at(s.asOf), at(s.at))
		if err != nil || sure != s.sure {
			t.Fatalf("step %d: sure %t, %v; want %t", i, sure, err, s.sure)
		}
	}
}

// TestDriftGoesCanaryFirst: one node at first; all when pods run on a node of
// today's kind; none when that is unhealthy, until somebody agrees.
func TestDriftGoesCanaryFirst(t *testing.T) {
	now := time.Unix(1e6, 0)
	const target = "t1"
	old := func(name string) candidate { return driftCandidate(name, true) }
	on := func(node string, p *corev1.Pod) *corev1.Pod {
		p.Name, p.Spec.NodeName = "p-"+node, node
		p.OwnerReferences = ownedPod("x", "ds", "").OwnerReferences
		return p
	}
	since := func(ago time.Duration, p *corev1.Pod) *corev1.Pod {
		p.Status.Conditions[0].LastTransitionTime = metav1.Time{Time: now.Add(-ago)}
		return p
	}
	pod := func(ready bool, restarts int32, scheduled time.Duration) *corev1.Pod {
		p := podNamed("p")
		p.Spec.NodeName = "fresh"
		status := corev1.ConditionFalse
		if ready {
			status = corev1.ConditionTrue
		}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status},
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: now.Add(-scheduled)}}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: restarts,
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
		return p
	}
	for name, tc := range map[string]struct {
		fresh   bool
		before  bool // The fresh node came before the others drifted.
		pods    []*corev1.Pod
		going   bool
		share   string
		ack     string
		want    int
		stopped string
	}{
		"no node of today's kind: the canary":       {want: 1},
		"the canary is on its way: nobody else":     {going: true, want: 0},
		"a new node without pods proves nothing":    {fresh: true, want: 1},
		"pods run on it: everybody":                 {fresh: true, pods: []*corev1.Pod{pod(true, 0, 0)}, want: 3},
		"its pod does not stay up: nobody":          {fresh: true, pods: []*corev1.Pod{pod(false, 5, 0)}, stopped: stoppedCanary},
		"its pod does not become ready: nobody":     {fresh: true, pods: []*corev1.Pod{pod(false, 0, time.Hour)}, stopped: stoppedCanary},
		"its pod has been ready for a moment only":  {fresh: true, pods: []*corev1.Pod{since(canaryProof-time.Second, pod(true, 0, 0))}, want: 1},
		"its pod has been ready for long enough":    {fresh: true, pods: []*corev1.Pod{since(canaryProof, pod(true, 0, 0))}, want: 3},
		"its pod was ready a moment ago":            {fresh: true, pods: []*corev1.Pod{since(time.Second, pod(false, 0, time.Hour))}, want: 1},
		"its pod was ready long ago: nobody":        {fresh: true, pods: []*corev1.Pod{since(canaryReady+time.Second, pod(false, 0, time.Hour))}, stopped: stoppedCanary},
		"its pod fails on the old nodes too":        {fresh: true, pods: []*corev1.Pod{on("fresh", pod(false, 5, 0)), on("a", pod(false, 5, 0))}, want: 1},
		"a node from before proves nothing":         {fresh: true, before: true, pods: []*corev1.Pod{pod(true, 0, 0)}, want: 1},
		"a node from before is not to blame":        {fresh: true, before: true, pods: []*corev1.Pod{pod(false, 5, 0)}, want: 1},
		"somebody agrees to go on all the same":     {fresh: true, pods: []*corev1.Pod{pod(false, 5, 0)}, ack: target, want: 1},
		"somebody agreed to another target":         {fresh: true, pods: []*corev1.Pod{pod(false, 5, 0)}, ack: "t0", stopped: stoppedCanary},
		"more than driftShare: nobody":              {fresh: true, pods: []*corev1.Pod{pod(true, 0, 0)}, share: "50%", stopped: stoppedShare},
		"more than driftShare, but somebody agreed": {fresh: true, pods: []*corev1.Pod{pod(true, 0, 0)}, share: "50%", ack: target, want: 3},
		"no more than driftShare":                   {fresh: true, pods: []*corev1.Pod{pod(true, 0, 0)}, share: "75%", want: 3},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Loops{stores: &stores{pods: informerOf(t, tc.pods), claims: informerOf[*v1alpha1.NodeClaim](t, nil)}}
			if tc.going {
				c := driftCandidate("going", true).claim
				c.DeletionTimestamp = &metav1.Time{Time: now}
				c.Annotations[v1alpha1.AnnotationDisruptionReason] = string(v1alpha1.ReasonDrifted)
				p.stores.claims = informerOf(t, []*v1alpha1.NodeClaim{c})
			}
			d := newDrift(p, nil)
			nodes := []candidate{old("a"), old("b"), old("c")}
			asToday := map[string]bool{}
			if tc.fresh {
				fresh := driftCandidate("fresh", false)
				if tc.before {
					fresh.claim.Status.Conditions[0].LastTransitionTime = metav1.Time{Time: time.Unix(1e6-7200, 0)}
				}
				nodes = append(nodes, fresh)
				asToday["fresh"] = true
			}
			pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{v1alpha1.AnnotationAcknowledgeDrift: tc.ack}},
				Spec: v1alpha1.ProvisionerSpec{Disruption: &v1alpha1.Disruption{DriftShare: tc.share}}}
			for i := range nodes {
				nodes[i].provisioner = pr
			}
			if ps, _ := d.propose(now, nodes); len(ps) != 0 {
				t.Fatalf("%d proposals before anything is known of today's kind", len(ps))
			}
			d.compared("p", target, asToday, now)
			for range 2 { // The second look finds what the first remembers.
				ps, _ := d.propose(now, nodes)
				if reason, _ := d.stoppedNow("p"); len(ps) != tc.want || reason != tc.stopped {
					t.Fatalf("%d proposals, stopped %q; want %d, %q", len(ps), reason, tc.want, tc.stopped)
				}
			}
		})
	}
}

func driftCandidate(name string, drifted bool) candidate {
	c := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}}}
	c.Spec.Provisioner.Name = "p"
	if drifted {
		meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionDrifted, Status: metav1.ConditionTrue, Reason: driftTemplate,
			LastTransitionTime: metav1.Time{Time: time.Unix(1e6-3600, 0)}})
	} else {
		meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionInitialized, Status: metav1.ConditionTrue, Reason: "Initialized",
			LastTransitionTime: metav1.Time{Time: time.Unix(1e6-1800, 0)}})
	}
	return candidate{claim: c, node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}}
}

// informerOf is an informer that does not run, with objects in its store.
func informerOf[T any](t testing.TB, objects []T) toolscache.SharedIndexInformer {
	t.Helper()
	indexers := toolscache.Indexers{}
	if _, ok := any(objects).([]*corev1.Pod); ok {
		indexers = podIndexers
	}
	inf := toolscache.NewSharedIndexInformer(&toolscache.ListWatch{}, nil, 0, indexers)
	for _, o := range objects {
		if err := inf.GetStore().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	return inf
}

// TestTheCanaryIsOneThatMayGo: a node that must be left alone stops no other.
func TestTheCanaryIsOneThatMayGo(t *testing.T) {
	now := time.Unix(1e6, 0)
	d := newDrift(&Loops{stores: &stores{pods: informerOf[*corev1.Pod](t, nil), claims: informerOf[*v1alpha1.NodeClaim](t, nil)}}, nil)
	held := map[string]bool{"a": true}
	d.holds = func(p proposal, _ time.Time) string {
		if held[p.nodes[0].claim.Name] {
			return "held"
		}
		return ""
	}
	nodes := []candidate{driftCandidate("a", true), driftCandidate("b", true)}
	for i := range nodes {
		nodes[i].provisioner = &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	}
	d.compared("p", "t", nil, now)
	for _, want := range []string{"b", "a"} { // When all are held, the first says why.
		if ps, _ := d.propose(now, nodes); len(ps) != 1 || ps[0].nodes[0].claim.Name != want {
			t.Errorf("proposes %v, want %s", ps, want)
		}
		held["b"] = true
	}
}
