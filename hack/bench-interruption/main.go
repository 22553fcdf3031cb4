// Command bench-interruption measures how fast nodes are taken out of use when
// the interruption queue is flooded: thousands of messages become visible at
// the same moment, a few of them notices for nodes of this cluster, the rest
// about other people's instances or no events at all. It runs on the real
// control plane, prints what it measured, and exits 1 when a node was missed.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
	"github.com/berth-dev/berth/internal/ec2"
	"github.com/berth-dev/berth/test/cluster"
)

func main() {
	messages := flag.Int("messages", 10_000, "messages in all")
	nodes := flag.Int("nodes", 200, "of them notices for nodes of this cluster")
	poison := flag.Int("poison", 100, "of them no events")
	limit := flag.Duration("limit", 6*time.Minute, "give up after that long")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	if err := run(ctx, *messages, *nodes, *poison); err != nil {
		fmt.Fprintln(os.Stderr, "bench-interruption:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, messages, nodes, poison int) (err error) {
	c, err := cluster.Start(ctx, os.Stderr, "--boot-delay=0s", "--provisioner-args", "--log-level debug")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	instances, err := prepare(ctx, c, nodes)
	if err != nil {
		return err
	}
	visible := time.Now().Add(30 * time.Second).Truncate(time.Second)
	if err := flood(ctx, c, messages, poison, instances, visible); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "bench-interruption: %d messages sent, visible at %s\n", messages, visible.Format(time.TimeOnly))
	last, err := awaitTaints(ctx, c, instances)
	if err != nil {
		return err
	}
	// EC2 tells of the instances that end and begin as well: other kinds.
	if err := awaitCount(ctx, c, fmt.Sprintf("berth_interruption_messages_total{kind=%q}", ec2.EventSpot), messages-poison); err != nil {
		return err
	}
	all := time.Since(visible)
	if err := awaitCount(ctx, c, "berth_interruption_poison_messages_total", poison); err != nil {
		return err
	}
	var took []float64
	// A notice that could not be acted on comes again; it counts from then.
	if err := cluster.Until(ctx, func() (bool, error) {
		took = latencies(c.Log("provisioner"))
		return len(took) >= nodes, nil
	}); err != nil {
		return fmt.Errorf("the log tells of %d taints, want %d: %w", len(took), nodes, err)
	}
	at := func(q float64) time.Duration {
		return time.Duration(took[int(q*float64(len(took)-1))] * float64(time.Second)).Round(time.Millisecond)
	}
	fmt.Printf("%d messages visible at once, %d of them notices for nodes of the cluster, %d no events\n", messages, nodes, poison)
	fmt.Printf("receipt to taint: p50 %s, p99 %s, most %s\n", at(.5), at(.99), at(1))
	fmt.Printf("all of ours tainted %s, all messages read %s after they became visible\n", last.Sub(visible).Round(10*time.Millisecond), all.Round(10*time.Millisecond))
	return nil
}

// prepare runs one pod on each of n spot nodes and returns their instances.
func prepare(ctx context.Context, c *cluster.Cluster, n int) ([]string, error) {
	pr := &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	pr.Spec.Requirements = []v1alpha1.Requirement{
		{Key: v1alpha1.LabelCapacityType, Operator: v1alpha1.OperatorIn, Values: []string{v1alpha1.CapacityTypeSpot}},
		{Key: v1alpha1.LabelInstanceSize, Operator: v1alpha1.OperatorIn, Values: []string{"large"}},
	}
	if err := c.Client.Create(ctx, pr); err != nil {
		return nil, err
	}
	if err := cluster.WaitProvisioner(ctx, c, "default"); err != nil {
		return nil, err
	}
	replicas := int32(n)
	labels := map[string]string{"app": "one-a-node"}
	err := c.Client.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "one-a-node"},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "app", Image: "registry.k8s.io/pause:3.10",
					Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1100m")}}}},
			}}},
	})
	if err != nil {
		return nil, err
	}
	var ids []string
	err = cluster.Until(ctx, func() (bool, error) {
		var claims v1alpha1.NodeClaimList
		if err := c.Client.List(ctx, &claims); err != nil {
			return false, err
		}
		ids = ids[:0]
		for _, claim := range claims.Items {
			for _, cond := range claim.Status.Conditions {
				if cond.Type == v1alpha1.ConditionReady && cond.Status == metav1.ConditionTrue {
					ids = append(ids, claim.Status.InstanceID)
				}
			}
		}
		return len(ids) >= n, nil
	})
	if err != nil {
		return nil, fmt.Errorf("waiting for %d nodes, of which %d are ready: %w", n, len(ids), err)
	}
	return ids[:n], nil
}

// flood sends the messages so that all become visible at one moment, ours
// evenly among them.
func flood(ctx context.Context, c *cluster.Cluster, messages, poison int, ours []string, visible time.Time) error {
	bodies := make([]string, messages)
	for i := range bodies {
		bodies[i] = notice(fmt.Sprintf("i-0%016x", i), visible)
	}
	for i, id := range ours {
		bodies[i*(messages/len(ours))] = notice(id, visible)
	}
	for i := range poison {
		bodies[i*(messages/poison)+1] = `{"detail-type":"EC2 Spot Instance Interr`
	}
	work := make(chan string)
	var wg sync.WaitGroup
	errs := make(chan error, 1)
	for range 8 {
		wg.Go(func() {
			for body := range work {
				err := c.Sim(ctx, http.MethodPost, "event", map[string]any{"body": body, "delay": time.Until(visible).String()}, nil)
				if err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	for _, b := range bodies {
		work <- b
	}
	close(work)
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		if late := time.Since(visible); late > 0 {
			return fmt.Errorf("sending took %s longer than until they were to be visible", late)
		}
		return nil
	}
}

func notice(instance string, at time.Time) string {
	return fmt.Sprintf(`{"version":"0","id":"0","detail-type":"EC2 Spot Instance Interruption Warning","source":"aws.ec2","account":"123456789012",`+
		`"time":%q,"region":"us-west-2","resources":[],"detail":{"instance-id":%q,"instance-action":"terminate"}}`, at.UTC().Format(time.RFC3339), instance)
}

// awaitTaints waits until the nodes of all instances are tainted or gone, and
// returns when the last was.
func awaitTaints(ctx context.Context, c *cluster.Cluster, instances []string) (time.Time, error) {
	waiting := map[string]bool{}
	for _, id := range instances {
		waiting[id] = true
	}
	err := cluster.Until(ctx, func() (bool, error) {
		var nodes corev1.NodeList
		if err := c.Client.List(ctx, &nodes); err != nil {
			return false, err
		}
		untouched := map[string]bool{}
		for i := range nodes.Items {
			n := &nodes.Items[i]
			if id := n.Spec.ProviderID[strings.LastIndex(n.Spec.ProviderID, "/")+1:]; waiting[id] && !drain.Cordoned(n) {
				untouched[id] = true
			}
		}
		waiting = untouched
		return len(waiting) == 0, nil
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("waiting for the taints of %d nodes: %w", len(waiting), err)
	}
	return time.Now(), nil
}

// awaitCount waits until a counter of the provisioner is at least want.
func awaitCount(ctx context.Context, c *cluster.Cluster, name string, want int) error {
	sum := 0.0
	err := cluster.Until(ctx, func() (bool, error) {
		var err error
		sum, err = counter(ctx, c.ProvisionerMetrics, name)
		return int(sum) >= want, err
	})
	if err != nil {
		return fmt.Errorf("waiting for %s to be %d, it is %v: %w", name, want, sum, err)
	}
	if int(sum) > want {
		return fmt.Errorf("%s is %v, more than the %d messages", name, sum, want)
	}
	return nil
}

func counter(ctx context.Context, url, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && key == name {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, nil // Nothing was counted yet.
}

// latencies reads from the provisioner's log how long after its receipt each
// notice had its node tainted, in seconds, sorted.
func latencies(log string) []float64 {
	var out []float64
	lines := bufio.NewScanner(strings.NewReader(log))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l struct {
			Msg          string  `json:"msg"`
			SinceReceipt float64 `json:"sinceReceipt"`
		}
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == "node tainted after its notice" {
			out = append(out, l.SinceReceipt)
		}
	}
	slices.Sort(out)
	return out
}
