package provisioner

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/internal/capacity"
)

const (
	// spurnPatience is how long kube-scheduler may leave a pod unbound for which
	// the planner finds room on nodes that are ready: longer than its own backoff.
	spurnPatience = time.Minute
	// spurnPause is how long the planner then finds no room there for such pods.
	spurnPause = 10 * time.Minute
)

// spurned are pods that by the planner's rules have room on ready nodes, and that
// kube-scheduler says it cannot place: something counts there that Berth does not
// know, say a plugin of its own. Without a second look such a pod would wait for
// ever and hear nothing. Only the planning loop uses it.
// The zero value is ready.
type spurned struct {
	// since when the planner has found room for a pod, round by round.
	since map[types.UID]time.Time
	// until when nodes are left out for a shape of pods.
	until map[string]spurn
}

type spurn struct {
	until time.Time
	nodes []string
}

// look notes where a plan places pods, and returns those that have waited too long
// beside room. For pods of their shapes the nodes that are ready now are left out
// from then on: kube-scheduler has looked at all of them.
func (s *spurned) look(plan *capacity.Plan, nodes []*capacity.Node, now time.Time, bindsLate func(*corev1.Pod) bool) []capacity.Unschedulable {
	since := make(map[types.UID]time.Time, len(s.since))
	var out []capacity.Unschedulable
	for _, pl := range plan.Placements {
		refused, ok := refusedByScheduler(pl.Pod)
		if !ok || pl.Node.InFlight || standIn(pl.Pod) || moving(pl.Pod) || bindsLate(pl.Pod) {
			continue
		}
		at, known := s.since[pl.Pod.UID]
		if !known {
			at = now
		}
		since[pl.Pod.UID] = at
		if now.Sub(at) < spurnPatience {
			continue
		}
		since[pl.Pod.UID] = now
		if s.until == nil {
			s.until = map[string]spurn{}
		}
		shape, until := capacity.ShapeHash(pl.Pod), now.Add(spurnPause)
		if x := s.until[shape]; x.until != until {
			// One that was left out before may be closed at this moment.
			names := slices.Concat(x.nodes, ready(nodes))
			slices.Sort(names)
			s.until[shape] = spurn{until, slices.Compact(names)}
		}
		out = append(out, capacity.Unschedulable{Pod: pl.Pod, Reasons: []capacity.Reason{{
			Constraint: capacity.ConstraintNotBound,
			Detail:     "it has room on node " + pl.Node.Name + " by all that Berth knows, and kube-scheduler does not place it: " + refused,
			Fix:        "see what kube-scheduler counts there; a node of its own is sought meanwhile",
		}}})
	}
	s.since = since
	return out
}

// refusedByScheduler is what kube-scheduler said when it last found no node for a pod.
func refusedByScheduler(pod *corev1.Pod) (message string, ok bool) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return c.Message, true
		}
	}
	return "", false
}

// ready are the names of nodes that can run pods now.
func ready(nodes []*capacity.Node) []string {
	var names []string
	for _, n := range nodes {
		if !n.InFlight {
			names = append(names, n.Name)
		}
	}
	return names
}

// avoid has a Snapshot's pods keep away from the nodes that are left out for them.
func (s *spurned) avoid(snapshot *capacity.Snapshot, now time.Time) {
	for shape, x := range s.until {
		if now.After(x.until) {
			delete(s.until, shape)
		}
	}
	if len(s.until) == 0 {
		return
	}
	away := make(map[string]*corev1.NodeSelector, len(s.until))
	for shape, x := range s.until {
		away[shape] = capacity.NotOn(x.nodes)
	}
	for _, pod := range snapshot.Pods {
		if node := away[capacity.ShapeHash(pod)]; node != nil {
			snapshot.Require(pod, node)
		}
	}
}

// bindsLate reports whether kube-scheduler may have chosen a node for the pod
// without having bound it for long: it waits for a volume, or for the pod's group.
func (p *Loops) bindsLate(pod *corev1.Pod) bool {
	return pod.Spec.SchedulingGroup != nil || p.lacksVolumes(pod)
}

// lacksVolumes reports whether volumes or devices of the pod are still to be made:
// kube-scheduler binds it when they are.
func (p *Loops) lacksVolumes(pod *corev1.Pod) bool {
	if len(pod.Spec.ResourceClaims) > 0 {
		return true
	}
	for i := range pod.Spec.Volumes {
		name := ""
		if c := pod.Spec.Volumes[i].PersistentVolumeClaim; c != nil {
			name = c.ClaimName
		} else if pod.Spec.Volumes[i].Ephemeral != nil {
			name = pod.Name + "-" + pod.Spec.Volumes[i].Name
		}
		if name == "" {
			continue
		}
		if c, ok := one[*corev1.PersistentVolumeClaim](p.stores.pvcs, pod.Namespace+"/"+name); !ok || c.Spec.VolumeName == "" {
			return true
		}
	}
	return false
}
