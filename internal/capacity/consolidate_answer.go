package capacity

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// answer turns the drafts into decisions: pods take the seats that their shapes
// have.
func (c *consolidator) answer() *Consolidation {
	out := &Consolidation{Kept: map[string]string{}}
	if !slices.ContainsFunc(c.v.shapes, (*shape).tied) {
		// Nothing hangs on the order: what is worth most for its cost comes first.
		slices.SortStableFunc(c.drafts, func(a, b *draft) int { return cmp.Compare(b.ratio(), a.ratio()) })
	}
	taken := map[*sender]bool{}
	for _, d := range c.drafts {
		for _, x := range d.group {
			taken[x] = true
		}
	}
	for _, x := range c.nodes {
		if _, ok := c.in.Policies[x.node.Provisioner]; ok && x.node.Claim != "" && !x.facts.Going && !taken[x] {
			out.Kept[x.node.Name] = x.outcome
		}
	}
	for _, d := range c.drafts {
		out.Decisions = append(out.Decisions, c.decide(d))
	}
	return out
}

func (c *consolidator) decide(d *draft) Decision {
	type pod struct {
		pod  *corev1.Pod
		from *Node
	}
	waiting := map[*shape][]pod{}
	dec := Decision{Launches: d.launches, Saving: d.saving(), Price: d.terms.price, Cost: d.terms.cost(d.bought)}
	for _, x := range d.group {
		dec.Nodes = append(dec.Nodes, x.node)
		for _, l := range x.loads {
			for _, p := range l.pods {
				waiting[l.s] = append(waiting[l.s], pod{p, x.node})
			}
		}
	}
	for _, t := range d.seats {
		for _, p := range waiting[t.s][:t.n] {
			m := Move{Pod: p.pod, From: p.from}
			if t.b.index < c.v.existing {
				m.To = c.nodes[t.b.index].node
			} else {
				m.Launch = slices.Index(d.bins, t.b)
				dec.Launches[m.Launch].Pods = append(dec.Launches[m.Launch].Pods, p.pod)
			}
			dec.Moves = append(dec.Moves, m)
		}
		waiting[t.s] = waiting[t.s][t.n:]
	}
	slices.SortFunc(dec.Moves, func(a, b Move) int { return comparePods(a.Pod, b.Pod) })
	dec.Why = dec.why()
	return dec
}

// why is the record of a decision for people.
func (d *Decision) why() string {
	var b strings.Builder
	fmt.Fprintf(&b, "saves %.4f $/h of %.4f: ", d.Saving, d.Price)
	for i, n := range d.Nodes {
		if i == 3 && len(d.Nodes) > 4 {
			fmt.Fprintf(&b, " and %d more", len(d.Nodes)-i)
			break
		}
		fmt.Fprintf(&b, "%s%s (%s %s)", []string{"", ", "}[min(i, 1)], n.Name, poolOf("", n.Labels).capacityType, poolOf("", n.Labels).instanceType)
	}
	if len(d.Launches) == 0 {
		b.WriteString(" go")
	}
	for i := range d.Launches {
		l := &d.Launches[i]
		fmt.Fprintf(&b, "%s%s %s in %s at %.4f", []string{" replaced by ", ", "}[min(i, 1)], l.CapacityType, l.InstanceType, l.Zone, l.Price)
	}
	switch n := len(d.Moves); n {
	case 0:
		b.WriteString("; no pod moves")
	case 1:
		fmt.Fprintf(&b, "; 1 pod moves")
	default:
		fmt.Fprintf(&b, "; %d pods move", n)
	}
	if d.Cost > 0 {
		fmt.Fprintf(&b, ", taken to cost %.4f $, earned back in %s", d.Cost, d.Payback().Round(time.Second))
	}
	return b.String()
}

// together weighs nodes that stay a few at a time: what one cannot do alone,
// because the rest of its pods would need too large a node, several may.
func (c *consolidator) together() {
	var list []*sender
	waste := map[*sender]float64{}
	for _, x := range c.nodes {
		if x.keep != "" || x.gone || x.got || len(x.loads) == 0 || x.facts.NoReplacement != "" {
			continue
		}
		if need := c.worthOfPods(x); need < x.price {
			list = append(list, x)
			waste[x] = (x.price - need) / x.price
		}
	}
	slices.SortStableFunc(list, func(a, b *sender) int {
		return cmp.Or(cmp.Compare(waste[b], waste[a]), cmp.Compare(a.bin.index, b.bin.index))
	})
	tries := maxTries
	for i := 0; i < len(list) && tries > 0; i++ {
		if list[i].gone || list[i].got {
			continue
		}
		tries = c.growFrom(list, i, tries)
	}
}

const (
	// maxTries bounds how many groups of nodes are weighed.
	maxTries = 300
	// window is how far from the first of a group the others are looked for.
	window = 8
	// maxGroup bounds a group.
	maxGroup = 6
)

// worthOfPods is the least that the room which a node's pods take can cost.
func (c *consolidator) worthOfPods(x *sender) float64 {
	bound := 0.0
	for r, u := range c.unit {
		sum := int64(0)
		for _, l := range x.loads {
			sum += l.s.vector[r] * int64(len(l.pods))
		}
		bound = max(bound, u*float64(sum))
	}
	return bound
}

// growFrom tries groups that begin with a node and grow by what helps most, and
// commits the best. It returns how many tries are left.
func (c *consolidator) growFrom(list []*sender, i, tries int) int {
	group := []*sender{list[i]}
	best := 0.0
	for len(group) < maxGroup {
		var next *sender
		for j := i + 1; j < len(list) && j <= i+window && tries > 0; j++ {
			y := list[j]
			if y.gone || y.got || slices.Contains(group, y) {
				continue
			}
			tries--
			trial := append(slices.Clone(group), y)
			m := c.mark()
			d, _ := c.attempt(trial)
			if d == nil {
				continue
			}
			if net := d.net(); net > best+1e-9 {
				best, next = net, y
			}
			c.undo(m, trial)
		}
		if next == nil {
			break
		}
		group = append(group, next)
	}
	if len(group) > 1 {
		if d, _ := c.attempt(group); d != nil {
			c.commit(d)
		}
	}
	return tries
}
