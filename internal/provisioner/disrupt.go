package provisioner

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

// disruptEvery is how often nodes are looked at when nothing changes.
const disruptEvery = 5 * time.Second

// disruption gives back nodes that nobody needs any more or that are too old.
// One goroutine: budgets are counted here and nowhere else.
type disruption struct {
	*Loops
	// idleSince is when a claim's node was first seen without workload.
	idleSince map[string]time.Time
}

func (d *disruption) run(ctx context.Context) error {
	tick := time.NewTicker(disruptEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.idle:
		case <-tick.C:
		}
		next := d.pass(ctx, time.Now())
		if next > 0 && next < disruptEvery {
			tick.Reset(max(next, 50*time.Millisecond))
		} else {
			tick.Reset(disruptEvery)
		}
	}
}

// candidate is an initialized node that may have to go.
type candidate struct {
	claim *v1alpha1.NodeClaim
	node  *corev1.Node
	spec  *v1alpha1.ProvisionerSpec
}

// pass looks at every node once and starts what is due. It returns when the
// next node will be due, 0 when none is foreseen.
func (d *disruption) pass(ctx context.Context, now time.Time) time.Duration {
	var (
		next   time.Duration
		due    []candidate
		reason = map[string]v1alpha1.DisruptionReason{}
	)
	soon := func(in time.Duration) {
		if next == 0 || in < next {
			next = in
		}
	}
	seen := map[string]bool{}
	for _, c := range d.candidates() {
		seen[c.claim.Name] = true
		why, in := d.judge(c, now)
		switch {
		case why != "":
			due = append(due, c)
			reason[c.claim.Name] = why
		case drain.Cordoned(c.node):
			// A step that was begun is no longer due: a pod came, or the
			// Provisioner has changed.
			if err := d.uncordon(ctx, c.node); err != nil && !apierrors.IsConflict(err) {
				d.log.Error(err, "uncordoning failed; tried again", "node", c.node.Name)
			}
		case in > 0:
			soon(in)
		}
	}
	for name := range d.idleSince {
		if !seen[name] {
			delete(d.idleSince, name)
		}
	}
	// Empty nodes first, then the oldest; the order is the same every time.
	slices.SortFunc(due, func(a, b candidate) int {
		ea, eb := reason[a.claim.Name] == v1alpha1.ReasonEmpty, reason[b.claim.Name] == v1alpha1.ReasonEmpty
		if ea != eb {
			if ea {
				return -1
			}
			return 1
		}
		if c := a.claim.CreationTimestamp.Compare(b.claim.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.claim.Name, b.claim.Name)
	})
	room := d.room(now)
	for _, c := range due {
		why := reason[c.claim.Name]
		name := c.claim.Spec.Provisioner.Name
		if !drain.Cordoned(c.node) {
			if room[budgetKey{name, why}] <= 0 {
				d.metrics.blocked.WithLabelValues(name, string(why)).Inc()
				continue
			}
			for _, r := range budgeted {
				room[budgetKey{name, r}]--
			}
		}
		again, err := d.disrupt(ctx, c, why)
		if err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) {
			d.log.Error(err, "disruption failed; tried again", "claim", c.claim.Name, "reason", string(why))
		}
		if again || err != nil {
			soon(100 * time.Millisecond)
		}
	}
	return next
}

// candidates are the initialized nodes of live claims.
func (d *disruption) candidates() []candidate {
	var out []candidate
	for _, c := range all[*v1alpha1.NodeClaim](d.stores.claims) {
		if c.DeletionTimestamp != nil || !isTrue(c.Status.Conditions, v1alpha1.ConditionInitialized) {
			continue
		}
		pr, ok := one[*v1alpha1.Provisioner](d.stores.provisioners, c.Spec.Provisioner.Name)
		node, ok2 := one[*corev1.Node](d.stores.nodes, c.Status.NodeName)
		if ok && ok2 && node.DeletionTimestamp == nil {
			out = append(out, candidate{claim: c, node: node, spec: &pr.Spec})
		}
	}
	return out
}

// judge says why a node is to go now, or in how long it may have to.
func (d *disruption) judge(c candidate, now time.Time) (v1alpha1.DisruptionReason, time.Duration) {
	var next time.Duration
	if ttl := c.spec.TTLSecondsUntilExpired; ttl != nil {
		left := time.Duration(*ttl)*time.Second - now.Sub(c.claim.CreationTimestamp.Time)
		if left <= 0 {
			return v1alpha1.ReasonExpired, 0
		}
		next = left
	}
	if !d.empty(c) {
		delete(d.idleSince, c.claim.Name)
		return "", next
	}
	since, ok := d.idleSince[c.claim.Name]
	if !ok {
		since = now
		d.idleSince[c.claim.Name] = now
	}
	if ttl := c.spec.TTLSecondsAfterEmpty; ttl != nil {
		left := time.Duration(*ttl)*time.Second - now.Sub(since)
		if left <= 0 {
			return v1alpha1.ReasonEmpty, 0
		}
		if next == 0 || left < next {
			next = left
		}
	}
	return "", next
}

// empty reports whether nothing but what belongs to the node itself runs on
// it, and no pod has a seat there.
func (d *disruption) empty(c candidate) bool {
	if len(d.book.on(c.claim.Name)) > 0 {
		return false
	}
	for _, p := range d.stores.podsOn(c.node.Name) {
		if workload(p, c.node) {
			return false
		}
	}
	return true
}

// workload reports whether a pod counts against a node being empty. A pod on
// its way out counts until it is gone.
func workload(p *corev1.Pod, node *corev1.Node) bool {
	v := drain.Classify([]*corev1.Pod{p}, drain.Facts(node, time.Time{}), time.Time{}, time.Time{})
	return v[0].Action != drain.Skip
}

// disrupt takes a node out of use in two steps, so that a pod that arrives in
// between is never lost: taint it; then, once our own watch shows the taint,
// look at its pods live, and delete the claim or take the taint back. It
// reports whether another step is due.
func (d *disruption) disrupt(ctx context.Context, c candidate, why v1alpha1.DisruptionReason) (again bool, err error) {
	if !drain.Cordoned(c.node) {
		after := c.node.DeepCopy()
		drain.Cordon(after, time.Now())
		return true, d.patchNode(ctx, c.node, after, "cordoning")
	}
	if why == v1alpha1.ReasonEmpty {
		var pods corev1.PodList
		err := d.cfg.APIReader.List(ctx, &pods, &client.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", c.node.Name)})
		if err != nil {
			return true, fmt.Errorf("listing the pods of node %s: %w", c.node.Name, err)
		}
		for i := range pods.Items {
			if workload(&pods.Items[i], c.node) {
				d.log.Info("node is in use again", "node", c.node.Name, "pod", pods.Items[i].Namespace+"/"+pods.Items[i].Name)
				return false, d.uncordon(ctx, c.node)
			}
		}
	}
	d.cfg.Recorder.Eventf(c.claim, nil, corev1.EventTypeNormal, string(why), "Disrupt", "%s", d.explain(c, why))
	return false, d.deleteClaim(ctx, c.claim.DeepCopy(), why)
}

func (d *disruption) uncordon(ctx context.Context, node *corev1.Node) error {
	after := node.DeepCopy()
	if !drain.Uncordon(after) {
		return nil
	}
	return d.patchNode(ctx, node, after, "uncordoning")
}

func (d *disruption) explain(c candidate, why v1alpha1.DisruptionReason) string {
	switch why {
	case v1alpha1.ReasonEmpty:
		return fmt.Sprintf("no workload for %ds; giving back $%.4f/h", *c.spec.TTLSecondsAfterEmpty, priceOf(c.claim))
	case v1alpha1.ReasonExpired:
		return fmt.Sprintf("older than ttlSecondsUntilExpired (%ds)", *c.spec.TTLSecondsUntilExpired)
	default:
		return string(why)
	}
}

// budgeted are the reasons that budgets apply to.
var budgeted = []v1alpha1.DisruptionReason{v1alpha1.ReasonEmpty, v1alpha1.ReasonExpired, v1alpha1.ReasonDrifted, v1alpha1.ReasonConsolidated}

type budgetKey struct {
	provisioner string
	reason      v1alpha1.DisruptionReason
}

// room is how many more nodes may begin to go, by Provisioner and reason.
func (d *disruption) room(now time.Time) map[budgetKey]int {
	total, going := map[string]int{}, map[string]int{}
	for _, c := range all[*v1alpha1.NodeClaim](d.stores.claims) {
		name := c.Spec.Provisioner.Name
		if gone(c) {
			continue
		}
		total[name]++
		node, ok := one[*corev1.Node](d.stores.nodes, c.Status.NodeName)
		if c.DeletionTimestamp != nil || ok && drain.Cordoned(node) {
			going[name]++
		}
	}
	out := map[budgetKey]int{}
	for _, pr := range all[*v1alpha1.Provisioner](d.stores.provisioners) {
		for _, why := range budgeted {
			n, err := allowed(pr.Spec.Disruption, why, total[pr.Name], now)
			if err != nil {
				d.log.Error(err, "a disruption budget cannot be read; nothing is disrupted", "provisioner", pr.Name)
			}
			out[budgetKey{pr.Name, why}] = n - going[pr.Name]
		}
	}
	return out
}
