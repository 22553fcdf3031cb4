package capacity_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/internal/capacity"
)

// Counters hold what counting all pods on all nodes gives, at every stage of a
// plan, with and without a Memory of other Snapshots.
func TestCountersAgreeWithCountingAllPods(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(fromRapid(t), true)
		m := capacity.NewMemory()
		check := func(s *capacity.Snapshot, when string) {
			for _, m := range []*capacity.Memory{nil, m} {
				if wrong := capacity.CheckCounters(s, m); wrong != "" {
					t.Fatalf("%s, memory %t: %s", when, m != nil, wrong)
				}
			}
		}
		check(s, "first")
		if len(s.Nodes) == 0 {
			return
		}
		other := *s
		other.Nodes = slices.Clone(s.Nodes)
		n := *s.Nodes[0]
		n.Pods = append(slices.Clone(n.Pods), s.Pods[0])
		other.Nodes[0], other.Pods = &n, s.Pods[1:]
		check(&other, "a pod bound")
		fewer := *s
		fewer.Nodes = s.Nodes[1:]
		check(&fewer, "a node gone")
		check(s, "the first again")
	})
}
