package ftpd

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server/internal/door"
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
		return door.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
	}
	return &metrics{
		connections: door.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{
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
