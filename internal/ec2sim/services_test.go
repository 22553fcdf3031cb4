package ec2sim

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
	pricingtypes "github.com/aws/aws-sdk-go-v2/service/pricing/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/google/go-cmp/cmp"
)

func TestSSM(t *testing.T) {
	w := newWorld(t)
	c := ssm.NewFromConfig(w.aws())
	for _, name := range []string{
		"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/x86_64/standard/recommended/image_id",
		"/aws/service/eks/optimized-ami/1.34/amazon-linux-2023/arm64/standard/recommended/image_id",
		"/aws/service/eks/optimized-ami/1.35/amazon-linux-2023/x86_64/nvidia/recommended/image_id",
		"/aws/service/eks/optimized-ami/1.36/amazon-linux-2023/arm64/nvidia/recommended/image_id",
		"/aws/service/eks/optimized-ami/1.37/amazon-linux-2023/x86_64/standard/amazon-eks-node-al2023-x86_64-standard-1.37-v20260512/image_id",
		"/aws/service/bottlerocket/aws-k8s-1.37/x86_64/latest/image_id",
		"/aws/service/bottlerocket/aws-k8s-1.34/arm64/1.58.0/image_id",
		"/aws/service/bottlerocket/aws-k8s-1.37-nvidia/x86_64/latest/image_id",
	} {
		out, err := c.GetParameter(t.Context(), &ssm.GetParameterInput{Name: &name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		img, err := w.sim.image(*out.Parameter.Value)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(name, "arm64") != (img.arch == "arm64") || strings.Contains(name, "nvidia") != img.boot.NVIDIA || out.Parameter.LastModifiedDate.Year() != 2026 {
			t.Errorf("%s is %+v", name, img)
		}
	}
	newest := must(c.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("/aws/service/bottlerocket/aws-k8s-1.37/x86_64/latest/image_version")}))(t)
	if *newest.Parameter.Value != "1.60.1-1a2b3c4d" || newest.Parameter.Version != 2 {
		t.Errorf("%+v", newest.Parameter)
	}
	_, err := c.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("/aws/service/eks/optimized-ami/1.20/x")})
	var gone *ssmtypes.ParameterNotFound
	if !errors.As(err, &gone) {
		t.Errorf("got %v", err)
	}
	many := must(c.GetParameters(t.Context(), &ssm.GetParametersInput{Names: []string{"/aws/service/bottlerocket/aws-k8s-1.37/x86_64/latest/image_id", "/nope"}}))(t)
	if len(many.Parameters) != 1 || len(many.InvalidParameters) != 1 || many.InvalidParameters[0] != "/nope" {
		t.Errorf("%+v", many)
	}
	const latest = "/aws/service/bottlerocket/aws-k8s-1.37/x86_64/latest/image_version"
	selected := must(c.GetParameters(t.Context(), &ssm.GetParametersInput{Names: []string{latest + ":1", latest, latest + ":3", latest + ":stable"}}))(t)
	if p := selected.Parameters; len(p) != 2 || *p[0].Name != latest || *p[0].Selector != ":1" || *p[0].Value != "1.58.0-1a2b3c4d" || p[0].Version != 1 ||
		*p[1].Name != latest || p[1].Selector != nil || p[1].Version != 2 {
		t.Errorf("%+v", p)
	}
	if diff := cmp.Diff([]string{latest + ":3", latest + ":stable"}, selected.InvalidParameters); diff != "" {
		t.Error(diff)
	}
	_, err = c.GetParameters(t.Context(), &ssm.GetParametersInput{Names: strings.Split("/a,/b,/c,/d,/e,/f,/g,/h,/i,/j,/k", ",")})
	wantCode(t, err, "ValidationException", http.StatusBadRequest)
	_, err = c.GetParametersByPath(t.Context(), &ssm.GetParametersByPathInput{Path: aws.String("/aws")})
	wantCode(t, err, "UnknownOperationException", http.StatusBadRequest)
}

func TestPricing(t *testing.T) {
	w := newWorld(t)
	cfg := w.aws()
	cfg.Region = "us-east-1" // where the Pricing API lives
	c := pricing.NewFromConfig(cfg)
	term := func(field, value string) pricingtypes.Filter {
		return pricingtypes.Filter{Type: pricingtypes.FilterTypeTermMatch, Field: &field, Value: &value}
	}
	base := []pricingtypes.Filter{
		term("operatingSystem", "Linux"), term("preInstalledSw", "NA"), term("tenancy", "Shared"), term("capacitystatus", "Used"), term("marketoption", "OnDemand"),
	}
	prices := map[string]float64{}
	p := pricing.NewGetProductsPaginator(c, &pricing.GetProductsInput{ServiceCode: aws.String("AmazonEC2"), Filters: append(base, term("regionCode", "eu-west-1"))})
	for p.HasMorePages() {
		for _, text := range must(p.NextPage(t.Context()))(t).PriceList {
			var item struct {
				Product struct {
					ProductFamily string
					Attributes    map[string]string
				}
				Terms struct {
					OnDemand map[string]struct {
						PriceDimensions map[string]struct {
							Unit         string
							PricePerUnit map[string]string
						}
					}
				}
			}
			if err := json.Unmarshal([]byte(text), &item); err != nil {
				t.Fatal(err)
			}
			for _, o := range item.Terms.OnDemand {
				for _, d := range o.PriceDimensions {
					usd, err := strconv.ParseFloat(d.PricePerUnit["USD"], 64)
					if err != nil || d.Unit != "Hrs" {
						t.Fatal(text)
					}
					prices[item.Product.Attributes["instanceType"]] = usd
				}
			}
		}
	}
	if want, _ := w.sim.cfg.Catalog.OnDemandPrice("eu-west-1", "m5.large"); prices["m5.large"] != want || len(prices) < 600 {
		t.Errorf("%d prices, m5.large costs %v, want %v", len(prices), prices["m5.large"], want)
	}
	one := must(c.GetProducts(t.Context(), &pricing.GetProductsInput{ServiceCode: aws.String("AmazonEC2"), Filters: []pricingtypes.Filter{
		term("location", "US West (Oregon)"), term("instanceType", "m5.metal"), term("productFamily", "Compute Instance (bare metal)"),
	}}))(t)
	if len(one.PriceList) != 1 {
		t.Errorf("%d products", len(one.PriceList))
	}
	for name, in := range map[string]*pricing.GetProductsInput{
		"another service": {ServiceCode: aws.String("AmazonS3")},
		"a page of 101":   {ServiceCode: aws.String("AmazonEC2"), MaxResults: aws.Int32(101)},
		"a wrong token":   {ServiceCode: aws.String("AmazonEC2"), NextToken: aws.String("x")},
		"another filter":  {ServiceCode: aws.String("AmazonEC2"), Filters: []pricingtypes.Filter{{Type: "CONTAINS", Field: aws.String("a"), Value: aws.String("b")}}},
	} {
		if _, err := c.GetProducts(t.Context(), in); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSQS(t *testing.T) {
	w := newWorld(t)
	c := sqs.NewFromConfig(w.aws())
	_, err := c.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("demo")})
	var gone *sqstypes.QueueDoesNotExist
	if !errors.As(err, &gone) {
		t.Fatalf("got %v", err)
	}
	url := *must(c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("demo"), Attributes: map[string]string{"VisibilityTimeout": "20"}}))(t).QueueUrl
	if again := *must(c.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("demo")}))(t).QueueUrl; again != url {
		t.Errorf("%s and %s", url, again)
	}
	_, err = c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("demo")})
	var exists *sqstypes.QueueNameExists
	if !errors.As(err, &exists) {
		t.Errorf("got %v", err)
	}
	receive := func(wait int32) []sqstypes.Message {
		t.Helper()
		return must(c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &url, MaxNumberOfMessages: 10, WaitTimeSeconds: wait, MessageSystemAttributeNames: []sqstypes.MessageSystemAttributeName{"ApproximateReceiveCount"},
		}))(t).Messages
	}
	// An event of an instance arrives while somebody waits.
	got := make(chan []sqstypes.Message, 1)
	go func() {
		out, err := c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 20})
		if err != nil {
			got <- nil
			return
		}
		got <- out.Messages
	}()
	await(t, w.clock.HasWaiters)
	id := w.one()
	messages := <-got
	if len(messages) != 1 || !strings.Contains(*messages[0].Body, `"detail-type":"EC2 Instance State-change Notification"`) || !strings.Contains(*messages[0].Body, id) {
		t.Fatalf("%+v", messages)
	}
	// Until its visibility timeout ends it is hidden; then it comes again
	// with another receipt handle.
	if m := receive(0); len(m) != 0 {
		t.Errorf("%+v", m)
	}
	w.clock.Step(20 * time.Second)
	second := receive(0)
	var bodies []string
	for _, m := range second {
		bodies = append(bodies, *m.Body)
	}
	if len(second) != 2 || *second[0].ReceiptHandle == *messages[0].ReceiptHandle || second[0].Attributes["ApproximateReceiveCount"] != "2" || !strings.Contains(bodies[1], `"state":"running"`) {
		t.Fatalf("%v", bodies)
	}
	// The old handle deletes nothing.
	must(c.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: messages[0].ReceiptHandle}))(t)
	attributes := must(c.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: []sqstypes.QueueAttributeName{"All"}}))(t).Attributes
	if attributes["ApproximateNumberOfMessagesNotVisible"] != "2" || attributes["QueueArn"] != "arn:aws:sqs:us-west-2:123456789012:demo" || attributes["VisibilityTimeout"] != "20" {
		t.Errorf("%v", attributes)
	}
	batch := must(c.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: []sqstypes.DeleteMessageBatchRequestEntry{
		{Id: aws.String("a"), ReceiptHandle: second[0].ReceiptHandle}, {Id: aws.String("b"), ReceiptHandle: second[1].ReceiptHandle}, {Id: aws.String("c"), ReceiptHandle: aws.String("nonsense")},
	}}))(t)
	if len(batch.Successful) != 2 || len(batch.Failed) != 1 || *batch.Failed[0].Code != "ReceiptHandleIsInvalid" {
		t.Errorf("%+v", batch)
	}
	sent := must(c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("hello"), DelaySeconds: 5}))(t)
	if m := receive(0); len(m) != 0 {
		t.Errorf("a delayed message came at once: %+v", m)
	}
	w.clock.Step(5 * time.Second)
	if m := receive(0); len(m) != 1 || *m[0].MessageId != *sent.MessageId || *m[0].Body != "hello" {
		t.Errorf("%+v", m)
	}
	for name, call := range map[string]func() error{
		"a queue that is not there": func() error {
			_, err := c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: aws.String(url + "x"), MessageBody: aws.String("a")})
			return err
		},
		"eleven messages": func() error {
			_, err := c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 11})
			return err
		},
		"a wait of 21 seconds": func() error {
			_, err := c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 21})
			return err
		},
		"the same id twice": func() error {
			_, err := c.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: []sqstypes.DeleteMessageBatchRequestEntry{
				{Id: aws.String("a"), ReceiptHandle: aws.String("x")}, {Id: aws.String("a"), ReceiptHandle: aws.String("y")},
			}})
			return err
		},
		"a name that is none": func() error {
			_, err := c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("a b")})
			return err
		},
		"an unknown attribute": func() error {
			_, err := c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("q"), Attributes: map[string]string{"Colour": "red"}})
			return err
		},
		"an attribute out of bounds": func() error {
			_, err := c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("q"), Attributes: map[string]string{"VisibilityTimeout": "-1"}})
			return err
		},
		"an action that is not there": func() error {
			_, err := c.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: &url})
			return err
		},
	} {
		if err := call(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestEKS(t *testing.T) {
	w := newWorld(t)
	c := eks.NewFromConfig(w.aws())
	out := must(c.DescribeCluster(t.Context(), &eks.DescribeClusterInput{Name: aws.String("demo")}))(t).Cluster
	if *out.Endpoint != "https://127.0.0.1:6443" || *out.CertificateAuthority.Data != base64.StdEncoding.EncodeToString([]byte("CA")) || *out.KubernetesNetworkConfig.ServiceIpv4Cidr != "10.100.0.0/16" ||
		len(out.ResourcesVpcConfig.SubnetIds) != 4 || *out.ResourcesVpcConfig.ClusterSecurityGroupId != w.sim.groups[0].id || *out.Version != "1.37" {
		t.Errorf("%+v", out)
	}
	_, err := c.DescribeCluster(t.Context(), &eks.DescribeClusterInput{Name: aws.String("other")})
	wantCode(t, err, "ResourceNotFoundException", http.StatusNotFound)
}

func TestAdminRefuses(t *testing.T) {
	w := newWorld(t)
	id := w.one()
	for name, tc := range map[string]struct {
		path, body, want string
	}{
		"a body that is none":      {"pools", "x", "reading the body"},
		"an unknown key":           {"pools", `{"colour":"red"}`, "unknown field"},
		"a pool that is not there": {"pools", `{"instanceType":"m5.enormous","zone":"*","capacityType":"spot"}`, "no pool is m5.enormous"},
		"a kind that is none":      {"pools", `{"instanceType":"*","zone":"*","capacityType":"free"}`, "none of on-demand"},
		"a capacity below -1":      {"pools", `{"instanceType":"*","zone":"*","capacityType":"*","capacity":-2}`, "below -1"},
		"a fault of nothing":       {"faults", `{"code":"X"}`, "action is missing"},
		"a fault without effect":   {"faults", `{"action":"X"}`, "neither code, dropReply nor delay"},
		"a status that is none":    {"faults", `{"action":"X","code":"Y","httpStatus":99}`, "httpStatus 99"},
		"an instance of nobody's":  {"interrupt", `{"instanceId":"i-0"}`, "no live instance"},
		"an on-demand instance":    {"interrupt", `{"instanceId":"` + id + `"}`, "only spot"},
		"a delay that is none":     {"boot", `{"delay":"soon"}`, "not a duration"},
		"no time at all":           {"boot", `{}`, "neither delay"},
		"a rate above 1":           {"faults", `{"action":"X","code":"Y","rate":2}`, "rate 2"},
		"a fault of pools of X":    {"faults", `{"action":"X","code":"Y","pool":{}}`, "CreateFleet or RunInstances"},
		"a fault that ends ago":    {"faults", `{"action":"X","code":"Y","for":"-1s"}`, "not a duration"},
		"a bucket without a size":  {"throttle", `{"bucket":"X"}`, "at least 1"},
		"a size without a bucket":  {"throttle", `{"burst":1}`, "bucket is missing"},
		"a bucket that is off":     {"throttle", `{"bucket":"X","off":true}`, "cannot be turned off"},
		"a quota of nothing":       {"quotas", `{"bucket":"q","capacityType":"spot"}`, "bucket \"q\" is none"},
		"a quota of another kind":  {"quotas", `{"bucket":"g","capacityType":"free"}`, "neither on-demand nor spot"},
		"a lag that decreases":     {"visibility", `{"list":{"usual":"3s","tail":"1s"}}`, "must not decrease"},
		"shares above 1":           {"visibility", `{"list":{"tailShare":0.6,"outlierShare":0.6}}`, "shares"},
		"nothing to hide":          {"hide", `{"for":"1s"}`, "either instanceId or zone"},
		"a stranger to hide":       {"hide", `{"for":"1s","instanceId":"i-0"}`, "no instance i-0"},
		"a stranger's health":      {"health", `{"instanceId":"i-0"}`, "no live instance"},
		"a health that is none":    {"health", `{"instanceId":"` + id + `","system":"so-so"}`, "neither ok nor impaired"},
		"an event that is none":    {"health", `{"instanceId":"` + id + `","events":[{"code":"party"}]}`, "known code"},
		"a share above 1":          {"events", `{"lostShare":2}`, "not between 0 and 1"},
		"an empty event":           {"event", `{}`, "body is missing"},
		"a late kind that is none": {"late", `{"capacityType":"free","count":1}`, "none of on-demand"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, url: w.url}
			status, answer := w.do(http.MethodPost, "/_sim/"+tc.path, []byte(tc.body))
			if text, _ := answer["error"].(string); status != http.StatusBadRequest || !strings.Contains(text, tc.want) {
				t.Errorf("%d %v, want %q", status, answer, tc.want)
			}
		})
	}
	if status, _ := w.do(http.MethodGet, "/_sim/nothing", nil); status != http.StatusNotFound {
		t.Errorf("status %d", status)
	}
}

func TestPoolsAndBootDelayByAdmin(t *testing.T) {
	w := newWorld(t)
	w.order("pools", PoolState{"m5.large", "*", "*", 0})
	if got := w.state().Pools; len(got) != 8 || got[0] != (PoolState{"m5.large", "us-west-2a", "on-demand", 0}) {
		t.Errorf("%+v", got)
	}
	w.order("pools", PoolState{"*", "*", "*", -1})
	if got := w.state().Pools; len(got) != 0 {
		t.Errorf("%+v", got)
	}
	w.order("boot", map[string]string{"delay": "0s"})
	if i := w.instance(w.one()); i.State.Name != "running" {
		t.Errorf("with no boot delay an instance is %s", i.State.Name)
	}
}

func TestFaults(t *testing.T) {
	w := newWorld(t)
	call := func() error {
		_, err := w.ec2.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{})
		return err
	}
	w.order("faults", Fault{Action: "DescribeVpcs", Code: "RequestLimitExceeded", Count: 2})
	w.order("faults", Fault{Action: "ssm:GetParameter", Code: "ThrottlingException", Message: "Rate exceeded", HTTPStatus: 418, Count: -1})
	for range 2 {
		wantCode(t, call(), "RequestLimitExceeded", http.StatusServiceUnavailable)
	}
	if err := call(); err != nil {
		t.Error(err)
	}
	for range 3 {
		_, err := ssm.NewFromConfig(w.aws()).GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("/x")})
		wantCode(t, err, "ThrottlingException", 418)
	}
	if got := w.state().Faults; len(got) != 1 || got[0].Count != -1 {
		t.Errorf("%+v", got)
	}
	if status, _ := w.do(http.MethodDelete, "/_sim/faults", nil); status != http.StatusOK || len(w.state().Faults) != 0 {
		t.Errorf("%+v", w.state().Faults)
	}
	for code, status := range map[string]int{"UnauthorizedOperation": 403, "InsufficientInstanceCapacity": 500, "Whatever": 400} {
		w.order("faults", Fault{Action: "*", Code: code})
		wantCode(t, call(), code, status)
	}
	_, calls := w.do(http.MethodGet, "/_sim/calls", nil)
	if n := calls["counts"].(map[string]any)["ec2:DescribeVpcs"]; n != 6.0 {
		t.Errorf("%v calls", n)
	}
	if n := calls["errors"].(map[string]any)["ec2:DescribeVpcs RequestLimitExceeded"]; n != 2.0 {
		t.Errorf("%v errors", calls["errors"])
	}
}

func TestLostRepliesOfJSONServices(t *testing.T) {
	w := newWorld(t)
	w.order("faults", Fault{Action: "CreateQueue", DropReply: true})
	c := sqs.NewFromConfig(w.aws())
	if _, err := c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("q")}); err == nil {
		t.Error("the reply was not dropped")
	}
	must(c.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("q")}))(t)
	// net/http itself repeats a GET on a connection that breaks.
	w.order("faults", Fault{Action: "DescribeCluster", DropReply: true, Count: -1})
	if _, err := eks.NewFromConfig(w.aws()).DescribeCluster(t.Context(), &eks.DescribeClusterInput{Name: aws.String("demo")}); err == nil {
		t.Error("the reply was not dropped")
	}
}

func TestWire(t *testing.T) {
	w := newWorld(t)
	signed := "AWS4-HMAC-SHA256 Credential=x/20260801/us-west-2/ec2/aws4_request, SignedHeaders=host, Signature=0"
	for name, tc := range map[string]struct {
		form, auth, want string
		status           int
	}{
		"no signature":         {"Action=DescribeVpcs&Version=2016-11-15", "", "AuthFailure", 401},
		"another region":       {"Action=DescribeVpcs&Version=2016-11-15", strings.Replace(signed, "us-west-2", "us-east-1", 1), "this endpoint is us-west-2", 401},
		"an unknown action":    {"Action=MakeCoffee&Version=2016-11-15", signed, "InvalidAction", 400},
		"another version":      {"Action=DescribeVpcs&Version=2014-01-01", signed, "InvalidAction", 400},
		"an unknown parameter": {"Action=DescribeVpcs&Version=2016-11-15&Colour=red", signed, "The parameter Colour is not recognized", 400},
		"a form that is none":  {"%", signed, "MalformedQueryString", 400},
		"a dry run of maybe":   {"Action=DescribeVpcs&Version=2016-11-15&DryRun=maybe", signed, "InvalidParameterValue", 400},
		"a dry run that reads": {"Action=DescribeVpcs&Version=2016-11-15&DryRun=true", signed, "DryRunOperation", 412},
		"what it should be":    {"Action=DescribeVpcs&Version=2016-11-15&DryRun=false", signed, "DescribeVpcsResponse", 200},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/", strings.NewReader(tc.form))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", tc.auth)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tc.status || !strings.Contains(string(body), tc.want) {
				t.Errorf("%d %s %v; want %d with %q", resp.StatusCode, body, err, tc.status, tc.want)
			}
		})
	}
	for path, want := range map[string]int{"/healthz": 200, "/nothing": 404} {
		resp, err := http.Get(w.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}

func TestRebalanceAndInterruptionEvents(t *testing.T) {
	w := newWorld(t)
	c := sqs.NewFromConfig(w.aws())
	queueURL := must(c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("demo")}))(t).QueueUrl
	out := w.createFleet(w.fleet(w.template("t-1"), 1, spot, w.override("m5.large", "us-west-2a")))
	id := ids(out)[0]
	w.order("interrupt", map[string]any{"instanceId": id, "rebalance": true})
	w.order("interrupt", map[string]any{"instanceId": id})
	type event struct {
		DetailType string            `json:"detail-type"`
		Source     string            `json:"source"`
		Resources  []string          `json:"resources"`
		Detail     map[string]string `json:"detail"`
	}
	var events []event
	for _, m := range must(c.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: queueURL, MaxNumberOfMessages: 10}))(t).Messages {
		var e event
		if err := json.Unmarshal([]byte(*m.Body), &e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	if len(events) != 3 || events[1].DetailType != "EC2 Instance Rebalance Recommendation" || events[2].DetailType != "EC2 Spot Instance Interruption Warning" ||
		events[2].Detail["instance-id"] != id || events[2].Detail["instance-action"] != "terminate" || events[2].Resources[0] != "arn:aws:ec2:us-west-2a:instance/"+id {
		t.Errorf("%+v", events)
	}
	w.clock.Step(2*time.Minute - time.Second)
	if w.instance(id).State.Name != ec2types.InstanceStateNameRunning {
		t.Error("the notice was cut short")
	}
	w.clock.Step(time.Second)
	if w.instance(id).State.Name != ec2types.InstanceStateNameShuttingDown {
		t.Error("the instance lives on")
	}
}
