package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/berth-dev/berth/internal/ec2sim"
)

func TestBadFlagsAreOneLineOfAdvice(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"an unknown flag":              {[]string{"--colour"}, "unknown flag"},
		"an argument":                  {[]string{"start"}, `unexpected argument "start"`},
		"an address of the world":      {[]string{"--listen", "0.0.0.0:0"}, "not a loopback address"},
		"an address of a name":         {[]string{"--listen", "example.test:0"}, "not a loopback address"},
		"an address without a port":    {[]string{"--listen", "127.0.0.1"}, "not host:port"},
		"an unknown region":            {[]string{"--region", "mars-1"}, `region "mars-1"`},
		"no cluster name":              {[]string{"--cluster-name", ""}, "cluster name"},
		"a negative delay":             {[]string{"--boot-delay", "-1s"}, "negative"},
		"a delay that is none":         {[]string{"--boot-delay", "soon"}, "invalid argument"},
		"a subnet without a range":     {[]string{"--subnet", "us-west-2a"}, "not ZONE=CIDR"},
		"a subnet in no zone":          {[]string{"--subnet", "here=10.0.0.0/24"}, `no zone "here"`},
		"a kubeconfig that is missing": {[]string{"--kubeconfig", "/nonexistent"}, "--kubeconfig"},
		"a catalogue that is missing":  {[]string{"--catalog", "/nonexistent"}, "--catalog"},
		"a catalogue that is broken":   {[]string{"--catalog", broken}, "parsing the catalogue"},
		"a log level that is none":     {[]string{"--log-level", "loud"}, "--log-level"},
		"a log level beyond errors":    {[]string{"--log-level", "panic"}, "--log-level"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := command()
			cmd.SetArgs(tc.args)
			err := cmd.ExecuteContext(t.Context())
			var usage usageError
			if !errors.As(err, &usage) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, tc.want)
			}
		})
	}
}

func TestHelpTeaches(t *testing.T) {
	cmd := command()
	var out strings.Builder
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"--help"})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"AWS_ENDPOINT_URL=", "--kubeconfig", "/_sim/", "--boot-delay"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the help says nothing of %s", want)
		}
	}
}

func TestKubeconfigIsRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: Q0E=}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {token: t}}]
current-context: c
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := options{kubeconfig: file, subnets: []string{"us-west-2a=10.0.0.0/24"}}.config(zap.NewNop())
	// The CA is no certificate, which the client refuses; the rest was read.
	if err == nil || cfg.Endpoint != "https://127.0.0.1:6443" || string(cfg.CA) != "CA" || cfg.Subnets[0] != (ec2sim.SubnetConfig{Zone: "us-west-2a", CIDR: "10.0.0.0/24"}) {
		t.Errorf("%+v, %v", cfg, err)
	}
}

func TestServeUntilTold(t *testing.T) {
	sim, err := ec2sim.New(ec2sim.Config{Region: "us-west-2", ClusterName: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, listener, sim, zap.NewNop()) }()
	resp, err := http.Get("http://" + listener.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(body) != "ok\n" {
		t.Errorf("%q, %v", body, err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not stop")
	}
}

func TestAPortThatIsTakenIsAnError(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	cmd := command()
	cmd.SetArgs([]string{"--listen", listener.Addr().String()})
	err = cmd.ExecuteContext(t.Context())
	var usage usageError
	if err == nil || errors.As(err, &usage) || !strings.Contains(err.Error(), "listening") {
		t.Errorf("got %v", err)
	}
}
