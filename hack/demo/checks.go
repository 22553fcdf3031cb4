package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// check is one thing that must hold.
type check struct {
	// name says what holds, with the figures that were found.
	name string
	// problems is empty when it does.
	problems []string
}

// fail adds a problem.
func (c *check) fail(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// podsOfWorkload returns the pods of a workload in the order of their age.
func podsOfWorkload(w *world, name string) []*podRecord {
	return slices.DeleteFunc(w.byAge(), func(p *podRecord) bool { return workloadOf(p.pod) != name })
}

// checkRunning: all pods of a workload have run, each on a node of Berth's.
func checkRunning(w *world, want workload) check {
	var c check
	var on []string
	ran := 0
	for _, p := range podsOfWorkload(w, want.name) {
		if p.running.IsZero() {
			c.fail("%s is %s", p.pod.Name, p.pod.Status.Phase)
			continue
		}
		ran++
		claim := claimUnder(w, p)
		if claim == nil {
			c.fail("%s runs on %s, which is no node of Berth's", p.pod.Name, p.pod.Spec.NodeName)
			continue
		}
		text := fmt.Sprintf("n%d", claim.number)
		if !slices.Contains(on, text) {
			on = append(on, text)
		}
	}
	if ran != want.pods {
		c.fail("%d pods were to run, %d did", want.pods, ran)
	}
	slices.Sort(on)
	c.name = fmt.Sprintf("%s: %d of %d running on %s (each wants %s)", want.name, ran, want.pods, strings.Join(on, ", "), wish(&want.spec))
	return c
}

// claimUnder is the claim whose node a pod is bound to.
func claimUnder(w *world, p *podRecord) *claimRecord {
	for _, c := range w.byNumber() {
		if slices.Contains(w.podsOf(c), p) {
			return c
		}
	}
	return nil
}

// checkFits: every pod is where kube-scheduler's own rules allow it: node
// affinity, taints, and the sum of requests within what the node has.
func checkFits(w *world) check {
	var c check
	pods := 0
	for _, claim := range w.byNumber() {
		n := w.nodeOf(claim)
		if n == nil {
			continue // checkNodes tells.
		}
		on := w.podsOf(claim)
		for _, p := range on {
			pods++
			if ok, err := nodeaffinity.GetRequiredNodeAffinity(p.pod).Match(n.serving); err != nil || !ok {
				c.fail("%s is on n%d, whose labels its selector or affinity does not match", p.pod.Name, claim.number)
			}
			taint, untolerated := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), n.serving.Spec.Taints, p.pod.Spec.Tolerations,
				func(t *corev1.Taint) bool { return t.Effect != corev1.TaintEffectPreferNoSchedule }, true)
			if untolerated {
				c.fail("%s is on n%d and does not tolerate its taint %s", p.pod.Name, claim.number, taint.ToString())
			}
			used := usedAt(on, p.bound)
			for _, name := range sortedKeys(used) {
				want, have := used[name], n.serving.Status.Allocatable[name]
				if want.Cmp(have) > 0 {
					c.fail("n%d has %s %s and its pods want %s once %s is there", claim.number, have.String(), name, want.String(), p.pod.Name)
				}
			}
		}
	}
	c.name = fmt.Sprintf("%d pods are on nodes whose labels, taints and resources allow them", pods)
	return c
}

// usedAt is what the pods of a node that were bound and not done at a time
// request together.
func usedAt(pods []*podRecord, at time.Time) corev1.ResourceList {
	used := corev1.ResourceList{}
	for _, p := range pods {
		if p.bound.After(at) || !p.done.IsZero() && !p.done.After(at) {
			continue
		}
		for name, q := range resourcehelper.PodRequests(p.pod, resourcehelper.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	return used
}

// checkSpread: the pods of a workload lie over at least two domains of each of
// its hard spread constraints, and no further apart than maxSkew.
func checkSpread(w *world, want workload) []check {
	var out []check
	for _, s := range want.spec.TopologySpreadConstraints {
		if s.WhenUnsatisfiable != corev1.DoNotSchedule {
			continue
		}
		var c check
		count := map[string]int{}
		for _, p := range podsOfWorkload(w, want.name) {
			if claim := claimUnder(w, p); claim != nil {
				count[w.nodeOf(claim).serving.Labels[s.TopologyKey]]++
			}
		}
		domains := sortedKeys(count)
		var parts []string
		least, most := 0, 0
		for i, d := range domains {
			parts = append(parts, fmt.Sprintf("%s x%d", d, count[d]))
			if i == 0 || count[d] < least {
				least = count[d]
			}
			most = max(most, count[d])
		}
		need := 2
		if s.MinDomains != nil {
			need = max(need, int(*s.MinDomains))
		}
		if len(domains) < need {
			c.fail("%d %ss, at least %d were to be used", len(domains), lastPart(s.TopologyKey), need)
		}
		if most-least > int(s.MaxSkew) {
			c.fail("skew %d, at most %d is allowed", most-least, s.MaxSkew)
		}
		c.name = fmt.Sprintf("%s is spread over %ss: %s", want.name, lastPart(s.TopologyKey), strings.Join(parts, ", "))
		out = append(out, c)
	}
	return out
}

// checkInstances: for every claim EC2 has one instance, of the type, zone and
// capacity type that the claim says and that it was allowed to be, under the
// tags by which it is found again.
func checkInstances(w *world, clusterName string) check {
	var c check
	for _, claim := range w.byNumber() {
		instances := w.instancesOf(claim)
		if len(instances) != 1 {
			c.fail("n%d: EC2 has %d instances for claim %s", claim.number, len(instances), claim.claim.Name)
			continue
		}
		i := instances[0].instance
		s := claim.claim.Status
		if got, want := (offering{i.Type, i.CapacityType, i.Zone, 0}), claim.offering(); got.String() != want.String() || i.ID != s.InstanceID {
			c.fail("n%d: the claim says %s %s, EC2 says %s %s", claim.number, s.InstanceID, want, i.ID, got)
		}
		if !slices.ContainsFunc(claim.claim.Spec.Offerings, func(o v1alpha1.ClaimOffering) bool {
			return o.InstanceType == i.Type && o.CapacityType == i.CapacityType && o.Zone == i.Zone
		}) {
			c.fail("n%d: %s is none of the claim's %d offerings", claim.number, i.ID, len(claim.claim.Spec.Offerings))
		}
		for key, want := range map[string]string{
			v1alpha1.TagClusterPrefix + clusterName: "owned",
			v1alpha1.TagProvisioner:                 claim.claim.Spec.Provisioner.Name,
			v1alpha1.TagNodeClaim:                   claim.claim.Name,
			v1alpha1.TagNodeClaimUID:                string(claim.claim.UID),
		} {
			if i.Tags[key] != want {
				c.fail("n%d: tag %s of %s is %q, not %q", claim.number, key, i.ID, i.Tags[key], want)
			}
		}
		if i.Tags[v1alpha1.TagClusterUID] == "" {
			c.fail("n%d: %s has no tag %s", claim.number, i.ID, v1alpha1.TagClusterUID)
		}
	}
	if len(w.claims) != len(w.instances) {
		c.fail("%d claims, but EC2 has seen %d instances", len(w.claims), len(w.instances))
	}
	slices.Sort(c.problems)
	c.name = fmt.Sprintf("EC2 has the %d instances of the %d claims, with the type, zone, capacity type and tags that they say", len(w.instances), len(w.claims))
	return c
}

// checkNodes: every claim's node has joined under its provider id, with the
// labels and taints of the claim and the architecture that it says.
func checkNodes(w *world) check {
	var c check
	for _, claim := range w.byNumber() {
		n := w.nodeOf(claim)
		if n == nil {
			c.fail("n%d: no Node has the provider id %q", claim.number, claim.claim.Status.ProviderID)
			continue
		}
		node, spec := n.serving, &claim.claim.Spec
		if node.Name != claim.claim.Status.NodeName {
			c.fail("n%d: the Node is %s, the claim says %s", claim.number, node.Name, claim.claim.Status.NodeName)
		}
		o := claim.offering()
		want := map[string]string{
			v1alpha1.LabelProvisioner: spec.Provisioner.Name, v1alpha1.LabelNodeClaim: claim.claim.Name,
			corev1.LabelInstanceTypeStable: o.instanceType, v1alpha1.LabelCapacityType: o.capacityType, corev1.LabelTopologyZone: o.zone,
			corev1.LabelArchStable: node.Status.NodeInfo.Architecture,
		}
		maps.Copy(want, spec.Labels)
		for _, key := range sortedKeys(want) {
			if node.Labels[key] != want[key] {
				c.fail("n%d: label %s is %q, not %q", claim.number, key, node.Labels[key], want[key])
			}
		}
		for _, t := range spec.Taints {
			if !slices.ContainsFunc(node.Spec.Taints, func(have corev1.Taint) bool { return have.MatchTaint(&t) && have.Value == t.Value }) {
				c.fail("n%d: taint %s is missing", claim.number, t.ToString())
			}
		}
		for _, t := range node.Spec.Taints {
			if !slices.ContainsFunc(spec.Taints, func(want corev1.Taint) bool { return want.MatchTaint(&t) }) {
				c.fail("n%d: taint %s is none of the claim's", claim.number, t.ToString())
			}
		}
		if !slices.Contains(node.Finalizers, v1alpha1.Finalizer) {
			c.fail("n%d: the Node lacks the finalizer that keeps it until its instance is gone", claim.number)
		}
	}
	c.name = fmt.Sprintf("%d Nodes have joined with the labels, taints and architecture that their claims say", len(w.claims))
	return c
}

// checkCapacityType: all nodes of a workload were bought in one way.
func checkCapacityType(w *world, name, want string) check {
	c := check{name: fmt.Sprintf("%s runs on %s capacity", name, want)}
	for _, p := range podsOfWorkload(w, name) {
		if claim := claimUnder(w, p); claim != nil && claim.offering().capacityType != want {
			c.fail("%s is on n%d: %s", p.pod.Name, claim.number, claim.offering())
		}
	}
	return c
}

// checkHints: the webhook has left its hint on every pod that a node can be
// bought for.
func checkHints(w *world, unhostable string) check {
	var c check
	pods := 0
	for _, p := range w.byAge() {
		if workloadOf(p.pod) == unhostable {
			continue
		}
		pods++
		if p.pod.Annotations[v1alpha1.AnnotationPlacement] == "" {
			c.fail("%s has no annotation %s", p.pod.Name, v1alpha1.AnnotationPlacement)
		}
	}
	c.name = fmt.Sprintf("the webhook put its hint, %s, on all %d pods that can run", v1alpha1.AnnotationPlacement, pods)
	return c
}

// checkSeats: where seats are to be held, they were held at nodes that were
// still to come. Not every pod needs one: some find room on a node that has
// come before their own was launched.
func checkSeats(w *world) check {
	var c check
	pods, held, kept := 0, 0, 0
	for _, claim := range w.byNumber() {
		if claim.claim.Spec.Binding != v1alpha1.BindingNominate {
			continue
		}
		for _, p := range w.podsOf(claim) {
			pods++
			if p.seat != "" {
				held++
			}
			if p.seat == claim.claim.Status.NodeName {
				kept++
			}
		}
	}
	c.name = fmt.Sprintf("seats were held for %d of %d pods while their nodes booted; %d of them took their own, the others an equal one", held, pods, kept)
	if 2*held < pods {
		c.fail("that is fewer than half")
	}
	return c
}

// checkUnhostable: a pod that nothing can host waits, has been told why once,
// and nothing was bought that carries no pod.
func checkUnhostable(w *world, name string) check {
	c := check{name: name + " is pending, was told why once, and nothing was bought for it"}
	for _, p := range podsOfWorkload(w, name) {
		if p.pod.Status.Phase != corev1.PodPending || p.pod.Spec.NodeName != "" {
			c.fail("it is %s on node %q", p.pod.Status.Phase, p.pod.Spec.NodeName)
		}
		told := 0
		for _, e := range w.eventsOf(p.pod.UID, reasonNoBerth) {
			times := 1
			if e.Series != nil {
				times = max(times, int(e.Series.Count))
			}
			told += max(times, int(e.Count))
			if e.Type != corev1.EventTypeWarning {
				c.fail("the event's type is %s", e.Type)
			}
		}
		if told != 1 {
			c.fail("it was told %d times (events with reason %s)", told, reasonNoBerth)
		}
	}
	for _, claim := range w.byNumber() {
		if len(w.podsOf(claim)) == 0 {
			c.fail("n%d (%s) carries no pod", claim.number, claim.offering())
		}
	}
	return c
}

// checkStatus: a Provisioner's status tells of so many nodes and so much cost.
func checkStatus(p *v1alpha1.Provisioner, nodes int, cost float64) []string {
	var out []string
	got := p.Status.HourlyCost.Dollars()
	if int(p.Status.Nodes) != nodes || got < cost-priceStep || got > cost+priceStep {
		out = append(out, fmt.Sprintf("the status of Provisioner %s says %d nodes at $%.4f/h; it has %d at $%.4f/h", p.Name, p.Status.Nodes, got, nodes, cost))
	}
	return out
}

// priceStep is what prices may differ by through rounding, in $/h.
const priceStep = 0.001
