package drain

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// model is a cluster as far as a drain can tell: pods by name, budgets, and
// the eviction handler's behaviour (reference: reliability §3.1), with the
// invariants of §3.4 checked at each call. It knows nothing of the package's
// own classification.
type model struct {
	mu       sync.Mutex
	now      time.Time
	node     NodeFacts
	deadline time.Time
	pods     map[types.NamespacedName]*corev1.Pod
	pdbs     []*policyv1.PodDisruptionBudget
	// attached are the persistent volumes on the node, claims whose they are.
	attached map[string]bool
	claims   map[string]*corev1.PersistentVolumeClaim
	serial   int

	// busy: API Priority and Fairness answers. fail: a webhook fails each call.
	busy, fail bool
	// ending namespaces refuse.
	ending map[string]bool
	// listed is what the running pass was given.
	listed []*corev1.Pod
	faults []string
	// refused is how often a budget has refused.
	refused int
}

func (m *model) fault(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

func statusErr(code int32, reason metav1.StatusReason, causes ...metav1.StatusCause) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: code, Reason: reason, Message: fmt.Sprintf("code %d", code),
		Details: &metav1.StatusDetails{Causes: causes},
	}}
}

func (m *model) find(name types.NamespacedName, uid types.UID) (*corev1.Pod, error) {
	if uid == "" {
		m.fault("D3: call for %s without UID", name)
	}
	if i := slices.IndexFunc(m.listed, func(p *corev1.Pod) bool { return p.UID == uid }); i < 0 {
		m.fault("D3: call for %s with a UID that was not listed", name)
	} else if m.listed[i].Spec.NodeName != m.node.Name {
		m.fault("D3: call for %s, which is not on the node", name)
	}
	if m.node.TaintSeen.IsZero() {
		m.fault("D15: call before the taint was seen")
	}
	if m.busy {
		return nil, statusErr(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests)
	}
	if m.fail {
		return nil, statusErr(http.StatusInternalServerError, metav1.StatusReasonInternalError)
	}
	if m.ending[name.Namespace] {
		return nil, statusErr(http.StatusForbidden, metav1.StatusReasonForbidden, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
	}
	p := m.pods[name]
	if p == nil {
		return nil, statusErr(http.StatusNotFound, metav1.StatusReasonNotFound)
	}
	if p.UID != uid {
		return nil, statusErr(http.StatusConflict, metav1.StatusReasonConflict)
	}
	return p, nil
}

// mustGo is the model's own word on whether a pod must be waited for (D1).
func (m *model) mustGo(p *corev1.Pod) bool {
	if p.Spec.NodeName != m.node.Name || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return false
	}
	for _, o := range p.OwnerReferences {
		if o.Kind == "DaemonSet" || o.Kind == "Node" && o.UID == m.node.UID && p.Annotations[corev1.MirrorPodAnnotationKey] != "" {
			return false
		}
	}
	for _, t := range p.Spec.Tolerations {
		if t.Key == "berth.dev/disrupted" || t.Key == "" && p.CreationTimestamp.After(m.node.CordonedAt) {
			return false
		}
	}
	if p.DeletionTimestamp == nil {
		return true
	}
	silent := m.node.Unreachable && p.DeletionGracePeriodSeconds != nil &&
		!m.now.Before(p.DeletionTimestamp.Add(time.Minute-time.Duration(*p.DeletionGracePeriodSeconds)*time.Second))
	return !silent && m.now.Before(p.DeletionTimestamp.Add(time.Minute))
}

// volumeOf is the persistent volume of a pod; "" for none.
func (m *model) volumeOf(p *corev1.Pod) string {
	if len(p.Spec.Volumes) == 0 {
		return ""
	}
	return m.claims[p.Namespace+"/"+p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName].Spec.VolumeName
}

// attach gives a pod a volume of its own, attached where it runs.
func (m *model) attach(p *corev1.Pod) {
	claim := "of-" + p.Name
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	m.claims[p.Namespace+"/"+claim] = &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{VolumeName: p.Namespace + "-" + p.Name}}
	if p.Spec.NodeName == m.node.Name {
		m.attached[m.volumeOf(p)] = true
	}
}

// detach is what the attach-detach controller does for pods that are gone.
func (m *model) detach() {
	for pv := range m.attached {
		if !m.used(pv, func(p *corev1.Pod) bool { return p.Status.Phase != corev1.PodSucceeded }) {
			delete(m.attached, pv)
		}
	}
}

// used says whether some such pod of the node has the volume.
func (m *model) used(pv string, such func(*corev1.Pod) bool) bool {
	for _, p := range m.pods {
		if p.Spec.NodeName == m.node.Name && m.volumeOf(p) == pv && such(p) {
			return true
		}
	}
	return false
}

// attachments are the volumes of the node, as a cache would show them.
func (m *model) attachments() []*storagev1.VolumeAttachment {
	var out []*storagev1.VolumeAttachment
	for pv := range m.attached {
		out = append(out, &storagev1.VolumeAttachment{Spec: storagev1.VolumeAttachmentSpec{
			NodeName: m.node.Name, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv}}})
	}
	return out
}

func critical(p *corev1.Pod) bool { return p.Spec.PriorityClassName != "" }

func (m *model) checkTier(p *corev1.Pod) {
	if !critical(p) {
		return
	}
	for _, q := range m.listed {
		if m.mustGo(q) && !critical(q) {
			m.fault("D10: critical %s evicted while %s is there", p.Name, q.Name)
		}
	}
}

func (m *model) Evict(_ context.Context, name types.NamespacedName, uid types.UID, grace *int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.find(name, uid)
	if err != nil {
		return err
	}
	if p.DeletionTimestamp == nil && !m.mustGo(p) {
		m.fault("D13: evicted %s, which need not go", p.Name)
	}
	m.checkTier(p)
	if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodPending {
		m.terminate(p, grace)
		return nil
	}
	var mine []*policyv1.PodDisruptionBudget
	for _, b := range m.pdbs {
		s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err == nil && b.Namespace == p.Namespace && s.Matches(labels.Set(p.Labels)) {
			mine = append(mine, b)
		}
	}
	switch len(mine) {
	case 0:
	case 1:
		healthy, desired := m.health(mine[0])
		policy := mine[0].Spec.UnhealthyPodEvictionPolicy
		if !isReady(p) && (policy != nil && *policy == policyv1.AlwaysAllow || desired > 0 && healthy >= desired) {
			break // It does not count.
		}
		if healthy <= desired {
			m.refused++
			return statusErr(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause})
		}
	default:
		return statusErr(http.StatusInternalServerError, "")
	}
	m.terminate(p, grace)
	return nil
}

func (m *model) Delete(_ context.Context, name types.NamespacedName, uid types.UID, grace int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if grace < 1 {
		m.fault("D4: %s deleted with grace %d", name, grace)
	}
	p, err := m.find(name, uid)
	if err != nil {
		return err
	}
	own := max(*p.Spec.TerminationGracePeriodSeconds, 1)
	if m.now.Before(m.deadline.Add(-time.Duration(own) * time.Second)) {
		m.fault("D4: %s deleted before deadline − grace", name)
	}
	if grace > own {
		m.fault("D4: %s deleted with grace %d, its own is %d", name, grace, own)
	}
	if left := m.deadline.Sub(m.now); grace > 1 && time.Duration(grace)*time.Second > left {
		m.fault("D4: %s deleted with grace %d s, %s are left", name, grace, left)
	}
	m.terminate(p, &grace)
	return nil
}

// health counts the ready, non-terminating pods that a budget selects, wherever
// they run, and how many must stay.
func (m *model) health(b *policyv1.PodDisruptionBudget) (healthy, desired int) {
	s, _ := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	for _, p := range m.pods {
		if p.Namespace == b.Namespace && s.Matches(labels.Set(p.Labels)) && p.DeletionTimestamp == nil && isReady(p) {
			healthy++
		}
	}
	return healthy, b.Spec.MinAvailable.IntValue()
}

func (m *model) terminate(p *corev1.Pod, grace *int64) {
	g := *p.Spec.TerminationGracePeriodSeconds
	if grace != nil {
		g = *grace
	}
	if g == 0 {
		m.fault("D4: %s ends with grace 0", p.Name)
	}
	t := metav1.Time{Time: m.now.Add(time.Duration(g) * time.Second)}
	if p.DeletionTimestamp == nil || t.Before(p.DeletionTimestamp) {
		p.DeletionTimestamp = &t
	}
}

// list copies the pods of the node, as a cache would show them.
func (m *model) list() []*corev1.Pod {
	var out []*corev1.Pod
	for _, p := range m.pods {
		if p.Spec.NodeName == m.node.Name {
			out = append(out, p.DeepCopy())
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return out
}
