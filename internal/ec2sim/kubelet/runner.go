package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

// Event is news of a machine.
type Event struct {
	InstanceID string
	// Joined is set once, when the Node is registered.
	Joined bool
	// Failed is set once, when the machine gives up.
	Failed bool
	// Console is a line for the machine's console.
	Console string
}

// Config is how a Runner is made. All fields are needed.
type Config struct {
	Client  kubernetes.Interface
	Cluster Cluster
	// DeviceDelay is how long after registration the device plugin announces
	// GPUs.
	DeviceDelay time.Duration
	// Parallel is how many calls to the API server run at once, at least 1.
	Parallel int
	// Report is called for each event, from many goroutines.
	Report func(Event)
	Clock  clock.Clock
	Log    *zap.Logger
}

// Runner plays all machines' kubelets. Boot and Stop only queue; Run works.
type Runner struct {
	cfg   Config
	slots chan struct{}

	mu    sync.Mutex
	queue []order
	wake  chan struct{}
}

type order struct {
	machine Machine
	stop    bool
}

// New makes a Runner.
func New(cfg Config) (*Runner, error) {
	if cfg.Client == nil || cfg.Report == nil || cfg.Clock == nil || cfg.Log == nil || cfg.Parallel < 1 {
		return nil, errors.New("kubelet runner: client, report, clock, log and parallel are needed")
	}
	return &Runner{cfg: cfg, slots: make(chan struct{}, cfg.Parallel), wake: make(chan struct{}, 1)}, nil
}

// Boot starts the machine's kubelet. It does not block.
func (r *Runner) Boot(m Machine) { r.enqueue(order{machine: m}) }

// Stop ends the machine's kubelet: a join under way is given up, a registered
// node stops reporting. It does not block and may be called for a machine that
// never booted.
func (r *Runner) Stop(m Machine) { r.enqueue(order{machine: m, stop: true}) }

func (r *Runner) enqueue(o order) {
	r.mu.Lock()
	r.queue = append(r.queue, o)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Runner) take() []order {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.queue
	r.queue = nil
	return q
}

// running is a kubelet's goroutine.
type running struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// Run works until the context ends, then waits for what is under way.
func (r *Runner) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	kubelets := map[string]running{}
	for {
		for _, o := range r.take() {
			m := o.machine
			if !o.stop {
				kctx, cancel := context.WithCancel(ctx)
				k := running{cancel, make(chan struct{})}
				kubelets[m.InstanceID] = k
				wg.Go(func() {
					defer close(k.done)
					defer cancel()
					r.boot(kctx, m)
				})
				continue
			}
			k, ok := kubelets[m.InstanceID]
			if !ok {
				continue
			}
			delete(kubelets, m.InstanceID)
			k.cancel()
			wg.Go(func() {
				<-k.done
				r.stop(ctx, m)
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
	}
}

// boot registers the node, then announces its GPUs.
func (r *Runner) boot(ctx context.Context, m Machine) {
	log := r.cfg.Log.With(zap.String("instance", m.InstanceID), zap.String("node", m.NodeName))
	node, err := BuildNode(m, r.cfg.Cluster)
	if err != nil {
		log.Error("node does not join", zap.Error(err))
		r.cfg.Report(Event{InstanceID: m.InstanceID, Failed: true, Console: err.Error()})
		return
	}
	var booted metav1.Time
	err = r.retry(ctx, log, "registering the node", func() error {
		booted = metav1.NewTime(r.cfg.Clock.Now())
		err := r.register(ctx, node)
		if apierrors.IsNotFound(err) {
			// It went away between two calls; the next try creates it. %v
			// hides the NotFound, which would end the tries.
			return fmt.Errorf("the node has just gone: %v", err)
		}
		return err
	})
	if err != nil {
		return
	}
	log.Info("node joined")
	r.cfg.Report(Event{InstanceID: m.InstanceID, Joined: true, Console: "kubelet: successfully registered node " + m.NodeName})
	r.announceGPUs(ctx, log, m)
	// Only the end of the machine ends it early, and then it is no failure.
	_ = r.retry(ctx, log, "taking over pods", func() error { return r.takeOverPods(ctx, m.NodeName, booted) })
}

// announceGPUs does what the device plugin does, some time after the node has joined.
func (r *Runner) announceGPUs(ctx context.Context, log *zap.Logger, m Machine) {
	gpus := GPUs(m)
	if gpus == 0 {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-r.cfg.Clock.After(r.cfg.DeviceDelay):
	}
	count := resource.NewQuantity(gpus, resource.DecimalSI).String()
	list := map[corev1.ResourceName]string{ResourceGPU: count}
	err := r.retry(ctx, log, "announcing GPUs", func() error {
		return r.patch(ctx, m.NodeName, types.MergePatchType, map[string]any{"status": map[string]any{"capacity": list, "allocatable": list}}, "status")
	})
	if err == nil {
		r.cfg.Report(Event{InstanceID: m.InstanceID, Console: fmt.Sprintf("nvidia-device-plugin: registered %s %s", count, ResourceGPU)})
	}
}

// takeOverPods notes the start of pods that were bound before the kubelet
// joined, as a kubelet does when it first sees a pod. kwok, which plays the rest
// of the kubelet, looks at pods of a node that it knew before it was to manage
// it only when they change. It is an error while any of them is still Pending.
func (r *Runner) takeOverPods(ctx context.Context, node string, booted metav1.Time) error {
	list, err := r.cfg.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return err
	}
	pending := 0
	for i := range list.Items {
		p := &list.Items[i]
		if p.Status.Phase != corev1.PodPending || p.DeletionTimestamp != nil || !p.CreationTimestamp.Before(&booted) {
			continue
		}
		pending++
		patch, err := json.Marshal(map[string]any{"status": map[string]any{"startTime": metav1.NewTime(r.cfg.Clock.Now())}})
		if err != nil {
			return err
		}
		_, err = r.cfg.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	if pending > 0 {
		return fmt.Errorf("%d pods are still to be started", pending)
	}
	return nil
}

// retry repeats act as the kubelet repeats its registration: after 100 ms, then
// twice as long each time up to 7 s, until it works or the machine stops. A
// node that is gone is not waited for.
func (r *Runner) retry(ctx context.Context, log *zap.Logger, what string, act func() error) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 7*time.Second) {
		err := r.slot(ctx, act)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if apierrors.IsNotFound(err) {
			return err
		}
		log.Warn("kubelet call failed", zap.String("act", what), zap.Error(err), zap.Duration("retryIn", wait))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.cfg.Clock.After(wait):
		}
	}
}

func (r *Runner) slot(ctx context.Context, act func() error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r.slots <- struct{}{}:
	}
	defer func() { <-r.slots }()
	return act()
}

// register does what the kubelet does (pkg/kubelet/kubelet_node_status.go,
// tryRegisterWithAPIServer): create the Node, or take over one that is there:
// then only the default labels and the status are written, and neither
// --node-labels nor taints.
func (r *Runner) register(ctx context.Context, node *corev1.Node) error {
	node.Status.Conditions = startConditions(r.cfg.Clock.Now())
	_, err := r.cfg.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err == nil || !apierrors.IsAlreadyExists(err) {
		return err
	}
	have, err := r.cfg.Client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if have.Spec.ProviderID != "" && have.Spec.ProviderID != node.Spec.ProviderID {
		// An earlier instance had the same address. The cloud controller
		// removes such a node once its instance is gone.
		return fmt.Errorf("node %s belongs to %s", node.Name, have.Spec.ProviderID)
	}
	capacity, allocatable := node.Status.Capacity.DeepCopy(), node.Status.Allocatable.DeepCopy()
	for name := range have.Status.Capacity {
		if _, ok := capacity[name]; !ok {
			// Extended resources count again from zero when the kubelet
			// starts (reconcileExtendedResource).
			capacity[name], allocatable[name] = resource.Quantity{}, resource.Quantity{}
		}
	}
	// The status goes first: kwok takes the node over as soon as it sees the
	// annotation, and keeps the capacity that is there.
	status := map[string]any{"status": map[string]any{
		"capacity": capacity, "allocatable": allocatable, "addresses": node.Status.Addresses,
		"nodeInfo": node.Status.NodeInfo, "conditions": node.Status.Conditions,
	}}
	if err := r.patch(ctx, node.Name, types.StrategicMergePatchType, status, "status"); err != nil {
		return err
	}
	labels := map[string]string{}
	for _, key := range []string{corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelArchStable} {
		labels[key] = node.Labels[key]
	}
	meta := map[string]any{"metadata": map[string]any{"labels": labels, "annotations": node.Annotations}}
	if have.Spec.ProviderID == "" {
		// The cloud controller fills in a missing provider id.
		meta["spec"] = map[string]string{"providerID": node.Spec.ProviderID}
	}
	return r.patch(ctx, node.Name, types.MergePatchType, meta)
}

// stop makes a registered node look like one whose kubelet is gone: kwok lets
// go of it, its conditions are unknown, and pods that were ending have ended,
// because their containers are no more. The Node stays; removing it is the
// provisioner's work.
func (r *Runner) stop(ctx context.Context, m Machine) {
	log := r.cfg.Log.With(zap.String("instance", m.InstanceID), zap.String("node", m.NodeName))
	err := r.retry(ctx, log, "stopping the node", func() error {
		have, err := r.cfg.Client.CoreV1().Nodes().Get(ctx, m.NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if have.Spec.ProviderID != ProviderID(m.Zone, m.InstanceID) || have.Annotations[AnnotationManaged] == "" {
			return nil // not this machine's node, or it never joined
		}
		// The UID makes sure that no later node of the same name is touched.
		meta := map[string]any{"metadata": map[string]any{"uid": have.UID, "labels": map[string]string{LabelStopped: "true"}}}
		if err := r.patch(ctx, m.NodeName, types.MergePatchType, meta); err != nil {
			return err
		}
		status := map[string]any{"metadata": map[string]any{"uid": have.UID}, "status": map[string]any{"conditions": stopConditions(r.cfg.Clock.Now())}}
		if err := r.patch(ctx, m.NodeName, types.StrategicMergePatchType, status, "status"); err != nil {
			return err
		}
		return r.endPods(ctx, m.NodeName)
	})
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		log.Error("stopping the node failed", zap.Error(err))
	}
}

// endPods confirms the deletion of the node's pods that were being deleted.
func (r *Runner) endPods(ctx context.Context, node string) error {
	pods, err := r.cfg.Client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	now := int64(0)
	for _, p := range pods.Items {
		if p.Spec.NodeName != node || p.DeletionTimestamp == nil {
			continue
		}
		err := r.cfg.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("ending pod %s/%s: %w", p.Namespace, p.Name, err)
		}
	}
	return nil
}

func (r *Runner) patch(ctx context.Context, name string, kind types.PatchType, body any, subresources ...string) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	_, err = r.cfg.Client.CoreV1().Nodes().Patch(ctx, name, kind, text, metav1.PatchOptions{}, subresources...)
	return err
}
