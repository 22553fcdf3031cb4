package provisioner

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// priceDates says when the prices in force are from, by source.
type priceDates interface {
	PricesAt() map[string]time.Time
}

// priceAges computes the age of prices when it is scraped. of is nil without EC2.
type priceAges struct{ of priceDates }

var descPriceAge = prometheus.NewDesc("berth_price_age_seconds",
	"How old the prices in force are, by where they are from: spot and pricing (EC2's and AWS Pricing's answers), shipped (those of this release, while some stand in).",
	[]string{"source"}, nil)

func (priceAges) Describe(ch chan<- *prometheus.Desc) { ch <- descPriceAge }

func (p priceAges) Collect(ch chan<- prometheus.Metric) {
	if p.of == nil {
		return
	}
	for source, at := range p.of.PricesAt() {
		ch <- prometheus.MustNewConstMetric(descPriceAge, prometheus.GaugeValue, time.Since(at).Seconds(), source)
	}
}
