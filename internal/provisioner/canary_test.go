package provisioner

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2"
)

// settings is EC2 as far as it resolves what Provisioners stand for.
type settings struct {
	discoverer // Nil: nothing is discovered.
	r          ec2.Resolved
	err        error
}

func (s *settings) Resolve(context.Context, string, *v1alpha1.NodeTemplate) (ec2.Resolved, error) {
	return s.r, s.err
}

// TestCompareStoresADriftThatRepeats: on EC2's newer answer, and takes it back
// when the node is as of today again; an answer that failed changes nothing.
func TestCompareStoresADriftThatRepeats(t *testing.T) {
	y := newYard(t, 1, v1alpha1.ProvisionerSpec{})
	y.watch()
	y.fleet = newFleet(y.Loops, newEstate(ec2.Instance{ID: "i-a", ImageID: "ami-1", State: ec2.StateRunning}))
	if err := y.fleet.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	y.catalogue.byName = map[string]*capacity.Machine{"": {Arch: "amd64"}} // The claim tells no type.
	cloud := &settings{}
	d := newDrift(y.Loops, cloud)
	pr, _ := one[*v1alpha1.Provisioner](y.stores.provisioners, "p")
	for i, s := range []struct {
		image string
		asOf  time.Duration
		err   error
		want  string // Reason of Drifted; empty: no condition.
		fresh bool
	}{
		{image: "ami-1", want: "", fresh: true},
		{image: "ami-2", want: ""},
		{image: "ami-2", want: ""}, // EC2's answer is the one of before.
		{image: "ami-2", asOf: time.Minute, want: ec2.DriftImage},
		{image: "ami-1", asOf: 2 * time.Minute, err: errors.New("no answer"), want: ec2.DriftImage},
		{image: "ami-1", asOf: 2 * time.Minute, want: "AsOfToday", fresh: true},
	} {
		at := y.now.Add(time.Duration(i) * time.Second)
		cloud.err = s.err
		cloud.r = ec2.Resolved{Images: []ec2.Image{{ID: s.image, Arch: "amd64"}}, Findings: []ec2.Finding{{OK: true}}, AsOf: y.now.Add(s.asOf)}
		if err := d.compare(t.Context(), pr, at); !errors.Is(err, s.err) {
			t.Fatalf("step %d: %v", i, err)
		}
		y.watch()
		claim := &v1alpha1.NodeClaim{}
		if err := y.api.Get(t.Context(), client.ObjectKey{Name: "a"}, claim); err != nil {
			t.Fatal(err)
		}
		got := ""
		if c := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionDrifted); c != nil {
			got = c.Reason
			if (c.Status == metav1.ConditionTrue) != (c.Reason == ec2.DriftImage) {
				t.Errorf("step %d: %+v", i, c)
			}
		}
		if got != s.want || s.err == nil && d.asToday["p"]["a"] != s.fresh {
			t.Errorf("step %d: %q, as of today %t; want %q, %t", i, got, d.asToday["p"]["a"], s.want, s.fresh)
		}
	}
}

// TestDriftIsFoundBesideOtherProvisioners: a look at another Provisioner's nodes
// forgets no suspicion, and a claim that is gone leaves none.
func TestDriftIsFoundBesideOtherProvisioners(t *testing.T) {
	y := newYard(t, 1, v1alpha1.ProvisionerSpec{})
	y.watch()
	y.fleet = newFleet(y.Loops, newEstate(ec2.Instance{ID: "i-a", ImageID: "ami-1", State: ec2.StateRunning}))
	if err := y.fleet.poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	y.catalogue.byName = map[string]*capacity.Machine{"": {Arch: "amd64"}}
	cloud := &settings{}
	d := newDrift(y.Loops, cloud)
	pr, _ := one[*v1alpha1.Provisioner](y.stores.provisioners, "p")
	other := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	for i := range 2 {
		at := y.now.Add(time.Duration(i) * time.Minute)
		cloud.r = ec2.Resolved{Images: []ec2.Image{{ID: "ami-2", Arch: "amd64"}}, Findings: []ec2.Finding{{OK: true}}, AsOf: at}
		for _, pr := range []*v1alpha1.Provisioner{pr, other} {
			if err := d.compare(t.Context(), pr, at.Add(-time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		y.watch()
	}
	claim, _ := one[*v1alpha1.NodeClaim](y.stores.claims, "a")
	if !isTrue(claim.Status.Conditions, v1alpha1.ConditionDrifted) {
		t.Error("the drift was seen twice and is not stored")
	}
	if err := y.stores.claims.GetStore().Delete(claim); err != nil {
		t.Fatal(err)
	}
	if err := d.compare(t.Context(), pr, y.now.Add(time.Hour)); err != nil || len(d.suspects) > 0 {
		t.Errorf("suspects without a claim: %v, %v", d.suspects, err)
	}
}

// TestACanaryThatFailsStopsDrift: also one that never came so far as to run pods.
func TestACanaryThatFailsStopsDrift(t *testing.T) {
	now := time.Unix(1e6, 0)
	pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	today := capacity.TemplateHash(&pr.Spec, "")
	failed := func(hash, condition, reason string) *v1alpha1.NodeClaim {
		c := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "new", Annotations: map[string]string{v1alpha1.AnnotationProvisionerHash: hash}}}
		c.Spec.Provisioner.Name = "p"
		setCondition(c, condition, metav1.ConditionFalse, reason, "node n: startup taint cni")
		return c
	}
	for name, tc := range map[string]struct {
		claim    *v1alpha1.NodeClaim
		notReady time.Duration // Of a node of today's kind; 0: it is ready.
		says     string
	}{
		"nothing has failed":               {claim: failed(today, v1alpha1.ConditionLaunched, reasonNoCapacity)},
		"an instance never joined":         {claim: failed(today, v1alpha1.ConditionLaunched, reasonNeverJoined), says: "the instance of claim new never joined"},
		"a node was never ready for pods":  {claim: failed(today, v1alpha1.ConditionInitialized, reasonNeverInitialized), says: "startup taint cni"},
		"one of another kind never joined": {claim: failed("old", v1alpha1.ConditionLaunched, reasonNeverJoined)},
		"a node has stopped being ready":   {claim: failed(today, v1alpha1.ConditionLaunched, reasonNoCapacity), notReady: canaryReady + time.Second, says: "node fresh is not ready"},
		"a node is not ready for a moment": {claim: failed(today, v1alpha1.ConditionLaunched, reasonNoCapacity), notReady: canaryReady - time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDrift(&Loops{stores: &stores{pods: informerOf[*corev1.Pod](t, nil), claims: informerOf(t, []*v1alpha1.NodeClaim{tc.claim})}}, nil)
			nodes := []candidate{driftCandidate("a", true), driftCandidate("b", true), driftCandidate("fresh", false)}
			for i := range nodes {
				nodes[i].provisioner = pr
			}
			if tc.notReady > 0 {
				nodes[2].node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Time{Time: now.Add(-tc.notReady)}}}
			}
			d.compared("p", "t", map[string]bool{"fresh": true}, now)
			ps, _ := d.propose(now, nodes)
			reason, message := d.stoppedNow("p")
			if tc.says == "" && (len(ps) != 1 || reason != "") || tc.says != "" && (len(ps) != 0 || reason != stoppedCanary || !strings.Contains(message, tc.says)) {
				t.Errorf("%d proposals, stopped %q: %q; want %q", len(ps), reason, message, tc.says)
			}
		})
	}
}

// TestTheWayOutOfAStopIsNotClipped: whoever is told needs it, and a new leader knows
// the target by it.
func TestTheWayOutOfAStopIsNotClipped(t *testing.T) {
	pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: strings.Repeat("p", 253)}}
	s := newDrift(&Loops{}, nil).stopping(&generation{provisioner: pr}, "target", health{sick: strings.Repeat("long ", 1000)})
	if told := clip(s.message); !strings.HasSuffix(told, howToAcknowledge(pr, "target")) {
		t.Errorf("told: %s", told)
	}
}
