package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

func onSpot(pr *v1alpha1.Provisioner) {
	pr.Spec.Requirements = []v1alpha1.Requirement{{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: []string{v1alpha1.CapacityTypeSpot}}}
}

// claimOfInstance returns the claim of an instance, or nil.
func (b *bench) claimOfInstance(id string) *v1alpha1.NodeClaim {
	b.t.Helper()
	claims, err := b.claims(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := range claims {
		if claims[i].Status.InstanceID == id {
			return &claims[i]
		}
	}
	return nil
}

// TestSpotInterruption: a notice taints the node, buys for its pods at once,
// drains it by a deadline before EC2's, and the pods run again.
func TestSpotInterruption(t *testing.T) {
	b := newBench(t, shared, onSpot)
	b.create(b.deployment("web", 3, nil))
	b.waitRunning(3)
	live, err := b.instances()
	if err != nil || len(live) == 0 {
		t.Fatalf("%d instances: %v", len(live), err)
	}
	taken := live[0]
	w := b.observe(b.claimOfInstance(taken.ID).Status.NodeName, taken.ID)
	notice := time.Now()
	if err := b.c.Sim(b.ctx, http.MethodPost, "interrupt", map[string]any{"instanceId": taken.ID}, nil); err != nil {
		t.Fatal(err)
	}
	var deadline time.Time
	b.wait("the claim is being removed with a deadline", func() (bool, error) {
		c := b.claimOfInstance(taken.ID)
		if c == nil {
			return true, nil
		}
		if c.DeletionTimestamp == nil || c.Status.DrainDeadline == nil {
			return false, nil
		}
		deadline = c.Status.DrainDeadline.Time
		if why := c.Annotations[v1alpha1.AnnotationDisruptionReason]; why != string(v1alpha1.ReasonInterrupted) {
			t.Errorf("removed because %s", why)
		}
		return true, nil
	})
	// Times are stored in whole seconds.
	if left := deadline.Sub(notice); !deadline.IsZero() && (left > 106*time.Second || left < 95*time.Second) {
		t.Errorf("the deadline is %s after the notice, want 105 s", left)
	}
	var replacement *v1alpha1.NodeClaim
	b.wait("a claim for its pods exists", func() (bool, error) {
		claims, err := b.claims(b.ctx)
		for i := range claims {
			if claims[i].Status.InstanceID != taken.ID && claims[i].CreationTimestamp.Time.After(notice.Add(-time.Second)) {
				replacement = &claims[i]
			}
		}
		return replacement != nil, err
	})
	if late := replacement.CreationTimestamp.Sub(notice); late > 5*time.Second {
		t.Errorf("the replacement was decided on %s after the notice", late)
	}
	b.wait("the instance is gone, and its pods run elsewhere", func() (bool, error) {
		live, err := b.instances()
		if err != nil {
			return false, err
		}
		for _, i := range live {
			if i.ID == taken.ID {
				return false, nil
			}
		}
		var pods corev1.PodList
		if err := b.c.Client.List(b.ctx, &pods, client.InNamespace(b.namespace)); err != nil {
			return false, err
		}
		running := 0
		for _, p := range pods.Items {
			if p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil {
				running++
			}
		}
		return running == 3, nil
	})
	if took := time.Since(notice); took > 2*time.Minute {
		t.Errorf("it took %s: EC2 was faster", took)
	}
	steps := strings.Join(w.seen(), ", ")
	if !strings.HasPrefix(steps, "cordoned, evicted") {
		t.Errorf("the node's end was: %s", steps)
	}
}

// oneNode runs a pod, and returns the one instance that is launched for it.
func (b *bench) oneNode() string {
	b.t.Helper()
	b.create(b.deployment("web", 1, nil))
	b.waitRunning(1)
	live, err := b.instances()
	if err != nil || len(live) != 1 {
		b.t.Fatalf("%d instances: %v", len(live), err)
	}
	return live[0].ID
}

// TestPlannedRetirement: what AWS has planned for an instance moves its pods
// away in time.
func TestPlannedRetirement(t *testing.T) {
	b := newBench(t, shared, nil)
	old := b.oneNode()
	err := b.c.Sim(b.ctx, http.MethodPost, "health", map[string]any{"instanceId": old,
		"events": []map[string]any{{"code": "instance-retirement", "notBefore": time.Now().Add(72 * time.Hour)}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.wait("the instance is replaced", func() (bool, error) {
		live, err := b.instances()
		return err == nil && len(live) == 1 && live[0].ID != old, err
	})
	b.waitRunning(1)
}

// TestInstanceThatEndsByItselfIsReplaced: an instance that ends without being asked to
// is noticed by its event, and its claim goes.
func TestInstanceThatEndsByItselfIsReplaced(t *testing.T) {
	b := newBench(t, shared, onSpot)
	old := b.oneNode()
	// No notice in advance: EC2 takes it at once.
	if err := b.c.Sim(b.ctx, http.MethodPost, "interrupt", map[string]any{"instanceId": old, "noticeSeconds": 0}, nil); err != nil {
		t.Fatal(err)
	}
	b.wait("another instance runs the pod", func() (bool, error) {
		live, err := b.instances()
		if err != nil || len(live) != 1 || live[0].ID == old {
			return false, err
		}
		var nodes corev1.NodeList
		if err := b.c.Client.List(b.ctx, &nodes, client.MatchingLabels{v1alpha1.LabelProvisioner: b.name}); err != nil {
			return false, err
		}
		return len(nodes.Items) == 1 && !drain.Cordoned(&nodes.Items[0]), nil
	})
	b.waitRunning(1)
}

// TestPoisonMessage: what is no event is removed and counted once.
func TestPoisonMessage(t *testing.T) {
	b := newBench(t, shared, nil)
	count := func() string {
		res, err := http.Get(b.c.ProvisionerMetrics)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, " "); ok && name == "berth_interruption_poison_messages_total" {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	before := count()
	if err := b.c.Sim(b.ctx, http.MethodPost, "event", map[string]any{"body": `{"detail-type":"EC2 Spot`}, nil); err != nil {
		t.Fatal(err)
	}
	b.wait("it is counted", func() (bool, error) { return before != "" && count() != before, nil })
	if before == "0" && count() != "1" {
		t.Errorf("counted %s times", count())
	}
}
