package ec2sim

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// bucketSize is a token bucket: what it holds when it is full, and what comes
// back in a second.
type bucketSize struct{ burst, perSecond float64 }

// Names of the resource buckets, from which a call takes a token for each
// instance. CreateFleet draws on that of RunInstances.
const (
	launchTokens    = "RunInstances resources"
	terminateTokens = "TerminateInstances resources"
)

// unfilteredActions have a bucket of their own for calls that neither filter
// nor page.
var unfilteredActions = []string{"DescribeInstances", "DescribeInstanceStatus", "DescribeSecurityGroups"}

const unfiltered = " (unfiltered)"

// published is the size of a bucket as AWS documents it ("Request throttling
// for the Amazon EC2 API", tables of request and resource token buckets, as
// they are for an account and a Region).
func published(name string) bucketSize {
	if action, ok := strings.CutSuffix(name, unfiltered); ok && slices.Contains(unfilteredActions, action) {
		return bucketSize{50, 10}
	}
	switch name {
	case launchTokens:
		return bucketSize{1000, 2}
	case terminateTokens:
		return bucketSize{1000, 20}
	case "RunInstances":
		return bucketSize{5, 2}
	case "TerminateInstances", "CreateLaunchTemplateVersion":
		return bucketSize{100, 5}
	case "CreateTags", "DeleteTags":
		return bucketSize{100, 10}
	}
	for _, prefix := range []string{"Describe", "Get", "List", "Search"} {
		if strings.HasPrefix(name, prefix) {
			return bucketSize{100, 20}
		}
	}
	return bucketSize{50, 5}
}

// bucketOf names the bucket that a request draws on. Ids are no filter here;
// AWS does not say.
func bucketOf(action string, form url.Values) string {
	if !slices.Contains(unfilteredActions, action) {
		return action
	}
	for name := range form {
		if name == "MaxResults" || name == "NextToken" || strings.HasPrefix(name, "Filter.") {
			return action
		}
	}
	return action + unfiltered
}

// bucket is a token bucket with what is in it.
type bucket struct {
	size   bucketSize
	tokens float64
	at     time.Time
}

// left is how many whole tokens are there.
func (b *bucket) left(now time.Time) int {
	if d := now.Sub(b.at); d > 0 {
		b.tokens = min(b.size.burst, b.tokens+d.Seconds()*b.size.perSecond)
		b.at = now
	}
	return int(b.tokens + 1e-9)
}

// Throttle sets the token buckets.
type Throttle struct {
	// Off turns all of them off until the next order.
	Off bool `json:"off,omitempty"`
	// Bucket is the action whose bucket is changed, or "RunInstances resources"
	// or "TerminateInstances resources"; it starts full. Without one, all start
	// full again in their published sizes.
	Bucket string `json:"bucket,omitempty"`
	// Burst is what it holds at most, PerSecond what comes back.
	Burst     float64 `json:"burst,omitempty"`
	PerSecond float64 `json:"perSecond,omitempty"`
}

func (s *Sim) setThrottle(in *Throttle) error {
	switch {
	case in.Off && in.Bucket != "":
		return errors.New("one bucket cannot be turned off: give it a large burst")
	case in.Bucket == "" && (in.Burst != 0 || in.PerSecond != 0):
		return errors.New("bucket is missing")
	case in.Bucket != "" && (in.Burst < 1 || in.PerSecond < 0):
		return fmt.Errorf("a bucket holds at least 1 and gets at least 0 a second, not %v and %v", in.Burst, in.PerSecond)
	}
	if in.Bucket == "" {
		s.unthrottled = in.Off
		clear(s.buckets)
		return nil
	}
	s.unthrottled = false
	s.buckets[in.Bucket] = &bucket{size: bucketSize{in.Burst, in.PerSecond}, tokens: in.Burst, at: s.clock.Now()}
	return nil
}

func (s *Sim) bucket(name string) *bucket {
	b := s.buckets[name]
	if b == nil {
		size := published(name)
		b = &bucket{size: size, tokens: size.burst, at: s.clock.Now()}
		s.buckets[name] = b
	}
	return b
}

// throttle takes n tokens from a bucket, or refuses the whole call with HTTP
// 503, as EC2 does ("Query API error codes": RequestLimitExceeded).
func (s *Sim) throttle(name, action string, n int) *apiError {
	if s.unthrottled {
		return nil
	}
	b := s.bucket(name)
	if b.left(s.clock.Now()) < n {
		return throttled(action)
	}
	b.tokens -= float64(n)
	return nil
}

// launchesLeft is how many instances may be launched now; CreateFleet launches
// as many and tells of the rest in its errorSet.
func (s *Sim) launchesLeft() int {
	if s.unthrottled {
		return noLimit
	}
	return s.bucket(launchTokens).left(s.clock.Now())
}

func (s *Sim) launchesDone(n int) {
	if !s.unthrottled {
		s.bucket(launchTokens).tokens -= float64(n)
	}
}

func throttled(action string) *apiError {
	return errf("RequestLimitExceeded", "Request limit exceeded. Account %s has been throttled on ec2:%s because it exceeded its request rate limit.", AccountID, action)
}
