package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// drainAll: all nodes are deleted at once; their 30 pods each are under budgets.
func drainAll(ctx context.Context, b *bench) error {
	if err := b.provisioner(ctx, oneType); err != nil {
		return err
	}
	apps, replicas := b.nodes*30/100, 100
	o, err := b.fleet(ctx, apps, replicas, 3, "260m", b.start)
	if err != nil {
		return err
	}
	claims, err := b.claims(ctx)
	if err != nil {
		return err
	}
	counting, stop := context.WithCancel(ctx)
	defer stop()
	rates := make(chan []float64, 1)
	go func() { rates <- writeRates(counting, b.c) }()
	o.arm()
	start := time.Now()
	for i := range claims {
		if err := b.c.Client.Delete(ctx, &claims[i]); err != nil {
			return err
		}
	}
	var drained time.Duration
	err = cluster.Until(ctx, func() (bool, error) {
		left, err := b.claims(ctx)
		if err != nil {
			return false, err
		}
		waits := false
		for i := range left {
			c := &left[i]
			waits = waits || c.DeletionTimestamp != nil && !isDrained(c)
		}
		drained = time.Since(start)
		return !waits && o.ready() >= apps*replicas, nil
	})
	stop()
	writes := <-rates
	violated, shortest := o.verdict()
	if err != nil {
		return fmt.Errorf("after %s: %w", drained, err)
	}
	fmt.Printf("drain: %d nodes, %d pods under %d budgets, at once, pods ready %s after they are bound: drained after %.1f s; the budgets allow no less than %.1f s: ratio %.2f (bar: 1.20); budgets violated: %d; API writes a second: mean %.0f, 95 %% of seconds at most %.0f, most %.0f (bar: 50)\n",
		len(claims), apps*replicas, apps, b.start, drained.Seconds(), shortest.Seconds(), drained.Seconds()/shortest.Seconds(), violated, mean(writes), quantile(writes, .95), quantile(writes, 1))
	if violated > 0 {
		return fmt.Errorf("%d disruption budgets were violated", violated)
	}
	return nil
}

func isDrained(c *v1alpha1.NodeClaim) bool {
	for _, x := range c.Status.Conditions {
		if x.Type == v1alpha1.ConditionDrained {
			return x.Status == "True"
		}
	}
	return false
}

// writeRates reads once a second how many writes the provisioner has sent to the
// API server, and returns the number of each second.
func writeRates(ctx context.Context, c *cluster.Cluster) []float64 {
	var out []float64
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, at := -1.0, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return out
		case <-tick.C:
			n, err := writes(ctx, c.ProvisionerMetrics)
			now := time.Now() // An answer may be late: it counts up to now, not to the tick.
			if err != nil {
				continue // The next second counts for two.
			}
			if last >= 0 {
				out = append(out, (n-last)/now.Sub(at).Seconds())
			}
			last, at = n, now
		}
	}
}

// writes is the provisioner's own count (client-go's rest_client_requests_total).
func writes(ctx context.Context, url string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	total := 0.0
	for s := bufio.NewScanner(res.Body); s.Scan(); {
		line := s.Text()
		if !strings.HasPrefix(line, "rest_client_requests_total{") || strings.Contains(line, `method="GET"`) {
			continue
		}
		n, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}
