package ec2

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
)

// bucket is a token bucket: how many calls may be made at once, and how many
// more become possible each second.
type bucket struct {
	burst, perSecond float64
}

// Keys of the resource buckets, from which one token is taken for each
// instance and not for each call.
const (
	launchResources    = "resources of RunInstances"
	terminateResources = "resources of TerminateInstances"
)

// published returns the bucket that AWS documents for an API of EC2 ("Request
// throttling for the Amazon EC2 API", tables of request and resource token
// buckets; an account, a Region and an API have one each), for SSM GetParameters
// (40 a second, "AWS Systems Manager endpoints and quotas") and for Pricing
// (10, then 5 a second, "Using the Price List Query API"). Standard queues of SQS
// have no limit that this process could reach ("Amazon SQS message quotas").
func published(service, operation string) bucket {
	switch service {
	case "SSM":
		return bucket{40, 40}
	case "Pricing":
		return bucket{10, 5}
	case "SQS":
		return bucket{3000, 3000}
	}
	switch operation {
	case launchResources:
		return bucket{1000, 2}
	case terminateResources:
		return bucket{1000, 20}
	case "RunInstances":
		return bucket{5, 2}
	case "TerminateInstances":
		return bucket{100, 5}
	case "CreateTags", "DeleteTags":
		return bucket{100, 10}
	}
	for _, prefix := range []string{"Describe", "Get", "List", "Search"} {
		if strings.HasPrefix(operation, prefix) {
			return bucket{100, 20}
		}
	}
	return bucket{50, 5}
}

const (
	// ownShare of a published burst is used: calls reach EC2 a little less
	// evenly than they leave here, and EC2's bucket must not run dry for that.
	ownShare = 0.9
	// keep is the share of the rate that is left after a refusal.
	keep = 0.7
	// slowest is the least rate that refusals lead to, as a share of the
	// published one: CreateFleet every four seconds.
	slowest = 1.0 / 20
	// regain is the share of the published rate that a call that passes wins back.
	regain = 0.2
)

// limiter paces the calls of one API. It is a token bucket whose rate EC2's
// refusals cut and its answers raise again by steps (additive increase,
// multiplicative decrease, as TCP does it): others in the account draw on the
// same bucket at EC2, and how much they take shows in no other way. A slowed
// limiter saves up no burst. Callers go in the order in which they came.
type limiter struct {
	size bucket
	// turn is held by the caller at the head of the line.
	turn chan struct{}

	mu     sync.Mutex
	tokens float64
	at     time.Time
	rate   float64
	slowed time.Time
}

func newLimiter(size bucket, now time.Time) *limiter {
	size.burst = max(1, size.burst*ownShare)
	return &limiter{size: size, turn: make(chan struct{}, 1), tokens: size.burst, at: now, rate: size.perSecond}
}

// wait takes n tokens, waiting until they are there or ctx ends.
func (l *limiter) wait(ctx context.Context, n float64) error {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l.turn }()
	for {
		d := l.take(time.Now(), n)
		if d == 0 {
			return ctx.Err()
		}
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// take takes n tokens, or says after what time to ask again.
func (l *limiter) take(now time.Time, n float64) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := l.size.burst
	if l.rate < l.size.perSecond {
		most = 1
	}
	l.tokens = min(max(most, n), l.tokens+now.Sub(l.at).Seconds()*l.rate)
	l.at = now
	const rounding = 1e-6
	if l.tokens >= n-rounding {
		l.tokens -= n
		return 0
	}
	return time.Duration((n-l.tokens)/l.rate*float64(time.Second)) + time.Microsecond
}

// left is how many whole tokens are there now.
func (l *limiter) left(now time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := l.size.burst
	if l.rate < l.size.perSecond {
		most = 1
	}
	return int(min(most, l.tokens+now.Sub(l.at).Seconds()*l.rate))
}

// refused slows the calls down. Refusals of calls that began before the last
// slowing are part of the same news.
func (l *limiter) refused(began, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if began.Before(l.slowed) {
		return
	}
	l.rate = max(l.rate*keep, l.size.perSecond*slowest)
	l.tokens, l.at, l.slowed = 0, now, now
}

// passed speeds them up again.
func (l *limiter) passed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = min(l.rate+l.size.perSecond*regain, l.size.perSecond)
}

// buckets hold one limiter for each API. The zero value is ready for use.
type buckets struct {
	mu sync.Mutex
	by map[string]*limiter
}

func (b *buckets) of(service, operation string) *limiter {
	key := service + "." + operation
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by == nil {
		b.by = map[string]*limiter{}
	}
	l := b.by[key]
	if l == nil {
		l = newLimiter(published(service, operation), time.Now())
		b.by[key] = l
	}
	return l
}

// wait takes n tokens, waiting until they are there or ctx ends.
func (b *buckets) wait(ctx context.Context, service, operation string, n int) error {
	if err := b.of(service, operation).wait(ctx, float64(n)); err != nil {
		return &CallError{Kind: ErrThrottled, Fault: Fault{Action: operation,
			Message: "no turn came in Berth's own token bucket: " + err.Error(), cause: err}}
	}
	return nil
}

// learn tells the limiter of an API how a call that began then went.
func (b *buckets) learn(service, operation string, began time.Time, err error) {
	l := b.of(service, operation)
	switch {
	case err == nil:
		l.passed()
	case errors.Is(translate(operation, err), ErrThrottled):
		l.refused(began, time.Now())
	}
}

// attach makes every attempt of a call, retries included, wait for its turn,
// and learns from its answer. It sits inside the SDK's retry loop and before
// signing, so that the waiting counts neither toward the attempt's timeout nor
// the signature's age.
func (b *buckets) attach(stack *middleware.Stack) error {
	turn := middleware.FinalizeMiddlewareFunc("BerthTokenBucket",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			service, operation := awsmiddleware.GetServiceID(ctx), awsmiddleware.GetOperationName(ctx)
			if err := b.wait(ctx, service, operation, 1); err != nil {
				return middleware.FinalizeOutput{}, middleware.Metadata{}, err
			}
			began := time.Now()
			out, metadata, err := next.HandleFinalize(ctx, in)
			b.learn(service, operation, began, err)
			return out, metadata, err
		})
	return stack.Finalize.Insert(turn, "Retry", middleware.After)
}
