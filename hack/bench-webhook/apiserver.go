package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/test/cluster"
)

// webhookName is the webhook for pods.
const webhookName = "pods.admission.berth.dev"

// histogram of the API server's calls of webhooks.
const histogram = "apiserver_admission_webhook_admission_duration_seconds"

// creators create pods at the same time.
const creators = 8

// legs are the namespaces that pods are created in: one that the webhook sees, one
// that a webhook sees which does nothing, and one that has opted out.
var legs = [3]struct {
	namespace string
	labels    map[string]string
}{
	{"bench-with", nil},
	{"bench-no-op", map[string]string{optOut: "ignore", noOpLabel: "true"}},
	{"bench-without", map[string]string{optOut: "ignore"}},
}

const optOut = "berth.dev/admission"

// onTheAPIServer creates pods in the namespaces of the legs, in turns.
func onTheAPIServer(ctx context.Context, c *cluster.Cluster, turns int, length time.Duration) error {
	stop, err := startNoOp(ctx, c)
	if err != nil {
		return err
	}
	defer stop()
	for _, l := range legs {
		if err := c.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: l.namespace, Labels: l.labels}}); err != nil {
			return err
		}
		if err := cluster.Until(ctx, func() (bool, error) {
			err := c.Client.Get(ctx, client.ObjectKey{Namespace: l.namespace, Name: "default"}, &corev1.ServiceAccount{})
			return err == nil, client.IgnoreNotFound(err)
		}); err != nil {
			return err
		}
	}
	for _, l := range legs {
		if _, err := create(ctx, c, l.namespace, length/2); err != nil { // Warm-up.
			return err
		}
	}
	before, err := scrape(ctx, c)
	if err != nil {
		return err
	}
	var took [len(legs)][]time.Duration
	var rates [len(legs)][]float64
	for i := range turns {
		for j := range legs {
			k := (i + j) % len(legs) // Whoever comes first has it easier.
			d, err := create(ctx, c, legs[k].namespace, length)
			if err != nil {
				return err
			}
			took[k] = append(took[k], d...)
			rates[k] = append(rates[k], float64(len(d))/length.Seconds())
		}
	}
	after, err := scrape(ctx, c)
	if err != nil {
		return err
	}
	var rate [len(legs)]float64
	for k := range legs {
		slices.Sort(took[k])
		rate[k] = median(rates[k])
	}
	added := func(a, b int, q float64) float64 { return ms(quantile(took[a], q) - quantile(took[b], q)) }
	fmt.Printf("pods created by %d clients, %d turns of %s each: %.0f/s with, %.0f/s with a webhook that does nothing, %.0f/s without (medians)\n",
		creators, turns, length, rate[0], rate[1], rate[2])
	report("fewer pods a second with the webhook", 100*(1-rate[0]/rate[2]), "%", 3, false)
	report("p50 of creation, added", added(0, 2, .5), "ms", 1, false)
	report("p99 of creation, added", added(0, 2, .99), "ms", 10, false)
	fmt.Printf("%-58s %10.2f %%, p50 %.2f ms, p99 %.2f ms\n", "  of that by any webhook", 100*(1-rate[1]/rate[2]), added(1, 2, .5), added(1, 2, .99))
	fmt.Printf("%-58s %10.2f %%, p50 %.2f ms, p99 %.2f ms\n", "  the webhook against one that does nothing", 100*(1-rate[0]/rate[1]), added(0, 1, .5), added(0, 1, .99))
	for _, w := range []string{webhookName, noOpName} {
		h := after[w].minus(before[w])
		fmt.Printf("the API server's own histogram of %s, %.0f calls: mean %.2f ms, %.2f %% within 5 ms, %.2f %% within 25 ms, %.0f failed open\n",
			w, h.count, 1000*h.sum/h.count, 100*h.within(0.005), 100*h.within(0.025), h.failed)
		if h.count == 0 || h.failed > 0 {
			return fmt.Errorf("the API server counted %.0f calls of %s, of which %.0f failed", h.count, w, h.failed)
		}
	}
	return atRates(ctx, c, max(2, turns/3), length)
}

// rates at which pods are created, too: what kube-controller-manager may do by default,
// and five times that. There the cores are not busy, as they are where creators
// do not pause.
var rates = []int{20, 100}

// atRates creates pods at constant rates in the namespaces of the legs, in turns.
func atRates(ctx context.Context, c *cluster.Cluster, turns int, length time.Duration) error {
	for _, rate := range rates {
		var took [len(legs)][]time.Duration
		for i := range turns {
			for j := range legs {
				k := (i + j) % len(legs)
				d, err := open(length, rate, func() error { return createOne(ctx, c, legs[k].namespace) })
				if err = errors.Join(err, deleteAll(ctx, c, legs[k].namespace)); err != nil {
					return err
				}
				took[k] = append(took[k], d...)
			}
		}
		for k := range took {
			slices.Sort(took[k])
		}
		at := func(k int, q float64) float64 { return ms(quantile(took[k], q)) }
		fmt.Printf("pods created at %d/s, %d turns of %s each, with, with a webhook that does nothing, and without: p50 %.2f, %.2f and %.2f ms; p99 %.2f, %.2f and %.2f ms\n",
			rate, turns, length, at(0, .5), at(1, .5), at(2, .5), at(0, .99), at(1, .99), at(2, .99))
		report(fmt.Sprintf("p50 of creation at %d/s, added", rate), at(0, .5)-at(2, .5), "ms", 1, false)
		report(fmt.Sprintf("p99 of creation at %d/s, added", rate), at(0, .99)-at(2, .99), "ms", 10, false)
	}
	return nil
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

var created atomic.Int64

// create creates pods for a time and deletes them after it.
func create(ctx context.Context, c *cluster.Cluster, namespace string, length time.Duration) ([]time.Duration, error) {
	all, failed := withoutPause(length, creators, func() error { return createOne(ctx, c, namespace) })
	return all, errors.Join(failed, deleteAll(ctx, c, namespace))
}

func createOne(ctx context.Context, c *cluster.Cluster, namespace string) error {
	return c.Client.Create(ctx, benchPod(namespace, fmt.Sprintf("p-%d", created.Add(1))))
}

func deleteAll(ctx context.Context, c *cluster.Cluster, namespace string) error {
	return c.Client.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(namespace), client.GracePeriodSeconds(0))
}

// latencies is what the API server's histogram holds.
type latencies struct {
	count, sum, failed float64
	// buckets by their bound in seconds; cumulative.
	buckets map[float64]float64
}

// scrape reads the histogram of every webhook, by its name.
func scrape(ctx context.Context, c *cluster.Cluster) (map[string]latencies, error) {
	hc, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.Config.Host, "/")+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	all := map[string]latencies{}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "apiserver_admission_webhook_") {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
		if err != nil {
			continue
		}
		name := label(line, "name")
		l, ok := all[name]
		if !ok {
			l.buckets = map[float64]float64{}
		}
		switch {
		case strings.HasPrefix(line, histogram+"_count"):
			l.count += v
		case strings.HasPrefix(line, histogram+"_sum"):
			l.sum += v
		case strings.HasPrefix(line, "apiserver_admission_webhook_fail_open_count"):
			l.failed += v
		case strings.HasPrefix(line, histogram+"_bucket"):
			if bound, err := strconv.ParseFloat(label(line, "le"), 64); err == nil && !math.IsInf(bound, 1) {
				l.buckets[bound] += v
			}
		}
		all[name] = l
	}
	return all, nil
}

// label is the value of a label on a line of metrics.
func label(line, name string) string {
	_, v, _ := strings.Cut(line, name+`="`)
	v, _, _ = strings.Cut(v, `"`)
	return v
}

func (l latencies) minus(o latencies) latencies {
	d := latencies{count: l.count - o.count, sum: l.sum - o.sum, failed: l.failed - o.failed, buckets: map[float64]float64{}}
	for b, n := range l.buckets {
		d.buckets[b] = n - o.buckets[b]
	}
	return d
}

// within is the share of calls that took no longer than a bound of a bucket.
func (l latencies) within(seconds float64) float64 { return l.buckets[seconds] / l.count }
