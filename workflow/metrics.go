package workflow

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	started  *prometheus.CounterVec
	waited   *prometheus.HistogramVec
	ended    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	callback *prometheus.CounterVec
}

// These stand beside the error types in the label result.
const (
	resultOK        = "OK"
	resultRetry     = "RETRY"
	resultContinued = "CONTINUED"
)

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		started: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_executions_started_total",
			Help: "Executions whose first step was begun, by what triggered them.",
		}, []string{"trigger"}),
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "transferd_execution_wait_seconds",
			Help: "From the verdict that triggered an execution until its first step was begun, by what triggered it.",
			// A few milliseconds, unless workers are few.
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}, []string{"trigger"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_executions_total",
			Help: "Executions that ended, by what triggered them and by their last status.",
		}, []string{"trigger", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "transferd_step_duration_seconds",
			Help: "How long an attempt at a step took, by step type and result: OK, RETRY, CONTINUED or the error type.",
			// A tag takes milliseconds, a copy of a terabyte minutes.
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 11),
		}, []string{"type", "result"}),
		callback: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_callbacks_total",
			Help: "Callbacks of custom steps by what they said, SUCCESS or FAILURE, or REFUSED if nothing waited for them.",
		}, []string{"result"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.started, m.waited, m.ended, m.duration, m.callback} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// CountEnded counts an execution that ended without the engine.
func (e *Engine) CountEnded(trigger Trigger, status Status) {
	e.metrics.ended.WithLabelValues(string(trigger), string(status)).Inc()
}

func (m *metrics) step(spec StepSpec, result string, took time.Duration) {
	m.duration.WithLabelValues(spec.Type, result).Observe(took.Seconds())
}
