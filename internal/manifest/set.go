package manifest

import (
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Object is a Kubernetes object that a Set may hold.
type Object interface {
	metav1.Object
	runtime.Object
}

// Set is a collection of objects: at most one for each kind, namespace and
// name. The zero value is empty and ready for use. Not safe for concurrent use.
type Set struct {
	objects   []Object
	index     map[key]int
	generated int
	notes     []string
	skipped   map[string]int
}

type key struct{ kind, namespace, name string }

func keyOf(o Object) key { return key{fmt.Sprintf("%T", o), o.GetNamespace(), o.GetName()} }

// Add adds an object, without namespace where none was given for a kind that
// has them: then "default" is set. It reports whether it replaced an object.
func (s *Set) Add(o Object) (replaced bool) {
	if s.index == nil {
		s.index = map[key]int{}
	}
	switch {
	case !namespaced(o):
		o.SetNamespace("")
	case o.GetNamespace() == "":
		o.SetNamespace(metav1.NamespaceDefault)
	}
	k := keyOf(o)
	if i, ok := s.index[k]; ok {
		s.objects[i] = o
		return true
	}
	s.index[k] = len(s.objects)
	s.objects = append(s.objects, o)
	return false
}

// Note records a remark for whoever gave the input.
func (s *Set) Note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

func (s *Set) ignored(apiVersion, kind string) {
	if s.skipped == nil {
		s.skipped = map[string]int{}
	}
	s.skipped[kind+" ("+apiVersion+")"]++
}

// Notes are the remarks so far, one line each.
func (s *Set) Notes() []string {
	out := slices.Clone(s.notes)
	for _, kind := range slices.Sorted(maps.Keys(s.skipped)) {
		out = append(out, fmt.Sprintf("%d × %s: nothing to plan for; ignored", s.skipped[kind], kind))
	}
	return out
}

// all returns the objects of one type in the order in which they came.
func all[T Object](s *Set) []T {
	var out []T
	for _, o := range s.objects {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

// Provisioners of the Set.
func (s *Set) Provisioners() []*v1alpha1.Provisioner { return all[*v1alpha1.Provisioner](s) }

// Nodes of the Set.
func (s *Set) Nodes() []*corev1.Node { return all[*corev1.Node](s) }

// newObject makes an empty object of a kind that matters, or nil.
func newObject(apiVersion, kind string) Object {
	switch apiVersion + " " + kind {
	case "berth.dev/v1alpha1 Provisioner":
		return &v1alpha1.Provisioner{}
	case "berth.dev/v1alpha1 NodeClaim":
		return &v1alpha1.NodeClaim{}
	case "v1 Pod":
		return &corev1.Pod{}
	case "v1 Node":
		return &corev1.Node{}
	case "v1 Service":
		return &corev1.Service{}
	case "v1 ReplicationController":
		return &corev1.ReplicationController{}
	case "node.k8s.io/v1 RuntimeClass":
		return &nodev1.RuntimeClass{}
	case "scheduling.k8s.io/v1 PriorityClass":
		return &schedulingv1.PriorityClass{}
	case "v1 Namespace":
		return &corev1.Namespace{}
	case "v1 PersistentVolume":
		return &corev1.PersistentVolume{}
	case "v1 PersistentVolumeClaim":
		return &corev1.PersistentVolumeClaim{}
	case "apps/v1 Deployment":
		return &appsv1.Deployment{}
	case "apps/v1 ReplicaSet":
		return &appsv1.ReplicaSet{}
	case "apps/v1 StatefulSet":
		return &appsv1.StatefulSet{}
	case "apps/v1 DaemonSet":
		return &appsv1.DaemonSet{}
	case "batch/v1 Job":
		return &batchv1.Job{}
	case "policy/v1 PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}
	case "scheduling.k8s.io/v1beta1 PodGroup":
		return &schedulingv1beta1.PodGroup{}
	case "storage.k8s.io/v1 StorageClass":
		return &storagev1.StorageClass{}
	case "storage.k8s.io/v1 CSINode":
		return &storagev1.CSINode{}
	}
	return nil
}

func namespaced(o Object) bool {
	switch o.(type) {
	case *corev1.Pod, *corev1.Service, *corev1.ReplicationController, *corev1.PersistentVolumeClaim, *appsv1.Deployment, *appsv1.ReplicaSet, *appsv1.StatefulSet,
		*appsv1.DaemonSet, *batchv1.Job, *policyv1.PodDisruptionBudget, *schedulingv1beta1.PodGroup:
		return true
	}
	return false
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
