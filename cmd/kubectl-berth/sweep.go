package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/internal/ec2"
)

const sweepLong = `List what Berth has made in EC2 for a cluster that is gone: instances and launch
templates with the tags kubernetes.io/cluster/<name>=owned and
berth.dev/cluster-uid. With --yes, terminate and delete them.

While a cluster lives, its provisioner collects what is left over by itself: the
cluster that the kubeconfig reaches is never swept. AWS is found by the SDK's
standard settings (AWS_REGION, AWS_PROFILE, …).

  kubectl berth sweep --cluster-name prod                     what is there, of which UIDs
  kubectl berth sweep --cluster-name prod --cluster-uid UID --yes`

type sweepOptions struct {
	clusterName, clusterUID string
	yes                     bool
	cluster                 clusterOptions
}

func sweepCommand(s streams) *cobra.Command {
	var o sweepOptions
	cmd := &cobra.Command{
		Use:   "sweep --cluster-name NAME [--cluster-uid UID --yes]",
		Short: "Find, and remove, what a deleted cluster has left behind in EC2",
		Long:  sweepLong,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unexpected argument %q; see kubectl berth sweep --help", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), s) },
	}
	f := cmd.Flags()
	f.StringVar(&o.clusterName, "cluster-name", "", "`name` of the cluster, as in the kubernetes.io/cluster/<name> tags (required)")
	f.StringVar(&o.clusterUID, "cluster-uid", "", "`UID` of the cluster: of its namespace kube-system; needed with --yes")
	f.BoolVar(&o.yes, "yes", false, "remove what is listed; without it nothing is changed")
	f.StringVar(&o.cluster.kubeconfig, "kubeconfig", "", "kubeconfig `file`; the cluster that it reaches is not swept")
	f.StringVar(&o.cluster.context, "context", "", "`name` of the kubeconfig's context")
	return cmd
}

func (o *sweepOptions) run(ctx context.Context, s streams) error {
	switch {
	case o.clusterName == "":
		return usageError{errors.New("--cluster-name is required; see kubectl berth sweep --help")}
	case o.yes && o.clusterUID == "":
		return usageError{errors.New("--yes needs --cluster-uid: another cluster may have the same name; run without --yes to see the UIDs")}
	}
	sweeper, err := ec2.NewSweeper(ctx, o.clusterName)
	if err != nil {
		return err
	}
	list, err := sweeper.Leftovers(ctx, o.clusterUID)
	if err != nil {
		return err
	}
	alive, err := o.alive(ctx)
	if err != nil {
		return err
	}
	printLeftovers(s.out, list, alive, time.Now())
	if len(list) == 0 {
		fmt.Fprintf(s.out, "nothing is left of a cluster %s in %s\n", o.clusterName, sweeper.Region())
		return nil
	}
	if !o.yes {
		fmt.Fprintln(s.out, "\nNothing was changed. To remove what belongs to one UID, add --cluster-uid UID --yes.")
		return nil
	}
	if types.UID(o.clusterUID) == alive {
		return fmt.Errorf("cluster %s with UID %s is alive: the kubeconfig reaches it; its provisioner collects what is left over", o.clusterName, o.clusterUID)
	}
	done, err := sweeper.Remove(ctx, o.clusterUID, list)
	fmt.Fprintf(s.out, "\n%d of %d removed\n", len(done), len(list))
	return err
}

// alive is the UID of the cluster that the kubeconfig reaches; empty where there is
// none. A kubeconfig or context that is named and cannot be used is an error, and
// for --yes any that reaches no cluster: the very cluster might be about to be swept.
func (o *sweepOptions) alive(ctx context.Context) (types.UID, error) {
	unsure := func(what string, err error) error {
		return fmt.Errorf("the cluster that the kubeconfig names %s (%w): it may be the one to be swept; use a kubeconfig that reaches another, or KUBECONFIG=/dev/null", what, err)
	}
	c, err := o.cluster.connect()
	if err != nil {
		if o.cluster.kubeconfig != "" || o.cluster.context != "" || o.yes && !o.cluster.absent() {
			return "", unsure("cannot be found", err)
		}
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var ns corev1.Namespace
	if err := c.Get(ctx, client.ObjectKey{Name: metav1.NamespaceSystem}, &ns); err != nil {
		if o.yes {
			return "", unsure("does not answer", err)
		}
		return "", nil
	}
	return ns.UID, nil
}

func printLeftovers(w io.Writer, list []ec2.Leftover, alive types.UID, now time.Time) {
	if len(list) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KIND\tID\tCLUSTER UID\tAGE\tNAME\tDETAIL")
	count := map[string]int{}
	for _, l := range list {
		count[l.ClusterUID]++
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", l.Kind, l.ID, l.ClusterUID, now.Sub(l.Since).Truncate(time.Minute), l.Name, l.Detail)
	}
	_ = t.Flush() // A terminal that is gone is nothing to report to it.
	for _, uid := range slices.Sorted(maps.Keys(count)) {
		state := ""
		if types.UID(uid) == alive {
			state = ": alive, the kubeconfig reaches it"
		}
		fmt.Fprintf(w, "UID %s: %d%s\n", uid, count[uid], state)
	}
}
