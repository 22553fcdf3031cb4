package ec2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8stypes "k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2sim"
	"github.com/berth-dev/berth/internal/ec2sim/simtest"
)

// standIn is EC2 as ec2sim plays it, on loopback.
type standIn struct {
	t   *testing.T
	url string
}

func newStandIn(t *testing.T, change func(*ec2sim.Config)) *standIn {
	t.Helper()
	cfg := ec2sim.Config{Region: "us-west-2", ClusterName: "demo"}
	if change != nil {
		change(&cfg)
	}
	sim, err := ec2sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &standIn{t, simtest.Serve(t, sim)}
}

// cloud connects to the stand-in.
func (s *standIn) cloud(change func(*Config)) *Cloud {
	s.t.Helper()
	cfg := testConfig()
	cfg.Region = ""
	if change != nil {
		change(&cfg)
	}
	c, err := New(s.t.Context(), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// post an order to the stand-in's admin endpoint.
func (s *standIn) post(path string, body any) {
	s.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := http.Post(s.url+"/_sim/"+path, "application/json", bytes.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(res.Body)
		s.t.Fatalf("%s: %s: %s", path, res.Status, why)
	}
}

func (s *standIn) fault(f ec2sim.Fault) { s.t.Helper(); s.post("faults", f) }

// get an answer of the admin endpoint.
func (s *standIn) get(path string, into any) {
	s.t.Helper()
	res, err := http.Get(s.url + "/_sim/" + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		s.t.Fatal(err)
	}
}

func (s *standIn) state() ec2sim.State {
	s.t.Helper()
	var st ec2sim.State
	s.get("state", &st)
	return st
}

// calls is how often an action was called.
func (s *standIn) calls(action string) int {
	s.t.Helper()
	var c struct{ Counts map[string]int }
	s.get("calls", &c)
	return c.Counts[action]
}

// newClaim wants one of the offerings.
func newClaim(name string, offerings ...v1alpha1.ClaimOffering) *v1alpha1.NodeClaim {
	return &v1alpha1.NodeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: k8stypes.UID("uid-" + name)},
		Spec: v1alpha1.NodeClaimSpec{
			Provisioner:  v1alpha1.ProvisionerRef{Name: "default", UID: "provisioner-uid"},
			NodeTemplate: v1alpha1.NodeTemplate{Labels: map[string]string{"team": "web"}},
			Offerings:    offerings,
		},
	}
}

// shared is one discovery for all tests that are not about it: the stand-in's
// catalogue is always the same.
var shared atomic.Pointer[discovery]

// record prepares the claim's next attempt and stores it, as the loops do.
func record(t *testing.T, c *Cloud, claim *v1alpha1.NodeClaim) {
	t.Helper()
	c.found.CompareAndSwap(nil, shared.Load())
	defer func() { shared.CompareAndSwap(nil, c.found.Load()) }()
	intent, err := c.PrepareLaunch(t.Context(), claim, 1)
	if err != nil {
		t.Fatal(err)
	}
	claim.Status.Launch = intent
}

var m5 = offer("m5.large", "us-west-2a", onDemand, "0.096")

// launchedOne is what the launch of one claim gave.
type launchedOne struct {
	Instance
	Refused []Refusal
}

// one takes the answer to the launch of one claim.
func one(l Launched, err error) (launchedOne, error) {
	if err != nil {
		return launchedOne{}, err
	}
	if len(l.Instances) != 1 || l.Short != nil {
		return launchedOne{}, fmt.Errorf("one instance was asked for: %+v", l)
	}
	return launchedOne{l.Instances[0], l.Refused}, nil
}
