package provisioner

import (
	"sync"

	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// written remembers claims as the API server answered our last write to them,
// until the cache shows that or something newer. Without it, each step of a
// claim would start from what the cache showed before the step before, and lose
// its write to the optimistic lock. The zero value is ready.
type written struct {
	mu     sync.Mutex
	claims map[string]*v1alpha1.NodeClaim
}

// note keeps a claim that was just written.
func (w *written) note(c *v1alpha1.NodeClaim) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.claims == nil {
		w.claims = map[string]*v1alpha1.NodeClaim{}
	}
	w.claims[c.Name] = c.DeepCopy()
}

// newer returns the newer of the cache's claim and the one last written.
func (w *written) newer(cached *v1alpha1.NodeClaim) *v1alpha1.NodeClaim {
	w.mu.Lock()
	defer w.mu.Unlock()
	own, ok := w.claims[cached.Name]
	if !ok {
		return cached
	}
	order, err := resourceversion.CompareResourceVersion(own.ResourceVersion, cached.ResourceVersion)
	if err != nil || own.UID != cached.UID || order <= 0 {
		delete(w.claims, cached.Name)
		return cached
	}
	return own.DeepCopy()
}

// forget drops a claim that is gone.
func (w *written) forget(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.claims, name)
}
