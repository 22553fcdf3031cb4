package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/internal/capacity"
)

// tiedApps is how many applications the cluster of tied pods runs.
const tiedApps = 1000

// tie makes a pod's place hang on the other pods of its app.
type tie struct {
	name string
	set  func(p *corev1.Pod)
}

// ties are those that are measured.
func ties() []tie {
	spread := func(keys ...string) func(p *corev1.Pod) {
		return func(p *corev1.Pod) {
			for _, key := range keys {
				p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, spreadOver(key, corev1.DoNotSchedule, ofApp(p))...)
			}
		}
	}
	apart := func(p *corev1.Pod) corev1.PodAffinityTerm {
		return corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname, LabelSelector: ofApp(p)}
	}
	return []tie{
		{"zone spread", spread(corev1.LabelTopologyZone)},
		{"zone and host spread", spread(corev1.LabelTopologyZone, corev1.LabelHostname)},
		{"host anti-affinity", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{apart(p)}}}
		}},
		{"preferred host anti-affinity", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: apart(p)}}}}
		}},
	}
}

func ofApp(p *corev1.Pod) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}}
}

// tied is a Snapshot with three pending pods of each app, 1,000 nodes with 20,000
// pods and room for less than half of them, and one Provisioner of everything, also
// in zones that have no node. All
// pods are tied to the others of their app.
func (b *bench) tied(t tie) *capacity.Snapshot {
	zones := b.zones()
	s := b.snapshot(nil, 0, newProvisioner("default", b.region, anything(nil)))
	sizes := generic(b.rand(), tiedApps)
	pod := func(app int) *corev1.Pod {
		sizes[app].app = app
		p := pods(sizes[app : app+1])[0]
		t.set(p)
		return p
	}
	for n := range 1000 {
		node := &capacity.Node{
			Name: fmt.Sprintf("ip-10-0-%d-%d.ec2.internal", n/250, n%250), Provisioner: "default", Claim: fmt.Sprintf("claim-%d", n), HourlyPrice: 0.768,
			Labels:      map[string]string{corev1.LabelTopologyZone: zones[n%3], corev1.LabelArchStable: "amd64", corev1.LabelInstanceTypeStable: "m6i.4xlarge"},
			Allocatable: capacity.Resources{corev1.ResourceCPU: 14500, corev1.ResourceMemory: 57 << 30, corev1.ResourcePods: 234, corev1.ResourceEphemeralStorage: 17 << 30},
		}
		node.Labels[corev1.LabelHostname] = node.Name
		for k := range 20 {
			// An app's pods are on twenty nodes, in all zones.
			p := pod((n + 51*k) % tiedApps)
			p.Name, p.Spec.NodeName = fmt.Sprintf("bound-%d-%d", n, k), node.Name
			node.Pods = append(node.Pods, p)
		}
		s.Nodes = append(s.Nodes, node)
	}
	for i := range 3 * tiedApps {
		p := pod(i / 3)
		p.Name = "pending-" + strconv.Itoa(i)
		s.Pods = append(s.Pods, p)
	}
	return s
}

// tiedCluster plans 3,000 tied pods on the cluster, once for each tie.
func tiedCluster(b *bench) (result, error) {
	var text []string
	met := true
	for _, t := range ties() {
		p, took, err := solve(b.rounds, b.tied(t))
		if err != nil {
			return result{}, fmt.Errorf("%s: %w", t.name, err)
		}
		text = append(text, fmt.Sprintf("%s: %s, %d nodes bought", t.name, took, len(p.Launches)))
		met = met && took.best() <= time.Second
	}
	return result{strings.Join(text, "; "), met}, nil
}

// oneMoreTied plans one tied pod more, each time of another app, on the cluster
// that is remembered.
func oneMoreTied(b *bench) (result, error) {
	var text []string
	met := true
	for _, t := range ties() {
		s := b.tied(t)
		waiting := s.Pods
		m := capacity.NewMemory()
		n := 0
		next := func() *capacity.Plan {
			n++
			more := *s
			more.Pods = waiting[3*n : 3*n+1]
			return m.Solve(&more)
		}
		next()
		var p *capacity.Plan
		took := median(max(b.rounds, 9), func() { p = next() })
		if len(p.Unschedulable) > 0 {
			return result{}, fmt.Errorf("%s: one more pod has no place: %+v", t.name, p.Unschedulable[0].Reasons)
		}
		text = append(text, fmt.Sprintf("%s: %s", t.name, took))
		met = met && took.best() <= 10*time.Millisecond
	}
	return result{strings.Join(text, "; "), met}, nil
}
