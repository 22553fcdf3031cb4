package drain

import (
	"context"
	"sync"
	"time"
)

// paceLongest is the longest wait for a turn. Whoever would have to wait longer
// is sent away, to ask again with its next pass: a pass never waits for others.
const paceLongest = time.Second

// paceDebt is for how long calls are owed while Borrow still gives a turn.
const paceDebt = 3 * time.Second

// paceBack is how many calls that are owed each turn pays back.
const paceBack = 2

// Pace spaces the calls of all drains, so that the API server sees no more of
// them in a second than it was made for, however many nodes drain. Evictions and what
// can wait as well take turns; what else a drain writes is owed. Turns that nobody takes
// pay that back, and paceBack beside each that somebody takes: whoever waits for turns
// gets a third of them at least, whatever is owed.
type Pace struct {
	every time.Duration
	mu    sync.Mutex
	next  time.Time
	// owed are calls that waited for no turn.
	owed int
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
	now := time.Now()
	if until := now.Add(min(d, paceRest)); until.After(p.free(now)) {
		p.next = until
	}
}

// free is when the next turn is that nobody has taken. Those that have passed have
// paid back what was owed.
func (p *Pace) free(now time.Time) time.Time {
	if p.next.After(now) {
		return p.next
	}
	if idle := int64(now.Sub(p.next) / p.every); idle < int64(p.owed) {
		p.owed -= int(idle)
		p.next = p.next.Add(time.Duration(idle) * p.every)
	} else {
		p.owed, p.next = 0, now
	}
	return now
}

// take takes turns from one on that is free.
func (p *Pace) take(free time.Time, turns int) {
	back := min(p.owed, turns*paceBack)
	p.owed -= back
	p.next = free.Add(time.Duration(turns+back) * p.every)
}

// debt is how long it takes until all turns that are taken have passed and what is
// owed is paid back.
func (p *Pace) debt(now time.Time) time.Duration {
	return p.free(now).Sub(now) + time.Duration(p.owed)*p.every
}

// Spend takes that many turns in advance, for calls that are to follow; false when
// half of paceLongest is taken or owed already. The other half is for those that wait.
func (p *Pace) Spend(turns int) bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.debt(now) > paceLongest/2 {
		return false
	}
	p.take(p.free(now), turns)
	return true
}

// Borrow lets a call go at once, whoever waits, for what ends soon and takes few calls;
// false when paceDebt is taken or owed already.
func (p *Pace) Borrow() bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.debt(time.Now()) > paceDebt {
		return false
	}
	p.owed++
	return true
}

// Charge counts calls that wait for nobody: turns to come are the farther apart.
func (p *Pace) Charge(calls int) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free(time.Now()) // What has passed so far pays for what was owed so far.
	p.owed += calls
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
	p.take(turn, 1)
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
