package drain

import (
	"errors"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// kind is what an answer of the API server means for the drain.
type kind int

const (
	// notAsked: no call was made.
	notAsked kind = iota
	// told: the pod has been told to go. Not progress yet.
	told
	// gone: there is no such pod any more.
	gone
	// again: nothing is known; ask again soon.
	again
	// throttled: the API server is busy.
	throttled
	// blocked: something holds the pod.
	blocked
)

// answer is the API server's answer about one pod.
type answer struct {
	kind   kind
	block  Block
	detail string
	pdbs   []string
	// after is how long the API server asked to be left alone.
	after time.Duration
	// internal: the answer was 500, which for a pod with two budgets is final.
	internal bool
}

// interpret tells the answers of the eviction and deletion handlers apart. It
// goes by codes and causes, never by message text.
func interpret(err error) answer {
	if err == nil {
		return answer{kind: told}
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		// Timeout, connection, cancelled: not a word about the pod.
		return answer{kind: again, detail: err.Error()}
	}
	s := status.Status()
	budget, budgetSays := cause(s, policyv1.DisruptionBudgetCause)
	switch s.Code {
	case http.StatusNotFound:
		return answer{kind: gone}
	case http.StatusConflict:
		// Almost always another pod under the same name. But a lost race for
		// the same pod looks alike, so the next list decides.
		return answer{kind: again}
	case http.StatusTooManyRequests:
		if budget {
			return answer{kind: blocked, block: BlockBudget, detail: budgetSays}
		}
		a := answer{kind: throttled}
		if s.Details != nil {
			a.after = time.Duration(s.Details.RetryAfterSeconds) * time.Second
		}
		return a
	case http.StatusForbidden:
		if ending, says := cause(s, corev1.NamespaceTerminatingCause); ending {
			return answer{kind: blocked, block: BlockNamespace, detail: says}
		}
		if budget {
			// The budget's controller lags behind; it will catch up.
			return answer{kind: blocked, block: BlockBudget, detail: budgetSays}
		}
	case http.StatusGatewayTimeout:
		// The budget was written by others all the time.
		return answer{kind: again, detail: s.Message}
	}
	return answer{
		kind: blocked, block: BlockRefused, detail: s.Message,
		internal: s.Code == http.StatusInternalServerError,
	}
}

// judged completes an answer with what is known of the pod's budgets.
func (a answer) judged() answer {
	if a.internal && len(a.pdbs) > 1 {
		a.block = BlockBudgets
	}
	return a
}

func cause(s metav1.Status, t metav1.CauseType) (bool, string) {
	if s.Details == nil {
		return false, ""
	}
	for _, c := range s.Details.Causes {
		if c.Type == t {
			return true, c.Message
		}
	}
	return false, ""
}

// budgets finds the disruption budgets of pods.
type budgets map[string][]budget

type budget struct {
	name     string
	selector labels.Selector
	object   *policyv1.PodDisruptionBudget
}

func newBudgets(pdbs []*policyv1.PodDisruptionBudget) budgets {
	out := budgets{}
	for _, b := range pdbs {
		// As the API server does it: a selector that makes no sense selects nothing.
		s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil {
			continue
		}
		out[b.Namespace] = append(out[b.Namespace], budget{b.Name, s, b})
	}
	return out
}

// named returns a budget that of has named.
func (b budgets) named(namespace, name string) *policyv1.PodDisruptionBudget {
	for _, x := range b[namespace] {
		if x.name == name {
			return x.object
		}
	}
	panic("drain: no budget " + namespace + "/" + name)
}

// of names the budgets that select a pod, sorted.
func (b budgets) of(p *corev1.Pod) []string {
	var out []string
	for _, x := range b[p.Namespace] {
		if x.selector.Matches(labels.Set(p.Labels)) {
			out = append(out, x.name)
		}
	}
	slices.Sort(out)
	return out
}
