package e2e

import (
	"context"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/catalog"
	"github.com/berth-dev/berth/internal/ec2sim"
	"github.com/berth-dev/berth/test/cluster"
	"github.com/berth-dev/berth/test/invariant"
)

// judge looks at a cluster, beside all tests, and notes what breaks an
// invariant: twice a second, or less often where a look takes long, so that
// looking never becomes the load. finish ends it and returns what it has found.
func judge(c *cluster.Cluster) (finish func() []string) {
	ctx, cancel := context.WithCancel(context.Background())
	var (
		wg    sync.WaitGroup
		found []string
	)
	wg.Go(func() {
		seen := map[string]bool{}
		for {
			began := time.Now()
			for _, v := range look(ctx, c).Violations() {
				if !seen[v] {
					seen[v] = true
					found = append(found, v)
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(max(500*time.Millisecond, 20*time.Since(began))):
			}
		}
	})
	return func() []string {
		cancel()
		wg.Wait()
		return found
	}
}

// look reads what the invariants are about; what cannot be read just now is
// looked at the next time.
func look(ctx context.Context, c *cluster.Cluster) invariant.World {
	w := invariant.World{VCPUs: func(name string) int {
		t, _ := catalog.Default().Type(name)
		return t.VCPUs
	}}
	var (
		system       corev1.Namespace
		state        ec2sim.State
		claims       v1alpha1.NodeClaimList
		provisioners v1alpha1.ProvisionerList
	)
	if c.Client.Get(ctx, client.ObjectKey{Name: metav1.NamespaceSystem}, &system) != nil || c.Client.List(ctx, &claims) != nil ||
		c.Client.List(ctx, &provisioners) != nil || c.Sim(ctx, http.MethodGet, "state", nil, &state) != nil {
		return w
	}
	w.ClusterUID, w.Instances, w.Claims, w.Provisioners = string(system.UID), state.Instances, claims.Items, provisioners.Items
	return w
}
