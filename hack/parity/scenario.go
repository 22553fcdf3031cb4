package main

import (
	"fmt"
	"os"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	// ResourceClaims that exist; there are no devices.
	ResourceClaims []*resourcev1.ResourceClaim `json:",omitempty"`
	// DefaultSpread are kube-scheduler's default constraints, which pods of the
	// Services get that have none of their own.
	DefaultSpread []corev1.TopologySpreadConstraint `json:",omitempty"`
	Services      []*corev1.Service                 `json:",omitempty"`
	// Sets own pods by name.
	Sets []*appsv1.ReplicaSet `json:",omitempty"`
}

type provisioner struct {
	Name string
	Spec v1alpha1.ProvisionerSpec
	// NotReady is why nothing may be bought from it.
	NotReady       string             `json:",omitempty"`
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
		OwnerSelectors: map[string]*metav1.LabelSelector{},
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
	snap.DefaultSpread, snap.Services = s.DefaultSpread, s.Services
	for _, o := range s.Sets {
		snap.OwnerSelectors["ReplicaSet/"+o.Namespace+"/"+o.Name] = o.Spec.Selector
	}
	for i := range s.Provisioners {
		p := &s.Provisioners[i]
		snap.Provisioners = append(snap.Provisioners, &capacity.Provisioner{
			Name: p.Name, Spec: &p.Spec, NotReady: p.NotReady, Used: p.Used, UsedHourlyCost: p.UsedHourlyCost,
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

// limitsOf are the volume limits of a node's CSINode; a node that is coming has
// those of its type, if that is for sale still.
func (s *scenario) limitsOf(n *capacity.Node) map[string]int64 {
	if len(n.VolumeLimits) > 0 || !n.InFlight {
		return n.VolumeLimits
	}
	name := n.Labels[corev1.LabelInstanceTypeStable]
	for _, p := range s.snapshot().Provisioners {
		if slices.ContainsFunc(p.InstanceTypes, func(t capacity.InstanceType) bool { return t.Machine.Name == name }) {
			return s.limitsOfType(name)
		}
	}
	return nil
}

// limitsOfType are the limits that the EBS CSI driver finds on a fresh machine:
// what EC2 allows less the root volume and, where they count, one network
// interface more than the first.
func (s *scenario) limitsOfType(name string) map[string]int64 {
	for i := range s.Machines {
		m := &s.Machines[i]
		if m.Name != name || m.EBSAttachments == 0 {
			continue
		}
		taken := int64(1)
		if m.EBSShared && m.ENIs >= 2 {
			taken = 2
		}
		return map[string]int64{ebs: max(1, int64(m.EBSAttachments)-taken)}
	}
	return nil
}
