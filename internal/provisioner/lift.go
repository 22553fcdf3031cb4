package provisioner

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
)

const (
	// batchMost is how many identical claims one call launches. EC2 takes far
	// more; the record of the batch, in the status of its lead, is to stay small.
	batchMost = 100
	// batchQuiet ends a batch when no claim has come for that long, batchWait
	// at the latest.
	batchQuiet = 20 * time.Millisecond
	batchWait  = time.Second
	// liftsAtOnce is how many calls may be under way.
	liftsAtOnce = 16
	// memberWriters is how many members of a batch are written at once.
	memberWriters = 32
)

// launcher is what launching needs of EC2.
type launcher interface {
	// PrepareLaunch puts together a launch of count instances, without effect on instances.
	PrepareLaunch(ctx context.Context, claim *v1alpha1.NodeClaim, count int) (*v1alpha1.LaunchIntent, error)
	// Room says how many of want instances may be launched now.
	Room(want int) int
	// Launch carries out the recorded intent; repeating it gives the same instances.
	Launch(ctx context.Context, claim *v1alpha1.NodeClaim) (ec2.Launched, error)
	// Find lists the instances of a launch by its token, terminated ones left out.
	Find(ctx context.Context, token string) ([]ec2.Instance, error)
	// Tag puts a claim's tags on its instance.
	Tag(ctx context.Context, id string, claim *v1alpha1.NodeClaim) error
}

// lifter launches claims, identical ones together in one call of EC2.
//
// A batch is recorded before its call, in this order:
//
//  1. Each member but the lead stores the token of the launch and the name of
//     the lead. The write is under the lock of the claim's resourceVersion: a
//     claim can join one launch only. Claims that are created together have both
//     in their spec, which spares the write; what their status says goes before it.
//  2. The lead stores the request with the list of the members that have
//     joined, under its own lock. That seals the batch; a claim that the list
//     does not name is free to join another.
//  3. EC2 is called. Whoever finds the sealed record after a crash repeats the
//     call, and EC2 answers with the same instances.
//  4. The answer is stored in the lead, in one write: who got which instance.
//     The lead comes first, so that a lead with an answer of its own never
//     begins another launch, and its record stays.
//  5. Each member takes its instance from there.
//
// A claim whose lead has not sealed withdraws before it joins another launch: it
// uses up the lead's attempt, so that nobody can seal it any more (withdraw). A
// lead is not let go while a member may still have to look at its record.
//
// A claim that nobody is identical to is launched alone; its own status is then
// the record.
type lifter struct {
	*Loops
	cloud launcher
	// pokes make the reconciler look at a claim.
	pokes chan event.GenericEvent
	wake  chan struct{}
	slots chan struct{}
	// since is when this process began to lead.
	since time.Time
	// patience is how long EC2 may take to show an instance in a filtered list.
	// doubtPatience is the same for a launch that is made anew if there is none.
	patience, doubtPatience time.Duration

	// creating is held while claims are created. What is not urgent waits for it:
	// who has an instance can be told a little later.
	creating sync.RWMutex

	mu      sync.Mutex
	waiting map[string]waitingClaim
	last    time.Time
	busy    map[string]bool
	// created are batches of claims that were created together.
	created [][]*v1alpha1.NodeClaim
	// missed are claims that the reconciler was to look at while they were busy.
	missed map[string]bool
	// over are attempts that EC2 has answered without an instance, by claim. It
	// spares asking again; after a restart, EC2 repeats its answer.
	over map[string]int32
	// failed counts failures in a row that say nothing about the outcome.
	failed map[string]int
	// doubts are since when EC2 refuses to repeat a launch that may have launched.
	doubts map[string]time.Time
	// rest is until when a claim is left alone after a failure or a refusal,
	// whatever brings it back before.
	rest map[string]time.Time
	// resumed are the leads of launches whose call is to be repeated.
	resumed []*v1alpha1.NodeClaim
}

// launchKey is equal for claims that the same request launches.
type launchKey [sha256.Size]byte

type waitingClaim struct {
	claim *v1alpha1.NodeClaim
	key   launchKey
	since time.Time
}

func newLifter(p *Loops, cloud launcher) *lifter {
	return &lifter{Loops: p, cloud: cloud, pokes: make(chan event.GenericEvent), wake: make(chan struct{}, 1), since: time.Now(), patience: adoptPatience, doubtPatience: doubtPatience,
		slots: make(chan struct{}, liftsAtOnce), waiting: map[string]waitingClaim{}, busy: map[string]bool{}, missed: map[string]bool{},
		over: map[string]int32{}, failed: map[string]int{}, doubts: map[string]time.Time{}, rest: map[string]time.Time{}}
}

// submit has a claim launched that has no launch under way.
func (l *lifter) submit(c *v1alpha1.NodeClaim) {
	key := keyOf(c)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.busy[c.Name] {
		l.missed[c.Name] = true
		return
	}
	if now.Before(l.rest[c.Name]) {
		return // Pause has seen to its coming back.
	}
	since := now
	if was, ok := l.waiting[c.Name]; ok {
		since = was.since
	}
	l.waiting[c.Name] = waitingClaim{c, key, since}
	l.last = now
	l.rouse()
}

func (l *lifter) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// isBusy reports whether a launch of the claim is being recorded or carried out.
func (l *lifter) isBusy(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.busy[name]
}

// taken is isBusy for the reconciler: it is called again when the work is done.
func (l *lifter) taken(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[name] {
		l.missed[name] = true
	}
	return l.busy[name]
}

// begin takes a claim for work of its own, unless somebody has it or it rests.
func (l *lifter) begin(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy[name] || time.Now().Before(l.rest[name]) {
		return false
	}
	delete(l.waiting, name)
	l.busy[name] = true
	return true
}

// end gives claims back after begin, and has those looked at that were missed.
func (l *lifter) end(ctx context.Context, claims ...*v1alpha1.NodeClaim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range claims {
		delete(l.busy, c.Name)
		if l.missed[c.Name] {
			delete(l.missed, c.Name)
			l.poke(ctx, c.Name, max(0, time.Until(l.rest[c.Name])))
		}
	}
}

// forget drops a claim that is gone.
func (l *lifter) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, name)
	delete(l.missed, name)
	delete(l.over, name)
	delete(l.failed, name)
	delete(l.doubts, name)
	delete(l.rest, name)
}

// pause leaves a claim alone for a while, then has the reconciler look at it.
func (l *lifter) pause(ctx context.Context, name string, d time.Duration) {
	l.mu.Lock()
	l.rest[name] = time.Now().Add(d)
	l.mu.Unlock()
	l.poke(ctx, name, d)
}

// poke has the reconciler look at a claim after a while.
func (l *lifter) poke(ctx context.Context, name string, after time.Duration) {
	time.AfterFunc(after, func() {
		select {
		case l.pokes <- event.GenericEvent{Object: &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}}:
		case <-ctx.Done():
		}
	})
}

// run launches what is submitted until the context ends.
func (l *lifter) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	do := func(work func(context.Context, []*v1alpha1.NodeClaim), claims []*v1alpha1.NodeClaim) {
		wg.Go(func() {
			defer l.end(ctx, claims...)
			select {
			case l.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-l.slots }()
			work(ctx, claims)
		})
	}
	for {
		batches, leads, again := l.take(time.Now())
		for _, b := range batches {
			do(l.lift, b)
		}
		for _, lead := range leads {
			do(func(ctx context.Context, _ []*v1alpha1.NodeClaim) { l.call(ctx, l.joined(lead), false) }, []*v1alpha1.NodeClaim{lead})
		}
		var timer <-chan time.Time
		if again > 0 {
			timer = time.After(again)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
		case <-timer:
		}
	}
}

// take returns the batches that are complete, the leads whose call is to be
// repeated, and when to look again if claims still wait.
func (l *lifter) take(now time.Time) (batches [][]*v1alpha1.NodeClaim, leads []*v1alpha1.NodeClaim, again time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	leads, l.resumed = l.resumed, nil
	batches, l.created = l.created, nil
	oldest := now
	for _, w := range l.waiting {
		if w.since.Before(oldest) {
			oldest = w.since
		}
	}
	complete := now.Sub(l.last) >= batchQuiet || now.Sub(oldest) >= batchWait
	for _, group := range l.groups() {
		for len(group) >= batchMost || complete && len(group) > 0 {
			// A burst beyond AWS's bucket of instances goes in parts as the bucket fills.
			n := l.cloud.Room(min(len(group), batchMost))
			for _, c := range group[:n] {
				delete(l.waiting, c.Name)
				l.busy[c.Name] = true
			}
			batches = append(batches, group[:n])
			group = group[n:]
		}
	}
	if len(l.waiting) > 0 {
		again = max(min(batchWait-now.Sub(oldest), batchQuiet-now.Sub(l.last)), time.Millisecond)
	}
	return batches, leads, again
}

// groups are the waiting claims, identical ones together, by name.
func (l *lifter) groups() [][]*v1alpha1.NodeClaim {
	byKey := map[launchKey][]*v1alpha1.NodeClaim{}
	for _, w := range l.waiting {
		byKey[w.key] = append(byKey[w.key], w.claim)
	}
	var out [][]*v1alpha1.NodeClaim
	for _, g := range byKey {
		slices.SortFunc(g, func(a, b *v1alpha1.NodeClaim) int { return strings.Compare(a.Name, b.Name) })
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b []*v1alpha1.NodeClaim) int { return strings.Compare(a[0].Name, b[0].Name) })
	return out
}

// keyOf is the key of a claim: its Provisioner, template and offerings.
func keyOf(c *v1alpha1.NodeClaim) launchKey {
	text, err := json.Marshal(struct {
		Provisioner v1alpha1.ProvisionerRef
		Template    v1alpha1.NodeTemplate
		Offerings   []v1alpha1.ClaimOffering
	}{c.Spec.Provisioner, c.Spec.NodeTemplate, c.Spec.Offerings})
	if err != nil {
		text = []byte(c.UID) // It cannot be compared, so that it is launched alone.
	}
	return sha256.Sum256(text)
}
