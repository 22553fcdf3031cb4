package ec2sim

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"
)

// PoolPattern selects pools of capacity. InstanceType, Zone (a name) and
// CapacityType (on-demand, spot) may have EC2's wildcards * and ?; an empty one
// is every one.
type PoolPattern struct {
	InstanceType string `json:"instanceType,omitempty"`
	Zone         string `json:"zone,omitempty"`
	CapacityType string `json:"capacityType,omitempty"`
}

func (p PoolPattern) matches(q pool) bool {
	is := func(pattern, text string) bool { return pattern == "" || match(pattern, text) }
	return is(p.InstanceType, q.typeName) && is(p.Zone, q.zone) && is(p.CapacityType, capacityType(q.spot))
}

func (p PoolPattern) check() error {
	switch p.CapacityType {
	case "", "*", "spot", "on-demand":
		return nil
	}
	return fmt.Errorf("capacityType %q is none of on-demand, spot and *", p.CapacityType)
}

// Fault makes calls of one action fail, be slow, or lose their answer. Faults
// are tried in the order in which they were ordered; the first that refuses a
// call or loses its answer is the last, while delays add up.
type Fault struct {
	// Action is what to hit, for example "CreateFleet" or "ssm:GetParameter";
	// "*" is every call.
	Action string `json:"action"`
	// Code and Message are the refusal; without a code the call is handled.
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	// HTTPStatus is the refusal's status; 0 is what EC2 gives with the code.
	HTTPStatus int `json:"httpStatus,omitempty"`
	// Count is how many calls are hit: below 0 means all; 0 means all too when
	// Rate or For bound the fault, else 1.
	Count int `json:"count,omitempty"`
	// Rate is the share of the calls that is hit, from 0 to 1; 0 means 1. Which
	// ones is a function of Config.Seed and of how many came before.
	Rate float64 `json:"rate,omitempty"`
	// After and For bound the fault in time, from its order on: durations such
	// as "2m". Without For it has no end.
	After string `json:"after,omitempty"`
	For   string `json:"for,omitempty"`
	// Delay holds the answer back that long after the call had its effect, in
	// real time, as Config.Latency.
	Delay string `json:"delay,omitempty"`
	// DropReply closes the connection after the call had its effect, instead
	// of answering.
	DropReply bool `json:"dropReply,omitempty"`
	// Pool, if set, makes the code the refusal of every launch in a matching
	// pool, and not of the call: an item of CreateFleet's errorSet, which comes
	// with HTTP 200 (CreateFleet reference, "Errors"). EC2 tells of denied
	// permissions on a template, and of throttled RunInstances, in this way
	// too. Count and Rate then count overrides.
	Pool *PoolPattern `json:"pool,omitempty"`
}

// armed is a fault that has been ordered.
type armed struct {
	Fault
	from, until time.Time // until is zero without an end
	delay       time.Duration
	seen        int
}

func (s *Sim) addFault(in *Fault) error {
	if in.Action == "" {
		return errors.New("action is missing")
	}
	if in.Code == "" && !in.DropReply && in.Delay == "" {
		return errors.New("neither code, dropReply nor delay is there")
	}
	if in.HTTPStatus != 0 && (in.HTTPStatus < 200 || in.HTTPStatus > 599) {
		return fmt.Errorf("httpStatus %d is none", in.HTTPStatus)
	}
	if in.Rate < 0 || in.Rate > 1 {
		return fmt.Errorf("rate %v is not between 0 and 1", in.Rate)
	}
	if in.Pool != nil {
		if in.Code == "" || in.DropReply || in.Delay != "" || in.Action != "CreateFleet" && in.Action != "RunInstances" {
			return errors.New("a fault of pools needs a code, and CreateFleet or RunInstances as its action")
		}
		if err := in.Pool.check(); err != nil {
			return err
		}
	}
	f := &armed{Fault: *in, from: s.clock.Now()}
	if f.Count == 0 && f.Rate == 0 && f.For == "" {
		f.Count = 1
	}
	after, err := duration("after", in.After)
	if err != nil {
		return err
	}
	f.from = f.from.Add(after)
	if in.For != "" {
		lasts, err := duration("for", in.For)
		if err != nil {
			return err
		}
		f.until = f.from.Add(lasts)
	}
	if f.delay, err = duration("delay", in.Delay); err != nil {
		return err
	}
	s.faults = append(s.faults, f)
	return nil
}

// duration reads an order's duration; none is 0.
func duration(name, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s %q is not a duration of 0 or more", name, text)
	}
	return d, nil
}

// hits reports whether the fault strikes now, and counts it if so.
func (s *Sim) hits(f *armed) bool {
	if s.clock.Now().Before(f.from) {
		return false
	}
	f.seen++
	if f.Rate > 0 && s.draw("fault "+f.Action, f.seen) >= f.Rate {
		return false
	}
	if f.Count > 0 {
		if f.Count--; f.Count == 0 {
			s.faults = slices.DeleteFunc(s.faults, func(o *armed) bool { return o == f })
		}
	}
	return true
}

// live drops the faults whose time is over and returns the others.
func (s *Sim) live() []*armed {
	now := s.clock.Now()
	s.faults = slices.DeleteFunc(s.faults, func(f *armed) bool { return !f.until.IsZero() && !now.Before(f.until) })
	return slices.Clone(s.faults)
}

// draw is a number from 0 to 1 that is a function of the seed, of what it is
// for and of how many came before: the same whatever else happens in between.
func (s *Sim) draw(what string, n int) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(what)) // a hash takes everything
	return rand.New(rand.NewPCG(s.seed, h.Sum64()+uint64(n)*0x9e3779b97f4a7c15)).Float64()
}

// verdict is what happens to a call.
type verdict struct {
	// refuse, if set, is the answer, and the call has no effect.
	refuse *apiError
	// drop loses the answer after the effect, delay holds it back.
	drop  bool
	delay time.Duration
}

// intercept is the one place where calls are made to fail: every call of every
// service passes it, after authentication and throttling and before it has any
// effect.
func (s *Sim) intercept(service, action string) verdict {
	var v verdict
	for _, f := range s.live() {
		if f.Pool != nil || f.Action != "*" && f.Action != action && f.Action != service+":"+action || !s.hits(f) {
			continue
		}
		v.delay += f.delay
		v.drop = f.DropReply
		if f.Code != "" {
			v.refuse = f.refusal()
		}
		if v.drop || v.refuse != nil {
			break
		}
	}
	return v
}

// refusedPool is the order that says no to a launch in a pool, if there is one.
func (s *Sim) refusedPool(action string, p pool) *apiError {
	for _, f := range s.live() {
		if f.Pool != nil && f.Action == action && f.Pool.matches(p) && s.hits(f) {
			return f.refusal()
		}
	}
	return nil
}

func (f *armed) refusal() *apiError {
	message := f.Message
	if message == "" {
		message = "injected fault"
	}
	e := errf(f.Code, "%s", message)
	if f.HTTPStatus != 0 {
		e.status = f.HTTPStatus
	}
	return e
}

// callRecord is one line of the call log.
type callRecord struct {
	Time       time.Time `json:"time"`
	Service    string    `json:"service"`
	Action     string    `json:"action"`
	Code       string    `json:"code,omitempty"`
	DurationMS float64   `json:"durationMs"`
}

// callLog keeps the last calls and counts all of them.
type callLog struct {
	counts map[string]int
	errors map[string]int
	last   []callRecord
}

// maxCalls is how many calls the log keeps.
const maxCalls = 10_000

// record logs a call that has been answered.
func (s *Sim) record(service, action string, start time.Time, apiErr *apiError) {
	if s.calls.counts == nil {
		s.calls.counts, s.calls.errors = map[string]int{}, map[string]int{}
	}
	took := s.clock.Now().Sub(start)
	rec := callRecord{Time: start, Service: service, Action: action, DurationMS: float64(took.Microseconds()) / 1000}
	name := service + ":" + action
	s.calls.counts[name]++
	if apiErr != nil {
		rec.Code = apiErr.code
		s.calls.errors[name+" "+apiErr.code]++
		s.log.Warn("call refused", zap.String("service", service), zap.String("action", action), zap.String("code", apiErr.code), zap.String("message", apiErr.message))
	} else {
		s.log.Debug("call", zap.String("service", service), zap.String("action", action), zap.Duration("took", took))
	}
	if len(s.calls.last) >= maxCalls {
		s.calls.last = append(s.calls.last[:0], s.calls.last[maxCalls/2:]...)
	}
	s.calls.last = append(s.calls.last, rec)
}
