package kubelet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/internal/catalog"
	"github.com/berth-dev/berth/internal/ec2sim/userdata"
)

const doc = `apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster:
    name: demo
    apiServerEndpoint: https://127.0.0.1:6443
    certificateAuthority: Q0E=
    cidr: 10.100.0.0/16
  kubelet:
    flags: ["--node-labels=team=x", "--register-with-taints=berth.dev/unregistered=:NoSchedule"]
`

const settings = `[settings.kubernetes]
cluster-name = "demo"
api-server = "https://127.0.0.1:6443"
cluster-certificate = "Q0E="
`

var demo = Cluster{Name: "demo", Endpoint: "https://127.0.0.1:6443", CA: []byte("CA\n")}

func machine(t testing.TB, typeName, userData string) Machine {
	ty, ok := catalog.Default().Type(typeName)
	if !ok {
		t.Fatalf("no type %s", typeName)
	}
	family := userdata.AL2023
	if strings.HasPrefix(userData, "[") {
		family = userdata.Bottlerocket
	}
	return Machine{
		InstanceID: "i-0123456789abcdef0", NodeName: "ip-10-0-0-4.us-west-2.compute.internal", IP: "10.0.0.4", Zone: "us-west-2a",
		Type: ty, DiskGiB: 20, UserData: []byte(userData), Image: Image{Family: family, KubeletVersion: "v1.37.2", OS: "os", Kernel: "k", Runtime: "r"},
	}
}

func TestBuildNode(t *testing.T) {
	m := machine(t, "m7g.large", doc)
	n, err := BuildNode(m, demo)
	if err != nil {
		t.Fatal(err)
	}
	if n.Name != m.NodeName || n.Spec.ProviderID != "aws:///us-west-2a/i-0123456789abcdef0" || n.Annotations[AnnotationManaged] != "fake" {
		t.Errorf("name %s, provider id %s, annotations %v", n.Name, n.Spec.ProviderID, n.Annotations)
	}
	wantLabels := map[string]string{"team": "x", "kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": m.NodeName}
	if diff := cmp.Diff(wantLabels, n.Labels); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]corev1.Taint{{Key: "berth.dev/unregistered", Effect: "NoSchedule"}}, n.Spec.Taints); diff != "" {
		t.Error(diff)
	}
	if n.Status.NodeInfo.Architecture != "arm64" || n.Status.Addresses[0].Address != "10.0.0.4" {
		t.Errorf("%+v %+v", n.Status.NodeInfo, n.Status.Addresses)
	}
}

func TestBuildNodeRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ userData, want string }{
		"another cluster's name":        {strings.Replace(doc, "name: demo", "name: prod", 1), `names cluster "prod"`},
		"another port":                  {strings.Replace(doc, ":6443", ":6444", 1), "no route to host"},
		"plain http":                    {strings.Replace(doc, "https:", "http:", 1), "no route to host"},
		"an endpoint that is no URL":    {strings.Replace(doc, "https://127.0.0.1:6443", "127.0.0.1", 1), "is not an https URL"},
		"another CA":                    {strings.Replace(doc, "Q0E=", "Q0I=", 1), "unknown authority"},
		"user data that is none":        {"hello", "user data: "},
		"a reservation beyond capacity": {strings.Replace(doc, "flags:", "config: {systemReserved: {memory: 1Ti}}\n    flags:", 1), "invalid Node Allocatable"},
		"a reservation of pods":         {strings.Replace(doc, "flags:", "config: {systemReserved: {pods: '5'}}\n    flags:", 1), `cannot reserve "pods"`},
		"a quantity that is none":       {strings.Replace(doc, "flags:", "config: {kubeReserved: {cpu: lots}}\n    flags:", 1), "not a quantity"},
		"an unknown eviction signal":    {strings.Replace(doc, "flags:", "config: {evictionHard: {memory: 5%}}\n    flags:", 1), "unsupported eviction signal"},
		"an impossible percentage":      {strings.Replace(doc, "flags:", "config: {evictionHard: {memory.available: 101%}}\n    flags:", 1), "not a percentage"},
		"a negative threshold":          {strings.Replace(doc, "flags:", "config: {evictionHard: {memory.available: -1Gi}}\n    flags:", 1), "is negative"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := BuildNode(machine(t, "m5.large", tc.userData), demo)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, %v; want an error with %q", n, err, tc.want)
			}
		})
	}
}

func TestEndpointsAreComparedAsOrigins(t *testing.T) {
	c := demo
	c.Endpoint = "https://API.example.test/"
	if _, err := BuildNode(machine(t, "m5.large", strings.Replace(doc, "https://127.0.0.1:6443", "https://api.example.test:443", 1)), c); err != nil {
		t.Error(err)
	}
}

// TestAllocatable compares with sums done by hand from the formulas of nodeadm
// and the kubelet.
func TestAllocatable(t *testing.T) {
	config := func(text string) string { return strings.Replace(doc, "flags:", "config: {"+text+"}\n    flags:", 1) }
	type want struct {
		pods, cpuMillis, memoryReservedMiB int64
		disk                               string
	}
	const disk20 = 20<<30 - filesystemOverhead
	for name, tc := range map[string]struct {
		typeName, userData string
		want               want
	}{
		// 2 vCPU: 60 + 10; pods 3*(10-1)+2; memory 11*29+255 and 100 for eviction.
		"m5.large with the defaults":                 {"m5.large", doc, want{29, 1930, 574 + 100, ""}},
		"m5.4xlarge: 60 + 10 + 10 + 30":              {"m5.4xlarge", doc, want{234, 15890, 11*234 + 255 + 100, ""}},
		"p5.48xlarge counts the default card's ENIs": {"p5.48xlarge", doc, want{100, 192_000 - 60 - 10 - 10 - 470, 11*100 + 255 + 100, ""}},
		"one vCPU": {"t2.micro", doc, want{4, 940, 11*4 + 255 + 100, ""}},
		"maxPods does not change nodeadm's reservation":   {"m5.large", config("maxPods: 10"), want{10, 1930, 574 + 100, ""}},
		"podsPerCore limits":                              {"m5.large", config("maxPods: 110, podsPerCore: 10"), want{20, 1930, 574 + 100, ""}},
		"kubeReserved replaces by key":                    {"m5.large", config("kubeReserved: {memory: 1Gi}"), want{29, 1930, 1024 + 100, ""}},
		"systemReserved adds":                             {"m5.large", config("systemReserved: {cpu: 100m, memory: 100Mi, pid: '100'}"), want{29, 1830, 574 + 200, ""}},
		"evictionHard replaces by key":                    {"m5.large", config("evictionHard: {memory.available: 500Mi}"), want{29, 1930, 574 + 500, ""}},
		"Bottlerocket with the defaults":                  {"m5.large", settings, want{29, 1930, 574 + 100, ""}},
		"Bottlerocket's reservation follows the max-pods": {"m5.large", settings + "max-pods = 110\n", want{110, 1930, 11*110 + 255 + 100, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			m := machine(t, tc.typeName, tc.userData)
			n, err := BuildNode(m, demo)
			if err != nil {
				t.Fatal(err)
			}
			a, c := n.Status.Allocatable, n.Status.Capacity
			disk := int64(disk20)
			if m.Image.Family == userdata.Bottlerocket {
				disk = 20_624_592 << 10 // As a node with 20 GiB has reported.
			}
			memory := c.Memory().Value() - a.Memory().Value()
			if got := (want{a.Pods().Value(), a.Cpu().MilliValue(), memory >> 20, ""}); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			if c.Cpu().Value() != int64(m.Type.VCPUs) || c.StorageEphemeral().Value() != disk {
				t.Errorf("capacity %v", c)
			}
			// 10 % for eviction, as float32 has it, and 1 GiB kube-reserved.
			tenth := float32(10) / 100
			if got, want := a.StorageEphemeral().Value(), disk-int64(float64(disk)*float64(tenth))-1<<30; got != want {
				t.Errorf("ephemeral storage %d, want %d", got, want)
			}
		})
	}
}

func TestLocalDisksHoldTheKubeletsDataInARaid(t *testing.T) {
	for strategy, want := range map[string]int64{"RAID0": 2*900e9 - filesystemOverhead, "RAID10": 900e9 - filesystemOverhead, "Mount": 20<<30 - filesystemOverhead} {
		n, err := BuildNode(machine(t, "m5d.12xlarge", doc+"  instance: {localStorage: {strategy: "+strategy+"}}\n"), demo)
		if err != nil {
			t.Fatal(err)
		}
		if got := n.Status.Capacity.StorageEphemeral().Value(); got != want {
			t.Errorf("%s: %d, want %d", strategy, got, want)
		}
	}
}

// TestVisibleMemory: the share that is lost is real for every type, and
// allocatable never exceeds capacity.
func TestVisibleMemory(t *testing.T) {
	types := catalog.Default().Types
	rapid.Check(t, func(t *rapid.T) {
		ty := rapid.SampledFrom(types).Draw(t, "type")
		lost := 1 - float64(VisibleMemoryKiB(&ty))/float64(ty.MemoryMiB*1024)
		if lost < 0.0169 || lost > 0.0531 {
			t.Fatalf("%s loses %.4f of its memory", ty.Name, lost)
		}
		res, err := computeResources(Machine{Type: &ty, DiskGiB: 20, Image: Image{Family: userdata.AL2023}}, &userdata.Config{})
		if err != nil {
			return // a type too small for the defaults (t1.micro)
		}
		for name, a := range res.allocatable {
			c := res.capacity[name]
			if a.Cmp(c) > 0 || a.Sign() < 0 {
				t.Fatalf("%s: allocatable %s is %s of %s", ty.Name, name, a.String(), c.String())
			}
		}
	})
}

func TestGPUsNeedTheDriver(t *testing.T) {
	m := machine(t, "g5.12xlarge", doc)
	if GPUs(m) != 0 {
		t.Error("GPUs show up without the driver")
	}
	m.Image.NVIDIA = true
	if GPUs(m) != 4 {
		t.Errorf("%d GPUs, want 4", GPUs(m))
	}
	amd := machine(t, "g4ad.xlarge", doc)
	amd.Image.NVIDIA = true
	if GPUs(amd) != 0 {
		t.Error("an AMD GPU shows up as NVIDIA's")
	}
}

type harness struct {
	client *fake.Clientset
	runner *Runner
	events chan Event
	stop   func()
}

func start(t *testing.T, objects ...runtime.Object) *harness {
	return startWith(t, fake.NewClientset(objects...))
}

// startWith starts a runner on a client that is complete: the fake may not be
// given reactors while it serves.
func startWith(t *testing.T, client *fake.Clientset) *harness {
	h := &harness{client: client, events: make(chan Event, 100)}
	r, err := New(Config{
		Client: h.client, Cluster: demo, Parallel: 4, DeviceDelay: time.Millisecond, Clock: clock.RealClock{}, Log: zap.NewNop(),
		Report: func(e Event) { h.events <- e },
	})
	if err != nil {
		t.Fatal(err)
	}
	h.runner = r
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	h.stop = func() { cancel(); <-done }
	t.Cleanup(h.stop)
	return h
}

func (h *harness) event(t *testing.T) Event {
	t.Helper()
	select {
	case e := <-h.events:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
		return Event{}
	}
}

// until reads the node again after each write until ok says so.
func (h *harness) until(t *testing.T, name string, ok func(*corev1.Node) bool) *corev1.Node {
	t.Helper()
	w, err := h.client.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	deadline := time.After(10 * time.Second)
	for {
		n, err := h.client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && ok(n) {
			return n
		}
		select {
		case <-w.ResultChan():
		case <-deadline:
			t.Fatalf("the node stays %+v (%v)", n, err)
		}
	}
}

func ready(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

func TestRegisterGPUsAndStop(t *testing.T) {
	m := machine(t, "g5.xlarge", doc)
	m.Image.NVIDIA = true
	pod := func(name, node string, ending bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
		if ending {
			p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			p.Finalizers = []string{"x/y"} // the fake refuses a deletion time without
		}
		return p
	}
	client := fake.NewClientset(pod("runs", m.NodeName, false), pod("ends", m.NodeName, true), pod("ends-elsewhere", "other", true))
	deleted := make(chan string, 10)
	client.PrependReactor("delete", "pods", func(a ktesting.Action) (bool, runtime.Object, error) {
		deleted <- a.(ktesting.DeleteAction).GetName()
		return false, nil, nil
	})
	h := startWith(t, client)
	h.runner.Boot(m)
	if e := h.event(t); !e.Joined || e.InstanceID != m.InstanceID {
		t.Fatalf("%+v", e)
	}
	n := h.until(t, m.NodeName, func(n *corev1.Node) bool { return n.Status.Allocatable[ResourceGPU] == resource.MustParse("1") })
	if ready(n) != corev1.ConditionFalse {
		t.Errorf("a node registers with Ready=%s", ready(n))
	}
	if e := h.event(t); !strings.Contains(e.Console, "nvidia.com/gpu") {
		t.Errorf("%+v", e)
	}
	h.runner.Stop(m)
	n = h.until(t, m.NodeName, func(n *corev1.Node) bool { return ready(n) == corev1.ConditionUnknown })
	if n.Labels[LabelStopped] != "true" {
		t.Errorf("labels %v", n.Labels)
	}
	if name := <-deleted; name != "ends" {
		t.Errorf("pod %s was ended", name)
	}
	h.stop() // waits for what is under way
	close(deleted)
	for name := range deleted {
		t.Errorf("pod %s was ended too", name)
	}
}

func TestTakeOverOfANodeThatIsThere(t *testing.T) {
	m := machine(t, "m5.large", doc)
	there := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: m.NodeName, Labels: map[string]string{"mine": "stays", "kubernetes.io/arch": "wrong"}, Annotations: map[string]string{"a": "b"}},
		Spec:       corev1.NodeSpec{ProviderID: ProviderID(m.Zone, m.InstanceID)},
		Status:     corev1.NodeStatus{Capacity: corev1.ResourceList{"cpu": resource.MustParse("1"), "example.com/x": resource.MustParse("3")}},
	}
	h := start(t, there)
	h.runner.Boot(m)
	if e := h.event(t); !e.Joined {
		t.Fatalf("%+v", e)
	}
	n := h.until(t, m.NodeName, func(n *corev1.Node) bool { return n.Annotations[AnnotationManaged] == "fake" })
	want := map[string]string{"mine": "stays", "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": m.NodeName}
	if diff := cmp.Diff(want, n.Labels); diff != "" {
		t.Errorf("--node-labels must not be applied to a node that is there: %s", diff)
	}
	if len(n.Spec.Taints) != 0 {
		t.Errorf("taints were added: %v", n.Spec.Taints)
	}
	if x := n.Status.Capacity["example.com/x"]; n.Status.Capacity.Cpu().Value() != 2 || !x.IsZero() {
		t.Errorf("capacity %v", n.Status.Capacity)
	}
}

func TestRetries(t *testing.T) {
	h := start(t)
	failures := 2
	h.client.PrependReactor("create", "nodes", func(ktesting.Action) (bool, runtime.Object, error) {
		if failures--; failures >= 0 {
			return true, nil, errors.New("connection refused")
		}
		return false, nil, nil
	})
	m := machine(t, "m5.large", doc)
	h.runner.Boot(m)
	if e := h.event(t); !e.Joined {
		t.Fatalf("%+v", e)
	}
}

func TestANodeOfAnotherInstanceIsWaitedFor(t *testing.T) {
	m := machine(t, "m5.large", doc)
	h := start(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.NodeName}, Spec: corev1.NodeSpec{ProviderID: "aws:///us-west-2a/i-old"}})
	tried := make(chan struct{}, 100)
	h.client.PrependReactor("get", "nodes", func(ktesting.Action) (bool, runtime.Object, error) {
		tried <- struct{}{}
		return false, nil, nil
	})
	h.runner.Boot(m)
	<-tried
	if err := h.client.CoreV1().Nodes().Delete(t.Context(), m.NodeName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := h.event(t); !e.Joined {
		t.Fatalf("%+v", e)
	}
}

func TestStopEndsAJoinUnderWay(t *testing.T) {
	m := machine(t, "m5.large", doc)
	h := start(t)
	tried := make(chan struct{}, 100)
	h.client.PrependReactor("create", "nodes", func(ktesting.Action) (bool, runtime.Object, error) {
		tried <- struct{}{}
		return true, nil, apierrors.NewServiceUnavailable("not yet")
	})
	h.client.PrependReactor("get", "nodes", func(ktesting.Action) (bool, runtime.Object, error) {
		close(tried)
		return true, nil, apierrors.NewNotFound(corev1.Resource("nodes"), m.NodeName)
	})
	h.runner.Boot(m)
	<-tried
	h.runner.Stop(m)
	for range tried { // closed when the stop looks for the node
	}
	select {
	case e := <-h.events:
		t.Errorf("%+v", e)
	default:
	}
}

func TestWrongUserDataIsReported(t *testing.T) {
	h := start(t)
	h.runner.Boot(machine(t, "m5.large", "nonsense"))
	if e := h.event(t); !e.Failed || !strings.Contains(e.Console, "user data") {
		t.Errorf("%+v", e)
	}
	nodes, err := h.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(nodes.Items) != 0 {
		t.Error(fmt.Sprint(nodes, err))
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a runner was made of nothing")
	}
}
