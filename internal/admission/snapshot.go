package admission

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// staleAfter is how old offerings may be to deny on their word: the
// provisioner publishes prices anew every few minutes, so its leader is gone.
const staleAfter = 3 * time.Hour

// maxAnswers bounds the memory of answers by shape in one Snapshot.
const maxAnswers = 4096

// Inputs is what a Snapshot is made of.
type Inputs struct {
	// Now is the time of the Snapshot.
	Now time.Time
	// Provisioners as they are stored, in any order.
	Provisioners []*v1alpha1.Provisioner
	// Offerings as the provisioner published them; nil: none yet.
	Offerings *capacity.Offerings
	// DaemonSetPods as in capacity.Snapshot.
	DaemonSetPods []*corev1.Pod
	// Budgets are the PodDisruptionBudgets of all namespaces.
	Budgets []*policyv1.PodDisruptionBudget
	// Nodes that exist; of them names, labels, taints and allocatable count.
	Nodes []*corev1.Node
}

// Snapshot is all that a decision depends on beside its object. It is
// immutable but for a memory of answers, which changes none of them; it may be
// asked from many goroutines.
type Snapshot struct {
	offerings *capacity.Offerings
	// trusted: the offerings are there and recent enough to deny on.
	trusted bool
	// now is when it was made.
	now time.Time
	// provisioners by name.
	provisioners []*capacity.Provisioner
	// index is nil without offerings.
	index *capacity.Index
	// budgets by namespace.
	budgets map[string][]budgetOfPods
	// nodes that exist.
	nodes []*capacity.Node
	// idle is the same market with nothing sold out, used up or not ready; made when
	// it is first asked for.
	idle func() *capacity.Index

	mu      sync.Mutex
	answers map[string]answer
	whys    map[string]why
}

// answer is where an empty node for a shape would come from; zero: from nowhere.
type answer struct {
	hint string
	// share and price in $/h, of the pod and of the whole node, and what is bought.
	share, price               float64
	instanceType, capacityType string
}

// typeMemory keeps the instance types that a Provisioner allows from one
// Snapshot to the next, as deriving them is most of the work.
type typeMemory map[string]rememberedTypes

type rememberedTypes struct {
	uid        string
	generation int64
	offerings  *capacity.Offerings
	until      time.Time
	types      []capacity.InstanceType
}

// NewSnapshot builds a Snapshot.
func NewSnapshot(in Inputs) *Snapshot { return newSnapshot(in, typeMemory{}) }

func newSnapshot(in Inputs, memory typeMemory) *Snapshot {
	s := &Snapshot{offerings: in.Offerings, now: in.Now, answers: map[string]answer{}, whys: map[string]why{}, budgets: readBudgets(in.Budgets), nodes: readNodes(in.Nodes)}
	if in.Offerings == nil {
		for _, p := range in.Provisioners {
			if p.DeletionTimestamp == nil {
				s.provisioners = append(s.provisioners, &capacity.Provisioner{Name: p.Name, UID: p.UID, Spec: &p.Spec})
			}
		}
		s.sort()
		return s
	}
	s.trusted = in.Now.Sub(in.Offerings.At) < staleAfter && len(in.Offerings.Machines) > 0
	until := nextRelease(in.Offerings, in.Now)
	for _, p := range in.Provisioners {
		if p.DeletionTimestamp != nil {
			continue
		}
		// Without a word about it, it is new: what it names is taken to exist.
		resolved, known := in.Offerings.Provisioners[p.Name]
		cp := &capacity.Provisioner{Name: p.Name, UID: p.UID, Spec: &p.Spec}
		if known && !resolved.Ready {
			cp.NotReady = cmp.Or(resolved.Why, "what it names in EC2 has not been found yet")
		}
		m := memory[p.Name]
		if m.uid != string(p.UID) || m.generation != p.Generation || m.offerings != in.Offerings || !in.Now.Before(m.until) {
			m = rememberedTypes{uid: string(p.UID), generation: p.Generation, offerings: in.Offerings, until: until,
				types: capacity.InstanceTypes(in.Offerings.Machines, &p.Spec, resolved, in.Now)}
			memory[p.Name] = m
		}
		cp.InstanceTypes = m.types
		cp.Used = capacity.FromResourceList(p.Status.Resources)
		cp.Used[v1alpha1.LimitNodes] = int64(p.Status.Nodes)
		cp.UsedHourlyCost = p.Status.HourlyCost.Dollars()
		s.provisioners = append(s.provisioners, cp)
	}
	s.sort()
	maps.DeleteFunc(memory, func(name string, _ rememberedTypes) bool {
		return !slices.ContainsFunc(s.provisioners, func(p *capacity.Provisioner) bool { return p.Name == name })
	})
	s.index = capacity.NewIndex(s.provisioners, in.DaemonSetPods)
	s.idle = sync.OnceValue(func() *capacity.Index { return s.idleIndex(in.DaemonSetPods) })
	return s
}

func (s *Snapshot) sort() {
	slices.SortFunc(s.provisioners, func(a, b *capacity.Provisioner) int { return cmp.Compare(a.Name, b.Name) })
}

// never is a time that no Snapshot reaches.
var never = time.Unix(math.MaxInt32, 0).AddDate(200, 0, 0)

// nextRelease is when the next exhausted offering counts again.
func nextRelease(o *capacity.Offerings, now time.Time) time.Time {
	next := never
	for i := range o.Machines {
		for j := range o.Machines[i].Offerings {
			if u := o.Machines[i].Offerings[j].UnavailableUntil; u.After(now) && u.Before(next) {
				next = u
			}
		}
	}
	return next
}

// place answers for a pod of the shape. ok is false when nothing is known, and for
// a pod that asks too much to be looked at.
func (s *Snapshot) place(pod *corev1.Pod, shape string) (a answer, ok bool) {
	if s.index == nil || tooIntricate(pod) {
		return answer{}, false
	}
	s.mu.Lock()
	a, ok = s.answers[shape]
	s.mu.Unlock()
	if ok {
		return a, true
	}
	if choice := s.cheapest(pod); choice != nil {
		a.share, a.price, a.instanceType, a.capacityType = share(pod, choice), choice.Price, choice.InstanceType, choice.CapacityType
		a.hint = capacity.Hint{
			Provisioner: choice.Provisioner.Name, InstanceType: choice.InstanceType, CapacityType: choice.CapacityType, Zone: choice.Zone,
			Share: a.share, Version: s.offerings.Version,
		}.String()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.answers) >= maxAnswers {
		clear(s.answers)
	}
	s.answers[shape] = a
	return a, true
}

// cheapest asks the index; where a capacity type was chosen for the pod, for that
// first, as the provisioner does.
func (s *Snapshot) cheapest(pod *corev1.Pod) *capacity.Choice {
	if preferred := capacity.PreferredCapacity(pod); preferred != "" {
		if choice := s.index.Cheapest(capacity.WithCapacityType(pod, preferred)); choice != nil {
			return choice
		}
	}
	return s.index.Cheapest(pod)
}

// share is the part of the node's price, in $/h, that the pod takes by the
// resource that it takes most of.
func share(pod *corev1.Pod, c *capacity.Choice) float64 {
	types := c.Provisioner.InstanceTypes
	i, found := slices.BinarySearchFunc(types, c.InstanceType, func(t capacity.InstanceType, name string) int {
		return cmp.Compare(t.Machine.Name, name)
	})
	if !found {
		return c.Price
	}
	most := 0.0
	for name, v := range capacity.PodRequests(pod) {
		if have := types[i].Allocatable[name]; have > 0 {
			most = max(most, float64(v)/float64(have))
		}
	}
	return c.Price * min(most, 1)
}
