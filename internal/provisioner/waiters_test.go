package provisioner

import (
	"slices"
	"testing"
)

func TestWaitersKeepTheirOrder(t *testing.T) {
	var w waiters
	if got := w.next("a/b", 3); got != nil {
		t.Fatalf("nobody waits, next is %q", got)
	}
	w.wait("v", []string{"a/b", "a/other"})
	for _, c := range []string{"x", "y", "x", "z"} {
		w.wait(c, []string{"a/b"})
	}
	w.wait("v", nil)
	if got := w.next("a/other", 1); got != nil {
		t.Fatalf("nobody waits any more, next is %q", got)
	}
	if got := w.next("a/b", 2); !slices.Equal(got, []string{"x", "y"}) {
		t.Fatalf("first two: %q", got)
	}
	if got := w.next("a/b", 9); !slices.Equal(got, []string{"z"}) {
		t.Fatalf("the rest: %q", got)
	}
	if got := w.next("a/b", 1); got != nil {
		t.Fatalf("the queue is empty, next is %q", got)
	}
}
