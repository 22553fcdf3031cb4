package admission

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/internal/capacity"
)

const (
	// maxAdvice is how long a warning about a workload is at most, in bytes, so
	// that kubectl prints it on one line.
	maxAdvice = 120
	// hoursPerMonth turns $/h into what bills say.
	hoursPerMonth = 730
	// longGrace is how long a pod on a spot node may take to end, in seconds: an
	// interrupted instance has two minutes.
	longGrace = 120
)

// Advice is something that whoever applies a workload should know.
type Advice struct {
	// Reason is one of the Reason… values, as an Event has it.
	Reason string
	// Text is at most maxAdvice bytes long.
	Text string
}

// Reasons of Advice.
const (
	// ReasonNeverRuns: no node that can be bought could host the pods.
	ReasonNeverRuns = "NeverRuns"
	// ReasonNoRoomNow: nodes that could host the pods are sold, but none now: they
	// are sold out, a limit is reached, or the Provisioner is not ready.
	ReasonNoRoomNow = "NoRoomNow"
	// ReasonExpensive: the pods together cost more than one may expect.
	ReasonExpensive = "Expensive"
	// ReasonHoldsNodes: the pods keep their nodes from being drained.
	ReasonHoldsNodes = "HoldsNodes"
	// ReasonSpotShare: an annotation about spot cannot be followed.
	ReasonSpotShare = "SpotShare"
)

// Workload is what a review says of a controller of pods.
type Workload struct {
	Kind, Namespace, Name string
	UID                   types.UID
	// Pods that it will have at a time; 0 where that is not known.
	Pods int64
	// Template of its pods.
	Template PodInput
	// controlled: another controller has made it.
	controlled bool
	// template is the JSON that Template is read from.
	template string
}

// Object is the workload for whoever writes Events, who remembers it for minutes:
// without the copies the review that it was read from would stay in memory as long.
func (w *Workload) Object() *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace: strings.Clone(w.Namespace), Name: strings.Clone(w.Name), UID: types.UID(strings.Clone(string(w.UID)))}}
	o.Kind, o.APIVersion = strings.Clone(w.Kind), "apps/v1"
	if w.Kind == "Job" || w.Kind == "CronJob" {
		o.APIVersion = "batch/v1"
	}
	return o
}

// workloadKinds are the kinds that ParseWorkload reads.
var workloadKinds = map[string]bool{
	"Deployment": true, "StatefulSet": true, "DaemonSet": true, "ReplicaSet": true, "Job": true, "CronJob": true,
}

// ParseWorkload reads the JSON of a workload of a kind.
func ParseWorkload(kind, doc string) (*Workload, error) {
	if !workloadKinds[kind] {
		return nil, fmt.Errorf("%q is not a workload", clip(kind, 80))
	}
	w := &Workload{Kind: kind}
	if kind != "DaemonSet" {
		w.Pods = 1
	}
	parallelism, completions := int64(-1), int64(-1)
	spec := func(r *reader, key string) {
		switch {
		case key == "template":
			w.template = r.raw()
		case key == "replicas" && !r.null():
			w.Pods = int64(r.integer())
		case key == "parallelism" && !r.null():
			parallelism = int64(r.integer())
		case key == "completions" && !r.null():
			completions = int64(r.integer())
		default:
			r.skip()
		}
	}
	r := &reader{s: doc}
	r.object(func(key string) {
		switch {
		case key == "metadata":
			r.object(func(key string) { w.metadata(r, key) })
		case key == "spec" && kind == "CronJob":
			r.object(func(key string) {
				if key != "jobTemplate" {
					r.skip()
					return
				}
				r.object(func(key string) {
					if key == "spec" {
						r.object(func(key string) { spec(r, key) })
					} else {
						r.skip()
					}
				})
			})
		case key == "spec":
			r.object(func(key string) { spec(r, key) })
		default:
			r.skip()
		}
	})
	if err := r.end(); err != nil {
		return nil, err
	}
	if w.template == "" || w.template == "null" {
		return nil, errors.New("it has no pod template")
	}
	if parallelism >= 0 {
		w.Pods = parallelism
		if completions >= 0 {
			w.Pods = min(parallelism, completions)
		}
	}
	in, err := ParsePod(w.template)
	if err != nil {
		return nil, fmt.Errorf("its pod template: %w", err)
	}
	w.Template = *in
	return w, nil
}

func (w *Workload) metadata(r *reader, key string) {
	switch key {
	case "namespace":
		w.Namespace = r.text()
	case "name":
		w.Name = r.text()
	case "uid":
		w.UID = types.UID(r.text())
	case "ownerReferences":
		r.array(func() {
			r.object(func(key string) {
				if key == "controller" {
					w.controlled = r.boolean() || w.controlled
				} else {
					r.skip()
				}
			})
		})
	default:
		r.skip()
	}
}

// reviewWorkload answers the webhook that looks at workloads. It never denies.
func reviewWorkload(body string, s *Snapshot, cost float64) (string, Decision, error) {
	v, err := parseReview(body, nil)
	if err != nil {
		return v.uid, Decision{}, err
	}
	if !workloadKinds[v.kind] || v.subResource != "" || v.operation != "CREATE" && v.operation != "UPDATE" {
		return v.uid, Decision{Result: ResultSkipped}, nil
	}
	w, err := ParseWorkload(v.kind, v.object)
	if err != nil {
		return v.uid, Decision{}, err
	}
	w.Namespace = cmp.Or(w.Namespace, v.namespace)
	if w.controlled {
		return v.uid, Decision{Result: ResultSkipped}, nil // Its controller was looked at.
	}
	if v.oldObject != "" {
		if old, err := ParseWorkload(v.kind, v.oldObject); err == nil && old.template == w.template && old.Pods == w.Pods {
			return v.uid, Decision{Result: ResultSkipped}, nil
		}
	}
	d := DecideWorkload(w, s, cost)
	if len(d.Advice) > 0 && !v.dryRun {
		d.About = w.Object()
	}
	return v.uid, d, nil
}

// DecideWorkload says what is wrong with a workload for whoever applies it: that
// its pods can never run, cost more than cost, in $/h, or keep nodes from being
// drained. It allows always, and changes nothing; nil knows nothing.
func DecideWorkload(w *Workload, s *Snapshot, cost float64) Decision {
	if s == nil {
		return Decision{Result: ResultSkipped}
	}
	in := &w.Template
	in.pod.Namespace = w.Namespace
	d := Decision{Result: ResultAllowed}
	shape := capacity.ShapeHash(&in.pod)
	a, known := s.place(&in.pod, shape)
	if known && (w.Pods != 0 || w.Kind == "DaemonSet") {
		if a.hint == "" {
			d.Advice = append(d.Advice, s.adviseVerdict(w, shape)...)
		}
		d.Advice = append(d.Advice, adviseCost(&in.pod, w.Pods, a, cost)...)
	}
	d.Advice = append(d.Advice, s.adviseHolding(in, w.Pods, a)...)
	d.Advice = append(d.Advice, s.adviseSpotShare(in)...)
	d.warnOfAdvice()
	return d
}

// adviseCost says that so many pods cost as much as cost, in $/h, together: each its
// share of the cheapest node that fits, or all of it where no two may share one.
func adviseCost(pod *corev1.Pod, pods int64, a answer, cost float64) []Advice {
	each, verb, nodes := a.share, "cost", ""
	if pods == 1 {
		verb = "costs"
	} else if aloneOnNode(pod) {
		each, nodes = a.price, ", a node for each"
	}
	total := each * float64(pods)
	if cost <= 0 || total < cost {
		return nil
	}
	return []Advice{{ReasonExpensive, fmt.Sprintf("%s %s about $%.2f/h ($%.0f a month) on %s %s nodes%s",
		count(pods, "pod"), verb, total, total*hoursPerMonth, a.capacityType, a.instanceType, nodes)}}
}

// aloneOnNode says whether no two pods like it can share a node: they take a port of
// the node, or must not be on one host with their like.
func aloneOnNode(pod *corev1.Pod) bool {
	for _, cs := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		if slices.ContainsFunc(cs, func(c corev1.Container) bool {
			return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.HostPort > 0 })
		}) {
			return true
		}
	}
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAntiAffinity == nil {
		return false
	}
	return slices.ContainsFunc(pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, func(t corev1.PodAffinityTerm) bool {
		selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
		return err == nil && t.TopologyKey == corev1.LabelHostname && selector.Matches(labels.Set(pod.Labels)) &&
			(t.NamespaceSelector != nil || len(t.Namespaces) == 0 || slices.Contains(t.Namespaces, pod.Namespace))
	})
}

// warnOfAdvice makes warnings of the Advice, each at most maxAdvice bytes.
func (d *Decision) warnOfAdvice() {
	for i := range d.Advice {
		w := clip("berth: "+d.Advice[i].Text, maxAdvice)
		d.Advice[i].Text = strings.TrimPrefix(w, "berth: ")
		d.Warnings = append(d.Warnings, w)
	}
}

// adviseVerdict says that the pods can never run, or not now. Pods of a DaemonSet
// go to nodes that others need: only what no node at all has room for is news.
func (s *Snapshot) adviseVerdict(w *Workload, shape string) []Advice {
	why := s.why(&w.Template.pod, shape)
	if w.Kind == "DaemonSet" && (why.later || why.reason != nil && why.reason.Constraint != capacity.ConstraintResources) {
		return nil
	}
	return why.advice()
}

// reasonText is a Reason, after head, in one line of at most maxAdvice bytes with its prefix:
// what is wanted, and the nearest way out. It speaks of new nodes only: one that
// exists may have room.
func reasonText(head string, r *capacity.Reason) string {
	const most = maxAdvice - len("berth: ")
	detail, fix := head+shortNames.Replace(r.Detail), shortNames.Replace(r.Fix)
	if fix != "" {
		fix = "; nearest: " + fix
	}
	// What is too long loses its second clause, first the fix, then the detail.
	first := func(s string) string { f, _, _ := strings.Cut(s, ", "); return f }
	for _, halves := range [][2]string{{detail, fix}, {detail, first(fix)}, {first(detail), fix}, {first(detail), first(fix)}} {
		if text := halves[0] + halves[1]; len(text) <= most {
			return text
		}
	}
	detail, fix = first(detail), first(fix)
	return clip(detail, max(most-len(fix), most/2)) + clip(fix, most-min(len(detail), max(most-len(fix), most/2)))
}

// shortNames are what people call the labels that pods ask for most.
var shortNames = strings.NewReplacer(
	"kubernetes.io/arch", "arch", "kubernetes.io/os", "os", "topology.kubernetes.io/zone", "zone", "node.kubernetes.io/instance-type", "instance-type",
	"berth.dev/capacity-type", "capacity-type", "berth.dev/instance-", "instance-",
)

// adviseHolding says what makes the pods' nodes immortal.
func (s *Snapshot) adviseHolding(in *PodInput, pods int64, a answer) []Advice {
	var out []Advice
	if in.held != "" {
		out = append(out, Advice{ReasonHoldsNodes, in.held + " holds its node for ever; give a duration, such as berth.dev/do-not-disrupt=4h"})
	}
	if g := in.pod.Spec.TerminationGracePeriodSeconds; g != nil && *g > longGrace && a.capacityType == capacityTypeSpot {
		out = append(out, Advice{ReasonHoldsNodes, fmt.Sprintf("spot nodes give %d s notice, terminationGracePeriodSeconds is %d; ask for on-demand or end sooner", longGrace, *g)})
	}
	var matching []*budgetOfPods
	for i := range s.budgets[in.pod.Namespace] {
		if b := &s.budgets[in.pod.Namespace][i]; b.matches(in.pod.Labels) {
			matching = append(matching, b)
		}
	}
	if len(matching) > 1 {
		out = append(out, Advice{ReasonHoldsNodes, fmt.Sprintf("PDBs %s and %s select the same pods: none can be evicted; remove one", matching[0].name, matching[1].name)})
	}
	for _, b := range matching {
		if why := b.forbids(pods); why != "" {
			out = append(out, Advice{ReasonHoldsNodes, fmt.Sprintf("PDB %s (%s) never lets a pod go, so no drain ends by itself; allow one", b.name, why)})
			break
		}
	}
	return out
}

// count is "1 pod", "2 pods".
func count(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
