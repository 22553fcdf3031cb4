package drain

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// callTimeout bounds one call: the eviction handler itself retries
	// conflicts for up to ten seconds.
	callTimeout = 5 * time.Second
	// passTimeout bounds a pass; what it did not get to is left to the next.
	passTimeout = 15 * time.Second
	// passConcurrency is the number of calls under way at once.
	passConcurrency = 8

	// soon is when to look again at what changes by itself within moments.
	soon = time.Second
	// budgetRetryMax is the longest pause between attempts at pods that their
	// disruption budget holds.
	budgetRetryMax = 10 * time.Second
	// hurryFor is how long before its deletion a pod's eviction waits for no turn any
	// more. A spot notice leaves less than that, any other drain has had its turns.
	hurryFor = 2 * time.Minute
	// throttlePause is the least pause when the API server is busy.
	throttlePause = 2 * time.Second
	// slow is the pause where only a person, or the deadline, can help.
	slow = 30 * time.Second
)

// evictor is the API server as a pass sees it. A nil error means that the pod
// has been told to go, not that it is gone.
type evictor interface {
	// Evict asks for the eviction of the pod with this UID. grace, when not
	// nil, replaces the pod's own grace period.
	Evict(ctx context.Context, pod types.NamespacedName, uid types.UID, grace *int64) error
	// Delete deletes the pod with this UID, with a grace period in seconds.
	Delete(ctx context.Context, pod types.NamespacedName, uid types.UID, grace int64) error
}

// Input is all that a pass depends on. Pods must be read after the taint was
// written. A pass changes nothing in it.
type Input struct {
	Node NodeFacts
	// Pods bound to the node; others are skipped.
	Pods []*corev1.Pod
	// PDBs of the pods' namespaces, to name those that hold a pod.
	PDBs []*policyv1.PodDisruptionBudget
	// Ledger of the budgets, shared with the other drains; nil: none is kept.
	Ledger *Ledger
	// Pace bounds the calls of all drains together; nil: nothing does.
	Pace *Pace
	// Attachments to the node; others are ignored.
	Attachments []*storagev1.VolumeAttachment
	// PVCs of the pods by namespace/name: attachments of pods that stay
	// until the end are not waited for.
	PVCs map[string]*corev1.PersistentVolumeClaim
	// Held pods wait until the caller holds them no longer, or the deadline
	// leaves them no more time; by UID, with the reason.
	Held map[types.UID]string
	// Settled is when schedulers will have bound here what they meant to before they
	// saw the taint; MinDrain after that was seen, where it is later.
	Settled time.Time
	// Now, and Started when the drain began: the longer it takes, the less
	// often it asks.
	Now, Started time.Time
	// Deadline as recorded; see Deadline.
	Deadline time.Time
}

// Result of a pass.
type Result struct {
	// Done: nothing is left that must be waited for, or the deadline has passed.
	Done bool
	// Expired: Done because of the deadline, with something still there.
	Expired bool
	// Remaining pods that are waited for.
	Remaining int
	// Attachments that are waited for: names of persistent volumes.
	Attachments []string
	// Told are the pods that this pass told to go, as namespace/name: Evicted
	// by eviction, Deleted without asking their budgets.
	Evicted, Deleted []string
	// Blocked pods, and by what.
	Blocked []Blocker
	// Protected pods asked not to be disrupted and are drained all the same.
	Protected []string
	// Throttled: the API server asks for fewer calls. Pace rests for all drains.
	Throttled bool
	// Waiting says of pods that nothing was asked for now, or that are still there
	// at the deadline, why they are waited for: namespace/name: reason.
	Waiting []string
	// NextTry is when another pass makes sense; 0 when Done.
	NextTry time.Duration
}

// Block is why a pod does not go.
type Block string

// Blocks.
const (
	// BlockBudget: a disruption budget allows no disruption now.
	BlockBudget Block = "DisruptionBudget"
	// BlockBudgets: more than one budget selects the pod; the API server then
	// never evicts it, only the deadline helps.
	BlockBudgets Block = "MoreThanOneDisruptionBudget"
	// BlockNamespace: the namespace is being deleted and takes the pod along.
	BlockNamespace Block = "NamespaceTerminating"
	// BlockRefused: somebody else refuses (a webhook, missing permission), or
	// the API server fails.
	BlockRefused Block = "Refused"
)

// Blocker is a pod that does not go, and why.
type Blocker struct {
	// Pod as namespace/name, Owner as Kind/name (empty without).
	Pod, Owner string
	// PDB names the budgets in the pod's namespace that select it.
	PDB    []string
	Reason Block
	// Detail in the API server's words.
	Detail string
	// Until is when the pod is deleted whatever holds it; zero while no
	// deadline is recorded.
	Until time.Time
}

// String is one line for a person.
func (b Blocker) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "pod %s", b.Pod)
	if b.Owner != "" {
		fmt.Fprintf(&s, " of %s", b.Owner)
	}
	switch b.Reason {
	case BlockBudget:
		s.WriteString(" is held by PodDisruptionBudget " + strings.Join(b.PDB, ", "))
	case BlockBudgets:
		s.WriteString(" is selected by more than one PodDisruptionBudget (" + strings.Join(b.PDB, ", ") + "), which rules eviction out")
	case BlockNamespace:
		s.WriteString(" goes with its namespace, which is being deleted")
	case BlockRefused:
		s.WriteString(" cannot be evicted: " + b.Detail)
	default:
		panic("drain: unknown block " + string(b.Reason))
	}
	if !b.Until.IsZero() {
		s.WriteString("; it is deleted at " + b.Until.UTC().Format(time.RFC3339))
	}
	return s.String()
}

// Message says in one line where the drain stands.
func (r Result) Message() string {
	switch {
	case r.Expired:
		return fmt.Sprintf("the deadline has passed with %s left", r.left())
	case r.Done:
		return "nothing is left to wait for"
	case len(r.Blocked) > 0:
		return fmt.Sprintf("%d pods left, %d blocked: %s", r.Remaining, len(r.Blocked), r.Blocked[0])
	case r.Remaining > 0 || len(r.Attachments) > 0:
		return "waiting for " + r.left()
	default:
		return "waiting until every scheduler has seen the taint"
	}
}

// left names the first of what is still there.
func (r Result) left() string {
	return fmt.Sprintf("%d pods%s and %d volumes%s", r.Remaining, some(r.Waiting), len(r.Attachments), some(r.Attachments))
}

// some are the first few of a list, in parentheses.
func some(list []string) string {
	const few = 3
	switch n := len(list); {
	case n == 0:
		return ""
	case n > few:
		return fmt.Sprintf(" (%s; and %d more)", strings.Join(list[:few], "; "), n-few)
	}
	return " (" + strings.Join(list, "; ") + ")"
}

// Pass does one bounded, non-blocking pass of a drain: it tells pods to go and
// says what is left. It waits for calls, never for pods. Cancelling ctx ends it
// early; what was not done then counts as remaining.
func Pass(ctx context.Context, api evictor, in Input) Result {
	verdicts := Classify(in.Pods, in.Node, in.Now, in.Deadline)
	for i := range verdicts {
		v := &verdicts[i]
		if why, held := in.Held[v.Pod.UID]; held && v.Action == Evict {
			v.Action, v.Reason = Wait, why
		}
	}
	seen := !in.Node.TaintSeen.IsZero()
	answers := make([]answer, len(verdicts))
	if seen {
		answers = tell(ctx, api, verdicts, in)
	}
	r := Result{}
	next := nextTry{now: in.Now}
	calm := throttlePause
	for i, v := range verdicts {
		if v.Action == Skip {
			continue
		}
		name := key(v.Pod)
		if v.Protected != "" {
			r.Protected = append(r.Protected, name)
		}
		a := answers[i]
		if a.kind == gone {
			continue
		}
		r.Remaining++
		next.at(v.Until)
		switch a.kind {
		case notAsked:
		case told:
			if v.Action == Delete {
				r.Deleted = append(r.Deleted, name)
			} else {
				r.Evicted = append(r.Evicted, name)
			}
			next.in(soon)
		case again:
			next.in(soon)
		case throttled:
			r.Throttled = true
			calm = max(calm, a.after)
		case blocked:
			r.Blocked = append(r.Blocked, blocker(v, a))
			next.in(pause(a.block, in))
		default:
			panic("drain: unknown answer")
		}
		if v.Action != Evict && a.kind != blocked {
			r.Waiting = append(r.Waiting, name+": "+v.Reason)
		}
		if v.Action == Wait {
			// The watch usually tells first; this is for when it does not.
			next.in(budgetRetryMax)
		}
	}
	r.Attachments = waitedFor(in, verdicts)
	if len(r.Attachments) > 0 {
		next.in(budgetRetryMax)
	}
	next.at(in.Deadline)
	quiet := in.Node.TaintSeen.Add(MinDrain)
	if out := in.Node.ExcludedAt.Add(MinDrain); out.After(quiet) {
		quiet = out
	}
	if in.Settled.After(quiet) && (in.Deadline.IsZero() || in.Now.Before(in.Deadline)) {
		quiet = in.Settled
	}
	settled := seen && !in.Now.Before(quiet)
	if !seen {
		next.in(soon)
	} else if !settled {
		next.at(quiet)
	}
	if r.Throttled {
		in.Pace.Rest(calm)
	}
	left := r.Remaining > 0 || len(r.Attachments) > 0
	r.Expired = left && !in.Deadline.IsZero() && !in.Now.Before(in.Deadline) && settled
	r.Done = settled && (!left || r.Expired)
	switch {
	case r.Done:
	case r.Throttled:
		r.NextTry = calm + jitter(in, calm)
	default:
		r.NextTry = next.after()
	}
	return r
}

// tell makes the calls that the verdicts ask for, a few at a time.
func tell(ctx context.Context, api evictor, verdicts []Verdict, in Input) []answer {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	answers := make([]answer, len(verdicts))
	budgets := newBudgets(in.PDBs)
	var (
		mu   sync.Mutex
		wait sync.WaitGroup
		stop bool
		full = map[string]answer{} // by budget: its answer for healthy pods
	)
	slots := make(chan struct{}, passConcurrency)
	for i, v := range verdicts {
		if v.Action != Evict && v.Action != Delete {
			continue
		}
		pdbs := budgets.of(v.Pod)
		// What a budget said of one pod holds for the others until something has
		// changed, but for unready ones: those may go when ready ones may not.
		share := ""
		if v.Action == Evict && len(pdbs) == 1 && v.Pod.Status.Phase != corev1.PodPending {
			share = fmt.Sprint(v.Pod.Namespace, "/", pdbs[0], isReady(v.Pod))
		}
		slots <- struct{}{}
		mu.Lock()
		said, known := full[share]
		halt := stop
		mu.Unlock()
		if halt || ctx.Err() != nil || known {
			answers[i] = answer{kind: again}
			if known {
				answers[i] = said
			}
			<-slots
			continue
		}
		var asked *policyv1.PodDisruptionBudget
		if share != "" {
			asked = budgets.named(v.Pod.Namespace, pdbs[0])
			if may, says := in.Ledger.take(asked, v.Pod, in.Now); !may {
				a := answer{kind: blocked, block: BlockBudget, detail: says, pdbs: pdbs}
				mu.Lock()
				full[share], answers[i] = a, a
				mu.Unlock()
				<-slots
				continue
			}
		}
		if hurried(v, in.Now) {
			in.Pace.Charge(1)
		} else if !in.Pace.Turn(ctx) {
			if asked != nil {
				in.Ledger.refund(asked, v.Pod)
			}
			answers[i] = answer{kind: again}
			<-slots
			continue
		}
		wait.Go(func() {
			defer func() { <-slots }()
			a := tellOne(ctx, api, v)
			if asked != nil && a.kind != told {
				in.Ledger.refund(asked, v.Pod)
			}
			a.pdbs = pdbs
			a = a.judged()
			mu.Lock()
			defer mu.Unlock()
			answers[i] = a
			stop = stop || a.kind == throttled
			if share != "" && a.kind == blocked && a.block == BlockBudget {
				full[share] = a
			}
		})
	}
	wait.Wait()
	return answers
}

// hurried reports whether a pod's call waits for no turn: its time is up, or so nearly
// that it would be lost in the queue.
func hurried(v Verdict, now time.Time) bool {
	return v.Action == Delete || !v.Until.IsZero() && v.Until.Sub(now) < hurryFor
}

func tellOne(ctx context.Context, api evictor, v Verdict) answer {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	name := types.NamespacedName{Namespace: v.Pod.Namespace, Name: v.Pod.Name}
	if v.Action == Delete {
		return interpret(api.Delete(ctx, name, v.Pod.UID, int64(v.Grace/time.Second)))
	}
	// A pod that asks for no grace at all would lose its API object before its
	// containers end; a second keeps its name taken until the kubelet is done.
	var grace *int64
	if g := v.Pod.Spec.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		one := int64(1)
		grace = &one
	}
	return interpret(api.Evict(ctx, name, v.Pod.UID, grace))
}

func blocker(v Verdict, a answer) Blocker {
	b := Blocker{Pod: key(v.Pod), PDB: a.pdbs, Reason: a.block, Detail: a.detail, Until: v.Until}
	if o := metav1.GetControllerOfNoCopy(v.Pod); o != nil {
		b.Owner = o.Kind + "/" + o.Name
	}
	return b
}

// pause is how long to leave a blocked pod alone. For budgets it grows with the
// age of the drain: frequent at first, when a replacement is about to be ready,
// rare once the wait is long.
func pause(b Block, in Input) time.Duration {
	switch b {
	case BlockBudget:
		d := min(max(in.Now.Sub(in.Started)/10, soon), budgetRetryMax)
		return d + jitter(in, d/5)
	case BlockNamespace, BlockRefused:
		return budgetRetryMax + jitter(in, 2*time.Second)
	case BlockBudgets:
		return slow
	default:
		panic("drain: unknown block " + string(b))
	}
}

// jitter spreads nodes that are drained together over up to most. It derives
// from node and time, so that a pass is repeatable.
func jitter(in Input, most time.Duration) time.Duration {
	h := fnv.New32a()
	fmt.Fprint(h, in.Node.Name, in.Now.UnixNano())
	return time.Duration(float64(most) * float64(h.Sum32()) / float64(1<<32))
}

// nextTry collects the moments at which another pass makes sense.
type nextTry struct {
	now   time.Time
	times []time.Duration
}

func (n *nextTry) in(d time.Duration) { n.times = append(n.times, d) }

func (n *nextTry) at(t time.Time) {
	if t.After(n.now) {
		n.in(t.Sub(n.now))
	}
}

// after is the soonest moment, but no sooner than a second.
func (n *nextTry) after() time.Duration {
	if len(n.times) == 0 {
		return soon
	}
	return max(slices.Min(n.times), soon)
}

// waitedFor lists the persistent volumes that are attached to the node for pods
// that are drained. Nobody detaches what an unreachable kubelet has mounted.
func waitedFor(in Input, verdicts []Verdict) []string {
	if in.Node.Unreachable {
		return nil
	}
	stays := map[string]bool{}
	for _, v := range verdicts {
		p := v.Pod
		finished := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		if v.Action != Skip || finished || p.Spec.NodeName != in.Node.Name {
			continue
		}
		for _, vol := range p.Spec.Volumes {
			claim := ""
			switch {
			case vol.PersistentVolumeClaim != nil:
				claim = vol.PersistentVolumeClaim.ClaimName
			case vol.Ephemeral != nil:
				claim = p.Name + "-" + vol.Name
			default:
				continue
			}
			if pvc := in.PVCs[p.Namespace+"/"+claim]; pvc != nil {
				stays[pvc.Spec.VolumeName] = true
			}
		}
	}
	var out []string
	for _, a := range in.Attachments {
		pv := a.Spec.Source.PersistentVolumeName
		if a.Spec.NodeName != in.Node.Name || pv == nil || stays[*pv] {
			continue
		}
		out = append(out, *pv)
	}
	slices.SortFunc(out, cmp.Compare)
	return out
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func key(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }
