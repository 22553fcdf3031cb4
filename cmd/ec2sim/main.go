// Command ec2sim serves the EC2, SSM, SQS and Pricing APIs on loopback, as far
// as a node provisioner needs them, with state in memory. Instances that have
// booted join a Kubernetes cluster as their user data says.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berth-dev/berth/internal/catalog"
	"github.com/berth-dev/berth/internal/ec2sim"
)

// usageError is a mistake in the flags: one line, exit code 2.
type usageError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ec2sim:", err)
		var usage usageError
		if errors.As(err, &usage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

type options struct {
	listen, region, cluster, kubeconfig, catalog, logLevel, serviceCIDR string
	boot, terminate, devices, latency, tokens                           time.Duration
	subnets, profiles                                                   []string
	anyAddress, throttle                                                bool
	seed                                                                uint64
}

const long = `ec2sim stands in for AWS: it serves the part of EC2, SSM, SQS, Pricing and EKS
that a node provisioner uses, to the unmodified AWS SDK, with state in memory.

Start it, then point the SDK at it:

  ec2sim --listen 127.0.0.1:4566 --region us-west-2 --cluster-name demo --kubeconfig ./kubeconfig
  export AWS_ENDPOINT_URL=http://127.0.0.1:4566 AWS_REGION=us-west-2 AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x

It comes with a VPC, one subnet in each zone, a security group tagged for the
cluster, Amazon Linux 2023 and Bottlerocket images for Kubernetes 1.34 to 1.37
with their SSM parameters, the instance profile berth-node, and an SQS queue of
the cluster's name that gets EC2's events.

With --kubeconfig, an instance joins that cluster --boot-delay after its launch,
as its user data says: wrong user data means a wrong node, or none and a line on
the instance's console. The user data must name the API server as the kubeconfig
does.

What is not AWS is under /_sim/: GET state and calls; POST orders faults (calls
refused, slow, or answered in vain), throttle, pools, quotas, visibility, hide,
late, health, events, event, interrupt and boot. Nothing of that is on by itself
but EC2's published throttling. GET /healthz answers when it is ready.`

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:           "ec2sim",
		Short:         "Serve a stand-in for the AWS APIs that a node provisioner uses",
		Long:          long,
		Args:          func(_ *cobra.Command, args []string) error { return noArguments(args) },
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), o) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see ec2sim --help)", err)}
	})
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", "127.0.0.1:4566", "loopback `address` to serve on; port 0 picks a free one, which is logged")
	f.BoolVar(&o.anyAddress, "allow-non-loopback", false, "let --listen be any address: everybody who can reach it owns the simulated account")
	f.StringVar(&o.region, "region", "us-west-2", "AWS Region to be: one of the catalogue's")
	f.StringVar(&o.cluster, "cluster-name", "berth", "`name` of the cluster, in tags and user data; events go to the queue of this name")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file` of the cluster that instances join (default: none join)")
	f.StringVar(&o.serviceCIDR, "service-cidr", "10.100.0.0/16", "the cluster's Service range, for EKS DescribeCluster")
	f.DurationVar(&o.boot, "boot-delay", 2*time.Second, "time from launch until the node joins; 0 is at once")
	f.DurationVar(&o.terminate, "terminate-delay", time.Second, "time from shutting-down to terminated")
	f.DurationVar(&o.devices, "device-delay", 500*time.Millisecond, "time from joining until GPUs show up")
	f.DurationVar(&o.latency, "latency", 5*time.Millisecond, "least time that a call takes")
	f.DurationVar(&o.tokens, "token-retention", 24*time.Hour, "how long a client token is remembered")
	f.BoolVar(&o.throttle, "throttle", true, "refuse calls beyond the rates that AWS publishes")
	f.Uint64Var(&o.seed, "seed", 0, "seed of ids and of faults that strike at random (default: another one at each start)")
	f.StringArrayVar(&o.subnets, "subnet", nil, "make this subnet, as `ZONE=CIDR`, instead of one /19 in each zone; can be repeated")
	f.StringArrayVar(&o.profiles, "instance-profile", []string{"berth-node"}, "`name` of an instance profile that exists; can be repeated")
	f.StringVar(&o.catalog, "catalog", "", "catalogue `file` of instance types, JSON, also gzip-compressed (default: the one built in)")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func noArguments(args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q (see ec2sim --help)", args[0])}
	}
	return nil
}

func run(ctx context.Context, o options) error {
	log, err := newLogger(o.logLevel)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }() // stderr cannot always be synced; nothing is lost
	cfg, err := o.config(log)
	if err != nil {
		return err
	}
	sim, err := ec2sim.New(cfg)
	if err != nil {
		return usageError{err}
	}
	if err := o.checkListen(); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	return serve(ctx, listener, sim, log)
}

// shutdownTime is how long requests may take to end at shutdown; a long poll
// is cut off by its context before that.
const shutdownTime = 5 * time.Second

func serve(ctx context.Context, listener net.Listener, sim *ec2sim.Sim, log *zap.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	simDone := make(chan struct{})
	go func() {
		defer close(simDone)
		sim.Run(ctx)
	}()
	server := &http.Server{
		Handler: sim, ReadHeaderTimeout: 10 * time.Second, ErrorLog: zap.NewStdLog(log),
		// Long polls end when the process is told to stop.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	log.Info("serving", zap.String("endpoint", "http://"+listener.Addr().String()))
	var err error
	select {
	case err = <-served:
	case <-ctx.Done():
		log.Info("stopping")
		stopCtx, stop := context.WithTimeout(context.Background(), shutdownTime)
		defer stop()
		err = server.Shutdown(stopCtx)
	}
	cancel()
	<-simDone
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

func newLogger(level string) (*zap.Logger, error) {
	l, err := zapcore.ParseLevel(level)
	if err != nil || l > zapcore.ErrorLevel {
		return nil, usageError{fmt.Errorf("--log-level %q is none of debug, info, warn and error", level)}
	}
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.ISO8601TimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(cfg), zapcore.Lock(os.Stderr), l)), nil
}

// checkListen keeps the account without a lock on its door on this machine.
func (o options) checkListen() error {
	host, _, err := net.SplitHostPort(o.listen)
	if err != nil {
		return usageError{fmt.Errorf("--listen %q is not host:port", o.listen)}
	}
	ip := net.ParseIP(host)
	if host != "localhost" && (ip == nil || !ip.IsLoopback()) && !o.anyAddress {
		return usageError{fmt.Errorf("--listen %s is not a loopback address: use 127.0.0.1, or add --allow-non-loopback", o.listen)}
	}
	return nil
}

func (o options) config(log *zap.Logger) (ec2sim.Config, error) {
	cfg := ec2sim.Config{
		Region: o.region, ClusterName: o.cluster, BootDelay: o.boot, TerminateDelay: o.terminate, DeviceDelay: o.devices, Latency: o.latency,
		InstanceProfiles: o.profiles, ServiceCIDR: o.serviceCIDR, Log: log, Queue: true,
		TokenRetention: o.tokens, Unthrottled: !o.throttle, Seed: o.seed,
	}
	for _, text := range o.subnets {
		zone, cidr, ok := strings.Cut(text, "=")
		if !ok {
			return cfg, usageError{fmt.Errorf("--subnet %q is not ZONE=CIDR", text)}
		}
		cfg.Subnets = append(cfg.Subnets, ec2sim.SubnetConfig{Zone: zone, CIDR: cidr})
	}
	if o.catalog != "" {
		f, err := os.Open(o.catalog)
		if err != nil {
			return cfg, usageError{fmt.Errorf("--catalog: %w", err)}
		}
		defer f.Close()
		if cfg.Catalog, err = catalog.Load(f); err != nil {
			return cfg, usageError{fmt.Errorf("--catalog %s: %w", o.catalog, err)}
		}
	}
	if o.kubeconfig == "" {
		return cfg, nil
	}
	rc, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return cfg, usageError{fmt.Errorf("--kubeconfig: %w", err)}
	}
	if err := rest.LoadTLSFiles(rc); err != nil {
		return cfg, usageError{fmt.Errorf("--kubeconfig %s: %w", o.kubeconfig, err)}
	}
	rc.QPS, rc.Burst = -1, -1 // thousands of kubelets share this client
	rc.UserAgent = "ec2sim"
	cfg.Endpoint, cfg.CA = rc.Host, rc.CAData
	if cfg.Client, err = kubernetes.NewForConfig(rc); err != nil {
		return cfg, usageError{fmt.Errorf("--kubeconfig %s: %w", o.kubeconfig, err)}
	}
	return cfg, nil
}
