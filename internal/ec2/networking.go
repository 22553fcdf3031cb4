package ec2

import (
	"slices"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// SetNetworking tells how the cluster's CNI gives addresses to pods. It holds
// for launches that are prepared from now on.
func (c *Cloud) SetNetworking(n capacity.Networking) { c.networking.Store(&n) }

// sayMaxPods has kubelets told how many pods they may run where the images
// would come to another number.
func (c *Cloud) sayMaxPods(lines []line, t *v1alpha1.NodeTemplate) {
	var net capacity.Networking
	if n := c.networking.Load(); n != nil {
		net = *n
	}
	spec := &v1alpha1.ProvisionerSpec{NodeTemplate: *t}
	for i := range lines {
		if m := c.machine(lines[i].instanceType); m != nil {
			lines[i].maxPods = int32(capacity.PodsToSay(m, spec, net))
		}
	}
}

// maxTemplates bounds the launch templates of one attempt: EC2 takes 50, and
// each that is not there yet costs a call before the launch.
const maxTemplates = 24

// fewTemplates leaves out the lines that would need one template too many.
func fewTemplates(lines []line) []line {
	seen := map[variant]bool{}
	return slices.DeleteFunc(lines, func(l line) bool {
		if !seen[l.variant()] && len(seen) == maxTemplates {
			return true
		}
		seen[l.variant()] = true
		return false
	})
}
