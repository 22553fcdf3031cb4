package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// jsonPatchOp is one operation of RFC 6902.
type jsonPatchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// patchNode writes what changed of a Node's labels, annotations, taints and
// finalizers. A Node has many writers: kubelet, cloud controllers, node
// lifecycle. An optimistic lock on the whole object would lose against their
// heartbeats again and again, a merge would overwrite their taints. So the
// patch tests just the lists that it replaces, and the node's identity. A lost
// race is a conflict.
func (p *Loops) patchNode(ctx context.Context, before, after *corev1.Node, act string) error {
	ops := nodePatch(before, after)
	if len(ops) == 0 {
		return nil
	}
	data, err := json.Marshal(ops)
	if err != nil {
		return fmt.Errorf("%s node %s: %w", act, before.Name, err)
	}
	target := &corev1.Node{}
	target.Name = before.Name
	err = p.cfg.Client.Patch(ctx, target, client.RawPatch(types.JSONPatchType, data))
	if lostRace(err) {
		err = apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("nodes").GroupResource(), before.Name, err)
	}
	if err != nil {
		return fmt.Errorf("%s node %s: %w", act, before.Name, err)
	}
	return nil
}

// lostRace reports whether the API server could not apply a patch, because a test in it
// failed. Its answer is 422 about no kind and without causes; the same code from
// validation or an admission policy names what it refuses, and stays refused.
func lostRace(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) {
		return false
	}
	d := status.Status().Details
	return d != nil && d.Kind == "" && len(d.Causes) == 0
}

// nodePatch is the difference as operations, in a fixed order.
func nodePatch(before, after *corev1.Node) []jsonPatchOp {
	ops := []jsonPatchOp{{Op: "test", Path: "/metadata/uid", Value: before.UID}}
	ops = append(ops, listPatch("/metadata/finalizers", before.Finalizers, after.Finalizers)...)
	ops = append(ops, listPatch("/spec/taints", before.Spec.Taints, after.Spec.Taints)...)
	ops = append(ops, mapPatch("/metadata/labels", before.Labels, after.Labels)...)
	ops = append(ops, mapPatch("/metadata/annotations", before.Annotations, after.Annotations)...)
	if len(ops) == 1 {
		return nil
	}
	return ops
}

// listPatch replaces a whole list, if it still is what it was.
func listPatch[T any](path string, before, after []T) []jsonPatchOp {
	if apiEqual(before, after) {
		return nil
	}
	var ops []jsonPatchOp
	if len(before) > 0 {
		ops = append(ops, jsonPatchOp{Op: "test", Path: path, Value: before})
	} else {
		// An absent list equals null; one that appeared in between does not.
		ops = append(ops, jsonPatchOp{Op: "test", Path: path})
	}
	if len(after) == 0 {
		return append(ops, jsonPatchOp{Op: "remove", Path: path})
	}
	return append(ops, jsonPatchOp{Op: "add", Path: path, Value: after})
}

// mapPatch sets and removes single keys, whatever happens to the others.
func mapPatch(path string, before, after map[string]string) []jsonPatchOp {
	var ops []jsonPatchOp
	if len(before) == 0 && len(after) > 0 {
		ops = append(ops, jsonPatchOp{Op: "test", Path: path}, jsonPatchOp{Op: "add", Path: path, Value: map[string]string{}})
	}
	for _, k := range slices.Sorted(maps.Keys(after)) {
		if old, ok := before[k]; !ok || old != after[k] {
			ops = append(ops, jsonPatchOp{Op: "add", Path: path + "/" + pointer(k), Value: after[k]})
		}
	}
	for _, k := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[k]; !ok {
			ops = append(ops, jsonPatchOp{Op: "remove", Path: path + "/" + pointer(k)})
		}
	}
	return ops
}

// pointer escapes a key for a JSON pointer (RFC 6901).
func pointer(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}
