// Command bench-webhook measures the webhook: the program itself over TLS, pinned
// to one core, and what it adds to the creation of pods on the real API server.
// It prints each figure with its bar.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

func main() {
	length := flag.Duration("length", 10*time.Second, "time of each measurement over TLS")
	turns := flag.Int("turns", 10, "how often pods are created with the webhook, with one that does nothing, and without, in turns")
	leg := flag.Duration("leg", 4*time.Second, "time of each turn")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *length, *turns, *leg); err != nil {
		fmt.Fprintln(os.Stderr, "bench-webhook:", err)
		os.Exit(1)
	}
}

// report prints a figure beside its bar.
func report(what string, value float64, unit string, bar float64, atLeast bool) {
	verdict, sign := "met", "<="
	if atLeast {
		sign = ">="
	}
	if atLeast && value < bar || !atLeast && value > bar {
		verdict = "MISSED"
	}
	fmt.Printf("%-58s %10.2f %-6s bar %s %g: %s\n", what, value, unit, sign, bar, verdict)
}

func run(ctx context.Context, length time.Duration, turns int, leg time.Duration) (err error) {
	c, err := cluster.Start(ctx, os.Stderr, "--berth=false")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	dir, err := os.MkdirTemp("", "bench-webhook-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	port, err := cluster.FreePort()
	if err != nil {
		return err
	}
	url := fmt.Sprintf("https://127.0.0.1:%d", port)
	webhook, err := c.StartWebhook(ctx, dir, port, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, webhook.Stop()) }()
	if err := offer(ctx, c, dir); err != nil {
		return err
	}

	caller, err := newCaller(ctx, c, url)
	if err != nil {
		return err
	}
	if err := alone(ctx, caller, webhook, length); err != nil {
		return err
	}
	return onTheAPIServer(ctx, c, turns, leg)
}

// offer has a provisioner publish what EC2 offers, and ends it: from then on
// nothing but the webhook acts on pods.
func offer(ctx context.Context, c *cluster.Cluster, dir string) error {
	provisioner, err := c.StartProvisioner(ctx, dir)
	if err != nil {
		return err
	}
	err = func() error {
		if err := c.Client.Create(ctx, &v1alpha1.Provisioner{ObjectMeta: metav1.ObjectMeta{Name: "default"}}); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := cluster.WaitProvisioner(wait, c, "default"); err != nil {
			return err
		}
		return cluster.Until(wait, func() (bool, error) {
			pod := benchPod("default", "probe")
			err := c.Client.Create(wait, pod, client.DryRunAll)
			return pod.Annotations[v1alpha1.AnnotationPlacement] != "", err
		})
	}()
	return errors.Join(err, provisioner.Stop())
}

// alone measures the webhook over TLS, with one core for it and one for us.
func alone(ctx context.Context, caller *caller, webhook *cluster.Process, length time.Duration) (err error) {
	for core, pid := range []int{webhook.Pid(), os.Getpid()} {
		if err := pin(pid, core); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unpin(pid)) }()
	}
	idle, _, err := memory(webhook.Pid())
	if err != nil {
		return err
	}
	if _, err := caller.closed(ctx, length/5, 16); err != nil {
		return err
	}
	before, err := cpuTime(webhook.Pid())
	if err != nil {
		return err
	}
	fast, err := caller.closed(ctx, length, 16)
	if err != nil {
		return err
	}
	after, err := cpuTime(webhook.Pid())
	if err != nil {
		return err
	}
	perSecond := float64(len(fast)) / length.Seconds()
	report("reviews of 2 KB over TLS keep-alive, one core", perSecond, "/s", 6000, true)
	cpu := (after - before).Seconds()
	fmt.Printf("%-58s %10.2f us, the core was busy %.0f %%\n", "  CPU of the webhook for each", cpu/float64(len(fast))*1e6, 100*cpu/length.Seconds())

	// What is measured is the webhook's pauses, not ours; and calls over connections
	// that are kept, not the handshakes of the workers that first need one.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	if _, err := caller.closed(ctx, length/5, openWorkers); err != nil {
		return err
	}
	paced, err := open(length, 3000, func() error { return caller.one(ctx, caller.small) })
	if err != nil {
		return err
	}
	slices.Sort(paced)
	report("open loop at 3000/s, p99", ms(quantile(paced, 0.99)), "ms", 5, false)
	fmt.Printf("%-58s %10.2f ms, p99.9 %.2f ms, %d reviews\n", "  p50", ms(quantile(paced, 0.5)), ms(quantile(paced, 0.999)), len(paced))
	idling, err := open(length, 3000, func() error { return nil })
	if err != nil {
		return err
	}
	slices.Sort(idling)
	fmt.Printf("%-58s %10.2f ms, p99.9 %.2f ms\n", "  the same loop without a call (the machine's own pauses), p99", ms(quantile(idling, 0.99)), ms(quantile(idling, 0.999)))

	during, peak, err := caller.inFlight(ctx, 500, webhook.Pid())
	if err != nil {
		return err
	}
	report("RSS with 500 reviews of 15 KB in flight", during, "MiB", 96, false)
	fmt.Printf("%-58s %10.2f MiB idle, %.2f MiB at its peak\n", "  RSS", idle, peak)
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile of sorted durations.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// benchPod is a pod of 250m that nobody schedules.
func benchPod(namespace, name string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": "bench"}}}
	pod.Spec.SchedulerName = "nobody"
	pod.Spec.ServiceAccountName = "default"
	pod.Spec.Containers = []corev1.Container{{Name: "app", Image: "registry.k8s.io/pause:3.10", Resources: corev1.ResourceRequirements{Requests: requests}}}
	return pod
}
