package ec2

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2sim"
)

// reserve makes a Capacity Reservation and returns its id.
func (s *standIn) reserve(r ec2sim.Reservation) string {
	s.t.Helper()
	body, err := json.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := http.Post(s.url+"/_sim/reservations", "application/json", bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct{ ID, Error string }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.ID == "" {
		s.t.Fatalf("%s %v", answer.Error, err)
	}
	return answer.ID
}

func TestReservedCapacityEndToEnd(t *testing.T) {
	s := newStandIn(t, nil)
	c := s.cloud(nil)
	id := s.reserve(ec2sim.Reservation{InstanceType: "m5.large", Zone: "us-west-2a", Count: 1, Match: "targeted", Tags: map[string]string{"team": "ml"}})
	s.reserve(ec2sim.Reservation{InstanceType: "m5.large", Zone: "us-west-2a", Count: 5, Match: "targeted", Tags: map[string]string{"team": "other"}})
	// On demand there is nothing: what is launched is in the reservation.
	s.post("pools", ec2sim.PoolState{InstanceType: "m5.large", Zone: "us-west-2a", CapacityType: "on-demand"})
	selected := func(claim *v1alpha1.NodeClaim) *v1alpha1.NodeClaim {
		claim.Spec.EC2.CapacityReservations = []v1alpha1.SelectorTerm{{Tags: map[string]string{"team": "ml"}}, {ID: "cr-0000000000000000f"}}
		return claim
	}
	first := selected(newClaim("a", offer("m5.large", "us-west-2a", v1alpha1.CapacityTypeReserved, "0.0001")))
	r, err := c.Resolve(t.Context(), "default", &first.Spec.NodeTemplate)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Reservations) != 1 || r.Reservations[0].ID != id || !r.Ready() {
		t.Fatalf("reservations %+v, findings %+v", r.Reservations, r.Findings)
	}
	if m := r.Findings[0].Message; !strings.Contains(m, id) || !strings.Contains(m, "cr-0000000000000000f") {
		t.Errorf("the condition says %q", m)
	}
	if got := r.Planner().Reservations; len(got) != 1 || got[0] != (capacity.Reservation{InstanceType: "m5.large", Zone: "us-west-2a", ZoneID: "usw2-az2", Available: 1}) {
		t.Errorf("the planner is told %+v", got)
	}
	second := selected(newClaim("b", offer("m5.large", "us-west-2a", v1alpha1.CapacityTypeReserved, "0.0001")))
	record(t, c, first)
	record(t, c, second)
	inst := mustLaunch(t, c, first)
	if inst.CapacityType != v1alpha1.CapacityTypeReserved {
		t.Errorf("launched as %s", inst.CapacityType)
	}
	seen, err := c.Instance(t.Context(), inst.ID)
	if err != nil || seen.CapacityType != v1alpha1.CapacityTypeReserved {
		t.Errorf("EC2 lists it as %s: %v", seen.CapacityType, err)
	}
	for _, v := range s.state().Reservations {
		if want := map[bool]int{true: 0, false: 5}[v.ID == id]; v.Available != want {
			t.Errorf("%s has room for %d, want %d", v.ID, v.Available, want)
		}
	}
	// The second, prepared while there was room, finds it full.
	_, err = c.Launch(t.Context(), second)
	var none *CapacityError
	if !errors.As(err, &none) || none.Code != "ReservationCapacityExceeded" || len(none.Refused) != 1 || none.Refused[0].CapacityType != v1alpha1.CapacityTypeReserved {
		t.Errorf("the second launch: %v", err)
	}
	// What comes after a launch knows that before EC2 is asked.
	third := selected(newClaim("c", offer("m5.large", "us-west-2a", v1alpha1.CapacityTypeReserved, "0.0001")))
	if _, err := c.PrepareLaunch(t.Context(), third, 1); !errors.As(err, &none) || len(none.Refused) != 1 {
		t.Errorf("the third: %v", err)
	}
	// Its end gives the place back.
	if err := c.Terminate(t.Context(), inst.ID); err != nil {
		t.Fatal(err)
	}
	for _, v := range s.state().Reservations {
		if v.ID == id && v.Available != 1 {
			t.Errorf("after the end %s has room for %d", v.ID, v.Available)
		}
	}
}

func TestCapacityBlockEndToEnd(t *testing.T) {
	s := newStandIn(t, nil)
	c := s.cloud(nil)
	const gpu, zone = "p5.48xlarge", "us-west-2b"
	id := s.reserve(ec2sim.Reservation{InstanceType: gpu, Zone: zone, Count: 2, EndsIn: "24h", Tags: map[string]string{"team": "ml"}})
	for _, other := range []ec2sim.Reservation{
		{InstanceType: gpu, Zone: "us-west-2a", Count: 2, StartsIn: "1h", EndsIn: "24h"}, // Not yet.
		{InstanceType: gpu, Zone: "us-west-2c", Count: 2, EndsIn: "59m"},                 // Not for long.
	} {
		other.Tags = map[string]string{"team": "ml"}
		s.reserve(other)
	}
	wanting := func(name string) *v1alpha1.NodeClaim {
		claim := newClaim(name, offer(gpu, zone, v1alpha1.CapacityTypeReserved, "0.1"), offer("m5.large", "us-west-2a", v1alpha1.CapacityTypeReserved, "0.1"))
		claim.Spec.EC2.CapacityReservations = []v1alpha1.SelectorTerm{{Tags: map[string]string{"team": "ml"}}}
		return claim
	}
	first := wanting("a")
	r, err := c.Resolve(t.Context(), "default", &first.Spec.NodeTemplate)
	if err != nil {
		t.Fatal(err)
	}
	room := map[string]int{}
	for _, v := range r.Planner().Reservations {
		room[v.Zone] = v.Available
	}
	if diff := cmp.Diff(map[string]int{zone: 2, "us-west-2c": 0}, room); diff != "" {
		t.Errorf("room (-want +got):\n%s", diff)
	}
	if m := r.Findings[0].Message; !strings.Contains(m, "a block that ends at") || !strings.Contains(m, "not launched into any more") {
		t.Errorf("the condition says %q", m)
	}
	// A reservation of another kind is not asked for beside the block.
	s.reserve(ec2sim.Reservation{InstanceType: "m5.large", Zone: "us-west-2a", Count: 1, Match: "targeted", Tags: map[string]string{"team": "ml"}})
	c.reservations.expire()
	list := []*v1alpha1.NodeClaim{first, wanting("b"), wanting("c")}
	for _, claim := range list {
		record(t, c, claim)
		if l := claim.Status.Launch; !l.CapacityBlock || len(l.Overrides) != 1 {
			t.Fatalf("the launch is %+v", l)
		}
	}
	inst := mustLaunch(t, c, first)
	if again := mustLaunch(t, c, first); again.ID != inst.ID {
		t.Errorf("repeated, the launch gave %s after %s", again.ID, inst.ID)
	}
	if inst.CapacityType != v1alpha1.CapacityTypeReserved {
		t.Errorf("launched as %s", inst.CapacityType)
	}
	if seen, err := c.Instance(t.Context(), inst.ID); err != nil || seen.CapacityType != v1alpha1.CapacityTypeReserved {
		t.Errorf("EC2 lists it as %s: %v", seen.CapacityType, err)
	}
	mustLaunch(t, c, list[1])
	_, err = c.Launch(t.Context(), list[2])
	var none *CapacityError
	if !errors.As(err, &none) || len(none.Refused) != 1 || none.Refused[0].CapacityType != v1alpha1.CapacityTypeReserved {
		t.Errorf("the launch into a full block: %v", err)
	}
	// The claim goes on with what else it may have.
	fourth := wanting("d")
	record(t, c, fourth)
	if l := fourth.Status.Launch; l.CapacityBlock || l.Overrides[0].InstanceType != "m5.large" {
		t.Errorf("when the block is full the launch is %+v", l)
	}

	// Its end comes near, and EC2 is asked who is in it.
	if list, err := c.Troubles(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("long before the end: %+v %v", list, err)
	}
	ends := time.Now().Add(blockTaken + blockNotice - time.Minute)
	c.reservations.mu.Lock()
	for _, e := range c.reservations.entries {
		for i := range e.value {
			if e.value[i].ID == id {
				e.value[i].Ends = ends
			}
		}
	}
	c.reservations.mu.Unlock()
	troubles, err := c.Troubles(t.Context())
	if err != nil || len(troubles) != 2 {
		t.Fatalf("%+v %v", troubles, err)
	}
	for _, tr := range troubles {
		if len(tr.Events) != 1 || tr.Events[0] != (PlannedEvent{CodeBlockEnd, ends.Add(-blockTaken)}) {
			t.Errorf("%+v", tr)
		}
	}
}

func TestOpenReservationsAreUsedByThemselves(t *testing.T) {
	s := newStandIn(t, nil)
	c := s.cloud(nil)
	id := s.reserve(ec2sim.Reservation{InstanceType: "m5.large", Zone: "us-west-2a", Count: 1})
	s.post("pools", ec2sim.PoolState{InstanceType: "m5.large", Zone: "us-west-2a", CapacityType: "on-demand"})
	claim := newClaim("a", m5)
	record(t, c, claim)
	if inst := mustLaunch(t, c, claim); inst.CapacityType != onDemand {
		t.Errorf("launched as %s", inst.CapacityType)
	}
	if v := s.state().Reservations; len(v) != 1 || v[0].ID != id || v[0].Available != 0 {
		t.Errorf("reservations: %+v", v)
	}
	again := newClaim("b", m5)
	record(t, c, again)
	if _, err := c.Launch(t.Context(), again); err == nil {
		t.Error("a second instance came out of nothing")
	}
}

func TestKubeletsAreToldOfPrefixes(t *testing.T) {
	s := newStandIn(t, nil)
	c := s.cloud(nil)
	c.SetNetworking(capacity.Networking{Prefixes: true})
	claim := newClaim("a", m5, offer("m5.16xlarge", "us-west-2a", onDemand, "3"))
	record(t, c, claim)
	l := claim.Status.Launch
	if len(l.Overrides) != 2 || l.Overrides[1].LaunchTemplateID == "" {
		t.Fatalf("types with another number of pods share a launch template: %+v", l)
	}
	for i, want := range []int32{110, 250} {
		lines := []line{{instanceType: l.Overrides[i].InstanceType}}
		c.sayMaxPods(lines, &claim.Spec.NodeTemplate)
		if lines[0].maxPods != want {
			t.Errorf("%s: %d pods, want %d", l.Overrides[i].InstanceType, lines[0].maxPods, want)
		}
	}
	mustLaunch(t, c, claim)
}

func TestLaunchesHaveFewTemplates(t *testing.T) {
	var lines []line
	for i := range int32(60) {
		lines = append(lines, line{instanceType: "a", maxPods: i % 30})
	}
	got := fewTemplates(lines)
	if len(got) != 2*maxTemplates || got[maxTemplates].maxPods != 0 {
		t.Errorf("%d lines are left, the first of the second round with %d pods", len(got), got[maxTemplates].maxPods)
	}
}

func TestSweep(t *testing.T) {
	s := newStandIn(t, nil)
	gone := s.cloud(func(c *Config) { c.ClusterUID = "uid-gone" })
	other := s.cloud(func(c *Config) { c.ClusterUID = "uid-other" })
	var ids []string
	for i, c := range []*Cloud{gone, other} {
		claim := newClaim([]string{"a", "b"}[i], m5)
		record(t, c, claim)
		ids = append(ids, mustLaunch(t, c, claim).ID)
	}
	sweeper, err := NewSweeper(t.Context(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	all, err := sweeper.Leftovers(t.Context(), "")
	if err != nil || len(all) != 4 {
		t.Fatalf("%d things of both clusters, want an instance and a template of each: %v\n%+v", len(all), err, all)
	}
	if _, err := sweeper.Remove(t.Context(), "", all); err == nil {
		t.Error("all is removed, of whatever cluster")
	}
	// Though everything is in the list, only what carries the UID goes.
	done, err := sweeper.Remove(t.Context(), "uid-gone", all)
	if err != nil || len(done) != 2 {
		t.Fatalf("%+v: %v", done, err)
	}
	left, err := sweeper.Leftovers(t.Context(), "uid-gone")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range left {
		if !strings.Contains(l.Detail, StateShuttingDown) {
			t.Errorf("left: %+v", l)
		}
	}
	if inst, err := other.Instance(t.Context(), ids[1]); err != nil || inst.State == StateShuttingDown || inst.State == StateTerminated {
		t.Errorf("the other cluster's instance is %s: %v", inst.State, err)
	}
	if left, err := sweeper.Leftovers(t.Context(), "uid-other"); err != nil || len(left) != 2 {
		t.Errorf("of the other cluster %+v is left: %v", left, err)
	}
	if _, err := NewSweeper(t.Context(), "no such name!"); err == nil {
		t.Error("a bad name is taken")
	}
}

func TestSweepGoesOnPastAProtectedInstance(t *testing.T) {
	s := newStandIn(t, nil)
	c := s.cloud(func(c *Config) { c.ClusterUID = "uid-gone" })
	for _, name := range []string{"a", "b", "c"} {
		claim := newClaim(name, m5)
		record(t, c, claim)
		mustLaunch(t, c, claim)
	}
	sweeper, err := NewSweeper(t.Context(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	all, err := sweeper.Leftovers(t.Context(), "uid-gone")
	if err != nil {
		t.Fatal(err)
	}
	// The call for all is refused, and that for the first alone.
	s.fault(ec2sim.Fault{Action: "TerminateInstances", Code: "OperationNotPermitted", HTTPStatus: 400, Count: 2})
	done, err := sweeper.Remove(t.Context(), "uid-gone", all)
	if err == nil || !strings.Contains(err.Error(), "termination protection") || strings.Contains(err.Error(), "terminating 3") {
		t.Errorf("error %v", err)
	}
	if len(done) != 3 || s.state().Live != 1 { // A template and two instances.
		t.Errorf("%d are removed, %d live on: %+v", len(done), s.state().Live, done)
	}
}

func TestTroublesTellOfAttachedVolumes(t *testing.T) {
	s := newStandIn(t, nil)
	c := s.cloud(nil)
	claim := newClaim("a", m5)
	record(t, c, claim)
	inst := mustLaunch(t, c, claim)
	for deadline := time.Now().Add(20 * time.Second); inst.State != "running" && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
		var err error
		if inst, err = c.Instance(t.Context(), inst.ID); err != nil {
			t.Fatal(err)
		}
	}
	s.post("health", ec2sim.Health{InstanceID: inst.ID, AttachedEBS: "impaired"})
	list, err := c.Troubles(t.Context())
	if err != nil || len(list) != 1 || len(list[0].Failing) != 1 || list[0].Failing[0] != "attached EBS" || time.Since(list[0].Since) > time.Minute {
		t.Errorf("%+v %v", list, err)
	}
}

// mustLaunch carries out the recorded launch of one instance.
func mustLaunch(t *testing.T, c *Cloud, claim *v1alpha1.NodeClaim) Instance {
	t.Helper()
	got, err := c.Launch(t.Context(), claim)
	if err != nil || len(got.Instances) != 1 {
		t.Fatalf("%d instances: %v", len(got.Instances), err)
	}
	return got.Instances[0]
}
