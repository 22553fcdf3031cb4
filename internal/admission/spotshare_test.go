package admission

import (
	"encoding/json"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"
	"unsafe"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

func TestParseSpotShare(t *testing.T) {
	for name, c := range map[string]struct {
		share, min string
		want       SpotShare
		ok         bool
	}{
		"a share":               {"70%", "", SpotShare{0.7, 0}, true},
		"a part of a percent":   {"12.5%", "", SpotShare{0.125, 0}, true},
		"nothing on spot":       {"0%", "", SpotShare{0, 0}, true},
		"everything":            {"100%", "3", SpotShare{1, 3}, true},
		"without percent":       {"70", "", SpotShare{}, false},
		"more than all":         {"101%", "", SpotShare{}, false},
		"less than nothing":     {"-1%", "", SpotShare{}, false},
		"not a number":          {"NaN%", "", SpotShare{}, false},
		"a hexadecimal number":  {"0x1p-2%", "", SpotShare{}, false},
		"a negative number":     {"70%", "-2", SpotShare{}, false},
		"a number that is huge": {"70%", "99999999999", SpotShare{}, false},
		"a word":                {"70%", "two", SpotShare{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseSpotShare(c.share, c.min)
			if (err == nil) != c.ok || err == nil && got != c.want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

// FuzzSpotShare: whatever the annotations say, a share is one, and a choice is
// one of two.
func FuzzSpotShare(f *testing.F) {
	f.Add("70%", "2", int64(3), int64(1))
	f.Add("1e-300%", "", int64(0), int64(0))
	f.Add("Inf%", "+1", int64(-1), int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, share, min string, spot, onDemand int64) {
		s, err := ParseSpotShare(share, min)
		if err != nil {
			return
		}
		if !(s.Share >= 0 && s.Share <= 1) || s.MinOnDemand < 0 {
			t.Fatalf("%q, %q became %+v", share, min, s)
		}
		if c := s.Choose(spot, onDemand); c != capacityTypeSpot && c != capacityTypeOnDemand {
			t.Fatalf("chose %q", c)
		}
	})
}

// want is how many of n pods are to be on spot.
func (s SpotShare) want(n int64) int64 {
	free := max(n-s.MinOnDemand, 0)
	return min(int64(math.Floor(s.Share*float64(n)+1e-9)), free)
}

// TestSharesHold: whatever pods come, go and are replaced, after each new pod the
// share of spot is never above what was asked for, and once as many have come
// anew as there are, it is exactly that.
func TestSharesHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := SpotShare{Share: float64(rapid.IntRange(0, 100).Draw(t, "share")) / 100, MinOnDemand: rapid.Int64Range(0, 4).Draw(t, "min")}
		var spot, onDemand int64
		come := func() {
			if w.Choose(spot, onDemand) == capacityTypeSpot {
				spot++
			} else {
				onDemand++
			}
		}
		for range rapid.IntRange(1, 30).Draw(t, "pods") {
			come()
			if spot > w.want(spot+onDemand) {
				t.Fatalf("%d of %d on spot with %+v", spot, spot+onDemand, w)
			}
		}
		if spot != w.want(spot+onDemand) {
			t.Fatalf("%d of %d on spot with %+v, want %d", spot, spot+onDemand, w, w.want(spot+onDemand))
		}
		// Evictions take spot pods; each is replaced.
		gone := rapid.Int64Range(0, spot).Draw(t, "evicted")
		spot -= gone
		for range gone {
			come()
		}
		if spot != w.want(spot+onDemand) {
			t.Fatalf("after %d evictions %d of %d on spot with %+v", gone, spot, spot+onDemand, w)
		}
		// A scale-down takes what it likes; a rollout brings the division back.
		n := spot + onDemand
		spot -= rapid.Int64Range(0, spot).Draw(t, "spot gone")
		onDemand -= rapid.Int64Range(0, onDemand).Draw(t, "on-demand gone")
		for spot+onDemand < n {
			come()
		}
		before := spot
		if spot > max(w.want(n), before) {
			t.Fatalf("%d of %d on spot", spot, n)
		}
	})
}

func sharedPod(i int, owner types.UID, choice string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint("pod-", i)), Labels: map[string]string{v1alpha1.LabelCapacityChoice: choice}}}
	p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", UID: owner, Controller: new(true)}}
	return p
}

// TestLedgerCountsUnderConcurrency: pods of several owners are admitted at the
// same time and seen later, some before the answer, some never: each owner has
// its share.
func TestLedgerCountsUnderConcurrency(t *testing.T) {
	l := NewSpotLedger()
	const owners, pods = 5, 100
	want := SpotShare{Share: 0.7, MinOnDemand: 2}
	var wg sync.WaitGroup
	var mu sync.Mutex
	spot := map[types.UID]int{}
	for i := range owners * pods {
		wg.Go(func() {
			owner := types.UID(fmt.Sprint("owner-", i%owners))
			c := l.Choose(owner, want, true)
			mu.Lock()
			if c == capacityTypeSpot {
				spot[owner]++
			}
			mu.Unlock()
			l.Seen(sharedPod(i, owner, c), false)
			l.Seen(sharedPod(i, owner, c), false) // Its next update.
		})
	}
	wg.Wait()
	for o, n := range spot {
		if n != 70 {
			t.Errorf("%s has %d of %d on spot, want 70", o, n, pods)
		}
	}
	for i := range owners * pods {
		l.Seen(sharedPod(i, types.UID(fmt.Sprint("owner-", i%owners)), capacityTypeSpot), true)
	}
	if len(l.owners) != 0 {
		t.Errorf("%d owners are remembered after all pods have gone", len(l.owners))
	}
}

func TestLedgerForgetsWhatNeverCame(t *testing.T) {
	l := NewSpotLedger()
	now := testNow
	l.now = func() time.Time { return now }
	want := SpotShare{Share: 0.5}
	first := l.Choose("a", want, true)
	if dry := l.Choose("a", want, false); dry == first {
		t.Errorf("after %s a dry run is told %s", first, dry)
	}
	if again := l.Choose("a", want, true); again == first {
		t.Errorf("%s twice", first)
	}
	now = now.Add(reservationLife)
	if c := l.Choose("a", want, true); c != first {
		t.Errorf("after the reservations have ended %s, want %s as at first", c, first)
	}
}

// TestSharedPodsAreChosenOnceAndPatchedWhole: for any pod, the patch applies, and
// admitting what was admitted chooses nothing anew.
func TestSharedPodsAreChosenOnceAndPatchedWhole(t *testing.T) {
	s := testSnapshot(defaultProvisioner(), gpuProvisioner())
	for name, extra := range map[string]string{
		"no labels and no affinity": `"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}]}`,
		"affinity that is null":     `"spec":{"affinity":null,"containers":[{"name":"a"}]}`,
		"pod affinity alone":        `"spec":{"affinity":{"podAffinity":{}},"containers":[{"name":"a"}]}`,
		"node affinity of its own":  `"spec":{"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":100,"preference":{"matchExpressions":[{"key":"k","operator":"Exists"}]}}]}},"containers":[{"name":"a"}]}`,
		"an empty list":             `"spec":{"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[]}},"containers":[{"name":"a"}]}`,
		"no spec":                   `"kind":"Pod"`,
	} {
		t.Run(name, func(t *testing.T) {
			doc := `{"metadata":{"namespace":"shop","annotations":{"berth.dev/spot-share":"50%"},"ownerReferences":[{"kind":"ReplicaSet","uid":"9","controller":true}]},` + extra + `}`
			l := NewSpotLedger()
			for i, want := range []string{capacityTypeOnDemand, capacityTypeSpot} {
				_, d, err := reviewPod(reviewOf("Pod", "pods", "CREATE", doc, ""), s, l, 0)
				if err != nil {
					t.Fatal(err)
				}
				if name == "no spec" {
					return // Whatever the answer is, it was one.
				}
				after := applyPatch(t, doc, d.Patch)
				var pod corev1.Pod
				if err := json.Unmarshal([]byte(after), &pod); err != nil {
					t.Fatal(err)
				}
				if pod.Labels[v1alpha1.LabelCapacityChoice] != want || !hasTerm(&pod, want) {
					t.Errorf("pod %d: %s", i, after)
				}
				if h := pod.Annotations[v1alpha1.AnnotationPlacement]; !contains(h, "/"+capacityTypeOnDemand+"/", "/"+capacityTypeSpot+"/") {
					t.Errorf("pod %d has hint %q", i, h)
				}
				_, again, err := reviewPod(reviewOf("Pod", "pods", "CREATE", after, ""), s, l, 0)
				if err != nil || len(again.Patch) > 0 {
					t.Errorf("the second time: %s, %v", again.Patch, err)
				}
			}
		})
	}
}

// TestAPodThatRequiresACapacityTypeIsLeftAlone: its own requirement stands, and no
// choice contradicts it.
func TestAPodThatRequiresACapacityTypeIsLeftAlone(t *testing.T) {
	s := testSnapshot(defaultProvisioner())
	for name, spec := range map[string]string{
		"by node selector": `"nodeSelector":{"berth.dev/capacity-type":"spot"}`,
		"by affinity":      `"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"berth.dev/capacity-type","operator":"NotIn","values":["on-demand"]}]}]}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			doc := `{"metadata":{"annotations":{"berth.dev/spot-share":"0%"},"ownerReferences":[{"kind":"ReplicaSet","uid":"9","controller":true}]},"spec":{` + spec + `,"containers":[{"name":"a"}]}}`
			_, d, err := reviewPod(reviewOf("Pod", "pods", "CREATE", doc, ""), s, NewSpotLedger(), 0)
			if err != nil || contains(string(d.Patch), v1alpha1.LabelCapacityChoice) {
				t.Errorf("%s, %v", d.Patch, err)
			}
		})
	}
}

// TestAChoiceRestrictsWhatThePodRequires and replaces nothing of it; what is reserved
// counts as on-demand.
func TestAChoiceRestrictsWhatThePodRequires(t *testing.T) {
	p := &corev1.Pod{}
	p.Spec.NodeSelector = map[string]string{v1alpha1.LabelCapacityType: "spot"}
	must := capacity.WithCapacityType(p, "on-demand")
	if got := must.Spec.NodeSelector[v1alpha1.LabelCapacityType]; got != "spot" || p.Spec.Affinity != nil {
		t.Errorf("the selector has become %q", got)
	}
	for capacityType, want := range map[string]bool{"spot": false, "on-demand": true, "reserved": true} {
		p := capacity.WithCapacityType(&corev1.Pod{}, "on-demand")
		n := &capacity.Node{Labels: map[string]string{v1alpha1.LabelCapacityType: capacityType}}
		n.Allocatable = capacity.Resources{"pods": 1}
		if got := capacity.CouldHost(p)(n); got != want {
			t.Errorf("%s: %v", capacityType, got)
		}
	}
	e := p.DeepCopy()
	e.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{}, {MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: "In", Values: []string{"n"}}}}}}}}
	terms := capacity.WithCapacityType(e, "spot").Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms[0].MatchExpressions) != 0 || len(terms[1].MatchExpressions) != 1 {
		t.Errorf("terms are %v", terms)
	}
}

// TestLedgerSweepsOwnersWhosePodsWereRefused.
func TestLedgerSweepsOwnersWhosePodsWereRefused(t *testing.T) {
	l := NewSpotLedger()
	now := testNow
	l.now = func() time.Time { return now }
	for i := range 1000 {
		l.Choose(types.UID(fmt.Sprint(i)), SpotShare{Share: 0.5}, true)
	}
	l.Seen(sharedPod(7, "7", capacityTypeSpot), false)
	l.Sweep()
	if len(l.owners) != 1000 {
		t.Errorf("%d owners are left of 1,000 that have just asked", len(l.owners))
	}
	now = now.Add(reservationLife)
	if l.Sweep(); len(l.owners) != 1 {
		t.Errorf("%d owners are left, want the one with a pod", len(l.owners))
	}
}

// TestJobsThatRunOnePodAtATimeHaveAShare: what has finished counts.
func TestJobsThatRunOnePodAtATimeHaveAShare(t *testing.T) {
	for kind, want := range map[string]int{"Job": 7, "ReplicaSet": 0} {
		l, spot := NewSpotLedger(), 0
		for i := range 10 {
			c := l.Choose("owner", SpotShare{Share: 0.7}, true)
			if c == capacityTypeSpot {
				spot++
			}
			p := sharedPod(i, "owner", c)
			p.OwnerReferences[0].Kind = kind
			l.Seen(p, false)
			p = p.DeepCopy()
			p.Status.Phase = corev1.PodSucceeded
			l.Seen(p, false)
		}
		if spot != want {
			t.Errorf("%s: %d of 10 on spot, want %d", kind, spot, want)
		}
	}
}

// TestPodsCountWhereTheyRun: a pod that was to be on spot and is not leaves its place
// there to the next.
func TestPodsCountWhereTheyRun(t *testing.T) {
	l := NewSpotLedger()
	want := SpotShare{Share: 0.5}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{v1alpha1.LabelCapacityType: "reserved"}}}
	l.SeenNode(node, false)
	l.Seen(sharedPod(0, "a", capacityTypeOnDemand), false)
	p := sharedPod(1, "a", capacityTypeSpot)
	l.Seen(p, false)
	if c := l.Choose("a", SpotShare{Share: 0.34}, false); c != capacityTypeOnDemand {
		t.Errorf("with one of two on spot: %s", c)
	}
	p = p.DeepCopy()
	p.Spec.NodeName = "n"
	l.Seen(p, false)
	if c := l.Choose("a", want, false); c != capacityTypeSpot {
		t.Errorf("with none of two on spot: %s", c)
	}
	if l.SeenNode(node, true); len(l.nodes) != 0 {
		t.Error("a node that has gone is remembered")
	}
}

func contains(s string, any ...string) bool {
	for _, a := range any {
		for i := 0; i+len(a) <= len(s); i++ {
			if s[i:i+len(a)] == a {
				return true
			}
		}
	}
	return false
}

func hasTerm(pod *corev1.Pod, choice string) bool {
	for _, t := range pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
		if t.Weight == 100 && len(t.Preference.MatchExpressions) == 1 && t.Preference.MatchExpressions[0].Values != nil && t.Preference.MatchExpressions[0].Values[0] == choice {
			return true
		}
	}
	return false
}

// TestNothingOfAReviewIsKept: strings that are read from a review are part of it, and
// one that is remembered would keep all of it in memory.
func TestNothingOfAReviewIsKept(t *testing.T) {
	within := func(body, s string) bool {
		at, from := uintptr(unsafe.Pointer(unsafe.StringData(s))), uintptr(unsafe.Pointer(unsafe.StringData(body)))
		return s != "" && at >= from && at < from+uintptr(len(body))
	}
	ledger := NewSpotLedger()
	body := reviewOf("Pod", "pods", "CREATE", `{"metadata":{"namespace":"shop","annotations":{"berth.dev/spot-share":"50%"},`+
		`"ownerReferences":[{"kind":"ReplicaSet","uid":"9","controller":true}]},"spec":{"containers":[{"name":"a"}]}}`, "")
	if _, _, err := reviewPod(body, testSnapshot(defaultProvisioner()), ledger, 0); err != nil {
		t.Fatal(err)
	}
	if len(ledger.owners) != 1 {
		t.Fatalf("%d owners", len(ledger.owners))
	}
	for owner := range ledger.owners {
		if within(body, string(owner)) {
			t.Error("the ledger keeps the review of an owner's first pod")
		}
	}
	body = reviewOf("Deployment", "deployments", "CREATE", `{"metadata":{"name":"web","namespace":"shop","uid":"8"},`+
		`"spec":{"template":{"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"5000"}}}]}}}}`, "")
	_, d, err := reviewWorkload(body, testSnapshot(defaultProvisioner()), 0)
	if err != nil || d.About == nil {
		t.Fatalf("%+v, %v", d, err)
	}
	for _, s := range []string{d.About.Name, d.About.Namespace, string(d.About.UID), d.About.Kind} {
		if within(body, s) {
			t.Errorf("an Event keeps the review that it is about, by %q", s)
		}
	}
}
