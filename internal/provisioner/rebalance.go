package provisioner

import (
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const (
	// adviceFor is how long a recommendation is remembered: then the instance has
	// either been taken or was not at risk.
	adviceFor = time.Hour
	// rebalanceAge is how old a node must be before it is replaced on a
	// recommendation. A recommendation for a new node says that its pool is no
	// better than the one before: following it would go on for ever.
	rebalanceAge = 10 * time.Minute
	// rebalanceEvery bounds the rate: in that time a tenth of a Provisioner's
	// nodes are replaced on recommendations, and at least one.
	rebalanceEvery = 10 * time.Minute
)

// advice is EC2's recommendations, by claim. They can be lost: EC2 gives a
// notice before it takes an instance. The zero value is ready. Safe for
// concurrent use.
type advice struct {
	mu sync.Mutex
	at map[types.UID]time.Time
}

// note remembers a recommendation. Repetitions of one that counts change nothing.
func (a *advice) note(claim types.UID, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at == nil {
		a.at = map[types.UID]time.Time{}
	}
	if old, known := a.at[claim]; !known || at.Sub(old) >= adviceFor {
		a.at[claim] = at
	}
}

// valid reports whether there is a recommendation for a claim that still counts.
func (a *advice) valid(claim types.UID, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.at[claim]
	return ok && now.Sub(at) < adviceFor
}

// tidy forgets what is too old to count.
func (a *advice) tidy(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid, at := range a.at {
		if now.Sub(at) >= 2*adviceFor {
			delete(a.at, uid)
		}
	}
}

// rebalancing proposes spot nodes that EC2 recommends to move off, where their
// Provisioner wants that. Their pods get room elsewhere first.
type rebalancing struct {
	*Loops
	// begun is when nodes of a Provisioner were proposed first, by claim.
	begun map[string]map[types.UID]time.Time
}

func (r *rebalancing) propose(now time.Time, nodes []candidate) ([]proposal, time.Duration) {
	r.advice.tidy(now)
	total := map[string]int{}
	for _, c := range nodes {
		total[c.provisioner.Name]++
	}
	for name, begun := range r.begun {
		for uid, at := range begun {
			if now.Sub(at) >= rebalanceEvery && !r.advice.valid(uid, now) {
				delete(begun, uid)
			}
		}
		if len(begun) == 0 {
			delete(r.begun, name)
		}
	}
	var out []proposal
	for _, c := range nodes {
		d := c.provisioner.Spec.Disruption
		if d == nil || d.Rebalance != v1alpha1.RebalanceReplace || !r.advice.valid(c.claim.UID, now) {
			continue
		}
		if !r.may(c, total[c.provisioner.Name], now) {
			continue
		}
		out = append(out, proposal{reason: v1alpha1.ReasonInterrupted, nodes: []candidate{c},
			why: fmt.Sprintf("EC2 recommends to move off spot instance %s (%s in %s)", c.claim.Status.InstanceID, c.claim.Status.InstanceType, c.claim.Status.Zone)})
	}
	return out, 0
}

// may is the guard against loops: not for young nodes, and only so many in
// rebalanceEvery. One that was begun goes on.
func (r *rebalancing) may(c candidate, total int, now time.Time) bool {
	begun := r.begun[c.provisioner.Name]
	if _, ok := begun[c.claim.UID]; ok {
		return true
	}
	if now.Sub(c.claim.CreationTimestamp.Time) < rebalanceAge {
		return false
	}
	recent := 0
	for _, at := range begun {
		if now.Sub(at) < rebalanceEvery {
			recent++
		}
	}
	if recent >= max(1, total/10) {
		return false
	}
	if begun == nil {
		begun = map[types.UID]time.Time{}
		if r.begun == nil {
			r.begun = map[string]map[types.UID]time.Time{}
		}
		r.begun[c.provisioner.Name] = begun
	}
	begun[c.claim.UID] = now
	return true
}
