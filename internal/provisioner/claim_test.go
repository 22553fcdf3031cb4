package provisioner

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

func testLaunch() (*v1alpha1.Provisioner, *capacity.Launch) {
	pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "u"}}
	pr.Spec.Labels = map[string]string{"team": "a"}
	types := []capacity.InstanceType{
		{Machine: &capacity.Machine{Name: "m7g.large"}, Capacity: capacity.Resources{corev1.ResourceCPU: 2000}},
		{Machine: &capacity.Machine{Name: "m7g.xlarge"}, Capacity: capacity.Resources{corev1.ResourceCPU: 4000}},
		{Machine: &capacity.Machine{Name: "m6g.large"}, Capacity: capacity.Resources{corev1.ResourceCPU: 2000}},
	}
	return pr, &capacity.Launch{
		Provisioner: &capacity.Provisioner{Name: "default", InstanceTypes: types},
		OfferingRef: capacity.OfferingRef{InstanceType: "m7g.large", CapacityType: "on-demand", Zone: "us-west-2a", Price: 0.08},
		Alternatives: []capacity.OfferingRef{
			{InstanceType: "m6g.large", CapacityType: "on-demand", Zone: "us-west-2a", Price: 0.09},
			{InstanceType: "m7g.xlarge", CapacityType: "on-demand", Zone: "us-west-2a", Price: 0.16},
		},
		Labels: map[string]string{
			"team": "a", "kubernetes.io/arch": "arm64", "topology.kubernetes.io/zone": "us-west-2a",
			"kubernetes.io/hostname": "x", "berth.dev/provisioner": "default", "berth.dev/capacity-type": "on-demand",
		},
		Capacity: types[0].Capacity,
		Why:      "cheapest",
	}
}

func names(offerings []v1alpha1.ClaimOffering) []string {
	var out []string
	for _, o := range offerings {
		out = append(out, o.InstanceType)
	}
	return out
}

func TestClaimKeepsAlternativesThatLimitsAllow(t *testing.T) {
	for name, tc := range map[string]struct {
		limits corev1.ResourceList
		want   []string
	}{
		"all without limits":                         {nil, []string{"m7g.large", "m6g.large", "m7g.xlarge"}},
		"none that is larger under a CPU limit":      {corev1.ResourceList{"cpu": resource.MustParse("100")}, []string{"m7g.large", "m6g.large"}},
		"none too dear for what is left of the cost": {corev1.ResourceList{"hourlyCost": resource.MustParse("1")}, []string{"m7g.large", "m6g.large"}},
		"all under a limit on nodes":                 {corev1.ResourceList{"nodes": resource.MustParse("5")}, []string{"m7g.large", "m6g.large", "m7g.xlarge"}},
	} {
		t.Run(name, func(t *testing.T) {
			pr, l := testLaunch()
			pr.Spec.Limits = tc.limits
			if diff := cmp.Diff(tc.want, names(newClaim(pr, "prod", l, &capacity.Plan{}, map[string]float64{"default": 0.05}).Spec.Offerings)); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestClaimSeparatesOwnLabelsFromThoseOfTheInstance(t *testing.T) {
	pr, l := testLaunch()
	c := newClaim(pr, "prod", l, &capacity.Plan{}, map[string]float64{"default": 0.05})
	if diff := cmp.Diff(map[string]string{"team": "a"}, c.Spec.Labels); diff != "" {
		t.Errorf("spec.labels: %s", diff)
	}
	want := map[string]string{"team": "a", "kubernetes.io/arch": "arm64", "topology.kubernetes.io/zone": "us-west-2a",
		"berth.dev/provisioner": "default", "berth.dev/capacity-type": "on-demand"}
	if diff := cmp.Diff(want, c.Labels); diff != "" {
		t.Errorf("labels: %s", diff)
	}
}

func TestClaimNamesAreLabelValues(t *testing.T) {
	for _, p := range []string{"a", "default", strings.Repeat("x", 63), strings.Repeat("y", 49) + "." + strings.Repeat("z", 10)} {
		n := claimName(p)
		if errs := append(validation.IsValidLabelValue(n), validation.IsDNS1123Subdomain(n)...); len(errs) > 0 {
			t.Errorf("claimName(%q) = %q: %v", p, n, errs)
		}
	}
}

func TestDress(t *testing.T) {
	claim := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Labels: map[string]string{"topology.kubernetes.io/zone": "us-west-2a"}}}
	claim.Spec.Provisioner.Name = "default"
	claim.Spec.Taints = []corev1.Taint{{Key: "team", Value: "a", Effect: corev1.TaintEffectNoSchedule}}
	claim.Spec.StartupTaints = []corev1.Taint{{Key: "cni", Effect: corev1.TaintEffectNoExecute}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"kubernetes.io/hostname": "n"}}}
	node.Spec.Taints = []corev1.Taint{
		{Key: v1alpha1.TaintUnregistered, Effect: corev1.TaintEffectNoSchedule},
		{Key: "node.kubernetes.io/not-ready", Effect: corev1.TaintEffectNoSchedule},
	}
	if !dress(node, claim, true) {
		t.Fatal("nothing changed")
	}
	for _, key := range []string{"team", "cni", "node.kubernetes.io/not-ready"} {
		if !hasTaint(node.Spec.Taints, key) {
			t.Errorf("taint %s is missing", key)
		}
	}
	if hasTaint(node.Spec.Taints, v1alpha1.TaintUnregistered) {
		t.Error("the unregistered taint is still there")
	}
	if node.Labels["kubernetes.io/hostname"] != "n" || node.Labels["topology.kubernetes.io/zone"] != "us-west-2a" || node.Labels[v1alpha1.LabelNodeClaim] != "c" {
		t.Errorf("labels: %v", node.Labels)
	}
	if dress(node, claim, true) {
		t.Error("dressing twice changes something")
	}
	// Its owner takes the startup taint off: it must not come back.
	node.Spec.Taints = node.Spec.Taints[:1]
	if dress(node, claim, true) || hasTaint(node.Spec.Taints, "cni") {
		t.Error("a startup taint that was removed came back")
	}
}

func TestNotInitialized(t *testing.T) {
	base := func() (*v1alpha1.NodeClaim, *corev1.Node) {
		c := &v1alpha1.NodeClaim{}
		c.Spec.StartupTaints = []corev1.Taint{{Key: "cni", Effect: corev1.TaintEffectNoExecute}}
		c.Spec.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("2"), "nvidia.com/gpu": resource.MustParse("1")}
		n := &corev1.Node{}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		n.Status.Allocatable = c.Spec.Allocatable.DeepCopy()
		return c, n
	}
	for name, tc := range map[string]struct {
		change func(*corev1.Node)
		want   string
	}{
		"all there":                {func(*corev1.Node) {}, ""},
		"kubelet not ready":        {func(n *corev1.Node) { n.Status.Conditions = nil }, "NodeNotReady"},
		"not-ready taint still on": {func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeNotReady}} }, "NodeNotReady"},
		"startup taint still on": {func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "cni", Effect: corev1.TaintEffectNoExecute}}
		}, "StartupTaint"},
		"device plugin not yet here": {func(n *corev1.Node) { delete(n.Status.Allocatable, "nvidia.com/gpu") }, "ResourceMissing"},
	} {
		t.Run(name, func(t *testing.T) {
			c, n := base()
			tc.change(n)
			if got, _ := notInitialized(c, n); got != tc.want {
				t.Fatalf("%q, want %q", got, tc.want)
			}
		})
	}
}

func TestVerdictFitsAnEvent(t *testing.T) {
	r := capacity.Reason{Provisioner: "default", Detail: strings.Repeat("é", 2000), Fix: "x"}
	if s := verdictText(r); len(s) > 1024 || !strings.HasPrefix(s, "no node of Provisioner default can host this pod") {
		t.Fatalf("%d bytes: %.60s", len(s), s)
	}
}

func TestVerdictIsToldOnce(t *testing.T) {
	v := newVerdicts()
	r := capacity.Reason{Provisioner: "default", Constraint: capacity.ConstraintResources, Detail: "at $1"}
	if !v.tell("p", r) {
		t.Fatal("not told")
	}
	r.Detail = "at $2"
	if v.tell("p", r) {
		t.Fatal("told twice for a detail")
	}
	r.Constraint = capacity.ConstraintLimits
	if !v.tell("p", r) {
		t.Fatal("a new obstacle was not told")
	}
	v.forget(nil)
	if !v.tell("p", r) {
		t.Fatal("a pod that had gone and come back was not told")
	}
}

func TestNewsOfAGroupAreTold(t *testing.T) {
	v := newVerdicts()
	r := capacity.Reason{Constraint: capacity.ConstraintPodGroup, Detail: "3 of 8 pods exist", Fix: "create 5 more pods"}
	if !v.tell("p", r) {
		t.Fatal("not told")
	}
	r.Detail, r.Fix = "4 of 8 pods exist", "create 4 more pods"
	if v.tell("p", r) {
		t.Fatal("told again for a number")
	}
	r.Detail, r.Fix = "limit nodes 2 is reached", "raise the limit"
	if !v.tell("p", r) {
		t.Fatal("not told that now a limit is in the way")
	}
}

func TestADecisionSaysWhatItWasWeighedAgainst(t *testing.T) {
	l := &capacity.Launch{Pods: make([]*corev1.Pod, 2), Why: "on-demand a at 0.1 $/h; next best b, c, d"}
	for bound, want := range map[float64]string{
		0.25: "for 2 pods: on-demand a at 0.1 $/h; next best b, c, d. Plan: 1 to buy, 0.3000 $/h, at most 20.0 % above the proven minimum",
		0:    "for 2 pods: on-demand a at 0.1 $/h; next best b, c, d. Plan: 1 to buy, 0.3000 $/h, no minimum is proven",
	} {
		if got := decision(l, &capacity.Plan{Launches: []capacity.Launch{*l}, HourlyCost: 0.3, LowerBound: bound}); got != want {
			t.Errorf("got %q\nwant %q", got, want)
		}
	}
}

// TestReservationsStayWithinTheCostLimit: whatever EC2 chooses among the
// offerings of all claims of a plan, the limit holds.
func TestReservationsStayWithinTheCostLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cents := rapid.IntRange(1, 300)
		planner := &capacity.Provisioner{Name: "default", Spec: &v1alpha1.ProvisionerSpec{}}
		pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		plan := &capacity.Plan{}
		cost := 0.0
		for range rapid.IntRange(1, 6).Draw(t, "launches") {
			l := capacity.Launch{Provisioner: planner, OfferingRef: capacity.OfferingRef{InstanceType: "a.large", Price: float64(cents.Draw(t, "price")) / 100}}
			for range rapid.IntRange(0, 5).Draw(t, "alternatives") {
				l.Alternatives = append(l.Alternatives, capacity.OfferingRef{InstanceType: "a.large", Price: l.Price + float64(cents.Draw(t, "more"))/100})
			}
			cost += l.Price
			plan.Launches = append(plan.Launches, l)
		}
		planner.InstanceTypes = []capacity.InstanceType{{Machine: &capacity.Machine{Name: "a.large"}}}
		planner.UsedHourlyCost = float64(cents.Draw(t, "used")) / 100
		limit := cost + planner.UsedHourlyCost + float64(rapid.IntRange(0, 500).Draw(t, "room"))/100
		planner.Spec.Limits = corev1.ResourceList{v1alpha1.LimitHourlyCost: resource.MustParse(string(v1alpha1.NewPrice(limit)))}
		pr.Spec.Limits = planner.Spec.Limits

		reserved := planner.UsedHourlyCost
		spare := spareCost(plan)
		for i := range plan.Launches {
			c := newClaim(pr, "prod", &plan.Launches[i], plan, spare)
			reserved += reservedPrice(c)
		}
		if reserved > limit+1e-6 {
			t.Fatalf("%.5f $/h are reserved, the limit is %.5f", reserved, limit)
		}
	})
}
