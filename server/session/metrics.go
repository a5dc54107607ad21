package session

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what this room counts. They are made once a process and shared by the Manager and Recover.
type Metrics struct {
	sessions  *prometheus.GaugeVec
	uploads   *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	seconds   prometheus.Histogram
	openFiles prometheus.Gauge
	pending   prometheus.Gauge
	waiting   prometheus.Gauge
}

// NewMetrics makes the metrics and registers them; with a nil Registerer they are counted and shown nowhere.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "transferd_sessions", Help: "Sessions that are open.",
		}, []string{"protocol"}),
		uploads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_uploads_total", Help: "Uploads that have a durable verdict.",
		}, []string{"verdict", "evidence", "protocol"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_bytes_total", Help: "Bytes of files, in from clients and out to them.",
		}, []string{"direction", "protocol"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "transferd_upload_seconds", Help: "From the opening of an upload to its durable verdict.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200},
		}),
		openFiles: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_open_files", Help: "Files that sessions hold open, uploads and downloads.",
		}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_recovery_pending", Help: "Uploads that were begun, are no longer served, and have no verdict yet.",
		}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_uploads_waiting", Help: "Uploads that are whole and wait for the rename of their temporary name.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.sessions, m.uploads, m.bytes, m.seconds, m.openFiles, m.pending, m.waiting)
	}
	return m
}

// ended counts a durable verdict.
func (m *Metrics) ended(u Upload, v Verdict) {
	m.uploads.WithLabelValues(string(v.Outcome), string(v.Evidence), u.Protocol).Inc()
	if v.Evidence != Crash { // the time until the next start says nothing about uploads
		m.seconds.Observe(max(0, v.Ended.Sub(u.Began)).Round(time.Microsecond).Seconds())
	}
}
