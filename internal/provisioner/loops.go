package provisioner

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	rawsource "sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/drain"
)

// cloud is EC2, as far as the loops need it; each loop names its own part.
type cloud interface {
	launcher
	instanceReader
	inventory
	discoverer
	troubled
	priceDates
}

// Config of the loops.
type Config struct {
	// Manager whose cache, client and leadership the loops use. Required.
	Manager manager.Manager
	// Kube is a typed client for what has no place in a cached client:
	// bindings, evictions, nominations. Required.
	Kube kubernetes.Interface
	// Cloud is EC2. Required.
	Cloud cloud
	// Queue holds what EventBridge says about instances. Optional: without it,
	// interruptions are noticed when EC2 lists them.
	Queue messages
	// ClusterName that subnets and security groups are tagged with. Required.
	ClusterName string
	// ClusterUID is the UID of the kube-system namespace. Required.
	ClusterUID string
	// Region that instances are launched in. Required.
	Region string
	// Namespace that the offerings are published in. Required.
	Namespace string
	// BatchIdle ends a batch when no pod has come for that long. Default 100ms.
	BatchIdle time.Duration
	// BatchMax ends a batch at the latest. Default 2s.
	BatchMax time.Duration
	// PlanBudget is the time that a plan may take; see capacity.Snapshot. Default 200ms.
	PlanBudget time.Duration
	// DefaultSpread are the spread constraints that kube-scheduler is configured to
	// give pods without any. Default none.
	DefaultSpread []corev1.TopologySpreadConstraint
	// RegistrationTimeout is how long an instance may take to join. Default 15m.
	RegistrationTimeout time.Duration
	// PriceTable is a file with the user's prices. Optional; read again when it
	// changes.
	PriceTable string
	// Registry takes the metrics. Required.
	Registry prometheus.Registerer

	// Client, APIReader and Recorder come from the Manager.
	Client    client.Client
	APIReader client.Reader
	Recorder  events.EventRecorder
}

// Loops are the provisioner's loops.
type Loops struct {
	cfg       Config
	log       logr.Logger
	stores    *stores
	book      *book
	verdicts  *verdicts
	spurned   spurned
	catalogue *catalogue
	nominator *nominator
	doors     *doors
	fleet     *fleet
	lifter    *lifter
	evictor   *drain.Evictor
	metrics   *metrics
	// memory of what was planned before; only the provision loop uses it.
	memory *capacity.Memory
	held   held
	// contested: pods of more than one kind wait (of several owners, or ownerless and
	// of several shapes), so that one may take the seat that was bought for another.
	contested atomic.Bool
	// planned: a round has planned since the start; firstJoin is when a node was
	// first asked to wait for that, in Unix nanoseconds.
	planned   atomic.Bool
	firstJoin atomic.Int64
	// came counts the pods that came to wait; looked are those that the last round
	// found waiting, which only the provision loop uses.
	came   atomic.Int64
	looked map[types.UID]bool
	// retiring: nodes are being taken out of use, whose pods are to be planned for
	// together.
	retiring atomic.Bool
	// wake wakes the provision loop, idle the disruption loop.
	wake, idle chan struct{}
	// written are claims as we wrote them last.
	written written
	// wishes are what consolidation asks the provision loop to buy.
	wishes wishes
	// moves is what the provision loop found about pods on nodes on their way out.
	moves moves
	// ledger and pace are shared by all drains; waiters wait for a budget, and
	// woken brings them back.
	ledger  drain.Ledger
	pace    *drain.Pace
	waiters waiters
	woken   chan event.GenericEvent
	// told is what was said of drains under way: a drainTold by claim UID.
	told sync.Map
	// noticed are the claims, by UID, whose removal an event has begun; their nodes
	// may have the taint already.
	noticed sync.Map
	// advice is what EC2 recommends about spot instances.
	advice advice
	// tainted is when our watch first showed a claim's node with the taint, by
	// claim UID.
	tainted sync.Map
	// underway is how far schedulers are with what they write.
	underway underway
	// removing are the claims, by UID, whose deletion we asked for and the cache may
	// not show yet.
	removing sync.Map
}

// New wires the loops into a manager. They run while it leads.
func New(ctx context.Context, cfg Config) (*Loops, error) {
	if cfg.Manager == nil || cfg.Kube == nil || cfg.Cloud == nil || cfg.Registry == nil {
		return nil, errors.New("manager, kube client, cloud and registry are required")
	}
	if cfg.ClusterName == "" || cfg.ClusterUID == "" || cfg.Region == "" || cfg.Namespace == "" {
		return nil, errors.New("cluster name, cluster UID, region and namespace are required")
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&cfg.BatchIdle, 100 * time.Millisecond}, {&cfg.BatchMax, 2 * time.Second}, {&cfg.PlanBudget, 200 * time.Millisecond}, {&cfg.RegistrationTimeout, 15 * time.Minute}} {
		if *d.v == 0 {
			*d.v = d.def
		}
		if *d.v < 0 {
			return nil, errors.New("durations must not be negative")
		}
	}
	cfg.Client, cfg.APIReader = cfg.Manager.GetClient(), cfg.Manager.GetAPIReader()
	cfg.Recorder = cfg.Manager.GetEventRecorder("berth-provisioner")

	st, err := newStores(ctx, cfg.Manager.GetCache(), cfg.Manager.GetRESTMapper(), len(cfg.DefaultSpread) > 0)
	if err != nil {
		return nil, err
	}
	p := &Loops{
		cfg: cfg, log: cfg.Manager.GetLogger().WithName("provisioner"), stores: st,
		book: newBook(), verdicts: newVerdicts(), catalogue: newCatalogue(cfg.Region),
		evictor: drain.NewEvictor(cfg.Kube.CoreV1().RESTClient()),
		memory:  capacity.NewMemory(),
		wake:    make(chan struct{}, 1), idle: make(chan struct{}, 1),
		pace: drain.NewPace(drainCalls), woken: make(chan event.GenericEvent, 1024),
	}
	if p.metrics, err = newMetrics(cfg.Registry, p); err != nil {
		return nil, err
	}
	p.nominator = newNominator(p)
	p.doors = newDoors(p)
	p.fleet = newFleet(p, cfg.Cloud)
	p.lifter = newLifter(p, cfg.Cloud)
	if err := p.watch(); err != nil {
		return nil, err
	}
	if err := p.watchDrains(); err != nil {
		return nil, fmt.Errorf("watching for drains: %w", err)
	}
	if err := p.reconcilers(); err != nil {
		return nil, err
	}
	market := &market{Loops: p, cloud: cfg.Cloud}
	health := newCheckup(p, cfg.Cloud)
	drift := newDrift(p, cfg.Cloud)
	disruption := newDisruption(p, &rebalancing{Loops: p}, drift)
	drift.holds = disruption.holds
	consolidation := newConsolidation(p, disruption)
	disruption.proposers = append(disruption.proposers, consolidation)
	loops := map[string]func(context.Context) error{
		"provision": p.provision, "launch": p.lifter.run, "nominate": p.nominator.run, "doors": p.doors.run, "fleet": p.fleet.run, "disrupt": disruption.run,
		"market": market.run, "publish": market.publish, "pauses": p.keepPauses, "drift": drift.watch, "health": health.run,
		"consolidate": consolidation.run, "held": p.watchHeld,
	}
	if cfg.Queue != nil {
		loops["interrupt"] = newInterruption(p, cfg.Queue, cfg.Cloud, health).run
	}
	for name, run := range loops {
		if err := cfg.Manager.Add(leading{run}); err != nil {
			return nil, fmt.Errorf("adding loop %s: %w", name, err)
		}
	}
	return p, nil
}

// leading is a loop that runs only while this process leads.
type leading struct{ run func(context.Context) error }

func (l leading) Start(ctx context.Context) error { return l.run(ctx) }
func (leading) NeedLeaderElection() bool          { return true }

// reconcilers sets up the controllers of claims and Provisioners.
func (p *Loops) reconcilers() error {
	err := ctrl.NewControllerManagedBy(p.cfg.Manager).
		Named("nodeclaim").
		For(&v1alpha1.NodeClaim{}).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(p.claimOfNode)).
		WatchesRawSource(rawsource.Channel(p.woken, &handler.EnqueueRequestForObject{})).
		WatchesRawSource(rawsource.Channel(p.lifter.pokes, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 50}).
		Complete(quietly((&lifecycle{Loops: p, cloud: p.cfg.Cloud}).Reconcile))
	if err != nil {
		return fmt.Errorf("setting up the controller of claims: %w", err)
	}
	err = ctrl.NewControllerManagedBy(p.cfg.Manager).
		Named("provisioner").
		For(&v1alpha1.Provisioner{}).
		Watches(&v1alpha1.NodeClaim{}, handler.EnqueueRequestsFromMapFunc(provisionerOfClaim)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(quietly((&statusKeeper{Loops: p, cloud: p.cfg.Cloud}).Reconcile))
	if err != nil {
		return fmt.Errorf("setting up the controller of Provisioners: %w", err)
	}
	return nil
}

// conflictPause lets the cache catch up with the write that came first.
const conflictPause = 20 * time.Millisecond

// quietly turns a write that lost a race into another look: it is the normal
// course of things where several hands write one object, not an error.
func quietly(f reconcile.Func) reconcile.Func {
	return func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
		res, err := f(ctx, req)
		if apierrors.IsConflict(err) {
			return reconcile.Result{RequeueAfter: conflictPause}, nil
		}
		return res, err
	}
}

// claimOfNode finds the claim of a Node by its provider id.
func (p *Loops) claimOfNode(_ context.Context, o client.Object) []reconcile.Request {
	node, ok := o.(*corev1.Node)
	if !ok {
		return nil
	}
	for _, c := range all[*v1alpha1.NodeClaim](p.stores.claims) {
		if c.Status.ProviderID != "" && c.Status.ProviderID == node.Spec.ProviderID {
			return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: c.Name}}}
		}
	}
	return nil
}

func provisionerOfClaim(_ context.Context, o client.Object) []reconcile.Request {
	c, ok := o.(*v1alpha1.NodeClaim)
	if !ok {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: c.Spec.Provisioner.Name}}}
}

// watch wakes the loops when something that they depend on changes.
func (p *Loops) watch() error {
	pods := toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if pod, ok := o.(*corev1.Pod); ok && waiting(pod) {
				p.came.Add(1)
				p.trigger()
			}
		},
		UpdateFunc: func(before, after any) {
			was, ok1 := before.(*corev1.Pod)
			is, ok2 := after.(*corev1.Pod)
			if !ok1 || !ok2 {
				return
			}
			p.underway.see(was, is, time.Now())
			if waiting(is) {
				p.doors.stir(time.Now())
			}
			if waiting(is) && !reflect.DeepEqual(was.Spec, is.Spec) {
				p.came.Add(1)
				p.trigger() // A gate was lifted.
			}
			if denominated(was, is) && waiting(is) {
				// kube-scheduler clears a nomination when it finds no room by
				// preemption; the seat is still meant for the pod.
				p.doors.forgot(time.Now())
				if claim, ok := p.book.of(is.UID); ok {
					p.nominator.enqueue(claim)
				}
			}
			if terminal(is) && !terminal(was) || is.DeletionTimestamp != nil && was.DeletionTimestamp == nil {
				p.lookForIdle()
			}
		},
		DeleteFunc: func(o any) {
			if last, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			if pod, ok := o.(*corev1.Pod); ok {
				p.book.take(pod.UID)
				p.lookForIdle()
			}
		},
	}
	if _, err := p.stores.pods.AddEventHandler(pods); err != nil {
		return fmt.Errorf("watching pods: %w", err)
	}
	nodes := toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { p.trigger() },
		DeleteFunc: func(any) { p.trigger() },
		UpdateFunc: func(before, after any) {
			was, ok1 := before.(*corev1.Node)
			is, ok2 := after.(*corev1.Node)
			if ok1 && ok2 && drain.Cordoned(was) != drain.Cordoned(is) {
				p.lookForIdle()
				p.trigger() // Its pods need room elsewhere, or do no longer.
			}
		},
	}
	if _, err := p.stores.nodes.AddEventHandler(nodes); err != nil {
		return fmt.Errorf("watching nodes: %w", err)
	}
	provisioners := toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { p.trigger() },
		UpdateFunc: func(before, after any) {
			was, ok1 := before.(*v1alpha1.Provisioner)
			is, ok2 := after.(*v1alpha1.Provisioner)
			if ok1 && ok2 && was.Generation != is.Generation {
				p.trigger()
				p.lookForIdle()
			}
		},
		DeleteFunc: func(any) { p.trigger() },
	}
	if _, err := p.stores.provisioners.AddEventHandler(provisioners); err != nil {
		return fmt.Errorf("watching Provisioners: %w", err)
	}
	if p.stores.podGroups == nil {
		return nil
	}
	groups := toolscache.ResourceEventHandlerFuncs{AddFunc: func(any) { p.trigger() }, UpdateFunc: func(any, any) { p.trigger() }}
	if _, err := p.stores.podGroups.AddEventHandler(groups); err != nil {
		return fmt.Errorf("watching PodGroups: %w", err)
	}
	return nil
}

// trigger wakes the provision loop.
func (p *Loops) trigger() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// lookForIdle wakes the disruption loop.
func (p *Loops) lookForIdle() {
	select {
	case p.idle <- struct{}{}:
	default:
	}
}
