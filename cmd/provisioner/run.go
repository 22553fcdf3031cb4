package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/go-logr/zapr"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	crmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
	"github.com/berth-dev/berth/internal/manifest"
	"github.com/berth-dev/berth/internal/provisioner"
)

// options are the command line.
type options struct {
	kubeconfig, namespace                       string
	clusterName, clusterEndpoint, serviceCIDR   string
	instanceProfile, queue                      string
	metricsAddress, healthAddress, logLevel     string
	schedulerConfig                             string
	leaderElect, preflight                      bool
	priceTable                                  string
	batchIdle, batchMax, planBudget, regTimeout time.Duration
	qps                                         float32
	burst                                       int
}

func (o *options) flags(f *pflag.FlagSet) {
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file`; empty: $KUBECONFIG, or the Pod's service account")
	f.StringVar(&o.namespace, "namespace", "berth-system", "`namespace` of Berth's own objects (lease, offerings)")
	f.StringVar(&o.clusterName, "cluster-name", "", "`name` of the cluster, as in the kubernetes.io/cluster/<name> tags (required)")
	f.StringVar(&o.clusterEndpoint, "cluster-endpoint", "", "`URL` at which nodes reach the API server, or eks to ask EKS for it, for the CA and the range of Services; empty: the URL that the provisioner itself uses, in a Pod eks")
	f.StringVar(&o.serviceCIDR, "service-cidr", "", "`range` of Service addresses, for nodes; empty: derived from the kubernetes Service")
	f.StringVar(&o.instanceProfile, "default-instance-profile", "", "IAM instance profile `name` for Provisioners that name none")
	f.StringVar(&o.queue, "interruption-queue", "", "`name` of the SQS queue with EventBridge's events about instances; empty: interruptions are noticed only when EC2 lists them")
	f.StringVar(&o.metricsAddress, "metrics-bind-address", "127.0.0.1:8080", "`address` of /metrics; 0 turns it off")
	f.StringVar(&o.healthAddress, "health-probe-bind-address", ":8081", "`address` of /healthz and /readyz; 0 turns it off")
	f.StringVar(&o.logLevel, "log-level", "info", "`level`: debug, info or error")
	f.BoolVar(&o.preflight, "preflight", false, "only try whether AWS allows what Berth does, name each action that it does not, and exit with 1 if there is any")
	f.StringVar(&o.priceTable, "price-table", "", "`file` with prices of your own (docs/ec2.md); read again when it changes")
	f.BoolVar(&o.leaderElect, "leader-elect", true, "wait for the lease before acting; turn off only where a single process is certain")
	f.DurationVar(&o.batchIdle, "batch-idle", 100*time.Millisecond, "end a batch when no pod has come for that long")
	f.DurationVar(&o.batchMax, "batch-max", 2*time.Second, "end a batch after that long at the latest")
	f.DurationVar(&o.planBudget, "plan-budget", 200*time.Millisecond, "`time` that a plan may take on a slow core; the first plan is made whatever it takes, the rest goes into improving it")
	f.DurationVar(&o.regTimeout, "registration-timeout", 15*time.Minute, "terminate instances that have not joined after that long, and those of nodes that are not ready for pods that long after they have joined")
	f.StringVar(&o.schedulerConfig, "scheduler-config", "", "`file` that kube-scheduler is configured by, where that gives pods default spread constraints that must be met")
	f.Float32Var(&o.qps, "kube-api-qps", 500, "client-side limit of calls a second to the API server")
	f.IntVar(&o.burst, "kube-api-burst", 1000, "burst above --kube-api-qps")
}

// defaultSpread reads --scheduler-config.
func (o *options) defaultSpread() ([]corev1.TopologySpreadConstraint, error) {
	if o.schedulerConfig == "" {
		return nil, nil
	}
	f, err := os.Open(o.schedulerConfig)
	if err != nil {
		return nil, fmt.Errorf("--scheduler-config: %w", err)
	}
	defer f.Close() // Only read from.
	cs, err := manifest.DefaultSpread(f)
	if err != nil {
		return nil, fmt.Errorf("--scheduler-config %s: %w", o.schedulerConfig, err)
	}
	return cs, nil
}

// check finds values that no process could work with, before anything is asked.
func (o *options) check() error {
	if o.qps <= 0 || o.burst <= 0 {
		return errors.New("--kube-api-qps and --kube-api-burst must be positive")
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{{"batch-idle", o.batchIdle}, {"batch-max", o.batchMax}, {"plan-budget", o.planBudget}, {"registration-timeout", o.regTimeout}} {
		if d.value <= 0 {
			return fmt.Errorf("--%s must be positive, not %s", d.flag, d.value)
		}
	}
	for _, a := range []struct{ flag, value string }{{"metrics-bind-address", o.metricsAddress}, {"health-probe-bind-address", o.healthAddress}} {
		if _, _, err := net.SplitHostPort(a.value); a.value != "0" && err != nil {
			return fmt.Errorf("--%s %q is not host:port, :port or 0", a.flag, a.value)
		}
	}
	return nil
}

// run starts the provisioner and returns when it has stopped.
func (o *options) run(ctx context.Context) error {
	if o.clusterName == "" {
		return usageError{errors.New("--cluster-name is required: the name in the kubernetes.io/cluster/<name> tags of the cluster's subnets")}
	}
	if err := o.check(); err != nil {
		return usageError{err}
	}
	spread, err := o.defaultSpread()
	if err != nil {
		return usageError{err}
	}
	log, err := o.logger()
	if err != nil {
		return usageError{err}
	}
	defer func() { _ = log.Sync() }() // Nothing is left to report a failure to.
	ctrl.SetLogger(zapr.NewLogger(log))
	klog.SetLogger(zapr.NewLogger(log).WithName("client-go"))

	kubeConfig, err := o.restConfig()
	if err != nil {
		return usageError{err}
	}
	kube, err := kubernetes.NewForConfig(kubeConfig)
	if err != nil {
		return usageError{fmt.Errorf("reading the kubeconfig: %w", err)}
	}
	facts, err := o.clusterFacts(ctx, kube, kubeConfig)
	if err != nil {
		return usageError{err}
	}
	cloud, err := ec2.New(ctx, facts)
	if err != nil {
		return usageError{err}
	}
	var queue *ec2.Queue
	if o.queue != "" {
		if queue, err = cloud.Queue(ctx, o.queue); err != nil {
			return usageError{err}
		}
	}
	if o.preflight {
		return o.tryPermissions(ctx, cloud, queue)
	}
	if err := o.checkCRDs(kube); err != nil {
		return usageError{err}
	}
	if err := o.ensureNamespace(ctx, kube); err != nil {
		return usageError{err}
	}
	mgr, err := o.manager(kubeConfig)
	if err != nil {
		return fmt.Errorf("setting up: %w", err)
	}
	settings := provisioner.Config{
		Manager: mgr, Kube: kube, Cloud: cloud,
		ClusterName: facts.ClusterName, ClusterUID: facts.ClusterUID, Region: cloud.Region(), Namespace: o.namespace,
		BatchIdle: o.batchIdle, BatchMax: o.batchMax, PlanBudget: o.planBudget, RegistrationTimeout: o.regTimeout, DefaultSpread: spread,
		PriceTable: o.priceTable, Registry: crmetrics.Registry,
	}
	if queue != nil {
		settings.Queue = queue
	}
	err = mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		warnOfPermissions(ctx, log, cloud, queue)
		return nil
	}))
	if err != nil {
		return fmt.Errorf("setting up: %w", err)
	}
	if err := mgr.Add(&versionKeeper{log: log, kube: kube.Discovery(), elected: mgr.Elected(), cloud: cloud}); err != nil {
		return fmt.Errorf("setting up: %w", err)
	}
	if _, err = provisioner.New(ctx, settings); err != nil {
		return fmt.Errorf("setting up: %w", err)
	}
	log.Info("starting", zap.String("cluster", o.clusterName), zap.String("region", cloud.Region()))
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running: %w", err)
	}
	return nil
}

func (o *options) logger() (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(o.logLevel)
	if err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info or error", o.logLevel)
	}
	c := zap.NewProductionConfig()
	c.Level = zap.NewAtomicLevelAt(level)
	c.Sampling = nil
	c.DisableStacktrace = true
	c.DisableCaller = true
	c.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	return c.Build()
}

// restConfig finds the API server.
func (o *options) restConfig() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	if o.kubeconfig == "" && os.Getenv("KUBECONFIG") == "" {
		if c, err := rest.InClusterConfig(); err == nil {
			return o.tune(c), nil
		}
	}
	c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("no usable cluster configuration (%w): give --kubeconfig FILE, or run in a Pod with a service account", err)
	}
	return o.tune(c), nil
}

func (o *options) tune(c *rest.Config) *rest.Config {
	c.QPS, c.Burst = o.qps, o.burst
	c.UserAgent = "berth-provisioner"
	return c
}

// clusterFacts asks the API server what instances must know of the cluster.
func (o *options) clusterFacts(ctx context.Context, kube kubernetes.Interface, kubeConfig *rest.Config) (ec2.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	system, err := kube.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return ec2.Config{}, fmt.Errorf("the API server at %s does not answer as it should (%w): check --kubeconfig and the network", kubeConfig.Host, err)
	}
	eks, err := o.askEKS(ctx, kubeConfig)
	if err != nil {
		return ec2.Config{}, err
	}
	version, err := serverVersion(kube.Discovery())
	if err != nil {
		return ec2.Config{}, fmt.Errorf("reading the version of the API server at %s: %w", kubeConfig.Host, err)
	}
	ca := eks.CA
	if ca == "" {
		if ca, err = clusterCA(kubeConfig); err != nil {
			return ec2.Config{}, err
		}
	}
	endpoint := o.clusterEndpoint
	switch {
	case eks.Endpoint != "":
		endpoint = eks.Endpoint
	case endpoint == "":
		endpoint = kubeConfig.Host
	}
	services := cmp.Or(o.serviceCIDR, eks.ServiceCIDR)
	if services == "" {
		if services, err = serviceRange(ctx, kube); err != nil {
			return ec2.Config{}, err
		}
	}
	return ec2.Config{
		ClusterName: o.clusterName, ClusterUID: string(system.UID), ClusterEndpoint: endpoint, ClusterCA: ca,
		KubernetesVersion: version, ServiceCIDR: services, DefaultInstanceProfile: o.instanceProfile,
	}, nil
}

// serverVersion of the API server as major.minor.
func serverVersion(kube discovery.ServerVersionInterface) (string, error) {
	version, err := kube.ServerVersion()
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(version.Major+"."+version.Minor, "+"), nil
}

// versionEvery is how often the cluster's version is read.
const versionEvery = time.Minute

// versionKeeper has images follow the cluster's version when that is upgraded.
// It runs in standbys too, and looks when the process comes to lead, so that a
// new leader does not go by the version of the day of its start.
type versionKeeper struct {
	log     *zap.Logger
	kube    discovery.ServerVersionInterface
	elected <-chan struct{}
	cloud   interface {
		KubernetesVersion() string
		SetKubernetesVersion(string) error
	}
}

// NeedLeaderElection is false: it writes nothing.
func (*versionKeeper) NeedLeaderElection() bool { return false }

// Start looks until the context ends.
func (k *versionKeeper) Start(ctx context.Context) error {
	tick := time.NewTicker(versionEvery)
	defer tick.Stop()
	elected := k.elected
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-elected:
			elected = nil // It stays closed.
		case <-tick.C:
		}
		if err := k.look(); err != nil {
			k.log.Warn("the cluster's version cannot be read; the last one holds", zap.Error(err))
		}
	}
}

func (k *versionKeeper) look() error {
	now, err := serverVersion(k.kube)
	before := k.cloud.KubernetesVersion()
	if err != nil || now == before {
		return err
	}
	if err := k.cloud.SetKubernetesVersion(now); err != nil {
		return err
	}
	k.log.Info("the cluster has another version", zap.String("before", before), zap.String("now", now))
	return nil
}

// fromEKS in the place of an endpoint asks EKS for it.
const fromEKS = "eks"

// askEKS asks for the cluster where that is wanted, or where nothing else tells
// how nodes reach the API server: a Pod knows only the address of the Service
// "kubernetes", which a machine that is not a node yet does not reach.
func (o *options) askEKS(ctx context.Context, kubeConfig *rest.Config) (ec2.Cluster, error) {
	inPod := kubeConfig.BearerTokenFile != "" && o.kubeconfig == ""
	if o.clusterEndpoint != fromEKS && (o.clusterEndpoint != "" || !inPod) {
		return ec2.Cluster{}, nil
	}
	return ec2.DescribeCluster(ctx, o.clusterName)
}

// tryPermissions prints the actions that AWS does not allow, and those that
// could not be tried.
func (o *options) tryPermissions(ctx context.Context, cloud *ec2.Cloud, queue *ec2.Queue) error {
	found, err := cloud.Preflight(ctx, queue)
	for _, m := range found.Missing {
		fmt.Printf("%s is not allowed: %s\n", m.Action, m.Message)
	}
	for _, u := range found.Untried {
		fmt.Printf("%s was not tried: %s\n", u.Action, u.Why)
	}
	switch {
	case err != nil:
		return err
	case len(found.Missing) > 0:
		return fmt.Errorf("%d actions are not allowed: allow them to the IAM role of Berth (deploy/iam/policy.json)", len(found.Missing))
	case len(found.Untried) > 0:
		fmt.Printf("AWS allows the %d actions that were tried; %d were not\n", found.Allowed, len(found.Untried))
	default:
		fmt.Printf("AWS allows all %d actions that were tried\n", found.Allowed)
	}
	return nil
}

// warnOfPermissions logs the actions that AWS does not allow: each will be
// missed sooner or later, and not all of them at once.
func warnOfPermissions(ctx context.Context, log *zap.Logger, cloud *ec2.Cloud, queue *ec2.Queue) {
	found, err := cloud.Preflight(ctx, queue)
	for _, m := range found.Missing {
		log.Error("AWS does not allow an action that Berth needs", zap.String("action", m.Action), zap.String("message", m.Message),
			zap.String("fix", "allow it to the IAM role of Berth; its policy is deploy/iam/policy.json"))
	}
	if err != nil && ctx.Err() == nil {
		log.Warn("permissions could not all be tried", zap.Error(err))
	}
}

// clusterCA is the CA that kubelets are to trust, in base64.
func clusterCA(c *rest.Config) (string, error) {
	pem := c.CAData
	if len(pem) == 0 && c.CAFile != "" {
		var err error
		if pem, err = os.ReadFile(c.CAFile); err != nil {
			return "", fmt.Errorf("reading the cluster's CA: %w", err)
		}
	}
	if len(pem) == 0 {
		return "", errors.New("the kubeconfig names no certificate authority, which nodes need to trust the API server: add certificate-authority-data to it")
	}
	return base64.StdEncoding.EncodeToString(pem), nil
}

// serviceRange reads the range of Service addresses from the API server
// (ServiceCIDR objects, stable since Kubernetes 1.33).
func serviceRange(ctx context.Context, kube kubernetes.Interface) (string, error) {
	list, err := kube.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if err == nil {
		for _, s := range list.Items {
			for _, c := range s.Spec.CIDRs {
				if _, err := netip.ParsePrefix(c); err == nil {
					return c, nil
				}
			}
		}
	}
	return "", errors.New("the range of Service addresses is not to be had from the API server: give --service-cidr, such as 10.100.0.0/16")
}

// checkCRDs fails early where the resources are missing.
func (o *options) checkCRDs(kube kubernetes.Interface) error {
	list, err := kube.Discovery().ServerResourcesForGroupVersion(v1alpha1.GroupVersion.String())
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("asking the API server for %s: %w", v1alpha1.GroupVersion, err)
	}
	if err != nil || len(list.APIResources) == 0 {
		return fmt.Errorf("the cluster does not know %s: apply the CRDs first (kubectl apply -f deploy/crds)", v1alpha1.GroupVersion)
	}
	return nil
}

// ensureNamespace makes the namespace of Berth's own objects where it is
// missing and may be made: a chart has made it, a process started by hand has not.
func (o *options) ensureNamespace(ctx context.Context, kube kubernetes.Interface) error {
	_, err := kube.CoreV1().Namespaces().Get(ctx, o.namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: o.namespace}}, metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("namespace %s is not there and cannot be made (%w): create it, or give another with --namespace", o.namespace, err)
	}
	return nil
}

func (o *options) manager(kubeConfig *rest.Config) (manager.Manager, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	// A leader that dies is replaced within leaseDuration. The lease only
	// spares work: safety rests on tokens and preconditions.
	leaseDuration, renew, retry, grace := 10*time.Second, 7*time.Second, time.Second, 20*time.Second
	noGate, err := labels.Parse("!" + v1alpha1.LabelGated)
	if err != nil {
		return nil, fmt.Errorf("selecting pods: %w", err)
	}
	mgr, err := ctrl.NewManager(kubeConfig, ctrl.Options{
		Scheme:                        scheme,
		Metrics:                       metricsserver.Options{BindAddress: o.metricsAddress},
		HealthProbeBindAddress:        o.healthAddress,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              "berth-provisioner",
		LeaderElectionNamespace:       o.namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &leaseDuration,
		RenewDeadline:                 &renew,
		RetryPeriod:                   &retry,
		GracefulShutdownTimeout:       &grace,
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.ConfigMap{}: {Namespaces: map[string]cache.Config{o.namespace: {}}},
				&corev1.Pod{}:       {Label: noGate}, // It keeps nobody off for long, and no plan is to go by it.
			},
		},
	})
	if err != nil {
		return nil, err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, err
	}
	return mgr, mgr.AddReadyzCheck("ping", healthz.Ping)
}
