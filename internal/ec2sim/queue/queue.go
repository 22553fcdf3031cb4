// Package queue is a stand-in for Amazon SQS standard queues, JSON protocol
// (AWS JSON 1.0, target AmazonSQS.*): long polling, visibility timeout, receipt
// handles that change with every receipt. The code and message of a refusal
// follow the SQS API reference.
package queue

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"k8s.io/utils/clock"
)

// Config is how a Service is made. All fields are needed.
type Config struct {
	Region, AccountID string
	Clock             clock.WithTicker
}

// Error is a refusal. Query is the code of the older query protocol, which the
// SDKs still read from a header.
type Error struct{ Code, Query, Message string }

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func errQueue(name string) *Error {
	return &Error{"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist: " + name}
}

func invalid(format string, args ...any) *Error {
	return &Error{"InvalidParameterValue", "InvalidParameterValue", fmt.Sprintf(format, args...)}
}

// Service holds the queues. It is safe for use from many goroutines.
type Service struct {
	cfg Config

	mu     sync.Mutex
	queues map[string]*state
}

type state struct {
	name       string
	attributes map[string]string
	visibility time.Duration
	retention  time.Duration
	wait       time.Duration
	created    time.Time
	messages   []*message
	// arrived is closed and replaced when a message arrives.
	arrived chan struct{}
}

type message struct {
	id, body, receipt string
	sent, visible     time.Time
	first             time.Time
	received          int
}

// New makes a Service without queues.
func New(cfg Config) *Service {
	return &Service{cfg: cfg, queues: map[string]*state{}}
}

// Make makes a queue with the default attributes, if it is not there.
func (s *Service) Make(name string) error {
	_, err := s.create(&createInput{QueueName: name}, "")
	return err
}

// Deliver puts a message into a queue, if the queue is there. It arrives after
// the delay, and before all that wait there when it overtakes.
func (s *Service) Deliver(name, body string, delay time.Duration, overtakes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[name]
	if q == nil {
		return
	}
	m := s.put(q, body, delay)
	if last := len(q.messages) - 1; overtakes {
		copy(q.messages[1:], q.messages[:last])
		q.messages[0] = m
	}
}

func (s *Service) put(q *state, body string, delay time.Duration) *message {
	now := s.cfg.Clock.Now()
	q.expire(now)
	m := &message{id: fmt.Sprintf("%016x-%016x", rand.Uint64(), rand.Uint64()), body: body, sent: now, visible: now.Add(delay)}
	q.messages = append(q.messages, m)
	close(q.arrived)
	q.arrived = make(chan struct{})
	return m
}

// expire drops messages that are older than the queue keeps them.
func (q *state) expire(now time.Time) {
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool { return now.Sub(m.sent) > q.retention })
}

// Do answers one action. host ("http://127.0.0.1:1234") begins the queues'
// URLs. Errors that are refusals are of type *Error. ReceiveMessage waits as
// long as the request says, or until the context ends.
func (s *Service) Do(ctx context.Context, action string, body []byte, host string) (any, error) {
	switch action {
	case "CreateQueue":
		return do(body, func(in *createInput) (any, error) { return s.create(in, host) })
	case "GetQueueUrl":
		return do(body, func(in *urlInput) (any, error) { return s.url(in, host) })
	case "GetQueueAttributes":
		return do(body, s.attributes)
	case "SendMessage":
		return do(body, s.send)
	case "ReceiveMessage":
		return do(body, func(in *receiveInput) (any, error) { return s.receive(ctx, in) })
	case "DeleteMessage":
		return do(body, s.deleteOne)
	case "DeleteMessageBatch":
		return do(body, s.deleteBatch)
	default:
		return nil, &Error{"UnknownOperationException", "InvalidAction", "The action " + action + " is not known"}
	}
}

func do[In any](body []byte, f func(*In) (any, error)) (any, error) {
	var in In
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return nil, &Error{"SerializationException", "SerializationException", err.Error()}
	}
	return f(&in)
}

// at finds a queue by URL, under the lock.
func (s *Service) at(url string) (*state, error) {
	name := url[strings.LastIndex(url, "/")+1:]
	if q := s.queues[name]; q != nil {
		return q, nil
	}
	return nil, errQueue(name)
}

type createInput struct {
	QueueName  string
	Attributes map[string]string
	Tags       map[string]string `json:"tags"`
}

var queueName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)

// seconds are the attributes that are durations, with bounds and default.
var seconds = map[string]struct{ least, most, normal int }{
	"VisibilityTimeout":             {0, 43200, 30},
	"MessageRetentionPeriod":        {60, 1209600, 345600},
	"ReceiveMessageWaitTimeSeconds": {0, 20, 0},
}

func (s *Service) create(in *createInput, host string) (any, error) {
	if !queueName.MatchString(in.QueueName) {
		return nil, invalid("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
	}
	values := map[string]int{}
	for name, b := range seconds {
		values[name] = b.normal
	}
	for name, text := range in.Attributes {
		b, ok := seconds[name]
		if !ok {
			if !slices.Contains([]string{"Policy", "SqsManagedSseEnabled", "KmsMasterKeyId"}, name) {
				return nil, &Error{"InvalidAttributeName", "InvalidAttributeName", "Unknown Attribute " + name + "."}
			}
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < b.least || n > b.most {
			return nil, &Error{"InvalidAttributeValue", "InvalidAttributeValue", "Invalid value for the parameter " + name + "."}
		}
		values[name] = n
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.queues[in.QueueName]; q != nil {
		if !maps.Equal(q.attributes, in.Attributes) {
			return nil, &Error{"QueueNameExists", "QueueAlreadyExists", "A queue already exists with the same name and a different value for an attribute"}
		}
	} else {
		s.queues[in.QueueName] = &state{
			name: in.QueueName, attributes: in.Attributes, created: s.cfg.Clock.Now(), arrived: make(chan struct{}),
			visibility: time.Duration(values["VisibilityTimeout"]) * time.Second,
			retention:  time.Duration(values["MessageRetentionPeriod"]) * time.Second,
			wait:       time.Duration(values["ReceiveMessageWaitTimeSeconds"]) * time.Second,
		}
	}
	return map[string]string{"QueueUrl": s.queueURL(host, in.QueueName)}, nil
}

func (s *Service) queueURL(host, name string) string {
	return host + "/" + s.cfg.AccountID + "/" + name
}

type urlInput struct{ QueueName, QueueOwnerAWSAccountId string }

func (s *Service) url(in *urlInput, host string) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queues[in.QueueName] == nil {
		return nil, errQueue(in.QueueName)
	}
	return map[string]string{"QueueUrl": s.queueURL(host, in.QueueName)}, nil
}

type attributesInput struct {
	QueueURL       string `json:"QueueUrl"`
	AttributeNames []string
}

func (s *Service) attributes(in *attributesInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.at(in.QueueURL)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Clock.Now()
	q.expire(now)
	visible, flying, delayed := 0, 0, 0
	for _, m := range q.messages {
		switch {
		case !m.visible.After(now):
			visible++
		case m.received > 0:
			flying++
		default:
			delayed++
		}
	}
	all := map[string]string{
		"QueueArn":                              "arn:aws:sqs:" + s.cfg.Region + ":" + s.cfg.AccountID + ":" + q.name,
		"ApproximateNumberOfMessages":           strconv.Itoa(visible),
		"ApproximateNumberOfMessagesNotVisible": strconv.Itoa(flying),
		"ApproximateNumberOfMessagesDelayed":    strconv.Itoa(delayed),
		"CreatedTimestamp":                      strconv.FormatInt(q.created.Unix(), 10),
		"VisibilityTimeout":                     strconv.Itoa(int(q.visibility.Seconds())),
		"MessageRetentionPeriod":                strconv.Itoa(int(q.retention.Seconds())),
		"ReceiveMessageWaitTimeSeconds":         strconv.Itoa(int(q.wait.Seconds())),
	}
	if p, ok := q.attributes["Policy"]; ok {
		all["Policy"] = p
	}
	out := map[string]string{}
	for _, name := range in.AttributeNames {
		if name == "All" {
			return map[string]any{"Attributes": all}, nil
		}
		value, ok := all[name]
		if !ok {
			return nil, &Error{"InvalidAttributeName", "InvalidAttributeName", "Unknown Attribute " + name + "."}
		}
		out[name] = value
	}
	return map[string]any{"Attributes": out}, nil
}

type sendInput struct {
	QueueURL     string `json:"QueueUrl"`
	MessageBody  string
	DelaySeconds *int
}

// maxBody is the longest message: 1 MiB.
const maxBody = 1 << 20

func (s *Service) send(in *sendInput) (any, error) {
	if in.MessageBody == "" || len(in.MessageBody) > maxBody || !utf8.ValidString(in.MessageBody) {
		return nil, &Error{"InvalidMessageContents", "InvalidMessageContents", "The message must be UTF-8 text of 1 byte to 1 MiB"}
	}
	delay := 0
	if in.DelaySeconds != nil {
		delay = *in.DelaySeconds
	}
	if delay < 0 || delay > 900 {
		return nil, invalid("Value %d for parameter DelaySeconds is invalid. Reason: DelaySeconds must be >= 0 and <= 900.", delay)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.at(in.QueueURL)
	if err != nil {
		return nil, err
	}
	m := s.put(q, in.MessageBody, time.Duration(delay)*time.Second)
	return map[string]string{"MessageId": m.id, "MD5OfMessageBody": digest(m.body)}, nil
}

// digest is the MD5 that SQS sends along and the SDKs compare.
func digest(text string) string {
	sum := md5.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}

type receiveInput struct {
	QueueURL                    string `json:"QueueUrl"`
	AttributeNames              []string
	MessageSystemAttributeNames []string
	MessageAttributeNames       []string
	MaxNumberOfMessages         *int
	VisibilityTimeout           *int
	WaitTimeSeconds             *int
	ReceiveRequestAttemptID     string `json:"ReceiveRequestAttemptId"`
}

type received struct {
	MessageID  string            `json:"MessageId"`
	Receipt    string            `json:"ReceiptHandle"`
	MD5        string            `json:"MD5OfBody"`
	Body       string            `json:"Body"`
	Attributes map[string]string `json:"Attributes,omitempty"`
}

func inRange(p *int, normal, least, most int, name string) (int, error) {
	if p == nil {
		return normal, nil
	}
	if *p < least || *p > most {
		return 0, invalid("Value %d for parameter %s is invalid. Reason: Must be between %d and %d, if provided.", *p, name, least, most)
	}
	return *p, nil
}

// receive hands out visible messages, waiting for the first one.
func (s *Service) receive(ctx context.Context, in *receiveInput) (any, error) {
	most, err := inRange(in.MaxNumberOfMessages, 1, 1, 10, "MaxNumberOfMessages")
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	q, err := s.at(in.QueueURL)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	wait, err := inRange(in.WaitTimeSeconds, int(q.wait.Seconds()), 0, 20, "WaitTimeSeconds")
	if err != nil {
		return nil, err
	}
	visibility, err := inRange(in.VisibilityTimeout, int(q.visibility.Seconds()), 0, 43200, "VisibilityTimeout")
	if err != nil {
		return nil, err
	}
	timeout := s.cfg.Clock.NewTimer(time.Duration(wait) * time.Second)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		now := s.cfg.Clock.Now()
		q.expire(now)
		out, next := q.take(now, most, time.Duration(visibility)*time.Second, in)
		arrived := q.arrived
		s.mu.Unlock()
		if len(out) > 0 || wait == 0 {
			return map[string]any{"Messages": out}, nil
		}
		// A message that is in flight may become visible while we wait.
		var again <-chan time.Time
		if !next.IsZero() {
			t := s.cfg.Clock.NewTimer(next.Sub(now))
			defer t.Stop()
			again = t.C()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timeout.C():
			wait = 0 // look once more, then answer
		case <-arrived:
		case <-again:
		}
	}
}

// take receives up to most messages, and says when the next one becomes
// visible.
func (q *state) take(now time.Time, most int, visibility time.Duration, in *receiveInput) ([]received, time.Time) {
	var out []received
	var next time.Time
	for _, m := range q.messages {
		if m.visible.After(now) {
			if next.IsZero() || m.visible.Before(next) {
				next = m.visible
			}
			continue
		}
		if len(out) == most {
			break
		}
		if m.received++; m.received == 1 {
			m.first = now
		}
		m.visible = now.Add(visibility)
		m.receipt = base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%s %d %016x", m.id, m.received, rand.Uint64()))
		r := received{MessageID: m.id, Receipt: m.receipt, MD5: digest(m.body), Body: m.body}
		all := map[string]string{
			"ApproximateReceiveCount": strconv.Itoa(m.received), "SentTimestamp": strconv.FormatInt(m.sent.UnixMilli(), 10),
			"ApproximateFirstReceiveTimestamp": strconv.FormatInt(m.first.UnixMilli(), 10),
		}
		for _, name := range slices.Concat(in.AttributeNames, in.MessageSystemAttributeNames) {
			for k, v := range all {
				if name == k || name == "All" {
					if r.Attributes == nil {
						r.Attributes = map[string]string{}
					}
					r.Attributes[k] = v
				}
			}
		}
		out = append(out, r)
	}
	return out, next
}

type deleteInput struct {
	QueueURL      string `json:"QueueUrl"`
	ReceiptHandle string
}

// remove deletes by receipt handle. A handle that is out of date deletes
// nothing and is no error, as in standard queues.
func (q *state) remove(receipt string) error {
	raw, err := base64.RawURLEncoding.DecodeString(receipt)
	if err != nil || strings.Count(string(raw), " ") != 2 {
		return &Error{"ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid", "The input receipt handle is invalid."}
	}
	q.messages = slices.DeleteFunc(q.messages, func(m *message) bool { return m.receipt == receipt })
	return nil
}

func (s *Service) deleteOne(in *deleteInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.at(in.QueueURL)
	if err != nil {
		return nil, err
	}
	if err := q.remove(in.ReceiptHandle); err != nil {
		return nil, err
	}
	return map[string]string{}, nil
}

type deleteBatchInput struct {
	QueueURL string `json:"QueueUrl"`
	Entries  []struct {
		ID            string `json:"Id"`
		ReceiptHandle string
	}
}

func (s *Service) deleteBatch(in *deleteBatchInput) (any, error) {
	if len(in.Entries) == 0 {
		return nil, &Error{"EmptyBatchRequest", "AWS.SimpleQueueService.EmptyBatchRequest", "There should be at least one DeleteMessageBatchRequestEntry in the request."}
	}
	if len(in.Entries) > 10 {
		return nil, &Error{"TooManyEntriesInBatchRequest", "AWS.SimpleQueueService.TooManyEntriesInBatchRequest", "Maximum number of entries per request are 10."}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.at(in.QueueURL)
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for _, e := range in.Entries {
		if ids[e.ID] {
			return nil, &Error{"BatchEntryIdsNotDistinct", "AWS.SimpleQueueService.BatchEntryIdsNotDistinct", "Id " + e.ID + " repeated."}
		}
		ids[e.ID] = true
	}
	done, failed := []map[string]any{}, []map[string]any{}
	for _, e := range in.Entries {
		if err := q.remove(e.ReceiptHandle); err != nil {
			failed = append(failed, map[string]any{"Id": e.ID, "SenderFault": true, "Code": "ReceiptHandleIsInvalid", "Message": "The input receipt handle is invalid."})
			continue
		}
		done = append(done, map[string]any{"Id": e.ID})
	}
	return map[string]any{"Successful": done, "Failed": failed}, nil
}
