package capacity

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// roster is a list of namespaces with labels, in which a query finds those that
// it selects without looking at the others: by the values that it asks for.
type roster struct {
	members []member
	spaces  map[string]*space
}

// member is what a query sees of a pod.
type member struct {
	namespace string
	labels    map[string]string
}

// space are the members of one namespace.
type space struct {
	all []int32
	by  map[labelValue][]int32
}

type labelValue struct{ key, value string }

// add appends a member, whose number is that of members before it.
func (r *roster) add(namespace string, l map[string]string) {
	i := int32(len(r.members))
	r.members = append(r.members, member{namespace, l})
	if r.spaces == nil {
		r.spaces = map[string]*space{}
	}
	s := r.spaces[namespace]
	if s == nil {
		s = &space{by: map[labelValue][]int32{}}
		r.spaces[namespace] = s
	}
	s.all = append(s.all, i)
	for k, v := range l {
		s.by[labelValue{k, v}] = append(s.by[labelValue{k, v}], i)
	}
}

// find calls f for each member that the query selects, in no particular order.
func (r *roster) find(q *query, namespaces map[string]map[string]string, f func(i int32)) {
	visit := func(s *space) {
		for _, i := range s.candidates(q.selector) {
			if q.selector.Matches(labels.Set(r.members[i].labels)) {
				f(i)
			}
		}
	}
	if q.nsSelector == nil {
		for i, ns := range q.namespaces {
			if s := r.spaces[ns]; s != nil && !slices.Contains(q.namespaces[:i], ns) {
				visit(s)
			}
		}
		return
	}
	for ns, s := range r.spaces {
		if q.selectsNamespace(namespaces, ns) {
			visit(s)
		}
	}
}

// candidates are members among which all are that the selector selects.
func (s *space) candidates(sel labels.Selector) []int32 {
	reqs, selectable := sel.Requirements()
	if !selectable {
		return nil
	}
	best := s.all
	for i := range reqs {
		r := &reqs[i]
		switch r.Operator() {
		case selection.In, selection.Equals, selection.DoubleEquals:
		default:
			continue
		}
		values := r.ValuesUnsorted()
		if len(values) == 1 {
			if list := s.by[labelValue{r.Key(), values[0]}]; len(list) < len(best) {
				best = list
			}
			continue
		}
		slices.Sort(values)
		var list []int32
		for _, v := range slices.Compact(values) {
			list = append(list, s.by[labelValue{r.Key(), v}]...)
		}
		if len(list) < len(best) {
			best = list
		}
	}
	return best
}

// census numbers what pods on nodes have in common: sets of labels, and
// anti-affinity terms that they hold.
type census struct {
	sets    roster
	setIDs  map[string]int32
	terms   []term
	termIDs map[string]int32
	// held are the terms of pods by what their specs say.
	held map[string][]int32
}

func newCensus() *census {
	return &census{setIDs: map[string]int32{}, termIDs: map[string]int32{}, held: map[string][]int32{}}
}

// crowd is how many pods of one set of labels are on a node. Those that are being
// deleted are not among the staying.
type crowd struct {
	set           int32
	pods, staying int32
}

// holding is how many pods on a node hold an anti-affinity term.
type holding struct {
	term, pods int32
}

// count notes in the facts who is on the node.
func (c *census) count(f *nodeFacts, pods []*corev1.Pod) {
	f.census, f.crowds, f.holdings = c, make([]crowd, 0, len(pods)), nil
	b := make(shapeKey, 0, 256)
	for _, p := range pods {
		b = b[:0]
		b.str(p.Namespace)
		b.labels(p.Labels, nil)
		set, ok := c.setIDs[string(b)]
		if !ok {
			set = int32(len(c.sets.members))
			c.setIDs[string(b)] = set
			c.sets.add(p.Namespace, p.Labels)
		}
		i := slices.IndexFunc(f.crowds, func(x crowd) bool { return x.set == set })
		if i < 0 {
			i = len(f.crowds)
			f.crowds = append(f.crowds, crowd{set: set})
		}
		f.crowds[i].pods++
		if p.DeletionTimestamp == nil {
			f.crowds[i].staying++
		}
		for _, t := range c.heldBy(p, &b) {
			j := slices.IndexFunc(f.holdings, func(h holding) bool { return h.term == t })
			if j < 0 {
				j = len(f.holdings)
				f.holdings = append(f.holdings, holding{term: t})
			}
			f.holdings[j].pods++
		}
	}
}

// heldBy are the required anti-affinity terms of a pod, each as often as the pod
// has it. b is room for a key.
func (c *census) heldBy(p *corev1.Pod, b *shapeKey) []int32 {
	if p.Spec.Affinity == nil || p.Spec.Affinity.PodAntiAffinity == nil {
		return nil
	}
	required := p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if len(required) == 0 {
		return nil
	}
	*b = (*b)[:0]
	b.str(p.Namespace)
	b.podTerms(required, nil)
	for i := range required {
		for _, keys := range [2][]string{required[i].MatchLabelKeys, required[i].MismatchLabelKeys} {
			for _, k := range keys {
				v, ok := p.Labels[k]
				if !ok {
					b.num(0)
					continue
				}
				b.num(1)
				b.str(v)
			}
		}
	}
	ids, ok := c.held[string(*b)]
	if ok {
		return ids
	}
	_, anti := affinityTerms(p)
	for _, t := range anti {
		id, ok := c.termIDs[t.id()]
		if !ok {
			id = int32(len(c.terms))
			c.termIDs[t.id()] = id
			c.terms = append(c.terms, t)
		}
		ids = append(ids, id)
	}
	c.held[string(*b)] = ids
	return ids
}

// tooLarge says whether most of what the census has numbered must be gone, with
// so many pods there.
func (c *census) tooLarge(pods int) bool {
	return len(c.sets.members)+len(c.held) > 4*pods+1024
}

// id is equal for terms that ask for the same.
func (t *term) id() string { return t.q.key + "\x00" + t.key }

// residents says on which of the Snapshot's nodes pods of each set of labels are.
type residents struct {
	// start, by set, is where its part of at begins.
	start []int32
	at    []resident
}

// resident is a crowd of the set on the bin with that index.
type resident struct {
	bin, pods, staying int32
}

func (r *residents) of(set int32) []resident { return r.at[r.start[set]:r.start[set+1]] }

// residents are those of the existing bins, counted once.
func (v *solver) residentsOf() *residents {
	if v.residents != nil {
		return v.residents
	}
	facts := make([]*nodeFacts, len(v.fresh))
	for i := range v.fresh {
		facts[i] = v.counted(v.fresh[i].node)
	}
	r := &residents{start: make([]int32, len(v.census().sets.members)+1)}
	for _, f := range facts {
		for _, c := range f.crowds {
			r.start[c.set+1]++
		}
	}
	for i := 1; i < len(r.start); i++ {
		r.start[i] += r.start[i-1]
	}
	r.at = make([]resident, r.start[len(r.start)-1])
	next := slices.Clone(r.start)
	for i, f := range facts {
		for _, c := range f.crowds {
			r.at[next[c.set]] = resident{int32(i), c.pods, c.staying}
			next[c.set]++
		}
	}
	v.residents = r
	return r
}

// counted are the facts of a node, with who is there.
func (v *solver) counted(n *Node) *nodeFacts {
	f := v.factsOf(n)
	if c := v.census(); f.census != c {
		c.count(f, n.Pods)
	}
	return f
}

// census is the memory's, or the solver's own.
func (v *solver) census() *census {
	if v.people == nil {
		if m := v.memory; m != nil {
			pods := 0
			for _, n := range v.snap.Nodes {
				pods += len(n.Pods)
			}
			if m.census == nil || m.census.tooLarge(pods) {
				m.census = newCensus()
			}
			v.people = m.census
		} else {
			v.people = newCensus()
		}
	}
	return v.people
}
