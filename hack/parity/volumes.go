package main

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// volume gives the pods of a template a volume: one claim for all, or one for
// each.
func (g *generator) volume(p *corev1.Pod, i int) {
	id := fmt.Sprintf("%s-v%d-%d", p.Name, i, len(g.s.Claims)+len(g.s.Classes))
	volume := corev1.Volume{Name: fmt.Sprint("v", i)}
	modes := []corev1.PersistentVolumeAccessMode{one(g, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)}
	size := corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}
	class := func(shared bool) *string {
		c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "class-" + id}, Provisioner: ebs, VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer)}
		if g.chance(50) {
			for range g.upTo(1, 2) {
				c.AllowedTopologies = append(c.AllowedTopologies, corev1.TopologySelectorTerm{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: g.zoneKey(), Values: some(g, zones...)}}})
			}
		}
		if g.chance(5) {
			c.VolumeBindingMode = new(storagev1.VolumeBindingImmediate)
		}
		if shared && g.chance(40) {
			// Volumes that somebody has made beforehand, perhaps the only ones.
			if g.chance(50) {
				c.Provisioner = "kubernetes.io/no-provisioner"
			}
			for n := range g.upTo(1, 2) {
				g.available(c.Name, n)
			}
		}
		if g.chance(97) {
			g.s.Classes = append(g.s.Classes, c)
		}
		return &c.Name
	}
	if g.chance(50) {
		volume.Ephemeral = &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{one(g, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)}, Resources: size, StorageClassName: class(false),
		}}}
	} else {
		claim := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: id, UID: types.UID(id), ResourceVersion: "1"},
			Spec:       corev1.PersistentVolumeClaimSpec{AccessModes: modes, Resources: size},
		}
		if g.chance(50) {
			claim.Spec.StorageClassName = class(true)
		} else {
			claim.Spec.StorageClassName = new("")
			g.bound(claim)
		}
		if claim.Spec.VolumeName == "" && g.chance(10) {
			claim.Annotations = map[string]string{"volume.kubernetes.io/selected-node": one(g, "node-0", "node-1")}
		}
		if g.chance(3) {
			claim.DeletionTimestamp = &metav1.Time{Time: now}
			claim.Finalizers = []string{"kubernetes.io/pvc-protection"}
		}
		if g.chance(97) {
			g.s.Claims = append(g.s.Claims, claim)
		}
		volume.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}
	}
	p.Spec.Volumes = append(p.Spec.Volumes, volume)
}

// bound makes the volume of a claim, in some zones.
func (g *generator) bound(claim *corev1.PersistentVolumeClaim) {
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv-" + claim.Name, UID: types.UID("pv-" + claim.Name), ResourceVersion: "1"},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: claim.Spec.AccessModes, Capacity: claim.Spec.Resources.Requests,
			ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: ebs, VolumeHandle: "vol-" + claim.Name}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound},
	}
	if g.chance(80) {
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: g.zoneKey(), Operator: corev1.NodeSelectorOpIn, Values: some(g, zones...)}},
		}}}}
	}
	if g.chance(20) {
		pv.Labels = map[string]string{one(g, corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaZone): one(g, zones[0], zones[1], zones[0]+"__"+zones[1])}
	}
	claim.Spec.VolumeName = pv.Name
	claim.Annotations = map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
	claim.Status.Phase = corev1.ClaimBound
	if g.chance(3) {
		return
	}
	g.s.Volumes = append(g.s.Volumes, pv)
}

// available makes a volume of a class that no claim is bound to yet.
func (g *generator) available(class string, n int) {
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pv-%s-%d", class, n), UID: types.UID(fmt.Sprintf("pv-%s-%d", class, n)), ResourceVersion: "1"},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes:            some(g, corev1.ReadWriteOnce, corev1.ReadWriteMany, corev1.ReadWriteOncePod),
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(one(g, "512Mi", "1Gi", "2Gi"))},
			StorageClassName:       class,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: ebs, VolumeHandle: fmt.Sprintf("vol-%s-%d", class, n)}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	if g.chance(80) {
		e := corev1.NodeSelectorRequirement{Key: g.zoneKey(), Operator: corev1.NodeSelectorOpIn, Values: some(g, zones...)}
		if g.chance(30) {
			e.Key, e.Values = corev1.LabelHostname, []string{one(g, "node-0", "node-1")}
		}
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{e}}}}}
	}
	g.s.Volumes = append(g.s.Volumes, pv)
}
