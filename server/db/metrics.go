package db

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what operators see of the database. How many jobs wait is asked for when somebody looks.
type metrics struct {
	seconds    *prometheus.HistogramVec
	calls      prometheus.Histogram
	registerer prometheus.Registerer
	registered []prometheus.Collector
}

func newMetrics(r prometheus.Registerer, read Querier) (*metrics, error) {
	m := &metrics{
		registerer: r,
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "transferd_db_transaction_seconds",
			Help:    "Duration of writing transactions, waiting for the connection included.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2, 16),
		}, []string{"kind"}),
		calls: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "transferd_db_batch_calls",
			Help:    "Calls of the journal, the engine and the control plane that shared one transaction.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 9),
		}),
	}
	if r == nil {
		return m, nil
	}
	queue := &queueDepth{read: read, desc: prometheus.NewDesc("transferd_db_queue_jobs",
		"Jobs of the workflow queue that are not done, by state.", []string{"state"}, nil)}
	for _, c := range []prometheus.Collector{m.seconds, m.calls, queue} {
		if err := r.Register(c); err != nil {
			return nil, errors.Join(err, m.close())
		}
		m.registered = append(m.registered, c)
	}
	return m, nil
}

// close takes the metrics back: after it nobody asks a closed database for its queue.
func (m *metrics) close() error {
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
	return nil
}

func (m *metrics) transaction(kind string, took time.Duration) {
	m.seconds.WithLabelValues(kind).Observe(took.Seconds())
}

func (m *metrics) batch(calls int, took time.Duration) {
	m.transaction("batch", took)
	m.calls.Observe(float64(calls))
}

// queueDepth counts the jobs that are not done.
type queueDepth struct {
	read Querier
	desc *prometheus.Desc
}

// Describe is part of prometheus.Collector.
func (q *queueDepth) Describe(c chan<- *prometheus.Desc) { c <- q.desc }

// Collect is part of prometheus.Collector.
func (q *queueDepth) Collect(c chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	depth := map[string]float64{"available": 0, "retryable": 0, "running": 0}
	err := q.read.Query(ctx, func(scan func(...any) error) error {
		var state string
		var n int64
		err := scan(&state, &n)
		depth[state] = float64(n)
		return err
	}, `SELECT state, COUNT(*) FROM river_job WHERE state IN ('available', 'retryable', 'running') GROUP BY state`)
	if err != nil {
		c <- prometheus.NewInvalidMetric(q.desc, err)
		return
	}
	for state, n := range depth {
		c <- prometheus.MustNewConstMetric(q.desc, prometheus.GaugeValue, n, state)
	}
}
