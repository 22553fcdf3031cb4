package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
)

// errHelp asks for the help text.
var errHelp = errors.New("help")

// command is what the command line asks for.
type command struct {
	// name is "up" or "build".
	name string
	up   upOptions
}

// upOptions are the flags of "up".
type upOptions struct {
	dir             string
	berth           bool
	ec2             bool
	crds            string
	bootDelay       time.Duration
	region          string
	clusterName     string
	provisionerArgs []string
}

const help = `devcluster runs a real Kubernetes control plane on this machine, on loopback:
etcd, kube-apiserver, kube-controller-manager and kube-scheduler, kwok in the
place of kubelets, ec2sim in the place of AWS, and Berth on top.

  devcluster up [flags]    start all of it and keep it running until Ctrl-C
  devcluster build         only build the control plane's programs
  devcluster help          print this

The programs are built from Go modules at the first use, which takes about 11
minutes on 2 cores, and kept in $BERTH_CACHE (else in "berth" in your cache
folder). Programs in the folder $KUBEBUILDER_ASSETS are used instead.

When everything works, "up" prints one line of JSON with every endpoint on
stdout. All else goes to stderr, and the components' logs to DIR/logs. Try:

  devcluster up --berth=false --dir /tmp/dev
  KUBECONFIG=/tmp/dev/kubeconfig kubectl get nodes    (in another terminal)

Flags of "up":
`

// newFlags defines the flags of "up" on o.
func newFlags(o *upOptions) *flag.FlagSet {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.dir, "dir", "", "`folder` for data, logs and kubeconfig: new, empty, or that of a cluster that has ended (default: a new one in the temporary folder, removed at the end)")
	flags.BoolVar(&o.berth, "berth", true, "start Berth's webhook and provisioner; false leaves that to you")
	flags.BoolVar(&o.ec2, "ec2", true, "start ec2sim")
	flags.StringVar(&o.crds, "crds", "", "`folder` with CRDs to apply (default: ../deploy/crds beside the folder of this program, if it is there)")
	flags.DurationVar(&o.bootDelay, "boot-delay", 2*time.Second, "time from an instance's launch to its node's joining")
	flags.StringVar(&o.region, "region", "us-west-2", "AWS `region` that ec2sim plays")
	flags.StringVar(&o.clusterName, "cluster-name", "berth-dev", "`name` of the cluster, in kubeconfig and instance tags")
	flags.Func("provisioner-args", "more `arguments` for the provisioner, separated by spaces", func(s string) error {
		o.provisionerArgs = append(o.provisionerArgs, strings.Fields(s)...)
		return nil
	})
	return flags
}

// parseArgs reads the arguments after the program's name. The error is errHelp
// or one line that says what to do.
func parseArgs(args []string) (command, error) {
	if len(args) == 0 {
		return command{}, errors.New(`say what to do: "devcluster up" or "devcluster build" ("devcluster help" explains)`)
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		return command{}, errHelp
	case "build":
		for _, arg := range args[1:] {
			switch arg {
			case "-h", "-help", "--help":
				return command{}, errHelp
			}
		}
		if len(args) > 1 {
			return command{}, fmt.Errorf(`"devcluster build" takes no arguments, got %q`, args[1])
		}
		return command{name: "build"}, nil
	case "up":
		c := command{name: "up"}
		flags := newFlags(&c.up)
		if err := flags.Parse(args[1:]); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return command{}, errHelp
			}
			return command{}, fmt.Errorf(`%w ("devcluster help" lists the flags)`, err)
		}
		if flags.NArg() > 0 {
			return command{}, fmt.Errorf(`"devcluster up" takes only flags, got %q ("devcluster help" lists them)`, flags.Arg(0))
		}
		return c, nil
	}
	return command{}, fmt.Errorf(`no command %q: use "up" or "build" ("devcluster help" explains)`, args[0])
}

// helpText is the whole help.
func helpText() string {
	var out bytes.Buffer
	out.WriteString(help)
	flags := newFlags(&upOptions{})
	flags.SetOutput(&out)
	flags.PrintDefaults()
	return out.String()
}
