// Package invariant holds what must be true of Berth at every moment, whatever
// crashes. It judges from outside: by what ec2sim has and what the API server
// stores, never by what the provisioner says of itself.
package invariant

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2sim"
)

// World is what is judged. Instances and Claims need not be of the same instant.
type World struct {
	// ClusterUID is the UID of the cluster's kube-system namespace.
	ClusterUID   string
	Instances    []ec2sim.InstanceState
	Claims       []v1alpha1.NodeClaim
	Provisioners []v1alpha1.Provisioner
	// VCPUs of an instance type.
	VCPUs func(instanceType string) int
}

// youngest is how old an instance must be before it may be collected.
const youngest = 2 * time.Minute

// alive reports whether an instance still costs money or may come to.
func alive(i ec2sim.InstanceState) bool { return i.State != "terminated" }

// Violations of what must always be true:
//
//   - at most one instance is alive for each claim, and no two claims have the
//     same one;
//   - what is alive for a Provisioner is within its limits.
func (w World) Violations() []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	byClaim := map[string]string{}
	type use struct {
		nodes, vcpus int
		cost         float64
	}
	used := map[string]use{}
	for _, i := range w.Instances {
		if !alive(i) || i.Tags[v1alpha1.TagClusterUID] != w.ClusterUID {
			continue
		}
		if uid := i.Tags[v1alpha1.TagNodeClaimUID]; uid != "" {
			if other, ok := byClaim[uid]; ok {
				say("instances %s and %s are alive for claim %s", other, i.ID, i.Tags[v1alpha1.TagNodeClaim])
			}
			byClaim[uid] = i.ID
		}
		u := used[i.Tags[v1alpha1.TagProvisioner]]
		u.nodes++
		u.cost += i.Price
		if w.VCPUs != nil {
			u.vcpus += w.VCPUs(i.Type)
		}
		used[i.Tags[v1alpha1.TagProvisioner]] = u
	}
	owner := map[string]string{}
	for _, c := range w.Claims {
		if c.Status.InstanceID == "" {
			continue
		}
		if other, ok := owner[c.Status.InstanceID]; ok {
			say("claims %s and %s have the same instance %s", other, c.Name, c.Status.InstanceID)
		}
		owner[c.Status.InstanceID] = c.Name
	}
	for _, pr := range w.Provisioners {
		u := used[pr.Name]
		for name, limit := range pr.Spec.Limits {
			have := map[corev1.ResourceName]float64{v1alpha1.LimitNodes: float64(u.nodes), v1alpha1.LimitHourlyCost: u.cost, corev1.ResourceCPU: float64(u.vcpus)}[name]
			if most := limit.AsApproximateFloat64(); have > most*(1+1e-9) {
				say("Provisioner %s has %v of %s, its limit is %v", pr.Name, have, name, most)
			}
		}
	}
	return out
}

// Launch judges a CreateFleet call that is about to be made with a token for the
// first time, by the number of instances that it asks for: it must be recorded,
// under the finalizer, in the claims that it is for.
func (w World) Launch(token string, count int) []string {
	byName := map[string]*v1alpha1.NodeClaim{}
	var lead *v1alpha1.NodeClaim
	for i := range w.Claims {
		c := &w.Claims[i]
		byName[c.Name] = c
		if l := c.Status.Launch; l != nil && l.Token == token && l.Lead == "" {
			lead = c
		}
	}
	switch {
	case token == "":
		return []string{"a launch without token"}
	case lead == nil || len(lead.Status.Launch.Overrides) == 0:
		return []string{fmt.Sprintf("a launch of %d that no claim records (token %s)", count, token)}
	}
	members := lead.Status.Launch.Members
	if len(members) == 0 {
		members = []v1alpha1.LaunchMember{{Name: lead.Name}}
	}
	var out []string
	if len(members) != count {
		out = append(out, fmt.Sprintf("a launch of %d that claim %s records as one of %d", count, lead.Name, len(members)))
	}
	for _, m := range members {
		c := byName[m.Name]
		switch {
		case c == nil:
			out = append(out, fmt.Sprintf("a launch for claim %s, which is not there", m.Name))
		case !slices.Contains(c.Finalizers, v1alpha1.Finalizer):
			out = append(out, fmt.Sprintf("a launch for claim %s, which nothing keeps", m.Name))
		case c.LaunchRecord() == nil || c.LaunchRecord().Token != token:
			out = append(out, fmt.Sprintf("a launch for claim %s, which takes no part in it", m.Name))
		}
	}
	return out
}

// Terminate judges the termination of an instance that is about to be asked
// for: its claim is being removed, or it is an orphan that is neither young, nor
// foreign, nor part of a launch that is still open.
func (w World) Terminate(id string, now time.Time) []string {
	at := slices.IndexFunc(w.Instances, func(i ec2sim.InstanceState) bool { return i.ID == id })
	if at < 0 {
		return []string{"termination of " + id + ", which was never launched"}
	}
	i := w.Instances[at]
	if i.Tags[v1alpha1.TagClusterUID] != w.ClusterUID {
		return []string{fmt.Sprintf("termination of %s, which is foreign (tags %v)", id, i.Tags)}
	}
	for _, c := range w.Claims {
		switch {
		case c.Status.InstanceID == id && c.DeletionTimestamp != nil:
			return nil
		case c.Status.InstanceID == id:
			return []string{fmt.Sprintf("termination of %s, whose claim %s is to stay", id, c.Name)}
		case c.Status.InstanceID == "" && c.LaunchRecord() != nil && c.LaunchRecord().Token == i.Tags[v1alpha1.TagLaunch]:
			return []string{fmt.Sprintf("termination of %s, whose launch claim %s still waits for", id, c.Name)}
		}
	}
	if age := now.Sub(i.Launched); age < youngest {
		return []string{fmt.Sprintf("termination of %s, which is nobody's and only %s old", id, age)}
	}
	return nil
}

// Text puts violations on lines of their own.
func Text(violations []string) string { return strings.Join(violations, "\n") }
