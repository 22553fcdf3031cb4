package provisioner

import (
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

const (
	// seatPatience is how long kube-scheduler may leave a pod unbound, though the node
	// that was bought for it is ready, while it binds no other pod with a seat.
	// Then the plan is considered wrong for this pod.
	seatPatience = 15 * time.Second
	// seatPatienceMost bounds that while others are bound: in a burst a pod may wait for
	// its turn for long. It is what kube-scheduler itself takes to try again a pod
	// that it found no room for (podMaxInUnschedulablePodsDuration).
	seatPatienceMost = 5 * time.Minute
	// crowdedFor is how long others have to have the room of a pod's seat, on a node that is
	// ready, until the pod is planned again: while kube-scheduler goes through the pods that
	// wait for nodes which have just opened, who sits down on another's seat leaves his own
	// free, and often all find a place.
	crowdedFor = 3 * time.Second
	// vainTries is how often kube-scheduler has to have refused a pod whose node
	// is ready for the plan to be wrong though others are bound. The first refusal may
	// be older than the node's readiness.
	vainTries = 2
	// breakerLimit is the number of wasted seats after which a shape is stopped.
	breakerLimit = 2
	// breakerPause is how long a stopped shape stays stopped.
	breakerPause = 10 * time.Minute
	// wasteMemory is how long a wasted seat counts: those of different months say
	// nothing together.
	wasteMemory = time.Hour
	// unseenPatience is how long a created claim may be missing from the cache
	// before the API server is asked for it.
	unseenPatience = time.Minute
)

// seat is room on a claim's node that was bought for one pod.
type seat struct {
	claim string
	// readyAt is when the node was first seen ready with the pod still unbound.
	readyAt time.Time
	// said is kube-scheduler's last message about the pod, and tries how often it
	// has changed since the node was last seen unready: it counts nodes and what is
	// wrong with them, so that another message is another try.
	said  string
	tries int
	// crowdedAt is since when others have its room; zero: they have not.
	crowdedAt time.Time
}

// book is what the loops remember between rounds: seats, claims that the cache
// does not show yet, and shapes whose launches were wasted. All of it can be
// lost: the next round derives it anew. Safe for concurrent use.
type book struct {
	mu      sync.Mutex
	seats   map[types.UID]seat
	byClaim map[string]map[types.UID]struct{}
	// expected are the owners for whose pods, still to be made, a claim was created.
	expected map[string]map[types.UID]bool
	created  map[string]createdClaim
	wasted   map[string]waste
	// vain are the pods whose seats count as wasted.
	vain map[types.UID]vainSeats
	// lastBound is when a pod with a seat was last seen bound.
	lastBound time.Time
	// left are the seats of pods that have sat down elsewhere, for crowdedFor, in the order
	// in which they were left.
	left []leftSeat
}

// leftSeat is a seat that a pod has left free, since it was bound to another node.
type leftSeat struct {
	shape, claim string
	at           time.Time
}

type createdClaim struct {
	claim *v1alpha1.NodeClaim
	at    time.Time
}

type waste struct {
	count   int
	last    time.Time
	message string
}

// vainSeats are the claims on which a pod had a seat in vain, and the shape that
// it counts against.
type vainSeats struct {
	shape  string
	claims []string
}

func newBook() *book {
	return &book{
		seats:    map[types.UID]seat{},
		byClaim:  map[string]map[types.UID]struct{}{},
		expected: map[string]map[types.UID]bool{},
		created:  map[string]createdClaim{},
		wasted:   map[string]waste{},
		vain:     map[types.UID]vainSeats{},
	}
}

// give records that a pod has a seat on a claim, replacing an older seat.
func (b *book) give(pod types.UID, claim string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.giveLocked(pod, claim)
}

func (b *book) giveLocked(pod types.UID, claim string) {
	b.takeLocked(pod)
	b.seats[pod] = seat{claim: claim}
	if b.byClaim[claim] == nil {
		b.byClaim[claim] = map[types.UID]struct{}{}
	}
	b.byClaim[claim][pod] = struct{}{}
}

// expect records that a claim was created for a pod that its owner has still to
// make. Nothing is kept free for it.
func (b *book) expect(owner types.UID, claim string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.expected[claim] == nil {
		b.expected[claim] = map[types.UID]bool{}
	}
	b.expected[claim][owner] = true
}

// expectedFrom returns the owners for whose pods a claim was created before they
// were made.
func (b *book) expectedFrom(claim string) []types.UID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.expected[claim]))
}

// take ends a pod's seat: it is bound, gone, or to be planned again.
func (b *book) take(pod types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.takeLocked(pod)
}

func (b *book) takeLocked(pod types.UID) {
	s, ok := b.seats[pod]
	if !ok {
		return
	}
	delete(b.seats, pod)
	delete(b.byClaim[s.claim], pod)
	if len(b.byClaim[s.claim]) == 0 {
		delete(b.byClaim, s.claim)
	}
}

// of returns the claim that a pod has a seat on.
func (b *book) of(pod types.UID) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.seats[pod]
	return s.claim, ok
}

// on returns the pods with a seat on a claim.
func (b *book) on(claim string) []types.UID {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]types.UID, 0, len(b.byClaim[claim]))
	for uid := range b.byClaim[claim] {
		out = append(out, uid)
	}
	return out
}

// drop ends all seats on a claim that is going away.
func (b *book) drop(claim string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for uid := range b.byClaim[claim] {
		delete(b.seats, uid)
	}
	delete(b.byClaim, claim)
	delete(b.expected, claim)
	delete(b.created, claim)
}

// crowded decides about the seat of a pod whose room others have. Where a pod of its shape
// has left a seat that still has room, that becomes its own, and its claim is returned. Else
// the pod is to be planned again, its seat being ended, once it has waited for a while; and
// at once where nobody else has left one that it might find. again: it is to be asked once more
// by then, since nobody may wake the rounds until then. An empty shape is like no other.
func (b *book) crowded(pod types.UID, shape string, hasRoom func(claim string) bool, now time.Time) (instead string, ended, again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.seats[pod]
	if !ok {
		return "", true, false
	}
	b.expireLocked(now)
	own := func(l leftSeat) bool { return l.shape == shape }
	if i := slices.IndexFunc(b.left, func(l leftSeat) bool { return own(l) && hasRoom(l.claim) }); i >= 0 {
		instead = b.left[i].claim
		b.left = slices.Delete(b.left, i, i+1)
		b.giveLocked(pod, instead)
		return instead, false, false
	}
	switch {
	case s.crowdedAt.IsZero() && slices.ContainsFunc(b.left, func(l leftSeat) bool { return !own(l) }):
		s.crowdedAt = now
		b.seats[pod] = s
		return "", false, true
	case !s.crowdedAt.IsZero() && now.Sub(s.crowdedAt) < crowdedFor:
		return "", false, false
	}
	b.takeLocked(pod)
	return "", true, false
}

// expireLocked forgets the seats that were left too long ago.
func (b *book) expireLocked(now time.Time) {
	for len(b.left) > 0 && now.Sub(b.left[0].at) >= crowdedFor {
		b.left = b.left[1:]
	}
}

// overdue reports whether kube-scheduler leaves a pod unbound though its node is ready,
// and not because others have their turn. It then ends the seat and counts it against
// the pod's shape, with kube-scheduler's own message. late: kube-scheduler may have
// chosen the node, and binds the pod once its volumes are made.
func (b *book) overdue(pod *corev1.Pod, nodeReady, late bool, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.seats[pod.UID]
	if !ok {
		return false
	}
	s.crowdedAt = time.Time{}
	if said := schedulerMessage(pod); said != s.said {
		s.said = said
		s.tries++
	}
	if !nodeReady {
		s.tries = 0
	} else if s.readyAt.IsZero() {
		s.readyAt = now
	}
	b.seats[pod.UID] = s
	wait := now.Sub(s.readyAt)
	switch {
	case !nodeReady || wait < seatPatience || late && wait < seatPatienceMost:
		return false
	case s.tries >= vainTries || wait >= seatPatienceMost:
	case s.tries == 0 && b.lastBound.Before(s.readyAt):
		return false // kube-scheduler has not done anything since.
	case now.Sub(b.lastBound) < seatPatience:
		return false
	}
	b.wasteLocked(pod, s.claim, "kube-scheduler says: "+schedulerMessage(pod), now)
	return true
}

// useless ends the seat of a pod that its node cannot take, whoever else is there,
// and counts it against the pod's shape.
func (b *book) useless(pod *corev1.Pod, why string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.seats[pod.UID]; ok {
		b.wasteLocked(pod, s.claim, why, now)
	}
}

func (b *book) wasteLocked(pod *corev1.Pod, claim, why string, now time.Time) {
	b.takeLocked(pod.UID)
	for shape, w := range b.wasted {
		if now.Sub(w.last) > wasteMemory {
			b.forgiveLocked(shape)
		}
	}
	shape := capacity.ShapeHash(pod)
	w := b.wasted[shape]
	// Pods of one shape on one node are one wasted launch, not many.
	if now.Sub(w.last) > seatPatience/2 {
		w.count++
		w.last = now
	}
	w.message = why
	b.wasted[shape] = w
	b.vain[pod.UID] = vainSeats{shape, append(b.vain[pod.UID].claims, claim)}
}

// forgiveLocked forgets the wasted launches of a shape.
func (b *book) forgiveLocked(shape string) {
	delete(b.wasted, shape)
	maps.DeleteFunc(b.vain, func(_ types.UID, v vainSeats) bool { return v.shape == shape })
}

// bound ends the seat of a pod that was bound to a node, and forgets the
// wasted launches of its shape when it got a node it was meant to have, be it late.
func (b *book) bound(pod *corev1.Pod, claim string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v := b.vain[pod.UID]; slices.Contains(v.claims, claim) {
		b.forgiveLocked(v.shape)
	}
	s, ok := b.seats[pod.UID]
	if !ok {
		return
	}
	b.takeLocked(pod.UID)
	b.lastBound = now
	if s.claim != claim {
		b.expireLocked(now)
		b.left = append(b.left, leftSeat{shapeBefore(pod), s.claim, now})
	} else if len(b.wasted) > 0 {
		b.forgiveLocked(shapeBefore(pod))
	}
}

// shapeBefore is the shape that a bound pod had while it waited: binding gives it its node's
// zone and region as labels (admission plugin PodTopologyLabels, since Kubernetes 1.35).
func shapeBefore(pod *corev1.Pod) string {
	was := *pod
	was.Spec.NodeName = ""
	was.Labels = maps.Clone(pod.Labels)
	delete(was.Labels, corev1.LabelTopologyZone)
	delete(was.Labels, corev1.LabelTopologyRegion)
	return capacity.ShapeHash(&was)
}

// stopped reports whether launches for a shape are stopped, and what was wrong with
// the last one.
func (b *book) stopped(shape string, now time.Time) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w, ok := b.wasted[shape]
	if ok && now.Sub(w.last) > wasteMemory {
		b.forgiveLocked(shape)
		return "", false
	}
	if !ok || w.count < breakerLimit {
		return "", false
	}
	if now.Sub(w.last) > breakerPause {
		// Half open: one more launch may prove the shape right.
		w.count = breakerLimit - 1
		b.wasted[shape] = w
		return "", false
	}
	return w.message, true
}

// anyStopped reports whether any shape has wasted launches at all.
func (b *book) anyStopped() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.wasted) > 0
}

// remember keeps a claim that was just created until the cache shows it.
func (b *book) remember(c *v1alpha1.NodeClaim, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.created[c.Name] = createdClaim{claim: c, at: now}
}

// unseen reports whether a claim was created that the cache does not show yet.
func (b *book) unseen(claim string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.created[claim]
	return ok
}

// overlooked are the claims that the cache should show by now and does not.
func (b *book) overlooked(now time.Time) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name, c := range b.created {
		if now.Sub(c.at) > unseenPatience {
			names = append(names, name)
		}
	}
	return names
}

// asked notes what the API server said of an overlooked claim: that it is gone, or
// else, with news or without, that it is to be asked again later.
func (b *book) asked(name string, claim *v1alpha1.NodeClaim, gone bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.created[name]
	switch {
	case !ok: // The cache has shown it since.
	case gone:
		delete(b.created, name)
	default:
		if claim != nil {
			c.claim = claim
		}
		c.at = now
		b.created[name] = c
	}
}

// merge returns the cache's claims plus those created but not yet seen there.
func (b *book) merge(cached []*v1alpha1.NodeClaim) []*v1alpha1.NodeClaim {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range cached {
		delete(b.created, c.Name)
	}
	out := cached
	for _, c := range b.created {
		out = append(out, c.claim)
	}
	return out
}

// schedulerMessage is what kube-scheduler last said about a pod.
func schedulerMessage(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Message
		}
	}
	return "kube-scheduler has not bound the pod"
}
