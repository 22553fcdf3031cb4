package provisioner

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/drain"
)

// input reads all that consolidation depends on. chosen are claims whose nodes
// decisions under way take away: for a recheck of these; nodes that wait for their
// replacements keep their pods then, and get none. Without it, both are on their way
// out.
func (c *consolidation) input(now time.Time, chosen map[string]bool) *capacity.ConsolidationInput {
	v := c.newView(now)
	nodes := c.readNodes(v)
	c.lookAtPods(v, nodes)
	c.readProvisioners(v, now)
	insist(v.snapshot)
	keepChoices(v.snapshot, nodes.all)
	v.snapshot.Nodes = nodes.all
	in := &capacity.ConsolidationInput{Snapshot: v.snapshot, Policies: c.policies(now), Nodes: map[string]capacity.NodeFacts{},
		Pods: map[*corev1.Pod]capacity.PodFacts{}, Moved: c.history.moved(now)}
	c.mu.Lock()
	underway := c.underway
	if chosen == nil {
		for w, n := range c.pledged {
			in.Moved[w] += n
		}
	}
	c.mu.Unlock()
	pdbs := newBudgets(all[*policyv1.PodDisruptionBudget](c.stores.pdbs))
	for _, pn := range nodes.all {
		claim := v.claims[pn.Claim]
		if claim == nil {
			continue
		}
		node, _ := one[*corev1.Node](c.stores.nodes, pn.Name)
		f := c.nodeFacts(claim, node, chosen, now)
		if underway[claim.Name] && !f.Chosen {
			f.Going, f.Reserved = f.Going || chosen == nil, true
		}
		in.Nodes[pn.Name] = f
		if node != nil {
			c.podFacts(in.Pods, pn, node, pdbs, chosen[claim.Name], now)
		}
	}
	return in
}

// lookAtPods puts pods on their nodes, or on those that they have a seat on. It
// changes nothing: seats are the provision loop's.
func (c *consolidation) lookAtPods(v *view, nodes *nodeSet) {
	for _, pod := range all[*corev1.Pod](c.stores.pods) {
		switch {
		case terminal(pod):
		case pod.Spec.NodeName != "":
			if n := nodes.byNode[pod.Spec.NodeName]; n != nil {
				n.Pods = append(n.Pods, pod)
			}
		case waiting(pod):
			if claim, ok := c.book.of(pod.UID); ok && nodes.byClaim[claim] != nil {
				nodes.byClaim[claim].Pods = append(nodes.byClaim[claim].Pods, pod)
				continue
			}
			v.snapshot.Pods = append(v.snapshot.Pods, pod)
		}
	}
}

// keepChoices has pods that run on a node of the capacity type that was chosen for
// them keep it: no saving is worth undoing what their workload asks for. Those that
// could not have it where they run now may go anywhere.
func keepChoices(s *capacity.Snapshot, nodes []*capacity.Node) {
	for _, n := range nodes {
		for _, pod := range n.Pods {
			if choice := capacity.PreferredCapacity(pod); choice != "" && slices.Contains(capacity.ChosenTypes(choice), n.Labels[v1alpha1.LabelCapacityType]) {
				s.Require(pod, capacity.KeepsChoice(choice))
			}
		}
	}
}

func (c *consolidation) nodeFacts(claim *v1alpha1.NodeClaim, node *corev1.Node, chosen map[string]bool, now time.Time) capacity.NodeFacts {
	f := capacity.NodeFacts{Reserved: c.reserved(claim)}
	if cond := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionInitialized); cond != nil && cond.Status == metav1.ConditionTrue {
		f.Since = cond.LastTransitionTime.Time
	}
	if why, ok := c.history.failed(claim.Name, now); ok {
		f.NoReplacement = why
	}
	if node == nil {
		return f
	}
	if chosen[claim.Name] {
		f.Chosen = true
	} else if c.leaving(node, claim) {
		f.Going = true
	}
	switch {
	case !nodeReady(node):
		f.Keep = "it is not ready"
	case isTrue(claim.Status.Conditions, v1alpha1.ConditionDrifted):
		f.Keep = "it has drifted, and is replaced for that"
	case c.lastOwn(node.Name, nil):
		f.Keep = "the last ready replica of Berth itself runs there"
	default:
		if by, ok := drain.DoNotDisrupt(&corev1.Pod{ObjectMeta: node.ObjectMeta}, now); ok {
			f.Keep = "it is annotated " + by
		}
	}
	return f
}

// podFacts says what is known of the pods on a node. begun: a decision under way
// takes it away.
func (c *consolidation) podFacts(out map[*corev1.Pod]capacity.PodFacts, pn *capacity.Node, node *corev1.Node, pdbs *budgets, begun bool, now time.Time) {
	images := map[string]int64{}
	for _, img := range node.Status.Images {
		for _, name := range img.Names {
			images[name] = img.SizeBytes
		}
	}
	verdicts := drain.Classify(pn.Pods, drain.Facts(node, time.Time{}), now, time.Time{})
	for k, pod := range pn.Pods {
		f := capacity.PodFacts{Stays: verdicts[k].Action == drain.Skip && pod.Spec.NodeName != "", Workload: c.workloadOf(pod), Bound: boundAt(pod)}
		if f.Stays {
			out[pod] = f
			continue
		}
		f.Replicas = c.replicasOf(pod)
		if at := readyAt(pod); at.After(f.Bound) {
			f.Start = at.Sub(f.Bound)
		}
		for i := range pod.Spec.Containers {
			f.ImageBytes += images[pod.Spec.Containers[i].Image]
		}
		ref := metav1.GetControllerOfNoCopy(pod)
		switch {
		case pod.Spec.NodeName == "":
			f.Keep = "it is to start there"
		case verdicts[k].Protected != "":
			f.Keep = "it is annotated " + verdicts[k].Protected
		case ref == nil:
			f.Keep = "it has no controller that would make it again"
		case ref.Kind == "Job":
			f.Keep = "it is a Job's, and would begin again"
		default:
			f.Keep = pdbs.forbids(pod, begun)
		}
		out[pod] = f
	}
}

// workloadOf names a pod's controller; a Deployment's ReplicaSets are one.
func (c *consolidation) workloadOf(pod *corev1.Pod) string {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return pod.Namespace + "/Pod/" + pod.Name
	}
	if ref.Kind == "ReplicaSet" {
		if rs, ok := one[*appsv1.ReplicaSet](c.stores.replicaSets, pod.Namespace+"/"+ref.Name); ok {
			if up := metav1.GetControllerOfNoCopy(rs); up != nil {
				ref = up
			}
		}
	}
	return pod.Namespace + "/" + ref.Kind + "/" + ref.Name
}

// replicasOf is how many pods a pod's controller wants, or has.
func (c *consolidation) replicasOf(pod *corev1.Pod) int {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return 1
	}
	key := pod.Namespace + "/" + ref.Name
	switch ref.Kind {
	case "ReplicaSet":
		if rs, ok := one[*appsv1.ReplicaSet](c.stores.replicaSets, key); ok && rs.Spec.Replicas != nil {
			return int(*rs.Spec.Replicas)
		}
	case "StatefulSet":
		if s, ok := one[*appsv1.StatefulSet](c.stores.statefulSets, key); ok && s.Spec.Replicas != nil {
			return int(*s.Spec.Replicas)
		}
	}
	return max(1, len(c.stores.podsBy(controllerIndex, string(ref.UID))))
}

// boundAt is when a pod came to its node, as well as can be told.
func boundAt(pod *corev1.Pod) time.Time {
	for i := range pod.Status.Conditions {
		if cond := &pod.Status.Conditions[i]; cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionTrue {
			return cond.LastTransitionTime.Time
		}
	}
	return pod.CreationTimestamp.Time
}

func readyAt(pod *corev1.Pod) time.Time {
	for i := range pod.Status.Conditions {
		if cond := &pod.Status.Conditions[i]; cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue {
			return cond.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// budgets are the cluster's PodDisruptionBudgets, compiled.
type budgets struct{ byNamespace map[string][]pdb }

type pdb struct {
	name     string
	selector labels.Selector
	allowed  int32
	// never: it would allow nothing even if all pods were healthy.
	never bool
}

func newBudgets(list []*policyv1.PodDisruptionBudget) *budgets {
	b := &budgets{byNamespace: map[string][]pdb{}}
	for _, o := range list {
		sel, err := metav1.LabelSelectorAsSelector(o.Spec.Selector)
		if err != nil {
			sel = labels.Everything() // The API server cannot read it either: better to wait.
		}
		b.byNamespace[o.Namespace] = append(b.byNamespace[o.Namespace], pdb{o.Name, sel, o.Status.DisruptionsAllowed,
			o.Status.ExpectedPods > 0 && o.Status.DesiredHealthy >= o.Status.ExpectedPods})
	}
	return b
}

// forbids says which budget keeps the pod from being evicted; empty: none. A
// move that nobody would let go now is not begun; one that was begun goes on as
// long as its turn may come: the drain waits for it.
func (b *budgets) forbids(pod *corev1.Pod, begun bool) string {
	var names []string
	why := ""
	for _, p := range b.byNamespace[pod.Namespace] {
		if !p.selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		names = append(names, p.name)
		if p.never || p.allowed < 1 && !begun {
			why = "PodDisruptionBudget " + p.name + " allows no disruption"
		}
	}
	if len(names) > 1 {
		slices.Sort(names)
		return fmt.Sprintf("more than one PodDisruptionBudget selects it (%s, %s), so that nobody can evict it", names[0], names[1])
	}
	return why
}
