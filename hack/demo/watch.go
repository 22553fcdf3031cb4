package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// pollEvery is how often ec2sim is asked what it has.
const pollEvery = 100 * time.Millisecond

// observer feeds a journal from the API server's watches and from ec2sim.
type observer struct {
	c *cluster.Cluster
	j *journal
	// asking keeps an older answer of ec2sim from being taken for a newer one.
	asking sync.Mutex
}

// observe starts to watch, and returns when the watches have begun. stop ends
// them and waits until they have ended.
func observe(ctx context.Context, c *cluster.Cluster, j *journal) (stop func(), err error) {
	o := &observer{c: c, j: j}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	stop = func() {
		cancel()
		wg.Wait()
	}
	ca, err := cache.New(c.Config, cache.Options{Scheme: c.Client.Scheme(), DefaultTransform: cache.TransformStripManagedFields()})
	if err != nil {
		return stop, fmt.Errorf("setting up the watches: %w", err)
	}
	for _, kind := range []struct {
		object    client.Object
		see, lose func(any)
	}{
		{&corev1.Pod{}, on(j.seePod), on(j.losePod)},
		{&v1alpha1.NodeClaim{}, on(j.seeClaim), on(j.loseClaim)},
		{&corev1.Node{}, on(j.seeNode), on(func(n *corev1.Node) { o.loseNode(ctx, n) })},
		{&corev1.Event{}, on(j.seeEvent), func(any) {}},
	} {
		informer, err := ca.GetInformer(ctx, kind.object, cache.BlockUntilSynced(false))
		if err != nil {
			return stop, fmt.Errorf("watching %T: %w", kind.object, err)
		}
		_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: kind.see, UpdateFunc: func(_, after any) { kind.see(after) }, DeleteFunc: kind.lose,
		})
		if err != nil {
			return stop, fmt.Errorf("watching %T: %w", kind.object, err)
		}
	}
	failed := make(chan error, 1)
	wg.Go(func() { failed <- ca.Start(ctx) })
	if !ca.WaitForCacheSync(ctx) {
		cancel()
		return stop, errors.Join(errors.New("the watches did not begin"), context.Cause(ctx), <-failed)
	}
	wg.Go(func() { o.poll(ctx) })
	return stop, nil
}

// on hands an object of a watch to f, the last known one where the watch has
// missed its deletion.
func on[T any](f func(T)) func(any) {
	return func(o any) {
		if last, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
			o = last.Obj
		}
		if t, ok := o.(T); ok {
			f(t)
		}
	}
}

// poll asks ec2sim until the context ends.
func (o *observer) poll(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		_ = o.ask(ctx) // The next one is soon; what never comes is missed in await.
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ask takes in what ec2sim has now.
func (o *observer) ask(ctx context.Context) error {
	o.asking.Lock()
	defer o.asking.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	instances, err := o.c.Instances(ctx)
	if err == nil {
		o.j.seeInstances(instances)
	}
	return err
}

// loseNode asks ec2sim for the state of a Node's instance before it takes in
// that the Node has gone.
func (o *observer) loseNode(ctx context.Context, node *corev1.Node) {
	state := "unknown"
	if err := o.ask(ctx); err == nil {
		o.j.look(func(w *world) {
			for _, i := range w.instances {
				if node.Spec.ProviderID == "aws:///"+i.instance.Zone+"/"+i.instance.ID {
					state = i.instance.State
				}
			}
		})
	}
	o.j.loseNode(node, state)
}
