package capacity

import (
	corev1 "k8s.io/api/core/v1"
)

// cordoned is the taint of nodes that take nothing new.
var cordoned = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

// tolerates says whether one of the tolerations tolerates the taint, by the
// rules of kube-scheduler (without the alpha operators Lt and Gt, which
// tolerate nothing unless a feature gate is on).
func tolerates(ts []corev1.Toleration, taint *corev1.Taint) bool {
	for i := range ts {
		t := &ts[i]
		if t.Effect != "" && t.Effect != taint.Effect {
			continue
		}
		if t.Key != "" && t.Key != taint.Key {
			continue
		}
		switch t.Operator {
		case "", corev1.TolerationOpEqual:
			if t.Value == taint.Value {
				return true
			}
		case corev1.TolerationOpExists:
			return true
		}
	}
	return false
}

// untolerated is the first taint that keeps a pod with these tolerations off a
// node, nil when none does. PreferNoSchedule keeps nobody off.
func untolerated(ts []corev1.Toleration, taints []corev1.Taint) *corev1.Taint {
	for i := range taints {
		t := &taints[i]
		if t.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(ts, t) {
			return t
		}
	}
	return nil
}

// avoids says whether a PreferNoSchedule taint asks pods with these tolerations
// to stay away.
func avoids(ts []corev1.Toleration, taints []corev1.Taint) bool {
	for i := range taints {
		t := &taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(ts, t) {
			return true
		}
	}
	return false
}

// prefersNot says whether the taint asks pods to stay away but keeps nobody off.
func prefersNot(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectPreferNoSchedule }

// taintString is a taint as kubectl writes it.
func taintString(t *corev1.Taint) string {
	s := t.Key
	if t.Value != "" {
		s += "=" + t.Value
	}
	return s + ":" + string(t.Effect)
}
