package provisioner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/drain"
	"github.com/berth-dev/berth/internal/ec2"
)

const (
	// receivers is the number of receivers of the interruption queue; each has up
	// to ten messages in its hands.
	receivers = 10
	// receivePause is the pause of a receiver after a call that failed.
	receivePause = 5 * time.Second
	// noticeMargin is how long before EC2 takes an instance its drain ends: time
	// to terminate it ourselves, and for clocks that differ.
	noticeMargin = 15 * time.Second
	// leastNotice is what pods get when the notice comes too late for a margin.
	leastNotice = 10 * time.Second
	// handleTimeout bounds the work on one batch of messages. It is below the
	// time after which SQS hands them out again.
	handleTimeout = 50 * time.Second
	// rememberPoison bounds the messages whose removal may have failed.
	rememberPoison = 10_000
)

// messages is the queue of events about instances.
type messages interface {
	// Receive waits for messages and returns some, or none after a while.
	Receive(ctx context.Context) ([]ec2.Message, error)
	// Delete removes messages for good.
	Delete(ctx context.Context, list []ec2.Message) error
}

// interruption acts on what EC2 announces about instances.
type interruption struct {
	*Loops
	queue messages
	cloud interface {
		Instance(ctx context.Context, id string) (ec2.Instance, error)
	}
	health *checkup

	mu     sync.Mutex
	poison map[string]bool
}

func newInterruption(p *Loops, queue messages, cloud inventory, health *checkup) *interruption {
	return &interruption{Loops: p, queue: queue, cloud: cloud, health: health, poison: map[string]bool{}}
}

// run receives until the context ends.
func (i *interruption) run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range receivers {
		wg.Go(func() {
			for ctx.Err() == nil {
				list, err := i.queue.Receive(ctx)
				switch {
				case ctx.Err() != nil:
					return
				case err != nil:
					i.metrics.queueErrors.Inc()
					i.log.Error(err, "the interruption queue cannot be read; tried again")
					if !pause(ctx, receivePause) {
						return
					}
				default:
					i.handle(ctx, list)
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// notice is an event about a node of ours.
type notice struct {
	message int
	event   ec2.Event
	claim   *v1alpha1.NodeClaim
}

// handle acts on a batch of messages and removes those that are dealt with:
// also those that are no events at all, and those about other people's
// instances. What failed stays in the queue and comes again.
func (i *interruption) handle(ctx context.Context, list []ec2.Message) {
	if len(list) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handleTimeout)
	defer cancel()
	var ours []notice
	for n, m := range list {
		e, err := ec2.ParseEvent(m.Body)
		if err != nil {
			i.poisoned(m, err)
			continue
		}
		i.metrics.interruptions.WithLabelValues(string(e.Kind)).Inc()
		for _, id := range e.Instances {
			if claim, ok := i.stores.claimOf(id); ok {
				ours = append(ours, notice{n, e, claim})
			}
		}
	}
	failed := make([]bool, len(list))
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, n := range ours {
		wg.Go(func() {
			if err := i.act(ctx, n, list[n.message].ReceivedAt); err != nil {
				if ctx.Err() == nil {
					i.log.Error(err, "acting on an event failed; it comes again", "kind", string(n.event.Kind), "claim", n.claim.Name)
				}
				mu.Lock()
				failed[n.message] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	var done []ec2.Message
	for n, m := range list {
		if !failed[n] {
			done = append(done, m)
		}
	}
	if err := i.queue.Delete(ctx, done); err != nil && ctx.Err() == nil {
		i.metrics.queueErrors.Inc()
		i.log.Error(err, "messages could not be removed; they come again and change nothing")
	}
}

// poisoned counts a message that is no event, once, however often it comes.
func (i *interruption) poisoned(m ec2.Message, why error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.poison[m.ID] {
		return
	}
	if len(i.poison) >= rememberPoison {
		clear(i.poison)
	}
	i.poison[m.ID] = true
	i.metrics.poison.Inc()
	i.log.Info("a message that is no event was removed", "message", m.ID, "bytes", len(m.Body), "why", why.Error())
}

// act does what an event about one of our nodes asks for.
func (i *interruption) act(ctx context.Context, n notice, received time.Time) error {
	now := time.Now()
	claim, e := n.claim, n.event
	if at := e.At; at.After(now) {
		e.Until = e.Until.Add(now.Sub(at)) // Its clock is ahead of ours.
	}
	switch e.Kind {
	case ec2.EventSpot:
		// Its pool rests as if it had refused a launch.
		i.catalogue.exhausted(claim.Spec.Provisioner.Name, []ec2.Refusal{{Class: ec2.ClassCapacity, OfferingRef: capacity.OfferingRef{
			InstanceType: claim.Status.InstanceType, Zone: claim.Status.Zone, CapacityType: claim.Status.CapacityType}}}, now)
		d := departure{v1alpha1.ReasonInterrupted, noticeDeadline(e.Until, now), "SpotInterruption",
			fmt.Sprintf("EC2 takes instance %s away (%s) at %s", claim.Status.InstanceID, e.Detail, e.Until.UTC().Format(time.RFC3339))}
		return i.timed(ctx, claim, d, received)
	case ec2.EventBlockEnd:
		return i.timed(ctx, claim, blockDeparture(claim.Status.InstanceID, e.Until, now), received)
	case ec2.EventScheduled:
		// EC2 lists what is planned; the health loop acts on that, so that a plan
		// that was cancelled, or a message that lies, costs nothing.
		i.health.look()
		return nil
	case ec2.EventState:
		return i.ended(ctx, claim, e, received)
	case ec2.EventRebalance:
		if now.Sub(e.At) < adviceFor {
			i.advice.note(claim.UID, now)
			i.lookForIdle() // The disruption loop knows the policy.
		}
		return nil
	case ec2.EventOther:
		return nil
	default:
		return fmt.Errorf("unknown kind of event %q", e.Kind)
	}
}

// timed removes a claim and measures how long after the receipt its node was
// tainted. The taint goes first, since it is what keeps new pods away; should
// nothing follow it, the disruption loop takes it back.
func (i *interruption) timed(ctx context.Context, claim *v1alpha1.NodeClaim, d departure, received time.Time) error {
	i.noticed.Store(claim.UID, true)
	defer i.noticed.Delete(claim.UID)
	early, took := i.taintAtOnce(ctx, claim), time.Since(received)
	if err := i.leave(ctx, claim.Name, d); err != nil {
		return err
	}
	if !early {
		took = time.Since(received)
	}
	i.metrics.noticeLatency.Observe(took.Seconds())
	i.log.V(1).Info("node tainted after its notice", "claim", claim.Name, "node", claim.Status.NodeName, "sinceReceipt", took.Seconds())
	return nil
}

// taintAtOnce taints a claim's node as the cache shows it, in one call. Where
// that fails, leave does so with what the API server says.
func (i *interruption) taintAtOnce(ctx context.Context, claim *v1alpha1.NodeClaim) bool {
	node, ok := i.nodeFor(claim)
	if !ok {
		return false
	}
	after := node.DeepCopy()
	return !drain.Cordon(after, time.Now()) || i.patchNode(ctx, node, after, "cordoning") == nil
}

// ended acts on an instance that stops or ends without our asking. The event
// may be old and its instance running again, so EC2 is asked.
func (i *interruption) ended(ctx context.Context, claim *v1alpha1.NodeClaim, e ec2.Event, received time.Time) error {
	if claim.DeletionTimestamp != nil {
		return nil // We have asked for it, or know already.
	}
	inst, err := i.cloud.Instance(ctx, claim.Status.InstanceID)
	if errors.Is(err, ec2.ErrNotFound) {
		return nil // Not found is not gone: the fleet looks again, apart.
	}
	if err != nil {
		return fmt.Errorf("reading instance %s: %w", claim.Status.InstanceID, err)
	}
	if !slices.Contains(endingStates, inst.State) {
		return nil
	}
	i.failedLate(claim, inst)
	return i.timed(ctx, claim, stateDeparture(inst), received)
}

// endingStates are the states that an instance does not come back from by itself.
var endingStates = []string{ec2.StateStopping, ec2.StateStopped, ec2.StateShuttingDown, ec2.StateTerminated}

// blockDeparture is what becomes of a node whose Capacity Block ends.
func blockDeparture(instance string, until, now time.Time) departure {
	return departure{v1alpha1.ReasonInterrupted, noticeDeadline(until, now), "CapacityBlockEnds",
		fmt.Sprintf("the capacity block of instance %s ends; EC2 takes it away at %s", instance, until.UTC().Format(time.RFC3339))}
}

// stateDeparture is what becomes of a node whose instance ends or has ended:
// its pods are as good as gone, and nothing is to be waited for.
func stateDeparture(inst ec2.Instance) departure {
	return departure{v1alpha1.ReasonInterrupted, time.Now(), "InstanceEnded",
		fmt.Sprintf("instance %s is %s, and not by Berth%s", inst.ID, inst.State, reasonOf(inst))}
}

// noticeDeadline is when the drain of a node ends that EC2 takes away at a
// time: a margin before, and late notices leave pods at least a moment.
func noticeDeadline(until, now time.Time) time.Time {
	deadline := until.Add(-noticeMargin)
	if least := now.Add(leastNotice); deadline.Before(least) {
		return least
	}
	return deadline
}

// claimOf returns the claim of an instance.
func (s *stores) claimOf(instanceID string) (*v1alpha1.NodeClaim, bool) {
	items, err := s.claims.GetIndexer().ByIndex(instanceIndex, instanceID)
	if err != nil || len(items) == 0 {
		return nil, false
	}
	c, ok := items[0].(*v1alpha1.NodeClaim)
	return c, ok
}

// nodeFor returns the Node of a claim in the cache: by name, and only with its
// provider id, so that a host name that is used again is never mistaken.
func (p *Loops) nodeFor(claim *v1alpha1.NodeClaim) (*corev1.Node, bool) {
	if claim.Status.NodeName == "" {
		return nil, false
	}
	node, ok := one[*corev1.Node](p.stores.nodes, claim.Status.NodeName)
	if !ok || node.Spec.ProviderID != claim.Status.ProviderID {
		return nil, false
	}
	return node, true
}
