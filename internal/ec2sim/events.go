package ec2sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// EventFaults spoil the events that are published from now on. EventBridge
// delivers at least once, and standard queues neither keep the order nor
// deliver only once ("Amazon SQS standard queues"; "Spot Instance interruption
// notices" are best effort). The shares are from 0 to 1 and independent.
type EventFaults struct {
	// DuplicateShare of the events comes twice.
	DuplicateShare float64 `json:"duplicateShare,omitempty"`
	// ReorderShare of the messages overtakes all that wait in the queue.
	ReorderShare float64 `json:"reorderShare,omitempty"`
	// LateShare of the messages arrives up to Late (a duration) after its time.
	LateShare float64 `json:"lateShare,omitempty"`
	Late      string  `json:"late,omitempty"`
	// MalformedShare of the messages is cut off in the middle.
	MalformedShare float64 `json:"malformedShare,omitempty"`
	// LostShare of the events never comes.
	LostShare float64 `json:"lostShare,omitempty"`
}

func (s *Sim) setEventFaults(in *EventFaults) error {
	for _, share := range []float64{in.DuplicateShare, in.ReorderShare, in.LateShare, in.MalformedShare, in.LostShare} {
		if share < 0 || share > 1 {
			return fmt.Errorf("share %v is not between 0 and 1", share)
		}
	}
	late, err := duration("late", in.Late)
	if err != nil {
		return err
	}
	s.spoil, s.spoilLate = *in, late
	return nil
}

// sendEvent puts any body into the cluster's queue: an event of an instance
// that nobody knows, or what is no event at all.
func (s *Sim) sendEvent(in *struct {
	Body string `json:"body"`
	// Delay is how much later it can be received, a duration.
	Delay string `json:"delay"`
}) error {
	if in.Body == "" {
		return errors.New("body is missing")
	}
	delay, err := duration("delay", in.Delay)
	if err != nil {
		return err
	}
	s.queues.Deliver(s.cfg.ClusterName, in.Body, delay, false)
	return nil
}

// event is an EventBridge event as it arrives in a queue (EC2 user guide,
// "Automate Amazon EC2 with EventBridge").
type event struct {
	Version    string         `json:"version"`
	ID         string         `json:"id"`
	DetailType string         `json:"detail-type"`
	Source     string         `json:"source"`
	Account    string         `json:"account"`
	Time       string         `json:"time"`
	Region     string         `json:"region"`
	Resources  []string       `json:"resources"`
	Detail     map[string]any `json:"detail"`
}

// publish puts an event of EC2 into the queue that is called like the cluster,
// if somebody has made it: the rule that a provisioner's setup creates.
func (s *Sim) publish(detailType, resource string, detail map[string]any) {
	s.publishFrom("aws.ec2", detailType, resource, detail)
}

func (s *Sim) publishFrom(source, detailType, resource string, detail map[string]any) {
	body, err := json.Marshal(event{
		"0", s.newUUID(), detailType, source, AccountID, s.clock.Now().UTC().Format(time.RFC3339), s.cfg.Region, []string{resource}, detail,
	})
	if err != nil {
		s.log.Error("an event could not be written", zap.Error(err))
		return
	}
	s.published++
	struck := func(share float64, what string) bool { return share > 0 && s.draw("event "+what, s.published) < share }
	if struck(s.spoil.LostShare, "lost") {
		return
	}
	copies := 1
	if struck(s.spoil.DuplicateShare, "duplicate") {
		copies = 2
	}
	for n := range copies {
		text, delay := body, time.Duration(0)
		if struck(s.spoil.MalformedShare, fmt.Sprint("malformed ", n)) {
			text = body[:len(body)/2]
		}
		if struck(s.spoil.LateShare, fmt.Sprint("late ", n)) {
			delay = time.Duration(s.draw(fmt.Sprint("event lateness ", n), s.published) * float64(s.spoilLate))
		}
		s.queues.Deliver(s.cfg.ClusterName, string(text), delay, struck(s.spoil.ReorderShare, fmt.Sprint("reorder ", n)))
	}
}
