package main

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/berth-dev/berth/internal/ec2"
	"github.com/berth-dev/berth/internal/ec2sim"
	"github.com/berth-dev/berth/internal/ec2sim/simtest"
)

const ca = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

// TestClusterFacts: where nodes learn how to reach the API server from, with EKS
// as ec2sim plays it.
func TestClusterFacts(t *testing.T) {
	sim, err := ec2sim.New(ec2sim.Config{
		Region: "us-west-2", ClusterName: "prod", Endpoint: "https://ABC.gr7.us-west-2.eks.amazonaws.com", CA: []byte(ca), ServiceCIDR: "10.100.0.0/16",
	})
	if err != nil {
		t.Fatal(err)
	}
	simtest.Serve(t, sim)
	kube := fake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem, UID: "uid"}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}, Spec: corev1.ServiceSpec{ClusterIP: "172.20.0.1", ClusterIPs: []string{"172.20.0.1"}}},
	)
	kube.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{Major: "1", Minor: "37+"}
	own := rest.Config{Host: "https://10.0.0.9:6443", TLSClientConfig: rest.TLSClientConfig{CAData: []byte("-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n")}}
	inPod := own
	inPod.BearerTokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	encoded := func(pem string) string { return base64.StdEncoding.EncodeToString([]byte(pem)) }

	for name, tc := range map[string]struct {
		options options
		config  rest.Config
		want    ec2.Config
		wrong   string
	}{
		"EKS is asked": {
			options{clusterName: "prod", clusterEndpoint: "eks"}, own,
			ec2.Config{ClusterEndpoint: "https://ABC.gr7.us-west-2.eks.amazonaws.com", ClusterCA: encoded(ca), ServiceCIDR: "10.100.0.0/16"}, ""},
		"in a Pod too, where nothing is said": {
			options{clusterName: "prod"}, inPod,
			ec2.Config{ClusterEndpoint: "https://ABC.gr7.us-west-2.eks.amazonaws.com", ClusterCA: encoded(ca), ServiceCIDR: "10.100.0.0/16"}, ""},
		"what is said of Services holds": {
			options{clusterName: "prod", clusterEndpoint: "eks", serviceCIDR: "10.7.0.0/16"}, own,
			ec2.Config{ClusterEndpoint: "https://ABC.gr7.us-west-2.eks.amazonaws.com", ClusterCA: encoded(ca), ServiceCIDR: "10.7.0.0/16"}, ""},
		"a URL is taken as it is": {
			options{clusterName: "prod", clusterEndpoint: "https://api.example.com", serviceCIDR: "10.7.0.0/16"}, inPod,
			ec2.Config{ClusterEndpoint: "https://api.example.com", ClusterCA: encoded(string(own.CAData)), ServiceCIDR: "10.7.0.0/16"}, ""},
		"outside of a Pod its own way is the nodes'": {
			options{clusterName: "prod", serviceCIDR: "10.7.0.0/16"}, own,
			ec2.Config{ClusterEndpoint: "https://10.0.0.9:6443", ClusterCA: encoded(string(own.CAData)), ServiceCIDR: "10.7.0.0/16"}, ""},
		"EKS does not know the cluster": {
			options{clusterName: "other", clusterEndpoint: "eks"}, own, ec2.Config{}, "check --cluster-name and AWS_REGION, or give --cluster-endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tc.options.clusterFacts(t.Context(), kube, &tc.config)
			if tc.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wrong) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("error %v; want one line with %q", err, tc.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tc.want.ClusterName, tc.want.ClusterUID, tc.want.KubernetesVersion = "prod", "uid", "1.37"
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("facts (-want +got):\n%s", diff)
			}
		})
	}
}

// apiServer has a version, or an error.
type apiServer struct {
	mu sync.Mutex
	version.Info
	err error
}

func (a *apiServer) ServerVersion() (*version.Info, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	info := a.Info
	return &info, a.err
}

// becomes has it say another minor version from now on, or an error.
func (a *apiServer) becomes(minor string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Minor, a.err = minor, err
}

// TestCRDsAreMissedOnlyWhereTheyAreMissing: an API server that does not answer is no
// reason to apply them.
func TestCRDsAreMissedOnlyWhereTheyAreMissing(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"they are there":      {nil, ""},
		"they are not there":  {apierrors.NewNotFound(schema.GroupResource{}, ""), "apply the CRDs first"},
		"the server is upset": {errors.New("try again"), "try again"},
	} {
		t.Run(name, func(t *testing.T) {
			kube := fake.NewClientset()
			kube.Resources = []*metav1.APIResourceList{{GroupVersion: "berth.dev/v1alpha1", APIResources: []metav1.APIResource{{Name: "nodeclaims"}}}}
			kube.PrependReactor("get", "resource", func(clienttesting.Action) (bool, runtime.Object, error) { return tc.err != nil, nil, tc.err })
			err := new(options).checkCRDs(kube)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

// versioned is a Cloud with a version.
type versioned struct {
	mu      sync.Mutex
	version string
}

func (v *versioned) KubernetesVersion() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.version
}

func (v *versioned) SetKubernetesVersion(version string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.version = version
	return nil
}

// TestUpgradesAreNoticed: by a standby within a minute, by a new leader at once,
// and an API server that does not answer changes nothing.
func TestUpgradesAreNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		api, cloud, elected := &apiServer{Info: version.Info{Major: "1", Minor: "36"}}, &versioned{version: "1.36"}, make(chan struct{})
		k := &versionKeeper{log: zap.NewNop(), kube: api, elected: elected, cloud: cloud}
		done := make(chan error)
		go func() { done <- k.Start(ctx) }()
		wait := func(what, want string) {
			synctest.Wait()
			if got := cloud.KubernetesVersion(); got != want {
				t.Errorf("%s: version %s, want %s", what, got, want)
			}
		}
		wait("nothing has changed", "1.36")
		api.becomes("37+", nil)
		wait("not looked yet", "1.36")
		time.Sleep(versionEvery)
		wait("a minute later", "1.37")
		api.becomes("38", errors.New("no answer"))
		time.Sleep(versionEvery)
		wait("the API server does not answer", "1.37")
		api.becomes("38", nil)
		close(elected)
		wait("leading now", "1.38")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
