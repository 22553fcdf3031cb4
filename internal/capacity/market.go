package capacity

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// market is all that can be bought: one column for each Provisioner, choice of
// own labels, instance type and offering.
type market struct {
	region string
	// sellers by weight, heaviest first, then by name.
	sellers []*seller
	// columns of one seller lie together, in order of the seller.
	columns []column
	dims    *dimensions
	// rooms are what columns have free, each once; roomOf says by column which.
	rooms  [][]int64
	roomOf []int32
	// priceOrder is made by byPrice.
	priceOrder []int32
	// rateOrder is made by byRate.
	rateOrder []int32
	// reductions are remembered by unreplaced, sets by setOf.
	reductions []reduction
	sets       map[string]bitset
}

// seller is a Provisioner that is asked for nodes.
type seller struct {
	p *Provisioner
	// variants are the sets of own labels that its nodes may carry.
	variants []map[string]string
	// shunned: its nodes have a PreferNoSchedule taint.
	shunned bool
	// first and end bound its columns.
	first, end int
	// limits are what its limits leave before anything is bought, left what they
	// leave now.
	limits, left limitsLeft
	// priceOrder is made by offersOf.
	priceOrder []int32
}

// column is a kind of node that can be bought any number of times.
type column struct {
	index   int
	seller  *seller
	variant int
	typ     *InstanceType
	offer   *Offering
	price   float64
	// room is the name of the room in reservations that a node takes; empty: of none.
	room corev1.ResourceName
	// rate is what the objective takes a node to cost, pooled the mean price of the
	// pools that it may come from: see setRates.
	rate, pooled float64
	// free is what DaemonSets leave of the type's allocatable, by dimension.
	free []int64
	// daemons are the DaemonSet pods that will run there.
	daemons *daemonLoad
}

// daemonLoad is what a set of DaemonSet pods takes of a node.
type daemonLoad struct {
	pods     []*daemon
	requests Resources
	ports    []hostPort
}

// daemon is a DaemonSet's pod, compiled.
type daemon struct {
	pod      *corev1.Pod
	req      *nodeReq
	requests Resources
	ports    []hostPort
	// shunned are the domains, by topology key, in which running pods keep apart
	// from it, so that it does not come there.
	shunned map[string]map[string]bool
}

// shun keeps the DaemonSet's pod off a domain.
func (d *daemon) shun(key, value string) {
	if d.shunned == nil {
		d.shunned = map[string]map[string]bool{}
	}
	if d.shunned[key] == nil {
		d.shunned[key] = map[string]bool{}
	}
	d.shunned[key][value] = true
}

// welcome says whether no running pod keeps the DaemonSet's pod off a node with
// these labels.
func (d *daemon) welcome(label func(string) (string, bool)) bool {
	for key, values := range d.shunned {
		if v, ok := label(key); ok && values[v] {
			return false
		}
	}
	return true
}

// compileDaemons prepares DaemonSets' pods, in the order in which they are taken
// to arrive on a node: by priority, then by name.
func compileDaemons(pods []*corev1.Pod) []*daemon {
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(priorityOf(b), priorityOf(a)), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	ds := make([]*daemon, 0, len(pods))
	for _, p := range pods {
		ds = append(ds, &daemon{pod: p, req: newNodeReq(p, nil), requests: PodRequests(p), ports: hostPorts(p)})
	}
	return ds
}

// dimensions map resource names to positions in vectors.
type dimensions struct {
	names []corev1.ResourceName
	index map[corev1.ResourceName]int
	// attach are those that count volumes.
	attach []attachDimension
}

// attachDimension counts volumes of a CSI driver that a node can attach.
type attachDimension struct {
	driver string
	index  int
}

// newDimensions takes cpu, memory and pods, and whatever else is requested.
func newDimensions(requested ...Resources) *dimensions {
	d := &dimensions{
		names: []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourcePods},
		index: map[corev1.ResourceName]int{},
	}
	var more []corev1.ResourceName
	for _, r := range requested {
		for name := range r {
			if !slices.Contains(d.names, name) && !slices.Contains(more, name) {
				more = append(more, name)
			}
		}
	}
	slices.Sort(more)
	d.names = append(d.names, more...)
	for i, n := range d.names {
		d.index[n] = i
	}
	return d
}

func (d *dimensions) vector(r Resources) []int64 { return r.vector(d.names) }

// vector are the amounts of these names, in their order.
func (r Resources) vector(names []corev1.ResourceName) []int64 {
	v := make([]int64, len(names))
	for i, n := range names {
		v[i] = r[n]
	}
	return v
}

// newMarket lays out the columns of the Provisioners that are ready. wanted are
// values of own labels that pods select, by key: nodes may be given them where
// a Provisioner's requirements leave a choice.
func newMarket(region string, provisioners []*Provisioner, daemons []*daemon, wanted map[string][]string, dims *dimensions) *market {
	m := &market{region: region, dims: dims}
	for _, p := range provisioners {
		s := &seller{p: p, limits: newLimitsLeft(p), shunned: avoids(nil, p.Spec.Taints)}
		s.left = s.limits
		if p.NotReady == "" {
			s.variants = labelVariants(p.Spec, wanted)
		}
		m.sellers = append(m.sellers, s)
	}
	slices.SortStableFunc(m.sellers, func(a, b *seller) int {
		return cmp.Or(cmp.Compare(b.p.Spec.Weight, a.p.Spec.Weight), cmp.Compare(a.p.Name, b.p.Name))
	})
	rooms := map[string]int32{}
	for _, s := range m.sellers {
		s.first = len(m.columns)
		m.addColumns(s, daemons, rooms)
		s.end = len(m.columns)
	}
	m.setRates()
	return m
}

// addColumns adds the seller's columns; rooms are those that are known, by what
// they are.
func (m *market) addColumns(s *seller, daemons []*daemon, rooms map[string]int32) {
	tolerated := daemons[:0:0]
	for _, d := range daemons {
		if untolerated(d.pod.Spec.Tolerations, s.p.Spec.Taints) == nil {
			tolerated = append(tolerated, d)
		}
	}
	var names []corev1.ResourceName
	for _, d := range tolerated {
		for name := range d.requests {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	vectorsOf := make([][]int64, len(tolerated))
	for k, d := range tolerated {
		vectorsOf[k] = d.requests.vector(names)
	}
	loads := map[string]*daemonLoad{}
	var key []byte
	var room []int64
	var ports []hostPort
	for v := range s.variants {
		for i := range s.p.InstanceTypes {
			t := &s.p.InstanceTypes[i]
			roomBeside := map[*daemonLoad]int32{}
			for j := range t.Offerings {
				c := column{index: len(m.columns), seller: s, variant: v, typ: t, offer: &t.Offerings[j], price: t.Offerings[j].Price}
				if c.offer.Room > 0 {
					c.room = ReservedRoom(t.Machine.Name, c.offer.Zone)
				}
				// A DaemonSet that asks for more than the others leave never comes.
				key, ports, room = key[:0], ports[:0], append(room[:0], t.Allocatable.vector(names)...)
				for k, d := range tolerated {
					label := func(key string) (string, bool) { return m.label(&c, key) }
					if !vectorFits(vectorsOf[k], room) || !d.req.matches(label, unknownValue) || !d.welcome(label) || portsConflict(d.ports, ports) {
						continue
					}
					key = append(key, byte(k), byte(k>>8))
					ports = append(ports, d.ports...)
					for r, x := range vectorsOf[k] {
						room[r] -= x
					}
				}
				load := loads[string(key)]
				if load == nil {
					load = &daemonLoad{requests: Resources{}}
					for b := 0; b < len(key); b += 2 {
						d := tolerated[int(key[b])|int(key[b+1])<<8]
						load.pods = append(load.pods, d)
						load.requests.Add(d.requests)
						load.ports = append(load.ports, d.ports...)
					}
					loads[string(key)] = load
				}
				n, known := roomBeside[load]
				if !known {
					n = m.roomFor(t, load, rooms)
					roomBeside[load] = n
				}
				c.daemons, c.free = load, m.rooms[n]
				m.roomOf = append(m.roomOf, n)
				m.columns = append(m.columns, c)
			}
		}
	}
}

// roomFor is the number of the room that DaemonSets' pods leave on the type.
func (m *market) roomFor(t *InstanceType, load *daemonLoad, rooms map[string]int32) int32 {
	free := m.dims.vector(t.Allocatable)
	for _, a := range m.dims.attach {
		free[a.index] = limitOf(t.VolumeLimits, a.driver)
	}
	key := make([]byte, 0, 8*len(free))
	for k, x := range m.dims.vector(load.requests) {
		free[k] -= x
		key = binary.LittleEndian.AppendUint64(key, uint64(free[k]))
	}
	n, known := rooms[string(key)]
	if !known {
		n = int32(len(m.rooms))
		rooms[string(key)] = n
		m.rooms = append(m.rooms, free)
	}
	return n
}

// label is the value of a label that a node of the column would have.
func (m *market) label(c *column, key string) (string, bool) {
	key = v1alpha1.CurrentLabel(key)
	switch {
	case key == v1alpha1.LabelProvisioner:
		return c.seller.p.Name, true
	case isNodeLabel(key):
		return unknownValue, true
	case key == corev1.LabelTopologyRegion && m.region != "":
		return m.region, true
	case isOfferingLabel(key):
		return c.offer.label(key)
	}
	if v, ok := c.seller.variants[c.variant][key]; ok {
		return v, true
	}
	v, ok := c.typ.Labels[key]
	return v, ok
}

// labelOrAbsent is the label's value; absent without one.
func (m *market) labelOrAbsent(c *column, key string) string {
	if v, ok := m.label(c, key); ok {
		return v
	}
	return absent
}

// labels are all labels of a node of the column that are known beforehand.
func (m *market) labels(c *column) map[string]string {
	l := maps.Clone(c.seller.variants[c.variant])
	if l == nil {
		l = map[string]string{}
	}
	maps.Copy(l, c.typ.Labels)
	for _, key := range append([]string{v1alpha1.LabelProvisioner}, v1alpha1.OfferingLabels...) {
		if v, ok := m.label(c, key); ok {
			l[key] = v
		}
	}
	return l
}

// maxVariants bounds how many sets of own labels one Provisioner is tried with.
const maxVariants = 64

// labelVariants are the sets of own labels that nodes of a Provisioner may
// carry: its labels, and for each of its requirements on a key that its labels
// do not set, the value that a node gets when nobody asks or one that pods ask
// for. The first variant is the one that nobody asks for. None when labels
// contradict requirements.
func labelVariants(spec *v1alpha1.ProvisionerSpec, wanted map[string][]string) []map[string]string {
	open := map[string][]string{}
	var keys []string
	for i := range spec.Requirements {
		key := spec.Requirements[i].Key
		if !isOwnLabel(key) || slices.Contains(keys, key) {
			continue
		}
		if v, ok := spec.Labels[key]; ok {
			if !requirementsAllow(spec.Requirements, func(k string) bool { return k == key }, func(string) (string, bool) { return v, true }) {
				return nil
			}
			continue
		}
		keys = append(keys, key)
		values, looked := wanted[key]
		open[key] = ownValues(spec.Requirements, key, values, looked)
		if len(open[key]) == 0 {
			return nil
		}
	}
	variants := []map[string]string{maps.Clone(spec.Labels)}
	for _, key := range keys {
		var next []map[string]string
		for i, value := range open[key] {
			for _, v := range variants {
				if i > 0 && len(next) >= maxVariants {
					break
				}
				c := maps.Clone(v)
				if c == nil {
					c = map[string]string{}
				}
				if value != absent {
					c[key] = value
				}
				next = append(next, c)
			}
		}
		variants = next
	}
	return variants
}

// absent stands for a label that is not set; it is no valid label value.
const absent = "\x00"

// ownValues are the values (or absent) that a node may carry for an own label,
// the default first: absent where that is allowed, else the first of In's
// values, else the simplest value that passes. Others only when some pod looks
// at the label.
func ownValues(rs []v1alpha1.Requirement, key string, wanted []string, looked bool) []string {
	allowed := func(v string) bool {
		return requirementsAllow(rs, func(k string) bool { return k == key }, func(string) (string, bool) { return v, v != absent })
	}
	var values []string
	add := func(v string) {
		if allowed(v) && !slices.Contains(values, v) {
			values = append(values, v)
		}
	}
	add(absent)
	for i := range rs {
		if rs[i].Key == key && rs[i].Operator == v1alpha1.OperatorIn {
			for _, v := range rs[i].Values {
				add(v)
			}
		}
	}
	for i := range rs {
		if rs[i].Key != key || len(values) > 0 {
			continue
		}
		switch rs[i].Operator {
		case v1alpha1.OperatorExists:
			add("true")
		case v1alpha1.OperatorGt, v1alpha1.OperatorLt:
			if n, err := strconv.ParseInt(rs[i].Values[0], 10, 64); err == nil {
				add(strconv.FormatInt(n+1, 10))
				add(strconv.FormatInt(n-1, 10))
			}
		}
	}
	if !looked && len(values) > 1 {
		return values[:1]
	}
	for _, v := range wanted {
		add(v)
	}
	return values
}

// wantedLabels collects the own labels that a pod's node selector and affinity
// look at, with the values that they name.
func wantedLabels(pod *corev1.Pod, wanted map[string][]string) {
	add := func(key string, values ...string) { wantLabel(wanted, key, values...) }
	for k, v := range pod.Spec.NodeSelector {
		add(k, v)
	}
	var terms []corev1.NodeSelectorTerm
	if s := requiredNodeAffinity(pod); s != nil {
		terms = s.NodeSelectorTerms
	}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		for i := range a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			terms = append(terms[:len(terms):len(terms)], a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference)
		}
	}
	for i := range terms {
		for _, e := range terms[i].MatchExpressions {
			if e.Operator == corev1.NodeSelectorOpIn {
				add(e.Key, e.Values...)
			} else {
				add(e.Key)
			}
		}
	}
}

// wantLabel notes that somebody looks at a label, and for which values, if it is
// an own label.
func wantLabel(wanted map[string][]string, key string, values ...string) {
	if !isOwnLabel(key) {
		return
	}
	list := wanted[key]
	for _, v := range values {
		if !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	wanted[key] = list
}

// bitset is a set of small numbers.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) clear(i int)    { b[i/64] &^= 1 << (i % 64) }
func (b bitset) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

// within says whether every element of b is in c.
func (b bitset) within(c bitset) bool {
	for i, w := range b {
		if w&^c[i] != 0 {
			return false
		}
	}
	return true
}

func (b bitset) intersects(c bitset) bool {
	for i, w := range b {
		if w&c[i] != 0 {
			return true
		}
	}
	return false
}
