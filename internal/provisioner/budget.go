package provisioner

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// defaultBudget holds where a Provisioner names none.
const defaultBudget = "10%"

// allowed is how many of a Provisioner's nodes may be on their way out at the
// same time for a reason: the strictest of its budgets in force at now. Where
// no budget speaks of the reason it is 10 %, rounded up — and everything for
// empty nodes, whose removal disrupts nobody.
func allowed(d *v1alpha1.Disruption, why v1alpha1.DisruptionReason, total int, now time.Time) (int, error) {
	least, spoken := total, false
	if d != nil {
		for i, b := range d.Budgets {
			if len(b.Reasons) > 0 && !slices.Contains(b.Reasons, why) {
				continue
			}
			spoken = true
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
			least = min(least, n)
		}
	}
	if spoken || why == v1alpha1.ReasonEmpty {
		return least, nil
	}
	return share(defaultBudget, total)
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
