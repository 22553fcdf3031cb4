package provisioner

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/berth-dev/berth/internal/drain"
)

const (
	// underwayMost bounds how long a node that was taken out of use waits for bindings
	// that may be under way.
	underwayMost = time.Minute
	// underwaySkew is by how much a pod has to be younger than a taint to be taken for
	// one that came after it: creation times are whole seconds, of another clock.
	underwaySkew = 2 * time.Second
)

// underway follows how far schedulers are with their writes. kube-scheduler decides
// faster than it writes: by default 50 times a second, bindings and refusals in one
// queue in the order of its decisions. In a burst, the binding to a node is sent long
// after the decision for it, and nothing shows it until then. Safe for concurrent use.
type underway struct {
	mu sync.Mutex
	// acted is when a scheduler was last seen to bind or refuse a pod, youngest when
	// the youngest such pod was created.
	acted, youngest time.Time
}

// newlyBound reports whether a change of a pod binds it.
func newlyBound(was, is *corev1.Pod) bool { return was.Spec.NodeName == "" && is.Spec.NodeName != "" }

// denominated reports whether a change of a pod takes its nomination away.
func denominated(was, is *corev1.Pod) bool {
	return was.Status.NominatedNodeName != "" && is.Status.NominatedNodeName == ""
}

// see looks at a change of a pod for the hand of a scheduler.
func (u *underway) see(was, is *corev1.Pod, now time.Time) {
	if !newlyBound(was, is) && !denominated(was, is) && schedulerMessage(was) == schedulerMessage(is) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.acted = now
	if is.CreationTimestamp.After(u.youngest) {
		u.youngest = is.CreationTimestamp.Time
	}
}

// rests is when schedulers will have done nothing for drain.MinDrain, if they do
// nothing more; the zero time when they have come to pods that are younger than a
// taint, so that what they decided before it is written.
func (u *underway) rests(taint time.Time) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.youngest.After(taint.Add(underwaySkew)) {
		return time.Time{}
	}
	return u.acted.Add(drain.MinDrain)
}

// settledAt is from when on, as it looks now, no scheduler binds pods to a node any
// more whose taint our watch showed at seen. For drain.MinDrain a scheduler may not
// have seen the taint yet; longer than that, bindings from before it may be under way.
func (p *Loops) settledAt(node *corev1.Node, seen, now time.Time) time.Time {
	at := seen.Add(drain.MinDrain)
	if until := p.bindingsUntil(node, seen, now); until.After(at) {
		return until
	}
	return at
}

// bindingsUntil is until when bindings to a node may be under way that were decided
// before a time, as it looks now: as long as pods of that time wait that may run there
// and schedulers are busy. The zero time: there are none.
func (p *Loops) bindingsUntil(node *corev1.Node, decided, now time.Time) time.Time {
	until := p.underway.rests(decided)
	if latest := decided.Add(underwayMost); until.After(latest) {
		until = latest
	}
	if !until.After(now) || !p.mayBeChosen(node, decided) {
		return time.Time{}
	}
	return until
}

// mayBeChosen reports whether a pod waits that a scheduler may have given the node
// before a time.
func (p *Loops) mayBeChosen(node *corev1.Node, before time.Time) bool {
	for _, pod := range p.stores.podsBy(unboundIndex, unboundIndex) {
		if pod.CreationTimestamp.After(before) || len(pod.Spec.SchedulingGates) > 0 {
			continue
		}
		if fits, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err == nil && !fits {
			continue
		}
		if !keptOff(pod, node, func(t *corev1.Taint) bool { return !drain.IsOurs(*t) }) {
			return true
		}
	}
	return false
}
