package drain

import (
	"context"
	"math"
	"sync"
	"time"
)

// paceLongest is the longest wait for a turn. Whoever would have to wait longer
// is sent away, to ask again with its next pass: a pass never waits for others.
const paceLongest = time.Second

// paceDebt is how far ahead turns are taken while Borrow still gives one.
const paceDebt = 3 * time.Second

// Pace spaces the calls of all drains, so that the API server sees no more of
// them in a second than it was made for, however many nodes drain. Evictions and what
// can wait as well take turns; what else a drain writes is charged.
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

// free is when the next turn is that nobody has taken.
func (p *Pace) free(now time.Time) time.Time {
	if p.next.After(now) {
		return p.next
	}
	return now
}

// Spend takes that many turns in advance, for calls that are to follow; false when
// half of paceLongest is taken already. The other half is for those that wait.
func (p *Pace) Spend(turns int) bool { return p.advance(turns, paceLongest/2) }

// Borrow takes a turn at once, whoever waits, for what ends soon and takes few calls;
// false when paceDebt is taken already.
func (p *Pace) Borrow() bool { return p.advance(1, paceDebt) }

// Charge takes that many turns for calls that wait for nobody: those to come wait
// the longer.
func (p *Pace) Charge(turns int) { p.advance(turns, math.MaxInt64) }

// advance takes turns, unless more than most is taken already.
func (p *Pace) advance(turns int, most time.Duration) bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	turn := p.free(now)
	if turn.Sub(now) > most {
		return false
	}
	p.next = turn.Add(time.Duration(turns) * p.every)
	return true
}

// Turn takes a turn and waits for it; false when none is near.
func (p *Pace) Turn(ctx context.Context) bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	now := time.Now()
	turn := p.free(now)
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
