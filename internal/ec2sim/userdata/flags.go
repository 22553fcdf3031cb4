package userdata

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// harmlessFlags are kubelet flags that do not shape the Node object.
var harmlessFlags = []string{
	"v", "node-ip", "image-gc-high-threshold", "image-gc-low-threshold", "registry-qps", "registry-burst",
	"event-qps", "event-burst", "kube-api-qps", "kube-api-burst", "serialize-image-pulls", "eviction-soft",
	"eviction-soft-grace-period", "eviction-max-pod-grace-period", "cpu-manager-policy", "topology-manager-policy",
	"container-log-max-size", "container-log-max-files", "feature-gates", "cluster-domain", "pod-max-pids",
}

// applyFlags lays the kubelet's command line over the config: flags win, and
// the values of repeated --node-labels add up. A flag that is not known is
// refused, as the kubelet refuses it.
func (c *Config) applyFlags(args []string) error {
	fs := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.Var(funcFlag(c.addLabels), "node-labels", "")
	var taints []string
	fs.Var(funcFlag(func(v string) error { taints = append(taints, strings.Split(v, ",")...); return nil }), "register-with-taints", "")
	maxPods := fs.Int32("max-pods", 0, "")
	podsPerCore := fs.Int32("pods-per-core", 0, "")
	dns := fs.StringSlice("cluster-dns", nil, "")
	kube := fs.StringToString("kube-reserved", nil, "")
	system := fs.StringToString("system-reserved", nil, "")
	eviction := ""
	fs.StringVar(&eviction, "eviction-hard", "", "")
	for _, name := range harmlessFlags {
		fs.String(name, "", "")
	}
	for _, arg := range args {
		// nodeadm hands each element to the kubelet as one argument.
		if !strings.HasPrefix(arg, "-") {
			return fmt.Errorf("unknown command %q", arg)
		}
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.Changed("max-pods") {
		c.MaxPods = maxPods
	}
	if fs.Changed("pods-per-core") {
		c.PodsPerCore = *podsPerCore
	}
	if fs.Changed("cluster-dns") {
		c.ClusterDNS = *dns
	}
	if fs.Changed("kube-reserved") {
		c.KubeReserved = *kube
	}
	if fs.Changed("system-reserved") {
		c.SystemReserved = *system
	}
	if fs.Changed("eviction-hard") {
		var err error
		if c.EvictionHard, err = parseEviction(eviction); err != nil {
			return err
		}
	}
	if fs.Changed("register-with-taints") {
		c.Taints = nil
		for _, text := range taints {
			t, err := parseTaint(text)
			if err != nil {
				return err
			}
			if c.Taints, err = addTaint(c.Taints, t); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Config) addLabels(text string) error {
	for pair := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("malformed pair %q, expect string=string", pair)
		}
		c.Labels[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return nil
}

// parseEviction reads signal<value[,signal<value…].
func parseEviction(text string) (map[string]string, error) {
	out := map[string]string{}
	for one := range strings.SplitSeq(text, ",") {
		signal, value, ok := strings.Cut(one, "<")
		if !ok || signal == "" || value == "" {
			return nil, fmt.Errorf("invalid eviction threshold %q", one)
		}
		if _, twice := out[signal]; twice {
			return nil, errors.New("duplicate eviction thresholds for " + signal)
		}
		out[signal] = value
	}
	return out, nil
}

// funcFlag is a pflag.Value that hands each value to a function.
type funcFlag func(string) error

func (f funcFlag) Set(v string) error { return f(v) }
func (f funcFlag) String() string     { return "" }
func (f funcFlag) Type() string       { return "string" }
