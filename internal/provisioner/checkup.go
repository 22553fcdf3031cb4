package provisioner

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
)

const (
	// healthEvery is how often EC2's status checks and planned events are read.
	healthEvery = time.Minute
	// illnessEvery is how often nodes' conditions are looked at.
	illnessEvery = 15 * time.Second
	// plannedSoon is how close a planned event must be for its node to go at
	// once; others go a tenth of their Provisioner's nodes at a time.
	plannedSoon = time.Hour
)

// troubled is what the health loop needs of EC2.
type troubled interface {
	// Troubles lists instances whose status checks fail or that have events planned.
	Troubles(ctx context.Context) ([]ec2.Trouble, error)
}

// checkup is the second source of news about instances, and repairs nodes: it
// reads EC2's status checks and planned events, the fleet's reading of states,
// and the nodes' own conditions.
type checkup struct {
	*Loops
	cloud  troubled
	demand chan struct{}
	ward   ward

	troubles map[string]ec2.Trouble
	readAt   time.Time
	told     map[string]string
	// begun are the claims that we have begun to remove: the cache may not show
	// that yet.
	begun map[types.UID]bool
}

func newCheckup(p *Loops, cloud troubled) *checkup {
	return &checkup{Loops: p, cloud: cloud, demand: make(chan struct{}, 1), told: map[string]string{}, begun: map[types.UID]bool{}}
}

// look asks for a reading now.
func (h *checkup) look() {
	select {
	case h.demand <- struct{}{}:
	default:
	}
}

// run looks at all nodes until the context ends.
func (h *checkup) run(ctx context.Context) error {
	tick := time.NewTicker(illnessEvery)
	defer tick.Stop()
	for {
		fresh := false
		select {
		case <-ctx.Done():
			return nil
		case <-h.demand:
			fresh = true
		case <-tick.C:
		}
		if fresh || time.Since(h.readAt) >= healthEvery {
			h.read(ctx)
		}
		h.pass(ctx, time.Now())
	}
}

// read asks EC2. An answer that failed says nothing about any instance: what is
// known stays, for two readings; older news is not acted on.
func (h *checkup) read(ctx context.Context) {
	list, err := h.cloud.Troubles(ctx)
	if err != nil {
		if ctx.Err() == nil {
			h.log.Error(err, "reading the status of instances failed; tried again")
		}
		if time.Since(h.readAt) > 2*healthEvery {
			h.troubles = nil
		}
		return
	}
	h.readAt = time.Now()
	before := h.troubles
	h.troubles = make(map[string]ec2.Trouble, len(list))
	for _, t := range list {
		h.troubles[t.InstanceID] = dated(t, before[t.InstanceID], h.readAt)
	}
}

// dated is a trouble with the time since when its checks have failed: where EC2
// does not say, since they were first seen to.
func dated(t, before ec2.Trouble, now time.Time) ec2.Trouble {
	switch {
	case len(t.Failing) == 0 || !t.Since.IsZero():
	case len(before.Failing) > 0:
		t.Since = before.Since
	default:
		t.Since = now
	}
	return t
}

// pass acts on all that is known about the nodes.
func (h *checkup) pass(ctx context.Context, now time.Time) {
	there := map[types.UID]bool{}
	for _, claim := range all[*v1alpha1.NodeClaim](h.stores.claims) {
		there[claim.UID] = true
		if claim.Status.InstanceID == "" {
			continue
		}
		announced := h.announced
		if h.going(claim) {
			announced = h.hastened
		}
		if d, ok := announced(claim, now); ok {
			h.depart(ctx, claim.Name, claim.UID, d)
		}
	}
	for uid := range h.begun {
		if !there[uid] {
			delete(h.begun, uid)
		}
	}
	h.repair(ctx, now)
}

// going reports whether a claim is being removed.
func (h *checkup) going(c *v1alpha1.NodeClaim) bool {
	return c.DeletionTimestamp != nil || h.begun[c.UID]
}

func (h *checkup) depart(ctx context.Context, name string, uid types.UID, d departure) {
	if err := h.leave(ctx, name, d); err != nil {
		if ctx.Err() == nil {
			h.log.Error(err, "removing a node failed; tried again", "claim", name)
		}
		return
	}
	h.begun[uid] = true
}

// announced says whether a claim's instance ends, or is going to.
func (h *checkup) announced(claim *v1alpha1.NodeClaim, now time.Time) (departure, bool) {
	if inst, ok := h.fleet.ends(claim.Status.InstanceID); ok {
		return stateDeparture(inst), true
	}
	t := h.troubles[claim.Status.InstanceID]
	if len(t.Events) == 0 {
		return departure{}, false
	}
	e := t.Events[0]
	if e.Code != ec2.CodeBlockEnd && e.NotBefore.Sub(now) > plannedSoon && !h.mayGo(claim) {
		return departure{}, false
	}
	return plannedDeparture(t.InstanceID, e, now), true
}

// hastened says whether a claim that is being removed has to go sooner than its
// drain ends. A drain that has not begun has a deadline of its own to come.
func (h *checkup) hastened(claim *v1alpha1.NodeClaim, now time.Time) (departure, bool) {
	t := h.troubles[claim.Status.InstanceID]
	if len(t.Events) == 0 || t.Events[0].NotBefore.IsZero() || gone(claim) {
		return departure{}, false
	}
	d := plannedDeparture(t.InstanceID, t.Events[0], now)
	if at := claim.Status.DrainDeadline; at != nil {
		return d, d.deadline.Before(at.Time)
	}
	return d, t.Events[0].NotBefore.Sub(now) <= plannedSoon
}

// plannedDeparture is what becomes of a node whose instance AWS has a plan for.
func plannedDeparture(instance string, e ec2.PlannedEvent, now time.Time) departure {
	if e.Code == ec2.CodeBlockEnd {
		return blockDeparture(instance, e.NotBefore, now)
	}
	d := departure{reason: v1alpha1.ReasonInterrupted, event: "ScheduledChange",
		why: fmt.Sprintf("AWS has planned %s of instance %s at %s", e.Code, instance, e.NotBefore.UTC().Format(time.RFC3339))}
	if !e.NotBefore.IsZero() {
		d.deadline = noticeDeadline(e.NotBefore, now)
	}
	return d
}

// mayGo keeps the nodes of a Provisioner from leaving all at once for what is
// planned days ahead: a tenth of them at a time, and at least one.
func (h *checkup) mayGo(claim *v1alpha1.NodeClaim) bool {
	total, going := 0, 0
	for _, c := range all[*v1alpha1.NodeClaim](h.stores.claims) {
		if c.Spec.Provisioner.Name != claim.Spec.Provisioner.Name || gone(c) {
			continue
		}
		total++
		if h.going(c) {
			going++
		}
	}
	return going < max(1, total/10)
}

// repair replaces nodes that have failed.
func (h *checkup) repair(ctx context.Context, now time.Time) {
	patients := h.patients()
	due, held := h.ward.decide(patients, now)
	h.metrics.repairsHeld.Set(float64(len(held)))
	for name, why := range held {
		if h.told[name] != why {
			h.log.Info("failed nodes are not all replaced at once", "provisioner", name, "why", why)
		}
	}
	h.told = held
	for _, r := range due {
		h.metrics.repairs.WithLabelValues(r.patient.provisioner).Inc()
		h.depart(ctx, r.patient.name, r.patient.uid, departure{v1alpha1.ReasonUnhealthy, now.Add(repairDrain), "NodeFailed", r.why})
	}
}

// patients are the nodes that have been well once: those that never were are
// the registration timeout's.
func (h *checkup) patients() []patient {
	var out []patient
	for _, c := range all[*v1alpha1.NodeClaim](h.stores.claims) {
		if !isTrue(c.Status.Conditions, v1alpha1.ConditionInitialized) || gone(c) {
			continue
		}
		repairing := h.begun[c.UID] || c.Annotations[v1alpha1.AnnotationDisruptionReason] == string(v1alpha1.ReasonUnhealthy)
		if c.DeletionTimestamp != nil && !repairing {
			continue // It goes anyway.
		}
		p := patient{uid: c.UID, name: c.Name, provisioner: c.Spec.Provisioner.Name, created: c.CreationTimestamp.Time, repairing: repairing}
		if node, ok := h.nodeFor(c); ok {
			p.conditions = append([]corev1.NodeCondition(nil), node.Status.Conditions...)
		}
		if t, ok := h.troubles[c.Status.InstanceID]; ok && len(t.Failing) > 0 {
			p.impaired, p.impairedSince = t.Failing, t.Since
		}
		out = append(out, p)
	}
	return out
}

// ends returns an instance that the last reading shows stopping or shutting
// down.
func (f *fleet) ends(id string) (ec2.Instance, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, ok := f.live[id]
	return i, ok && slices.Contains(endingStates, i.State)
}
