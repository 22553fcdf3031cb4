package provisioner

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

const (
	// maxAlternatives bounds the offerings that a claim may fall back to.
	maxAlternatives = 60
	// writers is the number of claims, seats or bindings written at once.
	writers = 16
	// replan is how often pods without a seat are looked at again when nothing
	// in the cluster changes.
	replan = 10 * time.Second
)

// each calls f for all items, so many at a time.
func each[T any](items []T, atOnce int, f func(i int, item T)) {
	var wg sync.WaitGroup
	gate := make(chan struct{}, atOnce)
	for i, item := range items {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			f(i, item)
		})
	}
	wg.Wait()
}

// provision is the one goroutine that plans and creates claims. It is serial
// on purpose: limits are counted here and nowhere else.
func (p *Loops) provision(ctx context.Context) error {
	tick := time.NewTicker(replan)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-tick.C:
		}
		p.gather(ctx)
		start := time.Now()
		thought, err := p.round(ctx, start)
		if err != nil && ctx.Err() == nil {
			p.log.Error(err, "planning round failed; the next one starts from scratch")
			p.metrics.roundErrors.Inc()
		}
		// Planning takes at most a tenth of the time, so that pods that keep coming are
		// planned together, and writing what was planned a quarter; but nobody waits long
		// for his turn.
		if !pause(ctx, min(max(roundPause, 9*thought, 3*time.Since(start)), longestRoundPause)) {
			return nil
		}
	}
}

// gather waits for the burst that woke the loop to be complete: not at all
// when the owners of all pending pods say how many they want, else until no
// pod has come for BatchIdle, and never longer than BatchMax. Nodes that are
// being taken out of use are waited for: their pods are planned for together.
func (p *Loops) gather(ctx context.Context) {
	end := time.NewTimer(p.cfg.BatchMax)
	defer end.Stop()
	idle := func(settled bool) time.Duration {
		if settled {
			return settleIdle
		}
		return p.cfg.BatchIdle
	}
	came := p.came.Load()
	quiet := time.NewTimer(idle(p.burstSettled()))
	defer quiet.Stop()
	for {
		more := false
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-quiet.C:
			if !p.retiring.Load() {
				return
			}
			more = true
		case <-p.wake:
			n := p.came.Load()
			came, more = n, n != came
		}
		settled := p.burstSettled()
		if settled && !p.retiring.Load() {
			return
		}
		if more {
			quiet.Reset(idle(settled))
		}
	}
}

// The least and the longest time between the end of a round and the next.
const (
	roundPause        = 50 * time.Millisecond
	longestRoundPause = 2 * time.Second
)

// settleIdle lets the other objects of one kubectl apply arrive.
const settleIdle = 20 * time.Millisecond

// burstSettled reports whether the owners of all pods that have come since the last
// round say how many they want.
func (p *Loops) burstSettled() bool {
	var pending []*corev1.Pod
	for _, pod := range all[*corev1.Pod](p.stores.pods) {
		if waiting(pod) && !p.looked[pod.UID] {
			if _, seated := p.book.of(pod.UID); !seated {
				pending = append(pending, pod)
			}
		}
	}
	return settled(pending, p.readOwners(pending))
}

// round is one pass from reading the cluster to having stored what to do. It
// returns how long it took to know what.
func (p *Loops) round(ctx context.Context, now time.Time) (time.Duration, error) {
	if !p.catalogue.ready() && p.catalogue.unknown() == "" {
		return 0, nil // The catalogue wakes the loop when it is, or cannot be.
	}
	defer p.planned.Store(true)
	p.grantWishes(ctx, now)
	p.askForOverlooked(ctx, now)
	v := p.read(now)
	p.metrics.pending.Set(float64(len(v.pending)))
	p.looked = make(map[types.UID]bool, len(v.pending))
	for _, pod := range v.pending {
		p.looked[pod.UID] = true
	}
	p.verdicts.forget(v.pending)
	if len(v.snapshot.Pods) == 0 {
		clear(p.spurned.since)
		p.announce(v.stopped)
		p.seated(v.leaving.found)
		return time.Since(now), nil
	}
	start := time.Now()
	plan := p.memory.Solve(v.snapshot)
	if v.choices.relent(v.snapshot, plan) {
		plan = p.memory.Solve(v.snapshot)
	}
	plan.SolveTime = time.Since(start)
	v.leaving.forgo(plan)
	if v.leaving.spread(plan, p.pace) > 0 {
		time.AfterFunc(spreadPause, p.trigger)
	}
	p.seated(v.leaving.settle(plan))
	p.metrics.solve.Observe(plan.SolveTime.Seconds())

	if len(plan.Launches) > 0 {
		p.metrics.gap.Set(plan.Gap())
		p.log.Info("planned",
			"pods", len(v.snapshot.Pods), "shapes", plan.Shapes, "launches", len(plan.Launches),
			"placements", len(plan.Placements), "unschedulable", len(plan.Unschedulable),
			"hourlyCost", plan.HourlyCost, "lowerBound", plan.LowerBound, "gap", plan.Gap(),
			"solve", plan.SolveTime.String())
	}
	for _, pl := range plan.Placements {
		if pl.Node.Claim != "" && pl.Node.InFlight && !standIn(pl.Pod) {
			p.book.give(pl.Pod.UID, pl.Node.Claim)
			p.nominator.enqueue(pl.Node.Claim)
		}
	}
	spurned := p.spurned.look(plan, v.snapshot.Nodes, now, p.bindsLate)
	if len(spurned) > 0 {
		p.trigger()
	}
	p.announce(slices.Concat(v.stopped, plan.Unschedulable, spurned))
	thought := time.Since(now)
	return thought, p.create(ctx, v, plan)
}

// askForOverlooked reads the claims that the watch has not shown for long. One that is
// there goes on counting, and so does one that cannot be read: what was bought twice
// would be paid twice.
func (p *Loops) askForOverlooked(ctx context.Context, now time.Time) {
	each(p.book.overlooked(now), writers, func(_ int, name string) {
		claim := &v1alpha1.NodeClaim{}
		err := p.cfg.APIReader.Get(ctx, client.ObjectKey{Name: name}, claim)
		if err != nil {
			claim = nil
		}
		p.book.asked(name, claim, apierrors.IsNotFound(err), now)
	})
}

// seated passes on what a round found for pods on nodes on their way out.
func (p *Loops) seated(found map[string]seating) {
	if p.moves.replace(found) {
		p.lookForIdle()
	}
}

// seatsWait is how long nodes wait for the first round after a start, which may
// take long where EC2 does not answer.
const seatsWait = 10 * time.Second

// seatsUnknown: who has which seat is known once a round has planned. A node that
// opens before would fill with whoever is first, and the others' nominations, which
// come later, would keep pods off nodes that are free.
func (p *Loops) seatsUnknown() bool {
	if p.planned.Load() {
		return false
	}
	p.firstJoin.CompareAndSwap(0, time.Now().UnixNano())
	return time.Since(time.Unix(0, p.firstJoin.Load())) < seatsWait
}

// create stores the plan's launches as claims. Claims are the intent: from
// here on the lifecycle reconciler makes them real, whatever happens to us.
func (p *Loops) create(ctx context.Context, v *view, plan *capacity.Plan) error {
	offerings := p.catalogue.offeringsVersion()
	spare := spareCost(plan)
	claims := make([]*v1alpha1.NodeClaim, len(plan.Launches))
	for i := range plan.Launches {
		l := &plan.Launches[i]
		claims[i] = newClaim(v.provisioners[l.Provisioner.Name], p.cfg.ClusterName, l, plan, spare)
	}
	err := errors.Join(p.lifter.create(ctx, claims, func(i int) {
		l, claim := &plan.Launches[i], claims[i]
		for _, pod := range l.Pods {
			if standIn(pod) {
				if owner, ok := controllerOf(pod); ok {
					p.book.expect(owner, claim.Name)
				}
				continue
			}
			p.book.give(pod.UID, claim.Name)
			if moving(pod) {
				continue
			}
			p.metrics.hint(compareHint(pod, claim.Spec.Provisioner.Name, l.CapacityType, offerings))
		}
		p.log.Info("claim created", "claim", claim.Name, "provisioner", claim.Spec.Provisioner.Name,
			"type", l.InstanceType, "zone", l.Zone, "capacityType", l.CapacityType,
			"price", l.Price, "pods", len(l.Pods), "why", l.Why)
	})...)
	if err != nil {
		p.trigger() // What was not stored is planned again.
	}
	return err
}

// newClaim turns a launch into a claim. Everything that the launch depends on
// is copied into it, so that a later change of the Provisioner cannot change
// what was decided.
// clusterName is Config's, for the hash.
// spare is by how much alternatives may be dearer than the choice, in $/h, by
// Provisioner; it shrinks by what the claim reserves of it.
func newClaim(pr *v1alpha1.Provisioner, clusterName string, l *capacity.Launch, plan *capacity.Plan, spare map[string]float64) *v1alpha1.NodeClaim {
	spec := v1alpha1.NodeClaimSpec{
		NodeTemplate: *pr.Spec.NodeTemplate.DeepCopy(),
		Provisioner:  v1alpha1.ProvisionerRef{Name: pr.Name, UID: pr.UID},
		Offerings:    claimOfferings(pr, l, spare[pr.Name]),
		Capacity:     l.Capacity.List(),
		Allocatable:  l.Allocatable.List(),
		Requests:     l.Requests.List(),
		Binding:      pr.Spec.Binding,
	}
	spec.Labels = map[string]string{}
	labels := map[string]string{}
	for k, val := range l.Labels {
		switch {
		case k == corev1.LabelHostname || k == v1alpha1.LabelNodeClaim:
			continue
		case instanceLabel(k):
		default:
			spec.Labels[k] = val
		}
		labels[k] = val
	}
	labels[v1alpha1.LabelProvisioner] = pr.Name
	claim := &v1alpha1.NodeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name:       claimName(pr.Name),
			Labels:     labels,
			Finalizers: []string{v1alpha1.Finalizer},
			Annotations: map[string]string{
				v1alpha1.AnnotationProvisionerHash: capacity.TemplateHash(&pr.Spec, clusterName),
				v1alpha1.AnnotationDecision:        decision(l, plan),
			},
		},
		Spec: spec,
	}
	if s, limited := spare[pr.Name]; limited {
		spare[pr.Name] = s - (reservedPrice(claim) - l.Price)
	}
	return claim
}

// claimName is unique without asking: the Provisioner's name, cut so that the
// whole stays a valid label value, and ten random characters.
func claimName(provisioner string) string {
	if len(provisioner) > 50 {
		provisioner = strings.TrimRight(provisioner[:50], "-.")
	}
	return provisioner + "-" + utilrand.String(10)
}

// decision is the record of why a node is bought, for people.
func decision(l *capacity.Launch, plan *capacity.Plan) string {
	pods := "1 pod"
	if n := len(l.Pods); n != 1 {
		pods = fmt.Sprintf("%d pods", n)
	}
	return fmt.Sprintf("for %s: %s. Plan: %d to buy, %.4f $/h, %s",
		pods, l.Why, len(plan.Launches), plan.HourlyCost, plan.GapText())
}

// spareCost is what the plan leaves of each limit on the cost, in $/h, by
// Provisioner; absent without such a limit.
func spareCost(plan *capacity.Plan) map[string]float64 {
	spare := map[string]float64{}
	for i := range plan.Launches {
		l := &plan.Launches[i]
		limit, limited := l.Provisioner.Spec.Limits[v1alpha1.LimitHourlyCost]
		if !limited {
			continue
		}
		if _, seen := spare[l.Provisioner.Name]; !seen {
			spare[l.Provisioner.Name] = limit.AsApproximateFloat64() - l.Provisioner.UsedHourlyCost
		}
		spare[l.Provisioner.Name] -= l.Price
	}
	return spare
}

// claimOfferings lists the choice and its alternatives. Under a Provisioner
// with limits only those alternatives stay that take no more of any limited
// resource than the choice, since the choice is what was counted, and that fit
// the spare cost: until a claim is launched, its dearest offering is reserved.
func claimOfferings(pr *v1alpha1.Provisioner, l *capacity.Launch, spare float64) []v1alpha1.ClaimOffering {
	out := []v1alpha1.ClaimOffering{claimOffering(l.OfferingRef)}
	byName := map[string]*capacity.InstanceType{}
	for i := range l.Provisioner.InstanceTypes {
		byName[l.Provisioner.InstanceTypes[i].Machine.Name] = &l.Provisioner.InstanceTypes[i]
	}
	for _, a := range l.Alternatives {
		if len(out) > maxAlternatives {
			break
		}
		if it := byName[a.InstanceType]; it != nil && withinChoice(pr.Spec.Limits, l, a, it, spare) {
			out = append(out, claimOffering(a))
		}
	}
	return out
}

func withinChoice(limits corev1.ResourceList, l *capacity.Launch, a capacity.OfferingRef, it *capacity.InstanceType, spare float64) bool {
	for name := range limits {
		switch name {
		case v1alpha1.LimitNodes:
		case v1alpha1.LimitHourlyCost:
			if a.Price-l.Price > spare {
				return false
			}
		default:
			if it.Capacity[name] > l.Capacity[name] {
				return false
			}
		}
	}
	return true
}

func claimOffering(o capacity.OfferingRef) v1alpha1.ClaimOffering {
	return v1alpha1.ClaimOffering{InstanceType: o.InstanceType, Zone: o.Zone, CapacityType: o.CapacityType, HourlyPrice: v1alpha1.NewPrice(o.Price)}
}

// instanceLabel reports whether a label follows from what EC2 gives.
func instanceLabel(key string) bool {
	return slices.Contains(v1alpha1.InstanceLabels, key) || slices.Contains(v1alpha1.OfferingLabels, key) ||
		strings.HasPrefix(key, v1alpha1.Group+"/")
}

// announce tells pods that cannot be placed why, once for each reason.
func (p *Loops) announce(refused []capacity.Unschedulable) {
	byConstraint := map[capacity.Constraint]int{}
	for _, u := range refused {
		if len(u.Reasons) == 0 {
			continue
		}
		r := u.Reasons[0]
		if !moving(u.Pod) {
			byConstraint[r.Constraint]++
		}
		if standIn(u.Pod) || moving(u.Pod) || r.Constraint == capacity.ConstraintGated {
			continue
		}
		if p.verdicts.tell(u.Pod.UID, r) {
			text := verdictText(r)
			// Events that differ in their note alone are one to client-go; the first note stays.
			action := fmt.Sprintf("Provision-%08x", crc32.ChecksumIEEE([]byte(text)))
			p.cfg.Recorder.Eventf(u.Pod, nil, corev1.EventTypeWarning, "NoBerth", action, "%s", text)
			p.log.Info("pod cannot be placed", "pod", u.Pod.Namespace+"/"+u.Pod.Name, "provisioner", r.Provisioner,
				"constraint", string(r.Constraint), "detail", r.Detail, "fix", r.Fix)
		}
	}
	p.metrics.setUnschedulable(maps.All(byConstraint))
}

// verdictText is the event that a refused pod gets.
func verdictText(r capacity.Reason) string {
	var b strings.Builder
	if r.Provisioner != "" {
		fmt.Fprintf(&b, "no node of Provisioner %s can host this pod: ", r.Provisioner)
	} else {
		b.WriteString("no node can be bought for this pod: ")
	}
	b.WriteString(r.Detail)
	if r.Fix != "" {
		b.WriteString(". Fix: " + r.Fix)
	}
	return clip(b.String())
}
