// Package imports proves the direction in which Berth's packages depend on
// each other, by asking the go command.
package imports

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/berth-dev/berth/"

// rules: what a package must not reach, directly or through others.
var rules = []struct {
	of, why string
	never   []string
}{
	{"api/v1alpha1", "the contract depends on nothing of Berth", []string{module + "internal/", module + "certs", module + "cmd/"}},
	{"internal/capacity", "the planner is pure: no cloud, no client, no logger, no loops", []string{
		"github.com/aws/", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime", "go.uber.org/zap", "github.com/go-logr/zapr",
		module + "internal/ec2", module + "internal/drain", module + "internal/provisioner", module + "internal/admission"}},
	{"internal/catalog", "the catalogue is data", []string{"github.com/aws/", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime"}},
	{"internal/drain", "draining knows no cloud and no loops", []string{
		"github.com/aws/", module + "internal/ec2", module + "internal/provisioner", module + "internal/admission"}},
	{"internal/ec2", "AWS knows nothing of loops, drains and admission", []string{
		module + "internal/provisioner", module + "internal/drain", module + "internal/admission"}},
	{"internal/admission", "admission never does I/O with AWS and never drains", []string{
		"github.com/aws/", module + "internal/ec2", module + "internal/drain", module + "internal/provisioner"}},
	{"certs", "certificates are nobody's business but the webhook's", []string{
		"github.com/aws/", module + "internal/"}},
	{"cmd/webhook", "the webhook never links AWS", []string{
		"github.com/aws/", module + "internal/ec2", module + "internal/drain", module + "internal/provisioner"}},
	{"cmd/provisioner", "nothing in the provisioner knows that a simulator exists", []string{
		module + "internal/ec2sim", module + "internal/admission"}},
	{"internal/provisioner", "the loops know no simulator and no admission", []string{
		module + "internal/ec2sim", module + "internal/admission"}},
}

// direct: what a package must not import itself.
var direct = map[string][]string{
	"internal/capacity": {"context", "log", "log/slog"},
}

func TestPackagesDependInOneDirection(t *testing.T) {
	for _, r := range rules {
		t.Run(r.of, func(t *testing.T) {
			for _, dep := range list(t, "-deps", module+r.of) {
				if dep == module+r.of {
					continue
				}
				for _, never := range r.never {
					if strings.HasPrefix(dep, never) {
						t.Errorf("%s reaches %s; %s", r.of, dep, r.why)
					}
				}
			}
		})
	}
}

func TestPlannerHasNoContextAndNoLogger(t *testing.T) {
	for pkg, never := range direct {
		for _, imp := range list(t, "-f", `{{join .Imports "\n"}}`, module+pkg) {
			for _, n := range never {
				if imp == n {
					t.Errorf("%s imports %s", pkg, imp)
				}
			}
		}
	}
}

// TestAWSStaysInItsPackages proves that no other package imports the SDK.
func TestAWSStaysInItsPackages(t *testing.T) {
	for _, line := range list(t, "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...") {
		pkg, imports, _ := strings.Cut(line, " ")
		if strings.HasPrefix(pkg, module+"internal/ec2") {
			continue
		}
		for _, imp := range strings.Fields(imports) {
			if strings.HasPrefix(imp, "github.com/aws/") {
				t.Errorf("%s imports %s; AWS types stay in internal/ec2", pkg, imp)
			}
		}
	}
}

func list(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
