package deploy

import (
	"encoding/json"
	"go/ast"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDashboardShowsMetricsThatExist takes the metrics' names from the source:
// the string literals of files that know Prometheus.
func TestDashboardShowsMetricsThatExist(t *testing.T) {
	known := map[string]bool{}
	for _, dir := range []string{"../internal/provisioner", "../internal/admission", "../cmd/webhook"} {
		for _, f := range sources(t, dir) {
			if importsOf(f)["prometheus"] == "" {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if e, ok := n.(ast.Expr); ok {
					if s, ok := text(e); ok {
						known["berth_"+strings.TrimPrefix(s, "berth_")] = true
					}
				}
				return true
			})
		}
	}
	raw, err := os.ReadFile("dashboards/berth.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &dashboard); err != nil {
		t.Fatal(err)
	}
	metric := regexp.MustCompile(`\bberth_[a-z_]+`)
	shown := 0
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			for _, name := range metric.FindAllString(target.Expr, -1) {
				shown++
				if !known[strings.TrimSuffix(name, "_bucket")] {
					t.Errorf("panel %q shows %s, which nobody reports", p.Title, name)
				}
			}
		}
	}
	if shown == 0 {
		t.Error("no metric is shown")
	}
}
