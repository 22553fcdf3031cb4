package main

import (
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// scenario is a Snapshot in a form that can be written down: the input of one
// trial.
type scenario struct {
	Machines      []capacity.Machine
	Provisioners  []provisioner
	Nodes         []*capacity.Node                `json:",omitempty"`
	Pods          []*corev1.Pod                   `json:",omitempty"`
	DaemonSetPods []*corev1.Pod                   `json:",omitempty"`
	Namespaces    map[string]map[string]string    `json:",omitempty"`
	Claims        []*corev1.PersistentVolumeClaim `json:",omitempty"`
	Volumes       []*corev1.PersistentVolume      `json:",omitempty"`
	Classes       []*storagev1.StorageClass       `json:",omitempty"`
}

type provisioner struct {
	Name           string
	Spec           v1alpha1.ProvisionerSpec
	Used           capacity.Resources `json:",omitempty"`
	UsedHourlyCost float64            `json:",omitempty"`
}

const region = "us-west-2"

// now is the time in every scenario.
var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// snapshot is the planner's input.
func (s *scenario) snapshot() *capacity.Snapshot {
	snap := &capacity.Snapshot{
		Now: now, Region: region, Pods: s.Pods, Nodes: s.Nodes, DaemonSetPods: s.DaemonSetPods, Namespaces: s.Namespaces,
		PVCs:           map[string]*corev1.PersistentVolumeClaim{},
		PVs:            map[string]*corev1.PersistentVolume{},
		StorageClasses: map[string]*storagev1.StorageClass{},
	}
	for _, c := range s.Claims {
		snap.PVCs[c.Namespace+"/"+c.Name] = c
	}
	for _, v := range s.Volumes {
		snap.PVs[v.Name] = v
	}
	for _, c := range s.Classes {
		snap.StorageClasses[c.Name] = c
	}
	for i := range s.Provisioners {
		p := &s.Provisioners[i]
		snap.Provisioners = append(snap.Provisioners, &capacity.Provisioner{
			Name: p.Name, Spec: &p.Spec, Used: p.Used, UsedHourlyCost: p.UsedHourlyCost,
			InstanceTypes: capacity.InstanceTypes(s.Machines, &p.Spec, capacity.Resolved{}, now),
		})
	}
	return snap
}

// load reads a scenario that was written down, in YAML or JSON.
func load(file string) (*scenario, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading a scenario: %w", err)
	}
	s := new(scenario)
	if err := yaml.UnmarshalStrict(b, s); err != nil {
		return nil, fmt.Errorf("reading scenario %s: %w", file, err)
	}
	return s, nil
}
