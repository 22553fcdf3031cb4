package ec2

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2sim"
	"github.com/berth-dev/berth/internal/ec2sim/simtest"
)

func TestNewSaysWhatToDo(t *testing.T) {
	sim := newStandIn(t, nil)
	closed := httptest.NewServer(nil)
	closed.Close()
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `<Response><Errors><Error><Code>AuthFailure</Code><Message>AWS was not able to validate the provided access credentials</Message></Error></Errors><RequestID>x</RequestID></Response>`)
	}))
	defer refusing.Close()
	tests := map[string]struct {
		env    map[string]string
		change func(*Config)
		want   string
	}{
		"no region":          {env: map[string]string{"AWS_REGION": ""}, want: "set AWS_REGION"},
		"no credentials":     {env: map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, want: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"},
		"nobody there":       {env: map[string]string{"AWS_ENDPOINT_URL": closed.URL}, want: "does not answer"},
		"no such host":       {env: map[string]string{"AWS_ENDPOINT_URL": "http://ec2.invalid:1"}, want: "does not exist (ec2.invalid)"},
		"bad credentials":    {env: map[string]string{"AWS_ENDPOINT_URL": refusing.URL}, want: "refused the credentials"},
		"the wrong region":   {env: map[string]string{"AWS_REGION": "eu-west-1"}, want: "eu-west-1"},
		"a missing setting":  {change: func(c *Config) { c.ClusterUID = "" }, want: "cluster UID"},
		"an unknown profile": {env: map[string]string{"AWS_PROFILE": "nobody"}, want: "check AWS_PROFILE"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			simtest.Isolate(t, sim.url)
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			cfg := testConfig()
			cfg.Region = ""
			if tc.change != nil {
				tc.change(&cfg)
			}
			_, err := New(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v; want one line with %q", err, tc.want)
			}
		})
	}
}

func TestDiscover(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	list, err := c.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 500 {
		t.Errorf("only %d types", len(list))
	}
	if !slices.IsSortedFunc(list, func(a, b capacity.Machine) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("not sorted by name")
	}
	kinds := map[string]int{}
	for _, m := range list {
		if len(m.Offerings) == 0 {
			t.Errorf("%s is not offered at all", m.Name)
		}
		for _, o := range m.Offerings {
			kinds[o.CapacityType]++
			if !(o.Price > 0) || o.ZoneID == "" {
				t.Errorf("%s: %+v", m.Name, o)
			}
		}
	}
	if kinds[onDemand] == 0 || kinds[spot] == 0 {
		t.Errorf("offerings: %v", kinds)
	}
	if notes := c.Notes(); len(notes) != 0 {
		t.Errorf("notes: %q", notes)
	}
	m := c.machine("m5.large")
	if m == nil || m.VCPUs != 2 || m.MemoryMiB != 8192 || m.ENIs != 3 || m.IPv4PerENI != 10 || m.Arch != "amd64" {
		t.Errorf("m5.large is %+v", m)
	}
	if g := c.machine("g5.xlarge"); g == nil || g.GPU == nil || g.GPU.Manufacturer != "nvidia" || g.GPU.Count != 1 {
		t.Errorf("g5.xlarge is %+v", g)
	}
}

func TestDiscoverWithoutPricing(t *testing.T) {
	sim := newStandIn(t, nil)
	sim.fault(ec2sim.Fault{Action: "pricing:GetProducts", Code: "AccessDeniedException", HTTPStatus: 400, Count: -1})
	c := sim.cloud(nil)
	if _, err := c.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := c.machine("m5.large")
	if m == nil || !slices.ContainsFunc(m.Offerings, func(o capacity.Offering) bool { return o.CapacityType == onDemand && o.Price == 0.096 }) {
		t.Errorf("the shipped price is not there: %+v", m)
	}
	if notes := strings.Join(c.Notes(), "; "); !strings.Contains(notes, "AccessDenied") || !strings.Contains(notes, "shipped") {
		t.Errorf("notes: %q", notes)
	}
}

func TestDiscoveryDoesNotWaitForPricing(t *testing.T) {
	sim := newStandIn(t, nil)
	sim.fault(ec2sim.Fault{Action: "pricing:GetProducts", Delay: "7s", Count: 1})
	c := sim.cloud(nil)
	began := time.Now()
	if _, err := c.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if notes := strings.Join(c.Notes(), "; "); !strings.Contains(notes, "no prices within 5s") || !strings.Contains(notes, "shipped") {
		t.Errorf("after %s the notes are %q", time.Since(began), notes)
	}
	at := c.PricesAt()
	if at[PricesShipped].IsZero() || !at[PricesPricing].IsZero() || time.Since(at[PricesSpot]) > time.Minute {
		t.Errorf("prices are of %v", at)
	}
	for deadline := time.Now().Add(time.Minute); c.latePrices.Load() == nil && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	if _, err := c.RefreshSpotPrices(t.Context()); err != nil {
		t.Fatal(err)
	}
	if at := c.PricesAt(); time.Since(at[PricesPricing]) > time.Minute {
		t.Errorf("the late prices do not count: %v; notes %q", at, c.Notes())
	}
}

func TestDiscoverKeepsTheLastSpotPrices(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	before, err := c.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	after, err := c.RefreshSpotPrices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the same prices make other machines: %s", diff)
	}
	sim.fault(ec2sim.Fault{Action: "DescribeSpotPriceHistory", Code: "UnauthorizedOperation", HTTPStatus: 403, Count: -1})
	for name, read := range map[string]func(context.Context) ([]capacity.Machine, error){"refresh": c.RefreshSpotPrices, "discovery": c.Discover} {
		again, err := read(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(before, again); diff != "" {
			t.Errorf("%s: spot offerings are lost with the prices: %s", name, diff)
		}
		if notes := strings.Join(c.Notes(), "; "); !strings.Contains(notes, "spot prices are of") || !strings.Contains(notes, "UnauthorizedOperation") {
			t.Errorf("%s: notes: %q", name, notes)
		}
	}
}

// TestOnDemandPricesDoNotWaitForSpotPrices: whoever may not read those has these
// all the same.
func TestOnDemandPricesDoNotWaitForSpotPrices(t *testing.T) {
	sim := newStandIn(t, nil)
	sim.fault(ec2sim.Fault{Action: "DescribeSpotPriceHistory", Code: "UnauthorizedOperation", HTTPStatus: 403, Count: -1})
	c := sim.cloud(nil)
	if _, err := c.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.latePrices.Store(&prices{of: map[string]float64{"m5.large": 0.5}, at: time.Now()})
	if _, err := c.RefreshSpotPrices(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := c.machine("m5.large"); m == nil || len(m.Offerings) == 0 || m.Offerings[0].Price != 0.5 {
		t.Errorf("m5.large is %+v", m)
	}
	if notes := strings.Join(c.Notes(), "; "); !strings.Contains(notes, "no spot price is known") {
		t.Errorf("notes: %q", notes)
	}
}

// TestAnEmptyAnswerIsNoNews: AWS does not stop to sell from one minute to the next.
func TestAnEmptyAnswerIsNoNews(t *testing.T) {
	for set, tc := range map[string]struct {
		refused bool   // The discovery fails.
		note    string // What it says, where it goes on with what was known.
	}{
		"instanceTypeSet":         {refused: true},
		"instanceTypeOfferingSet": {refused: true},
		"availabilityZoneInfo":    {refused: true},
		"spotPriceHistorySet":     {note: "spot prices are of"},
		"PriceList":               {note: "on-demand prices are of"},
	} {
		t.Run(set, func(t *testing.T) {
			sim := newStandIn(t, nil)
			var emptied atomic.Bool
			xml, json := regexp.MustCompile("(?s)<"+set+">.*</"+set+">(<nextToken>.*</nextToken>)?"), regexp.MustCompile(`(?s)\{.*"`+set+`".*\}`)
			sim.between(func(_ url.Values, answer string) string {
				if !emptied.Load() {
					return answer
				}
				return json.ReplaceAllString(xml.ReplaceAllString(answer, "<"+set+"/>"), `{"`+set+`":[]}`)
			})
			c := sim.cloud(nil)
			before, err := c.Discover(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			emptied.Store(true)
			after, err := c.Discover(t.Context())
			if (err != nil) != tc.refused || c.machine("m5.large") == nil {
				t.Fatalf("error %v; %d types are known", err, len(c.found.Load().machines))
			}
			if notes := strings.Join(c.Notes(), "; "); !strings.Contains(notes, tc.note) {
				t.Errorf("notes: %q", notes)
			}
			if diff := cmp.Diff(before, after); !tc.refused && diff != "" {
				t.Errorf("what was known is lost: %s", diff)
			}
			refreshed, err := c.RefreshSpotPrices(t.Context())
			if diff := cmp.Diff(before, refreshed); err != nil || diff != "" {
				t.Errorf("refreshing spot prices: %v; other machines: %s", err, diff)
			}
		})
	}
}

func TestDiscoverFails(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	sim.fault(ec2sim.Fault{Action: "DescribeInstanceTypes", Code: "UnauthorizedOperation", HTTPStatus: 403, Count: -1})
	_, err := c.Discover(t.Context())
	var bad *ConfigError
	if !errors.As(err, &bad) || !strings.Contains(err.Error(), "region us-west-2") {
		t.Errorf("error %v", err)
	}
}

func TestLaunchOnceWhateverHappensToTheReply(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	claim := newClaim("a", m5)
	record(t, c, claim)
	if n := sim.state().Live; n != 0 {
		t.Fatalf("preparing has launched %d instances", n)
	}

	// The reply is lost each time that the SDK tries; then the process dies.
	sim.fault(ec2sim.Fault{Action: "CreateFleet", DropReply: true, Count: 3})
	_, err := one(c.Launch(t.Context(), claim))
	if !errors.Is(err, ErrUnknown) || Definite(err) {
		t.Fatalf("error %v; nobody knows whether there is an instance", err)
	}

	// Another process reads the claim and repeats.
	inst, err := one(sim.cloud(nil).Launch(t.Context(), claim))
	if err != nil {
		t.Fatal(err)
	}
	again, err := one(sim.cloud(nil).Launch(t.Context(), claim))
	if err != nil || again.ID != inst.ID {
		t.Errorf("repeated: %v, %v; want %s", again.ID, err, inst.ID)
	}
	st := sim.state()
	if len(st.Instances) != 1 || st.Instances[0].ID != inst.ID {
		t.Fatalf("instances: %+v", st.Instances)
	}
	if inst.Type != "m5.large" || inst.Zone != "us-west-2a" || inst.CapacityType != onDemand || inst.PrivateDNSName != st.Instances[0].Node ||
		inst.PrivateDNSName == "" || inst.ImageID == "" || inst.ProviderID() != "aws:///us-west-2a/"+inst.ID {
		t.Errorf("instance %+v", inst)
	}
	want := map[string]string{
		"Name": "a", "kubernetes.io/cluster/demo": "owned", v1alpha1.TagClusterUID: testConfig().ClusterUID,
		v1alpha1.TagProvisioner: "default", v1alpha1.TagNodeClaim: "a", v1alpha1.TagNodeClaimUID: "uid-a",
		v1alpha1.TagLaunch: claim.Status.Launch.Token,
	}
	got := st.Instances[0].Tags
	for k := range got {
		if strings.HasPrefix(k, "aws:") {
			delete(got, k)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tags: %s", diff)
	}
	for name, find := range map[string]func() ([]Instance, error){
		"Find":      func() ([]Instance, error) { return c.Find(t.Context(), claim.Status.Launch.Token) },
		"Instances": func() ([]Instance, error) { return c.Instances(t.Context()) },
	} {
		list, err := find()
		if err != nil || len(list) != 1 || list[0].ID != inst.ID || list[0].ClaimUID != "uid-a" || list[0].ClaimName != "a" || list[0].LaunchedAt.IsZero() {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
	}
	if list, err := c.Find(t.Context(), "OTHER"); err != nil || len(list) != 0 {
		t.Errorf("another launch's: %+v, %v", list, err)
	}
}

func TestLaunchWithAnotherRequestUnderTheToken(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	claim := newClaim("a", m5)
	record(t, c, claim)
	inst, err := one(c.Launch(t.Context(), claim))
	if err != nil {
		t.Fatal(err)
	}
	changed := claim.DeepCopy()
	changed.Status.Launch.Overrides[0].InstanceType = "c5.large"
	if _, err := one(c.Launch(t.Context(), changed)); !errors.Is(err, ErrTokenMismatch) || Definite(err) {
		t.Errorf("error %v", err)
	}
	if list, err := c.Find(t.Context(), claim.Status.Launch.Token); err != nil || len(list) != 1 || list[0].ID != inst.ID {
		t.Errorf("found %+v, %v", list, err)
	}
}

func TestLaunchLearnsWhatEC2HasNoneOf(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	second := offer("c5.large", "us-west-2b", onDemand, "0.085")
	sim.post("pools", ec2sim.PoolState{InstanceType: "m5.large", Zone: "*", CapacityType: "on-demand", Capacity: 0})

	claim := newClaim("a", m5, second)
	record(t, c, claim)
	inst, err := one(c.Launch(t.Context(), claim))
	if err != nil || inst.Type != "c5.large" || inst.Zone != "us-west-2b" {
		t.Fatalf("%+v, %v", inst, err)
	}
	if diff := cmp.Diff([]string{"m5.large us-west-2a on-demand"}, offeringNames(inst.Refused)); diff != "" {
		t.Error(diff)
	}

	sim.post("pools", ec2sim.PoolState{InstanceType: "*", Zone: "*", CapacityType: "*", Capacity: 0})
	claim = newClaim("b", offer("m5.large", "us-west-2a", spot, "0.03"), m5, second)
	record(t, c, claim)
	_, err = one(c.Launch(t.Context(), claim))
	var none *CapacityError
	if !errors.As(err, &none) || !Definite(err) {
		t.Fatalf("error %v", err)
	}
	if diff := cmp.Diff([]string{"m5.large us-west-2a spot"}, offeringNames(none.Refused)); diff != "" {
		t.Error(diff)
	}
	// The refusal is replayed, so the next attempt has another token.
	first := claim.Status.Launch
	claim.Spec.Offerings = claim.Spec.Offerings[1:]
	record(t, c, claim)
	if next := claim.Status.Launch; next.Attempt != 2 || next.Token == first.Token || next.CapacityType != onDemand {
		t.Errorf("next attempt %+v", next)
	}
	sim.post("pools", ec2sim.PoolState{InstanceType: "*", Zone: "*", CapacityType: "*", Capacity: -1})
	if inst, err := one(c.Launch(t.Context(), claim)); err != nil || inst.Type != "m5.large" {
		t.Errorf("%+v, %v", inst, err)
	}
}

func TestLaunchThrottled(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	claim := newClaim("a", m5)
	record(t, c, claim)
	sim.fault(ec2sim.Fault{Action: "CreateFleet", Code: "RequestLimitExceeded", HTTPStatus: 503, Count: 3})
	if _, err := one(c.Launch(t.Context(), claim)); !errors.Is(err, ErrThrottled) || Definite(err) || len(Refused(err)) != 0 {
		t.Errorf("error %v", err)
	}
	if inst, err := one(c.Launch(t.Context(), claim)); err != nil || inst.ID == "" {
		t.Errorf("the same attempt later: %v", err)
	}
}

// TestARefusedLaunchGivesItsAddressesBack: what EC2 has refused for certain
// takes none, and what is in doubt may have.
func TestARefusedLaunchGivesItsAddressesBack(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	for name, tc := range map[string]struct {
		fault ec2sim.Fault
		aside int
	}{
		"refused":   {ec2sim.Fault{Action: "CreateFleet", Code: "InvalidParameterValue", HTTPStatus: 400, Count: 1}, 0},
		"throttled": {ec2sim.Fault{Action: "CreateFleet", Code: "RequestLimitExceeded", HTTPStatus: 503, Count: 3}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			claim := newClaim(name, m5)
			record(t, c, claim)
			sim.fault(tc.fault)
			if _, err := c.Launch(t.Context(), claim); err == nil || Definite(err) != (tc.aside == 0) {
				t.Fatalf("error %v", err)
			}
			if n := c.addresses.planned[claim.Status.Launch.Token].n; n != tc.aside {
				t.Errorf("%d addresses are still set aside, want %d", n, tc.aside)
			}
		})
	}
}

func TestLaunchMixesImages(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	claim := newClaim("a", m5, offer("m7g.large", "us-west-2a", onDemand, "0.08"), offer("g5.xlarge", "us-west-2a", onDemand, "1.006"))
	record(t, c, claim)
	l := claim.Status.Launch
	ids := map[string]bool{l.LaunchTemplateID: true, l.Overrides[1].LaunchTemplateID: true, l.Overrides[2].LaunchTemplateID: true}
	if len(ids) != 3 || ids[""] || l.Overrides[0].LaunchTemplateID != "" {
		t.Fatalf("templates: %+v", l)
	}
	sim.post("pools", ec2sim.PoolState{InstanceType: "m5.large", Zone: "*", CapacityType: "*", Capacity: 0})
	inst, err := one(c.Launch(t.Context(), claim))
	if err != nil || inst.Type != "m7g.large" {
		t.Fatalf("%+v, %v", inst, err)
	}
	if got := sim.state().Instances[0].Image; !strings.Contains(got, "arm64") {
		t.Errorf("m7g.large runs image %s", got)
	}
}

func TestTemplatesAreMadeOnceAndCollected(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := c.PrepareLaunch(t.Context(), newClaim(fmt.Sprint("c", i), m5), 1); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	claim := newClaim("b", m5)
	record(t, sim.cloud(nil), claim) // After a restart it is found again.
	if made, names := sim.calls("ec2:CreateLaunchTemplate"), sim.state().LaunchTemplates; made != 1 || len(names) != 1 || !strings.HasPrefix(names[0], "berth-demo-") {
		t.Fatalf("made %d, there are %q", made, names)
	}

	inUse := map[string]bool{claim.Status.Launch.LaunchTemplateID: true}
	for what, n := range map[string]struct {
		inUse map[string]bool
		age   time.Duration
	}{"in use": {inUse, 0}, "too young": {nil, time.Hour}} {
		if deleted, err := c.DeleteUnusedTemplates(t.Context(), n.inUse, n.age); err != nil || deleted != 0 {
			t.Errorf("%s: deleted %d, %v", what, deleted, err)
		}
	}
	other := sim.cloud(func(cfg *Config) { cfg.ClusterUID = "another" })
	if deleted, err := other.DeleteUnusedTemplates(t.Context(), nil, 0); err != nil || deleted != 0 {
		t.Errorf("another cluster's: deleted %d, %v", deleted, err)
	}
	if deleted, err := c.DeleteUnusedTemplates(t.Context(), nil, 0); err != nil || deleted != 1 {
		t.Errorf("unused: deleted %d, %v", deleted, err)
	}
	record(t, c, claim)
	if made := sim.calls("ec2:CreateLaunchTemplate"); made != 2 {
		t.Errorf("a launch that needs it makes it again: made %d", made)
	}
}

// TestNetworkInterfacesAreTagged: CreateFleet takes no tags for them, so that
// the launch template has them.
func TestNetworkInterfacesAreTagged(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	claim := newClaim("c-1", m5)
	claim.Spec.EC2.Tags = map[string]string{"team": "web", v1alpha1.TagClusterUID: "stolen"}
	record(t, c, claim)
	if _, err := c.Launch(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	got, err := c.ec2.DescribeTags(t.Context(), &ec2.DescribeTagsInput{Filters: []types.Filter{filter("resource-type", "network-interface")}})
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string]string{}
	for _, d := range got.Tags {
		tags[aws.ToString(d.Key)] = aws.ToString(d.Value)
	}
	want := map[string]string{"team": "web", v1alpha1.TagClusterPrefix + "demo": "owned", v1alpha1.TagClusterUID: testConfig().ClusterUID, v1alpha1.TagProvisioner: "default"}
	if diff := cmp.Diff(want, tags); diff != "" {
		t.Error(diff)
	}
	for _, other := range []string{"c-2", "c-3"} { // The same template serves the Provisioner's other claims.
		claim := newClaim(other, m5)
		claim.Spec.EC2.Tags = map[string]string{"team": "web", v1alpha1.TagClusterUID: "stolen"}
		record(t, c, claim)
	}
	if n := len(sim.state().LaunchTemplates); n != 1 {
		t.Errorf("%d templates were made for claims that are alike", n)
	}
}

func TestATemplateThatSomebodyDeleted(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	claim := newClaim("a", m5)
	record(t, c, claim)
	if _, err := c.ec2.DeleteLaunchTemplate(t.Context(), &ec2.DeleteLaunchTemplateInput{LaunchTemplateId: aws.String(claim.Status.Launch.LaunchTemplateID)}); err != nil {
		t.Fatal(err)
	}
	_, err := one(c.Launch(t.Context(), claim))
	var bad *ConfigError
	if !errors.As(err, &bad) || !Definite(err) || !strings.Contains(err.Error(), "launch template is gone") {
		t.Fatalf("error %v", err)
	}
	record(t, c, claim)
	if inst, err := one(c.Launch(t.Context(), claim)); err != nil || inst.ID == "" {
		t.Errorf("the next attempt: %v", err)
	}
}

func TestFullSubnetsAreAvoided(t *testing.T) {
	sim := newStandIn(t, func(cfg *ec2sim.Config) {
		cfg.Subnets = []ec2sim.SubnetConfig{{Zone: "us-west-2a", CIDR: "10.0.0.0/28"}, {Zone: "us-west-2b", CIDR: "10.0.1.0/24"}}
	})
	c := sim.cloud(nil)
	b := offer("m5.large", "us-west-2b", onDemand, "0.096")
	zones := map[string]int{}
	for i := range 14 {
		claim := newClaim(fmt.Sprint("c", i), m5, b)
		record(t, c, claim)
		inst, err := one(c.Launch(t.Context(), claim))
		if err != nil {
			t.Fatal(err)
		}
		zones[inst.Zone]++
	}
	// A /28 has 11 addresses that are not AWS's own.
	if diff := cmp.Diff(map[string]int{"us-west-2a": 11, "us-west-2b": 3}, zones); diff != "" {
		t.Error(diff)
	}
	_, err := c.PrepareLaunch(t.Context(), newClaim("last", m5), 1)
	var none *CapacityError
	if !errors.As(err, &none) || len(none.Refused) != 1 || !strings.Contains(err.Error(), "free address") {
		t.Errorf("error %v", err)
	}
}

func TestTerminate(t *testing.T) {
	sim := newStandIn(t, func(cfg *ec2sim.Config) { cfg.TerminateDelay = time.Hour })
	c := sim.cloud(nil)
	var ids []string
	for i := range 3 {
		claim := newClaim(fmt.Sprint("c", i), m5)
		record(t, c, claim)
		inst, err := one(c.Launch(t.Context(), claim))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, inst.ID)
	}
	other := sim.cloud(func(cfg *Config) { cfg.ClusterUID = "another" })
	if err := other.Terminate(t.Context(), ids[0]); !errors.Is(err, ErrForeign) {
		t.Errorf("another cluster's instance: %v", err)
	}
	if err := c.Terminate(t.Context(), "i-0123456789abcdef0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an instance that nobody knows: %v", err)
	}
	if n := sim.state().Live; n != 3 {
		t.Fatalf("%d of 3 live on", n)
	}
	calls := sim.calls("ec2:TerminateInstances")
	var wg sync.WaitGroup
	for _, id := range append(ids, "i-0123456789abcdef0") {
		wg.Go(func() {
			if err := c.Terminate(t.Context(), id); (err != nil) != (id == "i-0123456789abcdef0") {
				t.Errorf("%s: %v", id, err)
			}
		})
	}
	wg.Wait()
	if n := sim.calls("ec2:TerminateInstances") - calls; n > 2 {
		t.Errorf("%d calls for three instances at the same time", n)
	}
	if n := sim.state().Live; n != 0 {
		t.Errorf("%d live on", n)
	}
	if err := c.Terminate(t.Context(), ids[0]); err != nil {
		t.Errorf("twice: %v", err)
	}
	if inst, err := c.Instance(t.Context(), ids[0]); err != nil || inst.State != StateShuttingDown {
		t.Errorf("%+v, %v", inst, err)
	}
	if list, err := c.Instances(t.Context()); err != nil || len(list) != 3 {
		t.Errorf("what is shutting down is not terminated: %d, %v", len(list), err)
	}
	if _, err := c.Instance(t.Context(), "i-0123456789abcdef0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("reading what nobody knows: %v", err)
	}
}

func TestTerminateOneBadIDSparesTheOthers(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	var ids []string
	for i := range 2 {
		claim := newClaim(fmt.Sprint("c", i), m5)
		record(t, c, claim)
		inst, err := one(c.Launch(t.Context(), claim))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, inst.ID)
	}
	// The call for both is refused, as when one of them is protected.
	sim.fault(ec2sim.Fault{Action: "TerminateInstances", Code: "OperationNotPermitted", HTTPStatus: 400, Count: 2})
	got, err := c.terminate(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, id := range ids {
		if err := got[id].err; err != nil {
			failed++
			if !strings.Contains(err.Error(), "termination protection") {
				t.Errorf("error %v", err)
			}
		}
	}
	if failed != 1 || sim.state().Live != 1 {
		t.Errorf("%d failed, %d live on; want 1 and 1", failed, sim.state().Live)
	}
}

func TestPreflight(t *testing.T) {
	sim := newStandIn(t, nil)
	c := sim.cloud(nil)
	found, err := c.Preflight(t.Context(), nil)
	none := []UntriedAction{
		{"ec2:CreateFleet", "there is no launch template of this cluster yet"}, {"ec2:DeleteLaunchTemplate", "there is no launch template of this cluster yet"},
		{"ec2:TerminateInstances", "there is no instance of this cluster yet"}, {"ec2:CreateTags", "there is no instance of this cluster yet"},
	}
	if diff := cmp.Diff(none, found.Untried); err != nil || len(found.Missing) != 0 || diff != "" {
		t.Errorf("all is allowed, and nothing there yet: %+v, %v %s", found.Missing, err, diff)
	}
	claim := newClaim("a", m5)
	record(t, c, claim)
	if _, err := one(c.Launch(t.Context(), claim)); err != nil {
		t.Fatal(err)
	}
	before := found.Allowed
	if found, err := c.Preflight(t.Context(), nil); err != nil || len(found.Missing)+len(found.Untried) != 0 || found.Allowed != before+len(none) {
		t.Errorf("all is allowed: %+v, %v", found, err)
	}
	if st := sim.state(); st.Live != 1 || len(st.LaunchTemplates) != 1 {
		t.Errorf("it has changed something: %+v", st)
	}
	for _, action := range []string{"CreateFleet", "TerminateInstances", "CreateTags"} {
		sim.fault(ec2sim.Fault{Action: action, Code: "UnauthorizedOperation", Message: "You are not authorized", HTTPStatus: 403, Count: -1})
	}
	sim.fault(ec2sim.Fault{Action: "RunInstances", Code: "UnauthorizedOperation", Message: "You are not authorized to perform: iam:PassRole", HTTPStatus: 403, Count: -1})
	sim.fault(ec2sim.Fault{Action: "DeleteLaunchTemplate", Code: "InvalidParameterValue", Message: "of another opinion", Count: -1})
	sim.fault(ec2sim.Fault{Action: "ssm:GetParameters", Code: "AccessDeniedException", Message: "no", HTTPStatus: 400, Count: -1})
	found, err = c.Preflight(t.Context(), nil)
	want := []MissingPermission{{"ssm:GetParameters", "no"}, {"ec2:CreateFleet", "You are not authorized"}, {"ec2:TerminateInstances", "You are not authorized"},
		{"ec2:CreateTags", "You are not authorized"}, {"iam:PassRole", "You are not authorized to perform: iam:PassRole"}}
	if diff := cmp.Diff(want, found.Missing); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	untried := []UntriedAction{{"ec2:DeleteLaunchTemplate", "AWS said before it judged: InvalidParameterValue: of another opinion"}}
	if diff := cmp.Diff(untried, found.Untried); diff != "" {
		t.Error(diff)
	}
	sim.fault(ec2sim.Fault{Action: "DescribeImages", Code: "RequestLimitExceeded", HTTPStatus: 503, Count: 3})
	if _, err := c.Preflight(t.Context(), nil); !errors.Is(err, ErrThrottled) {
		t.Errorf("no answer is no verdict: %v", err)
	}
	// Without what a launch needs, launching is not tried, and that is said.
	bare := sim.cloud(func(cfg *Config) { cfg.ClusterName, cfg.DefaultInstanceProfile = "other", "" })
	found, err = bare.Preflight(t.Context(), nil)
	if n := len(found.Untried); err != nil || n < 2 || found.Untried[n-1].Action != "iam:PassRole" || !strings.Contains(found.Untried[n-2].Why, "no subnet with tags kubernetes.io/cluster/other") {
		t.Errorf("of a cluster without subnets: %+v, %v", found.Untried, err)
	}
}

func TestDescribeSurvivesManyPages(t *testing.T) {
	sim := newStandIn(t, func(cfg *ec2sim.Config) { cfg.Unthrottled = true }) // More at once than EC2 launches.
	c := sim.cloud(nil)
	claim := newClaim("a", m5)
	record(t, c, claim)
	req, err := fleetRequest("demo", c.cfg.ClusterUID, claim)
	if err != nil {
		t.Fatal(err)
	}
	req.ClientToken = nil
	req.TargetCapacitySpecification.TotalTargetCapacity = aws.Int32(1200)
	out, err := c.ec2.CreateFleet(context.Background(), req)
	if err != nil || len(out.Instances) == 0 {
		t.Fatalf("%v, %v", out, err)
	}
	list, err := c.Instances(t.Context())
	if err != nil || len(list) != 1200 {
		t.Errorf("%d instances, %v", len(list), err)
	}
	var ids []string
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	got, err := c.describe(t.Context(), ids[:batchMost])
	if err != nil || len(got) != batchMost {
		t.Errorf("%d by id, %v", len(got), err)
	}
}
