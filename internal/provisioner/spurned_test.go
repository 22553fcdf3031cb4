package provisioner

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

func TestAPodThatKubeSchedulerLeavesBesideRoom(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", UID: "p"}, Spec: corev1.PodSpec{
		SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}}}}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "a plugin of ours says no"}}
	never := func(*corev1.Pod) bool { return false }
	s := &spurned{}
	// round plans at a moment and returns the planner's placements and the verdicts.
	round := func(after time.Duration, pod *corev1.Pod) (int, []capacity.Unschedulable) {
		room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourcePods: resource.MustParse("10")}
		snapshot := &capacity.Snapshot{Now: now.Add(after), Pods: []*corev1.Pod{pod}}
		for _, name := range []string{"n1", "n2"} {
			snapshot.Nodes = append(snapshot.Nodes, &capacity.Node{Name: name, Labels: map[string]string{corev1.LabelHostname: name}, Allocatable: capacity.FromResourceList(room)})
		}
		s.avoid(snapshot, snapshot.Now)
		plan := capacity.Solve(snapshot)
		return len(plan.Placements), s.look(plan, snapshot.Nodes, snapshot.Now, never)
	}
	for _, after := range []time.Duration{0, 30 * time.Second} {
		if placed, told := round(after, pod); placed != 1 || len(told) != 0 {
			t.Fatalf("after %s: %d placed, %v", after, placed, told)
		}
	}
	placed, told := round(spurnPatience, pod)
	if placed != 1 || len(told) != 1 || !strings.Contains(told[0].Reasons[0].Detail, "a plugin of ours says no") {
		t.Fatalf("after the patience: %d placed, %v", placed, told)
	}
	if placed, _ := round(spurnPatience+time.Second, pod); placed != 0 {
		t.Fatal("the planner still has it on a node that kube-scheduler has refused")
	}
	other := pod.DeepCopy()
	other.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("2")
	if placed, _ := round(spurnPatience+2*time.Second, other); placed != 1 {
		t.Fatal("pods of other shapes are kept away too")
	}
	if placed, _ := round(spurnPatience+spurnPause+time.Second, pod); placed != 1 {
		t.Fatal("it is kept away for ever")
	}
}

// TestAPodIsLeftBesideRoomAgain: pods with a chosen capacity type are kept away like
// others, also from the nodes that come after the first.
func TestAPodIsLeftBesideRoomAgain(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	pod := chosenPod("p", "spot")
	pod.Spec.NodeSelector = nil
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable}}
	s := &spurned{}
	round := func(names ...string) int {
		snapshot := &capacity.Snapshot{Now: now, Pods: []*corev1.Pod{pod}, Provisioners: []*capacity.Provisioner{{Name: "a",
			Spec: &v1alpha1.ProvisionerSpec{}, InstanceTypes: []capacity.InstanceType{{Offerings: []capacity.Offering{{CapacityType: "spot"}}}}}}}
		for _, name := range names {
			snapshot.Nodes = append(snapshot.Nodes, &capacity.Node{Name: name, Labels: map[string]string{v1alpha1.LabelCapacityType: "spot"}, Allocatable: capacity.Resources{corev1.ResourcePods: 10}})
		}
		s.avoid(snapshot, now)
		if c := insist(snapshot); len(c) != 1 {
			t.Fatalf("%d choices", len(c))
		}
		plan := capacity.Solve(snapshot)
		s.look(plan, snapshot.Nodes, now, func(*corev1.Pod) bool { return false })
		return len(plan.Placements)
	}
	for i, step := range []struct {
		after  time.Duration
		nodes  []string
		placed int
	}{
		{0, []string{"n1"}, 1}, {spurnPatience, []string{"n1"}, 1}, {time.Second, []string{"n1"}, 0},
		{time.Second, []string{"n1", "n2"}, 1}, {spurnPatience, []string{"n2"}, 1}, {time.Second, []string{"n1", "n2"}, 0},
	} {
		now = now.Add(step.after)
		if placed := round(step.nodes...); placed != step.placed {
			t.Fatalf("round %d: %d placed, want %d", i, placed, step.placed)
		}
	}
}

func TestOnlyPodsThatTheSchedulerRefusesAreSpurned(t *testing.T) {
	now := time.Now()
	s := &spurned{}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "p"}}
	plan := &capacity.Plan{Placements: []capacity.Placement{{Pod: pod, Node: &capacity.Node{Name: "n"}}}}
	late := func(*corev1.Pod) bool { return true }
	for _, at := range []time.Time{now, now.Add(2 * spurnPatience)} {
		if told := s.look(plan, nil, at, func(*corev1.Pod) bool { return false }); len(told) != 0 {
			t.Fatal("kube-scheduler has not said a word about it")
		}
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable}}
	for _, at := range []time.Time{now, now.Add(2 * spurnPatience)} {
		if told := s.look(plan, nil, at, late); len(told) != 0 {
			t.Fatal("it may wait for a volume")
		}
	}
}
