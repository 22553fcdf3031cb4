package provisioner

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
	"github.com/berth-dev/berth/internal/ec2sim"
	"github.com/berth-dev/berth/internal/ec2sim/simtest"
)

// TestPriceTableOverEC2sPrices runs the market on ec2sim with a price table: it
// counts from the first discovery on, is read again when it changes, gives way
// when a commitment is used up, and one that cannot be read changes nothing.
func TestPriceTableOverEC2sPrices(t *testing.T) {
	sim, err := ec2sim.New(ec2sim.Config{Region: "us-west-2", ClusterName: "prod", Unthrottled: true})
	if err != nil {
		t.Fatal(err)
	}
	simtest.Serve(t, sim)
	cloud, err := ec2.New(t.Context(), ec2.Config{
		ClusterName: "prod", ClusterUID: "uid", ClusterEndpoint: "https://127.0.0.1:6443", ClusterCA: "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBQUEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=",
		KubernetesVersion: "1.37", ServiceCIDR: "10.96.0.0/12", DefaultInstanceProfile: "berth-node",
	})
	if err != nil {
		t.Fatal(err)
	}
	api := fake.NewClientBuilder().WithScheme(testScheme(t)).Build()
	claims := informerOf[*v1alpha1.NodeClaim](t, nil)
	file := filepath.Join(t.TempDir(), "prices.yaml")
	write := func(table string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(table), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := &market{cloud: cloud, Loops: &Loops{
		cfg: Config{Client: api, APIReader: api, Namespace: "berth-system", PriceTable: file}, log: logr.Discard(),
		stores: &stores{claims: claims}, catalogue: newCatalogue("us-west-2"), wake: make(chan struct{}, 1),
	}}
	price := func(instanceType, capacityType string) float64 {
		for _, machine := range m.catalogue.offerings(time.Now()).Machines {
			for _, o := range machine.Offerings {
				if machine.Name == instanceType && o.Zone == "us-west-2a" && o.CapacityType == capacityType {
					return o.Price
				}
			}
		}
		return math.NaN()
	}
	list := func(instanceType, capacityType string) float64 {
		return m.catalogue.listPrice(offeringKey{instanceType, "us-west-2a", capacityType})
	}
	check := func(when, instanceType, capacityType string, want float64) {
		t.Helper()
		if got := price(instanceType, capacityType); !(math.Abs(got-want) < 1e-9) {
			t.Errorf("%s: %s %s costs %v, want %v", when, instanceType, capacityType, got, want)
		}
	}

	write(`rules:
- {instanceTypes: ["m5.*"], hourlyCommitment: 0.1, discountPercent: 50}
- {instanceTypes: ["m5.*"], discountPercent: 10}
- {instanceTypes: [c5.large], capacityTypes: [on-demand, spot], price: 0.01}
`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	ended := make(chan struct{})
	wg.Go(func() {
		defer close(ended)
		if err := m.run(ctx); err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(time.Minute); price("c5.large", "on-demand") != 0.01; {
		if time.Now().After(deadline) {
			t.Fatal("the table is not in force after a minute")
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	<-ended // From here on the table is read when the test says so.
	check("a price of one's own", "c5.large", "spot", 0.01)
	check("what no rule matches", "r5.large", "on-demand", list("r5.large", "on-demand"))
	check("a rule without capacity types", "m5.large", "spot", list("m5.large", "spot"))
	check("a commitment that nothing uses", "m5.large", "on-demand", list("m5.large", "on-demand")/2/1000)

	for _, name := range []string{"a", "b", "c"} { // 3 × 0.048 $/h is more than 0.1.
		c := &v1alpha1.NodeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
		c.Status.InstanceID, c.Status.InstanceType, c.Status.Zone, c.Status.CapacityType = "i-"+name, "m5.large", "us-west-2a", "on-demand"
		if err := claims.GetStore().Add(c); err != nil {
			t.Fatal(err)
		}
	}
	m.readPrices()
	check("a commitment that is used up", "m5.large", "on-demand", list("m5.large", "on-demand")*0.9)

	write(`rules: [{instanceTypes: ["c5.*"], price: 0.02}]`)
	m.readPrices()
	check("another table", "c5.large", "on-demand", 0.02)
	check("another table without the rule", "m5.large", "on-demand", list("m5.large", "on-demand"))
	write(`rules: [{instanceTypes: ["c5.*"], price: -1}]`)
	m.readPrices()
	check("a table that is no good", "c5.large", "on-demand", 0.02)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	m.readPrices()
	check("a table that is gone", "c5.large", "on-demand", 0.02)
}
