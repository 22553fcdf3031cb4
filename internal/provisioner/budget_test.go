package provisioner

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestAllowed(t *testing.T) {
	// A Saturday, 02:30 in UTC.
	now := time.Date(2026, 11, 21, 2, 30, 0, 0, time.UTC)
	hour := &metav1.Duration{Duration: time.Hour}
	budgets := func(b ...v1alpha1.Budget) *v1alpha1.Disruption { return &v1alpha1.Disruption{Budgets: b} }
	for name, tc := range map[string]struct {
		d     *v1alpha1.Disruption
		why   v1alpha1.DisruptionReason
		total int
		want  int
	}{
		"ten percent, rounded up, without any budget":              {nil, v1alpha1.ReasonExpired, 11, 2},
		"empty nodes are free to go without a budget":              {nil, v1alpha1.ReasonEmpty, 11, 11},
		"a budget for all reasons holds empty nodes too":           {budgets(v1alpha1.Budget{Nodes: "1"}), v1alpha1.ReasonEmpty, 11, 1},
		"the strictest holds":                                      {budgets(v1alpha1.Budget{Nodes: "50%"}, v1alpha1.Budget{Nodes: "3"}), v1alpha1.ReasonExpired, 10, 3},
		"zero forbids":                                             {budgets(v1alpha1.Budget{Nodes: "0"}), v1alpha1.ReasonExpired, 10, 0},
		"a budget for another reason leaves the default":           {budgets(v1alpha1.Budget{Nodes: "0", Reasons: []v1alpha1.DisruptionReason{v1alpha1.ReasonDrifted}}), v1alpha1.ReasonExpired, 10, 1},
		"a schedule that began half an hour ago is in force":       {budgets(v1alpha1.Budget{Nodes: "0", Schedule: "0 2 * * *", Duration: hour}), v1alpha1.ReasonExpired, 10, 0},
		"a schedule that ended is not":                             {budgets(v1alpha1.Budget{Nodes: "0", Schedule: "0 1 * * *", Duration: hour}), v1alpha1.ReasonExpired, 10, 10},
		"a schedule in another time zone":                          {budgets(v1alpha1.Budget{Nodes: "0", Schedule: "0 21 * * 5", Duration: hour, TimeZone: "America/New_York"}), v1alpha1.ReasonExpired, 10, 0},
		"the same schedule in UTC is long over":                    {budgets(v1alpha1.Budget{Nodes: "0", Schedule: "0 21 * * 5", Duration: hour}), v1alpha1.ReasonExpired, 10, 10},
		"a schedule that begins this minute is in force":           {budgets(v1alpha1.Budget{Nodes: "0", Schedule: "30 2 * * *", Duration: hour}), v1alpha1.ReasonExpired, 10, 0},
		"a hundred percent of nothing is nothing":                  {budgets(v1alpha1.Budget{Nodes: "100%"}), v1alpha1.ReasonExpired, 0, 0},
		"a number above the total allows no more than there is":    {budgets(v1alpha1.Budget{Nodes: "100"}), v1alpha1.ReasonExpired, 7, 7},
		"one percent of a few nodes still lets the expired one go": {budgets(v1alpha1.Budget{Nodes: "1%"}), v1alpha1.ReasonExpired, 3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := allowed(tc.d, tc.why, tc.total, now)
			if err != nil || got != tc.want {
				t.Fatalf("allowed = %d, %v; want %d", got, err, tc.want)
			}
		})
	}
}

func TestAllowedRefusesWhatItCannotRead(t *testing.T) {
	hour := &metav1.Duration{Duration: time.Hour}
	for name, b := range map[string]v1alpha1.Budget{
		"a schedule": {Nodes: "1", Schedule: "every day", Duration: hour},
		"a time zone in the schedule, which the library would panic on": {Nodes: "1", Schedule: "TZ=x", Duration: hour},
		"a time zone": {Nodes: "1", Schedule: "0 2 * * *", Duration: hour, TimeZone: "Mars/Olympus"},
		"a number":    {Nodes: "many"},
		"a share":     {Nodes: "200%"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := allowed(&v1alpha1.Disruption{Budgets: []v1alpha1.Budget{b}}, v1alpha1.ReasonExpired, 10, time.Now())
			if err == nil || n != 0 {
				t.Fatalf("allowed = %d, %v; want 0 and an error", n, err)
			}
		})
	}
}

func TestAllowedIsNeverMoreThanThereIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.IntRange(0, 5000).Draw(t, "total")
		d := &v1alpha1.Disruption{}
		for _, s := range rapid.SliceOfN(rapid.StringMatching(`(100|[0-9]{1,2})%|[0-9]{1,6}`), 0, 4).Draw(t, "budgets") {
			d.Budgets = append(d.Budgets, v1alpha1.Budget{Nodes: s})
		}
		n, err := allowed(d, v1alpha1.ReasonExpired, total, time.Now())
		if err != nil || n < 0 || n > total {
			t.Fatalf("allowed = %d, %v of %d", n, err, total)
		}
	})
}

func FuzzInForce(f *testing.F) {
	f.Add("0 2 * * *", "Europe/Berlin", int64(time.Hour))
	f.Add("TZ=x", "", int64(time.Minute))
	f.Add("@every 1s", "UTC", int64(time.Second))
	f.Fuzz(func(t *testing.T, schedule, zone string, duration int64) {
		b := v1alpha1.Budget{Nodes: "1", Schedule: schedule, TimeZone: zone, Duration: &metav1.Duration{Duration: time.Duration(duration)}}
		// Must not panic; what it cannot read is an error.
		if _, err := inForce(b, time.Date(2026, 11, 21, 2, 30, 0, 0, time.UTC)); err == nil && schedule != "" && !strings.ContainsAny(schedule, "*@0123456789?") {
			t.Errorf("%q was read as a schedule", schedule)
		}
	})
}
