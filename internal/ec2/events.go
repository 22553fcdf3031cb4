package ec2

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// EventKind says what an event announces.
type EventKind string

// Kinds of events.
const (
	// EventSpot: EC2 takes a spot instance away, two minutes after the event.
	EventSpot EventKind = "spot-interruption"
	// EventRebalance: a spot instance is more likely than before to be taken.
	EventRebalance EventKind = "rebalance"
	// EventScheduled: AWS has planned to stop, retire or reboot the instance.
	EventScheduled EventKind = "scheduled-change"
	// EventState: an instance stops or ends.
	EventState EventKind = "state-change"
	// EventBlockEnd: the capacity block that an instance runs in is about to end.
	EventBlockEnd EventKind = "capacity-block-end"
	// EventOther is an event of EventBridge that concerns no node.
	EventOther EventKind = "other"
)

// Event is one message of the interruption queue, read.
type Event struct {
	Kind EventKind
	// Instances that it is about, as its detail names them; none for EventOther.
	Instances []string
	// At is when it happened, which may be long before it is received.
	At time.Time
	// Until is when the instance goes: for EventSpot At and two minutes, for
	// EventScheduled and EventBlockEnd as announced; zero where nothing is said.
	Until time.Time
	// Detail for a person: the state, the code of what is planned.
	Detail string
}

// spotNotice is how long after its notice a spot instance is taken ("Spot
// Instance interruption notices").
const spotNotice = 2 * time.Minute

// maxEvent bounds the body of a message: EventBridge events are at most 256 KiB.
const maxEvent = 256 << 10

// envelope is what all EventBridge events share ("Events in Amazon EventBridge").
type envelope struct {
	Version    string          `json:"version"`
	ID         string          `json:"id"`
	DetailType string          `json:"detail-type"`
	Source     string          `json:"source"`
	Time       string          `json:"time"`
	Detail     json.RawMessage `json:"detail"`
	// underlined is how the page on capacity blocks prints the field.
	Underlined string `json:"detail_type"`
}

// details are the fields of the details that matter here.
type details struct {
	InstanceID      string `json:"instance-id"`
	Action          string `json:"instance-action"`
	State           string `json:"state"`
	TerminationTime string `json:"instance-termination-time"`

	Service  string `json:"service"`
	Code     string `json:"eventTypeCode"`
	Category string `json:"eventTypeCategory"`
	Start    string `json:"startTime"`
	Affected []struct {
		Value string `json:"entityValue"`
	} `json:"affectedEntities"`
}

var instanceIDRule = regexp.MustCompile(`^i-[0-9a-f]{8,32}$`)

// endingStates are the states that an instance does not come back from by
// itself.
var endingStates = []string{StateStopping, StateStopped, StateShuttingDown, StateTerminated}

// ParseEvent reads the body of a message: an EventBridge event as it comes in
// a queue. Events that concern no node are EventOther. The error says why the
// body is no event at all, or lacks what its kind must have: a message that
// nobody can ever act on. Instance ids are taken from the detail: the resources
// of a spot notice name the zone in the place of the region ("Spot Instance
// interruption notices"), and those of a health event are bare ids.
func ParseEvent(body []byte) (Event, error) {
	if len(body) > maxEvent {
		return Event{}, fmt.Errorf("a message of %d bytes is no event: EventBridge's have at most %d", len(body), maxEvent)
	}
	var e envelope
	if err := json.Unmarshal(body, &e); err != nil {
		return Event{}, fmt.Errorf("the message is not the JSON of an event: %w", err)
	}
	kind := e.DetailType
	if kind == "" {
		kind = e.Underlined
	}
	if e.Source == "" || kind == "" {
		return Event{}, errors.New("the message is no EventBridge event: source or detail-type is missing")
	}
	at, err := time.Parse(time.RFC3339, e.Time)
	if err != nil {
		return Event{}, fmt.Errorf("the event's time %q is not RFC 3339", e.Time)
	}
	out := Event{Kind: EventOther, At: at, Detail: kind}
	if e.Source != "aws.ec2" && e.Source != "aws.health" {
		return out, nil
	}
	var d details
	if err := json.Unmarshal(e.Detail, &d); err != nil {
		return Event{}, fmt.Errorf("the detail of event %q cannot be read: %w", kind, err)
	}
	switch {
	case e.Source == "aws.ec2" && kind == "EC2 Spot Instance Interruption Warning":
		return out.about(EventSpot, d.Action, at.Add(spotNotice), d.InstanceID)
	case e.Source == "aws.ec2" && kind == "EC2 Instance Rebalance Recommendation":
		return out.about(EventRebalance, "", time.Time{}, d.InstanceID)
	case e.Source == "aws.ec2" && kind == "EC2 Instance State-change Notification":
		if !slices.Contains(endingStates, d.State) {
			out.Detail = d.State
			return out, nil
		}
		return out.about(EventState, d.State, time.Time{}, d.InstanceID)
	case e.Source == "aws.ec2" && kind == "EC2 Capacity Reservation Instance Interruption Warning":
		until, err := time.Parse(time.RFC3339, d.TerminationTime)
		if err != nil {
			return Event{}, fmt.Errorf("instance-termination-time %q is not RFC 3339", d.TerminationTime)
		}
		return out.about(EventBlockEnd, d.Action, until, d.InstanceID)
	case e.Source == "aws.health" && d.Service == "EC2" && d.Category == "scheduledChange":
		until, err := healthTime(d.Start)
		if err != nil {
			return Event{}, err
		}
		ids := make([]string, 0, len(d.Affected))
		for _, a := range d.Affected {
			if strings.HasPrefix(a.Value, "i-") { // Volumes and others may be affected too.
				ids = append(ids, a.Value)
			}
		}
		if len(ids) == 0 {
			return out, nil
		}
		return out.about(EventScheduled, d.Code, until, ids...)
	default:
		return out, nil
	}
}

// about completes an event that concerns instances.
func (e Event) about(kind EventKind, detail string, until time.Time, ids ...string) (Event, error) {
	for _, id := range ids {
		if !instanceIDRule.MatchString(id) {
			return Event{}, fmt.Errorf("event %q names the instance %q, which is no id", e.Detail, id)
		}
	}
	e.Kind, e.Detail, e.Until, e.Instances = kind, detail, until, ids
	return e, nil
}

// healthTime reads the start of a health event: RFC 1123, unlike all other
// times ("Schema for AWS Health events"); absent where AWS does not know it.
func healthTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC1123, time.RFC1123Z, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("the health event's startTime %q is neither RFC 1123 nor RFC 3339", s)
}
