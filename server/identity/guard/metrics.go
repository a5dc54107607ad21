package guard

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	failures *prometheus.CounterVec
	delayed  prometheus.Counter
	refused  prometheus.Counter
	bans     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, banned func() float64) metrics {
	m := metrics{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_login_failures_total", Help: "Passwords and public keys that were refused.",
		}, []string{"method"}),
		delayed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "transferd_login_delayed_total", Help: "Logins that had to wait because others had failed before.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "transferd_login_banned_attempts_total", Help: "Logins that were refused because their address is banned.",
		}),
		bans: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "transferd_login_bans_total", Help: "Addresses that were banned.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.failures, m.delayed, m.refused, m.bans, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "transferd_login_banned_addresses", Help: "Addresses that are banned now.",
		}, banned))
	}
	return m
}
