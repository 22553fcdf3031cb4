package provisioner

import (
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func ptr[T any](v T) *T { return &v }

func TestExpected(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	child := func(name string, age time.Duration) *corev1.Pod {
		p := podNamed(name)
		p.CreationTimestamp = metav1.NewTime(now.Add(-age))
		p.OwnerReferences = []metav1.OwnerReference{{UID: "rs", Controller: ptr(true)}}
		return p
	}
	in := func(p *corev1.Pod, group func(*corev1.Pod)) *corev1.Pod {
		group(p)
		return p
	}
	for name, tc := range map[string]struct {
		pending  []*corev1.Pod
		existing int
		owner    owner
		want     int
	}{
		"the rest of a burst that has just begun":            {[]*corev1.Pod{child("a", 0)}, 1, owner{desired: 1000}, 999},
		"pods that run already are not missing":              {[]*corev1.Pod{child("a", 0)}, 10, owner{desired: 12}, 2},
		"nothing when all are there":                         {[]*corev1.Pod{child("a", 0)}, 3, owner{desired: 3}, 0},
		"nothing after a scale-down":                         {[]*corev1.Pod{child("a", 0)}, 5, owner{desired: 3}, 0},
		"nothing when the owner has stopped making pods":     {[]*corev1.Pod{child("a", time.Minute)}, 1, owner{desired: 1000}, 0},
		"nothing when the owner cannot make pods":            {[]*corev1.Pod{child("a", 0)}, 1, owner{desired: 1000, failing: true}, 0},
		"the newest pod counts, whatever the order":          {[]*corev1.Pod{child("a", time.Minute), child("b", 0)}, 2, owner{desired: 4}, 2},
		"nothing for a bare pod":                             {[]*corev1.Pod{podNamed("bare")}, 0, owner{desired: 4}, 0},
		"nothing for a gang, whose pods may never come":      {[]*corev1.Pod{in(child("a", 0), func(p *corev1.Pod) { p.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: ptr("g")} })}, 1, owner{desired: 8}, 0},
		"nothing for a group by annotation":                  {[]*corev1.Pod{in(child("a", 0), func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationPodGroup: "g"} })}, 1, owner{desired: 8}, 0},
		"nothing for an owner that wants none of them ahead": {[]*corev1.Pod{child("a", 0)}, 1, owner{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := expected(tc.pending, map[types.UID]int{"rs": tc.existing}, map[types.UID]owner{"rs": tc.owner}, now)
			if len(got) != tc.want {
				t.Fatalf("%d stand-ins, want %d", len(got), tc.want)
			}
			if whole := !slices.ContainsFunc(tc.pending, grouped) && len(tc.pending[0].OwnerReferences) > 0; settled(tc.pending, map[types.UID]owner{"rs": tc.owner}) != whole {
				t.Errorf("it is waited for more: %t", whole)
			}
			seen := map[types.UID]bool{"a": true, "b": true}
			for _, p := range got {
				if seen[p.UID] {
					t.Fatalf("UID %s twice", p.UID)
				}
				seen[p.UID] = true
			}
		})
	}
}

func TestOwners(t *testing.T) {
	quota := appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: ptr(int32(5))},
		Status: appsv1.ReplicaSetStatus{Conditions: []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue}}}}
	if o := ownerOfReplicaSet(&quota); o.desired != 5 || !o.failing {
		t.Errorf("ReplicaSet over quota: %+v", o)
	}
	if o := ownerOfStatefulSet(&appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Replicas: ptr(int32(5))}}); o.desired != 0 {
		t.Errorf("ordered StatefulSet: %+v", o)
	}
	parallel := appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Replicas: ptr(int32(5)), PodManagementPolicy: appsv1.ParallelPodManagement}}
	if o := ownerOfStatefulSet(&parallel); o.desired != 5 {
		t.Errorf("parallel StatefulSet: %+v", o)
	}
	tail := batchv1.Job{Spec: batchv1.JobSpec{Parallelism: ptr(int32(10)), Completions: ptr(int32(12))}, Status: batchv1.JobStatus{Succeeded: 9}}
	if o := ownerOfJob(&tail); o.desired != 3 {
		t.Errorf("the tail of a Job: %+v", o)
	}
	if o := ownerOfJob(&batchv1.Job{Spec: batchv1.JobSpec{Parallelism: ptr(int32(10)), Suspend: ptr(true)}}); o.desired != 0 {
		t.Errorf("suspended Job: %+v", o)
	}
}
