package provisioner

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

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
		if b.overdue(pod, false, now) {
			t.Fatal("overdue while the node is not ready")
		}
		if b.overdue(pod, true, now) {
			t.Fatal("overdue the moment the node is ready")
		}
		now = now.Add(seatPatience)
		if !b.overdue(pod, true, now) {
			t.Fatal("not overdue after its patience")
		}
		if _, seated := b.of(pod.UID); seated {
			t.Fatal("an overdue pod keeps its seat")
		}
	}
	msg, stop := b.stopped(shape, now)
	if !stop || msg != "0/3 nodes are available" {
		t.Fatalf("stopped = %q, %v", msg, stop)
	}
	if _, stop := b.stopped(shape, now.Add(breakerPause+time.Second)); stop {
		t.Fatal("never tried again")
	}
}

func TestPodsOfOneShapeOnOneNodeAreOneWastedLaunch(t *testing.T) {
	b := newBook()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	pods := []*corev1.Pod{podNamed("a"), podNamed("b"), podNamed("c")}
	for _, p := range pods {
		b.give(p.UID, "claim")
		b.overdue(p, true, now)
	}
	now = now.Add(seatPatience)
	for _, p := range pods {
		if !b.overdue(p, true, now) {
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
		b.overdue(pod, true, now)
		now = now.Add(seatPatience)
		b.overdue(pod, true, now)
	}
	b.give(pod.UID, "claim")
	b.bound(pod, "elsewhere")
	if !b.anyStopped() {
		t.Fatal("a pod bound elsewhere proves nothing about the plan")
	}
	b.give(pod.UID, "claim")
	b.bound(pod, "claim")
	if b.anyStopped() {
		t.Fatal("a pod bound to its node must clear its shape")
	}
}

func TestMergeAddsClaimsThatTheCacheDoesNotShow(t *testing.T) {
	b := newBook()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	claim := func(n string) *v1alpha1.NodeClaim { return &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: n}} }
	b.remember(claim("a"), now)
	b.remember(claim("b"), now)
	if got := b.merge([]*v1alpha1.NodeClaim{claim("a")}, now); len(got) != 2 {
		t.Fatalf("%d claims, want the cached one and the unseen one", len(got))
	}
	if got := b.merge(nil, now); len(got) != 1 || got[0].Name != "b" {
		t.Fatal("a claim that the cache has shown must come from the cache alone")
	}
	if got := b.merge(nil, now.Add(unseenPatience+time.Second)); len(got) != 0 {
		t.Fatal("a claim that never shows must be forgotten")
	}
}
