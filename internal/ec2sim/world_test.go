package ec2sim

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	clocktesting "k8s.io/utils/clock/testing"
)

// world is a Sim behind a real HTTP server, with the real SDK in front of it
// and a clock that stands still.
type world struct {
	t     *testing.T
	sim   *Sim
	url   string
	ec2   *ec2.Client
	clock *clocktesting.FakeClock
}

var start = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

const (
	bootDelay      = 40 * time.Second
	terminateDelay = 10 * time.Second
)

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, clock: clocktesting.NewFakeClock(start)}
	cfg := Config{Region: "us-west-2", ClusterName: "demo", BootDelay: bootDelay, TerminateDelay: terminateDelay, Clock: w.clock, Endpoint: "https://127.0.0.1:6443", CA: []byte("CA")}
	for _, f := range change {
		f(&cfg)
	}
	sim, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.sim = sim
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	w.url = server.URL
	w.ec2 = ec2.NewFromConfig(w.aws())
	return w
}

// aws is the SDK's configuration: no retries, so that each test sees what it
// asked for.
func (w *world) aws() aws.Config {
	return aws.Config{
		Region: "us-west-2", BaseEndpoint: aws.String(w.url), Credentials: credentials.NewStaticCredentialsProvider("x", "y", ""),
		Retryer:    func() aws.Retryer { return aws.NopRetryer{} },
		HTTPClient: steadyClient{},
	}
}

// steadyClient sends a copy of the request's body. The SDK closes its own as
// soon as the answer is there, which can be before net/http has seen its end
// (see Config.Latency).
type steadyClient struct{}

func (steadyClient) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	return http.DefaultClient.Do(r)
}

func (w *world) post(path string, body any) (int, map[string]any) {
	w.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.do(http.MethodPost, path, text)
}

func (w *world) do(method, path string, body []byte) (int, map[string]any) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, out
}

// order posts to the admin endpoint and wants it to work.
func (w *world) order(path string, body any) {
	w.t.Helper()
	if status, answer := w.post("/_sim/"+path, body); status != http.StatusOK {
		w.t.Fatalf("%s: %d %v", path, status, answer)
	}
}

// queue makes the cluster's queue.
func (w *world) queue() (c *sqs.Client, url *string) {
	w.t.Helper()
	c = sqs.NewFromConfig(w.aws())
	return c, must(c.CreateQueue(w.t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("demo")}))(w.t).QueueUrl
}

func (w *world) state() State {
	w.t.Helper()
	resp, err := http.Get(w.url + "/_sim/state")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var s State
	dec := json.NewDecoder(resp.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// code is the AWS error code and HTTP status of err.
func code(t *testing.T, err error) (string, int) {
	t.Helper()
	var api smithy.APIError
	var resp *smithyhttp.ResponseError
	if !errors.As(err, &api) || !errors.As(err, &resp) {
		t.Fatalf("not an answer of AWS: %v", err)
	}
	return api.ErrorCode(), resp.HTTPStatusCode()
}

func wantCode(t *testing.T, err error, want string, status int) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", want)
	}
	if got, s := code(t, err); got != want || s != status {
		t.Errorf("got %s (%d), want %s (%d): %v", got, s, want, status, err)
	}
}

func must[T any](out T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

func ptr[T any](v T) *T { return &v }

// imageID is the newest Amazon Linux image for the architecture.
func (w *world) imageID(arch string) string {
	return w.sim.params["/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/"+arch+"/standard/recommended/image_id"][1].value
}

func (w *world) subnet(zone string) string {
	for _, sn := range w.sim.subnets {
		if sn.zone.Name == zone {
			return sn.id
		}
	}
	w.t.Fatalf("no subnet in %s", zone)
	return ""
}

func (w *world) templateData() *types.RequestLaunchTemplateData {
	return &types.RequestLaunchTemplateData{
		ImageId:            aws.String(w.imageID("x86_64")),
		UserData:           aws.String(base64.StdEncoding.EncodeToString([]byte("hello"))),
		SecurityGroupIds:   []string{w.sim.groups[0].id},
		IamInstanceProfile: &types.LaunchTemplateIamInstanceProfileSpecificationRequest{Name: aws.String("berth-node")},
		BlockDeviceMappings: []types.LaunchTemplateBlockDeviceMappingRequest{{
			DeviceName: aws.String("/dev/xvda"), Ebs: &types.LaunchTemplateEbsBlockDeviceRequest{VolumeSize: aws.Int32(50), VolumeType: types.VolumeTypeGp3, Encrypted: aws.Bool(true)},
		}},
		MetadataOptions: &types.LaunchTemplateInstanceMetadataOptionsRequest{HttpTokens: types.LaunchTemplateHttpTokensStateRequired, HttpPutResponseHopLimit: aws.Int32(1)},
		TagSpecifications: []types.LaunchTemplateTagSpecificationRequest{
			{ResourceType: types.ResourceTypeInstance, Tags: tags("from", "template", "both", "template")},
			{ResourceType: types.ResourceTypeVolume, Tags: tags("kind", "volume")},
		},
	}
}

func tags(kv ...string) []types.Tag {
	var out []types.Tag
	for i := 0; i < len(kv); i += 2 {
		out = append(out, types.Tag{Key: aws.String(kv[i]), Value: aws.String(kv[i+1])})
	}
	return out
}

// template makes a launch template and returns its id.
func (w *world) template(name string) string {
	w.t.Helper()
	out, err := w.ec2.CreateLaunchTemplate(w.t.Context(), &ec2.CreateLaunchTemplateInput{LaunchTemplateName: aws.String(name), LaunchTemplateData: w.templateData()})
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.LaunchTemplate.LaunchTemplateId
}

// override is one override of a fleet: type/zone.
func (w *world) override(typeName types.InstanceType, zone string) types.FleetLaunchTemplateOverridesRequest {
	return types.FleetLaunchTemplateOverridesRequest{InstanceType: typeName, SubnetId: aws.String(w.subnet(zone)), AvailabilityZone: aws.String(zone)}
}

func (w *world) fleet(template string, count int32, kind types.DefaultTargetCapacityType, overrides ...types.FleetLaunchTemplateOverridesRequest) *ec2.CreateFleetInput {
	in := &ec2.CreateFleetInput{
		Type:                        types.FleetTypeInstant,
		TargetCapacitySpecification: &types.TargetCapacitySpecificationRequest{TotalTargetCapacity: aws.Int32(count), DefaultTargetCapacityType: kind},
		LaunchTemplateConfigs: []types.FleetLaunchTemplateConfigRequest{{
			LaunchTemplateSpecification: &types.FleetLaunchTemplateSpecificationRequest{LaunchTemplateId: aws.String(template), Version: aws.String("$Latest")},
			Overrides:                   overrides,
		}},
		TagSpecifications: []types.TagSpecification{
			{ResourceType: types.ResourceTypeInstance, Tags: tags("from-fleet", "yes", "both", "fleet")},
			{ResourceType: types.ResourceTypeFleet, Tags: tags("kind", "fleet")},
		},
	}
	return in
}

func (w *world) createFleet(in *ec2.CreateFleetInput) *ec2.CreateFleetOutput {
	w.t.Helper()
	once := *in // the SDK writes the token that it makes up into the request
	out, err := w.ec2.CreateFleet(w.t.Context(), &once)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func ids(out *ec2.CreateFleetOutput) []string {
	var all []string
	for _, i := range out.Instances {
		all = append(all, i.InstanceIds...)
	}
	return all
}

// one launches one on-demand m5.large and returns its id.
func (w *world) one() string {
	w.t.Helper()
	name := "one-" + w.sim.newUUID()
	out := w.createFleet(w.fleet(w.template(name), 1, types.DefaultTargetCapacityTypeOnDemand, w.override("m5.large", "us-west-2a")))
	if len(ids(out)) != 1 {
		w.t.Fatalf("%+v", out)
	}
	return ids(out)[0]
}

func (w *world) describe(id string) (types.Instance, error) {
	out, err := w.ec2.DescribeInstances(context.Background(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		return types.Instance{}, err
	}
	return out.Reservations[0].Instances[0], nil
}

func (w *world) instance(id string) types.Instance {
	w.t.Helper()
	i, err := w.describe(id)
	if err != nil {
		w.t.Fatal(err)
	}
	return i
}

func tagMap(list []types.Tag) map[string]string {
	out := map[string]string{}
	for _, t := range list {
		out[*t.Key] = *t.Value
	}
	return out
}
