package main

import (
	"encoding/json"
	"os"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// peerProblem is a row's pods and instance types, for planners other than ours
// (hack/karpenter).
type peerProblem struct {
	Pods    []*corev1.Pod `json:"pods"`
	Daemons []*corev1.Pod `json:"daemons"`
	Types   []peerType    `json:"types"`
}

type peerType struct {
	Name        string              `json:"name"`
	Labels      map[string]string   `json:"labels"`
	Capacity    corev1.ResourceList `json:"capacity"`
	Allocatable corev1.ResourceList `json:"allocatable"`
	Offerings   []peerOffering      `json:"offerings"`
}

type peerOffering struct {
	Zone         string  `json:"zone"`
	CapacityType string  `json:"capacityType"`
	Price        float64 `json:"price"`
}

// write stores the problem that a Snapshot with one Provisioner poses.
func write(file string, s *capacity.Snapshot) error {
	p := peerProblem{Pods: s.Pods, Daemons: s.DaemonSetPods}
	for _, t := range s.Provisioners[0].InstanceTypes {
		if t.OnlyFor != "" {
			continue // Never for pods that do not ask for its accelerator.
		}
		pt := peerType{Name: t.Machine.Name, Labels: t.Labels, Capacity: t.Capacity.List(), Allocatable: t.Allocatable.List()}
		for _, o := range t.Offerings {
			pt.Offerings = append(pt.Offerings, peerOffering{o.Zone, string(o.CapacityType), o.Price})
		}
		p.Types = append(p.Types, pt)
	}
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}
