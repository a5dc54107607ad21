package sftpd

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what happens before and around sessions; uploads are counted by the session room.
type metrics struct {
	connections prometheus.Gauge
	sessions    prometheus.Gauge
	handshakes  *prometheus.CounterVec
	auth        *prometheus.CounterVec
	timeouts    prometheus.Counter
	malformed   prometheus.Counter
	windows     prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	return &metrics{
		connections: register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_sftp_connections", Help: "TCP connections on SFTP listeners.",
		})),
		sessions: register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_sftp_sessions", Help: "SFTP sessions, one a channel.",
		})),
		handshakes: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_sftp_handshakes_total", Help: "SSH handshakes by result: ok, kex, auth, broken, limit.",
		}, []string{"result"})),
		auth: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_sftp_auth_total", Help: "Authentication attempts by result: accepted, refused, error.",
		}, []string{"result"})),
		timeouts: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "transferd_sftp_timeouts_total", Help: "Connections cut because the client was silent or idle.",
		})),
		windows: register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_sftp_window_bytes", Help: "Bytes by which the SSH windows of uploads have grown.",
		})),
		malformed: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "transferd_sftp_malformed_total", Help: "SFTP sessions ended because of a malformed packet.",
		})),
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
