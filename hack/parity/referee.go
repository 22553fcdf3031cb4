package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/resourceslice/tracker"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	internalcache "k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/dynamicresources"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodevolumelimits"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"
	"k8s.io/kubernetes/pkg/scheduler/util/assumecache"

	"github.com/berth-dev/berth/internal/capacity"
)

// referees are those that have been needed so far, by the defaults that they
// know.
type referees map[string]*referee

// judge lets the right one judge a plan.
func (r referees) judge(s *scenario, plan *capacity.Plan) (*disagreement, error) {
	key, err := json.Marshal(s.DefaultSpread)
	if err != nil {
		return nil, fmt.Errorf("writing the default constraints: %w", err)
	}
	if r[string(key)] == nil {
		one, err := newReferee(s.DefaultSpread)
		if err != nil {
			return nil, err
		}
		r[string(key)] = one
	}
	return r[string(key)].judge(s, plan)
}

// referee is kube-scheduler's default profile, its plugins as they are, over a
// cluster that is set instead of watched.
type referee struct {
	profile framework.Framework
	current *board

	namespaces, claims, volumes, classes, csiNodes, resourceClaims, services, sets *stillInformer
}

// board is what the plugins take for the scheduler's snapshot; its content is
// replaced from trial to trial, while the plugins stay.
type board struct{ *internalcache.Snapshot }

// newReferee starts the plugins once; a referee judges one plan at a time. Pods
// without spread constraints get defaults, like those of a cluster whose
// kube-scheduler is configured so; with none it is configured as it comes.
func newReferee(defaults []corev1.TopologySpreadConstraint) (*referee, error) {
	metrics.Register()
	ctx := klog.NewContext(context.Background(), klog.Logger{})
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	r := &referee{
		current:    &board{internalcache.NewEmptySnapshot()},
		namespaces: newStillInformer(factory, &corev1.Namespace{}),
		claims:     newStillInformer(factory, &corev1.PersistentVolumeClaim{}),
		volumes:    newStillInformer(factory, &corev1.PersistentVolume{}),
		classes:    newStillInformer(factory, &storagev1.StorageClass{}),
		csiNodes:   newStillInformer(factory, &storagev1.CSINode{}),

		resourceClaims: newStillInformer(factory, &resourcev1.ResourceClaim{}),
		services:       newStillInformer(factory, &corev1.Service{}),
		sets:           newStillInformer(factory, &appsv1.ReplicaSet{}),
	}
	devices, err := tracker.StartTracker(ctx, tracker.Options{SliceInformer: factory.Resource().V1().ResourceSlices(), KubeClient: client})
	if err != nil {
		return nil, fmt.Errorf("starting the tracker of resource slices: %w", err)
	}
	claims := assumecache.NewAssumeCache(klog.Logger{}, factory.Resource().V1().ResourceClaims().Informer(), "ResourceClaim", "", nil)
	cfg, err := latest.Default()
	if err != nil {
		return nil, fmt.Errorf("reading kube-scheduler's default configuration: %w", err)
	}
	if len(defaults) > 0 {
		i := slices.IndexFunc(cfg.Profiles[0].PluginConfig, func(c config.PluginConfig) bool { return c.Name == names.PodTopologySpread })
		if i < 0 {
			return nil, errors.New("kube-scheduler's default configuration has no arguments for PodTopologySpread")
		}
		cfg.Profiles[0].PluginConfig[i].Args = &config.PodTopologySpreadArgs{DefaultingType: config.ListDefaulting, DefaultConstraints: defaults}
	}
	r.profile, err = frameworkruntime.NewFramework(ctx, plugins.NewInTreeRegistry(), &cfg.Profiles[0],
		frameworkruntime.WithClientSet(client),
		frameworkruntime.WithInformerFactory(factory),
		frameworkruntime.WithSnapshotSharedLister(r.current),
		frameworkruntime.WithParallelism(1),
		frameworkruntime.WithLogger(klog.Logger{}),
		frameworkruntime.WithSharedDRAManager(dynamicresources.NewDRAManager(ctx, claims, devices, factory)),
		frameworkruntime.WithSharedCSIManager(nodevolumelimits.NewCSIManager(factory.Storage().V1().CSINodes().Lister())),
	)
	if err != nil {
		return nil, fmt.Errorf("starting kube-scheduler's plugins: %w", err)
	}
	return r, nil
}

// refuses says why kube-scheduler would not put the pod on the node now; empty:
// it would.
func (r *referee) refuses(pod *corev1.Pod, node string) string {
	ctx := context.Background()
	for _, p := range r.profile.PreEnqueuePlugins() {
		if s := p.PreEnqueue(ctx, pod); !s.IsSuccess() {
			return s.Plugin() + ": " + s.Message()
		}
	}
	state := framework.NewCycleState()
	result, status, _ := r.profile.RunPreFilterPlugins(ctx, state, pod)
	if !status.IsSuccess() {
		return status.Plugin() + ": " + status.Message()
	}
	if !result.AllNodes() && !result.NodeNames.Has(node) {
		return "PreFilter leaves other nodes"
	}
	info, err := r.current.NodeInfos().Get(node)
	if err != nil {
		return err.Error()
	}
	if status := r.profile.RunFilterPlugins(ctx, state, pod, info); !status.IsSuccess() {
		return status.Plugin() + ": " + status.Message()
	}
	return ""
}

// bind counts the pod as running on its node.
func (r *referee) bind(pod *corev1.Pod) error {
	info, err := framework.NewPodInfo(pod)
	if err != nil {
		return fmt.Errorf("binding pod %s: %w", pod.Name, err)
	}
	return r.current.AssumePod(info)
}

// unbind takes back the last bind that is not taken back yet.
func (r *referee) unbind(pod *corev1.Pod) error { return r.current.ForgetPod(klog.Logger{}, pod) }

// set replaces nodes and running pods.
func (r *referee) set(nodes []*corev1.Node, pods []*corev1.Pod) {
	r.current.Snapshot = internalcache.NewSnapshot(pods, nodes)
}

// setObjects replaces everything that plugins look up apart from nodes and pods.
func (r *referee) setObjects(s *scenario) {
	var namespaces, claims, volumes, classes, devices, services, sets []runtime.Object
	for name, l := range s.Namespaces {
		namespaces = append(namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: l}})
	}
	for _, c := range s.Claims {
		claims = append(claims, c)
	}
	for _, v := range s.Volumes {
		volumes = append(volumes, v)
	}
	for _, c := range s.Classes {
		classes = append(classes, c)
	}
	for _, c := range s.ResourceClaims {
		devices = append(devices, c)
	}
	for _, x := range s.Services {
		services = append(services, x)
	}
	for _, x := range s.Sets {
		sets = append(sets, x)
	}
	r.resourceClaims.replace(devices)
	r.services.replace(services)
	r.sets.replace(sets)
	r.namespaces.replace(namespaces)
	r.claims.replace(claims)
	r.volumes.replace(volumes)
	r.classes.replace(classes)
}

// setLimits replaces the CSINodes: volume limits by node and driver.
func (r *referee) setLimits(limits map[string]map[string]int64) {
	var list []runtime.Object
	for node, drivers := range limits {
		o := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}}
		for driver, n := range drivers {
			count := int32(n)
			o.Spec.Drivers = append(o.Spec.Drivers, storagev1.CSINodeDriver{Name: driver, NodeID: node, Allocatable: &storagev1.VolumeNodeResources{Count: &count}})
		}
		list = append(list, o)
	}
	r.csiNodes.replace(list)
}

// stillInformer is an informer without a watch: what it holds is set, and its
// handlers are called before set returns.
type stillInformer struct {
	cache.SharedIndexInformer
	handlers []cache.ResourceEventHandler
}

// newStillInformer makes one and has the factory use it for objects of its kind.
func newStillInformer(factory informers.SharedInformerFactory, kind runtime.Object) *stillInformer {
	i := &stillInformer{}
	factory.InformerFor(kind, func(kubernetes.Interface, time.Duration) cache.SharedIndexInformer {
		i.SharedIndexInformer = cache.NewSharedIndexInformer(&cache.ListWatch{}, kind, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		return i
	})
	return i
}

func (i *stillInformer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	i.handlers = append(i.handlers, h)
	return nil, nil
}

// replace makes these objects all that there are.
func (i *stillInformer) replace(objects []runtime.Object) {
	store := i.GetIndexer()
	for _, o := range store.List() {
		// A store of objects with names refuses none.
		_ = store.Delete(o)
		for _, h := range i.handlers {
			h.OnDelete(o)
		}
	}
	for _, o := range objects {
		_ = store.Add(o)
		for _, h := range i.handlers {
			h.OnAdd(o, true)
		}
	}
}

var _ fwk.SharedLister = &board{}
