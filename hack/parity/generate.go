package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Names that scenarios use.
const (
	labelTeam = "team"
	labelTier = "tier"
	ebs       = "ebs.csi.aws.com"
	gpu       = corev1.ResourceName("nvidia.com/gpu")
	fpga      = corev1.ResourceName("example.com/fpga")
	hugePages = corev1.ResourceName("hugepages-2Mi")
	// labelGrade is an own label with numbers.
	labelGrade = "grade"
)

var zones = []string{"us-west-2a", "us-west-2b", "us-west-2c"}

// generator draws small scenarios. Each is about a few of the features, so that
// they meet each other without drowning each other.
type generator struct {
	*rand.Rand
	s   *scenario
	has features
}

// features are the kinds of constraints that a scenario is about.
type features struct {
	containers, nodeAffinity, taints, podAffinity, spread, ports, volumes, extended, gates, daemons, limits, teams bool
	preferences, storage, soldOut, resized, gangs, defaults                                                        bool
}

// generate draws the scenario of a seed.
func generate(seed uint64) *scenario {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 1)), s: &scenario{Namespaces: map[string]map[string]string{
		"one": {labelTeam: "red"}, "two": {labelTeam: "blue"},
	}}}
	f := &g.has
	for _, on := range []*bool{&f.containers, &f.nodeAffinity, &f.taints, &f.podAffinity, &f.spread, &f.ports, &f.volumes, &f.extended, &f.gates, &f.daemons, &f.limits, &f.teams} {
		*on = g.chance(35)
	}
	for _, on := range []*bool{&f.preferences, &f.storage, &f.soldOut, &f.resized, &f.gangs, &f.defaults} {
		*on = g.chance(15)
	}
	g.machines()
	for i := range g.upTo(1, 3) {
		g.provisioner(fmt.Sprint("prov-", i))
	}
	if f.daemons {
		for i := range g.upTo(1, 2) {
			g.daemonSet(i)
		}
	}
	var templates []*corev1.Pod
	for i := range g.upTo(1, 4) {
		templates = append(templates, g.template(i))
	}
	for _, t := range templates {
		for j := range g.upTo(1, 6) {
			g.s.Pods = append(g.s.Pods, g.replica(t, j))
		}
	}
	for i := range g.upTo(0, 4) {
		g.node(i, templates)
	}
	return g.s
}

func (g *generator) upTo(lo, hi int) int { return lo + g.IntN(hi-lo+1) }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func one[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

// some is a random part of a list, at least one of it.
func some[T any](g *generator, list ...T) []T {
	list = slices.Clone(list)
	g.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:g.upTo(1, len(list))]
}

func (g *generator) taints(percent int) []corev1.Taint {
	var ts []corev1.Taint
	for _, key := range []string{"dedicated", "noisy"} {
		if g.chance(percent) {
			ts = append(ts, corev1.Taint{Key: key, Value: one(g, "", "x", "y"), Effect: one(g, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute, corev1.TaintEffectPreferNoSchedule)})
		}
	}
	return ts
}

func (g *generator) tolerations() []corev1.Toleration {
	var ts []corev1.Toleration
	for range g.upTo(0, 2) {
		t := corev1.Toleration{Key: one(g, "dedicated", "noisy"), Effect: one(g, "", "", corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute)}
		switch g.IntN(4) {
		case 0:
			t.Operator = corev1.TolerationOpExists
			if g.chance(40) {
				t.Key = ""
			}
		case 1:
			t.Value = one(g, "", "x", "y")
		default:
			t.Operator, t.Value = corev1.TolerationOpEqual, one(g, "", "x", "y")
		}
		ts = append(ts, t)
	}
	return ts
}

func (g *generator) daemonSet(i int) {
	p := g.blank("one", fmt.Sprint("ds-", i))
	p.Labels = map[string]string{"app": one(g, "ds", "ds", "app-0", "app-1"), labelTier: one(g, "web", "db")}
	if g.has.defaults {
		// Services do not select it: the planner takes DaemonSets' pods to be free of
		// ties to others.
		delete(p.Labels, labelTier)
	}
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: p.Name, UID: types.UID(p.Name), Controller: new(true)}}
	p.Spec.Containers[0].Resources.Requests = requests(one(g, 0, 50, 200, 900), one(g, 0, 32, 200))
	p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
	if g.chance(50) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists})
	}
	if g.chance(25) {
		p.Spec.NodeSelector = g.nodeSelector()
	}
	if g.has.ports && g.chance(40) {
		p.Spec.Containers[0].Ports = g.hostPorts()
	}
	g.s.DaemonSetPods = append(g.s.DaemonSetPods, p)
}

// blank is a pod that asks for nothing.
func (g *generator) blank(namespace, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name), CreationTimestamp: metav1.NewTime(now)},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}, SchedulerName: corev1.DefaultSchedulerName},
	}
}

// requests are millicores and MiB; nothing of what is 0.
func requests(cpu, memory int) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu > 0 {
		l[corev1.ResourceCPU] = *resource.NewMilliQuantity(int64(cpu), resource.DecimalSI)
	}
	if memory > 0 {
		l[corev1.ResourceMemory] = *resource.NewQuantity(int64(memory)<<20, resource.BinarySI)
	}
	return l
}

// replica is the j-th pod of a template.
func (g *generator) replica(template *corev1.Pod, j int) *corev1.Pod {
	p := template.DeepCopy()
	p.Name = fmt.Sprintf("%s-%d", template.Name, j)
	p.UID = types.UID(p.Namespace + "/" + p.Name)
	p.CreationTimestamp = metav1.NewTime(now.Add(time.Duration(g.IntN(4)) * time.Second))
	for i := range p.Spec.Volumes {
		if v := &p.Spec.Volumes[i]; v.Ephemeral != nil {
			g.s.Claims = append(g.s.Claims, &corev1.PersistentVolumeClaim{
				ObjectMeta: metav1.ObjectMeta{
					Namespace: p.Namespace, Name: p.Name + "-" + v.Name, UID: types.UID(p.Name + "-" + v.Name), ResourceVersion: "1",
					OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID, Controller: new(true)}},
				},
				Spec: v.Ephemeral.VolumeClaimTemplate.Spec,
			})
		}
	}
	return p
}

func (g *generator) template(i int) *corev1.Pod {
	p := g.blank(one(g, "one", "one", "two"), fmt.Sprint("t", i))
	p.Labels = map[string]string{"app": fmt.Sprint("app-", i), labelTier: one(g, "web", "db")}
	if g.chance(30) {
		p.Labels["app"] = "app-0"
	}
	p.Spec.Containers[0].Resources.Requests = requests(one(g, 0, 100, 250, 700, 1500, 3000), one(g, 0, 64, 500, 1500, 4000))
	if g.chance(20) {
		p.Spec.Priority = new(int32(g.upTo(0, 2)))
	}
	if g.has.containers {
		g.containers(p)
	}
	if g.has.nodeAffinity || g.has.teams {
		if g.chance(30) {
			p.Spec.NodeSelector = g.nodeSelector()
		}
		if g.has.nodeAffinity && g.chance(50) {
			affinity(p).NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: g.selectorTerms()}
		}
	}
	if g.has.taints {
		p.Spec.Tolerations = g.tolerations()
	}
	if g.has.ports && g.chance(50) {
		c := &p.Spec.Containers[0]
		if n := len(p.Spec.InitContainers); n > 0 && g.chance(50) {
			c = &p.Spec.InitContainers[n-1]
		}
		c.Ports = g.hostPorts()
	}
	if g.has.extended && g.chance(40) {
		rs := p.Spec.Containers[0].Resources.Requests
		rs[one(g, gpu, gpu, fpga)] = resource.MustParse("1")
	}
	if g.has.gates && g.chance(15) {
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}}
	}
	if g.has.gates && g.chance(10) {
		g.resourceClaim(p)
	}
	if g.has.storage {
		rs := p.Spec.Containers[0].Resources.Requests
		if g.chance(40) {
			rs[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(one(g, 1, 6, 9, 17, 40))<<30, resource.BinarySI)
		}
		if g.chance(20) {
			rs[hugePages] = resource.MustParse("64Mi")
		}
	}
	if g.has.gangs && g.chance(40) {
		p.Annotations = map[string]string{v1alpha1.AnnotationPodGroup: "gang", v1alpha1.AnnotationPodGroupMinCount: fmt.Sprint(g.upTo(1, 6))}
		if g.chance(30) {
			p.Annotations[v1alpha1.AnnotationPodGroupTopology] = corev1.LabelTopologyZone
		}
	}
	if g.has.podAffinity {
		if g.chance(35) {
			affinity(p).PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: g.podTerms(p)}
		}
		if g.chance(40) {
			affinity(p).PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: g.podTerms(p)}
		}
	}
	if g.has.spread {
		for range g.upTo(0, 2) {
			g.spread(p)
		}
	}
	if g.has.preferences {
		g.preferences(p)
	}
	if g.has.defaults && g.chance(70) {
		g.serve(p)
	}
	if g.has.volumes && g.chance(60) {
		for v := range g.upTo(1, 2) {
			g.volume(p, v)
		}
	}
	return p
}

func affinity(p *corev1.Pod) *corev1.Affinity {
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	return p.Spec.Affinity
}

// containers adds init containers, sidecars, pod-level resources and overhead.
func (g *generator) containers(p *corev1.Pod) {
	if g.chance(40) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "init", Resources: corev1.ResourceRequirements{Requests: requests(one(g, 0, 500, 2000), one(g, 0, 1000))}})
	}
	if g.chance(40) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "sidecar", RestartPolicy: new(corev1.ContainerRestartPolicyAlways), Resources: corev1.ResourceRequirements{Requests: requests(one(g, 0, 100, 400), one(g, 0, 200))}})
	}
	if g.chance(20) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "last", Resources: corev1.ResourceRequirements{Requests: requests(one(g, 0, 500, 3000), one(g, 0, 2500))}})
	}
	if g.chance(25) {
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: requests(one(g, 0, 4000), 8000)}
	}
	if g.chance(20) {
		p.Spec.Overhead = requests(one(g, 50, 250), one(g, 0, 100))
	}
}

func (g *generator) nodeSelector() map[string]string {
	switch g.IntN(7) {
	case 6:
		return map[string]string{one(g, "beta.kubernetes.io/os", corev1.LabelOSStable): one(g, "linux", "linux", "windows")}
	case 5:
		return map[string]string{labelGrade: one(g, "1", "3", "5")}
	case 0:
		return map[string]string{labelTeam: one(g, "a", "b", "c")}
	case 1:
		return map[string]string{"disk": one(g, "fast", "slow")}
	case 2:
		return map[string]string{one(g, corev1.LabelArchStable, "beta.kubernetes.io/arch"): one(g, "amd64", "arm64")}
	case 3:
		return map[string]string{v1alpha1.LabelCapacityType: one(g, v1alpha1.CapacityTypeSpot, v1alpha1.CapacityTypeOnDemand)}
	default:
		return map[string]string{g.zoneKey(): one(g, zones...)}
	}
}

// zoneKey is one of the labels that say a node's zone.
func (g *generator) zoneKey() string {
	return one(g, corev1.LabelTopologyZone, corev1.LabelTopologyZone, corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone, v1alpha1.LabelZoneEBS)
}

func (g *generator) selectorTerms() *corev1.NodeSelector {
	s := &corev1.NodeSelector{}
	for range g.upTo(1, 3) {
		t := corev1.NodeSelectorTerm{}
		for range g.upTo(1, 2) {
			e := corev1.NodeSelectorRequirement{}
			switch g.IntN(5) {
			case 0:
				e = corev1.NodeSelectorRequirement{Key: one(g, v1alpha1.LabelInstanceCPU, v1alpha1.LabelInstanceCPU, labelGrade), Operator: one(g, corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt), Values: []string{one(g, "1", "3", "6")}}
			case 1:
				e = corev1.NodeSelectorRequirement{Key: one(g, labelTeam, "disk", "absent"), Operator: one(g, corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist)}
			case 2:
				e = corev1.NodeSelectorRequirement{Key: labelTeam, Operator: one(g, corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn), Values: some(g, "a", "b", "c")}
			default:
				e = corev1.NodeSelectorRequirement{Key: g.zoneKey(), Operator: one(g, corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn), Values: some(g, zones...)}
			}
			t.MatchExpressions = append(t.MatchExpressions, e)
		}
		if g.chance(15) {
			t.MatchFields = []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: one(g, corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn), Values: []string{one(g, "node-0", "node-1")}}}
			if g.chance(50) {
				t.MatchExpressions = nil
			}
		}
		s.NodeSelectorTerms = append(s.NodeSelectorTerms, t)
	}
	return s
}

func (g *generator) hostPorts() []corev1.ContainerPort {
	var ps []corev1.ContainerPort
	for range g.upTo(1, 2) {
		port := int32(one(g, 80, 81))
		ps = append(ps, corev1.ContainerPort{ContainerPort: port, HostPort: port, Protocol: one(g, corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP), HostIP: one(g, "", "", "0.0.0.0", "10.0.0.1", "10.0.0.2")})
	}
	return ps
}

// selector is a label selector that a pod like p may have.
func (g *generator) selector(p *corev1.Pod) *metav1.LabelSelector {
	switch g.IntN(7) {
	case 0, 1:
		return &metav1.LabelSelector{MatchLabels: map[string]string{labelTier: one(g, "web", "db")}}
	case 2:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: one(g, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn), Values: []string{one(g, "app-0", "app-1", "ds"), p.Labels["app"]}}}}
	case 3:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: one(g, "app", "absent"), Operator: one(g, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)}}}
	default:
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}}
	}
}

func (g *generator) topologyKey() string {
	return one(g, corev1.LabelTopologyZone, corev1.LabelTopologyZone, g.zoneKey(), corev1.LabelHostname, corev1.LabelHostname, corev1.LabelHostname, v1alpha1.LabelCapacityType, labelTeam)
}

func (g *generator) podTerms(p *corev1.Pod) []corev1.PodAffinityTerm {
	var ts []corev1.PodAffinityTerm
	for range one(g, 1, 1, 2) {
		t := corev1.PodAffinityTerm{TopologyKey: g.topologyKey(), LabelSelector: g.selector(p)}
		switch g.IntN(7) {
		case 0:
			t.Namespaces = some(g, "one", "two")
		case 1:
			t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{labelTeam: one(g, "red", "blue")}}
		case 2:
			t.NamespaceSelector = &metav1.LabelSelector{}
		}
		if g.chance(15) {
			t.MatchLabelKeys = []string{labelTier}
		} else if g.chance(15) {
			t.MismatchLabelKeys = []string{labelTier}
		}
		mergeKeys(p, t.LabelSelector, t.MatchLabelKeys, t.MismatchLabelKeys)
		ts = append(ts, t)
	}
	return ts
}

// mergeKeys does what the API server does when a pod is made: it writes
// matchLabelKeys and mismatchLabelKeys into the selector.
func mergeKeys(p *corev1.Pod, s *metav1.LabelSelector, match, mismatch []string) {
	for _, k := range match {
		if v, ok := p.Labels[k]; ok {
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpIn, Values: []string{v}})
		}
	}
	for _, k := range mismatch {
		if v, ok := p.Labels[k]; ok {
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpNotIn, Values: []string{v}})
		}
	}
}

func (g *generator) spread(p *corev1.Pod) {
	c := corev1.TopologySpreadConstraint{MaxSkew: int32(one(g, 1, 1, 2)), TopologyKey: g.topologyKey(), WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: g.selector(p)}
	if slices.ContainsFunc(p.Spec.TopologySpreadConstraints, func(o corev1.TopologySpreadConstraint) bool { return o.TopologyKey == c.TopologyKey }) {
		return
	}
	if g.chance(10) {
		c.WhenUnsatisfiable = corev1.ScheduleAnyway
	} else if g.chance(25) {
		c.MinDomains = new(int32(g.upTo(1, 4)))
	}
	if g.chance(25) {
		c.NodeAffinityPolicy = new(one(g, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore))
	}
	if g.chance(25) {
		c.NodeTaintsPolicy = new(one(g, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore))
	}
	if g.chance(15) {
		c.MatchLabelKeys = []string{labelTier}
		if g.chance(50) {
			mergeKeys(p, c.LabelSelector, c.MatchLabelKeys, nil)
		}
	}
	p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
}
