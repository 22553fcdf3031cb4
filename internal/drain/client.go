package drain

import (
	"context"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

// Evictor evicts and deletes pods through an API server. It retries nothing by
// itself: client-go would answer each "too many requests" with up to ten
// retries inside one call, ten seconds apart.
type Evictor struct {
	core rest.Interface
}

// NewEvictor returns an Evictor that calls through the REST client of the core
// group (CoreV1().RESTClient()).
func NewEvictor(core rest.Interface) *Evictor { return &Evictor{core} }

// Evict asks for the eviction of the pod with this UID. grace, when not nil,
// replaces the pod's own grace period, in seconds. Errors are the API server's.
func (e *Evictor) Evict(ctx context.Context, pod types.NamespacedName, uid types.UID, grace *int64) error {
	return e.core.Post().MaxRetries(0).
		Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("eviction").
		VersionedParams(&metav1.CreateOptions{}, scheme.ParameterCodec).
		Body(&policyv1.Eviction{
			// The body speaks policy/v1 on a path of the core group.
			TypeMeta:   metav1.TypeMeta{APIVersion: policyv1.SchemeGroupVersion.String(), Kind: "Eviction"},
			ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
			DeleteOptions: &metav1.DeleteOptions{
				GracePeriodSeconds: grace,
				Preconditions:      &metav1.Preconditions{UID: &uid},
			},
		}).
		Do(ctx).Error()
}

// Delete deletes the pod with this UID, with a grace period in seconds. Errors
// are the API server's.
func (e *Evictor) Delete(ctx context.Context, pod types.NamespacedName, uid types.UID, grace int64) error {
	return e.core.Delete().MaxRetries(0).
		Namespace(pod.Namespace).Resource("pods").Name(pod.Name).
		Body(&metav1.DeleteOptions{
			GracePeriodSeconds: &grace,
			Preconditions:      &metav1.Preconditions{UID: &uid},
		}).
		Do(ctx).Error()
}
