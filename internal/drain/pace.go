package drain

import (
	"context"
	"sync"
	"time"
)

// paceLongest is the longest wait for a turn. Whoever would have to wait longer
// is sent away, to ask again with its next pass: a pass never waits for others.
const paceLongest = time.Second

// Pace spaces the calls of all drains, so that the API server sees no more of
// them in a second than it was made for, however many nodes drain.
type Pace struct {
	every time.Duration
	mu    sync.Mutex
	next  time.Time
}

// NewPace allows that many calls a second, evenly spaced.
func NewPace(perSecond int) *Pace {
	return &Pace{every: time.Second / time.Duration(max(perSecond, 1))}
}

// paceRest is the longest rest that is taken at once.
const paceRest = 10 * time.Second

// Rest gives nobody a turn for a while: the API server is busy, and what it told
// one drain is true for all.
func (p *Pace) Rest(d time.Duration) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := time.Now().Add(min(d, paceRest)); until.After(p.next) {
		p.next = until
	}
}

// Turn takes a turn and waits for it; false when none is near.
func (p *Pace) Turn(ctx context.Context) bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	now := time.Now()
	turn := p.next
	if turn.Before(now) {
		turn = now
	}
	if turn.Sub(now) > paceLongest {
		p.mu.Unlock()
		return false
	}
	p.next = turn.Add(p.every)
	p.mu.Unlock()
	if turn.Equal(now) {
		return true
	}
	t := time.NewTimer(turn.Sub(now))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
