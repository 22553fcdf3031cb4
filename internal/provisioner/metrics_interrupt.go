package provisioner

import (
	"github.com/prometheus/client_golang/prometheus"
)

// interruptMetrics are those of interruption and repair.
type interruptMetrics struct {
	interruptions, repairs *prometheus.CounterVec
	poison, queueErrors    prometheus.Counter
	noticeLatency          prometheus.Histogram
	repairsHeld            prometheus.Gauge
}

func newInterruptMetrics() interruptMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "berth", Name: name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "berth", Name: name, Help: help}, []string{label})
	}
	return interruptMetrics{
		interruptions: vec("interruption_messages_total", "Events received from the interruption queue, those about other people's instances included.", "kind"),
		poison:        counter("interruption_poison_messages_total", "Messages of the interruption queue that were no events; each was removed once."),
		queueErrors:   counter("interruption_queue_errors_total", "Calls to the interruption queue that failed."),
		noticeLatency: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "berth", Name: "interruption_taint_duration_seconds",
			Help: "Time from the receipt of a notice to the taint on its node.", Buckets: prometheus.ExponentialBuckets(0.005, 1.6, 16)}),
		repairs: vec("node_repairs_total", "Nodes whose replacement was begun because they had failed.", "provisioner"),
		repairsHeld: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "berth", Name: "node_repairs_held_provisioners",
			Help: "Provisioners with failed nodes that wait: so many are ill at once that something else may be wrong."}),
	}
}

func (m *interruptMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.interruptions, m.poison, m.queueErrors, m.noticeLatency, m.repairs, m.repairsHeld}
}
