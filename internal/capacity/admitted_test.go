package capacity

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestADaemonSetsPodIsWhatTheAPIServerMakesOfIt(t *testing.T) {
	list := func(cpu string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	class := "boxed"
	classes := NewClasses(
		[]*nodev1.RuntimeClass{{ObjectMeta: metav1.ObjectMeta{Name: class}, Overhead: &nodev1.Overhead{PodFixed: list("1")},
			Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"sandbox": "yes"}, Tolerations: []corev1.Toleration{{Key: "sandbox"}}}}},
		[]*schedulingv1.PriorityClass{{ObjectMeta: metav1.ObjectMeta{Name: "dear"}, Value: 9},
			{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, Value: 7, GlobalDefault: true}, {ObjectMeta: metav1.ObjectMeta{Name: "other"}, Value: 8, GlobalDefault: true}})
	tests := map[string]struct {
		spec     corev1.PodSpec
		cpu      int64
		ports    int
		priority int32
		more     []string
	}{
		"limits alone": {corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Limits: list("2")}}}}, 2000, 0, 7, nil},
		"requests before limits": {corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Limits: list("2"), Requests: list("1")}}}},
			1000, 0, 7, nil},
		"limits of the pod as a whole": {corev1.PodSpec{Resources: &corev1.ResourceRequirements{Limits: list("3")}, Containers: []corev1.Container{{}}}, 3000, 0, 7, nil},
		"on the host's network": {corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}},
			0, 1, 7, []string{corev1.TaintNodeNetworkUnavailable}},
		"on a network of its own": {corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}, 0, 0, 7, nil},
		"of a RuntimeClass":       {corev1.PodSpec{RuntimeClassName: &class, Containers: []corev1.Container{{}}}, 1000, 0, 7, []string{"sandbox"}},
		"of a PriorityClass":      {corev1.PodSpec{PriorityClassName: "dear", Containers: []corev1.Container{{}}}, 0, 0, 9, nil},
		"of one that every cluster has": {corev1.PodSpec{PriorityClassName: "system-node-critical", Containers: []corev1.Container{{}}},
			0, 0, 2000001000, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "d"}}
			ds.Spec.Template.Spec = tt.spec
			before := ds.DeepCopy()
			p := DaemonSetPod(ds)
			if runtime, priority := classes.Admit(p); runtime != "" || priority != "" {
				t.Errorf("unknown: %q, %q", runtime, priority)
			}
			if cpu := PodRequests(p)[corev1.ResourceCPU]; cpu != tt.cpu {
				t.Errorf("%d millicores, want %d", cpu, tt.cpu)
			}
			if n := len(hostPorts(p)); n != tt.ports {
				t.Errorf("%d host ports, want %d", n, tt.ports)
			}
			if got := priorityOf(p); got != tt.priority {
				t.Errorf("priority %d, want %d", got, tt.priority)
			}
			want := append([]string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeDiskPressure,
				corev1.TaintNodeMemoryPressure, corev1.TaintNodePIDPressure, corev1.TaintNodeUnschedulable}, tt.more...)
			var keys []string
			for _, x := range p.Spec.Tolerations {
				keys = append(keys, x.Key)
			}
			if d := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(keys))); d != "" {
				t.Errorf("tolerations (-want +got):\n%s", d)
			}
			if d := cmp.Diff(before, ds); d != "" {
				t.Errorf("the DaemonSet has changed:\n%s", d)
			}
		})
	}
}

func TestClassesThatNobodyKnowsAreNamed(t *testing.T) {
	class := "boxed"
	p := &corev1.Pod{Spec: corev1.PodSpec{RuntimeClassName: &class, PriorityClassName: "dear"}}
	if runtime, priority := NewClasses(nil, nil).Admit(p); runtime != class || priority != "dear" {
		t.Errorf("unknown: %q, %q", runtime, priority)
	}
	if p.Spec.Priority != nil || p.Spec.Overhead != nil {
		t.Errorf("it got %v, %v", p.Spec.Priority, p.Spec.Overhead)
	}
}
