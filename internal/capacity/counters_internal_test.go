package capacity

import (
	"maps"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// A counter's sum, its domains and least count are those that going through all
// counts gives.
func TestCounterKnowsItsLeast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &realm{first: map[string]bool{"0": true, "1": true}}
		r.nodes = r.first
		c := &counter{realm: r, base: map[string]int{"1": 2}}
		r.counters = []*counter{c}
		c.reset()
		counts, phantoms := map[string]int{"0": 0, "1": 2}, map[string]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			val := strconv.Itoa(rapid.IntRange(0, 5).Draw(t, "value"))
			_, known := counts[val]
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				c.foresee(val)
				if !known {
					counts[val], phantoms[val] = 0, true
				}
			case 1:
				if c.forgetPhantoms() != (len(phantoms) > 0) {
					t.Fatalf("of phantoms %v", phantoms)
				}
				for p := range phantoms {
					delete(counts, p)
				}
				clear(phantoms)
			case 2:
				r.open(val)
				counts[val] += 0
				delete(phantoms, val)
			case 3:
				c = c.clone()
				r.counters = []*counter{c}
			case 4:
				n := -min(1, counts[val])
				c.add(val, n)
				counts[val] += n
			default:
				n := rapid.IntRange(0, 2).Draw(t, "n")
				c.add(val, n)
				counts[val] += n
			}
			sum := 0
			for _, n := range counts {
				sum += n
			}
			if c.total() != sum || c.domains() != len(counts) {
				t.Fatalf("%v: total %d, %d domains", counts, c.total(), c.domains())
			}
			for v, n := range counts {
				if c.counts[v] != n || !c.known(v) {
					t.Fatalf("%v: %d at %s", counts, c.counts[v], v)
				}
			}
			if rapid.Bool().Draw(t, "ask") {
				if got, want := c.least(1), slices.Min(slices.Collect(maps.Values(counts))); got != want {
					t.Fatalf("%v: least %d, want %d", counts, got, want)
				}
			}
		}
		if !maps.Equal(r.first, map[string]bool{"0": true, "1": true}) || !maps.Equal(c.base, map[string]int{"1": 2}) {
			t.Fatalf("what was there first has changed: %v, %v", r.first, c.base)
		}
	})
}
