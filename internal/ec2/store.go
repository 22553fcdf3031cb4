package ec2

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// staleTTL is how long an answer may stand in when EC2 cannot be asked.
const staleTTL = time.Hour

// store remembers what AWS said, by question. The zero value is ready for use.
type store[T any] struct {
	mu      sync.Mutex
	entries map[string]*entry[T]
}

// entry is one remembered answer. Its lock is held while AWS is asked, so that
// everybody who has the same question waits for one answer.
type entry[T any] struct {
	mu sync.Mutex
	// until is the time in Unix nanoseconds up to which the value is believed
	// without asking. It is outside the lock so that expire never waits.
	until atomic.Int64
	asked time.Time
	value T
}

// get returns the remembered answer, or asks. An answer is believed for the
// time that ask returns beside it. When AWS cannot be asked just now, the last
// answer still holds for staleTTL: a list that failed says nothing.
func (s *store[T]) get(ctx context.Context, key string, ask func(context.Context) (T, time.Duration, error)) (T, error) {
	s.mu.Lock()
	if s.entries == nil {
		s.entries = map[string]*entry[T]{}
	}
	e := s.entries[key]
	if e == nil {
		e = &entry[T]{}
		s.entries[key] = e
	}
	s.mu.Unlock()

	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Now().UnixNano() < e.until.Load() {
		return e.value, nil
	}
	value, ttl, err := ask(ctx)
	now := time.Now()
	if err != nil {
		if !e.asked.IsZero() && now.Sub(e.asked) < staleTTL && isTransient(err) {
			return e.value, nil
		}
		var none T
		return none, err
	}
	e.value, e.asked = value, now
	e.until.Store(now.Add(ttl).UnixNano())
	return value, nil
}

// asked is when the remembered answer to a question was given; zero: never.
func (s *store[T]) asked(key string) time.Time {
	s.mu.Lock()
	e := s.entries[key]
	s.mu.Unlock()
	if e == nil {
		return time.Time{}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked
}

// values are all remembered answers, believed or not.
func (s *store[T]) values() []T {
	s.mu.Lock()
	entries := slices.Collect(maps.Values(s.entries))
	s.mu.Unlock()
	var out []T
	for _, e := range entries {
		e.mu.Lock()
		out = append(out, e.value)
		e.mu.Unlock()
	}
	return out
}

// expire makes the next get of every question ask again.
func (s *store[T]) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		e.until.Store(0)
	}
}
