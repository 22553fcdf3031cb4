package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/berth-dev/berth/test/cluster"
)

func main() {
	// The kernel ends the cluster when the thread that started it dies.
	runtime.LockOSThread()
	os.Exit(execute(newPrinter(os.Stdout, os.Getenv), os.Getenv("KEEP")))
}

// execute runs the demo and returns the process's exit status: 0 when every
// check passed, 1 when not, 2 when it cannot begin.
func execute(out *printer, keep string) int {
	// The client libraries' own logging is not for this audience: what goes
	// wrong shows as a check that fails.
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())

	bin, err := cluster.Bin()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 2
	}
	// The first signal ends the demo in order, the second in a hurry.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	hurry := make(chan struct{})
	go func() {
		<-signals
		cancel(errInterrupted)
		<-signals
		close(hurry)
	}()

	d := &demo{
		out: out, bin: bin, keep: keep != "" && keep != "0" && keep != "false",
		hurry: hurry, started: time.Now(), zero: time.Now(), j: newJournal(time.Now),
	}
	if err := d.read(); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v; run it in the root of Berth's source tree: make demo\n", err)
		return 2
	}
	return d.perform(ctx, cancel)
}

// perform starts the cluster, tells the story, and ends the cluster.
func (d *demo) perform(ctx context.Context, cancel context.CancelCauseFunc) int {
	d.out.line(bold, "Berth on a real control plane, with a stand-in for EC2 that boots an instance in 2 s")
	d.part("The control plane starts")
	dc, err := startDevcluster(ctx, d.bin, d.keep, func(line string) { d.out.para(faint, "  ", line) })
	if dc == nil {
		return d.verdict("", err)
	}
	if err != nil {
		return d.conclude(dc, err)
	}
	go func() {
		<-dc.ended
		cancel(errors.New("devcluster ended"))
	}()
	err = d.watched(ctx, dc)
	if err != nil {
		err = cause(ctx, err)
	}
	if d.keep && ctx.Err() == nil && !errors.Is(err, errUnusable) {
		d.farewell(dc)
		return d.verdict(dc.logs(), err)
	}
	d.end(dc)
	return d.conclude(dc, err)
}

// conclude gives the verdict on a cluster that has stopped. Its folder stays
// only where somebody will want to look into it.
func (d *demo) conclude(dc *devcluster, err error) int {
	interrupted := errors.Is(err, errInterrupted) && len(d.failed) == 0
	logs := dc.logs()
	if interrupted {
		logs = ""
	}
	code := d.verdict(logs, err)
	if dc.byItself {
		d.out.heading(bold, "The last words of devcluster")
		for _, l := range dc.lastWords(4) {
			d.out.para(plain, "  ", l)
		}
	}
	if code == 0 || interrupted {
		if err := os.RemoveAll(dc.dir); err != nil {
			d.out.line(plain, "removing "+dc.dir+": "+err.Error())
			return 1
		}
	}
	return code
}

// errInterrupted is when the user has stopped the demo.
var errInterrupted = errors.New("interrupted")

// errUnusable is when nothing can be shown of a cluster, or with it.
var errUnusable = errors.New("the cluster cannot be used")

// watched tells the story while the watches run.
func (d *demo) watched(ctx context.Context, dc *devcluster) error {
	var err error
	if d.c, err = cluster.Attach(d.bin, dc.info); err != nil {
		return fmt.Errorf("%w: %w", errUnusable, err)
	}
	if d.k, err = newKube(d.c, func(text string) { d.j.note("warning", text) }); err != nil {
		return fmt.Errorf("%w: %w", errUnusable, err)
	}
	stop, err := observe(ctx, d.c, d.j)
	defer stop()
	if err != nil {
		return fmt.Errorf("%w: %w", errUnusable, err)
	}
	return d.run(ctx)
}

// end stops the cluster and checks that nothing of it is left.
func (d *demo) end(dc *devcluster) {
	d.part("The control plane stops")
	begin := time.Now()
	c := check{}
	if err := dc.stop(d.hurry); err != nil {
		c.fail("%v", err)
	}
	for _, l := range dc.leftovers() {
		c.fail("%s is still there", l)
	}
	c.name = fmt.Sprintf("it has stopped, and none of its %d processes is left (%.1f s)", len(dc.info.Pids), time.Since(begin).Seconds())
	d.judge(c)
}
