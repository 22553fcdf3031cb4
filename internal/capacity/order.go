package capacity

import "encoding/binary"

// Bounds of the search for an order of binding: pods in one search, and steps of
// all searches of one Solve.
const (
	maxOrdered    = 48
	maxOrderSteps = 20000
)

// searchOrder looks for an order in which all pods can be bound on their seats,
// going back where one leads nowhere, and leaves them bound when it finds one.
// It is for the few whose ties contradict each other in every simple order. When
// it gives up, some are bound; how many does not matter.
func (v *solver) searchOrder(seats []*seat) bool {
	pods := 0
	for _, t := range seats {
		pods += t.n
	}
	if pods > maxOrdered {
		return false
	}
	seen := map[string]bool{}
	var bind func(left int) bool
	bind = func(left int) bool {
		if left == 0 {
			return true
		}
		key := make([]byte, 0, 2*len(seats))
		for _, t := range seats {
			key = binary.LittleEndian.AppendUint16(key, uint16(t.n))
		}
		if seen[string(key)] || v.orderSteps >= maxOrderSteps {
			return false
		}
		seen[string(key)] = true
		for _, t := range seats {
			v.orderSteps++
			if t.n == 0 || v.blocked(t.s, t.b, everything) != "" {
				continue
			}
			undo := v.putOne(t.s, t.b)
			t.n--
			if bind(left - 1) {
				return true
			}
			t.n++
			undo()
		}
		return false
	}
	return bind(pods)
}

// putOne puts a pod of the shape on the bin; undo takes back the last one that
// is not taken back yet.
func (v *solver) putOne(s *shape, b *bin) (undo func()) {
	ports := len(b.ports)
	var attached []int
	for i, id := range s.limited {
		if !b.attached[id] {
			attached = append(attached, i)
		}
	}
	v.put(s, b, 1)
	return func() {
		for k, x := range s.vector {
			b.free[k] += x
		}
		b.ports = b.ports[:ports]
		for _, i := range attached {
			delete(b.attached, s.limited[i])
			b.free[s.limitedBy[i]]++
		}
		for i := range b.placed {
			if b.placed[i].s != s {
				continue
			}
			if b.placed[i].n--; b.placed[i].n == 0 {
				// Puts are taken back in reverse, so that it is the last.
				b.placed = b.placed[:i]
			}
			break
		}
		v.count(s.adds, b, -1)
		if v.settled {
			v.count(s.late, b, -1)
		}
		v.left[s.id]++
		v.bound = v.bound[:len(v.bound)-1]
	}
}
