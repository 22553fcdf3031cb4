package provisioner

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

// yard is some nodes of one Provisioner behind an API server that keeps what is
// written, and the disruption loop, turned by hand.
type yard struct {
	t   *testing.T
	api client.Client
	now time.Time
	*disruption
}

// wants proposes what it is told to.
type wants struct {
	reason v1alpha1.DisruptionReason
	claims []string
}

func (w *wants) propose(_ time.Time, nodes []candidate) ([]proposal, time.Duration) {
	var out []proposal
	for _, c := range nodes {
		if slices.Contains(w.claims, c.claim.Name) {
			out = append(out, proposal{reason: w.reason, nodes: []candidate{c}, why: "wanted"})
		}
	}
	return out, 0
}

// newYard has n nodes, named as their claims: a, b, … The oldest is a.
func newYard(t *testing.T, n int, spec v1alpha1.ProvisionerSpec, proposers ...proposer) *yard {
	t.Helper()
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec}
	objects := []client.Object{pr}
	for i := range n {
		name := string(rune('a' + i))
		born := metav1.Time{Time: now.Add(-time.Hour + time.Duration(i)*time.Second)}
		claim := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), CreationTimestamp: born, Finalizers: []string{v1alpha1.Finalizer}}}
		claim.Spec.Provisioner.Name = "p"
		claim.Spec.Offerings = []v1alpha1.ClaimOffering{{HourlyPrice: "0.1"}}
		claim.Status.NodeName, claim.Status.ProviderID, claim.Status.InstanceID = name, "aws:///z/i-"+name, "i-"+name
		claim.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionInitialized, Status: metav1.ConditionTrue, Reason: "Initialized", LastTransitionTime: born},
			{Type: v1alpha1.ConditionRegistered, Status: metav1.ConditionTrue, Reason: "Registered", LastTransitionTime: born}}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("node-" + name), CreationTimestamp: born}, Spec: corev1.NodeSpec{ProviderID: claim.Status.ProviderID}}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		node.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("10")}
		objects = append(objects, claim, node)
	}
	api := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(objects...).WithStatusSubresource(&v1alpha1.NodeClaim{}, &corev1.Node{}).
		WithIndex(&corev1.Pod{}, "spec.nodeName", func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }).Build()
	p := &Loops{cfg: Config{Client: api, APIReader: api, Recorder: events.NewFakeRecorder(10_000), Namespace: "berth-system", RegistrationTimeout: 15 * time.Minute},
		log: logr.Discard(), book: newBook(), stores: &stores{claims: informerOf[*v1alpha1.NodeClaim](t, nil), nodes: informerOf[*corev1.Node](t, nil),
			pods: informerOf[*corev1.Pod](t, nil), provisioners: informerOf(t, []*v1alpha1.Provisioner{pr}), namespace: informerOf[*corev1.Namespace](t, nil)},
		catalogue: newCatalogue("us-west-2")}
	for _, s := range []*toolscache.SharedIndexInformer{&p.stores.daemonSets, &p.stores.replicaSets, &p.stores.statefulSets, &p.stores.jobs, &p.stores.pvcs,
		&p.stores.pvs, &p.stores.storageClasses, &p.stores.csiNodes, &p.stores.attachments, &p.stores.pdbs, &p.stores.runtimeClasses, &p.stores.priorityClasses} {
		*s = informerOf[*corev1.Pod](t, nil)
	}
	var err error
	if p.metrics, err = newMetrics(prometheus.NewRegistry(), p); err != nil {
		t.Fatal(err)
	}
	y := &yard{t, api, now, newDisruption(p)}
	y.proposers = proposers
	return y
}

// turn shows the loop what the API server has, and lets it act once.
func (y *yard) turn(after time.Duration) time.Duration {
	y.t.Helper()
	y.now = y.now.Add(after)
	y.watch()
	next := y.pass(y.t.Context(), y.now)
	y.watch()
	return next
}

func (y *yard) watch() {
	y.t.Helper()
	var claims v1alpha1.NodeClaimList
	var nodes corev1.NodeList
	var pods corev1.PodList
	for _, l := range []client.ObjectList{&claims, &nodes, &pods} {
		if err := y.api.List(y.t.Context(), l); err != nil {
			y.t.Fatal(err)
		}
	}
	for _, err := range []error{
		y.stores.claims.GetStore().Replace(pointers(claims.Items), ""),
		y.stores.nodes.GetStore().Replace(pointers(nodes.Items), ""),
		y.stores.pods.GetStore().Replace(pointers(pods.Items), ""),
	} {
		if err != nil {
			y.t.Fatal(err)
		}
	}
}

func (y *yard) create(o client.Object) {
	y.t.Helper()
	if err := y.api.Create(y.t.Context(), o); err != nil {
		y.t.Fatal(err)
	}
}

// pod puts a pod of a workload on a node.
func (y *yard) pod(name, owner, node string) *corev1.Pod {
	y.t.Helper()
	p := ownedPod(name, owner, node)
	p.Namespace = "default"
	y.create(p)
	return p
}

// out are the nodes that are out of use, going those whose claims were deleted.
func (y *yard) out() (out, going []string) {
	for _, n := range all[*corev1.Node](y.stores.nodes) {
		if drain.Cordoned(n) {
			out = append(out, n.Name)
		}
	}
	for _, c := range all[*v1alpha1.NodeClaim](y.stores.claims) {
		if c.DeletionTimestamp != nil {
			going = append(going, c.Name)
		}
	}
	slices.Sort(out)
	slices.Sort(going)
	return out, going
}

func (y *yard) expect(out, going string) {
	y.t.Helper()
	o, g := y.out()
	if got, want := fmt.Sprint(o, g), fmt.Sprintf("[%s] [%s]", out, going); got != want {
		y.t.Fatalf("out of use and going are %s, want %s", got, want)
	}
}

// room says what the provision loop has found about all nodes' pods.
func (y *yard) room(s seating) {
	found := map[string]seating{}
	for _, c := range all[*v1alpha1.NodeClaim](y.stores.claims) {
		found[c.Name] = s
	}
	y.moves.replace(found)
}

// TestANodeGoesStepByStep: taint; room; the live list; the claim is deleted.
func TestANodeGoesStepByStep(t *testing.T) {
	w := &wants{v1alpha1.ReasonDrifted, []string{"a", "b"}}
	y := newYard(t, 3, v1alpha1.ProvisionerSpec{}, w)
	y.pod("web", "rs", "a")
	y.turn(0)
	y.expect("a", "") // 10 % of three nodes is one.
	y.turn(time.Minute)
	y.expect("a", "")
	y.room(seating{coming: 1})
	y.turn(time.Second)
	y.expect("a", "")
	y.room(seating{})
	y.turn(drain.MinDrain)
	y.expect("a", "a")
	y.turn(time.Minute)
	y.expect("a", "a") // It counts until EC2 says terminated.
	claim := &v1alpha1.NodeClaim{}
	if err := y.api.Get(t.Context(), client.ObjectKey{Name: "a"}, claim); err != nil || claim.Annotations[v1alpha1.AnnotationDisruptionReason] != string(v1alpha1.ReasonDrifted) {
		t.Errorf("the claim says %v, %v", claim.Annotations, err)
	}
}

// TestANodeThatNobodyWaitsForNeedNotBecomeReady: it has joined, its pods are gone, and
// something still keeps it from being ready for any.
func TestANodeThatNobodyWaitsForNeedNotBecomeReady(t *testing.T) {
	y := newYard(t, 1, v1alpha1.ProvisionerSpec{TTLSecondsAfterEmpty: ptr(int64(10)), TTLSecondsUntilExpired: ptr(int64(1))})
	y.proposers = []proposer{newEmptiness(y.Loops), expiry{}}
	claim := &v1alpha1.NodeClaim{}
	if err := y.api.Get(t.Context(), client.ObjectKey{Name: "a"}, claim); err != nil {
		t.Fatal(err)
	}
	setCondition(claim, v1alpha1.ConditionInitialized, metav1.ConditionFalse, "StartupTaint", "")
	claim.Status.Conditions[0].LastTransitionTime = metav1.Time{Time: y.now}
	if err := y.api.Status().Update(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	y.watch()
	y.turn(time.Minute)
	y.turn(time.Minute)
	y.expect("", "") // Nobody knows yet whether a pod waits for it.
	y.planned.Store(true)
	y.book.give("p", "a")
	y.turn(time.Minute)
	y.turn(time.Minute)
	y.expect("", "") // A pod does.
	y.book.take("p")
	y.turn(time.Second)
	y.turn(20 * time.Second)
	y.expect("a", "")
	y.turn(time.Second)
	y.turn(drain.MinDrain)
	y.expect("a", "a")
}

// TestARemovalIsTakenBack: whatever speaks against it before the claim is deleted
// puts the node back into use as it was.
func TestARemovalIsTakenBack(t *testing.T) {
	protects := func(y *yard) {
		p := ownedPod("late", "rs", "a")
		p.Namespace, p.Annotations = "default", map[string]string{v1alpha1.AnnotationDoNotDisrupt: "true"}
		y.create(p)
	}
	for name, tc := range map[string]struct {
		change func(y *yard, w *wants)
		// unseen: the cache does not show it yet.
		unseen bool
	}{
		"nobody proposes it any more":           {change: func(_ *yard, w *wants) { w.claims = nil }},
		"a pod objects":                         {change: func(y *yard, _ *wants) { protects(y) }},
		"a pod objects that only a list shows":  {change: func(y *yard, _ *wants) { protects(y) }, unseen: true},
		"a pod has no room elsewhere":           {change: func(y *yard, _ *wants) { y.room(seating{stuck: "no room"}) }},
		"disruption is paused":                  {change: func(y *yard, _ *wants) { y.pause() }},
		"room does not come into being in time": {change: func(y *yard, _ *wants) { y.room(seating{coming: 1}); y.now = y.now.Add(time.Hour) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wants{v1alpha1.ReasonDrifted, []string{"a"}}
			y := newYard(t, 2, v1alpha1.ProvisionerSpec{}, w)
			y.pod("web", "rs", "a")
			y.turn(0)
			y.turn(time.Second) // The watch shows the taint.
			y.expect("a", "")
			y.room(seating{})
			tc.change(y, w)
			y.now = y.now.Add(drain.MinDrain)
			if !tc.unseen {
				y.watch()
			}
			y.pass(t.Context(), y.now)
			y.watch()
			y.expect("", "")
			n := &corev1.Node{}
			if err := y.api.Get(t.Context(), client.ObjectKey{Name: "a"}, n); err != nil || len(n.Annotations)+len(n.Labels)+len(n.Spec.Taints) > 0 {
				t.Errorf("left on the node: %v %v %v, %v", n.Annotations, n.Labels, n.Spec.Taints, err)
			}
		})
	}
}

// pause pauses the Provisioner's disruption, as its cache has it.
func (y *yard) pause() {
	y.t.Helper()
	pr, _ := one[*v1alpha1.Provisioner](y.stores.provisioners, "p")
	pr = pr.DeepCopy()
	pr.Annotations = map[string]string{v1alpha1.AnnotationPauseDisruption: y.now.Add(time.Hour).Format(time.RFC3339)}
	y.provisioner(pr)
}

func (y *yard) provisioner(pr *v1alpha1.Provisioner) {
	y.t.Helper()
	if err := y.stores.provisioners.GetStore().Update(pr); err != nil {
		y.t.Fatal(err)
	}
}

// TestAShorterLifeHasAGraceOfItsOwn: setting ttlSecondsUntilExpired on nodes that
// are older asks budgets for a whole expiryGrace, and then as many go at a time
// as budgets would let go.
func TestAShorterLifeHasAGraceOfItsOwn(t *testing.T) {
	closed := v1alpha1.ProvisionerSpec{TTLSecondsUntilExpired: ptr(int64(60)), Disruption: &v1alpha1.Disruption{
		Budgets: []v1alpha1.Budget{{Nodes: "0"}}, ExpiryGrace: &metav1.Duration{Duration: 10 * time.Minute}}}
	y := newYard(t, 4, closed, expiry{})
	for _, n := range []string{"a", "b", "c", "d"} {
		p := ownedPod("web-"+n, "rs", n)
		p.Namespace, p.Annotations = "default", map[string]string{v1alpha1.AnnotationDoNotDisrupt: "true"}
		y.create(p)
	}
	y.turn(0)
	y.expect("", "")
	for _, c := range all[*v1alpha1.NodeClaim](y.stores.claims) {
		if !isTrue(c.Status.Conditions, v1alpha1.ConditionExpired) {
			t.Fatalf("claim %s does not say since when it has expired", c.Name)
		}
	}
	y.turn(9 * time.Minute)
	y.expect("", "")

	fresh := newDisruption(y.Loops) // A new leader knows it from the claims.
	fresh.proposers, y.disruption = y.proposers, fresh
	y.turn(time.Minute)
	y.expect("a", "") // One at a time where budgets allow none.
	y.turn(time.Second)
	y.room(seating{stuck: "limits"})
	y.turn(forcedPatience)
	y.expect("a", "") // It asks for room,
	y.turn(time.Second)
	y.expect("a", "a") // though not for ever.
	y.turn(time.Minute)
	y.expect("a", "a")

	longer := closed
	longer.TTLSecondsUntilExpired = ptr(int64(1e6))
	y.provisioner(&v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: longer})
	y.turn(time.Second)
	for _, c := range all[*v1alpha1.NodeClaim](y.stores.claims) {
		if c.DeletionTimestamp == nil && !meta.IsStatusConditionFalse(c.Status.Conditions, v1alpha1.ConditionExpired) {
			t.Errorf("claim %s may live longer, and does not say so", c.Name)
		}
	}
}

// TestNoGraceBeginsWhileDisruptionIsPaused: a pause does not end in everything
// that came due in it going at once.
func TestNoGraceBeginsWhileDisruptionIsPaused(t *testing.T) {
	y := newYard(t, 3, v1alpha1.ProvisionerSpec{TTLSecondsUntilExpired: ptr(int64(60))}, expiry{})
	y.pause()
	y.turn(0)
	for _, c := range all[*v1alpha1.NodeClaim](y.stores.claims) {
		if isTrue(c.Status.Conditions, v1alpha1.ConditionExpired) {
			t.Errorf("the grace of claim %s runs", c.Name)
		}
	}
}

// TestAPodThatDoesNotEndKeepsNoNode: a node whose last pod should have been gone for a
// minute is empty, with or without ttlSecondsAfterEmpty.
func TestAPodThatDoesNotEndKeepsNoNode(t *testing.T) {
	for _, ttl := range []int64{0, 30} {
		y := newYard(t, 1, v1alpha1.ProvisionerSpec{TTLSecondsAfterEmpty: ptr(ttl)})
		y.proposers = []proposer{newEmptiness(y.Loops)}
		stuck := ownedPod("stuck", "rs", "a")
		stuck.Namespace, stuck.Finalizers = "default", []string{"example.com/never"}
		y.create(stuck)
		if err := y.api.Delete(t.Context(), stuck); err != nil {
			t.Fatal(err)
		}
		y.watch()
		y.now = y.stores.podsOn("a")[0].DeletionTimestamp.Time
		y.turn(time.Second)
		y.turn(58 * time.Second)
		if _, going := y.out(); len(going) > 0 {
			t.Fatalf("ttl %d: a node with a pod that may still end goes", ttl)
		}
		y.turn(time.Second)
		for range 4 {
			y.turn(10 * time.Second)
		}
		y.turn(drain.MinDrain)
		y.expect("a", "a")
	}
}

// TestAnotherReasonAsksItsOwnBudget: a node that was taken out of use for one reason
// goes on for another only within the budget of that one. Else it is put back into use.
func TestAnotherReasonAsksItsOwnBudget(t *testing.T) {
	only := func(nodes string, why ...v1alpha1.DisruptionReason) v1alpha1.Budget {
		return v1alpha1.Budget{Nodes: nodes, Reasons: why}
	}
	for name, tc := range map[string]struct {
		first, then v1alpha1.DisruptionReason
		budgets     []v1alpha1.Budget
		want        string
	}{
		"nothing is allowed for it":                       {v1alpha1.ReasonEmpty, v1alpha1.ReasonDrifted, []v1alpha1.Budget{only("0", v1alpha1.ReasonDrifted)}, ""},
		"it is allowed, and not counted twice":            {v1alpha1.ReasonEmpty, v1alpha1.ReasonDrifted, []v1alpha1.Budget{only("1", v1alpha1.ReasonDrifted)}, "a"},
		"from one that had a budget to one that has none": {v1alpha1.ReasonConsolidated, v1alpha1.ReasonExpired, []v1alpha1.Budget{only("0", v1alpha1.ReasonExpired)}, ""},
		"to being empty":                                  {v1alpha1.ReasonDrifted, v1alpha1.ReasonEmpty, []v1alpha1.Budget{only("1", v1alpha1.ReasonDrifted)}, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wants{tc.first, []string{"a"}}
			y := newYard(t, 3, v1alpha1.ProvisionerSpec{Disruption: &v1alpha1.Disruption{Budgets: tc.budgets}}, w)
			y.turn(0)
			y.turn(time.Second)
			y.expect("a", "")
			w.reason = tc.then
			y.turn(time.Second)
			y.expect(tc.want, "")
			if tc.want == "" {
				return
			}
			n, _ := one[*corev1.Node](y.stores.nodes, "a")
			if got := reasonOn(n); got != string(tc.then) {
				t.Errorf("the node says that it goes because it is %s", got)
			}
			if drain.Excluded(n) != (tc.then == v1alpha1.ReasonEmpty) {
				t.Errorf("out of load balancers: %t", drain.Excluded(n))
			}
			y.room(seating{})
			y.turn(drain.MinDrain)
			y.expect("a", "a")
		})
	}
}

// TestARefusedReasonLeavesTheFirst: a node that goes within one budget still does when
// it might go for another reason as well, and may not.
func TestARefusedReasonLeavesTheFirst(t *testing.T) {
	drifted, expired := &wants{v1alpha1.ReasonDrifted, []string{"a"}}, &wants{v1alpha1.ReasonExpired, nil}
	y := newYard(t, 3, v1alpha1.ProvisionerSpec{Disruption: &v1alpha1.Disruption{Budgets: []v1alpha1.Budget{{Nodes: "0", Reasons: []v1alpha1.DisruptionReason{v1alpha1.ReasonExpired}}}}}, expired, drifted)
	y.turn(0)
	expired.claims = []string{"a"}
	y.turn(time.Second)
	y.room(seating{})
	y.turn(drain.MinDrain)
	y.expect("a", "a")
	claim, _ := one[*v1alpha1.NodeClaim](y.stores.claims, "a")
	if why := claim.Annotations[v1alpha1.AnnotationDisruptionReason]; why != string(v1alpha1.ReasonDrifted) {
		t.Errorf("it goes because it is %s", why)
	}
}
