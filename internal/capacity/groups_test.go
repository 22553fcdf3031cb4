package capacity_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/api/resource"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/internal/capacity"
)

// drawGroups makes groups of the Snapshot's pods, template by template; now and
// then two templates share one, and pods that run belong to one too.
func drawGroups(draw func(lo, hi int) int, s *capacity.Snapshot) {
	d := &drawn{int: draw, s: s}
	s.Groups = map[string]capacity.PodGroup{}
	join := func(p *corev1.Pod, name string, g capacity.PodGroup, annotated bool) {
		if annotated {
			p.Annotations = map[string]string{"berth.dev/pod-group": name, "berth.dev/pod-group-min-count": fmt.Sprint(g.MinCount)}
			if g.Topology != "" {
				p.Annotations["berth.dev/pod-group-topology"] = g.Topology
			}
			return
		}
		p.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: &name}
		s.Groups[p.Namespace+"/"+name] = g
	}
	templates := templatesOf(s.Pods)
	for i := 0; i < len(templates); i++ {
		if d.chance(35) {
			continue
		}
		in := templates[i : i+1]
		if i+1 < len(templates) && d.chance(30) {
			in = templates[i : i+2]
			i++
		}
		g := capacity.PodGroup{MinCount: d.int(1, 7), Topology: pick(d, "", "", corev1.LabelTopologyZone)}
		annotated := d.chance(50)
		for _, p := range s.Pods {
			if slices.Contains(in, templateOf(p)) {
				join(p, "g"+in[0], g, annotated)
			}
		}
		for _, n := range s.Nodes {
			for _, p := range n.Pods {
				if d.chance(5) {
					join(p, "g"+in[0], g, annotated)
				}
			}
		}
	}
}

func TestNoGangIsPlacedInPart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(fromRapid(t), rapid.Bool().Draw(t, "ties"))
		drawGroups(fromRapid(t), s)
		plan := capacity.Solve(s)
		if wrong := judge(s, plan); len(wrong) > 0 {
			t.Fatalf("%s\n\n%s", strings.Join(wrong, "\n"), describe(plan))
		}
		o := *s
		o.Pods, o.Nodes = slices.Clone(s.Pods), slices.Clone(s.Nodes)
		r := rand.New(rand.NewPCG(uint64(len(s.Pods)), 1))
		r.Shuffle(len(o.Pods), func(i, j int) { o.Pods[i], o.Pods[j] = o.Pods[j], o.Pods[i] })
		r.Shuffle(len(o.Nodes), func(i, j int) { o.Nodes[i], o.Nodes[j] = o.Nodes[j], o.Nodes[i] })
		if d := cmp.Diff(describe(plan), describe(capacity.Solve(&o))); d != "" {
			t.Fatalf("the plan depends on the order of its input:\n%s", d)
		}
	})
}

// TestAFailedGangChangesNothingForOthers: what is bought, and for what price, is
// what it would be if the gangs that have no place did not exist.
func TestAFailedGangChangesNothingForOthers(t *testing.T) {
	failed := 0
	for seed := range uint64(400) {
		draw := fromSeed(seed)
		s := drawSnapshot(draw, seed%2 == 0)
		drawGroups(draw, s)
		with := capacity.Solve(s)
		refused := map[*corev1.Pod]bool{}
		for _, u := range with.Unschedulable {
			if u.Reasons[0].Constraint == capacity.ConstraintPodGroup {
				refused[u.Pod] = true
			}
		}
		if len(refused) == 0 {
			continue
		}
		failed++
		o := *s
		o.Pods = slices.DeleteFunc(slices.Clone(s.Pods), func(p *corev1.Pod) bool { return refused[p] })
		without := capacity.Solve(&o)
		with.Unschedulable = slices.DeleteFunc(with.Unschedulable, func(u capacity.Unschedulable) bool { return refused[u.Pod] })
		if d := cmp.Diff(describe(without), describe(with)); d != "" {
			t.Errorf("seed %d (-without the gang +with):\n%s", seed, d)
		}
	}
	if failed < 100 {
		t.Errorf("gangs failed in %d plans only: the test shows little", failed)
	}
}

// TestTheZoneOfAGangIsTheCheapest compares with planning for each zone by hand.
func TestTheZoneOfAGangIsTheCheapest(t *testing.T) {
	zoned := 0
	for seed := range uint64(300) {
		s := drawSnapshot(fromSeed(seed), false)
		s.Pods = slices.DeleteFunc(s.Pods, func(p *corev1.Pod) bool { return templateOf(p) != "t0" || len(p.Spec.Volumes) > 0 })
		best, unplaced := 0.0, len(s.Pods)+1
		for _, zone := range []string{"us-west-2a", "us-west-2b", "us-west-2c", "us-west-2d"} {
			o := *s
			o.Pods = nil
			for _, p := range s.Pods {
				p = p.DeepCopy()
				if p.Spec.NodeSelector == nil {
					p.Spec.NodeSelector = map[string]string{}
				}
				if old, ok := p.Spec.NodeSelector[corev1.LabelTopologyZone]; ok && old != zone {
					zone = "none"
				}
				p.Spec.NodeSelector[corev1.LabelTopologyZone] = zone
				o.Pods = append(o.Pods, p)
			}
			plan := capacity.Solve(&o)
			if n := len(plan.Unschedulable); n < unplaced || n == unplaced && plan.HourlyCost < best {
				best, unplaced = plan.HourlyCost, n
			}
		}
		for _, p := range s.Pods {
			p.Annotations = map[string]string{"berth.dev/pod-group": "g", "berth.dev/pod-group-min-count": fmt.Sprint(max(1, len(s.Pods))), "berth.dev/pod-group-topology": corev1.LabelTopologyZone}
		}
		plan := capacity.Solve(s)
		if unplaced > 0 {
			if len(plan.Unschedulable) != len(s.Pods) {
				t.Errorf("seed %d: no zone holds all, but the gang has places:\n%s", seed, describe(plan))
			}
			continue
		}
		zoned++
		if len(plan.Unschedulable) > 0 || plan.HourlyCost > best+1e-9 {
			t.Errorf("seed %d: a zone holds all for %.4f:\n%s", seed, best, describe(plan))
		}
	}
	if zoned < 50 {
		t.Errorf("only %d gangs had a zone: the test shows little", zoned)
	}
}

func TestAPodGroupObjectIsReadForItsGangAndItsTopology(t *testing.T) {
	g := &schedulingv1beta1.PodGroup{}
	if got := capacity.NewPodGroup(g); got != (capacity.PodGroup{}) {
		t.Errorf("basic policy: %+v", got)
	}
	g.Spec.SchedulingPolicy.Gang = &schedulingv1beta1.GangSchedulingPolicy{MinCount: 4}
	g.Spec.SchedulingConstraints = &schedulingv1beta1.PodGroupSchedulingConstraints{Topology: []schedulingv1beta1.TopologyConstraint{{Key: "rack"}}}
	if got, want := capacity.NewPodGroup(g), (capacity.PodGroup{MinCount: 4, Topology: "rack"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestHeldMembersOfAGangAreNamed: a pod that is not planned for counts as one
// that exists and has no place.
func TestHeldMembersOfAGangAreNamed(t *testing.T) {
	s, err := parseScenario("type m7.large 2 8Gi 0.10 0\nprovisioner default {}\ngroup g 2\npod p 2 1 1Gi {\"schedulingGroup\":{\"podGroupName\":\"g\"}}\n")
	if err != nil {
		t.Fatal(err)
	}
	s.Held = []capacity.Unschedulable{{Pod: s.Pods[1], Reasons: []capacity.Reason{{Constraint: capacity.ConstraintNotBound, Detail: "two nodes were wasted", Fix: "look"}}}}
	s.Pods = s.Pods[:1]
	plan := capacity.Solve(s)
	if len(plan.Launches) > 0 || len(plan.Unschedulable) != 1 {
		t.Fatalf("want one pod without a place:\n%s", describe(plan))
	}
	want := capacity.Reason{Constraint: capacity.ConstraintPodGroup, Fix: "look",
		Detail: "pod group g needs 2 pods at once, 1 could have a place; default/p.1 has none: NotBound: two nodes were wasted"}
	if d := cmp.Diff([]capacity.Reason{want}, plan.Unschedulable[0].Reasons); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// BenchmarkGangs plans for 100 gangs of 8 pods from the whole catalogue: each of a
// size of its own or all alike, anywhere or in one zone each, with room for all or
// with limits that leave room for about a half.
func BenchmarkGangs(b *testing.B) {
	for _, bc := range []struct {
		name, topology, cpu string
		sizes               int
	}{
		{"anywhere", "", "", 100}, {"in one zone", corev1.LabelTopologyZone, "", 100}, {"in one zone, all alike", corev1.LabelTopologyZone, "", 1},
		{"anywhere, limited", "", "400", 100}, {"in one zone, limited", corev1.LabelTopologyZone, "400", 100},
	} {
		b.Run(bc.name, func(b *testing.B) {
			p := benchProvisioner("us-east-1", "on-demand")
			if bc.cpu != "" {
				p.Spec.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(bc.cpu)}
			}
			s := &capacity.Snapshot{Now: testNow, Provisioners: []*capacity.Provisioner{p}, Groups: map[string]capacity.PodGroup{}}
			for i := range 100 {
				name := fmt.Sprint("g", i)
				s.Groups["default/"+name] = capacity.PodGroup{MinCount: 8, Topology: bc.topology}
				for j := range 8 {
					pod := benchPod(fmt.Sprintf("%s-%d", name, j), name, int64(500+10*(i%bc.sizes)), int64(1024*(1+i%bc.sizes%5)))
					pod.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: &name}
					s.Pods = append(s.Pods, pod)
				}
			}
			for b.Loop() {
				capacity.Solve(s)
			}
		})
	}
}
