package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// kube writes to the API server as kubectl would.
type kube struct{ client client.Client }

// newKube shows the warnings that the API server and webhooks send along.
func newKube(c *cluster.Cluster, warn func(string)) (kube, error) {
	cfg := rest.CopyConfig(c.Config)
	cfg.WarningHandlerWithContext = warner(warn)
	k, err := client.New(cfg, client.Options{Scheme: c.Client.Scheme()})
	if err != nil {
		return kube{}, fmt.Errorf("connecting to the cluster: %w", err)
	}
	return kube{k}, nil
}

// warner hands on warnings.
type warner func(string)

// HandleWarningHeaderWithContext hands on a warning of the one code there is
// (299, RFC 7234).
func (f warner) HandleWarningHeaderWithContext(_ context.Context, _ int, _, text string) { f(text) }

// placed returns a copy of an object, in the default namespace where it names
// none and needs one.
func (k kube) placed(u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	u = u.DeepCopy()
	namespaced, err := k.client.IsObjectNamespaced(u)
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", u.GetKind(), err)
	}
	if namespaced {
		u.SetNamespace(orDefault(u.GetNamespace()))
	}
	return u, nil
}

// apply does a server-side apply. The API server's words are the error.
func (k kube) apply(ctx context.Context, u *unstructured.Unstructured) error {
	u, err := k.placed(u)
	if err != nil {
		return err
	}
	return k.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("berth-demo"), client.ForceOwnership)
}

func (k kube) applyAll(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, u := range objects {
		if err := k.apply(ctx, u); err != nil {
			return fmt.Errorf("applying %s %s: %w", u.GetKind(), u.GetName(), err)
		}
	}
	return nil
}

// applyTogether applies objects all at once, as a tool that deploys does.
func (k kube) applyTogether(ctx context.Context, objects []*unstructured.Unstructured) error {
	errs := make([]error, len(objects))
	var wg sync.WaitGroup
	for i, u := range objects {
		wg.Go(func() { errs[i] = k.applyAll(ctx, []*unstructured.Unstructured{u}) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// hint is the placement hint that a pod would get.
func (k kube) hint(ctx context.Context, u *unstructured.Unstructured) (string, error) {
	u, err := k.placed(u)
	if err != nil {
		return "", err
	}
	u.SetName(u.GetName() + "-dry-run")
	if err := k.client.Create(ctx, u, client.DryRunAll); err != nil {
		return "", fmt.Errorf("creating pod %s as a dry run: %w", u.GetName(), err)
	}
	return u.GetAnnotations()[v1alpha1.AnnotationPlacement], nil
}

// scale sets a workload's replicas, as kubectl scale does.
func (k kube) scale(ctx context.Context, u *unstructured.Unstructured, replicas int) error {
	u, err := k.placed(u)
	if err != nil {
		return err
	}
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas))
	if err := k.client.SubResource("scale").Patch(ctx, u, patch); err != nil {
		return fmt.Errorf("scaling %s: %w", u.GetName(), err)
	}
	return nil
}

// deleteAll deletes objects and, in the background, what they own. Those that
// are gone already are no error.
func (k kube) deleteAll(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, u := range objects {
		u, err := k.placed(u)
		if err != nil {
			return err
		}
		if err := k.client.Delete(ctx, u, client.PropagationPolicy("Background")); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting %s %s: %w", u.GetKind(), u.GetName(), err)
		}
	}
	return nil
}
