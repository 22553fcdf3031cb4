package main

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// optional are the fields that may be left out of a valid object: what shrinking
// tries to drop. Elements of lists are dropped as well, but not the last one of
// a list that must have one.
var optional = map[string]bool{
	"affinity": true, "nodeAffinity": true, "podAffinity": true, "podAntiAffinity": true, "nodeSelector": true,
	"topologySpreadConstraints": true, "minDomains": true, "nodeAffinityPolicy": true, "nodeTaintsPolicy": true,
	"matchLabelKeys": true, "mismatchLabelKeys": true, "namespaces": true, "namespaceSelector": true,
	"tolerations": true, "taints": true, "Taints": true, "initContainers": true, "overhead": true, "resources": true,
	"ports": true, "volumes": true, "priority": true, "deletionTimestamp": true, "schedulingGates": true,
	"Limits": true, "limits": true, "VolumeLimits": true, "weight": true, "requirements": true, "InFlight": true, "Unschedulable": true,
	"allowedTopologies": true, "hostIP": true, "matchFields": true,
	"Nodes": true, "Pods": true, "DaemonSetPods": true, "g": true, "Used": true, "UsedHourlyCost": true,
}

// fixed are the lists that must not become empty.
var fixed = map[string]bool{
	"containers": true, "values": true, "nodeSelectorTerms": true, "accessModes": true, "matchLabelExpressions": true,
}

// kept are the lists that others refer to.
var kept = map[string]bool{"ownerReferences": true, "Claims": true, "Volumes": true, "Classes": true, "accessModes": true}

// shrink drops parts of a scenario as long as it fails in the same way.
func shrink(s *scenario, fails func(*scenario) bool) (*scenario, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("writing the scenario: %w", err)
	}
	var root any
	if err := json.Unmarshal(b, &root); err != nil {
		return nil, fmt.Errorf("reading the scenario: %w", err)
	}
	build := func() *scenario {
		b, err := json.Marshal(root)
		if err != nil {
			return nil
		}
		c := new(scenario)
		if json.Unmarshal(b, c) != nil {
			return nil
		}
		c.prune()
		return c
	}
	still := func() bool {
		c := build()
		return c != nil && fails(c)
	}
	for dropped := true; dropped; {
		dropped = drop(root, "", func(any) {}, still)
	}
	return build(), nil
}

// drop tries to leave out parts of v; put stores a changed v at its place.
func drop(v any, name string, put func(any), still func() bool) bool {
	dropped := false
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			old := v[k]
			if optional[k] || name == "nodeSelector" || name == "labels" || name == "matchLabels" || name == "requests" {
				delete(v, k)
				if still() {
					dropped = true
					continue
				}
				v[k] = old
			}
			if drop(old, k, func(x any) { v[k] = x }, still) {
				dropped = true
			}
		}
	case []any:
		for i := len(v) - 1; i >= 0; i-- {
			if !kept[name] && (len(v) > 1 || !fixed[name]) {
				shorter := slices.Delete(slices.Clone(v), i, i+1)
				put(shorter)
				if still() {
					v, dropped = shorter, true
					continue
				}
				put(v)
			}
			if drop(v[i], "", func(x any) { v[i] = x }, still) {
				dropped = true
			}
		}
	}
	return dropped
}

// prune leaves out claims, volumes and classes that nobody names.
func (s *scenario) prune() {
	used := map[string]bool{}
	pods := slices.Clone(s.Pods)
	for _, n := range s.Nodes {
		pods = append(pods, n.Pods...)
	}
	for _, p := range pods {
		for i := range p.Spec.Volumes {
			v := &p.Spec.Volumes[i]
			if v.PersistentVolumeClaim != nil {
				used[p.Namespace+"/"+v.PersistentVolumeClaim.ClaimName] = true
			}
			used[p.Namespace+"/"+p.Name+"-"+v.Name] = true
		}
	}
	s.Claims = slices.DeleteFunc(s.Claims, func(c *corev1.PersistentVolumeClaim) bool { return !used[c.Namespace+"/"+c.Name] })
	for _, c := range s.Claims {
		used["volume/"+c.Spec.VolumeName] = true
		if c.Spec.StorageClassName != nil {
			used["class/"+*c.Spec.StorageClassName] = true
		}
	}
	s.Volumes = slices.DeleteFunc(s.Volumes, func(v *corev1.PersistentVolume) bool { return !used["volume/"+v.Name] })
	s.Classes = slices.DeleteFunc(s.Classes, func(c *storagev1.StorageClass) bool { return !used["class/"+c.Name] })
}
