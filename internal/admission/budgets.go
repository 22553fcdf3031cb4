package admission

import (
	"fmt"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// budgetOfPods is a PodDisruptionBudget.
type budgetOfPods struct {
	name     string
	selector labels.Selector
	spec     *policyv1.PodDisruptionBudgetSpec
}

// readBudgets orders PodDisruptionBudgets by namespace. Those whose selector
// cannot be read are left out: the API server refuses such.
func readBudgets(list []*policyv1.PodDisruptionBudget) map[string][]budgetOfPods {
	out := map[string][]budgetOfPods{}
	for _, b := range list {
		if b.DeletionTimestamp != nil {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil {
			continue
		}
		out[b.Namespace] = append(out[b.Namespace], budgetOfPods{name: b.Name, selector: selector, spec: &b.Spec})
	}
	return out
}

func (b *budgetOfPods) matches(l map[string]string) bool { return b.selector.Matches(labels.Set(l)) }

// forbids says why the budget lets no pod go whatever their health; empty when
// it lets some. pods is how many there will be; 0: not known.
func (b *budgetOfPods) forbids(pods int64) string {
	scale := func(v *intstr.IntOrString) (int, bool) {
		if v.Type == intstr.Int {
			return v.IntValue(), true
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(v, int(max(pods, 1)), true)
		return n, err == nil
	}
	if m := b.spec.MaxUnavailable; m != nil {
		if n, ok := scale(m); ok && n == 0 {
			return "maxUnavailable " + m.String()
		}
		return ""
	}
	m := b.spec.MinAvailable
	if m == nil {
		return ""
	}
	if m.Type == intstr.String {
		if m.StrVal == "100%" {
			return "minAvailable 100%"
		}
		if pods == 0 {
			return ""
		}
	}
	if n, ok := scale(m); ok && pods > 0 && int64(n) >= pods {
		return fmt.Sprintf("minAvailable %s of %d", m.String(), pods)
	}
	return ""
}
