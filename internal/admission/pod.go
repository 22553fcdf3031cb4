package admission

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// Result is what became of a review, for the metric.
type Result string

// Results. Only a validator denies.
const (
	// ResultHinted: the pod carries a hint that is in force.
	ResultHinted Result = "hinted"
	// ResultNoHint: nothing that is known could host the pod.
	ResultNoHint Result = "no_hint"
	// ResultSkipped: the object is not ours to look at, or nothing is known yet.
	ResultSkipped Result = "skipped"
	// ResultDefaulted: a Provisioner was completed.
	ResultDefaulted Result = "defaulted"
	// ResultAllowed: nothing to say against it.
	ResultAllowed Result = "allowed"
	// ResultDenied: refused, with the reason.
	ResultDenied Result = "denied"
	// ResultShed: allowed or turned away unseen for want of time or room.
	ResultShed Result = "shed"
	// ResultError: not understood; allowed by mutators, an HTTP error otherwise.
	ResultError Result = "error"
)

// results are all of them, so that the metric's series exist from the start.
var results = []Result{ResultHinted, ResultNoHint, ResultSkipped, ResultDefaulted, ResultAllowed, ResultDenied, ResultShed, ResultError}

// Decision is the answer to a review.
type Decision struct {
	// Patch is a JSON patch (RFC 6902); empty for none.
	Patch []byte
	// Warnings are shown to whoever made the request.
	Warnings []string
	// Denied says why the object is refused; empty: it is allowed.
	Denied string
	// Forbidden: it is the request that is refused (403), not an object that is
	// invalid (422).
	Forbidden bool
	Result    Result
	// Advice is what the Warnings of a workload say.
	Advice []Advice
	// About is the object that the Advice goes to as Events; nil: to none.
	About *metav1.PartialObjectMetadata
}

// DecidePod hints a pod at the capacity that would be bought for it. It looks
// at the pod and the Snapshot alone; nil knows nothing and changes nothing. The
// patch touches no key but berth.dev/placement and berth.dev/shape, unless a
// capacity type was chosen for the pod (SpotShare): then it also gets the label
// berth.dev/capacity-choice and one preferred node affinity term.
//
// Pods that Berth will never place get nothing: bound, mirror and DaemonSet
// pods; nor do those whose annotations have no room for more. A pod without a controller, that somebody has just applied by hand, is
// told when nothing can host it, or it costs as much as cost, in $/h; others' warnings would go to a controller's log.
func DecidePod(in *PodInput, s *Snapshot, choice string, cost float64) Decision {
	var ops []patchOp
	if choice != "" && in.hasMetadata && in.hasSpec {
		ops = in.choose(choice)
	}
	d := decidePod(in, s, cost)
	d.Patch = joinPatch(ops, d.Patch)
	return d
}

func decidePod(in *PodInput, s *Snapshot, cost float64) Decision {
	pod := &in.pod
	if s == nil || !in.hasMetadata || pod.Spec.NodeName != "" || in.mirror || in.owner == "DaemonSet" {
		return Decision{Result: ResultSkipped}
	}
	shape := capacity.ShapeHash(pod)
	a, known := s.place(pod, shape)
	hint, mark := a.hint, shape
	if in.full { // Ours would be the end of it; a hint of somebody's goes all the same.
		hint, mark = "", in.ours[v1alpha1.AnnotationShape]
	}
	d := Decision{Patch: podPatch(in, hint, mark)}
	switch {
	case in.full:
		d.Result = ResultSkipped
	case a.hint != "":
		d.Result = ResultHinted
	case !known:
		d.Result = ResultSkipped
	default:
		d.Result = ResultNoHint
	}
	if in.owner == "" { // Somebody's own pod: others' warnings go to a controller's log.
		if known && a.hint == "" {
			d.Advice = append(d.Advice, s.why(pod, shape).advice()...)
		}
		d.Advice = append(d.Advice, adviseCost(pod, 1, a, cost)...)
		d.Advice = append(d.Advice, s.adviseHolding(in, 1, a)...)
		d.warnOfAdvice()
	}
	return d
}

// joinPatch puts operations before a patch.
func joinPatch(ops []patchOp, patch []byte) []byte {
	if len(ops) == 0 {
		return patch
	}
	b, err := json.Marshal(ops)
	if err != nil {
		return patch // Strings and numbers: it cannot fail.
	}
	if len(patch) == 0 {
		return b
	}
	b[len(b)-1] = ','
	return append(b, patch[1:]...)
}

// podPatch gives the pod exactly these values of our keys; a hint that is empty
// is one that it must not have. Nil when it is so already.
//
// Each operation can be applied to the object that was sent: annotations are
// added as a whole where there are none, "add" sets a key whether it is there
// or not, and "remove" names only a key that is there.
func podPatch(in *PodInput, hint, shape string) []byte {
	has, hinted := in.ours[v1alpha1.AnnotationPlacement]
	setHint := hint != "" && (!hinted || has != hint)
	dropHint := hint == "" && hinted
	setShape := in.ours[v1alpha1.AnnotationShape] != shape
	if !setHint && !dropHint && !setShape {
		return nil
	}
	b := make([]byte, 0, 320)
	if !in.annotated {
		b = append(b, `[{"op":"add","path":"/metadata/annotations","value":{`...)
		if hint != "" {
			b = append(b, `"`+v1alpha1.AnnotationPlacement+`":`...)
			b = appendString(b, hint)
			b = append(b, ',')
		}
		b = append(b, `"`+v1alpha1.AnnotationShape+`":`...)
		b = appendString(b, shape)
		return append(b, `}}]`...)
	}
	op := func(verb, key, value string) {
		if len(b) > 0 {
			b = append(b, ',')
		} else {
			b = append(b, '[')
		}
		b = append(b, `{"op":"`...)
		b = append(b, verb...)
		b = append(b, `","path":"/metadata/annotations/`...)
		b = appendPointer(b, key)
		b = append(b, '"')
		if verb == "add" {
			b = append(b, `,"value":`...)
			b = appendString(b, value)
		}
		b = append(b, '}')
	}
	switch {
	case setHint:
		op("add", v1alpha1.AnnotationPlacement, hint)
	case dropHint:
		op("remove", v1alpha1.AnnotationPlacement, "")
	}
	if setShape {
		op("add", v1alpha1.AnnotationShape, shape)
	}
	return append(b, ']')
}
