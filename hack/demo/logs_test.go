package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLastErrors(t *testing.T) {
	log := `{"level":"info","ts":"2026-01-02T03:04:05Z","msg":"starting"}
{"level":"error","ts":"2026-01-02T03:04:05Z","msg":"first","error":"no"}
{"level":"error","ts":"2026-01-02T03:04:06Z","logger":"provisioner","msg":"launching","claim":"default-a","error":"throttled","attempt":2}
I0102 03:04:06.000000       1 main.go:1] fine
E0102 03:04:07.000000       1 reflector.go:1] connection refused
Error: not an error line of klog
panic: runtime error: index out of range
`
	want := []string{
		"launching: throttled (attempt=2 claim=default-a)",
		"E0102 03:04:07.000000       1 reflector.go:1] connection refused",
		"panic: runtime error: index out of range",
	}
	if diff := cmp.Diff(want, lastErrors(log, 3)); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
	if got := lastErrors("", 3); len(got) > 0 {
		t.Errorf("errors of an empty log: %q", got)
	}
}
