package e2e

import (
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

func TestPodsGetNodesAndGiveThemBack(t *testing.T) {
	b := newBench(t, shared, nil)
	dep := b.deployment("web", 30, nil)
	b.create(dep)
	pods := b.waitRunning(30)
	b.checkNodes(pods)

	before := dep.DeepCopy()
	dep.Spec.Replicas = ptr(int32(0))
	if err := b.c.Client.Patch(b.ctx, dep, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	b.waitGone()
}

// checkNodes compares claims, Nodes and instances with each other.
func (b *bench) checkNodes(pods []corev1.Pod) {
	b.t.Helper()
	var (
		claims []v1alpha1.NodeClaim
		live   []cluster.Instance
	)
	// Instances of a launch of several get their claim's tags after it; when the
	// provisioner dies before that, with one of the next sweeps. A node whose
	// pods started elsewhere may be on its way out.
	b.wait("each claim has its instance, tagged, and none goes", func() (bool, error) {
		var err error
		if claims, err = b.claims(b.ctx); err != nil {
			return false, err
		}
		if live, err = b.instances(); err != nil || len(live) != len(claims) {
			return false, err
		}
		byInstance := map[string]v1alpha1.NodeClaim{}
		for _, c := range claims {
			if c.DeletionTimestamp == nil {
				byInstance[c.Status.InstanceID] = c
			}
		}
		return !slices.ContainsFunc(live, func(i cluster.Instance) bool {
			c, ok := byInstance[i.ID]
			return !ok || i.Tags[v1alpha1.TagClusterPrefix+b.c.ClusterName] != "owned" || i.Tags[v1alpha1.TagProvisioner] != b.name ||
				i.Tags[v1alpha1.TagNodeClaim] != c.Name || i.Tags[v1alpha1.TagNodeClaimUID] != string(c.UID)
		}), nil
	})
	byID := map[string]int{}
	for i, inst := range live {
		byID[inst.ID] = i
	}
	on := map[string]bool{}
	for _, c := range claims {
		inst := live[byID[c.Status.InstanceID]]
		if inst.Type != c.Status.InstanceType || inst.Zone != c.Status.Zone || inst.CapacityType != c.Status.CapacityType {
			b.t.Errorf("claim %s says %s %s in %s, EC2 says %s %s in %s", c.Name, c.Status.InstanceType, c.Status.CapacityType, c.Status.Zone, inst.Type, inst.CapacityType, inst.Zone)
		}
		var node corev1.Node
		if err := b.c.Client.Get(b.ctx, client.ObjectKey{Name: c.Status.NodeName}, &node); err != nil {
			b.t.Errorf("claim %s: %v", c.Name, err)
			continue
		}
		on[node.Name] = true
		for key, want := range map[string]string{
			corev1.LabelInstanceTypeStable: inst.Type, corev1.LabelTopologyZone: inst.Zone,
			v1alpha1.LabelCapacityType: inst.CapacityType, v1alpha1.LabelNodeClaim: c.Name, "test": b.name,
		} {
			if node.Labels[key] != want {
				b.t.Errorf("node %s has label %s=%q, want %q", node.Name, key, node.Labels[key], want)
			}
		}
		if node.Spec.ProviderID != "aws:///"+inst.Zone+"/"+inst.ID {
			b.t.Errorf("node %s has provider id %s", node.Name, node.Spec.ProviderID)
		}
	}
	for _, p := range pods {
		if !on[p.Spec.NodeName] {
			b.t.Errorf("pod %s runs on %s, which is not a node of this Provisioner", p.Name, p.Spec.NodeName)
		}
	}
}

func TestImmediateBindingBindsBeforeTheKubeletJoins(t *testing.T) {
	b := newBench(t, shared, func(p *v1alpha1.Provisioner) { p.Spec.Binding = v1alpha1.BindingImmediate })
	b.bootDelay(3 * time.Second)
	b.create(b.deployment("web", 20, nil))
	var nodes corev1.NodeList
	early := 0
	b.wait("all pods are bound", func() (bool, error) {
		var pods corev1.PodList
		if err := b.c.Client.List(b.ctx, &pods, client.InNamespace(b.namespace)); err != nil {
			return false, err
		}
		bound := 0
		for _, p := range pods.Items {
			if p.Spec.NodeName != "" {
				bound++
			}
		}
		if err := b.c.Client.List(b.ctx, &nodes, client.MatchingLabels{v1alpha1.LabelProvisioner: b.name}); err != nil {
			return false, err
		}
		for _, n := range nodes.Items {
			if bound > 0 && n.Status.NodeInfo.KubeletVersion == "" {
				early++
			}
		}
		return bound == 20, nil
	})
	if early == 0 {
		t.Error("no pod was seen bound to a node whose kubelet had not joined")
	}
	b.checkNodes(b.waitRunning(20))
	for _, n := range nodes.Items {
		if len(n.Spec.Taints) == 0 {
			t.Errorf("node %s lost its taints", n.Name)
		}
	}
}

// bootDelay makes instances of this cluster boot for that long until the test ends.
func (b *bench) bootDelay(d time.Duration) {
	b.t.Helper()
	set := func(d time.Duration) error {
		return b.c.Sim(context.Background(), "POST", "boot", map[string]string{"delay": d.String()}, nil)
	}
	if err := set(d); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := set(bootDelay); err != nil {
			b.t.Error(err)
		}
	})
}

func TestPodThatNothingCanHostIsToldOnce(t *testing.T) {
	b := newBench(t, shared, nil)
	b.create(b.pod("huge", func(s *corev1.PodSpec) { s.Containers[0].Resources.Requests = requests("5000", "1Gi") }))
	b.wait("the pod is told why", func() (bool, error) { return len(b.reasonEvents("huge")) > 0, nil })
	// More rounds of planning, for other pods, say nothing new.
	for i := range 3 {
		b.create(b.pod(fmt.Sprintf("small-%d", i), nil))
		b.waitRunning(i + 1)
	}
	got := b.reasonEvents("huge")
	if len(got) != 1 || !strings.Contains(got[0], "Fix:") {
		t.Errorf("events: %q; want one, with a fix", got)
	}
	claims, err := b.claims(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range claims {
		if cpu := c.Status.Capacity.Cpu(); cpu.CmpInt64(64) > 0 {
			t.Errorf("claim %s of %s CPUs was bought for a pod that it cannot host", c.Name, cpu)
		}
	}
}

func TestLimitsAreNeverOverrun(t *testing.T) {
	b := newBench(t, shared, func(p *v1alpha1.Provisioner) {
		p.Spec.Limits = corev1.ResourceList{"cpu": resource.MustParse("24"), "nodes": resource.MustParse("4")}
	})
	b.create(b.deployment("web", 100, nil))
	b.wait("somebody is told about the limit", func() (bool, error) {
		var list corev1.EventList
		if err := b.c.Client.List(b.ctx, &list, client.InNamespace(b.namespace)); err != nil {
			return false, err
		}
		for _, e := range list.Items {
			if e.Reason == "NoBerth" && strings.Contains(e.Message, "limit") {
				return true, nil
			}
		}
		return false, nil
	})
	b.waitRunning(10)
	live, err := b.instances()
	if err != nil {
		t.Fatal(err)
	}
	claims, err := b.claims(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	cpus := int64(0)
	for _, c := range claims {
		q := c.Status.Capacity[corev1.ResourceCPU]
		if q.IsZero() {
			q = c.Spec.Capacity[corev1.ResourceCPU]
		}
		cpus += q.Value()
	}
	if cpus > 24 || len(live) > 4 {
		t.Errorf("%d CPUs on %d instances; the limits are 24 and 4", cpus, len(live))
	}
}

func TestExhaustedOfferingIsPassedOver(t *testing.T) {
	b := newBench(t, shared, func(p *v1alpha1.Provisioner) {
		p.Spec.Requirements = []v1alpha1.Requirement{
			{Key: corev1.LabelInstanceTypeStable, Operator: v1alpha1.OperatorIn, Values: []string{"m5.large", "m5.xlarge"}},
			{Key: corev1.LabelTopologyZone, Operator: v1alpha1.OperatorIn, Values: []string{"us-west-2a"}},
		}
	})
	b.exhaust("m5.large", "us-west-2a", "on-demand")
	b.create(b.pod("one", nil))
	b.waitRunning(1)
	live, err := b.instances()
	if err != nil {
		t.Fatal(err)
	}
	if len(live) != 1 || live[0].Type != "m5.xlarge" {
		t.Errorf("instances: %+v; want one m5.xlarge", live)
	}
}

// exhaust leaves EC2 without capacity in an offering until the test ends.
func (b *bench) exhaust(instanceType, zone, capacityType string) {
	b.t.Helper()
	set := func(n int) error {
		return b.c.Sim(b.ctx, "POST", "pools", map[string]any{"instanceType": instanceType, "zone": zone, "capacityType": capacityType, "capacity": n}, nil)
	}
	if err := set(0); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := set(-1); err != nil {
			b.t.Error(err)
		}
	})
}

func TestUnresolvableProvisionerIsNamedAndOthersGoOn(t *testing.T) {
	b := newBench(t, shared, func(p *v1alpha1.Provisioner) {
		p.Spec.EC2.Subnets = []v1alpha1.SelectorTerm{{Tags: map[string]string{"no-such-tag": "anywhere"}}}
	})
	b.create(b.pod("lost", nil))
	b.wait("the Provisioner says what it did not find", func() (bool, error) {
		var pr v1alpha1.Provisioner
		if err := b.c.Client.Get(b.ctx, client.ObjectKey{Name: b.name}, &pr); err != nil {
			return false, err
		}
		c := meta.FindStatusCondition(pr.Status.Conditions, v1alpha1.ConditionSubnetsReady)
		ready := meta.FindStatusCondition(pr.Status.Conditions, v1alpha1.ConditionReady)
		return c != nil && c.Status == metav1.ConditionFalse && strings.Contains(c.Message, "no-such-tag") &&
			ready != nil && ready.Status == metav1.ConditionFalse, nil
	})
	b.wait("its pod is told", func() (bool, error) {
		events := b.reasonEvents("lost")
		return len(events) > 0 && strings.Contains(strings.Join(events, "\n"), "no-such-tag"), nil
	})
	other := newBench(t, shared, nil)
	other.create(other.pod("fine", nil))
	other.waitRunning(1)
}

// TestProductionTrace replays real requests: the first 500 pods of the openb
// trace, their GPUs as nvidia.com/gpu.
func TestProductionTrace(t *testing.T) {
	f, err := os.Open(filepath.Join("..", "..", "..", "shared", "data", "openb_pod_list_default.csv"))
	if err != nil {
		t.Skip("the openb trace is not here: ", err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, shared, func(p *v1alpha1.Provisioner) {
		p.Spec.Requirements = []v1alpha1.Requirement{
			{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: []string{"on-demand"}},
			{Key: v1alpha1.LabelInstanceCategory, Operator: v1alpha1.OperatorIn, Values: []string{"c", "m", "r", "g"}},
		}
	})
	col := map[string]int{}
	for i, name := range rows[0] {
		col[name] = i
	}
	var (
		wg   sync.WaitGroup
		gate = make(chan struct{}, 16)
	)
	for _, row := range rows[1:501] {
		gpus, err := strconv.Atoi(row[col["num_gpu"]])
		if err != nil {
			t.Fatal(err)
		}
		pod := b.pod(row[col["name"]], func(s *corev1.PodSpec) {
			s.Containers[0].Resources.Requests = requests(row[col["cpu_milli"]]+"m", row[col["memory_mib"]]+"Mi")
			if gpus > 0 {
				q := resource.MustParse(strconv.Itoa(gpus))
				s.Containers[0].Resources.Requests["nvidia.com/gpu"] = q
				s.Containers[0].Resources.Limits = corev1.ResourceList{"nvidia.com/gpu": q}
			}
		})
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			if err := b.c.Client.Create(b.ctx, pod); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// EC2 takes a burst of 50 launches and 5 a second after that.
	b.patience = 8 * time.Minute
	pods := b.waitRunning(500)
	b.checkNodes(pods)
	live, err := b.instances()
	if err != nil {
		t.Fatal(err)
	}
	cost := 0.0
	for _, i := range live {
		cost += i.Price
	}
	t.Logf("500 pods of the openb trace run on %d instances for $%.2f/h", len(live), cost)
}
