package capacity_test

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// exhaustive finds the most that can be saved in a small town with at most that
// many moves, by trying all of it: every set of nodes to take away, and every
// way to put their pods onto the others and onto new nodes. Pods must be tied to
// nothing: only cpu, memory and their number count.
func exhaustive(w *town, moves int) float64 {
	x := &search{prices: pricesOf(w)}
	for _, n := range w.nodes {
		free := roomOf(n.Allocatable)
		for _, p := range n.Pods {
			free = free.less(roomOf(capacity.PodRequests(p)))
		}
		x.free = append(x.free, free)
	}
	for set := 1; set < 1<<len(w.nodes); set++ {
		x.pods, x.gone, x.bestCost = x.pods[:0], set, 0
		for i, n := range w.nodes {
			if set&(1<<i) != 0 {
				x.bestCost += n.HourlyPrice
				for _, p := range n.Pods {
					x.pods = append(x.pods, roomOf(capacity.PodRequests(p)))
				}
			}
		}
		if len(x.pods) > moves {
			continue
		}
		slices.SortFunc(x.pods, func(a, b room) int { return int(b[0] - a[0]) })
		price := x.bestCost
		x.bestCost -= x.saved
		x.place(0, nil, 0)
		x.saved = max(x.saved, price-x.bestCost)
	}
	return x.saved
}

// room is cpu, memory and pods.
type room [3]int64

func roomOf(r capacity.Resources) room {
	return room{r[corev1.ResourceCPU], r[corev1.ResourceMemory], r[corev1.ResourcePods]}
}

func (a room) less(b room) room { return room{a[0] - b[0], a[1] - b[1], a[2] - b[2]} }
func (a room) more(b room) room { return room{a[0] + b[0], a[1] + b[1], a[2] + b[2]} }
func (a room) holds(b room) bool {
	return a[0] >= b[0] && a[1] >= b[1] && a[2] >= b[2]
}

type offer struct {
	room
	price float64
}

func pricesOf(w *town) []offer {
	var out []offer
	for _, t := range w.provisioners[0].InstanceTypes {
		best := math.Inf(1)
		for _, o := range t.Offerings {
			best = min(best, o.Price)
		}
		out = append(out, offer{roomOf(t.Allocatable), best})
	}
	return out
}

type search struct {
	prices []offer
	free   []room
	gone   int
	pods   []room
	// saved is the most that any set saves; bestCost what the nodes bought may
	// cost to be better than that.
	saved, bestCost float64
}

func (x *search) priceOf(load room) float64 {
	best := math.Inf(1)
	for _, o := range x.prices {
		if o.holds(load) {
			best = min(best, o.price)
		}
	}
	return best
}

// place tries all places for the pods from the i-th on.
func (x *search) place(i int, bought []room, cost float64) {
	if cost >= x.bestCost-1e-9 {
		return
	}
	if i == len(x.pods) {
		x.bestCost = cost
		return
	}
	p := x.pods[i]
	for k := range x.free {
		if x.gone&(1<<k) == 0 && x.free[k].holds(p) {
			x.free[k] = x.free[k].less(p)
			x.place(i+1, bought, cost)
			x.free[k] = x.free[k].more(p)
		}
	}
	for k, load := range bought {
		was := x.priceOf(load)
		bought[k] = load.more(p)
		x.place(i+1, bought, cost-was+x.priceOf(bought[k]))
		bought[k] = load
	}
	x.place(i+1, append(bought[:len(bought):len(bought)], p), cost+x.priceOf(p))
}
