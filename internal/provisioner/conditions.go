package provisioner

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// Reasons of a claim that has a node and is not ready.
const (
	// reasonNodeUnready: the node was initialized, and its kubelet reports no longer.
	reasonNodeUnready = "NodeUnready"
	// reasonNodeGone: the node was initialized, and its Node object is gone.
	reasonNodeGone = "NodeGone"
	// reasonNeverInitialized: the kubelet reports, the node never became ready for pods.
	reasonNeverInitialized = "NeverInitialized"
)

// nodeGonePatience is how long a kubelet may take to register its Node again.
const nodeGonePatience = 5 * time.Minute

// setCondition sets a condition of a claim.
func setCondition(c *v1alpha1.NodeClaim, kind string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: c.Generation,
	})
}

// summarize derives Ready: true when launched, registered and initialized,
// else false with the reason of the first stage that is missing. Of an initialized
// claim its node says the rest (follow, missNode). A claim that is being removed shows
// how far that is.
func summarize(c *v1alpha1.NodeClaim) {
	if c.DeletionTimestamp != nil {
		reason, message := "Removing", "being removed"
		if d := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionDrained); d != nil {
			reason, message = d.Reason, d.Message
		}
		if t := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionTerminated); t != nil {
			reason, message = t.Reason, t.Message
		}
		setCondition(c, v1alpha1.ConditionReady, metav1.ConditionFalse, reason, message)
		return
	}
	for _, kind := range []string{v1alpha1.ConditionLaunched, v1alpha1.ConditionRegistered, v1alpha1.ConditionInitialized} {
		stage := meta.FindStatusCondition(c.Status.Conditions, kind)
		if stage == nil {
			setCondition(c, v1alpha1.ConditionReady, metav1.ConditionFalse, "Not"+kind, "")
			return
		}
		if stage.Status != metav1.ConditionTrue {
			setCondition(c, v1alpha1.ConditionReady, metav1.ConditionFalse, stage.Reason, stage.Message)
			return
		}
	}
	if r := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady); r != nil && (r.Reason == reasonNodeUnready || r.Reason == reasonNodeGone) {
		return
	}
	setCondition(c, v1alpha1.ConditionReady, metav1.ConditionTrue, "Ready", "")
}

// apiEqual compares API values; nil and empty are the same.
func apiEqual(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }

// clip keeps a message within what an event's note may hold (1024 bytes).
func clip(s string) string { return clipTo(1000, s) }

func clipTo(most int, s string) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
