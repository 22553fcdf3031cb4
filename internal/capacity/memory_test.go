package capacity_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/internal/capacity"
)

// A Memory that has planned other Snapshots of the same objects before plans as
// Solve does: with fewer pods, with pods bound that waited, with other limits.
func TestAMemoryPlansAsSolveDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(fromRapid(t), true)
		m := capacity.NewMemory()
		check := func(s *capacity.Snapshot, when string) {
			got, want := describe(m.Solve(s)), describe(capacity.Solve(s))
			if got != want {
				t.Fatalf("%s: got\n%s\nwant\n%s", when, got, want)
			}
		}
		check(s, "first")
		fewer := *s
		fewer.Pods = s.Pods[:len(s.Pods)/2]
		check(&fewer, "fewer pods")
		check(s, "the first again")
		if len(s.Nodes) > 0 && len(s.Pods) > 0 {
			moved := *s
			moved.Nodes = slices.Clone(s.Nodes)
			n := *s.Nodes[0]
			p := s.Pods[0].DeepCopy()
			p.Spec.NodeName = n.Name
			n.Pods = append(slices.Clone(n.Pods), p)
			moved.Nodes[0], moved.Pods = &n, s.Pods[1:]
			check(&moved, "a pod bound")
		}
		used := *s
		used.Provisioners = nil
		for _, p := range s.Provisioners {
			q := *p
			q.Used = capacity.Resources{"nodes": 1, "cpu": 4000}
			used.Provisioners = append(used.Provisioners, &q)
		}
		check(&used, "limits used")
		used.Provisioners[0].NotReady = "not now"
		check(&used, "a Provisioner is not ready")
	})
}
