package provisioner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// wish asks the provision loop for nodes in place of others.
type wish struct {
	launches []capacity.Launch
	victims  []string
	why      string

	mu       sync.Mutex
	answered bool
	names    []string
	err      string
}

// answer is what became of a wish: the claims, or why there are none.
func (w *wish) answer() (names []string, err string, answered bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.names, w.err, w.answered
}

func (w *wish) settle(names []string, err string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names, w.err, w.answered = names, err, true
}

// wishes are on their way from consolidation to the provision loop, which alone
// creates claims, because it counts limits. The zero value is ready.
type wishes struct {
	mu   sync.Mutex
	open []*wish
	// released are replacements that serve nobody any more.
	released []string
}

func (w *wishes) add(x *wish) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = append(w.open, x)
}

func (w *wishes) release(claim string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.released = append(w.released, claim)
}

func (w *wishes) takeAll() (open []*wish, released []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	open, released = w.open, w.released
	w.open, w.released = nil, nil
	return open, released
}

// grantWishes creates the claims that consolidation asks for, as far as limits
// allow as things are now. It reports whether it created any.
func (p *Loops) grantWishes(ctx context.Context, now time.Time) bool {
	open, released := p.wishes.takeAll()
	for _, name := range released {
		p.releaseReplacement(ctx, name)
	}
	bought := false
	for _, w := range open {
		names, err := p.grant(ctx, w, p.read(now))
		text := ""
		if err != nil {
			text = err.Error()
			for _, name := range names {
				p.releaseReplacement(ctx, name)
			}
		}
		w.settle(names, text)
		bought = bought || len(names) > 0
	}
	if len(open) > 0 {
		p.lookForIdle()
	}
	return bought
}

func (p *Loops) grant(ctx context.Context, w *wish, v *view) ([]string, error) {
	plan := &capacity.Plan{Launches: w.launches}
	for i := range w.launches {
		l := &w.launches[i]
		found := false
		for _, pr := range v.snapshot.Provisioners {
			if pr.Name == l.Provisioner.Name && pr.UID == l.Provisioner.UID {
				if pr.NotReady != "" {
					return nil, fmt.Errorf("nothing can be bought from Provisioner %s: %s", pr.Name, pr.NotReady)
				}
				l.Provisioner, found = pr, true
			}
		}
		if !found {
			return nil, fmt.Errorf("provisioner %s is gone", l.Provisioner.Name)
		}
		plan.HourlyCost += l.Price
	}
	if why := capacity.BeyondLimits(w.launches); why != "" {
		return nil, fmt.Errorf("limits leave no room for a node beside those that it is to replace: %s", why)
	}
	spare := spareCost(plan)
	claims := make([]*v1alpha1.NodeClaim, len(w.launches))
	for i := range w.launches {
		l := &w.launches[i]
		claims[i] = newClaim(v.provisioners[l.Provisioner.Name], p.cfg.ClusterName, l, plan, spare)
		claims[i].Annotations[v1alpha1.AnnotationReplaces] = strings.Join(w.victims, ",")
		claims[i].Annotations[v1alpha1.AnnotationDecision] = "consolidation: " + w.why
	}
	errs := p.lifter.create(ctx, claims, func(i int) {
		l, claim := &w.launches[i], claims[i]
		p.log.Info("claim created", "claim", claim.Name, "provisioner", l.Provisioner.Name, "type", l.InstanceType, "zone", l.Zone,
			"capacityType", l.CapacityType, "price", l.Price, "replaces", w.victims)
	})
	var names []string
	for i, err := range errs {
		if err == nil {
			names = append(names, claims[i].Name)
		}
	}
	return names, errors.Join(errs...)
}

// releaseReplacement makes an ordinary node of a replacement that serves nobody
// any more: where nothing runs on it, it goes as others do.
func (p *Loops) releaseReplacement(ctx context.Context, name string) {
	claim := &v1alpha1.NodeClaim{}
	err := p.cfg.APIReader.Get(ctx, client.ObjectKey{Name: name}, claim)
	if err == nil && claim.Annotations[v1alpha1.AnnotationReplaces] != "" {
		before := claim.DeepCopy()
		delete(claim.Annotations, v1alpha1.AnnotationReplaces)
		err = p.cfg.Client.Patch(ctx, claim, client.MergeFrom(before))
	}
	if client.IgnoreNotFound(err) != nil && ctx.Err() == nil {
		p.log.Error(err, "releasing a replacement failed; tried again", "claim", name)
		p.wishes.release(name)
	}
}
