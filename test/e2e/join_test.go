package e2e

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// TestStartupTaints: pods wait for a startup taint, and whoever deletes a node that
// is not ready for pods yet gets rid of it as of any other.
func TestStartupTaints(t *testing.T) {
	taint := corev1.Taint{Key: "example.com/agent", Effect: corev1.TaintEffectNoSchedule}
	b := newBench(t, shared, func(pr *v1alpha1.Provisioner) { pr.Spec.StartupTaints = []corev1.Taint{taint} })
	waitsForTaint := func() *corev1.Node {
		t.Helper()
		node := &corev1.Node{}
		b.wait("a node has joined and waits for its startup taint", func() (bool, error) {
			claims, err := b.claims(b.ctx)
			if err != nil || len(claims) != 1 || claims[0].DeletionTimestamp != nil {
				return false, err
			}
			c := meta.FindStatusCondition(claims[0].Status.Conditions, v1alpha1.ConditionReady)
			if c == nil || c.Reason != "StartupTaint" {
				return false, nil
			}
			return true, b.c.Client.Get(b.ctx, client.ObjectKey{Name: claims[0].Status.NodeName}, node)
		})
		return node
	}
	b.create(b.deployment("app", 1, nil))
	first := waitsForTaint()
	if err := b.c.Client.Delete(b.ctx, first); err != nil {
		t.Fatal(err)
	}
	b.wait("the deleted node is gone", func() (bool, error) {
		return b.gone(first), nil
	})
	second := waitsForTaint()
	var pods corev1.PodList
	if err := b.c.Client.List(b.ctx, &pods, client.InNamespace(b.namespace)); err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		if p.Spec.NodeName != "" {
			t.Fatalf("pod %s is on %s in spite of the startup taint", p.Name, p.Spec.NodeName)
		}
	}
	before := second.DeepCopy()
	second.Spec.Taints = nil
	for _, x := range before.Spec.Taints {
		if x.Key != taint.Key {
			second.Spec.Taints = append(second.Spec.Taints, x)
		}
	}
	if err := b.c.Client.Patch(b.ctx, second, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	b.waitRunning(1)
	b.readyClaim()
}

// gone reports whether a Node is gone.
func (b *bench) gone(n *corev1.Node) bool {
	err := b.c.Client.Get(b.ctx, client.ObjectKeyFromObject(n), &corev1.Node{})
	return err != nil && client.IgnoreNotFound(err) == nil
}

// TestCustomImageWithoutTheTaint: user data of one's own that says nothing of Berth's
// taint. The Provisioner's taints and labels come all the same.
func TestCustomImageWithoutTheTaint(t *testing.T) {
	b := newBench(t, shared, func(pr *v1alpha1.Provisioner) {
		pr.Spec.EC2.AMIFamily = v1alpha1.AMIFamilyCustom
		pr.Spec.EC2.AMIs = []v1alpha1.AMITerm{{Name: "amazon-eks-node-al2023-x86_64-standard-*", Owner: "amazon"}}
		pr.Spec.EC2.UserData = fmt.Sprintf(`apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster:
    name: %s
    apiServerEndpoint: %s
    certificateAuthority: %s
    cidr: 10.96.0.0/16
`, shared.ClusterName, shared.Config.Host, base64.StdEncoding.EncodeToString(shared.Config.CAData))
	})
	b.create(b.deployment("app", 1, nil))
	b.waitRunning(1)
	claim := b.readyClaim()
	node := &corev1.Node{}
	if err := b.c.Client.Get(b.ctx, client.ObjectKey{Name: claim.Status.NodeName}, node); err != nil {
		t.Fatal(err)
	}
	var taints []string
	for _, x := range node.Spec.Taints {
		taints = append(taints, x.Key+"="+x.Value)
	}
	if !strings.Contains(strings.Join(taints, " "), "test="+b.name) || node.Labels["test"] != b.name {
		t.Errorf("taints %v, labels %v", taints, node.Labels)
	}
}
