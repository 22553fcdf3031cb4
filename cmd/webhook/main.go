// Command webhook is the half of Berth that answers admission reviews. It
// advises: without it pods are provisioned as well, a little later.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	_ "time/tzdata" // Budgets name time zones; the image need not have them.
)

// usageError is a mistake of whoever started the process: one line, exit code 2.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, os.Args[1:], os.Stderr))
}

// execute runs the command until ctx ends and returns the process's exit code.
func execute(ctx context.Context, args []string, stderr io.Writer) int {
	var o options
	cmd := &cobra.Command{
		Use:   "webhook",
		Short: "Hint pods at the capacity that would be bought for them, and check Provisioners",
		Long: `webhook answers the API server's admission reviews: it annotates new pods with
the capacity that would be bought for them, completes Provisioners with the
cluster's defaults, and refuses those that cannot work. It needs no AWS
credentials, and nothing that it does can keep a pod from being created.

It makes its own serving certificate, or has cert-manager make it, and registers
itself with the API server.`,
		Example: `  # in the cluster
  webhook --cluster-name prod

  # on this machine, against a development cluster
  webhook --kubeconfig ./kubeconfig --cluster-name berth-dev \
    --port 9443 --webhook-url https://127.0.0.1:9443`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.NoArgs(cmd, args); err != nil {
				return usageError{fmt.Errorf("%w; see webhook --help", err)}
			}
			return nil
		},
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.complete(cmd.Flags().Changed)
			return o.run(cmd.Context())
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see webhook --help", err)}
	})
	o.flags(cmd.Flags())
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintln(stderr, "webhook:", err)
		return 2
	default:
		fmt.Fprintln(stderr, "webhook:", err)
		return 1
	}
}
