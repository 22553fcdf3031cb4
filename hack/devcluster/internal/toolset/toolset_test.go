package toolset

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const goMod = `module example.test/tools

go 1.26.0

require sigs.k8s.io/kwok v0.8.0

require (
	k8s.io/kubernetes v1.37.2 // indirect
	go.etcd.io/etcd/server/v3 v3.7.3
)

replace k8s.io/api => k8s.io/api v0.37.2

tool k8s.io/kubernetes/cmd/kubectl
`

func manifest() Manifest { return Manifest{Mod: []byte(goMod), Sum: []byte("sum\n")} }

func TestVersion(t *testing.T) {
	for name, tc := range map[string]struct {
		module, want string
	}{
		"in a block":                     {"k8s.io/kubernetes", "v1.37.2"},
		"on a line of its own":           {"sigs.k8s.io/kwok", "v0.8.0"},
		"with a major version in it":     {"go.etcd.io/etcd/server/v3", "v3.7.3"},
		"a replacement is no version":    {"k8s.io/api", ""},
		"a tool is no version":           {"k8s.io/kubernetes/cmd/kubectl", ""},
		"a part of a name is not a name": {"k8s.io", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := manifest().Version(tc.module)
			if got != tc.want || (err != nil) != (tc.want == "") {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func FuzzVersion(f *testing.F) {
	f.Add(goMod, "k8s.io/kubernetes")
	f.Add("require a v1", "a")
	f.Add("require", "require")
	f.Fuzz(func(t *testing.T, mod, module string) {
		version, err := Manifest{Mod: []byte(mod)}.Version(module)
		if err == nil && (!strings.HasPrefix(version, "v") || !strings.Contains(mod, module) || !strings.Contains(mod, version)) {
			t.Errorf("%q is not what go.mod says of %q", version, module)
		}
	})
}

func TestLinkerFlagsCarryTheVersion(t *testing.T) {
	flags, err := manifest().ldflags()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"-X k8s.io/component-base/version.gitVersion=v1.37.2",
		"-X k8s.io/component-base/version.gitMajor=1",
		"-X k8s.io/component-base/version.gitMinor=37",
	} {
		if !strings.Contains(flags+" ", want+" ") {
			t.Errorf("%q is not in %q", want, flags)
		}
	}
	if _, err := (Manifest{Mod: []byte("module x\n")}).ldflags(); err == nil {
		t.Error("a go.mod without Kubernetes is taken")
	}
}

func TestKeyDependsOnEveryInput(t *testing.T) {
	key := func(m Manifest, goVersion string) string {
		k, err := m.Key(goVersion)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	base := key(manifest(), "go1.26.0")
	if again := key(manifest(), "go1.26.0"); again != base {
		t.Errorf("equal inputs give %s and %s", base, again)
	}
	otherMod, otherSum := manifest(), manifest()
	otherMod.Mod = append(bytes.Clone(otherMod.Mod), '\n')
	otherSum.Sum = append(bytes.Clone(otherSum.Sum), '\n')
	moved := Manifest{Mod: append(bytes.Clone(manifest().Mod), "sum\n"...)}
	for name, other := range map[string]string{
		"another go.mod":      key(otherMod, "go1.26.0"),
		"another go.sum":      key(otherSum, "go1.26.0"),
		"another Go":          key(manifest(), "go1.26.1"),
		"go.sum after go.mod": key(moved, "go1.26.0"),
	} {
		if other == base {
			t.Errorf("%s does not change the key", name)
		}
	}
}

func TestCacheDir(t *testing.T) {
	user := func() (string, error) { return "/home/u/.cache", nil }
	none := func() (string, error) { return "", errors.New("no HOME") }
	for name, tc := range map[string]struct {
		env     string
		user    func() (string, error)
		want    string
		wantErr bool
	}{
		"the user's cache folder":     {"", user, "/home/u/.cache/berth", false},
		"BERTH_CACHE comes first":     {"/big", none, "/big", false},
		"neither of them is one line": {"", none, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := CacheDir(func(string) string { return tc.env }, tc.user)
			if got != tc.want || (err != nil) != tc.wantErr {
				t.Errorf("got %q, %v; want %q, error %t", got, err, tc.want, tc.wantErr)
			}
		})
	}
}

// fakeGo puts a "go" on PATH that notes each call in the returned file and
// does what script says; $out is the file that it shall write.
func fakeGo(t *testing.T, script string) (calls string) {
	t.Helper()
	dir := t.TempDir()
	calls = filepath.Join(dir, "calls")
	text := `#!/bin/sh
while [ "$1" != "-o" ]; do shift; done
out=$2
echo "$3 $CGO_ENABLED $(cat go.sum)" >> ` + calls + "\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return calls
}

func builder(t *testing.T) (Builder, *bytes.Buffer) {
	var progress bytes.Buffer
	return Builder{Manifest: manifest(), CacheDir: t.TempDir(), Progress: &progress}, &progress
}

const writesOutput = `printf '#!/bin/sh\n' > $out; chmod +x $out`

func TestEnsureBuildsOnceAndThenFinds(t *testing.T) {
	calls := fakeGo(t, writesOutput)
	b, progress := builder(t)
	for range 2 {
		paths, err := b.Ensure(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, tool := range Tools() {
			if !isExecutable(paths[tool.Name]) || filepath.Base(paths[tool.Name]) != tool.Name {
				t.Errorf("%s is %q", tool.Name, paths[tool.Name])
			}
		}
	}
	var want strings.Builder
	for _, tool := range Tools() {
		want.WriteString(tool.Package + " 0 sum\n")
	}
	got, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Errorf("builds (-want +got):\n%s", diff)
	}
	for _, tool := range Tools() {
		if n := strings.Count(progress.String(), "] "+tool.Name+": built in "); n != 1 {
			t.Errorf("%d lines say that %s is built, want 1:\n%s", n, tool.Name, progress)
		}
	}
}

func TestEnsureTakesAssetsFirstAndBuildsTheRest(t *testing.T) {
	calls := fakeGo(t, writesOutput)
	b, _ := builder(t)
	b.Assets = t.TempDir()
	for name, mode := range map[string]os.FileMode{"etcd": 0o755, "kubectl": 0o644} {
		if err := os.WriteFile(filepath.Join(b.Assets, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	paths, err := b.Ensure(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := paths["etcd"], filepath.Join(b.Assets, "etcd"); got != want {
		t.Errorf("etcd is %s, want %s", got, want)
	}
	if strings.HasPrefix(paths["kubectl"], b.Assets) {
		t.Error("a kubectl that cannot be run is used")
	}
	built, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(built), "etcd/server") {
		t.Error("etcd is built although it is there")
	}
}

func TestTwoEnsuresAtOnceBuildOnce(t *testing.T) {
	calls := fakeGo(t, writesOutput)
	b, _ := builder(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			own := b
			own.Progress = &bytes.Buffer{}
			if _, err := own.Ensure(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(got), "\n"); n != len(Tools()) {
		t.Errorf("%d builds, want %d:\n%s", n, len(Tools()), got)
	}
}

func TestAFailedBuildShowsItsEndAndLeavesNothing(t *testing.T) {
	fakeGo(t, `echo half > $out; for i in $(seq 100); do echo "line $i"; done; exit 1`)
	b, _ := builder(t)
	_, err := b.Ensure(context.Background())
	if err == nil {
		t.Fatal("no error")
	}
	for text, want := range map[string]bool{"building etcd": true, "line 100": true, "line 1\n": false} {
		if strings.Contains(err.Error(), text) != want {
			t.Errorf("%q in the error: want %t:\n%v", text, want, err)
		}
	}
	files, globErr := filepath.Glob(filepath.Join(b.CacheDir, "devcluster", "*", "bin", "*"))
	if globErr != nil || len(files) > 0 {
		t.Errorf("left: %v, %v", files, globErr)
	}
}

func TestACancelledBuildEnds(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	fakeGo(t, "touch "+started+"; sleep 600")
	b, _ := builder(t)
	why := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := b.Ensure(ctx)
		done <- err
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := os.Stat(started); err == nil {
			break
		}
	}
	cancel(why)
	select {
	case err := <-done:
		if !errors.Is(err, why) {
			t.Errorf("error is %v, want %v", err, why)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the build goes on")
	}
}

func TestWithoutGoTheErrorSaysWhatToDo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	b, _ := builder(t)
	_, err := b.Ensure(context.Background())
	if err == nil || !strings.Contains(err.Error(), "install Go") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error is %v, want one line that says what to do", err)
	}
}
