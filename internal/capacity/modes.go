package capacity

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// waiters are those of the shapes that others must be placed before: those to be
// divided whose domains hang on shapes that are placed pod by pod, and of these
// the ones that want to be near such.
func (v *solver) waiters(shapes []*shape) map[*shape]bool {
	var before []*shape
	for _, s := range shapes {
		if s.mode == modeCareful {
			before = append(before, s)
		}
	}
	waits := map[*shape]bool{}
	for len(before) > 0 {
		var found []*shape
		for _, s := range shapes {
			if s.mode == modeSplit && !waits[s] && slices.ContainsFunc(before, func(o *shape) bool { return o != s && v.dividedAfter(s, o) }) {
				found = append(found, s)
				waits[s] = true
			}
		}
		before = found
	}
	more := maps.Clone(waits)
	for had := 0; had < len(more); {
		had = len(more)
		for _, s := range shapes {
			if s.mode == modeCareful && !more[s] && len(s.affinity) > 0 && slices.ContainsFunc(shapes, func(o *shape) bool {
				return more[o] && s.affinityMatches(v, o.pod.Namespace, o.pod.Labels)
			}) {
				more[s] = true
			}
		}
	}
	if len(more) == len(shapes) {
		return waits
	}
	return more
}

// classify chooses how each shape is planned.
func (v *solver) classify() {
	v.hostAffine = v.hostAffine[:0]
	for _, s := range v.shapes {
		if s.hostAffine() {
			v.hostAffine = append(v.hostAffine, s)
		}
	}
	for _, s := range v.shapes {
		s.mode, s.counted = v.modeOf(s), false
	}
	// Who is divided must know the domains of those that its own hang on.
	counted := map[*counter]bool{}
	for _, s := range v.shapes {
		if s.mode != modeSplit {
			continue
		}
		for _, list := range [2][]*counter{s.affinityCounts, s.spreadCounts} {
			for _, c := range list {
				if c.key != corev1.LabelHostname {
					counted[c] = true
				}
			}
		}
	}
	for _, s := range v.shapes {
		if s.mode == modeLocal && slices.ContainsFunc(s.adds, func(c *counter) bool { return counted[c] }) {
			s.mode, s.counted = modeSplit, true
		}
	}
}

func (v *solver) modeOf(s *shape) shapeMode {
	if v.careful[s.id] || len(s.limited) > 0 {
		return modeCareful
	}
	for i, c := range s.spreadCounts {
		// Where all hosts have a pod that counts, they fill evenly beyond one each if
		// that is done pod by pod; packed, hosts with one each would be the most.
		if c.meetsDaemons && c.key == corev1.LabelHostname && s.spread[i].maxSkew == 1 {
			return modeCareful
		}
	}
	mode := modeLocal
	for _, t := range s.affinity {
		if t.key == corev1.LabelHostname {
			return modeCareful
		}
		mode = modeSplit
	}
	for _, o := range v.hostAffine {
		// Whoever must share a host with it needs room beside it.
		if o != s && o.affinityMatches(v, s.pod.Namespace, s.pod.Labels) {
			return modeCareful
		}
	}
	for _, t := range s.anti {
		if t.key != corev1.LabelHostname {
			mode = modeSplit
		}
	}
	for _, t := range s.spread {
		if t.key != corev1.LabelHostname {
			mode = modeSplit
		}
	}
	// Others may keep it apart from them, too.
	for _, c := range s.heldOff {
		if c.key != corev1.LabelHostname {
			mode = modeSplit
		}
	}
	return mode
}

// dividedAfter says whether the domains that the shape s may be divided among
// hang on where o goes.
func (v *solver) dividedAfter(s, o *shape) bool {
	if s.affinityMatches(v, o.pod.Namespace, o.pod.Labels) {
		return true
	}
	for _, t := range s.anti {
		if t.key != corev1.LabelHostname && v.selfMatches(t.q, o) {
			return true
		}
	}
	for _, t := range s.spread {
		tied := len(o.spread) > 0 || len(o.affinity) > 0
		if t.key != corev1.LabelHostname && !t.countsNothing && tied && v.selfMatches(t.q, o) {
			return true
		}
	}
	return false
}
