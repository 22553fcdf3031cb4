package ec2

import (
	"context"
	"sync"
	"time"
)

const (
	// batchWindow is how long the first id of a batch waits for company.
	batchWindow = 20 * time.Millisecond
	// batchMost bounds the ids of a batch: a filter of EC2 takes 200 values
	// ("Quotas for Amazon EC2 filters").
	batchMost = 200
	// batchTimeout bounds a batch, waiting for the token bucket included.
	batchTimeout = 2 * time.Minute
)

// outcome is what a batch found out about one id.
type outcome[T any] struct {
	value T
	err   error
}

// batcher joins the questions of many callers, one id each, into few calls.
// An id that the answer leaves out is ErrNotFound to its caller.
type batcher[T any] struct {
	// send carries out a batch. An error is everybody's.
	send func(ctx context.Context, ids []string) (map[string]outcome[T], error)

	mu      sync.Mutex
	waiting map[string][]chan outcome[T]
}

// do waits for the batch that carries id, or for ctx to end. The batch goes on
// when ctx ends: it serves others too.
func (b *batcher[T]) do(ctx context.Context, id string) (T, error) {
	answer := make(chan outcome[T], 1)
	b.mu.Lock()
	if b.waiting == nil {
		b.waiting = map[string][]chan outcome[T]{}
		time.AfterFunc(batchWindow, b.flush)
	}
	b.waiting[id] = append(b.waiting[id], answer)
	b.mu.Unlock()
	select {
	case o := <-answer:
		return o.value, o.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// flush sends what has gathered, in as many calls as it takes.
func (b *batcher[T]) flush() {
	b.mu.Lock()
	waiting := b.waiting
	b.waiting = nil
	b.mu.Unlock()
	ids := make([]string, 0, len(waiting))
	for id := range waiting {
		ids = append(ids, id)
	}
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	for len(ids) > 0 {
		part := ids[:min(len(ids), batchMost)]
		ids = ids[len(part):]
		got, err := b.send(ctx, part)
		for _, id := range part {
			o, ok := got[id]
			switch {
			case err != nil:
				o = outcome[T]{err: err}
			case !ok:
				o = outcome[T]{err: unknownInstance(id)}
			}
			for _, c := range waiting[id] {
				c <- o
			}
		}
	}
}

// unknownInstance is the error for an id that EC2 did not mention.
func unknownInstance(id string) error {
	return &CallError{Kind: ErrNotFound, Fault: Fault{Action: "DescribeInstances", Message: "EC2 does not know instance " + id}}
}
