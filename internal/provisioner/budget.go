package provisioner

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

// defaultBudget holds where a Provisioner names none.
const defaultBudget = "10%"

// budgeted are the reasons that budgets apply to.
var budgeted = []v1alpha1.DisruptionReason{v1alpha1.ReasonEmpty, v1alpha1.ReasonExpired, v1alpha1.ReasonDrifted, v1alpha1.ReasonConsolidated}

// forcedShare is the key of what may begin to go without asking budgets: as much
// as they would let go for Expired if no other reason used them, and one at least,
// so that budgets that allow nothing hold no node for ever.
const forcedShare v1alpha1.DisruptionReason = "forced"

type budgetKey struct {
	provisioner string
	reason      v1alpha1.DisruptionReason
}

// allowance is how many more nodes may begin to go, by Provisioner and reason.
type allowance map[budgetKey]int

// take uses the budget for all nodes of a proposal that were not begun yet, or
// for none where it is not enough for all. A node that is not ready, or was taken out of
// use for another reason, uses none, but goes only where those that do not work are no
// more than the budget allows. Of forcedShare each node uses one.
func (r allowance) take(p proposal) bool {
	begins, need := map[string]int{}, map[string]int{}
	for _, c := range p.nodes {
		if c.leaving() == p.reason {
			continue
		}
		name := c.provisioner.Name
		begins[name]++
		need[name] += 0 // It may be counted already, and still has to ask.
		if nodeReady(c.node) && !drain.Cordoned(c.node) {
			need[name]++
		}
	}
	asks, of := p.reason, need
	if p.forced {
		asks, of = forcedShare, begins
	}
	if slices.Contains(budgeted, p.reason) {
		for name, n := range of {
			if r[budgetKey{name, asks}] < n {
				return false
			}
		}
	}
	for name, n := range need {
		// A node on its way out counts for every reason.
		for _, why := range budgeted {
			r[budgetKey{name, why}] -= n
		}
		if p.reason == v1alpha1.ReasonExpired {
			r[budgetKey{name, forcedShare}] -= begins[name]
		}
	}
	return true
}

// allowances counts what is left of each Provisioner's budgets.
func (d *disruption) allowances(now time.Time) allowance {
	total, going, expired := map[string]int{}, map[string]int{}, map[string]int{}
	for _, c := range all[*v1alpha1.NodeClaim](d.stores.claims) {
		name := c.Spec.Provisioner.Name
		if gone(c) || !isTrue(c.Status.Conditions, v1alpha1.ConditionInitialized) {
			continue // Replacements that are still coming make no budget larger.
		}
		total[name]++
		node, ok := one[*corev1.Node](d.stores.nodes, c.Status.NodeName)
		if c.DeletionTimestamp != nil || !ok || drain.Cordoned(node) || !nodeReady(node) {
			going[name]++ // It does not work, or soon will not.
			if why := cmp.Or(c.Annotations[v1alpha1.AnnotationDisruptionReason], reasonOn(node)); why == string(v1alpha1.ReasonExpired) {
				expired[name]++
			}
		}
	}
	out := allowance{}
	for _, pr := range all[*v1alpha1.Provisioner](d.stores.provisioners) {
		for _, why := range budgeted {
			n, err := allowed(pr.Spec.Disruption, why, total[pr.Name], now)
			if err != nil {
				d.log.Error(err, "a disruption budget cannot be read; nothing is disrupted", "provisioner", pr.Name)
			}
			out[budgetKey{pr.Name, why}] = n - going[pr.Name]
			if why == v1alpha1.ReasonExpired {
				out[budgetKey{pr.Name, forcedShare}] = max(1, n) - expired[pr.Name]
			}
		}
	}
	return out
}

// reasonOn is for what a node was taken out of use; there may be no node.
func reasonOn(node *corev1.Node) string {
	if node == nil {
		return ""
	}
	return node.Annotations[v1alpha1.AnnotationDisruptionReason]
}

// allowed is how many of a Provisioner's nodes may be on their way out at the
// same time for a reason: the strictest of its budgets in force at now. Where
// no budget speaks of the reason it is 10 %, rounded up — and everything for
// empty nodes, whose removal disrupts nobody.
//
// Budgets with window Allow for the reason count as one, which allows what the
// largest of those in force does, and nothing while none is.
func allowed(d *v1alpha1.Disruption, why v1alpha1.DisruptionReason, total int, now time.Time) (int, error) {
	least, spoken := total, false
	windows, open := false, 0
	if d != nil {
		for i, b := range d.Budgets {
			if len(b.Reasons) > 0 && !slices.Contains(b.Reasons, why) {
				continue
			}
			spoken = true
			windows = windows || b.Window == v1alpha1.WindowAllow
			active, err := inForce(b, now)
			if err != nil {
				return 0, fmt.Errorf("disruption.budgets[%d]: %w", i, err)
			}
			if !active {
				continue
			}
			n, err := share(b.Nodes, total)
			if err != nil {
				return 0, fmt.Errorf("disruption.budgets[%d].nodes: %w", i, err)
			}
			if b.Window == v1alpha1.WindowAllow {
				open = max(open, n)
			} else {
				least = min(least, n)
			}
		}
	}
	switch {
	case windows:
		return min(least, open), nil
	case spoken || why == v1alpha1.ReasonEmpty:
		return least, nil
	default:
		return share(defaultBudget, total)
	}
}

// inForce reports whether now is within duration of the schedule's last time.
func inForce(b v1alpha1.Budget, now time.Time) (bool, error) {
	if b.Schedule == "" || b.Duration == nil {
		return true, nil
	}
	zone := time.UTC
	if b.TimeZone != "" {
		z, err := time.LoadLocation(b.TimeZone)
		if err != nil {
			return false, fmt.Errorf("timeZone: %w", err)
		}
		zone = z
	}
	if strings.Contains(b.Schedule, "=") {
		// The library takes a time zone in the schedule, and panics on some.
		return false, fmt.Errorf("schedule %q: give the time zone as timeZone", b.Schedule)
	}
	s, err := cron.ParseStandard(b.Schedule)
	if err != nil {
		return false, fmt.Errorf("schedule: %w", err)
	}
	// In force if it began after now − duration and not after now.
	began := s.Next(now.In(zone).Add(-b.Duration.Duration))
	return !began.IsZero() && !began.After(now), nil
}

// share reads "3" or "20%" of total, the latter rounded up.
func share(nodes string, total int) (int, error) {
	if p, ok := strings.CutSuffix(nodes, "%"); ok {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 || n > 100 {
			return 0, fmt.Errorf("%q is not a percentage", nodes)
		}
		return int(math.Ceil(float64(total) * float64(n) / 100)), nil
	}
	n, err := strconv.Atoi(nodes)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a number of nodes", nodes)
	}
	return n, nil
}
