package drain

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const (
	// MinDrain is the least time between our watch showing the taint and the
	// end of a drain: a scheduler that has not seen the taint yet may still
	// bind pods here. It is also the least time between the node's leaving load
	// balancers and that end.
	MinDrain = 5 * time.Second
	// stuckAfter is how long beyond its own deletion time a terminating pod is
	// waited for. Its containers are long dead, or nobody can tell.
	stuckAfter = time.Minute
	// silentAfter is how long after it was told to go a pod is waited for while its
	// kubelet does not report, however long its grace period: nobody will say that
	// it has ended, and whatever still runs ends with the instance.
	silentAfter = time.Minute
	// clockSkew between us and the API server that is not worth a write.
	clockSkew = 5 * time.Second
	// maxGrace bounds grace periods against overflow.
	maxGrace = 365 * 24 * time.Hour
	// criticalPriority is where the priorities of system classes begin
	// (twice the highest user-definable priority).
	criticalPriority = 2_000_000_000
)

// NodeFacts is what a drain must know of its node.
type NodeFacts struct {
	Name string
	UID  types.UID
	// TaintSeen is when the caller's own watch first showed the node with the
	// taint; zero while it has not. Nothing is evicted before.
	TaintSeen time.Time
	// CordonedAt is when Cordon tainted the node; zero when it is not known.
	CordonedAt time.Time
	// ExcludedAt is when Cordon took the node out of load balancers; zero when
	// that was not Cordon, or is not known.
	ExcludedAt time.Time
	// Unreachable: the kubelet has stopped reporting, so nobody will confirm
	// that a volume is unmounted.
	Unreachable bool
}

// Facts reads the facts of a node. taintSeen is when the caller's watch first
// showed it with the taint; it counts only while the taint is there.
func Facts(node *corev1.Node, taintSeen time.Time) NodeFacts {
	f := NodeFacts{Name: node.Name, UID: node.UID}
	if Cordoned(node) {
		f.TaintSeen = taintSeen
	}
	if c, ok := readRecord(node); ok {
		f.CordonedAt = c.At.Time
		if c.LabelAt != nil {
			f.ExcludedAt = c.LabelAt.Time
		}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown {
			f.Unreachable = true
		}
	}
	return f
}

// Action is what a pass does about a pod.
type Action string

// Actions.
const (
	// Evict asks the API server, which asks the pod's disruption budgets.
	Evict Action = "Evict"
	// Delete asks nobody.
	Delete Action = "Delete"
	// Wait for the pod to go, or for its turn.
	Wait Action = "Wait"
	// Skip the pod: it keeps nothing from ending the node.
	Skip Action = "Skip"
)

// Tier is the order in which pods go: none of a tier before all of the one
// below have left.
type Tier int

// Tiers.
const (
	TierOrdinary Tier = iota
	// TierCritical is system-cluster-critical and system-node-critical: what
	// the others may need while they leave (DNS, storage, network).
	TierCritical
)

// Verdict is what is to be done about one pod, and why.
type Verdict struct {
	Pod    *corev1.Pod
	Action Action
	Tier   Tier
	// Grace to send with Delete: at least a second.
	Grace time.Duration
	// Reason in a few words, for a person.
	Reason string
	// Until is when the verdict changes by itself: for Evict and for pods that
	// wait for their turn, when the pod is deleted; for terminating pods, when
	// they are no longer waited for. Zero for Delete and Skip.
	Until time.Time
	// Protected names the annotation by which the pod asked not to be
	// disrupted, as key=value; empty without.
	Protected string
}

// Classify says for each pod what is to be done about it now. deadline is when
// the node goes, whatever is left on it; while it is zero, none is recorded yet
// and nothing is deleted.
//
// The verdicts are in the order of the pods.
func Classify(pods []*corev1.Pod, node NodeFacts, now, deadline time.Time) []Verdict {
	out := make([]Verdict, len(pods))
	first, some := TierCritical, false
	for i, p := range pods {
		out[i] = classify(p, node, now, deadline)
		if out[i].Action != Skip {
			first, some = min(first, out[i].Tier), true
		}
	}
	if !some {
		return out
	}
	for i := range out {
		if v := &out[i]; v.Action == Evict && v.Tier > first {
			v.Action = Wait
			v.Reason = "critical: leaves after the ordinary pods"
		}
	}
	return out
}

func classify(p *corev1.Pod, node NodeFacts, now, deadline time.Time) Verdict {
	v := Verdict{Pod: p, Tier: tierOf(p)}
	if why, skip := skipped(p, node.Name, node.UID, func() time.Time { return node.CordonedAt }); skip {
		v.Action, v.Reason = Skip, why
		return v
	}
	if by, ok := DoNotDisrupt(p, now); ok {
		v.Protected = by
	}
	own := graceOf(p)
	var deleteAt time.Time
	late := false
	if !deadline.IsZero() {
		deleteAt = deadline.Add(-own)
		late = !now.Before(deleteAt)
	}
	if p.DeletionTimestamp != nil {
		gone := stuckAt(p)
		if node.Unreachable {
			gone = earlier(gone, toldAt(p).Add(silentAfter))
		}
		switch {
		case !now.Before(gone):
			v.Action, v.Reason = Skip, "terminating for longer than its grace period allows, or on a node that is silent"
		case late && now.Before(deadline) && p.DeletionTimestamp.After(deadline.Add(clockSkew)):
			// The deadline has moved earlier since the pod was told to go: tell
			// it again, with the time that is really left.
			v.Action, v.Grace = Delete, clampGrace(deadline.Sub(now), own)
			v.Reason = "terminating, but would outlive the deadline"
		default:
			v.Action, v.Until, v.Reason = Wait, gone, "terminating"
			if len(p.Finalizers) > 0 {
				v.Reason += ", with finalizers " + strings.Join(p.Finalizers, ", ")
			}
		}
		return v
	}
	if !late {
		v.Action, v.Until, v.Reason = Evict, deleteAt, "to be evicted"
		return v
	}
	v.Action, v.Grace = Delete, clampGrace(deadline.Sub(now), own)
	v.Reason = "the drain's deadline leaves it no more time"
	return v
}

// Stuck reports whether a pod is still there so long after its own deletion time that no
// drain waits for it any more.
func Stuck(p *corev1.Pod, now time.Time) bool {
	return p.DeletionTimestamp != nil && !now.Before(stuckAt(p))
}

// stuckAt is from when on nobody waits for a terminating pod any more.
func stuckAt(p *corev1.Pod) time.Time { return p.DeletionTimestamp.Add(stuckAfter) }

// toldAt is when a terminating pod was told to go: its deletion time is later by
// its grace.
func toldAt(p *corev1.Pod) time.Time {
	if g := p.DeletionGracePeriodSeconds; g != nil && *g > 0 {
		return p.DeletionTimestamp.Add(-time.Duration(min(*g, int64(maxGrace/time.Second))) * time.Second)
	}
	return p.DeletionTimestamp.Time
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// clampGrace is min(own, left), in whole seconds, at least one.
func clampGrace(left, own time.Duration) time.Duration {
	return max(min(left, own).Truncate(time.Second), time.Second)
}

// Counts reports whether a pod has to leave before its node can go: it is on the
// node, does not belong to it, and has neither finished nor a toleration for the
// taint. One that is terminating counts until it is gone.
func Counts(p *corev1.Pod, node *corev1.Node) bool {
	_, skip := skipped(p, node.Name, node.UID, func() time.Time { return Since(node) })
	return !skip
}

// skipped says whether a pod does not matter to the drain of a node, and why.
// cordonedAt is when Cordon tainted the node.
func skipped(p *corev1.Pod, node string, uid types.UID, cordonedAt func() time.Time) (string, bool) {
	switch {
	case p.Spec.NodeName != node:
		return "is not on this node", true
	case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
		return "has finished", true
	case isDaemon(p):
		return "belongs to a DaemonSet", true
	case isStatic(p, node, uid):
		return "is a static pod of this node", true
	}
	named, every := tolerates(p)
	switch {
	case named:
		return "tolerates " + v1alpha1.TaintDisrupted, true
	case !every:
		return "", false
	}
	at := cordonedAt()
	if !at.IsZero() && p.CreationTimestamp.After(at) {
		return "tolerates every taint and has come back", true
	}
	return "", false
}

func isDaemon(p *corev1.Pod) bool {
	o := metav1.GetControllerOfNoCopy(p)
	return o != nil && o.Kind == "DaemonSet" && strings.HasPrefix(o.APIVersion, "apps/")
}

// isStatic reports whether a pod mirrors a static pod of this node. Anybody can
// write the annotation; only the node's own kubelet may own a pod by the Node.
func isStatic(p *corev1.Pod, node string, uid types.UID) bool {
	if _, ok := p.Annotations[corev1.MirrorPodAnnotationKey]; !ok {
		return false
	}
	for _, o := range p.OwnerReferences {
		if o.APIVersion == "v1" && o.Kind == "Node" && o.Name == node && o.UID == uid {
			return true
		}
	}
	return false
}

// tolerates reports whether a pod tolerates our taint by its key, and whether
// it does so because it tolerates any key.
func tolerates(p *corev1.Pod) (named, every bool) {
	for _, t := range p.Spec.Tolerations {
		if t.Effect != "" && t.Effect != corev1.TaintEffectNoSchedule {
			continue
		}
		switch t.Key {
		case v1alpha1.TaintDisrupted:
			// The taint has no value: only Exists, or Equal without value, match.
			if t.Operator == corev1.TolerationOpExists ||
				(t.Operator == "" || t.Operator == corev1.TolerationOpEqual) && t.Value == "" {
				named = true
			}
		case "":
			every = every || t.Operator == corev1.TolerationOpExists
		}
	}
	return named, every
}

func tierOf(p *corev1.Pod) Tier {
	if p.Spec.Priority != nil && *p.Spec.Priority >= criticalPriority {
		return TierCritical
	}
	switch p.Spec.PriorityClassName {
	case "system-cluster-critical", "system-node-critical":
		return TierCritical
	}
	return TierOrdinary
}

// graceOf is the pod's own grace period, at least a second, at most a year.
func graceOf(p *corev1.Pod) time.Duration {
	seconds := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
		seconds = *g
	}
	seconds = min(max(seconds, 1), int64(maxGrace/time.Second))
	return time.Duration(seconds) * time.Second
}

// DoNotDisrupt reports whether a pod asks not to be disrupted at this time, and
// by which annotation (key=value). berth.dev/do-not-disrupt is "true" or a
// duration counted from the pod's start; the annotations of other projects
// that Berth honours count as well. A duration that cannot be read counts as
// "true": the pod's owner did ask.
func DoNotDisrupt(p *corev1.Pod, now time.Time) (string, bool) {
	for _, key := range []string{v1alpha1.AnnotationDoNotDisrupt, v1alpha1.AnnotationKarpenterDoNotDisrupt} {
		value, ok := p.Annotations[key]
		if !ok || value == "" || value == "false" {
			continue
		}
		if d, err := time.ParseDuration(value); err == nil {
			start := p.CreationTimestamp.Time
			if p.Status.StartTime != nil {
				start = p.Status.StartTime.Time
			}
			if !now.Before(start.Add(d)) {
				continue
			}
		}
		return fmt.Sprintf("%s=%s", key, value), true
	}
	if p.Annotations[v1alpha1.AnnotationSafeToEvict] == "false" {
		return v1alpha1.AnnotationSafeToEvict + "=false", true
	}
	return "", false
}
