package main

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// life is one pod and the node that was bought for it, with a second pod that
// nothing can host, from creation to the end. A test bends a part of it and
// plays it into a journal.
type life struct {
	pod, impossible *corev1.Pod
	claim           *v1alpha1.NodeClaim
	node            *corev1.Node
	instance        cluster.Instance
	noBerth         *corev1.Event
	// seat is the node that is nominated for the pod.
	seat string
	// end are the steps of the end, in order.
	end []string

	j   *journal
	now time.Time
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newLife() *life {
	l := &life{now: epoch, seat: "ip-1", end: []string{"deleting", "taint", "pod leaves", "pod gone", "ending", "terminated", "node gone", "claim gone"}}
	l.j = newJournal(func() time.Time { return l.now })
	pod := func(name, cpu string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Annotations: map[string]string{v1alpha1.AnnotationPlacement: "{}"}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)},
			}}}},
			Status: corev1.PodStatus{Phase: corev1.PodPending},
		}
	}
	l.pod, l.impossible = pod("web", "1"), pod("impossible", "500")
	l.pod.UID, l.impossible.UID = "pod-1", "pod-2"
	l.pod.Spec.NodeSelector = map[string]string{corev1.LabelArchStable: "arm64"}
	l.claim = &v1alpha1.NodeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "default-a", UID: "claim-1", Annotations: map[string]string{
			v1alpha1.AnnotationDecision: "m7g.medium spot in a: cheapest. Plan: 1 launches, $0.1000/h.",
		}},
		Spec: v1alpha1.NodeClaimSpec{
			Binding:      v1alpha1.BindingNominate,
			Provisioner:  v1alpha1.ProvisionerRef{Name: "default"},
			Offerings:    []v1alpha1.ClaimOffering{{InstanceType: "m7g.medium", Zone: "a", CapacityType: "spot", HourlyPrice: "0.1"}},
			NodeTemplate: v1alpha1.NodeTemplate{Labels: map[string]string{"team": "x"}, Taints: []corev1.Taint{{Key: "own", Effect: corev1.TaintEffectPreferNoSchedule}}},
		},
	}
	l.instance = cluster.Instance{ID: "i-1", Type: "m7g.medium", Zone: "a", CapacityType: "spot", State: "running", Price: 0.1, Tags: map[string]string{
		"kubernetes.io/cluster/dev": "owned", v1alpha1.TagClusterUID: "uid", v1alpha1.TagProvisioner: "default",
		v1alpha1.TagNodeClaim: "default-a", v1alpha1.TagNodeClaimUID: "claim-1",
	}}
	l.node = &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "ip-1", UID: "node-1", Finalizers: []string{v1alpha1.Finalizer}, Labels: map[string]string{
			v1alpha1.LabelProvisioner: "default", v1alpha1.LabelNodeClaim: "default-a", corev1.LabelInstanceTypeStable: "m7g.medium",
			v1alpha1.LabelCapacityType: "spot", corev1.LabelTopologyZone: "a", corev1.LabelArchStable: "arm64", "team": "x",
		}},
		Spec: corev1.NodeSpec{ProviderID: "aws:///a/i-1", Taints: l.claim.Spec.Taints},
		Status: corev1.NodeStatus{
			NodeInfo:    corev1.NodeSystemInfo{Architecture: "arm64"},
			Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
		},
	}
	l.noBerth = &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", UID: "event-1"}, Reason: reasonNoBerth, Type: corev1.EventTypeWarning, Message: "too big",
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "impossible", UID: "pod-2"},
	}
	return l
}

// after moves the clock and plays a step.
func (l *life) after(ms int, step func()) {
	l.now = l.now.Add(time.Duration(ms) * time.Millisecond)
	step()
}

func (l *life) turn(condition string) {
	l.claim = l.claim.DeepCopy()
	l.claim.Status.Conditions = append(l.claim.Status.Conditions, metav1.Condition{Type: condition, Status: metav1.ConditionTrue})
	l.j.seeClaim(l.claim)
}

// arrive plays the pod's way to its node.
func (l *life) arrive() *life {
	l.j.seePod(l.pod.DeepCopy())
	l.j.seePod(l.impossible.DeepCopy())
	l.after(100, func() { l.j.seeClaim(l.claim) })
	l.after(50, func() { l.j.seeEvent(l.noBerth) })
	l.after(150, func() {
		l.j.seeInstances([]cluster.Instance{l.instance})
		l.claim = l.claim.DeepCopy()
		l.claim.Status = v1alpha1.NodeClaimStatus{
			InstanceID: "i-1", ProviderID: "aws:///a/i-1", NodeName: "ip-1",
			InstanceType: "m7g.medium", Zone: "a", CapacityType: "spot", HourlyPrice: "0.1",
		}
		l.turn(v1alpha1.ConditionLaunched)
	})
	l.pod = l.pod.DeepCopy()
	l.pod.Status.NominatedNodeName = l.seat
	l.j.seePod(l.pod.DeepCopy())
	l.after(2000, func() {
		l.j.seeNode(l.node.DeepCopy())
		l.turn(v1alpha1.ConditionRegistered)
	})
	l.after(40, func() { l.turn(v1alpha1.ConditionInitialized) })
	l.after(60, func() {
		l.pod = l.pod.DeepCopy()
		l.pod.Spec.NodeName, l.pod.Status.NominatedNodeName = "ip-1", ""
		l.j.seePod(l.pod.DeepCopy())
	})
	l.after(5, func() {
		l.pod = l.pod.DeepCopy()
		l.pod.Status.Phase = corev1.PodRunning
		l.j.seePod(l.pod.DeepCopy())
	})
	return l
}

// leave plays the node's end, step by step, 10 ms apart.
func (l *life) leave(t *testing.T) *life {
	t.Helper()
	for _, step := range l.end {
		l.after(10, func() { l.step(t, step) })
	}
	return l
}

func (l *life) step(t *testing.T, step string) {
	t.Helper()
	at := metav1.NewTime(l.now)
	switch step {
	case "deleting":
		l.claim = l.claim.DeepCopy()
		l.claim.DeletionTimestamp = &at
		l.j.seeClaim(l.claim)
	case "taint":
		l.node = l.node.DeepCopy()
		l.node.Spec.Taints = append(l.node.Spec.Taints, corev1.Taint{Key: v1alpha1.TaintDisrupted, Effect: corev1.TaintEffectNoSchedule})
		l.j.seeNode(l.node)
	case "pod leaves":
		l.pod = l.pod.DeepCopy()
		l.pod.DeletionTimestamp = &at
		l.j.seePod(l.pod)
	case "pod gone":
		l.j.losePod(l.pod)
	case "ending", "terminated":
		l.instance.State = map[string]string{"ending": stateShuttingDown, "terminated": stateTerminated}[step]
		l.j.seeInstances([]cluster.Instance{l.instance})
	case "node gone":
		l.j.loseNode(l.node, l.instance.State)
	case "claim gone":
		l.j.loseClaim(l.claim)
	default:
		t.Fatalf("no step %q", step)
	}
}
