package provisioner

import (
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// expectFresh is how recent the newest pod of an owner must be for its missing
// siblings to be expected. An owner that stopped making pods (a quota, a
// failing webhook) is not bought for in advance.
const expectFresh = 5 * time.Second

// owner is how many pods a controller wants, as far as the loops care.
type owner struct {
	desired int
	// failing: its controller reports that it cannot create pods.
	failing bool
}

func ownerOfReplicaSet(rs *appsv1.ReplicaSet) owner {
	o := owner{desired: 1}
	if rs.Spec.Replicas != nil {
		o.desired = int(*rs.Spec.Replicas)
	}
	for _, c := range rs.Status.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
			o.failing = true
		}
	}
	return o
}

func ownerOfStatefulSet(s *appsv1.StatefulSet) owner {
	if s.Spec.PodManagementPolicy != appsv1.ParallelPodManagement {
		// Ordered: the next pod comes only when the one before is ready.
		return owner{}
	}
	o := owner{desired: 1}
	if s.Spec.Replicas != nil {
		o.desired = int(*s.Spec.Replicas)
	}
	return o
}

func ownerOfJob(j *batchv1.Job) owner {
	if j.Spec.Suspend != nil && *j.Spec.Suspend {
		return owner{}
	}
	o := owner{desired: 1}
	if j.Spec.Parallelism != nil {
		o.desired = int(*j.Spec.Parallelism)
	}
	if j.Spec.Completions != nil {
		o.desired = min(o.desired, int(*j.Spec.Completions-j.Status.Succeeded))
	}
	return o
}

// expected returns stand-ins for the pods that owners have still to make, so
// that one plan covers a burst whose first pods have just appeared. A stand-in
// is a copy of a pending sibling under a UID of its own. Pods of groups have none: a
// group is bought for once as many of its pods exist as it needs. pending are the pods
// that wait, existing the number of unfinished pods of each owner.
func expected(pending []*corev1.Pod, existing map[types.UID]int, owners map[types.UID]owner, now time.Time) []*corev1.Pod {
	newest := map[types.UID]*corev1.Pod{}
	var order []types.UID
	for _, p := range pending {
		uid, ok := controllerOf(p)
		if !ok || grouped(p) {
			continue
		}
		n, seen := newest[uid]
		if !seen {
			order = append(order, uid)
		}
		if !seen || n.CreationTimestamp.Before(&p.CreationTimestamp) {
			newest[uid] = p
		}
	}
	var out []*corev1.Pod
	for _, uid := range order {
		o, known := owners[uid]
		model := newest[uid]
		if !known || o.failing || now.Sub(model.CreationTimestamp.Time) > expectFresh {
			continue
		}
		for i := range o.desired - existing[uid] {
			stand := *model
			stand.Name = fmt.Sprintf("%s-expected-%d", model.Name, i)
			stand.UID = types.UID(fmt.Sprintf("%s%s%d", uid, standInMark, i))
			out = append(out, &stand)
		}
	}
	return out
}

// standInMark is in the UID of every stand-in, and in no UID of a real pod.
const standInMark = "/expected/"

// standIn tells a stand-in from a real pod.
func standIn(p *corev1.Pod) bool { return strings.Contains(string(p.UID), standInMark) }

// grouped reports whether a pod belongs to a pod group, of its spec or of its
// annotations.
func grouped(p *corev1.Pod) bool {
	_, annotated := p.Annotations[v1alpha1.AnnotationPodGroup]
	return annotated || p.Spec.SchedulingGroup != nil
}

// controllerOf returns the UID of a pod's controller.
func controllerOf(p *corev1.Pod) (types.UID, bool) {
	for i := range p.OwnerReferences {
		if r := &p.OwnerReferences[i]; r.Controller != nil && *r.Controller {
			return r.UID, true
		}
	}
	return "", false
}

// settled reports whether for all pending pods those that are still to come are
// expected, so that nothing is to be gained by waiting for more before planning.
func settled(pending []*corev1.Pod, owners map[types.UID]owner) bool {
	for _, p := range pending {
		uid, ok := controllerOf(p)
		if !ok || grouped(p) {
			return false
		}
		if _, known := owners[uid]; !known {
			return false
		}
	}
	return true
}
