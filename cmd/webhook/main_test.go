package main

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/berth-dev/berth/internal/admission"
)

func kubeconfig(t *testing.T, server string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	doc := "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: \"" + server + "\"}}]\nusers: [{name: a, user: {}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: a\n"
	if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMistakesAreOneLineAndExitCode2: each line says what to do.
func TestMistakesAreOneLineAndExitCode2(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, err := net.SplitHostPort(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write([]byte(`{"major":"1","minor":"37","gitVersion":"v1.37.2"}`))
	}))
	defer api.Close()
	nobody := kubeconfig(t, "http://127.0.0.1:1")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"an unknown flag":              {[]string{"--loud"}, "unknown flag: --loud; see webhook --help"},
		"an argument":                  {[]string{"now"}, "unknown command"},
		"an unknown mode":              {[]string{"--cert-mode=magic"}, "use self, cert-manager, auto or files"},
		"files without a folder":       {[]string{"--cert-mode=files"}, "needs --cert-dir"},
		"a folder without files":       {[]string{"--cert-dir=/x"}, "leave --cert-dir out"},
		"auto without registration":    {[]string{"--cert-mode=auto", "--register=false"}, "needs --register"},
		"a port out of range":          {[]string{"--port=70000"}, "use 1 to 65535"},
		"a name as bind address":       {[]string{"--bind-address=localhost"}, "is not an IP address"},
		"a URL without TLS":            {[]string{"--webhook-url=http://127.0.0.1:1"}, "https://host:port"},
		"a negative delay":             {[]string{"--shutdown-delay=-1s"}, "use 0s to 10m"},
		"a cost that is negative":      {[]string{"--warn-hourly-cost=-1"}, "use 0 or more"},
		"a share above one":            {[]string{"--refuse-drift-above=50"}, "use 0 to 1"},
		"an unknown level":             {[]string{"--log-level=loud"}, "use debug, info or error"},
		"a metrics address of a port":  {[]string{"--metrics-bind-address=8080"}, "is not host:port"},
		"an empty namespace":           {[]string{"--namespace="}, "must not be empty"},
		"no kubeconfig":                {[]string{"--kubeconfig=/nowhere/kubeconfig"}, "give --kubeconfig FILE"},
		"an API server that is down":   {[]string{"--kubeconfig", nobody}, "does not answer"},
		"a port that is taken":         {[]string{"--kubeconfig", kubeconfig(t, api.URL), "--bind-address=127.0.0.1", "--port", port, "--metrics-bind-address=0", "--health-probe-bind-address=0"}, "choose another with --bind-address and --port"},
		"a metrics port that is taken": {[]string{"--kubeconfig", kubeconfig(t, api.URL), "--bind-address=127.0.0.1", "--port", freePort(t), "--metrics-bind-address", taken.Addr().String()}, "choose another with --metrics-bind-address"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			if code := execute(t.Context(), c.args, &stderr); code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			if s := stderr.String(); !strings.Contains(s, c.want) || strings.Count(s, "\n") != 1 {
				t.Errorf("said %q, want one line with %q", s, c.want)
			}
		})
	}
}

// freePort is a port that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestDefaultsThatFollowFromOtherFlags(t *testing.T) {
	for name, c := range map[string]struct {
		args  []string
		scope admission.Scope
		delay time.Duration
		names []string
	}{
		"nothing":                     {nil, admission.ScopeAll, 10 * time.Second, []string{"berth-webhook.berth-system.svc", "berth-webhook.berth-system.svc.cluster.local"}},
		"a URL":                       {[]string{"--webhook-url=https://127.0.0.1:9443"}, admission.ScopeAll, 0, []string{"127.0.0.1"}},
		"a URL with a delay":          {[]string{"--webhook-url=https://127.0.0.1:9443", "--shutdown-delay=2s"}, admission.ScopeAll, 2 * time.Second, []string{"127.0.0.1"}},
		"an installed configuration":  {[]string{"--register=false"}, admission.ScopeTrust, 10 * time.Second, nil},
		"cert-manager":                {[]string{"--cert-mode=cert-manager"}, admission.ScopeNothing, 10 * time.Second, nil},
		"cert-manager that registers": {[]string{"--cert-mode=cert-manager", "--register"}, admission.ScopeAll, 10 * time.Second, nil},
		"files":                       {[]string{"--cert-mode=files", "--cert-dir=/x"}, admission.ScopeNothing, 10 * time.Second, nil},
		"auto":                        {[]string{"--cert-mode=auto"}, admission.ScopeAll, 10 * time.Second, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var o options
			f := pflag.NewFlagSet("webhook", pflag.ContinueOnError)
			o.flags(f)
			if err := f.Parse(c.args); err != nil {
				t.Fatal(err)
			}
			o.complete(f.Changed)
			if err := o.validate(); err != nil {
				t.Fatal(err)
			}
			if o.scope() != c.scope || o.shutdownDelay != c.delay {
				t.Errorf("scope %d, delay %s; want %d, %s", o.scope(), o.shutdownDelay, c.scope, c.delay)
			}
			if diff := cmp.Diff(c.names, o.names()); c.names != nil && diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHelpNamesEveryFlagOnce(t *testing.T) {
	var o options
	f := pflag.NewFlagSet("webhook", pflag.ContinueOnError)
	o.flags(f)
	var undocumented []string
	f.VisitAll(func(f *pflag.Flag) {
		if f.Usage == "" || !strings.Contains(f.Usage, " ") {
			undocumented = append(undocumented, f.Name)
		}
	})
	if slices.Sort(undocumented); len(undocumented) > 0 {
		t.Errorf("flags without a word: %v", undocumented)
	}
}
