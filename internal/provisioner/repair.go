package provisioner

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ailment is a condition of a node that does not heal by itself, and how long
// it is given all the same.
type ailment struct {
	condition corev1.NodeConditionType
	// bad are the statuses that count.
	bad      []corev1.ConditionStatus
	patience time.Duration
}

// ailments: the kubelet's own condition, and those of EKS's node monitoring
// agent ("Detect node health issues and enable automatic node repair"), which
// are False when something is wrong. Pressure on disk, memory and pids is not
// among them: the kubelet evicts pods, and the node recovers.
var ailments = []ailment{
	{corev1.NodeReady, []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionUnknown}, 10 * time.Minute},
	{"AcceleratedHardwareReady", []corev1.ConditionStatus{corev1.ConditionFalse}, 10 * time.Minute},
	{"ContainerRuntimeReady", []corev1.ConditionStatus{corev1.ConditionFalse}, 30 * time.Minute},
	{"KernelReady", []corev1.ConditionStatus{corev1.ConditionFalse}, 30 * time.Minute},
	{"NetworkingReady", []corev1.ConditionStatus{corev1.ConditionFalse}, 30 * time.Minute},
	{"StorageReady", []corev1.ConditionStatus{corev1.ConditionFalse}, 30 * time.Minute},
}

const (
	// impairedFor is how long a status check of EC2 must have failed before the
	// node is replaced, when the kubelet is silent too; impairedAlone when it
	// still reports: then EC2 may be the one that is wrong.
	impairedFor   = 2 * time.Minute
	impairedAlone = 10 * time.Minute
	// repairDrain is how long the pods of a failed node have to leave.
	repairDrain = 10 * time.Minute
	// probeEvery is how often one node is replaced while so many are ill that
	// something else must be wrong.
	probeEvery = 10 * time.Minute
)

// patient is a node as the decision about repair sees it.
type patient struct {
	uid               types.UID
	name, provisioner string
	created           time.Time
	// conditions of the node, and what EC2 says of its instance.
	conditions    []corev1.NodeCondition
	impaired      []string
	impairedSince time.Time
	// repairing: it is being replaced already because it failed.
	repairing bool
}

// sick says why a node is to be replaced, and whether EC2 says so too; empty
// while it is well, or may still recover.
func (p *patient) sick(now time.Time) (why string, byEC2 bool) {
	ready := true
	for _, c := range p.conditions {
		for _, a := range ailments {
			if c.Type != a.condition || !slices.Contains(a.bad, c.Status) {
				continue
			}
			if c.Type == corev1.NodeReady {
				ready = false
			}
			if since := now.Sub(c.LastTransitionTime.Time); why == "" && since >= a.patience {
				why = fmt.Sprintf("condition %s has been %s for %s: %s", c.Type, c.Status, since.Round(time.Second), c.Message)
			}
		}
	}
	if len(p.impaired) == 0 {
		return why, false
	}
	since, patience := now.Sub(p.impairedSince), impairedFor
	if ready {
		patience = impairedAlone
	}
	if since < patience {
		return why, false
	}
	return fmt.Sprintf("EC2's status checks (%s) have failed for %s", strings.Join(p.impaired, " and "), since.Round(time.Second)), true
}

// ward is what the repair of nodes remembers: when the last probe of a pool
// that is ill as a whole was. It can be lost: the next probe then comes early.
type ward struct{ probed map[string]time.Time }

// repair is a node to replace now, and why.
type repair struct {
	patient *patient
	why     string
}

// decide chooses the nodes to replace now. It is the breaker that keeps a fault
// outside of the nodes (of the network, of the API server) from taking all of
// them down:
//
//   - of one Provisioner's nodes, a fifth is replaced at a time, and at least
//     one: a pool of four of which two are ill is healed, one after the other;
//   - when more than half of its nodes are ill, and more than two, one is
//     replaced every probeEvery, to see whether that helps;
//   - when that holds for all nodes of the cluster together, only those are
//     replaced that EC2 finds impaired too: silent kubelets alone then say more
//     about the way from them to the API server.
//
// held says by Provisioner why some are not replaced yet.
func (w *ward) decide(patients []patient, now time.Time) (out []repair, held map[string]string) {
	type pool struct {
		nodes, sick, repairing int
		due                    []repair
		byEC2                  []bool
	}
	pools := map[string]*pool{}
	all := pool{}
	for i := range patients {
		p := &patients[i]
		pl := pools[p.provisioner]
		if pl == nil {
			pl = &pool{}
			pools[p.provisioner] = pl
		}
		pl.nodes++
		all.nodes++
		if p.repairing {
			pl.repairing++
			pl.sick++
			all.sick++
			continue
		}
		if why, byEC2 := p.sick(now); why != "" {
			pl.sick++
			all.sick++
			pl.due = append(pl.due, repair{p, why})
			pl.byEC2 = append(pl.byEC2, byEC2)
		}
	}
	held = map[string]string{}
	outage := mostly(all.sick, all.nodes)
	for name, pl := range pools {
		room := max(1, pl.nodes/5) - pl.repairing
		probing := mostly(pl.sick, pl.nodes)
		if probing {
			room = min(room, 1-pl.repairing)
			if left := probeEvery - now.Sub(w.probed[name]); left > 0 {
				room = 0
			}
		}
		// The longest ill first would be fairest; the oldest first is stable.
		order := make([]int, len(pl.due))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(a, b int) int {
			if c := pl.due[a].patient.created.Compare(pl.due[b].patient.created); c != 0 {
				return c
			}
			return strings.Compare(pl.due[a].patient.name, pl.due[b].patient.name)
		})
		taken := 0
		for _, i := range order {
			if taken >= room || outage && !pl.byEC2[i] {
				continue
			}
			taken++
			out = append(out, pl.due[i])
		}
		if taken > 0 && probing {
			if w.probed == nil {
				w.probed = map[string]time.Time{}
			}
			w.probed[name] = now
		}
		if left := len(pl.due) - taken; left > 0 {
			held[name] = fmt.Sprintf("%d of %d nodes are ill; %d wait for those that are being replaced", pl.sick, pl.nodes, left)
			if outage {
				held[name] = fmt.Sprintf("%d of all %d nodes are ill, which looks like an outage; only those that EC2 finds impaired are replaced", all.sick, all.nodes)
			} else if probing {
				held[name] = fmt.Sprintf("%d of %d nodes are ill; one is replaced every %s", pl.sick, pl.nodes, probeEvery)
			}
		}
	}
	slices.SortFunc(out, func(a, b repair) int { return strings.Compare(a.patient.name, b.patient.name) })
	return out, held
}

// mostly reports whether so many are ill that something else must be wrong.
func mostly(sick, nodes int) bool { return sick > 2 && 2*sick > nodes }
