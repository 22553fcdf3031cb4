package deploy

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/certs"
	"github.com/berth-dev/berth/internal/admission"
	"github.com/berth-dev/berth/test/cluster"
)

// patience bounds each wait: generous, since the machine may be slow.
const patience = 90 * time.Second

// TestChartsRolesSuffice runs both processes with the arguments and the rights
// that the chart gives them, on a real API server that enforces those rights,
// through the whole life of nodes and an uninstallation.
func TestChartsRolesSuffice(t *testing.T) {
	l := newLive(t)
	l.install()

	// Creation goes through the validating webhook, which fails closed.
	l.create(provisioner("nominate", v1alpha1.BindingNominate), provisioner("immediate", v1alpha1.BindingImmediate),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "test"}})
	for _, name := range []string{"nominate", "immediate"} {
		ctx, cancel := context.WithTimeout(l.ctx, patience)
		if err := cluster.WaitProvisioner(ctx, l.c, name); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	l.create(pod("nominated", "nominate", "1"), pod("bound", "immediate", "1"), pod("impossible", "nominate", "10000"))
	l.awaitNode("nominated")
	l.awaitNode("bound")
	l.await("an event on the pod that fits nowhere", func() (bool, error) {
		var list eventsv1.EventList
		err := l.c.Client.List(l.ctx, &list, client.InNamespace("default"))
		return slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
			return e.Regarding.Name == "impossible" && e.ReportingController == "berth-provisioner"
		}), err
	})
	l.await("the published offerings", func() (bool, error) {
		err := l.c.Client.Get(l.ctx, client.ObjectKey{Namespace: namespace, Name: v1alpha1.OfferingsConfigMap}, &corev1.ConfigMap{})
		return err == nil, client.IgnoreNotFound(err)
	})

	// One pod is evicted; the other's budget forbids that, so that it is deleted
	// when the deadline comes.
	l.create(&policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "bound"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: new(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "bound"}}}})
	l.giveBack()

	// As docs/install.md uninstalls: Provisioners take their nodes with them, once
	// they have been told to.
	l.create(pod("last", "nominate", "1"))
	l.awaitNode("last")
	nominate := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "nominate"}}
	if err := l.c.Client.Delete(l.ctx, nominate); !apierrors.IsForbidden(err) {
		t.Errorf("the deletion of a Provisioner with a node: %v; want it refused", err)
	}
	for _, name := range []string{"nominate", "immediate"} {
		pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: name}}
		drain := []byte(`{"metadata":{"annotations":{"` + v1alpha1.AnnotationDeletion + `":"` + v1alpha1.DeletionDrain + `"}}}`)
		if err := l.c.Client.Patch(l.ctx, pr, client.RawPatch(types.MergePatchType, drain)); err != nil {
			t.Fatal(err)
		}
		if err := l.c.Client.Delete(l.ctx, pr); err != nil {
			t.Fatal(err)
		}
	}
	l.await("the end of all Provisioners", func() (bool, error) {
		var provisioners v1alpha1.ProvisionerList
		err := l.c.Client.List(l.ctx, &provisioners)
		return len(provisioners.Items) == 0, err
	})
	l.nothingLeft()
}

// TestHelmInstallsUpgradesAndUninstalls has Helm itself do so. The webhook's
// certificate and caBundle, which are not Helm's, must survive an upgrade.
func TestHelmInstallsUpgradesAndUninstalls(t *testing.T) {
	l := newLive(t)
	run := func(args ...string) {
		t.Helper()
		if _, stderr, err := helm(t, append(args, "--namespace", namespace, "--kubeconfig", l.c.Kubeconfig)...); err != nil {
			t.Fatalf("helm %s: %v\n%s", args[0], err, stderr)
		}
	}
	values := strings.Join([]string{"clusterName=" + l.c.ClusterName, "clusterEndpoint=" + l.c.APIServer, "region=" + l.c.Region, "image.registry=registry.example/berth"}, ",")
	run("install", "berth", chart(t), "--create-namespace", "--set", values)
	health := freeAddress(t)
	stop, said := l.start("webhook", []string{"--register=false", "--shutdown-delay=0s", "--kubeconfig=" + l.kubeconfig(), "--bind-address=127.0.0.1",
		"--port=" + portOf(t, freeAddress(t)), "--metrics-bind-address=0", "--health-probe-bind-address=" + health}, health)

	trust := func() (mutating, validating, stored []byte) {
		t.Helper()
		m, v, s := &admissionv1.MutatingWebhookConfiguration{}, &admissionv1.ValidatingWebhookConfiguration{}, &corev1.Secret{}
		for o, key := range map[client.Object]client.ObjectKey{
			m: {Name: admission.ConfigurationName}, v: {Name: admission.ConfigurationName}, s: {Namespace: namespace, Name: certs.SelfSecret},
		} {
			if err := l.c.Client.Get(l.ctx, key, o); err != nil {
				t.Fatal(err)
			}
		}
		return m.Webhooks[0].ClientConfig.CABundle, v.Webhooks[0].ClientConfig.CABundle, s.Data["ca.crt"]
	}
	before, _, _ := trust()
	run("upgrade", "berth", chart(t), "--reset-then-reuse-values", "--set", "logLevel=debug")
	mutating, validating, stored := trust()
	if len(before) == 0 || !bytes.Equal(before, mutating) || !bytes.Equal(before, validating) || !bytes.Equal(before, stored) {
		t.Errorf("trust before the upgrade:\n%s\nafter it:\n%s\n%s\n%s", before, mutating, validating, stored)
	}
	d := &appsv1.Deployment{}
	if err := l.c.Client.Get(l.ctx, client.ObjectKey{Namespace: namespace, Name: "berth"}, d); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(d.Spec.Template.Spec.Containers[0].Args, "--log-level=debug") {
		t.Error("the upgrade has changed nothing")
	}

	// The webhook may not create its Secret, and says who does: Helm puts it back.
	l.refusal = "which is the chart's to create (helm upgrade puts it back)"
	if err := l.c.Client.Delete(l.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: certs.SelfSecret}}); err != nil {
		t.Fatal(err)
	}
	l.await("the webhook to miss its Secret", func() (bool, error) { return strings.Contains(said.String(), l.refusal), nil })
	run("upgrade", "berth", chart(t), "--reset-then-reuse-values")
	l.await("a new CA in the Secret", func() (bool, error) {
		s := &corev1.Secret{}
		err := l.c.Client.Get(l.ctx, client.ObjectKey{Namespace: namespace, Name: certs.SelfSecret}, s)
		return len(s.Data["ca.crt"]) > 0, err
	})

	stop()
	run("uninstall", "berth")
	var m admissionv1.MutatingWebhookConfigurationList
	var v admissionv1.ValidatingWebhookConfigurationList
	for _, list := range []client.ObjectList{&m, &v} {
		if err := l.c.Client.List(l.ctx, list); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(m.Items) + len(v.Items); n > 0 {
		t.Errorf("%d webhook configurations are left, without a webhook", n)
	}
}

// live is a development cluster, on which Berth is what the chart makes of it.
type live struct {
	t   *testing.T
	ctx context.Context
	c   *cluster.Cluster
	// refusal is what a program says of the one right that it is meant to lack.
	refusal string
}

func newLive(t *testing.T) *live {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a control plane")
	}
	bin, err := cluster.Bin()
	if err != nil {
		t.Skip(err)
	}
	for _, name := range []string{"devcluster", "ec2sim", "provisioner", "webhook"} {
		// Looked at for the cache of go test, which does not see what they run.
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	c, err := cluster.Start(ctx, io.Discard, "--berth=false", "--boot-delay=200ms")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &live{t: t, ctx: ctx, c: c}
}

// install creates what the chart renders and starts the two processes in the
// place of its Pods, which have no kubelet to run them.
func (l *live) install() {
	t, c := l.t, l.c
	t.Helper()
	webhookAddress := freeAddress(t)
	objects := render(t, []string{"clusterName=" + c.ClusterName, "clusterEndpoint=" + c.APIServer, "region=" + c.Region, "image.registry=registry.example/berth"})
	l.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	for _, o := range objects {
		switch o := o.(type) {
		case *apiextensionsv1.CustomResourceDefinition:
			continue // devcluster has applied them.
		case *admissionv1.MutatingWebhookConfiguration:
			for i := range o.Webhooks {
				leadTo(&o.Webhooks[i].ClientConfig, webhookAddress)
			}
		case *admissionv1.ValidatingWebhookConfiguration:
			for i := range o.Webhooks {
				leadTo(&o.Webhooks[i].ClientConfig, webhookAddress)
			}
		}
		l.create(o.(client.Object))
	}
	kubeconfig := l.kubeconfig()
	local := map[string][]string{
		"provisioner": nil,
		"webhook":     {"--shutdown-delay=0s", "--bind-address=127.0.0.1", "--port=" + portOf(t, webhookAddress), "--webhook-url=https://" + webhookAddress},
	}
	for _, container := range one[*appsv1.Deployment](t, objects).Spec.Template.Spec.Containers {
		health := freeAddress(t)
		l.start(container.Name, slices.Concat(container.Args, local[container.Name],
			[]string{"--kubeconfig=" + kubeconfig, "--metrics-bind-address=0", "--health-probe-bind-address=" + health}), health)
	}
}

func (l *live) create(objects ...client.Object) {
	l.t.Helper()
	for _, o := range objects {
		if err := l.c.Client.Create(l.ctx, o); err != nil {
			l.t.Fatalf("creating %T %s: %v", o, o.GetName(), err)
		}
	}
}

// await asks until the answer is yes.
func (l *live) await(what string, ask func() (bool, error)) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, patience)
	defer cancel()
	if err := cluster.Until(ctx, ask); err != nil {
		l.t.Fatalf("waiting for %s: %v", what, err)
	}
}

func (l *live) awaitNode(pod string) {
	l.t.Helper()
	l.await("a node for pod "+pod, func() (bool, error) {
		p := &corev1.Pod{}
		err := l.c.Client.Get(l.ctx, client.ObjectKey{Namespace: "default", Name: pod}, p)
		return p.Spec.NodeName != "", err
	})
}

// giveBack deletes all claims and waits until nothing is left of them.
func (l *live) giveBack() {
	l.t.Helper()
	if err := l.c.Client.DeleteAllOf(l.ctx, &v1alpha1.NodeClaim{}); err != nil {
		l.t.Fatal(err)
	}
	l.nothingLeft()
}

// nothingLeft waits until there is no claim, and looks for instances.
func (l *live) nothingLeft() {
	l.t.Helper()
	l.await("the end of all claims", func() (bool, error) {
		var claims v1alpha1.NodeClaimList
		err := l.c.Client.List(l.ctx, &claims)
		return len(claims.Items) == 0, err
	})
	if left, err := l.c.LiveInstances(l.ctx); err != nil || len(left) > 0 {
		l.t.Errorf("instances that are left: %v (%v)", left, err)
	}
}

func provisioner(name string, binding v1alpha1.Binding) *v1alpha1.Provisioner {
	p := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Binding = binding
	p.Spec.Labels = map[string]string{"test": name}
	p.Spec.Drain = &v1alpha1.Drain{Deadline: metav1.Duration{Duration: 10 * time.Second}}
	return p
}

func pod(name, provisioner, cpu string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			ServiceAccountName: "test", NodeSelector: map[string]string{"test": provisioner}, TerminationGracePeriodSeconds: new(int64(1)),
			Containers: []corev1.Container{{Name: "app", Image: "registry.k8s.io/pause:3.10",
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}},
		},
	}
}

// leadTo has the API server call an address instead of the Service.
func leadTo(c *admissionv1.WebhookClientConfig, address string) {
	c.URL = new("https://" + address + *c.Service.Path)
	c.Service = nil
}

// kubeconfig writes one with the chart's ServiceAccount and returns its path.
func (l *live) kubeconfig() string {
	l.t.Helper()
	kube, err := kubernetes.NewForConfig(l.c.Config)
	if err != nil {
		l.t.Fatal(err)
	}
	token, err := kube.CoreV1().ServiceAccounts(namespace).CreateToken(l.ctx, "berth", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	config := clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"x": {Server: l.c.APIServer,
			CertificateAuthorityData: l.c.Config.CAData, CertificateAuthority: l.c.Config.CAFile}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"x": {Token: token.Status.Token}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "x", AuthInfo: "x"}},
		CurrentContext: "x",
	}
	path := filepath.Join(l.t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(config, path); err != nil {
		l.t.Fatal(err)
	}
	return path
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// output is what a process has written; it may be read while it still writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start runs one of Berth's programs and waits until it is ready. It ends with
// the test, or with stop, and must not have been refused anything by then but
// what l.refusal tells of.
func (l *live) start(name string, args []string, health string) (stop func(), said *output) {
	l.t.Helper()
	said = &output{}
	cmd := exec.Command(filepath.Join(l.c.Bin, name), args...)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.Env = append(l.c.Environ(), "AWS_EC2_METADATA_DISABLED=true")
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		kill := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() }) // Then Wait reports it.
		defer kill.Stop()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			l.t.Errorf("%s had ended already: %v", name, err)
		}
		if err := cmd.Wait(); err != nil {
			l.t.Errorf("%s ended badly: %v", name, err)
		}
		for line := range strings.Lines(said.String()) {
			if strings.Contains(line, "forbidden") && (l.refusal == "" || !strings.Contains(line, l.refusal)) {
				l.t.Errorf("%s lacks a right: %s", name, line)
			}
		}
		if l.t.Failed() {
			l.t.Logf("%s said:\n%s", name, said)
		}
	})
	l.t.Cleanup(stop)
	l.await(name+" to be ready", func() (bool, error) {
		res, err := http.Get("http://" + health + "/readyz")
		if err != nil {
			return false, nil // Not listening yet.
		}
		return res.StatusCode == http.StatusOK, res.Body.Close()
	})
	return stop, said
}
