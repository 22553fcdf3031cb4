package drain

import (
	"encoding/json"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// record is the value of v1alpha1.AnnotationCordoned: when a drain began and
// which of its marks were not there before.
type record struct {
	At metav1.Time `json:"at"`
	// LabelAt is when the label was added, which may be later than the taint.
	LabelAt *metav1.Time `json:"labelAt,omitempty"`
	Taint   bool         `json:"taint,omitempty"`
	Label   bool         `json:"label,omitempty"`
}

// excludeValue is what Cordon sets the load-balancer label to. Only the label's
// presence matters to others.
const excludeValue = v1alpha1.Group

// Cordoned reports whether a node carries the taint that keeps new pods off.
func Cordoned(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, IsOurs)
}

// IsOurs reports whether a taint is the one that takes a node out of use.
func IsOurs(t corev1.Taint) bool {
	return t.Key == v1alpha1.TaintDisrupted && t.Effect == corev1.TaintEffectNoSchedule
}

// Hold takes a node out of use for new pods, while those on it go on: the taint
// alone, and the annotation that remembers whether it was added and when. It
// reports whether it changed the node.
//
// Taints are a list: write the node with an Update or a patch that carries the
// resourceVersion, or another manager's taint may be lost.
func Hold(node *corev1.Node, now time.Time) (changed bool) {
	return mark(node, now, false)
}

// Cordon marks a node whose pods are about to go: what Hold does, and the label
// that takes it out of load balancers. It reports whether it changed the node.
// Write the node as after Hold.
func Cordon(node *corev1.Node, now time.Time) (changed bool) {
	return mark(node, now, true)
}

func mark(node *corev1.Node, now time.Time, exclude bool) (changed bool) {
	// What an earlier drain added is still ours to take back.
	r, had := readRecord(node)
	if !had {
		r = record{At: metav1.Time{Time: now.UTC().Truncate(time.Second)}}
	}
	if !Cordoned(node) {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{
			Key: v1alpha1.TaintDisrupted, Effect: corev1.TaintEffectNoSchedule,
		})
		r.Taint, changed = true, true
	}
	if exclude && !Excluded(node) {
		if node.Labels == nil {
			node.Labels = map[string]string{}
		}
		node.Labels[corev1.LabelNodeExcludeBalancers] = excludeValue
		r.Label, changed = true, true
		r.LabelAt = &metav1.Time{Time: now.UTC().Truncate(time.Second)}
	}
	if !changed && had {
		return false
	}
	value, err := json.Marshal(r)
	if err != nil {
		panic(err) // a time and two flags: cannot fail
	}
	if node.Annotations == nil {
		node.Annotations = map[string]string{}
	}
	node.Annotations[v1alpha1.AnnotationCordoned] = string(value)
	return true
}

// Excluded reports whether a node carries the label that takes it out of load
// balancers, whoever put it there.
func Excluded(node *corev1.Node) bool {
	_, ok := node.Labels[corev1.LabelNodeExcludeBalancers]
	return ok
}

// Uncordon takes back what Cordon added, and nothing else: a taint or label
// that was there before, or that somebody has changed since, stays. It reports
// whether it changed the node. Write the node as after Cordon.
func Uncordon(node *corev1.Node) (changed bool) {
	r, ok := readRecord(node)
	if !ok {
		return false
	}
	delete(node.Annotations, v1alpha1.AnnotationCordoned)
	if r.Taint {
		node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, IsOurs)
		if len(node.Spec.Taints) == 0 {
			node.Spec.Taints = nil
		}
	}
	if r.Label && node.Labels[corev1.LabelNodeExcludeBalancers] == excludeValue {
		delete(node.Labels, corev1.LabelNodeExcludeBalancers)
	}
	return true
}

// readRecord reads what Cordon wrote. An annotation that is there but makes no
// sense counts as the record of the taint alone: its key is Berth's, so nobody
// else can have meant it, while the label may be somebody's.
func readRecord(node *corev1.Node) (record, bool) {
	value, ok := node.Annotations[v1alpha1.AnnotationCordoned]
	if !ok {
		return record{}, false
	}
	var r record
	if err := json.Unmarshal([]byte(value), &r); err != nil {
		return record{Taint: true}, true
	}
	return r, true
}

// Since is when Hold or Cordon marked the node, in whole seconds; zero where neither
// did.
func Since(node *corev1.Node) time.Time {
	r, _ := readRecord(node)
	return r.At.Time
}

// Deadline is the deadline to record when one is wanted: the earlier of the
// two, in whole seconds as the API stores it. Zero means none.
func Deadline(recorded, wanted time.Time) time.Time {
	wanted = wanted.Truncate(time.Second)
	switch {
	case wanted.IsZero():
		return recorded
	case recorded.IsZero() || wanted.Before(recorded):
		return wanted
	default:
		return recorded
	}
}

// askFor is how long budgets are asked at least before a drain's deadline has pods
// deleted.
const askFor = time.Minute

// Soonest is the earliest deadline that a drain may be given now: its pods are asked to
// go for a while first, and each keeps its own grace period. No later than patience from
// now.
func Soonest(pods []*corev1.Pod, node *corev1.Node, now time.Time, patience time.Duration) time.Time {
	var grace time.Duration
	for _, p := range pods {
		if Counts(p, node) {
			grace = max(grace, graceOf(p))
		}
	}
	return now.Add(min(patience, askFor+grace))
}
