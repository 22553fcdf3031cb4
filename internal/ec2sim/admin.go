package ec2sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/berth-dev/berth/internal/ec2sim/queue"
)

// State is what GET /_sim/state answers.
type State struct {
	Time        time.Time `json:"time"`
	Region      string    `json:"region"`
	ClusterName string    `json:"clusterName"`
	// Live counts instances that are pending or running.
	Live int `json:"live"`
	// HourlyCost is what the live instances cost in an hour, in USD.
	HourlyCost float64 `json:"hourlyCost"`
	// ByState counts all instances that can still be described.
	ByState       map[string]int  `json:"byState"`
	Instances     []InstanceState `json:"instances"`
	Subnets       []SubnetState   `json:"subnets"`
	SecurityGroup string          `json:"securityGroup"`
	VPC           string          `json:"vpc"`
	// LaunchTemplates are the names of the launch templates.
	LaunchTemplates []string    `json:"launchTemplates"`
	Pools           []PoolState `json:"pools"`
	// Reservations are the Capacity Reservations.
	Reservations []ReservationState `json:"reservations"`
	Faults       []Fault            `json:"faults"`
	// BootDelay is a duration such as "2s".
	BootDelay string `json:"bootDelay"`
}

// InstanceState is one instance in State. Times are absent until they come.
type InstanceState struct {
	ID           string            `json:"id"`
	Node         string            `json:"node"`
	State        string            `json:"state"`
	Type         string            `json:"type"`
	Zone         string            `json:"zone"`
	CapacityType string            `json:"capacityType"`
	Price        float64           `json:"price"`
	Image        string            `json:"image"`
	Tags         map[string]string `json:"tags"`
	Launched     time.Time         `json:"launched"`
	Running      *time.Time        `json:"running,omitempty"`
	Joined       *time.Time        `json:"joined,omitempty"`
	ShuttingDown *time.Time        `json:"shuttingDown,omitempty"`
	Terminated   *time.Time        `json:"terminated,omitempty"`
	// JoinFailed says that the machine gave up; Console says why.
	JoinFailed bool     `json:"joinFailed,omitempty"`
	Console    []string `json:"console,omitempty"`
}

// SubnetState is one subnet in State.
type SubnetState struct {
	ID   string `json:"id"`
	Zone string `json:"zone"`
	CIDR string `json:"cidr"`
	Free int    `json:"free"`
}

// PoolState is a pool with a limit, in State and for POST /_sim/pools.
type PoolState struct {
	// InstanceType, Zone (a name) and CapacityType (on-demand, spot) may have
	// the wildcards of PoolPattern when pools are set. Orders add up: to leave
	// one pool, empty all and then free that one.
	InstanceType string `json:"instanceType"`
	Zone         string `json:"zone"`
	CapacityType string `json:"capacityType"`
	// Capacity is how many more instances can be launched; -1 is no limit.
	Capacity int `json:"capacity"`
}

func capacityType(spot bool) string {
	if spot {
		return "spot"
	}
	return "on-demand"
}

// serveAdmin answers what is not AWS:
//
//	GET  /_sim/state      State
//	GET  /_sim/calls      {"counts", "errors", "calls"}; the last 10,000 calls
//	POST /_sim/pools      PoolState
//	POST /_sim/reservations Reservation; the answer is {"id"}
//	POST /_sim/faults     Fault; DELETE forgets all
//	POST /_sim/interrupt  {"instanceId", "noticeSeconds": 120, "rebalance": false}
//	POST /_sim/boot       {"delay": "2s", "running": "500ms", "terminate": "1s"}, for
//	                      launches and terminations from now on; each may be absent
//	POST /_sim/throttle   Throttle
//	POST /_sim/quotas     Quota
//	POST /_sim/visibility Visibility
//	POST /_sim/hide       Hide
//	POST /_sim/late       Late
//	POST /_sim/health     Health
//	POST /_sim/events     EventFaults
//	POST /_sim/event      {"body": "…", "delay": "0s"}, a message for the cluster's queue
func (s *Sim) serveAdmin(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	var answer any = map[string]string{"status": "ok"}
	var err error
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick(s.clock.Now())
	switch r.Method + " " + r.URL.Path {
	case "GET /_sim/state":
		answer = s.state()
	case "GET /_sim/calls":
		answer = map[string]any{"counts": s.calls.counts, "errors": s.calls.errors, "calls": s.calls.last}
	case "POST /_sim/pools":
		err = admin(r, s.setPool)
	case "POST /_sim/reservations":
		var id string
		err = admin(r, func(in *Reservation) (err error) { id, err = s.reserve(in); return err })
		answer = map[string]string{"id": id}
	case "POST /_sim/faults":
		err = admin(r, s.addFault)
	case "DELETE /_sim/faults":
		s.faults = nil
	case "POST /_sim/interrupt":
		err = admin(r, s.interruptNow)
	case "POST /_sim/boot":
		err = admin(r, s.setTimes)
	case "POST /_sim/throttle":
		err = admin(r, s.setThrottle)
	case "POST /_sim/quotas":
		err = admin(r, s.setQuota)
	case "POST /_sim/visibility":
		err = admin(r, s.setVisibility)
	case "POST /_sim/hide":
		err = admin(r, s.hide)
	case "POST /_sim/late":
		err = admin(r, s.setLate)
	case "POST /_sim/deprecate":
		err = admin(r, s.deprecate)
	case "POST /_sim/health":
		err = admin(r, s.setHealth)
	case "POST /_sim/events":
		err = admin(r, s.setEventFaults)
	case "POST /_sim/event":
		err = admin(r, s.sendEvent)
	default:
		writeJSON(w, http.StatusNotFound, map[string]string{"error": "there is no " + r.Method + " " + r.URL.Path})
		return
	}
	if err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	if r.Method != http.MethodGet {
		s.log.Info("admin", zap.String("path", r.URL.Path), zap.String("method", r.Method))
	}
	writeJSON(w, http.StatusOK, answer)
}

func admin[In any](r *http.Request, f func(*In) error) error {
	var in In
	dec := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return fmt.Errorf("reading the body: %w", err)
	}
	return f(&in)
}

func (s *Sim) state() *State {
	out := &State{
		Time: s.clock.Now(), Region: s.cfg.Region, ClusterName: s.cfg.ClusterName, ByState: map[string]int{}, BootDelay: s.boot.String(), VPC: s.vpc, SecurityGroup: s.groups[0].id,
		Instances: []InstanceState{}, LaunchTemplates: []string{}, Pools: []PoolState{}, Reservations: []ReservationState{}, Faults: []Fault{},
	}
	at := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	for _, i := range s.instances {
		out.ByState[i.state.String()]++
		if i.state <= stateRunning {
			out.Live++
			out.HourlyCost += i.price
		}
		out.Instances = append(out.Instances, InstanceState{
			ID: i.id, Node: i.node, State: i.state.String(), Type: i.pool.typeName, Zone: i.pool.zone, CapacityType: capacityType(i.pool.spot), Price: i.price, Image: i.spec.image.name,
			Tags: maps.Clone(s.tags[i.id]), Launched: i.launched, Running: at(i.running), Joined: at(i.joined), ShuttingDown: at(i.ending), Terminated: at(i.terminated),
			JoinFailed: i.failed, Console: slices.Clone(i.console),
		})
	}
	for _, sn := range s.subnets {
		out.Subnets = append(out.Subnets, SubnetState{sn.id, sn.zone.Name, sn.ips.prefix.String(), sn.ips.free})
	}
	for _, t := range s.templates {
		out.LaunchTemplates = append(out.LaunchTemplates, t.name)
	}
	for p, sl := range s.pools {
		out.Pools = append(out.Pools, PoolState{p.typeName, p.zone, capacityType(p.spot), sl.left})
	}
	slices.SortFunc(out.Pools, func(a, b PoolState) int {
		return slices.Compare([]string{a.InstanceType, a.Zone, a.CapacityType}, []string{b.InstanceType, b.Zone, b.CapacityType})
	})
	for _, r := range s.reserved {
		out.Reservations = append(out.Reservations, ReservationState{r.id, r.typeName, r.zone, r.total, r.left(s.clock.Now()), r.targeted})
	}
	for _, f := range s.faults {
		out.Faults = append(out.Faults, f.Fault)
	}
	return out
}

// setPool limits the pools that match, or frees them from their limits.
func (s *Sim) setPool(in *PoolState) error {
	if in.Capacity < -1 {
		return fmt.Errorf("capacity %d is below -1", in.Capacity)
	}
	pattern := PoolPattern{in.InstanceType, in.Zone, in.CapacityType}
	if err := pattern.check(); err != nil {
		return err
	}
	matched := 0
	for _, t := range s.offeredTypes() {
		for _, z := range s.cfg.Catalog.OfferedZones(s.region.Name, t.Name) {
			for _, spot := range []bool{false, true} {
				p := pool{t.Name, z.Name, spot}
				if !pattern.matches(p) {
					continue
				}
				matched++
				if in.Capacity == -1 {
					delete(s.pools, p)
				} else {
					s.pools[p] = &slots{in.Capacity}
				}
			}
		}
	}
	if matched == 0 {
		return fmt.Errorf("no pool is %s in %s as %s", in.InstanceType, in.Zone, in.CapacityType)
	}
	return nil
}

func (s *Sim) interruptNow(in *struct {
	InstanceID    string   `json:"instanceId"`
	NoticeSeconds *float64 `json:"noticeSeconds"`
	Rebalance     bool     `json:"rebalance"`
}) error {
	i := s.byID[in.InstanceID]
	if i == nil || i.state > stateRunning {
		return fmt.Errorf("no live instance has the id %q", in.InstanceID)
	}
	if !i.pool.spot {
		return fmt.Errorf("instance %s is on-demand: only spot instances are interrupted", i.id)
	}
	if in.Rebalance {
		s.rebalance(i)
		return nil
	}
	notice := 120.0 // "two minutes before the interruption"
	if in.NoticeSeconds != nil {
		notice = *in.NoticeSeconds
	}
	if notice < 0 || notice > 3600 {
		return fmt.Errorf("noticeSeconds %v is not between 0 and 3600", notice)
	}
	s.interrupt(i, s.clock.Now(), time.Duration(notice*float64(time.Second)))
	return nil
}

// setTimes sets how long instances take: from launch to the kubelet's start,
// from launch to running (without an order of its own a quarter of that), from
// shutting-down to terminated.
func (s *Sim) setTimes(in *struct {
	Delay     string `json:"delay"`
	Running   string `json:"running"`
	Terminate string `json:"terminate"`
}) error {
	boot, running, terminate := s.boot, s.runningTime, s.terminateTime
	for _, f := range []struct {
		name, text string
		to         *time.Duration
	}{{"delay", in.Delay, &boot}, {"running", in.Running, &running}, {"terminate", in.Terminate, &terminate}} {
		if f.text == "" {
			continue
		}
		d, err := duration(f.name, f.text)
		if err != nil {
			return err
		}
		*f.to = d
		if f.name == "delay" {
			running = d / 4
		}
	}
	if in.Delay+in.Running+in.Terminate == "" {
		return errors.New("neither delay, running nor terminate is there")
	}
	s.boot, s.runningTime, s.terminateTime = boot, running, terminate
	return nil
}

// queueError translates a refusal of the queues. The SDKs of query days read
// the code from a header.
func (s *Sim) queueError(w http.ResponseWriter, err error) *apiError {
	var e *queue.Error
	if !errors.As(err, &e) {
		return asAPIError(err)
	}
	w.Header().Set("X-Amzn-Query-Error", e.Query+";Sender")
	return &apiError{"com.amazonaws.sqs#" + e.Code, e.Message, http.StatusBadRequest}
}
