package v1alpha1

import "time"

const (
	// PauseDefault is what a pause stands for that names no time.
	PauseDefault = time.Hour
	// PauseMost is the longest pause: it must end by itself.
	PauseMost = 30 * 24 * time.Hour
)

// PausedUntil says when the pause ends that an annotation of this value stands for;
// zero: there is none, or it is over.
func PausedUntil(value string, now time.Time) time.Time {
	if value == "" || value == "false" {
		return time.Time{}
	}
	if end, _ := PauseEnd(value, now); end.After(now) {
		return end
	}
	return time.Time{}
}

// PauseEnd reads the value of a pause annotation: when it ends, and whether that
// is what it says, or is to be written into it first.
func PauseEnd(value string, now time.Time) (end time.Time, written bool) {
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		if most := now.Add(PauseMost); t.After(most) {
			return most.Truncate(time.Second), false
		}
		return t, true
	}
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		d = PauseDefault // Whoever wrote it wants a pause, now.
	}
	return now.Add(min(d, PauseMost)).Truncate(time.Second), false
}
