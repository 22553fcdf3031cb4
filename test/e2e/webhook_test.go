package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// webhookConfiguration is the name of Berth's webhook configurations.
const webhookConfiguration = "zz-berth"

// admissionBench is a cluster whose webhook is behind a proxy that breaks what it
// is told to, with a bench on it.
type admissionBench struct {
	*bench
	proxy   *cluster.Proxy
	webhook *cluster.Process
	port    int
}

// newAdmissionBench starts it and waits until pods are hinted.
func newAdmissionBench(t *testing.T) *admissionBench {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := ownCluster(ctx, t, "--boot-delay="+bootDelay.String())
	b := &admissionBench{}
	var err error
	if b.port, err = cluster.FreePort(); err != nil {
		t.Fatal(err)
	}
	if b.proxy, err = cluster.NewProxy(fmt.Sprintf("127.0.0.1:%d", b.port)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.proxy.Close)
	provisioner, err := c.StartProvisioner(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := provisioner.Stop(); err != nil {
			t.Errorf("the provisioner's end: %v", err)
		}
	})
	if b.webhook, err = c.StartWebhook(ctx, t.TempDir(), b.port, "https://"+b.proxy.Address()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.webhook.Kill() })
	b.bench = newBench(t, c, nil)
	if err := cluster.WaitProvisioner(ctx, c, b.name); err != nil {
		t.Fatal(err)
	}
	b.waitHints()
	return b
}

// waitHints waits until a dry run of a pod gets a hint.
func (b *admissionBench) waitHints() {
	b.t.Helper()
	b.wait("pods are hinted", func() (bool, error) {
		pod := b.pod("probe", nil)
		err := b.c.Client.Create(b.ctx, pod, client.DryRunAll)
		return pod.Annotations[v1alpha1.AnnotationPlacement] != "", err
	})
}

// admit creates a pod and returns how long that took and whether it is hinted.
func (b *admissionBench) admit(name string) (time.Duration, bool) {
	b.t.Helper()
	pod := b.pod(name, nil)
	start := time.Now()
	b.create(pod)
	return time.Since(start), pod.Annotations[v1alpha1.AnnotationPlacement] != ""
}

// admitWithin is how long the creation of a pod may take whatever the webhook
// does: its timeout of 1 s, and 200 ms for the rest.
const admitWithin = 1200 * time.Millisecond

// TestPodsAreCreatedAndProvisionedWhateverTheWebhookDoes breaks the webhook in
// every way that it can break. Pods are created within 1.2 s each time, and run
// on nodes that were bought for them.
func TestPodsAreCreatedAndProvisionedWhateverTheWebhookDoes(t *testing.T) {
	b := newAdmissionBench(t)
	running := 0
	run := func(name string, hinted bool, broken bool, do, undo func()) {
		t.Run(name, func(t *testing.T) {
			do()
			defer undo()
			before := b.failOpen()
			took, has := b.admit(fmt.Sprintf("p%d", running))
			t.Logf("created after %s, hinted %v", took.Round(time.Millisecond), has)
			if took > admitWithin {
				t.Errorf("a pod was created after %s, it may take %s", took, admitWithin)
			}
			if has != hinted {
				t.Errorf("hinted %v, want %v", has, hinted)
			}
			if failed := b.failOpen() - before; broken && failed < 1 || !broken && failed > 0 {
				t.Errorf("the API server counted %.0f calls that failed open", failed)
			}
			running++
			b.waitRunning(running)
		})
	}
	none := func() {}
	fault := func(f cluster.Fault) func() { return func() { b.proxy.Set(f) } }
	mend := func() {
		b.proxy.Target(fmt.Sprintf("127.0.0.1:%d", b.port))
		b.proxy.Set(cluster.FaultNone)
		b.waitHints()
	}
	run("nothing is wrong", true, false, none, none)
	run("it is slow, within its timeout", true, false, fault(cluster.FaultSlow), mend)
	run("it hangs", false, true, fault(cluster.FaultHang), mend)
	run("it resets connections", false, true, fault(cluster.FaultReset), mend)
	run("it cuts its answers short", false, true, fault(cluster.FaultCut), mend)
	run("its certificate has expired", false, true, b.serveExpired, mend)
	run("it is killed", false, true, func() {
		if err := b.webhook.Kill(); err != nil {
			t.Fatal(err)
		}
		b.proxy.Set(cluster.FaultNone)
	}, none)
	run("it refuses connections", false, true, b.proxy.Close, none)
	run("it is deleted", false, false, func() {
		for _, o := range []client.Object{&admissionv1.MutatingWebhookConfiguration{}, &admissionv1.ValidatingWebhookConfiguration{}} {
			o.SetName(webhookConfiguration)
			if err := b.c.Client.Delete(b.ctx, o); err != nil {
				t.Fatal(err)
			}
		}
		b.wait("the API server has forgotten it", func() (bool, error) {
			before := b.failOpen()
			pod := b.pod("probe", nil)
			err := b.c.Client.Create(b.ctx, pod, client.DryRunAll)
			return b.failOpen() == before, err
		})
	}, none)
	if t.Failed() {
		return
	}
	var pods corev1.PodList
	if err := b.c.Client.List(b.ctx, &pods, client.InNamespace(b.namespace)); err != nil {
		t.Fatal(err)
	}
	b.checkNodes(pods.Items)
}

// serveExpired has the proxy lead to a server whose certificate was signed by the
// CA that the API server trusts, and has expired.
func (b *admissionBench) serveExpired() {
	b.t.Helper()
	var secret corev1.Secret
	if err := b.c.Client.Get(b.ctx, client.ObjectKey{Namespace: "berth-system", Name: "berth-webhook-tls"}, &secret); err != nil {
		b.t.Fatal(err)
	}
	ca, err := tls.X509KeyPair(secret.Data["ca.crt"], secret.Data["ca.key"])
	if err != nil {
		b.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(7), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(-time.Minute), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		b.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		b.t.Error("the API server speaks to somebody whose certificate has expired")
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	b.t.Cleanup(server.Close)
	b.proxy.Target(server.Listener.Addr().String())
	b.proxy.Set(cluster.FaultNone) // Ends the connections that there are.
}

// failOpen is how many calls of the pods webhook the API server let pass because
// they failed.
func (b *admissionBench) failOpen() float64 {
	b.t.Helper()
	text, err := apiMetrics(b.ctx, b.c)
	if err != nil {
		b.t.Fatal(err)
	}
	return sumOf(text, "apiserver_admission_webhook_fail_open_count", `name="pods.admission.berth.dev"`)
}

// apiMetrics reads the API server's metrics.
func apiMetrics(ctx context.Context, c *cluster.Cluster) (string, error) {
	hc, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.Config.Host, "/")+"/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return string(data), err
}

// sumOf adds up the series of a metric that have all the labels.
func sumOf(text, metric string, labels ...string) float64 {
	total := 0.0
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, metric)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			continue
		}
		var v float64
		if i := strings.LastIndexByte(rest, ' '); i >= 0 {
			if _, err := fmt.Sscanf(rest[i+1:], "%g", &v); err == nil {
				total += v
			}
		}
	}
	return total
}

// TestWebhookRollsWithoutMissingAPod restarts the webhook's process under load,
// behind a proxy that leaves connections where they are, as a ClusterIP does: the
// API server's own client loses no call, and each pod is hinted.
func TestWebhookRollsWithoutMissingAPod(t *testing.T) {
	b := newAdmissionBench(t)
	before := b.failOpen()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	pods, unhinted := 0, 0
	var failed error
	for i := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				pod := b.pod(fmt.Sprintf("roll-%d-%d", i, n), nil)
				err := b.c.Client.Create(b.ctx, pod, client.DryRunAll)
				mu.Lock()
				pods++
				if err != nil {
					failed = err
				} else if pod.Annotations[v1alpha1.AnnotationPlacement] == "" {
					unhinted++
				}
				mu.Unlock()
			}
		})
	}
	for range 3 {
		port, err := cluster.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		next, err := b.c.StartWebhook(b.ctx, t.TempDir(), port, "https://"+b.proxy.Address(), "--shutdown-delay=2s")
		if err != nil {
			t.Fatal(err)
		}
		b.proxy.Target(fmt.Sprintf("127.0.0.1:%d", port))
		old := b.webhook
		b.webhook = next
		if err := old.Stop(); err != nil {
			t.Errorf("the end of a webhook: %v\n%s", err, old.Log())
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d pods over 3 restarts: %d without a hint, %.0f calls failed open", pods, unhinted, b.failOpen()-before)
	if failed != nil || unhinted > 0 || b.failOpen() > before {
		t.Errorf("error %v, %d of %d pods without a hint, %.0f calls failed open", failed, unhinted, pods, b.failOpen()-before)
	}
}

// TestAValidatorThatIsDownKeepsNothingFromGoing: while the webhook is dead,
// Provisioners cannot be edited, but those being deleted can be let go.
func TestAValidatorThatIsDownKeepsNothingFromGoing(t *testing.T) {
	b := newAdmissionBench(t)
	pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: b.name + "-f", Finalizers: []string{"example.com/hold"}}}
	b.create(pr)
	if err := b.webhook.Kill(); err != nil {
		t.Fatal(err)
	}
	b.proxy.Set(cluster.FaultNone)
	edited := pr.DeepCopy()
	edited.Spec.Weight = 3
	if err := b.c.Client.Patch(b.ctx, edited, client.MergeFrom(pr)); err == nil || !strings.Contains(err.Error(), "validation.provisioners.admission.berth.dev") {
		t.Errorf("an edit that nobody has checked: %v", err)
	}
	if err := b.c.Client.Delete(b.ctx, pr); err != nil {
		t.Fatalf("deleting: %v", err)
	}
	key := client.ObjectKeyFromObject(pr)
	if err := b.c.Client.Get(b.ctx, key, pr); err != nil {
		t.Fatal(err)
	}
	free := pr.DeepCopy()
	free.Finalizers = nil
	if err := b.c.Client.Patch(b.ctx, free, client.MergeFrom(pr)); err != nil {
		t.Fatalf("letting it go: %v", err)
	}
	if err := b.c.Client.Get(b.ctx, key, pr); !apierrors.IsNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
}
