package capacity

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Weak duality proves an answer optimal: its value equals that of the dual. The
// second problem differs in what there is, and starts from the first one's basis.
func TestSimplexAnswersAreOptimal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s simplex
		rows, n := rapid.IntRange(1, 4).Draw(t, "rows"), rapid.IntRange(1, 12).Draw(t, "columns")
		costs := make([]float64, n)
		for j := range costs {
			costs[j] = float64(rapid.IntRange(-5, 20).Draw(t, "c"))
		}
		columns := make([]int, rows*n)
		for i := range columns {
			columns[i] = rapid.IntRange(0, 9).Draw(t, "a")
		}
		for range 2 {
			basis := slices.Clone(s.basis)
			s.reset(rows)
			s.start = append(s.start, basis...)
			for r := range rows {
				s.b[r] = float64(rapid.IntRange(0, 50).Draw(t, "b"))
			}
			for j, c := range costs {
				s.add(c, float64(rapid.IntRange(0, 9).Draw(t, "u")))
				for r := range rows {
					s.set(r, float64(columns[j*rows+r]))
				}
			}
			s.solve()
			proveOptimal(t, &s)
		}
	})
}

// Covering problems have no upper bounds, and rows that must be filled.
func TestSimplexCovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s simplex
		rows, n := rapid.IntRange(1, 4).Draw(t, "rows"), rapid.IntRange(1, 12).Draw(t, "columns")
		s.reset(rows)
		clear(s.b)
		for range n {
			s.add(-float64(rapid.IntRange(1, 20).Draw(t, "price")), inf)
			for r := range rows {
				x := rapid.IntRange(0, 9).Draw(t, "a")
				s.set(r, -float64(x))
				if x > 0 && s.b[r] == 0 {
					s.b[r] = -float64(rapid.IntRange(0, 50).Draw(t, "demand"))
				}
			}
		}
		s.solve()
		proveOptimal(t, &s)
	})
}

func proveOptimal(t *rapid.T, s *simplex) {
	primal, dual := 0.0, 0.0
	used := make([]float64, s.rows)
	for j, x := range s.x {
		if x < -1e-6 || x > s.upper[j]+1e-6 {
			t.Fatalf("x[%d] = %v is out of bounds", j, x)
		}
		primal += s.cost[j] * x
		d := s.cost[j]
		for _, e := range s.column(j) {
			used[e.row] += e.x * x
			d -= s.y[e.row] * e.x
		}
		if d > 1e-6 {
			dual += s.upper[j] * d
		}
	}
	for r, y := range s.y {
		if used[r] > s.b[r]+1e-6 || y < 0 {
			t.Fatalf("row %d: %v of %v used at price %v", r, used[r], s.b[r], y)
		}
		dual += s.b[r] * y
	}
	if math.Abs(primal-dual) > 1e-5*(1+math.Abs(primal)) {
		t.Fatalf("value %v, bound %v", primal, dual)
	}
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
