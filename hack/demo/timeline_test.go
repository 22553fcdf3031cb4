package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTimeline(t *testing.T) {
	l := newLife().arrive()
	var rows []row
	l.j.look(func(w *world) { rows = timeline(w) })
	want := []string{
		"node  bought           zone     $/h  decided  launched  regist.  init.  bound  total",
		"n1    m7g.medium spot  a     0.1000      100       200     2000     40     60   2400",
	}
	if diff := cmp.Diff(want, timelineTable(rows)); diff != "" {
		t.Errorf("timeline (-want +got):\n%s", diff)
	}
	if got, want := rows[0].pods, "web"; got != want {
		t.Errorf("pods %q, want %q", got, want)
	}
	if got, want := rows[0].why, "m7g.medium spot in a: cheapest."; got != want {
		t.Errorf("why %q, want %q", got, want)
	}
	if diff := cmp.Diff([]string{"1 launches, $0.1000/h."}, plansOf(append(rows, rows...))); diff != "" {
		t.Errorf("plans (-want +got):\n%s", diff)
	}
	var times []time.Duration
	l.j.look(func(w *world) { times = timeToBound(w) })
	if diff := cmp.Diff([]time.Duration{2400 * time.Millisecond}, times); diff != "" {
		t.Errorf("times to bound: the impossible pod has none (-want +got):\n%s", diff)
	}
}

func TestTimelineFitsATerminal(t *testing.T) {
	r := row{number: 10, offering: offering{"m7gd.12xlarge", "on-demand", "us-west-2a", 1.2345}}
	for i := range r.stages {
		r.stages[i] = stage{12345 * time.Millisecond, true}
	}
	r.whole = r.stages[0]
	for _, l := range timelineTable([]row{r}) {
		if n := len("  " + l); n > width {
			t.Errorf("%d columns: %s", n, l)
		}
	}
}

func TestStage(t *testing.T) {
	tests := map[string]struct {
		a, b time.Time
		want string
	}{
		"known":               {epoch, epoch.Add(1500 * time.Millisecond), "1500"},
		"over before its own": {epoch.Add(time.Second), epoch, "before"},
		"not begun":           {time.Time{}, epoch, "?"},
		"not ended":           {epoch, time.Time{}, "?"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := between(tt.a, tt.b).String(); got != tt.want {
				t.Errorf("stage %q, want %q", got, tt.want)
			}
		})
	}
}

func TestFeedTellsALife(t *testing.T) {
	l := newLife().arrive().leave(t)
	want := []string{
		"    +0.000 s  created          web, impossible",
		"    +0.100 s  decided     n1   m7g.medium spot a at $0.1000/h, Provisioner default",
		"    +0.150 s  no berth         impossible: too big",
		"    +0.300 s  launched    n1   i-1",
		"    +2.300 s  registered  n1   ip-1",
		"    +2.340 s  initialized n1",
		"    +2.405 s  running     n1   web",
		"    +2.415 s  removing    n1   deleted by hand",
		"    +2.425 s  cordoned    n1",
		"    +2.435 s  leaving     n1   web",
		"    +2.455 s  terminating n1   i-1",
		"    +2.465 s  terminated  n1   i-1; $0.0000/h left",
		"    +2.475 s  node gone   n1",
	}
	if diff := cmp.Diff(want, feedLines(l.j.take(), epoch)); diff != "" {
		t.Errorf("feed (-want +got):\n%s", diff)
	}
	if more := l.j.take(); len(more) > 0 {
		t.Errorf("told again: %v", more)
	}
}

func TestFeedLines(t *testing.T) {
	at := epoch.Add(time.Second)
	tests := map[string]struct {
		moments []moment
		want    []string
	}{
		"nothing": {},
		"many at once are one line": {
			moments: []moment{{at: at, node: 1, what: "running", who: "web"}, {at: at, node: 2, what: "running", who: "web"}, {at: at, node: 1, what: "running", who: "batch"}, {at: at, node: 1, what: "running", who: "web"}},
			want: []string{
				"    +1.000 s  running     n1   web x2, batch",
				"    +1.000 s  running     n2   web",
			},
		},
		"facts are never merged": {
			moments: []moment{{at: at, what: "warning", rest: "x"}, {at: at, what: "warning", rest: "x"}},
			want:    []string{"    +1.000 s  warning          x", "    +1.000 s  warning          x"},
		},
		"a long one goes on under itself": {
			moments: []moment{{at: at, what: "no berth", who: "impossible", rest: "no node can be bought for this pod: it wants 500 CPUs and the largest machine has 192. Fix: ask for less"}},
			want: []string{
				"    +1.000 s  no berth         impossible: no node can be bought for this pod: it wants 500 CPUs and",
				"                               the largest machine has 192. Fix: ask for less",
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, feedLines(tt.moments, epoch)); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}
