package ec2sim

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	clocktesting "k8s.io/utils/clock/testing"
)

func TestLife(t *testing.T) {
	w := newWorld(t)
	id := w.one()
	state := func() types.InstanceStateName { t.Helper(); return w.instance(id).State.Name }
	status := func() string {
		t.Helper()
		out := must(w.ec2.DescribeInstanceStatus(t.Context(), &ec2.DescribeInstanceStatusInput{InstanceIds: []string{id}, IncludeAllInstances: ptr(true)}))(t)
		return string(out.InstanceStatuses[0].InstanceStatus.Status)
	}
	if state() != "pending" || status() != "not-applicable" {
		t.Errorf("%s %s", state(), status())
	}
	w.clock.Step(bootDelay / 4)
	if state() != "running" || status() != "initializing" {
		t.Errorf("after a quarter of the boot delay: %s %s", state(), status())
	}
	w.clock.Step(bootDelay)
	if status() != "ok" {
		t.Errorf("after the boot delay: %s", status())
	}
	out := must(w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id, id}}))(t)
	if c := out.TerminatingInstances; len(c) != 1 || c[0].PreviousState.Name != "running" || c[0].CurrentState.Name != "shutting-down" || *c[0].CurrentState.Code != 32 {
		t.Errorf("%+v", c)
	}
	out = must(w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}}))(t)
	if c := out.TerminatingInstances; c[0].PreviousState.Name != "shutting-down" || c[0].CurrentState.Name != "shutting-down" {
		t.Errorf("a second termination: %+v", c)
	}
	if w.state().HourlyCost != 0 {
		t.Error("an instance that shuts down costs")
	}
	w.clock.Step(terminateDelay)
	i := w.instance(id)
	if i.State.Name != "terminated" || aws.ToString(i.PrivateDnsName) != "" || *i.StateReason.Code != "Client.UserInitiatedShutdown" || i.SubnetId != nil {
		t.Errorf("%+v", i)
	}
	w.clock.Step(time.Hour - time.Second)
	if state() != "terminated" {
		t.Error("a terminated instance is gone too early")
	}
	w.clock.Step(time.Second)
	_, err := w.describe(id)
	wantCode(t, err, "InvalidInstanceID.NotFound", http.StatusBadRequest)
	if n := len(w.sim.tags) - len(w.sim.images) - len(w.sim.subnets) - len(w.sim.groups) - 1; n != 2 {
		t.Errorf("%d tagged things are left, want a template and a fleet", n)
	}
}

func TestUnknownInstancesFailTheBatch(t *testing.T) {
	w := newWorld(t)
	id := w.one()
	for name, tc := range map[string]struct {
		ids        []string
		code, text string
	}{
		"one":       {[]string{id, "i-00000000000000000"}, "InvalidInstanceID.NotFound", "The instance ID 'i-00000000000000000' does not exist"},
		"two":       {[]string{"i-00000000000000000", id, "i-00000000000000001"}, "InvalidInstanceID.NotFound", "The instance IDs 'i-00000000000000000, i-00000000000000001' do not exist"},
		"malformed": {[]string{"i-0"}, "InvalidInstanceID.Malformed", "Invalid id"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: tc.ids})
			wantCode(t, err, tc.code, http.StatusBadRequest)
			if !strings.Contains(err.Error(), tc.text) {
				t.Error(err)
			}
			_, err = w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: tc.ids})
			wantCode(t, err, tc.code, http.StatusBadRequest)
		})
	}
	if w.instance(id).State.Name != "pending" {
		t.Error("a batch with an unknown id terminated the others")
	}
	_, err := w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}, DryRun: ptr(true)})
	wantCode(t, err, "DryRunOperation", http.StatusPreconditionFailed)
}

func TestDescribeInstancesFiltersAndPages(t *testing.T) {
	w := newWorld(t)
	lt := w.template("t-1")
	for n := range 12 {
		in := w.fleet(lt, 1, onDemand, w.override("m5.large", "us-west-2a"))
		in.TagSpecifications[0].Tags = tags("n", fmt.Sprint(n), "cluster", "demo")
		w.createFleet(in)
	}
	spotID := ids(w.createFleet(w.fleet(lt, 1, spot, w.override("c5.large", "us-west-2b"))))[0]
	count := func(t *testing.T, filters ...types.Filter) int {
		t.Helper()
		n, pages := 0, 0
		p := ec2.NewDescribeInstancesPaginator(w.ec2, &ec2.DescribeInstancesInput{Filters: filters, MaxResults: ptr(int32(5))})
		for p.HasMorePages() {
			out, err := p.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, r := range out.Reservations {
				n += len(r.Instances)
			}
		}
		if pages != max(1, (n+4)/5) {
			t.Errorf("%d instances came in %d pages", n, pages)
		}
		return n
	}
	filter := func(name string, values ...string) types.Filter {
		return types.Filter{Name: aws.String(name), Values: values}
	}
	i := w.instance(spotID)
	for name, tc := range map[string]struct {
		filters []types.Filter
		want    int
	}{
		"none":                   {nil, 13},
		"state":                  {[]types.Filter{filter("instance-state-name", "pending", "running")}, 13},
		"state, none":            {[]types.Filter{filter("instance-state-name", "stopped")}, 0},
		"a tag":                  {[]types.Filter{filter("tag:cluster", "demo")}, 12},
		"two tags":               {[]types.Filter{filter("tag:cluster", "demo"), filter("tag:n", "3", "4")}, 2},
		"a wildcard":             {[]types.Filter{filter("tag:n", "1?")}, 2},
		"an escaped wildcard":    {[]types.Filter{filter("tag:n", `1\?`)}, 0},
		"a tag's key":            {[]types.Filter{filter("tag-key", "n")}, 12},
		"AWS's own tag":          {[]types.Filter{filter("tag:aws:ec2launchtemplate:id", lt)}, 13},
		"the private DNS name":   {[]types.Filter{filter("private-dns-name", *i.PrivateDnsName)}, 1},
		"the private IP address": {[]types.Filter{filter("private-ip-address", *i.PrivateIpAddress)}, 1},
		"the subnet":             {[]types.Filter{filter("subnet-id", w.subnet("us-west-2b"))}, 1},
		"the VPC":                {[]types.Filter{filter("vpc-id", w.sim.vpc)}, 13},
		"the zone":               {[]types.Filter{filter("availability-zone", "us-west-2a")}, 12},
		"the id":                 {[]types.Filter{filter("instance-id", spotID, "i-0")}, 1},
		"the type":               {[]types.Filter{filter("instance-type", "c5.*")}, 1},
		"the lifecycle":          {[]types.Filter{filter("instance-lifecycle", "spot")}, 1},
		"the security group":     {[]types.Filter{filter("instance.group-id", w.sim.groups[0].id)}, 13},
		"the image":              {[]types.Filter{filter("image-id", w.imageID("x86_64"))}, 13},
	} {
		t.Run(name, func(t *testing.T) {
			if got := count(t, tc.filters...); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
	for name, tc := range map[string]struct {
		in   ec2.DescribeInstancesInput
		want string
	}{
		"an unknown filter":   {ec2.DescribeInstancesInput{Filters: []types.Filter{filter("colour", "red")}}, "InvalidParameterValue"},
		"too few a page":      {ec2.DescribeInstancesInput{MaxResults: ptr(int32(4))}, "InvalidParameterValue"},
		"too many a page":     {ec2.DescribeInstancesInput{MaxResults: ptr(int32(1001))}, "InvalidParameterValue"},
		"a token of nobody's": {ec2.DescribeInstancesInput{NextToken: ptr("x")}, "InvalidNextToken"},
		"ids and a page size": {ec2.DescribeInstancesInput{MaxResults: ptr(int32(5)), InstanceIds: []string{spotID}}, "InvalidParameterCombination"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.ec2.DescribeInstances(t.Context(), &tc.in)
			wantCode(t, err, tc.want, http.StatusBadRequest)
		})
	}
}

// TestPagesSurviveChanges: an instance that ends between two pages neither
// hides nor repeats another.
func TestPagesSurviveChanges(t *testing.T) {
	w := newWorld(t)
	out := w.createFleet(w.fleet(w.template("t-1"), 10, onDemand, w.override("m5.large", "us-west-2a")))
	p := ec2.NewDescribeInstancesPaginator(w.ec2, &ec2.DescribeInstancesInput{MaxResults: ptr(int32(5))})
	var seen []string
	for p.HasMorePages() {
		got, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range got.Reservations {
			for _, i := range r.Instances {
				seen = append(seen, *i.InstanceId)
			}
		}
		if len(seen) == 5 {
			w.terminate(ids(out)[0], ids(out)[4])
			w.clock.Step(2 * time.Hour) // they are forgotten
		}
	}
	if diff := cmp.Diff(ids(out), seen); diff != "" {
		t.Error(diff)
	}
}

func TestRunInstances(t *testing.T) {
	w := newWorld(t)
	in := func() *ec2.RunInstancesInput {
		return &ec2.RunInstancesInput{
			MinCount: ptr(int32(1)), MaxCount: ptr(int32(2)), ClientToken: ptr("t"), SubnetId: ptr(w.subnet("us-west-2a")), InstanceType: "m5.xlarge",
			LaunchTemplate:    &types.LaunchTemplateSpecification{LaunchTemplateName: ptr("t-1")},
			TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: tags("both", "request")}},
		}
	}
	w.template("t-1")
	out := must(w.ec2.RunInstances(t.Context(), in()))(t)
	if len(out.Instances) != 2 || out.Instances[0].InstanceType != "m5.xlarge" {
		t.Fatalf("%+v", out.Instances)
	}
	got := tagMap(out.Instances[0].Tags)
	if got["both"] != "request" || got["from"] != "template" {
		t.Errorf("%v", got)
	}
	again := must(w.ec2.RunInstances(t.Context(), in()))(t)
	if *again.ReservationId != *out.ReservationId || w.state().Live != 2 {
		t.Error("the same token launched again")
	}
	// The token counts for a zone.
	other := in()
	other.SubnetId = ptr(w.subnet("us-west-2b"))
	if o := must(w.ec2.RunInstances(t.Context(), other))(t); *o.ReservationId == *out.ReservationId {
		t.Error("the same token in another zone did not launch")
	}
	mismatch := in()
	mismatch.InstanceType = "m5.large"
	_, err := w.ec2.RunInstances(t.Context(), mismatch)
	wantCode(t, err, "IdempotentParameterMismatch", http.StatusBadRequest)
	w.terminate(*out.Instances[0].InstanceId)
	_, err = w.ec2.RunInstances(t.Context(), in())
	wantCode(t, err, "IdempotentInstanceTerminated", http.StatusBadRequest)
}

func TestRunInstancesRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*world, *ec2.RunInstancesInput)
		want   string
		status int
	}{
		"an empty pool": {func(w *world, _ *ec2.RunInstancesInput) {
			w.order("pools", PoolState{"m5.large", "us-west-2a", "on-demand", 1})
		}, "InsufficientInstanceCapacity", 500},
		"an image of another architecture":   {func(w *world, in *ec2.RunInstancesInput) { in.ImageId = ptr(w.imageID("arm64")) }, "InvalidParameterValue", 400},
		"an image that is not there":         {func(_ *world, in *ec2.RunInstancesInput) { in.ImageId = ptr("ami-0") }, "InvalidAMIID.NotFound", 400},
		"an image id that is none":           {func(_ *world, in *ec2.RunInstancesInput) { in.ImageId = ptr("x") }, "InvalidAMIID.Malformed", 400},
		"no image":                           {func(_ *world, in *ec2.RunInstancesInput) { in.ImageId = nil }, "MissingParameter", 400},
		"a subnet that is not there":         {func(_ *world, in *ec2.RunInstancesInput) { in.SubnetId = ptr("subnet-0") }, "InvalidSubnetID.NotFound", 400},
		"no subnet and no default VPC":       {func(_ *world, in *ec2.RunInstancesInput) { in.SubnetId = nil }, "MissingInput", 400},
		"a group that is not there":          {func(_ *world, in *ec2.RunInstancesInput) { in.SecurityGroupIds = []string{"sg-0"} }, "InvalidGroup.NotFound", 400},
		"a type that the zone does not have": {func(_ *world, in *ec2.RunInstancesInput) { in.InstanceType = "trn1.32xlarge" }, "Unsupported", 400},
		"a profile that is not there": {func(_ *world, in *ec2.RunInstancesInput) {
			in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: ptr("nobody")}
		}, "InvalidParameterValue", 400},
		"user data that is not base64": {func(_ *world, in *ec2.RunInstancesInput) { in.UserData = ptr("%") }, "InvalidUserData.Malformed", 400},
		"user data that is too long": {func(_ *world, in *ec2.RunInstancesInput) {
			in.UserData = ptr(base64.StdEncoding.EncodeToString(make([]byte, 16<<10+1)))
		}, "InvalidUserData.Malformed", 400},
		"a range that is none": {func(_ *world, in *ec2.RunInstancesInput) { in.MinCount = ptr(int32(3)) }, "InvalidParameterCombination", 400},
		"a spot price too low": {func(_ *world, in *ec2.RunInstancesInput) {
			in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot, SpotOptions: &types.SpotMarketOptions{MaxPrice: ptr("0.0001")}}
		}, "SpotMaxPriceTooLow", 400},
		"a dry run": {func(_ *world, in *ec2.RunInstancesInput) { in.DryRun = ptr(true) }, "DryRunOperation", 412},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			in := &ec2.RunInstancesInput{MinCount: ptr(int32(2)), MaxCount: ptr(int32(2)), SubnetId: ptr(w.subnet("us-west-2a")), InstanceType: "m5.large", ImageId: ptr(w.imageID("x86_64"))}
			tc.change(w, in)
			_, err := w.ec2.RunInstances(t.Context(), in)
			wantCode(t, err, tc.want, tc.status)
			if w.state().Live != 0 {
				t.Error("it was launched all the same")
			}
		})
	}
}

// TestALostReplyDoesNotLaunchTwice: the connection breaks after the launch, the
// SDK tries again with the same token.
func TestALostReplyDoesNotLaunchTwice(t *testing.T) {
	w := newWorld(t)
	lt := w.template("t-1")
	cfg := w.aws()
	cfg.Retryer = func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = 3
			o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 0, nil })
		})
	}
	w.order("faults", Fault{Action: "CreateFleet", DropReply: true})
	out, err := ec2.NewFromConfig(cfg).CreateFleet(t.Context(), w.fleet(lt, 1, onDemand, w.override("m5.large", "us-west-2a")))
	if err != nil || len(ids(out)) != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	state := w.state()
	if state.Live != 1 || state.Instances[0].ID != ids(out)[0] {
		t.Errorf("%d instances live", state.Live)
	}
	_, calls := w.do(http.MethodGet, "/_sim/calls", nil)
	if n := calls["counts"].(map[string]any)["ec2:CreateFleet"]; n != 2.0 {
		t.Errorf("%v calls, want 2", n)
	}
}

func TestDisabledTermination(t *testing.T) {
	w := newWorld(t)
	out := must(w.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{
		MinCount: ptr(int32(1)), MaxCount: ptr(int32(1)), SubnetId: ptr(w.subnet("us-west-2a")), InstanceType: "m5.large", ImageId: ptr(w.imageID("x86_64")), DisableApiTermination: ptr(true),
	}))(t)
	_, err := w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{*out.Instances[0].InstanceId}})
	wantCode(t, err, "OperationNotPermitted", http.StatusBadRequest)
}

const goodUserData = `apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster: {name: demo, apiServerEndpoint: "https://127.0.0.1:6443", certificateAuthority: Q0E=, cidr: 10.100.0.0/16}
`

// TestBootAndStop runs the whole with time: an instance boots, joins, is
// interrupted and stops; another one with wrong user data says why it does not
// join.
func TestBootAndStop(t *testing.T) {
	client := fake.NewClientset()
	w := newWorld(t, func(c *Config) { c.Client = client })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.sim.Run(ctx) }()
	defer func() { cancel(); <-done }()

	nodes, err := client.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer nodes.Stop()
	launch := func(userData string) string {
		t.Helper()
		out := must(w.ec2.RunInstances(t.Context(), &ec2.RunInstancesInput{
			MinCount: ptr(int32(1)), MaxCount: ptr(int32(1)), SubnetId: ptr(w.subnet("us-west-2a")), InstanceType: "m5.large", ImageId: ptr(w.imageID("x86_64")),
			UserData: ptr(base64.StdEncoding.EncodeToString([]byte(userData))), InstanceMarketOptions: &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot},
		}))(t)
		return *out.Instances[0].InstanceId
	}
	next := func() *corev1.Node {
		t.Helper()
		select {
		case e := <-nodes.ResultChan():
			return e.Object.(*corev1.Node)
		case <-time.After(10 * time.Second):
			t.Fatal("no node")
			return nil
		}
	}
	bad, good := launch(strings.Replace(goodUserData, "demo", "prod", 1)), launch(goodUserData)
	step(t, w.clock, bootDelay)
	n := next()
	if n.Spec.ProviderID != "aws:///us-west-2a/"+good || n.Name != *w.instance(good).PrivateDnsName {
		t.Errorf("%+v", n)
	}
	await(t, func() bool {
		s := w.state()
		return s.Instances[0].JoinFailed && s.Instances[1].Joined != nil
	})
	console := must(w.ec2.GetConsoleOutput(t.Context(), &ec2.GetConsoleOutputInput{InstanceId: &bad}))(t)
	text, err := base64.StdEncoding.DecodeString(*console.Output)
	if err != nil || !bytes.Contains(text, []byte(`names cluster "prod"`)) {
		t.Errorf("%s, %v", text, err)
	}
	w.order("interrupt", map[string]any{"instanceId": good, "noticeSeconds": 30})
	if w.instance(good).State.Name != "running" {
		t.Error("there was no notice")
	}
	step(t, w.clock, 30*time.Second)
	if i := w.instance(good); i.State.Name != "shutting-down" || *i.StateReason.Code != "Server.SpotInstanceTermination" {
		t.Errorf("%s %+v", i.State.Name, i.StateReason)
	}
	for {
		n := next()
		if n.Status.Conditions[len(n.Status.Conditions)-1].Status == corev1.ConditionUnknown {
			break
		}
	}
	if _, err := client.CoreV1().Nodes().Get(t.Context(), n.Name, metav1.GetOptions{}); err != nil {
		t.Errorf("the Node is the provisioner's to remove: %v", err)
	}
}

// step moves the clock once the Sim waits on it.
func step(t *testing.T, clock *clocktesting.FakeClock, d time.Duration) {
	t.Helper()
	await(t, clock.HasWaiters)
	clock.Step(d)
}

// await asks until ok, for what no channel tells.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("it does not come true")
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no cluster":                 {func(c *Config) { c.ClusterName = "" }, "cluster name"},
		"an unknown region":          {func(c *Config) { c.Region = "mars-1" }, `region "mars-1" is not in the catalogue`},
		"a negative delay":           {func(c *Config) { c.BootDelay = -1 }, "negative"},
		"a subnet in another region": {func(c *Config) { c.Subnets = []SubnetConfig{{"us-east-1a", "10.0.0.0/24"}} }, "no zone"},
		"a range that is none":       {func(c *Config) { c.Subnets = []SubnetConfig{{"us-west-2a", "10.0.0.0"}} }, "subnet in us-west-2a"},
		"a range that is too small":  {func(c *Config) { c.Subnets = []SubnetConfig{{"us-west-2a", "10.0.0.0/29"}} }, "/16 to /28"},
		"a range outside the VPC":    {func(c *Config) { c.Subnets = []SubnetConfig{{"us-west-2a", "192.168.0.0/24"}} }, "not inside"},
		"a range with host bits":     {func(c *Config) { c.Subnets = []SubnetConfig{{"us-west-2a", "10.0.0.1/24"}} }, "not an IPv4 range"},
		"ranges that overlap": {func(c *Config) {
			c.Subnets = []SubnetConfig{{"us-west-2a", "10.0.0.0/24"}, {"us-west-2b", "10.0.0.128/25"}}
		}, "overlap"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Region: "us-west-2", ClusterName: "demo"}
			tc.change(&cfg)
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

var errNone = errors.New("none")

func TestUnknownErrorsAreInternal(t *testing.T) {
	if e := asAPIError(errNone); e.code != "InternalError" || e.status != http.StatusInternalServerError {
		t.Errorf("%+v", e)
	}
}
