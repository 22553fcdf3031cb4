package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/hack/devcluster/internal/cluster"
	"github.com/berth-dev/berth/hack/devcluster/internal/toolset"
)

// patience is the limit for anything that a cluster does on a busy machine.
const patience = 2 * time.Minute

// needTools skips unless the control plane is built, or may be built here.
func needTools(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no control plane")
	}
	if os.Getenv("BERTH_DEVCLUSTER_BUILD") != "" {
		return
	}
	cache, err := toolset.CacheDir(os.Getenv, os.UserCacheDir)
	if err != nil {
		t.Skip(err)
	}
	_, missing, err := toolset.Builder{
		Manifest: toolset.Manifest{Mod: goMod, Sum: goSum},
		CacheDir: cache,
		Assets:   os.Getenv("KUBEBUILDER_ASSETS"),
	}.Find()
	if err != nil {
		t.Fatal(err)
	}
	if len(missing) > 0 {
		t.Skipf("%d control plane programs are not built; run make control-plane, or set BERTH_DEVCLUSTER_BUILD=1 to build them here", len(missing))
	}
}

// program builds this program once, into a folder where nothing else is.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "devcluster-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "devcluster")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// running is a devcluster process.
type running struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr *lockedBuffer
	done           chan struct{}
	cluster.Info
}

// lockedBuffer can be read while a process writes to it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// launch starts "devcluster up" with the arguments.
func launch(t *testing.T, args ...string) *running {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, stdout: &lockedBuffer{}, stderr: &lockedBuffer{}, done: make(chan struct{})}
	r.cmd = exec.Command(path, append([]string{"up"}, args...)...)
	r.cmd.Stdout, r.cmd.Stderr = r.stdout, r.stderr
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait() // the exit code is in cmd.ProcessState
		close(r.done)
	}()
	t.Cleanup(func() {
		select {
		case <-r.done:
		default:
			_ = r.cmd.Process.Signal(syscall.SIGTERM)
			<-r.done
		}
	})
	return r
}

// startUp starts a control plane alone in dir and waits until it is ready.
func startUp(t *testing.T, dir string) *running {
	t.Helper()
	r := launch(t, "--berth=false", "--ec2=false", "--dir", dir)
	eventually(t, "the cluster is ready", func() bool {
		select {
		case <-r.done:
			t.Fatalf("devcluster ended:\n%s", r.stderr)
		default:
		}
		return strings.HasSuffix(r.stdout.String(), "\n")
	})
	if err := json.Unmarshal([]byte(r.stdout.String()), &r.Info); err != nil {
		t.Fatalf("stdout is %q: %v", r.stdout, err)
	}
	return r
}

// ended waits for the process and returns its exit code.
func (r *running) ended() int {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Fatalf("devcluster does not end:\n%s", r.stderr)
	}
	return r.cmd.ProcessState.ExitCode()
}

// left names the cluster's processes that still exist.
func (r *running) left() []string {
	var names []string
	for name, pid := range r.Pids {
		if err := syscall.Kill(pid, 0); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// kubectl runs the cluster's kubectl and returns its stdout.
func (r *running) kubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(r.Kubectl, append([]string{"--kubeconfig", r.Kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// wait waits with "kubectl wait".
func (r *running) wait(t *testing.T, object, condition string) {
	t.Helper()
	r.kubectl(t, "", "wait", object, "--for="+condition, "--timeout="+patience.String())
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never came true: %s", what)
		}
	}
}

const workload = `
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {kubernetes.io/hostname: n1}, annotations: {kwok.x-k8s.io/node: fake}}
status:
  capacity: {cpu: "8", memory: 16Gi, pods: "58", nvidia.com/gpu: "2"}
  allocatable: {cpu: "7", memory: 15Gi, pods: "58", nvidia.com/gpu: "2"}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: c, image: web, resources: {requests: {cpu: "1"}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: slow, annotations: {pod-delete.stage.kwok.x-k8s.io/delay: grace}}
spec: {terminationGracePeriodSeconds: 3, containers: [{name: c, image: slow}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 0, selector: {matchLabels: {app: web}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: batch}
spec:
  completions: 2
  parallelism: 2
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: batch}]}}
`

func TestUpRunsARealControlPlane(t *testing.T) {
	needTools(t)
	dir := filepath.Join(t.TempDir(), "c")
	r := startUp(t, dir)

	t.Run("client and server are of the same version", func(t *testing.T) {
		want, err := toolset.Manifest{Mod: goMod}.Version("k8s.io/kubernetes")
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ ClientVersion, ServerVersion struct{ GitVersion string } }
		if err := json.Unmarshal([]byte(r.kubectl(t, "", "version", "-o", "json")), &got); err != nil {
			t.Fatal(err)
		}
		if os.Getenv("KUBEBUILDER_ASSETS") == "" && (got.ClientVersion.GitVersion != want || got.ServerVersion.GitVersion != want) {
			t.Errorf("got %+v, want %s", got, want)
		}
	})
	t.Run("the kubeconfig is its owner's alone", func(t *testing.T) {
		info, err := os.Stat(r.Kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode is %v", info.Mode())
		}
	})
	t.Run("its folder is refused to others", func(t *testing.T) {
		second := launch(t, "--berth=false", "--ec2=false", "--dir", dir)
		if code := second.ended(); code != exitUsage || !strings.Contains(second.stderr.String(), "a cluster runs in --dir") {
			t.Errorf("exit code %d:\n%s", code, second.stderr)
		}
	})
	t.Run("kwok plays the kubelet", func(t *testing.T) {
		r.kubectl(t, workload, "create", "-f", "-")
		r.wait(t, "node/n1", "condition=Ready")
		r.wait(t, "pod/web", "condition=Ready")
		r.wait(t, "pdb/web", "jsonpath={.status.disruptionsAllowed}=1")
		r.wait(t, "job/batch", "condition=Complete")
		got := r.kubectl(t, "", "get", "node", "n1", "-o", `jsonpath={.status.capacity.cpu} {.status.allocatable.cpu} {.status.allocatable.nvidia\.com/gpu}`)
		if want := "8 7 2"; got != want {
			t.Errorf("the node holds %q, want %q as it was made", got, want)
		}
		if got := r.kubectl(t, "", "get", "lease", "n1", "-n", "kube-node-lease", "-o", "jsonpath={.spec.holderIdentity}"); got != "n1" {
			t.Errorf("the node's lease is held by %q", got)
		}
		if got := r.kubectl(t, "", "get", "pod", "web", "-o", "jsonpath={.status.phase} {.status.hostIP} {.status.containerStatuses[0].ready}"); got != "Running 127.0.0.1 true" {
			t.Errorf("the pod is %q", got)
		}
	})
	t.Run("deleted pods go away at once, or when their grace ends", func(t *testing.T) {
		r.wait(t, "pod/slow", "condition=Ready")
		begin := time.Now()
		r.kubectl(t, "", "delete", "pod", "slow", "--wait=false")
		r.kubectl(t, "", "delete", "pod", "web", "--timeout="+patience.String())
		if phase := r.kubectl(t, "", "get", "pod", "slow", "--ignore-not-found", "-o", "jsonpath={.status.phase}"); phase != "Running" && time.Since(begin) < 2*time.Second {
			t.Errorf("the pod that uses its grace is %q before it ends", phase)
		}
		r.wait(t, "pod/slow", "delete")
		// The end of the grace is stored in whole seconds.
		if took := time.Since(begin); took < 2*time.Second {
			t.Errorf("the pod with a grace of 3 s was gone after %s", took)
		}
	})
	t.Run("a deleted Job takes its running pods along", func(t *testing.T) {
		r.kubectl(t, `
apiVersion: batch/v1
kind: Job
metadata: {name: long}
spec:
  podReplacementPolicy: Failed
  template:
    metadata: {annotations: {pod-complete.stage.kwok.x-k8s.io/delay: 1h}}
    spec: {restartPolicy: Never, containers: [{name: c, image: long}]}
`, "create", "-f", "-")
		r.wait(t, "job/long", "jsonpath={.status.ready}=1")
		r.kubectl(t, "", "delete", "job", "long", "--cascade=foreground", "--timeout="+patience.String())
		if pods := r.kubectl(t, "", "get", "pods", "-l", "job-name=long", "-o", "name"); pods != "" {
			t.Errorf("left: %s", pods)
		}
	})
	t.Run("a node whose kubelet is stopped keeps its deleted pods", func(t *testing.T) {
		r.kubectl(t, `
apiVersion: v1
kind: Pod
metadata: {name: stuck}
spec: {nodeName: n1, terminationGracePeriodSeconds: 1, containers: [{name: c, image: stuck}]}
`, "create", "-f", "-")
		r.wait(t, "pod/stuck", "condition=Ready")
		r.kubectl(t, "", "label", "node", "n1", "devcluster.berth.dev/kubelet-stopped=")
		r.kubectl(t, "", "delete", "lease", "n1", "-n", "kube-node-lease")
		// kwok learns of nodes in order: when it plays the kubelet of the next
		// one, it has let go of this one.
		r.kubectl(t, strings.ReplaceAll(workload[:strings.Index(workload, "---")], "n1", "n2"), "create", "-f", "-")
		r.kubectl(t, `
apiVersion: v1
kind: Pod
metadata: {name: moved}
spec: {nodeName: n2, containers: [{name: c, image: moved}]}
`, "create", "-f", "-")
		r.wait(t, "pod/moved", "condition=Ready")
		r.kubectl(t, "", "delete", "pod", "stuck", "--wait=false")
		r.kubectl(t, "", "delete", "pod", "moved", "--timeout="+patience.String())
		if got := r.kubectl(t, "", "get", "pod", "stuck", "-o", "jsonpath={.status.phase}"); got != "Running" {
			t.Errorf("the pod on the stopped node is %q", got)
		}
		r.kubectl(t, "", "label", "node", "n1", "devcluster.berth.dev/kubelet-stopped-")
		r.wait(t, "pod/stuck", "delete")
	})

	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := r.ended(); code != exitOK {
		t.Errorf("exit code %d after SIGTERM:\n%s", code, r.stderr)
	}
	if strings.Contains(r.stderr.String(), "was killed") {
		t.Errorf("not all components ended by themselves:\n%s", r.stderr)
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("left after SIGTERM: %v", left)
	}
	if n := strings.Count(r.stdout.String(), "\n"); n != 1 {
		t.Errorf("stdout has %d lines, want 1:\n%s", n, r.stdout)
	}
}

func TestNothingOutlivesItsParent(t *testing.T) {
	needTools(t)
	dir := filepath.Join(t.TempDir(), "c")
	r := startUp(t, dir)
	if len(r.Pids) != 6 {
		t.Fatalf("pids are %v, want those of five components and of devcluster", r.Pids)
	}
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	r.ended()
	eventually(t, "all are gone after SIGKILL of devcluster", func() bool { return len(r.left()) == 0 })

	// The folder of the dead cluster is good for the next, and one dead
	// component ends it.
	r = startUp(t, dir)
	if !strings.Contains(r.stderr.String(), "starting clean") {
		t.Errorf("it does not say that it starts clean:\n%s", r.stderr)
	}
	if err := syscall.Kill(r.Pids["kwok"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := r.ended(); code != exitFailure {
		t.Errorf("exit code %d after the death of kwok", code)
	}
	for _, want := range []string{"kwok was killed by signal: killed", filepath.Join(dir, "logs", "kwok.log"), `"msg":`} {
		if !strings.Contains(r.stderr.String(), want) {
			t.Errorf("%q is not said:\n%s", want, r.stderr)
		}
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("left after the death of kwok: %v", left)
	}
}

// These need no control plane: they fail before one is looked for.
func TestWrongCallsAreOneLineAndExitCode2(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"an unknown flag":          {[]string{"--nope"}, "devcluster help"},
		"a region that is none":    {[]string{"--region", "Oregon"}, "--region"},
		"programs that are absent": {nil, "run make build"},
		"Berth without EC2":        {[]string{"--ec2=false"}, "--berth=false"},
		"a folder without CRDs":    {[]string{"--crds", t.TempDir()}, "has no YAML files"},
	} {
		t.Run(name, func(t *testing.T) {
			r := launch(t, tc.args...)
			code := r.ended()
			text := r.stderr.String()
			if code != exitUsage || strings.Count(text, "\n") != 1 || !strings.Contains(text, tc.want) {
				t.Errorf("exit code %d, want %d and one line with %q:\n%s", code, exitUsage, tc.want, text)
			}
			if r.stdout.String() != "" {
				t.Errorf("stdout is %q", r.stdout)
			}
		})
	}
}
