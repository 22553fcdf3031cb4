package provisioner

import (
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// labelTemplateGeneration says of a DaemonSet's pod of which generation of the template
// it is (k8s.io/kubernetes/pkg/controller/daemon/util, CreatePodTemplate).
const labelTemplateGeneration = "pod-template-generation"

// view is one reading of the cluster: the planner's Snapshot and what the
// loops need beside it.
type view struct {
	snapshot *capacity.Snapshot
	// claims by name, those included that the cache does not show yet.
	claims map[string]*v1alpha1.NodeClaim
	// provisioners by name.
	provisioners map[string]*v1alpha1.Provisioner
	// pending are the pods that wait, with and without a seat.
	pending []*corev1.Pod
	// stopped are pods that are not planned for, with the reason.
	stopped []capacity.Unschedulable
	// leaving are the nodes on their way out, and what is planned for their pods.
	leaving *departures
	// owners that are known, to decide how long to wait for more pods.
	owners map[types.UID]owner
	// choices are pods of the snapshot with a chosen capacity type.
	choices choices
}

// read builds a view from the stores. It plans for stand-ins of pods that are
// expected, and leaves out pods that have a seat: they take room on the node
// that they have it on.
func (p *Loops) read(now time.Time) *view {
	v := p.newView(now)
	nodes := p.readNodes(v)
	p.readPods(v, nodes, now)
	v.leaving = p.depart(v, nodes, now)
	p.readProvisioners(v, now)
	p.spurned.avoid(v.snapshot, now)
	v.choices = insist(v.snapshot)
	v.snapshot.Nodes = nodes.all
	return v
}

// newView is a view without nodes, pods and Provisioners.
func (p *Loops) newView(now time.Time) *view {
	v := &view{
		claims:       map[string]*v1alpha1.NodeClaim{},
		provisioners: map[string]*v1alpha1.Provisioner{},
	}
	for _, c := range p.book.merge(all[*v1alpha1.NodeClaim](p.stores.claims)) {
		v.claims[c.Name] = c
	}
	for _, pr := range all[*v1alpha1.Provisioner](p.stores.provisioners) {
		v.provisioners[pr.Name] = pr
	}

	s := &capacity.Snapshot{
		Now:            now,
		Region:         p.cfg.Region,
		Budget:         p.cfg.PlanBudget,
		Namespaces:     map[string]map[string]string{},
		PVCs:           map[string]*corev1.PersistentVolumeClaim{},
		PVs:            map[string]*corev1.PersistentVolume{},
		StorageClasses: map[string]*storagev1.StorageClass{},
	}
	v.snapshot = s
	for _, ns := range all[*corev1.Namespace](p.stores.namespace) {
		s.Namespaces[ns.Name] = ns.Labels
	}
	for _, o := range all[*corev1.PersistentVolumeClaim](p.stores.pvcs) {
		s.PVCs[o.Namespace+"/"+o.Name] = o
	}
	for _, o := range all[*corev1.PersistentVolume](p.stores.pvs) {
		s.PVs[o.Name] = o
	}
	for _, o := range all[*storagev1.StorageClass](p.stores.storageClasses) {
		s.StorageClasses[o.Name] = o
	}
	p.readDefaultSpread(s)
	if p.stores.podGroups != nil {
		s.Groups = map[string]capacity.PodGroup{}
		for _, o := range all[*schedulingv1beta1.PodGroup](p.stores.podGroups) {
			s.Groups[o.Namespace+"/"+o.Name] = capacity.NewPodGroup(o)
		}
	}
	classes := capacity.NewClasses(all[*nodev1.RuntimeClass](p.stores.runtimeClasses), all[*schedulingv1.PriorityClass](p.stores.priorityClasses))
	for _, ds := range all[*appsv1.DaemonSet](p.stores.daemonSets) {
		pod := capacity.DaemonSetPod(ds)
		classes.Admit(pod)
		if made := p.newestOf(ds); made != nil {
			capacity.AskAsMuchAs(pod, made)
		}
		s.DaemonSetPods = append(s.DaemonSetPods, pod)
	}
	return v
}

// newestOf is the youngest pod of a DaemonSet that is there, of its template as it is
// now as far as that can be told; nil: none.
func (p *Loops) newestOf(ds *appsv1.DaemonSet) *corev1.Pod {
	now, known := ds.Annotations[appsv1.DeprecatedTemplateGeneration]
	var newest *corev1.Pod
	for _, pod := range p.stores.podsBy(controllerIndex, string(ds.UID)) {
		if terminal(pod) || pod.DeletionTimestamp != nil {
			continue
		}
		if made, ok := pod.Labels[labelTemplateGeneration]; ok && known && made != now {
			continue
		}
		if newest == nil || newest.CreationTimestamp.Before(&pod.CreationTimestamp) ||
			newest.CreationTimestamp.Equal(&pod.CreationTimestamp) && newest.Name < pod.Name {
			newest = pod
		}
	}
	return newest
}

// readDefaultSpread adds what the default spread constraints need: which pods
// belong together.
func (p *Loops) readDefaultSpread(s *capacity.Snapshot) {
	if len(p.cfg.DefaultSpread) == 0 {
		return
	}
	s.DefaultSpread, s.Services = p.cfg.DefaultSpread, all[*corev1.Service](p.stores.services)
	s.OwnerSelectors = map[string]*metav1.LabelSelector{}
	for _, o := range all[*appsv1.ReplicaSet](p.stores.replicaSets) {
		s.OwnerSelectors["ReplicaSet/"+o.Namespace+"/"+o.Name] = o.Spec.Selector
	}
	for _, o := range all[*appsv1.StatefulSet](p.stores.statefulSets) {
		s.OwnerSelectors["StatefulSet/"+o.Namespace+"/"+o.Name] = o.Spec.Selector
	}
	for _, o := range all[*corev1.ReplicationController](p.stores.replicationControllers) {
		s.OwnerSelectors["ReplicationController/"+o.Namespace+"/"+o.Name] = &metav1.LabelSelector{MatchLabels: o.Spec.Selector}
	}
}

// nodeSet finds planner nodes by Node name and by claim.
type nodeSet struct {
	all     []*capacity.Node
	byNode  map[string]*capacity.Node
	byClaim map[string]*capacity.Node
	// ready tells which claims' nodes can run pods now.
	ready map[string]bool
}

// readNodes turns Nodes, and claims that have no Node yet, into planner nodes.
func (p *Loops) readNodes(v *view) *nodeSet {
	set := &nodeSet{byNode: map[string]*capacity.Node{}, byClaim: map[string]*capacity.Node{}, ready: map[string]bool{}}
	byProvider := map[string]*v1alpha1.NodeClaim{}
	for _, c := range v.claims {
		if c.Status.ProviderID != "" {
			byProvider[c.Status.ProviderID] = c
		}
	}
	attached := map[string][]string{}
	for _, a := range all[*storagev1.VolumeAttachment](p.stores.attachments) {
		if pv := a.Spec.Source.PersistentVolumeName; pv != nil {
			attached[a.Spec.NodeName] = append(attached[a.Spec.NodeName], *pv)
		}
	}
	for _, n := range all[*corev1.Node](p.stores.nodes) {
		claim := byProvider[n.Spec.ProviderID]
		pn := planNode(n, claim, v.snapshot.Now)
		if csi, ok := one[*storagev1.CSINode](p.stores.csiNodes, n.Name); ok {
			pn.VolumeLimits = volumeLimits(csi)
		}
		pn.Attached = attached[n.Name]
		set.all = append(set.all, pn)
		set.byNode[n.Name] = pn
		if claim != nil {
			set.byClaim[claim.Name] = pn
			set.ready[claim.Name] = !pn.InFlight
		}
	}
	for _, c := range v.claims {
		if set.byClaim[c.Name] != nil || gone(c) {
			continue
		}
		pn := planClaim(c)
		set.all = append(set.all, pn)
		set.byClaim[c.Name] = pn
		if c.Status.NodeName != "" {
			set.byNode[c.Status.NodeName] = pn
		}
	}
	slices.SortFunc(set.all, func(a, b *capacity.Node) int { return strings.Compare(a.Name, b.Name) })
	return set
}

// cacheLag is how much older than the cache's claims its Nodes may be.
const cacheLag = 10 * time.Second

// lagging says whether the cache shows a Node as it was before its claim was
// initialized: each kind is watched by itself, and one may be behind.
func lagging(n *corev1.Node, claim *v1alpha1.NodeClaim, now time.Time) bool {
	c := meta.FindStatusCondition(claim.Status.Conditions, v1alpha1.ConditionInitialized)
	return c != nil && now.Sub(c.LastTransitionTime.Time) < cacheLag && closed(n)
}

// planNode is a Node as the planner sees it; claim is nil for foreign nodes.
func planNode(n *corev1.Node, claim *v1alpha1.NodeClaim, now time.Time) *capacity.Node {
	pn := &capacity.Node{
		Name:          n.Name,
		Labels:        n.Labels,
		Taints:        n.Spec.Taints,
		Allocatable:   capacity.FromResourceList(n.Status.Allocatable),
		Unschedulable: n.Spec.Unschedulable || n.DeletionTimestamp != nil || hasTaint(n.Spec.Taints, v1alpha1.TaintDisrupted),
	}
	if claim == nil {
		return pn
	}
	pn.Claim = claim.Name
	pn.Provisioner = claim.Spec.Provisioner.Name
	pn.HourlyPrice = priceOf(claim)
	pn.Unschedulable = pn.Unschedulable || claim.DeletionTimestamp != nil
	pn.InFlight = !isTrue(claim.Status.Conditions, v1alpha1.ConditionInitialized) || lagging(n, claim, now)
	if pn.InFlight {
		pn.Since = claim.CreationTimestamp.Time
		// What it will look like: taints of the start-up go by themselves,
		// labels and device resources are still to come.
		pn.Taints = claim.Spec.Taints
		pn.Labels = v1alpha1.WithOtherLabels(withDefaults(n.Labels, capacity.ClaimLabels(claim)))
		for name, q := range allocatableOf(claim) {
			if pn.Allocatable[name] == 0 {
				pn.Allocatable[name] = q
			}
		}
	}
	return pn
}

// planClaim is a claim without a Node as the planner sees it. One that had a Node
// and has lost it is no room for anybody.
func planClaim(c *v1alpha1.NodeClaim) *capacity.Node {
	name := c.Name
	if c.Status.NodeName != "" {
		name = c.Status.NodeName
	}
	return &capacity.Node{
		Name:          name,
		Labels:        v1alpha1.WithOtherLabels(capacity.ClaimLabels(c)),
		Taints:        c.Spec.Taints,
		Allocatable:   allocatableOf(c),
		Provisioner:   c.Spec.Provisioner.Name,
		Claim:         c.Name,
		InFlight:      true,
		Since:         c.CreationTimestamp.Time,
		Unschedulable: c.DeletionTimestamp != nil || isTrue(c.Status.Conditions, v1alpha1.ConditionInitialized),
		HourlyPrice:   priceOf(c),
	}
}

// readPods sorts pods into bound, seated and waiting ones, ends seats that are
// of no use any more, and adds stand-ins for pods that are expected.
func (p *Loops) readPods(v *view, nodes *nodeSet, now time.Time) {
	s := v.snapshot
	existing := map[types.UID]int{}
	kinds := map[string]bool{}
	var daemons []*corev1.Pod
	for _, pod := range all[*corev1.Pod](p.stores.pods) {
		if terminal(pod) {
			continue
		}
		uid, owned := controllerOf(pod)
		if owned && pod.DeletionTimestamp == nil {
			existing[uid]++
		}
		if pod.Spec.NodeName != "" {
			if n := nodes.byNode[pod.Spec.NodeName]; n != nil {
				n.Pods = append(n.Pods, pod)
				p.book.bound(pod, n.Claim, now)
			}
			continue
		}
		if waiting(pod) {
			v.pending = append(v.pending, pod)
			kind := string(uid)
			if !owned {
				kind = capacity.ShapeHash(pod)
			}
			kinds[kind] = true
		} else if unbound(pod) {
			daemons = append(daemons, pod)
		}
	}
	p.contested.Store(len(kinds) > 1)
	incomplete := p.incomplete(v.pending, nodes)
	for _, pod := range v.pending {
		group, _ := podGroupOf(pod)
		n, crowded := p.seatOf(pod, nodes, incomplete[group], now)
		if n != nil {
			n.Pods = append(n.Pods, pod)
		}
		if n != nil || crowded {
			continue
		}
		if why, stop := p.stoppedShape(pod, now); stop {
			v.stopped = append(v.stopped, capacity.Unschedulable{Pod: pod, Reasons: []capacity.Reason{why}})
			continue
		}
		s.Pods = append(s.Pods, pod)
	}
	nodes.expectDaemons(daemons)
	s.Held = v.stopped
	v.owners = p.readOwners(s.Pods)
	s.Pods = append(s.Pods, expected(s.Pods, existing, v.owners, now)...)
}

// expectDaemons gives DaemonSets' pods that are not bound yet their room on the
// nodes that they are made for. Where there is none beside the pods and seats on
// the node, they will not come, unless kube-scheduler preempts for them.
func (s *nodeSet) expectDaemons(pods []*corev1.Pod) {
	for _, pod := range pods {
		n := s.byNode[capacity.DaemonSetTarget(pod)]
		if n != nil && (hasRoom(n, pod) || pod.Status.NominatedNodeName == n.Name) {
			n.Pods = append(n.Pods, pod)
		}
	}
}

// seatOf returns the node that a waiting pod has a seat on: one that Berth
// bought for it, or one where kube-scheduler is making room by preemption. early:
// its group still waits for other nodes, so that it cannot be overdue. crowded: others have
// its room since just now, and it may find another without being planned again.
func (p *Loops) seatOf(pod *corev1.Pod, nodes *nodeSet, early bool, now time.Time) (on *capacity.Node, crowded bool) {
	claim, ok := p.book.of(pod.UID)
	if ok {
		n := nodes.byClaim[claim]
		switch {
		case n == nil || n.Unschedulable:
			p.book.take(pod.UID)
			return nil, false
		case nodes.ready[claim] && !hasRoom(n, pod):
			if lacks := tooSmall(n, pod); lacks != "" {
				p.book.useless(pod, "node "+n.Name+" has too little "+string(lacks)+" for it beside DaemonSets' and static pods", now)
				return nil, false
			}
			// Somebody else has it. That says nothing against the plan.
			shape := ""
			if !particular(pod) {
				shape = capacity.ShapeHash(pod)
			}
			instead, ended, again := p.book.crowded(pod.UID, shape, func(claim string) bool {
				n := nodes.byClaim[claim]
				return n != nil && !n.Unschedulable && hasRoom(n, pod)
			}, now)
			if again {
				time.AfterFunc(crowdedFor, p.trigger)
			}
			if instead != "" {
				p.nominator.enqueue(instead)
				return nodes.byClaim[instead], false
			}
			return nil, !ended
		case p.book.overdue(pod, nodes.ready[claim] && !early, p.lacksVolumes(pod), now):
			return nil, false
		}
		return n, false
	}
	n := nodes.byNode[pod.Status.NominatedNodeName]
	if n == nil || n.Unschedulable {
		return nil, false
	}
	if n.Claim != "" && n.InFlight {
		// A seat that was given before a restart.
		p.book.give(pod.UID, n.Claim)
		return n, false
	}
	if n.Claim == "" || n.MakesRoom(pod) {
		// kube-scheduler preempts: the pod gets its place when the victims are gone.
		return n, false
	}
	return nil, false
}

// particular reports whether a seat of another pod of its shape may not do for a pod: it has
// volumes, devices or a group of its own.
func particular(p *corev1.Pod) bool {
	return grouped(p) || claimsVolumes(p) || len(p.Spec.ResourceClaims) > 0
}

// podGroupOf names the PodGroup that kube-scheduler admits a pod with, if any.
func podGroupOf(pod *corev1.Pod) (string, bool) {
	g := pod.Spec.SchedulingGroup
	if g == nil || g.PodGroupName == nil {
		return "", false
	}
	return pod.Namespace + "/" + *g.PodGroupName, true
}

// incomplete are the PodGroups that have bought nodes which cannot run pods yet:
// until they can, kube-scheduler binds none of the group's pods to the others.
func (p *Loops) incomplete(pending []*corev1.Pod, nodes *nodeSet) map[string]bool {
	groups := map[string]bool{}
	for _, pod := range pending {
		if g, ok := podGroupOf(pod); ok {
			if claim, seated := p.book.of(pod.UID); seated && !nodes.ready[claim] {
				groups[g] = true
			}
		}
	}
	return groups
}

// tooSmall names what a node lacks for a pod even when it holds none but the pods
// that come with it: DaemonSets' and static ones. Empty: nothing.
func tooSmall(n *capacity.Node, pod *corev1.Pod) corev1.ResourceName {
	free, needs := roomBeside(n, comesWithNode), capacity.PodRequests(pod)
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		if needs[name] > free[name] {
			return name
		}
	}
	return ""
}

// comesWithNode reports whether a pod is where it is because the node is there: a
// DaemonSet's, or one of the kubelet's own.
func comesWithNode(pod *corev1.Pod) bool {
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return true
	}
	ref := metav1.GetControllerOfNoCopy(pod)
	return ref != nil && (ref.Kind == "DaemonSet" || ref.Kind == "Node")
}

// hasRoom reports whether a pod's requests fit beside what is on a node.
func hasRoom(n *capacity.Node, pod *corev1.Pod) bool {
	return capacity.PodRequests(pod).Fits(roomBeside(n, anyPod))
}

// anyPod counts each pod.
func anyPod(*corev1.Pod) bool { return true }

// roomBeside is what the node's pods that count leave of it.
func roomBeside(n *capacity.Node, counts func(*corev1.Pod) bool) capacity.Resources {
	free := n.Allocatable.Clone()
	for _, other := range n.Pods {
		if counts(other) {
			free.Sub(capacity.PodRequests(other))
		}
	}
	return free
}

func (p *Loops) stoppedShape(pod *corev1.Pod, now time.Time) (capacity.Reason, bool) {
	if !p.book.anyStopped() {
		return capacity.Reason{}, false
	}
	msg, stop := p.book.stopped(capacity.ShapeHash(pod), now)
	return capacity.Reason{
		Constraint: capacity.ConstraintNotBound,
		Detail:     "two nodes were bought for pods like this one and none was bound there; " + msg,
		Fix:        "see what keeps the pod from being bound; launching is tried again in 10 minutes",
	}, stop
}

// readOwners looks up the controllers of pods.
func (p *Loops) readOwners(pods []*corev1.Pod) map[types.UID]owner {
	out := map[types.UID]owner{}
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			continue
		}
		if _, ok := out[ref.UID]; ok {
			continue
		}
		key := pod.Namespace + "/" + ref.Name
		switch ref.Kind {
		case "ReplicaSet":
			if o, ok := one[*appsv1.ReplicaSet](p.stores.replicaSets, key); ok && o.UID == ref.UID {
				out[ref.UID] = ownerOfReplicaSet(o)
			}
		case "StatefulSet":
			if o, ok := one[*appsv1.StatefulSet](p.stores.statefulSets, key); ok && o.UID == ref.UID {
				out[ref.UID] = ownerOfStatefulSet(o)
			}
		case "Job":
			if o, ok := one[*batchv1.Job](p.stores.jobs, key); ok && o.UID == ref.UID {
				out[ref.UID] = ownerOfJob(o)
			}
		}
	}
	return out
}

// readProvisioners joins each Provisioner with its instance types and what its
// claims use of its limits.
func (p *Loops) readProvisioners(v *view, now time.Time) {
	for _, pr := range v.provisioners {
		if pr.DeletionTimestamp != nil {
			continue
		}
		view := p.catalogue.provisioner(pr, now)
		if until := p.paused(v1alpha1.AnnotationPauseLaunching, pr, now); !until.IsZero() {
			view.NotReady = "launching is paused until " + until.UTC().Format(time.RFC3339)
		}
		p.probe(view, pr, v.claims, now)
		v.snapshot.Provisioners = append(v.snapshot.Provisioners, view)
	}
	slices.SortFunc(v.snapshot.Provisioners, func(a, b *capacity.Provisioner) int { return strings.Compare(a.Name, b.Name) })
	byName := map[string]*capacity.Provisioner{}
	for _, pr := range v.snapshot.Provisioners {
		pr.Used = capacity.Resources{}
		byName[pr.Name] = pr
	}
	for _, c := range v.claims {
		pr := byName[c.Spec.Provisioner.Name]
		if pr == nil || gone(c) {
			continue
		}
		for name, q := range capacityOf(c) {
			pr.Used[name] += q
		}
		pr.Used[v1alpha1.LimitNodes]++
		pr.UsedHourlyCost += reservedPrice(c)
		if o := c.Spec.Offerings[0]; entersReservation(c) {
			pr.Used[capacity.ReservedRoom(o.InstanceType, o.Zone)]++
		}
	}
}

func volumeLimits(csi *storagev1.CSINode) map[string]int64 {
	out := map[string]int64{}
	for _, d := range csi.Spec.Drivers {
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			out[d.Name] = int64(*d.Allocatable.Count)
		}
	}
	return out
}
