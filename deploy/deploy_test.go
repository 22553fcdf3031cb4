// Package deploy holds no code: its tests prove that what is deployed fits what
// is built. The chart is rendered by Helm itself.
package deploy

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/certs"
	"github.com/berth-dev/berth/internal/admission"
)

const namespace = "berth-system"

// required are the values that have no default.
var required = []string{"clusterName=prod", "clusterEndpoint=https://10.0.0.1", "region=eu-west-1", "image.registry=registry.example/berth"}

// everything turns on all that is optional.
var everything = append(slices.Clone(required),
	"webhook.certMode=cert-manager", "metrics.expose=true", "metrics.serviceMonitor=true",
	"networkPolicy.enabled=true", "networkPolicy.apiServerCIDRs={10.0.0.0/16}",
	"serviceCIDR=10.100.0.0/16", "defaultInstanceProfile=nodes", "image.pullSecrets[0].name=pull", "image.tag=v9",
	"serviceAccount.annotations.eks\\.amazonaws\\.com/role-arn=arn:aws:iam::111122223333:role/berth", "nodeSelector.pool=system")

// helm runs the pinned Helm and returns what it wrote to stdout and stderr.
func helm(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"tool", "-C", "../hack/chart", "helm"}, args...)...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "KUBECONFIG="+filepath.Join(home, "none"),
		"HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// chart is the path of the chart. What it holds is opened here, too: it is
// another process that reads it, and go test would answer from its cache.
func chart(t *testing.T) string {
	t.Helper()
	for _, root := range []string{"chart", "crds", "../hack/chart"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				_, err = os.ReadFile(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := filepath.Abs("chart")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func templateArgs(t *testing.T, values []string) []string {
	t.Helper()
	args := []string{"template", "berth", chart(t), "--namespace", namespace, "--include-crds"}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	return args
}

// rendered remembers Helm's output by values.
var rendered sync.Map

// render renders the chart and decodes every object, unknown and duplicate
// fields being errors.
func render(t *testing.T, values []string) []runtime.Object {
	t.Helper()
	key := strings.Join(values, "\n")
	out, ok := rendered.Load(key)
	if !ok {
		stdout, stderr, err := helm(t, templateArgs(t, values)...)
		if err != nil {
			t.Fatalf("helm template: %v\n%s", err, stderr)
		}
		out = stdout
		rendered.Store(key, out)
	}
	return decodeAll(t, []byte(out.(string)))
}

// serviceMonitor is as much of the Prometheus operator's kind as the chart uses.
type serviceMonitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector  metav1.LabelSelector `json:"selector"`
		Endpoints []struct {
			Port string `json:"port"`
		} `json:"endpoints"`
	} `json:"spec"`
}

func (s *serviceMonitor) DeepCopyObject() runtime.Object { c := *s; return &c }

func scheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme, cmapi.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	s.AddKnownTypeWithName(schema.GroupVersionKind{Group: "monitoring.coreos.com", Version: "v1", Kind: "ServiceMonitor"}, &serviceMonitor{})
	return s
}

func decodeAll(t *testing.T, manifests []byte) []runtime.Object {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme(t), serializer.EnableStrict).UniversalDeserializer()
	var objects []runtime.Object
	docs := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(manifests)))
	buf := make([]byte, 1<<20)
	for {
		n, err := docs.Read(buf)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatalf("splitting manifests: %v", err)
		}
		var content any
		if err := yaml.Unmarshal(buf[:n], &content); err != nil {
			t.Fatalf("%v in:\n%s", err, buf[:n])
		}
		if content == nil {
			continue // Only comments.
		}
		o, _, err := decoder.Decode(buf[:n], nil, nil)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, buf[:n])
		}
		objects = append(objects, o)
	}
}

// only returns the objects of a kind.
func only[T runtime.Object](objects []runtime.Object) []T {
	var out []T
	for _, o := range objects {
		if x, ok := o.(T); ok {
			out = append(out, x)
		}
	}
	return out
}

// one returns the single object of a kind.
func one[T runtime.Object](t *testing.T, objects []runtime.Object) T {
	t.Helper()
	found := only[T](objects)
	if len(found) != 1 {
		t.Fatalf("%d objects of type %T, want 1", len(found), *new(T))
	}
	return found[0]
}

func TestChartRenders(t *testing.T) {
	for name, values := range map[string][]string{
		"the required values alone": required,
		"everything turned on":      everything,
	} {
		t.Run(name, func(t *testing.T) {
			if _, stderr, err := helm(t, "lint", "--strict", "--namespace", namespace, chart(t), "--set", strings.Join(values, ",")); err != nil {
				t.Errorf("helm lint: %v\n%s", err, stderr)
			}
			for _, o := range render(t, values) {
				m := o.(metav1.Object)
				if _, isCRD := o.(*apiextensionsv1.CustomResourceDefinition); isCRD {
					continue
				}
				if m.GetLabels()["app.kubernetes.io/name"] != "berth" {
					t.Errorf("%T %s is not labelled", o, m.GetName())
				}
			}
		})
	}
}

func TestChartRefusesWhatCannotWork(t *testing.T) {
	for name, tc := range map[string]struct {
		drop, set, want string
	}{
		"no cluster name":                       {drop: "clusterName", want: "clusterName is required"},
		"no cluster endpoint":                   {drop: "clusterEndpoint", want: "clusterEndpoint is required"},
		"no region":                             {drop: "region", want: "region is required"},
		"no registry":                           {drop: "image.registry", want: "image.registry is required"},
		"a value that does not exist":           {set: "replicaCount=3", want: "replicaCount"},
		"a certificate mode that nobody knows":  {set: "webhook.certMode=acme", want: "certMode"},
		"a certificate mode without the chart":  {set: "webhook.certMode=files", want: "certMode"},
		"a share of more than all":              {set: "webhook.refuseDriftAbove=2", want: "refuseDriftAbove"},
		"a negative cost":                       {set: "webhook.warnHourlyCost=-1", want: "warnHourlyCost"},
		"an endpoint without TLS":               {set: "clusterEndpoint=http://10.0.0.1", want: "clusterEndpoint"},
		"a memory limit that is not whole MiB":  {set: "webhook.resources.limits.memory=1G", want: "memory"},
		"a ServiceMonitor of nothing to scrape": {set: "metrics.serviceMonitor=true", want: "expose"},
	} {
		t.Run(name, func(t *testing.T) {
			values := slices.DeleteFunc(slices.Clone(required), func(v string) bool { return tc.drop != "" && strings.HasPrefix(v, tc.drop+"=") })
			if tc.set != "" {
				values = append(values, tc.set)
			}
			_, stderr, err := helm(t, templateArgs(t, values)...)
			if err == nil || !strings.Contains(stderr, tc.want) {
				t.Errorf("error %v does not name %q:\n%s", err, tc.want, stderr)
			}
		})
	}
}

func TestChartCarriesTheGeneratedCRDs(t *testing.T) {
	files, err := filepath.Glob("crds/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no CRDs: %v", err)
	}
	want := map[string]*apiextensionsv1.CustomResourceDefinition{}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		crd := one[*apiextensionsv1.CustomResourceDefinition](t, decodeAll(t, raw))
		want[crd.Name] = crd
	}
	got := map[string]*apiextensionsv1.CustomResourceDefinition{}
	for _, crd := range only[*apiextensionsv1.CustomResourceDefinition](render(t, required)) {
		got[crd.Name] = crd
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the chart's CRDs differ from deploy/crds (-want +got):\n%s", diff)
	}
}

func TestPodIsRestrictedAndStaysOffBerthsNodes(t *testing.T) {
	objects := render(t, everything)
	d := one[*appsv1.Deployment](t, objects)
	pod := d.Spec.Template.Spec
	if *d.Spec.Replicas < 2 || d.Spec.Strategy.RollingUpdate.MaxUnavailable.IntValue() != 0 {
		t.Error("a rollout must leave the webhook answering")
	}
	if pod.PriorityClassName != "system-cluster-critical" {
		t.Errorf("priority class %q", pod.PriorityClassName)
	}
	for _, w := range []struct{ key, value string }{{"app.kubernetes.io/name", "berth"}, {"app.kubernetes.io/instance", "berth"}} {
		if d.Spec.Selector.MatchLabels[w.key] != w.value {
			t.Errorf("selector %v lacks %s=%s; it can never be changed", d.Spec.Selector.MatchLabels, w.key, w.value)
		}
	}
	terms := pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	want := []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
		{Key: v1alpha1.LabelProvisioner, Operator: corev1.NodeSelectorOpDoesNotExist}}}}
	if diff := cmp.Diff(want, terms); diff != "" {
		t.Errorf("node affinity (-want +got):\n%s", diff)
	}
	if s := pod.SecurityContext; s == nil || !*s.RunAsNonRoot || *s.RunAsUser == 0 || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("security context of the Pod: %+v", s)
	}
	ports := map[int32]string{}
	for _, c := range pod.Containers {
		s := c.SecurityContext
		if s == nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Contains(s.Capabilities.Drop, "ALL") || len(s.Capabilities.Add) > 0 {
			t.Errorf("security context of container %s: %+v", c.Name, s)
		}
		if c.Resources.Limits.Memory().IsZero() || !c.Resources.Limits.Cpu().IsZero() {
			t.Errorf("container %s needs a memory limit and no CPU limit", c.Name)
		}
		for _, p := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			if p == nil || !slices.ContainsFunc(c.Ports, func(cp corev1.ContainerPort) bool { return cp.Name == p.HTTPGet.Port.String() }) {
				t.Errorf("container %s: probe %+v does not lead to a port of its own", c.Name, p)
			}
		}
		// The containers share one network namespace.
		for _, p := range c.Ports {
			if by, taken := ports[p.ContainerPort]; taken {
				t.Errorf("port %d is of both %s and %s", p.ContainerPort, by, c.Name)
			}
			ports[p.ContainerPort] = c.Name
		}
	}
	pdb := one[*policyv1.PodDisruptionBudget](t, objects)
	if diff := cmp.Diff(d.Spec.Selector, pdb.Spec.Selector); diff != "" {
		t.Errorf("the budget is for other Pods (-deployment +budget):\n%s", diff)
	}
	for _, s := range only[*corev1.Service](objects) {
		for _, p := range s.Spec.Ports {
			if !slices.ContainsFunc(pod.Containers, func(c corev1.Container) bool {
				return slices.ContainsFunc(c.Ports, func(cp corev1.ContainerPort) bool { return cp.Name == p.TargetPort.String() })
			}) {
				t.Errorf("Service %s: port %s leads nowhere", s.Name, p.Name)
			}
		}
	}
	if m := one[*serviceMonitor](t, objects); len(m.Spec.Endpoints) != len(pod.Containers) {
		t.Errorf("%d endpoints are scraped, for %d containers", len(m.Spec.Endpoints), len(pod.Containers))
	}
	one[*networkingv1.NetworkPolicy](t, objects)
}

func TestMemoryLimitOfTheRuntimeIsBelowTheKernels(t *testing.T) {
	for limit, want := range map[string]string{"512Mi": "460MiB", "2Gi": "1843MiB"} {
		d := one[*appsv1.Deployment](t, render(t, append(slices.Clone(required), "provisioner.resources.limits.memory="+limit)))
		i := slices.IndexFunc(d.Spec.Template.Spec.Containers[0].Env, func(e corev1.EnvVar) bool { return e.Name == "GOMEMLIMIT" })
		if i < 0 || d.Spec.Template.Spec.Containers[0].Env[i].Value != want {
			t.Errorf("limit %s: env %+v, want GOMEMLIMIT=%s", limit, d.Spec.Template.Spec.Containers[0].Env, want)
		}
	}
}

// TestContainersAreGivenFlagsThatExist reads the flags from the commands' source.
func TestContainersAreGivenFlagsThatExist(t *testing.T) {
	for _, c := range one[*appsv1.Deployment](t, render(t, everything)).Spec.Template.Spec.Containers {
		known := flagsOf(t, "../cmd/"+c.Name)
		for _, arg := range c.Args {
			name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
			if !known[name] {
				t.Errorf("container %s is given %s, which the command does not know", c.Name, arg)
			}
		}
	}
}

func TestImagesAreBuiltByTheDockerfile(t *testing.T) {
	dockerfile, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range one[*appsv1.Deployment](t, render(t, required)).Spec.Template.Spec.Containers {
		want := "FROM base AS " + c.Name + "\nCOPY --from=build /out/" + c.Name
		if c.Image != "registry.example/berth/"+c.Name+":0.1.0" || !strings.Contains(string(dockerfile), want) {
			t.Errorf("image %s is not a target of the Dockerfile", c.Image)
		}
	}
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(mod)
	if version == nil || !bytes.Contains(dockerfile, append([]byte("FROM --platform=$BUILDPLATFORM golang:"), append(version[1], ' ')...)) {
		t.Errorf("the Dockerfile does not build with Go %s of go.mod", version)
	}
}

// TestDocumentedValuesAndManifestsAreReal reads docs/install.md as its reader
// would: each --set is a value of the chart, each manifest decodes.
func TestDocumentedValuesAndManifestsAreReal(t *testing.T) {
	page, err := os.ReadFile("../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("chart/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(raw, &values); err != nil {
		t.Fatal(err)
	}
	sets := regexp.MustCompile(`--set(?:-string)? ["']?([A-Za-z.]+)`).FindAllSubmatch(page, -1)
	for _, m := range sets {
		at := any(values)
		for _, key := range strings.Split(string(m[1]), ".") {
			inner, ok := at.(map[string]any)
			if ok && len(inner) == 0 {
				break // Free-form, such as annotations.
			}
			if at, ok = inner[key]; !ok {
				t.Errorf("docs/install.md sets %s, which is no value of the chart", m[1])
				break
			}
		}
	}
	manifests := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(page, -1)
	for _, m := range manifests {
		decodeAll(t, m[1])
	}
	if len(sets) < len(required) || len(manifests) == 0 {
		t.Errorf("found %d values and %d manifests: the page has changed its form", len(sets), len(manifests))
	}
}

// TestWebhooksAreRegisteredAsTheWebhookExpects: the chart registers in the
// webhook's stead, so both must say the same.
func TestWebhooksAreRegisteredAsTheWebhookExpects(t *testing.T) {
	address := admission.Address{Namespace: namespace, Service: "berth-webhook"}
	wantM, wantV := admission.Configurations(address, namespace)
	objects := render(t, required)
	m, v := one[*admissionv1.MutatingWebhookConfiguration](t, objects), one[*admissionv1.ValidatingWebhookConfiguration](t, objects)
	if diff := cmp.Diff(wantM.Webhooks, m.Webhooks); diff != "" {
		t.Errorf("mutating webhooks (-code +chart):\n%s", diff)
	}
	if diff := cmp.Diff(wantV.Webhooks, v.Webhooks); diff != "" {
		t.Errorf("validating webhooks (-code +chart):\n%s", diff)
	}
	for _, c := range []struct{ got, want metav1.Object }{{m, wantM}, {v, wantV}} {
		if c.got.GetName() != c.want.GetName() {
			t.Errorf("configuration %s is named %s in the code", c.got.GetName(), c.want.GetName())
		}
		for key, value := range c.want.GetLabels() {
			if c.got.GetLabels()[key] != value {
				t.Errorf("configuration %s lacks label %s=%s", c.got.GetName(), key, value)
			}
		}
		if len(c.got.GetAnnotations()) > 0 {
			t.Errorf("with certificates of its own, nobody else may write caBundle: %v", c.got.GetAnnotations())
		}
	}
	var ports []int32
	for _, s := range only[*corev1.Service](objects) {
		if s.Name == address.Service {
			ports = append(ports, s.Spec.Ports[0].Port)
		}
	}
	if !slices.Equal(ports, []int32{*wantM.Webhooks[0].ClientConfig.Service.Port}) {
		t.Errorf("Service %s: ports %v", address.Service, ports)
	}
}

func TestCertificatesComeFromWhereTheModeSays(t *testing.T) {
	t.Run("the webhook's own are kept in a Secret that is there, empty", func(t *testing.T) {
		secret := one[*corev1.Secret](t, render(t, required))
		if secret.Name != certs.SelfSecret || secret.Namespace != namespace || len(secret.Data)+len(secret.StringData) > 0 || secret.Type != "" {
			t.Errorf("Secret %s/%s of type %q: want %s, Opaque and empty", secret.Namespace, secret.Name, secret.Type, certs.SelfSecret)
		}
	})
	t.Run("cert-manager's are injected from the Certificate that the webhook applies", func(t *testing.T) {
		objects := render(t, everything)
		if n := len(only[*corev1.Secret](objects)); n > 0 {
			t.Errorf("%d Secrets are rendered", n)
		}
		var serving string
		for _, o := range certs.ManagerObjects(namespace, []string{"berth-webhook." + namespace + ".svc"}) {
			if c, ok := o.(*cmapi.Certificate); ok && !c.Spec.IsCA {
				serving = c.Namespace + "/" + c.Name
			}
		}
		m, v := one[*admissionv1.MutatingWebhookConfiguration](t, objects), one[*admissionv1.ValidatingWebhookConfiguration](t, objects)
		for _, o := range []metav1.Object{m, v} {
			if from := o.GetAnnotations()[certs.ManagerInjectAnnotation]; serving == "" || from != serving {
				t.Errorf("caBundle is injected from %q, want %q", from, serving)
			}
		}
	})
}
