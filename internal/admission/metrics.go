package admission

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// latencyBuckets, in seconds, are fine where the work is (tens of
// microseconds) and reach to the API server's timeout.
var latencyBuckets = []float64{25e-6, 50e-6, 75e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 2e-3, 3e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3, 200e-3, 500e-3, 1, 5}

// metrics of the handlers. Their labels are names and results of our own, never
// something that a tenant has written.
type metrics struct {
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	shed     *prometheus.CounterVec
	panics   *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_admission_requests_total", Help: "Admission reviews by webhook and result.",
		}, []string{"webhook", "result"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "berth_admission_duration_seconds", Help: "Time from the request's headers to the answer.", Buckets: latencyBuckets,
		}, []string{"webhook"}),
		shed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_admission_shed_total", Help: "Reviews answered unseen, for want of time or room.",
		}, []string{"webhook"}),
		panics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_admission_panics_total", Help: "Panics in handlers; each was answered as its webhook answers an error.",
		}, []string{"webhook"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.latency, m.shed, m.panics} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// gauges are one webhook's series, looked up once.
type gauges struct {
	results map[Result]prometheus.Counter
	latency prometheus.Observer
	shed    prometheus.Counter
	panics  prometheus.Counter
}

func (m *metrics) of(webhook string) gauges {
	g := gauges{
		results: make(map[Result]prometheus.Counter, len(results)),
		latency: m.latency.WithLabelValues(webhook),
		shed:    m.shed.WithLabelValues(webhook),
		panics:  m.panics.WithLabelValues(webhook),
	}
	for _, r := range results {
		g.results[r] = m.requests.WithLabelValues(webhook, string(r))
	}
	return g
}

func (g *gauges) observe(r Result, took time.Duration) {
	g.results[r].Inc()
	g.latency.Observe(took.Seconds())
}
