package provisioner

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

const (
	// gateName is the name of the gate's pod, and the value of the label of the nodes
	// behind it.
	gateName = "berth-gate"
	// gateSeen is how long kube-scheduler has to see the gate before nodes open
	// behind it.
	gateSeen = 250 * time.Millisecond
	// gateMost is when the kubelet ends a gate that nobody has lifted.
	gateMost = 2 * time.Minute
	// gatePause is the time between two tries to lift it.
	gatePause = time.Second
)

// gate opens many nodes in one moment. A node opens by a write of its own, and between the
// first and the last kube-scheduler tries pods whose node is still closed, and forgets their seats.
// So the nodes open while a pod on one of them keeps all other pods off all of them, by
// anti-affinity over a label that they share; and when it is deleted, all are open. It
// need not run: kube-scheduler looks at where it is bound.
type gate struct{ *Loops }

// shut puts the gate's pod on a node. Where it cannot, nodes open without: some seats may be
// lost then.
func (g *gate) shut(ctx context.Context, node string) bool {
	err := g.cfg.Client.Create(ctx, gatePod(g.cfg.Namespace, node))
	if apierrors.IsAlreadyExists(err) {
		g.lift(ctx)
		err = g.cfg.Client.Create(ctx, gatePod(g.cfg.Namespace, node))
	}
	if err != nil {
		if ctx.Err() == nil {
			g.log.Error(err, "nodes open one by one, and pods may lose their seats: the gate's pod cannot be created", "namespace", g.cfg.Namespace, "pod", gateName)
		}
		return false
	}
	return pause(ctx, gateSeen)
}

// lift deletes the gate's pod, if there is one, and takes the label off nodes. It goes on
// until the pod is gone, for nobody gets past it; if the context ends, after one more try.
func (g *gate) lift(ctx context.Context) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: g.cfg.Namespace, Name: gateName}}
	for {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), gatePause)
		err := g.cfg.Client.Delete(last, pod, client.GracePeriodSeconds(0))
		cancel()
		if client.IgnoreNotFound(err) == nil {
			break
		}
		g.log.Error(err, "deleting the gate's pod, which keeps all pods off nodes", "namespace", pod.Namespace, "pod", pod.Name)
		if !pause(ctx, gatePause) {
			return
		}
	}
	var nodes []*corev1.Node
	for _, n := range all[*corev1.Node](g.stores.nodes) {
		if _, ok := n.Labels[v1alpha1.LabelGated]; ok {
			nodes = append(nodes, n)
		}
	}
	each(nodes, writers, func(_ int, n *corev1.Node) {
		after := n.DeepCopy()
		delete(after.Labels, v1alpha1.LabelGated)
		if err := g.patchNode(ctx, n, after, "taking the gate's label off"); err != nil && ctx.Err() == nil && !bygone(err) {
			g.log.Error(err, "the label stays until the next gate is lifted; it does no harm")
		}
	})
}

// gatePod is the pod that keeps all others off the nodes with its label.
func gatePod(namespace, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: gateName, Labels: map[string]string{v1alpha1.LabelGated: gateName}},
		Spec: corev1.PodSpec{
			NodeName:                      node,
			PriorityClassName:             "system-node-critical", // Nobody may preempt it.
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			ActiveDeadlineSeconds:         new(int64(gateMost / time.Second)),
			TerminationGracePeriodSeconds: new(int64(0)),
			AutomountServiceAccountToken:  new(false),
			EnableServiceLinks:            new(false),
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: new(true), RunAsUser: new(int64(65535)), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
					TopologyKey: v1alpha1.LabelGated, LabelSelector: &metav1.LabelSelector{}, NamespaceSelector: &metav1.LabelSelector{},
				}},
			}},
			Containers: []corev1.Container{{
				Name: "gate", Image: "registry.k8s.io/pause:3.10", ImagePullPolicy: corev1.PullNever,
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}
}
