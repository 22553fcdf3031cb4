package ec2sim

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// doom asks EC2 to terminate instances and lets no time pass.
func (w *world) doom(ids ...string) {
	w.t.Helper()
	must(w.ec2.TerminateInstances(w.t.Context(), &ec2.TerminateInstancesInput{InstanceIds: ids}))(w.t)
}

func TestPoolsByPattern(t *testing.T) {
	w := newWorld(t)
	lt := w.template("t-1")
	launch := func(kind types.DefaultTargetCapacityType) string {
		in := w.fleet(lt, 1, kind, w.override("m5.large", "us-west-2a"), w.override("m5.xlarge", "us-west-2b"), w.override("c5.large", "us-west-2b"))
		out := w.createFleet(in)
		if len(out.Instances) == 0 {
			return fmt.Sprintf("none, %d errors", len(out.Errors))
		}
		return string(out.Instances[0].InstanceType)
	}
	for name, tc := range map[string]struct {
		orders         []PoolState
		spot, onDemand string
	}{
		"a family as spot":  {[]PoolState{{"m5.*", "*", "spot", 0}}, "c5.large", "c5.large"},
		"a zone":            {[]PoolState{{"*", "us-west-2b", "*", 0}}, "m5.large", "m5.large"},
		"everything":        {[]PoolState{{"*", "*", "*", 0}}, "none, 3 errors", "none, 3 errors"},
		"all but one":       {[]PoolState{{"*", "*", "*", 0}, {"m5.xlarge", "us-west-2b", "*", -1}}, "m5.xlarge", "m5.xlarge"},
		"all but on-demand": {[]PoolState{{"*", "*", "spot", 0}}, "none, 3 errors", "c5.large"},
	} {
		t.Run(name, func(t *testing.T) {
			w.order("pools", PoolState{"*", "*", "*", -1})
			for _, o := range tc.orders {
				w.order("pools", o)
			}
			if got := launch(spot); got != tc.spot {
				t.Errorf("spot gives %s, want %s", got, tc.spot)
			}
			if got := launch(onDemand); got != tc.onDemand {
				t.Errorf("on-demand gives %s, want %s", got, tc.onDemand)
			}
		})
	}
}

func TestRequestBuckets(t *testing.T) {
	w := newWorld(t)
	lt := w.template("t-1")
	filtered := []types.Filter{{Name: aws.String("instance-type"), Values: []string{"m5.large"}}}
	for name, tc := range map[string]struct {
		burst, perSecond int
		call             func() error
	}{
		"CreateFleet": {50, 5, func() error {
			_, err := w.ec2.CreateFleet(t.Context(), w.fleet(lt, 1, onDemand, w.override("m5.large", "us-west-2a")))
			return err
		}},
		"TerminateInstances": {100, 5, func() error {
			_, err := w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{"i-0123456789abcdef0"}})
			if err != nil && strings.Contains(err.Error(), "InvalidInstanceID.NotFound") {
				return nil
			}
			return err
		}},
		"DescribeInstances without a filter": {50, 10, func() error {
			_, err := w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})
			return err
		}},
		"DescribeInstances with a filter": {100, 20, func() error {
			_, err := w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: filtered})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			many := func() (passed int) {
				for tc.call() == nil {
					passed++
				}
				return passed
			}
			if got := many(); got != tc.burst {
				t.Errorf("%d calls pass at once, want %d", got, tc.burst)
			}
			w.clock.Step(2 * time.Second)
			if got := many(); got != 2*tc.perSecond {
				t.Errorf("%d calls pass after 2 s, want %d", got, 2*tc.perSecond)
			}
			err := tc.call()
			wantCode(t, err, "RequestLimitExceeded", http.StatusServiceUnavailable)
			if !strings.Contains(err.Error(), "exceeded its request rate limit") {
				t.Errorf("%v", err)
			}
		})
	}
	w.order("throttle", Throttle{Off: true})
	for range 120 {
		must(w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: filtered}))(t)
	}
	w.order("throttle", Throttle{Bucket: "DescribeVpcs", Burst: 1, PerSecond: 0.5})
	vpcs := func() error { _, err := w.ec2.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{}); return err }
	if err := vpcs(); err != nil {
		t.Error(err)
	}
	wantCode(t, vpcs(), "RequestLimitExceeded", http.StatusServiceUnavailable)
	w.clock.Step(2 * time.Second)
	if err := vpcs(); err != nil {
		t.Error(err)
	}
}

// TestResourceBuckets: past a thousand launches CreateFleet answers with HTTP
// 200, some instances, and throttles mixed with refusals for want of capacity.
func TestResourceBuckets(t *testing.T) {
	w := newWorld(t)
	lt := w.template("t-1")
	w.order("pools", PoolState{"m5.xlarge", "*", "*", 0})
	w.order("throttle", Throttle{Bucket: "RunInstances resources", Burst: 10, PerSecond: 2})
	in := w.fleet(lt, 8, onDemand, w.override("m5.xlarge", "us-west-2a"), w.override("m5.large", "us-west-2a"), w.override("m5.large", "us-west-2b"))
	if out := w.createFleet(in); len(ids(out)) != 8 || len(out.Errors) != 0 {
		t.Fatalf("%d, %v", len(ids(out)), errorsOf(out))
	}
	w.clock.Step(time.Second)
	out := w.createFleet(in)
	want := []string{"m5.large us-west-2a on-demand RequestLimitExceeded", "m5.large us-west-2b on-demand RequestLimitExceeded", "m5.xlarge us-west-2a on-demand InsufficientInstanceCapacity"}
	if got := errorsOf(out); len(ids(out)) != 4 || !cmp.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("%d instances, %q", len(ids(out)), got)
	}
	_, err := w.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{
		MinCount: ptr(int32(1)), MaxCount: ptr(int32(1)), SubnetId: ptr(w.subnet("us-west-2a")), InstanceType: "m5.large", ImageId: ptr(w.imageID("x86_64")),
	})
	wantCode(t, err, "RequestLimitExceeded", http.StatusServiceUnavailable)

	w.order("throttle", Throttle{Bucket: "TerminateInstances resources", Burst: 5, PerSecond: 1})
	all := slices.Collect(maps.Keys(w.sim.byID))
	slices.Sort(all)
	_, err = w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: all[:6]})
	wantCode(t, err, "RequestLimitExceeded", http.StatusServiceUnavailable)
	w.doom(all[:5]...)
	_, err = w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: all[5:6]})
	wantCode(t, err, "RequestLimitExceeded", http.StatusServiceUnavailable)
}

// TestAThrottledFleetIsReplayed: the token replays a throttle too.
func TestAThrottledFleetIsReplayed(t *testing.T) {
	w := newWorld(t)
	w.order("throttle", Throttle{Bucket: "RunInstances resources", Burst: 2, PerSecond: 2})
	in := w.fleet(w.template("t-1"), 5, onDemand, w.override("m5.large", "us-west-2a"))
	in.ClientToken = aws.String("once")
	first := w.createFleet(in)
	w.clock.Step(time.Minute)
	again := w.createFleet(in)
	if !slices.Equal(ids(first), ids(again)) || len(ids(again)) != 2 || len(again.Errors) != 1 || w.state().Live != 2 {
		t.Errorf("%q, then %q with %v", ids(first), ids(again), errorsOf(again))
	}
}

func TestFaultsInTimeAndShare(t *testing.T) {
	script := func(seed uint64) string {
		w := newWorld(t, func(c *Config) { c.Seed = seed })
		w.order("faults", Fault{Action: "DescribeVpcs", Code: "RequestLimitExceeded", For: "2m"})
		w.order("faults", Fault{Action: "DescribeVpcs", Code: "RequestLimitExceeded", After: "2m", Rate: 0.5})
		var b strings.Builder
		for i := range 80 {
			if i == 40 {
				w.clock.Step(2 * time.Minute)
			}
			if _, err := w.ec2.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{}); err != nil {
				wantCode(t, err, "RequestLimitExceeded", http.StatusServiceUnavailable)
				b.WriteByte('x')
			} else {
				b.WriteByte('.')
			}
		}
		return b.String()
	}
	got := script(7)
	if got[:40] != strings.Repeat("x", 40) {
		t.Errorf("everything is refused at first: %s", got)
	}
	if n := strings.Count(got[40:], "x"); n < 10 || n > 30 {
		t.Errorf("of 40 calls %d are refused, want about a half: %s", n, got)
	}
	if again := script(7); again != got {
		t.Errorf("one seed, two scripts:\n%s\n%s", got, again)
	}
	if script(8) == got {
		t.Error("two seeds, one script")
	}
}

func TestRefusalsOfOverrides(t *testing.T) {
	w := newWorld(t)
	lt := w.template("t-1")
	w.order("faults", Fault{Action: "CreateFleet", Code: "UnauthorizedOperation", Message: "no", For: "1m", Pool: &PoolPattern{InstanceType: "m5.*", CapacityType: "on-demand"}})
	in := w.fleet(lt, 1, onDemand, w.override("m5.large", "us-west-2a"), w.override("m5.xlarge", "us-west-2b"))
	want := []string{"m5.large us-west-2a on-demand UnauthorizedOperation", "m5.xlarge us-west-2b on-demand UnauthorizedOperation"}
	if diff := cmp.Diff(want, errorsOf(w.createFleet(in))); diff != "" {
		t.Error(diff)
	}
	if out := w.createFleet(w.fleet(lt, 1, spot, w.override("m5.large", "us-west-2a"))); len(ids(out)) != 1 {
		t.Errorf("spot is not refused: %v", errorsOf(out))
	}
	w.clock.Step(time.Minute)
	if out := w.createFleet(in); len(ids(out)) != 1 {
		t.Errorf("its time is over: %v", errorsOf(out))
	}
}

func TestDelayedAnswer(t *testing.T) {
	w := newWorld(t)
	w.order("faults", Fault{Action: "CreateFleet", Delay: "20ms"})
	began := time.Now()
	w.one()
	if took := time.Since(began); took < 20*time.Millisecond {
		t.Errorf("answered after %s", took)
	}
}

func TestQuotas(t *testing.T) {
	w := newWorld(t)
	lt := w.template("t-1")
	w.order("quotas", Quota{"standard", "on-demand", 10})
	w.order("quotas", Quota{"standard", "spot", 2})
	w.order("quotas", Quota{"g", "on-demand", 0})
	out := w.createFleet(w.fleet(lt, 4, onDemand, w.override("m5.xlarge", "us-west-2a"), w.override("c5.large", "us-west-2b")))
	want := []string{"c5.large us-west-2b on-demand VcpuLimitExceeded"}
	if len(ids(out)) != 4 { // Four c5.large, the cheapest, are 8 vCPUs.
		t.Errorf("%d instances, %q", len(ids(out)), errorsOf(out))
	}
	out = w.createFleet(w.fleet(lt, 2, onDemand, w.override("c5.large", "us-west-2b")))
	if len(ids(out)) != 1 || !cmp.Equal(errorsOf(out), want) || !strings.Contains(*out.Errors[0].ErrorMessage, "vCPU limit of 10") {
		t.Errorf("%d instances, %q", len(ids(out)), errorsOf(out))
	}
	out = w.createFleet(w.fleet(lt, 2, spot, w.override("m5.large", "us-west-2a")))
	if len(ids(out)) != 1 || !cmp.Equal(errorsOf(out), []string{"m5.large us-west-2a spot MaxSpotInstanceCountExceeded"}) {
		t.Errorf("%d instances, %q", len(ids(out)), errorsOf(out))
	}
	_, err := w.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{
		MinCount: ptr(int32(1)), MaxCount: ptr(int32(1)), SubnetId: ptr(w.subnet("us-west-2a")), InstanceType: "g5.xlarge", ImageId: ptr(w.imageID("x86_64")),
	})
	wantCode(t, err, "VcpuLimitExceeded", http.StatusBadRequest)
	w.doom(*w.find("c5.large").InstanceId)
	if out := w.createFleet(w.fleet(lt, 1, onDemand, w.override("c5.large", "us-west-2b"))); len(ids(out)) != 0 {
		t.Error("an instance that is shutting down does not count any more")
	}
	w.clock.Step(terminateDelay)
	if out := w.createFleet(w.fleet(lt, 1, onDemand, w.override("c5.large", "us-west-2b"))); len(ids(out)) != 1 {
		t.Errorf("a terminated instance still counts: %q", errorsOf(out))
	}
}

func TestQuotaBuckets(t *testing.T) {
	for typeName, want := range map[string]string{
		"m5.large": "standard", "m7gd.16xlarge": "standard", "t3.micro": "standard", "is4gen.large": "standard", "im4gn.large": "standard", "z1d.large": "standard", "hpc6a.48xlarge": "hpc",
		"g5.xlarge": "g", "g4dn.xlarge": "g", "vt1.3xlarge": "g", "p4d.24xlarge": "p", "inf2.xlarge": "inf", "trn1.2xlarge": "trn", "x2gd.large": "x", "u-6tb1.metal": "u", "dl1.24xlarge": "dl", "f1.2xlarge": "f", "mac1.metal": "mac",
	} {
		if got := quotaBucket(typeName); got != want {
			t.Errorf("%s is in %s, want %s", typeName, got, want)
		}
	}
}

func TestVisibility(t *testing.T) {
	w := newWorld(t)
	// All at the upper end: the tail's share is 1 and has no width.
	at := func(d string) Lag { return Lag{Usual: d, Tail: d, TailShare: 1} }
	w.order("visibility", Visibility{ByID: at("2s"), List: at("5s"), Tags: at("9s")})
	id := w.one()
	byID := func() error { _, err := w.describe(id); return err }
	list := func(filters ...types.Filter) int {
		out := must(w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: filters, MaxResults: aws.Int32(100)}))(t)
		return len(out.Reservations)
	}
	tagged := types.Filter{Name: aws.String("tag:from-fleet"), Values: []string{"yes"}}
	tagIt := func() error {
		_, err := w.ec2.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{id}, Tags: tags("late", "yes")})
		return err
	}
	wantCode(t, byID(), "InvalidInstanceID.NotFound", http.StatusBadRequest)
	wantCode(t, tagIt(), "InvalidInstanceID.NotFound", http.StatusBadRequest)
	_, err := w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
	wantCode(t, err, "InvalidInstanceID.NotFound", http.StatusBadRequest)
	w.clock.Step(2 * time.Second)
	if err := byID(); err != nil || list() != 0 {
		t.Errorf("after 2 s it is known by id (%v), and not in lists: %d", err, list())
	}
	w.clock.Step(3 * time.Second)
	if list() != 1 || list(tagged) != 0 || len(w.instance(id).Tags) != 0 {
		t.Errorf("after 5 s it is in lists without its tags: %d, %d, %v", list(), list(tagged), w.instance(id).Tags)
	}
	w.clock.Step(4 * time.Second)
	if list(tagged) != 1 {
		t.Error("after 9 s its tags are seen")
	}
	if err := tagIt(); err != nil || tagMap(w.instance(id).Tags)["late"] != "" {
		t.Errorf("a new tag is seen at once, or %v", err)
	}
	w.clock.Step(9 * time.Second)
	if tagMap(w.instance(id).Tags)["late"] != "yes" {
		t.Error("a new tag is seen after 9 s")
	}

	w.order("visibility", Visibility{})
	other := w.one()
	w.order("hide", Hide{InstanceID: id, For: "1m", List: true})
	if list() != 1 || byID() != nil {
		t.Errorf("the list has %d", list())
	}
	w.order("hide", Hide{Zone: "us-west-2a", For: "1m"})
	if _, err := w.describe(other); list() != 0 || err == nil || byID() == nil {
		t.Errorf("the zone is hidden: %d, %v", list(), err)
	}
	w.clock.Step(time.Minute)
	if list() != 2 || byID() != nil {
		t.Errorf("all is seen again: %d", list())
	}
}

// TestLagStaysInItsBounds: every delay is in the part that its share says.
func TestLagStaysInItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seconds := rapid.IntRange(0, 100)
		l := lag{usual: time.Duration(seconds.Draw(t, "usual")) * time.Second}
		l.tail = l.usual + time.Duration(seconds.Draw(t, "tail"))*time.Second
		l.outlier = l.tail + time.Duration(seconds.Draw(t, "outlier"))*time.Second
		l.tailShare = rapid.Float64Range(0, 0.5).Draw(t, "tail share")
		l.outlierShare = rapid.Float64Range(0, 0.5).Draw(t, "outlier share")
		share, within := rapid.Float64Range(0, 0.999).Draw(t, "share"), rapid.Float64Range(0, 0.999).Draw(t, "within")
		from, to := time.Duration(0), l.usual
		if share < l.outlierShare {
			from, to = l.tail, l.outlier
		} else if share < l.outlierShare+l.tailShare {
			from, to = l.usual, l.tail
		}
		if d := l.at(share, within); d < from || d > to {
			t.Fatalf("%s is not between %s and %s", d, from, to)
		}
	})
}

func TestLateFailure(t *testing.T) {
	w := newWorld(t)
	w.order("late", Late{PoolPattern: PoolPattern{InstanceType: "m5.*"}, Count: 1})
	doomed, sound := w.one(), w.one()
	if s := w.instance(doomed).State.Name; s != types.InstanceStateNamePending {
		t.Errorf("the launch is a success, and it is %s", s)
	}
	w.clock.Step(bootDelay / 4)
	i := w.instance(doomed)
	if i.State.Name != types.InstanceStateNameTerminated || *i.StateReason.Code != "Server.InsufficientInstanceCapacity" || i.PrivateIpAddress != nil {
		t.Errorf("%s %+v", i.State.Name, i.StateReason)
	}
	if s := w.instance(sound).State.Name; s != types.InstanceStateNameRunning {
		t.Errorf("the next one is %s", s)
	}
	w.clock.Step(bootDelay)
	if s := w.state(); s.ByState["terminated"] != 1 || s.Live != 1 {
		t.Errorf("%+v", s.ByState)
	}
}

func TestTimes(t *testing.T) {
	w := newWorld(t)
	w.order("boot", map[string]string{"delay": "10m", "running": "3s", "terminate": "1m"})
	id := w.one()
	state := func() types.InstanceStateName { return w.instance(id).State.Name }
	w.clock.Step(3*time.Second - 1)
	if state() != types.InstanceStateNamePending {
		t.Error(state())
	}
	w.clock.Step(1)
	if state() != types.InstanceStateNameRunning {
		t.Error(state())
	}
	w.doom(id)
	w.clock.Step(time.Minute - 1)
	if state() != types.InstanceStateNameShuttingDown {
		t.Error(state())
	}
	w.clock.Step(1)
	if state() != types.InstanceStateNameTerminated {
		t.Error(state())
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	c, queueURL := w.queue()
	sick, sound := w.one(), w.one()
	w.clock.Step(bootDelay)
	status := func(filter, value string) []types.InstanceStatus {
		return must(w.ec2.DescribeInstanceStatus(t.Context(), &ec2.DescribeInstanceStatusInput{Filters: []types.Filter{{Name: &filter, Values: []string{value}}}}))(t).InstanceStatuses
	}
	if n := len(status("instance-status.status", "impaired")); n != 0 {
		t.Errorf("%d are impaired", n)
	}
	due := start.Add(48 * time.Hour)
	w.order("health", Health{InstanceID: sick, Instance: "impaired", Events: []ScheduledEvent{{"instance-retirement", due}}})
	got := status("instance-status.status", "impaired")
	if len(got) != 1 || *got[0].InstanceId != sick || got[0].SystemStatus.Status != types.SummaryStatusOk || !got[0].InstanceStatus.Details[0].ImpairedSince.Equal(w.clock.Now()) ||
		got[0].InstanceStatus.Details[0].Status != types.StatusTypeFailed {
		t.Errorf("%+v", got)
	}
	if n := len(status("system-status.status", "impaired")); n != 0 {
		t.Errorf("%d systems are impaired", n)
	}
	got = status("event.code", "instance-retirement")
	if len(got) != 1 || *got[0].InstanceId != sick || got[0].Events[0].Code != types.EventCodeInstanceRetirement || !got[0].Events[0].NotBefore.Equal(due) {
		t.Errorf("%+v", got)
	}
	if got := status("instance-status.status", "ok"); len(got) != 1 || *got[0].InstanceId != sound {
		t.Errorf("%+v", got)
	}
	var health struct {
		DetailType string `json:"detail-type"`
		Source     string
		Resources  []string
		Detail     struct{ Service, EventTypeCategory, StartTime string }
	}
	for _, m := range must(c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: queueURL, MaxNumberOfMessages: 10}))(t).Messages {
		if err := json.Unmarshal([]byte(*m.Body), &health); err != nil {
			t.Fatal(err)
		}
	}
	if health.DetailType != "AWS Health Event" || health.Source != "aws.health" || health.Resources[0] != sick || health.Detail.EventTypeCategory != "scheduledChange" || health.Detail.StartTime != due.Format(time.RFC1123) {
		t.Errorf("%+v", health)
	}
	w.order("health", Health{InstanceID: sick, AttachedEBS: "impaired"})
	got = status("attached-ebs-status.status", "impaired")
	if len(got) != 1 || *got[0].InstanceId != sick || got[0].AttachedEbsStatus.Status != types.SummaryStatusImpaired || !got[0].AttachedEbsStatus.Details[0].ImpairedSince.Equal(w.clock.Now()) ||
		got[0].SystemStatus.Status != types.SummaryStatusOk {
		t.Errorf("%+v", got)
	}
	w.order("health", Health{InstanceID: sick})
	if n := len(status("instance-status.status", "ok")); n != 2 {
		t.Errorf("%d are well again", n)
	}
}

func TestSpoiltEvents(t *testing.T) {
	states := func(f EventFaults) []string {
		w := newWorld(t, func(c *Config) { c.Seed = 3 })
		c, queueURL := w.queue()
		w.order("events", f)
		id := w.one()
		w.clock.Step(bootDelay / 4)
		w.doom(id)
		read := func() (out []string) {
			for _, m := range must(c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: queueURL, MaxNumberOfMessages: 10}))(t).Messages {
				var e struct{ Detail struct{ State string } }
				if err := json.Unmarshal([]byte(*m.Body), &e); err != nil {
					e.Detail.State = "malformed"
				}
				out = append(out, e.Detail.State)
			}
			return out
		}
		now := read()
		w.clock.Step(20 * time.Second)
		return append(append(now, "|"), read()...)
	}
	for name, tc := range map[string]struct {
		faults EventFaults
		want   []string
	}{
		"none":       {EventFaults{}, []string{"pending", "running", "shutting-down", "|", "terminated"}},
		"duplicates": {EventFaults{DuplicateShare: 1}, []string{"pending", "pending", "running", "running", "shutting-down", "shutting-down", "|", "terminated", "terminated"}},
		"reordered":  {EventFaults{ReorderShare: 1}, []string{"shutting-down", "running", "pending", "|", "terminated"}},
		"malformed":  {EventFaults{MalformedShare: 1}, []string{"malformed", "malformed", "malformed", "|", "malformed"}},
		"lost":       {EventFaults{LostShare: 1}, []string{"|"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, states(tc.faults)); diff != "" {
				t.Error(diff)
			}
		})
	}
	late := states(EventFaults{LateShare: 1, Late: "20s"})
	if at := slices.Index(late, "|"); at == 3 || len(late) < 4 {
		t.Errorf("nothing is late: %q", late)
	}
	w := newWorld(t)
	c, queueURL := w.queue()
	w.order("event", map[string]string{"body": "no event at all"})
	if m := must(c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: queueURL}))(t).Messages; len(m) != 1 || *m[0].Body != "no event at all" {
		t.Errorf("%+v", m)
	}
}
