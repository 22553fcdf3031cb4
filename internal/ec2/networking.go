package ec2

import (
	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// SetNetworking tells how the cluster's CNI gives addresses to pods. It holds
// for launches that are prepared from now on.
func (c *Cloud) SetNetworking(n capacity.Networking) { c.networking.Store(&n) }

// sayMaxPods has kubelets told how many pods they may run where the images do
// not find out by themselves: they count single addresses, not prefixes.
func (c *Cloud) sayMaxPods(lines []line, t *v1alpha1.NodeTemplate) {
	net := c.networking.Load()
	if net == nil || !net.Prefixes || t.Kubelet != nil && t.Kubelet.MaxPods != nil {
		return
	}
	spec := &v1alpha1.ProvisionerSpec{NodeTemplate: *t}
	for i := range lines {
		if m := c.machine(lines[i].instanceType); m != nil {
			lines[i].maxPods = int32(capacity.MaxPods(m, spec, *net))
		}
	}
}
