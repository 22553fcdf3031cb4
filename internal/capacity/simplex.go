package capacity

import "math"

// simplex maximises c·x under A·x + slack = b, 0 ≤ x ≤ u, slack ≥ 0 for a few
// rows and many columns: bounded-variable primal simplex with an explicit
// inverse of the basis. b must not be negative. Its buffers are reused, so one
// value serves many problems without allocation.
type simplex struct {
	rows int
	// cols holds columns of A one after the other, rows entries each.
	cols []float64
	cost []float64
	// upper bounds of x; +Inf allowed.
	upper []float64
	b     []float64
	// slackCost is the gain per unit of slack, 0 for plain inequalities.
	slackCost []float64
	// full are variables that are taken to be at their upper bound in the end:
	// solve starts from there as far as the rows allow.
	full []bool

	// x and y are the answer: values, and the duals of the rows; pivots how many
	// steps it took.
	x, y   []float64
	pivots int

	inv   []float64 // rows × rows
	basis []int32   // column, or -1-r for the slack of row r
	xb    []float64
	w     []float64
	atTop []bool
	inB   []bool
	// priced are the rows with a dual other than 0.
	priced []int
}

const simplexEps = 1e-9

var inf = math.Inf(1)

// reset starts a problem with that many rows and no columns.
func (s *simplex) reset(rows int) {
	s.rows = rows
	s.cols, s.cost, s.upper, s.full = s.cols[:0], s.cost[:0], s.upper[:0], s.full[:0]
	s.b = resized(s.b, rows)
	s.slackCost = resized(s.slackCost, rows)
	clear(s.slackCost)
}

func resized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// add appends a variable; the caller fills the returned column of A.
func (s *simplex) add(cost, upper float64) []float64 {
	s.cost = append(s.cost, cost)
	s.upper = append(s.upper, upper)
	s.full = append(s.full, false)
	n := len(s.cols)
	for range s.rows {
		s.cols = append(s.cols, 0)
	}
	return s.cols[n:]
}

// solve leaves the answer in x and y. It stops after a bounded number of pivots
// (x is feasible all the same); unbounded problems stop at once.
func (s *simplex) solve() {
	n, r := len(s.cost), s.rows
	s.x, s.y = resized(s.x, n), resized(s.y, r)
	s.inv, s.basis, s.xb, s.w = resized(s.inv, r*r), resized(s.basis, r), resized(s.xb, r), resized(s.w, r)
	s.atTop, s.inB = resized(s.atTop, n), resized(s.inB, n)
	clear(s.x)
	clear(s.atTop)
	clear(s.inB)
	clear(s.inv)
	for i := range r {
		s.inv[i*r+i] = 1
		s.basis[i] = int32(-1 - i)
		s.xb[i] = s.b[i]
	}
	s.fill()
	s.pivots = 0
	for i := range 200 + 20*r*r {
		s.pivots++
		s.duals()
		// Bland's rule, once the steepest gain may be going in circles.
		careful := i > 50+10*r
		j, ok := s.entering(careful)
		if !ok || !s.pivot(j, careful) {
			break
		}
	}
	for j := range n {
		if s.atTop[j] {
			s.x[j] = s.upper[j]
		}
	}
	for i, k := range s.basis {
		if k >= 0 {
			s.x[k] = math.Max(0, s.xb[i])
		}
	}
	s.duals()
}

// fill puts the variables that are taken to be full at their upper bounds, one
// after the other, as long as no row is exceeded: each spares a step.
func (s *simplex) fill() {
	r := s.rows
next:
	for j, full := range s.full {
		if !full || math.IsInf(s.upper[j], 1) {
			continue
		}
		a := s.cols[j*r : j*r+r]
		for k, x := range a {
			if x*s.upper[j] > s.xb[k] {
				continue next
			}
		}
		for k, x := range a {
			s.xb[k] -= x * s.upper[j]
		}
		s.atTop[j] = true
	}
}

func (s *simplex) duals() {
	r := s.rows
	for k := range r {
		s.y[k] = 0
	}
	for i, b := range s.basis {
		c := 0.0
		if b >= 0 {
			c = s.cost[b]
		} else {
			c = s.slackCost[-1-b]
		}
		if c != 0 {
			for k := range r {
				s.y[k] += c * s.inv[i*r+k]
			}
		}
	}
}

// entering is the column (-1-row for a slack) that gains most per unit, or the
// first that gains; not ok: none does.
func (s *simplex) entering(first bool) (best int, ok bool) {
	r := s.rows
	gain := simplexEps
	for k := range r {
		if d := s.slackCost[k] - s.y[k]; d > gain && !s.slackBasic(k) {
			best, gain, ok = -1-k, d, true
			if first {
				return best, true
			}
		}
	}
	// Most rows are worth nothing most of the time.
	s.priced = s.priced[:0]
	for k, y := range s.y {
		if y != 0 {
			s.priced = append(s.priced, k)
		}
	}
	for j, d := range s.cost {
		if s.inB[j] || s.upper[j] <= 0 {
			continue
		}
		a := s.cols[j*r : j*r+r]
		for _, k := range s.priced {
			d -= s.y[k] * a[k]
		}
		if s.atTop[j] {
			d = -d
		}
		if d > gain {
			best, gain, ok = j, d, true
			if first {
				return best, true
			}
		}
	}
	return best, ok
}

func (s *simplex) slackBasic(row int) bool {
	for _, b := range s.basis {
		if b == int32(-1-row) {
			return true
		}
	}
	return false
}

// pivot brings column j (or slack -1-row) into the basis, or flips its bound. Of
// several that could leave, the first one does when careful.
func (s *simplex) pivot(j int, careful bool) bool {
	r := s.rows
	sign, top := 1.0, math.Inf(1)
	for i := range r {
		if j >= 0 {
			a := s.cols[j*r : j*r+r]
			w := 0.0
			for k := range a {
				w += s.inv[i*r+k] * a[k]
			}
			s.w[i] = w
		} else {
			s.w[i] = s.inv[i*r+(-1-j)]
		}
	}
	if j >= 0 {
		top = s.upper[j]
		if s.atTop[j] {
			sign = -1
		}
	}
	step, leave, leaveTop := top, -1, false
	consider := func(i int, t float64, atTop bool) {
		if t < step-1e-12 || t <= step && leave >= 0 && careful && s.basis[i] < s.basis[leave] {
			step, leave, leaveTop = t, i, atTop
		}
	}
	for i := range r {
		w := sign * s.w[i]
		if w > simplexEps {
			consider(i, math.Max(0, s.xb[i])/w, false)
		} else if w < -simplexEps && s.basis[i] >= 0 {
			if u := s.upper[s.basis[i]]; !math.IsInf(u, 1) {
				consider(i, math.Max(0, u-s.xb[i])/-w, true)
			}
		}
	}
	if math.IsInf(step, 1) {
		return false
	}
	for i := range r {
		s.xb[i] -= sign * step * s.w[i]
	}
	if leave < 0 {
		s.atTop[j] = !s.atTop[j]
		return true
	}
	if b := s.basis[leave]; b >= 0 {
		s.inB[b] = false
		s.atTop[b] = leaveTop
	}
	value := step
	if j >= 0 {
		if sign < 0 {
			value = s.upper[j] - step
		}
		s.inB[j] = true
		s.atTop[j] = false
		s.basis[leave] = int32(j)
	} else {
		s.basis[leave] = int32(j)
	}
	s.xb[leave] = value
	p := s.w[leave]
	for k := range r {
		s.inv[leave*r+k] /= p
	}
	for i := range r {
		if i != leave && s.w[i] != 0 {
			f := s.w[i]
			for k := range r {
				s.inv[i*r+k] -= f * s.inv[leave*r+k]
			}
		}
	}
	return true
}
