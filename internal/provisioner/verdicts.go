package provisioner

import (
	"strings"
	"sync"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/internal/capacity"
)

// verdicts remembers what pods were told, so that each reason is told once.
type verdicts struct {
	mu   sync.Mutex
	told map[types.UID]capacity.Reason
}

func newVerdicts() *verdicts { return &verdicts{told: map[types.UID]capacity.Reason{}} }

// tell reports whether a pod has not been told this reason yet, and notes it.
// Only Provisioner and constraint count: a price or a number in the text that
// changes is no news. What keeps a pod's group from starting may be anything, so
// there the kind of fix counts too.
func (v *verdicts) tell(pod types.UID, r capacity.Reason) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := capacity.Reason{Provisioner: r.Provisioner, Constraint: r.Constraint}
	if r.Constraint == capacity.ConstraintPodGroup {
		key.Fix = withoutNumbers(r.Fix)
	}
	if v.told[pod] == key {
		return false
	}
	v.told[pod] = key
	return true
}

func withoutNumbers(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) || r == '.' {
			return -1
		}
		return r
	}, s)
}

// forget drops pods that wait no more.
func (v *verdicts) forget(pending []*corev1.Pod) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.told) == 0 {
		return
	}
	still := make(map[types.UID]bool, len(pending))
	for _, p := range pending {
		still[p.UID] = true
	}
	for uid := range v.told {
		if !still[uid] {
			delete(v.told, uid)
		}
	}
}
