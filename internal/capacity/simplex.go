package capacity

import (
	"math"
	"slices"
)

// simplex maximises c·x under A·x ≤ b, 0 ≤ x ≤ u for a few rows and many columns
// with few entries: the dual simplex with an explicit inverse of the basis. It
// starts with all variables at the bound that is better for them at the duals of
// the first basis, whatever the rows say; each step then mends one row. In a step
// as many variables as it takes go over to their other bound (long steps). From
// the last basis of much the same problem it takes few steps, if any: b and u may
// be others. Its buffers are reused, so one value serves many problems without
// allocation.
type simplex struct {
	rows int
	b    []float64
	// cost and upper bound of each variable; who has no upper bound must not gain.
	cost, upper []float64
	// entries of the columns, one column after the other, and where each ends.
	entries []entry
	ends    []int
	// start is the basis to start from, if there are as many columns as rows.
	start []int

	// x and y are the answer: values, and the duals of the rows; pivots how many
	// steps it took.
	x, y   []float64
	pivots int

	// inv is the basis' inverse, rows × rows; basis the columns in it, -1-r for the
	// slack of row r, and xb their values.
	inv   []float64
	basis []int
	xb    []float64
	// gain of each variable per unit at the duals; 0 in the basis.
	gain       []float64
	atTop, inB []bool
	// Of a step: the leaving row by column, what the entering column and those that
	// change bounds add up to, and who may enter.
	alpha, w []float64
	points   []breakpoint
}

// entry of a column in a row.
type entry struct {
	row int
	x   float64
}

// breakpoint is a variable that gains nothing any more once the dual has gone that
// far, and by how much the row is mended when it goes to its other bound.
type breakpoint struct {
	at, mends float64
	j         int
}

const simplexEps = 1e-9

var inf = math.Inf(1)

// reset starts a problem with that many rows and no columns.
func (s *simplex) reset(rows int) {
	s.rows = rows
	s.entries, s.ends, s.cost, s.upper = s.entries[:0], s.ends[:0], s.cost[:0], s.upper[:0]
	s.b, s.start = resized(s.b, rows), s.start[:0]
}

func resized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// add begins a variable without entries.
func (s *simplex) add(cost, upper float64) {
	s.cost = append(s.cost, cost)
	s.upper = append(s.upper, upper)
	s.ends = append(s.ends, len(s.entries))
}

// set gives the variable added last an entry.
func (s *simplex) set(row int, x float64) {
	s.entries = append(s.entries, entry{row, x})
	s.ends[len(s.ends)-1]++
}

// column are the variable's entries.
func (s *simplex) column(j int) []entry {
	from := 0
	if j > 0 {
		from = s.ends[j-1]
	}
	return s.entries[from:s.ends[j]]
}

// solve leaves the answer in x and y. It stops after a bounded number of steps: y
// is feasible all the same. Rows that nothing can satisfy are left alone.
func (s *simplex) solve() {
	n, r := len(s.cost), s.rows
	s.x, s.y = resized(s.x, n), resized(s.y, r)
	s.inv, s.basis, s.xb, s.w = resized(s.inv, r*r), resized(s.basis, r), resized(s.xb, r), resized(s.w, r)
	s.atTop, s.inB, s.gain, s.alpha = resized(s.atTop, n), resized(s.inB, n), resized(s.gain, n), resized(s.alpha, n)
	if len(s.start) != r || !s.begin(s.start) {
		s.begin(nil)
	}
	hopeless := 0
	for s.pivots = 0; s.pivots < 50+20*r && hopeless < r; s.pivots++ {
		i, excess := s.leaving()
		if i < 0 {
			break
		}
		if !s.mend(i, excess) {
			hopeless++
			s.xb[i] = 0
		}
	}
	for j, top := range s.atTop {
		s.x[j] = 0
		if top {
			s.x[j] = s.upper[j]
		}
	}
	for i, k := range s.basis {
		if k >= 0 {
			s.x[k] = max(0, s.xb[i])
		}
	}
}

// begin sets out from a basis, nil being that of the slacks. False: its duals are
// not feasible, or it is none.
func (s *simplex) begin(basis []int) bool {
	r := s.rows
	clear(s.inB)
	clear(s.inv)
	clear(s.y)
	for i := range r {
		s.inv[i*r+i] = 1
		s.basis[i] = -1 - i
	}
	for _, j := range basis {
		if j >= 0 && !s.inB[j] && !s.replaceSlack(j, basis) {
			return false
		}
	}
	for i, b := range s.basis {
		if b >= 0 && s.cost[b] != 0 {
			for k, v := range s.inv[i*r : i*r+r] {
				s.y[k] += s.cost[b] * v
			}
		}
	}
	for k, y := range s.y {
		if y < -simplexEps {
			return false
		}
		s.y[k] = max(0, y)
	}
	copy(s.w, s.b)
	for j, c := range s.cost {
		s.gain[j], s.atTop[j] = 0, false
		if s.inB[j] {
			continue
		}
		for _, e := range s.column(j) {
			c -= s.y[e.row] * e.x
		}
		s.gain[j] = c
		if s.atTop[j] = c > 0 && !math.IsInf(s.upper[j], 1); s.atTop[j] {
			for _, e := range s.column(j) {
				s.w[e.row] -= e.x * s.upper[j]
			}
		}
	}
	for i := range s.xb {
		s.xb[i] = 0
		for k, v := range s.inv[i*r : i*r+r] {
			s.xb[i] += v * s.w[k]
		}
	}
	return true
}

// replaceSlack brings column j into the basis for a slack that is not to be in it.
func (s *simplex) replaceSlack(j int, basis []int) bool {
	s.transform(j)
	best := -1
	for i, b := range s.basis {
		if b < 0 && !slices.Contains(basis, b) && (best < 0 || math.Abs(s.w[i]) > math.Abs(s.w[best])) {
			best = i
		}
	}
	if best < 0 || math.Abs(s.w[best]) < 1e-7 {
		return false
	}
	s.basis[best], s.inB[j] = j, true
	replaceRow(s.inv, s.w, best)
	return true
}

// transform sets w to the column times the inverse.
func (s *simplex) transform(j int) {
	r := s.rows
	if j < 0 {
		for k := range s.w {
			s.w[k] = s.inv[k*r-1-j]
		}
		return
	}
	clear(s.w)
	for k := range s.w {
		for _, e := range s.column(j) {
			s.w[k] += s.inv[k*r+e.row] * e.x
		}
	}
}

// replaceRow changes the inverse of a basis, len(w) rows one after the other, for one
// in which the column that w was made of is the i-th.
func replaceRow(inv, w []float64, i int) {
	r := len(w)
	row := inv[i*r : i*r+r]
	f := 1 / w[i]
	for k := range row {
		row[k] *= f
	}
	for k, x := range w {
		if k == i || x == 0 {
			continue
		}
		to := inv[k*r : k*r+r]
		for q, y := range row {
			to[q] -= x * y
		}
	}
}

// leaving is the row whose basic variable is most out of bounds, measured along
// the edge that mends it, and by how much: above 0 over its upper bound, else
// under 0. -1: none is.
func (s *simplex) leaving() (row int, excess float64) {
	row = -1
	best := 0.0
	for i, x := range s.xb {
		off := x
		if off >= 0 {
			b := s.basis[i]
			if b < 0 {
				continue
			}
			off -= s.upper[b]
		}
		if off <= simplexEps && off >= -simplexEps || off < 0 && x >= 0 {
			continue
		}
		norm := 0.0
		for _, v := range s.inv[i*s.rows : (i+1)*s.rows] {
			norm += v * v
		}
		if d := off * off / norm; d > best {
			row, excess, best = i, off, d
		}
	}
	return row, excess
}

// mend brings the row's basic variable to the bound that it exceeds. It cannot
// when nothing may enter in its place.
func (s *simplex) mend(i int, excess float64) bool {
	r := s.rows
	row := s.inv[i*r : (i+1)*r]
	sign := 1.0
	if excess < 0 {
		sign = -1
	}
	s.points = s.points[:0]
	for k, a := range row {
		// The slack's gain is the dual, negative.
		if a *= sign; a > simplexEps && !s.slackBasic(k) {
			s.points = append(s.points, breakpoint{s.y[k] / a, inf, -1 - k})
		}
	}
	from := 0
	for j, end := range s.ends {
		a := 0.0
		for _, e := range s.entries[from:end] {
			a += row[e.row] * e.x
		}
		from = end
		s.alpha[j] = a
		a *= sign
		if s.atTop[j] {
			a = -a
		}
		if a > simplexEps && !s.inB[j] && s.upper[j] > 0 {
			s.points = append(s.points, breakpoint{math.Abs(s.gain[j]) / a, a * s.upper[j], j})
		}
	}
	// In order of the breakpoints, as far as they are passed.
	left, enters := math.Abs(excess), 0
	for ; enters < len(s.points); enters++ {
		first := enters
		for i, p := range s.points[enters:] {
			if f := &s.points[first]; p.at < f.at || p.at == f.at && p.j < f.j {
				first = enters + i
			}
		}
		s.points[enters], s.points[first] = s.points[first], s.points[enters]
		if left -= s.points[enters].mends; left <= simplexEps {
			break
		}
	}
	if enters == len(s.points) {
		return false
	}
	clear(s.w)
	for _, p := range s.points[:enters] {
		x := s.upper[p.j]
		if s.atTop[p.j] {
			x = -x
		}
		s.atTop[p.j] = !s.atTop[p.j]
		for _, e := range s.column(p.j) {
			s.w[e.row] += e.x * x
		}
	}
	if enters > 0 {
		for k := range s.xb {
			for q, w := range s.w {
				s.xb[k] -= s.inv[k*r+q] * w
			}
		}
	}
	s.exchange(i, s.points[enters], sign)
	return true
}

// exchange lets the variable of the breakpoint enter the basis for that of the
// row.
func (s *simplex) exchange(i int, p breakpoint, sign float64) {
	r := s.rows
	row := s.inv[i*r : (i+1)*r]
	// The duals and gains first, as long as the row is the old one.
	theta := -sign * p.at
	for k, a := range row {
		s.y[k] = max(0, s.y[k]+theta*a)
	}
	for j, a := range s.alpha {
		s.gain[j] -= theta * a
	}
	bound := 0.0
	if b := s.basis[i]; b >= 0 {
		s.inB[b], s.gain[b] = false, -theta
		if s.atTop[b] = sign > 0; s.atTop[b] {
			bound = s.upper[b]
		}
	}
	value := 0.0
	if p.j >= 0 {
		if s.atTop[p.j] {
			value = s.upper[p.j]
		}
		s.inB[p.j], s.gain[p.j], s.atTop[p.j] = true, 0, false
	}
	s.transform(p.j)
	step := (s.xb[i] - bound) / s.w[i]
	for k, w := range s.w {
		s.xb[k] -= step * w
	}
	s.xb[i], s.basis[i] = value+step, p.j
	replaceRow(s.inv, s.w, i)
}

func (s *simplex) slackBasic(row int) bool { return slices.Contains(s.basis, -1-row) }
