package drain

import (
	"fmt"
	"sync"

	policyv1 "k8s.io/api/policy/v1"
)

// Ledger spends what disruption budgets allow, among all drains of a process:
// without it each of them would ask for the same disruption, and all but one in
// vain. It goes by the budgets' status as the caller's watch shows it. The API
// server has the last word: what is stale costs a call or a moment, never a
// budget. The zero value is ready; nil allows everything. Safe for concurrent
// use.
type Ledger struct {
	mu    sync.Mutex
	spent map[string]spending
}

// spending is what was taken of a budget since its status was written.
type spending struct {
	version string
	taken   int
}

// take reports whether a disruption may be asked for, and if not what the
// budget's status says.
func (l *Ledger) take(b *policyv1.PodDisruptionBudget) (bool, string) {
	if l == nil || b.Status.ObservedGeneration < b.Generation {
		return true, "" // The status speaks of another budget; the API server knows.
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spent == nil {
		l.spent = map[string]spending{}
	}
	key := b.Namespace + "/" + b.Name
	s := l.spent[key]
	if s.version != b.ResourceVersion {
		s = spending{version: b.ResourceVersion}
	}
	if s.taken >= int(b.Status.DisruptionsAllowed) {
		l.spent[key] = s
		return false, fmt.Sprintf("%d healthy pods, %d are the least", b.Status.CurrentHealthy, b.Status.DesiredHealthy)
	}
	s.taken++
	l.spent[key] = s
	return true, ""
}

// Forget drops a budget that is gone.
func (l *Ledger) Forget(namespace, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.spent, namespace+"/"+name)
}
