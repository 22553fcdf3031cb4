package ec2

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/pricing"
	pricingtypes "github.com/aws/aws-sdk-go-v2/service/pricing/types"
	"golang.org/x/sync/errgroup"

	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/catalog"
)

// Page sizes, the most that EC2 and Pricing allow.
const (
	typesPage     = 100
	offeringsPage = 1000
	spotPage      = 1000
	pricesPage    = 100
)

// fallbackRegion is the region whose shipped prices stand in for a region that
// the shipped catalogue does not have: the order of prices is much the same
// everywhere, and without a price nothing could be bought.
const fallbackRegion = "us-east-1"

// discovery is what was found out about the region. It never changes.
type discovery struct {
	infos    []types.InstanceTypeInfo
	offered  map[string][]string // zones by instance type
	zoneIDs  map[string]string   // zone ids by zone name
	onDemand prices
	spot     map[poolKey]float64
	spotAt   time.Time

	// stoodIn is how many types have a shipped price.
	stoodIn  int
	machines []capacity.Machine
	byName   map[string]*capacity.Machine
	notes    []string
}

// prices by instance type, and what there is to say about them.
type prices struct {
	of   map[string]float64
	at   time.Time
	note string
}

// poolKey is an instance type in a zone.
type poolKey struct{ instanceType, zone string }

// Discover asks EC2 what there is to buy in the region: all instance types
// that can run Linux on amd64 or arm64, with an offering for every zone and
// every way of buying that has a price. On-demand prices come from Pricing, or
// from the last call or the shipped catalogue when Pricing does not answer (a
// note says so). An offering without a price is left out: nothing is free. An
// empty answer counts as none. The
// first time, nothing is known that could be bought before this returns: Pricing
// is then waited for only briefly, and an answer that comes later counts from the
// next RefreshSpotPrices on.
func (c *Cloud) Discover(ctx context.Context) ([]capacity.Machine, error) {
	d := &discovery{}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { d.infos, err = c.instanceTypes(gctx); return err })
	g.Go(func() (err error) { d.offered, err = c.offerings(gctx); return err })
	g.Go(func() (err error) { d.zoneIDs, err = c.zones(gctx); return err })
	g.Go(func() error { d.onDemand = c.onDemandInTime(ctx, gctx); return nil })
	g.Go(func() error { d.spot, d.spotAt, d.notes = c.spotOrLast(gctx); return nil })
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("discovering what region %s offers: %w", c.cfg.Region, err)
	}
	for action, got := range map[string]int{"DescribeInstanceTypes": len(d.infos), "DescribeInstanceTypeOfferings": len(d.offered),
		"DescribeAvailabilityZones": len(d.zoneIDs)} {
		if got == 0 {
			return nil, fmt.Errorf("discovering what region %s offers: %w", c.cfg.Region, emptyAnswer(action))
		}
	}
	d.build(c.cfg.Region)
	c.found.Store(d)
	return d.machines, nil
}

// emptyAnswer is the error for an answer without anything in it where there must
// be something: EC2 does not stop to sell.
func emptyAnswer(action string) error { return fmt.Errorf("%s: the answer is empty", action) }

// discovered makes sure that there has been a discovery: right after a start,
// launches may come before it.
func (c *Cloud) discovered(ctx context.Context) error {
	c.discovering.Lock()
	defer c.discovering.Unlock()
	if c.found.Load() != nil {
		return nil
	}
	_, err := c.Discover(ctx)
	return err
}

// RefreshSpotPrices reads the spot prices again and returns the machines of
// the last Discover with them; before the first Discover it discovers. Where EC2 does
// not give them the last ones stay, which a note says.
func (c *Cloud) RefreshSpotPrices(ctx context.Context) ([]capacity.Machine, error) {
	last := c.found.Load()
	if last == nil {
		return c.Discover(ctx)
	}
	next := &discovery{infos: last.infos, offered: last.offered, zoneIDs: last.zoneIDs, onDemand: last.onDemand}
	next.spot, next.spotAt, next.notes = c.spotOrLast(ctx)
	if late := c.latePrices.Swap(nil); late != nil && late.at.After(last.onDemand.at) {
		next.onDemand = *late
	}
	next.build(c.cfg.Region)
	c.found.Store(next)
	return next.machines, nil
}

// Notes are what the last discovery could not find out, and what stands in for
// it; each a sentence, with the age of the data.
func (c *Cloud) Notes() []string {
	if d := c.found.Load(); d != nil {
		return d.notes
	}
	return nil
}

// Sources of prices, as PricesAt names them.
const (
	PricesSpot    = "spot"
	PricesPricing = "pricing"
	PricesShipped = "shipped"
)

// PricesAt is when the prices in force are from, by source. A source that none
// of them is from is absent.
func (c *Cloud) PricesAt() map[string]time.Time {
	out := map[string]time.Time{}
	d := c.found.Load()
	if d == nil {
		return out
	}
	if len(d.spot) > 0 {
		out[PricesSpot] = d.spotAt
	}
	if len(d.onDemand.of) > 0 {
		out[PricesPricing] = d.onDemand.at
	}
	if at := catalog.Default().Date; d.stoodIn > 0 && !at.IsZero() {
		out[PricesShipped] = at
	}
	return out
}

// build puts the machines together, and notes what stands in for on-demand prices.
func (d *discovery) build(region string) {
	if d.onDemand.note != "" {
		d.notes = append(d.notes, d.onDemand.note)
	}
	shipped, shippedNote := shippedPrices(region)
	for _, info := range d.infos {
		m, ok := machineOf(info)
		if !ok {
			continue
		}
		price, known := d.onDemand.of[m.Name]
		if !known {
			if price, known = shipped(m.Name); known {
				d.stoodIn++
			}
		}
		m.Offerings = offeringsOf(info.SupportedUsageClasses, m.Name, d.offered[m.Name], d.zoneIDs, price, d.spot)
		if len(m.Offerings) > 0 || slices.Contains(info.SupportedUsageClasses, types.UsageClassTypeCapacityBlock) && len(d.offered[m.Name]) > 0 {
			d.machines = append(d.machines, m)
		}
	}
	if d.stoodIn > 0 {
		d.notes = append(d.notes, fmt.Sprintf("the on-demand prices of %d instance types are %s", d.stoodIn, shippedNote))
	}
	slices.SortFunc(d.machines, func(a, b capacity.Machine) int { return strings.Compare(a.Name, b.Name) })
	d.byName = make(map[string]*capacity.Machine, len(d.machines))
	for i := range d.machines {
		d.byName[d.machines[i].Name] = &d.machines[i]
	}
}

// machine returns a type of the last discovery.
func (c *Cloud) machine(name string) *capacity.Machine {
	d := c.found.Load()
	if d == nil {
		return nil
	}
	return d.byName[name]
}

// shippedPrices are the catalogue's, and what to say when they are used.
func shippedPrices(region string) (func(instanceType string) (float64, bool), string) {
	shipped := catalog.Default()
	from := region
	if _, ok := shipped.Region(region); !ok {
		from = fallbackRegion
	}
	return func(t string) (float64, bool) { return shipped.OnDemandPrice(from, t) },
		fmt.Sprintf("those of %s that this release of Berth was shipped with%s", from, shippedAge(shipped.Date, time.Now()))
}

// shippedAge says how old the shipped prices are.
func shippedAge(date, now time.Time) string {
	if date.IsZero() {
		return ""
	}
	return fmt.Sprintf(", of %s, %d days old", date.Format(time.DateOnly), int(now.Sub(date).Hours()/24))
}

func (c *Cloud) instanceTypes(ctx context.Context) ([]types.InstanceTypeInfo, error) {
	var out []types.InstanceTypeInfo
	p := ec2.NewDescribeInstanceTypesPaginator(c.ec2, &ec2.DescribeInstanceTypesInput{
		Filters: []types.Filter{
			filter("supported-virtualization-type", "hvm"),
			filter("processor-info.supported-architecture", "x86_64", "arm64"),
		},
		MaxResults: aws.Int32(typesPage),
	})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, translate("DescribeInstanceTypes", err)
		}
		out = append(out, page.InstanceTypes...)
	}
	return out, nil
}

func (c *Cloud) offerings(ctx context.Context) (map[string][]string, error) {
	out := map[string][]string{}
	p := ec2.NewDescribeInstanceTypeOfferingsPaginator(c.ec2, &ec2.DescribeInstanceTypeOfferingsInput{
		LocationType: types.LocationTypeAvailabilityZone, MaxResults: aws.Int32(offeringsPage)})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, translate("DescribeInstanceTypeOfferings", err)
		}
		for _, o := range page.InstanceTypeOfferings {
			out[string(o.InstanceType)] = append(out[string(o.InstanceType)], aws.ToString(o.Location))
		}
	}
	for _, zones := range out {
		slices.Sort(zones)
	}
	return out, nil
}

// zones returns the ids of the zones that the account may use, by name.
func (c *Cloud) zones(ctx context.Context) (map[string]string, error) {
	got, err := c.ec2.DescribeAvailabilityZones(ctx, &ec2.DescribeAvailabilityZonesInput{
		Filters: []types.Filter{filter("region-name", c.cfg.Region)}})
	if err != nil {
		return nil, translate("DescribeAvailabilityZones", err)
	}
	out := make(map[string]string, len(got.AvailabilityZones))
	for _, z := range got.AvailabilityZones {
		out[aws.ToString(z.ZoneName)] = aws.ToString(z.ZoneId)
	}
	return out, nil
}

// spotOrLast returns today's spot prices, or the last known when EC2 does not
// give them.
func (c *Cloud) spotOrLast(ctx context.Context) (map[poolKey]float64, time.Time, []string) {
	spot, err := c.spotPrices(ctx)
	if err == nil {
		return spot, time.Now(), nil
	}
	if last := c.found.Load(); last != nil && len(last.spot) > 0 {
		return last.spot, last.spotAt, []string{fmt.Sprintf("spot prices are of %s: %v", last.spotAt.UTC().Format(time.RFC3339), err)}
	}
	return nil, time.Time{}, []string{fmt.Sprintf("no spot price is known, so no spot instance is bought: %v", err)}
}

func (c *Cloud) spotPrices(ctx context.Context) (map[poolKey]float64, error) {
	var history []types.SpotPrice
	now := time.Now()
	p := ec2.NewDescribeSpotPriceHistoryPaginator(c.ec2, &ec2.DescribeSpotPriceHistoryInput{
		ProductDescriptions: []string{"Linux/UNIX", "Linux/UNIX (Amazon VPC)"},
		StartTime:           &now, // The prices in force now are the last ones before it.
		MaxResults:          aws.Int32(spotPage),
	})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, translate("DescribeSpotPriceHistory", err)
		}
		history = append(history, page.SpotPriceHistory...)
	}
	out := newestSpot(history)
	if last := c.found.Load(); len(out) == 0 && last != nil && len(last.spot) > 0 { // Some regions have none.
		return nil, emptyAnswer("DescribeSpotPriceHistory")
	}
	return out, nil
}

const (
	// pricingPatience is how long the first discovery waits for Pricing: EC2's own
	// answers take about as long.
	pricingPatience = 5 * time.Second
	// pricingMost bounds all pages together when nobody waits.
	pricingMost = 3 * time.Minute
)

// onDemandInTime is onDemandPrices, but for the first discovery no longer than
// pricingPatience and no longer than waiting lasts. Prices that come later are
// kept in latePrices.
func (c *Cloud) onDemandInTime(ctx, waiting context.Context) prices {
	if c.found.Load() != nil {
		return c.onDemandPrices(waiting)
	}
	answer := make(chan prices, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, pricingMost)
		defer cancel()
		p := c.onDemandPrices(ctx)
		if len(p.of) > 0 {
			c.latePrices.Store(&p)
		}
		answer <- p
	}()
	patience := time.NewTimer(pricingPatience)
	defer patience.Stop()
	select {
	case p := <-answer:
		return p
	case <-patience.C:
		return prices{note: fmt.Sprintf("AWS Pricing has given no prices within %s; they count as soon as it does", pricingPatience)}
	case <-waiting.Done():
		return prices{note: fmt.Sprintf("AWS Pricing gave no prices: %v", waiting.Err())}
	}
}

// onDemandPrices returns Pricing's prices; those of the last discovery, with a
// note, when Pricing does not answer; none at all before the first.
func (c *Cloud) onDemandPrices(ctx context.Context) prices {
	of, err := c.listedPrices(ctx)
	if err == nil {
		return prices{of: of, at: time.Now()}
	}
	if last := c.found.Load(); last != nil && len(last.onDemand.of) > 0 {
		return prices{of: last.onDemand.of, at: last.onDemand.at,
			note: fmt.Sprintf("on-demand prices are of %s: %v", last.onDemand.at.UTC().Format(time.RFC3339), err)}
	}
	return prices{note: fmt.Sprintf("AWS Pricing gave no prices: %v", err)}
}

// listedPrices reads the on-demand prices of the region.
func (c *Cloud) listedPrices(ctx context.Context) (map[string]float64, error) {
	of := map[string]float64{}
	equals := func(field, value string) pricingtypes.Filter {
		return pricingtypes.Filter{Type: pricingtypes.FilterTypeTermMatch, Field: aws.String(field), Value: aws.String(value)}
	}
	p := pricing.NewGetProductsPaginator(c.pricing, &pricing.GetProductsInput{
		ServiceCode: aws.String("AmazonEC2"),
		Filters: []pricingtypes.Filter{
			equals("regionCode", c.cfg.Region),
			equals("operatingSystem", "Linux"),
			equals("preInstalledSw", "NA"),
			equals("tenancy", "Shared"),
			equals("capacitystatus", "Used"),
			equals("marketoption", "OnDemand"),
		},
		MaxResults: aws.Int32(pricesPage),
	})
	for p.HasMorePages() {
		page, err := p.NextPage(ctx)
		if err != nil {
			return nil, translate("GetProducts", err)
		}
		for _, product := range page.PriceList {
			if t, price, ok := priceOf([]byte(product)); ok {
				of[t] = price
			}
		}
	}
	if len(of) == 0 {
		return nil, emptyAnswer("GetProducts")
	}
	return of, nil
}

// pricingRegion is the region of the Pricing endpoint to use: Pricing is
// served from a few regions only ("Using the Price List Query API").
func pricingRegion(region string) string {
	switch {
	case strings.HasPrefix(region, "cn-"):
		return "cn-northwest-1"
	case strings.HasPrefix(region, "eu-"):
		return "eu-central-1"
	case strings.HasPrefix(region, "ap-"):
		return "ap-south-1"
	default:
		return "us-east-1"
	}
}
