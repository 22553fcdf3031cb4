package capacity

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
)

// volumeBook is a Snapshot with what follows for its claims from all of them
// together: which volumes that are there each may be bound to.
type volumeBook struct {
	*Snapshot
	offered map[string][]*corev1.PersistentVolume
}

// newVolumeBook offers each claim that waits for its first consumer the volumes
// that match it (by the rules of component-helpers' FindMatchingVolume). A volume
// that several claims could have is promised to one: first to those of pods that have
// a place already, on a node that reaches it, then by the age of the pods. So no two
// pods are sent to where there is one volume for both. Pods that no node could help
// get none.
func newVolumeBook(s *Snapshot) *volumeBook {
	b := &volumeBook{Snapshot: s, offered: map[string][]*corev1.PersistentVolume{}}
	byClass := map[string][]*corev1.PersistentVolume{}
	for _, pv := range s.PVs {
		if pv.Status.Phase != corev1.VolumeBound && pv.Spec.StorageClassName != "" && pv.DeletionTimestamp == nil {
			byClass[pv.Spec.StorageClassName] = append(byClass[pv.Spec.StorageClassName], pv)
		}
	}
	if len(byClass) == 0 {
		return b
	}
	type wish struct {
		claim string
		pvs   []*corev1.PersistentVolume
	}
	var wishes []wish
	wanted := map[*corev1.PersistentVolume]int{}
	seen := map[string]bool{}
	// on is the node that the pod has a place on; nil: none yet.
	want := func(p *corev1.Pod, on *Node) {
		for i := range p.Spec.Volumes {
			name := claimName(p, &p.Spec.Volumes[i])
			pvc := s.PVCs[name]
			if pvc == nil || seen[name] {
				continue
			}
			seen[name] = true
			w := wish{name, s.matching(pvc, byClass)}
			if on != nil {
				w.pvs = slices.DeleteFunc(w.pvs, func(pv *corev1.PersistentVolume) bool { return !on.reaches(pv) })
			}
			for _, pv := range w.pvs {
				wanted[pv]++
			}
			wishes = append(wishes, w)
		}
	}
	places := map[*corev1.Pod]*Node{}
	for _, n := range s.Nodes {
		for _, p := range n.Pods {
			if p.Spec.NodeName == "" && len(p.Spec.Volumes) > 0 {
				places[p] = n
			}
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(places), comparePods) {
		want(p, places[p])
	}
	for _, p := range slices.SortedFunc(slices.Values(s.Pods), comparePods) {
		if ownReason(p) == nil {
			want(p, nil)
		}
	}
	taken := map[*corev1.PersistentVolume]bool{}
	for _, w := range wishes {
		promised := false
		for _, pv := range w.pvs {
			if wanted[pv] > 1 && (promised || taken[pv]) {
				continue
			}
			promised = promised || wanted[pv] > 1
			taken[pv] = true
			b.offered[w.claim] = append(b.offered[w.claim], pv)
		}
	}
	return b
}

// reaches says whether pods on the node can use the volume.
func (n *Node) reaches(pv *corev1.PersistentVolume) bool {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return true
	}
	r := newNodeReq(&corev1.Pod{}, []*corev1.NodeSelector{pv.Spec.NodeAffinity.Required})
	return r.matches(func(key string) (string, bool) { l, ok := n.Labels[key]; return l, ok }, n.Name)
}

// claimName is the claim behind a pod's volume, as namespace/name; empty: none.
func claimName(p *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return p.Namespace + "/" + v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil:
		return p.Namespace + "/" + p.Name + "-" + v.Name
	}
	return ""
}

// matching are the volumes that an unbound claim could be bound to on some node,
// the smallest first.
func (s *Snapshot) matching(pvc *corev1.PersistentVolumeClaim, byClass map[string][]*corev1.PersistentVolume) []*corev1.PersistentVolume {
	if pvc.Spec.VolumeName != "" || pvc.Annotations[annSelectedNode] != "" || pvc.DeletionTimestamp != nil {
		return nil
	}
	class, why := s.classOf("", pvc)
	if why != nil || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
		return nil
	}
	var pvs []*corev1.PersistentVolume
	for _, pv := range byClass[class.Name] {
		if volumeMatches(pv, pvc) {
			pvs = append(pvs, pv)
		}
	}
	size := func(pv *corev1.PersistentVolume) *resource.Quantity { return pv.Spec.Capacity.Storage() }
	slices.SortStableFunc(pvs, func(a, b *corev1.PersistentVolume) int {
		return cmp.Or(size(a).Cmp(*size(b)), cmp.Compare(a.Name, b.Name))
	})
	return pvs
}

// volumeMatches says whether a volume of the claim's class would do for it, on a
// node that can reach it.
func volumeMatches(pv *corev1.PersistentVolume, pvc *corev1.PersistentVolumeClaim) bool {
	if pv.Spec.Capacity.Storage().Cmp(*pvc.Spec.Resources.Requests.Storage()) < 0 ||
		volumeModeOf(pv.Spec.VolumeMode) != volumeModeOf(pvc.Spec.VolumeMode) ||
		valueOf(pv.Spec.VolumeAttributesClassName) != valueOf(pvc.Spec.VolumeAttributesClassName) {
		return false
	}
	if ref := pv.Spec.ClaimRef; ref != nil {
		// Made, or kept, for this claim: then nothing else matters.
		return ref.Namespace == pvc.Namespace && ref.Name == pvc.Name && (ref.UID == "" || ref.UID == pvc.UID)
	}
	if pv.Status.Phase != corev1.VolumeAvailable {
		return false
	}
	if pvc.Spec.Selector != nil && !selectorOf(pvc.Spec.Selector).Matches(labels.Set(pv.Labels)) {
		return false
	}
	return !slices.ContainsFunc(pvc.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
		return !slices.Contains(pv.Spec.AccessModes, m)
	})
}

func volumeModeOf(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if m == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *m
}

func valueOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// reach is the selector of the nodes on which the claim can get a volume: one
// that is there, or, made says, one that is made in the class's topologies; nil:
// all nodes. Not ok: on none.
func (b *volumeBook) reach(claim string, class *storagev1.StorageClass, made bool) (s *corev1.NodeSelector, ok bool) {
	s = &corev1.NodeSelector{}
	if made {
		if len(class.AllowedTopologies) == 0 {
			return nil, true
		}
		s = topologySelector(class.AllowedTopologies)
	}
	for _, pv := range b.offered[claim] {
		if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
			return nil, true
		}
		s.NodeSelectorTerms = append(s.NodeSelectorTerms, pv.Spec.NodeAffinity.Required.NodeSelectorTerms...)
	}
	return s, len(s.NodeSelectorTerms) > 0
}
