package cluster

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AddNodes makes nodes of a size that nobody provisioned, with a simulated
// kubelet each, and waits until all are open to pods.
func (c *Cluster) AddNodes(ctx context.Context, nodes int, size corev1.ResourceList) error {
	for i := range nodes {
		name := fmt.Sprintf("added-%d", i)
		node := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}, Annotations: map[string]string{"kwok.x-k8s.io/node": "fake"}},
			Status:     corev1.NodeStatus{Capacity: size, Allocatable: size},
		}
		if err := c.Client.Create(ctx, node); err != nil {
			return err
		}
	}
	err := Until(ctx, func() (bool, error) {
		var list corev1.NodeList
		err := c.Client.List(ctx, &list)
		return len(list.Items) == nodes && !slices.ContainsFunc(list.Items, func(n corev1.Node) bool { return len(n.Spec.Taints) > 0 }), err
	})
	if err != nil {
		return fmt.Errorf("waiting for %d nodes: %w", nodes, err)
	}
	return nil
}
