package manifest

import (
	"cmp"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// Options are what a Snapshot needs beside the Set.
type Options struct {
	// Now is the time of the Snapshot.
	Now time.Time
	// Region that is bought in.
	Region string
	// Machines that the region offers.
	Machines []capacity.Machine
	// Resolved is what is known of each Provisioner's EC2 settings, by name.
	// Those not in it are taken to have subnets and images everywhere.
	Resolved map[string]capacity.Resolved
	// CapacityTypes restrict every Provisioner further; nil: they do not.
	CapacityTypes []string
	// DefaultSpread are the spread constraints that kube-scheduler is configured to
	// give pods without any.
	DefaultSpread []corev1.TopologySpreadConstraint
	// Budget is the time that a plan may take; see capacity.Snapshot.
	Budget time.Duration
	// Namespace is Berth's own, where a pause is one of all Provisioners; empty: it
	// is not known.
	Namespace string
}

// DefaultProvisioner stands in where the input has none: what berth.dev would
// make of an empty spec.
func DefaultProvisioner() *v1alpha1.Provisioner {
	return &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
}

// Snapshot is what the planner would be asked once the Set's objects were in a
// cluster. Without a Provisioner in the Set, DefaultProvisioner is used; the
// Notes say so, and what else was assumed. The Set does not change.
func (s *Set) Snapshot(o Options) *capacity.Snapshot {
	w := s.expand()
	classes := s.classes(w.pvcs)
	s.bindVolumes(w.pvcs, classes)
	out := &capacity.Snapshot{
		Now: o.Now, Region: o.Region, Budget: o.Budget,
		Namespaces:     map[string]map[string]string{},
		PVCs:           map[string]*corev1.PersistentVolumeClaim{},
		PVs:            map[string]*corev1.PersistentVolume{},
		StorageClasses: classes,
	}
	for _, c := range w.pvcs {
		out.PVCs[c.Namespace+"/"+c.Name] = c
	}
	for _, v := range all[*corev1.PersistentVolume](s) {
		out.PVs[v.Name] = v
	}
	out.Groups = map[string]capacity.PodGroup{}
	for _, g := range all[*schedulingv1beta1.PodGroup](s) {
		out.Groups[g.Namespace+"/"+g.Name] = capacity.NewPodGroup(g)
	}
	for _, d := range all[*appsv1.DaemonSet](s) {
		out.DaemonSetPods = append(out.DaemonSetPods, capacity.DaemonSetPod(d))
	}
	s.spread(out, o.DefaultSpread)
	s.admit(w.pods, out.DaemonSetPods)
	nodes := s.nodes()
	out.Nodes = nodes.all
	s.place(w.pods, nodes, out)
	s.namespaces(out)
	provisioners := s.Provisioners()
	if len(provisioners) == 0 {
		provisioners = []*v1alpha1.Provisioner{DefaultProvisioner()}
		s.Note("no Provisioner given: planning with the default one (amd64, categories c, m and r, accelerated types for pods that ask for them)")
	}
	for _, p := range provisioners {
		q := provisioner(p, o, nodes)
		q.NotReady = cmp.Or(s.stopped(p, o), q.NotReady)
		out.Provisioners = append(out.Provisioners, q)
	}
	return out
}

// nodeSet is the Set's nodes as the planner sees them.
type nodeSet struct {
	all    []*capacity.Node
	byName map[string]*capacity.Node
	// used by Provisioner.
	used map[string]*use
}

type use struct {
	resources capacity.Resources
	cost      float64
}

func (n *nodeSet) take(provisioner string, list corev1.ResourceList, price float64) {
	if provisioner == "" {
		return
	}
	u := n.used[provisioner]
	if u == nil {
		u = &use{resources: capacity.Resources{}}
		n.used[provisioner] = u
	}
	for name, q := range capacity.FromResourceList(list) {
		u.resources[name] += q
	}
	u.resources[v1alpha1.LimitNodes]++
	u.cost += price
}

// nodes turns Nodes, and NodeClaims that have no Node yet, into planner nodes.
func (s *Set) nodes() *nodeSet {
	set := &nodeSet{byName: map[string]*capacity.Node{}, used: map[string]*use{}}
	claims := map[string]*v1alpha1.NodeClaim{}
	for _, c := range all[*v1alpha1.NodeClaim](s) {
		if !meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionTerminated) {
			claims[c.Name] = c
			set.take(c.Spec.Provisioner.Name, firstOf(c.Status.Capacity, c.Spec.Capacity), priceOf(c))
		}
	}
	byProvider := map[string]*v1alpha1.NodeClaim{}
	for _, c := range claims {
		if c.Status.ProviderID != "" {
			byProvider[c.Status.ProviderID] = c
		}
	}
	limits := map[string]map[string]int64{}
	for _, c := range all[*storagev1.CSINode](s) {
		limits[c.Name] = map[string]int64{}
		for _, d := range c.Spec.Drivers {
			if d.Allocatable != nil && d.Allocatable.Count != nil {
				limits[c.Name][d.Name] = int64(*d.Allocatable.Count)
			}
		}
	}
	for _, n := range s.Nodes() {
		claim := claims[n.Labels[v1alpha1.LabelNodeClaim]]
		if c := byProvider[n.Spec.ProviderID]; c != nil {
			claim = c
		}
		pn := plannerNode(n, claim)
		pn.VolumeLimits = limits[n.Name]
		if claim == nil {
			set.take(pn.Provisioner, firstOf(n.Status.Capacity, n.Status.Allocatable), 0)
		} else {
			delete(claims, claim.Name)
		}
		set.add(pn)
	}
	for _, name := range sortedKeys(claims) {
		set.add(plannerClaim(claims[name]))
	}
	slices.SortFunc(set.all, func(a, b *capacity.Node) int { return cmp.Compare(a.Name, b.Name) })
	return set
}

func (n *nodeSet) add(pn *capacity.Node) {
	n.all = append(n.all, pn)
	n.byName[pn.Name] = pn
}

// plannerNode is a Node as the planner sees it; claim is nil for nodes that
// Berth did not make.
func plannerNode(n *corev1.Node, claim *v1alpha1.NodeClaim) *capacity.Node {
	pn := &capacity.Node{
		Name:          n.Name,
		Labels:        maps.Clone(n.Labels),
		Taints:        n.Spec.Taints,
		Allocatable:   capacity.FromResourceList(firstOf(n.Status.Allocatable, n.Status.Capacity)),
		Provisioner:   n.Labels[v1alpha1.LabelProvisioner],
		Claim:         n.Labels[v1alpha1.LabelNodeClaim],
		Unschedulable: n.Spec.Unschedulable || n.DeletionTimestamp != nil,
	}
	if pn.Labels == nil {
		pn.Labels = map[string]string{}
	}
	if pn.Labels[corev1.LabelHostname] == "" {
		// The kubelet sets it; people leave it out of manifests.
		pn.Labels[corev1.LabelHostname] = n.Name
	}
	for _, t := range n.Spec.Taints {
		if t.Key == v1alpha1.TaintDisrupted {
			pn.Unschedulable = true
		}
	}
	if claim == nil {
		return pn
	}
	pn.Claim, pn.Provisioner, pn.HourlyPrice = claim.Name, claim.Spec.Provisioner.Name, priceOf(claim)
	pn.Unschedulable = pn.Unschedulable || claim.DeletionTimestamp != nil
	pn.InFlight = !meta.IsStatusConditionTrue(claim.Status.Conditions, v1alpha1.ConditionInitialized)
	if pn.InFlight {
		pn.Since = claim.CreationTimestamp.Time
		// Taints of the start-up go by themselves; labels and devices are to come.
		coming := plannerClaim(claim)
		pn.Taints = coming.Taints
		maps.Copy(coming.Labels, pn.Labels)
		pn.Labels = v1alpha1.WithOtherLabels(coming.Labels)
		for name, q := range coming.Allocatable {
			if pn.Allocatable[name] == 0 {
				pn.Allocatable[name] = q
			}
		}
	}
	return pn
}

// plannerClaim is a NodeClaim without a Node as the planner sees it.
func plannerClaim(c *v1alpha1.NodeClaim) *capacity.Node {
	name := cmp.Or(c.Status.NodeName, c.Name)
	return &capacity.Node{
		Name: name, Labels: v1alpha1.WithOtherLabels(capacity.ClaimLabels(c)), Taints: c.Spec.Taints,
		Allocatable:   capacity.FromResourceList(firstOf(c.Status.Allocatable, c.Spec.Allocatable)),
		Provisioner:   c.Spec.Provisioner.Name,
		Claim:         c.Name,
		InFlight:      true,
		Since:         c.CreationTimestamp.Time,
		Unschedulable: c.DeletionTimestamp != nil,
		HourlyPrice:   priceOf(c),
	}
}

func firstOf(a, b corev1.ResourceList) corev1.ResourceList {
	if len(a) > 0 {
		return a
	}
	return b
}

func priceOf(c *v1alpha1.NodeClaim) float64 {
	if c.Status.HourlyPrice != "" {
		return c.Status.HourlyPrice.Dollars()
	}
	return c.Spec.Offerings[0].HourlyPrice.Dollars()
}

// place sorts pods into those that take room on a node and those that wait.
func (s *Set) place(pods []*corev1.Pod, nodes *nodeSet, out *capacity.Snapshot) {
	elsewhere := 0
	var waiting []*corev1.Pod
	for _, p := range pods {
		node := p.Spec.NodeName
		if node == "" {
			// A DaemonSet's pod waits for its one node; nothing is bought for it.
			node = capacity.DaemonSetTarget(p)
		}
		switch n := nodes.byName[node]; {
		case node == "":
			waiting = append(waiting, p)
		case n != nil:
			n.Pods = append(n.Pods, p)
		default:
			elsewhere++
		}
	}
	for _, p := range waiting {
		// Where kube-scheduler preempts for a pod, the pod has its place when the
		// victims are gone; nothing is bought for it.
		if n := nodes.byName[p.Status.NominatedNodeName]; n != nil && !n.Unschedulable && n.MakesRoom(p) {
			n.Pods = append(n.Pods, p)
			continue
		}
		out.Pods = append(out.Pods, p)
	}
	if elsewhere > 0 {
		s.Note("%d pods are on nodes that were not given; ignored", elsewhere)
	}
}

// namespaces lists the namespaces that are given or used, with the label that
// the API server puts on each.
func (s *Set) namespaces(out *capacity.Snapshot) {
	add := func(name string, labels map[string]string) {
		l := maps.Clone(labels)
		if l == nil {
			l = map[string]string{}
		}
		l[corev1.LabelMetadataName] = name
		out.Namespaces[name] = l
	}
	for _, n := range all[*corev1.Namespace](s) {
		add(n.Name, n.Labels)
	}
	seen := func(pods []*corev1.Pod) {
		for _, p := range pods {
			if out.Namespaces[p.Namespace] == nil {
				add(p.Namespace, nil)
			}
		}
	}
	seen(out.Pods)
	for _, n := range out.Nodes {
		seen(n.Pods)
	}
}

// provisioner joins a Provisioner with what it may buy and what it has.
func provisioner(p *v1alpha1.Provisioner, o Options, nodes *nodeSet) *capacity.Provisioner {
	spec := p.Spec.DeepCopy()
	if len(o.CapacityTypes) > 0 {
		spec.Requirements = append(spec.Requirements, v1alpha1.Requirement{
			Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: o.CapacityTypes})
	}
	out := &capacity.Provisioner{Name: p.Name, UID: cmp.Or(p.UID, types.UID("provisioner/"+p.Name)), Spec: spec, Used: capacity.Resources{}}
	if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Status == metav1.ConditionFalse {
		out.NotReady = cmp.Or(c.Message, c.Reason)
	}
	resolved, known := o.Resolved[p.Name]
	switch {
	case !known:
		resolved = capacity.Resolved{Ready: true, RootVolumeBytes: rootVolume(spec)}
	case !resolved.Ready:
		out.NotReady = cmp.Or(out.NotReady, resolved.Why, "it is not ready")
	}
	out.InstanceTypes = capacity.InstanceTypes(o.Machines, spec, resolved, o.Now)
	if u := nodes.used[p.Name]; u != nil {
		out.Used, out.UsedHourlyCost = u.resources, u.cost
	}
	return out
}

// stopped says why nothing is bought of a Provisioner whatever its condition says:
// it goes, or launching is paused; empty: neither.
func (s *Set) stopped(p *v1alpha1.Provisioner, o Options) string {
	if p.DeletionTimestamp != nil {
		return "it is being deleted"
	}
	until := v1alpha1.PausedUntil(p.Annotations[v1alpha1.AnnotationPauseLaunching], o.Now)
	for _, n := range all[*corev1.Namespace](s) {
		if end := v1alpha1.PausedUntil(n.Annotations[v1alpha1.AnnotationPauseLaunching], o.Now); n.Name == o.Namespace && end.After(until) {
			until = end
		}
	}
	if until.IsZero() {
		return ""
	}
	return "launching is paused until " + until.UTC().Format(time.RFC3339)
}

// rootVolume is the size of the volume that holds pods' ephemeral storage, in
// bytes: the one that is marked, or the only one. 0: the default.
func rootVolume(spec *v1alpha1.ProvisionerSpec) int64 {
	devices := spec.EC2.BlockDevices
	for i := range devices {
		if (devices[i].RootVolume || len(devices) == 1) && devices[i].VolumeSize != nil {
			return devices[i].VolumeSize.Value()
		}
	}
	return 0
}
