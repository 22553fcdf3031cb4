// Package e2e tests Berth on a real control plane: etcd, kube-apiserver,
// kube-scheduler, kube-controller-manager, kwok as the kubelets and ec2sim as
// AWS, all on loopback. Build them first: make control-plane.
package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// shared is the cluster of all tests that do not break it.
var shared *cluster.Cluster

func TestMain(m *testing.M) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	c, err := cluster.Start(ctx, os.Stderr, "--boot-delay="+bootDelay.String())
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared = c
	finish := judge(c)
	code := m.Run()
	for _, broken := range finish() {
		fmt.Fprintln(os.Stderr, "INVARIANT:", broken)
		code = 1
	}
	if err := c.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// bootDelay is how long instances of the tests boot.
const bootDelay = 300 * time.Millisecond

// patience bounds each wait of a test: generous, since the machine may be slow.
const patience = 3 * time.Minute

// bench is a namespace and a Provisioner of its own on a cluster. Pods in it
// select the Provisioner by a label, so that tests do not share nodes.
type bench struct {
	t         *testing.T
	ctx       context.Context
	c         *cluster.Cluster
	name      string
	namespace string
	patience  time.Duration
}

// newBench makes a namespace and a Provisioner that change may alter, and
// removes both, and every node, at the end of the test.
func newBench(t *testing.T, c *cluster.Cluster, change func(*v1alpha1.Provisioner)) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*patience)
	name := "t-" + utilrand.String(6)
	b := &bench{t: t, ctx: ctx, c: c, name: name, namespace: name, patience: patience}
	t.Cleanup(cancel)
	t.Cleanup(b.clean)
	b.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: b.namespace}})
	b.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: "test"}})
	pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: name}}
	pr.Spec.Labels = map[string]string{"test": name}
	pr.Spec.Taints = []corev1.Taint{{Key: "test", Value: name, Effect: corev1.TaintEffectNoSchedule}}
	pr.Spec.TTLSecondsAfterEmpty = ptr(int64(1))
	if change != nil {
		change(pr)
	}
	b.create(pr)
	return b
}

func ptr[T any](v T) *T { return &v }

func (b *bench) create(o client.Object) {
	b.t.Helper()
	if err := b.c.Client.Create(b.ctx, o); err != nil {
		b.t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
	}
}

func (b *bench) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), b.patience)
	defer cancel()
	if b.t.Failed() {
		b.dump(ctx)
	}
	_ = b.c.Client.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: b.namespace}})
	_ = b.c.Client.DeleteAllOf(ctx, &v1alpha1.NodeClaim{}, client.MatchingLabels{v1alpha1.LabelProvisioner: b.name})
	err := cluster.Until(ctx, func() (bool, error) {
		claims, err := b.claims(ctx)
		return len(claims) == 0, err
	})
	if err != nil {
		b.t.Errorf("claims of the test are still there: %v", err)
	}
	_ = b.c.Client.Delete(ctx, &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: b.name}})
}

// dump shows what a failed test left: what does not run first, since long
// outputs are cut.
func (b *bench) dump(ctx context.Context) {
	const most = 10
	var pods corev1.PodList
	_ = b.c.Client.List(ctx, &pods, client.InNamespace(b.namespace))
	there := slices.Clone(pods.Items)
	pods.Items = slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	b.t.Logf("%d pods run, %d do not", len(there)-len(pods.Items), len(pods.Items))
	said := map[string][]string{}
	for _, component := range []string{"kube-scheduler", "kwok", "provisioner"} {
		said[component] = strings.Split(b.c.Log(component), "\n")
	}
	for _, p := range pods.Items[:min(most, len(pods.Items))] {
		b.t.Logf("pod %s: on %q, nominated %q, phase %s, conditions %v", p.Name, p.Spec.NodeName, p.Status.NominatedNodeName, p.Status.Phase, p.Status.Conditions)
		for component, lines := range said {
			about := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.Contains(l, p.Name) })
			for _, l := range about[max(0, len(about)-3):] {
				b.t.Logf("  %s: %s", component, l)
			}
		}
	}
	for name, said := range b.lost(ctx, there) {
		b.t.Logf("pod %s is gone: %s", name, strings.Join(said, "; "))
	}
	claims, _ := b.claims(ctx)
	initialized := len(claims)
	claims = slices.DeleteFunc(claims, func(c v1alpha1.NodeClaim) bool {
		return meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionInitialized) && c.DeletionTimestamp == nil
	})
	b.t.Logf("%d claims are initialized, %d are not or go", initialized-len(claims), len(claims))
	for _, c := range claims[:min(most, len(claims))] {
		b.t.Logf("claim %s: instance %s, conditions %+v", c.Name, c.Status.InstanceID, c.Status.Conditions)
	}
	lines := said["provisioner"]
	b.t.Logf("provisioner log:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
}

// lost is what events say of pods that are not there any more.
func (b *bench) lost(ctx context.Context, there []corev1.Pod) map[string][]string {
	var events corev1.EventList
	_ = b.c.Client.List(ctx, &events, client.InNamespace(b.namespace))
	said := map[string][]string{}
	for _, e := range events.Items {
		if e.InvolvedObject.Kind == "Pod" {
			at := e.FirstTimestamp.Time
			if at.IsZero() {
				at = e.EventTime.Time
			}
			said[e.InvolvedObject.Name] = append(said[e.InvolvedObject.Name], fmt.Sprintf("%s %s: %s", at.Format("15:04:05"), e.Reason, e.Message))
		}
	}
	for _, p := range there {
		delete(said, p.Name)
	}
	return said
}

func (b *bench) claims(ctx context.Context) ([]v1alpha1.NodeClaim, error) {
	var list v1alpha1.NodeClaimList
	err := b.c.Client.List(ctx, &list, client.MatchingLabels{v1alpha1.LabelProvisioner: b.name})
	return list.Items, err
}

// pod is a pod of this bench: 1 CPU and 1 GiB, changed by change.
func (b *bench) pod(name string, change func(*corev1.PodSpec)) *corev1.Pod {
	spec := corev1.PodSpec{
		ServiceAccountName: "test",
		NodeSelector:       map[string]string{"test": b.name},
		Tolerations:        []corev1.Toleration{{Key: "test", Value: b.name, Effect: corev1.TaintEffectNoSchedule}},
		Containers: []corev1.Container{{Name: "app", Image: "registry.k8s.io/pause:3.10",
			Resources: corev1.ResourceRequirements{Requests: requests("1", "1Gi")}}},
	}
	if change != nil {
		change(&spec)
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: name, Labels: map[string]string{"app": name}}, Spec: spec}
}

// deployment is n such pods.
func (b *bench) deployment(name string, n int, change func(*corev1.PodSpec)) *appsv1.Deployment {
	p := b.pod(name, change)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr(int32(n)),
			Selector: &metav1.LabelSelector{MatchLabels: p.Labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels}, Spec: p.Spec},
		},
	}
}

func requests(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

// wait asks until the answer is yes.
func (b *bench) wait(what string, ask func() (bool, error)) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, b.patience)
	defer cancel()
	if err := cluster.Until(ctx, ask); err != nil {
		b.t.Fatalf("waiting until %s: %v", what, err)
	}
}

// waitRunning waits until n pods of the namespace run.
func (b *bench) waitRunning(n int) []corev1.Pod {
	b.t.Helper()
	var running []corev1.Pod
	b.wait(fmt.Sprintf("%d pods run", n), func() (bool, error) {
		var pods corev1.PodList
		if err := b.c.Client.List(b.ctx, &pods, client.InNamespace(b.namespace)); err != nil {
			return false, err
		}
		running = running[:0]
		for _, p := range pods.Items {
			if p.Status.Phase == corev1.PodRunning {
				running = append(running, p)
			}
		}
		return len(running) >= n, nil
	})
	return running
}

// waitGone waits until the bench has neither claims, Nodes nor instances.
func (b *bench) waitGone() {
	b.t.Helper()
	b.wait("no claim, Node or instance is left", func() (bool, error) {
		claims, err := b.claims(b.ctx)
		if err != nil || len(claims) > 0 {
			return false, err
		}
		var nodes corev1.NodeList
		if err := b.c.Client.List(b.ctx, &nodes, client.MatchingLabels{v1alpha1.LabelProvisioner: b.name}); err != nil || len(nodes.Items) > 0 {
			return false, err
		}
		live, err := b.instances()
		return len(live) == 0, err
	})
}

// instances are the live instances of the bench's Provisioner.
func (b *bench) instances() ([]cluster.Instance, error) {
	live, err := b.c.LiveInstances(b.ctx)
	var mine []cluster.Instance
	for _, i := range live {
		if i.Tags[v1alpha1.TagProvisioner] == b.name {
			mine = append(mine, i)
		}
	}
	return mine, err
}

// reasonEvents are the NoBerth events of a pod.
func (b *bench) reasonEvents(pod string) []string {
	b.t.Helper()
	var list corev1.EventList
	if err := b.c.Client.List(b.ctx, &list, client.InNamespace(b.namespace)); err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		if e.Reason == "NoBerth" && e.InvolvedObject.Name == pod {
			out = append(out, e.Message)
		}
	}
	return out
}
