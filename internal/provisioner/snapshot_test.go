package provisioner

import (
	"fmt"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

// The cache may show a claim as initialized and its Node still closed: whoever
// took the Node at its word would buy another.
func TestANodeThatLagsBehindItsClaimIsComing(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tc := range map[string]struct {
		taint       string
		initialized time.Duration
		inFlight    bool
	}{
		"closed, initialized just now":          {v1alpha1.TaintUnregistered, time.Second, true},
		"not ready, initialized just now":       {corev1.TaintNodeNotReady, time.Second, true},
		"not ready, initialized long ago":       {corev1.TaintNodeNotReady, time.Minute, false},
		"another taint, initialized just now":   {"dedicated", time.Second, false},
		"without a taint, initialized just now": {"", time.Second, false},
		"without a taint, initialized long ago": {"", time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			claim := &v1alpha1.NodeClaim{Spec: v1alpha1.NodeClaimSpec{Offerings: []v1alpha1.ClaimOffering{{}}}, Status: v1alpha1.NodeClaimStatus{Conditions: []metav1.Condition{{
				Type: v1alpha1.ConditionInitialized, Status: metav1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-tc.initialized))}}}}
			node := &corev1.Node{}
			if tc.taint != "" {
				node.Spec.Taints = []corev1.Taint{{Key: tc.taint, Effect: corev1.TaintEffectNoSchedule}}
			}
			pn := planNode(node, claim, now)
			if pn.InFlight != tc.inFlight {
				t.Errorf("in flight: %t", pn.InFlight)
			}
			if tc.inFlight && len(pn.Taints) > 0 {
				t.Errorf("it comes with %v", pn.Taints)
			}
		})
	}
}

// The API server completes pods, never templates: what a DaemonSet takes of a
// node is more than its template says.
func TestDaemonSetsCountAsTheirPodsWill(t *testing.T) {
	class := "boxed"
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "agent"}}
	ds.Spec.Template.Spec = corev1.PodSpec{RuntimeClassName: &class, PriorityClassName: "high", Containers: []corev1.Container{{
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}}}}}
	p := &Loops{book: newBook(), catalogue: newCatalogue("us-west-2"), stores: storesWith(t, ds,
		&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: class},
			Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}}},
		&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000})}
	pods := p.read(time.Unix(1000, 0)).snapshot.DaemonSetPods
	if len(pods) != 1 {
		t.Fatalf("%d pods", len(pods))
	}
	if cpu := capacity.PodRequests(pods[0])[corev1.ResourceCPU]; cpu != 750 {
		t.Errorf("it counts as %d millicores, want 750", cpu)
	}
	if pods[0].Spec.Priority == nil || *pods[0].Spec.Priority != 1000 {
		t.Errorf("its priority is %v, want 1000", pods[0].Spec.Priority)
	}
	if r := ds.Spec.Template.Spec.Containers[0].Resources.Requests; r != nil {
		t.Errorf("the cached DaemonSet has changed: requests %v", r)
	}
}

// LimitRanges, webhooks and the VPA change pods, and templates do not show it.
func TestDaemonSetsCountAsTheirNewestPodsDo(t *testing.T) {
	const template = "250m"
	type made struct {
		cpu, generation string
		age             time.Duration
		gone            bool
	}
	for name, tc := range map[string]struct {
		pods []made
		want int64
	}{
		"none is there":                            {nil, 250},
		"it asks for more":                         {[]made{{cpu: "500m", generation: "2"}}, 500},
		"it asks for less":                         {[]made{{cpu: "100m", generation: "2"}}, 250},
		"the newest counts, not the largest":       {[]made{{cpu: "900m", generation: "2", age: time.Hour}, {cpu: "500m", generation: "2"}}, 500},
		"one of an older template says nothing":    {[]made{{cpu: "900m", generation: "1"}, {cpu: "500m", generation: "2", age: time.Hour}}, 500},
		"whose template it is of is not known":     {[]made{{cpu: "500m"}}, 500},
		"one that has failed or goes says nothing": {[]made{{cpu: "900m", generation: "2", gone: true}}, 250},
	} {
		t.Run(name, func(t *testing.T) {
			ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "agent", UID: "ds",
				Annotations: map[string]string{appsv1.DeprecatedTemplateGeneration: "2"}}}
			ask := func(cpu string) []corev1.Container {
				return []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}}
			}
			ds.Spec.Template.Spec = corev1.PodSpec{Containers: ask(template), Overhead: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Mi")}}
			objects := []runtime.Object{ds}
			for i, m := range tc.pods {
				pod := daemonPod(ds, fmt.Sprint("n", i))
				pod.Spec.Containers, pod.Spec.NodeName = ask(m.cpu), fmt.Sprint("n", i)
				pod.CreationTimestamp = metav1.NewTime(time.Unix(900, 0).Add(-m.age))
				if m.generation != "" {
					pod.Labels = map[string]string{"pod-template-generation": m.generation}
				}
				if m.gone {
					pod.Status.Phase = corev1.PodFailed
				}
				objects = append(objects, pod)
			}
			p := &Loops{book: newBook(), catalogue: newCatalogue("us-west-2"), stores: storesWith(t, objects...)}
			got := capacity.PodRequests(p.read(time.Unix(1000, 0)).snapshot.DaemonSetPods[0])
			if want := (capacity.Resources{corev1.ResourceCPU: tc.want, corev1.ResourceMemory: 1 << 20, corev1.ResourcePods: 1}); !gocmp.Equal(want, got) {
				t.Errorf("it counts as %v, want %v", got, want)
			}
		})
	}
}

// daemonPod is a DaemonSet's pod for a node.
func daemonPod(ds *appsv1.DaemonSet, node string) *corev1.Pod {
	p := podNamed(ds.Name + "-on-" + node)
	p.Namespace = ds.Namespace
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(ds, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}
	p.Spec = *ds.Spec.Template.Spec.DeepCopy()
	p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
			Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}}}
	return p
}

// Nothing can be bought for a DaemonSet's pod, and its room is reserved: it is on
// its node, or nowhere.
func TestDaemonSetsPodsThatWaitArePlannedOnTheirNode(t *testing.T) {
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "agent", UID: "ds"}}
	ds.Spec.Template.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}}
	node := func(name, cpu string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourcePods: resource.MustParse("10")}
		return n
	}
	preempting := daemonPod(ds, "preempted")
	preempting.Status.NominatedNodeName = "preempted"
	web := podNamed("web")
	web.Spec.Containers = ds.Spec.Template.Spec.Containers
	p := &Loops{book: newBook(), catalogue: newCatalogue("us-west-2"), stores: storesWith(t, ds,
		node("free", "2"), node("full", "500m"), node("preempted", "500m"),
		daemonPod(ds, "free"), daemonPod(ds, "full"), preempting, daemonPod(ds, "gone"), web)}
	v := p.read(time.Unix(1000, 0))
	if len(v.pending) != 1 || len(v.snapshot.Pods) != 1 || v.snapshot.Pods[0] != web {
		t.Errorf("planned for: %v", v.snapshot.Pods)
	}
	if p.contested.Load() {
		t.Error("a DaemonSet's pod contests a seat")
	}
	on := map[string]int{}
	for _, n := range v.snapshot.Nodes {
		on[n.Name] = len(n.Pods)
	}
	if d := gocmp.Diff(map[string]int{"free": 1, "full": 0, "preempted": 1}, on); d != "" {
		t.Errorf("pods by node (-want +got):\n%s", d)
	}
	plan := capacity.Solve(v.snapshot)
	if len(plan.Placements) != 1 || plan.Placements[0].Node.Name != "free" {
		t.Errorf("plan %+v", plan)
	}
}
