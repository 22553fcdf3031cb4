package main

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// tinyProblem has few pods and offers. Prices follow size roughly, so that which
// nodes are best is not obvious.
func tinyProblem(r *rand.Rand) *problem {
	pr := &problem{}
	for range 2 + r.IntN(4) {
		f := room{100 * (2 + r.Int64N(20)), 100 * (2 + r.Int64N(20)), 1 + r.Int64N(5)}
		pr.offers = append(pr.offers, offer{f, float64(f[0]+f[1]) * (0.7 + 0.6*r.Float64())})
	}
	big := room{2200, 2200, 5}
	pr.offers = append(pr.offers, offer{big, 3000 + 2000*r.Float64()})
	for range 1 + r.IntN(4) {
		pr.sizes = append(pr.sizes, room{10 * r.Int64N(100), 10 * r.Int64N(100), 1})
		pr.counts = append(pr.counts, 1+r.IntN(2))
	}
	pr.reduce()
	return pr
}

// exhaustive is what the cheapest nodes for all pods cost, by looking at every way
// to divide the pods.
func exhaustive(pr *problem) float64 {
	var list []room
	for i, n := range pr.counts {
		for range n {
			list = append(list, pr.sizes[i])
		}
	}
	best := make([]float64, 1<<len(list))
	alone := make([]float64, len(best))
	for set := 1; set < len(best); set++ {
		var sum room
		for i, s := range list {
			if set&(1<<i) != 0 {
				sum = sum.use(s, -1)
			}
		}
		alone[set] = math.Inf(1)
		for _, o := range pr.offers {
			if o.free.holds(sum) {
				alone[set] = min(alone[set], o.price)
			}
		}
		best[set] = alone[set]
		for part := (set - 1) & set; part > 0; part = (part - 1) & set {
			best[set] = min(best[set], alone[part]+best[set&^part])
		}
	}
	return best[len(best)-1]
}

func TestTheBoundIsNeverAboveTheOptimum(t *testing.T) {
	proofs, below := 0, 0.0
	for seed := range uint64(300) {
		pr := tinyProblem(rand.New(rand.NewPCG(seed, 7)))
		want := exhaustive(pr)
		bound, proven := pr.least(math.Inf(1), time.Minute)
		if bound > want*(1+1e-6) || proven && bound < want*(1-1e-6) {
			t.Errorf("seed %d: bound %v, proven %v, optimum %v: %+v", seed, bound, proven, want, pr)
		}
		if proven {
			proofs++
		}
		below = max(below, 1-bound/want)
		// What costs no less than the plan at hand is not looked for.
		if capped, _ := pr.least(want*0.9, time.Minute); capped > want*0.9*(1+1e-6) {
			t.Errorf("seed %d: bound %v when the most is %v", seed, capped, want*0.9)
		}
	}
	t.Logf("%d of 300 proven; at most %.2f %% below", proofs, 100*below)
	if proofs < 150 {
		t.Errorf("only %d of 300 proven", proofs)
	}
}

func TestSimplexFindsWhatTheDualProves(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 8))
	for range 200 {
		m, n := 1+r.IntN(8), 1+r.IntN(8)
		a, b, gain := make([][]float64, m), make([]float64, m), make([]float64, n)
		for i := range a {
			a[i] = make([]float64, n)
			for j := range a[i] {
				a[i][j] = float64(r.IntN(4))
			}
			b[i] = float64(r.IntN(5))
		}
		for j := range gain {
			a[0][j] = 1 + r.Float64() // bounded
			gain[j] = 4*r.Float64() - 1
		}
		value, x, y := simplex(a, b, gain)
		bound := 0.0
		for i, row := range a {
			bound += b[i] * y[i]
			used := 0.0
			for j, v := range row {
				used += v * x[j]
			}
			if used > b[i]+1e-7 || y[i] < 0 {
				t.Fatalf("row %d of %v: %v > %v or dual %v", i, a, used, b[i], y[i])
			}
		}
		for j := range gain {
			priced := 0.0
			for i := range a {
				priced += y[i] * a[i][j]
			}
			if priced < gain[j]-1e-7 || x[j] < 0 {
				t.Fatalf("column %d of %v: the duals give %v < %v", j, a, priced, gain[j])
			}
		}
		if math.Abs(value-bound) > 1e-7 {
			t.Fatalf("%v, but the duals prove %v", value, bound)
		}
	}
}
