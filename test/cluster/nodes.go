package cluster

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// addedCPU is the size of added nodes.
const addedCPU = 64

// AddNodes makes nodes that nobody provisioned, with a simulated kubelet each, waits
// until all are open to pods, and returns how many: room for so many pods of 1 CPU
// and up to 4 GiB.
func (c *Cluster) AddNodes(ctx context.Context, pods int) (nodes int, err error) {
	size := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(fmt.Sprint(addedCPU)), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("250")}
	nodes = pods/addedCPU + 1
	for i := range nodes {
		name := fmt.Sprintf("added-%d", i)
		node := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}, Annotations: map[string]string{"kwok.x-k8s.io/node": "fake"}},
			Status:     corev1.NodeStatus{Capacity: size, Allocatable: size},
		}
		if err := c.Client.Create(ctx, node); err != nil {
			return 0, err
		}
	}
	err = Until(ctx, func() (bool, error) {
		var list corev1.NodeList
		err := c.Client.List(ctx, &list)
		return len(list.Items) == nodes && !slices.ContainsFunc(list.Items, func(n corev1.Node) bool { return len(n.Spec.Taints) > 0 }), err
	})
	if err != nil {
		return 0, fmt.Errorf("waiting for %d nodes: %w", nodes, err)
	}
	return nodes, nil
}
