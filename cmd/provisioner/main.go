// Command provisioner is the half of Berth that buys and gives back capacity.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// usageError is a mistake of whoever started the process: one line, exit code 2.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, os.Args[1:]))
}

// execute runs the command and returns the process's exit code.
func execute(ctx context.Context, args []string) int {
	var o options
	cmd := &cobra.Command{
		Use:   "provisioner",
		Short: "Buy exactly the EC2 capacity that pods need, and give it back",
		Long: `provisioner watches for pods that no node can host, buys the cheapest EC2
instances that can, and gives instances back when they are empty, expired or
deleted. It needs the CRDs of deploy/crds, one Provisioner, and AWS settings in
the SDK's standard places (AWS_REGION, AWS_ENDPOINT_URL, a role or keys).

Several replicas may run; one leads.`,
		Example: `  # in the cluster, on EKS
  provisioner --cluster-name prod

  # against a development cluster
  AWS_REGION=us-west-2 AWS_ENDPOINT_URL=http://127.0.0.1:4566 \
    provisioner --kubeconfig ./kubeconfig --cluster-name berth-dev`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.NoArgs(cmd, args); err != nil {
				return usageError{fmt.Errorf("%w; see provisioner --help", err)}
			}
			return nil
		},
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(*cobra.Command, []string) error { return o.run(ctx) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see provisioner --help", err)}
	})
	o.flags(cmd.Flags())
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "provisioner:", err)
		return 2
	default:
		fmt.Fprintln(os.Stderr, "provisioner:", err)
		return 1
	}
}
