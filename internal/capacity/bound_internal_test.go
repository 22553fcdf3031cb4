package capacity

import (
	"math"
	"math/rand/v2"
	"testing"
)

// dearestOfAll is what a node can hold at most per price, by trying all contents.
func dearestOfAll(p *packer, pi []float64, have []int) float64 {
	most := 0.0
	for _, k := range p.kinds {
		var fill func(item int, cpu, memory int64, value float64)
		fill = func(item int, cpu, memory int64, value float64) {
			most = max(most, value/k.price)
			if item == len(p.items) {
				return
			}
			req := p.items[item].req
			for n := int64(0); n <= int64(have[item]) && n*req[0] <= cpu && n*req[1] <= memory; n++ {
				fill(item+1, cpu-n*req[0], memory-n*req[1], value+float64(n)*pi[item])
			}
		}
		fill(0, k.free[0], k.free[1], 0)
	}
	return most
}

// TestDearestIsProven: the bound is never below what a node can hold, however little
// time there is, and with time enough it is what a node can hold.
func TestDearestIsProven(t *testing.T) {
	exact := 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		p, _, have := coverCase(r)
		pi := make([]float64, len(p.items))
		for j, it := range p.items {
			pi[j] = float64(it.req[0]+it.req[1]) * (0.5 + r.Float64())
		}
		want := dearestOfAll(p, pi, have)
		for _, end := range []int64{0, 1000, math.MaxInt64} {
			got := p.dearest(pi, have, end)
			if got < want*(1-1e-12) {
				t.Fatalf("seed %d, until %d: %.9f, but a node can hold %.9f", seed, end, got, want)
			}
			if end == math.MaxInt64 && got > want*(1+2*nearEnough) {
				t.Fatalf("seed %d: %.9f, though no node can hold more than %.9f", seed, got, want)
			}
			if end == 0 && got < want*(1+nearEnough) {
				exact++
			}
		}
	}
	if exact == 3000 {
		t.Error("no time was enough everywhere: nothing was sought")
	}
}
