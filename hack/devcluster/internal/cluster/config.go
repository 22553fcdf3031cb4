// Package cluster runs a real Kubernetes control plane on loopback: etcd,
// kube-apiserver, kube-controller-manager, kube-scheduler, kwok in the place
// of kubelets, ec2sim in the place of AWS, and, when asked, Berth itself.
//
// The command line of every component is in one file, components.go.
package cluster

import (
	"io"
	"regexp"
	"time"
)

// Config says what to run. New checks it.
type Config struct {
	// Dir is the folder for everything that the cluster writes. It may be
	// missing; it may hold the remains of an earlier cluster, not other files.
	Dir string
	// Tools are the paths of the control plane's programs by name
	// (toolset.Tools lists the names).
	Tools map[string]string
	// BinDir is the folder with ec2sim, webhook and provisioner.
	BinDir string
	// CRDs is the folder whose YAML files are applied before Berth starts.
	// Empty: none.
	CRDs string
	// EC2 starts ec2sim.
	EC2 bool
	// Berth starts the webhook and the provisioner. Needs EC2.
	Berth bool
	// BootDelay is the time from an instance's launch to its node's joining,
	// 0 or more.
	BootDelay time.Duration
	// Region is the AWS region that ec2sim plays.
	Region string
	// ClusterName is the name in kubeconfig and in the instances' tags.
	ClusterName string
	// ProvisionerArgs are added to the provisioner's command line.
	ProvisionerArgs []string
	// Environ is the environment of this process. ec2sim, webhook and
	// provisioner inherit it without its AWS and Kubernetes settings; the
	// control plane inherits nothing of it.
	Environ []string
	// Progress receives what a person wants to know while waiting.
	Progress io.Writer
}

var (
	regionPattern = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]+$`)
	// The rule that EKS has for a cluster's name.
	clusterNamePattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z_-]{0,99}$`)
)

// Validate returns ErrUsage for the first setting that a user got wrong and
// for a program of Berth that is missing.
func (c Config) Validate() error {
	switch {
	case !regionPattern.MatchString(c.Region):
		return Usagef("--region %q is no AWS region; give one like us-west-2", c.Region)
	case !clusterNamePattern.MatchString(c.ClusterName):
		return Usagef("--cluster-name %q must be 1 to 100 letters, digits, hyphens or underscores, and start with a letter or digit", c.ClusterName)
	case c.BootDelay < 0:
		return Usagef("--boot-delay %s must not be negative", c.BootDelay)
	case c.Berth && !c.EC2:
		return Usagef("--berth=true needs ec2sim; add --berth=false to --ec2=false")
	}
	var siblings []string
	if c.EC2 {
		siblings = append(siblings, "ec2sim")
	}
	if c.Berth {
		siblings = append(siblings, "webhook", "provisioner")
	}
	return checkSiblings(c.BinDir, siblings)
}
