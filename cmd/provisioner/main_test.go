package main

import (
	"testing"
)

// TestMistakesEndWithCode2 are mistakes that are found before anything is asked.
func TestMistakesEndWithCode2(t *testing.T) {
	for name, args := range map[string][]string{
		"an argument":            {"--cluster-name", "c", "extra"},
		"no cluster":             {},
		"an unknown flag":        {"--cluster"},
		"a negative duration":    {"--cluster-name", "c", "--batch-idle", "-1s"},
		"no time to register":    {"--cluster-name", "c", "--registration-timeout", "0s"},
		"no address for metrics": {"--cluster-name", "c", "--metrics-bind-address", "8080"},
		"no rate":                {"--cluster-name", "c", "--kube-api-qps", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			if code := execute(t.Context(), args); code != 2 {
				t.Fatalf("code %d", code)
			}
		})
	}
}
