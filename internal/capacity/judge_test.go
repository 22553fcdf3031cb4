package capacity_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// judge returns what is wrong with a plan; nothing when it is right.
func judge(s *capacity.Snapshot, plan *capacity.Plan) []string {
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }

	seen := map[*corev1.Pod]int{}
	for _, pl := range plan.Placements {
		seen[pl.Pod]++
		if !slices.Contains(s.Nodes, pl.Node) {
			return append(wrong, "placement on a node that is not there")
		}
	}
	cost := 0.0
	for i, l := range plan.Launches {
		if len(l.Pods) == 0 {
			complain("launch %d is for nobody", i)
		}
		cost += l.Price
		wrong = append(wrong, judgeLaunch(s, &plan.Launches[i])...)
		for _, p := range l.Pods {
			seen[p]++
		}
	}
	for _, u := range plan.Unschedulable {
		seen[u.Pod]++
		if len(u.Reasons) == 0 {
			complain("%s has no place and no reason", u.Pod.Name)
		}
		for _, r := range u.Reasons {
			if r.Constraint == "" || r.Detail == "" || r.Fix == "" {
				complain("%s: incomplete reason %+v", u.Pod.Name, r)
			}
		}
	}
	for _, p := range s.Pods {
		if seen[p] != 1 {
			complain("%s is in %d buckets", p.Name, seen[p])
		}
	}
	if len(seen) > len(s.Pods) {
		complain("the plan has pods that nobody asked for")
	}
	if math.Abs(cost-plan.HourlyCost) > 1e-9 {
		complain("cost %v, launches add up to %v", plan.HourlyCost, cost)
	}
	if plan.LowerBound > plan.HourlyCost+1e-9 {
		complain("lower bound %v above cost %v", plan.LowerBound, plan.HourlyCost)
	}
	wrong = append(wrong, judgeLimits(s, plan)...)
	w, seats := planned(s, plan)
	wrong = append(wrong, judgeGroups(s, seats)...)
	if why := w.bindAll(s, seats); why != "" {
		complain("%s", why)
	}
	wrong = append(wrong, w.judgeRefusals(s, plan)...)
	return wrong
}

// planned is the world with the plan's nodes and their DaemonSets' pods, and the seat of
// each pod that has one; none is bound yet.
func planned(s *capacity.Snapshot, plan *capacity.Plan) (*world, map[*corev1.Pod]*host) {
	w, seats := newWorld(s), map[*corev1.Pod]*host{}
	for _, pl := range plan.Placements {
		seats[pl.Pod] = w.nodes[slices.Index(s.Nodes, pl.Node)]
	}
	for i, l := range plan.Launches {
		h := w.join(fmt.Sprintf("new-%d", i), l.Labels, l.Taints, l.Allocatable)
		for _, p := range l.Pods {
			seats[p] = h
		}
	}
	return w, seats
}

// maxStates bounds the search for an order of binding.
const maxStates = 20000

// bindAll looks for an order in which all pods can be bound to their seats, going back
// where one leads nowhere; pods of one template are interchangeable on a host. It leaves
// them bound when it has found one, and says what stood in the way otherwise.
func (w *world) bindAll(s *capacity.Snapshot, seats map[*corev1.Pod]*host) string {
	type group struct {
		h    *host
		pods []*corev1.Pod
		next int
	}
	var groups []*group
	byKey := map[string]*group{}
	left := 0
	for _, p := range s.Pods {
		h := seats[p]
		if h == nil {
			continue
		}
		left++
		key := templateOf(p) + " on " + h.name
		if byKey[key] == nil {
			byKey[key] = &group{h: h}
			groups = append(groups, byKey[key])
		}
		byKey[key].pods = append(byKey[key].pods, p)
	}
	// Those whose place hangs on others first: the likeliest order.
	ties := func(g *group) int {
		near, apart := required(g.pods[0])
		return len(near) + len(apart) + len(g.pods[0].Spec.TopologySpreadConstraints)
	}
	slices.SortStableFunc(groups, func(a, b *group) int { return ties(b) - ties(a) })
	seen := map[string]bool{}
	least, stuck := left+1, ""
	var search func(left int) bool
	search = func(left int) bool {
		if left == 0 {
			return true
		}
		var key []byte
		for _, g := range groups {
			key = append(key, byte(g.next))
		}
		if seen[string(key)] || len(seen) == maxStates {
			return false
		}
		seen[string(key)] = true
		var refused []string
		for _, g := range groups {
			if g.next == len(g.pods) {
				continue
			}
			p := g.pods[g.next]
			if why := w.refuses(p, g.h); why != "" {
				refused = append(refused, fmt.Sprintf("%s on %s (%s)", p.Name, g.h.name, why))
				continue
			}
			g.h.pods = append(g.h.pods, p)
			g.next++
			if search(left - 1) {
				return true
			}
			g.next--
			g.h.pods = g.h.pods[:len(g.h.pods)-1]
		}
		if left < least {
			least, stuck = left, "no order of binding was found: "+strings.Join(refused, ", ")
		}
		return false
	}
	if search(left) {
		return ""
	}
	return stuck
}

// templateOf is the part of a pod's name that its replicas share.
func templateOf(p *corev1.Pod) string {
	return strings.TrimRight(strings.TrimRight(p.Name, "0123456789"), "-.")
}

func templatesOf(pods []*corev1.Pod) []string {
	var ts []string
	for _, p := range pods {
		ts = append(ts, templateOf(p))
	}
	slices.Sort(ts)
	return slices.Compact(ts)
}

func judgeLaunch(s *capacity.Snapshot, l *capacity.Launch) []string {
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	offering := func(o capacity.OfferingRef) *capacity.InstanceType {
		for i := range l.Provisioner.InstanceTypes {
			t := &l.Provisioner.InstanceTypes[i]
			if t.Machine.Name == o.InstanceType && slices.ContainsFunc(t.Offerings, func(x capacity.Offering) bool {
				return x.Zone == o.Zone && x.CapacityType == o.CapacityType && x.Price == o.Price
			}) {
				return t
			}
		}
		return nil
	}
	t := offering(l.OfferingRef)
	if t == nil || l.Provisioner.NotReady != "" {
		return []string{fmt.Sprintf("%v is not for sale", l.OfferingRef)}
	}
	for name, v := range t.Allocatable {
		if l.Allocatable[name] != v {
			complain("allocatable %s is %d, want %d", name, l.Allocatable[name], v)
		}
	}
	if !l.Requests.Fits(l.Allocatable) {
		complain("requests %v exceed allocatable %v", l.Requests, l.Allocatable)
	}
	for k, v := range t.Labels {
		if l.Labels[k] != v {
			complain("label %s is %q, want %q", k, l.Labels[k], v)
		}
	}
	if l.Labels[corev1.LabelTopologyZone] != l.Zone || l.Labels[v1alpha1.LabelCapacityType] != l.CapacityType || l.Labels[v1alpha1.LabelProvisioner] != l.Provisioner.Name {
		complain("labels %v do not say zone, capacity type and Provisioner", l.Labels)
	}
	for _, r := range l.Provisioner.Spec.Requirements {
		v, has := l.Labels[r.Key]
		if !expression(corev1.NodeSelectorRequirement{Key: r.Key, Operator: corev1.NodeSelectorOperator(r.Operator), Values: r.Values}, v, has) {
			complain("requirement %v is not satisfied by %v", r, l.Labels)
		}
	}
	last := capacity.OfferingRef{CapacityType: l.CapacityType}
	for _, a := range l.Alternatives {
		t := offering(a)
		inOrder := a.CapacityType == last.CapacityType && a.Price >= last.Price ||
			a.CapacityType == v1alpha1.CapacityTypeOnDemand && last.CapacityType == l.CapacityType
		if t == nil || t.OnlyFor != "" && l.Requests[t.OnlyFor] == 0 || a == l.OfferingRef || !inOrder || !l.Requests.Fits(t.Allocatable) {
			complain("alternative %v of %v is no alternative", a, l.OfferingRef)
		}
		last = a
	}
	types := map[string]bool{l.InstanceType: true}
	dearest := 0.0
	for _, n := range l.Next {
		t := offering(n)
		if t == nil || t.OnlyFor != "" && l.Requests[t.OnlyFor] == 0 || types[n.InstanceType] || n.Price < dearest || !l.Requests.Fits(t.Allocatable) || !strings.Contains(l.Why, n.InstanceType) {
			complain("next best %v of %v, explained by %q, is not", n, l.OfferingRef, l.Why)
		}
		types[n.InstanceType], dearest = true, n.Price
	}
	if len(l.Next) > 3 {
		complain("%d next best", len(l.Next))
	}
	if len(l.Alternatives) > 60 || l.Why == "" {
		complain("%d alternatives, why %q", len(l.Alternatives), l.Why)
	}
	return wrong
}

func judgeLimits(s *capacity.Snapshot, plan *capacity.Plan) []string {
	var wrong []string
	for _, p := range s.Provisioners {
		if len(p.Spec.EC2.CapacityReservations) > 0 {
			wrong = append(wrong, judgeReservations(p, plan)...)
		}
		for name, q := range p.Spec.Limits {
			used := float64(p.Used[name])
			if name == v1alpha1.LimitHourlyCost {
				used = p.UsedHourlyCost
			}
			bought := 0.0
			for _, l := range plan.Launches {
				if l.Provisioner != p {
					continue
				}
				switch name {
				case v1alpha1.LimitHourlyCost:
					bought += l.Price
				case v1alpha1.LimitNodes:
					bought++
				default:
					for _, t := range p.InstanceTypes {
						if t.Machine.Name == l.InstanceType {
							bought += float64(t.Capacity[name])
						}
					}
				}
			}
			limit := q.AsApproximateFloat64()
			if name == corev1.ResourceCPU {
				limit *= 1000
			}
			if bought > 0 && used+bought > limit+1e-6 {
				wrong = append(wrong, fmt.Sprintf("%s: limit %s %v overrun: %v used, %v bought", p.Name, name, limit, used, bought))
			}
		}
	}
	return wrong
}

// judgeReservations checks that no reservation is asked for more than it has.
func judgeReservations(p *capacity.Provisioner, plan *capacity.Plan) []string {
	var wrong []string
	for _, t := range p.InstanceTypes {
		for _, o := range t.Offerings {
			if o.CapacityType != v1alpha1.CapacityTypeReserved {
				continue
			}
			n := 0
			for _, l := range plan.Launches {
				if l.Provisioner == p && l.InstanceType == t.Machine.Name && l.Zone == o.Zone && l.CapacityType == o.CapacityType {
					n++
				}
			}
			if used := int(p.Used[capacity.ReservedRoom(t.Machine.Name, o.Zone)]); n > 0 && n+used > o.Room {
				wrong = append(wrong, fmt.Sprintf("%s: %d nodes in reservations of %s in %s, %d are on their way and there is room for %d", p.Name, n, t.Machine.Name, o.Zone, used, o.Room))
			}
		}
	}
	return wrong
}

// judgeRefusals checks that pods without a place would really be refused: on
// every node of the plan and on an empty node of every offering that the limits
// still allow. An empty node's acceptance counts where all others keep their seats
// with that node there, whose domain they may have to count.
func (w *world) judgeRefusals(s *capacity.Snapshot, plan *capacity.Plan) []string {
	var wrong []string
	keepsAll := func(p *corev1.Pod, labels map[string]string, taints []corev1.Taint, alloc capacity.Resources) bool {
		w, seats := planned(s, plan)
		seats[p] = w.join("probe", labels, taints, alloc)
		return w.bindAll(s, seats) == ""
	}
	for _, u := range plan.Unschedulable {
		if len(u.Pod.Spec.SchedulingGates)+len(u.Pod.Spec.ResourceClaims) > 0 || inGroup(u.Pod) {
			continue
		}
		for _, h := range w.nodes {
			if w.refuses(u.Pod, h) == "" {
				wrong = append(wrong, fmt.Sprintf("%s has no place, but %s would take it; reasons %+v", u.Pod.Name, h.name, u.Reasons))
			}
		}
		for _, p := range s.Provisioners {
			if p.NotReady != "" {
				continue
			}
			for i := range p.InstanceTypes {
				t := &p.InstanceTypes[i]
				if t.OnlyFor != "" && capacity.PodRequests(u.Pod)[t.OnlyFor] == 0 {
					continue
				}
				for _, o := range t.Offerings {
					more := *plan
					more.Launches = append(slices.Clone(plan.Launches), capacity.Launch{Provisioner: p, OfferingRef: capacity.OfferingRef{InstanceType: t.Machine.Name, Zone: o.Zone, CapacityType: o.CapacityType, Price: o.Price}})
					if len(judgeLimits(s, &more)) > 0 {
						continue
					}
					for _, labels := range labelsOf(p, t, o) {
						h := w.join("probe", labels, p.Spec.Taints, t.Allocatable)
						if w.refuses(u.Pod, h) == "" && keepsAll(u.Pod, labels, p.Spec.Taints, t.Allocatable) {
							wrong = append(wrong, fmt.Sprintf("%s has no place, but an empty %s in %s of %s would take it; reasons %+v", u.Pod.Name, t.Machine.Name, o.Zone, p.Name, u.Reasons))
						}
						w.nodes = w.nodes[:len(w.nodes)-1]
					}
				}
			}
		}
	}
	return wrong
}

func inGroup(p *corev1.Pod) bool {
	_, annotated := p.Annotations["berth.dev/pod-group"]
	return annotated || p.Spec.SchedulingGroup != nil
}

// judgeGroups checks that no group has places for some of its pods but for fewer
// than it needs, and that those of a group with a topology share its value.
func judgeGroups(s *capacity.Snapshot, seats map[*corev1.Pod]*host) []string {
	type tally struct {
		need, have, fresh int
		topology          string
		domains           map[string]bool
	}
	groups := map[string]*tally{}
	count := func(p *corev1.Pod, labels map[string]string, fresh int) {
		if !inGroup(p) || p.DeletionTimestamp != nil {
			return
		}
		name, need, topology := "annotated "+p.Namespace+"/"+p.Annotations["berth.dev/pod-group"], 0, p.Annotations["berth.dev/pod-group-topology"]
		if g := p.Spec.SchedulingGroup; g != nil {
			object := p.Namespace + "/" + *g.PodGroupName
			name, need, topology = object, s.Groups[object].MinCount, s.Groups[object].Topology
		} else if n, err := strconv.Atoi(p.Annotations["berth.dev/pod-group-min-count"]); err == nil {
			need = n
		}
		t := groups[name]
		if t == nil {
			t = &tally{domains: map[string]bool{}}
			groups[name] = t
		}
		t.have, t.fresh = t.have+1, t.fresh+fresh
		t.need = max(t.need, need)
		if topology != "" {
			t.topology = topology
		}
		t.domains[labels[t.topology]] = true
	}
	for _, n := range s.Nodes {
		for _, p := range n.Pods {
			count(p, n.Labels, 0)
		}
	}
	for p, h := range seats {
		if h != nil {
			count(p, h.labels, 1)
		}
	}
	var wrong []string
	for name, t := range groups {
		if t.fresh > 0 && t.have < t.need {
			wrong = append(wrong, fmt.Sprintf("group %s: %d pods have a place, it needs %d", name, t.have, t.need))
		}
		if t.fresh > 0 && t.topology != "" && len(t.domains) > 1 {
			wrong = append(wrong, fmt.Sprintf("group %s: spread over %v of %s", name, sorted(t.domains), t.topology))
		}
	}
	return wrong
}

// labelsOf are the sets of labels that a node of an offering may get.
func labelsOf(p *capacity.Provisioner, t *capacity.InstanceType, o capacity.Offering) []map[string]string {
	labels := map[string]string{corev1.LabelTopologyZone: o.Zone, v1alpha1.LabelCapacityType: o.CapacityType, v1alpha1.LabelProvisioner: p.Name}
	for k, v := range t.Labels {
		labels[k] = v
	}
	for k, v := range p.Spec.Labels {
		labels[k] = v
	}
	sets := []map[string]string{labels}
	for _, r := range p.Spec.Requirements {
		if r.Key == "team" {
			sets = nil
			for _, v := range r.Values {
				l := maps.Clone(labels)
				l["team"] = v
				sets = append(sets, l)
			}
		}
	}
	return sets
}
