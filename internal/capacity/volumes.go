package capacity

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Names that AWS volumes go by.
const (
	ebsDriver            = "ebs.csi.aws.com"
	annSelectedNode      = "volume.kubernetes.io/selected-node"
	annDefaultClass      = "storageclass.kubernetes.io/is-default-class"
	noProvisioner        = "kubernetes.io/no-provisioner"
	labelZoneBeta        = corev1.LabelFailureDomainBetaZone
	labelRegionBeta      = corev1.LabelFailureDomainBetaRegion
	ebsInTree            = "kubernetes.io/aws-ebs"
	fieldNodeName        = "metadata.name"
	separatorOfZoneLists = "__"
)

// volumeNeeds is what a pod's volumes ask of its node.
type volumeNeeds struct {
	// selectors of the nodes from which each volume can be reached.
	selectors []*corev1.NodeSelector
	// attach counts volumes to attach that no other pod uses, by CSI driver;
	// shared are the others.
	attach map[string]int64
	shared []attachment
	// ids of the volumes, by driver/handle, or claim while there is no volume.
	ids []attachment
	// claims that only one pod at a time may use.
	exclusive []string
}

type attachment struct{ driver, id string }

// unlimitedVolumes stands for no limit: more than any node has room for.
const unlimitedVolumes = 1 << 16

// attachResource names the dimension that counts volumes of a CSI driver.
func attachResource(driver string) corev1.ResourceName {
	return corev1.ResourceName("attachable-volumes-csi-" + driver)
}

// limitOf is how many volumes of the driver limits allow.
func limitOf(limits map[string]int64, driver string) int64 {
	if n, ok := limits[driver]; ok {
		return n
	}
	return unlimitedVolumes
}

// machineVolumeLimits are the limits that the CSINode of such a machine will
// state: of the attachments that EC2 allows, the EBS CSI driver takes away the
// volumes that the instance was launched with and, where network interfaces
// count too, those that it finds when it starts. EC2's number allows for the
// first one; a second one is the spare that the VPC CNI attaches by default. Nil
// when the number is unknown.
func machineVolumeLimits(m *Machine, volumes int) map[string]int64 {
	if m.EBSAttachments == 0 {
		return nil
	}
	n := int64(m.EBSAttachments) - int64(volumes)
	if m.EBSShared && m.ENIs > 1 {
		n--
	}
	return map[string]int64{ebsDriver: max(n, 1)}
}

// launchVolumes is how many EBS volumes instances are launched with: as was found
// out, or as the settings alone have it.
func launchVolumes(spec *v1alpha1.ProvisionerSpec, r Resolved) int {
	if r.Volumes > 0 {
		return r.Volumes
	}
	least := 1
	if spec.EC2.AMIFamily == v1alpha1.AMIFamilyBottlerocket {
		least = 2 // The system and the data.
	}
	return max(least, len(spec.EC2.BlockDevices))
}

// limitedDrivers are the CSI drivers of waiting pods' volumes of which some node
// can attach only so many.
func (v *solver) limitedDrivers() []string {
	limited := map[string]bool{}
	if !slices.ContainsFunc(v.shapes, func(s *shape) bool { return len(s.volumes.ids) > 0 }) {
		return nil
	}
	for _, p := range v.snap.Provisioners {
		for i := range p.InstanceTypes {
			for d := range p.InstanceTypes[i].VolumeLimits {
				limited[d] = true
			}
		}
	}
	for _, n := range v.snap.Nodes {
		for d := range n.VolumeLimits {
			limited[d] = true
		}
	}
	wanted := map[string]bool{}
	for _, s := range v.shapes {
		for _, id := range s.volumes.ids {
			if limited[id.driver] {
				wanted[id.driver] = true
			}
		}
	}
	return sortedNames(wanted)
}

// volumeLimit is how many volumes of the driver the node can attach. A node that
// is coming will say the same as others of its type; of a type that no
// Provisioner buys any more nothing is known.
func (v *solver) volumeLimit(n *Node, driver string) int64 {
	if _, ok := n.VolumeLimits[driver]; ok || !n.InFlight {
		return limitOf(n.VolumeLimits, driver)
	}
	for _, p := range v.snap.Provisioners {
		for i := range p.InstanceTypes {
			if t := &p.InstanceTypes[i]; t.Machine.Name == n.Labels[corev1.LabelInstanceTypeStable] {
				return limitOf(t.VolumeLimits, driver)
			}
		}
	}
	return unlimitedVolumes
}

// leftAttached counts the driver's volumes that are attached to the node and that
// none of its pods uses, inUse: no longer, or not yet. Until they are detached
// they take room, and to kube-scheduler a pod that uses one attaches another.
func (v *solver) leftAttached(n *Node, driver string, inUse map[attachment]bool) int64 {
	left := map[attachment]bool{}
	for _, name := range n.Attached {
		pv := v.snap.PVs[name]
		if pv == nil || pv.Spec.CSI == nil || pv.Spec.CSI.Driver != driver {
			continue
		}
		if id := (attachment{driver, pv.Spec.CSI.VolumeHandle}); !inUse[id] {
			left[id] = true
		}
	}
	return int64(len(left))
}

// countVolumes adds to the shape's vector the volumes that its pods attach, and
// notes those that several pods may attach together.
func (s *shape) countVolumes(dims *dimensions) {
	for _, a := range dims.attach {
		s.vector[a.index] = s.volumes.attach[a.driver]
		for _, id := range s.volumes.shared {
			if id.driver == a.driver {
				s.limited, s.limitedBy = append(s.limited, id), append(s.limitedBy, a.index)
			}
		}
	}
}

// volumeNeeds looks up the pod's claims; a Reason when a claim stands in the way
// of any node. What could be found out is complete all the same.
func (s *volumeBook) volumeNeeds(pod *corev1.Pod) (n volumeNeeds, why *Reason) {
	note := func(r *Reason) {
		if why == nil {
			why = r
		}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			name := pod.Namespace + "/" + v.PersistentVolumeClaim.ClaimName
			pvc := s.PVCs[name]
			if pvc == nil {
				note(volumeReason("claim %s does not exist", "create the PersistentVolumeClaim", name))
				continue
			}
			note(s.claimNeeds(&n, name, pvc))
		case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil:
			name := pod.Namespace + "/" + pod.Name + "-" + v.Name
			pvc := s.PVCs[name]
			if pvc == nil {
				// It is made when the pod is seen; what it will say is known.
				pvc = &corev1.PersistentVolumeClaim{Spec: v.Ephemeral.VolumeClaimTemplate.Spec}
			}
			note(s.claimNeeds(&n, name, pvc))
		case v.AWSElasticBlockStore != nil:
			n.add(ebsDriver, ebsHandle(v.AWSElasticBlockStore.VolumeID))
		}
	}
	return n, why
}

func volumeReason(detail, fix string, args ...any) *Reason {
	return &Reason{Constraint: ConstraintVolume, Detail: fmt.Sprintf(detail, args...), Fix: fix}
}

func (s *volumeBook) claimNeeds(n *volumeNeeds, name string, pvc *corev1.PersistentVolumeClaim) *Reason {
	why := s.liveClaimNeeds(n, name, pvc)
	if pvc.DeletionTimestamp != nil {
		// Where it is in use still, its volume takes room all the same.
		return volumeReason("claim %s is being deleted", "wait, or use another claim", name)
	}
	return why
}

func (s *volumeBook) liveClaimNeeds(n *volumeNeeds, name string, pvc *corev1.PersistentVolumeClaim) *Reason {
	if slices.Contains(pvc.Spec.AccessModes, corev1.ReadWriteOncePod) {
		n.exclusive = append(n.exclusive, name)
	}
	if pv := pvc.Spec.VolumeName; pv != "" {
		return s.boundNeeds(n, name, pv)
	}
	if node := pvc.Annotations[annSelectedNode]; node != "" {
		// The volume is being made for that node.
		n.selectors = append(n.selectors, &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: fieldNodeName, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}})
	}
	class, r := s.classOf(name, pvc)
	if r != nil {
		return r
	}
	driver := class.Provisioner
	if driver == ebsInTree {
		driver = ebsDriver
	}
	n.add(driver, "claim:"+name)
	if class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
		return volumeReason("claim %s is not bound yet, and its class %s binds immediately", "see the events of the claim, or use a class with WaitForFirstConsumer", name, class.Name)
	}
	made := class.Provisioner != noProvisioner && class.Provisioner != ""
	if !made && pvc.Annotations[annSelectedNode] != "" {
		return volumeReason("claim %s waits for a volume of class %s, which nobody makes", "use a class with a provisioner", name, class.Name)
	}
	reach, ok := s.reach(name, class, made)
	if !ok {
		return volumeReason("claim %s has class %s, whose volumes nobody makes, and none that is there is free for it", "add a PersistentVolume of the class, or use a class with a provisioner", name, class.Name)
	}
	if reach != nil {
		n.selectors = append(n.selectors, reach)
	}
	return nil
}

func (n *volumeNeeds) add(driver, id string) {
	n.ids = append(n.ids, attachment{driver, id})
}

// sort divides the volumes into those that users says only one pod has, and
// shared ones.
func (n *volumeNeeds) sort(users map[attachment]int) {
	for _, id := range n.ids {
		if users[id] > 1 {
			n.shared = append(n.shared, id)
			continue
		}
		if n.attach == nil {
			n.attach = map[string]int64{}
		}
		n.attach[id.driver]++
	}
}

// volumeUsers counts the pods that use each volume, and lists the claims in use
// that only one pod may have.
func (v *solver) volumeUsers() (users map[attachment]int, exclusive map[string]bool) {
	s := v.volumes
	users, exclusive = map[attachment]int{}, map[string]bool{}
	look := func(p *corev1.Pod, running bool) {
		if len(p.Spec.Volumes) == 0 {
			return
		}
		// What stands in the way of a pod does not free its other volumes.
		needs, _ := s.volumeNeeds(p)
		for _, id := range needs.ids {
			users[id]++
		}
		if running {
			for _, c := range needs.exclusive {
				exclusive[c] = true
			}
		}
	}
	for _, n := range s.Nodes {
		for _, p := range v.factsOf(n).storing {
			look(p, true)
		}
	}
	for _, p := range s.Pods {
		look(p, false)
	}
	return users, exclusive
}

// placeLabels are the labels by which a volume says where it is, each with the one by
// which a node does.
var placeLabels = []struct{ label, key string }{
	{corev1.LabelTopologyZone, corev1.LabelTopologyZone}, {labelZoneBeta, corev1.LabelTopologyZone},
	{corev1.LabelTopologyRegion, corev1.LabelTopologyRegion}, {labelRegionBeta, corev1.LabelTopologyRegion},
}

// nowhere matches nodes that say neither zone nor region: kube-scheduler takes any
// volume's labels to suit them.
var nowhere = func() (term corev1.NodeSelectorTerm) {
	for _, l := range placeLabels {
		term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: l.label, Operator: corev1.NodeSelectorOpDoesNotExist})
	}
	return term
}()

func (s *Snapshot) boundNeeds(n *volumeNeeds, claim, name string) *Reason {
	pv := s.PVs[name]
	if pv == nil {
		return volumeReason("volume %s of claim %s does not exist", "restore the PersistentVolume, or make a new claim", name, claim)
	}
	if s := reachOf(pv); s != nil {
		n.selectors = append(n.selectors, s)
	}
	for _, l := range placeLabels {
		if v := pv.Labels[l.label]; v != "" {
			n.selectors = append(n.selectors, &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
				{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: l.key, Operator: corev1.NodeSelectorOpIn, Values: strings.Split(v, separatorOfZoneLists)}}},
				nowhere}})
		}
	}
	switch {
	case pv.Spec.CSI != nil:
		n.add(pv.Spec.CSI.Driver, pv.Spec.CSI.VolumeHandle)
	case pv.Spec.AWSElasticBlockStore != nil:
		n.add(ebsDriver, ebsHandle(pv.Spec.AWSElasticBlockStore.VolumeID))
	}
	return nil
}

// ebsHandle is what the CSI driver calls a volume that the in-tree plugin knew:
// vol-1 for aws://us-west-2a/vol-1 (k8s.io/csi-translation-lib).
func ebsHandle(id string) string {
	if rest, ok := strings.CutPrefix(id, "aws://"); ok {
		return strings.Trim(rest[max(0, strings.IndexByte(rest, '/')):], "/")
	}
	return id
}

// reachOf is the selector of the nodes that can reach a volume; nil: all. Volumes
// of the in-tree EBS plugin are the CSI driver's, and kube-scheduler asks for its
// label (k8s.io/csi-translation-lib, TranslateInTreePVToCSI).
func reachOf(pv *corev1.PersistentVolume) *corev1.NodeSelector {
	var reach *corev1.NodeSelector
	if a := pv.Spec.NodeAffinity; a != nil {
		reach = a.Required
	}
	if pv.Spec.AWSElasticBlockStore == nil {
		return reach
	}
	if reach = reach.DeepCopy(); reach == nil {
		reach = &corev1.NodeSelector{}
	}
	replace := func(key, by string) (found bool) {
		for i := range reach.NodeSelectorTerms {
			es := reach.NodeSelectorTerms[i].MatchExpressions
			for j := range es {
				if es[j].Key == key {
					es[j].Key, found = by, true
				}
			}
		}
		return found
	}
	if replace(corev1.LabelTopologyZone, v1alpha1.LabelZoneEBS) {
		return reach
	}
	if replace(labelZoneBeta, v1alpha1.LabelZoneEBS) {
		replace(labelRegionBeta, corev1.LabelTopologyRegion)
		return reach
	}
	if zones := cmp.Or(pv.Labels[corev1.LabelTopologyZone], pv.Labels[labelZoneBeta]); zones != "" {
		if len(reach.NodeSelectorTerms) == 0 {
			reach.NodeSelectorTerms = make([]corev1.NodeSelectorTerm, 1)
		}
		for i := range reach.NodeSelectorTerms {
			t := &reach.NodeSelectorTerms[i]
			t.MatchExpressions = append(t.MatchExpressions, corev1.NodeSelectorRequirement{
				Key: v1alpha1.LabelZoneEBS, Operator: corev1.NodeSelectorOpIn, Values: strings.Split(zones, separatorOfZoneLists)})
		}
	}
	if len(reach.NodeSelectorTerms) == 0 {
		return nil
	}
	return reach
}

// classOf is the class of an unbound claim: the one that it names, or the
// cluster's default.
func (s *Snapshot) classOf(claim string, pvc *corev1.PersistentVolumeClaim) (*storagev1.StorageClass, *Reason) {
	if pvc.Spec.StorageClassName == nil {
		for _, name := range sortedNames(s.StorageClasses) {
			if s.StorageClasses[name].Annotations[annDefaultClass] == "true" {
				return s.StorageClasses[name], nil
			}
		}
		return nil, volumeReason("claim %s names no class and there is no default class", "name a storage class in the claim", claim)
	}
	name := *pvc.Spec.StorageClassName
	if name == "" {
		return nil, volumeReason("claim %s is not bound and has no class", "bind the claim to a volume", claim)
	}
	if c := s.StorageClasses[name]; c != nil {
		return c, nil
	}
	return nil, volumeReason("class %s of claim %s does not exist", "create the StorageClass, or name another", name, claim)
}

func topologySelector(terms []corev1.TopologySelectorTerm) *corev1.NodeSelector {
	s := &corev1.NodeSelector{}
	for i := range terms {
		t := corev1.NodeSelectorTerm{}
		for _, e := range terms[i].MatchLabelExpressions {
			t.MatchExpressions = append(t.MatchExpressions, corev1.NodeSelectorRequirement{Key: e.Key, Operator: corev1.NodeSelectorOpIn, Values: e.Values})
		}
		s.NodeSelectorTerms = append(s.NodeSelectorTerms, t)
	}
	return s
}
