package ec2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go/middleware"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/internal/ec2sim"
)

// inMemory hands requests to a handler without a connection, so that a bubble's
// clock can pass while they wait.
type inMemory struct{ handler http.Handler }

func (m inMemory) Do(r *http.Request) (res *http.Response, err error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	defer func() {
		if v := recover(); v == http.ErrAbortHandler {
			res, err = nil, io.ErrUnexpectedEOF
		} else if v != nil {
			panic(v)
		}
	}()
	rec := httptest.NewRecorder()
	m.handler.ServeHTTP(rec, r)
	return rec.Result(), nil
}

// recorded is a call as the stand-in logs it.
type recorded struct {
	Time   time.Time
	Action string
	Code   string
}

// inBubble is a Cloud that reaches sim without a connection. like is one that
// has connected.
func inBubble(like *Cloud, sim *ec2sim.Sim) *Cloud {
	c := &Cloud{cfg: like.cfg, buckets: &buckets{}, slow: func(*ec2.Options) {}}
	e, s := like.ec2.Options(), like.ssm.Options()
	e.HTTPClient, s.HTTPClient = inMemory{sim}, inMemory{sim}
	e.APIOptions, s.APIOptions = []func(*middleware.Stack) error{c.buckets.attach}, nil
	c.ec2, c.ssm = ec2.New(e), ssm.New(s)
	c.reading.send, c.ending.send = c.describe, c.terminate
	c.found.Store(shared.Load())
	return c
}

// TestThrottledLaunchesAllHappen: EC2 refuses everything for two minutes, then
// half. Nothing is taken for a lack of capacity, every claim is launched in the
// end, once, and never do more calls go out than AWS's bucket holds.
func TestThrottledLaunchesAllHappen(t *testing.T) {
	outside := newStandIn(t, nil).cloud(nil) // Connecting needs a connection.
	record(t, outside, newClaim("first", m5))
	synctest.Test(t, func(t *testing.T) {
		sim, err := ec2sim.New(ec2sim.Config{Region: "us-west-2", ClusterName: "demo", Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		c := inBubble(outside, sim)
		admin := func(method, path string, in, out any) {
			text, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			res, err := inMemory{sim}.Do(httptest.NewRequest(method, "/_sim/"+path, bytes.NewReader(text)))
			if err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("%v, %v", res, err)
			}
			if err := json.NewDecoder(res.Body).Decode(out); err != nil {
				t.Fatal(err)
			}
		}
		var ok map[string]any
		admin(http.MethodPost, "faults", ec2sim.Fault{Action: "CreateFleet", Code: "RequestLimitExceeded", For: "2m"}, &ok)
		admin(http.MethodPost, "faults", ec2sim.Fault{Action: "CreateFleet", Code: "RequestLimitExceeded", After: "2m", Rate: 0.5}, &ok)

		const claims = 80
		var wg sync.WaitGroup
		todo := make(chan int, claims)
		began := time.Now()
		for range 50 {
			wg.Go(func() {
				for i := range todo {
					claim := newClaim(fmt.Sprint("c", i), m5)
					record(t, c, claim)
					for {
						inst, err := one(c.Launch(t.Context(), claim))
						if err == nil && inst.ID != "" {
							break
						}
						if !errors.Is(err, ErrThrottled) || Definite(err) || len(Refused(err)) > 0 {
							t.Errorf("%v", err)
							break
						}
						time.Sleep(time.Second)
					}
				}
			})
		}
		for i := range claims {
			todo <- i
		}
		close(todo)
		wg.Wait()
		t.Logf("all launched after %s", time.Since(began))

		var log struct{ Calls []recorded }
		admin(http.MethodGet, "calls", nil, &log)
		var times []time.Time
		early := 0
		for _, call := range log.Calls {
			if call.Action == "CreateFleet" {
				times = append(times, call.Time)
				if call.Time.Before(began.Add(2 * time.Minute)) {
					early++
				}
			}
		}
		for i := range times {
			for j := i; j < len(times); j++ {
				if n, most := j-i+1, 50+5*times[j].Sub(times[i]).Seconds(); float64(n) > most {
					t.Fatalf("%d calls in %s, the bucket holds %.0f", n, times[j].Sub(times[i]), most)
				}
			}
		}
		if early > 45+40 {
			t.Errorf("%d calls went out in the two minutes in which all were refused", early)
		}
		if list, err := c.Instances(t.Context()); err != nil || len(list) != claims {
			t.Errorf("%d instances for %d claims, %v", len(list), claims, err)
		}
	})
}

// TestLimiterKeepsToItsBucket: whatever the demand and the refusals, no window
// of time has more calls than the published bucket holds.
func TestLimiterKeepsToItsBucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := bucket{float64(rapid.IntRange(1, 100).Draw(t, "burst")), float64(rapid.IntRange(1, 40).Draw(t, "rate"))}
		now := time.Unix(0, 0)
		l := newLimiter(size, now)
		var calls []time.Time
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "ms")) * time.Millisecond)
			if rapid.IntRange(0, 9).Draw(t, "refused") == 0 {
				l.refused(now, now)
			} else {
				l.passed()
			}
			for range rapid.IntRange(0, 20).Draw(t, "demand") {
				if l.take(now, 1) == 0 {
					calls = append(calls, now)
				}
			}
		}
		for i := range calls {
			for j := i; j < len(calls); j++ {
				if n, most := j-i+1, size.burst+size.perSecond*calls[j].Sub(calls[i]).Seconds(); float64(n) > most+1e-3 {
					t.Fatalf("%d calls in %s, the bucket holds %.2f", n, calls[j].Sub(calls[i]), most)
				}
			}
		}
	})
}

func TestRefusalsSlowTheLimiterDownAndAnswersSpeedItUp(t *testing.T) {
	now := time.Unix(0, 0)
	l := newLimiter(bucket{50, 5}, now)
	for range 10 { // Of one burst: one piece of news.
		l.refused(now, now)
		now = now.Add(time.Millisecond)
		l.refused(now.Add(-time.Second), now)
	}
	if l.take(now, 1) == 0 {
		t.Error("a refusal empties the bucket")
	}
	for range 20 {
		now = now.Add(time.Second)
		l.refused(now, now)
	}
	if d := l.take(now, 1); d < 3900*time.Millisecond || d > 4100*time.Millisecond {
		t.Errorf("the slowest call comes after %s", d)
	}
	for range 10 {
		l.passed()
	}
	now = now.Add(time.Minute)
	for range 45 {
		if l.take(now, 1) != 0 {
			t.Fatal("the burst is not back")
		}
	}
}
