package ec2

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBatcherJoinsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls [][]string
		b := batcher[string]{send: func(_ context.Context, ids []string) (map[string]outcome[string], error) {
			slices.Sort(ids)
			calls = append(calls, slices.Clone(ids))
			out := map[string]outcome[string]{}
			for _, id := range ids {
				switch {
				case strings.HasPrefix(id, "bad"):
					out[id] = outcome[string]{err: ErrForeign}
				case !strings.HasPrefix(id, "gone"):
					out[id] = outcome[string]{value: "<" + id + ">"}
				}
			}
			return out, nil
		}}
		got := map[string]string{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, id := range []string{"a", "b", "a", "bad-1", "gone-1"} {
			wg.Go(func() {
				v, err := b.do(t.Context(), id)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, ErrForeign):
					v = "foreign"
				case errors.Is(err, ErrNotFound):
					v = "not found"
				}
				got[id] = v
			})
		}
		wg.Wait()
		if diff := cmp.Diff(map[string]string{"a": "<a>", "b": "<b>", "bad-1": "foreign", "gone-1": "not found"}, got); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([][]string{{"a", "b", "bad-1", "gone-1"}}, calls); diff != "" {
			t.Errorf("one call for all: %s", diff)
		}
	})
}

func TestBatcherCutsLargeBatchesAndOutlivesACaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		b := batcher[string]{send: func(ctx context.Context, ids []string) (map[string]outcome[string], error) {
			sizes = append(sizes, len(ids))
			return nil, ctx.Err()
		}}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.do(gone, "first"); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that has gone gets %v", err)
		}
		var wg sync.WaitGroup
		for i := range 2*batchMost + 4 {
			wg.Go(func() {
				if _, err := b.do(t.Context(), fmt.Sprint(i)); !errors.Is(err, ErrNotFound) {
					t.Errorf("the batch failed with its first caller: %v", err)
				}
			})
		}
		wg.Wait()
		if diff := cmp.Diff([]int{batchMost, batchMost, 5}, sizes); diff != "" {
			t.Error(diff)
		}
	})
}

func TestBatcherFailureIsEverybodys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := batcher[string]{send: func(context.Context, []string) (map[string]outcome[string], error) { return nil, ErrUnknown }}
		if _, err := b.do(t.Context(), "a"); !errors.Is(err, ErrUnknown) {
			t.Errorf("got %v", err)
		}
	})
}

func TestStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s store[int]
		asked := 0
		answer := func(v int, err error) func(context.Context) (int, time.Duration, error) {
			return func(context.Context) (int, time.Duration, error) { asked++; return v, time.Minute, err }
		}
		get := func(v int, err error) (int, error) { return s.get(t.Context(), "k", answer(v, err)) }
		throttled := &CallError{Kind: ErrThrottled}

		if _, err := get(0, throttled); !errors.Is(err, ErrThrottled) {
			t.Errorf("nothing is known, so the error shows: %v", err)
		}
		if v, err := get(1, nil); v != 1 || err != nil {
			t.Errorf("%v, %v", v, err)
		}
		if v, _ := get(2, nil); v != 1 || asked != 2 {
			t.Errorf("within its time the answer is %v after %d questions", v, asked)
		}
		time.Sleep(time.Minute) // The bubble's clock, not the machine's.
		if v, err := get(0, throttled); v != 1 || err != nil {
			t.Errorf("a throttle says nothing, so the last answer holds: %v, %v", v, err)
		}
		if _, err := get(0, &ConfigError{}); err == nil {
			t.Error("a refusal is news")
		}
		if v, _ := get(3, nil); v != 3 {
			t.Errorf("the next answer counts: %v", v)
		}
		s.expire()
		if v, _ := get(4, nil); v != 4 {
			t.Errorf("expired, yet %v", v)
		}
		time.Sleep(staleTTL + time.Minute)
		if _, err := get(0, throttled); err == nil {
			t.Error("an answer does not stand in for ever")
		}
	})
}

func TestStoreAsksOnceForAll(t *testing.T) {
	var s store[int]
	asked := 0
	asking, answer := make(chan struct{}), make(chan struct{})
	ask := func(context.Context) (int, time.Duration, error) {
		asked++
		close(asking) // A second question would close it again, and panic.
		<-answer
		return 7, time.Hour, nil
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if v, err := s.get(t.Context(), "k", ask); v != 7 || err != nil {
				t.Errorf("%v, %v", v, err)
			}
		})
	}
	<-asking
	close(answer)
	wg.Wait()
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestBucketsMakeBurstsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b buckets
		start := time.Now()
		take := func(ctx context.Context, op string, n int) error { return b.wait(ctx, "EC2", op, n) }
		for range 150 {
			if err := take(t.Context(), "CreateFleet", 1); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(start); got < 20*time.Second || got > 22*time.Second {
			t.Errorf("150 of 45 at once and 5 a second took %s, want 21s", got)
		}
		for range 90 {
			if err := take(t.Context(), "DescribeInstances", 1); err != nil {
				t.Fatal(err)
			}
		}
		if got := time.Since(start); got > 22*time.Second {
			t.Errorf("another API has a bucket of its own, yet it took until %s", got)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := take(short, "CreateFleet", 1); !errors.Is(err, ErrThrottled) || Definite(err) {
			t.Errorf("no turn within the time: %v", err)
		}
	})
}

func TestPublishedBuckets(t *testing.T) {
	for op, want := range map[string]bucket{
		"CreateFleet": {50, 5}, "CreateLaunchTemplate": {50, 5}, "RunInstances": {5, 2}, "TerminateInstances": {100, 5}, "CreateTags": {100, 10},
		"DescribeInstances": {100, 20}, "GetLaunchTemplateData": {100, 20}, launchResources: {1000, 2}, terminateResources: {1000, 20},
	} {
		if got := published("EC2", op); got != want {
			t.Errorf("%s: %v, want %v", op, got, want)
		}
	}
	if got := published("Pricing", "GetProducts"); got != (bucket{10, 5}) {
		t.Errorf("Pricing: %v", got)
	}
}

func TestConfigCheckNamesEveryField(t *testing.T) {
	if err := testConfig().check(); err != nil {
		t.Fatal(err)
	}
	err := Config{ClusterName: "a b", ClusterEndpoint: "here", ClusterCA: "%", KubernetesVersion: "v1", ServiceCIDR: "10.0.0.0"}.check()
	for _, want := range []string{"cluster name", "cluster UID", "cluster endpoint", "cluster CA", "Kubernetes version", "service CIDR"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in %v", want, err)
		}
	}
	if one := oneLine(err).Error(); strings.Contains(one, "\n") {
		t.Errorf("more than one line: %q", one)
	}
}
