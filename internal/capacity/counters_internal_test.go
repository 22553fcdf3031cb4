package capacity

import (
	"maps"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// A counter's sum and least count are those that going through all counts gives.
func TestCounterKnowsItsLeast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &counter{counts: map[string]int{}}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			val := strconv.Itoa(rapid.IntRange(0, 5).Draw(t, "value"))
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				c.forget(val)
			case 1:
				c = c.clone()
			case 2:
				c.add(val, -min(1, c.counts[val]))
			default:
				c.add(val, rapid.IntRange(0, 2).Draw(t, "n"))
			}
			sum, least := 0, 0
			for _, n := range c.counts {
				sum += n
			}
			if len(c.counts) > 0 {
				least = slices.Min(slices.Collect(maps.Values(c.counts)))
			}
			if got := c.total(); got != sum {
				t.Fatalf("%v: total %d", c.counts, got)
			}
			if rapid.Bool().Draw(t, "ask") {
				if got := c.least(1); got != least {
					t.Fatalf("%v: least %d", c.counts, got)
				}
			}
		}
	})
}
