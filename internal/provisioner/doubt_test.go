package provisioner

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/berth-dev/berth/internal/ec2"
	"github.com/berth-dev/berth/internal/ec2sim"
	"github.com/berth-dev/berth/internal/ec2sim/simtest"
)

// account is EC2 as ec2sim plays it, behind the real client.
type account struct {
	t   *testing.T
	url string
	*ec2.Cloud
}

func newAccount(t *testing.T) *account {
	t.Helper()
	sim, err := ec2sim.New(ec2sim.Config{Region: "us-west-2", ClusterName: "prod", Unthrottled: true})
	if err != nil {
		t.Fatal(err)
	}
	a := &account{t: t, url: simtest.Serve(t, sim)}
	a.Cloud, err = ec2.New(t.Context(), ec2.Config{
		ClusterName: "prod", ClusterUID: "uid", ClusterEndpoint: "https://127.0.0.1:6443", ClusterCA: "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBQUEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=",
		KubernetesVersion: "1.37", ServiceCIDR: "10.96.0.0/12", DefaultInstanceProfile: "berth-node",
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// order something of ec2sim.
func (a *account) order(path string, body any) {
	a.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		a.t.Fatal(err)
	}
	res, err := http.Post(a.url+"/_sim/"+path, "application/json", bytes.NewReader(text))
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(res.Body)
		a.t.Fatalf("%s: %s", path, why)
	}
}

// live are the ids of the instances that are not terminated.
func (a *account) live() []string {
	a.t.Helper()
	res, err := http.Get(a.url + "/_sim/state")
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	var st ec2sim.State
	if err := json.NewDecoder(res.Body).Decode(&st); err != nil {
		a.t.Fatal(err)
	}
	var out []string
	for _, i := range st.Instances {
		if i.State != ec2.StateTerminated {
			out = append(out, i.ID)
		}
	}
	return out
}

// TestRefusedAfterALostReply: a refusal of a repeated call says nothing about the
// call before it. What that launched is the claim's; where it launched nothing,
// the refusal counts in the end.
func TestRefusedAfterALostReply(t *testing.T) {
	const sdkTries = 3
	denied := ec2sim.Fault{Action: "CreateFleet", Code: "UnauthorizedOperation", Count: -1}
	noTemplate := ec2sim.Fault{Action: "CreateFleet", Code: "InvalidLaunchTemplateId.NotFound", Count: -1}
	lost := func(n int) ec2sim.Fault { return ec2sim.Fault{Action: "CreateFleet", DropReply: true, Count: n} }
	failed := func(n int) ec2sim.Fault {
		return ec2sim.Fault{Action: "CreateFleet", Code: "InternalError", HTTPStatus: 500, Count: n}
	}
	for name, tc := range map[string]struct {
		faults   []ec2sim.Fault
		instance bool
	}{
		"the SDK repeats the call, which is denied":          {[]ec2sim.Fault{lost(1), denied}, true},
		"Berth repeats the call, the template is gone":       {[]ec2sim.Fault{lost(sdkTries), noTemplate}, true},
		"nothing was launched, and the repetition is denied": {[]ec2sim.Fault{failed(sdkTries), denied}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccount(t)
			claim := wanted("a", 1)[0]
			claim.Spec.Offerings[0].Zone = "us-west-2a"
			w := newWorld(t, 0, claim)
			p := w.start(&killer{})
			p.loops.cfg.Cloud = a
			p.loops.lifter = newLifter(p.loops, a)
			p.loops.lifter.doubtPatience = 2 * time.Second
			for _, f := range tc.faults {
				a.order("faults", f)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			began := time.Now()
			w.run(ctx, p)
			claims, live := w.claims(), a.live()
			if !tc.instance {
				if took := time.Since(began); len(live) > 0 || len(claims) > 0 || took < p.loops.lifter.doubtPatience {
					t.Errorf("after %s: %d instances, claims %+v", took, len(live), claims)
				}
				return
			}
			if len(live) != 1 || len(claims) != 1 || claims[0].Status.InstanceID != live[0] {
				t.Fatalf("instances %v, claims %+v", live, claims)
			}
		})
	}
}
