package main

import (
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// pending is a decision whose replacements boot.
type pending struct {
	d      *capacity.Decision
	bought []*capacity.Node
}

// quiet lets consolidation work on a cluster minute by minute, with the settings
// and the budget (10 % of the nodes at a time) that hold by default, each pod
// going where kube-scheduler would put it (most is free) and not where the plan
// has it. When nothing has been begun for 15 minutes, it counts the evictions of
// the 30 minutes after that.
func quiet() error {
	fmt.Println("\nRest: minute by minute, default settings, budget 10 %, pods go where most is free")
	fmt.Printf("%-34s %6s %6s %10s %10s %9s %8s %10s %12s\n", "", "nodes", "pods", "$/h before", "$/h after", "best ever", "moves", "unplanned", "then in 30 m")
	for _, share := range []float64{0.2, 0.4, 0.6} {
		w, err := newTown(townConfig{nodes: 300, steps: 20, seed: 5})
		if err != nil {
			return err
		}
		w.thin(share, false)
		before, nodes, pods, lowest := w.cost(), len(w.nodes), w.pods(), lowestCost(w)
		moves, unplanned, idle, after := 0, 0, 0, 0
		var waiting []pending
		for idle < 15+30 {
			evicted, bought, begun, err := w.minute(&waiting)
			if err != nil {
				return err
			}
			moves, unplanned = moves+evicted, unplanned+bought
			idle++
			if idle > 15 {
				after += evicted
			} else if begun > 0 || evicted > 0 {
				idle = 0
			}
		}
		fmt.Printf("%-34s %6d %6d %10.2f %10.2f %9.2f %8d %10d %12d\n", fmt.Sprintf("%d %% deleted at random", int(100*share)), nodes, pods, before, w.cost(), lowest, moves, unplanned, after)
	}
	return nil
}

// lowestCost is what the cluster would cost if it were built anew.
func lowestCost(w *town) float64 {
	var pods []*corev1.Pod
	for _, n := range w.nodes {
		pods = append(pods, n.Pods...)
	}
	return capacity.Solve(&capacity.Snapshot{Now: w.now, Region: region, Pods: pods, Provisioners: []*capacity.Provisioner{w.provisioner}, Budget: 100 * time.Millisecond}).HourlyCost
}

// minute carries out what is ready and begins what the budget allows.
func (w *town) minute(waiting *[]pending) (evicted, unplanned, begun int, err error) {
	w.now = w.now.Add(time.Minute)
	ready := *waiting
	*waiting = nil
	busy := map[*capacity.Node]bool{}
	for _, p := range ready {
		for _, n := range p.d.Nodes {
			busy[n] = true
		}
	}
	out := capacity.Consolidate(w.input(sane))
	room := (len(w.nodes)+9)/10 - len(busy)
	for i := range out.Decisions {
		d := &out.Decisions[i]
		if room < len(d.Nodes) || slices.ContainsFunc(d.Nodes, func(n *capacity.Node) bool { return busy[n] }) {
			continue
		}
		room -= len(d.Nodes)
		begun++
		p := pending{d: d}
		for j := range d.Launches {
			n := w.join(&d.Launches[j])
			w.reserved[n] = true
			p.bought = append(p.bought, n)
		}
		if len(p.bought) > 0 {
			*waiting = append(*waiting, p)
		} else {
			ready = append(ready, p)
		}
	}
	intents := make([]capacity.Intent, len(ready))
	for k, p := range ready {
		for _, n := range p.d.Nodes {
			intents[k].Nodes = append(intents[k].Nodes, n.Name)
		}
		for _, n := range p.bought {
			intents[k].Replacements = append(intents[k].Replacements, n.Name)
		}
	}
	whys := capacity.Recheck(w.input(sane), intents)
	var pods []*corev1.Pod
	gone := map[*capacity.Node]bool{}
	for k, p := range ready {
		for _, n := range p.bought {
			delete(w.reserved, n)
		}
		if whys[k] != "" {
			continue
		}
		for _, n := range p.d.Nodes {
			gone[n] = true
			pods = append(pods, n.Pods...)
		}
	}
	w.nodes = slices.DeleteFunc(w.nodes, func(n *capacity.Node) bool { return gone[n] })
	w.r.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
	var lost []*corev1.Pod
	for _, p := range pods {
		w.moved[p.Labels["app"]]++
		if n := w.emptiest(p); n != nil {
			w.bind(p, n)
		} else {
			lost = append(lost, p)
		}
	}
	if len(lost) > 0 {
		if unplanned, err = w.grow(lost); err != nil {
			return 0, 0, 0, err
		}
	}
	return len(pods), unplanned, begun, nil
}

// emptiest is the node with room for the pod where the largest share is free.
func (w *town) emptiest(p *corev1.Pod) *capacity.Node {
	req := w.request(p)
	var best *capacity.Node
	most := math.Inf(-1)
	for _, n := range w.nodes {
		free := n.Allocatable.Clone()
		for _, q := range n.Pods {
			free.Sub(w.request(q))
		}
		if w.reserved[n] || !req.Fits(free) {
			continue
		}
		f := 0.0
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			f += float64(free[name]) / float64(n.Allocatable[name])
		}
		if f > most {
			best, most = n, f
		}
	}
	return best
}
