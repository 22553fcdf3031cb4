package provisioner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
)

const (
	// pollEvery is how often all instances are listed when nobody is waiting.
	pollEvery = 10 * time.Second
	// pollFast is how often they are listed while somebody is.
	pollFast = time.Second
	// orphanAge is how old an instance must be before it can be an orphan: a
	// younger one may belong to a claim whose status is being written.
	orphanAge = 2 * time.Minute
	// missingFor is how long EC2 must have denied knowing an instance, in more
	// than one reading, before it counts as gone.
	missingFor = 30 * time.Second
	// shownAfter is how long after a launch EC2 may deny knowing its instance
	// ("Eventual consistency in the Amazon EC2 API": usually seconds, at times
	// minutes). Until then only its word that it has ended counts.
	shownAfter = 10 * time.Minute
	// sweepEvery is how often orphans are looked for.
	sweepEvery = 30 * time.Second
	// templatesEvery is how often unused launch templates are deleted, and how
	// old they must be.
	templatesEvery = time.Hour
)

// inventory is what the fleet needs of EC2.
type inventory interface {
	// Instances lists all instances of this cluster that are not terminated.
	Instances(ctx context.Context) ([]ec2.Instance, error)
	// Instance reads one, terminated or not; ec2.ErrNotFound when EC2 knows none.
	Instance(ctx context.Context, id string) (ec2.Instance, error)
	// Terminate asks EC2 to terminate an instance of ours.
	Terminate(ctx context.Context, id string) error
	// DeleteUnusedTemplates deletes our launch templates that are older than
	// age and not in use, and returns how many.
	DeleteUnusedTemplates(ctx context.Context, inUse map[string]bool, age time.Duration) (int, error)
}

// fleet is the shared reading of EC2: one list call serves all claims.
type fleet struct {
	*Loops
	cloud  inventory
	demand chan struct{}

	mu      sync.Mutex
	at      time.Time
	live    map[string]ec2.Instance
	missing map[string]time.Time
	// suspects are orphans seen in the sweep before.
	suspects map[string]bool
	// strays are Nodes without a claim seen in the sweep before, by UID.
	strays map[string]bool
	swept  time.Time
	// tagging: what was missed is being tagged.
	tagging atomic.Bool
	tidied  time.Time
}

func newFleet(p *Loops, cloud inventory) *fleet {
	return &fleet{Loops: p, cloud: cloud, demand: make(chan struct{}, 1),
		live: map[string]ec2.Instance{}, missing: map[string]time.Time{}, suspects: map[string]bool{}}
}

// run lists instances, fast while asked to, until the context ends.
func (f *fleet) run(ctx context.Context) error {
	wait := time.Duration(0)
	for {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		case <-f.demand:
			t.Stop()
			if d := pollFast - time.Since(f.readAt()); d > 0 {
				wait = d
				continue
			}
		}
		wait = pollEvery
		if err := f.poll(ctx); err != nil && ctx.Err() == nil {
			// A list that failed says nothing about any instance.
			f.log.Error(err, "listing instances failed")
			continue
		}
		if time.Since(f.swept) >= sweepEvery {
			f.swept = time.Now()
			if err := f.sweep(ctx); err != nil && ctx.Err() == nil {
				f.log.Error(err, "looking for orphans failed")
			}
		}
	}
}

func (f *fleet) readAt() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

// want asks for a fresh reading soon.
func (f *fleet) want() {
	select {
	case f.demand <- struct{}{}:
	default:
	}
}

func (f *fleet) poll(ctx context.Context) error {
	list, err := f.cloud.Instances(ctx)
	if err != nil {
		return fmt.Errorf("listing instances: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = time.Now()
	before := f.live
	f.live = make(map[string]ec2.Instance, len(list))
	for _, i := range list {
		f.live[i.ID] = i
		delete(f.missing, i.ID)
		delete(before, i.ID)
	}
	for id := range before {
		if c, ok := f.stores.claimOf(id); ok {
			f.wakeClaims([]string{c.Name}) // It may wait for its instance's end.
		}
	}
	f.metrics.instances.Set(float64(len(f.live)))
	return nil
}

// snapshot is the last reading, by instance id.
func (f *fleet) snapshot() map[string]ec2.Instance {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.live)
}

// ended reports whether an instance is terminated for certain: EC2 says so, or
// has not known it for missingFor in more than one reading. nodeLives is
// whether its kubelet still reports: EC2 is then not believed.
func (f *fleet) ended(ctx context.Context, id string, nodeLives bool) (bool, error) {
	f.want()
	f.mu.Lock()
	_, live := f.live[id]
	f.mu.Unlock()
	if live {
		return false, nil
	}
	inst, err := f.cloud.Instance(ctx, id)
	switch {
	case err == nil:
		f.mu.Lock()
		delete(f.missing, id)
		f.mu.Unlock()
		return inst.State == ec2.StateTerminated, nil
	case !errors.Is(err, ec2.ErrNotFound):
		return false, fmt.Errorf("reading instance %s: %w", id, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	since, seen := f.missing[id]
	if !seen {
		f.missing[id] = time.Now()
		return false, nil
	}
	if time.Since(since) < missingFor || nodeLives {
		return false, nil
	}
	delete(f.missing, id)
	return true, nil
}

// ending reports whether the last reading shows an instance shutting down.
func (f *fleet) ending(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, ok := f.live[id]
	return ok && i.State == ec2.StateShuttingDown
}

// sweep terminates instances that no claim owns, and starts the removal of
// claims whose instance is gone. It reads claims live, and acts on an orphan
// only when the sweep before has seen it too.
func (f *fleet) sweep(ctx context.Context) error {
	var claims v1alpha1.NodeClaimList
	if err := f.cfg.APIReader.List(ctx, &claims); err != nil {
		return fmt.Errorf("listing claims: %w", err)
	}
	owned := map[string]bool{}
	unsettled := map[string]bool{} // Tokens of launches that claims still wait for.
	for i := range claims.Items {
		c := &claims.Items[i]
		if c.Status.InstanceID != "" {
			owned[c.Status.InstanceID] = true
		} else if in := c.LaunchRecord(); in != nil {
			unsettled[in.Token] = true
		}
	}
	f.mu.Lock()
	live := make([]ec2.Instance, 0, len(f.live))
	for _, i := range f.live {
		live = append(live, i)
	}
	f.mu.Unlock()

	suspects := map[string]bool{}
	budget := max(3, len(live)/10)
	for _, i := range live {
		if owned[i.ID] || unsettled[i.Launch] || time.Since(i.LaunchedAt) < orphanAge || i.State == ec2.StateShuttingDown {
			continue
		}
		suspects[i.ID] = true
		if !f.suspects[i.ID] || budget == 0 {
			continue
		}
		budget--
		f.log.Info("terminating an instance that no claim owns", "instance", i.ID, "claim", i.ClaimName, "launchedAt", i.LaunchedAt)
		f.metrics.orphans.Inc()
		if err := f.cloud.Terminate(ctx, i.ID); err != nil {
			f.log.Error(err, "terminating an orphan", "instance", i.ID)
		}
	}
	f.suspects = suspects
	f.retag(ctx, claims.Items, live)
	if time.Since(f.tidied) >= templatesEvery {
		f.tidied = time.Now()
		if err := f.tidy(ctx, claims.Items); err != nil {
			return err
		}
	}
	if err := f.releaseStrays(ctx, claims.Items); err != nil {
		return err
	}
	return f.reap(ctx, claims.Items)
}

// retag repeats what tagging an instance after its launch has missed.
func (f *fleet) retag(ctx context.Context, claims []v1alpha1.NodeClaim, live []ec2.Instance) {
	untagged := map[string]bool{}
	for _, i := range live {
		if i.ClaimUID == "" && time.Since(i.LaunchedAt) > sweepEvery {
			untagged[i.ID] = true
		}
	}
	var list []*v1alpha1.NodeClaim
	for i := range claims {
		if c := &claims[i]; untagged[c.Status.InstanceID] && c.DeletionTimestamp == nil {
			list = append(list, c.DeepCopy())
		}
	}
	if len(list) == 0 || !f.tagging.CompareAndSwap(false, true) {
		return // The sweep before is still at it.
	}
	go func() {
		defer f.tagging.Store(false)
		for _, c := range list {
			f.lifter.tag(ctx, c)
		}
	}()
}

// tidy deletes launch templates that no claim's launch refers to.
func (f *fleet) tidy(ctx context.Context, claims []v1alpha1.NodeClaim) error {
	inUse := map[string]bool{}
	for i := range claims {
		if l := claims[i].Status.Launch; l != nil {
			inUse[l.LaunchTemplateID] = true
			for _, o := range l.Overrides {
				inUse[o.LaunchTemplateID] = true
			}
		}
	}
	n, err := f.cloud.DeleteUnusedTemplates(ctx, inUse, templatesEvery)
	if err != nil {
		return fmt.Errorf("deleting unused launch templates: %w", err)
	}
	if n > 0 {
		f.log.Info("unused launch templates deleted", "templates", n)
	}
	return nil
}

// reap removes claims whose instance was terminated by somebody else.
func (f *fleet) reap(ctx context.Context, claims []v1alpha1.NodeClaim) error {
	var errs []error
	for i := range claims {
		c := &claims[i]
		if c.Status.InstanceID == "" || c.DeletionTimestamp != nil {
			continue
		}
		node, ok := one[*corev1.Node](f.stores.nodes, c.Status.NodeName)
		ended, err := f.ended(ctx, c.Status.InstanceID, ok && nodeReady(node) || unshown(c, time.Now()))
		if err != nil {
			errs = append(errs, fmt.Errorf("claim %s: %w", c.Name, err))
			continue
		}
		if !ended {
			continue
		}
		d := departure{v1alpha1.ReasonInterrupted, time.Now(), "InstanceEnded",
			fmt.Sprintf("instance %s is gone, and not by Berth", c.Status.InstanceID)}
		if inst, ok := f.ends(c.Status.InstanceID); ok {
			d.why += reasonOf(inst)
			f.failedLate(c, inst)
		}
		if err := f.leave(ctx, c.Name, d); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// unshown reports whether EC2 may not show a claim's instance yet: it is young,
// and its kubelet has not joined either.
func unshown(c *v1alpha1.NodeClaim, now time.Time) bool {
	launched := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionLaunched)
	return launched != nil && launched.Status == metav1.ConditionTrue && now.Sub(launched.LastTransitionTime.Time) < shownAfter &&
		!isTrue(c.Status.Conditions, v1alpha1.ConditionRegistered)
}
