package provisioner

import (
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

// waiters are the drains that wait for a disruption budget, in the order in
// which they came. Safe for concurrent use.
type waiters struct {
	mu sync.Mutex
	// queue of claims, by budget as namespace/name.
	queue map[string][]string
}

// wait notes the budgets that a claim waits for now, and that it waits for no
// others any more. In queues that it is in already it keeps its place.
func (w *waiters) wait(claim string, budgets []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for budget, q := range w.queue {
		if !slices.Contains(budgets, budget) {
			w.store(budget, slices.DeleteFunc(q, func(c string) bool { return c == claim }))
		}
	}
	for _, budget := range budgets {
		if !slices.Contains(w.queue[budget], claim) {
			w.store(budget, append(w.queue[budget], claim))
		}
	}
}

func (w *waiters) store(budget string, q []string) {
	if len(q) == 0 {
		delete(w.queue, budget)
		return
	}
	if w.queue == nil {
		w.queue = map[string][]string{}
	}
	w.queue[budget] = q
}

// next takes the first n claims out of a budget's queue.
func (w *waiters) next(budget string, n int) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.queue[budget]
	n = min(n, len(q))
	if n <= 0 {
		return nil
	}
	out := slices.Clone(q[:n])
	w.store(budget, q[n:])
	return out
}

// watchDrains wakes drains when what they wait for happens: a budget allows a
// disruption, a pod has gone.
func (p *Loops) watchDrains() error {
	budgets := toolscache.ResourceEventHandlerFuncs{
		AddFunc:    p.budgetChanged,
		UpdateFunc: func(_, o any) { p.budgetChanged(o) },
		DeleteFunc: func(o any) {
			if last, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			if b, ok := o.(*policyv1.PodDisruptionBudget); ok {
				p.ledger.Forget(b.Namespace, b.Name)
				p.wakeClaims(p.waiters.next(b.Namespace+"/"+b.Name, len(all[*v1alpha1.NodeClaim](p.stores.claims))))
			}
		},
	}
	if _, err := p.stores.pdbs.AddEventHandler(budgets); err != nil {
		return err
	}
	pods := toolscache.ResourceEventHandlerFuncs{DeleteFunc: func(o any) {
		if last, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
			o = last.Obj
		}
		if pod, ok := o.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
			p.podLeft(pod)
		}
	}}
	_, err := p.stores.pods.AddEventHandler(pods)
	return err
}

func (p *Loops) budgetChanged(o any) {
	if b, ok := o.(*policyv1.PodDisruptionBudget); ok {
		p.wakeClaims(p.waiters.next(b.Namespace+"/"+b.Name, p.ledger.Observe(b)))
	}
}

// podLeft wakes the drain of a node once the last pod that it waited for is gone.
func (p *Loops) podLeft(pod *corev1.Pod) {
	node, ok := one[*corev1.Node](p.stores.nodes, pod.Spec.NodeName)
	if !ok || !drain.Cordoned(node) || p.populated(node) {
		return
	}
	if claim := node.Labels[v1alpha1.LabelNodeClaim]; claim != "" {
		p.wakeClaims([]string{claim})
	}
}

// wakeClaims has claims reconciled now. What does not fit into the channel comes
// back by itself.
func (p *Loops) wakeClaims(names []string) {
	for _, n := range names {
		select {
		case p.woken <- event.GenericEvent{Object: &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: n}}}:
		default:
			return
		}
	}
}
