package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

const (
	badTurns = 5  // Turns without and with bad objects, in turn.
	badNodes = 30 // Nodes bought and given back in each turn.
)

// pools are a good Provisioner and three whose nodes come to nothing.
var pools = map[string]func(*v1alpha1.ProvisionerSpec){
	"good": func(*v1alpha1.ProvisionerSpec) {},
	// EC2 never has what it wants.
	"unlaunched": func(s *v1alpha1.ProvisionerSpec) {
		s.Requirements = []v1alpha1.Requirement{
			{Key: corev1.LabelInstanceTypeStable, Operator: v1alpha1.OperatorIn, Values: []string{"m5.xlarge"}},
			{Key: corev1.LabelTopologyZone, Operator: v1alpha1.OperatorIn, Values: []string{"us-west-2a"}},
			{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: []string{v1alpha1.CapacityTypeOnDemand}}}
	},
	// Nobody takes the taint off.
	"unready": func(s *v1alpha1.ProvisionerSpec) {
		s.StartupTaints = []corev1.Taint{{Key: "example.com/never", Effect: corev1.TaintEffectNoSchedule}}
	},
	// Its budget never yields.
	"held": func(*v1alpha1.ProvisionerSpec) {},
}

// oneBadObject: nodes are bought and given back one after the other, by turns
// alone and beside a claim that never launches, a node that never becomes ready
// and a budget that never yields. What is measured is how long Berth takes to
// decide, as watches see it: from a pod to its claim, and from a claim's deletion
// to the taint on its node.
func oneBadObject(ctx context.Context, b *bench) error {
	for name, change := range pools {
		pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: name}}
		pr.Spec.Labels = map[string]string{"pool": name}
		pr.Spec.Requirements = []v1alpha1.Requirement{{Key: corev1.LabelInstanceTypeStable, Operator: v1alpha1.OperatorIn, Values: []string{"m5.large"}}}
		change(&pr.Spec)
		if err := b.c.Client.Create(ctx, pr); err != nil {
			return err
		}
		if err := cluster.WaitProvisioner(ctx, b.c, name); err != nil {
			return err
		}
	}
	none := map[string]any{"instanceType": "m5.xlarge", "zone": "us-west-2a", "capacityType": v1alpha1.CapacityTypeOnDemand, "capacity": 0}
	if err := b.c.Sim(ctx, http.MethodPost, "pools", none, nil); err != nil {
		return err
	}
	first, err := b.firsts(ctx)
	if err != nil {
		return err
	}
	var launch, taint [2][]float64 // Undisturbed, disturbed; in milliseconds.
	for turn := range 2 * badTurns {
		if turn%2 == 1 {
			if err := b.disturb(ctx); err != nil {
				return fmt.Errorf("disturbing: %w", err)
			}
		}
		if err := b.decide(ctx, first, &launch[turn%2], &taint[turn%2]); err != nil {
			return fmt.Errorf("turn %d: %w", turn, err)
		}
		if turn%2 == 1 {
			if err := b.stillBad(ctx); err != nil {
				return fmt.Errorf("turn %d: %w", turn, err)
			}
		}
		if err := b.clear(ctx); err != nil {
			return fmt.Errorf("clearing up: %w", err)
		}
	}
	for _, x := range []struct {
		what string
		ms   [2][]float64
	}{{"a pod to its claim", launch}, {"a claim's deletion to the node's taint", taint}} {
		a, z := quantile(x.ms[0], .99), quantile(x.ms[1], .99)
		fmt.Printf("bad: from %s, %d times alone and %d times beside bad objects: p50 %.0f and %.0f ms, p99 %.0f and %.0f ms: %+.0f %% (bar: 10 %%)\n",
			x.what, len(x.ms[0]), len(x.ms[1]), quantile(x.ms[0], .5), quantile(x.ms[1], .5), a, z, 100*(z/a-1))
	}
	return nil
}

// firsts are the moments at which a watch first showed something.
type firsts struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (f *firsts) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.at[what]; !ok {
		f.at[what] = time.Now()
	}
}

func (f *firsts) of(what string) (time.Time, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok := f.at[what]
	return at, ok
}

// firsts watches claims and Nodes: a claim is noted by its pool's name and its
// number in the pool, a tainted Node by its claim.
func (b *bench) firsts(ctx context.Context) (*firsts, error) {
	f := &firsts{at: map[string]time.Time{}}
	claims, err := b.c.Client.Watch(ctx, &v1alpha1.NodeClaimList{})
	if err != nil {
		return nil, err
	}
	nodes, err := b.c.Client.Watch(ctx, &corev1.NodeList{})
	if err != nil {
		return nil, err
	}
	go func() {
		n := 0
		for e := range claims.ResultChan() {
			if c, ok := e.Object.(*v1alpha1.NodeClaim); ok && e.Type == watch.Added && c.Labels[v1alpha1.LabelProvisioner] == "good" {
				f.note(fmt.Sprint("claim ", n))
				n++
			}
		}
	}()
	go func() {
		for e := range nodes.ResultChan() {
			n, ok := e.Object.(*corev1.Node)
			if ok && slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1alpha1.TaintDisrupted }) {
				f.note(n.Labels[v1alpha1.LabelNodeClaim])
			}
		}
	}()
	return f, nil
}

// decide has nodes bought and given back, and adds how long the decisions took.
func (b *bench) decide(ctx context.Context, f *firsts, launch, taint *[]float64) error {
	had := 0
	for _, ok := f.of(fmt.Sprint("claim ", had)); ok; _, ok = f.of(fmt.Sprint("claim ", had)) {
		had++
	}
	for i := range badNodes {
		start := time.Now()
		if err := b.c.Client.Create(ctx, poolPod("good", fmt.Sprint("good-", had+i))); err != nil {
			return err
		}
		at, err := await(ctx, f, fmt.Sprint("claim ", had+i))
		if err != nil {
			return err
		}
		*launch = append(*launch, float64(at.Sub(start).Milliseconds()))
	}
	var claims []v1alpha1.NodeClaim
	err := cluster.Until(ctx, func() (bool, error) {
		claims = claims[:0]
		all, err := b.claims(ctx)
		for i := range all {
			if all[i].Spec.Provisioner.Name == "good" && isReady(&all[i]) {
				claims = append(claims, all[i])
			}
		}
		return len(claims) == badNodes, err
	})
	if err != nil {
		return fmt.Errorf("%d of %d nodes are ready: %w", len(claims), badNodes, err)
	}
	for i := range claims {
		start := time.Now()
		if err := b.c.Client.Delete(ctx, &claims[i]); err != nil {
			return err
		}
		at, err := await(ctx, f, claims[i].Name)
		if err != nil {
			return err
		}
		*taint = append(*taint, float64(at.Sub(start).Milliseconds()))
	}
	return nil
}

// await waits for something to be noted.
func await(ctx context.Context, f *firsts, what string) (at time.Time, err error) {
	err = cluster.Until(ctx, func() (ok bool, _ error) { at, ok = f.of(what); return ok, nil })
	if err != nil {
		return at, fmt.Errorf("waiting for %s: %w", what, err)
	}
	return at, nil
}

// disturb makes the bad objects and waits until each is as bad as it gets.
func (b *bench) disturb(ctx context.Context) error {
	for _, pool := range []string{"unlaunched", "unready"} {
		if err := b.c.Client.Create(ctx, poolPod(pool, pool)); err != nil {
			return err
		}
	}
	labels := map[string]string{"app": "held"}
	none := intstr.FromInt32(0)
	pdb := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "held"},
		Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &none, Selector: &metav1.LabelSelector{MatchLabels: labels}}}
	pod := poolPod("held", "held")
	dep := &appsv1.Deployment{ObjectMeta: pdb.ObjectMeta, Spec: appsv1.DeploymentSpec{Selector: pdb.Spec.Selector,
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec}}}
	for _, o := range []client.Object{pdb, dep} {
		if err := b.c.Client.Create(ctx, o); err != nil {
			return err
		}
	}
	err := cluster.Until(ctx, func() (bool, error) {
		err := b.c.Client.Get(ctx, client.ObjectKeyFromObject(dep), dep)
		return dep.Status.ReadyReplicas == 1, err
	})
	if err != nil {
		return fmt.Errorf("waiting for the pod to be held: %w", err)
	}
	if err := b.c.Client.DeleteAllOf(ctx, &v1alpha1.NodeClaim{}, client.MatchingLabels{v1alpha1.LabelProvisioner: "held"}); err != nil {
		return err
	}
	return cluster.Until(ctx, func() (bool, error) { return b.stillBad(ctx) == nil, nil })
}

// stillBad is an error unless a node is not ready for its taint, a drain is
// blocked, and EC2 has launched nothing of what it does not have.
func (b *bench) stillBad(ctx context.Context) error {
	claims, err := b.claims(ctx)
	if err != nil {
		return err
	}
	unready, held := false, false
	for i := range claims {
		if claims[i].Spec.Provisioner.Name == "unlaunched" && claims[i].Status.InstanceID != "" {
			return fmt.Errorf("claim %s was launched", claims[i].Name)
		}
		for _, x := range claims[i].Status.Conditions {
			unready = unready || x.Type == v1alpha1.ConditionInitialized && x.Reason == "StartupTaint"
			held = held || x.Type == v1alpha1.ConditionDrained && x.Reason == "Blocked"
		}
	}
	if !unready || !held {
		return fmt.Errorf("a node that does not become ready: %v, a drain that is blocked: %v", unready, held)
	}
	return nil
}

// clear removes all pods, budgets and claims, and waits until they are gone.
func (b *bench) clear(ctx context.Context) error {
	in := client.InNamespace("default")
	for _, o := range []client.Object{&appsv1.Deployment{}, &policyv1.PodDisruptionBudget{}, &corev1.Pod{}} {
		if err := b.c.Client.DeleteAllOf(ctx, o, in); err != nil {
			return err
		}
	}
	return cluster.Until(ctx, func() (bool, error) {
		claims, err := b.claims(ctx)
		for i := range claims {
			if c := &claims[i]; c.DeletionTimestamp == nil {
				if err := client.IgnoreNotFound(b.c.Client.Delete(ctx, c)); err != nil {
					return false, err
				}
			}
		}
		return len(claims) == 0, err
	})
}

// poolPod fills a node of a pool.
func poolPod(pool, name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{
		NodeSelector: map[string]string{"pool": pool},
		Containers: []corev1.Container{{Name: "app", Image: "registry.k8s.io/pause:3.10",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1200m")}}}},
	}}
}
