package provisioner

import (
	"testing"
	"time"
)

// TestRhythm: rounds that go on without end take a tenth of the time, or pause
// for as long as anybody has to wait; a few in between wait for nothing.
func TestRhythm(t *testing.T) {
	const rounds = 1000
	for _, tc := range []struct {
		took, every time.Duration // every: how long the loop sleeps after the pause.
		share       float64
		last        time.Duration
	}{
		{100 * time.Millisecond, 0, 0.1, 900 * time.Millisecond},
		{20 * time.Millisecond, 0, 0.1, 180 * time.Millisecond},
		{time.Millisecond, 0, 1. / 51, roundPause},
		{2 * time.Second, 0, 0.5, longestRoundPause},
		{100 * time.Millisecond, time.Second, 1. / 11.5, roundPause},
	} {
		var r rhythm
		now := time.Unix(1e9, 0)
		var busy, last time.Duration
		start := now
		for range rounds {
			now = now.Add(tc.took)
			busy += tc.took
			last = r.after(tc.took, now)
			now = now.Add(last + tc.every)
		}
		if share := float64(busy) / float64(now.Sub(start)); share > tc.share*1.05 || share < tc.share*0.95 || last != tc.last {
			t.Errorf("rounds of %s, %s apart: %.3f of the time, want %.3f; the last pause is %s", tc.took, tc.every, share, tc.share, last)
		}
	}
	var r rhythm
	now := time.Unix(1e9, 0)
	for i := range 2 {
		now = now.Add(100 * time.Millisecond)
		if got := r.after(100*time.Millisecond, now); got != roundPause {
			t.Errorf("pause %d is %s", i, got)
		}
		now = now.Add(roundPause)
	}
}
