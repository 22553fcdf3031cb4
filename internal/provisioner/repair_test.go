package provisioner

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/internal/ec2"
)

var repairNow = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// condition of a node that has lasted for a time.
func condition(kind corev1.NodeConditionType, status corev1.ConditionStatus, lasted time.Duration) corev1.NodeCondition {
	return corev1.NodeCondition{Type: kind, Status: status, LastTransitionTime: metav1.Time{Time: repairNow.Add(-lasted)}}
}

func TestSick(t *testing.T) {
	ready := condition(corev1.NodeReady, corev1.ConditionTrue, time.Hour)
	silent := func(d time.Duration) corev1.NodeCondition {
		return condition(corev1.NodeReady, corev1.ConditionUnknown, d)
	}
	for name, tc := range map[string]struct {
		p           patient
		sick, byEC2 bool
	}{
		"a node that is ready is well":                        {patient{conditions: []corev1.NodeCondition{ready}}, false, false},
		"a node without conditions is not judged":             {patient{}, false, false},
		"a kubelet that is silent for a moment may come back": {patient{conditions: []corev1.NodeCondition{silent(9 * time.Minute)}}, false, false},
		"a kubelet that is silent for long does not":          {patient{conditions: []corev1.NodeCondition{silent(10 * time.Minute)}}, true, false},
		"a node that says it is not ready":                    {patient{conditions: []corev1.NodeCondition{condition(corev1.NodeReady, corev1.ConditionFalse, 11*time.Minute)}}, true, false},
		"a broken GPU":                                        {patient{conditions: []corev1.NodeCondition{ready, condition("AcceleratedHardwareReady", corev1.ConditionFalse, 10*time.Minute)}}, true, false},
		"an agent that does not know about the GPU":           {patient{conditions: []corev1.NodeCondition{ready, condition("AcceleratedHardwareReady", corev1.ConditionUnknown, time.Hour)}}, false, false},
		"a full disk is the kubelet's affair":                 {patient{conditions: []corev1.NodeCondition{ready, condition(corev1.NodeDiskPressure, corev1.ConditionTrue, time.Hour)}}, false, false},
		"EC2 and the kubelet agree": {patient{conditions: []corev1.NodeCondition{silent(3 * time.Minute)},
			impaired: []string{"system"}, impairedSince: repairNow.Add(-2 * time.Minute)}, true, true},
		"EC2 alone is believed later": {patient{conditions: []corev1.NodeCondition{ready},
			impaired: []string{"instance"}, impairedSince: repairNow.Add(-9 * time.Minute)}, false, false},
		"EC2 alone is believed in the end": {patient{conditions: []corev1.NodeCondition{ready},
			impaired: []string{"instance"}, impairedSince: repairNow.Add(-10 * time.Minute)}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			why, byEC2 := tc.p.sick(repairNow)
			if (why != "") != tc.sick || byEC2 != tc.byEC2 {
				t.Errorf("sick %q, by EC2 %t; want %t, %t", why, byEC2, tc.sick, tc.byEC2)
			}
		})
	}
}

// pool makes n nodes of a Provisioner, of which the first are ill.
func pool(provisioner string, n, ill, repairing int) []patient {
	var out []patient
	for i := range n {
		p := patient{name: fmt.Sprintf("%s-%02d", provisioner, i), provisioner: provisioner, created: repairNow.Add(time.Duration(i) * time.Second),
			conditions: []corev1.NodeCondition{condition(corev1.NodeReady, corev1.ConditionTrue, time.Hour)}}
		if i < repairing {
			p.repairing = true
		} else if i < repairing+ill {
			p.conditions[0] = condition(corev1.NodeReady, corev1.ConditionUnknown, time.Hour)
		}
		out = append(out, p)
	}
	return out
}

func TestRepairBreaker(t *testing.T) {
	impaired := func(ps []patient) []patient {
		for i := range ps {
			if ps[i].conditions[0].Status == corev1.ConditionUnknown {
				ps[i].impaired, ps[i].impairedSince = []string{"system"}, repairNow.Add(-time.Hour)
			}
		}
		return ps
	}
	healthy := pool("other", 20, 0, 0)
	for name, tc := range map[string]struct {
		patients []patient
		probed   time.Duration
		want     []string
	}{
		"one node of one":                             {patients: pool("a", 1, 1, 0), want: []string{"a-00"}},
		"two of four: one after the other":            {patients: pool("a", 4, 2, 0), want: []string{"a-00"}},
		"the second while the first is replaced: not": {patients: pool("a", 4, 1, 1)},
		"two of two":                                  {patients: pool("a", 2, 2, 0), want: []string{"a-00"}},
		"a fifth of ten at a time":                    {patients: pool("a", 10, 3, 0), want: []string{"a-00", "a-01"}},
		"and no more while those are replaced":        {patients: pool("a", 10, 2, 2)},
		"most of a pool: one, as a probe":             {patients: append(pool("a", 10, 6, 0), healthy...), want: []string{"a-00"}},
		"and the next probe only later":               {patients: append(pool("a", 10, 6, 0), healthy...), probed: probeEvery - time.Second},
		"but then":                                    {patients: append(pool("a", 10, 6, 0), healthy...), probed: probeEvery, want: []string{"a-00"}},
		"most of the cluster: nobody":                 {patients: append(pool("a", 5, 3, 0), pool("b", 5, 3, 0)...)},
		"but those that EC2 finds impaired": {patients: append(impaired(pool("a", 5, 1, 0)), pool("b", 5, 5, 0)...),
			want: []string{"a-00"}},
		"pools do not hold each other up": {patients: append(append(pool("a", 4, 1, 0), pool("b", 4, 1, 0)...), healthy...),
			want: []string{"a-00", "b-00"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := ward{}
			if tc.probed > 0 {
				w.probed = map[string]time.Time{"a": repairNow.Add(-tc.probed)}
			}
			due, held := w.decide(tc.patients, repairNow)
			var got []string
			for _, r := range due {
				got = append(got, r.patient.name)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("replaced (-want +got):\n%s\nheld: %v", diff, held)
			}
		})
	}
}

// TestRepairIsBounded: whatever the cluster looks like, never more than a fifth
// of a pool (but one) is being replaced, only ill nodes are, and an ill node
// that is not replaced is explained.
func TestRepairIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var patients []patient
		sizes := map[string]int{}
		busy := map[string]int{}
		ill := map[string]bool{}
		for _, name := range []string{"a", "b", "c"} {
			n := rapid.IntRange(0, 12).Draw(t, "nodes of "+name)
			repairing := rapid.IntRange(0, n).Draw(t, "being replaced of "+name)
			sick := rapid.IntRange(0, n-repairing).Draw(t, "ill of "+name)
			ps := pool(name, n, sick, repairing)
			for i := repairing; i < repairing+sick; i++ {
				ill[ps[i].name] = true
			}
			sizes[name], busy[name] = n, repairing
			patients = append(patients, ps...)
		}
		w := ward{}
		due, held := w.decide(slices.Clone(patients), repairNow)
		taken := map[string]int{}
		for _, r := range due {
			if !ill[r.patient.name] || r.why == "" {
				t.Errorf("%s is replaced, because %q", r.patient.name, r.why)
			}
			taken[r.patient.provisioner]++
			delete(ill, r.patient.name)
		}
		for name, n := range taken {
			if most := max(1, sizes[name]/5); busy[name]+n > most {
				t.Errorf("%d of %d nodes of %s are replaced at once", busy[name]+n, sizes[name], name)
			}
		}
		for name := range ill {
			if held[name[:1]] == "" {
				t.Errorf("%s is ill, is not replaced, and nobody is told", name)
			}
		}
	})
}

// TestTroubleWithoutADate: checks that fail since nobody knows when get the
// patience of those that have just begun to.
func TestTroubleWithoutADate(t *testing.T) {
	failing := ec2.Trouble{InstanceID: "i", Failing: []string{"system"}}
	first := dated(failing, ec2.Trouble{}, repairNow)
	second := dated(failing, first, repairNow.Add(time.Minute))
	if !first.Since.Equal(repairNow) || !second.Since.Equal(repairNow) {
		t.Errorf("since %s, then %s", first.Since, second.Since)
	}
	p := patient{impaired: second.Failing, impairedSince: second.Since}
	if why, _ := p.sick(repairNow.Add(time.Minute)); why != "" {
		t.Error(why)
	}
	failing.Since = repairNow.Add(-time.Hour)
	if got := dated(failing, first, repairNow); !got.Since.Equal(failing.Since) {
		t.Errorf("EC2 says %s, not %s", failing.Since, got.Since)
	}
}
