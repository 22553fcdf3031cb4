package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

const (
	onlinePods    = 5000
	onlineBatch   = 10
	onlineBudget  = 20 * time.Millisecond
	onlineMeanBar = 8.0
)

// online plans pods batch by batch, each on what the batches before have bought.
func online(b *bench) (result, error) {
	p := onDemand.provisioner(b.region)
	sum, n, worst, worseThanFirstFit := 0.0, 0, 0.0, ""
	for _, w := range workloads(b.data) {
		if !slices.Contains([]string{"generic", "deploy20", "mixed"}, w.name) || b.workloads != nil && !slices.Contains(b.workloads, w.name) {
			continue
		}
		list := pods(w.sizes(b.rand(), onlinePods))
		r := rand.New(rand.NewPCG(b.seed, 2))
		r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		whole := b.snapshot(list, 300*time.Millisecond, p)
		bound := capacity.Solve(whole).LowerBound
		cost, nodes, t, err := b.inBatches(list, p)
		if err != nil {
			return result{}, fmt.Errorf("%s: %w", w.name, err)
		}
		first := firstFit(list, p)
		gap := 100 * (cost/bound - 1)
		if b.details {
			fmt.Printf("| | %s | | %.2f %% above, %d nodes, %.3f $/h; first-fit-decreasing %.2f %%; %s for each batch | |\n",
				w.name, gap, nodes, cost, 100*(first/bound-1), short(t.best()/(onlinePods/onlineBatch)))
		}
		if cost > first {
			worseThanFirstFit = w.name
		}
		sum += gap
		worst = max(worst, gap)
		n++
	}
	if n == 0 {
		return result{"nothing to measure", true}, nil
	}
	text := fmt.Sprintf("mean %.1f %%, worst %.1f %%; ", sum/float64(n), worst)
	if worseThanFirstFit == "" {
		text += "cheaper than first-fit-decreasing everywhere"
	} else {
		text += "dearer than first-fit-decreasing for " + worseThanFirstFit
	}
	return result{text, sum/float64(n) <= onlineMeanBar && worseThanFirstFit == ""}, nil
}

// inBatches is the cost of all nodes in the end.
func (b *bench) inBatches(list []*corev1.Pod, p *capacity.Provisioner) (cost float64, nodes int, t span, err error) {
	var there []*capacity.Node
	t = timed(func() {
		for batch := range slices.Chunk(list, onlineBatch) {
			s := b.snapshot(batch, onlineBudget, p)
			s.Nodes = there
			plan := capacity.Solve(s)
			if len(plan.Unschedulable) > 0 {
				err = fmt.Errorf("a pod has no place: %+v", plan.Unschedulable[0].Reasons)
				return
			}
			for _, x := range plan.Placements {
				x.Node.Pods = append(x.Node.Pods, x.Pod)
			}
			for i := range plan.Launches {
				l := &plan.Launches[i]
				cost += l.Price
				name := fmt.Sprintf("n-%04d", len(there))
				node := &capacity.Node{Name: name, Labels: l.Labels, Taints: l.Taints, Allocatable: l.Allocatable, Pods: l.Pods,
					Provisioner: l.Provisioner.Name, Claim: name, HourlyPrice: l.Price}
				node.Labels[corev1.LabelHostname] = name
				there = append(there, node)
			}
		}
	})
	return cost, len(there), t, err
}

// firstFit is what first-fit-decreasing comes to, batch by batch: pods by CPU and
// memory, largest first, each onto the first node with room, then onto the open
// node with fewest pods that some type can still hold; a node that is opened
// becomes the cheapest type that holds it at the end of its batch.
func firstFit(list []*corev1.Pod, p *capacity.Provisioner) float64 {
	type choice struct {
		free  [3]int64
		price float64
	}
	names := [3]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourcePods}
	vector := func(r capacity.Resources) (v [3]int64) {
		for i, n := range names {
			v[i] = r[n]
		}
		return v
	}
	daemon := vector(capacity.PodRequests(daemons()[0]))
	var types []choice
	for i := range p.InstanceTypes {
		t := &p.InstanceTypes[i]
		if len(t.Offerings) == 0 || t.OnlyFor != "" {
			continue
		}
		c := choice{vector(t.Allocatable), t.Offerings[0].Price}
		for k := range c.free {
			c.free[k] -= daemon[k]
		}
		types = append(types, c)
	}
	slices.SortFunc(types, func(a, b choice) int {
		if a.price < b.price {
			return -1
		}
		return 1
	})
	fits := func(req, free [3]int64) bool { return req[0] <= free[0] && req[1] <= free[1] && req[2] <= free[2] }
	type node struct {
		used [3]int64
		free [3]int64
		pods int
	}
	var closed []node
	cost := 0.0
	for batch := range slices.Chunk(list, onlineBatch) {
		reqs := make([][3]int64, len(batch))
		for i, pod := range batch {
			reqs[i] = vector(capacity.PodRequests(pod))
		}
		slices.SortFunc(reqs, func(a, b [3]int64) int {
			if a[0] != b[0] {
				return int(b[0] - a[0])
			}
			return int(b[1] - a[1])
		})
		var open []*node
	next:
		for _, req := range reqs {
			for i := range closed {
				if fits(req, closed[i].free) {
					for k := range req {
						closed[i].free[k] -= req[k]
					}
					continue next
				}
			}
			slices.SortStableFunc(open, func(a, b *node) int { return a.pods - b.pods })
			for _, n := range open {
				sum := n.used
				for k := range req {
					sum[k] += req[k]
				}
				if slices.ContainsFunc(types, func(c choice) bool { return fits(sum, c.free) }) {
					n.used, n.pods = sum, n.pods+1
					continue next
				}
			}
			open = append(open, &node{used: req, pods: 1})
		}
		for _, n := range open {
			i := slices.IndexFunc(types, func(c choice) bool { return fits(n.used, c.free) })
			cost += types[i].price
			for k := range n.free {
				n.free[k] = types[i].free[k] - n.used[k]
			}
			closed = append(closed, *n)
		}
	}
	return cost
}
