package ec2sim

import (
	"time"

	"go.uber.org/zap"
)

// Fault makes calls of one action fail. It is ordered through the admin
// endpoint.
type Fault struct {
	// Action is what to hit, for example "CreateFleet" or "ssm:GetParameter";
	// "*" is every call.
	Action string `json:"action"`
	// Code and Message are the refusal; without a code the call is handled.
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
	// HTTPStatus is the refusal's status; 0 is what EC2 gives with the code.
	HTTPStatus int `json:"httpStatus,omitempty"`
	// Count is how many calls are hit: 0 means 1, below 0 means all.
	Count int `json:"count,omitempty"`
	// DropReply closes the connection after the call had its effect, instead
	// of answering.
	DropReply bool `json:"dropReply,omitempty"`
}

// verdict is what happens to a call.
type verdict struct {
	// refuse, if set, is the answer, and the call has no effect.
	refuse *apiError
	// drop loses the answer after the effect.
	drop bool
}

// intercept is the one place where calls are made to fail: every call of every
// service passes it, after authentication and before it has any effect.
func (s *Sim) intercept(service, action string) verdict {
	for i, f := range s.faults {
		if f.Action != "*" && f.Action != action && f.Action != service+":"+action {
			continue
		}
		if f.Count > 0 {
			f.Count--
			if f.Count == 0 {
				s.faults = append(s.faults[:i:i], s.faults[i+1:]...)
			}
		}
		v := verdict{drop: f.DropReply}
		if f.Code != "" {
			v.refuse = errf(f.Code, "%s", f.Message)
			if f.Message == "" {
				v.refuse.message = "injected fault"
			}
			if f.HTTPStatus != 0 {
				v.refuse.status = f.HTTPStatus
			}
		}
		return v
	}
	return verdict{}
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
