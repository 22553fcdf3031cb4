package provisioner

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const (
	// heldEvery is how often it is looked at which nodes are held.
	heldEvery = 15 * time.Second
	// maxHeld bounds the budgets that a Provisioner's status names.
	maxHeld = 10
)

// held knows which nodes cannot be drained now, by Provisioner.
type held struct {
	mu sync.Mutex
	by map[string][]v1alpha1.HeldNodes
}

func (h *held) of(provisioner string) []v1alpha1.HeldNodes {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.by[provisioner]
}

// watchHeld keeps p.held fresh; statuses show it when they are next written.
func (p *Loops) watchHeld(ctx context.Context) error {
	for pause(ctx, heldEvery) {
		by := heldNodes(all[*policyv1.PodDisruptionBudget](p.stores.pdbs), all[*v1alpha1.NodeClaim](p.stores.claims), p.stores.podsOn)
		p.held.mu.Lock()
		p.held.by = by
		p.held.mu.Unlock()
	}
	return nil
}

// heldNodes counts, for each Provisioner and each budget that allows no eviction
// now, the nodes with a pod of the budget: those that hold most nodes first.
func heldNodes(pdbs []*policyv1.PodDisruptionBudget, claims []*v1alpha1.NodeClaim, podsOn func(node string) []*corev1.Pod) map[string][]v1alpha1.HeldNodes {
	type budget struct {
		name     string
		selector labels.Selector
	}
	strict := map[string][]budget{}
	for _, b := range pdbs {
		if b.Status.DisruptionsAllowed > 0 || b.DeletionTimestamp != nil {
			continue
		}
		if s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil {
			strict[b.Namespace] = append(strict[b.Namespace], budget{b.Namespace + "/" + b.Name, s})
		}
	}
	if len(strict) == 0 {
		return nil
	}
	counts := map[string]map[string]int32{}
	for _, c := range claims {
		if c.Status.NodeName == "" || c.DeletionTimestamp != nil {
			continue
		}
		holding := map[string]bool{}
		for _, pod := range podsOn(c.Status.NodeName) {
			if terminal(pod) || pod.DeletionTimestamp != nil {
				continue
			}
			for _, b := range strict[pod.Namespace] {
				if !holding[b.name] && b.selector.Matches(labels.Set(pod.Labels)) {
					holding[b.name] = true
				}
			}
		}
		for name := range holding {
			if counts[c.Spec.Provisioner.Name] == nil {
				counts[c.Spec.Provisioner.Name] = map[string]int32{}
			}
			counts[c.Spec.Provisioner.Name][name]++
		}
	}
	out := map[string][]v1alpha1.HeldNodes{}
	for pr, byName := range counts {
		list := make([]v1alpha1.HeldNodes, 0, len(byName))
		for name, n := range byName {
			list = append(list, v1alpha1.HeldNodes{Budget: name, Nodes: n})
		}
		slices.SortFunc(list, func(a, b v1alpha1.HeldNodes) int {
			return cmp.Or(cmp.Compare(b.Nodes, a.Nodes), cmp.Compare(a.Budget, b.Budget))
		})
		out[pr] = list[:min(len(list), maxHeld)]
	}
	return out
}
