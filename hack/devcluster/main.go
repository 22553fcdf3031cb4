// Command devcluster runs a real Kubernetes control plane on loopback, for
// Berth's demo and tests and by hand. See README.md, or "devcluster help".
package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/berth-dev/berth/hack/devcluster/internal/cluster"
	"github.com/berth-dev/berth/hack/devcluster/internal/toolset"
)

// The versions of everything that is built are this module's own.
var (
	//go:embed go.mod
	goMod []byte
	//go:embed go.sum
	goSum []byte
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	cmd, err := parseArgs(args)
	if errors.Is(err, errHelp) {
		fmt.Print(helpText())
		return exitOK
	}
	if err != nil {
		return fail(cluster.Usagef("%v", err))
	}

	ctx, hurry := onSignals()
	switch cmd.name {
	case "build":
		_, err = buildTools(ctx)
	case "up":
		err = up(ctx, cmd.up, hurry)
	}
	return fail(err)
}

// onSignals returns a context that the first SIGINT, SIGTERM or SIGHUP ends, and
// a channel that a later one closes. Later means a second after the first:
// "timeout" and shells signal a process and its group, which arrives twice.
func onSignals() (context.Context, <-chan struct{}) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ctx, cancel := context.WithCancelCause(context.Background())
	hurry := make(chan struct{})
	go func() {
		<-signals
		first := time.Now()
		cancel(errors.New("interrupted"))
		for range signals {
			if time.Since(first) > time.Second {
				close(hurry)
				return
			}
		}
	}()
	return ctx, hurry
}

// fail prints an error and returns the exit code for it; nil is none.
func fail(err error) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(os.Stderr, "devcluster: %v\n", err)
	if errors.Is(err, cluster.ErrUsage) {
		return exitUsage
	}
	return exitFailure
}

// buildTools returns the paths of the control plane's programs, built if need
// be.
func buildTools(ctx context.Context) (map[string]string, error) {
	cache, err := toolset.CacheDir(os.Getenv, os.UserCacheDir)
	if err != nil {
		return nil, err
	}
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets != "" {
		if info, err := os.Stat(assets); err != nil || !info.IsDir() {
			return nil, cluster.Usagef("KUBEBUILDER_ASSETS=%s is not a folder; unset it or name one", assets)
		}
		if assets, err = filepath.Abs(assets); err != nil {
			return nil, err
		}
	}
	return toolset.Builder{
		Manifest: toolset.Manifest{Mod: goMod, Sum: goSum},
		CacheDir: cache,
		Assets:   assets,
		Progress: os.Stderr,
	}.Ensure(ctx)
}

// up runs a cluster until ctx ends.
func up(ctx context.Context, o upOptions, hurry <-chan struct{}) error {
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program's folder: %w", err)
	}
	config := cluster.Config{
		BinDir:          filepath.Dir(executable),
		EC2:             o.ec2,
		Berth:           o.berth,
		BootDelay:       o.bootDelay,
		Region:          o.region,
		ClusterName:     o.clusterName,
		ProvisionerArgs: o.provisionerArgs,
		Environ:         os.Environ(),
		Progress:        os.Stderr,
	}
	if config.CRDs, err = crds(o.crds, config.BinDir); err != nil {
		return err
	}
	// What is wrong with the call is said before anything is built.
	if err := config.Validate(); err != nil {
		return err
	}
	if config.Tools, err = buildTools(ctx); err != nil {
		return err
	}

	temporary := o.dir == ""
	if temporary {
		if config.Dir, err = os.MkdirTemp("", "devcluster-"); err != nil {
			return fmt.Errorf("making a folder: %w", err)
		}
	} else if config.Dir, err = filepath.Abs(o.dir); err != nil {
		return fmt.Errorf("resolving --dir: %w", err)
	}
	c, err := cluster.New(config)
	if err != nil {
		if temporary {
			os.RemoveAll(config.Dir)
		}
		return err
	}
	err = c.Run(ctx, hurry, func(info cluster.Info) error {
		line, err := info.Line()
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(line); err != nil {
			return fmt.Errorf("printing the endpoints: %w", err)
		}
		return nil
	})
	// After a failure the logs are what is wanted.
	if err == nil && temporary {
		if err := os.RemoveAll(config.Dir); err != nil {
			return fmt.Errorf("removing %s: %w", config.Dir, err)
		}
	}
	return err
}

// crds returns the absolute path of the folder with the CRDs, "" for none.
func crds(flag, binDir string) (string, error) {
	if flag == "" {
		return cluster.FindCRDs(binDir), nil
	}
	if err := cluster.CheckCRDs(flag); err != nil {
		return "", err
	}
	return filepath.Abs(flag)
}
