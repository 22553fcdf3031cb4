package main

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// removal is how one node went, as seen from outside.
type removal struct {
	// name of the node, and of the instance behind it.
	node, instance string
	// tainted with TaintDisrupted.
	tainted time.Time
	// evicted is when the first pod began to leave after the removal had
	// begun; zero where none was left then.
	evicted time.Time
	// lastPod is when the last pod had gone from the node; podsLeft are still
	// there.
	lastPod  time.Time
	podsLeft int
	// ending is when the instance was shutting down, terminated when it was.
	ending, terminated time.Time
	// nodeGone and claimGone are when the API objects had gone.
	nodeGone, claimGone time.Time
	// stateAtEnd is the instance's state just after the Node had gone.
	stateAtEnd string
}

// removals collects what is known of the end of every claim's node.
func removals(w *world) []removal {
	var out []removal
	for _, c := range w.byNumber() {
		r := removal{node: c.claim.Status.NodeName, instance: c.claim.Status.InstanceID, claimGone: c.gone}
		if n := w.nodeOf(c); n != nil {
			r.tainted, r.nodeGone, r.stateAtEnd = n.tainted, n.gone, n.stateAtEnd
		}
		if i := w.instances[c.claim.Status.InstanceID]; i != nil {
			r.ending, r.terminated = i.ending, i.terminated
		}
		for _, p := range w.podsOf(c) {
			if p.pod.Status.Phase == corev1.PodSucceeded {
				continue // It has done its work and keeps nothing.
			}
			if p.gone.IsZero() {
				r.podsLeft++
			}
			if p.gone.After(r.lastPod) {
				r.lastPod = p.gone
			}
			// A pod that began to leave before the removal left of itself.
			if !p.deleting.Before(c.deleting) && (r.evicted.IsZero() || p.deleting.Before(r.evicted)) {
				r.evicted = p.deleting
			}
		}
		out = append(out, r)
	}
	return out
}

// disorder says what was wrong with the order of a removal: taint, pods gone,
// instance terminated, Node and claim gone. Empty when it was right.
func (r removal) disorder() []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, r.node+": "+fmt.Sprintf(format, args...)) }
	// before complains unless a was seen, and not after b.
	before := func(a time.Time, what string, b time.Time, then string) {
		switch {
		case a.IsZero():
			say("never seen: %s", what)
		case !b.IsZero() && a.After(b):
			say("%s %d ms before %s", then, a.Sub(b).Milliseconds(), what)
		}
	}
	if r.instance == "" {
		// EC2 never gave one: there is only the claim.
		before(r.claimGone, "the NodeClaim is gone", time.Time{}, "")
		return out
	}
	before(r.tainted, "the node carries the taint", r.ending, "the instance was shutting down")
	if !r.evicted.IsZero() {
		before(r.tainted, "the node carries the taint", r.evicted, "a pod was evicted")
	}
	if r.podsLeft > 0 {
		say("%d pods never went", r.podsLeft)
	}
	if !r.lastPod.IsZero() {
		before(r.lastPod, "the last pod had gone", r.ending, "the instance was shutting down")
	}
	before(r.ending, "the instance is shutting down", r.nodeGone, "the Node was gone")
	before(r.terminated, "the instance is terminated", time.Time{}, "")
	before(r.nodeGone, "the Node is gone", time.Time{}, "")
	before(r.claimGone, "the NodeClaim is gone", time.Time{}, "")
	if !r.nodeGone.IsZero() && r.stateAtEnd != stateTerminated {
		say("the Node was gone while EC2 called its instance %q", r.stateAtEnd)
	}
	return out
}
