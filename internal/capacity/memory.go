package capacity

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Memory plans one Snapshot after another and remembers what they have in
// common: the market, as long as the Provisioners, their types and what pods ask
// labels for are the same, and what the pods on a node come to, as long as they
// are the same objects. So planning for one more pod costs what that pod costs.
// The plans are those of Solve.
//
// It takes it that objects which the Snapshots point to do not change: a pod or
// a list of instance types that changes is another one, as in an informer's
// cache. It must not be used by several goroutines at once.
type Memory struct {
	nodes  map[string]*nodeFacts
	market *rememberedMarket
	census *census
}

// NewMemory is a Memory of nothing.
func NewMemory() *Memory { return &Memory{nodes: map[string]*nodeFacts{}} }

// Solve is Solve, with what is remembered.
func (m *Memory) Solve(s *Snapshot) *Plan {
	if len(m.nodes) > 2*len(s.Nodes)+64 {
		there := make(map[string]bool, len(s.Nodes))
		for _, n := range s.Nodes {
			there[n.Name] = true
		}
		for name := range m.nodes {
			if !there[name] {
				delete(m.nodes, name)
			}
		}
	}
	return solve(s, m)
}

// nodeFacts are what the planner needs to know of the pods on a node.
type nodeFacts struct {
	pods []*corev1.Pod
	used Resources
	// ports that are taken; storing are the pods that have volumes.
	ports   []hostPort
	storing []*corev1.Pod
	// daemons are the DaemonSets, by namespace/name, that have their pod there.
	daemons map[string]bool
	// selects: some of the pods select others; by the labels of these keys.
	selects      bool
	selectorKeys []string
	// antiKeys are the topology keys of the anti-affinity terms that they hold.
	antiKeys []string
	// crowds are who is there, and holdings the anti-affinity terms that they hold,
	// as the census numbers them; nil: not counted yet.
	census   *census
	crowds   []crowd
	holdings []holding
}

// factsOf are the facts of a node, worked out once.
func (v *solver) factsOf(n *Node) *nodeFacts {
	if f := v.facts[n]; f != nil {
		return f
	}
	var f *nodeFacts
	if m := v.memory; m != nil {
		if f = m.nodes[n.Name]; f == nil || !slices.Equal(f.pods, n.Pods) {
			f = newNodeFacts(n)
			f.pods = slices.Clone(n.Pods)
			m.nodes[n.Name] = f
		}
	} else {
		f = newNodeFacts(n)
	}
	v.facts[n] = f
	return f
}

func newNodeFacts(n *Node) *nodeFacts {
	f := &nodeFacts{used: Resources{}, daemons: map[string]bool{}}
	var keys map[string]bool
	for _, p := range n.Pods {
		f.used.Add(PodRequests(p))
		f.ports = append(f.ports, hostPorts(p)...)
		if selectsPods(p) {
			f.selects = true
			if keys == nil {
				keys = map[string]bool{}
			}
			podSelectorKeys(p, keys)
		}
		if a := p.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
			for i := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
				if k := a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i].TopologyKey; !slices.Contains(f.antiKeys, k) {
					f.antiKeys = append(f.antiKeys, k)
				}
			}
		}
		if len(p.Spec.Volumes) > 0 {
			f.storing = append(f.storing, p)
		}
		if ref := metav1.GetControllerOfNoCopy(p); ref != nil && ref.Kind == "DaemonSet" {
			f.daemons[p.Namespace+"/"+ref.Name] = true
		}
	}
	f.selectorKeys = sortedNames(keys)
	return f
}

// rememberedMarket is a market with what it was made from, and the column sets
// that pods were found to have in it.
type rememberedMarket struct {
	key     string
	specs   []rememberedSeller
	m       *market
	daemons []*daemon
	sigs    map[string]*signature
}

type rememberedSeller struct {
	spec     any
	types    *InstanceType
	n        int
	notReady string
}

// maxRememberedSignatures bounds a market's column sets.
const maxRememberedSignatures = 512

func sellersOf(ps []*Provisioner) []rememberedSeller {
	list := make([]rememberedSeller, len(ps))
	for i, p := range ps {
		list[i] = rememberedSeller{spec: p.Spec, n: len(p.InstanceTypes), notReady: p.NotReady}
		if len(p.InstanceTypes) > 0 {
			list[i].types = &p.InstanceTypes[0]
		}
	}
	return list
}

// marketFor is the market for these wanted labels, remembered or new.
func (v *solver) marketFor(wanted map[string][]string) *market {
	mem := v.memory
	if mem == nil {
		return newMarket(v.snap.Region, v.snap.Provisioners, v.daemons, wanted, v.dims)
	}
	b := make(shapeKey, 0, 1024)
	b.str(v.snap.Region)
	for _, name := range sortedNames(wanted) {
		b.str(name)
		b.strs(wanted[name])
	}
	for _, name := range v.dims.names {
		b.str(string(name))
	}
	for _, d := range v.daemons {
		b.str(d.pod.Namespace)
		b.str(d.pod.Name)
		b.labels(d.pod.Labels, nil)
		b.pod(d.pod)
		for _, key := range sortedNames(d.shunned) {
			b.str(key)
			b.strs(sortedNames(d.shunned[key]))
		}
	}
	for _, p := range v.snap.Provisioners {
		b.str(p.Name)
	}
	specs := sellersOf(v.snap.Provisioners)
	r := mem.market
	if r == nil || r.key != string(b) || !slices.Equal(r.specs, specs) {
		r = &rememberedMarket{key: string(b), specs: specs, daemons: v.daemons, sigs: map[string]*signature{},
			m: newMarket(v.snap.Region, v.snap.Provisioners, v.daemons, wanted, v.dims)}
		mem.market = r
		return r.m
	}
	// What limits leave and who is asked changes from Snapshot to Snapshot.
	v.daemons, v.dims = r.daemons, r.m.dims
	for _, s := range r.m.sellers {
		i := slices.IndexFunc(v.snap.Provisioners, func(p *Provisioner) bool { return p.Name == s.p.Name })
		s.p = v.snap.Provisioners[i]
		s.limits = newLimitsLeft(s.p)
	}
	return r.m
}

// signatureFor finds the columns of a shape, remembered or anew.
func (v *solver) signatureFor(s *shape, key string) *signature {
	mem := v.memory
	own := len(s.ports) > 0 || len(v.snap.DaemonSetPods) > 0 && v.quarrels(s)
	if mem != nil && !own {
		if sig := mem.market.sigs[key]; sig != nil {
			return sig
		}
	}
	sig := &signature{key: key}
	sig.cols, sig.seats = v.columnsFor(s)
	if mem != nil && !own {
		if len(mem.market.sigs) >= maxRememberedSignatures {
			clear(mem.market.sigs)
		}
		mem.market.sigs[key] = sig
	}
	return sig
}
