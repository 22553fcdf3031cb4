// Package toolset builds the programs of a Kubernetes control plane out of Go
// modules, once, into a cache folder.
//
// What is built is decided by a go.mod and go.sum alone (the ones of the
// devcluster module, embedded in its binary), so that the binary needs no
// checkout of any repository: the two files are written to a work folder and
// "go build" runs there.
package toolset

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
)

// Tool is one program of the control plane.
type Tool struct {
	// Name is the file name of the built binary.
	Name string
	// Package is the import path of its main package.
	Package string
}

// Tools lists every program, in the order in which they are built: the slowest
// build first after etcd, because kube-apiserver compiles most of what the
// others share.
func Tools() []Tool {
	return []Tool{
		{"etcd", "go.etcd.io/etcd/server/v3"},
		{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"},
		{"kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"},
		{"kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"},
		{"kubectl", "k8s.io/kubernetes/cmd/kubectl"},
		{"kwok", "sigs.k8s.io/kwok/cmd/kwok"},
	}
}

// Manifest is a go.mod and go.sum that pin the versions of all tools.
type Manifest struct {
	Mod []byte
	Sum []byte
}

// Version returns the version that go.mod requires of a module, for example
// "v1.37.2" of "k8s.io/kubernetes". It fails when the module is not required.
func (m Manifest) Version(module string) (string, error) {
	for line := range strings.Lines(string(m.Mod)) {
		fields := strings.Fields(line)
		if len(fields) > 0 && fields[0] == "require" {
			fields = fields[1:]
		}
		// A replacement has "=>" in second place, a tool line has one field.
		if len(fields) >= 2 && fields[0] == module && strings.HasPrefix(fields[1], "v") {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("go.mod does not require %s", module)
}

// ldflags is the -ldflags value for all tools. Without a version in
// k8s.io/component-base kube-apiserver calls itself v0.0.0-master and kubectl
// refuses to talk to it. The linker ignores -X for packages that a program
// does not link.
func (m Manifest) ldflags() (string, error) {
	kubernetes, err := m.Version("k8s.io/kubernetes")
	if err != nil {
		return "", err
	}
	kwok, err := m.Version("sigs.k8s.io/kwok")
	if err != nil {
		return "", err
	}
	numbers := strings.SplitN(strings.TrimPrefix(kubernetes, "v"), ".", 3)
	if len(numbers) != 3 {
		return "", fmt.Errorf("version %q of k8s.io/kubernetes is not vMAJOR.MINOR.PATCH", kubernetes)
	}
	const version = "k8s.io/component-base/version."
	set := [][2]string{
		{version + "gitVersion", kubernetes},
		{version + "gitMajor", numbers[0]},
		{version + "gitMinor", numbers[1]},
		// A module zip is an export of a tag: no commit is known, and nothing
		// in it can be dirty.
		{version + "gitCommit", ""},
		{version + "gitTreeState", "archive"},
		{"sigs.k8s.io/kwok/pkg/consts.Version", kwok},
	}
	flags := []string{"-s", "-w"}
	for _, kv := range set {
		flags = append(flags, "-X", kv[0]+"="+kv[1])
	}
	return strings.Join(flags, " "), nil
}

// Key names one set of binaries: equal keys mean equal inputs. goVersion is
// the version of the Go release that builds, as runtime.Version reports it.
func (m Manifest) Key(goVersion string) (string, error) {
	ldflags, err := m.ldflags()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	// Lengths keep the boundary between two inputs from moving.
	part := func(b []byte) {
		fmt.Fprintf(h, "%d:", len(b))
		h.Write(b)
	}
	part(m.Mod)
	part(m.Sum)
	part([]byte(goVersion))
	part([]byte(runtime.GOOS + "/" + runtime.GOARCH))
	part([]byte(ldflags))
	for _, t := range Tools() {
		part([]byte(t.Name))
		part([]byte(t.Package))
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// CacheDir returns the folder under which built tools are kept: $BERTH_CACHE,
// else the "berth" folder in the user's cache folder. getenv and userCacheDir
// are os.Getenv and os.UserCacheDir.
func CacheDir(getenv func(string) string, userCacheDir func() (string, error)) (string, error) {
	if dir := getenv("BERTH_CACHE"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("resolving BERTH_CACHE=%s: %w", dir, err)
		}
		return abs, nil
	}
	dir, err := userCacheDir()
	if err != nil {
		return "", errors.New("no cache folder: set BERTH_CACHE or HOME")
	}
	return filepath.Join(dir, "berth"), nil
}
