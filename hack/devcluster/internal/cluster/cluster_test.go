package cluster

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A test that needs another process re-runs the test binary: with this
// variable set it claims the folder that is its value, says so, and waits for
// the end of its stdin.
const claimant = "CLUSTER_TEST_CLAIM"

func TestMain(m *testing.M) {
	if dir := os.Getenv(claimant); dir != "" {
		_, _, err := claimDir(dir)
		fmt.Println(err)
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	os.Exit(m.Run())
}

// binDir is a folder with the named programs.
func binDir(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestValidate(t *testing.T) {
	complete := binDir(t, "ec2sim", "webhook", "provisioner")
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string // part of the message; empty: valid
	}{
		"the defaults":                      {func(*Config) {}, ""},
		"no boot delay":                     {func(c *Config) { c.BootDelay = 0 }, ""},
		"a negative boot delay":             {func(c *Config) { c.BootDelay = -1 }, "--boot-delay"},
		"a zone for a region":               {func(c *Config) { c.Region = "us-west-2a" }, "like us-west-2"},
		"a region with more parts":          {func(c *Config) { c.Region = "us-gov-west-1" }, ""},
		"no region":                         {func(c *Config) { c.Region = "" }, "--region"},
		"a cluster name with a slash":       {func(c *Config) { c.ClusterName = "a/b" }, "--cluster-name"},
		"Berth without EC2":                 {func(c *Config) { c.EC2 = false }, "--berth=false"},
		"neither":                           {func(c *Config) { c.EC2, c.Berth, c.BinDir = false, false, "" }, ""},
		"ec2sim is missing":                 {func(c *Config) { c.BinDir = binDir(t); c.Berth = false }, "ec2sim is not in"},
		"without Berth its programs may be": {func(c *Config) { c.BinDir = binDir(t, "ec2sim"); c.Berth = false }, ""},
		"the provisioner is missing":        {func(c *Config) { c.BinDir = binDir(t, "ec2sim", "webhook") }, "run make build"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{BinDir: complete, EC2: true, Berth: true, BootDelay: time.Second, Region: "us-west-2", ClusterName: "berth-dev"}
			tc.change(&c)
			err := c.Validate()
			if tc.want == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is %v, want one line with %q", err, tc.want)
			}
		})
	}
}

func TestClaimDir(t *testing.T) {
	write := func(t *testing.T, path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("a new folder is made", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "a", "b")
		release, found, err := claimDir(dir)
		if err != nil || found {
			t.Fatalf("found %t, %v", found, err)
		}
		release()
	})
	t.Run("a dead cluster's remains go, other files stay", func(t *testing.T) {
		dir := t.TempDir()
		for _, name := range []string{"lock", "etcd/member/wal", "logs/etcd.log", "kubeconfig", "notes.txt"} {
			write(t, filepath.Join(dir, name))
		}
		release, found, err := claimDir(dir)
		if err != nil || !found {
			t.Fatalf("found %t, %v; want true", found, err)
		}
		defer release()
		var names []string
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if diff := cmp.Diff([]string{"lock", "notes.txt"}, names); diff != "" {
			t.Errorf("left in the folder (-want +got):\n%s", diff)
		}
	})
	t.Run("somebody's folder is refused and left alone", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "kubeconfig"))
		if _, _, err := claimDir(dir); !errors.Is(err, ErrUsage) {
			t.Errorf("error is %v, want ErrUsage", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "kubeconfig")); err != nil {
			t.Error(err)
		}
	})
	t.Run("a live cluster's folder is refused with its process, and free after its death", func(t *testing.T) {
		dir := t.TempDir()
		other := exec.Command(os.Args[0])
		other.Env = []string{claimant + "=" + dir}
		stdin, err := other.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		out, err := other.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		defer other.Process.Kill()
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "<nil>\n" {
			t.Fatalf("the other process says %q, %v", line, err)
		}
		_, _, err = claimDir(dir)
		if want := fmt.Sprintf("process %d", other.Process.Pid); !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want ErrUsage with %q", err, want)
		}
		if err := other.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = other.Wait() // killed, as it should be
		release, _, err := claimDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		release()
	})
}

func TestReservedPortsAreHeldUntilReleased(t *testing.T) {
	ports, err := reserveSystemPorts()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, slot := range ports.slots() {
		p := *slot
		if seen[p.number] || p.number < firstPort || p.number >= lastPort {
			t.Errorf("port %d is not a port of its own in the range", p.number)
		}
		seen[p.number] = true
		if l, err := net.Listen("tcp", p.address()); err == nil {
			l.Close()
			t.Errorf("%s can be taken while it is held", p.address())
		}
	}
	ports.release()
	l, err := net.Listen("tcp", ports.etcd.address())
	if err != nil {
		t.Fatalf("a released port cannot be taken: %v", err)
	}
	l.Close()
}

func TestServingCertificateIsGoodForLoopbackOnly(t *testing.T) {
	now := time.Now()
	keys, err := newPKI(now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(keys.serverCert, keys.serverKey)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(keys.caCert)
	for name, valid := range map[string]bool{"127.0.0.1": true, "localhost": true, "kubernetes.default.svc": true, "10.0.0.1": false, "example.com": false} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now})
		if (err == nil) != valid {
			t.Errorf("%s: %v, want valid %t", name, err, valid)
		}
	}
}

// The prober must verify the server and be known to it.
func TestProberVerifiesTheServerAndShowsItsToken(t *testing.T) {
	keys, err := newPKI(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(keys.serverCert, keys.serverKey)
	if err != nil {
		t.Fatal(err)
	}
	answers := 0
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+keys.adminToken {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if answers++; answers < 3 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	ours := httptest.NewUnstartedServer(handler)
	ours.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	ours.StartTLS()
	defer ours.Close()
	foreign := httptest.NewUnstartedServer(handler)
	foreign.Config.ErrorLog = log.New(io.Discard, "", 0) // of refused handshakes
	foreign.StartTLS()
	defer foreign.Close()

	p, err := newProber(keys)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.wait(t.Context(), ours.URL, time.Minute); err != nil || answers != 3 {
		t.Errorf("after %d answers: %v, want the third to do", answers, err)
	}
	var unknown x509.UnknownAuthorityError
	if err := p.ok(t.Context(), foreign.URL); !errors.As(err, &unknown) {
		t.Errorf("a server with another CA gives %v", err)
	}
	if err := p.wait(t.Context(), foreign.URL, time.Millisecond); err == nil || !strings.Contains(err.Error(), "not ready after 1ms") {
		t.Errorf("error is %v, want the limit in it", err)
	}
}

func TestKubeconfigStandsAlone(t *testing.T) {
	data, err := kubeconfig("berth-dev", "https://127.0.0.1:6443", "admin", "secret", []byte("ca"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "berth-dev",
		"clusters": []any{map[string]any{"name": "berth-dev", "cluster": map[string]any{
			"server": "https://127.0.0.1:6443", "certificate-authority-data": base64.StdEncoding.EncodeToString([]byte("ca")),
			"disable-compression": true,
		}}},
		"users":    []any{map[string]any{"name": "admin", "user": map[string]any{"token": "secret"}}},
		"contexts": []any{map[string]any{"name": "berth-dev", "context": map[string]any{"cluster": "berth-dev", "user": "admin"}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kubeconfig (-want +got):\n%s", diff)
	}
}

// plan is a planner with ports that are easy to read.
func plan(c Config) planner {
	var s systemPorts
	for i, slot := range s.slots() {
		*slot = &port{number: 1 + i}
	}
	return planner{config: c, layout: layout{"/c"}, ports: s}
}

func TestSiblingsAreToldAllTheyMayKnow(t *testing.T) {
	p := plan(Config{
		BinDir: "/bin", ClusterName: "dev", Region: "eu-west-1", BootDelay: 1500 * time.Millisecond,
		ProvisionerArgs: []string{"--log-level", "debug"},
		Environ:         []string{"PATH=/usr/bin", "AWS_PROFILE=mine", "KUBECONFIG=/mine", "KUBERNETES_SERVICE_HOST=x", "GOCOVERDIR=/cov"},
	})
	type told struct{ Path, Args, Env, Ready string }
	got := map[string]told{}
	for _, c := range []component{p.ec2sim(), p.webhook(), p.provisioner()} {
		got[c.Name] = told{c.Path, strings.Join(c.Args, " "), strings.Join(c.Env, " "), c.ready}
	}
	want := map[string]told{
		"ec2sim": {
			"/bin/ec2sim", "--listen 127.0.0.1:7 --kubeconfig /c/kubeconfig --region eu-west-1 --cluster-name dev --boot-delay 1.5s",
			"PATH=/usr/bin GOCOVERDIR=/cov", "http://127.0.0.1:7/healthz",
		},
		"webhook": {
			"/bin/webhook", "--kubeconfig /c/kubeconfig --bind-address 127.0.0.1 --port 8 --cluster-name dev --cert-mode self --webhook-url https://127.0.0.1:8 --metrics-bind-address 127.0.0.1:9 --health-probe-bind-address 127.0.0.1:10",
			"PATH=/usr/bin GOCOVERDIR=/cov", "http://127.0.0.1:10/readyz",
		},
		"provisioner": {
			"/bin/provisioner", "--kubeconfig /c/kubeconfig --cluster-name dev --cluster-endpoint https://127.0.0.1:3 --interruption-queue dev --metrics-bind-address 127.0.0.1:11 --health-probe-bind-address 127.0.0.1:12 --log-level debug",
			"PATH=/usr/bin GOCOVERDIR=/cov AWS_ACCESS_KEY_ID=sim AWS_EC2_METADATA_DISABLED=true AWS_ENDPOINT_URL=http://127.0.0.1:7 AWS_REGION=eu-west-1 AWS_SECRET_ACCESS_KEY=sim",
			"http://127.0.0.1:12/readyz",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what siblings are told (-want +got):\n%s", diff)
	}
}

// No component may listen on anything but loopback, and none of the control
// plane may see the caller's environment.
func TestControlPlaneStaysOnLoopback(t *testing.T) {
	p := plan(Config{Tools: map[string]string{}, Environ: []string{"HTTPS_PROXY=http://proxy", "HOME=/home/u"}})
	for _, c := range []component{p.etcd(), p.apiServer(), p.controllerManager(), p.scheduler(), p.kwok()} {
		if len(c.ports) == 0 || !strings.Contains(c.ready, "://127.0.0.1:") {
			t.Errorf("%s: ports %v, ready %s", c.Name, c.ports, c.ready)
		}
		for _, arg := range c.Args {
			if strings.Contains(arg, "0.0.0.0") || strings.Contains(arg, "-address=") && !strings.Contains(arg, "127.0.0.1") {
				t.Errorf("%s listens beyond loopback: %s", c.Name, arg)
			}
		}
		bound := slices.ContainsFunc(c.Args, func(arg string) bool { return strings.Contains(arg, "127.0.0.1") })
		if !bound {
			t.Errorf("%s is not bound to loopback: %v", c.Name, c.Args)
		}
		if want := []string{"HOME=/c", "TMPDIR=/c", collectRarely}; !slices.Equal(c.Env, want) {
			t.Errorf("%s gets the environment %v, want %v", c.Name, c.Env, want)
		}
	}
}

func TestLineSaysWhatRunsAndNothingOfWhatDoesNot(t *testing.T) {
	base := []string{
		"apiServer", "caFile", "clusterName", "controllerManagerHealth", "dir", "etcd",
		"kubeconfig", "kubectl", "kwokHealth", "pids", "schedulerHealth",
	}
	ec2 := []string{"ec2Endpoint", "env", "region"}
	berth := []string{"provisionerHealth", "provisionerMetrics", "webhook", "webhookHealth", "webhookMetrics"}
	for name, tc := range map[string]struct {
		config Config
		want   []string
	}{
		"the control plane alone": {Config{}, base},
		"with ec2sim":             {Config{EC2: true}, slices.Concat(base, ec2)},
		"with Berth":              {Config{EC2: true, Berth: true}, slices.Concat(base, ec2, berth)},
	} {
		t.Run(name, func(t *testing.T) {
			tc.config.Tools = map[string]string{"kubectl": "/t/kubectl"}
			tc.config.Region = "us-west-2"
			line, err := plan(tc.config).info().Line()
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Count(line, []byte("\n")) != 1 || !bytes.HasSuffix(line, []byte("\n")) {
				t.Errorf("not one line: %q", line)
			}
			var got map[string]any
			if err := json.Unmarshal(line, &got); err != nil {
				t.Fatal(err)
			}
			var keys []string
			for key := range got {
				keys = append(keys, key)
			}
			slices.Sort(keys)
			slices.Sort(tc.want)
			if diff := cmp.Diff(tc.want, keys); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
		})
	}
}

func TestKwokConfigurationHoldsEveryStageOnce(t *testing.T) {
	data, err := kwokConfig()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node-initialize", "node-heartbeat", "node-lease-renew", "pod-ready", "pod-complete", "pod-terminate", "pod-delete"} {
		if n := strings.Count(string(data), "\n  name: "+name+"\n"); n != 1 {
			t.Errorf("stage %s is there %d times", name, n)
		}
	}
	var options struct{ Kind string }
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&options); err != nil || options.Kind != "KwokConfiguration" {
		t.Errorf("it begins with a %q, %v", options.Kind, err)
	}
}

func TestCRDs(t *testing.T) {
	root := t.TempDir()
	bin := filepath.Join(root, "bin")
	if got := FindCRDs(bin); got != "" {
		t.Errorf("found %q where there is nothing", got)
	}
	dir := filepath.Join(root, "deploy", "crds")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := CheckCRDs(dir); !errors.Is(err, ErrUsage) {
		t.Errorf("an empty folder gives %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := FindCRDs(bin); got != dir {
		t.Errorf("found %q, want %q", got, dir)
	}
	if err := CheckCRDs(dir); err != nil {
		t.Error(err)
	}
	if err := CheckCRDs(filepath.Join(dir, "none")); !errors.Is(err, ErrUsage) {
		t.Errorf("a missing folder gives %v", err)
	}
}
