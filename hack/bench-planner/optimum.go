package main

import (
	"cmp"
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// room is CPU in millicores, memory in bytes, and pods.
type room [3]int64

func (a room) holds(b room) bool { return a[0] >= b[0] && a[1] >= b[1] && a[2] >= b[2] }

// use is the room that n pods of size b leave.
func (a room) use(b room, n int) room {
	for r := range a {
		a[r] -= b[r] * int64(n)
	}
	return a
}

// offer is a node that can be bought any number of times.
type offer struct {
	free  room
	price float64
}

// problem is which nodes to buy for pods that nothing but their size matters to:
// counts[i] pods of sizes[i]. It knows nothing of the planner; it is there to say
// how good its plans are.
type problem struct {
	offers []offer
	sizes  []room
	counts []int
}

// newProblem is about pods that ask for CPU and memory only, on empty nodes of the
// Provisioner that the daemons run on as well.
func newProblem(list []*corev1.Pod, p *capacity.Provisioner, daemons []*corev1.Pod) *problem {
	of := func(r capacity.Resources) room {
		return room{r[corev1.ResourceCPU], r[corev1.ResourceMemory], r[corev1.ResourcePods]}
	}
	pr := &problem{}
	index := map[room]int{}
	for _, pod := range list {
		size := of(capacity.PodRequests(pod))
		i, ok := index[size]
		if !ok {
			i = len(pr.sizes)
			index[size] = i
			pr.sizes, pr.counts = append(pr.sizes, size), append(pr.counts, 0)
		}
		pr.counts[i]++
	}
	for i := range p.InstanceTypes {
		t := &p.InstanceTypes[i]
		free := of(t.Allocatable)
		for _, d := range daemons {
			free = free.use(of(capacity.PodRequests(d)), 1)
		}
		for _, o := range t.Offerings {
			pr.offers = append(pr.offers, offer{free, o.Price})
		}
	}
	pr.reduce()
	return pr
}

// reduce cuts off room that no pods can fill, by the greatest common divisor of what
// they ask for, and leaves out offers that another one replaces: no dearer, as much
// room.
func (pr *problem) reduce() {
	for r := range (room{}) {
		unit := int64(0)
		for _, s := range pr.sizes {
			for a := s[r]; a != 0; unit, a = a, unit%a {
			}
		}
		for t := range pr.offers {
			if free := &pr.offers[t].free[r]; unit > 0 && *free > 0 {
				*free -= *free % unit
			}
		}
	}
	slices.SortStableFunc(pr.offers, func(a, b offer) int {
		return cmp.Or(cmp.Compare(a.price, b.price), cmp.Compare(b.free[0], a.free[0]), cmp.Compare(b.free[1], a.free[1]))
	})
	var left []offer
	for _, o := range pr.offers {
		if !slices.ContainsFunc(left, func(l offer) bool { return l.free.holds(o.free) }) {
			left = append(left, o)
		}
	}
	pr.offers = left
}

// cut is a condition that the nodes of every plan meet: let pods be worth
// something, all together 1, and holds[t] be an upper bound of the worth of the
// pods that fit offer t. Then nodes whose holds add up to less than 1 cannot take
// all pods.
type cut struct{ holds []float64 }

// least is a lower bound of what nodes for all pods cost, below most if that is
// one. Proven means that there is a plan at that price.
//
// It looks for the cheapest nodes that meet all cuts known, which no plan can
// beat, and tries to pack the pods into them. If that fails because the pods do
// not even fit in fractions of patterns, the duals of that are worths for a new
// cut, and it begins again.
func (pr *problem) least(most float64, limit time.Duration) (bound float64, proven bool) {
	deadline := time.Now().Add(limit)
	var cuts []cut
	for r := range (room{}) {
		worth, sum := make([]float64, len(pr.sizes)), 0.0
		for i, s := range pr.sizes {
			worth[i] = float64(s[r])
			sum += worth[i] * float64(pr.counts[i])
		}
		if sum == 0 {
			continue
		}
		for i := range worth {
			worth[i] /= sum
		}
		cuts = append(cuts, pr.cut(worth))
	}
	for {
		nodes, f, complete := pr.cheapest(cuts, most, deadline)
		bound = max(bound, f)
		if !complete || nodes == nil {
			return bound, complete
		}
		if pr.packs(nodes) {
			return bound, true
		}
		worth := pr.separate(nodes, deadline)
		if worth == nil {
			return bound, false
		}
		cuts = append(cuts, pr.cut(worth))
	}
}

// cut is the one at these worths.
func (pr *problem) cut(worth []float64) cut {
	c := cut{make([]float64, len(pr.offers))}
	for t, o := range pr.offers {
		c.holds[t], _ = pr.knapsack(worth, o.free)
	}
	return c
}

// label is a number of nodes on the way to enough.
type label struct {
	// price of the nodes, and total with the least that more of them will cost.
	price, total float64
	// covered is how far the cuts are met, at most 1 each.
	covered []float64
	offer   int
	from    *label
}

// queue has the label with the least total first, of equals the dearest: it lacks
// least.
type queue []*label

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].total != q[j].total {
		return q[i].total < q[j].total
	}
	return q[i].price > q[j].price
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(*label)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	l := (*q)[last]
	*q = (*q)[:last]
	return l
}

const tiny = 1e-9

// cheapest are the cheapest nodes that meet all cuts, by offer, with what they
// cost; none when that is most or more. What is still to pay for is bounded by the
// dual of the linear relaxation. Incomplete when the time was over: then nodes that
// cost less than the bound are ruled out.
func (pr *problem) cheapest(cuts []cut, most float64, deadline time.Time) (nodes []int, bound float64, complete bool) {
	// Prices of what a cut lacks, such that no offer is worth more than it costs.
	a, b := make([][]float64, len(pr.offers)), make([]float64, len(pr.offers))
	for t, o := range pr.offers {
		b[t] = o.price
		for _, c := range cuts {
			a[t] = append(a[t], c.holds[t])
		}
	}
	lack := make([]float64, len(cuts))
	rest := func(covered []float64) float64 {
		for k, x := range covered {
			lack[k] = 1 - x
		}
		v, _, _ := simplex(a, b, lack)
		return v * (1 - tiny)
	}
	start := &label{covered: make([]float64, len(cuts))}
	start.total = rest(start.covered)
	q := queue{start}
	var done []*label
	for n := 0; len(q) > 0; n++ {
		l := heap.Pop(&q).(*label)
		bound = max(bound, l.total)
		if n%64 == 0 && time.Now().After(deadline) {
			return nil, bound, false
		}
		if slices.Min(l.covered) >= 1-tiny {
			for ; l.from != nil; l = l.from {
				nodes = append(nodes, l.offer)
			}
			return nodes, bound, true
		}
		if slices.ContainsFunc(done, func(d *label) bool { return d.replaces(l) }) {
			continue
		}
		done = append(done, l)
		for t := range pr.offers {
			next := &label{price: l.price + pr.offers[t].price, offer: t, from: l, covered: slices.Clone(l.covered)}
			for k, c := range cuts {
				next.covered[k] = min(1, next.covered[k]+c.holds[t])
			}
			next.total = max(l.total, next.price+rest(next.covered))
			if next.total < most-tiny {
				heap.Push(&q, next)
			}
		}
	}
	return nil, most, true
}

// replaces says whether whatever l could lead to, d could lead to for no more.
func (d *label) replaces(l *label) bool {
	if d.price > l.price+tiny {
		return false
	}
	for k, x := range d.covered {
		if x < l.covered[k]-1e-12 {
			return false
		}
	}
	return true
}

// packSteps bounds the search of packs.
const packSteps = 1000000

// packs says whether it finds a way to put all pods onto these nodes, by simulated
// annealing: pods move or swap places so that nodes are ever less overfull.
func (pr *problem) packs(nodes []int) bool {
	r := rand.New(rand.NewPCG(1, uint64(len(nodes))))
	var list [][3]float64
	total := room{}
	for _, t := range nodes {
		total = total.use(pr.offers[t].free, -1)
	}
	scaled := func(x room) (y [3]float64) {
		for d := range x {
			y[d] = float64(x[d]) / float64(total[d])
		}
		return y
	}
	var free [][3]float64
	for _, t := range nodes {
		free = append(free, scaled(pr.offers[t].free))
	}
	for i, n := range pr.counts {
		for range n {
			list = append(list, scaled(pr.sizes[i]))
		}
	}
	// What the nodes lack for the pods on them.
	lack := func(x [3]float64) (sum float64) {
		for _, v := range x {
			sum += max(0, -v-1e-12)
		}
		return sum
	}
	plus := func(a, b [3]float64, f float64) [3]float64 {
		for d := range a {
			a[d] += f * b[d]
		}
		return a
	}
	at := make([]int, len(list))
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	bulk := func(i int) float64 { return list[i][0] + list[i][1] + list[i][2] }
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(bulk(b), bulk(a)) })
	lacking := 0.0
	for _, i := range order {
		best, least := 0, math.Inf(1)
		for k := range free {
			if l := lack(plus(free[k], list[i], -1)) - lack(free[k]); l < least {
				best, least = k, l
			}
		}
		at[i] = best
		lacking += least
		free[best] = plus(free[best], list[i], -1)
	}
	for step := 0; lacking > 1e-10 && step < packSteps; step++ {
		heat := 0.003 * math.Pow(1-float64(step)/packSteps, 2)
		i, j := r.IntN(len(list)), r.IntN(len(list))
		from, to := at[i], at[j]
		x := list[i]
		if r.IntN(3) == 0 {
			to, j = r.IntN(len(free)), -1
		} else {
			x = plus(x, list[j], -1)
		}
		if from == to {
			continue
		}
		a, b := plus(free[from], x, 1), plus(free[to], x, -1)
		change := lack(a) + lack(b) - lack(free[from]) - lack(free[to])
		if change > 0 && change > -heat*math.Log(r.Float64()) {
			continue
		}
		free[from], free[to], at[i] = a, b, to
		if j >= 0 {
			at[j] = from
		}
		lacking += change
	}
	// What is nearly so must be so.
	exact := make([]room, len(nodes))
	for k, t := range nodes {
		exact[k] = pr.offers[t].free
	}
	i := 0
	for size, n := range pr.counts {
		for range n {
			exact[at[i]] = exact[at[i]].use(pr.sizes[size], 1)
			i++
		}
	}
	return !slices.ContainsFunc(exact, func(x room) bool { return !x.holds(room{}) })
}

// separate looks for worths at which all pods are worth more than these nodes can
// hold. None: the pods fit in fractions of patterns, or it was not found out.
func (pr *problem) separate(nodes []int, deadline time.Time) []float64 {
	var kinds, times []int
	for _, t := range nodes {
		if k := slices.Index(kinds, t); k >= 0 {
			times[k]++
		} else {
			kinds, times = append(kinds, t), append(times, 1)
		}
	}
	// Variables: the worth of each size, then what each kind holds. All pods are
	// worth at most 1, and no pattern is worth more than its kind holds.
	n := len(pr.sizes)
	gain := make([]float64, n+len(kinds))
	all := make([]float64, n+len(kinds))
	for i, c := range pr.counts {
		gain[i], all[i] = float64(c), float64(c)
	}
	for k, x := range times {
		gain[n+k] = -float64(x)
	}
	a, b := [][]float64{all}, []float64{1}
	for !time.Now().After(deadline) {
		v, x, _ := simplex(a, b, gain)
		if v < 1e-7 {
			return nil
		}
		worth, sum := x[:n], 0.0
		for i, c := range pr.counts {
			sum += worth[i] * float64(c)
		}
		held, added := 0.0, false
		for k, t := range kinds {
			top, content := pr.knapsack(worth, pr.offers[t].free)
			held += top * float64(times[k])
			row, value := make([]float64, n+len(kinds)), 0.0
			for i, c := range content {
				row[i] = float64(c)
				value += worth[i] * float64(c)
			}
			if row[n+k] = -1; value > x[n+k]+tiny {
				a, b, added = append(a, row), append(b, 0), true
			}
		}
		if held < sum*(1-1e-6) {
			for i := range worth {
				worth[i] /= sum
			}
			return worth
		}
		if !added {
			return nil
		}
	}
	return nil
}

// knapsackSteps bounds the search of each knapsack.
const knapsackSteps = 200000

// knapsack is an upper bound of what pods that fit into free together can be
// worth, and a content, the best when the search came to its end. The bound of a
// branch is the fractional knapsack with resources added up at the prices of the
// linear relaxation, which holds at any prices.
func (pr *problem) knapsack(worth []float64, free room) (float64, []int) {
	type candidate struct {
		size, most    int
		value, weight float64
	}
	var list []candidate
	for i, s := range pr.sizes {
		if worth[i] <= 0 {
			continue
		}
		n := pr.counts[i]
		for r := range s {
			if s[r] > 0 {
				n = min(n, int(max(free[r], 0)/s[r]))
			}
		}
		if n > 0 {
			list = append(list, candidate{size: i, most: n, value: worth[i]})
		}
	}
	content := make([]int, len(pr.sizes))
	if len(list) == 0 {
		return 0, content
	}
	rows := len(free) + len(list)
	a, b, gain := make([][]float64, rows), make([]float64, rows), make([]float64, len(list))
	for r := range a {
		a[r] = make([]float64, len(list))
	}
	for j, c := range list {
		gain[j] = c.value
		for r := range free {
			a[r][j], b[r] = float64(pr.sizes[c.size][r])/float64(free[r]), 1
		}
		a[len(free)+j][j], b[len(free)+j] = 1, float64(c.most)
	}
	_, _, y := simplex(a, b, gain)
	capacity := y[0] + y[1] + y[2]
	for j := range list {
		for r := range free {
			list[j].weight += y[r] * a[r][j]
		}
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return cmp.Compare(b.value*a.weight, a.value*b.weight) })
	steps, best := knapsackSteps, 0.0
	taken := make([]int, len(list))
	var descend func(j int, left room, capacity, value float64) float64
	descend = func(j int, left room, capacity, value float64) float64 {
		if value > best {
			best = value
			clear(content)
			for i, n := range taken {
				content[list[i].size] = n
			}
		}
		if j == len(list) {
			return value
		}
		c := list[j]
		n := c.most
		for r, x := range pr.sizes[c.size] {
			if x > 0 {
				n = min(n, int(left[r]/x))
			}
		}
		top := 0.0
		for ; n >= 0; n-- {
			more := capacity - c.weight*float64(n)
			above := value + c.value*float64(n)
			for i, w := j+1, max(0, more); i < len(list); i++ {
				d := list[i]
				if full := d.weight * float64(d.most); full <= w {
					w -= full
					above += d.value * float64(d.most)
					continue
				}
				above += d.value * w / d.weight
				break
			}
			// Taking fewer of the densest can only lower this.
			if above <= best*(1+1e-12) || steps == 0 {
				return max(top, above)
			}
			steps--
			taken[j] = n
			top = max(top, descend(j+1, left.use(pr.sizes[c.size], n), more, value+c.value*float64(n)))
			taken[j] = 0
		}
		return top
	}
	top := descend(0, free, capacity, 0)
	return max(top, best) * (1 + tiny), content
}

// simplex finds the greatest value gain·x under a·x ≤ b, x ≥ 0, where b ≥ 0 and the
// gain is bounded, that x, and the prices y of the rows. It is the textbook's, on a
// tableau; after many steps by Bland's rule, which ends always.
func simplex(a [][]float64, b, gain []float64) (value float64, x, y []float64) {
	m, n := len(a), len(gain)
	w := n + 1
	t := make([]float64, (m+1)*w)
	rowVar, colVar := make([]int, m), make([]int, n)
	for i := range a {
		copy(t[i*w:], a[i])
		t[i*w+n] = b[i]
		rowVar[i] = n + i
	}
	for j, g := range gain {
		t[m*w+j], colVar[j] = -g, j
	}
	for step := range 50 * (m + n) {
		careful := step > 5*(m+n)
		enter := -1
		for j := range n {
			if c := t[m*w+j]; c < -1e-11 && (enter < 0 || careful && colVar[j] < colVar[enter] || !careful && c < t[m*w+enter]) {
				enter = j
			}
		}
		if enter < 0 {
			break
		}
		leave, least := -1, math.Inf(1)
		for i := range m {
			if p := t[i*w+enter]; p > 1e-10 {
				q := t[i*w+n] / p
				if q < least-1e-13 || q <= least+1e-13 && (careful && rowVar[i] < rowVar[leave] || !careful && p > t[leave*w+enter]) {
					leave, least = i, q
				}
			}
		}
		if leave < 0 {
			break
		}
		f := 1 / t[leave*w+enter]
		row := t[leave*w : leave*w+w]
		for j := range row {
			row[j] *= f
		}
		row[enter] = f
		for i := range m + 1 {
			if i == leave {
				continue
			}
			to := t[i*w : i*w+w]
			g := to[enter]
			if g == 0 {
				continue
			}
			to[enter] = 0
			for j, v := range row {
				to[j] -= g * v
			}
		}
		rowVar[leave], colVar[enter] = colVar[enter], rowVar[leave]
	}
	x, y = make([]float64, n), make([]float64, m)
	for i, v := range rowVar {
		if v < n {
			x[v] = max(0, t[i*w+n])
		}
	}
	for j, v := range colVar {
		if v >= n {
			y[v-n] = max(0, t[m*w+j])
		}
	}
	return t[m*w+n], x, y
}
