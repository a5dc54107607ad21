package ftpd

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what happens before and around sessions; uploads are counted by the session room.
type metrics struct {
	connections prometheus.Gauge
	refused     *prometheus.CounterVec
	handshakes  *prometheus.CounterVec
	auth        *prometheus.CounterVec
	timeouts    *prometheus.CounterVec
	passive     *prometheus.CounterVec
	resumed     *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
	}
	return &metrics{
		connections: register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_ftp_connections", Help: "Control connections.",
		})),
		refused: counters("transferd_ftp_refused_total",
			"Control connections that ended before the greeting, by reason: limit, address-limit, banned.", "reason"),
		handshakes: counters("transferd_ftp_handshakes_total",
			"TLS handshakes by connection (control, data) and result (ok, failed).", "connection", "result"),
		auth: counters("transferd_ftp_auth_total", "Logins by result: accepted, refused, error.", "result"),
		timeouts: counters("transferd_ftp_timeouts_total",
			"Connections (control, data) that were cut because nothing moved on them.", "connection"),
		passive: counters("transferd_ftp_passive_failures_total",
			"PASV and EPSV that failed: exhausted (no free port), address (none known); stranger: a data connection from elsewhere; proxy: from the proxy, with a bad header.", "reason"),
		resumed: counters("transferd_ftp_tls_data_total",
			"TLS data connections by client software, TLS version and whether they resumed a session of their control connection.",
			"client", "version", "resumed"),
	}
}

// register registers a collector, or finds the one that an earlier Server registered at the same place: the numbers are
// the process's, not one Server's.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	var earlier prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &earlier) {
		if same, ok := earlier.ExistingCollector.(C); ok {
			return same
		}
	}
	return c
}
