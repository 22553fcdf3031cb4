package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

const (
	// rebuildPause lets a burst of changes become one Snapshot.
	rebuildPause = 100 * time.Millisecond
	// rebuildEvery renews a Snapshot that nothing has changed, so that time
	// counts: offerings grow stale, exhausted ones return.
	rebuildEvery = time.Minute
	// crdRetry is how often a CRD that is missing is looked for.
	crdRetry = 2 * time.Second
)

// store is what a Feed needs of a cache.Cache.
type store interface {
	client.Reader
	GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error)
	WaitForCacheSync(ctx context.Context) bool
}

// FeedConfig is what a Feed needs. Cache and Namespace are required.
type FeedConfig struct {
	// Cache of Provisioners, NodeClaims, DaemonSets, RuntimeClasses, PriorityClasses,
	// PodDisruptionBudgets, Nodes, ConfigMap berth-offerings, and the pods that have label berth.dev/capacity-choice.
	Cache store
	// Namespace of Berth.
	Namespace string
	// Ledger is told of the pods and Nodes in the cache; nil: nobody is.
	Ledger *SpotLedger
	Log    logr.Logger
}

// Feed keeps a Snapshot of what is known up to date.
type Feed struct {
	config  FeedConfig
	current atomic.Pointer[Snapshot]
	changed chan struct{}

	// Of the goroutine of Run alone:
	memory    typeMemory
	version   string // resourceVersion of the ConfigMap that offerings is from
	offerings *capacity.Offerings
}

// NewFeed returns a Feed that knows nothing until Run has seen the cache in sync.
func NewFeed(c FeedConfig) (*Feed, error) {
	if c.Cache == nil || c.Namespace == "" {
		return nil, errors.New("admission feed: Cache and Namespace are required")
	}
	return &Feed{config: c, changed: make(chan struct{}, 1), memory: typeMemory{}}, nil
}

// Current is the Snapshot in force; nil while nothing is known.
func (f *Feed) Current() *Snapshot { return f.current.Load() }

// Synced reports whether the cache has been read once.
func (f *Feed) Synced() bool { return f.current.Load() != nil }

// Run watches until ctx ends. The cache must be started by the caller.
func (f *Feed) Run(ctx context.Context) error {
	for _, w := range []struct {
		object  client.Object
		matters func(old, obj any) bool
	}{
		{&v1alpha1.Provisioner{}, provisionerMatters},
		{&corev1.ConfigMap{}, always},
		{&appsv1.DaemonSet{}, specMatters},
		{&nodev1.RuntimeClass{}, always},
		{&schedulingv1.PriorityClass{}, always},
		{&policyv1.PodDisruptionBudget{}, specMatters},
		{&corev1.Node{}, nodeMatters},
		{&v1alpha1.NodeClaim{}, nothingMatters}, // Read when asked for.
		{&corev1.Pod{}, nothingMatters},         // For the ledger alone.
	} {
		informer, err := f.informer(ctx, w.object)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watching %s: %w", reflect.TypeOf(w.object).Elem().Name(), err)
		}
		if _, err := informer.AddEventHandler(f.handlers(w.object, w.matters)); err != nil {
			return fmt.Errorf("watching %s: %w", reflect.TypeOf(w.object).Elem().Name(), err)
		}
	}
	if !f.config.Cache.WaitForCacheSync(ctx) {
		return nil // The end came first.
	}
	for {
		if err := f.rebuild(ctx); err != nil && ctx.Err() == nil {
			f.config.Log.Error(err, "building what is known failed; the last state stays in force")
		}
		if f.config.Ledger != nil {
			f.config.Ledger.Sweep()
		}
		if !f.wait(ctx) {
			return nil
		}
	}
}

// handlers are what a change of a kind sets off.
func (f *Feed) handlers(object client.Object, matters func(old, obj any) bool) toolscache.ResourceEventHandler {
	switch object.(type) {
	case *corev1.Pod:
		seen := func(obj any, gone bool) {
			if d, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok && f.config.Ledger != nil {
				f.config.Ledger.Seen(pod, gone)
			}
		}
		return toolscache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { seen(obj, false) },
			UpdateFunc: func(_, obj any) { seen(obj, false) },
			DeleteFunc: func(obj any) { seen(obj, true) },
		}
	case *v1alpha1.NodeClaim:
		return toolscache.ResourceEventHandlerFuncs{}
	case *corev1.Node:
		return f.nodeHandlers(matters)
	}
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { f.poke() },
		UpdateFunc: func(old, obj any) {
			if matters(old, obj) {
				f.poke()
			}
		},
		DeleteFunc: func(any) { f.poke() },
	}
}

// nodeHandlers tell of nodes that are not Berth's: pods are pinned to them, and they
// change seldom. Berth's own come by the hundred, and the next Snapshot, in a
// minute at most, is soon enough to know them.
func (f *Feed) nodeHandlers(matters func(old, obj any) bool) toolscache.ResourceEventHandler {
	seen := func(old, obj any) {
		if node, ok := obj.(*corev1.Node); ok && f.config.Ledger != nil {
			f.config.Ledger.SeenNode(node, false)
		}
		if matters(old, obj) {
			f.poke()
		}
	}
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { seen(nil, obj) },
		UpdateFunc: seen,
		DeleteFunc: func(obj any) {
			if d, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			if node, ok := obj.(*corev1.Node); ok && f.config.Ledger != nil {
				f.config.Ledger.SeenNode(node, true)
			}
		},
	}
}

// Claims are those of a Provisioner, from memory; none before the cache has been
// read once.
func (f *Feed) Claims(provisioner string) []*v1alpha1.NodeClaim {
	if !f.Synced() {
		return nil
	}
	var list v1alpha1.NodeClaimList
	// The informer is there and in sync: this neither waits nor fails.
	if err := f.config.Cache.List(context.Background(), &list, client.MatchingLabels{v1alpha1.LabelProvisioner: provisioner}); err != nil {
		f.config.Log.Error(err, "listing claims failed", "provisioner", provisioner)
		return nil
	}
	out := make([]*v1alpha1.NodeClaim, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out
}

// informer waits for the kind where its CRD is not there yet: the webhook may be
// installed first.
func (f *Feed) informer(ctx context.Context, object client.Object) (cache.Informer, error) {
	for said := false; ; said = true {
		informer, err := f.config.Cache.GetInformer(ctx, object, cache.BlockUntilSynced(false))
		if !meta.IsNoMatchError(err) {
			return informer, err
		}
		if !said {
			f.config.Log.Info("waiting for a CRD; install those in deploy/crds", "detail", err.Error())
		}
		retry := time.NewTimer(crdRetry)
		select {
		case <-ctx.Done():
			retry.Stop()
			return nil, ctx.Err()
		case <-retry.C:
		}
	}
}

func (f *Feed) poke() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// wait returns true when it is time to build anew.
func (f *Feed) wait(ctx context.Context) bool {
	every := time.NewTimer(rebuildEvery)
	defer every.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-every.C:
		return true
	case <-f.changed:
	}
	pause := time.NewTimer(rebuildPause)
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-pause.C:
		return true
	}
}

func (f *Feed) rebuild(ctx context.Context) error {
	in := Inputs{Now: time.Now()}
	var provisioners v1alpha1.ProvisionerList
	if err := f.config.Cache.List(ctx, &provisioners); err != nil {
		return fmt.Errorf("listing Provisioners: %w", err)
	}
	for i := range provisioners.Items {
		in.Provisioners = append(in.Provisioners, &provisioners.Items[i])
	}
	var daemonSets appsv1.DaemonSetList
	if err := f.config.Cache.List(ctx, &daemonSets); err != nil {
		return fmt.Errorf("listing DaemonSets: %w", err)
	}
	classes, err := f.classes(ctx)
	if err != nil {
		return err
	}
	for i := range daemonSets.Items {
		pod := capacity.DaemonSetPod(&daemonSets.Items[i])
		classes.Admit(pod)
		in.DaemonSetPods = append(in.DaemonSetPods, pod)
	}
	var budgets policyv1.PodDisruptionBudgetList
	if err := f.config.Cache.List(ctx, &budgets); err != nil {
		return fmt.Errorf("listing PodDisruptionBudgets: %w", err)
	}
	for i := range budgets.Items {
		in.Budgets = append(in.Budgets, &budgets.Items[i])
	}
	var nodes corev1.NodeList
	if err := f.config.Cache.List(ctx, &nodes); err != nil {
		return fmt.Errorf("listing Nodes: %w", err)
	}
	for i := range nodes.Items {
		in.Nodes = append(in.Nodes, &nodes.Items[i])
	}
	if err := f.readOfferings(ctx); err != nil {
		// The last ones stay; a Snapshot with fresh Provisioners is better than none.
		f.config.Log.Error(err, "the published offerings cannot be read")
	}
	in.Offerings = f.offerings
	f.current.Store(newSnapshot(in, f.memory))
	return nil
}

// classes are those that complete DaemonSets' pods.
func (f *Feed) classes(ctx context.Context) (*capacity.Classes, error) {
	var runtimes nodev1.RuntimeClassList
	if err := f.config.Cache.List(ctx, &runtimes); err != nil {
		return nil, fmt.Errorf("listing RuntimeClasses: %w", err)
	}
	var priorities schedulingv1.PriorityClassList
	if err := f.config.Cache.List(ctx, &priorities); err != nil {
		return nil, fmt.Errorf("listing PriorityClasses: %w", err)
	}
	rs, ps := make([]*nodev1.RuntimeClass, len(runtimes.Items)), make([]*schedulingv1.PriorityClass, len(priorities.Items))
	for i := range rs {
		rs[i] = &runtimes.Items[i]
	}
	for i := range ps {
		ps[i] = &priorities.Items[i]
	}
	return capacity.NewClasses(rs, ps), nil
}

// readOfferings decodes the ConfigMap if it is another than the last.
func (f *Feed) readOfferings(ctx context.Context) error {
	var cm corev1.ConfigMap
	err := f.config.Cache.Get(ctx, client.ObjectKey{Namespace: f.config.Namespace, Name: v1alpha1.OfferingsConfigMap}, &cm)
	if apierrors.IsNotFound(err) {
		f.offerings, f.version = nil, ""
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading ConfigMap %s/%s: %w", f.config.Namespace, v1alpha1.OfferingsConfigMap, err)
	}
	if cm.ResourceVersion == f.version {
		return nil
	}
	f.version = cm.ResourceVersion // Read once, also when it cannot be decoded.
	o, err := capacity.DecodeOfferings(cm.BinaryData[capacity.OfferingsKey])
	if err != nil {
		return fmt.Errorf("ConfigMap %s/%s: %w", f.config.Namespace, v1alpha1.OfferingsConfigMap, err)
	}
	f.offerings = o
	return nil
}

func always(_, _ any) bool         { return true }
func nothingMatters(_, _ any) bool { return false }

// nodeMatters says whether a node is new, or differs in what pods may ask of it, and
// is not Berth's.
func nodeMatters(old, obj any) bool {
	b, ok := obj.(*corev1.Node)
	if !ok || b.Labels[v1alpha1.LabelProvisioner] != "" {
		return false
	}
	a, ok := old.(*corev1.Node)
	return !ok || !maps.Equal(a.Labels, b.Labels) || !apiequality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints) ||
		!apiequality.Semantic.DeepEqual(a.Status.Allocatable, b.Status.Allocatable)
}

// provisionerMatters says whether an update changes what can be bought: the
// status does so only through limits.
func provisionerMatters(old, obj any) bool {
	a, ok := old.(*v1alpha1.Provisioner)
	b, ok2 := obj.(*v1alpha1.Provisioner)
	if !ok || !ok2 {
		return true
	}
	if a.UID != b.UID || a.Generation != b.Generation || (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) {
		return true
	}
	return len(b.Spec.Limits) > 0 && (a.Status.Nodes != b.Status.Nodes ||
		a.Status.HourlyCost != b.Status.HourlyCost || !apiequality.Semantic.DeepEqual(a.Status.Resources, b.Status.Resources))
}

// specMatters ignores what changes in a status.
func specMatters(old, obj any) bool {
	a, err := meta.Accessor(old)
	if err != nil {
		return true
	}
	b, err := meta.Accessor(obj)
	return err != nil || a.GetGeneration() != b.GetGeneration() || a.GetUID() != b.GetUID()
}
