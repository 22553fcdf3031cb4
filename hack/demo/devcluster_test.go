package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeBin makes a folder with a shell script in the place of devcluster.
func fakeBin(t *testing.T, script string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "devcluster"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	return dir
}

// running is a cluster that ends when it is asked to.
const running = `
trap 'echo devcluster: stopped >&2; echo quoted >&2; exit 0' TERM
echo "devcluster: first" >&2
printf 'devcluster: sec' >&2
echo "ond" >&2
printf '{"kubeconfig":"k","pids":{"devcluster":%d}}\n' $$
while :; do sleep 0.05; done
`

func TestDevclusterStartsAndStops(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var said []string
	d, err := startDevcluster(t.Context(), fakeBin(t, running), false, func(line string) { said = append(said, line) })
	if err != nil {
		t.Fatal(err)
	}
	if d.info.Kubeconfig != "k" {
		t.Errorf("kubeconfig %q, want k", d.info.Kubeconfig)
	}
	if diff := cmp.Diff([]string{"first", "second"}, said); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	if left := d.leftovers(); len(left) == 0 {
		t.Error("no process is found while it runs")
	}
	if err := d.stop(nil); err != nil {
		t.Errorf("stopping: %v", err)
	}
	if left := d.leftovers(); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	if err := d.stop(nil); err == nil || !d.byItself {
		t.Errorf("stopping what has ended: %v, want an error", err)
	}
	if diff := cmp.Diff([]string{"second", "stopped"}, d.lastWords(2)); diff != "" {
		t.Errorf("last words (-want +got):\n%s", diff)
	}
}

func TestDevclusterThatCannotStart(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	d, err := startDevcluster(t.Context(), fakeBin(t, "echo devcluster: no etcd >&2; exit 3\n"), false, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "ended before it was ready (exit status 3)") {
		t.Fatalf("error %v, want that it ended with status 3", err)
	}
	if data, err := os.ReadFile(d.stderr()); err != nil || string(data) != "devcluster: no etcd\n" {
		t.Errorf("its log is %q (%v), want its last words", data, err)
	}
}

func TestDevclusterIsStoppedWhenTheUserStops(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	stopped := errors.New("interrupted")
	ctx2, stop := context.WithCancelCause(ctx)
	defer cancel()
	script := "trap 'exit 0' TERM\necho devcluster: building >&2\nwhile :; do sleep 0.05; done\n"
	d, err := startDevcluster(ctx2, fakeBin(t, script), false, func(string) { stop(stopped) })
	if !errors.Is(err, stopped) {
		t.Fatalf("error %v, want that of the user", err)
	}
	select {
	case <-d.ended:
	default:
		t.Error("it still runs")
	}
}
