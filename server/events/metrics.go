package events

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what operators see of the sinks. The backlog is asked for when somebody looks, so that every process of a
// cluster tells the same.
type metrics struct {
	delivered, failures, lost, buried *prometheus.CounterVec
}

func newMetrics(cfg Config) (*metrics, error) {
	m := &metrics{
		delivered: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_events_delivered_total", Help: "Events that a sink has taken.",
		}, []string{"sink"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_events_failures_total", Help: "Tries to deliver events that failed.",
		}, []string{"sink"}),
	}
	m.lost = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "transferd_events_lost_total", Help: "Events that were forgotten before a sink had them.",
	}, []string{"sink"})
	m.buried = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "transferd_events_given_up_total", Help: "Events that were given up because a sink did not take them.",
	}, []string{"sink"})
	b := &backlogs{
		outbox: cfg.Outbox, now: cfg.Now,
		events: prometheus.NewDesc("transferd_events_backlog", "Events that a sink has not had.", []string{"sink"}, nil),
		age: prometheus.NewDesc("transferd_events_oldest_seconds", "Age of the oldest event that a sink has not had, 0 if it has had all.",
			[]string{"sink"}, nil),
		dead: prometheus.NewDesc("transferd_events_dead", "Events that were given up and not sent again.", []string{"sink"}, nil),
	}
	for _, t := range cfg.Targets {
		b.sinks = append(b.sinks, t.Name)
		m.delivered.WithLabelValues(t.Name)
		m.failures.WithLabelValues(t.Name)
		m.lost.WithLabelValues(t.Name)
		m.buried.WithLabelValues(t.Name)
	}
	if cfg.Registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.delivered, m.failures, m.lost, m.buried, b} {
		if err := cfg.Registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// backlogs asks the outbox.
type backlogs struct {
	outbox            Outbox
	sinks             []string
	now               func() time.Time
	events, age, dead *prometheus.Desc
}

// Describe is part of prometheus.Collector.
func (b *backlogs) Describe(c chan<- *prometheus.Desc) { c <- b.events; c <- b.age; c <- b.dead }

// Collect is part of prometheus.Collector.
func (b *backlogs) Collect(c chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	all, err := b.outbox.Backlogs(ctx, b.sinks)
	if err != nil {
		err = errors.Join(errors.New("the outbox cannot be asked"), err)
		c <- prometheus.NewInvalidMetric(b.events, err)
		c <- prometheus.NewInvalidMetric(b.age, err)
		c <- prometheus.NewInvalidMetric(b.dead, err)
		return
	}
	for _, s := range all {
		age := 0.0
		if !s.Oldest.IsZero() {
			age = max(0, b.now().Sub(s.Oldest).Seconds())
		}
		c <- prometheus.MustNewConstMetric(b.events, prometheus.GaugeValue, float64(s.Events), s.Sink)
		c <- prometheus.MustNewConstMetric(b.age, prometheus.GaugeValue, age, s.Sink)
		c <- prometheus.MustNewConstMetric(b.dead, prometheus.GaugeValue, float64(s.Dead), s.Sink)
	}
}
