package manifest

import (
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// schedulerConfig is what matters of a KubeSchedulerConfiguration.
type schedulerConfig struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Profiles   []struct {
		SchedulerName string `json:"schedulerName"`
		PluginConfig  []struct {
			Name string `json:"name"`
			Args struct {
				DefaultingType     string                            `json:"defaultingType"`
				DefaultConstraints []corev1.TopologySpreadConstraint `json:"defaultConstraints"`
			} `json:"args"`
		} `json:"pluginConfig"`
	} `json:"profiles"`
}

// DefaultSpread reads, from the file that kube-scheduler is configured by
// (--config, a KubeSchedulerConfiguration), the spread constraints that it gives
// pods without any. Only those of the profile default-scheduler count. There are
// none where the file leaves it to kube-scheduler's own defaults: these are
// preferences.
func DefaultSpread(r io.Reader) ([]corev1.TopologySpreadConstraint, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading kube-scheduler's configuration: %w", err)
	}
	if len(data) > maxSize {
		return nil, errors.New("kube-scheduler's configuration is too large")
	}
	var c schedulerConfig
	if err := yaml.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("kube-scheduler's configuration: %w", oneLine(err))
	}
	if c.Kind != "KubeSchedulerConfiguration" || c.APIVersion != "kubescheduler.config.k8s.io/v1" {
		return nil, fmt.Errorf("kube-scheduler's configuration: want apiVersion kubescheduler.config.k8s.io/v1, kind KubeSchedulerConfiguration, not %q, %q", c.APIVersion, c.Kind)
	}
	for i, p := range c.Profiles {
		if p.SchedulerName != "" && p.SchedulerName != corev1.DefaultSchedulerName {
			continue
		}
		for j, plugin := range p.PluginConfig {
			if plugin.Name != "PodTopologySpread" {
				continue
			}
			at := fmt.Sprintf("profiles[%d].pluginConfig[%d].args", i, j)
			if plugin.Args.DefaultingType != "List" {
				if len(plugin.Args.DefaultConstraints) > 0 {
					return nil, fmt.Errorf("kube-scheduler's configuration: %s.defaultConstraints need defaultingType: List", at)
				}
				continue
			}
			for k := range plugin.Args.DefaultConstraints {
				if field, err := checkSpread(&plugin.Args.DefaultConstraints[k]); err != nil {
					return nil, fmt.Errorf("kube-scheduler's configuration: %s.defaultConstraints[%d].%s: %w", at, k, field, err)
				}
			}
			return plugin.Args.DefaultConstraints, nil
		}
	}
	return nil, nil
}

// checkSpread says what kube-scheduler says about a default constraint.
func checkSpread(c *corev1.TopologySpreadConstraint) (field string, err error) {
	switch {
	case c.MaxSkew < 1:
		return "maxSkew", fmt.Errorf("%d is not 1 or more", c.MaxSkew)
	case c.TopologyKey == "":
		return "topologyKey", errors.New("is missing")
	case c.WhenUnsatisfiable != corev1.DoNotSchedule && c.WhenUnsatisfiable != corev1.ScheduleAnyway:
		return "whenUnsatisfiable", fmt.Errorf("%q is neither DoNotSchedule nor ScheduleAnyway", c.WhenUnsatisfiable)
	case c.LabelSelector != nil:
		return "labelSelector", errors.New("must not be set: it follows from what a pod belongs to")
	case c.MinDomains != nil && *c.MinDomains < 1:
		return "minDomains", fmt.Errorf("%d is not 1 or more", *c.MinDomains)
	}
	return "", nil
}
