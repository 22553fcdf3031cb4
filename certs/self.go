package certs

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// SelfSecret is the name of the Secret in mode self.
const SelfSecret = "berth-webhook-tls"

// selfSource makes certificates itself, by Next, and keeps them in a Secret.
type selfSource struct {
	config Config
}

func (s *selfSource) step(ctx context.Context, l look) ([]*Pair, *Publication, bool, error) {
	fail := func(err error) ([]*Pair, *Publication, bool, error) { return nil, nil, false, err }
	secret, stored, err := s.read(ctx)
	if err != nil {
		return fail(err)
	}
	state := State{
		Now: l.now, Policy: s.config.Policy, Names: s.config.Names, ServerName: s.config.Names[0],
		Stored: stored, Serving: l.serves, Bundles: l.bundles(), TrustedSince: l.since,
	}
	due := Next(state)
	if !due.Change {
		return stored.Leaves, &Publication{CABundle: stored.Bundle()}, false, nil
	}
	next, err := due.carryOut(state)
	if err != nil {
		return fail(err)
	}
	lost, err := s.write(ctx, secret, next)
	if err != nil {
		return fail(err)
	}
	if lost {
		// Another replica was faster; what it has written is read at once. Until
		// then nothing of ours may be published.
		return stored.Leaves, nil, true, nil
	}
	s.config.Log.Info("certificates renewed", "secret", s.config.Namespace+"/"+SelfSecret, "why", strings.Join(due.Why, "; "))
	return next.Leaves, &Publication{CABundle: next.Bundle()}, true, nil
}

// read returns the Secret, nil when there is none, and what it holds.
func (s *selfSource) read(ctx context.Context) (*corev1.Secret, Material, error) {
	secret := &corev1.Secret{}
	err := s.config.Client.Get(ctx, client.ObjectKey{Namespace: s.config.Namespace, Name: SelfSecret}, secret)
	if apierrors.IsNotFound(err) {
		return nil, Material{}, nil
	}
	if err != nil {
		return nil, Material{}, fmt.Errorf("reading Secret %s/%s: %w", s.config.Namespace, SelfSecret, err)
	}
	m, damaged := DecodeMaterial(secret.Data)
	if damaged {
		s.config.Log.Info("part of the Secret cannot be read and is made anew", "secret", s.config.Namespace+"/"+SelfSecret)
	}
	return secret, m, nil
}

// write stores the Material where it was read; lost says that somebody else has
// written in between.
func (s *selfSource) write(ctx context.Context, old *corev1.Secret, m Material) (lost bool, err error) {
	data, err := m.Encode()
	if err != nil {
		return false, fmt.Errorf("encoding certificates: %w", err)
	}
	if old != nil {
		secret := old.DeepCopy()
		secret.Data = data
		err = s.config.Client.Update(ctx, secret) // With the resourceVersion that was read.
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("writing Secret %s/%s: %w", old.Namespace, old.Name, err)
		}
		return false, nil
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.config.Namespace, Name: SelfSecret,
			Labels: map[string]string{"app.kubernetes.io/name": "berth", "app.kubernetes.io/component": "webhook"},
		},
		Data: data,
	}
	err = s.config.Client.Create(ctx, secret)
	if apierrors.IsNotFound(err) {
		// The namespace is missing.
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.config.Namespace}}
		if err := s.config.Client.Create(ctx, ns); err != nil && !apierrors.IsAlreadyExists(err) {
			return false, fmt.Errorf("creating namespace %s for the webhook's Secret: %w", s.config.Namespace, err)
		}
		err = s.config.Client.Create(ctx, secret)
	}
	if apierrors.IsAlreadyExists(err) {
		return true, nil
	}
	if apierrors.IsForbidden(err) {
		return false, fmt.Errorf("creating Secret %s/%s, which is the chart's to create (helm upgrade puts it back): %w", s.config.Namespace, SelfSecret, err)
	}
	if err != nil {
		return false, fmt.Errorf("creating Secret %s/%s: %w", s.config.Namespace, SelfSecret, err)
	}
	return false, nil
}
