package provisioner

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/drain"
)

const (
	// weighEvery is how often all nodes are weighed, where that takes no longer
	// than a tenth of it.
	weighEvery = 5 * time.Second
	// planFresh is how long a sweep's decisions may be begun.
	planFresh = 3 * time.Minute
	// recheckEvery is the least time between two looks at the same decision
	// under way.
	recheckEvery = time.Second
	// beginWithin is how long a decision whose replacements are ready may wait
	// for its nodes to be taken out of use.
	beginWithin = 5 * time.Minute
)

// consolidation proposes nodes that can be taken away, or replaced by cheaper
// ones. A sweep, in a goroutine of its own, weighs all nodes against one
// Snapshot (capacity.Consolidate). Its decisions are begun within budget:
//
//  1. the nodes to buy, if any, are claimed by the provision loop, which counts
//     limits; each claim names the claims that it is bought in place of;
//  2. when they are initialized, the decision is weighed again against a fresh
//     Snapshot (capacity.Recheck), and its nodes are proposed to the disruption
//     loop, which takes them out of use;
//  3. it is weighed anew every recheckEvery until the claims are deleted. When it
//     no longer holds, it is not proposed any more, and thereby taken back.
//
// What is under way is derived from the cluster after a restart: from claims
// with v1alpha1.AnnotationReplaces. A decision that buys nothing is forgotten;
// the disruption loop puts its nodes back into use, and the next sweep decides.
type consolidation struct {
	*Loops
	d       *disruption
	history *moveHistory

	mu sync.Mutex
	// planned are the last sweep's decisions, made at plannedAt.
	planned   []capacity.Decision
	plannedAt time.Time
	// pledged are the moves, by workload, of what is under way and not in the
	// history yet.
	pledged map[string]int
	// underway are the claims that what is under way takes away.
	underway map[string]bool
	// under way; only the disruption loop touches them.
	intents []*intent
	// dropped are replacements that serve no intent any more, until the cache
	// shows that.
	dropped map[string]time.Time
}

// intent is a decision under way.
type intent struct {
	// claims that are to go, replacements those bought in their place.
	claims, replacements []string
	// onto are the claims of other nodes that pods are to move to.
	onto []string
	// wanted is how many replacements there will be; asked: they are being claimed.
	wanted int
	asked  *wish
	why    string
	saving float64
	// moves by claim and workload.
	moves map[string]map[string]int
	// readyAt is when the last replacement was first seen initialized.
	readyAt   time.Time
	checkedAt time.Time
	// cordoned: all nodes were seen out of use.
	cordoned bool
	// counted are the claims that were told to go, whose moves are in the history.
	counted map[string]bool
}

func (i *intent) kind() string {
	if i.wanted > 0 {
		return "replace"
	}
	return "delete"
}

func newConsolidation(p *Loops, d *disruption) *consolidation {
	return &consolidation{Loops: p, d: d, history: newMoveHistory(), dropped: map[string]time.Time{}}
}

// run sweeps until the context ends.
func (c *consolidation) run(ctx context.Context) error {
	c.load(ctx)
	wait := time.Second
	for pause(ctx, wait) {
		now := time.Now()
		c.flush(ctx, now)
		wait = time.Second
		c.mu.Lock()
		due := now.Sub(c.plannedAt) >= weighEvery
		c.mu.Unlock()
		if !due || !c.catalogue.discovered() {
			continue
		}
		if len(c.policies(now)) == 0 {
			c.metrics.possible.Set(0) // Nobody consolidates, any more.
			continue
		}
		in := c.input(now, nil)
		start := time.Now()
		out := capacity.Consolidate(in)
		took := time.Since(start)
		c.metrics.sweep.Observe(took.Seconds())
		c.metrics.possible.Set(out.Saving())
		c.mu.Lock()
		c.planned, c.plannedAt = out.Decisions, time.Now()
		c.mu.Unlock()
		if len(out.Decisions) > 0 {
			c.log.V(1).Info("consolidation weighed", "decisions", len(out.Decisions), "saving", out.Saving(), "moves", out.Moves(), "took", took.String())
			c.lookForIdle()
		}
		wait = max(wait, 9*took) // At most a tenth of the time.
	}
	return nil
}

func (c *consolidation) propose(now time.Time, nodes []candidate) ([]proposal, time.Duration) {
	byClaim := map[string]candidate{}
	for _, n := range nodes {
		byClaim[n.claim.Name] = n
	}
	c.restore(now)
	c.advance(now, byClaim)
	c.begin(now, byClaim)
	c.pledge()
	ready := c.recheck(now, byClaim)
	c.pledge() // Without what was dropped.
	var out []proposal
	for _, i := range ready {
		p := proposal{reason: v1alpha1.ReasonConsolidated, why: i.why}
		for _, name := range i.claims {
			if n, ok := byClaim[name]; ok {
				p.nodes = append(p.nodes, n)
			}
		}
		out = append(out, p)
	}
	return out, 0
}

// restore finds decisions under way that this process knows nothing of.
func (c *consolidation) restore(now time.Time) {
	known := map[string]bool{}
	for _, i := range c.intents {
		for _, name := range i.replacements {
			known[name] = true
		}
	}
	for name, at := range c.dropped {
		if now.Sub(at) > unseenPatience {
			delete(c.dropped, name)
		}
		known[name] = true
	}
	byVictims := map[string]*intent{}
	claims := all[*v1alpha1.NodeClaim](c.stores.claims)
	slices.SortFunc(claims, func(a, b *v1alpha1.NodeClaim) int { return strings.Compare(a.Name, b.Name) })
	for _, claim := range claims {
		list := claim.Annotations[v1alpha1.AnnotationReplaces]
		if list == "" || known[claim.Name] || claim.DeletionTimestamp != nil || !slices.ContainsFunc(strings.Split(list, ","), c.stays) || c.beingClaimed(list) {
			continue
		}
		i := byVictims[list]
		if i == nil {
			i = &intent{claims: strings.Split(list, ","), why: claim.Annotations[v1alpha1.AnnotationDecision]}
			byVictims[list] = i
			c.intents = append(c.intents, i)
			c.log.Info("consolidation under way found", "claims", i.claims)
		}
		i.replacements = append(i.replacements, claim.Name)
		i.wanted++
	}
	for _, i := range byVictims {
		i.moves = c.movesFrom(i.claims)
	}
}

// movesFrom counts the pods that leave with some claims' nodes, by claim and
// workload.
func (c *consolidation) movesFrom(claims []string) map[string]map[string]int {
	out := map[string]map[string]int{}
	for _, name := range claims {
		claim, ok := one[*v1alpha1.NodeClaim](c.stores.claims, name)
		if !ok {
			continue
		}
		node, ok := one[*corev1.Node](c.stores.nodes, claim.Status.NodeName)
		if !ok {
			continue
		}
		for _, pod := range c.stores.podsOn(node.Name) {
			if mover(pod, node) != nil {
				note(out, name, c.workloadOf(pod))
			}
		}
	}
	return out
}

// note counts a move.
func note(moves map[string]map[string]int, claim, workload string) {
	if moves[claim] == nil {
		moves[claim] = map[string]int{}
	}
	moves[claim][workload]++
}

// pledge says what is under way to whoever weighs nodes: no workload's moves are
// promised twice, and no pods are moved to nodes that are to go.
func (c *consolidation) pledge() {
	sum, claims := map[string]int{}, map[string]bool{}
	for _, i := range c.intents {
		for _, name := range i.claims {
			claims[name] = true
		}
		for claim, moves := range i.moves {
			for w, n := range moves {
				if !i.counted[claim] {
					sum[w] += n
				}
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pledged, c.underway = sum, claims
}

// count puts the moves of claims that were told to go into the history: no
// sooner, for what is only decided may be dropped, and is weighed against what
// the history leaves.
func (c *consolidation) count(i *intent, now time.Time) {
	for _, name := range i.claims {
		if i.counted[name] || c.stays(name) {
			continue
		}
		if i.counted == nil {
			i.counted = map[string]bool{}
		}
		i.counted[name] = true
		c.history.add(i.moves[name], now)
	}
}

// stays reports whether a claim is still to be told to go.
func (c *consolidation) stays(name string) bool {
	claim, ok := one[*v1alpha1.NodeClaim](c.stores.claims, name)
	if !ok || claim.DeletionTimestamp != nil {
		return false
	}
	_, goes := c.removing.Load(claim.UID) // The cache may be behind.
	return !goes
}

// beingClaimed reports whether replacements of these claims are being stored.
func (c *consolidation) beingClaimed(victims string) bool {
	return slices.ContainsFunc(c.intents, func(i *intent) bool {
		return i.asked != nil && strings.Join(i.claims, ",") == victims
	})
}

// reserved reports whether a claim was bought in place of others that are still
// there.
func (p *Loops) reserved(claim *v1alpha1.NodeClaim) bool {
	list := claim.Annotations[v1alpha1.AnnotationReplaces]
	if list == "" {
		return false
	}
	return slices.ContainsFunc(strings.Split(list, ","), func(name string) bool {
		_, ok := one[*v1alpha1.NodeClaim](p.stores.claims, name)
		return ok
	})
}

// advance ends intents that are carried out, or that cannot be any more.
func (c *consolidation) advance(now time.Time, byClaim map[string]candidate) {
	c.intents = slices.DeleteFunc(c.intents, func(i *intent) bool {
		c.count(i, now)
		done, why, failed := c.look(i, now, byClaim)
		switch {
		case done:
			c.finish(i)
		case why != "":
			c.drop(i, now, why, failed)
		}
		return done || why != ""
	})
}

// look says whether an intent is carried out, or why it cannot be any more, and
// whether that is to be remembered against its nodes.
func (c *consolidation) look(i *intent, now time.Time, byClaim map[string]candidate) (done bool, why string, failed bool) {
	alive, cordoned := 0, 0
	for _, name := range i.claims {
		if n, ok := byClaim[name]; ok {
			alive++
			if drain.Cordoned(n.node) {
				cordoned++
			}
		}
	}
	switch {
	case alive > 0:
	case slices.ContainsFunc(i.claims, c.stays):
		return false, "their Provisioner or their Nodes are gone", false
	default:
		return true, "", false
	}
	if i.asked != nil {
		names, err, answered := i.asked.answer()
		if !answered {
			return false, "", false
		}
		if err != "" {
			return false, err, true
		}
		i.replacements, i.asked = names, nil
	}
	ready := true
	for _, name := range i.replacements {
		claim, ok := one[*v1alpha1.NodeClaim](c.stores.claims, name)
		if !ok && c.book.unseen(name) {
			ready = false
			continue
		}
		if !ok || claim.DeletionTimestamp != nil {
			return false, "the node that was bought in their place is gone", true
		}
		ready = ready && isTrue(claim.Status.Conditions, v1alpha1.ConditionInitialized)
	}
	switch {
	case !ready:
		i.readyAt = time.Time{}
	case i.readyAt.IsZero():
		i.readyAt = now
	}
	if cordoned > 0 && cordoned == alive {
		i.cordoned = true
	}
	switch {
	case i.cordoned && cordoned == 0:
		return false, "the nodes were put back into use", true
	case !i.readyAt.IsZero() && !i.cordoned && now.Sub(i.readyAt) > beginWithin:
		return false, "the nodes could not be taken out of use in time", i.wanted > 0
	}
	return false, "", false
}

// begin starts decisions of the last sweep, as far as budgets allow.
func (c *consolidation) begin(now time.Time, byClaim map[string]candidate) {
	c.mu.Lock()
	planned, at := c.planned, c.plannedAt
	c.planned = nil
	c.mu.Unlock()
	if len(planned) == 0 || now.Sub(at) > planFresh {
		return
	}
	room := c.d.allowances(now)
	busy, awaited := map[string]bool{}, map[string]bool{}
	for _, i := range c.intents {
		for _, name := range i.onto {
			awaited[name] = true
		}
		for _, name := range append(slices.Clone(i.claims), i.replacements...) {
			busy[name] = true
			if n, ok := byClaim[name]; ok && slices.Contains(i.claims, name) && !drain.Cordoned(n.node) {
				room[budgetKey{n.provisioner.Name, v1alpha1.ReasonConsolidated}]--
			}
		}
	}
	var wait []capacity.Decision
	for k := range planned {
		d := &planned[k]
		p := proposal{reason: v1alpha1.ReasonConsolidated}
		free := true
		for _, n := range d.Nodes {
			cand, ok := byClaim[n.Claim]
			free = free && ok && !busy[n.Claim] && !awaited[n.Claim] && !drain.Cordoned(cand.node)
			p.nodes = append(p.nodes, cand)
		}
		// The sweep may not have known yet what was begun since.
		free = free && !slices.ContainsFunc(d.Moves, func(m capacity.Move) bool { return m.To != nil && busy[m.To.Claim] })
		if !free || c.d.holds(p, now) != "" {
			continue
		}
		if !room.take(p) {
			c.metrics.blocked.WithLabelValues(p.nodes[0].provisioner.Name, string(p.reason)).Inc()
			wait = append(wait, *d)
			continue
		}
		c.start(d, now)
	}
	// What is left over may be begun when others are done, until the next sweep.
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.planned == nil {
		c.planned = wait
	}
}

// start makes an intent of a decision.
func (c *consolidation) start(d *capacity.Decision, now time.Time) {
	i := &intent{why: d.Why, saving: d.Saving, moves: map[string]map[string]int{}, wanted: len(d.Launches)}
	for _, n := range d.Nodes {
		i.claims = append(i.claims, n.Claim)
	}
	for k := range d.Moves {
		note(i.moves, d.Moves[k].From.Claim, c.workloadOf(d.Moves[k].Pod))
		if to := d.Moves[k].To; to != nil && !slices.Contains(i.onto, to.Claim) {
			i.onto = append(i.onto, to.Claim)
		}
	}
	c.log.Info("consolidation decided", "claims", i.claims, "replacements", len(d.Launches), "moves", len(d.Moves), "saving", d.Saving, "why", d.Why)
	if len(d.Launches) > 0 {
		i.asked = &wish{launches: d.Launches, victims: i.claims, why: d.Why}
		c.wishes.add(i.asked)
		c.trigger()
	} else {
		i.readyAt = now
	}
	c.intents = append(c.intents, i)
}

// recheck weighs the intents whose replacements are ready once more, and returns
// those that hold.
func (c *consolidation) recheck(now time.Time, byClaim map[string]candidate) []*intent {
	var ready []*intent
	due := false
	for _, i := range c.intents {
		if !i.readyAt.IsZero() && i.asked == nil {
			ready = append(ready, i)
			due = due || now.Sub(i.checkedAt) >= recheckEvery
		}
	}
	if !due {
		return ready
	}
	chosen := map[string]bool{}
	list := make([]capacity.Intent, len(ready))
	for k, i := range ready {
		for _, name := range i.claims {
			if n, ok := byClaim[name]; ok {
				chosen[name] = true
				list[k].Nodes = append(list[k].Nodes, n.node.Name)
			}
		}
		for _, name := range i.replacements {
			if n, ok := byClaim[name]; ok {
				list[k].Replacements = append(list[k].Replacements, n.node.Name)
			} else {
				list[k].Replacements = append(list[k].Replacements, name)
			}
		}
	}
	var out []*intent
	for k, why := range capacity.Recheck(c.input(now, chosen), list) {
		i := ready[k]
		i.checkedAt = now
		if why != "" {
			c.drop(i, now, why, i.wanted > 0)
			c.intents = slices.DeleteFunc(c.intents, func(o *intent) bool { return o == i })
			continue
		}
		out = append(out, i)
	}
	return out
}

// finish counts what an intent has brought.
func (c *consolidation) finish(i *intent) {
	moves := 0
	for _, byWorkload := range i.moves {
		for _, n := range byWorkload {
			moves += n
		}
	}
	c.metrics.consolidated.WithLabelValues(i.kind(), "done").Inc()
	c.metrics.moves.Add(float64(moves))
	c.metrics.saved.Add(i.saving)
	c.log.Info("consolidation done", "claims", i.claims, "replacements", i.replacements, "saving", i.saving, "moves", moves)
}

// drop gives an intent up: its replacements are ordinary nodes from now on.
// failed: its nodes are not to be replaced for a while.
func (c *consolidation) drop(i *intent, now time.Time, why string, failed bool) {
	c.metrics.consolidated.WithLabelValues(i.kind(), "dropped").Inc()
	c.log.Info("consolidation dropped", "claims", i.claims, "replacements", i.replacements, "why", why)
	for _, name := range i.claims {
		if failed {
			c.history.fail(name, why, now)
		}
		if claim, ok := one[*v1alpha1.NodeClaim](c.stores.claims, name); ok {
			c.cfg.Recorder.Eventf(claim, nil, corev1.EventTypeNormal, "ConsolidationDropped", "Disrupt", "%s", clip(why))
		}
	}
	for _, name := range i.replacements {
		c.dropped[name] = now
		c.wishes.release(name)
	}
	if len(i.replacements) > 0 {
		c.trigger()
	}
}

// policies of the Provisioners that consolidate now, by name.
func (c *consolidation) policies(now time.Time) map[string]capacity.ConsolidationPolicy {
	out := map[string]capacity.ConsolidationPolicy{}
	for _, pr := range all[*v1alpha1.Provisioner](c.stores.provisioners) {
		if pr.Spec.Consolidation != nil && pr.Spec.Consolidation.Enabled && pr.DeletionTimestamp == nil && c.paused(v1alpha1.AnnotationPauseDisruption, pr, now).IsZero() {
			out[pr.Name] = policyOf(&pr.Spec)
		}
	}
	return out
}

// policyOf fills in the defaults (docs/provisioner.md).
func policyOf(spec *v1alpha1.ProvisionerSpec) capacity.ConsolidationPolicy {
	s := spec.Consolidation
	p := capacity.ConsolidationPolicy{MinSaving: 0.05, Payback: time.Hour, MoveCost: 0.002, MinNodeAge: 10 * time.Minute,
		Settle: 5 * time.Minute, MovesPercent: 100, LeaveEmpty: spec.TTLSecondsAfterEmpty != nil}
	if s.MinSavingsPercent != nil {
		p.MinSaving = float64(*s.MinSavingsPercent) / 100
	}
	if s.Payback != nil {
		p.Payback = s.Payback.Duration
	}
	if s.MoveCost != "" {
		p.MoveCost = s.MoveCost.Dollars()
	}
	if s.MinNodeAge != nil {
		p.MinNodeAge = s.MinNodeAge.Duration
	}
	if s.Settle != nil {
		p.Settle = s.Settle.Duration
	}
	if s.MovesPerDay != "" {
		var n int
		if _, err := fmt.Sscanf(s.MovesPerDay, "%d", &n); err == nil {
			p.MovesPerDay, p.MovesPercent = n, 0
			if strings.HasSuffix(s.MovesPerDay, "%") {
				p.MovesPerDay, p.MovesPercent = 0, n
			}
		}
	}
	return p
}
