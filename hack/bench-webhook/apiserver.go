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

// histogram of the API server's calls of the webhook for pods.
const histogram = "apiserver_admission_webhook_admission_duration_seconds"

// creators create pods at the same time.
const creators = 8

// onTheAPIServer creates pods in two namespaces in turns: one that the webhook
// sees, and one that has opted out of it.
func onTheAPIServer(ctx context.Context, c *cluster.Cluster, pairs int, leg time.Duration) error {
	names := []string{"bench-with", "bench-without"}
	for i, name := range names {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if i == 1 {
			ns.Labels = map[string]string{"berth.dev/admission": "ignore"}
		}
		if err := c.Client.Create(ctx, ns); err != nil {
			return err
		}
		if err := cluster.Until(ctx, func() (bool, error) {
			err := c.Client.Get(ctx, client.ObjectKey{Namespace: name, Name: "default"}, &corev1.ServiceAccount{})
			return err == nil, client.IgnoreNotFound(err)
		}); err != nil {
			return err
		}
	}
	for _, name := range names {
		if _, err := create(ctx, c, name, leg/2); err != nil { // Warm-up.
			return err
		}
	}
	before, err := scrape(ctx, c)
	if err != nil {
		return err
	}
	var took [2][]time.Duration
	var rates [2][]float64
	for i := range pairs {
		for _, k := range [2]int{i % 2, 1 - i%2} { // Whoever comes first has it easier.
			d, err := create(ctx, c, names[k], leg)
			if err != nil {
				return err
			}
			took[k] = append(took[k], d...)
			rates[k] = append(rates[k], float64(len(d))/leg.Seconds())
		}
	}
	after, err := scrape(ctx, c)
	if err != nil {
		return err
	}
	slices.Sort(took[0])
	slices.Sort(took[1])
	with, without := median(rates[0]), median(rates[1])
	fmt.Printf("pods created by %d clients, %d turns of %s each: %.0f/s with, %.0f/s without (medians)\n", creators, pairs, leg, with, without)
	report("fewer pods a second with the webhook", 100*(1-with/without), "%", 3, false)
	report("p50 of creation, added", ms(quantile(took[0], .5)-quantile(took[1], .5)), "ms", 1, false)
	report("p99 of creation, added", ms(quantile(took[0], .99)-quantile(took[1], .99)), "ms", 10, false)
	h := after.minus(before)
	fmt.Printf("the API server's own histogram, %.0f calls: mean %.2f ms, %.2f %% within 5 ms, %.2f %% within 25 ms, %.0f failed open\n",
		h.count, 1000*h.sum/h.count, 100*h.within(0.005), 100*h.within(0.025), h.failed)
	if h.count == 0 || h.failed > 0 {
		return fmt.Errorf("the API server counted %.0f calls, of which %.0f failed", h.count, h.failed)
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
	all, failed := withoutPause(length, creators, func() error {
		return c.Client.Create(ctx, benchPod(namespace, fmt.Sprintf("p-%d", created.Add(1))))
	})
	return all, errors.Join(failed, c.Client.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(namespace), client.GracePeriodSeconds(0)))
}

// latencies is what the API server's histogram holds.
type latencies struct {
	count, sum, failed float64
	// buckets by their bound in seconds; cumulative.
	buckets map[float64]float64
}

func scrape(ctx context.Context, c *cluster.Cluster) (*latencies, error) {
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
	l := &latencies{buckets: map[float64]float64{}}
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, `name="pods.admission.berth.dev"`) {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
		if err != nil {
			continue
		}
		switch {
		case strings.HasPrefix(line, histogram+"_count"):
			l.count += v
		case strings.HasPrefix(line, histogram+"_sum"):
			l.sum += v
		case strings.HasPrefix(line, "apiserver_admission_webhook_fail_open_count"):
			l.failed += v
		case strings.HasPrefix(line, histogram+"_bucket"):
			_, le, _ := strings.Cut(line, `le="`)
			le, _, _ = strings.Cut(le, `"`)
			if bound, err := strconv.ParseFloat(le, 64); err == nil && !math.IsInf(bound, 1) {
				l.buckets[bound] += v
			}
		}
	}
	return l, nil
}

func (l *latencies) minus(o *latencies) *latencies {
	d := &latencies{count: l.count - o.count, sum: l.sum - o.sum, failed: l.failed - o.failed, buckets: map[float64]float64{}}
	for b, n := range l.buckets {
		d.buckets[b] = n - o.buckets[b]
	}
	return d
}

// within is the share of calls that took no longer than a bound of a bucket.
func (l *latencies) within(seconds float64) float64 { return l.buckets[seconds] / l.count }
