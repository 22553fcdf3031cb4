package provisioner

import (
	"fmt"
	"iter"
	"time"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/capacity"
	"github.com/berth-dev/berth/internal/ec2"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the loops. Labels are bounded: Provisioner names, zones, types of
// capacity and our own constants; never a tenant's string.
type metrics struct {
	pending, gap, instances                                                 prometheus.Gauge
	solve, batch                                                            prometheus.Histogram
	stage                                                                   *prometheus.HistogramVec
	claimsCreated, removed, launches, blocked                               *prometheus.CounterVec
	hints                                                                   *prometheus.CounterVec
	unschedulable                                                           *prometheus.GaugeVec
	roundErrors, throttled, neverJoined, neverInitialized, nominated, bound prometheus.Counter
	orphans, evicted, drained                                               prometheus.Counter
	// Of consolidation.
	sweep        prometheus.Histogram
	possible     prometheus.Gauge
	consolidated *prometheus.CounterVec
	moves, saved prometheus.Counter

	modelError *prometheus.GaugeVec
	interruptMetrics
}

// newMetrics registers all of them; gauges of claims are computed from the
// cache when they are scraped.
func newMetrics(reg prometheus.Registerer, p *Loops) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "berth", Name: name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "berth", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "berth", Name: name, Help: help})
	}
	m := &metrics{
		pending:   gauge("pods_pending", "Pods that wait for a node, with and without a seat."),
		gap:       gauge("plan_gap_ratio", "How far the last plan that launched something was above its proven lower bound; 0.01 is 1 %."),
		instances: gauge("instances", "Instances of this cluster that EC2 lists."),
		solve: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "berth", Name: "plan_duration_seconds",
			Help: "Time to solve one Snapshot.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "berth", Name: "launch_batch_size",
			Help: "Claims launched by one CreateFleet call.", Buckets: []float64{1, 2, 5, 10, 20, 50, 100}}),
		stage: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "berth", Name: "claim_stage_duration_seconds",
			Help: "Time from a claim's creation to the end of a stage.", Buckets: prometheus.ExponentialBuckets(0.05, 2, 15)}, []string{"stage"}),
		claimsCreated: vec("nodeclaims_created_total", "Claims created.", "provisioner"),
		removed:       vec("nodeclaims_removed_total", "Claims whose removal was begun by Berth.", "provisioner", "reason"),
		launches:      vec("instances_launched_total", "Instances launched.", "provisioner", "capacity_type", "zone"),
		blocked:       vec("disruptions_blocked_total", "Removals put off because no budget was left.", "provisioner", "reason"),
		hints:         vec("placement_hints_total", "Pods launched for, by how the webhook's hint compares with the plan: matched, differed, missing, stale (from older offerings), contradicted (not for this spec).", "agreement"),
		unschedulable: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "berth", Name: "pods_unschedulable",
			Help: "Pods that nothing can host, by their nearest obstacle."}, []string{"constraint"}),
		roundErrors:      counter("planning_errors_total", "Planning rounds that failed."),
		throttled:        counter("launches_throttled_total", "Launches that EC2 refused for their rate."),
		neverJoined:      counter("instances_never_joined_total", "Instances that did not join in time."),
		neverInitialized: counter("nodes_never_initialized_total", "Nodes that joined and were not ready for pods in time."),
		nominated:        counter("pods_nominated_total", "Pods whose seat was written as nominatedNodeName."),
		bound:            counter("pods_bound_total", "Pods bound by Berth itself."),
		orphans:          counter("orphans_terminated_total", "Instances terminated because no claim owned them."),
		evicted:          counter("pods_evicted_total", "Pods evicted by drains."),
		drained:          counter("nodes_drained_total", "Drains that ended."),
		sweep: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "berth", Name: "consolidation_sweep_duration_seconds",
			Help: "Time to weigh all nodes once.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
		possible:     gauge("consolidation_possible_saving_dollars_per_hour", "What the decisions of the last sweep would save."),
		consolidated: vec("consolidations_total", "Decisions that were begun, by kind (delete, replace) and outcome (done, dropped).", "kind", "outcome"),
		moves:        counter("consolidation_moves_total", "Pods moved to save money."),
		saved:        counter("consolidation_saved_dollars_per_hour_total", "Hourly cost saved by decisions carried out, summed up."),

		modelError:       newModelError(),
		interruptMetrics: newInterruptMetrics(),
	}
	for _, c := range append(m.collectors(), []prometheus.Collector{m.pending, m.gap, m.instances, m.solve, m.batch, m.stage, m.claimsCreated, m.removed, m.launches,
		m.blocked, m.hints, m.unschedulable, m.roundErrors, m.throttled, m.neverJoined, m.neverInitialized, m.nominated, m.bound, m.orphans, m.evicted, m.drained,
		m.sweep, m.possible, m.consolidated, m.moves, m.saved, m.modelError, claimCollector{p}, priceAges{p.cfg.Cloud}}...) {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	for _, a := range agreements {
		m.hints.WithLabelValues(string(a))
	}
	return m, nil
}

func (m *metrics) setUnschedulable(counts iter.Seq2[capacity.Constraint, int]) {
	m.unschedulable.Reset()
	for c, n := range counts {
		m.unschedulable.WithLabelValues(string(c)).Set(float64(n))
	}
}

// hint counts how a pod's hint compares with what was decided for it.
func (m *metrics) hint(a agreement) { m.hints.WithLabelValues(string(a)).Inc() }

func (m *metrics) launched(c *v1alpha1.NodeClaim, i ec2.Instance) {
	m.launches.WithLabelValues(c.Spec.Provisioner.Name, i.CapacityType, i.Zone).Inc()
	m.stage.WithLabelValues("launched").Observe(time.Since(c.CreationTimestamp.Time).Seconds())
}

func (m *metrics) initialized(c *v1alpha1.NodeClaim) {
	m.stage.WithLabelValues("initialized").Observe(time.Since(c.CreationTimestamp.Time).Seconds())
}

// claimCollector computes the gauges of claims from the cache.
type claimCollector struct{ p *Loops }

var (
	descClaims  = prometheus.NewDesc("berth_nodeclaims", "Claims by Provisioner and whether their node is ready.", []string{"provisioner", "ready"}, nil)
	descOrphans = prometheus.NewDesc("berth_nodeclaims_orphaned", "Claims whose Provisioner is gone: their nodes stay until somebody deletes them.", []string{"provisioner"}, nil)
	descCost    = prometheus.NewDesc("berth_hourly_cost_dollars", "Price of all claims in dollars an hour.", []string{"provisioner", "capacity_type"}, nil)
)

func (claimCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descClaims
	ch <- descCost
	ch <- descOrphans
}

func (c claimCollector) Collect(ch chan<- prometheus.Metric) {
	type count struct{ name, label string }
	claims, cost, orphans := map[count]float64{}, map[count]float64{}, map[string]float64{}
	for _, cl := range all[*v1alpha1.NodeClaim](c.p.stores.claims) {
		ready := "false"
		if isTrue(cl.Status.Conditions, v1alpha1.ConditionReady) {
			ready = "true"
		}
		claims[count{cl.Spec.Provisioner.Name, ready}]++
		if _, ok := one[*v1alpha1.Provisioner](c.p.stores.provisioners, cl.Spec.Provisioner.Name); !ok {
			orphans[cl.Spec.Provisioner.Name]++
		}
		if cl.Status.InstanceID != "" && !gone(cl) {
			cost[count{cl.Spec.Provisioner.Name, cl.Status.CapacityType}] += priceOf(cl)
		}
	}
	for k, v := range claims {
		ch <- prometheus.MustNewConstMetric(descClaims, prometheus.GaugeValue, v, k.name, k.label)
	}
	for name, v := range orphans {
		ch <- prometheus.MustNewConstMetric(descOrphans, prometheus.GaugeValue, v, name)
	}
	for k, v := range cost {
		ch <- prometheus.MustNewConstMetric(descCost, prometheus.GaugeValue, v, k.name, k.label)
	}
}
