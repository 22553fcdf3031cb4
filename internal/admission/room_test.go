package admission

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/catalog"
)

// staticNode is a node of 8 CPUs that no Provisioner has bought.
func staticNode(name string, labels map[string]string, taints ...corev1.Taint) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
	n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("8"), "memory": resource.MustParse("16Gi"), "pods": resource.MustParse("100")}
	return n
}

// TestWhatCannotRunNowIsNotWhatNeverRuns: only what no node could ever host is said
// to run never; what waits for room is said to wait; and of what a node that
// exists could host nothing is said.
func TestWhatCannotRunNowIsNotWhatNeverRuns(t *testing.T) {
	const small = `{containers: [{name: a, resources: {requests: {cpu: "1"}}}]}`
	const pinned = `{nodeSelector: {group: infra}, containers: [{name: a, resources: {requests: {cpu: "1"}}}]}`
	full := func(p *v1alpha1.Provisioner, _ *capacity.Offerings) {
		p.Spec.Limits = corev1.ResourceList{"nodes": resource.MustParse("3")}
		p.Status.Nodes = 3
	}
	soldOut := func(_ *v1alpha1.Provisioner, o *capacity.Offerings) {
		for i := range o.Machines {
			for j := range o.Machines[i].Offerings {
				o.Machines[i].Offerings[j].UnavailableUntil = testNow.Add(3 * time.Minute)
			}
		}
	}
	notReady := func(_ *v1alpha1.Provisioner, o *capacity.Offerings) {
		o.Provisioners = map[string]capacity.Resolved{"default": {Why: "no subnet has the tag", Zones: []string{}, Archs: []string{}}}
	}
	berths := staticNode("ours", map[string]string{v1alpha1.LabelProvisioner: "default"})
	for name, c := range map[string]struct {
		spec   string
		change func(*v1alpha1.Provisioner, *capacity.Offerings)
		nodes  []*corev1.Node
		want   string
	}{
		"it fits":                  {small, nil, nil, ""},
		"a limit is reached":       {small, full, []*corev1.Node{berths}, "NoRoomNow no new node now: limit nodes 3 is reached; nearest: raise the limit in Provisioner default"},
		"all is sold out":          {small, soldOut, nil, "NoRoomNow no new node now: EC2 has none of "},
		"not ready":                {small, notReady, nil, "NoRoomNow no new node now: Provisioner default is not ready: no subnet has the tag"},
		"too large when not ready": {`{containers: [{name: a, resources: {requests: {cpu: "500"}}}]}`, notReady, nil, "NeverRuns no new node: largest"},
		"too large when sold out":  {`{containers: [{name: a, resources: {requests: {cpu: "500"}}}]}`, soldOut, nil, "NeverRuns no new node: largest"},
		"a limit below one node": {small, func(p *v1alpha1.Provisioner, _ *capacity.Offerings) {
			p.Spec.Limits = corev1.ResourceList{"cpu": resource.MustParse("1")}
		}, nil, "NeverRuns no new node: limit cpu 1"},
		"pinned to nodes that are not there":       {pinned, nil, []*corev1.Node{staticNode("a", nil)}, "NeverRuns no new node: wants group=infra"},
		"pinned to a node group":                   {pinned, nil, []*corev1.Node{staticNode("a", map[string]string{"group": "infra"})}, ""},
		"pinned to a node group that is cordoned":  {pinned, nil, []*corev1.Node{staticNode("a", map[string]string{"group": "infra"}, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})}, ""},
		"pinned to a node group that is tainted":   {pinned, nil, []*corev1.Node{staticNode("a", map[string]string{"group": "infra"}, taint("infra"))}, "NeverRuns"},
		"pinned to a node group that is too small": {strings.Replace(pinned, `"1"`, `"9"`, 1), nil, []*corev1.Node{staticNode("a", map[string]string{"group": "infra"})}, "NeverRuns"},
		"a node group beside a limit":              {small, full, []*corev1.Node{staticNode("a", nil)}, ""},
		"windows":                                  {`{nodeSelector: {kubernetes.io/os: windows}, containers: [{name: a}]}`, nil, nil, "NeverRuns no new node: wants os=windows, Provisioner default offers linux; nearest: remove os from what the pod requires"},
		"an architecture that EC2 has not":         {`{nodeSelector: {kubernetes.io/arch: s390x}, containers: [{name: a}]}`, nil, nil, "NeverRuns no new node: wants arch=s390x, Provisioner default offers amd64; nearest: remove arch from what the pod requires"},
		"an architecture of two": {`{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/arch, operator: In, values: [arm64, s390x]}]}]}}}, containers: [{name: a}]}`,
			nil, nil, "NeverRuns no new node: wants arch In arm64,s390x; nearest: allow arm64 under arch in Provisioner default"},
	} {
		t.Run(name, func(t *testing.T) {
			p, o := defaultProvisioner(), testOfferings()
			if c.change != nil {
				c.change(p, o)
			}
			s := NewSnapshot(Inputs{Now: testNow, Provisioners: []*v1alpha1.Provisioner{p}, Offerings: o, Nodes: c.nodes})
			w, err := ParseWorkload("Deployment", asJSON(t, "metadata: {name: web}\nspec: {template: {spec: "+c.spec+"}}"))
			if err != nil {
				t.Fatal(err)
			}
			in, err := ParsePod(asJSON(t, "metadata: {name: web}\nspec: "+c.spec))
			if err != nil {
				t.Fatal(err)
			}
			for of, d := range map[string]Decision{"workload": DecideWorkload(w, s, 0), "pod": DecidePod(in, s, "", 0)} {
				got := ""
				for _, a := range d.Advice {
					got += a.Reason + " " + a.Text
				}
				if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
					t.Errorf("the %s is told %q, want %q", of, got, c.want)
				}
			}
		})
	}
}

// realSnapshot is of the real catalogue, with so many Provisioners.
func realSnapshot(t testing.TB, provisioners int) *Snapshot {
	t.Helper()
	in := Inputs{Now: testNow, Offerings: &capacity.Offerings{Version: 1, At: testNow, Region: "us-west-2", Machines: catalog.Default().Machines("us-west-2")}}
	for i := range provisioners {
		p := defaultProvisioner()
		p.Name = fmt.Sprint("p", i)
		p.Spec.Requirements = []v1alpha1.Requirement{requireIn(v1alpha1.LabelCapacityType, "spot", "on-demand")}
		in.Provisioners = append(in.Provisioners, p)
	}
	return NewSnapshot(in)
}

// TestAPodThatAsksTooMuchIsAdmittedUnhinted: a node affinity of thousands of terms
// does not hold a slot for seconds.
func TestAPodThatAsksTooMuchIsAdmittedUnhinted(t *testing.T) {
	s := realSnapshot(t, 1)
	term := func(values int) string {
		return `{"matchExpressions":[{"key":"topology.kubernetes.io/zone","operator":"In","values":["a"` + strings.Repeat(`,"b"`, values-1) + `]}]}`
	}
	for name, c := range map[string]struct {
		terms string
		want  Result
	}{
		"a few terms":        {strings.Repeat(term(3)+",", 20) + term(1), ResultNoHint},
		"10,000 terms":       {strings.Repeat(term(1)+",", 9999) + term(1), ResultSkipped},
		"a term of 10,000":   {term(10000), ResultSkipped},
		"500 instance types": {term(500), ResultNoHint},
	} {
		t.Run(name, func(t *testing.T) {
			doc := `{"metadata":{"name":"a"},"spec":{"affinity":{"nodeAffinity":{"` + keyRequired + `":{"nodeSelectorTerms":[` + c.terms + `]}}},"containers":[{"name":"a"}]}}`
			start := time.Now()
			_, d, err := reviewPod(reviewOf("Pod", "pods", "CREATE", doc, ""), s, nil, 0)
			if err != nil || d.Denied != "" || d.Result != c.want {
				t.Errorf("%+v, %v", d, err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// TestReasonsAreFoundForReadersAlone: a controller's pod is not told why nothing
// hosts it, so nobody looks.
func TestReasonsAreFoundForReadersAlone(t *testing.T) {
	s := testSnapshot(defaultProvisioner())
	huge := `"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"500"}}}]}}`
	owned := `{"metadata":{"name":"a","ownerReferences":[{"kind":"ReplicaSet","uid":"9","controller":true}]},` + huge
	if _, d, err := reviewPod(reviewOf("Pod", "pods", "CREATE", owned, ""), s, nil, 0); err != nil || d.Result != ResultNoHint || len(s.whys) != 0 {
		t.Errorf("%+v, %v; %d reasons were sought", d, err, len(s.whys))
	}
	if _, d, err := reviewPod(reviewOf("Pod", "pods", "CREATE", `{"metadata":{"name":"a"},`+huge, ""), s, nil, 0); err != nil || len(d.Warnings) != 1 || len(s.whys) != 1 {
		t.Errorf("%+v, %v; %d reasons were sought", d, err, len(s.whys))
	}
}

// BenchmarkMiss is the whole handler for a pod whose shape nobody has asked about
// yet, on the catalogue of us-west-2: what the first pod of each shape costs after
// each change of what is known.
func BenchmarkMiss(b *testing.B) {
	owned := `"ownerReferences":[{"kind":"ReplicaSet","uid":"9","controller":true}]`
	for _, provisioners := range []int{1, 20} {
		for name, pod := range map[string]string{
			"fits":              `{"metadata":{"name":"a",` + owned + `},"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"%dm"}}}]}}`,
			"selective":         `{"metadata":{"name":"a",` + owned + `},"spec":{"nodeSelector":{"topology.kubernetes.io/zone":"us-west-2a","x":"%d"},"containers":[{"name":"a"}]}}`,
			"hopeless":          `{"metadata":{"name":"a",` + owned + `},"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"5000","memory":"%dMi"}}}]}}`,
			"hopeless, by hand": `{"metadata":{"name":"a"},"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"5000","memory":"%dMi"}}}]}}`,
		} {
			b.Run(fmt.Sprintf("%s/provisioners=%d", name, provisioners), func(b *testing.B) {
				s := realSnapshot(b, provisioners)
				i := 0
				for b.Loop() {
					i++
					if _, _, err := reviewPod(reviewOf("Pod", "pods", "CREATE", fmt.Sprintf(pod, i), ""), s, nil, 0); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
