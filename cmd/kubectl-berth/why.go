package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/drain"
)

// whyCommand explains one object of a cluster.
func whyCommand(s streams) *cobra.Command {
	var from clusterOptions
	cmd := &cobra.Command{
		Use:   "why node/NAME | nodeclaim/NAME | pod/NAMESPACE/NAME",
		Short: "Say why a node stays or how far its removal is, or where a pod is and why",
		Example: "  kubectl berth why node/ip-10-0-1-2.us-west-2.compute.internal\n" +
			"  kubectl berth why pod/default/web-6d4b75cb6d-hx5kt",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("give one node/NAME, nodeclaim/NAME or pod/NAMESPACE/NAME")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name, ok := strings.Cut(args[0], "/")
			if !ok || name == "" {
				return usageError{fmt.Errorf("%q: give node/NAME, nodeclaim/NAME or pod/NAMESPACE/NAME", args[0])}
			}
			c, err := from.connect()
			if err != nil {
				return err
			}
			w := &why{c: c, out: s.out, now: time.Now()}
			switch kind {
			case "node", "no", "nodes":
				return w.node(cmd.Context(), name)
			case "nodeclaim", "nodeclaims":
				return w.claim(cmd.Context(), name)
			case "pod", "po", "pods":
				return w.pod(cmd.Context(), name)
			default:
				return usageError{fmt.Errorf("%q: only nodes, nodeclaims and pods can be explained", kind)}
			}
		},
	}
	cmd.Flags().StringVar(&from.kubeconfig, "kubeconfig", "", "kubeconfig `file`; empty: kubectl's own rules")
	cmd.Flags().StringVar(&from.context, "context", "", "`name` of the kubeconfig's context")
	return cmd
}

// why reads a cluster and explains.
type why struct {
	c   client.Reader
	out io.Writer
	now time.Time
}

// node explains a Node by its claim.
func (w *why) node(ctx context.Context, name string) error {
	var n corev1.Node
	if err := w.c.Get(ctx, client.ObjectKey{Name: name}, &n); err != nil {
		return fmt.Errorf("reading node %s: %w", name, err)
	}
	claim := n.Labels[v1alpha1.LabelNodeClaim]
	if claim == "" {
		fmt.Fprintf(w.out, "node %s is not Berth's: it carries no label %s\n", name, v1alpha1.LabelNodeClaim)
		return nil
	}
	return w.claim(ctx, claim)
}

// claim explains a NodeClaim: how far it is on its way up, why it stays, or how
// far its removal is.
func (w *why) claim(ctx context.Context, name string) error {
	var c v1alpha1.NodeClaim
	if err := w.c.Get(ctx, client.ObjectKey{Name: name}, &c); err != nil {
		return fmt.Errorf("reading nodeclaim %s: %w", name, err)
	}
	fmt.Fprintf(w.out, "nodeclaim %s of Provisioner %s: node %s, %s %s in %s, instance %s, $%s/h\n", c.Name, c.Spec.Provisioner.Name,
		cmp.Or(c.Status.NodeName, "(none yet)"), cmp.Or(c.Status.InstanceType, "?"), cmp.Or(c.Status.CapacityType, "?"), cmp.Or(c.Status.Zone, "?"),
		cmp.Or(c.Status.InstanceID, "(none yet)"), cmp.Or(string(c.Status.HourlyPrice), string(c.Spec.Offerings[0].HourlyPrice)))
	if why := c.Annotations[v1alpha1.AnnotationDecision]; why != "" {
		fmt.Fprintf(w.out, "  bought %s\n", why)
	}
	for _, x := range c.Status.Conditions {
		fmt.Fprintf(w.out, "  %-12s %-6s since %s  %s %s\n", x.Type, x.Status, stamp(x.LastTransitionTime.Time), x.Reason, x.Message)
	}
	pr := &v1alpha1.Provisioner{}
	err := w.c.Get(ctx, client.ObjectKey{Name: c.Spec.Provisioner.Name}, pr)
	switch {
	case apierrors.IsNotFound(err):
		fmt.Fprintln(w.out, "  its Provisioner is gone")
		pr = nil
	case err != nil:
		return fmt.Errorf("reading provisioner %s: %w", c.Spec.Provisioner.Name, err)
	}
	node := &corev1.Node{}
	err = w.c.Get(ctx, client.ObjectKey{Name: c.Status.NodeName}, node)
	if c.Status.NodeName == "" || apierrors.IsNotFound(err) {
		return w.events(ctx, "NodeClaim", "", c.Name)
	}
	if err != nil {
		return fmt.Errorf("reading node %s: %w", c.Status.NodeName, err)
	}
	switch {
	case c.DeletionTimestamp != nil:
		fmt.Fprintf(w.out, "\nbeing removed since %s: %s\n", stamp(c.DeletionTimestamp.Time), cmp.Or(c.Annotations[v1alpha1.AnnotationDisruptionReason], "somebody deleted it"))
		if d := c.Status.DrainDeadline; d != nil {
			fmt.Fprintf(w.out, "pods that are still there are deleted in time to be gone at %s (in %s)\n", stamp(d.Time), d.Sub(w.now).Round(time.Second))
		}
	case drain.Cordoned(node):
		fmt.Fprintf(w.out, "\ntaken out of use: %s; its pods are told to go when there is room for them elsewhere\n", cmp.Or(node.Annotations[v1alpha1.AnnotationDisruptionReason], "somebody tainted it"))
	default:
		until, err := w.pausedEverywhere(ctx)
		if err != nil {
			return err
		}
		w.staying(&c, pr, until)
	}
	if err := w.pods(ctx, &c, node); err != nil {
		return err
	}
	return w.events(ctx, "NodeClaim", "", c.Name)
}

// pausedEverywhere is until when Berth's own namespace, the one in which it publishes
// offerings, pauses disruption of all Provisioners; zero: it does not, or may not be
// looked at, which is said.
func (w *why) pausedEverywhere(ctx context.Context) (latest time.Time, err error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMapList"))
	err = w.c.List(ctx, list, client.MatchingFields{"metadata.name": v1alpha1.OfferingsConfigMap})
	for i := 0; err == nil && i < len(list.Items); i++ {
		var ns corev1.Namespace
		if err = w.c.Get(ctx, client.ObjectKey{Name: list.Items[i].Namespace}, &ns); err == nil {
			if until := v1alpha1.PausedUntil(ns.Annotations[v1alpha1.AnnotationPauseDisruption], w.now); until.After(latest) {
				latest = until
			}
		}
	}
	if apierrors.IsForbidden(err) {
		fmt.Fprintf(w.out, "\nwhether disruption is paused everywhere is not known: %s\n", err)
		return latest, nil
	}
	if err != nil {
		return latest, fmt.Errorf("reading Berth's namespace: %w", err)
	}
	return latest, nil
}

// staying says when a node would go, and what holds it. everywhere is until when
// disruption of all Provisioners is paused; zero: it is not.
func (w *why) staying(c *v1alpha1.NodeClaim, pr *v1alpha1.Provisioner, everywhere time.Time) {
	fmt.Fprintln(w.out, "\nit stays:")
	if pr == nil {
		fmt.Fprintln(w.out, "  nothing gives it back but an interruption, or whoever deletes the nodeclaim")
		return
	}
	until := v1alpha1.PausedUntil(pr.Annotations[v1alpha1.AnnotationPauseDisruption], w.now)
	switch {
	case everywhere.After(until):
		fmt.Fprintf(w.out, "  disruption of all Provisioners is paused until %s\n", stamp(everywhere))
	case !until.IsZero():
		fmt.Fprintf(w.out, "  disruption of Provisioner %s is paused until %s\n", pr.Name, stamp(until))
	}
	if s := meta.FindStatusCondition(pr.Status.Conditions, v1alpha1.ConditionDriftStopped); s != nil && s.Status == metav1.ConditionTrue {
		fmt.Fprintf(w.out, "  drift is stopped: %s\n", s.Message)
	}
	if ttl, ok := pr.Spec.AfterEmpty(); ok {
		fmt.Fprintf(w.out, "  it goes %.0fs after its last workload pod\n", ttl.Seconds())
	} else {
		fmt.Fprintln(w.out, "  it does not go for being empty: ttlSecondsAfterEmpty is not set")
	}
	if ttl, ok := pr.Spec.UntilExpired(); ok {
		fmt.Fprintf(w.out, "  it expires at %s, or up to a tenth of its life later\n", stamp(c.CreationTimestamp.Add(ttl)))
	}
	if e := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionExpired); e != nil && e.Status == metav1.ConditionTrue {
		fmt.Fprintf(w.out, "  it has expired: since %s budgets, pods and missing room may hold it up for disruption.expiryGrace\n", stamp(e.LastTransitionTime.Time))
	}
}

// pods lists the pods of a node: what a drain does or would do about each.
func (w *why) pods(ctx context.Context, c *v1alpha1.NodeClaim, node *corev1.Node) error {
	var list corev1.PodList
	if err := w.c.List(ctx, &list, client.MatchingFields{"spec.nodeName": node.Name}); err != nil {
		return fmt.Errorf("listing the pods of node %s: %w", node.Name, err)
	}
	var pdbs policyv1.PodDisruptionBudgetList
	if err := w.c.List(ctx, &pdbs); err != nil {
		return fmt.Errorf("listing disruption budgets: %w", err)
	}
	pods := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		pods[i] = &list.Items[i]
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return cmp.Compare(podName(a), podName(b)) })
	var deadline time.Time
	if c.Status.DrainDeadline != nil {
		deadline = c.Status.DrainDeadline.Time
	}
	if len(pods) == 0 {
		fmt.Fprintln(w.out, "\nno pods are bound to it")
		return nil
	}
	fmt.Fprintln(w.out)
	t := tabwriter.NewWriter(w.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POD\tOWNER\tDRAIN\tBECAUSE\tUNTIL\tHELD BY")
	for _, v := range drain.Classify(pods, drain.Facts(node, w.now), w.now, deadline) {
		owner, until := "", ""
		if o := metav1.GetControllerOfNoCopy(v.Pod); o != nil {
			owner = o.Kind + "/" + o.Name
		}
		if !v.Until.IsZero() && !deadline.IsZero() {
			until = stamp(v.Until)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", podName(v.Pod), owner, v.Action, v.Reason, until, heldBy(v, pdbs.Items))
	}
	return t.Flush()
}

// heldBy names what keeps a pod: its own wish, and budgets that allow nothing.
func heldBy(v drain.Verdict, pdbs []policyv1.PodDisruptionBudget) string {
	if v.Action == drain.Skip {
		return ""
	}
	var by []string
	if v.Protected != "" {
		by = append(by, v.Protected)
	}
	selected := 0
	for i := range pdbs {
		b := &pdbs[i]
		s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || b.Namespace != v.Pod.Namespace || !s.Matches(labels.Set(v.Pod.Labels)) {
			continue
		}
		selected++
		if b.Status.DisruptionsAllowed == 0 {
			by = append(by, fmt.Sprintf("PodDisruptionBudget %s (%d healthy, %d are the least)", b.Name, b.Status.CurrentHealthy, b.Status.DesiredHealthy))
		}
	}
	if selected > 1 {
		by = append(by, fmt.Sprintf("%d PodDisruptionBudgets select it, which rules eviction out", selected))
	}
	return strings.Join(by, "; ")
}

// pod says where a pod is, or why it has no node.
func (w *why) pod(ctx context.Context, name string) error {
	namespace, pod, ok := strings.Cut(name, "/")
	if !ok {
		namespace, pod = corev1.NamespaceDefault, name
	}
	var p corev1.Pod
	if err := w.c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: pod}, &p); err != nil {
		return fmt.Errorf("reading pod %s/%s: %w", namespace, pod, err)
	}
	switch {
	case p.Spec.NodeName != "":
		fmt.Fprintf(w.out, "pod %s/%s is on node %s; more: kubectl berth why node/%s\n", namespace, pod, p.Spec.NodeName, p.Spec.NodeName)
		if by, protected := drain.DoNotDisrupt(&p, w.now); protected {
			fmt.Fprintf(w.out, "  it keeps that node from voluntary disruption: %s\n", by)
		}
	case p.Status.NominatedNodeName != "":
		fmt.Fprintf(w.out, "pod %s/%s has a seat on node %s, which is on its way\n", namespace, pod, p.Status.NominatedNodeName)
	default:
		fmt.Fprintf(w.out, "pod %s/%s waits for a node; what could be bought for it: kubectl berth plan --explain %s/%s\n", namespace, pod, namespace, pod)
	}
	return w.events(ctx, "Pod", namespace, pod)
}

// events shows what Berth has said about an object, the latest last.
func (w *why) events(ctx context.Context, kind, namespace, name string) error {
	var list corev1.EventList
	opts := []client.ListOption{client.MatchingFields{"involvedObject.kind": kind, "involvedObject.name": name}}
	if namespace != "" {
		opts = append(opts, client.InNamespace(namespace))
	}
	if err := w.c.List(ctx, &list, opts...); err != nil {
		return fmt.Errorf("listing the events of %s: %w", name, err)
	}
	var own []corev1.Event
	for _, e := range list.Items {
		if strings.HasPrefix(cmp.Or(e.ReportingController, e.Source.Component), "berth") {
			own = append(own, e)
		}
	}
	when := func(e *corev1.Event) time.Time {
		if e.Series != nil {
			return e.Series.LastObservedTime.Time
		}
		if !e.EventTime.IsZero() {
			return e.EventTime.Time
		}
		return e.LastTimestamp.Time
	}
	slices.SortFunc(own, func(a, b corev1.Event) int { return when(&a).Compare(when(&b)) })
	if len(own) > 0 {
		fmt.Fprintln(w.out, "\nBerth has said:")
	}
	for i := range own {
		fmt.Fprintf(w.out, "  %s  %s: %s\n", stamp(when(&own[i])), own[i].Reason, own[i].Message)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
