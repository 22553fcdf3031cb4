package deploy

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
	"github.com/berth-dev/berth/internal/ec2sim"
	"github.com/berth-dev/berth/internal/ec2sim/simtest"
)

// TestPolicyAllowsTheCallsOfALife runs all that Berth does with AWS against the
// stand-in, which notes every call, and asks the policy about each.
func TestPolicyAllowsTheCallsOfALife(t *testing.T) {
	sim, err := ec2sim.New(ec2sim.Config{Region: "us-west-2", ClusterName: "prod", Queue: true, Endpoint: "https://10.0.0.1",
		CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})})
	if err != nil {
		t.Fatal(err)
	}
	url := simtest.Serve(t, sim)
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cluster, err := ec2.DescribeCluster(ctx, "prod")
	ok(err)
	if raw, err := base64.StdEncoding.DecodeString(cluster.CA); err != nil || cluster.Endpoint != "https://10.0.0.1" || cluster.ServiceCIDR == "" || len(raw) == 0 {
		t.Errorf("EKS: %+v, %v", cluster, err)
	}
	c, err := ec2.New(ctx, ec2.Config{ClusterName: "prod", ClusterUID: "uid-1", ClusterEndpoint: cluster.Endpoint, ClusterCA: cluster.CA,
		KubernetesVersion: "1.37", ServiceCIDR: cluster.ServiceCIDR, DefaultInstanceProfile: "berth-node"})
	ok(err)
	queue, err := c.Queue(ctx, "prod")
	ok(err)
	_, err = c.Discover(ctx)
	ok(err)
	template := v1alpha1.NodeTemplate{EC2: v1alpha1.EC2{CapacityReservations: []v1alpha1.SelectorTerm{{Tags: map[string]string{"team": "*"}}}}}
	r, err := c.Resolve(ctx, "default", &template)
	ok(err)
	if !r.Ready() {
		t.Fatalf("not ready: %+v", r.Findings)
	}
	claim := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "uid-a"}, Spec: v1alpha1.NodeClaimSpec{
		NodeTemplate: template, Provisioner: v1alpha1.ProvisionerRef{Name: "default", UID: "p"},
		Offerings: []v1alpha1.ClaimOffering{{InstanceType: "m5.large", Zone: "us-west-2a", CapacityType: v1alpha1.CapacityTypeOnDemand, HourlyPrice: "0.096"}}}}
	id := launch(t, c, claim)
	ok(c.Tag(ctx, id, claim))
	_, err = c.Instances(ctx)
	ok(err)
	_, err = c.Instance(ctx, id)
	ok(err)
	_, err = c.Troubles(ctx)
	ok(err)
	found, err := c.Preflight(ctx, queue)
	ok(err)
	if len(found.Missing)+len(found.Untried) > 0 {
		t.Errorf("preflight: %+v", found)
	}
	ok(c.Terminate(ctx, id))
	_, err = c.DeleteUnusedTemplates(ctx, nil, 0)
	ok(err)
	// The end of the instance is in the queue by now, or soon.
	var got []ec2.Message
	for deadline := time.Now().Add(30 * time.Second); len(got) == 0 && time.Now().Before(deadline); {
		got, err = queue.Receive(ctx)
		ok(err)
	}
	ok(queue.Delete(ctx, got))

	res, err := http.Get(url + "/_sim/calls")
	ok(err)
	defer res.Body.Close()
	var calls struct{ Counts map[string]int }
	ok(json.NewDecoder(res.Body).Decode(&calls))
	allowed := map[string]bool{}
	for _, s := range policy(t) {
		for _, a := range s.Action {
			allowed[a] = true
		}
	}
	seen := map[string]bool{}
	for action := range calls.Counts {
		if as, ok := judged[action]; ok {
			action = as
		}
		seen[action] = true
		if !allowed[action] {
			t.Errorf("%s was called, and the policy does not allow it", action)
		}
	}
	if len(seen) == 0 {
		t.Fatal("the stand-in has seen no calls")
	}
	// And the other way round: what is allowed is used, or AWS asks for it by itself.
	var idle []string
	for _, a := range slices.Sorted(maps.Keys(allowed)) {
		if _, byAWS := implied[a]; !seen[a] && !byAWS {
			idle = append(idle, a)
		}
	}
	if len(idle) > 0 {
		t.Errorf("allowed and not called: %v", idle)
	}
}

// launch carries out one launch and returns its instance.
func launch(t *testing.T, c *ec2.Cloud, claim *v1alpha1.NodeClaim) string {
	t.Helper()
	intent, err := c.PrepareLaunch(t.Context(), claim, 1)
	if err != nil {
		t.Fatal(err)
	}
	claim.Status.Launch = intent
	got, err := c.Launch(t.Context(), claim)
	if err != nil || len(got.Instances) != 1 {
		t.Fatalf("%d instances: %v", len(got.Instances), err)
	}
	return got.Instances[0].ID
}
