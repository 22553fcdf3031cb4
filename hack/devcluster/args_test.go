package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseArgs(t *testing.T) {
	defaults := upOptions{berth: true, ec2: true, bootDelay: 2 * time.Second, region: "us-west-2", clusterName: "berth-dev"}
	with := func(change func(*upOptions)) command {
		o := defaults
		change(&o)
		return command{name: "up", up: o}
	}
	for name, tc := range map[string]struct {
		args string
		want command
		err  string // part of the message; "help" for errHelp
	}{
		"nothing":                      {args: "", err: `say what to do: "devcluster up"`},
		"an unknown command":           {args: "down", err: `no command "down"`},
		"help":                         {args: "help", err: "help"},
		"help of up":                   {args: "up --help", err: "help"},
		"help of build":                {args: "build -h", err: "help"},
		"build":                        {args: "build", want: command{name: "build"}},
		"build with an argument":       {args: "build all", err: `takes no arguments, got "all"`},
		"up":                           {args: "up", want: with(func(*upOptions) {})},
		"up without Berth":             {args: "up --berth=false", want: with(func(o *upOptions) { o.berth = false })},
		"up with everything":           {args: "up --dir d --ec2=false --berth=false --crds c --boot-delay 0s --region eu-west-1 --cluster-name n", want: with(func(o *upOptions) { *o = upOptions{dir: "d", crds: "c", region: "eu-west-1", clusterName: "n"} })},
		"arguments of the provisioner": {args: "up --provisioner-args=--log-level=debug --provisioner-args=-x", want: with(func(o *upOptions) { o.provisionerArgs = []string{"--log-level=debug", "-x"} })},
		"an unknown flag":              {args: "up --nope", err: "-nope"},
		"a boolean apart from its =":   {args: "up --berth false", err: `takes only flags, got "false"`},
		"a delay without a unit":       {args: "up --boot-delay 2", err: "boot-delay"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseArgs(strings.Fields(tc.args))
			if tc.err == "help" {
				if !errors.Is(err, errHelp) {
					t.Errorf("error is %v, want help", err)
				}
				return
			}
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "\n") {
					t.Errorf("error is %v, want one line with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(command{}, upOptions{})); diff != "" {
				t.Errorf("command (-want +got):\n%s", diff)
			}
		})
	}
}

func TestArgumentsOfTheProvisionerAreSplitAtSpaces(t *testing.T) {
	got, err := parseArgs([]string{"up", "--provisioner-args", " --a  --b=c "})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"--a", "--b=c"}, got.up.provisionerArgs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzParseArgs(f *testing.F) {
	f.Add("up --dir d --berth=false")
	f.Add("up --boot-delay -1s --provisioner-args=a")
	f.Add("build x")
	f.Fuzz(func(t *testing.T, line string) {
		got, err := parseArgs(strings.Fields(line))
		if err == nil && got.name != "up" && got.name != "build" {
			t.Errorf("%q gives the command %q", line, got.name)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q gives more than one line: %v", line, err)
		}
	})
}

func TestHelpNamesEveryFlag(t *testing.T) {
	text := helpText()
	for _, want := range []string{"devcluster up", "devcluster build", "BERTH_CACHE", "KUBEBUILDER_ASSETS", "-dir", "-berth", "-ec2", "-crds", "-boot-delay", "-region", "-cluster-name", "-provisioner-args"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the help", want)
		}
	}
}
