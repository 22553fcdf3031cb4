package ec2

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

const (
	// pollWait is how long SQS waits for a message before it answers that there
	// is none: the most that it allows.
	pollWait = 20 * time.Second
	// pollMost is the most messages that SQS gives at once.
	pollMost = 10
	// hideFor is how long a received message is hidden from other receivers:
	// one that was not dealt with by then comes again.
	hideFor = 60 * time.Second
)

// Message is a message of the interruption queue.
type Message struct {
	// ID of the message, the same each time that it is received.
	ID   string
	Body []byte
	// ReceivedAt is when this process got it; Sent when SQS did.
	ReceivedAt, Sent time.Time
	// receipt is what SQS wants to see to remove it.
	receipt string
}

// Queue is the SQS queue that EventBridge puts events about instances into.
type Queue struct {
	client *sqs.Client
	url    string
	name   string
}

// Queue finds an SQS queue by name. The error says what to do when there is none.
func (c *Cloud) Queue(ctx context.Context, name string) (*Queue, error) {
	got, err := c.sqs.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String(name)})
	if err != nil {
		err = translate("GetQueueUrl", err)
		var bad *ConfigError
		if errors.As(err, &bad) && !isDeniedCode(bad.Code) {
			bad.Fix = "create the queue and its EventBridge rules (docs/interruption.md), or correct --interruption-queue"
		}
		return nil, fmt.Errorf("looking up the interruption queue %s: %w", name, err)
	}
	return &Queue{client: c.sqs, url: aws.ToString(got.QueueUrl), name: name}, nil
}

// Receive waits up to 20 s for messages and returns up to ten; none is no error.
func (q *Queue) Receive(ctx context.Context) ([]Message, error) {
	got, err := q.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: aws.String(q.url), MaxNumberOfMessages: pollMost, WaitTimeSeconds: int32(pollWait / time.Second),
		VisibilityTimeout:           int32(hideFor / time.Second),
		MessageSystemAttributeNames: []sqstypes.MessageSystemAttributeName{sqstypes.MessageSystemAttributeNameSentTimestamp},
	})
	if err != nil {
		return nil, fmt.Errorf("receiving from queue %s: %w", q.name, translate("ReceiveMessage", err))
	}
	now := time.Now()
	out := make([]Message, 0, len(got.Messages))
	for _, m := range got.Messages {
		out = append(out, Message{ID: aws.ToString(m.MessageId), Body: []byte(aws.ToString(m.Body)), ReceivedAt: now,
			Sent: sentAt(m.Attributes), receipt: aws.ToString(m.ReceiptHandle)})
	}
	return out, nil
}

// sentAt is milliseconds since 1970, as text.
func sentAt(attributes map[string]string) time.Time {
	ms, err := strconv.ParseInt(attributes[string(sqstypes.MessageSystemAttributeNameSentTimestamp)], 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// Delete removes up to ten messages for good. Those that SQS could not remove
// come again; the error names the first.
func (q *Queue) Delete(ctx context.Context, messages []Message) error {
	if len(messages) == 0 {
		return nil
	}
	in := &sqs.DeleteMessageBatchInput{QueueUrl: aws.String(q.url)}
	for i, m := range messages {
		in.Entries = append(in.Entries, sqstypes.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: aws.String(m.receipt)})
	}
	got, err := q.client.DeleteMessageBatch(ctx, in)
	if err != nil {
		return fmt.Errorf("removing %d messages from queue %s: %w", len(messages), q.name, translate("DeleteMessageBatch", err))
	}
	if len(got.Failed) > 0 {
		f := got.Failed[0]
		return fmt.Errorf("removing a message from queue %s: %s: %s (%d of %d failed)", q.name, aws.ToString(f.Code), aws.ToString(f.Message), len(got.Failed), len(messages))
	}
	return nil
}
