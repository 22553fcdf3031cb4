package capacity_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

var testNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// drawn makes small random Snapshots.
type drawn struct {
	// int draws from lo to hi, both included.
	int   func(lo, hi int) int
	zones []string
	s     *capacity.Snapshot
}

// fromRapid draws so that rapid can shrink a failure.
func fromRapid(t *rapid.T) func(lo, hi int) int {
	n := 0
	return func(lo, hi int) int {
		n++
		return rapid.IntRange(lo, hi).Draw(t, fmt.Sprint("n", n))
	}
}

// fromSeed draws fast.
func fromSeed(seed uint64) func(lo, hi int) int {
	r := rand.New(rand.NewPCG(seed, 42))
	return func(lo, hi int) int { return lo + r.IntN(hi-lo+1) }
}

func (d *drawn) chance(percent int) bool { return d.int(1, 100) <= percent }

func pick[T any](d *drawn, list ...T) T { return list[d.int(0, len(list)-1)] }

func drawSnapshot(draw func(lo, hi int) int, ties bool) *capacity.Snapshot {
	d := &drawn{int: draw, zones: []string{"us-west-2a", "us-west-2b", "us-west-2c"}, s: &capacity.Snapshot{
		Now: testNow, Region: "us-west-2",
		Namespaces: map[string]map[string]string{"one": {"team": "red"}, "two": {"team": "blue"}},
		PVCs:       map[string]*corev1.PersistentVolumeClaim{}, PVs: map[string]*corev1.PersistentVolume{},
		StorageClasses: map[string]*storagev1.StorageClass{},
	}}
	machines := d.machines()
	for i := range d.int(1, 2) {
		d.s.Provisioners = append(d.s.Provisioners, d.provisioner(fmt.Sprint("prov-", i), machines))
	}
	if d.chance(25) {
		// No spread constraint counts it: whether one holds would then hang on
		// nodes that are bought for others later on.
		ds := d.pod("ds", 0, false)
		ds.Labels = map[string]string{"app": "ds"}
		ds.OwnerReferences = []metav1.OwnerReference{{Kind: "DaemonSet", Name: "ds", Controller: ptrTo(true)}}
		ds.Spec.NodeSelector, ds.Spec.Affinity, ds.Spec.TopologySpreadConstraints = nil, nil, nil
		d.s.DaemonSetPods = append(d.s.DaemonSetPods, ds)
	}
	for i := range d.int(1, 4) {
		template := d.pod(fmt.Sprint("t", i), i, ties)
		if d.chance(12) {
			d.volume(template)
		}
		for j := range d.int(1, 6) {
			p := template.DeepCopy()
			p.Name = fmt.Sprintf("%s-%d", template.Name, j)
			p.CreationTimestamp = metav1.NewTime(testNow.Add(time.Duration(d.int(0, 3)) * time.Second))
			d.s.Pods = append(d.s.Pods, p)
		}
	}
	for i := range d.int(0, 3) {
		d.s.Nodes = append(d.s.Nodes, d.node(i, ties))
	}
	return d.s
}

func ptrTo[T any](v T) *T { return &v }

func (d *drawn) machines() []capacity.Machine {
	var ms []capacity.Machine
	for i := range d.int(1, 6) {
		vcpu := int32(pick(d, 1, 2, 4, 8))
		m := capacity.Machine{Name: fmt.Sprintf("m%d.x%d", 5+i, vcpu), VCPUs: vcpu, MemoryMiB: int64(vcpu) * 1024 * int64(pick(d, 2, 4, 8)),
			Arch: pick(d, "amd64", "amd64", "amd64", "arm64"), CurrentGeneration: true, ENIs: 2, IPv4PerENI: int32(pick(d, 4, 10))}
		for _, z := range d.zones {
			if d.chance(80) {
				m.Offerings = append(m.Offerings, capacity.Offering{Zone: z, CapacityType: "on-demand", Price: float64(d.int(5, 20)) * float64(vcpu) / 100})
			}
			if d.chance(50) {
				m.Offerings = append(m.Offerings, capacity.Offering{Zone: z, CapacityType: "spot", Price: float64(d.int(1, 8)) * float64(vcpu) / 100})
			}
		}
		if d.chance(20) {
			m.GPU = &capacity.GPU{Count: 1, Manufacturer: "nvidia", Name: "t4"}
		}
		ms = append(ms, m)
	}
	return ms
}

func (d *drawn) provisioner(name string, machines []capacity.Machine) *capacity.Provisioner {
	spec := &v1alpha1.ProvisionerSpec{Weight: int32(pick(d, 0, 0, 5))}
	spec.Requirements = append(spec.Requirements,
		v1alpha1.Requirement{Key: corev1.LabelArchStable, Operator: v1alpha1.OperatorExists})
	if d.chance(60) {
		spec.Requirements = append(spec.Requirements, v1alpha1.Requirement{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: []string{"spot", "on-demand"}})
	}
	if d.chance(20) {
		spec.Requirements = append(spec.Requirements, v1alpha1.Requirement{Key: "team", Operator: v1alpha1.OperatorIn, Values: []string{"a", "b"}})
	}
	if d.chance(20) {
		spec.Labels = map[string]string{"disk": "fast"}
	}
	if d.chance(20) {
		spec.Taints = []corev1.Taint{{Key: "dedicated", Value: "x", Effect: pick(d, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule)}}
	}
	p := &capacity.Provisioner{Name: name, Spec: spec, Used: capacity.Resources{}}
	if d.chance(30) {
		spec.Limits = corev1.ResourceList{}
		switch d.int(0, 3) {
		case 0:
			spec.Limits[corev1.ResourceCPU] = *resource.NewQuantity(int64(d.int(0, 16)), resource.DecimalSI)
			p.Used[corev1.ResourceCPU] = int64(d.int(0, 4)) * 1000
		case 1:
			spec.Limits[v1alpha1.LimitNodes] = *resource.NewQuantity(int64(d.int(0, 4)), resource.DecimalSI)
			p.Used[v1alpha1.LimitNodes] = int64(d.int(0, 2))
		case 2:
			spec.Limits[v1alpha1.LimitHourlyCost] = *resource.NewMilliQuantity(int64(d.int(0, 900)), resource.DecimalSI)
			p.UsedHourlyCost = float64(d.int(0, 30)) / 100
		case 3:
			spec.Limits[corev1.ResourceMemory] = *resource.NewQuantity(int64(d.int(0, 64))<<30, resource.BinarySI)
		}
	}
	resolved := capacity.Resolved{}
	if d.chance(20) {
		spec.EC2.CapacityReservations = []v1alpha1.SelectorTerm{{ID: "cr-1"}}
		for _, m := range machines {
			resolved.Reservations = append(resolved.Reservations, capacity.Reservation{InstanceType: m.Name, Zone: pick(d, d.zones...), Available: d.int(0, 3)})
		}
		if name := capacity.ReservedRoom(machines[0].Name, resolved.Reservations[0].Zone); d.chance(20) {
			p.Used[name] = 1
		}
	}
	p.InstanceTypes = capacity.InstanceTypes(machines, spec, resolved, testNow)
	return p
}

func (d *drawn) pod(name string, i int, ties bool) *corev1.Pod {
	p := benchPod(name, fmt.Sprint("app-", i), int64(pick(d, 0, 100, 250, 700, 1500, 3000)), int64(pick(d, 0, 64, 500, 1500, 4000)))
	p.Namespace = pick(d, "one", "one", "two")
	p.Labels["tier"] = pick(d, "web", "db")
	if d.chance(20) {
		p.Spec.NodeSelector = map[string]string{pick(d, corev1.LabelTopologyZone, "team", "disk", corev1.LabelArchStable): pick(d, "us-west-2a", "a", "fast", "amd64")}
	}
	if d.chance(15) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{
				{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: v1alpha1.LabelInstanceCPU, Operator: pick(d, corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt), Values: []string{"3"}}}},
				{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: pick(d, corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn), Values: []string{"us-west-2b"}}}},
			}}}}
	}
	if d.chance(30) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
	}
	if d.chance(10) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: int32(pick(d, 80, 81)), Protocol: corev1.ProtocolTCP}}
	}
	if d.chance(8) {
		p.Spec.Containers[0].Resources.Requests["nvidia.com/gpu"] = resource.MustParse("1")
	}
	if d.chance(20) {
		p.Spec.Priority = ptrTo(int32(d.int(0, 2)))
	}
	if !ties {
		return p
	}
	selector := func() *metav1.LabelSelector {
		switch d.int(0, 3) {
		case 0:
			return &metav1.LabelSelector{MatchLabels: map[string]string{"tier": pick(d, "web", "db")}}
		case 1:
			return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"app-0", p.Labels["app"]}}}}
		default:
			return &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}}
		}
	}
	key := func() string {
		return pick(d, corev1.LabelTopologyZone, corev1.LabelTopologyZone, corev1.LabelHostname, corev1.LabelHostname, v1alpha1.LabelCapacityType, "team")
	}
	for range d.int(0, 2) {
		if !d.chance(45) {
			continue
		}
		c := corev1.TopologySpreadConstraint{MaxSkew: int32(d.int(1, 2)), TopologyKey: key(), WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: selector()}
		if d.chance(20) {
			c.MinDomains = ptrTo(int32(d.int(1, 3)))
		}
		if d.chance(20) {
			c.NodeAffinityPolicy = ptrTo(pick(d, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore))
		}
		if d.chance(20) {
			c.NodeTaintsPolicy = ptrTo(pick(d, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore))
		}
		if d.chance(10) {
			c.MatchLabelKeys = []string{"tier"}
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
	terms := func() []corev1.PodAffinityTerm {
		t := corev1.PodAffinityTerm{TopologyKey: key(), LabelSelector: selector()}
		if d.chance(10) && t.TopologyKey == corev1.LabelHostname {
			t.LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "ds"}}
		}
		switch d.int(0, 5) {
		case 0:
			t.Namespaces = []string{"one", "two"}
		case 1:
			t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": pick(d, "red", "blue")}}
		case 2:
			t.NamespaceSelector = &metav1.LabelSelector{}
		}
		return []corev1.PodAffinityTerm{t}
	}
	if d.chance(20) {
		if p.Spec.Affinity == nil {
			p.Spec.Affinity = &corev1.Affinity{}
		}
		p.Spec.Affinity.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms()}
	}
	if d.chance(25) {
		if p.Spec.Affinity == nil {
			p.Spec.Affinity = &corev1.Affinity{}
		}
		p.Spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms()}
	}
	return p
}

// volume gives all pods of a template a claim.
func (d *drawn) volume(p *corev1.Pod) {
	name := "claim-" + p.Name
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: name}}
	if d.chance(50) {
		claim.Spec.VolumeName = "pv-" + p.Name
		d.s.PVs[claim.Spec.VolumeName] = &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "ebs.csi.aws.com", VolumeHandle: "vol-" + p.Name}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{pick(d, d.zones...)}}}}}}}}}
	} else {
		claim.Spec.StorageClassName = ptrTo("class-" + p.Name)
		d.s.StorageClasses["class-"+p.Name] = &storagev1.StorageClass{Provisioner: "ebs.csi.aws.com", VolumeBindingMode: ptrTo(storagev1.VolumeBindingWaitForFirstConsumer),
			AllowedTopologies: []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelTopologyZone, Values: d.zones[:d.int(1, 3)]}}}}}
	}
	d.s.PVCs[p.Namespace+"/"+name] = claim
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
}

func (d *drawn) node(i int, ties bool) *capacity.Node {
	name := fmt.Sprint("node-", i)
	n := &capacity.Node{Name: name, InFlight: d.chance(30), Unschedulable: d.chance(15), Labels: map[string]string{
		corev1.LabelHostname: name, corev1.LabelTopologyZone: pick(d, append(d.zones, "us-west-2d")...), v1alpha1.LabelCapacityType: pick(d, "spot", "on-demand"),
		corev1.LabelArchStable: "amd64"},
		Allocatable: capacity.Resources{"cpu": int64(d.int(1, 8)) * 1000, "memory": int64(d.int(1, 16)) << 30, "pods": int64(d.int(1, 20))}}
	if d.chance(20) {
		n.Taints = []corev1.Taint{{Key: "dedicated", Value: "x", Effect: corev1.TaintEffectNoSchedule}}
	}
	if d.chance(20) {
		n.VolumeLimits = map[string]int64{"ebs.csi.aws.com": int64(d.int(0, 2))}
	}
	for j := range d.int(0, 3) {
		p := d.pod(fmt.Sprintf("%s-pod-%d", name, j), d.int(0, 3), ties && d.chance(50))
		p.Spec.NodeName = name
		if d.chance(10) {
			p.DeletionTimestamp = &metav1.Time{Time: testNow}
		}
		n.Pods = append(n.Pods, p)
	}
	return n
}

func TestEveryPlanIsAcceptedByTheReferee(t *testing.T) {
	for _, ties := range []bool{false, true} {
		t.Run(map[bool]string{false: "without ties between pods", true: "with ties between pods"}[ties], func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				s := drawSnapshot(fromRapid(t), ties)
				plan := capacity.Solve(s)
				if wrong := judge(s, plan); len(wrong) > 0 {
					t.Fatalf("%s\n\n%s", strings.Join(wrong, "\n"), describe(plan))
				}
			})
		})
	}
}

func TestManyPlansAreAcceptedByTheReferee(t *testing.T) {
	seeds := uint64(2000)
	if testing.Short() {
		seeds = 300
	}
	failed := 0
	for seed := range seeds {
		s := drawSnapshot(fromSeed(seed), seed%3 != 0)
		plan := capacity.Solve(s)
		if wrong := judge(s, plan); len(wrong) > 0 {
			failed++
			if failed <= 3 {
				t.Errorf("seed %d: %s\n\n%s", seed, strings.Join(wrong, "\n"), describe(plan))
			}
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d plans refused", failed, seeds)
	}
}

func TestAPlanDoesNotDependOnTheOrderOfItsInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(fromRapid(t), true)
		want := describe(capacity.Solve(s))
		r := rand.New(rand.NewPCG(uint64(len(s.Pods)), 1))
		o := *s
		o.Pods, o.Nodes, o.Provisioners = slices.Clone(s.Pods), slices.Clone(s.Nodes), slices.Clone(s.Provisioners)
		r.Shuffle(len(o.Pods), func(i, j int) { o.Pods[i], o.Pods[j] = o.Pods[j], o.Pods[i] })
		r.Shuffle(len(o.Nodes), func(i, j int) { o.Nodes[i], o.Nodes[j] = o.Nodes[j], o.Nodes[i] })
		r.Shuffle(len(o.Provisioners), func(i, j int) { o.Provisioners[i], o.Provisioners[j] = o.Provisioners[j], o.Provisioners[i] })
		if d := cmp.Diff(want, describe(capacity.Solve(&o))); d != "" {
			t.Fatalf("(-in order +shuffled):\n%s", d)
		}
	})
}

// TestLimitsThatLeaveRoomChangeNothing plans without limits, then with limits that
// leave room for exactly that plan.
func TestLimitsThatLeaveRoomChangeNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(fromRapid(t), rapid.Bool().Draw(t, "ties"))
		for _, p := range s.Provisioners {
			p.Spec.Limits, p.Spec.EC2.CapacityReservations = nil, nil
		}
		// What limits have a say in beside the purchases is left out.
		bought := func() string {
			plan := capacity.Solve(s)
			for i := range plan.Launches {
				plan.Launches[i].Alternatives = nil
			}
			for i := range plan.Unschedulable {
				plan.Unschedulable[i].Reasons = nil
			}
			for _, p := range s.Provisioners {
				nodes, micros, takes := int64(0), p.UsedHourlyCost*1e6, capacity.Resources{}
				for _, l := range plan.Launches {
					if l.Provisioner == p {
						nodes, micros = nodes+1, micros+math.Ceil(l.Price*1e6)
						takes.Add(l.Capacity)
					}
				}
				p.Spec.Limits = corev1.ResourceList{
					v1alpha1.LimitNodes:      *resource.NewQuantity(p.Used[v1alpha1.LimitNodes]+nodes, resource.DecimalSI),
					v1alpha1.LimitHourlyCost: *resource.NewScaledQuantity(int64(math.Ceil(micros)), resource.Micro),
					corev1.ResourceCPU:       *resource.NewMilliQuantity(p.Used[corev1.ResourceCPU]+takes[corev1.ResourceCPU], resource.DecimalSI),
					corev1.ResourceMemory:    *resource.NewQuantity(p.Used[corev1.ResourceMemory]+takes[corev1.ResourceMemory], resource.BinarySI),
				}
			}
			return describe(plan)
		}
		without := bought()
		if d := cmp.Diff(without, bought()); d != "" {
			t.Fatalf("(-without limits +with):\n%s", d)
		}
	})
}

// describe writes a plan for people and for comparison.
func describe(p *capacity.Plan) string {
	var b strings.Builder
	for _, l := range p.Launches {
		fmt.Fprintf(&b, "launch %s %s/%s/%s %.4f alternatives %d:", l.Provisioner.Name, l.InstanceType, l.CapacityType, l.Zone, l.Price, len(l.Alternatives))
		for _, pod := range l.Pods {
			fmt.Fprintf(&b, " %s", pod.Name)
		}
		b.WriteString("\n")
	}
	for _, pl := range p.Placements {
		fmt.Fprintf(&b, "place %s on %s\n", pl.Pod.Name, pl.Node.Name)
	}
	for _, u := range p.Unschedulable {
		fmt.Fprintf(&b, "no place for %s:", u.Pod.Name)
		for _, r := range u.Reasons {
			fmt.Fprintf(&b, " [%s %s: %s; %s]", r.Provisioner, r.Constraint, r.Detail, r.Fix)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "cost %.4f bound %.4f\n", p.HourlyCost, p.LowerBound)
	return b.String()
}

func TestTheBoundHoldsAgainstExhaustiveSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(fromRapid(t), false)
		s.DaemonSetPods = nil
		for _, p := range s.Provisioners {
			p.Spec.Limits = nil
		}
		s.Pods = s.Pods[:min(len(s.Pods), 3)]
		s.Nodes = s.Nodes[:min(len(s.Nodes), 1)]
		plan := capacity.Solve(s)
		s2 := *s
		s2.Pods = nil
		for _, p := range s.Pods {
			if !slices.ContainsFunc(plan.Unschedulable, func(u capacity.Unschedulable) bool { return u.Pod == p }) {
				s2.Pods = append(s2.Pods, p)
			}
		}
		if best := cheapest(&s2, plan.HourlyCost); plan.LowerBound > best+1e-9 {
			t.Fatalf("bound %v above the optimum %v\n%s", plan.LowerBound, best, describe(plan))
		}
	})
}

// cheapest is the least cost, if below known, at which all pods find a seat, by
// trying everything: each pod on an existing node, with those before it, or first
// on a new one of whatever type.
func cheapest(s *capacity.Snapshot, known float64) float64 {
	w := newWorld(s)
	best := known
	var try func(i int, cost float64)
	try = func(i int, cost float64) {
		if cost >= best {
			return
		}
		if i == len(s.Pods) {
			best = cost
			return
		}
		p := s.Pods[i]
		for _, h := range w.nodes {
			if w.refuses(p, h) == "" {
				h.pods = append(h.pods, p)
				try(i+1, cost)
				h.pods = h.pods[:len(h.pods)-1]
			}
		}
		for _, pr := range s.Provisioners {
			for k := range pr.InstanceTypes {
				t := &pr.InstanceTypes[k]
				for _, o := range t.Offerings {
					if cost+o.Price >= best {
						break
					}
					for _, labels := range labelsOf(pr, t, o) {
						h := w.join("x", labels, pr.Spec.Taints, t.Allocatable)
						if w.refuses(p, h) == "" {
							h.pods = append(h.pods, p)
							try(i+1, cost+o.Price)
						}
						w.nodes = w.nodes[:len(w.nodes)-1]
					}
				}
			}
		}
	}
	try(0, 0)
	return best
}

// TestBoundsAreBelowEveryPlan: whatever the budget, no bound is above what any plan for
// the same Snapshot costs.
func TestBoundsAreBelowEveryPlan(t *testing.T) {
	for _, shapes := range []int{1, 7, 40, 120} {
		for _, types := range [][]string{{"on-demand"}, {"spot"}} {
			s := &capacity.Snapshot{Now: time.Now(), Region: "us-west-2", Pods: mixedPods(1200, shapes),
				Provisioners: []*capacity.Provisioner{benchProvisioner("us-west-2", types...)}}
			var costs, bounds []float64
			for _, s.Budget = range []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond} {
				p := capacity.Solve(s)
				if len(p.Unschedulable) > 0 {
					t.Fatalf("%d pods have no place", len(p.Unschedulable))
				}
				costs, bounds = append(costs, p.HourlyCost), append(bounds, p.LowerBound)
			}
			if slices.Max(bounds) > slices.Min(costs) {
				t.Errorf("%d shapes, %s: bounds %v, costs %v", shapes, types[0], bounds, costs)
			}
			t.Logf("%d shapes, %s: bounds %.3f, costs %.3f", shapes, types[0], bounds, costs)
		}
	}
}
