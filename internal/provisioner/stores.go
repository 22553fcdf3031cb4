package provisioner

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

const (
	// nodeNameIndex indexes pods by the node they are bound to.
	nodeNameIndex = "berth.node-name"
	// uidIndex indexes pods by UID.
	uidIndex = "berth.uid"
	// controllerIndex indexes pods by the UID of their controller.
	controllerIndex = "berth.controller"
	// targetIndex indexes DaemonSets' unbound pods by the node that they are made for.
	targetIndex = "berth.target"
	// unboundIndex indexes pods that are still to be bound, under its own name.
	unboundIndex = "berth.unbound"
	// instanceIndex indexes claims by the id of their instance.
	instanceIndex = "berth.instance"
)

// stores are the informers' own stores. Objects in them are shared: they are
// read, never changed. Reading them directly spares a deep copy of every pod
// in each round.
type stores struct {
	pods, nodes, claims, provisioners              toolscache.SharedIndexInformer
	daemonSets, replicaSets, statefulSets, jobs    toolscache.SharedIndexInformer
	pvcs, pvs, storageClasses, csiNodes, namespace toolscache.SharedIndexInformer
	attachments, pdbs                              toolscache.SharedIndexInformer
	runtimeClasses, priorityClasses                toolscache.SharedIndexInformer
	// services and replicationControllers are nil where kube-scheduler has no default
	// spread constraints.
	services, replicationControllers toolscache.SharedIndexInformer
	// podGroups is nil where the API server does not serve them.
	podGroups toolscache.SharedIndexInformer
}

// source is a kind of object to watch, and where its informer goes.
type source struct {
	into *toolscache.SharedIndexInformer
	obj  client.Object
}

// newStores starts the informers that the loops read from. PodGroups are watched
// where the API server serves them when the process starts, Services where
// withServices says so.
func newStores(ctx context.Context, c cache.Cache, mapper meta.RESTMapper, withServices bool) (*stores, error) {
	var s stores
	wanted := []source{
		{&s.pods, &corev1.Pod{}},
		{&s.nodes, &corev1.Node{}},
		{&s.claims, &v1alpha1.NodeClaim{}},
		{&s.provisioners, &v1alpha1.Provisioner{}},
		{&s.daemonSets, &appsv1.DaemonSet{}},
		{&s.replicaSets, &appsv1.ReplicaSet{}},
		{&s.statefulSets, &appsv1.StatefulSet{}},
		{&s.jobs, &batchv1.Job{}},
		{&s.pvcs, &corev1.PersistentVolumeClaim{}},
		{&s.pvs, &corev1.PersistentVolume{}},
		{&s.storageClasses, &storagev1.StorageClass{}},
		{&s.csiNodes, &storagev1.CSINode{}},
		{&s.namespace, &corev1.Namespace{}},
		{&s.attachments, &storagev1.VolumeAttachment{}},
		{&s.pdbs, &policyv1.PodDisruptionBudget{}},
		{&s.runtimeClasses, &nodev1.RuntimeClass{}},
		{&s.priorityClasses, &schedulingv1.PriorityClass{}},
	}
	if withServices {
		wanted = append(wanted, source{&s.services, &corev1.Service{}}, source{&s.replicationControllers, &corev1.ReplicationController{}})
	}
	_, err := mapper.RESTMapping(schema.GroupKind{Group: schedulingv1beta1.GroupName, Kind: "PodGroup"}, schedulingv1beta1.SchemeGroupVersion.Version)
	switch {
	case err == nil:
		wanted = append(wanted, source{&s.podGroups, &schedulingv1beta1.PodGroup{}})
	case !meta.IsNoMatchError(err):
		return nil, fmt.Errorf("asking whether there are PodGroups: %w", err)
	}
	for _, want := range wanted {
		inf, err := c.GetInformer(ctx, want.obj, cache.BlockUntilSynced(false))
		if err != nil {
			return nil, fmt.Errorf("starting the informer of %T: %w", want.obj, err)
		}
		shared, ok := inf.(toolscache.SharedIndexInformer)
		if !ok {
			return nil, fmt.Errorf("the informer of %T has no store", want.obj)
		}
		*want.into = shared
	}
	err = s.pods.AddIndexers(podIndexers)
	if err != nil {
		return nil, fmt.Errorf("indexing pods: %w", err)
	}
	err = s.claims.AddIndexers(toolscache.Indexers{instanceIndex: indexInstance})
	if err != nil {
		return nil, fmt.Errorf("indexing claims: %w", err)
	}
	return &s, nil
}

// podIndexers are the indexes of pods.
var podIndexers = toolscache.Indexers{
	nodeNameIndex: func(o any) ([]string, error) {
		if p, ok := o.(*corev1.Pod); ok && p.Spec.NodeName != "" {
			return []string{p.Spec.NodeName}, nil
		}
		return nil, nil
	},
	uidIndex: func(o any) ([]string, error) {
		if p, ok := o.(*corev1.Pod); ok {
			return []string{string(p.UID)}, nil
		}
		return nil, nil
	},
	controllerIndex: func(o any) ([]string, error) {
		if p, ok := o.(*corev1.Pod); ok {
			if uid, owned := controllerOf(p); owned {
				return []string{string(uid)}, nil
			}
		}
		return nil, nil
	},
	unboundIndex: func(o any) ([]string, error) {
		if p, ok := o.(*corev1.Pod); ok && unbound(p) {
			return []string{unboundIndex}, nil
		}
		return nil, nil
	},
	targetIndex: func(o any) ([]string, error) {
		if p, ok := o.(*corev1.Pod); ok {
			if node := targetOf(p); node != "" {
				return []string{node}, nil
			}
		}
		return nil, nil
	},
}

// indexInstance is the index function of instanceIndex.
func indexInstance(o any) ([]string, error) {
	if c, ok := o.(*v1alpha1.NodeClaim); ok && c.Status.InstanceID != "" {
		return []string{c.Status.InstanceID}, nil
	}
	return nil, nil
}

// all returns the objects of a store.
func all[T client.Object](inf toolscache.SharedIndexInformer) []T {
	items := inf.GetStore().List()
	out := make([]T, 0, len(items))
	for _, it := range items {
		if o, ok := it.(T); ok {
			out = append(out, o)
		}
	}
	return out
}

// one returns an object by key ("name" or "namespace/name").
func one[T client.Object](inf toolscache.SharedIndexInformer, key string) (T, bool) {
	var zero T
	it, ok, err := inf.GetStore().GetByKey(key)
	if err != nil || !ok {
		return zero, false
	}
	o, ok := it.(T)
	return o, ok
}

// podsOn returns the pods that are bound to a node.
func (s *stores) podsOn(node string) []*corev1.Pod { return s.podsBy(nodeNameIndex, node) }

func (s *stores) podsBy(index, value string) []*corev1.Pod {
	items, err := s.pods.GetIndexer().ByIndex(index, value)
	if err != nil {
		return nil
	}
	out := make([]*corev1.Pod, 0, len(items))
	for _, it := range items {
		if p, ok := it.(*corev1.Pod); ok {
			out = append(out, p)
		}
	}
	return out
}

func terminal(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// waiting reports whether a pod wants a node and has none. A DaemonSet's pod has
// one from the start: its controller made it for that node.
func waiting(p *corev1.Pod) bool {
	return unbound(p) && capacity.DaemonSetTarget(p) == ""
}

// unbound reports whether kube-scheduler is still to bind a pod.
func unbound(p *corev1.Pod) bool {
	return p.Spec.NodeName == "" && p.DeletionTimestamp == nil && !terminal(p)
}
