package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	eventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/admission"
)

// herald makes Events of what workloads were warned of, since GitOps tools hide
// warnings. It never holds up an answer: what comes too fast is dropped.
type herald struct {
	broadcaster events.EventBroadcaster
	recorder    events.EventRecorder
}

func newHerald(c *rest.Config, scheme *runtime.Scheme) (*herald, error) {
	api, err := eventsv1.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("making a client for Events: %w", err)
	}
	b := events.NewBroadcaster(&events.EventSinkImpl{Interface: api})
	return &herald{broadcaster: b, recorder: b.NewRecorder(scheme, "berth-webhook")}, nil
}

func (h *herald) tell(about *metav1.PartialObjectMetadata, advice []admission.Advice) {
	for _, a := range advice {
		h.recorder.Eventf(about, nil, corev1.EventTypeWarning, a.Reason, "Admit", "%s", a.Text)
	}
}

// run writes Events until ctx ends.
func (h *herald) run(ctx context.Context) error {
	if err := h.broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("writing Events: %w", err)
	}
	<-ctx.Done()
	h.broadcaster.Shutdown()
	return nil
}

// sharingSpot selects the pods for which a capacity type was chosen.
func sharingSpot() labels.Selector {
	r, err := labels.NewRequirement(v1alpha1.LabelCapacityChoice, selection.Exists, nil)
	if err != nil {
		panic(err) // A constant: it is well-formed.
	}
	return labels.NewSelector().Add(*r)
}

// bareOfSpec leaves of a pod what counting needs.
func bareOfSpec(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	pod.ManagedFields, pod.Annotations = nil, nil
	pod.Spec = corev1.PodSpec{}
	pod.Status = corev1.PodStatus{Phase: pod.Status.Phase}
	return pod, nil
}

// bareNode leaves of a node what pods may ask of it.
func bareNode(o any) (any, error) {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	n.ManagedFields, n.Annotations, n.OwnerReferences, n.Finalizers = nil, nil, nil, nil
	n.Spec = corev1.NodeSpec{Taints: n.Spec.Taints}
	n.Status = corev1.NodeStatus{Allocatable: n.Status.Allocatable}
	return n, nil
}
