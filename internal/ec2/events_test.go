package ec2

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// event is an EventBridge event with this source, type and detail.
func event(source, kind, detail string) string {
	return `{"version":"0","id":"1","detail-type":"` + kind + `","source":"` + source + `","account":"123456789012",` +
		`"time":"2026-01-01T00:00:00Z","region":"us-east-1","resources":["arn:aws:ec2:us-east-1b:instance/i-0b66f00f"],"detail":` + detail + `}`
}

func TestParseEvent(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	one := []string{"i-0b66f00f"}
	for name, tc := range map[string]struct {
		body string
		want Event
	}{
		"a spot notice gives two minutes from the event's own time": {
			event("aws.ec2", "EC2 Spot Instance Interruption Warning", `{"instance-id":"i-0b66f00f","instance-action":"terminate"}`),
			Event{EventSpot, one, at, at.Add(2 * time.Minute), "terminate"}},
		"a notice to hibernate is a notice": {
			event("aws.ec2", "EC2 Spot Instance Interruption Warning", `{"instance-id":"i-0b66f00f","instance-action":"hibernate"}`),
			Event{EventSpot, one, at, at.Add(2 * time.Minute), "hibernate"}},
		"a rebalance recommendation has no deadline": {
			event("aws.ec2", "EC2 Instance Rebalance Recommendation", `{"instance-id":"i-0b66f00f"}`),
			Event{EventRebalance, one, at, time.Time{}, ""}},
		"an instance that shuts down": {
			event("aws.ec2", "EC2 Instance State-change Notification", `{"instance-id":"i-0b66f00f","state":"shutting-down"}`),
			Event{EventState, one, at, time.Time{}, "shutting-down"}},
		"an instance that starts concerns nobody": {
			event("aws.ec2", "EC2 Instance State-change Notification", `{"instance-id":"i-0b66f00f","state":"running"}`),
			Event{EventOther, nil, at, time.Time{}, "running"}},
		"a scheduled change, whose start is RFC 1123": {
			event("aws.health", "AWS Health Event", `{"service":"EC2","eventTypeCode":"AWS_EC2_INSTANCE_STOP_SCHEDULED","eventTypeCategory":"scheduledChange",
				"startTime":"Thu, 15 Jan 2026 15:10:09 GMT","affectedEntities":[{"entityValue":"i-0b66f00f","tags":{}},{"entityValue":"vol-1"}]}`),
			Event{EventScheduled, one, at, time.Date(2026, 1, 15, 15, 10, 9, 0, time.UTC), "AWS_EC2_INSTANCE_STOP_SCHEDULED"}},
		"a health event that changes nothing": {
			event("aws.health", "AWS Health Event", `{"service":"EC2","eventTypeCategory":"accountNotification","affectedEntities":[{"entityValue":"i-0b66f00f"}]}`),
			Event{EventOther, nil, at, time.Time{}, "AWS Health Event"}},
		"the end of a capacity block": {
			event("aws.ec2", "EC2 Capacity Reservation Instance Interruption Warning",
				`{"instance-id":"i-0b66f00f","instance-action":"terminate","instance-termination-time":"2026-01-01T00:40:00Z","instance-lifecycle":"capacity-block"}`),
			Event{EventBlockEnd, one, at, at.Add(40 * time.Minute), "terminate"}},
		"the end of a capacity block as AWS's page prints it": {
			strings.Replace(event("aws.ec2", "EC2 Capacity Reservation Instance Interruption Warning",
				`{"instance-id":"i-0b66f00f","instance-action":"terminate","instance-termination-time":"2026-01-01T00:40:00Z"}`), "detail-type", "detail_type", 1),
			Event{EventBlockEnd, one, at, at.Add(40 * time.Minute), "terminate"}},
		"another service's event": {
			event("aws.s3", "Object Created", `["anything"]`),
			Event{EventOther, nil, at, time.Time{}, "Object Created"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseEvent([]byte(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseEventRefusesWhatNobodyCanActOn(t *testing.T) {
	spot := event("aws.ec2", "EC2 Spot Instance Interruption Warning", `{"instance-id":"i-0b66f00f","instance-action":"terminate"}`)
	for name, body := range map[string]string{
		"nothing":                       "",
		"text":                          "hello",
		"an event that is cut off":      spot[:len(spot)/2],
		"JSON of something else":        `{"Records":[]}`,
		"a list":                        `[]`,
		"an event without a time":       strings.Replace(spot, "2026-01-01T00:00:00Z", "yesterday", 1),
		"a notice without an instance":  event("aws.ec2", "EC2 Spot Instance Interruption Warning", `{}`),
		"a notice for a strange id":     event("aws.ec2", "EC2 Spot Instance Interruption Warning", `{"instance-id":"i-../../x"}`),
		"a detail that is a number":     event("aws.ec2", "EC2 Instance Rebalance Recommendation", `7`),
		"a block that ends at no time":  event("aws.ec2", "EC2 Capacity Reservation Instance Interruption Warning", `{"instance-id":"i-0b66f00f"}`),
		"a scheduled change at no time": event("aws.health", "AWS Health Event", `{"service":"EC2","eventTypeCategory":"scheduledChange","startTime":"soon","affectedEntities":[{"entityValue":"i-0b66f00f"}]}`),
		"more than EventBridge sends":   `{"detail":"` + strings.Repeat("x", maxEvent) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ParseEvent([]byte(body)); err == nil {
				t.Errorf("read as %+v", got)
			}
		})
	}
}

// FuzzParseEvent: whatever the body, an event names instances exactly when its
// kind concerns nodes, and their ids are well formed.
func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(event("aws.ec2", "EC2 Spot Instance Interruption Warning", `{"instance-id":"i-0b66f00f","instance-action":"terminate"}`)))
	f.Add([]byte(event("aws.health", "AWS Health Event", `{"service":"EC2","eventTypeCategory":"scheduledChange","affectedEntities":[{"entityValue":"i-0b66f00f"}]}`)))
	f.Add([]byte(`{"detail_type":"x","source":"aws.ec2"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := ParseEvent(body)
		if err != nil {
			return
		}
		if (e.Kind == EventOther) != (len(e.Instances) == 0) {
			t.Errorf("kind %s names the instances %v", e.Kind, e.Instances)
		}
		for _, id := range e.Instances {
			if !instanceIDRule.MatchString(id) {
				t.Errorf("id %q", id)
			}
		}
	})
}
