package cluster

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// View reads objects of the kinds from a watch, until the context ends. To list
// hundreds of them from the API server, many times a second, would take more of
// the machine than what is tested or measured.
func (c *Cluster) View(ctx context.Context, kinds ...client.Object) (client.Reader, error) {
	view, err := cache.New(c.Config, cache.Options{Scheme: c.Client.Scheme()})
	if err != nil {
		return nil, fmt.Errorf("watching: %w", err)
	}
	for _, kind := range kinds {
		if _, err := view.GetInformer(ctx, kind, cache.BlockUntilSynced(false)); err != nil {
			return nil, fmt.Errorf("watching %T: %w", kind, err)
		}
	}
	go func() { _ = view.Start(ctx) }() // It ends with the context only.
	if !view.WaitForCacheSync(ctx) {
		return nil, fmt.Errorf("watching: %w", ctx.Err())
	}
	return view, nil
}
