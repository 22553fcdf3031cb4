package crash

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/catalog"
	"github.com/berth-dev/berth/internal/ec2sim"
	"github.com/berth-dev/berth/test/cluster"
	"github.com/berth-dev/berth/test/invariant"
)

const (
	region    = "us-west-2"
	namespace = "crash"
	// patience bounds each wait: what the issue of a run may take at most.
	patience = 60 * time.Second
)

// plane is the control plane of all runs, view its claims, Nodes and pods.
var (
	plane *cluster.Cluster
	view  client.Reader
	// runs that have begun.
	runs int
)

func TestMain(m *testing.M) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	c, err := cluster.Start(ctx, os.Stderr, "--berth=false", "--ec2=false")
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	plane = c
	watching, stop := context.WithCancel(context.Background())
	code := 1
	if view, err = c.View(watching, &v1alpha1.NodeClaim{}, &corev1.Node{}, &corev1.Pod{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	stop()
	if err := c.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// sold are what ec2sim sells in the runs: few, so that a start is fast.
var sold = []string{"m5.large", "m5.xlarge", "m5.2xlarge", "c5.large", "c5.xlarge", "c5.2xlarge", "r5.large", "r5.xlarge", "m6i.large", "m6i.xlarge", "m7g.large"}

// smallCatalog is the shipped catalogue with these types alone.
var smallCatalog = sync.OnceValues(func() (*catalog.Catalog, error) {
	packed, err := os.ReadFile("../../internal/catalog/catalog.json.gz")
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	var file struct {
		Meta  json.RawMessage            `json:"meta"`
		Types map[string]json.RawMessage `json:"types"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, err
	}
	keep := map[string]json.RawMessage{}
	for _, name := range sold {
		keep[name] = file.Types[name]
	}
	file.Types = keep
	if text, err = json.Marshal(file); err != nil {
		return nil, err
	}
	return catalog.Load(bytes.NewReader(text))
})

// world is one run: an EC2 and a provisioner on the shared control plane.
type world struct {
	*killer
	t   *testing.T
	ctx context.Context
	sim *ec2sim.Sim
	uid string
	// args of the provisioner beside those that connect it.
	args []string

	ec2, api *httptest.Server
	// ca is what the provisioner, and nodes, trust as the API server's.
	ca  []byte
	dir string

	mu      sync.Mutex
	cmd     *exec.Cmd
	stopped bool
	starts  int
	killed  time.Time
	// judgeAt is when the state is to be judged again.
	judgeAt time.Time
	broken  []string
	// fleets are the CreateFleet calls: when, and for how many instances.
	fleets []fleetCall
	tokens map[string]bool
	done   sync.WaitGroup
}

type fleetCall struct {
	at    time.Time
	count int
}

// newWorld starts an EC2 and cleans the control plane of the run before. The
// provisioner starts with start.
func newWorld(t *testing.T, change func(*ec2sim.Config), args ...string) *world {
	t.Helper()
	runs++
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	w := &world{t: t, ctx: ctx, dir: t.TempDir(), args: args, tokens: map[string]bool{}}
	w.killer = &killer{kill: w.killNow}
	var system corev1.Namespace
	if err := plane.Client.Get(ctx, client.ObjectKey{Name: metav1.NamespaceSystem}, &system); err != nil {
		t.Fatal(err)
	}
	w.uid = string(system.UID)
	w.clean()
	kube, err := kubernetes.NewForConfig(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	small, err := smallCatalog()
	if err != nil {
		t.Fatal(err)
	}
	w.api = httptest.NewTLSServer(w.wrap(w.kubeProxy(), kubeCall))
	w.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.api.Certificate().Raw})
	cfg := ec2sim.Config{Region: region, ClusterName: plane.ClusterName, Catalog: small, Client: kube, Endpoint: plane.Config.Host, CA: w.ca,
		BootDelay: 20 * time.Millisecond, TerminateDelay: 20 * time.Millisecond, Latency: 2 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	if w.sim, err = ec2sim.New(cfg); err != nil {
		t.Fatal(err)
	}
	simCtx, stopSim := context.WithCancel(ctx)
	var simDone sync.WaitGroup
	simDone.Go(func() { w.sim.Run(simCtx) })
	w.ec2 = httptest.NewServer(http.HandlerFunc(w.serveEC2))
	t.Cleanup(func() {
		w.stop()
		w.ec2.CloseClientConnections()
		w.ec2.Close()
		w.api.CloseClientConnections()
		w.api.Close()
		stopSim()
		simDone.Wait()
		for _, b := range w.broken {
			t.Error(b)
		}
		if t.Failed() {
			w.dump()
		}
		cancel()
	})
	w.writeKubeconfig()
	return w
}

// kubeProxy passes calls on to the API server.
func (w *world) kubeProxy() http.Handler {
	transport, err := rest.TransportFor(plane.Config)
	if err != nil {
		w.t.Fatal(err)
	}
	target, err := url.Parse(plane.Config.Host)
	if err != nil {
		w.t.Fatal(err)
	}
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
}

// serveEC2 judges the calls of the provisioner, and hands them to ec2sim.
func (w *world) serveEC2(rw http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/_sim/") {
		w.sim.ServeHTTP(rw, r)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/outsider") { // Not the provisioner.
		r.URL.Path = "/"
		w.sim.ServeHTTP(rw, r)
		return
	}
	name, form := awsCall(r)
	judged := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		effect := form.Get("DryRun") != "true" // A dry run only asks whether it may.
		if effect {
			switch name {
			case "CreateFleet":
				w.judgeLaunch(form)
			case "TerminateInstances":
				w.judgeTerminations(form)
			}
		}
		w.sim.ServeHTTP(rw, r)
		switch name {
		case "CreateFleet", "CreateTags", "TerminateInstances":
			if effect && w.due() {
				began := time.Now()
				w.report(w.look().Violations())
				w.judging(time.Since(began))
			}
		}
	})
	w.wrap(judged, func(*http.Request) string { return name }).ServeHTTP(rw, r)
}

// due reports whether the state is to be judged again: what is wrong with it
// stays wrong, so that five times a second is enough, and less where it takes
// long.
func (w *world) due() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Now().Before(w.judgeAt) {
		return false
	}
	w.judgeAt = time.Now().Add(time.Minute) // One at a time.
	return true
}

// judging tells how long a judgement took.
func (w *world) judging(took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judgeAt = time.Now().Add(max(200*time.Millisecond, 19*took))
}

func (w *world) judgeLaunch(form url.Values) {
	token := form.Get("ClientToken")
	count, _ := strconv.Atoi(form.Get("TargetCapacitySpecification.TotalTargetCapacity")) // 0 is judged as such.
	w.mu.Lock()
	w.fleets = append(w.fleets, fleetCall{time.Now(), count})
	known := w.tokens[token]
	w.tokens[token] = true
	w.mu.Unlock()
	if !known {
		w.report(w.look().Launch(token, count))
	}
}

func (w *world) judgeTerminations(form url.Values) {
	at := w.look()
	for key, values := range form {
		if strings.HasPrefix(key, "InstanceId.") {
			w.report(at.Terminate(values[0], time.Now()))
		}
	}
}

func (w *world) report(violations []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range violations {
		w.broken = append(w.broken, "INVARIANT: "+v)
	}
}

// look reads everything that the invariants are about.
func (w *world) look() invariant.World {
	out := invariant.World{ClusterUID: w.uid, Claims: w.claims(), Instances: w.state().Instances, VCPUs: func(name string) int {
		c, err := smallCatalog()
		if err != nil {
			return 0
		}
		t, _ := c.Type(name)
		return t.VCPUs
	}}
	var list v1alpha1.ProvisionerList
	if err := plane.Client.List(w.ctx, &list); err != nil && w.ctx.Err() == nil {
		w.report([]string{"listing Provisioners: " + err.Error()})
	}
	out.Provisioners = list.Items
	return out
}

func (w *world) claims() []v1alpha1.NodeClaim {
	var list v1alpha1.NodeClaimList
	if err := plane.Client.List(w.ctx, &list); err != nil && w.ctx.Err() == nil {
		w.report([]string{"listing claims: " + err.Error()})
	}
	return list.Items
}

// admin calls ec2sim's admin endpoint.
func (w *world) admin(method, path string, in, out any) {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			w.t.Fatal(err)
		}
	}
	rec := httptest.NewRecorder()
	w.sim.ServeHTTP(rec, httptest.NewRequest(method, "/_sim/"+path, &body))
	if rec.Code != http.StatusOK {
		w.t.Errorf("ec2sim %s: %s", path, rec.Body)
		return
	}
	if out != nil {
		if err := json.Unmarshal(rec.Body.Bytes(), out); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *world) fault(f ec2sim.Fault) { w.admin("POST", "faults", f, nil) }

func (w *world) state() ec2sim.State {
	var st ec2sim.State
	w.admin("GET", "state", nil, &st)
	return st
}

// awsCalls are how often each action was called, and answered with which errors.
func (w *world) awsCalls() (counts, errs map[string]int) {
	var c struct{ Counts, Errors map[string]int }
	w.admin("GET", "calls", nil, &c)
	return c.Counts, c.Errors
}

func (w *world) writeKubeconfig() {
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["c"] = &clientcmdapi.Cluster{Server: w.api.URL, CertificateAuthorityData: w.ca, DisableCompression: true}
	cfg.AuthInfos["u"] = &clientcmdapi.AuthInfo{}
	cfg.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	cfg.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*cfg, filepath.Join(w.dir, "kubeconfig")); err != nil {
		w.t.Fatal(err)
	}
}

// start starts the provisioner, and again whenever it is killed, until stop.
func (w *world) start() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.startLocked()
}

func (w *world) startLocked() {
	w.starts++
	log, err := os.Create(filepath.Join(w.dir, fmt.Sprintf("provisioner-%02d.log", w.starts)))
	if err != nil {
		w.t.Error(err)
		return
	}
	args := append([]string{"--kubeconfig", filepath.Join(w.dir, "kubeconfig"), "--cluster-name", plane.ClusterName, "--cluster-endpoint", plane.Config.Host,
		"--metrics-bind-address", "0", "--health-probe-bind-address", "0", "--leader-elect=false"}, w.args...)
	cmd := exec.Command(filepath.Join(plane.Bin, "provisioner"), args...)
	cmd.Env = append(os.Environ(), "AWS_ENDPOINT_URL="+w.ec2.URL, "AWS_REGION="+region, "AWS_ACCESS_KEY_ID=sim", "AWS_SECRET_ACCESS_KEY=sim", "AWS_EC2_METADATA_DISABLED=true")
	cmd.Stderr = log
	w.done.Add(1)
	err = cluster.StartTied(cmd, func() {
		defer w.done.Done()
		err := cmd.Wait()
		_ = log.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case w.stopped:
		case cmd.ProcessState != nil && !cmd.ProcessState.Exited(): // It was killed.
			w.startLocked()
		default:
			w.broken = append(w.broken, fmt.Sprintf("the provisioner ended by itself: %v", err))
		}
	})
	if err != nil {
		w.done.Done()
		w.t.Error(err)
		return
	}
	w.cmd = cmd
}

// killNow kills the provisioner with SIGKILL; it is started again at once.
func (w *world) killNow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.killed = time.Now()
	_ = w.cmd.Process.Kill() // It may be dead already.
}

// sinceKill is how long ago the provisioner was killed.
func (w *world) sinceKill() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.killed)
}

// stop ends the provisioner for good.
func (w *world) stop() {
	w.mu.Lock()
	w.stopped = true
	if w.cmd != nil {
		_ = w.cmd.Process.Kill()
	}
	w.mu.Unlock()
	w.done.Wait()
}

// log is what the provisioner has said in all its lives.
func (w *world) log() string {
	var out strings.Builder
	w.mu.Lock()
	n := w.starts
	w.mu.Unlock()
	for i := 1; i <= n; i++ {
		text, _ := os.ReadFile(filepath.Join(w.dir, fmt.Sprintf("provisioner-%02d.log", i)))
		fmt.Fprintf(&out, "--- life %d\n%s", i, text)
	}
	return out.String()
}

// dump shows what a failed run left.
func (w *world) dump() {
	claims := w.claims()
	for i, c := range claims {
		if c.Status.InstanceID == "" || i < 5 {
			w.t.Logf("claim %s: instance %q, launch %+v, conditions %+v", c.Name, c.Status.InstanceID, c.Status.Launch, c.Status.Conditions)
		}
	}
	w.t.Logf("%d claims; provisioner:\n%s", len(claims), w.log())
}

// until waits for a condition, at most for patience.
func (w *world) until(what string, ask func() bool) {
	w.t.Helper()
	w.within(patience, what, ask)
}

// within waits for a condition, at most for d.
func (w *world) within(d time.Duration, what string, ask func() bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, d)
	defer cancel()
	if err := cluster.Until(ctx, func() (bool, error) { return ask(), nil }); err != nil {
		w.t.Fatalf("waiting until %s: %v", what, err)
	}
}

// create makes objects, several at a time.
func (w *world) create(objects ...client.Object) {
	w.t.Helper()
	w.each(len(objects), func(i int) error { return plane.Client.Create(w.ctx, objects[i]) })
}

func (w *world) each(n int, act func(int) error) {
	w.t.Helper()
	var wg sync.WaitGroup
	gate := make(chan struct{}, 16)
	for i := range n {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			if err := act(i); client.IgnoreNotFound(err) != nil {
				w.t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	if w.t.Failed() {
		w.t.FailNow()
	}
}

// clean removes what a run before has left, by force.
func (w *world) clean() {
	w.t.Helper()
	ctx := w.ctx
	now := int64(0)
	for _, o := range []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "test"}}} {
		_ = plane.Client.Create(ctx, o) // Usually it is there.
	}
	if err := plane.Client.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(namespace), &client.DeleteAllOfOptions{DeleteOptions: client.DeleteOptions{GracePeriodSeconds: &now}}); err != nil {
		w.t.Fatal(err)
	}
	if err := plane.Client.DeleteAllOf(ctx, &v1alpha1.Provisioner{}); err != nil {
		w.t.Fatal(err)
	}
	_ = plane.Client.Delete(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: v1alpha1.OfferingsConfigMap}})
	claims := w.claims()
	w.each(len(claims), func(i int) error { return strip(ctx, &claims[i]) })
	var nodes corev1.NodeList
	if err := plane.Client.List(ctx, &nodes); err != nil {
		w.t.Fatal(err)
	}
	w.each(len(nodes.Items), func(i int) error { return strip(ctx, &nodes.Items[i]) })
}

// strip deletes an object with its finalizers.
func strip(ctx context.Context, o client.Object) error {
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
	if err := plane.Client.Patch(ctx, o, patch); err != nil {
		return err
	}
	return plane.Client.Delete(ctx, o)
}

// ofRun marks what belongs to this run: kube-scheduler may not know yet that nodes of
// the one before are gone, whose names come again.
func ofRun(name string) string { return fmt.Sprintf("%s-%d", name, runs) }

// provisioner is one that the pods of this package select by its name.
func provisioner(name string, change func(*v1alpha1.Provisioner)) *v1alpha1.Provisioner {
	pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: name}}
	pr.Spec.Labels = map[string]string{"test": ofRun(name)}
	if change != nil {
		change(pr)
	}
	return pr
}

// require limits what a Provisioner may buy.
func require(key string, values ...string) func(*v1alpha1.Provisioner) {
	return func(p *v1alpha1.Provisioner) {
		p.Spec.Requirements = append(p.Spec.Requirements, v1alpha1.Requirement{Key: key, Operator: v1alpha1.OperatorIn, Values: values})
	}
}

// pods are n pods of which a node takes one: they want the same port.
func pods(provisioner string, n int) []client.Object {
	var out []client.Object
	for i := range n {
		out = append(out, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s-%03d", provisioner, i)},
			Spec: corev1.PodSpec{
				ServiceAccountName: "test", NodeSelector: map[string]string{"test": ofRun(provisioner)},
				Containers: []corev1.Container{{Name: "app", Image: "registry.k8s.io/pause:3.10",
					Ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}},
					Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
						corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}}}},
			},
		})
	}
	return out
}

func (w *world) podList() []corev1.Pod {
	var list corev1.PodList
	if err := plane.Client.List(w.ctx, &list, client.InNamespace(namespace)); err != nil && w.ctx.Err() == nil {
		w.report([]string{"listing pods: " + err.Error()})
	}
	return list.Items
}

var inNamespace = client.InNamespace(namespace)

func keyOf(namespace, name string) client.ObjectKey {
	return client.ObjectKey{Namespace: namespace, Name: name}
}
