// Package simtest points a test's AWS SDK at ec2sim.
package simtest

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// Serve serves the simulator on loopback until the test ends, as the one AWS that
// the test's SDK finds, and returns its URL.
func Serve(t testing.TB, sim http.Handler) (url string) {
	t.Helper()
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	Isolate(t, server.URL)
	return server.URL
}

// Isolate keeps the SDK from everything but the test's settings.
func Isolate(t testing.TB, endpoint string) {
	t.Helper()
	for _, v := range os.Environ() {
		if k, _, _ := strings.Cut(v, "="); strings.HasPrefix(k, "AWS_") {
			t.Setenv(k, "") // So that it is put back.
			os.Unsetenv(k)
		}
	}
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-west-2", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		t.Setenv(k, v)
	}
}
