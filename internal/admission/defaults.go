package admission

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// maxRequirements is the CRD's limit on spec.requirements.
const maxRequirements = 100

// reviewDefaults answers the webhook that completes Provisioners.
func reviewDefaults(body, clusterName string) (string, Decision, error) {
	v, err := parseReview(body, nil)
	if err != nil {
		return v.uid, Decision{}, err
	}
	if v.kind != "Provisioner" || v.subResource != "" || v.operation != "CREATE" && v.operation != "UPDATE" {
		return v.uid, Decision{Result: ResultSkipped}, nil
	}
	d, err := DefaultProvisioner([]byte(v.object), []byte(v.oldObject), clusterName)
	return v.uid, d, err
}

// DefaultProvisioner completes a Provisioner's JSON with what the cluster and
// the common case imply, so that reading it says all:
//
//   - requirements on arch (amd64), os (linux) and capacity type (on-demand, and
//     reserved, which there is only in reservations that are named) where there is
//     none on that label. Arch is left open where instance types or families are
//     asked for by name: they say it themselves.
//   - ec2.subnets by tag kubernetes.io/cluster/<clusterName>, when clusterName is
//     known. Not ec2.securityGroups and ec2.amis: another family or a launch template,
//     asked for later, would contradict what nobody wrote. As it was written until
//     now, it is taken out where an update of old does that.
//   - Berth's finalizer where the annotation asks for nodes to be drained when
//     the Provisioner is deleted. The provisioner sees to it as well, a moment
//     later: here it is in time for a deletion that follows at once.
//
// The values of the spec are those that Berth takes anyway where nothing is
// said, so that a Provisioner stored without the webhook means the same. What is
// not a Provisioner in shape is left for the CRD to refuse; what is being
// deleted is left alone. old is what it replaces, empty for a new one. An error is
// one of reading JSON.
func DefaultProvisioner(doc, old []byte, clusterName string) (Decision, error) {
	skip := Decision{Result: ResultSkipped}
	top, err := members(doc)
	if err != nil {
		return Decision{}, fmt.Errorf("reading the Provisioner: %w", err)
	}
	metadata, err := members(top["metadata"])
	if err != nil || present(metadata["deletionTimestamp"]) {
		return skip, nil
	}
	spec, err := members(top["spec"])
	if err != nil || spec == nil {
		return skip, nil
	}
	var ops []patchOp
	ops = append(ops, defaultRequirements(spec["requirements"])...)
	ops = append(ops, defaultSubnets(spec["ec2"], clusterName)...)
	ops = append(ops, defaultFinalizer(metadata)...)
	dropped, warnings := dropDefaults(spec["ec2"], ec2Of(old), clusterName)
	if ops = append(ops, dropped...); len(ops) == 0 {
		return Decision{Result: ResultAllowed}, nil
	}
	patch, err := json.Marshal(ops)
	if err != nil {
		return Decision{}, fmt.Errorf("writing the patch: %w", err)
	}
	return Decision{Patch: patch, Warnings: prefixed(warnings), Result: ResultDefaulted}, nil
}

// patchOp is an operation of a JSON patch: "add", which also replaces, or "remove",
// which has no Value.
type patchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

func add(path string, value any) patchOp { return patchOp{Op: "add", Path: path, Value: value} }

// members splits an object; nil when it is absent or null.
func members(doc json.RawMessage) (map[string]json.RawMessage, error) {
	if !present(doc) {
		return nil, nil
	}
	var m map[string]json.RawMessage
	err := json.Unmarshal(doc, &m)
	return m, err
}

// present says whether a member is there and not null.
func present(doc json.RawMessage) bool { return len(doc) > 0 && string(doc) != "null" }

// empty says whether a member is absent, null or an empty array.
func empty(doc json.RawMessage) bool {
	if !present(doc) {
		return true
	}
	var list []json.RawMessage
	return json.Unmarshal(doc, &list) == nil && len(list) == 0
}

func requireIn(key string, values ...string) v1alpha1.Requirement {
	return v1alpha1.Requirement{Key: key, Operator: v1alpha1.OperatorIn, Values: values}
}

// defaultRequirements adds what spec.requirements does not speak of.
func defaultRequirements(doc json.RawMessage) []patchOp {
	var have []v1alpha1.Requirement
	if present(doc) && json.Unmarshal(doc, &have) != nil {
		return nil
	}
	var missing []v1alpha1.Requirement
	on := func(key string) bool {
		return slices.ContainsFunc(have, func(r v1alpha1.Requirement) bool { return v1alpha1.CurrentLabel(r.Key) == key })
	}
	byName := slices.ContainsFunc(have, func(r v1alpha1.Requirement) bool {
		return r.Operator == v1alpha1.OperatorIn && (r.Key == corev1.LabelInstanceTypeStable || r.Key == v1alpha1.LabelInstanceFamily)
	})
	if !on(corev1.LabelArchStable) && !byName {
		missing = append(missing, requireIn(corev1.LabelArchStable, "amd64"))
	}
	if !on(corev1.LabelOSStable) {
		missing = append(missing, requireIn(corev1.LabelOSStable, "linux"))
	}
	if !on(v1alpha1.LabelCapacityType) {
		missing = append(missing, requireIn(v1alpha1.LabelCapacityType, v1alpha1.CapacityTypeOnDemand, v1alpha1.CapacityTypeReserved))
	}
	if len(missing) == 0 || len(have)+len(missing) > maxRequirements {
		return nil
	}
	if !present(doc) {
		return []patchOp{add("/spec/requirements", missing)}
	}
	ops := make([]patchOp, 0, len(missing))
	for _, r := range missing {
		ops = append(ops, add("/spec/requirements/-", r))
	}
	return ops
}

// ec2Of is spec.ec2 of a Provisioner; nil where it has none.
func ec2Of(doc []byte) json.RawMessage {
	top, err := members(doc)
	if err != nil {
		return nil
	}
	spec, err := members(top["spec"])
	if err != nil {
		return nil
	}
	return spec["ec2"]
}

// defaultSubnets adds a selector where spec.ec2 has none.
func defaultSubnets(doc json.RawMessage, clusterName string) []patchOp {
	ec2, err := members(doc)
	if err != nil || clusterName == "" || !empty(ec2["subnets"]) {
		return nil
	}
	byTag := v1alpha1.ClusterTerms(clusterName)
	if ec2 == nil {
		return []patchOp{add("/spec/ec2", map[string]any{"subnets": byTag})}
	}
	return []patchOp{add("/spec/ec2/subnets", byTag)}
}

// dropDefaults takes out what the webhook once wrote into spec.ec2, and an update of
// old has left there beside what contradicts it: the image of another family, and image and
// security groups beside a launch template. Nothing changes its meaning by that.
func dropDefaults(doc, old json.RawMessage, clusterName string) (ops []patchOp, warnings []string) {
	var now, before v1alpha1.EC2
	sent, err := members(doc)
	if err != nil || json.Unmarshal(doc, &now) != nil || json.Unmarshal(old, &before) != nil {
		return nil, nil
	}
	drop := func(field, by string) {
		if !present(sent[field]) {
			return // Under a name that differs by case; only a key that is there is removed.
		}
		ops = append(ops, patchOp{Op: "remove", Path: "/spec/ec2/" + field})
		warnings = append(warnings, fmt.Sprintf("spec.ec2.%s was the default until now and is taken out, for %s", field, by))
	}
	by := "the launchTemplate"
	image := []v1alpha1.AMITerm{{Alias: cmp.Or(before.AMIFamily, v1alpha1.AMIFamilyAL2023).DefaultAlias()}}
	if now.LaunchTemplate == nil {
		by = "amiFamily " + string(cmp.Or(now.AMIFamily, v1alpha1.AMIFamilyAL2023))
	}
	another := now.LaunchTemplate != nil || now.AMIFamily.DefaultAlias() != before.AMIFamily.DefaultAlias()
	if another && reflect.DeepEqual(now.AMIs, image) && reflect.DeepEqual(before.AMIs, image) {
		drop("amis", by)
	}
	groups := v1alpha1.ClusterTerms(clusterName)
	if now.LaunchTemplate != nil && clusterName != "" && reflect.DeepEqual(now.SecurityGroups, groups) && reflect.DeepEqual(before.SecurityGroups, groups) {
		drop("securityGroups", by)
	}
	return ops, warnings
}

// defaultFinalizer adds Berth's where annotation berth.dev/deletion says drain.
func defaultFinalizer(metadata map[string]json.RawMessage) []patchOp {
	var annotations map[string]string
	var have []string
	if present(metadata["annotations"]) && json.Unmarshal(metadata["annotations"], &annotations) != nil ||
		present(metadata["finalizers"]) && json.Unmarshal(metadata["finalizers"], &have) != nil {
		return nil
	}
	if annotations[v1alpha1.AnnotationDeletion] != v1alpha1.DeletionDrain || slices.Contains(have, v1alpha1.Finalizer) {
		return nil
	}
	return []patchOp{add("/metadata/finalizers", append(have, v1alpha1.Finalizer))}
}
