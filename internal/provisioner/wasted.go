package provisioner

import (
	"fmt"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2"
)

const (
	// wastedLimit is how many nodes of a Provisioner, bought one after the other, may
	// turn out to be of no use before no more are bought.
	wastedLimit = 2
	// wastedFirst is for how long that is at first, wastedMost at most.
	wastedFirst = 10 * time.Minute
	wastedMost  = time.Hour
	// classWasted is what the condition LaunchesSucceed calls it.
	classWasted ec2.Class = "NodesNeverReady"
)

// wasted are nodes of a Provisioner that were paid for and were never ready for
// pods: a broken image, user data, network or device plugin is the same for all of
// them, and would be bought again and again.
type wasted struct {
	// generation of the Provisioner: whoever changes it has perhaps mended it.
	generation int64
	count      int
	until      time.Time
	// worked is when a node of the Provisioner was last ready for pods.
	worked time.Time
	why    string
}

// over says whether so many were wasted that it takes a probe to go on.
func (w wasted) over() bool { return w.count >= wastedLimit }

// waste notes that a node bought at a moment was of no use, and why. It says nothing
// where another node has been ready since, and those of one burst are one.
func (c *catalogue) waste(pr *v1alpha1.Provisioner, bought time.Time, why string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.wasted[pr.Name]
	if w.generation != pr.Generation {
		w = wasted{generation: pr.Generation, worked: w.worked}
	}
	if now.Before(w.until) || !w.worked.Before(bought) {
		return
	}
	w.count++
	w.why = why
	if w.over() {
		w.until = now.Add(min(wastedFirst<<min(w.count-wastedLimit, 10), wastedMost))
	}
	c.wasted[pr.Name] = w
}

// worked notes that a node of the Provisioner was ready for pods.
func (c *catalogue) worked(provisioner string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wasted[provisioner] = wasted{worked: now}
}

// wastedBy is what was wasted of the Provisioner as it is now, where it takes a
// probe to go on, as a blame that stops its launches until the time is over.
func (c *catalogue) wastedBy(pr *v1alpha1.Provisioner) (blame, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.wasted[pr.Name]
	if w.generation != pr.Generation || !w.over() {
		return blame{}, false
	}
	return blame{class: classWasted, stops: true, until: w.until,
		why: fmt.Sprintf("%d nodes after another were paid for and never ready for pods; the last: %s", w.count, w.why)}, true
}

// probe has a Provisioner whose nodes were wasted buy nothing for a time, and then
// one node, until one is ready for pods.
func (p *Loops) probe(pr *capacity.Provisioner, of *v1alpha1.Provisioner, claims map[string]*v1alpha1.NodeClaim, now time.Time) {
	b, ok := p.catalogue.wastedBy(of)
	if !ok {
		return
	}
	if now.Before(b.until) {
		if pr.NotReady == "" {
			pr.NotReady = b.text()
		}
		return
	}
	ready := int64(0)
	for _, c := range claims {
		if c.Spec.Provisioner.Name == of.Name && !gone(c) && isTrue(c.Status.Conditions, v1alpha1.ConditionInitialized) {
			ready++
		}
	}
	spec := *pr.Spec
	spec.Limits = maps.Clone(spec.Limits)
	if spec.Limits == nil {
		spec.Limits = corev1.ResourceList{}
	}
	one := *resource.NewQuantity(ready+1, resource.DecimalSI)
	if had, ok := spec.Limits[v1alpha1.LimitNodes]; !ok || one.Cmp(had) < 0 {
		spec.Limits[v1alpha1.LimitNodes] = one
	}
	pr.Spec = &spec
}

// waste counts a claim's node, which was never ready for pods, against its
// Provisioner.
func (p *Loops) waste(claim *v1alpha1.NodeClaim, why string) {
	if pr, ok := one[*v1alpha1.Provisioner](p.stores.provisioners, claim.Spec.Provisioner.Name); ok {
		p.catalogue.waste(pr, claim.CreationTimestamp.Time, why, time.Now())
	}
}

// reasonOf is EC2's own reason for an instance's end, as an addition to a text.
func reasonOf(inst ec2.Instance) string {
	if inst.Reason == "" {
		return ""
	}
	return ": " + inst.ReasonText + " (" + inst.Reason + ")"
}

// failedLate learns from an instance that EC2 launched and ended before it had
// joined: there was no capacity after all, or something about the launch is broken,
// such as a key that it may not use. What EC2 takes back, or a person ends, teaches
// nothing.
func (p *Loops) failedLate(claim *v1alpha1.NodeClaim, inst ec2.Instance) {
	if isTrue(claim.Status.Conditions, v1alpha1.ConditionRegistered) {
		return
	}
	switch {
	case inst.Reason == "Server.InsufficientInstanceCapacity":
		ref := capacity.OfferingRef{InstanceType: inst.Type, Zone: inst.Zone, CapacityType: inst.CapacityType}
		p.catalogue.exhausted(claim.Spec.Provisioner.Name, []ec2.Refusal{{OfferingRef: ref, Class: ec2.ClassCapacity}}, time.Now())
	case strings.HasPrefix(inst.Reason, "Client.") && inst.Reason != "Client.UserInitiatedShutdown":
		p.waste(claim, fmt.Sprintf("instance %s ended before it had joined%s", inst.ID, reasonOf(inst)))
	}
}
