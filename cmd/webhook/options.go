package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/berth-dev/berth/certs"
	"github.com/berth-dev/berth/internal/admission"
)

// serviceDrain is how long endpoints may take to forget a Pod.
const serviceDrain = 10 * time.Second

// options are the command line.
type options struct {
	kubeconfig, namespace, clusterName      string
	bindAddress                             string
	port                                    int
	certMode, certDir                       string
	serviceName, webhookURL                 string
	register                                bool
	metricsAddress, healthAddress, logLevel string
	shutdownDelay                           time.Duration
	warnHourlyCost, refuseDriftAbove        float64
}

func (o *options) flags(f *pflag.FlagSet) {
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file`; empty: $KUBECONFIG, or the Pod's service account")
	f.StringVar(&o.namespace, "namespace", "berth-system", "`namespace` of Berth's own objects (certificates, offerings)")
	f.StringVar(&o.clusterName, "cluster-name", "", "`name` of the cluster, as in the kubernetes.io/cluster/<name> tags; completes Provisioners that select no subnets or security groups; empty: they are stored as they are, and mean the same")
	f.StringVar(&o.bindAddress, "bind-address", "0.0.0.0", "IP `address` to serve webhooks on")
	f.IntVar(&o.port, "port", 9443, "`port` to serve webhooks on")
	f.StringVar(&o.certMode, "cert-mode", string(certs.ModeSelf), "`mode` of the serving certificate: self (own CA in Secret "+certs.SelfSecret+"), cert-manager, auto (cert-manager where it is installed, else self) or files")
	f.StringVar(&o.certDir, "cert-dir", "", "`folder` with tls.crt, tls.key and, for caBundle, ca.crt; read again when they change; for --cert-mode=files")
	f.StringVar(&o.serviceName, "service-name", "berth-webhook", "`name` of the Service, in --namespace, at which the API server finds the webhook")
	f.StringVar(&o.webhookURL, "webhook-url", "", "`URL` at which the API server finds the webhook, instead of the Service: https://host:port")
	f.BoolVar(&o.register, "register", true, "create the webhook configurations "+admission.ConfigurationName+" and repair them; false: with --cert-mode=self only their caBundle is written, else nothing (default true with --cert-mode=self or auto, else false)")
	f.StringVar(&o.metricsAddress, "metrics-bind-address", "127.0.0.1:8082", "`address` of /metrics; 0 turns it off")
	f.StringVar(&o.healthAddress, "health-probe-bind-address", ":8083", "`address` of /healthz and /readyz; 0 turns it off")
	f.StringVar(&o.logLevel, "log-level", "info", "`level`: debug, info or error")
	f.DurationVar(&o.shutdownDelay, "shutdown-delay", serviceDrain, "`time` to serve on after SIGTERM, until callers have learned of it (default 10s, with --webhook-url 0s)")
	f.Float64Var(&o.warnHourlyCost, "warn-hourly-cost", 10, "warn whoever applies a workload whose pods cost more than that `many` $/h together; 0: never")
	f.Float64Var(&o.refuseDriftAbove, "refuse-drift-above", 0.5, "`share` of a Provisioner's nodes, 0 to 1, that an update may replace without being acknowledged by annotation berth.dev/acknowledge, where it replaces 10 or more; 1: any")
	for _, name := range []string{"register", "shutdown-delay"} {
		f.Lookup(name).DefValue = map[string]string{"register": "false", "shutdown-delay": "0s"}[name] // Which pflag does not print: the text says what it depends on.
	}
	f.Lookup("register").NoOptDefVal = "true"
}

// complete sets what follows from other flags and was not given.
func (o *options) complete(given func(flag string) bool) {
	mode := certs.Mode(o.certMode)
	if !given("register") {
		o.register = mode == certs.ModeSelf || mode == certs.ModeAuto
	}
	if !given("shutdown-delay") && o.webhookURL != "" {
		o.shutdownDelay = 0
	}
}

// validate says, in one line, what is wrong and what to do.
func (o *options) validate() error {
	mode := certs.Mode(o.certMode)
	if !slices.Contains([]certs.Mode{certs.ModeSelf, certs.ModeAuto, certs.ModeCertManager, certs.ModeFiles}, mode) {
		return fmt.Errorf("--cert-mode=%s is not known: use self, cert-manager, auto or files", o.certMode)
	}
	if mode == certs.ModeFiles && o.certDir == "" {
		return errors.New("--cert-mode=files needs --cert-dir, the folder with tls.crt and tls.key")
	}
	if mode != certs.ModeFiles && o.certDir != "" {
		return errors.New("--cert-dir is for --cert-mode=files: add that, or leave --cert-dir out")
	}
	if mode == certs.ModeAuto && !o.register {
		return errors.New("--cert-mode=auto needs --register, as it changes who writes caBundle: use --cert-mode=self or cert-manager instead")
	}
	if net.ParseIP(o.bindAddress) == nil {
		return fmt.Errorf("--bind-address=%s is not an IP address: use 0.0.0.0 for all, 127.0.0.1 for this machine", o.bindAddress)
	}
	if o.port < 1 || o.port > 65535 {
		return fmt.Errorf("--port=%d is not a port: use 1 to 65535", o.port)
	}
	if o.namespace == "" {
		return errors.New("--namespace must not be empty: name the namespace of Berth's own objects, such as berth-system")
	}
	if err := o.address().Validate(); err != nil {
		if o.webhookURL != "" {
			return fmt.Errorf("--webhook-url: %w", err)
		}
		return fmt.Errorf("--service-name: %w", err)
	}
	if o.shutdownDelay < 0 || o.shutdownDelay > 10*time.Minute {
		return fmt.Errorf("--shutdown-delay=%s is out of range: use 0s to 10m", o.shutdownDelay)
	}
	if !(o.warnHourlyCost >= 0) {
		return fmt.Errorf("--warn-hourly-cost=%g is out of range: use 0 or more", o.warnHourlyCost)
	}
	if !(o.refuseDriftAbove >= 0 && o.refuseDriftAbove <= 1) {
		return fmt.Errorf("--refuse-drift-above=%g is out of range: use 0 to 1", o.refuseDriftAbove)
	}
	for flag, address := range map[string]string{"--metrics-bind-address": o.metricsAddress, "--health-probe-bind-address": o.healthAddress} {
		if address == "0" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("%s=%s is not host:port: use such as 127.0.0.1:8082, or 0 to turn it off", flag, address)
		}
	}
	return nil
}

// address is where the API server finds us.
func (o *options) address() admission.Address {
	return admission.Address{URL: o.webhookURL, Namespace: o.namespace, Service: o.serviceName}
}

// names are what the certificate is for, the one that the API server asks for
// first.
func (o *options) names() []string {
	name := o.address().ServerName()
	if o.webhookURL != "" {
		return []string{name}
	}
	return []string{name, name + ".cluster.local"}
}

// scope is what we write of the webhook configurations.
func (o *options) scope() admission.Scope {
	switch {
	case o.register:
		return admission.ScopeAll
	case certs.Mode(o.certMode) == certs.ModeSelf:
		return admission.ScopeTrust
	default:
		return admission.ScopeNothing
	}
}

func (o *options) listenAddress() string {
	return net.JoinHostPort(o.bindAddress, strconv.Itoa(o.port))
}

// logger writes JSON lines to standard error.
func (o *options) logger() (*zap.Logger, error) {
	level := map[string]zapcore.Level{"debug": zapcore.DebugLevel, "info": zapcore.InfoLevel, "error": zapcore.ErrorLevel}
	l, ok := level[o.logLevel]
	if !ok {
		return nil, fmt.Errorf("--log-level=%s is not known: use debug, info or error", o.logLevel)
	}
	c := zap.NewProductionConfig()
	c.Level = zap.NewAtomicLevelAt(l)
	c.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	c.DisableCaller, c.DisableStacktrace = true, true
	return c.Build()
}
