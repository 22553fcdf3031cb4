package provisioner

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
)

// create stores and remembers new claims and has them launched, identical ones
// together: the lead of each batch first, since its UID makes the token that the
// others are created with. It calls stored for each claim that was, from several
// goroutines, and returns an error or nil for each. A batch goes without its
// members that could not be stored, and not at all without its lead.
func (l *lifter) create(ctx context.Context, claims []*v1alpha1.NodeClaim, stored func(i int)) []error {
	l.creating.Lock()
	defer l.creating.Unlock()
	errs := make([]error, len(claims))
	gate := make(chan struct{}, writers)
	store := func(i int) {
		gate <- struct{}{}
		defer func() { <-gate }()
		if err := l.cfg.Client.Create(ctx, claims[i]); err != nil {
			errs[i] = fmt.Errorf("creating claim %s: %w", claims[i].Name, err)
			return
		}
		l.book.remember(claims[i].DeepCopy(), time.Now())
		l.metrics.claimsCreated.WithLabelValues(claims[i].Spec.Provisioner.Name).Inc()
		stored(i)
	}
	var batches sync.WaitGroup
	for _, batch := range alike(claims) {
		for _, i := range batch {
			l.begin(claims[i].Name) // The reconciler is to leave it to us when the cache shows it.
		}
		batches.Go(func() {
			lead, members := batch[0], batch[1:]
			if store(lead); errs[lead] == nil {
				with := v1alpha1.LaunchMembership{Lead: claims[lead].Name, Token: ec2.LaunchToken(l.cfg.ClusterUID, string(claims[lead].UID), 1)}
				var wg sync.WaitGroup
				for _, i := range members {
					claims[i].Spec.LaunchWith = &with
					wg.Go(func() { store(i) })
				}
				wg.Wait()
			} else {
				for _, i := range members {
					errs[i] = errs[lead]
				}
			}
			var made []*v1alpha1.NodeClaim
			for _, i := range batch {
				if errs[i] != nil {
					l.end(ctx, claims[i])
					continue
				}
				made = append(made, claims[i].DeepCopy())
			}
			l.launchCreated(ctx, made)
		})
	}
	batches.Wait()
	return errs
}

// launchCreated has a batch launched, as much of it as there is room for; the
// reconciler finds out when the rest is free to join another.
func (l *lifter) launchCreated(ctx context.Context, batch []*v1alpha1.NodeClaim) {
	if len(batch) == 0 {
		return
	}
	n := l.cloud.Room(len(batch))
	l.mu.Lock()
	l.created = append(l.created, batch[:n])
	for _, c := range batch[n:] {
		l.missed[c.Name] = true
	}
	l.mu.Unlock()
	l.end(ctx, batch[n:]...)
	l.rouse()
}

// untilCreated waits for claims that are being created.
func (l *lifter) untilCreated() {
	l.creating.RLock()
	defer l.creating.RUnlock()
}

// alike are the indexes of claims that one call can launch together.
func alike(claims []*v1alpha1.NodeClaim) [][]int {
	var out [][]int
	last := map[launchKey]int{}
	for i, c := range claims {
		key := keyOf(c)
		at, ok := last[key]
		if !ok || len(out[at]) == batchMost {
			at = len(out)
			last[key] = at
			out = append(out, nil)
		}
		out[at] = append(out[at], i)
	}
	return out
}
