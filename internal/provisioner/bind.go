package provisioner

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// nominator gives pods the seats that were bought for them, claim by claim.
type nominator struct {
	*Loops
	mu     sync.Mutex
	queued map[string]bool
	ready  chan struct{}
}

func newNominator(p *Loops) *nominator {
	return &nominator{Loops: p, queued: map[string]bool{}, ready: make(chan struct{}, 1)}
}

// enqueue asks for a claim's seats to be given out.
func (n *nominator) enqueue(claim string) {
	n.mu.Lock()
	n.queued[claim] = true
	n.mu.Unlock()
	select {
	case n.ready <- struct{}{}:
	default:
	}
}

func (n *nominator) next() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]string, 0, len(n.queued))
	for c := range n.queued {
		out = append(out, c)
	}
	clear(n.queued)
	return out
}

// run gives out seats until the context ends.
func (n *nominator) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.ready:
		}
		for _, name := range n.next() {
			claim, ok := one[*v1alpha1.NodeClaim](n.stores.claims, name)
			if !ok || claim.Status.NodeName == "" || claim.DeletionTimestamp != nil {
				continue // Launching enqueues it again.
			}
			n.seatPods(ctx, claim)
		}
	}
}

// seatPods writes the seats of one claim, several at a time. A pod that the
// scheduler has bound in the meantime is left alone.
func (n *nominator) seatPods(ctx context.Context, claim *v1alpha1.NodeClaim) {
	if claim.Spec.Binding == v1alpha1.BindingScheduler {
		return
	}
	each(n.seatHolders(claim), writers, func(_ int, pod *corev1.Pod) {
		if err := n.seatPod(ctx, claim, pod); err != nil && ctx.Err() == nil {
			// The scheduler places the pod all the same; only the hold on
			// the seat is weaker.
			n.log.Error(err, "giving a pod its seat", "pod", pod.Namespace+"/"+pod.Name, "node", claim.Status.NodeName)
		}
	})
}

// seatHolders are the pods that have a seat on the claim's node and still wait.
func (n *nominator) seatHolders(claim *v1alpha1.NodeClaim) []*corev1.Pod {
	var out []*corev1.Pod
	for _, uid := range n.book.on(claim.Name) {
		if pods := n.stores.podsBy(uidIndex, string(uid)); len(pods) == 1 && waiting(pods[0]) {
			out = append(out, pods[0])
		}
	}
	return out
}

func (n *nominator) seatPod(ctx context.Context, claim *v1alpha1.NodeClaim, pod *corev1.Pod) error {
	if claim.Spec.Binding == v1alpha1.BindingImmediate && mayBind(pod, claim) {
		node, ok := one[*corev1.Node](n.stores.nodes, claim.Status.NodeName)
		if !ok || hasTaint(node.Spec.Taints, v1alpha1.TaintUnregistered) {
			// The lifecycle creates the Node first, or registers it where the kubelet
			// was faster, then asks again: the pod is to find all labels there.
			return nil
		}
		return n.bind(ctx, claim, pod)
	}
	if pod.Status.NominatedNodeName == claim.Status.NodeName || !n.contested.Load() ||
		isTrue(claim.Status.Conditions, v1alpha1.ConditionInitialized) && !n.doors.isGated(claim) {
		// Nobody of another kind waits, or the scheduler has the node before it
		// already: holding the seat would cost a write and win nothing.
		return nil
	}
	if n.doors.hold(claim) {
		// The scheduler would try the pod, forget the nomination, and try all others for
		// it. It is written when the node opens.
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"nominatedNodeName": claim.Status.NodeName},
	})
	if err != nil {
		return fmt.Errorf("encoding a nomination: %w", err)
	}
	_, err = n.cfg.Kube.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !bygone(err) {
		return fmt.Errorf("nominating node %s for pod %s/%s: %w", claim.Status.NodeName, pod.Namespace, pod.Name, err)
	}
	n.metrics.nominated.Inc()
	return nil
}

// bygone tells that the pod is gone, replaced, or bound in the meantime (a
// bound pod's nomination cannot be changed: Invalid).
func bygone(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err)
}

// bind binds a pod to its node, as kube-scheduler would.
func (n *nominator) bind(ctx context.Context, claim *v1alpha1.NodeClaim, pod *corev1.Pod) error {
	err := n.cfg.Kube.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: claim.Status.NodeName},
	}, metav1.CreateOptions{})
	if err != nil && !bygone(err) {
		return fmt.Errorf("binding pod %s/%s to node %s: %w", pod.Namespace, pod.Name, claim.Status.NodeName, err)
	}
	n.metrics.bound.Inc()
	return nil
}

// mayBind reports whether a pod may skip kube-scheduler: nothing that a
// scheduler plugin would still have to do or know, and no startup taint that
// would evict it again.
func mayBind(pod *corev1.Pod, claim *v1alpha1.NodeClaim) bool {
	s := &pod.Spec
	if s.SchedulerName != corev1.DefaultSchedulerName || len(s.SchedulingGates) > 0 || len(s.ResourceClaims) > 0 || s.SchedulingGroup != nil {
		return false
	}
	if claimsVolumes(pod) {
		return false
	}
	for i := range claim.Spec.StartupTaints {
		if t := &claim.Spec.StartupTaints[i]; t.Effect == corev1.TaintEffectNoExecute && !corev1helpers.TolerationsTolerateTaint(klog.Background(), s.Tolerations, t, true) {
			return false
		}
	}
	return true
}

// claimsVolumes reports whether a pod has volumes that are claimed, be it for it alone.
func claimsVolumes(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.PersistentVolumeClaim != nil || v.Ephemeral != nil })
}

// ensureNode creates the Node of an immediately bound claim ahead of its
// kubelet, and has the pods bound.
func (r *lifecycle) ensureNode(ctx context.Context, claim *v1alpha1.NodeClaim) error {
	if _, ok := r.nodeOf(claim); ok {
		r.nominator.enqueue(claim.Name)
		return nil
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: claim.Status.NodeName},
		Spec: corev1.NodeSpec{
			ProviderID: claim.Status.ProviderID,
			Taints:     append(append([]corev1.Taint{}, claim.Spec.Taints...), claim.Spec.StartupTaints...),
		},
		Status: corev1.NodeStatus{Capacity: claim.Status.Capacity, Allocatable: claim.Status.Allocatable},
	}
	dress(node, claim, true)
	node.Labels[corev1.LabelHostname] = claim.Status.NodeName
	if err := r.cfg.Client.Create(ctx, node); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating node %s ahead of its kubelet: %w", node.Name, err)
	}
	return nil // The watch shows the Node and brings the claim back here.
}
