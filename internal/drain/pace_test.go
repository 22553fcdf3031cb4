package drain

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestEvictionsGoOnWhileManyEmptyNodesEnd: hundreds of empty nodes write six times each
// and wait for nobody. A drain gets a third of the turns all the same, and all together
// write no more often than they may.
func TestEvictionsGoOnWhileManyEmptyNodesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, nodes, end = 22, 330, 6
		p := NewPace(rate)
		began := time.Now()
		left, turns, calls := nodes, 0, 0
		ends := map[int]int{} // By second: how many nodes have ended.
		for second := 0; second < 60; second++ {
			for left > 0 && p.Borrow() {
				left--
				calls++
				ends[second+5]++
			}
			for range ends[second] {
				p.Charge(end)
				calls += end
			}
			for p.Turn(t.Context()) {
				turns++
				calls++
				if time.Since(began) >= time.Duration(second+1)*time.Second {
					break
				}
			}
			time.Sleep(time.Until(began.Add(time.Duration(second+1) * time.Second)))
			if least := (second + 1) * rate / 4; turns < least {
				t.Fatalf("%d evictions in %d s, want %d at least", turns, second+1, least)
			}
		}
		// What was borrowed comes back later: as much as paceDebt lends, and its end.
		most := 61*rate + int(paceDebt.Seconds())*rate*(1+end)
		if calls > most {
			t.Errorf("%d calls in a minute, want %d at most", calls, most)
		}
		if left > nodes*2/3 {
			t.Errorf("%d of %d empty nodes wait after a minute", left, nodes)
		}
	})
}

// TestWhatIsOwedIsPaidBackWhileNobodyWantsATurn: and no sooner.
func TestWhatIsOwedIsPaidBackWhileNobodyWantsATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPace(10)
		p.Charge(40)
		time.Sleep(900 * time.Millisecond)
		if p.Borrow() {
			t.Error("a turn was lent with more than three seconds owed")
		}
		time.Sleep(100 * time.Millisecond)
		if !p.Borrow() {
			t.Error("a turn was not lent with three seconds owed")
		}
		time.Sleep(time.Minute)
		for range 11 {
			if !p.Turn(t.Context()) {
				t.Fatal("turns are still paid back")
			}
		}
	})
}

// TestPodsOfANodeThatEndsSoonWaitForNoTurn: what is deleted, and what is about to be,
// is told although no turn is near. What has time waits.
func TestPodsOfANodeThatEndsSoonWaitForNoTurn(t *testing.T) {
	for name, tc := range map[string]struct {
		left time.Duration
		told bool
	}{
		"a spot notice":                 {105 * time.Second, true},
		"no time to ask budgets":        {10 * time.Second, true},
		"just before its time":          {30*time.Second + hurryFor - 1, true},
		"with time":                     {30*time.Second + hurryFor, false},
		"no deadline is recorded, ever": {0, false},
	} {
		t.Run(name, func(t *testing.T) {
			pace := NewPace(1000)
			pace.Rest(paceRest)
			in := Input{Node: testNode, Pods: []*corev1.Pod{pod("a")}, Now: start, Started: start, Pace: pace}
			if tc.left > 0 {
				in.Deadline = start.Add(tc.left)
			}
			r := Pass(t.Context(), scripted{asked: make(chan string, 1)}, in)
			if told := len(r.Evicted)+len(r.Deleted) > 0; told != tc.told {
				t.Errorf("told: %t", told)
			}
			if owed := pace.owed; (owed > 0) != tc.told {
				t.Errorf("%d calls are owed", owed)
			}
		})
	}
	t.Run("a hundred pods of one node", func(t *testing.T) {
		pace := NewPace(1)
		api := scripted{asked: make(chan string, 100)}
		var pods []*corev1.Pod
		for i := range 100 {
			pods = append(pods, pod("p"+string(rune('a'+i/26))+string(rune('a'+i%26))))
		}
		r := Pass(t.Context(), api, Input{Node: testNode, Pods: pods, Now: start, Started: start, Deadline: start.Add(105 * time.Second), Pace: pace})
		if len(r.Evicted) != 100 {
			t.Errorf("%d were told", len(r.Evicted))
		}
	})
}
