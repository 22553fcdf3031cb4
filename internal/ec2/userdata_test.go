package ec2

import (
	"bytes"
	"flag"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	simuserdata "github.com/berth-dev/berth/internal/ec2sim/userdata"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares with a file under testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (run with -update to accept):\n%s", file, diff)
	}
}

// testConfig of a cluster.
func testConfig() Config {
	return Config{
		ClusterName: "demo", ClusterUID: "11111111-2222-3333-4444-555555555555", ClusterEndpoint: "https://127.0.0.1:6443",
		ClusterCA:         "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBQUEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=",
		KubernetesVersion: "1.37", ServiceCIDR: "10.96.0.0/12", Region: "us-west-2", DefaultInstanceProfile: "berth-node",
	}
}

func ptr[T any](v T) *T { return &v }

// richTemplate sets everything that goes into user data.
func richTemplate() *v1alpha1.NodeTemplate {
	return &v1alpha1.NodeTemplate{
		Labels: map[string]string{"team": "web", "node.kubernetes.io/role": "a", "node-role.kubernetes.io/worker": "", "example.com/tier": "front"},
		Taints: []corev1.Taint{{Key: "dedicated", Value: "web", Effect: corev1.TaintEffectNoSchedule}},
		StartupTaints: []corev1.Taint{
			{Key: "cni.example.com/not-ready", Effect: corev1.TaintEffectNoExecute},
			{Key: "cni.example.com/not-ready", Effect: corev1.TaintEffectNoSchedule},
		},
		Kubelet: &v1alpha1.Kubelet{
			MaxPods: ptr(int32(42)), PodsPerCore: ptr(int32(10)), ClusterDNS: []string{"10.96.0.10"},
			SystemReserved: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("200Mi")},
			KubeReserved:   corev1.ResourceList{"memory": resource.MustParse("500Mi")},
			EvictionHard:   map[string]v1alpha1.Threshold{"memory.available": "5%"},
		},
	}
}

const twoParts = `MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="//"

--//
Content-Type: text/x-shellscript; charset="us-ascii"

#!/bin/bash
echo hello

--//
Content-Type: application/node.eks.aws

apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  instance:
    localStorage:
      strategy: RAID0
--//--
`

func TestUserDataGolden(t *testing.T) {
	c := &Cloud{cfg: testConfig()}
	bottle := func(user string) *v1alpha1.NodeTemplate {
		tmpl := richTemplate()
		tmpl.Kubelet.PodsPerCore = nil
		tmpl.EC2.UserData = user
		return tmpl
	}
	user := func(user string) *v1alpha1.NodeTemplate {
		tmpl := richTemplate()
		tmpl.EC2.UserData = user
		return tmpl
	}
	tests := map[string]struct {
		family v1alpha1.AMIFamily
		in     *v1alpha1.NodeTemplate
	}{
		"al2023-plain":            {v1alpha1.AMIFamilyAL2023, &v1alpha1.NodeTemplate{}},
		"al2023-all":              {v1alpha1.AMIFamilyAL2023, richTemplate()},
		"al2023-with-script":      {v1alpha1.AMIFamilyAL2023, user("#!/bin/sh\necho hi\n")},
		"al2023-with-mime":        {v1alpha1.AMIFamilyAL2023, user(twoParts)},
		"bottlerocket-plain":      {v1alpha1.AMIFamilyBottlerocket, &v1alpha1.NodeTemplate{}},
		"bottlerocket-with-users": {v1alpha1.AMIFamilyBottlerocket, bottle("[settings.kernel.sysctl]\n\"vm.max_map_count\" = \"262144\"\n[settings.kubernetes]\nmax-pods = 7\ncluster-name = \"theirs\"\n[settings.kubernetes.node-labels]\nmine = \"yes\"\n[settings.kubernetes.node-taints]\ntheirs = [\"x:NoSchedule\"]\n")},
		"custom":                  {v1alpha1.AMIFamilyCustom, user("anything at all")},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := userData(tc.family, c.bootstrap("default", tc.in))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "userdata-"+name+".txt", got)
		})
	}
}

func TestUserDataRefused(t *testing.T) {
	c := &Cloud{cfg: testConfig()}
	al, br := v1alpha1.AMIFamilyAL2023, v1alpha1.AMIFamilyBottlerocket
	tests := map[string]struct {
		family v1alpha1.AMIFamily
		change func(*v1alpha1.NodeTemplate)
		want   string
	}{
		"text of no known kind":             {al, func(t *v1alpha1.NodeTemplate) { t.EC2.UserData = "echo hello" }, "must be a multipart MIME document"},
		"a MIME document that is cut short": {al, func(t *v1alpha1.NodeTemplate) { t.EC2.UserData = twoParts[:len(twoParts)-20] }, "MIME document"},
		"a MIME document without parts": {al, func(t *v1alpha1.NodeTemplate) {
			t.EC2.UserData = "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x--\r\n"
		}, "no parts"},
		"a part without a type": {al, func(t *v1alpha1.NodeTemplate) {
			t.EC2.UserData = "Content-Type: multipart/mixed; boundary=x\n\n--x\n\nhi\n--x--\n"
		}, "no Content-Type"},
		"more than EC2 takes":                    {al, func(t *v1alpha1.NodeTemplate) { t.EC2.UserData = "#!/bin/sh\n" + strings.Repeat("#", 16<<10) }, "EC2 takes 16384"},
		"a label that would end the flag":        {al, func(t *v1alpha1.NodeTemplate) { t.Labels = map[string]string{"a": "b --v=9"} }, `label "a"`},
		"a taint that no kubelet starts with":    {al, func(t *v1alpha1.NodeTemplate) { t.Taints = []corev1.Taint{{Key: "a,b", Effect: "NoSchedule"}} }, `taint "a,b"`},
		"TOML that is none":                      {br, func(t *v1alpha1.NodeTemplate) { t.EC2.UserData = "[settings" }, "not TOML"},
		"settings that are no table":             {br, func(t *v1alpha1.NodeTemplate) { t.EC2.UserData = "settings = 1" }, "settings must be a table"},
		"pods per core, which has no such thing": {br, func(t *v1alpha1.NodeTemplate) { t.Kubelet = &v1alpha1.Kubelet{PodsPerCore: ptr(int32(3))} }, "kubelet.podsPerCore"},
		"a family that nobody knows":             {"AL2", func(*v1alpha1.NodeTemplate) {}, "unknown amiFamily"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := &v1alpha1.NodeTemplate{}
			tc.change(in)
			got, err := userData(tc.family, c.bootstrap("default", in))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, error %v; want an error with %q", got, err, tc.want)
			}
		})
	}
}

func TestKubeletMayLabel(t *testing.T) {
	tests := map[string]bool{
		"team": true, "example.com/team": true, "berth.dev/provisioner": true,
		"node.kubernetes.io/x": true, "kubelet.kubernetes.io/x": true, "sub.node.kubernetes.io/x": true,
		"node-role.kubernetes.io/worker": false, "kubernetes.io/role": false, "node-restriction.kubernetes.io/x": false,
		"k8s.io/x": false, "a.k8s.io/x": false, "notk8s.io/x": true, "topology.k8s.aws/zone-id": true,
	}
	for key, want := range tests {
		if got := kubeletMayLabel(key); got != want {
			t.Errorf("%s: %v, want %v", key, got, want)
		}
	}
}

// TestUserDataAsInstancesReadIt hands the documents to a reader that was
// written from the images' documentation alone.
func TestUserDataAsInstancesReadIt(t *testing.T) {
	c := &Cloud{cfg: testConfig()}
	want := &simuserdata.Config{
		ClusterName: "demo", Endpoint: "https://127.0.0.1:6443", CA: []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		ClusterDNS: []string{"10.96.0.10"}, MaxPods: ptr(int32(42)), PodsPerCore: 10,
		KubeReserved:   map[string]string{"memory": "500Mi"},
		SystemReserved: map[string]string{"cpu": "100m", "memory": "200Mi"},
		EvictionHard:   map[string]string{"memory.available": "5%", "nodefs.available": "10%", "nodefs.inodesFree": "5%"},
		Labels: map[string]string{"team": "web", "node.kubernetes.io/role": "a", "example.com/tier": "front",
			v1alpha1.LabelProvisioner: "default"},
		Taints: []corev1.Taint{
			{Key: v1alpha1.TaintUnregistered, Effect: corev1.TaintEffectNoSchedule},
			{Key: "cni.example.com/not-ready", Effect: corev1.TaintEffectNoExecute},
			{Key: "cni.example.com/not-ready", Effect: corev1.TaintEffectNoSchedule},
			{Key: "dedicated", Value: "web", Effect: corev1.TaintEffectNoSchedule},
		},
	}
	byKey := cmpopts.SortSlices(func(a, b corev1.Taint) bool { return a.ToString() < b.ToString() })
	for family, as := range map[v1alpha1.AMIFamily]simuserdata.Family{
		v1alpha1.AMIFamilyAL2023: simuserdata.AL2023, v1alpha1.AMIFamilyBottlerocket: simuserdata.Bottlerocket} {
		tmpl := richTemplate()
		if family == v1alpha1.AMIFamilyBottlerocket {
			tmpl.Kubelet.PodsPerCore = nil
		}
		doc, err := userData(family, c.bootstrap("default", tmpl))
		if err != nil {
			t.Fatal(err)
		}
		got, err := simuserdata.Parse(as, []byte(doc))
		if err != nil {
			t.Fatalf("%s: %v\n%s", family, err, doc)
		}
		expect := *want
		if family == v1alpha1.AMIFamilyBottlerocket {
			expect.PodsPerCore = 0
		}
		if diff := cmp.Diff(&expect, got, byKey); diff != "" {
			t.Errorf("%s: %s", family, diff)
		}
	}
}

// readMIME is how an instance reads user data: the parts' types and bodies.
func readMIME(t *testing.T, doc string) (types, bodies []string) {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	r := multipart.NewReader(m.Body, params["boundary"])
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return types, bodies
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		types, bodies = append(types, p.Header.Get("Content-Type")), append(bodies, string(body))
	}
}

// FuzzAL2023UserData: whatever the user writes, it is refused, or the document
// holds all of the user's parts unchanged and then Berth's.
func FuzzAL2023UserData(f *testing.F) {
	for _, s := range []string{"", "#!/bin/sh\necho", twoParts, "#cloud-config\na: b", "Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: a/b\n\n--y\n--x--\n",
		"apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\n", "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: a/b\r\n\r\nhi\r\n--x--\r\n"} {
		f.Add(s)
	}
	cloud := &Cloud{cfg: testConfig()}
	f.Fuzz(func(t *testing.T, user string) {
		b := cloud.bootstrap("default", richTemplate())
		want, err := al2023NodeConfig(b, false)
		if err != nil {
			t.Fatal(err)
		}
		b.user = user
		doc, err := al2023UserData(b)
		if err != nil {
			return
		}
		parts, err := mimeParts(user)
		if err != nil {
			t.Fatalf("accepted what its own parser refuses: %v", err)
		}
		types, bodies := readMIME(t, doc)
		if len(bodies) != len(parts)+1 {
			t.Fatalf("%d parts of %d+1: %q", len(bodies), len(parts), doc)
		}
		for i, p := range parts {
			if !bytes.Equal(p.body, []byte(bodies[i])) || types[i] != p.header.Get("Content-Type") {
				t.Errorf("part %d changed: %q (%s) is now %q (%s)", i, p.body, p.header.Get("Content-Type"), bodies[i], types[i])
			}
		}
		last := len(bodies) - 1
		if types[last] != mediaNodeConfig || bodies[last] != string(want) {
			t.Errorf("Berth's part is not the last: %q", doc)
		}
		var config nodeConfig
		if err := yaml.UnmarshalStrict([]byte(bodies[last]), &config); err != nil || config.Spec.Cluster.Name != "demo" {
			t.Errorf("Berth's part does not decode: %v", err)
		}
	})
}
