package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/test/cluster"
)

// karpenter measures Karpenter on the same control plane, with its provider for
// simulated kubelets, which makes the Node itself, at once, and calls no cloud; it
// chooses among the 144 made-up instance types that it comes with.
// program is that provider, source the module that it was built from.
func karpenter(ctx context.Context, program, source string, pods int, limit time.Duration) (r result, err error) {
	c, err := cluster.Start(ctx, os.Stderr, "--berth=false")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, glob := range []string{"pkg/apis/crds/*.yaml", "kwok/apis/crds/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(source, glob))
		if err != nil || len(files) == 0 {
			return r, fmt.Errorf("no custom resource definitions in %s: %w", filepath.Join(source, glob), err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				return r, err
			}
			if err := create(ctx, c, data); err != nil {
				return r, fmt.Errorf("%s: %w", f, err)
			}
		}
	}
	stop, err := startKarpenter(ctx, c, program)
	if err != nil {
		return r, err
	}
	defer stop()
	for _, object := range []string{nodeClass, nodePool} {
		if err := create(ctx, c, []byte(object)); err != nil {
			return r, err
		}
	}
	if err := untilReady(ctx, c); err != nil {
		return r, err
	}
	if r, err = burst(ctx, c, pods); err != nil {
		return r, fmt.Errorf("%w\n%s", err, said(c))
	}
	var nodes corev1.NodeList
	err = c.Client.List(ctx, &nodes)
	r.nodes = len(nodes.Items)
	return r, err
}

// What Berth's default Provisioner asks for too: on-demand, amd64, Linux. Nothing
// is consolidated meanwhile.
const (
	nodeClass = `{apiVersion: karpenter.kwok.sh/v1alpha1, kind: KWOKNodeClass, metadata: {name: default}}`
	nodePool  = `
apiVersion: karpenter.sh/v1
kind: NodePool
metadata: {name: default}
spec:
  template:
    spec:
      nodeClassRef: {group: karpenter.kwok.sh, kind: KWOKNodeClass, name: default}
      requirements:
      - {key: karpenter.sh/capacity-type, operator: In, values: [on-demand]}
      - {key: kubernetes.io/arch, operator: In, values: [amd64]}
      - {key: kubernetes.io/os, operator: In, values: [linux]}
  disruption: {consolidationPolicy: WhenEmpty, consolidateAfter: Never}
`
)

// create makes an object, as soon as its kind is served.
func create(ctx context.Context, c *cluster.Cluster, data []byte) error {
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(data, &u.Object); err != nil {
		return err
	}
	var last error
	err := cluster.Until(ctx, func() (bool, error) {
		last = c.Client.Create(ctx, u)
		return last == nil, nil
	})
	return errors.Join(err, last)
}

// startKarpenter starts it, with as many requests allowed as it may want, and
// waits until it is ready. stop ends it.
func startKarpenter(ctx context.Context, c *cluster.Cluster, program string) (stop func(), err error) {
	var ports [2]int
	for i := range ports {
		if ports[i], err = cluster.FreePort(); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(filepath.Join(c.Dir, "logs", "karpenter.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig, "SYSTEM_NAMESPACE=kube-system", "DISABLE_LEADER_ELECTION=true",
		"KUBE_CLIENT_QPS=5000", "KUBE_CLIENT_BURST=10000", "METRICS_PORT="+strconv.Itoa(ports[0]), "HEALTH_PROBE_PORT="+strconv.Itoa(ports[1]))
	cmd.Stdout, cmd.Stderr = log, log
	ended := make(chan struct{})
	if err := cluster.StartTied(cmd, func() { _ = cmd.Wait(); close(ended) }); err != nil {
		return nil, fmt.Errorf("starting Karpenter: %w", err)
	}
	stop = func() { _ = cmd.Process.Kill(); <-ended }
	err = cluster.Until(ctx, func() (bool, error) {
		select {
		case <-ended:
			return false, fmt.Errorf("it ended:\n%s", c.Log("karpenter"))
		default:
		}
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", ports[1]))
		if err != nil {
			return false, nil // Not listening yet.
		}
		return resp.StatusCode == http.StatusOK, resp.Body.Close()
	})
	if err != nil {
		stop()
		return nil, fmt.Errorf("waiting for Karpenter: %w", err)
	}
	return stop, nil
}

// untilReady waits until the NodePool is ready for use.
func untilReady(ctx context.Context, c *cluster.Cluster) error {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: "karpenter.sh", Version: "v1", Kind: "NodePool"})
	u.SetName("default")
	err := cluster.Until(ctx, func() (bool, error) {
		if err := c.Client.Get(ctx, client.ObjectKeyFromObject(u), u); err != nil {
			return false, err
		}
		conditions, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
		return slices.ContainsFunc(conditions, func(x any) bool {
			m, _ := x.(map[string]any)
			return m["type"] == "Ready" && m["status"] == "True"
		}), err
	})
	if err != nil {
		return fmt.Errorf("waiting for the NodePool: %w\n%s", err, said(c))
	}
	return nil
}

// said is what Karpenter said last.
func said(c *cluster.Cluster) string {
	lines := strings.Split(c.Log("karpenter"), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
