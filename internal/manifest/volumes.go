package manifest

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	// annDefaultClass marks the StorageClass of claims that name none.
	annDefaultClass = "storageclass.kubernetes.io/is-default-class"
	// assumedClass is the StorageClass that stands in where no input has one.
	assumedClass = "gp3"
)

// classes returns the StorageClasses by name. Where the input has none at all,
// the claims' classes are taken for ordinary EBS ones, and a note says so:
// manifests of workloads seldom bring the cluster's classes along.
func (s *Set) classes(pvcs []*corev1.PersistentVolumeClaim) map[string]*storagev1.StorageClass {
	out := map[string]*storagev1.StorageClass{}
	for _, c := range all[*storagev1.StorageClass](s) {
		out[c.Name] = c
	}
	if len(out) > 0 {
		return out
	}
	for _, c := range pvcs {
		name := assumedClass
		if c.Spec.StorageClassName != nil {
			name = *c.Spec.StorageClassName
		}
		if name == "" || c.Spec.VolumeName != "" || out[name] != nil {
			continue
		}
		late := storagev1.VolumeBindingWaitForFirstConsumer
		class := &storagev1.StorageClass{Provisioner: "ebs.csi.aws.com", VolumeBindingMode: &late}
		class.Name = name
		if c.Spec.StorageClassName == nil {
			class.Annotations = map[string]string{annDefaultClass: "true"}
		}
		out[name] = class
		s.Note("no StorageClass given: %q is taken for one of ebs.csi.aws.com that waits for its first consumer", name)
	}
	return out
}

// bindVolumes gives claims the default class, and a volume to those that would
// be bound before a pod is scheduled: as the API server and the volume
// controller do. The claims are the Set's copies; volumes are not changed.
func (s *Set) bindVolumes(pvcs []*corev1.PersistentVolumeClaim, classes map[string]*storagev1.StorageClass) {
	byDefault := defaultClass(classes)
	taken := map[string]bool{}
	pvs := all[*corev1.PersistentVolume](s)
	for _, c := range pvcs {
		if c.Spec.StorageClassName == nil && c.Spec.VolumeName == "" && byDefault != "" {
			c.Spec.StorageClassName = &byDefault
		}
		for _, v := range pvs {
			if r := v.Spec.ClaimRef; r != nil && r.Namespace == c.Namespace && r.Name == c.Name && c.Spec.VolumeName == "" {
				c.Spec.VolumeName = v.Name
			}
		}
		taken[c.Spec.VolumeName] = true
	}
	for _, c := range pvcs {
		name := ""
		if c.Spec.StorageClassName != nil {
			name = *c.Spec.StorageClassName
		}
		class := classes[name]
		late := class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
		if c.Spec.VolumeName != "" || late {
			continue
		}
		var best *corev1.PersistentVolume
		for _, v := range pvs {
			if !taken[v.Name] && v.Spec.ClaimRef == nil && suits(v, c, name) && (best == nil || smaller(v, best)) {
				best = v
			}
		}
		if best != nil {
			c.Spec.VolumeName = best.Name
			taken[best.Name] = true
		}
	}
}

// defaultClass is the newest of those marked as default; by name among equals.
func defaultClass(classes map[string]*storagev1.StorageClass) string {
	var best *storagev1.StorageClass
	for _, name := range sortedKeys(classes) {
		c := classes[name]
		if c.Annotations[annDefaultClass] == "true" && (best == nil || best.CreationTimestamp.Before(&c.CreationTimestamp)) {
			best = c
		}
	}
	if best == nil {
		return ""
	}
	return best.Name
}

// suits reports whether a volume meets a claim of a class.
func suits(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim, class string) bool {
	if v.Spec.StorageClassName != class || modeOf(v.Spec.VolumeMode) != modeOf(c.Spec.VolumeMode) {
		return false
	}
	for _, m := range c.Spec.AccessModes {
		if !slices.Contains(v.Spec.AccessModes, m) {
			return false
		}
	}
	if c.Spec.Selector != nil {
		s, err := metav1.LabelSelectorAsSelector(c.Spec.Selector)
		if err != nil || !s.Matches(labels.Set(v.Labels)) {
			return false
		}
	}
	return v.Spec.Capacity.Storage().Cmp(*c.Spec.Resources.Requests.Storage()) >= 0
}

func smaller(a, b *corev1.PersistentVolume) bool {
	return cmp.Or(a.Spec.Capacity.Storage().Cmp(*b.Spec.Capacity.Storage()), cmp.Compare(a.Name, b.Name)) < 0
}

func modeOf(m *corev1.PersistentVolumeMode) string {
	if m == nil {
		return string(corev1.PersistentVolumeFilesystem)
	}
	return fmt.Sprint(*m)
}
