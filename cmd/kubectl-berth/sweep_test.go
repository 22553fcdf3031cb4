package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
	"github.com/berth-dev/berth/internal/ec2sim"
	"github.com/berth-dev/berth/internal/ec2sim/simtest"
)

// aws starts ec2sim and points the SDK at it and at nothing else; no kubeconfig
// is found.
func aws(t *testing.T) (url string) {
	t.Helper()
	sim, err := ec2sim.New(ec2sim.Config{Region: "us-west-2", ClusterName: "prod", Unthrottled: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", os.DevNull)
	return simtest.Serve(t, sim)
}

// buy launches an instance as the provisioner of a cluster does, which makes a
// launch template too, and returns its id.
func buy(t *testing.T, clusterUID, claimName string) string {
	t.Helper()
	cloud, err := ec2.New(t.Context(), ec2.Config{
		ClusterName: "prod", ClusterUID: clusterUID, ClusterEndpoint: "https://127.0.0.1:6443",
		ClusterCA:         base64.StdEncoding.EncodeToString([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
		KubernetesVersion: "1.37", ServiceCIDR: "10.96.0.0/12", DefaultInstanceProfile: "berth-node",
	})
	if err != nil {
		t.Fatal(err)
	}
	claim := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: claimName, UID: types.UID("uid-" + claimName)}}
	claim.Spec.Provisioner = v1alpha1.ProvisionerRef{Name: "default", UID: "p"}
	claim.Spec.Offerings = []v1alpha1.ClaimOffering{{InstanceType: "m5.large", Zone: "us-west-2a", CapacityType: v1alpha1.CapacityTypeOnDemand, HourlyPrice: "0.096"}}
	if _, err := cloud.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if claim.Status.Launch, err = cloud.PrepareLaunch(t.Context(), claim, 1); err != nil {
		t.Fatal(err)
	}
	got, err := cloud.Launch(t.Context(), claim)
	if err != nil || len(got.Instances) != 1 {
		t.Fatalf("launched %+v, %v", got, err)
	}
	return got.Instances[0].ID
}

// left is what EC2 still has: instances that are not on their way out, and the
// number of launch templates.
func left(t *testing.T, url string) (instances []string, templates int) {
	t.Helper()
	resp, err := http.Get(url + "/_sim/state")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var s ec2sim.State
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	for _, i := range s.Instances {
		if i.State == "pending" || i.State == "running" {
			instances = append(instances, i.ID)
		}
	}
	return instances, len(s.LaunchTemplates)
}

// kubeconfigOf writes one that names an API server which has nothing but
// namespace kube-system with this UID.
func kubeconfigOf(t *testing.T, uid string) string {
	t.Helper()
	api := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		answers := map[string]string{
			"/api":                           `{"kind":"APIVersions","versions":["v1"]}`,
			"/apis":                          `{"kind":"APIGroupList","apiVersion":"v1","groups":[]}`,
			"/api/v1":                        `{"kind":"APIResourceList","groupVersion":"v1","resources":[{"name":"namespaces","singularName":"","namespaced":false,"kind":"Namespace","verbs":["get"]}]}`,
			"/api/v1/namespaces/kube-system": `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"kube-system","uid":"` + uid + `"}}`,
		}
		rw.Header().Set("Content-Type", "application/json")
		a, ok := answers[req.URL.Path]
		if !ok {
			http.NotFound(rw, req)
			return
		}
		fmt.Fprint(rw, a)
	}))
	t.Cleanup(api.Close)
	return kubeconfigFor(t, api.URL)
}

func kubeconfigFor(t *testing.T, server string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	config := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: %q}}]}`, server)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const goneUID, otherUID = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"

// TestSweepRemovesWhatOneClusterLeft: two clusters had the same name; what the
// other has is listed and stays.
func TestSweepRemovesWhatOneClusterLeft(t *testing.T) {
	url := aws(t)
	mine, other := buy(t, goneUID, "a"), buy(t, otherUID, "b")

	code, out, stderr := run(t, "", "sweep", "--cluster-name", "prod")
	if code != 0 || stderr != "" {
		t.Fatalf("listing: exit code %d, %s", code, stderr)
	}
	for _, line := range []string{
		`(?m)^instance +` + mine + ` +` + goneUID + ` +0s +a +m5.large on-demand us-west-2a (pending|running)$`,
		`(?m)^instance +` + other + ` +` + otherUID + ` `,
		`(?m)^launch template +lt-\w+ +` + goneUID + ` `,
		`(?m)^UID ` + goneUID + `: 2$`, `(?m)^UID ` + otherUID + `: 2$`, `Nothing was changed`,
	} {
		if !regexp.MustCompile(line).MatchString(out) {
			t.Errorf("no line %s in:\n%s", line, out)
		}
	}
	if got, templates := left(t, url); len(got) != 2 || templates != 2 {
		t.Fatalf("after listing: instances %v, %d templates", got, templates)
	}

	code, out, stderr = run(t, "", "sweep", "--cluster-name", "prod", "--cluster-uid", goneUID, "--yes")
	if code != 0 || !strings.Contains(out, "2 of 2 removed") {
		t.Errorf("exit code %d, %s, %s", code, out, stderr)
	}
	if got, templates := left(t, url); len(got) != 1 || got[0] != other || templates != 1 {
		t.Errorf("after sweeping: instances %v, %d templates; only %s and its template are the other's", got, templates, other)
	}
	code, out, _ = run(t, "", "sweep", "--cluster-name", "prod", "--cluster-uid", goneUID, "--yes")
	if code != 0 || !strings.Contains(out, "nothing is left of a cluster prod in us-west-2") {
		t.Errorf("again: exit code %d, %s", code, out)
	}
}

// TestSweepSparesTheLiving: nothing is removed of a cluster that lives, or that
// might.
func TestSweepSparesTheLiving(t *testing.T) {
	url := aws(t)
	buy(t, goneUID, "a")
	silent := httptest.NewServer(nil)
	silent.Close()
	missing := filepath.Join(t.TempDir(), "none")
	unset := filepath.Join(t.TempDir(), "unset")
	if err := os.WriteFile(unset, []byte(`{apiVersion: v1, kind: Config, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
		// kubeconfig is the environment's; empty: one that names no cluster.
		kubeconfig string
	}{
		"the kubeconfig reaches it":            {args: []string{"--cluster-uid", goneUID, "--yes", "--kubeconfig", kubeconfigOf(t, goneUID)}, code: 1, want: "is alive"},
		"the kubeconfig's cluster is silent":   {args: []string{"--cluster-uid", goneUID, "--yes", "--kubeconfig", kubeconfigFor(t, silent.URL)}, code: 1, want: "does not answer"},
		"no UID is given":                      {args: []string{"--yes"}, code: 2, want: "--cluster-uid"},
		"the UID is of a cluster without any":  {args: []string{"--cluster-uid", otherUID, "--yes"}},
		"the UID is a pattern that matches it": {args: []string{"--cluster-uid", "*", "--yes"}},
		"nobody has said yes":                  {args: []string{"--cluster-uid", goneUID}},
		"the kubeconfig is misspelt":           {args: []string{"--cluster-uid", goneUID, "--yes", "--kubeconfig", missing}, code: 1, want: "it may be the one to be swept"},
		"the context is misspelt":              {args: []string{"--cluster-uid", goneUID, "--yes", "--context", "x"}, code: 1, want: "it may be the one to be swept", kubeconfig: kubeconfigOf(t, goneUID)},
		"the context is misspelt, to list":     {args: []string{"--context", "x"}, code: 1, want: "it may be the one to be swept", kubeconfig: kubeconfigOf(t, goneUID)},
		"a context, and no kubeconfig":         {args: []string{"--cluster-uid", goneUID, "--yes", "--context", "x"}, code: 1, want: "it may be the one to be swept"},
		"KUBECONFIG is misspelt":               {args: []string{"--cluster-uid", goneUID, "--yes"}, code: 1, want: "it may be the one to be swept", kubeconfig: missing},
		"no context is in use":                 {args: []string{"--cluster-uid", goneUID, "--yes"}, code: 1, want: "it may be the one to be swept", kubeconfig: unset},
		"no context is in use, to list":        {kubeconfig: unset},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.kubeconfig != "" {
				t.Setenv("KUBECONFIG", tc.kubeconfig)
			}
			code, out, stderr := run(t, "", append([]string{"sweep", "--cluster-name", "prod"}, tc.args...)...)
			if code != tc.code || !strings.Contains(stderr, tc.want) {
				t.Errorf("exit code %d, %q, %s; want %d and %q", code, stderr, out, tc.code, tc.want)
			}
			if got, templates := left(t, url); len(got) != 1 || templates != 1 {
				t.Errorf("instances %v and %d templates are left", got, templates)
			}
		})
	}
	// Another living cluster is no obstacle, and is not mixed up with it.
	code, out, stderr := run(t, "", "sweep", "--cluster-name", "prod", "--kubeconfig", kubeconfigOf(t, goneUID))
	if code != 0 || !strings.Contains(out, "UID "+goneUID+": 2: alive, the kubeconfig reaches it") {
		t.Errorf("exit code %d, %s, %s", code, out, stderr)
	}
	code, out, stderr = run(t, "", "sweep", "--cluster-name", "prod", "--cluster-uid", goneUID, "--yes", "--kubeconfig", kubeconfigOf(t, otherUID))
	if code != 0 || !strings.Contains(out, "2 of 2 removed") {
		t.Errorf("exit code %d, %s, %s", code, out, stderr)
	}
}

func TestSweepSaysWhatEC2Refuses(t *testing.T) {
	url := aws(t)
	buy(t, goneUID, "a")
	fault, err := json.Marshal(ec2sim.Fault{Action: "TerminateInstances", Code: "UnauthorizedOperation", HTTPStatus: 403, Count: -1})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(url+"/_sim/faults", "application/json", strings.NewReader(string(fault)))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	_ = resp.Body.Close()
	code, out, stderr := run(t, "", "sweep", "--cluster-name", "prod", "--cluster-uid", goneUID, "--yes")
	if code != 1 || !strings.Contains(out, "1 of 2 removed") || !strings.Contains(stderr, "UnauthorizedOperation") {
		t.Errorf("exit code %d, %s, %s", code, out, stderr)
	}
}
