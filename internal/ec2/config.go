package ec2

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	smithy "github.com/aws/smithy-go"

	"github.com/berth-dev/berth/internal/capacity"
)

const (
	// readTimeout bounds one attempt of a call that changes nothing or little.
	readTimeout = 20 * time.Second
	// launchTimeout bounds one attempt of CreateFleet, which answers only when
	// EC2 has tried every line of the request.
	launchTimeout = 45 * time.Second
	// credentialsTimeout bounds the search for credentials at the start.
	credentialsTimeout = 15 * time.Second
	// resolveTTL is how long what EC2 said about a selector is believed.
	resolveTTL = time.Minute
	// profileTTL is how long an instance profile that passed its check is believed.
	profileTTL = 10 * time.Minute
)

// Config says which cluster the instances are for. Which AWS account, region
// and endpoint is the SDK's standard chain's to say.
type Config struct {
	// ClusterName is part of tags, launch template names and the bootstrap
	// document: 1 to 100 letters, digits, - and _ (the rule of EKS). Required.
	ClusterName string
	// ClusterUID is the UID of the kube-system namespace. It keeps clusters of
	// the same name apart. Required.
	ClusterUID string
	// ClusterEndpoint is the URL at which nodes reach kube-apiserver. Required.
	ClusterEndpoint string
	// ClusterCA is the cluster's CA bundle: PEM in base64. Required.
	ClusterCA string
	// KubernetesVersion as major.minor: "1.37". It chooses the images, until
	// SetKubernetesVersion names another. Required.
	KubernetesVersion string
	// ServiceCIDR is the range of Service addresses. Required.
	ServiceCIDR string
	// Region. Default: the SDK's (AWS_REGION, the profile …).
	Region string
	// DefaultInstanceProfile is the IAM instance profile of nodes whose
	// Provisioner names none. Optional.
	DefaultInstanceProfile string
}

var (
	clusterNameRule = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z_-]{0,99}$`)
	versionRule     = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)
)

// check reports every field that is missing or wrong.
func (c Config) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !clusterNameRule.MatchString(c.ClusterName) {
		bad("cluster name %q: give 1 to 100 letters, digits, - and _", c.ClusterName)
	}
	if c.ClusterUID == "" {
		bad("cluster UID: give the UID of the kube-system namespace")
	}
	if u, err := url.Parse(c.ClusterEndpoint); err != nil || u.Scheme == "" || u.Host == "" {
		bad("cluster endpoint %q: give the URL of kube-apiserver, such as https://10.0.0.1:6443", c.ClusterEndpoint)
	}
	if raw, err := base64.StdEncoding.DecodeString(c.ClusterCA); err != nil {
		bad("cluster CA: not base64 (%w)", err)
	} else if block, _ := pem.Decode(raw); block == nil {
		bad("cluster CA: no PEM certificate in it")
	}
	if !versionRule.MatchString(c.KubernetesVersion) {
		errs = append(errs, badVersion(c.KubernetesVersion))
	}
	if _, err := netip.ParsePrefix(c.ServiceCIDR); err != nil {
		bad("service CIDR %q: give a range such as 10.96.0.0/12", c.ServiceCIDR)
	}
	return errors.Join(errs...)
}

// Cloud is EC2 as seen by one cluster. It is safe for concurrent use.
type Cloud struct {
	cfg Config

	ec2     *ec2.Client
	ssm     *ssm.Client
	pricing *pricing.Client
	sqs     *sqs.Client
	buckets *buckets
	// slow replaces the HTTP client for CreateFleet.
	slow func(*ec2.Options)

	// found is the last discovery, nil before the first.
	found       atomic.Pointer[discovery]
	discovering sync.Mutex
	// latePrices are on-demand prices that came after the first discovery.
	latePrices atomic.Pointer[prices]

	subnets      store[[]Subnet]
	groups       store[[]securityGroup]
	images       store[[]Image]
	reservations store[[]Reservation]
	placements   store[[]placementGroup]
	params       store[map[string]string]
	ownTemplates store[ownTemplate]
	profiles     store[profileVerdict]
	templates    store[Template]

	// version is the cluster's as it was told last; nil while that is the Config's.
	version atomic.Pointer[string]

	// networking is how the cluster's CNI gives addresses to pods.
	networking atomic.Pointer[capacity.Networking]

	addresses ledger
	reading   batcher[Instance]
	ending    batcher[struct{}]
}

// New connects to EC2: it loads the SDK's settings, finds credentials and asks
// for the region's zones, so that a wrong region, endpoint or credential is an
// error here, in one line that says what to do.
func New(ctx context.Context, cfg Config) (*Cloud, error) {
	if err := cfg.check(); err != nil {
		return nil, oneLine(err)
	}
	return connect(ctx, cfg)
}

// connect is New without a cluster's facts.
func connect(ctx context.Context, cfg Config) (*Cloud, error) {
	client := awshttp.NewBuildableClient().WithTimeout(readTimeout).WithTransportOptions(wideTransport)
	opts := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithHTTPClient(client),
		awsconfig.WithRetryMode(aws.RetryModeStandard),
		awsconfig.WithRetryer(func() aws.Retryer { return retry.NewStandard() }),
	}
	if cfg.Region != "" {
		opts = append(opts, awsconfig.WithRegion(cfg.Region))
	}
	settings, err := awsconfig.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return nil, oneLine(fmt.Errorf("reading the AWS settings: %w: check AWS_PROFILE, AWS_CONFIG_FILE and the AWS_… variables", err))
	}
	if settings.Region == "" {
		return nil, errors.New("no AWS region is set: set AWS_REGION, for example AWS_REGION=eu-west-1")
	}
	cfg.Region = settings.Region
	credCtx, cancel := context.WithTimeout(ctx, credentialsTimeout)
	defer cancel()
	if settings.Credentials == nil {
		return nil, errors.New(noCredentials)
	}
	if _, err := settings.Credentials.Retrieve(credCtx); err != nil {
		return nil, oneLine(fmt.Errorf("%s (%w)", noCredentials, err))
	}

	b := &buckets{}
	settings.APIOptions = append(settings.APIOptions, b.attach)
	built, ok := settings.HTTPClient.(*awshttp.BuildableClient) // With AWS_CA_BUNDLE in it by now.
	if !ok {
		return nil, fmt.Errorf("the AWS SDK made an HTTP client of type %T", settings.HTTPClient)
	}
	settings.HTTPClient = wholeRequests{built}
	launchClient := wholeRequests{built.WithTimeout(launchTimeout)}
	pollClient := wholeRequests{built.WithTimeout(pollWait + readTimeout)}
	prices := settings.Copy()
	prices.Region = pricingRegion(cfg.Region)
	c := &Cloud{
		cfg:     cfg,
		ec2:     ec2.NewFromConfig(settings),
		ssm:     ssm.NewFromConfig(settings),
		pricing: pricing.NewFromConfig(prices),
		sqs:     sqs.NewFromConfig(settings, func(o *sqs.Options) { o.HTTPClient = pollClient }),
		buckets: b,
		slow:    func(o *ec2.Options) { o.HTTPClient = launchClient },
	}
	c.reading.send = c.describe
	c.ending.send = c.terminate
	if err := c.probe(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

const noCredentials = "no AWS credentials were found: give the Pod an IAM role (EKS Pod Identity or IRSA), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

// Region that the Cloud talks to.
func (c *Cloud) Region() string { return c.cfg.Region }

// SetKubernetesVersion tells the cluster's version, as Config has it. It chooses
// the images from now on.
func (c *Cloud) SetKubernetesVersion(version string) error {
	if !versionRule.MatchString(version) {
		return badVersion(version)
	}
	c.version.Store(&version)
	return nil
}

// KubernetesVersion of the cluster by which images are chosen.
func (c *Cloud) KubernetesVersion() string {
	if v := c.version.Load(); v != nil {
		return *v
	}
	return c.cfg.KubernetesVersion
}

func badVersion(version string) error {
	return fmt.Errorf("cluster's Kubernetes version %q: give major.minor, such as 1.37", version)
}

// probe asks EC2 for the region's zones and turns what can be wrong with the
// settings into advice.
func (c *Cloud) probe(ctx context.Context) error {
	zones, err := c.zones(ctx)
	if err != nil {
		return advise(c.cfg.Region, c.ec2.Options().BaseEndpoint, err)
	}
	if len(zones) == 0 {
		return fmt.Errorf("EC2 knows no zone of region %q: check AWS_REGION", c.cfg.Region)
	}
	return nil
}

// advise says what to do about a first call to EC2 that failed.
func advise(region string, endpoint *string, err error) error {
	var (
		api  smithy.APIError
		dns  *net.DNSError
		oper *net.OpError
	)
	at := "EC2 in region " + region
	if endpoint != nil && *endpoint != "" {
		at = "EC2 at " + *endpoint + " (AWS_ENDPOINT_URL)"
	}
	switch {
	case errors.As(err, &api) && isCredentialCode(api.ErrorCode()):
		return oneLine(fmt.Errorf("%s refused the credentials (%s: %s): check AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the Pod's IAM role, and the machine's clock", at, api.ErrorCode(), api.ErrorMessage()))
	case errors.As(err, &api) && isDeniedCode(api.ErrorCode()):
		return oneLine(fmt.Errorf("%s: the credentials may not call ec2:DescribeAvailabilityZones: attach Berth's IAM policy to their role", at))
	case errors.As(err, &dns):
		return oneLine(fmt.Errorf("%s does not exist (%s): check AWS_REGION and AWS_ENDPOINT_URL", at, dns.Name))
	case errors.As(err, &oper):
		return oneLine(fmt.Errorf("%s does not answer (%v): check AWS_ENDPOINT_URL, AWS_REGION and the network", at, oper))
	default:
		return oneLine(fmt.Errorf("%s: %w: check AWS_REGION, AWS_ENDPOINT_URL and the network", at, err))
	}
}
