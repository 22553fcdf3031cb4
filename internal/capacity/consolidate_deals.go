package capacity

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
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

// reset takes back all drafts.
func (c *consolidator) reset() {
	c.rollback(c.start)
	for _, d := range slices.Backward(c.drafts) {
		for _, x := range slices.Backward(d.group) {
			c.lower(x)
		}
	}
	for _, x := range c.nodes {
		x.got, x.why = false, ""
	}
	for k, was := range c.firstDomains {
		c.domains[k] = maps.Clone(was)
	}
	clear(c.planned)
	clear(c.seatless)
	c.drafts, c.packs = nil, 0
}

const (
	// maxStarts bounds how often the whole is weighed anew in another order.
	maxStarts = 64
	// startWork is how many looks at a node or an offering all starts but the
	// first may take together: a few tenths of a second's worth.
	startWork = 8e6
)

// search makes plans in several orders and keeps the one that is worth most. A
// large cluster is weighed once: there, chances even out.
func (c *consolidator) search() {
	var best []*draft
	most := math.Inf(-1)
	r := rand.New(rand.NewPCG(uint64(len(c.nodes)), uint64(len(c.v.shapes))))
	begin := c.work
	each := 0
	for i := range maxStarts {
		if i > 0 {
			if c.work-begin+each > startWork {
				break
			}
			c.reset()
			for _, x := range c.nodes {
				x.luck = math.Exp(r.NormFloat64() * shake)
			}
		}
		before := c.work
		c.singly()
		c.together()
		each = max(each, c.work-before)
		if net := worthOf(c.drafts); net > most+1e-9 {
			best, most = c.drafts, net
			c.note()
		}
		if len(c.drafts) == 0 && i == 0 && len(c.candidates()) == 0 {
			break
		}
	}
	c.drafts = best
}

// shake is by how much the order of nodes is changed at random.
const shake = 0.7

// worthOf is what drafts are worth together.
func worthOf(ds []*draft) float64 {
	sum := 0.0
	for _, d := range ds {
		sum += d.net()
	}
	return sum
}

// note remembers for the answer what becomes of each node in the plan as it is.
func (c *consolidator) note() {
	for _, x := range c.nodes {
		x.outcome = cmp.Or(x.keep, x.why)
		if x.got {
			x.outcome = "pods of other nodes are to move here"
		}
		if x.gone {
			x.outcome = ""
		}
	}
}

func (c *consolidator) candidates() []*sender {
	var list []*sender
	for _, x := range c.nodes {
		if x.keep == "" {
			list = append(list, x)
		}
	}
	return list
}

// singly takes nodes away, or replaces them, one by one: always the one that
// saves most for its cost as things are then.
func (c *consolidator) singly() {
	q := &offers{}
	for _, x := range c.candidates() {
		*q = append(*q, offer{x: x, ratio: x.ratio() * x.luck})
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
		if r := d.ratio() * o.x.luck; !o.exact && len(d.bins) > 0 && q.Len() > 0 && r < (*q)[0].ratio {
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
		c.buyForRest(most)
		if n := c.v.waiting(); n > 0 {
			return fail("%d of its pods fit nowhere else, and no node for them is cheap enough", n)
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
	slices.SortStableFunc(list, func(a, b *shape) int { return cmp.Compare(b.bulk, a.bulk) })
	return list
}

// buyForRest buys nodes for all pods without a seat, for at most that much in
// $/h: one node for all where that is as cheap as several can be, else the
// cheaper of that and of what the packer finds. Nothing is bought when nothing
// is cheap enough.
func (c *consolidator) buyForRest(most float64) {
	m := c.mark()
	single := c.oneForAll(most)
	bound := c.atLeast()
	if single != nil {
		most = single.price
	}
	if most > bound*1.01 && most >= 2*c.cheapest && c.packs < maxPacks {
		c.packs++
		c.work += packWork
		c.buySeveral(m.bins)
		bought := 0.0
		for _, b := range c.v.bins[m.bins:] {
			bought += b.col.price
		}
		if c.v.waiting() == 0 && (single == nil || bought < single.price-1e-9) {
			return
		}
		c.rollback(m)
	}
	if single == nil {
		return
	}
	b := c.v.buy(single)
	for _, s := range c.waitingShapes() {
		c.seat(s, []*bin{b})
	}
}

// oneForAll is the cheapest node that hosts all pods without a seat, of the
// heaviest Provisioner that has one at no more than that price. Nil: none.
func (c *consolidator) oneForAll(most float64) *column {
	v := c.v
	waiting := c.waitingShapes()
	need := make([]int64, len(v.dims.names))
	for _, s := range waiting {
		for r, x := range s.vector {
			need[r] += x * int64(v.left[s.id])
		}
	}
	var best *column
next:
	for _, i := range v.m.byPrice() {
		col := &v.m.columns[i]
		c.work++
		if col.price > most {
			break
		}
		if !vectorFits(need, col.free) || col.seller.left.room(col) == 0 || best != nil && col.seller.p.Spec.Weight <= best.seller.p.Spec.Weight {
			continue
		}
		for _, s := range waiting {
			if !v.sigs[s.sig].cols.has(col.index) {
				continue next
			}
		}
		if c.holdsAll(col, waiting) {
			best = col
		}
	}
	return best
}

// holdsAll says whether a node of the column would be given all pods without a
// seat; only ties between pods are left to find out.
func (c *consolidator) holdsAll(col *column, waiting []*shape) bool {
	if !slices.ContainsFunc(waiting, func(s *shape) bool { return s.tied() || len(s.ports) > 0 }) {
		return true
	}
	m := c.mark()
	b := c.v.buy(col)
	for _, s := range waiting {
		c.seat(s, []*bin{b})
	}
	ok := c.v.waiting() == 0
	c.rollback(m)
	return ok
}

const (
	// maxPacks bounds how often the packer is asked in a plan.
	maxPacks = 400
	// packWork is what asking it counts as.
	packWork = 40_000
)

// buySeveral lets the packer choose nodes for what is not tied to others, and
// buys for the rest pod by pod.
func (c *consolidator) buySeveral(from int) {
	v := c.v
	var items []*item
	for _, s := range c.waitingShapes() {
		if s.mode == modeLocal || s.counted {
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
			c.work += len(c.receivers)
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
		for _, r := range c.v.realms {
			if val, ok := c.v.label(b, r.key); ok && r.has(b) {
				c.domains[r][val] = true
			}
		}
	}
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
