package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// Kinds of disagreement.
const (
	kindBuckets  = "a pod is in no bucket or in several"
	kindRefused  = "kube-scheduler refuses a seat of the plan"
	kindAccepted = "kube-scheduler would take a pod that the plan calls unschedulable"
	kindNeedless = "a node is bought for pods that kube-scheduler would bind on nodes that are there"
	kindGang     = "a gang has a place for a part of it"
	kindUnclear  = "no order of binding was found in the states looked at"
)

// maxStates bounds the search for an order of binding. Plans that have one
// need about as many states as pods; the rest is for proving that there is none.
const maxStates = 100000

// maxStatesWithout bounds it where a node is left out: that there is no order then is
// what is expected, and mostly shows soon, but may take minutes to prove.
const maxStatesWithout = 2000

// disagreement is what is wrong with a plan.
type disagreement struct {
	kind, detail string
	// why is what the plugin says that refuses, where one does.
	why string
}

// trial is one plan before the referee.
type trial struct {
	*referee
	s    *scenario
	plan *capacity.Plan
	// nodes of the plan, with the pods that are there before the first is bound.
	nodes []*corev1.Node
	pods  []*corev1.Pod
	// running is how many of the pods the Snapshot has; the others are DaemonSets'.
	running int
	// closed nodes take nothing new, because the Snapshot says so.
	closed map[string]bool
	limits map[string]map[string]int64
}

// judge lets kube-scheduler's filters judge a plan for the scenario both ways. It
// returns nil when they agree.
func (r *referee) judge(s *scenario, plan *capacity.Plan) (d *disagreement, err error) {
	t := &trial{referee: r, s: s, plan: plan, closed: map[string]bool{}, limits: map[string]map[string]int64{}}
	r.setObjects(s)
	var waiting []*corev1.Pod
	seats := map[*corev1.Pod]int{}
	seat := func(p *corev1.Pod, node string) {
		seats[p]++
		waiting = append(waiting, onNode(p, node))
	}
	for _, n := range s.Nodes {
		t.nodes = append(t.nodes, existingNode(n))
		t.closed[n.Name] = n.Unschedulable
		t.limits[n.Name] = s.limitsOf(n)
		for _, p := range n.Pods {
			t.pods = append(t.pods, onNode(p, n.Name))
		}
	}
	for _, pl := range t.plan.Placements {
		if pl.Node.Unschedulable {
			return &disagreement{kind: kindRefused, detail: fmt.Sprintf("%s is placed on %s, which takes nothing new", pl.Pod.Name, pl.Node.Name)}, nil
		}
		seat(pl.Pod, pl.Node.Name)
	}
	for i := range t.plan.Launches {
		l := &t.plan.Launches[i]
		name := "new-" + strconv.Itoa(i)
		t.nodes = append(t.nodes, newNode(name, v1alpha1.WithOtherLabels(l.Labels), l.Taints, l.Allocatable))
		t.limits[name] = s.limitsOfType(l.InstanceType)
		for _, p := range l.Pods {
			seat(p, name)
		}
	}
	for _, u := range t.plan.Unschedulable {
		seats[u.Pod]++
	}
	for _, p := range s.Pods {
		if seats[p] != 1 {
			return &disagreement{kind: kindBuckets, detail: fmt.Sprintf("%s is in %d", p.Name, seats[p])}, nil
		}
	}
	t.setLimits(t.limits)
	t.set(t.nodes, t.pods)
	t.running = len(t.pods)
	for _, n := range t.nodes {
		if err := t.startDaemons(n); err != nil {
			return nil, err
		}
	}
	if d, err := t.bindAll(waiting, maxStates); d != nil || err != nil {
		return d, err
	}
	if d := t.judgeGangs(); d != nil {
		return d, nil
	}
	if d, err := t.judgeRefusals(waiting); d != nil || err != nil {
		return d, err
	}
	return t.judgeLaunches(waiting)
}

// judgeLaunches looks for a node to buy that the plan could do without: all other
// pods have an order of binding on their seats, with the plan's other nodes there
// from the start, and then nodes that are there take each of its pods.
func (t *trial) judgeLaunches(waiting []*corev1.Pod) (*disagreement, error) {
	all := t.nodes
	defer func() { t.nodes = all }()
	for i := range t.plan.Launches {
		name := "new-" + strconv.Itoa(i)
		on := func(p *corev1.Pod) bool { return p.Spec.NodeName == name }
		others, pods := slices.DeleteFunc(slices.Clone(waiting), on), t.plan.Launches[i].Pods
		if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return gangOf(p) != "" }) {
			// The filters do not know what the group asks for.
			continue
		}
		t.pods = t.pods[:t.running]
		t.nodes = slices.DeleteFunc(slices.Clone(all), func(n *corev1.Node) bool { return n.Name == name })
		t.set(t.nodes, t.pods)
		for _, n := range t.nodes {
			if err := t.startDaemons(n); err != nil {
				return nil, err
			}
		}
		if d, err := t.bindAll(others, maxStatesWithout); err != nil {
			return nil, err
		} else if d != nil {
			continue
		}
		where, err := t.seatThere(pods)
		if err != nil {
			return nil, err
		}
		if where != nil {
			return &disagreement{kind: kindNeedless, detail: fmt.Sprintf("%s: %s", name, strings.Join(where, ", "))}, nil
		}
	}
	return nil, nil
}

// seatThere says where the pods could be bound, in this order, on existing nodes;
// nil: not all of them.
func (t *trial) seatThere(pods []*corev1.Pod) ([]string, error) {
	if len(pods) == 0 {
		return []string{}, nil
	}
	for _, n := range t.s.Nodes {
		if t.closed[n.Name] || t.refuses(pods[0], n.Name) != "" {
			continue
		}
		p := onNode(pods[0], n.Name)
		if err := t.bind(p); err != nil {
			return nil, err
		}
		where, err := t.seatThere(pods[1:])
		if where != nil || err != nil {
			return append(where, p.Name+" on "+n.Name), err
		}
		if err := t.unbind(p); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// judgeGangs says which gang has places for some pods, but for fewer than it
// needs. Kube-scheduler's filters know nothing of it.
func (t *trial) judgeGangs() *disagreement {
	placed, least := map[string]int{}, map[string]int{}
	count := func(p *corev1.Pod, n int) {
		if name := gangOf(p); name != "" && p.DeletionTimestamp == nil {
			placed[name] += n
			if m, err := strconv.Atoi(p.Annotations[v1alpha1.AnnotationPodGroupMinCount]); err == nil {
				least[name] = max(least[name], m)
			}
		}
	}
	fresh := map[string]bool{}
	for _, n := range t.s.Nodes {
		for _, p := range n.Pods {
			count(p, 1)
		}
	}
	for _, pl := range t.plan.Placements {
		count(pl.Pod, 1)
		fresh[gangOf(pl.Pod)] = true
	}
	for i := range t.plan.Launches {
		for _, p := range t.plan.Launches[i].Pods {
			count(p, 1)
			fresh[gangOf(p)] = true
		}
	}
	for name := range fresh {
		if name != "" && placed[name] < least[name] {
			return &disagreement{kind: kindGang, detail: fmt.Sprintf("%s has %d pods of the %d that it needs", name, placed[name], least[name])}
		}
	}
	return nil
}

// gangOf names the gang of a pod; empty: none.
func gangOf(p *corev1.Pod) string {
	if name := p.Annotations[v1alpha1.AnnotationPodGroup]; name != "" {
		return p.Namespace + "/" + name
	}
	return ""
}

// onNode is the pod, running on a node.
func onNode(p *corev1.Pod, node string) *corev1.Pod {
	p = p.DeepCopy()
	p.Spec.NodeName = node
	return p
}

func existingNode(n *capacity.Node) *corev1.Node {
	o := newNode(n.Name, n.Labels, n.Taints, n.Allocatable)
	o.Spec.Unschedulable = n.Unschedulable
	cordoned := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if n.Unschedulable && !slices.Contains(o.Spec.Taints, cordoned) {
		o.Spec.Taints = append(slices.Clone(o.Spec.Taints), cordoned)
	}
	return o
}

// newNode is a node whose kubelet is there: its host name is its name.
func newNode(name string, labels map[string]string, taints []corev1.Taint, allocatable capacity.Resources) *corev1.Node {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[corev1.LabelHostname] = name
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.NodeSpec{Taints: taints},
		Status:     corev1.NodeStatus{Allocatable: allocatable.List(), Capacity: allocatable.List()},
	}
}

// startDaemons runs, on a node, each DaemonSet's pod that is not there already
// and that kube-scheduler accepts.
func (t *trial) startDaemons(n *corev1.Node) error {
	have := map[string]bool{}
	for _, p := range t.pods {
		if o := metav1.GetControllerOf(p); p.Spec.NodeName == n.Name && o != nil && o.Kind == "DaemonSet" {
			have[p.Namespace+"/"+o.Name] = true
		}
	}
	for _, d := range t.daemons() {
		if o := metav1.GetControllerOf(d); o != nil && have[d.Namespace+"/"+o.Name] || t.refuses(d, n.Name) != "" {
			continue
		}
		p := onNode(d, n.Name)
		p.Name += "-" + n.Name
		p.UID = types.UID(p.Namespace + "/" + p.Name)
		t.pods = append(t.pods, p)
		if err := t.bind(p); err != nil {
			return err
		}
	}
	return nil
}

// daemons are the DaemonSets' pods in order of arrival: by priority, then by
// name, as the planner says.
func (t *trial) daemons() []*corev1.Pod {
	pods := slices.Clone(t.s.DaemonSetPods)
	priority := func(p *corev1.Pod) int32 {
		if p.Spec.Priority == nil {
			return 0
		}
		return *p.Spec.Priority
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(priority(b), priority(a)), cmp.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name))
	})
	return pods
}

// group are waiting pods of one kind with seats on one node.
type group struct {
	node string
	pods []*corev1.Pod
	next int
}

// bindAll looks for an order in which kube-scheduler accepts all pods on their
// seats, trying every order of interchangeable pods if need be, and leaves all
// bound when it has found one. It looks at that many states at most.
func (t *trial) bindAll(waiting []*corev1.Pod, most int) (*disagreement, error) {
	byKey := map[string]*group{}
	var groups []*group
	for _, p := range waiting {
		key := templateOf(p) + "\x00" + p.Spec.NodeName
		g := byKey[key]
		if g == nil {
			g = &group{node: p.Spec.NodeName}
			byKey[key] = g
			groups = append(groups, g)
		}
		g.pods = append(g.pods, p)
	}
	// Those whose place hangs on others first: the likeliest order.
	slices.SortStableFunc(groups, func(a, b *group) int { return cmp.Compare(ties(b.pods[0]), ties(a.pods[0])) })
	seen := map[string]bool{}
	var furthest, why string
	furthestBound := -1
	var search func(bound int) (bool, error)
	search = func(bound int) (bool, error) {
		if bound == len(waiting) {
			return true, nil
		}
		var key []byte
		for _, g := range groups {
			key = append(key, byte(g.next))
		}
		if seen[string(key)] || len(seen) >= most {
			return false, nil
		}
		seen[string(key)] = true
		var refusals []string
		last := ""
		for _, g := range groups {
			if g.next == len(g.pods) {
				continue
			}
			p := g.pods[g.next]
			if says := t.refuses(p, g.node); says != "" {
				last = says
				refusals = append(refusals, fmt.Sprintf("%s on %s (%s)", p.Name, g.node, says))
				continue
			}
			if err := t.bind(p); err != nil {
				return false, err
			}
			g.next++
			if ok, err := search(bound + 1); ok || err != nil {
				return ok, err
			}
			g.next--
			if err := t.unbind(p); err != nil {
				return false, err
			}
		}
		if bound > furthestBound {
			furthestBound, furthest = bound, strings.Join(refusals, "; ")
			why = last
		}
		return false, nil
	}
	ok, err := search(0)
	if ok || err != nil {
		return nil, err
	}
	d := &disagreement{kind: kindRefused, detail: fmt.Sprintf("%d of %d bound, then: %s", furthestBound, len(waiting), furthest), why: why}
	if len(seen) >= most {
		d.kind = kindUnclear
	}
	return d, nil
}

// ties counts what makes a pod's place hang on other pods.
func ties(p *corev1.Pod) int {
	n := 0
	for i := range p.Spec.TopologySpreadConstraints {
		if p.Spec.TopologySpreadConstraints[i].WhenUnsatisfiable == corev1.DoNotSchedule {
			n++
		}
	}
	if a := p.Spec.Affinity; a != nil && (a.PodAffinity != nil || a.PodAntiAffinity != nil) {
		n++
	}
	return n
}

// templateOf is the part of a pod's name that its replicas share.
func templateOf(p *corev1.Pod) string {
	return p.Namespace + "/" + strings.TrimRight(p.Name, "0123456789")
}

// judgeRefusals asks the filters about the pods without a place: on every node
// of the plan, and on an empty node of every offering that the limits leave.
func (t *trial) judgeRefusals(bound []*corev1.Pod) (*disagreement, error) {
	var pods []*corev1.Pod
	for _, u := range t.plan.Unschedulable {
		if gangOf(u.Pod) != "" {
			// For one of its pods there may be a place, but not for all.
			continue
		}
		if !slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return templateOf(p) == templateOf(u.Pod) }) {
			pods = append(pods, u.Pod)
		}
	}
	for _, p := range pods {
		for _, n := range t.nodes {
			if !t.closed[n.Name] && t.refuses(p, n.Name) == "" {
				return &disagreement{kind: kindAccepted, detail: fmt.Sprintf("%s on %s", p.Name, n.Name)}, nil
			}
		}
	}
	if len(pods) == 0 {
		return nil, nil
	}
	snap := t.s.snapshot()
	for _, p := range snap.Provisioners {
		if p.NotReady != "" {
			continue
		}
		for i := range p.InstanceTypes {
			typ := &p.InstanceTypes[i]
			for _, o := range typ.Offerings {
				if !t.limitsLeave(p, typ, o) {
					continue
				}
				for _, labels := range t.labelsOf(p, typ, o) {
					if d, err := t.judgeProbe(pods, bound, p, typ, o, labels); d != nil || err != nil {
						return d, err
					}
				}
			}
		}
	}
	return nil, nil
}

// judgeProbe asks about an empty node more. Its DaemonSet pods are there before
// the pods of the plan are bound, like those of the plan's nodes. An acceptance
// counts when the plan has an order of binding with that node and the pod on it,
// too. Where it has none, because the node is a domain in which others count
// differently, the pod can only have its place at their cost.
func (t *trial) judgeProbe(pods, bound []*corev1.Pod, p *capacity.Provisioner, typ *capacity.InstanceType, o capacity.Offering, labels map[string]string) (*disagreement, error) {
	const name = "probe"
	n := newNode(name, v1alpha1.WithOtherLabels(labels), p.Spec.Taints, typ.Allocatable)
	before := len(t.pods)
	t.limits[name] = t.s.limitsOfType(typ.Machine.Name)
	t.setLimits(t.limits)
	open := func() error {
		t.pods = t.pods[:before]
		t.set(append(slices.Clone(t.nodes), n), t.pods)
		return t.startDaemons(n)
	}
	defer func() { t.pods = t.pods[:before] }()
	for _, pod := range pods {
		if typ.OnlyFor != "" && capacity.PodRequests(pod)[typ.OnlyFor] == 0 {
			continue
		}
		if err := open(); err != nil {
			return nil, err
		}
		for _, b := range bound {
			if err := t.bind(b); err != nil {
				return nil, err
			}
		}
		if t.refuses(pod, name) != "" {
			continue
		}
		if err := open(); err != nil {
			return nil, err
		}
		if d, err := t.bindAll(append(slices.Clone(bound), onNode(pod, name)), maxStates); d == nil || err != nil {
			return &disagreement{kind: kindAccepted, detail: fmt.Sprintf("%s on an empty %s %s in %s of %s with labels %v", pod.Name, o.CapacityType, typ.Machine.Name, o.Zone, p.Name, labels)}, err
		}
	}
	return nil, nil
}

// limitsLeave says whether one more node may be bought after the plan.
func (t *trial) limitsLeave(p *capacity.Provisioner, typ *capacity.InstanceType, o capacity.Offering) bool {
	for name, q := range p.Spec.Limits {
		total := 0.0
		add := func(typ *capacity.InstanceType, price float64) {
			switch name {
			case v1alpha1.LimitHourlyCost:
				total += price
			case v1alpha1.LimitNodes:
				total++
			default:
				v := typ.Capacity[name]
				if name == corev1.ResourceCPU {
					total += float64(v) / 1000
				} else {
					total += float64(v)
				}
			}
		}
		add(typ, o.Price)
		if total == 0 {
			continue
		}
		for i := range t.plan.Launches {
			l := &t.plan.Launches[i]
			if l.Provisioner.Name != p.Name {
				continue
			}
			j := slices.IndexFunc(p.InstanceTypes, func(x capacity.InstanceType) bool { return x.Machine.Name == l.InstanceType })
			add(&p.InstanceTypes[j], l.Price)
		}
		switch used := float64(p.Used[name]); name {
		case v1alpha1.LimitHourlyCost:
			total += p.UsedHourlyCost
		case corev1.ResourceCPU:
			total += used / 1000
		default:
			total += used
		}
		if total > q.AsApproximateFloat64()+1e-9 {
			return false
		}
	}
	return true
}

// labelsOf are the sets of labels that a node of the offering may get: with each
// value of its own labels that its requirements allow and that they or a pod
// name, or, where nobody names any, the simplest.
func (t *trial) labelsOf(p *capacity.Provisioner, typ *capacity.InstanceType, o capacity.Offering) []map[string]string {
	labels := maps.Clone(typ.Labels)
	maps.Copy(labels, p.Spec.Labels)
	maps.Copy(labels, map[string]string{
		corev1.LabelTopologyZone: o.Zone, corev1.LabelTopologyRegion: region,
		v1alpha1.LabelCapacityType: o.CapacityType, v1alpha1.LabelProvisioner: p.Name,
	})
	sets := []map[string]string{labels}
	for _, key := range []string{labelTeam, labelGrade} {
		named := []string{""}
		asks := false
		for _, r := range p.Spec.Requirements {
			if r.Key != key {
				continue
			}
			asks = true
			switch r.Operator {
			case v1alpha1.OperatorIn:
				named = append(named, r.Values...)
			case v1alpha1.OperatorExists:
				named = append(named, "true")
			case v1alpha1.OperatorGt:
				named = append(named, strconv.Itoa(number(r.Values[0])+1))
			case v1alpha1.OperatorLt:
				named = append(named, strconv.Itoa(number(r.Values[0])-1))
			}
		}
		if !asks {
			continue
		}
		var next []map[string]string
		for _, v := range append(named, t.named(key)...) {
			if slices.ContainsFunc(p.Spec.Requirements, func(r v1alpha1.Requirement) bool { return r.Key == key && !allows(r, v) }) {
				continue
			}
			for _, l := range sets {
				l = maps.Clone(l)
				if v != "" {
					l[key] = v
				}
				next = append(next, l)
			}
		}
		sets = next
	}
	return sets
}

// named are the values of a label that DaemonSets and waiting pods name in what
// they require of nodes, but not pods that no node would help.
func (t *trial) named(key string) []string {
	helpless := map[*corev1.Pod]bool{}
	for _, u := range t.plan.Unschedulable {
		helpless[u.Pod] = len(u.Reasons) > 0 && u.Reasons[0].Provisioner == ""
	}
	var values []string
	for _, p := range append(slices.Clone(t.s.Pods), t.s.DaemonSetPods...) {
		if helpless[p] {
			continue
		}
		if v, ok := p.Spec.NodeSelector[key]; ok {
			values = append(values, v)
		}
		if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
				for _, e := range term.MatchExpressions {
					if e.Key == key && e.Operator == corev1.NodeSelectorOpIn {
						values = append(values, e.Values...)
					}
				}
			}
		}
	}
	return values
}

// number is a label's value as a number; 0 when it is none.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

// allows says whether a node may have the value, "" for none, under one
// requirement on an own label.
func allows(r v1alpha1.Requirement, value string) bool {
	have, bound := number(value), 0
	if len(r.Values) > 0 {
		bound = number(r.Values[0])
	}
	switch r.Operator {
	case v1alpha1.OperatorIn:
		return slices.Contains(r.Values, value)
	case v1alpha1.OperatorNotIn:
		return !slices.Contains(r.Values, value)
	case v1alpha1.OperatorExists:
		return value != ""
	case v1alpha1.OperatorDoesNotExist:
		return value == ""
	case v1alpha1.OperatorGt:
		return value != "" && have > bound
	case v1alpha1.OperatorLt:
		return value != "" && have < bound
	}
	panic("parity: unknown operator " + string(r.Operator))
}
