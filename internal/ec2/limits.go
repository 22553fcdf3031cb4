package ec2

import (
	"context"
	"strings"
	"sync"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/time/rate"
)

// bucket is a token bucket: how many calls may be made at once, and how many
// more become possible each second.
type bucket struct {
	burst     int
	perSecond rate.Limit
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
// (10, then 5 a second, "Using the Price List Query API").
func published(service, operation string) bucket {
	switch service {
	case "SSM":
		return bucket{40, 40}
	case "Pricing":
		return bucket{10, 5}
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

// buckets hold one limiter for each API. The zero value is ready for use.
type buckets struct {
	mu sync.Mutex
	by map[string]*rate.Limiter
}

// wait takes n tokens, waiting until they are there or ctx ends.
func (b *buckets) wait(ctx context.Context, service, operation string, n int) error {
	key := service + "." + operation
	b.mu.Lock()
	if b.by == nil {
		b.by = map[string]*rate.Limiter{}
	}
	l := b.by[key]
	if l == nil {
		size := published(service, operation)
		l = rate.NewLimiter(size.perSecond, size.burst)
		b.by[key] = l
	}
	b.mu.Unlock()
	if err := l.WaitN(ctx, n); err != nil {
		return &CallError{Kind: ErrThrottled, Fault: Fault{Action: operation,
			Message: "no turn came in Berth's own token bucket: " + err.Error(), cause: err}}
	}
	return nil
}

// attach makes every attempt of a call, retries included, wait for its turn.
// It sits inside the SDK's retry loop and before signing, so that the waiting
// counts neither toward the attempt's timeout nor the signature's age.
func (b *buckets) attach(stack *middleware.Stack) error {
	turn := middleware.FinalizeMiddlewareFunc("BerthTokenBucket",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
			if err := b.wait(ctx, awsmiddleware.GetServiceID(ctx), awsmiddleware.GetOperationName(ctx), 1); err != nil {
				return middleware.FinalizeOutput{}, middleware.Metadata{}, err
			}
			return next.HandleFinalize(ctx, in)
		})
	return stack.Finalize.Insert(turn, "Retry", middleware.After)
}
