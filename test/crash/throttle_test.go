package crash

import (
	"fmt"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2sim"
)

// TestThrottled has EC2 refuse all launches for their rate for a while, then
// half of them. The rate of calls stays within AWS's bucket, no offering is
// taken for exhausted, and in the end all is launched. BERTH_CRASH=all takes the
// two minutes of each; else it is a few seconds.
func TestThrottled(t *testing.T) {
	phase := 4 * time.Second
	if os.Getenv("BERTH_CRASH") == "all" {
		phase = 2 * time.Minute
	}
	for name, fault := range map[string]ec2sim.Fault{
		"the call":              {Action: "CreateFleet", Code: "RequestLimitExceeded", HTTPStatus: 503},
		"every line of a fleet": {Action: "CreateFleet", Code: "RequestLimitExceeded", Pool: &ec2sim.PoolPattern{}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *ec2sim.Config) { c.BootDelay = time.Hour })
			// Groups that differ, so that there are many calls.
			const groups, each = 12, 5
			var objects, wanted []client.Object
			for i := range groups {
				name := fmt.Sprintf("slow%02d", i)
				objects = append(objects, provisioner(name, func(p *v1alpha1.Provisioner) {
					require(corev1.LabelInstanceTypeStable, "m5.large", "c5.large")(p)
					require(v1alpha1.LabelCapacityType, "on-demand")(p)
				}))
				wanted = append(wanted, pods(name, each)...)
			}
			w.create(objects...)
			w.start()
			for i := range groups {
				w.ready(fmt.Sprintf("slow%02d", i))
			}
			all, half := fault, fault
			all.Count, all.For = -1, phase.String()
			half.Count, half.Rate, half.After, half.For = -1, 0.5, phase.String(), phase.String()
			w.fault(all)
			w.fault(half)
			began := time.Now()
			w.create(wanted...)
			w.within(2*phase+patience, "all are launched", func() bool {
				w.checkNothingLearned()
				return w.launched() == groups*each
			})
			w.checkNothingLearned()
			w.checkRate(50, 5)
			if n := w.created(); n != groups*each {
				t.Errorf("%d claims were created for %d nodes", n, groups*each)
			}
			_, errs := w.awsCalls()
			t.Logf("launched after %s, %d CreateFleet calls, refusals %v", time.Since(began), len(w.fleets), errs)
		})
	}
}

// checkNothingLearned fails when an offering is taken for exhausted.
func (w *world) checkNothingLearned() {
	w.t.Helper()
	if u := w.unavailable(); len(u) > 0 {
		w.t.Errorf("a throttle has made offerings unavailable: %v", u)
	}
}

// checkRate holds the CreateFleet calls to a token bucket.
func (w *world) checkRate(burst, perSecond float64) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	tokens, last := burst, time.Time{}
	for i, f := range w.fleets {
		if i > 0 {
			tokens = min(burst, tokens+f.at.Sub(last).Seconds()*perSecond)
		}
		last = f.at
		if tokens--; tokens < 0 {
			w.t.Errorf("call %d is beyond the bucket", i+1)
			return
		}
	}
}
