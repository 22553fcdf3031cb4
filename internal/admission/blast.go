package admission

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// asksFrom is how many nodes an update must replace for it to be refused: below
// that, disruption budgets alone hold it.
const asksFrom = 10

// Fleet is what a Provisioner has bought.
type Fleet struct {
	// Claims of the Provisioner, in any order.
	Claims []*v1alpha1.NodeClaim
	// RefuseAbove is the share of nodes, from 0 to 1, that an update may replace
	// without being acknowledged, where it replaces asksFrom or more.
	RefuseAbove float64
	// ClusterName completes templates where they name no subnets and groups; empty:
	// it is not known.
	ClusterName string
}

// live are the claims that are not on their way out.
func (f *Fleet) live() []*v1alpha1.NodeClaim {
	var out []*v1alpha1.NodeClaim
	for _, c := range f.Claims {
		if c.DeletionTimestamp == nil {
			out = append(out, c)
		}
	}
	return out
}

// blast is what an update of a Provisioner does to its nodes.
type blast struct {
	// nodes there are, how many of them drift, and how many of the others expire at
	// once, because the update lets nodes become less old than they are.
	nodes, drift, expire int
	// stranded of those have no offering in their place.
	stranded int
	// cost is by how much the fleet's price changes, in $/h; known without
	// offerings it is not.
	cost  float64
	known bool
	held  []v1alpha1.HeldNodes
}

// blastOf computes what becomes of the nodes when old is replaced by p.
func (s *Snapshot) blastOf(p, old *v1alpha1.Provisioner, f Fleet) blast {
	live := f.live()
	b := blast{nodes: len(live), held: old.Status.HeldNodes}
	var replaced []*v1alpha1.NodeClaim
	// By what the nodes are, as drift judges: going back to what they were made of
	// replaces none, whatever stood in between.
	was, is := driftFrom(&old.Spec, f.ClusterName), driftFrom(&p.Spec, f.ClusterName)
	remade := !apiequality.Semantic.DeepEqual(p.Spec.NodeTemplate.Complete(f.ClusterName), old.Spec.NodeTemplate.Complete(f.ClusterName))
	for _, c := range live {
		switch {
		case is(c) && !was(c), remade && c.Annotations[v1alpha1.AnnotationProvisionerHash] == "":
			b.drift++
		case s != nil && expired(c, p, s.now) && !expired(c, old, s.now):
			b.expire++
		default:
			continue
		}
		replaced = append(replaced, c)
	}
	if len(replaced) == 0 || s == nil || s.offerings == nil {
		return b
	}
	b.known = true
	s.price(&b, p, replaced)
	return b
}

// price counts what is bought in the place of claims, and those for which there is
// nothing. Room in reservations is given once, and nodes that go give theirs back.
func (s *Snapshot) price(b *blast, p *v1alpha1.Provisioner, replaced []*v1alpha1.NodeClaim) {
	market := func(types []capacity.InstanceType) *capacity.Index {
		return capacity.NewIndex([]*capacity.Provisioner{{Name: p.Name, UID: p.UID, Spec: &p.Spec, InstanceTypes: types}}, nil)
	}
	reservations := slices.Clone(s.reservationsOf(p))
	// room adds to the room of a reservation and says whether it has just been filled.
	room := func(capacityType, instanceType, zone string, n int) (filled bool) {
		i := slices.IndexFunc(reservations, func(r capacity.Reservation) bool { return r.InstanceType == instanceType && r.Zone == zone })
		if capacityType != v1alpha1.CapacityTypeReserved || i < 0 {
			return false
		}
		reservations[i].Available += n
		return n < 0 && reservations[i].Available <= 0
	}
	for _, c := range replaced {
		room(c.Status.CapacityType, c.Status.InstanceType, c.Status.Zone, 1)
	}
	index, hoped := market(s.typesOf(&p.Spec, reservations)), (*capacity.Index)(nil)
	if len(p.Spec.EC2.CapacityReservations) > 0 && len(reservations) == 0 {
		hoped = market(s.sellable(&p.Spec, capacity.Resolved{}))
	}
	for _, c := range replaced {
		pod := standInFor(c)
		choice := index.Cheapest(pod)
		if choice == nil && hoped != nil {
			choice = hoped.Cheapest(pod)
		}
		if choice == nil {
			b.stranded++
			continue
		}
		b.cost += choice.Price - c.Status.HourlyPrice.Dollars()
		if room(choice.CapacityType, choice.InstanceType, choice.Zone, -1) {
			index = market(s.typesOf(&p.Spec, reservations))
		}
	}
}

// expired says whether a claim's node is older than the Provisioner lets it become.
func expired(c *v1alpha1.NodeClaim, p *v1alpha1.Provisioner, now time.Time) bool {
	ttl := p.Spec.TTLSecondsUntilExpired
	return ttl != nil && !c.CreationTimestamp.IsZero() && int64(now.Sub(c.CreationTimestamp.Time)/time.Second) >= *ttl
}

// driftFrom returns a function that says whether a claim's node is not what the spec
// stands for.
func driftFrom(spec *v1alpha1.ProvisionerSpec, clusterName string) func(*v1alpha1.NodeClaim) bool {
	alike := capacity.MadeAlike(spec, clusterName)
	return func(c *v1alpha1.NodeClaim) bool {
		labels := capacity.ClaimLabels(c)
		// What EC2 gave may be another offering than the first choice.
		for key, value := range map[string]string{
			corev1.LabelInstanceTypeStable: c.Status.InstanceType, corev1.LabelTopologyZone: c.Status.Zone, v1alpha1.LabelCapacityType: c.Status.CapacityType,
		} {
			if value != "" {
				labels[key] = value
			}
		}
		return !alike(c) || capacity.Unmet(spec.Requirements, labels) != nil
	}
}

// standInFor is one pod that takes what a claim's pods take.
func standInFor(c *v1alpha1.NodeClaim) *corev1.Pod {
	requests := c.Spec.Requests.DeepCopy()
	delete(requests, corev1.ResourcePods)
	pod := &corev1.Pod{}
	pod.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	pod.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: requests}}}
	return pod
}

// replaces is how many nodes others are bought for.
func (b blast) replaces() int { return b.drift + b.expire }

// text says it in one line: 12 of 40 nodes drift, PDB web/x holds 3, +$4.00/h.
func (b blast) text() string {
	var t strings.Builder
	nodes := count(int64(b.nodes), "node")
	switch {
	case b.expire == 0:
		fmt.Fprintf(&t, "%d of %s drift", b.drift, nodes)
	case b.drift == 0:
		fmt.Fprintf(&t, "%d of %s expire at once", b.expire, nodes)
	default:
		fmt.Fprintf(&t, "%d of %s drift, %d expire at once", b.drift, nodes, b.expire)
	}
	for i, h := range b.held {
		if i == 3 {
			fmt.Fprintf(&t, " and %d more PDBs hold some", len(b.held)-i)
			break
		}
		fmt.Fprintf(&t, ", PDB %s holds %d", h.Budget, min(int(h.Nodes), b.replaces()))
	}
	if b.known {
		sign := "+"
		if b.cost < 0 {
			sign = "-"
		}
		fmt.Fprintf(&t, ", %s$%.2f/h", sign, math.Abs(b.cost))
	}
	if b.stranded > 0 {
		fmt.Fprintf(&t, ", nothing could replace %d of them", b.stranded)
	}
	return t.String()
}

// checkBlast warns of what an update does to nodes, and refuses it when that is
// more than may be done unasked.
func (s *Snapshot) checkBlast(p, old *v1alpha1.Provisioner, f Fleet) (problems, warnings []string) {
	b := s.blastOf(p, old, f)
	if b.replaces() == 0 {
		return nil, nil
	}
	text := b.text()
	plan := planHash(p, b.expire > 0)
	if b.replaces() < asksFrom || float64(b.replaces()) <= f.RefuseAbove*float64(b.nodes) || p.Annotations[v1alpha1.AnnotationAcknowledge] == plan {
		return nil, []string{text}
	}
	return []string{fmt.Sprintf("this update replaces more than %.0f %% of the nodes (%s): to go ahead, set annotation %s: %q in the same update",
		100*f.RefuseAbove, text, v1alpha1.AnnotationAcknowledge, plan)}, nil
}

// planHash names what an update wants, so that an acknowledgement is for that
// and for nothing that comes later. life: it also shortens the life of nodes.
func planHash(p *v1alpha1.Provisioner, life bool) string {
	var ttl *int64
	if life {
		ttl = p.Spec.TTLSecondsUntilExpired
	}
	doc, err := json.Marshal(struct {
		Template     v1alpha1.NodeTemplate
		Requirements []v1alpha1.Requirement
		Life         *int64 `json:",omitempty"`
	}{p.Spec.NodeTemplate, p.Spec.Requirements, ttl})
	if err != nil {
		return "" // Plain data: it cannot fail.
	}
	sum := sha256.Sum256(doc)
	return hex.EncodeToString(sum[:4])
}

// checkDeletion refuses to delete a Provisioner that has nodes and does not say
// what is to become of them.
func checkDeletion(p *v1alpha1.Provisioner, f Fleet) Decision {
	nodes := int64(len(f.live()))
	switch wish := p.Annotations[v1alpha1.AnnotationDeletion]; {
	case nodes == 0:
		return Decision{Result: ResultAllowed}
	case wish == v1alpha1.DeletionOrphan:
		return Decision{Result: ResultAllowed, Warnings: []string{fmt.Sprintf("berth: %s stay, without a Provisioner: nothing replaces them", count(nodes, "node"))}}
	case wish == v1alpha1.DeletionDrain && !slices.Contains(p.Finalizers, v1alpha1.Finalizer):
		return Decision{Result: ResultDenied, Forbidden: true, Denied: fmt.Sprintf("Provisioner %s is being prepared for %s=%s by the provisioner: try again in a few seconds",
			p.Name, v1alpha1.AnnotationDeletion, wish)}
	case wish == v1alpha1.DeletionDrain:
		return Decision{Result: ResultAllowed, Warnings: []string{fmt.Sprintf("berth: %s will be drained and terminated, then Provisioner %s goes", count(nodes, "node"), p.Name)}}
	}
	return Decision{Result: ResultDenied, Forbidden: true, Denied: fmt.Sprintf("Provisioner %s has %s: say what is to become of them with annotation %s: %s (they stay) or %s (they are drained and terminated first)",
		p.Name, count(nodes, "node"), v1alpha1.AnnotationDeletion, v1alpha1.DeletionOrphan, v1alpha1.DeletionDrain)}
}
