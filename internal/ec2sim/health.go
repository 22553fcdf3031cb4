package ec2sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/berth-dev/berth/internal/ec2sim/query"
)

// Late makes instances fail after their launch was reported as a success: they
// go from pending to terminated, with a StateReason ("Troubleshoot instance
// launch issues", Instance terminates immediately).
type Late struct {
	PoolPattern
	// Count is how many of the next launches in the pools fail; below 0 means
	// all, 0 forgets all such orders.
	Count int `json:"count"`
	// Code and Message are the StateReason. Default:
	// Server.InsufficientInstanceCapacity; others are Client.InternalError (a
	// key of KMS that cannot be used) and Client.VolumeLimitExceeded.
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

func (s *Sim) setLate(in *Late) error {
	if err := in.check(); err != nil {
		return err
	}
	if in.Count == 0 {
		s.late = nil
		return nil
	}
	l := *in
	if l.Code == "" {
		l.Code = "Server.InsufficientInstanceCapacity"
	}
	if l.Message == "" {
		l.Message = l.Code + ": Instance terminated while it was pending"
	}
	s.late = append(s.late, &l)
	return nil
}

// doom decides whether a new instance will fail.
func (s *Sim) doom(i *instance) {
	for _, l := range s.late {
		if !l.matches(i.pool) {
			continue
		}
		i.doom = l
		if l.Count > 0 {
			if l.Count--; l.Count == 0 {
				s.late = slices.DeleteFunc(s.late, func(o *Late) bool { return o == l })
			}
		}
		return
	}
}

// Health sets what DescribeInstanceStatus says of an instance.
type Health struct {
	InstanceID string `json:"instanceId"`
	// Instance, System and AttachedEBS are ok or impaired; empty is ok. An
	// impaired check has been failing since the order.
	Instance    string `json:"instance,omitempty"`
	System      string `json:"system,omitempty"`
	AttachedEBS string `json:"attachedEBS,omitempty"`
	// Events are scheduled for the instance. They are also published as an AWS
	// Health Event.
	Events []ScheduledEvent `json:"events,omitempty"`
}

// ScheduledEvent is an event that AWS has planned for an instance ("Scheduled
// events for your instances").
type ScheduledEvent struct {
	// Code is instance-reboot, system-reboot, system-maintenance,
	// instance-retirement or instance-stop.
	Code string `json:"code"`
	// NotBefore is when it begins at the earliest.
	NotBefore time.Time `json:"notBefore"`
}

var eventCodes = map[string]string{
	"instance-reboot": "INSTANCE_REBOOT_MAINTENANCE_SCHEDULED", "system-reboot": "SYSTEM_REBOOT_MAINTENANCE_SCHEDULED",
	"system-maintenance": "SYSTEM_MAINTENANCE_SCHEDULED", "instance-retirement": "PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED",
	"instance-stop": "INSTANCE_STOP_SCHEDULED",
}

// scheduled is an event with its id.
type scheduled struct {
	ScheduledEvent
	id string
}

func (s *Sim) setHealth(in *Health) error {
	i := s.byID[in.InstanceID]
	if i == nil || i.state > stateRunning {
		return fmt.Errorf("no live instance has the id %q", in.InstanceID)
	}
	for _, status := range []string{in.Instance, in.System, in.AttachedEBS} {
		if status != "" && status != "ok" && status != "impaired" {
			return fmt.Errorf("status %q is neither ok nor impaired", status)
		}
	}
	for _, e := range in.Events {
		if eventCodes[e.Code] == "" || e.NotBefore.IsZero() {
			return errors.New("an event needs a known code and notBefore")
		}
	}
	i.impairedInstance, i.impairedSystem, i.impairedSince = in.Instance == "impaired", in.System == "impaired", s.clock.Now()
	i.impairedEBS = in.AttachedEBS == "impaired"
	i.events = nil
	for _, e := range in.Events {
		ev := scheduled{e, s.newID("instance-event-")}
		i.events = append(i.events, ev)
		// The start is RFC 1123, unlike every other time ("Schema for AWS
		// Health events in EventBridge").
		s.publishFrom("aws.health", "AWS Health Event", i.id, map[string]any{
			"eventArn": "arn:aws:health:" + s.cfg.Region + "::event/EC2/" + ev.id, "service": "EC2",
			"eventTypeCode": "AWS_EC2_" + eventCodes[e.Code], "eventTypeCategory": "scheduledChange",
			"startTime":        e.NotBefore.UTC().Format(time.RFC1123),
			"eventDescription": []map[string]string{{"language": "en_US", "latestDescription": eventText(e.Code)}},
			"affectedEntities": []map[string]any{{"entityValue": i.id, "tags": map[string]string{}}},
		})
	}
	return nil
}

func eventText(code string) string { return "The instance is scheduled for " + code }

// checkStatus is one of the three checks of an instance.
func (i *instance) checkStatus(impaired bool) string {
	switch {
	case i.state != stateRunning:
		return "not-applicable"
	case impaired:
		return "impaired"
	case !i.booted:
		return "initializing"
	default:
		return "ok"
	}
}

func (i *instance) instanceCheck() string { return i.checkStatus(i.impairedInstance) }
func (i *instance) systemCheck() string   { return i.checkStatus(i.impairedSystem) }
func (i *instance) ebsCheck() string      { return i.checkStatus(i.impairedEBS) }

type statusDetail struct {
	Name          string `xml:"name"`
	Status        string `xml:"status"`
	ImpairedSince string `xml:"impairedSince,omitempty"`
}

type statusSummary struct {
	Status  string         `xml:"status"`
	Details []statusDetail `xml:"details>item"`
}

// reachability is the detail of a check with this status.
func reachability(status string) string {
	return map[string]string{"ok": "passed", "impaired": "failed", "initializing": "initializing", "not-applicable": "insufficient-data"}[status]
}

func (i *instance) summary(status string) statusSummary {
	d := statusDetail{Name: "reachability", Status: reachability(status)}
	if status == "impaired" {
		d.ImpairedSince = query.Time(i.impairedSince)
	}
	return statusSummary{status, []statusDetail{d}}
}

type statusEvent struct {
	ID          string `xml:"instanceEventId"`
	Code        string `xml:"code"`
	Description string `xml:"description"`
	NotBefore   string `xml:"notBefore"`
}

// eventFields read one thing from each of an instance's events.
func eventFields(f func(scheduled) string) func(*instance) []string {
	return func(i *instance) []string {
		var out []string
		for _, e := range i.events {
			out = append(out, f(e))
		}
		return out
	}
}
