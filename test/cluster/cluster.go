// Package cluster starts bin/devcluster for tests, benchmarks and the demo, and
// gives them clients for the API server and for ec2sim's admin endpoint.
package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Info is the line of JSON that devcluster prints when it is ready.
type Info struct {
	Kubeconfig  string            `json:"kubeconfig"`
	Dir         string            `json:"dir"`
	ClusterName string            `json:"clusterName"`
	APIServer   string            `json:"apiServer"`
	Kubectl     string            `json:"kubectl"`
	EC2Endpoint string            `json:"ec2Endpoint"`
	Region      string            `json:"region"`
	Env         map[string]string `json:"env"`
	Pids        map[string]int    `json:"pids"`

	Webhook            string `json:"webhook"`
	WebhookMetrics     string `json:"webhookMetrics"`
	ProvisionerMetrics string `json:"provisionerMetrics"`
}

// Cluster is a running development cluster.
type Cluster struct {
	Info
	// Bin is the folder of Berth's programs.
	Bin string
	// Config and Client talk to its API server without client-side limits.
	Config *rest.Config
	Client client.WithWatch

	cmd  *exec.Cmd
	done chan error
	log  *tail
}

// Bin finds the folder with Berth's programs: bin/ at the root of the module.
func Bin() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			bin := filepath.Join(dir, "bin")
			if _, err := os.Stat(filepath.Join(bin, "devcluster")); err != nil {
				return "", fmt.Errorf("%s is missing: run make build", filepath.Join(bin, "devcluster"))
			}
			return bin, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside Berth's source tree")
		}
		dir = parent
	}
}

// Start runs devcluster up with the given flags and waits until it is ready.
// What it says on the way goes to progress. The cluster ends with Stop, or
// with this process.
func Start(ctx context.Context, progress io.Writer, flags ...string) (*Cluster, error) {
	bin, err := Bin()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Bin: bin, done: make(chan error, 1), log: &tail{}}
	c.cmd = exec.Command(filepath.Join(bin, "devcluster"), append([]string{"up"}, flags...)...)
	c.cmd.Stderr = io.MultiWriter(progress, c.log)
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting devcluster: %w", err)
	}
	line := make(chan []byte, 1)
	err = StartTied(c.cmd, func() {
		r := bufio.NewReader(out)
		l, _ := r.ReadBytes('\n') // An error shows as an empty line below.
		line <- l
		_, _ = io.Copy(io.Discard, r)
		c.done <- c.cmd.Wait()
	})
	if err != nil {
		return nil, fmt.Errorf("starting devcluster: %w", err)
	}
	select {
	case l := <-line:
		if err := json.Unmarshal(l, &c.Info); err != nil {
			_ = c.Stop()
			return nil, fmt.Errorf("devcluster did not become ready:\n%s", c.log)
		}
	case <-ctx.Done():
		_ = c.Stop()
		return nil, fmt.Errorf("waiting for devcluster: %w\n%s", ctx.Err(), c.log)
	}
	if err := c.connect(); err != nil {
		_ = c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) connect() error {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return fmt.Errorf("reading the cluster's kubeconfig: %w", err)
	}
	cfg.QPS = -1
	ctrllog.SetLogger(logr.Discard()) // Or the client complains that nobody did.
	scheme := apiruntime.NewScheme()
	for _, add := range []func(*apiruntime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	c.Config = cfg
	c.Client, err = client.NewWithWatch(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("connecting to the cluster: %w", err)
	}
	return nil
}

// Stop ends the cluster and waits until all of it is gone.
func (c *Cluster) Stop() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping devcluster: %w", err)
	}
	select {
	case err := <-c.done:
		c.done <- err
		if err != nil {
			return fmt.Errorf("devcluster: %w\n%s", err, c.log)
		}
		return nil
	case <-time.After(30 * time.Second):
		_ = c.cmd.Process.Kill()
		return errors.New("devcluster did not stop within 30 s and was killed")
	}
}

// Log reads a component's log file.
func (c *Cluster) Log(component string) string {
	data, err := os.ReadFile(filepath.Join(c.Dir, "logs", component+".log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Instance is an instance as ec2sim's admin endpoint shows it.
type Instance struct {
	ID           string            `json:"id"`
	Type         string            `json:"type"`
	Zone         string            `json:"zone"`
	CapacityType string            `json:"capacityType"`
	State        string            `json:"state"`
	Price        float64           `json:"price"`
	Tags         map[string]string `json:"tags"`
}

// Live reports whether the instance still exists for EC2's bill.
func (i Instance) Live() bool { return i.State != "terminated" }

// Instances reads all instances that ec2sim has, terminated ones included.
func (c *Cluster) Instances(ctx context.Context) ([]Instance, error) {
	var state struct {
		Instances []Instance `json:"instances"`
	}
	return state.Instances, c.Sim(ctx, http.MethodGet, "state", nil, &state)
}

// LiveInstances reads the instances that are not terminated.
func (c *Cluster) LiveInstances(ctx context.Context) ([]Instance, error) {
	all, err := c.Instances(ctx)
	var live []Instance
	for _, i := range all {
		if i.Live() {
			live = append(live, i)
		}
	}
	return live, err
}

// Sim calls ec2sim's admin endpoint: /_sim/<path>.
func (c *Cluster) Sim(ctx context.Context, method, path string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.EC2Endpoint+"/_sim/"+path, &body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking ec2sim: %w", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("asking ec2sim: %w", err)
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("ec2sim %s %s: %s: %s", method, path, res.Status, data)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// Environ is the environment of a process that talks to ec2sim.
func (c *Cluster) Environ() []string {
	env := os.Environ()
	for k, v := range c.Env {
		env = append(env, k+"="+v)
	}
	return env
}

// tail keeps the last of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - 8192; over > 0 {
		t.buf = t.buf[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
