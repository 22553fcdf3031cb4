package provisioner

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
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
		return m.catalogue.listPrice(offeringKey{instanceType, "us-west-2a", capacityType, ""})
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

// TestANewLeaderReadsWhatWasLearned: also when the API server does not answer at
// first, as when a leader changes it often does not.
func TestANewLeaderReadsWhatWasLearned(t *testing.T) {
	old := newCatalogue("us-west-2")
	old.setMachines([]capacity.Machine{{Name: "m5.large", Arch: "amd64", VCPUs: 2, MemoryMiB: 8192}}, time.Now())
	old.learn("m5.large", "ami-1", 7900<<20)
	o := old.offerings(time.Now())
	data, err := capacity.EncodeOfferings(&o)
	if err != nil {
		t.Fatal(err)
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: v1alpha1.OfferingsConfigMap},
		BinaryData: map[string][]byte{capacity.OfferingsKey: data}}
	failures := 1
	api := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(cm).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if failures--; failures >= 0 {
				return apierrors.NewInternalError(errors.New("etcdserver: leader changed"))
			}
			return c.Get(ctx, key, o, opts...)
		}}).Build()
	m := &market{Loops: &Loops{cfg: Config{Client: api, APIReader: api, Namespace: "berth-system"}, log: logr.Discard(),
		catalogue: newCatalogue("us-west-2"), wake: make(chan struct{}, 1)}}
	m.restore(t.Context())
	if got := m.catalogue.learned["m5.large"]["ami-1"]; got != 7900<<20 || !m.catalogue.ready() {
		t.Errorf("%d bytes are known of m5.large; ready: %v", got, m.catalogue.ready())
	}
}

// TestRoomInReservations: what is on its way into a reservation takes its room
// before EC2 knows of it, and when it has arrived before EC2 is asked again.
func TestRoomInReservations(t *testing.T) {
	c := newCatalogue("us-west-2")
	now := time.Now()
	// Sold in blocks alone: there is no other offering.
	c.setMachines([]capacity.Machine{{Name: "p9.48xlarge", Arch: "amd64", VCPUs: 96, MemoryMiB: 1 << 20, CurrentGeneration: true, ENIs: 4, IPv4PerENI: 15}}, now)
	pr := &v1alpha1.Provisioner{}
	pr.Name = "ml"
	pr.Spec.Requirements = []v1alpha1.Requirement{{Key: corev1.LabelInstanceTypeStable, Operator: v1alpha1.OperatorIn, Values: []string{"p9.48xlarge"}}}
	pr.Spec.EC2.CapacityReservations = []v1alpha1.SelectorTerm{{ID: "cr-1"}}
	c.setResolved(pr.Name, capacity.Resolved{Ready: true, Reservations: []capacity.Reservation{{InstanceType: "p9.48xlarge", Zone: "us-west-2a", Available: 2}}})
	room := func() int {
		it := c.provisioner(pr, now).InstanceTypes[0]
		return append(it.Offerings, it.SoldOut...)[0].Room
	}
	if room() != 2 {
		t.Errorf("room for %d", room())
	}
	claim := &v1alpha1.NodeClaim{}
	claim.Spec.Provisioner.Name = pr.Name
	claim.Spec.Offerings = []v1alpha1.ClaimOffering{
		{InstanceType: "p9.48xlarge", Zone: "us-west-2a", CapacityType: v1alpha1.CapacityTypeReserved, HourlyPrice: "0.1"},
		{InstanceType: "p9.48xlarge", Zone: "us-west-2b", CapacityType: v1alpha1.CapacityTypeOnDemand, HourlyPrice: "98"},
	}
	if !entersReservation(claim) {
		t.Error("a new claim takes no room")
	}
	claim.Status.Launch = &v1alpha1.LaunchIntent{CapacityType: v1alpha1.CapacityTypeReserved}
	if !entersReservation(claim) {
		t.Error("a claim that is being launched takes no room")
	}
	claim.Status.Launch.CapacityType = v1alpha1.CapacityTypeOnDemand
	if entersReservation(claim) {
		t.Error("a claim that is launched on demand takes room")
	}
	claim.Status.Launch.CapacityType, claim.Status.InstanceID = v1alpha1.CapacityTypeReserved, "i-1"
	if entersReservation(claim) {
		t.Error("what EC2 counts is counted twice")
	}
	if f, known := c.instance(claim, "p9.48xlarge", "us-west-2a", v1alpha1.CapacityTypeReserved); !known || f.price != 0.1 || f.labels[v1alpha1.LabelCapacityType] != v1alpha1.CapacityTypeReserved {
		t.Errorf("of its instance is expected: %+v", f)
	}
	c.occupied(pr.Name, "p9.48xlarge", "us-west-2a")
	if room() != 1 {
		t.Errorf("with one instance there is room for %d", room())
	}
	c.occupied(pr.Name, "p9.48xlarge", "us-west-2b") // Of another zone.
	c.occupied(pr.Name, "p9.48xlarge", "us-west-2a")
	if room() != 0 {
		t.Errorf("with two instances there is room for %d", room())
	}
}
