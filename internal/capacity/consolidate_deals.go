package capacity

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// draft is a decision in the making: all of the group goes.
type draft struct {
	group []*sender
	seats []seat
	// bins that are bought, and what they are.
	bins     []*bin
	launches []Launch
	terms    dealTerms
	bought   float64
}

func (d *draft) saving() float64 { return d.terms.price - d.bought }

// ratio is what the draft saves within the payback time for each dollar that it
// costs.
func (d *draft) ratio() float64 {
	return d.saving() * d.terms.payback.Hours() / max(d.terms.cost(d.bought), 1e-9)
}

// net is what the draft is worth in $ once the payback time has passed.
func (d *draft) net() float64 {
	return d.saving()*d.terms.payback.Hours() - d.terms.cost(d.bought)
}

// offer is a node in the queue, with the ratio that it may have at best.
type offer struct {
	x     *sender
	ratio float64
	exact bool
}

type offers []offer

func (q offers) Len() int      { return len(q) }
func (q offers) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *offers) Push(x any)   { *q = append(*q, x.(offer)) }
func (q *offers) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}
func (q offers) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(q[j].ratio, q[i].ratio), cmp.Compare(q[i].x.bin.index, q[j].x.bin.index)) < 0
}

// singly takes nodes away, or replaces them, one by one: always the one that
// saves most for its cost as things are then.
func (c *consolidator) singly() {
	q := &offers{}
	for _, x := range c.nodes {
		if x.keep == "" {
			*q = append(*q, offer{x: x, ratio: x.ratio()})
		}
	}
	heap.Init(q)
	for q.Len() > 0 {
		o := heap.Pop(q).(offer)
		if o.x.gone || o.x.got {
			continue
		}
		group := []*sender{o.x}
		m := c.mark()
		d, why := c.attempt(group)
		if d == nil {
			o.x.why = why
			continue
		}
		if r := d.ratio(); !o.exact && len(d.bins) > 0 && q.Len() > 0 && r < (*q)[0].ratio {
			c.undo(m, group)
			heap.Push(q, offer{x: o.x, ratio: r, exact: true})
			continue
		}
		c.commit(d)
	}
}

// undo puts all as it was at the mark, before the group was lifted.
func (c *consolidator) undo(m mark, group []*sender) {
	c.rollback(m)
	for _, x := range slices.Backward(group) {
		c.lower(x)
	}
}

// attempt weighs a group of nodes: their pods go where there is room, and nodes
// are bought for the rest of them, or for all of them. Nil and why when that is
// not worth it; then nothing has changed. Else the seats are taken.
func (c *consolidator) attempt(group []*sender) (*draft, string) {
	if !c.within(group) {
		return nil, "the workloads on it have no moves left today"
	}
	d, why := c.attemptOnce(group, true)
	if d != nil || why == "" {
		return d, why
	}
	if d, _ := c.attemptOnce(group, false); d != nil {
		return d, ""
	}
	return nil, why
}

func (c *consolidator) attemptOnce(group []*sender, fill bool) (*draft, string) {
	m := c.mark()
	for _, x := range group {
		c.lift(x)
	}
	fail := func(format string, args ...any) (*draft, string) {
		c.undo(m, group)
		return nil, fmt.Sprintf(format, args...)
	}
	d := &draft{group: group, terms: termsOf(group)}
	most := d.terms.most(1)
	if most < 0 {
		return fail("it saves less than moving its pods costs")
	}
	if fill {
		c.seatAll(m)
	}
	if n := c.v.waiting(); n > 0 {
		for _, x := range group {
			if x.facts.NoReplacement != "" {
				return fail("%s", x.facts.NoReplacement)
			}
		}
		if bound := c.atLeast(); bound > most {
			return fail("%d of its pods fit nowhere else, and nodes for them cost at least %.4f $/h", n, bound)
		}
		c.buyForRest()
		if n := c.v.waiting(); n > 0 {
			return fail("%d of its pods fit nowhere else, and no node can be bought for them", n)
		}
	}
	d.bins = slices.Clone(c.v.bins[m.bins:])
	for _, b := range d.bins {
		d.bought += b.col.price
	}
	if d.bought > most {
		return fail("the nodes to buy in its place would cost %.4f $/h of %.4f", d.bought, d.terms.price)
	}
	d.seats = slices.Clone(c.v.bound[m.seats:])
	if !c.sure(m, d) {
		return fail("its pods fit elsewhere only if each goes to one particular node")
	}
	c.describe(d, most)
	if !c.diverse(group, d.launches) {
		return fail("a cheaper spot node would leave too few instance types or too much in one pool")
	}
	return d, ""
}

// seatAll seats what has no seat on the nodes that there are, large pods first.
func (c *consolidator) seatAll(m mark) {
	for _, s := range c.waitingShapes() {
		if c.seatless[s.id] {
			continue
		}
		c.seat(s, c.receivers)
		if len(c.v.bound) == m.seats && !s.tied() {
			// Nothing had been seated yet, and nobody has room for one.
			c.seatless[s.id] = !slices.ContainsFunc(c.receivers, func(b *bin) bool { return b.copies(s) > 0 && c.suits(s, b) })
		}
	}
}

// waitingShapes are the shapes with pods that have no seat, large pods first.
func (c *consolidator) waitingShapes() []*shape {
	var list []*shape
	for _, s := range c.v.shapes {
		if c.v.left[s.id] > 0 {
			list = append(list, s)
		}
	}
	slices.SortStableFunc(list, func(a, b *shape) int { return cmp.Compare(bulk(b), bulk(a)) })
	return list
}

// buyForRest buys nodes for all pods without a seat.
func (c *consolidator) buyForRest() {
	v := c.v
	from := len(v.bins)
	var items []*item
	for _, s := range c.waitingShapes() {
		if s.mode == modeLocal {
			items = append(items, &item{s: s, n: v.left[s.id]})
		}
	}
	v.pack(items)
	for _, s := range c.waitingShapes() {
		c.seat(s, v.bins[from:])
		for v.left[s.id] > 0 {
			col := v.chooseColumn(s, nil)
			if col == nil {
				return
			}
			b := v.buy(col)
			if !c.accepts(s, b) {
				return
			}
			c.seat(s, []*bin{b})
		}
	}
}

// sure says whether the group's pods find places whichever way kube-scheduler
// chooses: it does not know the plan, and puts each pod where most is free.
// Tried with the largest pods first and with the smallest first. What holds
// then needs nobody to steer.
func (c *consolidator) sure(m mark, d *draft) bool {
	bins := len(c.v.bins)
	c.rollback(mark{m.seats, bins})
	ok := true
	for _, smallFirst := range []bool{true, false} {
		ok = ok && c.spread(smallFirst, d.bins)
		c.rollback(mark{m.seats, bins})
	}
	if !ok {
		return false
	}
	for _, t := range d.seats {
		c.v.put(t.s, t.b, t.n)
	}
	return true
}

// spread seats all pods without a seat as kube-scheduler's LeastAllocated would:
// each where the largest share is free. It reports whether all found one.
func (c *consolidator) spread(smallFirst bool, extra []*bin) bool {
	order := c.waitingShapes()
	if smallFirst {
		slices.Reverse(order)
	}
	for _, s := range order {
		for c.v.left[s.id] > 0 {
			var best *bin
			most := math.Inf(-1)
			consider := func(b *bin, scale [2]float64) {
				if f := freeShare(b, scale); f > most && c.accepts(s, b) {
					best, most = b, f
				}
			}
			for _, b := range c.receivers {
				if !c.nodes[b.index].gone {
					consider(b, c.scale[b.index])
				}
			}
			for _, b := range extra {
				if b.node != nil {
					consider(b, c.scale[b.index])
				} else {
					consider(b, scaleOf(b.col.typ.Allocatable))
				}
			}
			if best == nil {
				return false
			}
			c.v.put(s, best, 1)
		}
	}
	return true
}

// scaleOf turns free cpu and memory of a node into shares.
func scaleOf(all Resources) [2]float64 {
	cpu, memory := all[corev1.ResourceCPU], all[corev1.ResourceMemory]
	if cpu <= 0 || memory <= 0 {
		return [2]float64{}
	}
	return [2]float64{1 / float64(cpu), 1 / float64(memory)}
}

// freeShare is the sum of the shares of a node's cpu and memory that are free.
func freeShare(b *bin, scale [2]float64) float64 {
	return float64(b.free[0])*scale[0] + float64(b.free[1])*scale[1]
}

// describe makes launches of the bins that a draft buys. Alternatives stay as
// far as the deal would still be worth it with them.
func (c *consolidator) describe(d *draft, most float64) {
	slack := (most - d.bought) / float64(max(1, len(d.bins)))
	for _, b := range d.bins {
		l := c.v.launch(b, c.launch)
		var affordable []OfferingRef
		for _, a := range l.Alternatives {
			if a.Price <= l.Price+slack {
				affordable = append(affordable, a)
			}
		}
		l.Alternatives = affordable
		d.launches = append(d.launches, l)
	}
}

// commit makes a draft part of the plan: its nodes are closed, and those that
// receive pods stay.
func (c *consolidator) commit(d *draft) {
	for _, t := range d.seats {
		if t.b.index < c.v.existing {
			c.nodes[t.b.index].got = true
		}
	}
	for _, x := range d.group {
		for w, n := range x.workloads {
			c.planned[w] += n
		}
	}
	for _, b := range d.bins {
		for _, k := range c.v.spreadCounters {
			if val, ok := c.v.label(b, k.key); ok && k.eligible(b) {
				c.domains[k][val] = true
			}
		}
	}
	c.v.bound = c.v.bound[:0]
	c.drafts = append(c.drafts, d)
}

// recheck says why an intent must not be carried out; empty: it may, and its
// pods are seated.
func (c *consolidator) recheck(intent *Intent) string {
	var group []*sender
	var extra []*bin
	bought := 0.0
	for _, x := range c.nodes {
		switch {
		case slices.Contains(intent.Nodes, x.node.Name):
			if x.gone {
				continue // Somebody else takes it away: its pods are seated already.
			}
			if x.keep != "" {
				return "node " + x.node.Name + " stays: " + x.keep
			}
			group = append(group, x)
		case slices.Contains(intent.Replacements, x.node.Name):
			if x.node.InFlight || x.node.Unschedulable {
				return "node " + x.node.Name + ", bought in their place, is not ready"
			}
			extra = append(extra, x.bin)
			bought += x.price
		}
	}
	switch {
	case len(group) == 0:
		return "the nodes are gone"
	case len(extra) < len(intent.Replacements):
		return "a node bought in their place is missing"
	case !c.within(group):
		return "their workloads have no moves left today"
	}
	t := termsOf(group)
	if bought > t.most(0.5) {
		return fmt.Sprintf("it is not worth it any more: %.4f $/h in place of %.4f", bought, t.price)
	}
	m := c.mark()
	for _, x := range group {
		c.lift(x)
	}
	for _, smallFirst := range []bool{true, false} {
		if !c.spread(smallFirst, extra) {
			c.undo(m, group)
			return "their pods may find no place elsewhere any more"
		}
		if smallFirst {
			c.rollback(m)
		}
	}
	for _, x := range group {
		for w, n := range x.workloads {
			c.planned[w] += n
		}
	}
	c.v.bound = c.v.bound[:0]
	return ""
}
