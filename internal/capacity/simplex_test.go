package capacity

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// Weak duality proves an answer optimal: its value equals that of the dual.
func TestSimplexAnswersAreOptimal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s simplex
		rows, n := rapid.IntRange(1, 4).Draw(t, "rows"), rapid.IntRange(1, 12).Draw(t, "columns")
		s.reset(rows)
		for r := range rows {
			s.b[r] = float64(rapid.IntRange(0, 50).Draw(t, "b"))
		}
		for range n {
			a := s.add(float64(rapid.IntRange(-5, 20).Draw(t, "c")), float64(rapid.IntRange(0, 9).Draw(t, "u")))
			for r := range a {
				a[r] = float64(rapid.IntRange(0, 9).Draw(t, "a"))
			}
		}
		s.solve()
		primal, dual := 0.0, 0.0
		used := make([]float64, rows)
		for j, x := range s.x {
			if x < -1e-6 || x > s.upper[j]+1e-6 {
				t.Fatalf("x[%d] = %v is out of bounds", j, x)
			}
			primal += s.cost[j] * x
			d := s.cost[j]
			for r := range rows {
				used[r] += s.cols[j*rows+r] * x
				d -= s.y[r] * s.cols[j*rows+r]
			}
			dual += s.upper[j] * math.Max(0, d)
		}
		for r := range rows {
			if used[r] > s.b[r]+1e-6 || s.y[r] < -1e-6 {
				t.Fatalf("row %d: %v of %v used at price %v", r, used[r], s.b[r], s.y[r])
			}
			dual += s.b[r] * s.y[r]
		}
		if math.Abs(primal-dual) > 1e-6*(1+math.Abs(primal)) {
			t.Fatalf("value %v, bound %v", primal, dual)
		}
	})
}

func TestNoKindIsWorthMoreThanItsPrice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "kinds")
		dims := rapid.IntRange(1, 4).Draw(t, "dimensions")
		vectors, prices := make([][]int64, n), make([]float64, n)
		for i := range vectors {
			prices[i] = float64(rapid.IntRange(1, 1000).Draw(t, "price")) / 100
			for range dims {
				vectors[i] = append(vectors[i], int64(rapid.IntRange(-3, 100).Draw(t, "free")))
			}
		}
		demand := make([]float64, dims)
		for r := range demand {
			demand[r] = float64(rapid.IntRange(0, 10000).Draw(t, "demand"))
		}
		y := coverPrices(&simplex{}, demand, vectors, prices)
		for i, vec := range vectors {
			worth := 0.0
			for r, x := range vec {
				worth += y[r] * float64(max(x, 0))
			}
			if worth > prices[i]*(1+1e-9) {
				t.Fatalf("kind %d is worth %v and costs %v", i, worth, prices[i])
			}
		}
	})
}
