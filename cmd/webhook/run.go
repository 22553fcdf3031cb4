package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/certs"
	"github.com/berth-dev/berth/internal/admission"
)

const (
	// apiTimeout is how long the API server may take to answer a single call.
	apiTimeout = 15 * time.Second
	// helperTimeout bounds requests for metrics and health.
	helperTimeout = 10 * time.Second
)

// run serves until ctx ends and everything is wound up: first the webhooks,
// which go on for the shutdown delay, then what they stand on.
func (o *options) run(ctx context.Context) error {
	if err := o.validate(); err != nil {
		return usageError{err}
	}
	zapLog, err := o.logger()
	if err != nil {
		return usageError{err}
	}
	defer func() { _ = zapLog.Sync() }() // Nothing is left to report a failure to.
	log := zapr.NewLogger(zapLog)
	klog.SetLogger(log)
	ctrllog.SetLogger(log)

	restConfig, err := o.restConfig()
	if err != nil {
		return usageError{err}
	}
	disco, err := discovery.NewDiscoveryClientForConfig(restConfig)
	if err != nil {
		return usageError{fmt.Errorf("the kubeconfig cannot be used: %w", err)}
	}
	version, err := disco.ServerVersion()
	if err != nil {
		return usageError{fmt.Errorf("the API server at %s does not answer: %w; check --kubeconfig and that the cluster is up", restConfig.Host, err)}
	}
	p := &process{log: log, registry: prometheus.NewRegistry()}
	defer p.close()
	if err := o.listen(p); err != nil {
		return err
	}
	if err := o.build(p, restConfig, disco); err != nil {
		return err
	}
	log.Info("serving webhooks", "address", p.webhooks.Addr().String(), "certMode", o.certMode, "kubernetes", version.GitVersion)
	return p.run(ctx)
}

func (o *options) restConfig() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("there is no way to the API server: %w; give --kubeconfig FILE", err)
	}
	c.UserAgent = "berth-webhook"
	c.Timeout = apiTimeout
	return c, nil
}

// process is all that runs.
type process struct {
	log                       logr.Logger
	cache                     cache.Cache
	feed                      *admission.Feed
	herald                    *herald
	keeper                    *certs.Keeper
	server                    *admission.Server
	webhooks, metrics, health net.Listener
	registry                  *prometheus.Registry
}

// close closes the sockets, also those that nobody came to serve on.
func (p *process) close() {
	for _, l := range []net.Listener{p.webhooks, p.metrics, p.health} {
		if l != nil {
			_ = l.Close() // Mostly closed already.
		}
	}
}

// build makes everything.
func (o *options) build(p *process, restConfig *rest.Config, disco discovery.DiscoveryInterface) error {
	log := p.log
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, nodev1.AddToScheme, policyv1.AddToScheme, schedulingv1.AddToScheme, admissionregistrationv1.AddToScheme, v1alpha1.AddToScheme, cmapi.AddToScheme} {
		if err := add(scheme); err != nil {
			return fmt.Errorf("building the scheme: %w", err)
		}
	}
	api, err := client.New(restConfig, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	// A watch lives longer than any single call.
	watchConfig := rest.CopyConfig(restConfig)
	watchConfig.Timeout = 0
	p.cache, err = cache.New(watchConfig, cache.Options{
		Scheme: scheme,
		ByObject: map[client.Object]cache.ByObject{
			&corev1.ConfigMap{}: {Namespaces: map[string]cache.Config{o.namespace: {
				FieldSelector: fields.OneTermEqualSelector("metadata.name", v1alpha1.OfferingsConfigMap),
			}}},
			// Of pods only those that share spot, and of them what counting needs.
			&corev1.Pod{}: {Label: sharingSpot(), Transform: bareOfSpec},
			// Of nodes what pods ask for.
			&corev1.Node{}: {Transform: bareNode},
		},
		DefaultTransform:             cache.TransformStripManagedFields(),
		DefaultUnsafeDisableDeepCopy: new(true), // Nobody changes what is read.
	})
	if err != nil {
		return fmt.Errorf("making a cache: %w", err)
	}
	ledger := admission.NewSpotLedger()
	if p.feed, err = admission.NewFeed(admission.FeedConfig{Cache: p.cache, Namespace: o.namespace, Ledger: ledger, Log: log.WithName("feed")}); err != nil {
		return err
	}
	if p.herald, err = newHerald(restConfig, scheme); err != nil {
		return err
	}
	registrar, err := admission.NewRegistrar(admission.RegistrarConfig{
		Client: api, Address: o.address(), Namespace: o.namespace, Scope: o.scope(), Log: log.WithName("registrar"),
	})
	if err != nil {
		return err
	}
	p.keeper, err = certs.New(certs.Config{
		Mode: certs.Mode(o.certMode), Names: o.names(), Webhooks: registrar.Webhooks(), Namespace: o.namespace, Dir: o.certDir,
		Client: api, Registrar: registrar, Discovery: disco, Log: log.WithName("certs"),
	})
	if err != nil {
		return err
	}
	if err := o.measure(p); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	handler, err := admission.NewHandler(admission.HandlerConfig{
		Knowledge: p.feed.Current, ClusterName: o.clusterName, Ledger: ledger, WarnHourlyCost: o.warnHourlyCost, Tell: p.herald.tell,
		Fleet: func(provisioner string) admission.Fleet {
			return admission.Fleet{Claims: p.feed.Claims(provisioner), RefuseAbove: o.refuseDriftAbove}
		},
		Registry: p.registry, Log: log.WithName("admission"),
	})
	if err != nil {
		return err
	}
	p.server, err = admission.NewServer(admission.ServerConfig{
		Listener: p.webhooks, Certificate: p.keeper.GetCertificate, Handler: handler, DrainDelay: o.shutdownDelay, Log: log.WithName("server"),
	})
	return err
}

// measure registers what is not the handlers' own to count.
func (o *options) measure(p *process) error {
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "berth_webhook_certificate_days_left", Help: "Days until the certificate that is served expires; 0 without one.",
		}, func() float64 { return p.keeper.Left().Hours() / 24 }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "berth_webhook_registrations_missing", Help: "Webhooks that are not registered, or whose caBundle does not verify the certificate that is served.",
		}, func() float64 { return float64(p.keeper.Missing()) }),
	} {
		if err := p.registry.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// listen opens the sockets; one that cannot be opened is a mistake of whoever
// chose it.
func (o *options) listen(p *process) error {
	for _, l := range []struct {
		flag, address string
		to            *net.Listener
	}{
		{"--bind-address and --port", o.listenAddress(), &p.webhooks},
		{"--metrics-bind-address", o.metricsAddress, &p.metrics},
		{"--health-probe-bind-address", o.healthAddress, &p.health},
	} {
		if l.address == "0" {
			continue
		}
		var err error
		if *l.to, err = net.Listen("tcp", l.address); err != nil {
			return usageError{fmt.Errorf("%w; choose another with %s", err, l.flag)}
		}
	}
	return nil
}

// run starts everything and returns when all has ended. What ends on its own
// ends the rest.
func (p *process) run(ctx context.Context) error {
	// What the webhooks stand on outlives the signal.
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, base := errgroup.WithContext(base)
	group.Go(func() error { return p.cache.Start(base) })
	group.Go(func() error { return p.feed.Run(base) })
	group.Go(func() error { return p.keeper.Run(base) })
	group.Go(func() error { return p.herald.run(base) })
	if p.metrics != nil {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{Registry: p.registry, Timeout: helperTimeout}))
		group.Go(func() error { return serve(base, p.metrics, mux) })
	}
	if p.health != nil {
		group.Go(func() error { return serve(base, p.health, p.probes()) })
	}

	serving, end := context.WithCancel(ctx)
	defer end()
	go func() {
		<-base.Done()
		end() // Something that we stand on has failed.
	}()
	err := p.server.Run(serving)
	stop()
	if failed := group.Wait(); failed != nil && !errors.Is(failed, context.Canceled) {
		return failed
	}
	p.log.Info("ended")
	return err
}

// probes answer /healthz, which is that the process answers, and /readyz.
func (p *process) probes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprintln(rw, "ok") })
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		if err := p.ready(); err != nil {
			http.Error(rw, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(rw, "ok")
	})
	return mux
}

// ready says why the API server should not be sent here; nil when it may.
func (p *process) ready() error {
	switch {
	case p.server.Draining():
		return errors.New("draining")
	case !p.feed.Synced():
		return errors.New("what the cluster holds has not been read yet")
	}
	return p.keeper.Ready()
}

// serve answers plain HTTP until ctx ends.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: helperTimeout, ReadTimeout: helperTimeout, WriteTimeout: 2 * helperTimeout}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // Its error is the listener's, closed anyway.
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving on %s: %w", l.Addr(), err)
	}
	return nil
}
