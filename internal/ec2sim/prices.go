package ec2sim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-dev/berth/internal/catalog"
	"github.com/berth-dev/berth/internal/ec2sim/query"
)

const linux = "Linux/UNIX"

type spotPrice struct {
	Type    string `xml:"instanceType"`
	Product string `xml:"productDescription"`
	Price   string `xml:"spotPrice"`
	Time    string `xml:"timestamp"`
	Zone    string `xml:"availabilityZone"`
	ZoneID  string `xml:"availabilityZoneId"`
}

// describeSpotPriceHistory gives each pool one price, since an hour before
// midnight; prices do not move.
func (s *Sim) describeSpotPriceHistory(c *call, in *struct {
	describeInput
	Types     []string `q:"InstanceType"`
	Products  []string `q:"ProductDescription"`
	Zone      string   `q:"AvailabilityZone"`
	ZoneID    string   `q:"AvailabilityZoneId"`
	StartTime time.Time
	EndTime   time.Time
}) (any, error) {
	for _, name := range in.Types {
		if _, ok := s.cfg.Catalog.Type(name); !ok {
			return nil, errf("InvalidParameterValue", "Invalid value '%s' for InstanceType.", name)
		}
	}
	if len(in.Types) > 500 {
		return nil, errf("InvalidParameterValue", "At most 500 instance types can be asked for at once")
	}
	where := ""
	if in.Zone+in.ZoneID != "" {
		z, ok := s.region.Zone(in.Zone + in.ZoneID)
		if !ok {
			return nil, errf("InvalidParameterValue", "Invalid availability zone: [%s]", in.Zone+in.ZoneID)
		}
		where = z.Name
	}
	since := c.now.UTC().Truncate(24 * time.Hour).Add(-time.Hour)
	var all []spotPrice
	if len(in.Products) == 0 || slices.Contains(in.Products, linux) || slices.Contains(in.Products, linux+" (Amazon VPC)") {
		// A price that began earlier and still holds is part of the answer;
		// one that begins after the asked time is not.
		if in.EndTime.IsZero() || !in.EndTime.Before(since) {
			all = s.spotPrices(in.Types, where, since)
		}
	}
	kept, err := apply(all, in.Filters, fields[spotPrice]{
		"instance-type":        one(func(p spotPrice) string { return p.Type }),
		"availability-zone":    one(func(p spotPrice) string { return p.Zone }),
		"availability-zone-id": one(func(p spotPrice) string { return p.ZoneID }),
		"product-description":  one(func(p spotPrice) string { return p.Product }),
		"spot-price":           one(func(p spotPrice) string { return p.Price }),
		"timestamp":            one(func(p spotPrice) string { return p.Time }),
	}, nil)
	if err != nil {
		return nil, err
	}
	list, next, err := page(kept, byIndex, paging{1, 1000, 1000}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, err
	}
	return &struct {
		Items []spotPrice `xml:"spotPriceHistorySet>item"`
		Next  string      `xml:"nextToken"`
	}{list, next}, nil
}

func (s *Sim) spotPrices(types []string, zone string, since time.Time) []spotPrice {
	var out []spotPrice
	for _, t := range s.offeredTypes() {
		if len(types) > 0 && !slices.Contains(types, t.Name) {
			continue
		}
		for _, z := range s.cfg.Catalog.OfferedZones(s.region.Name, t.Name) {
			price, ok := s.cfg.Catalog.SpotPrice(s.region.Name, t.Name, z.Name)
			if ok && (zone == "" || zone == z.Name) {
				out = append(out, spotPrice{t.Name, linux, strconv.FormatFloat(price, 'f', 6, 64), query.Time(since), z.Name, z.ID})
			}
		}
	}
	return out
}

// locations are what the Pricing API calls the Regions.
var locations = map[string]string{
	"us-east-1": "US East (N. Virginia)", "us-west-2": "US West (Oregon)", "eu-west-1": "EU (Ireland)",
}

type productsInput struct {
	ServiceCode   string
	FormatVersion string
	Filters       []struct{ Type, Field, Value string }
	NextToken     string
	MaxResults    *int32
}

type productsOutput struct {
	FormatVersion string
	PriceList     []string
	NextToken     string `json:",omitempty"`
}

// attributes are those of a shared-tenancy Linux instance in the price list.
func attributes(region string, t *catalog.Type) map[string]string {
	return map[string]string{
		"servicecode": "AmazonEC2", "servicename": "Amazon Elastic Compute Cloud", "regionCode": region, "location": locations[region], "locationType": "AWS Region",
		"instanceType": t.Name, "instanceFamily": t.Family(), "vcpu": strconv.Itoa(t.VCPUs), "memory": strconv.FormatFloat(float64(t.MemoryMiB)/1024, 'f', -1, 64) + " GiB",
		"operatingSystem": "Linux", "preInstalledSw": "NA", "tenancy": "Shared", "capacitystatus": "Used", "licenseModel": "No License required",
		"operation": "RunInstances", "marketoption": "OnDemand", "currentGeneration": map[bool]string{true: "Yes", false: "No"}[t.CurrentGeneration],
		"usagetype": "BoxUsage:" + t.Name, "networkPerformance": t.NetworkPerformance,
	}
}

// maxProducts is the most products on a page ("GetProducts", MaxResults).
const maxProducts = 100

// getProducts lists on-demand prices of every Region of the catalogue. Filters
// are of type TERM_MATCH; a field that no product has matches none, as in AWS.
func (s *Sim) getProducts(in *productsInput) (any, error) {
	if in.ServiceCode != "AmazonEC2" {
		return nil, errf("NotFoundException", "Invalid service code: %s", in.ServiceCode)
	}
	if in.FormatVersion != "" && in.FormatVersion != "aws_v1" {
		return nil, errf("InvalidParameterException", "Invalid format version: %s", in.FormatVersion)
	}
	if in.MaxResults != nil && (*in.MaxResults < 1 || *in.MaxResults > maxProducts) {
		return nil, errf("InvalidParameterException", "MaxResults %d is not between 1 and %d", *in.MaxResults, maxProducts)
	}
	for _, f := range in.Filters {
		if f.Type != "TERM_MATCH" {
			return nil, errf("InvalidParameterException", "Filters of type %s are not implemented here", f.Type)
		}
	}
	type product struct {
		attributes map[string]string
		price      float64
	}
	var all []product
	for _, r := range s.cfg.Catalog.Regions {
		for i := range s.cfg.Catalog.Types {
			t := &s.cfg.Catalog.Types[i]
			price, ok := s.cfg.Catalog.OnDemandPrice(r.Name, t.Name)
			if !ok {
				continue
			}
			a := attributes(r.Name, t)
			if !slices.ContainsFunc(in.Filters, func(f struct{ Type, Field, Value string }) bool {
				return f.Field == "productFamily" && f.Value != family(t) || f.Field != "productFamily" && a[f.Field] != f.Value
			}) {
				a["productFamily"] = family(t)
				all = append(all, product{a, price})
			}
		}
	}
	list, next, err := page(all, byIndex, paging{1, maxProducts, maxProducts}, in.MaxResults, in.NextToken)
	if err != nil {
		return nil, errf("InvalidNextTokenException", "The pagination token is invalid")
	}
	out := &productsOutput{FormatVersion: "aws_v1", PriceList: []string{}, NextToken: next}
	for _, p := range list {
		text, err := priceListItem(p.attributes, p.price)
		if err != nil {
			return nil, err
		}
		out.PriceList = append(out.PriceList, text)
	}
	return out, nil
}

func family(t *catalog.Type) string {
	if t.BareMetal {
		return "Compute Instance (bare metal)"
	}
	return "Compute Instance"
}

// priceListItem is one product with its on-demand term, as JSON in a string
// ("Reading the service price list file", AWS Billing user guide).
func priceListItem(attributes map[string]string, price float64) (string, error) {
	const offerTerm, rateCode = "JRTCKXETXF", "6YS6EN2CT7"
	sku := strings.ToUpper(fmt.Sprintf("%x", attributes["regionCode"]+attributes["instanceType"]))
	sku = sku[max(0, len(sku)-16):]
	productFamily := attributes["productFamily"]
	delete(attributes, "productFamily")
	term := sku + "." + offerTerm
	text, err := json.Marshal(map[string]any{
		"product":         map[string]any{"productFamily": productFamily, "attributes": attributes, "sku": sku},
		"serviceCode":     "AmazonEC2",
		"version":         "20260701000000",
		"publicationDate": "2026-07-01T00:00:00Z",
		"terms": map[string]any{"OnDemand": map[string]any{term: map[string]any{
			"sku": sku, "offerTermCode": offerTerm, "effectiveDate": "2026-07-01T00:00:00Z", "termAttributes": map[string]any{},
			"priceDimensions": map[string]any{term + "." + rateCode: map[string]any{
				"rateCode": term + "." + rateCode, "unit": "Hrs", "beginRange": "0", "endRange": "Inf", "appliesTo": []string{},
				"description":  fmt.Sprintf("$%v per On Demand Linux %s Instance Hour", price, attributes["instanceType"]),
				"pricePerUnit": map[string]string{"USD": strconv.FormatFloat(price, 'f', 10, 64)},
			}},
		}}},
	})
	if err != nil {
		return "", fmt.Errorf("writing a price list item: %w", err)
	}
	return string(text), nil
}
