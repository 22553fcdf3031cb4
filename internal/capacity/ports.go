package capacity

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// hostPort is a port of the node that a pod takes.
type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

// hostPorts are the node's ports that the pod's containers and sidecars take.
// Init containers that end free theirs.
func hostPorts(pod *corev1.Pod) []hostPort {
	var ps []hostPort
	add := func(c *corev1.Container) {
		for i := range c.Ports {
			p := &c.Ports[i]
			if p.HostPort <= 0 {
				continue
			}
			h := hostPort{p.HostIP, p.Protocol, p.HostPort}
			if h.ip == "" {
				h.ip = "0.0.0.0"
			}
			if h.protocol == "" {
				h.protocol = corev1.ProtocolTCP
			}
			ps = append(ps, h)
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return ps
}

// portsConflict says whether two pods with these ports cannot share a node; a
// port on 0.0.0.0 conflicts with the same port on any address.
func portsConflict(a, b []hostPort) bool {
	for _, x := range a {
		for _, y := range b {
			if x.port == y.port && x.protocol == y.protocol && (x.ip == y.ip || x.ip == "0.0.0.0" || y.ip == "0.0.0.0") {
				return true
			}
		}
	}
	return false
}

func (p hostPort) String() string {
	s := strconv.Itoa(int(p.port)) + "/" + string(p.protocol)
	if p.ip != "0.0.0.0" {
		s = p.ip + ":" + s
	}
	return s
}
