package capacity

import (
	"fmt"
	"maps"
	"math"

	corev1 "k8s.io/api/core/v1"
)

// CheckCounters plans a Snapshot and, with the Snapshot alone, with the plan's
// pods in their places and with the order of binding proven, counts for each
// counter the pods on all nodes one by one. It returns what a counter says
// otherwise; empty: nothing.
func CheckCounters(s *Snapshot, m *Memory) string {
	v := newSolver(s)
	v.memory, v.boundless = m, true
	v.groupPods()
	v.prepare()
	v.bins = v.existingBins()
	v.existing = len(v.bins)
	v.left = make([]int, len(v.shapes))
	v.buildCounters()
	if wrong := v.recount(); wrong != "" {
		return "before the plan: " + wrong
	}
	for range 2 {
		v.attemptAll(false)
		for _, x := range v.shapes {
			v.forgetPhantoms(x)
		}
		if wrong := v.recount(); wrong != "" {
			return "after an attempt: " + wrong
		}
		v.prove()
		if wrong := v.recount(); wrong != "" {
			return "after the proof: " + wrong
		}
	}
	return ""
}

// recount is the naive computation of all counters.
func (v *solver) recount() string {
	for _, s := range v.shapes {
		var keys []string
		for _, t := range s.spread {
			keys = append(keys, t.key)
		}
		all := func(p *corev1.Pod) bool { return s.affinityMatches(v, p.Namespace, p.Labels) }
		for i, t := range s.affinity {
			if wrong := v.recountOne(s.affinityCounts[i], t.key, all, everyBin); wrong != "" {
				return wrong
			}
		}
		for i, t := range s.anti {
			if wrong := v.recountOne(s.antiCounts[i], t.key, v.selectedBy(t.q), everyBin); wrong != "" {
				return wrong
			}
		}
		for i := range s.spread {
			t := &s.spread[i]
			eligible := func(b *bin) bool {
				for _, k := range keys {
					if _, ok := v.label(b, k); !ok {
						return false
					}
				}
				return (!t.honorAffinity || v.matchesBin(s.selects, b)) &&
					(!t.honorTaints || untolerated(s.pod.Spec.Tolerations, b.taints) == nil &&
						(b.node == nil || !b.node.Unschedulable || tolerates(s.pod.Spec.Tolerations, &cordoned)))
			}
			counts := func(p *corev1.Pod) bool {
				return !t.countsNothing && p.DeletionTimestamp == nil && v.selectedBy(t.q)(p)
			}
			if wrong := v.recountOne(s.spreadCounts[i], t.key, counts, eligible); wrong != "" {
				return wrong
			}
		}
		if wrong := v.recountHeld(s); wrong != "" {
			return wrong
		}
	}
	return ""
}

func everyBin(*bin) bool { return true }

func (v *solver) selectedBy(q *query) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return q.matches(v.snap.Namespaces, p.Namespace, p.Labels) }
}

// residentsOn are all pods on a bin, each shape's as often as it has pods there.
func residentsOn(b *bin, f func(p *corev1.Pod, s *shape, n int)) {
	for _, list := range [2][]*corev1.Pod{b.pods(), b.daemons} {
		for _, p := range list {
			f(p, nil, 1)
		}
	}
	for _, p := range b.placed {
		f(p.s.pod, p.s, p.n)
	}
}

func (v *solver) recountOne(c *counter, key string, matches func(*corev1.Pod) bool, eligible func(*bin) bool) string {
	counts, known := map[string]int{}, map[string]bool{}
	for _, b := range v.bins {
		val, ok := v.label(b, key)
		if !ok || !eligible(b) {
			continue
		}
		known[val] = true
		residentsOn(b, func(p *corev1.Pod, _ *shape, n int) {
			if matches(p) {
				counts[val] += n
			}
		})
	}
	sum, low := 0, 0
	if len(known) > 0 {
		low = math.MaxInt
	}
	for val := range known {
		sum += counts[val]
		low = min(low, counts[val])
	}
	maps.DeleteFunc(counts, func(_ string, n int) bool { return n == 0 })
	if !maps.Equal(counts, c.counts) || sum != c.total() {
		return fmt.Sprintf("by %s: %v, sum %d; it is %v", key, c.counts, c.total(), counts)
	}
	if c.realm == nil {
		return ""
	}
	for val := range known {
		if !c.known(val) {
			return fmt.Sprintf("by %s: %s is not known", key, val)
		}
	}
	if c.domains() != len(known) || c.least(1) != low {
		return fmt.Sprintf("by %s: %d domains, the least has %d; they are %v with %v", key, c.domains(), c.least(1), known, counts)
	}
	return ""
}

// recountHeld compares where anybody who is there keeps the shape off.
func (v *solver) recountHeld(s *shape) string {
	type place struct{ key, val string }
	want, got := map[place]bool{}, map[place]bool{}
	for _, b := range v.bins {
		residentsOn(b, func(p *corev1.Pod, _ *shape, _ int) {
			_, anti := affinityTerms(p)
			for _, t := range anti {
				if val, ok := v.label(b, t.key); ok && v.selfMatches(t.q, s) {
					want[place{t.key, val}] = true
				}
			}
		})
	}
	for _, c := range s.heldOff {
		for val, n := range c.counts {
			if n > 0 {
				got[place{c.key, val}] = true
			}
		}
	}
	if !maps.Equal(want, got) {
		return fmt.Sprintf("%s is kept off %v; it is %v", s.pod.Name, got, want)
	}
	return ""
}
