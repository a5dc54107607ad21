package sftpd

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server/internal/door"
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
		connections: door.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_sftp_connections", Help: "TCP connections on SFTP listeners.",
		})),
		sessions: door.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_sftp_sessions", Help: "SFTP sessions, one a channel.",
		})),
		handshakes: door.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_sftp_handshakes_total", Help: "SSH handshakes by result: ok, kex, auth, broken, limit.",
		}, []string{"result"})),
		auth: door.Register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_sftp_auth_total", Help: "Authentication attempts by result: accepted, refused, error.",
		}, []string{"result"})),
		timeouts: door.Register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "transferd_sftp_timeouts_total", Help: "Connections cut because the client was silent or idle.",
		})),
		windows: door.Register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_sftp_window_bytes", Help: "Bytes by which the SSH windows of uploads have grown.",
		})),
		malformed: door.Register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "transferd_sftp_malformed_total", Help: "SFTP sessions ended because of a malformed packet.",
		})),
	}
}
