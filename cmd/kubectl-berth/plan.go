package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/admission"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/catalog"
	"github.com/berth-dev/berth/internal/manifest"
)

// fallbackRegion is planned for when nothing says which region is meant.
const fallbackRegion = "us-east-1"

// staleAfter is how old what Berth has published may be without a word about it.
const staleAfter = 3 * time.Hour

// planOptions are the flags of plan.
type planOptions struct {
	files         []string
	catalog       string
	region        string
	capacityTypes []string
	budget        time.Duration
	output        string
	explain       string
	scheduler     string
	cluster       clusterOptions
}

func planCommand(s streams) *cobra.Command {
	var o planOptions
	cmd := &cobra.Command{
		Use:   "plan [-f FILE]…",
		Short: "Show what would be bought for pods, where they would go, and at what price",
		Long: `plan runs Berth's planner and changes nothing.

With -f it needs no cluster: it reads Kubernetes manifests (YAML with any number
of documents, JSON, Lists, directories, - for standard input) and plans for what
would be there once they were applied:

  Provisioners            what may be bought; without any, a default one
  Pods, Deployments, ReplicaSets, ReplicationControllers, StatefulSets, Jobs
                          as many pods as their controllers would make
  DaemonSets              the room that they take on each node
  PodGroups               which pods get nodes all or nothing; the annotations
                          berth.dev/pod-group… on pods do as well
  Nodes, NodeClaims and pods bound to them
                          capacity that is there already, and is used first
  PersistentVolumes, PersistentVolumeClaims, StorageClasses, CSINodes,
  Namespaces              what decides where pods with volumes or selectors can go
  RuntimeClasses, PriorityClasses
                          what they add to pods that name them

Everything else is ignored, with a note on standard error.

How to read the table: a LAUNCH is a node to buy, at $/H dollars an hour; NEXT
BEST is what the next three types that could host the same pods would cost; CPU
and MEMORY are how much of the node its pods and DaemonSets take. The gap is how
far the plan is, at most, above the cheapest one possible. "Judged at" adds to the
price what money does not show, each with its weight. For a pod that can run
nowhere the nearest miss is shown with its fix; --explain shows all of them.

Without -f it reads the current cluster through your kubeconfig, and what can be
bought from the ConfigMap berth-offerings that Berth publishes there.

The exit code is 0 when a plan was made, even if it says that a pod can run
nowhere, 2 when the input is wrong, 1 when the cluster cannot be read.`,
		Example: `  # what would these cost?
  kubectl berth plan -f examples/web-deployment.yaml

  # with your own Provisioner, on spot and on-demand, in another region
  kubectl berth plan -f provisioner.yaml -f app/ --region eu-west-1 --capacity-types on-demand,spot

  # rendered by a tool, for another program to read
  helm template my-chart | kubectl berth plan -f - -o json

  # what would Berth do now for the pods that are pending?
  kubectl berth plan

  # why can this pod run nowhere, or: why is this node bought for it?
  kubectl berth plan --explain shop/web-0`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && len(o.files) == 0 {
				return usageError{fmt.Errorf("unexpected argument %q: name files with -f", args[0])}
			}
			// "-f examples/*.yaml" leaves all but the first to the arguments.
			o.files = append(o.files, args...)
			// Neither standard input nor the planner hears of ^C; the process ends
			// with what still waits for them.
			done := make(chan error, 1)
			go func() { done <- o.run(cmd.Context(), s) }()
			select {
			case err := <-done:
				return err
			case <-cmd.Context().Done():
				return errors.New("interrupted")
			}
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&o.files, "filename", "f", nil, "manifest `file` or directory, - for standard input; may be given more than once")
	f.StringVar(&o.catalog, "catalog", "", "catalogue `file` of instance types and prices instead of the built-in one")
	f.StringVar(&o.region, "region", "", "AWS `region` to buy in; default: that of the nodes or Provisioners given, $AWS_REGION, or "+fallbackRegion)
	f.StringSliceVar(&o.capacityTypes, "capacity-types", nil, "`types` that every Provisioner is restricted to: on-demand, spot, reserved; default: what each Provisioner says (on-demand, if it says nothing)")
	f.DurationVar(&o.budget, "budget", 200*time.Millisecond, "`time` that a plan may take on a slow core; 0: the first plan, not improved")
	f.StringVar(&o.explain, "explain", "", "`pod`, as namespace/name: say only where this pod goes and why, or, for each Provisioner, what keeps it from a node and what to change")
	f.StringVar(&o.scheduler, "scheduler-config", "", "`file` that kube-scheduler is configured by, where that gives pods default spread constraints")
	f.StringVarP(&o.output, "output", "o", "table", "table or json")
	f.StringVar(&o.cluster.kubeconfig, "kubeconfig", "", "kubeconfig `file`, without -f; default: $KUBECONFIG or ~/.kube/config")
	f.StringVar(&o.cluster.context, "context", "", "kubeconfig `context`, without -f; default: the current one")
	return cmd
}

// check finds mistakes in the flags.
func (o *planOptions) check() error {
	if o.output != "table" && o.output != "json" {
		return fmt.Errorf("--output is table or json, not %q", o.output)
	}
	if o.scheduler != "" && len(o.files) == 0 {
		return errors.New("--scheduler-config needs -f: the Services and workloads of a cluster are not read")
	}
	if o.budget < 0 {
		return fmt.Errorf("--budget must not be negative, got %s", o.budget)
	}
	known := []string{v1alpha1.CapacityTypeOnDemand, v1alpha1.CapacityTypeSpot, v1alpha1.CapacityTypeReserved}
	for _, t := range o.capacityTypes {
		if !slices.Contains(known, t) {
			return fmt.Errorf("--capacity-types are %s, not %q", strings.Join(known, ", "), t)
		}
	}
	return nil
}

func (o *planOptions) run(ctx context.Context, s streams) error {
	if err := o.check(); err != nil {
		return usageError{err}
	}
	set, market, err := o.read(ctx, s)
	if err != nil {
		return err
	}
	spread, err := o.defaultSpread()
	if err != nil {
		return usageError{err}
	}
	snapshot := set.Snapshot(manifest.Options{
		Now: time.Now(), Region: market.region, Machines: market.machines, Resolved: market.resolved,
		CapacityTypes: o.capacityTypes, Budget: o.budget, DefaultSpread: spread, Namespace: market.namespace,
	})
	for _, n := range append(market.notes, set.Notes()...) {
		fmt.Fprintln(s.err, "note:", n)
	}
	start := time.Now()
	plan := capacity.Solve(snapshot)
	plan.SolveTime = time.Since(start)
	r := newReport(plan, len(snapshot.Pods), snapshot.Nodes)
	r.PeakMemoryBytes = peakMemory()
	out := bufio.NewWriter(s.out)
	switch {
	case o.explain != "":
		x, unknown := explain(r, &plan.Objective, snapshot, o.explain)
		if unknown != nil {
			return usageError{unknown}
		}
		if o.output == "json" {
			err = writeJSON(out, x)
		} else {
			err = writeExplanation(out, x)
		}
	case o.output == "json":
		err = writeJSON(out, r)
	default:
		err = writeTable(out, r, plan)
	}
	if err = errors.Join(err, out.Flush()); err != nil {
		return fmt.Errorf("writing the plan: %w", err)
	}
	if n := len(plan.Unschedulable); n > 0 && o.explain == "" {
		fmt.Fprintf(s.err, "note: %s can run nowhere; the plan says why\n", count(n, "pod"))
	}
	return nil
}

// defaultSpread reads --scheduler-config.
func (o *planOptions) defaultSpread() ([]corev1.TopologySpreadConstraint, error) {
	if o.scheduler == "" {
		return nil, nil
	}
	f, err := os.Open(o.scheduler)
	if err != nil {
		return nil, fmt.Errorf("--scheduler-config: %w", err)
	}
	defer f.Close() // Only read from.
	cs, err := manifest.DefaultSpread(f)
	if err != nil {
		return nil, fmt.Errorf("--scheduler-config %s: %w", o.scheduler, err)
	}
	return cs, nil
}

// market is what can be bought.
type market struct {
	region   string
	machines []capacity.Machine
	resolved map[string]capacity.Resolved
	// namespace is Berth's; empty where it has published nothing.
	namespace string
	notes     []string
}

// read gets the objects and the market, from files or from the cluster.
func (o *planOptions) read(ctx context.Context, s streams) (*manifest.Set, *market, error) {
	if len(o.files) > 0 {
		set := &manifest.Set{}
		if err := readFiles(set, o.files, s.in); err != nil {
			return nil, nil, usageError{err}
		}
		if err := checkProvisioners(set); err != nil {
			return nil, nil, usageError{err}
		}
		m, err := o.fromCatalog(set)
		return set, m, err
	}
	c, err := o.cluster.connect()
	if err != nil {
		return nil, nil, usageError{fmt.Errorf("no manifests (-f) and %w", err)}
	}
	return o.fromCluster(ctx, c)
}

// fromCluster gets both from the cluster, and the market from the catalogue where
// that is wanted or Berth has published none.
func (o *planOptions) fromCluster(ctx context.Context, c client.Reader) (*manifest.Set, *market, error) {
	set, err := readCluster(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	if o.catalog == "" {
		offerings, namespace, err := readOfferings(ctx, c)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case offerings == nil:
			set.Note("this cluster has no ConfigMap %s: planning with the built-in catalogue", v1alpha1.OfferingsConfigMap)
		case o.region != "" && o.region != offerings.Region:
			return nil, nil, usageError{fmt.Errorf("this cluster is in region %s, not %s; use --catalog to plan for another", offerings.Region, o.region)}
		default:
			if age := time.Since(offerings.At); age >= staleAfter {
				set.Note("what can be bought is as of %s ago, and is read anew every hour: is the provisioner running?", age.Round(time.Minute))
			}
			return set, &market{region: offerings.Region, machines: offerings.Machines, resolved: offerings.Provisioners, namespace: namespace}, nil
		}
	}
	m, err := o.fromCatalog(set)
	return set, m, err
}

// checkProvisioners refuses what the webhook would refuse at apply.
func checkProvisioners(set *manifest.Set) error {
	for _, p := range set.Provisioners() {
		d := admission.ValidateProvisioner(p, nil, nil, admission.Fleet{})
		if d.Denied != "" {
			return fmt.Errorf("refused, as at apply: Provisioner %s: %s", p.Name, d.Denied)
		}
		for _, w := range d.Warnings {
			set.Note("Provisioner %s: %s", p.Name, w)
		}
	}
	return nil
}

// fromCatalog takes the market from the catalogue file or the built-in one.
func (o *planOptions) fromCatalog(set *manifest.Set) (*market, error) {
	c := catalog.Default()
	if o.catalog != "" {
		f, err := os.Open(o.catalog)
		if err != nil {
			return nil, usageError{fmt.Errorf("--catalog: %w", err)}
		}
		defer f.Close() // Only read from.
		if c, err = catalog.Load(f); err != nil {
			return nil, usageError{fmt.Errorf("--catalog %s: %w", o.catalog, err)}
		}
	}
	region, how := chooseRegion(o.region, c, set, os.Getenv)
	if _, ok := c.Region(region); !ok {
		var names []string
		for _, r := range c.Regions {
			names = append(names, r.Name)
		}
		return nil, usageError{fmt.Errorf("the catalogue has no region %q (%s); it has %s", region, how, strings.Join(names, ", "))}
	}
	m := &market{region: region, machines: c.Machines(region)}
	if o.region == "" {
		m.notes = append(m.notes, fmt.Sprintf("planning for region %s (%s)", region, how))
	}
	return m, nil
}

// chooseRegion is the region to plan for, and what says so: the flag, the nodes,
// the Provisioners, the environment, or the catalogue itself.
func chooseRegion(flag string, c *catalog.Catalog, set *manifest.Set, env func(string) string) (region, how string) {
	if flag != "" {
		return flag, "--region"
	}
	ofZone := func(zone string) string {
		for i := range c.Regions {
			if _, ok := c.Regions[i].Zone(zone); ok {
				return c.Regions[i].Name
			}
		}
		return ""
	}
	for _, n := range set.Nodes() {
		if r := n.Labels["topology.kubernetes.io/region"]; r != "" {
			return r, "node " + n.Name
		}
		if r := ofZone(n.Labels["topology.kubernetes.io/zone"]); r != "" {
			return r, "node " + n.Name
		}
	}
	for _, p := range set.Provisioners() {
		for _, q := range p.Spec.Requirements {
			if q.Operator != v1alpha1.OperatorIn {
				continue
			}
			switch q.Key {
			case "topology.kubernetes.io/region":
				return q.Values[0], "Provisioner " + p.Name
			case "topology.kubernetes.io/zone", v1alpha1.LabelZoneID:
				if r := ofZone(q.Values[0]); r != "" {
					return r, "Provisioner " + p.Name
				}
			}
		}
	}
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if r := env(name); r != "" {
			return r, "$" + name
		}
	}
	if _, ok := c.Region(fallbackRegion); !ok && len(c.Regions) > 0 {
		return c.Regions[0].Name, "the catalogue's first; use --region"
	}
	return fallbackRegion, "the default; use --region"
}

// peakMemory is the most memory that the process has held, in bytes: what the
// kernel says, or else what the runtime has asked for.
func peakMemory() int64 {
	if data, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
				if kib, err := strconv.ParseInt(f[1], 10, 64); err == nil {
					return kib << 10
				}
			}
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.Sys)
}
