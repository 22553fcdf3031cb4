package drain

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func leavingPod(name string, told time.Time, grace time.Duration) *corev1.Pod {
	p := pod(name)
	seconds := int64(grace / time.Second)
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: told.Add(grace)}, &seconds
	p.Spec.TerminationGracePeriodSeconds = &seconds
	return p
}

// TestSilentKubeletsAreNotWaitedFor: a long grace period means nothing where
// nobody will say that it is over.
func TestSilentKubeletsAreNotWaitedFor(t *testing.T) {
	deadline := start.Add(3 * time.Hour)
	for name, tc := range map[string]struct {
		silent bool
		after  time.Duration
		want   Action
	}{
		"the kubelet reports":         {false, time.Hour, Wait},
		"it is silent, for a moment":  {true, silentAfter - time.Second, Wait},
		"it is silent, for long":      {true, silentAfter, Skip},
		"its grace period is over":    {false, 2*time.Hour + stuckAfter, Skip},
		"its grace period is all but": {false, 2*time.Hour + stuckAfter - time.Second, Wait},
	} {
		t.Run(name, func(t *testing.T) {
			node := testNode
			node.Unreachable = tc.silent
			v := Classify([]*corev1.Pod{leavingPod("a", start, 2*time.Hour)}, node, start.Add(tc.after), deadline)[0]
			if v.Action != tc.want {
				t.Errorf("%s (%s), want %s", v.Action, v.Reason, tc.want)
			}
		})
	}
}

// TestADrainNamesWhatItWaitsFor: held pods, pods with finalizers and volumes.
func TestADrainNamesWhatItWaitsFor(t *testing.T) {
	stuck := leavingPod("stuck", start, time.Minute)
	stuck.Finalizers = []string{"example.com/backup"}
	held := pod("held")
	held.UID = "held"
	pv := "pv-1"
	in := Input{Node: testNode, Pods: []*corev1.Pod{stuck, held}, Now: start.Add(10 * time.Second), Started: start, Deadline: start.Add(time.Hour),
		Held:        map[types.UID]string{"held": "waits for room"},
		Attachments: []*storagev1.VolumeAttachment{{Spec: storagev1.VolumeAttachmentSpec{NodeName: testNode.Name, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &pv}}}}}
	contains := func(r Result, want ...string) {
		t.Helper()
		for _, w := range want {
			if m := r.Message(); !strings.Contains(m, w) {
				t.Errorf("%q does not say %q", m, w)
			}
		}
	}
	contains(Pass(t.Context(), scripted{}, in), "waiting for 2 pods", "stuck: terminating, with finalizers example.com/backup", "held: waits for room", "1 volumes (pv-1)")
	in.Now = in.Deadline
	in.Node.TaintSeen = start
	in.Pods = []*corev1.Pod{leavingPod("late", start, time.Hour)}
	contains(Pass(t.Context(), scripted{}, in), "the deadline has passed", "late: terminating")
}

// TestOneThrottleRestsAllDrains: what the API server asks of one drain, the
// others heed.
func TestOneThrottleRestsAllDrains(t *testing.T) {
	pace := NewPace(1000)
	api := scripted{answers: map[string]error{"a": statusErr(429, metav1.StatusReasonTooManyRequests)}, asked: make(chan string, 1)}
	r := Pass(t.Context(), api, Input{Node: testNode, Pods: []*corev1.Pod{pod("a")}, Now: start, Started: start, Deadline: start.Add(time.Hour), Pace: pace})
	if !r.Throttled {
		t.Fatalf("not throttled: %+v", r)
	}
	if pace.Turn(t.Context()) {
		t.Error("another drain has its turn at once")
	}
}
