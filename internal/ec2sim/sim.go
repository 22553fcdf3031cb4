// Package ec2sim stands in for the part of AWS that a provisioner talks to:
// EC2 (query protocol), SSM, SQS and Pricing (JSON protocols) and EKS
// DescribeCluster (REST). State is in memory; the unmodified AWS SDK talks to
// it through AWS_ENDPOINT_URL. It is an http.Handler; the listener is the
// caller's.
//
// # What is true to EC2, and what is stricter
//
// Error codes, shapes, life cycle, client tokens, tags, filters and paging
// follow the EC2 API reference; each rule names its source where it is
// implemented. Where EC2 is lenient or its answer is not established, the
// stand-in refuses: a parameter that it does not know is UnknownParameter, an
// action that it does not have is InvalidAction, two overrides of one pool are
// an invalid fleet.
//
// # Capacity
//
// Every (type, zone, capacity type) is a pool, unlimited until the admin
// endpoint says otherwise. A launch takes a slot, a termination gives it back.
//
// # Boot
//
// An instance that has booted joins the cluster as its user data says (package
// kubelet), or shows on its console why it cannot.
//
// # Throttling
//
// Every EC2 call draws on the token bucket of its action, and launches and
// terminations on a bucket of instances, in the sizes that AWS publishes. That
// is on by default; see [Throttle].
//
// # Faults
//
// All faults are ordered through the admin endpoint (see serveAdmin) and are
// off by default. What is left to chance follows from Config.Seed.
//
//   - [Fault]: calls that are refused, slow, or lose their answer after the
//     effect; refusals of single overrides; all bounded in number, share, time.
//   - [PoolState]: capacity that runs out. [Quota]: limits of the account.
//   - [Reservation]: capacity that is reserved, open or targeted.
//   - [Visibility], [Hide]: what is there and not seen yet, or not for a while.
//   - [Late]: instances that fail after the launch was a success.
//   - [Health]: impaired instances and scheduled events.
//   - [EventFaults]: events that are lost, late, doubled, reordered, cut off.
package ec2sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"github.com/berth-dev/berth/internal/catalog"
	"github.com/berth-dev/berth/internal/ec2sim/kubelet"
	"github.com/berth-dev/berth/internal/ec2sim/queue"
)

// Config is how a Sim is made.
type Config struct {
	// Region is one of the catalogue's Regions. Needed.
	Region string
	// ClusterName is the cluster whose tags the network has, and whose name
	// user data must give. Needed.
	ClusterName string
	// Catalog holds the instance types. Default: catalog.Default().
	Catalog *catalog.Catalog
	// Subnets are made in a VPC 10.0.0.0/16. Default: a /19 in every zone.
	Subnets []SubnetConfig
	// InstanceProfiles are the profiles that exist. Default: berth-node.
	InstanceProfiles []string
	// BootDelay is the time from launch until the kubelet starts, at least 0.
	// The instance is running after a quarter of it.
	BootDelay time.Duration
	// TerminateDelay is the time from shutting-down to terminated, at least 0.
	TerminateDelay time.Duration
	// Seed makes what is left to chance repeatable: which calls a fault hits,
	// how long an instance stays unseen, the ids. 0 picks one.
	Seed uint64
	// Unthrottled turns the token buckets off (see Throttle).
	Unthrottled bool
	// Latency is the least time that a call takes, in real time, whatever the
	// Clock; at least 0. A few milliseconds keep the answer from overtaking
	// the end of the request: the SDK closes the body of a request as soon as
	// it has the answer, and net/http, if it is still about to look for the
	// body's end, then gives the connection up in the middle of the answer.
	Latency time.Duration
	// TokenRetention is how long a client token is remembered. EC2 publishes
	// no figure. Default: 24 hours.
	TokenRetention time.Duration
	// Client talks to the cluster that instances join; nil: none joins.
	Client kubernetes.Interface
	// Endpoint and CA (PEM) are how the cluster is reached; user data must
	// give the same.
	Endpoint string
	CA       []byte
	// Queue makes the queue that is called like the cluster, with the rules that
	// put EC2's events into it: what somebody sets up who installs a provisioner.
	Queue bool
	// ServiceCIDR is what EKS DescribeCluster gives as the Services' range.
	// Default: 10.100.0.0/16.
	ServiceCIDR string
	// DeviceDelay is how long after registration GPUs show up, at least 0.
	DeviceDelay time.Duration
	// Clock is the source of time. Default: the real one.
	Clock clock.WithTicker
	// Log gets one line for every change and every refusal. Default: none.
	Log *zap.Logger
}

// SubnetConfig is a subnet to make.
type SubnetConfig struct {
	// Zone is the zone's name.
	Zone string
	// CIDR is its address range, /16 to /28, inside 10.0.0.0/16.
	CIDR string
}

// AccountID is the account that owns everything.
const AccountID = "123456789012"

// terminatedVisible is how long a terminated instance can still be described
// ("Terminate Amazon EC2 instances": "for a short time", seen as one hour).
const terminatedVisible = time.Hour

// Sim is the stand-in. Make it with New, serve it, and run Run beside it.
type Sim struct {
	cfg     Config
	region  *catalog.Region
	clock   clock.WithTicker
	log     *zap.Logger
	actions map[string]handler
	queues  *queue.Service
	kubelet *kubelet.Runner // nil without a cluster

	mu         sync.Mutex
	rng        *rand.Rand
	tags       map[string]map[string]string
	vpc        string
	subnets    []*subnet
	groups     []securityGroup
	images     []*image
	params     map[string][]parameter
	templates  []*template
	instances  []*instance // in order of launch
	reserved   []*reservation
	placements []*placementGroup
	byID       map[string]*instance
	pools      map[pool]*slots
	tokens     map[tokenKey]*tokenRecord
	due        dueHeap
	seq        int
	faults     []*armed
	calls      callLog
	wake       chan struct{}

	// What the admin endpoint has ordered.
	seed                             uint64
	unthrottled                      bool
	buckets                          map[string]*bucket
	quotas                           map[quotaKey]int
	lags                             struct{ byID, list, tags lag }
	late                             []*Late
	spoil                            EventFaults
	spoilLate                        time.Duration
	boot, runningTime, terminateTime time.Duration
	launches, published              int
}

// New makes a Sim with its network and images, and no instance.
func New(cfg Config) (*Sim, error) {
	if cfg.ClusterName == "" {
		return nil, errors.New("a cluster name is needed")
	}
	if cfg.BootDelay < 0 || cfg.TerminateDelay < 0 || cfg.DeviceDelay < 0 || cfg.Latency < 0 || cfg.TokenRetention < 0 {
		return nil, errors.New("a delay is negative")
	}
	if cfg.Catalog == nil {
		cfg.Catalog = catalog.Default()
	}
	if cfg.InstanceProfiles == nil {
		cfg.InstanceProfiles = []string{"berth-node"}
	}
	if cfg.ServiceCIDR == "" {
		cfg.ServiceCIDR = "10.100.0.0/16"
	}
	if cfg.TokenRetention == 0 {
		cfg.TokenRetention = 24 * time.Hour
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	region, ok := cfg.Catalog.Region(cfg.Region)
	if !ok {
		names := []string{}
		for _, r := range cfg.Catalog.Regions {
			names = append(names, r.Name)
		}
		return nil, fmt.Errorf("region %q is not in the catalogue, which has %v", cfg.Region, names)
	}
	seed := cfg.Seed
	for seed == 0 {
		seed = rand.Uint64()
	}
	s := &Sim{
		cfg: cfg, region: region, clock: cfg.Clock, log: cfg.Log, actions: ec2Actions(),
		rng: rand.New(rand.NewPCG(seed, 0)), seed: seed, unthrottled: cfg.Unthrottled,
		buckets: map[string]*bucket{}, quotas: map[quotaKey]int{},
		tags: map[string]map[string]string{}, byID: map[string]*instance{},
		pools: map[pool]*slots{}, tokens: map[tokenKey]*tokenRecord{}, wake: make(chan struct{}, 1),
		boot: cfg.BootDelay, runningTime: cfg.BootDelay / 4, terminateTime: cfg.TerminateDelay,
	}
	s.queues = queue.New(queue.Config{Region: cfg.Region, AccountID: AccountID, Clock: cfg.Clock})
	if cfg.Queue {
		if err := s.queues.Make(cfg.ClusterName); err != nil {
			return nil, fmt.Errorf("making the queue of events: %w", err)
		}
	}
	if err := s.buildNetwork(); err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	s.buildImages()
	if cfg.Client != nil {
		runner, err := kubelet.New(kubelet.Config{
			Client: cfg.Client, Cluster: kubelet.Cluster{Name: cfg.ClusterName, Endpoint: cfg.Endpoint, CA: cfg.CA},
			DeviceDelay: cfg.DeviceDelay, Parallel: 32, Report: s.kubeletEvent, Clock: cfg.Clock, Log: cfg.Log,
		})
		if err != nil {
			return nil, fmt.Errorf("%w", err)
		}
		s.kubelet = runner
	}
	return s, nil
}

// Run makes time pass: it boots, terminates and forgets instances when they
// are due, until the context ends. Without it, instances move on only when
// they are asked for, and none joins the cluster.
func (s *Sim) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	if s.kubelet != nil {
		wg.Go(func() { s.kubelet.Run(ctx) })
	}
	for {
		s.mu.Lock()
		now := s.clock.Now()
		s.tick(now)
		var timer clock.Timer
		var fire <-chan time.Time
		if len(s.due) > 0 {
			timer = s.clock.NewTimer(s.due[0].at.Sub(now))
			fire = timer.C()
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-fire:
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// newID returns a fresh id in EC2's form: the prefix and 17 hex digits. Without
// a seed they are random, so that a new Sim on an old cluster repeats none.
func (s *Sim) newID(prefix string) string {
	return fmt.Sprintf("%s0%016x", prefix, s.rng.Uint64())
}

func (s *Sim) newUUID() string {
	a, b := s.rng.Uint64(), s.rng.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>52, b&0xffffffffffff)
}
