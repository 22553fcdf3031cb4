package drain

import (
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// owedFor is how long an eviction counts as spent that no status of its budget
// accounts for: the pod may have gone in a way that asks no budget.
const owedFor = 10 * time.Second

// Ledger spends what disruption budgets allow, among all drains of a process:
// without it each of them would ask for the same disruption, and all but one in
// vain. It goes by the newest status that it was shown, less the evictions that
// this status does not know of yet: the API server notes each in
// status.disruptedPods as it takes it off what is allowed. The API server has
// the last word: what is stale costs a call or a moment, never a budget. The zero
// value is ready; nil allows everything. Safe for concurrent use.
type Ledger struct {
	mu       sync.Mutex
	accounts map[types.NamespacedName]*account
}

// account is what the ledger knows of a budget.
type account struct {
	budget *policyv1.PodDisruptionBudget
	// owed are the pods asked for that are not in the status, and since when.
	owed map[string]time.Time
}

// left is how many more evictions may be asked for.
func (a *account) left() int { return int(a.budget.Status.DisruptionsAllowed) - len(a.owed) }

// Observe shows a budget as it is now, or was before: the newest counts. It
// returns how many more evictions may be asked for.
func (l *Ledger) Observe(b *policyv1.PodDisruptionBudget) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.observe(b).left()
}

func (l *Ledger) observe(b *policyv1.PodDisruptionBudget) *account {
	if l.accounts == nil {
		l.accounts = map[types.NamespacedName]*account{}
	}
	a := l.accounts[keyOf(b)]
	if a == nil || a.budget.UID != b.UID {
		a = &account{budget: b, owed: map[string]time.Time{}}
		l.accounts[keyOf(b)] = a
	}
	if order, err := resourceversion.CompareResourceVersion(a.budget.ResourceVersion, b.ResourceVersion); err != nil || order < 0 {
		a.budget = b
		for pod := range b.Status.DisruptedPods {
			delete(a.owed, pod)
		}
	}
	return a
}

// take reports whether the eviction of a pod may be asked for, and if not what
// the budget's status says.
func (l *Ledger) take(b *policyv1.PodDisruptionBudget, pod *corev1.Pod, now time.Time) (bool, string) {
	if l == nil {
		return true, ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.observe(b)
	s := &a.budget.Status
	if s.ObservedGeneration < a.budget.Generation {
		return true, "" // The status speaks of another budget; the API server knows.
	}
	for p, since := range a.owed {
		if now.Sub(since) >= owedFor {
			delete(a.owed, p)
		}
	}
	if !isReady(pod) && unreadyMayGo(a.budget) {
		return true, ""
	}
	if a.left() <= 0 {
		return false, fmt.Sprintf("%d healthy pods, %d are the least", s.CurrentHealthy, s.DesiredHealthy)
	}
	a.owed[pod.Name] = now
	return true, ""
}

// unreadyMayGo says whether a budget lets pods go that are not ready, without
// counting them.
func unreadyMayGo(b *policyv1.PodDisruptionBudget) bool {
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.DesiredHealthy > 0 && b.Status.CurrentHealthy >= b.Status.DesiredHealthy
}

// refund takes back what was taken for a pod that was not evicted.
func (l *Ledger) refund(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.accounts[keyOf(b)]; a != nil {
		delete(a.owed, pod.Name)
	}
}

func keyOf(b *policyv1.PodDisruptionBudget) types.NamespacedName {
	return types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
}

// Forget drops a budget that is gone.
func (l *Ledger) Forget(namespace, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.accounts, types.NamespacedName{Namespace: namespace, Name: name})
}
