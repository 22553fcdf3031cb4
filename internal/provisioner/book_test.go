package provisioner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
)

func podNamed(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
}

// TestSeatsStayConsistent checks the two maps of the book against a plain one.
func TestSeatsStayConsistent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBook()
		model := map[types.UID]string{}
		pods := []types.UID{"a", "b", "c", "d"}
		claims := []string{"x", "y", "z"}
		t.Repeat(map[string]func(*rapid.T){
			"give": func(t *rapid.T) {
				p, c := rapid.SampledFrom(pods).Draw(t, "pod"), rapid.SampledFrom(claims).Draw(t, "claim")
				b.give(p, c)
				model[p] = c
			},
			"take": func(t *rapid.T) {
				p := rapid.SampledFrom(pods).Draw(t, "pod")
				b.take(p)
				delete(model, p)
			},
			"drop": func(t *rapid.T) {
				c := rapid.SampledFrom(claims).Draw(t, "claim")
				b.drop(c)
				for p, on := range model {
					if on == c {
						delete(model, p)
					}
				}
			},
			"": func(t *rapid.T) {
				count := map[string]int{}
				for _, p := range pods {
					c, ok := b.of(p)
					if want, has := model[p]; ok != has || c != want {
						t.Fatalf("pod %s has a seat on %q, want %q", p, c, want)
					}
					if ok {
						count[c]++
					}
				}
				for _, c := range claims {
					if got := len(b.on(c)); got != count[c] {
						t.Fatalf("claim %s has %d seats, want %d", c, got, count[c])
					}
				}
			},
		})
	})
}

func TestShapeIsStoppedAfterTwoWastedLaunches(t *testing.T) {
	b := newBook()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	pod := podNamed("p")
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available"}}
	shape := capacity.ShapeHash(pod)
	for i := range breakerLimit {
		if _, stop := b.stopped(shape, now); stop {
			t.Fatalf("stopped after %d wasted launches", i)
		}
		b.give(pod.UID, fmt.Sprintf("claim-%d", i))
		if b.overdue(pod, false, false, now) {
			t.Fatal("overdue while the node is not ready")
		}
		pod.Status.Conditions[0].Message = fmt.Sprintf("0/%d nodes are available", 4+i)
		if b.overdue(pod, true, false, now) {
			t.Fatal("overdue the moment the node is ready")
		}
		now = now.Add(seatPatience)
		if !b.overdue(pod, true, false, now) {
			t.Fatal("not overdue after its patience")
		}
		if _, seated := b.of(pod.UID); seated {
			t.Fatal("an overdue pod keeps its seat")
		}
	}
	msg, stop := b.stopped(shape, now)
	if !stop || msg != "kube-scheduler says: 0/5 nodes are available" {
		t.Fatalf("stopped = %q, %v", msg, stop)
	}
	if _, stop := b.stopped(shape, now.Add(breakerPause+time.Second)); stop {
		t.Fatal("never tried again")
	}
}

// TestPodsWaitTheirTurn: kube-scheduler is slow in a burst, and the plan is right.
func TestPodsWaitTheirTurn(t *testing.T) {
	type at = time.Duration
	for name, c := range map[string]struct {
		said  []at // when kube-scheduler refuses the pod
		bound []at // when it binds another
		want  at   // when the seat is over; 0: never
	}{
		"refused once, then nothing happens":       {said: []at{1 * time.Second}, want: 15 * time.Second},
		"refused twice while others are bound":     {said: []at{1 * time.Second, 9 * time.Second}, bound: every(time.Second, 10*time.Minute), want: 15 * time.Second},
		"refused late, others bound before":        {said: []at{40 * time.Second}, bound: every(time.Second, 30*time.Second), want: 45 * time.Second},
		"refused once while others are bound":      {said: []at{1 * time.Second}, bound: every(time.Second, 10*time.Minute), want: seatPatienceMost},
		"not tried, and others are bound for long": {bound: every(time.Second, 100*time.Second), want: 115 * time.Second},
		"kube-scheduler is dead":                   {want: seatPatienceMost},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook()
			pod, start := podNamed("p"), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available"}}
			b.give(pod.UID, "claim")
			b.overdue(pod, false, false, start)
			for after := at(0); after <= 11*time.Minute; after += time.Second {
				if slices.Contains(c.said, after) {
					pod.Status.Conditions[0].Message += ", one more"
				}
				if slices.Contains(c.bound, after) {
					b.give("other", "elsewhere")
					b.bound(podNamed("other"), "elsewhere", start.Add(after))
				}
				if b.overdue(pod, true, false, start.Add(after)) {
					if after != c.want {
						t.Fatalf("the seat is over after %s, want %s", after, c.want)
					}
					return
				}
			}
			if c.want != 0 {
				t.Fatalf("the seat is never over, want %s", c.want)
			}
		})
	}
}

// every is a sequence of moments.
func every(step, end time.Duration) []time.Duration {
	var out []time.Duration
	for at := step; at <= end; at += step {
		out = append(out, at)
	}
	return out
}

func TestPodsOfOneShapeOnOneNodeAreOneWastedLaunch(t *testing.T) {
	b := newBook()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	pods := []*corev1.Pod{podNamed("a"), podNamed("b"), podNamed("c")}
	for _, p := range pods {
		b.give(p.UID, "claim")
		b.overdue(p, true, false, now)
	}
	now = now.Add(seatPatience)
	for _, p := range pods {
		if !b.overdue(p, true, false, now) {
			t.Fatalf("pod %s is not overdue", p.Name)
		}
	}
	if _, stop := b.stopped(capacity.ShapeHash(pods[0]), now); stop {
		t.Fatal("one wasted node stopped the shape")
	}
}

func TestBoundPodClearsItsShape(t *testing.T) {
	b := newBook()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	pod := podNamed("p")
	for range breakerLimit {
		b.give(pod.UID, "claim")
		b.overdue(pod, true, false, now)
		now = now.Add(seatPatience)
		b.overdue(pod, true, false, now)
	}
	b.give(pod.UID, "claim")
	b.bound(pod, "elsewhere", now)
	if !b.anyStopped() {
		t.Fatal("a pod bound elsewhere proves nothing about the plan")
	}
	b.give(pod.UID, "another")
	pod.Spec.NodeName = "n"
	pod.Labels = map[string]string{corev1.LabelTopologyZone: "z"} // As binding gives it.
	b.bound(pod, "another", now)
	if b.anyStopped() {
		t.Fatal("a pod bound to its node must clear its shape")
	}
}

// TestLeftSeatsAreForgotten: also where nobody is ever crowded out.
func TestLeftSeatsAreForgotten(t *testing.T) {
	b, pod, now := newBook(), podNamed("p"), time.Unix(1000, 0)
	for range 10 {
		b.give(pod.UID, "a")
		b.bound(pod, "b", now)
		if now = now.Add(crowdedFor); len(b.left) != 1 {
			t.Fatalf("%d seats are remembered as left", len(b.left))
		}
	}
}

// TestAPodBoundLateClearsItsShape: the seat was given up, and the plan was right.
func TestAPodBoundLateClearsItsShape(t *testing.T) {
	for name, tc := range map[string]struct {
		to   string
		want bool // that it still counts
	}{
		"to the first node": {"a", false},
		"to the second":     {"b", false},
		"to another":        {"c", true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook()
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			pod := podNamed("p")
			for _, claim := range []string{"a", "b"} {
				b.give(pod.UID, claim)
				b.overdue(pod, true, false, now)
				now = now.Add(seatPatience)
				b.overdue(pod, true, false, now)
			}
			pod.Spec.NodeName = "n"
			b.bound(pod, tc.to, now)
			if b.anyStopped() != tc.want || (len(b.vain) > 0) != tc.want {
				t.Errorf("it counts: %t, %v", b.anyStopped(), b.vain)
			}
		})
	}
}

func TestWastedLaunchesAreForgottenInTime(t *testing.T) {
	b := newBook()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	pod, other := podNamed("p"), podNamed("q")
	other.Namespace = "elsewhere"
	b.give(other.UID, "c")
	b.useless(other, "", now)
	for range 3 {
		b.give(pod.UID, "c")
		b.useless(pod, "", now)
		if _, stop := b.stopped(capacity.ShapeHash(pod), now); stop {
			t.Fatal("one that is long past stops the shape")
		}
		now = now.Add(wasteMemory + time.Second)
	}
	if len(b.wasted) != 1 || len(b.vain) != 1 {
		t.Errorf("kept: %v, %v", b.wasted, b.vain)
	}
	if _, stop := b.stopped(capacity.ShapeHash(pod), now); stop || b.anyStopped() {
		t.Error("the last one is kept for ever")
	}
}

func TestMergeAddsClaimsThatTheCacheDoesNotShow(t *testing.T) {
	b := newBook()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	claim := func(n string) *v1alpha1.NodeClaim { return &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: n}} }
	b.remember(claim("a"), now)
	b.remember(claim("b"), now)
	if got := b.merge([]*v1alpha1.NodeClaim{claim("a")}); len(got) != 2 {
		t.Fatalf("%d claims, want the cached one and the unseen one", len(got))
	}
	if got := b.merge(nil); len(got) != 1 || got[0].Name != "b" {
		t.Fatal("a claim that the cache has shown must come from the cache alone")
	}
}

// TestAClaimThatTheWatchDoesNotShow is asked for, and forgotten only when it is gone:
// its node is paid for.
func TestAClaimThatTheWatchDoesNotShow(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		there bool
		err   error
		after time.Duration
		asked int
		kept  bool
	}{
		"not long":       {false, nil, unseenPatience, 0, true},
		"it is there":    {true, nil, unseenPatience + time.Second, 1, true},
		"it is gone":     {false, nil, unseenPatience + time.Second, 1, false},
		"nobody answers": {false, errors.New("timeout"), unseenPatience + time.Second, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			objects := fake.NewClientBuilder().WithScheme(scheme)
			if tc.there {
				objects.WithObjects(&v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: v1alpha1.NodeClaimStatus{InstanceID: "i-1"}})
			}
			asked := 0
			api := objects.WithInterceptorFuncs(interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				asked++
				if tc.err != nil {
					return tc.err
				}
				return c.Get(ctx, key, o, opts...)
			}}).Build()
			p := &Loops{cfg: Config{APIReader: api}, book: newBook()}
			p.book.remember(&v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, start)
			for range 2 { // The second time it was asked for just now.
				p.askForOverlooked(t.Context(), start.Add(tc.after))
			}
			claims := p.book.merge(nil)
			if asked != tc.asked || (len(claims) == 1) != tc.kept {
				t.Fatalf("asked %d times, then there are %v", asked, claims)
			}
			if tc.there && claims[0].Status.InstanceID != "i-1" {
				t.Error("what was read is not used")
			}
		})
	}
}
