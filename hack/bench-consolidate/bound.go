package main

import (
	"math"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// bound is more than any plan can save with at most that many moves, in $/h: the
// Lagrangian dual of choosing nodes to take away such that what runs on them fits,
// cpu and memory each added up, into the room on the others and on nodes bought.
// Every choice of multipliers gives a bound; the best that a pattern search finds
// is taken.
func bound(w *town, moves int) float64 {
	d := &dual{moves: float64(moves)}
	for _, n := range w.nodes {
		c := item{price: n.HourlyPrice, moves: float64(len(n.Pods))}
		// What a node takes with it: its pods' demand and its own free room, which is
		// all that it has.
		c.room = amounts(n.Allocatable)
		used := [2]float64{}
		for _, p := range n.Pods {
			a := amounts(capacity.PodRequests(p))
			used[0], used[1] = used[0]+a[0], used[1]+a[1]
		}
		d.free[0] += c.room[0] - used[0]
		d.free[1] += c.room[1] - used[1]
		d.items = append(d.items, c)
	}
	for _, t := range w.provisioner.InstanceTypes {
		if len(t.Offerings) > 0 {
			d.types = append(d.types, item{price: t.Offerings[0].Price, room: amounts(t.Allocatable)})
		}
	}
	return d.least()
}

type item struct {
	price, moves float64
	// room in cores and GiB.
	room [2]float64
}

func amounts(r capacity.Resources) [2]float64 {
	return [2]float64{float64(r[corev1.ResourceCPU]) / 1000, float64(r[corev1.ResourceMemory]) / (1 << 30)}
}

type dual struct {
	items, types []item
	free         [2]float64
	moves        float64
}

// value of the dual at a price per move and per core and GiB; the latter are cut
// to what makes buying room no gain.
func (d *dual) value(x [3]float64) float64 {
	worst := 1.0
	for _, t := range d.types {
		worst = max(worst, (x[1]*t.room[0]+x[2]*t.room[1])/t.price)
	}
	x[1], x[2] = x[1]/worst, x[2]/worst
	sum := x[0]*d.moves + x[1]*d.free[0] + x[2]*d.free[1]
	for _, n := range d.items {
		sum += max(0, n.price-x[0]*n.moves-x[1]*n.room[0]-x[2]*n.room[1])
	}
	return sum
}

func (d *dual) least() float64 {
	best := math.Inf(1)
	for _, start := range [][3]float64{{0, 0, 0}, {0.01, 0.03, 0.003}, {0.001, 0.02, 0.01}, {0.03, 0.001, 0.01}} {
		x, step := start, [3]float64{0.02, 0.02, 0.01}
		at := d.value(x)
		for step[0] > 1e-7 {
			moved := false
			for _, dir := range directions {
				y := x
				for k := range y {
					y[k] = max(0, y[k]+step[k]*dir[k])
				}
				if v := d.value(y); v < at-1e-12 {
					x, at, moved = y, v, true
				}
			}
			if !moved {
				for k := range step {
					step[k] /= 2
				}
			}
		}
		best = min(best, at)
	}
	return best
}

// directions of the pattern search: along the axes and the diagonals.
var directions = func() [][3]float64 {
	var out [][3]float64
	for a := -1.0; a <= 1; a++ {
		for b := -1.0; b <= 1; b++ {
			for c := -1.0; c <= 1; c++ {
				out = append(out, [3]float64{a, b, c})
			}
		}
	}
	return out
}()
