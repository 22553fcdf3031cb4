package main

import (
	"context"
	"fmt"
	"hash/crc32"
	"strings"

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
	return heraldTo(api, scheme), nil
}

// heraldTo returns a herald that writes to an API.
func heraldTo(api eventsv1.EventsV1Interface, scheme *runtime.Scheme) *herald {
	b := events.NewBroadcaster(&events.EventSinkImpl{Interface: api})
	return &herald{broadcaster: b, recorder: b.NewRecorder(scheme, "berth-webhook")}
}

// maxNote is how long the API server lets an Event's note be, in bytes
// (pkg/apis/core/validation, NoteLengthLimit).
const maxNote = 1024

// tell writes one Event for each reason, with all that is advised for it. client-go
// takes Events that differ in nothing but their note for one and the same, whose
// first note stays: what is advised is in the action too, as a hash.
func (h *herald) tell(about *metav1.PartialObjectMetadata, advice []admission.Advice) {
	var reasons []string
	notes := map[string]string{}
	for _, a := range advice {
		if note, more := notes[a.Reason]; more {
			notes[a.Reason] = note + "; " + a.Text
			continue
		}
		reasons = append(reasons, a.Reason)
		notes[a.Reason] = a.Text
	}
	for _, reason := range reasons {
		note := notes[reason]
		if len(note) > maxNote {
			note = strings.ToValidUTF8(note[:maxNote], "")
		}
		action := fmt.Sprintf("Admit-%08x", crc32.ChecksumIEEE([]byte(note)))
		h.recorder.Eventf(about, nil, corev1.EventTypeWarning, reason, action, "%s", note)
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
	pod.Spec = corev1.PodSpec{NodeName: pod.Spec.NodeName}
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
