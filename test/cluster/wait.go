package cluster

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// WaitProvisioner waits until a Provisioner is ready to be bought from.
func WaitProvisioner(ctx context.Context, c *Cluster, name string) error {
	var last string
	err := Until(ctx, func() (bool, error) {
		pr := &v1alpha1.Provisioner{}
		if err := c.Client.Get(ctx, client.ObjectKey{Name: name}, pr); err != nil {
			return false, err
		}
		ready := meta.FindStatusCondition(pr.Status.Conditions, v1alpha1.ConditionReady)
		if ready != nil {
			last = ready.Message
		}
		return ready != nil && ready.Status == metav1.ConditionTrue, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for Provisioner %s (%s): %w", name, last, err)
	}
	return nil
}

// Until asks ten times a second until the answer is yes, an error, or the
// context ends.
func Until(ctx context.Context, ask func() (bool, error)) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := ask()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
