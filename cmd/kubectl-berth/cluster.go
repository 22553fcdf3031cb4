package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/manifest"
)

// pageSize is the number of objects asked for at once.
const pageSize = 1000

type clusterOptions struct{ kubeconfig, context string }

// connect makes a client for the cluster that the kubeconfig names.
func (o clusterOptions) connect() (client.Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("no cluster: %w", err)
	}
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	c, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", config.Host, err)
	}
	return c, nil
}

// absent says whether there is no kubeconfig at all, or an empty one such as
// /dev/null. One that is named and not there is misspelt.
func (o clusterOptions) absent() bool {
	if o.kubeconfig != "" || o.context != "" {
		return false
	}
	for _, file := range filepath.SplitList(os.Getenv(clientcmd.RecommendedConfigPathEnvVar)) {
		if _, err := os.Stat(file); err != nil {
			return false
		}
	}
	config, err := clientcmd.NewDefaultClientConfigLoadingRules().Load()
	return err == nil && clientcmdapi.IsConfigEmpty(config)
}

func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	return scheme, v1alpha1.AddToScheme(scheme)
}

// readCluster reads what the planner depends on. Workloads are left out, for
// their pods are there.
func readCluster(ctx context.Context, c client.Reader) (*manifest.Set, error) {
	set := &manifest.Set{}
	lists := []client.ObjectList{
		&corev1.NamespaceList{}, &corev1.NodeList{}, &corev1.PodList{}, &appsv1.DaemonSetList{},
		&corev1.PersistentVolumeList{}, &corev1.PersistentVolumeClaimList{}, &storagev1.StorageClassList{}, &storagev1.CSINodeList{},
		&v1alpha1.ProvisionerList{}, &v1alpha1.NodeClaimList{}, &schedulingv1beta1.PodGroupList{},
	}
	for _, l := range lists {
		for {
			err := c.List(ctx, l, client.Limit(pageSize), client.Continue(l.GetContinue()))
			if _, groups := l.(*schedulingv1beta1.PodGroupList); groups && meta.IsNoMatchError(err) {
				break // Not every cluster serves them.
			} else if groups && apierrors.IsForbidden(err) {
				set.Note("PodGroups may not be listed: pods that name one are shown without a place")
				break
			}
			if meta.IsNoMatchError(err) {
				set.Note("this cluster does not know %T: Berth's CRDs are not installed", l)
				break
			}
			if err != nil {
				return nil, fmt.Errorf("reading the cluster: %w", err)
			}
			err = meta.EachListItem(l, func(o runtime.Object) error {
				object, ok := o.DeepCopyObject().(manifest.Object)
				if !ok {
					return fmt.Errorf("reading the cluster: unexpected %T", o)
				}
				set.Add(object)
				return nil
			})
			if err != nil {
				return nil, err
			}
			if l.GetContinue() == "" {
				break
			}
		}
	}
	return set, nil
}

// readOfferings reads what Berth has published about what can be bought, and in
// which namespace, its own; nil where there is none. The newest count.
func readOfferings(ctx context.Context, c client.Reader) (newest *capacity.Offerings, namespace string, err error) {
	var list corev1.ConfigMapList
	if err := c.List(ctx, &list, client.MatchingFields{"metadata.name": v1alpha1.OfferingsConfigMap}); err != nil {
		return nil, "", fmt.Errorf("reading ConfigMap %s: %w", v1alpha1.OfferingsConfigMap, err)
	}
	for i := range list.Items {
		o, err := capacity.DecodeOfferings(list.Items[i].BinaryData[capacity.OfferingsKey])
		if err != nil {
			return nil, "", fmt.Errorf("ConfigMap %s/%s: %w", list.Items[i].Namespace, list.Items[i].Name, err)
		}
		if newest == nil || o.At.After(newest.At) {
			newest, namespace = o, list.Items[i].Namespace
		}
	}
	return newest, namespace, nil
}
