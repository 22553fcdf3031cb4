package admission

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

const (
	capacityTypeSpot     = v1alpha1.CapacityTypeSpot
	capacityTypeOnDemand = v1alpha1.CapacityTypeOnDemand
	// reservationLife is how long an admitted pod counts before it has been seen:
	// others may still refuse it, and then nobody says so.
	reservationLife = 15 * time.Second
)

// SpotShare is what a pod template asks for with AnnotationSpotShare and
// AnnotationMinOnDemand.
type SpotShare struct {
	// Share of spot, from 0 to 1.
	Share float64
	// MinOnDemand pods come before the share.
	MinOnDemand int64
}

// ParseSpotShare reads the two annotations; min may be empty.
func ParseSpotShare(share, min string) (SpotShare, error) {
	var s SpotShare
	number, percent := strings.CutSuffix(share, "%")
	n, err := strconv.ParseFloat(number, 64)
	if !percent || err != nil || !(n >= 0 && n <= 100) || strings.ContainsAny(number, "xXpP_") {
		return s, fmt.Errorf("%s=%q is no share from 0%% to 100%%", v1alpha1.AnnotationSpotShare, clip(share, 20))
	}
	s.Share = n / 100
	if min != "" {
		s.MinOnDemand, err = strconv.ParseInt(min, 10, 32)
		if err != nil || s.MinOnDemand < 0 {
			return s, fmt.Errorf("%s=%q is no number of pods", v1alpha1.AnnotationMinOnDemand, clip(min, 20))
		}
	}
	return s, nil
}

// Choose says which capacity type the next pod of an owner is to have that has so
// many on spot and on on-demand already. Asked for each new pod, also those in
// the place of others, it brings any division back to the one that was asked for.
func (s SpotShare) Choose(spot, onDemand int64) string {
	if onDemand < s.MinOnDemand {
		return capacityTypeOnDemand
	}
	// A hair's breadth, so that 0.7 of 10 is 7.
	if float64(spot+1) <= math.Floor(s.Share*float64(spot+onDemand+1)+1e-9) {
		return capacityTypeSpot
	}
	return capacityTypeOnDemand
}

// adviseSpotShare says what cannot be followed of the annotations.
func (s *Snapshot) adviseSpotShare(in *PodInput) []Advice {
	switch {
	case in.spotShare == "" && in.minOnDemand == "":
		return nil
	case in.spotShare == "":
		return []Advice{{ReasonSpotShare, v1alpha1.AnnotationMinOnDemand + " does nothing without " + v1alpha1.AnnotationSpotShare}}
	}
	want, err := ParseSpotShare(in.spotShare, in.minOnDemand)
	if err != nil {
		return []Advice{{ReasonSpotShare, err.Error() + "; it is ignored"}}
	}
	if capacity.RestrictsCapacityType(&in.pod) {
		return []Advice{{ReasonSpotShare, "spot-share is ignored: the pods themselves require a capacity-type; remove one of the two"}}
	}
	if s.index == nil || tooIntricate(&in.pod) || s.idle().Cheapest(&in.pod) == nil {
		return nil // Not known, or other advice says more.
	}
	for choice, wanted := range map[string]bool{capacityTypeSpot: want.Share > 0, capacityTypeOnDemand: want.Share < 1 || want.MinOnDemand > 0} {
		if wanted && s.idle().Cheapest(capacity.WithCapacityType(&in.pod, choice)) == nil {
			return []Advice{{ReasonSpotShare, fmt.Sprintf("spot-share=%s cannot be kept: no Provisioner sells %s nodes to such pods; allow %[2]s in one", clip(in.spotShare, 8), choice)}}
		}
	}
	return nil
}

// SpotLedger counts, by owner, the pods for which a capacity type was chosen:
// those that are known to exist, and those admitted a moment ago. A pod counts by
// the capacity type of the node that it is on, and by the choice until then. It may
// be used from many goroutines.
type SpotLedger struct {
	now func() time.Time

	mu     sync.Mutex
	owners map[types.UID]*ledgerOwner
	// nodes are the capacity types of nodes by name, as far as they have one.
	nodes map[string]string
}

type ledgerOwner struct {
	// pods that exist, by UID.
	pods map[types.UID]ledgerPod
	// reserved are choices for pods that have not been seen yet, oldest first.
	reserved []reservation
}

// ledgerPod is what was chosen for a pod, and the node that it is on.
type ledgerPod struct{ choice, node string }

type reservation struct {
	choice string
	until  time.Time
}

// expire drops reservations that have ended.
func (o *ledgerOwner) expire(now time.Time) {
	for len(o.reserved) > 0 && !o.reserved[0].until.After(now) {
		o.reserved = o.reserved[1:]
	}
}

// NewSpotLedger returns an empty SpotLedger.
func NewSpotLedger() *SpotLedger {
	return &SpotLedger{now: time.Now, owners: map[types.UID]*ledgerOwner{}, nodes: map[string]string{}}
}

// Choose decides for the next pod of an owner and, with reserve, counts it.
func (l *SpotLedger) Choose(owner types.UID, want SpotShare, reserve bool) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.owners[owner]
	if o == nil {
		o = &ledgerOwner{}
		if reserve {
			// A copy: the review that it was read from must not stay in memory with it.
			l.owners[types.UID(strings.Clone(string(owner)))] = o
		}
	}
	now := l.now()
	o.expire(now)
	var spot, onDemand int64
	add := func(capacityType string) {
		if capacityType == capacityTypeSpot {
			spot++
		} else {
			onDemand++
		}
	}
	for _, p := range o.pods {
		add(cmp.Or(l.nodes[p.node], p.choice))
	}
	for _, r := range o.reserved {
		add(r.choice)
	}
	choice := want.Choose(spot, onDemand)
	if reserve {
		o.reserved = append(o.reserved, reservation{choice, now.Add(reservationLife)})
	}
	return choice
}

// Sweep forgets owners of which nothing is left but reservations that have ended:
// others refused their pods. It is to be called every minute or so.
func (l *SpotLedger) Sweep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for uid, o := range l.owners {
		if o.expire(now); len(o.pods)+len(o.reserved) == 0 {
			delete(l.owners, uid)
		}
	}
}

// SeenNode notes the capacity type of a node; gone, it has none.
func (l *SpotLedger) SeenNode(node *corev1.Node, gone bool) {
	capacityType := node.Labels[v1alpha1.LabelCapacityType]
	l.mu.Lock()
	defer l.mu.Unlock()
	if gone || capacityType == "" {
		delete(l.nodes, node.Name)
		return
	}
	l.nodes[node.Name] = capacityType
}

// Seen counts a pod as it is now; gone, or on its way out, it counts no more. Nor
// does one that has finished, unless it is a Job's: a Job that runs one pod at a
// time would have one of them all the time, and never any share.
func (l *SpotLedger) Seen(pod *corev1.Pod, gone bool) {
	choice := pod.Labels[v1alpha1.LabelCapacityChoice]
	var owner types.UID
	job := false
	for i := range pod.OwnerReferences {
		if r := &pod.OwnerReferences[i]; r.Controller != nil && *r.Controller {
			owner, job = r.UID, r.Kind == "Job"
		}
	}
	if owner == "" {
		return
	}
	finished := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if choice != capacityTypeSpot && choice != capacityTypeOnDemand ||
		pod.DeletionTimestamp != nil && !(job && finished) || finished && !job {
		gone = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.owners[owner]
	if gone {
		if o == nil {
			return
		}
		delete(o.pods, pod.UID)
		if o.expire(l.now()); len(o.pods)+len(o.reserved) == 0 {
			delete(l.owners, owner)
		}
		return
	}
	if o == nil {
		o = &ledgerOwner{}
		l.owners[owner] = o
	}
	if o.pods == nil {
		o.pods = map[types.UID]ledgerPod{}
	}
	if _, known := o.pods[pod.UID]; !known {
		// The oldest reservation of its kind was for it.
		for i, r := range o.reserved {
			if r.choice == choice {
				o.reserved = append(o.reserved[:i:i], o.reserved[i+1:]...)
				break
			}
		}
	}
	o.pods[pod.UID] = ledgerPod{choice, pod.Spec.NodeName}
}

// choiceFor decides on which capacity type a pod is to prefer; empty for none.
// One that it carries already stands: admitting twice is deciding once.
func choiceFor(in *PodInput, ledger *SpotLedger, dryRun bool) string {
	if in.spotShare == "" || in.ownerUID == "" || ledger == nil || in.owner == "DaemonSet" || in.pod.Spec.NodeName != "" || in.mirror {
		return ""
	}
	want, err := ParseSpotShare(in.spotShare, in.minOnDemand)
	if err != nil || capacity.RestrictsCapacityType(&in.pod) {
		return ""
	}
	if c := in.pod.Labels[v1alpha1.LabelCapacityChoice]; c == capacityTypeSpot || c == capacityTypeOnDemand {
		return c
	}
	return ledger.Choose(types.UID(in.ownerUID), want, !dryRun)
}

// choose writes a choice into the pod as it is known here and returns the
// operations that write it into the pod as it was sent: a label and a preferred
// term. Each can be applied, as those of podPatch can.
func (in *PodInput) choose(choice string) []patchOp {
	var ops []patchOp
	key := v1alpha1.LabelCapacityChoice
	if in.pod.Labels[key] != choice {
		if in.labelled {
			ops = append(ops, add("/metadata/labels/"+string(appendPointer(nil, key)), choice))
		} else {
			ops = append(ops, add("/metadata/labels", map[string]string{key: choice}))
		}
		if in.pod.Labels == nil {
			in.pod.Labels = map[string]string{}
		}
		in.pod.Labels[key] = choice
		in.labelled = true
	}
	term := capacity.CapacityChoice(choice)
	spec := &in.pod.Spec
	const preferred = "/spec/affinity/nodeAffinity/" + keyPreferred
	switch {
	case spec.Affinity == nil:
		spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
		ops = append(ops, add("/spec/affinity", map[string]any{"nodeAffinity": map[string]any{keyPreferred: []any{term}}}))
	case spec.Affinity.NodeAffinity == nil:
		spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
		ops = append(ops, add("/spec/affinity/nodeAffinity", map[string]any{keyPreferred: []any{term}}))
	case capacity.PreferredCapacity(&in.pod) == choice:
		return ops
	case len(spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0:
		ops = append(ops, add(preferred, []any{term}))
	default:
		ops = append(ops, add(preferred+"/-", term))
	}
	n := spec.Affinity.NodeAffinity
	n.PreferredDuringSchedulingIgnoredDuringExecution = append(n.PreferredDuringSchedulingIgnoredDuringExecution, term)
	return ops
}
