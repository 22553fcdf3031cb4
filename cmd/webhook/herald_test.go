package main

import (
	"context"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"

	"github.com/berth-dev/berth/internal/admission"
)

// TestEventsSayAllThatIsAdvised: of several pieces of advice with one reason none is
// lost, and advice that has changed is news, also within the minutes in which
// client-go counts like Events as one.
func TestEventsSayAllThatIsAdvised(t *testing.T) {
	clientset := fake.NewClientset()
	h := heraldTo(clientset.EventsV1(), clientgoscheme.Scheme)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.run(ctx) }()
	about := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{Kind: "Deployment", APIVersion: "apps/v1"}, ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "7"}}
	said := func(want ...string) {
		t.Helper()
		var got []string
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			list, err := clientset.EventsV1().Events("shop").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got = nil
			for _, e := range list.Items {
				got = append(got, e.Reason+": "+e.Note)
			}
			slices.Sort(got)
			if slices.Equal(got, want) {
				return
			}
		}
		t.Fatalf("Events say %q, want %q", got, want)
	}
	two := []admission.Advice{
		{Reason: admission.ReasonHoldsNodes, Text: "two PDBs"},
		{Reason: admission.ReasonExpensive, Text: "costs a lot"},
		{Reason: admission.ReasonHoldsNodes, Text: "do-not-disrupt"},
	}
	// The broadcaster starts by itself; what is told before that is lost.
	for range 100 {
		h.tell(about, two[1:2])
		if list, err := clientset.EventsV1().Events("shop").List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) > 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	h.tell(about, two)
	said("Expensive: costs a lot", "HoldsNodes: two PDBs; do-not-disrupt")
	two[0].Text = "three PDBs"
	h.tell(about, two)
	said("Expensive: costs a lot", "HoldsNodes: three PDBs; do-not-disrupt", "HoldsNodes: two PDBs; do-not-disrupt")
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
