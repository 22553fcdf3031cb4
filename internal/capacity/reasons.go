package capacity

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// ownReason is why no node at all could help the pod now, nil when one could.
func ownReason(pod *corev1.Pod) *Reason {
	if gs := pod.Spec.SchedulingGates; len(gs) > 0 {
		return &Reason{Constraint: ConstraintGated,
			Detail: fmt.Sprintf("scheduling gate %s is set", gs[0].Name),
			Fix:    "whoever set the gate must remove it"}
	}
	if cs := pod.Spec.ResourceClaims; len(cs) > 0 {
		return &Reason{Constraint: ConstraintResourceClaim,
			Detail: fmt.Sprintf("resource claim %s: Berth cannot tell which instance types would satisfy it", cs[0].Name),
			Fix:    "request the device as an extended resource (such as nvidia.com/gpu) instead of resourceClaims, or add a node with the device yourself: kube-scheduler places the pod there"}
	}
	return nil
}

// obstacle is one thing between a pod and a Provisioner's nodes.
type obstacle struct {
	constraint  Constraint
	detail, fix string
}

// reasons says for each Provisioner what keeps the pod from an empty node of
// it, the nearest miss first: fewest obstacles, then those easiest to remove.
func (m *market) reasons(n *need) []Reason {
	if len(m.sellers) == 0 {
		return []Reason{{Constraint: ConstraintNoProvisioner,
			Detail: "there is no Provisioner", Fix: "create a Provisioner"}}
	}
	type miss struct {
		reason Reason
		count  int
		rank   int
	}
	var misses []miss
	for _, s := range m.sellers {
		os := m.obstacles(n, s)
		if len(os) == 0 {
			continue
		}
		// All of them: what removes the first alone helps nobody.
		r := Reason{Provisioner: s.p.Name, Constraint: os[0].constraint, Detail: os[0].detail, Fix: os[0].fix}
		for _, o := range os[1:] {
			r.Detail += "; and " + o.detail
			r.Fix += "; and " + o.fix
		}
		misses = append(misses, miss{r, len(os), slices.Index(constraintsByDistance, os[0].constraint)})
	}
	slices.SortStableFunc(misses, func(a, b miss) int {
		return cmp.Or(cmp.Compare(a.count, b.count), cmp.Compare(a.rank, b.rank), cmp.Compare(a.reason.Provisioner, b.reason.Provisioner))
	})
	rs := make([]Reason, len(misses))
	for i := range misses {
		rs[i] = misses[i].reason
	}
	return rs
}

// constraintsByDistance orders obstacles from easy to hard to remove.
var constraintsByDistance = []Constraint{
	ConstraintUnavailable, ConstraintLimits, ConstraintPodGroup, ConstraintTopologySpread, ConstraintAntiAffinity, ConstraintPodAffinity,
	ConstraintTaint, ConstraintHostPort, ConstraintNodeSelector, ConstraintNodeAffinity, ConstraintVolume,
	ConstraintResources, ConstraintNotReady,
}

// obstacles between the pod and nodes of one seller, the one to report first.
func (m *market) obstacles(n *need, s *seller) []obstacle {
	p := s.p
	if p.NotReady != "" {
		return []obstacle{{ConstraintNotReady, p.NotReady, "see the conditions of Provisioner " + p.Name}}
	}
	var os []obstacle
	if t := untolerated(n.pod.Spec.Tolerations, p.Spec.Taints); t != nil {
		os = append(os, obstacle{ConstraintTaint, "its nodes have the taint " + taintString(t), "tolerate taint " + taintString(t)})
	}
	cols := make([]*column, 0, s.end-s.first)
	for i := s.first; i < s.end; i++ {
		cols = append(cols, &m.columns[i])
	}
	soldOut, until := s.soldOut()
	if len(cols) == 0 && len(soldOut) == 0 {
		return append(os, obstacle{ConstraintResources, "its requirements allow no instance type", "relax the requirements of Provisioner " + p.Name})
	}
	matching, label := m.filterByLabels(n, p, cols)
	if label != nil {
		// Types that are sold out have labels too: perhaps only capacity lacks.
		if only, _ := m.filterByLabels(n, p, soldOut); len(only) > 0 {
			return append(os, unavailable(p, only, until))
		}
		os = append(os, *label)
		matching = cols
	}
	if o := m.tooLarge(n, p, matching); o != nil {
		if label == nil {
			only, _ := m.filterByLabels(n, p, soldOut)
			if len(only) > 0 && m.tooLarge(n, p, only) == nil {
				return append(os, unavailable(p, only, until))
			}
		}
		return append(os, *o)
	}
	if len(os) > 0 {
		return os
	}
	slices.SortStableFunc(matching, func(a, b *column) int { return cmp.Compare(a.price, b.price) })
	ports := false
	var lacking []obstacle
	for _, c := range matching {
		if n.vector == nil || !vectorFits(n.vector, c.free) || c.typ.OnlyFor != "" && n.requests[c.typ.OnlyFor] == 0 {
			continue
		}
		if portsConflict(n.ports, c.daemons.ports) {
			ports = true
			continue
		}
		if s.left.room(c) > 0 {
			return nil
		}
		if lacking == nil {
			detail, fix := s.left.lacks(p, c)
			lacking = []obstacle{{ConstraintLimits, detail, fix}}
		}
	}
	if ports && lacking == nil {
		return []obstacle{{ConstraintHostPort, "a DaemonSet on its nodes takes host port " + n.ports[0].String(), "use another hostPort, or none"}}
	}
	return lacking
}

// soldOut are columns for offerings that are sold out, with the first time at which
// one of them counts again; zero: that is not known.
func (s *seller) soldOut() ([]*column, time.Time) {
	var cols []*column
	var until time.Time
	for i := range s.p.InstanceTypes {
		t := &s.p.InstanceTypes[i]
		for j := range t.SoldOut {
			o := &t.SoldOut[j]
			for v := range s.variants {
				cols = append(cols, &column{seller: s, variant: v, typ: t, offer: o, price: o.Price})
			}
			if u := o.UnavailableUntil; !u.IsZero() && (until.IsZero() || u.Before(until)) {
				until = o.UnavailableUntil
			}
		}
	}
	return cols, until
}

func unavailable(p *Provisioner, cols []*column, until time.Time) obstacle {
	c := cols[0]
	more := ""
	if len(cols) > 1 {
		more = fmt.Sprintf(" and %d more", len(cols)-1)
	}
	if !until.IsZero() {
		more += "; next try " + until.UTC().Format(time.RFC3339)
	}
	return obstacle{ConstraintUnavailable,
		fmt.Sprintf("EC2 has none of %s %s in %s%s", c.offer.CapacityType, c.typ.Machine.Name, c.offer.Zone, more),
		"allow more instance types, zones or capacity types in Provisioner " + p.Name}
}

// filterByLabels keeps the columns whose labels suit the pod; when none does it
// names the label that stands in the way.
func (m *market) filterByLabels(n *need, p *Provisioner, cols []*column) ([]*column, *obstacle) {
	var out []*column
	for _, c := range cols {
		if n.node.matches(func(key string) (string, bool) { return m.label(c, key) }, unknownValue) {
			out = append(out, c)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	for _, k := range sortedNames(n.pod.Spec.NodeSelector) {
		v := n.pod.Spec.NodeSelector[k]
		if !m.anyColumn(cols, k, func(have string, ok bool) bool { return ok && have == v }) {
			o := m.labelObstacle(ConstraintNodeSelector, p, cols, k, "", []string{v})
			return nil, &o
		}
	}
	var best *obstacle
	fewest := -1
	if s := requiredNodeAffinity(n.pod); s != nil {
		for i := range s.NodeSelectorTerms {
			count := 0
			var first *obstacle
			for _, e := range s.NodeSelectorTerms[i].MatchExpressions {
				one := newNodeReq(&corev1.Pod{Spec: corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
					RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
						{MatchExpressions: []corev1.NodeSelectorRequirement{e}}}}}}}}, nil)
				if slices.ContainsFunc(cols, func(c *column) bool {
					return one.matches(func(key string) (string, bool) { return m.label(c, key) }, unknownValue)
				}) {
					continue
				}
				count++
				if first == nil {
					o := m.labelObstacle(ConstraintNodeAffinity, p, cols, e.Key, string(e.Operator), e.Values)
					first = &o
				}
			}
			for _, f := range s.NodeSelectorTerms[i].MatchFields {
				if f.Operator == corev1.NodeSelectorOpIn && first == nil { // Not to be on some node keeps from none that is new.
					count++
					first = &obstacle{ConstraintNodeAffinity, "only a node of a certain name will do (" + f.Key + " " + string(f.Operator) + " " + strings.Join(f.Values, ",") + ")", "remove matchFields from the node affinity"}
				}
			}
			if first != nil && (fewest < 0 || count < fewest) {
				best, fewest = first, count
			}
		}
	}
	if best != nil {
		return nil, best
	}
	if n.pinned != "" {
		return nil, &obstacle{ConstraintPodGroup, "Provisioner " + p.Name + " buys no node with " + n.pinned + ", where the pods of the group are to be",
			"allow " + n.pinned + " in Provisioner " + p.Name}
	}
	if n.stored {
		return nil, &obstacle{ConstraintVolume, "its volumes cannot be reached from any zone that Provisioner " + p.Name + " buys in",
			"allow the volumes' zone under topology.kubernetes.io/zone in Provisioner " + p.Name}
	}
	return nil, &obstacle{ConstraintNodeSelector, "no instance type has all labels that the pod selects at once", "relax the pod's node selector or the requirements of Provisioner " + p.Name}
}

func (m *market) anyColumn(cols []*column, key string, f func(string, bool) bool) bool {
	return slices.ContainsFunc(cols, func(c *column) bool { return f(m.label(c, key)) })
}

func (m *market) labelObstacle(kind Constraint, p *Provisioner, cols []*column, key, op string, values []string) obstacle {
	wanted := key + "=" + strings.Join(values, ",")
	if op != "" {
		wanted = strings.TrimSpace(key + " " + op + " " + strings.Join(values, ","))
	}
	var have []string
	for _, c := range cols {
		if v, ok := m.label(c, key); ok && v != unknownValue && !slices.Contains(have, v) {
			have = append(have, v)
		}
	}
	slices.Sort(have)
	offers := "has no such label"
	if len(have) > 6 {
		have = append(have[:6], "…")
	}
	if len(have) > 0 {
		offers = "offers " + strings.Join(have, ", ")
	}
	o := obstacle{constraint: kind, detail: fmt.Sprintf("wants %s, Provisioner %s %s", wanted, p.Name, offers)}
	key = v1alpha1.CurrentLabel(key)
	switch {
	case !mayBeNamed(key, values):
		o.fix = "remove " + key + " from what the pod requires, Berth buys no such nodes"
	case isNodeLabel(key) || key == v1alpha1.LabelProvisioner:
		o.fix = "remove " + key + " from what the pod requires"
	case isOwnLabel(key) && !hasKey(p.Spec.Requirements, key) && len(values) > 0 && (op == "" || op == string(corev1.NodeSelectorOpIn)):
		o.fix = fmt.Sprintf("add label %s=%s to Provisioner %s", key, values[0], p.Name)
	case len(values) > 0 && (op == "" || op == string(corev1.NodeSelectorOpIn)):
		named := slices.DeleteFunc(slices.Clone(values), func(v string) bool { return !mayBeNamed(key, []string{v}) })
		o.fix = fmt.Sprintf("allow %s under %s in Provisioner %s", strings.Join(named, " or "), key, p.Name)
	default:
		o.fix = fmt.Sprintf("relax %s in Provisioner %s", key, p.Name)
	}
	return o
}

// mayBeNamed says whether a Provisioner may have a requirement on the key with one
// of the values: what the CRD's rules on requirements forbid is no way out.
func mayBeNamed(key string, values []string) bool {
	var known []string
	switch {
	case key == corev1.LabelOSStable:
		known = []string{"linux"}
	case key == corev1.LabelArchStable:
		known = []string{"amd64", "arm64"}
	case key == v1alpha1.LabelCapacityType:
		known = []string{v1alpha1.CapacityTypeSpot, v1alpha1.CapacityTypeOnDemand, v1alpha1.CapacityTypeReserved}
	default:
		return key == v1alpha1.LabelProvisioner || isNodeLabel(key) || !isOwnLabel(key) || !strings.HasPrefix(key, v1alpha1.Group+"/")
	}
	return len(values) == 0 || slices.ContainsFunc(values, func(v string) bool { return slices.Contains(known, v) })
}

// tooLarge says what of the pod's requests no column can give.
func (m *market) tooLarge(n *need, p *Provisioner, cols []*column) *obstacle {
	names := sortedNames(n.requests)
	largest := Resources{}
	fits, any, special := false, false, corev1.ResourceName("")
	for _, c := range cols {
		if c.typ.OnlyFor != "" && n.requests[c.typ.OnlyFor] == 0 {
			special = c.typ.OnlyFor
			continue
		}
		any = true
		ok := true
		for _, name := range names {
			free := c.typ.Allocatable[name]
			if c.daemons != nil {
				free -= c.daemons.requests[name]
			}
			largest[name] = max(largest[name], free)
			ok = ok && n.requests[name] <= free
		}
		fits = fits || ok
	}
	if fits {
		return nil
	}
	if !any && special != "" {
		return &obstacle{ConstraintResources, fmt.Sprintf("what remains in Provisioner %s are instance types kept for pods that request %s", p.Name, special),
			"allow ordinary instance types in Provisioner " + p.Name + ", or name the accelerated ones under " + corev1.LabelInstanceTypeStable}
	}
	for _, name := range names {
		want, have := n.requests[name], largest[name]
		if want <= have {
			continue
		}
		if have == 0 {
			return &obstacle{ConstraintResources, fmt.Sprintf("no instance type of Provisioner %s has %s", p.Name, name),
				fmt.Sprintf("allow instance types with %s in Provisioner %s", name, p.Name)}
		}
		return &obstacle{ConstraintResources,
			fmt.Sprintf("largest allocatable is %s %s, the pod asks %s", quantityOf(name, have), unitName(name), quantityAtLeast(name, want)),
			fmt.Sprintf("ask for at most %s %s, or allow larger instance types in Provisioner %s", quantityOf(name, have), unitName(name), p.Name)}
	}
	var all []string
	for _, name := range names {
		if name != corev1.ResourcePods {
			all = append(all, quantityAtLeast(name, n.requests[name])+" "+unitName(name))
		}
	}
	return &obstacle{ConstraintResources,
		"no instance type has " + strings.Join(all, " and ") + " together",
		"allow more instance types in Provisioner " + p.Name + ", or ask for less"}
}

func unitName(name corev1.ResourceName) string {
	switch name {
	case corev1.ResourceCPU:
		return "CPU"
	default:
		return string(name)
	}
}

// quantityOf formats an amount as people write it: CPU in cores, memory in
// gibibytes with a decimal, rounded down, so that what is told to fit does fit.
func quantityOf(name corev1.ResourceName, v int64) string {
	return formatAmount(name, v, 0)
}

// quantityAtLeast is like quantityOf, but rounded up: what is told to be asked
// for is no less than what is.
func quantityAtLeast(name corev1.ResourceName, v int64) string {
	return formatAmount(name, v, 1)
}

// formatAmount rounds down, or up when up is 1.
func formatAmount(name corev1.ResourceName, v, up int64) string {
	switch name {
	case corev1.ResourceCPU:
		return strconv.FormatFloat(float64(v)/1000, 'f', -1, 64)
	case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		switch {
		case v >= gib:
			tenths := v/gib*10 + (v%gib*10+up*(gib-1))/gib
			if tenths%10 == 0 {
				return strconv.FormatInt(tenths/10, 10) + "Gi"
			}
			return fmt.Sprintf("%d.%dGi", tenths/10, tenths%10)
		case v >= mib:
			return strconv.FormatInt((v+up*(mib-1))/mib, 10) + "Mi"
		}
	}
	return strconv.FormatInt(v, 10)
}
