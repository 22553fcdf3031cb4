package provisioner

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/drain"
)

const (
	// canaryReady is how long a node of a new kind may be without being ready,
	// and its pods without becoming so, before it counts as unhealthy.
	canaryReady = 5 * time.Minute
	// canaryProof is how long a pod must have been ready on a node of a new kind
	// for it to prove anything: what is about to crash has often been ready once.
	// Containers that fail do so within seconds; each rollout pays this once, and a
	// wave of replacements takes several times as long.
	canaryProof = 10 * time.Second
	// canaryCrashes is how often a container may have been restarted on it.
	canaryCrashes = 3
)

// drift proposes nodes that differ from what would be made today. Of each
// Provisioner one goes first, the canary; when a node of today's kind has proven
// that pods run on it, the others follow as fast as the budgets allow. A node of
// today's kind that is unhealthy stops it all for that target.
type drift struct {
	*Loops
	cloud discoverer
	// holds says what keeps a proposal from going on, as the disruption loop has it.
	holds func(p proposal, now time.Time) string
	// suspects belongs to watch alone.
	suspects map[string]suspicion

	mu sync.Mutex
	// target, by Provisioner, is what it stands for now.
	target map[string]string
	// since, by Provisioner, is when its target became another while we watched.
	since map[string]time.Time
	// asToday, by Provisioner, are the claims that differ from it in nothing.
	asToday map[string]map[string]bool
	// stop, by Provisioner, is why drifted nodes are left alone.
	stop map[string]stop
}

// stop is why a target is not pursued.
type stop struct{ target, reason, message string }

func newDrift(p *Loops, cloud discoverer) *drift {
	return &drift{Loops: p, cloud: cloud, suspects: map[string]suspicion{}, target: map[string]string{}, since: map[string]time.Time{},
		holds:   func(proposal, time.Time) string { return "" },
		asToday: map[string]map[string]bool{}, stop: map[string]stop{}}
}

// compared stores what a comparison found. An empty target is not known yet, so
// that the last one stays.
func (d *drift) compared(provisioner, target string, asToday map[string]bool, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if target != "" {
		if was := d.target[provisioner]; was != "" && was != target {
			d.since[provisioner] = now
		}
		d.target[provisioner] = target
	}
	d.asToday[provisioner] = asToday
}

func (d *drift) stoppedNow(provisioner string) (reason, message string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stop[provisioner]
	return s.reason, s.message
}

// generation is the nodes of one Provisioner, as drift sees them.
type generation struct {
	provisioner *v1alpha1.Provisioner
	drifted     []candidate
	// fresh nodes are as they would be made today.
	fresh []candidate
}

// since is from when on initialized nodes show what today's kind is worth: when
// the first of the others was found to have drifted. after is when the target has
// changed again since then; zero: not that we know.
func (g *generation) since(after time.Time) time.Time {
	var first time.Time
	for _, c := range g.drifted {
		at := meta.FindStatusCondition(c.claim.Status.Conditions, v1alpha1.ConditionDrifted).LastTransitionTime.Time
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	if after.After(first) {
		// Conditions tell whole seconds.
		return after.Truncate(time.Second)
	}
	return first
}

func (d *drift) propose(now time.Time, nodes []candidate) ([]proposal, time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	byName := map[string]*generation{}
	var order []string
	for _, c := range nodes {
		g := byName[c.provisioner.Name]
		if g == nil {
			g = &generation{provisioner: c.provisioner}
			byName[c.provisioner.Name] = g
			order = append(order, c.provisioner.Name)
		}
		if isTrue(c.claim.Status.Conditions, v1alpha1.ConditionDrifted) {
			g.drifted = append(g.drifted, c)
		} else if d.asToday[c.provisioner.Name][c.claim.Name] {
			g.fresh = append(g.fresh, c)
		}
	}
	var out []proposal
	var soon agenda
	for _, name := range order {
		out = append(out, d.roll(byName[name], now, &soon)...)
	}
	return out, soon.next
}

// roll is what may go of one Provisioner's drifted nodes now.
func (d *drift) roll(g *generation, now time.Time, soon *agenda) []proposal {
	pr := g.provisioner
	target := d.target[pr.Name]
	if len(g.drifted) == 0 {
		delete(d.stop, pr.Name)
		return nil
	}
	if target == "" {
		// A new leader goes on with what was begun, and begins nothing yet.
		var begun []proposal
		for _, c := range g.drifted {
			if c.leaving() == v1alpha1.ReasonDrifted {
				begun = append(begun, driftProposal(c))
			}
		}
		return begun
	}
	health := d.judge(g, now)
	soon.in(health.soon)
	d.stop[pr.Name] = d.stopping(g, target, health)
	if d.stop[pr.Name].reason != "" {
		return nil
	}
	var out []proposal
	going := d.goingFor(pr.Name, v1alpha1.ReasonDrifted)
	for _, c := range g.drifted {
		if health.proven || c.leaving() == v1alpha1.ReasonDrifted {
			out = append(out, driftProposal(c))
		}
	}
	if !health.proven && len(out)+going == 0 {
		out = append(out, d.canary(g, now))
	}
	if !health.proven && len(out) > 1 {
		out = out[:1] // After a restart, or a target that changed on the way.
	}
	return out
}

// canary is the first of the drifted nodes that nothing holds: one that must be
// left alone stops no other. Where all are held, the first says why.
func (d *drift) canary(g *generation, now time.Time) proposal {
	for _, c := range g.drifted {
		if p := driftProposal(c); d.holds(p, now) == "" {
			return p
		}
	}
	return driftProposal(g.drifted[0])
}

func driftProposal(c candidate) proposal {
	why := "drifted"
	if cond := meta.FindStatusCondition(c.claim.Status.Conditions, v1alpha1.ConditionDrifted); cond != nil {
		why = cond.Reason + ": " + cond.Message
	}
	return proposal{reason: v1alpha1.ReasonDrifted, nodes: []candidate{c}, why: why}
}

// stopping says whether drift is to stop for a target, and remembers a canary
// that has failed until the target changes or somebody agrees. What a former
// leader found is in the Provisioner's condition.
func (d *drift) stopping(g *generation, target string, h health) stop {
	pr := g.provisioner
	if acknowledged(pr, target) {
		return stop{}
	}
	if was := d.stop[pr.Name]; was.reason == stoppedCanary && was.target == target {
		return was
	}
	told := meta.FindStatusCondition(pr.Status.Conditions, v1alpha1.ConditionDriftStopped)
	if told != nil && told.Status == metav1.ConditionTrue && told.Reason == stoppedCanary && strings.HasSuffix(told.Message, "="+target) {
		return stop{target, stoppedCanary, told.Message}
	}
	if h.sick != "" {
		// Clipped here, so that the way out, by which a new leader knows the target, is not.
		return stop{target, stoppedCanary, fmt.Sprintf("replacing drifted nodes has stopped: %s; %s", clipTo(500, h.sick), howToAcknowledge(pr, target))}
	}
	if most := driftShare(pr); len(g.drifted)*100 > most*(len(g.drifted)+len(g.fresh)) {
		return stop{target, stoppedShare, fmt.Sprintf("%d of %d nodes have drifted, more than disruption.driftShare (%d%%); %s",
			len(g.drifted), len(g.drifted)+len(g.fresh), most, howToAcknowledge(pr, target))}
	}
	return stop{}
}

// driftShare is disruption.driftShare in percent.
func driftShare(pr *v1alpha1.Provisioner) int {
	if d := pr.Spec.Disruption; d != nil && d.DriftShare != "" {
		if n, err := share(d.DriftShare, 100); err == nil {
			return n
		}
	}
	return 100
}

// goingFor is the number of claims that are being removed for a reason.
func (p *Loops) goingFor(provisioner string, why v1alpha1.DisruptionReason) int {
	n := 0
	for _, c := range all[*v1alpha1.NodeClaim](p.stores.claims) {
		if c.Spec.Provisioner.Name == provisioner && c.DeletionTimestamp != nil && !gone(c) && c.Annotations[v1alpha1.AnnotationDisruptionReason] == string(why) {
			n++
		}
	}
	return n
}

// health is what the nodes of today's kind show.
type health struct {
	// proven: pods have run on one of them for canaryProof, and none is sick.
	proven bool
	// soon is in how long one may be proven; 0: not by itself.
	soon time.Duration
	// sick says which is unhealthy; empty: none.
	sick string
}

// judge looks at the nodes of today's kind that have come since it is today's,
// those included that do not run yet. What fails on other nodes too says nothing
// against it.
func (d *drift) judge(g *generation, now time.Time) health {
	var h health
	since := g.since(d.since[g.provisioner.Name])
	old := slices.Clone(g.drifted)
	var judged []candidate
	for _, c := range g.fresh {
		if i := meta.FindStatusCondition(c.claim.Status.Conditions, v1alpha1.ConditionInitialized); i == nil || i.LastTransitionTime.Time.Before(since) {
			old = append(old, c)
			continue
		}
		judged = append(judged, c)
	}
	failsAnyway := sync.OnceValue(func() map[types.UID]bool { return d.failingOn(old, now) })
	for _, c := range judged {
		if why := sickNode(c, now); why != "" {
			return health{sick: why}
		}
		runsIn, sick := podsRun(d.stores.podsOn(c.node.Name), c.node, now, failsAnyway)
		switch {
		case sick != "":
			return health{sick: "on node " + c.node.Name + " " + sick}
		case runsIn == 0:
			h.proven = true
		case runsIn > 0 && (h.soon == 0 || runsIn < h.soon):
			h.soon = runsIn
		}
	}
	alike := capacity.MadeAlike(&g.provisioner.Spec, d.cfg.ClusterName)
	for _, c := range all[*v1alpha1.NodeClaim](d.stores.claims) {
		if c.Spec.Provisioner.Name != g.provisioner.Name || c.Annotations[v1alpha1.AnnotationProvisionerHash] == "" || !alike(c) {
			continue
		}
		launched := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionLaunched)
		if launched != nil && launched.Reason == reasonNeverJoined {
			return health{sick: "the instance of claim " + c.Name + " never joined"}
		}
		if i := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionInitialized); i != nil && i.Reason == reasonNeverInitialized {
			return health{sick: i.Message}
		}
	}
	return h
}

// sickNode says whether an initialized node has stopped being ready for long.
func sickNode(c candidate, now time.Time) string {
	for _, cond := range c.node.Status.Conditions {
		if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue && now.Sub(cond.LastTransitionTime.Time) > canaryReady {
			return "node " + c.node.Name + " is not ready: " + cond.Message
		}
	}
	return ""
}

// failingOn are the controllers whose pods fail on some nodes.
func (d *drift) failingOn(nodes []candidate, now time.Time) map[types.UID]bool {
	out := map[types.UID]bool{}
	for _, c := range nodes {
		for _, p := range d.stores.podsOn(c.node.Name) {
			if uid, ok := controllerOf(p); ok && !terminal(p) && p.DeletionTimestamp == nil && failing(p, now) != "" {
				out[uid] = true
			}
		}
	}
	return out
}

// podsRun reports in how long a workload pod will have been ready on a node for
// canaryProof (0: it has, negative: none is ready), and whether pods fail there
// that do not fail anyway: one of a DaemonSet, or more than half of the workload.
func podsRun(pods []*corev1.Pod, node *corev1.Node, now time.Time, failsAnyway func() map[types.UID]bool) (runsIn time.Duration, sick string) {
	all, bad, last := 0, 0, ""
	runsIn = -1
	for _, p := range pods {
		if terminal(p) || p.DeletionTimestamp != nil {
			continue
		}
		why := failing(p, now)
		if why != "" {
			if uid, ok := controllerOf(p); ok && failsAnyway()[uid] {
				continue
			}
		}
		if !drain.Counts(p, node) {
			if why != "" {
				return runsIn, why
			}
			continue
		}
		all++
		if podReady(p) {
			if left := max(0, canaryProof-now.Sub(readyAt(p))); runsIn < 0 || left < runsIn {
				runsIn = left
			}
		}
		if why != "" {
			bad++
			last = why
		}
	}
	if bad*2 > all {
		return runsIn, last
	}
	return runsIn, ""
}

// failing says whether a bound pod fails to run.
func failing(p *corev1.Pod, now time.Time) string {
	name := "pod " + p.Namespace + "/" + p.Name
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Waiting != nil && s.RestartCount >= canaryCrashes {
			return fmt.Sprintf("%s does not stay up: %s after %d restarts", name, s.State.Waiting.Reason, s.RestartCount)
		}
	}
	if podReady(p) {
		return ""
	}
	// Since it came, or since it was ready last.
	since := boundAt(p)
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.LastTransitionTime.After(since) {
			since = c.LastTransitionTime.Time
		}
	}
	if now.Sub(since) > canaryReady {
		return fmt.Sprintf("%s has not been ready for %s", name, canaryReady)
	}
	return ""
}

// machine returns EC2's facts about a type; nil when they are not known.
func (c *catalogue) machine(name string) *capacity.Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byName[name]
}
