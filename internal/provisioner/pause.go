package provisioner

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// pausesEvery is how often pauses are looked at.
const pausesEvery = time.Second

// paused says until when something is stopped for a Provisioner, by its own
// annotation or by that of Berth's namespace; zero: it is not. It goes by the
// cache alone, so that a new leader knows it from its first decision on.
func (p *Loops) paused(key string, pr *v1alpha1.Provisioner, now time.Time) time.Time {
	latest := v1alpha1.PausedUntil(pr.Annotations[key], now)
	if ns, ok := one[*corev1.Namespace](p.stores.namespace, p.cfg.Namespace); ok {
		if t := v1alpha1.PausedUntil(ns.Annotations[key], now); t.After(latest) {
			latest = t
		}
	}
	return latest
}

// keepPauses writes the time into pause annotations that do not name one, and
// takes off those that are over.
func (p *Loops) keepPauses(ctx context.Context) error {
	for pause(ctx, pausesEvery) {
		now := time.Now()
		objects := []client.Object{}
		for _, pr := range all[*v1alpha1.Provisioner](p.stores.provisioners) {
			objects = append(objects, pr)
		}
		if ns, ok := one[*corev1.Namespace](p.stores.namespace, p.cfg.Namespace); ok {
			objects = append(objects, ns)
		}
		for _, o := range objects {
			for _, key := range []string{v1alpha1.AnnotationPauseDisruption, v1alpha1.AnnotationPauseLaunching} {
				value := o.GetAnnotations()[key]
				if value == "" || value == "false" {
					continue
				}
				end, written := v1alpha1.PauseEnd(value, now)
				if written && end.After(now) {
					continue
				}
				if err := p.writePause(ctx, o, key, value, end, now); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
					p.log.Error(err, "writing a pause failed; tried again")
				}
			}
		}
	}
	return nil
}

// writePause replaces an annotation by its end, or takes it off when it is over.
func (p *Loops) writePause(ctx context.Context, o client.Object, key, value string, end, now time.Time) error {
	before, ok := o.DeepCopyObject().(client.Object)
	if !ok {
		return fmt.Errorf("pausing: unexpected %T", o)
	}
	after, ok := o.DeepCopyObject().(client.Object)
	if !ok {
		return fmt.Errorf("pausing: unexpected %T", o)
	}
	annotations := after.GetAnnotations()
	what := "Paused"
	if end.After(now) {
		annotations[key] = end.UTC().Format(time.RFC3339)
	} else {
		delete(annotations, key)
		what = "PauseOver"
	}
	after.SetAnnotations(annotations)
	if err := p.cfg.Client.Patch(ctx, after, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("writing %s of %s: %w", key, o.GetName(), err)
	}
	p.log.Info("pause", "object", o.GetName(), "annotation", key, "value", value, "until", end)
	p.cfg.Recorder.Eventf(o, nil, corev1.EventTypeNormal, what, "Pause", "%s: until %s", key, end.UTC().Format(time.RFC3339))
	p.lookForIdle()
	p.trigger()
	return nil
}
