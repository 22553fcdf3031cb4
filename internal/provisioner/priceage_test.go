package provisioner

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type fakeDates map[string]time.Time

func (f fakeDates) PricesAt() map[string]time.Time { return f }

func TestPriceAges(t *testing.T) {
	reg := prometheus.NewRegistry()
	if err := reg.Register(priceAges{fakeDates{"spot": time.Now().Add(-time.Minute), "shipped": time.Now().Add(-24 * time.Hour)}}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "berth_price_age_seconds" {
		t.Fatalf("%v %v", families, err)
	}
	want := map[string]float64{"spot": 60, "shipped": 86400}
	for _, m := range families[0].Metric {
		source := m.Label[0].GetValue()
		if age := m.Gauge.GetValue(); age < want[source] || age > want[source]+60 {
			t.Errorf("%s is %v s old", source, age)
		}
		delete(want, source)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}
