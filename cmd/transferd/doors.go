package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/cmd/transferd/internal/certificates"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api"
	"github.com/transferd/transferd/server/fleet"
	"github.com/transferd/transferd/server/ftpd"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/identity/gateway"
	"github.com/transferd/transferd/server/identity/guard"
	"github.com/transferd/transferd/server/identity/managed"
	"github.com/transferd/transferd/server/identity/usersfile"
	"github.com/transferd/transferd/server/proxyproto"
	"github.com/transferd/transferd/server/sftpd"
	"github.com/transferd/transferd/storage"
)

// wireIdentity makes who knows users: the catalogue, or who answers at a server's URL. The users file is one of those.
func (d *daemon) wireIdentity() error {
	var client *http.Client
	if d.cfg.UsersFile != "" {
		users, err := usersfile.Open(usersfile.Config{Path: d.cfg.UsersFile, Now: time.Now, Log: d.log, Metrics: d.registry})
		if err != nil {
			return fmt.Errorf("users file: %w", err)
		}
		client = &http.Client{Transport: users.Transport(http.DefaultTransport)}
	}
	d.dispatch = identity.NewDispatch(d.db, map[string]identity.Provider{
		"SERVICE_MANAGED": managed.New(d.db),
		"API_GATEWAY": gateway.New(gateway.Config{
			Servers: d.db, Client: client, Credentials: d.cfg.credentials, Region: d.cfg.Realm.Region,
			Now: time.Now, Log: d.log, Metrics: d.registry,
		}),
	})
	limits := d.cfg.Guard.guard()
	limits.Provider, limits.Log, limits.Metrics = d.dispatch, d.log, d.registry
	d.guard = guard.New(limits)
	d.dropped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "transferd_login_banned_connections_total", Help: "Connections that were closed unseen because their address is banned.",
	})
	d.registry.MustRegister(d.dropped)
	return nil
}

// testProvider lets the control plane ask identity providers without knowing them.
type testProvider struct{ *identity.Dispatch }

func (p testProvider) TestProvider(ctx context.Context, s server.Server, a identity.Attempt) (api.ProviderAnswer, error) {
	answer, err := p.Test(ctx, s, a)
	return api.ProviderAnswer(answer), err
}

// sftpFrontend lets the fleet start an SFTP front door without knowing it.
type sftpFrontend struct {
	*sftpd.Server
	d *daemon
}

func (f sftpFrontend) Serve(ctx context.Context, ln net.Listener, current func() fleet.Settings) error {
	ln = f.d.keepOut(f.d.behindProxy(ln, proxyproto.Config{Proxies: f.d.cfg.SFTP.Proxies, Mode: func() proxyproto.Mode {
		if wantsProxy(current().Server) {
			return proxyproto.Enforced
		}
		return proxyproto.Off
	}}))
	return f.Server.Serve(ctx, ln, func() sftpd.Settings {
		s := current()
		return sftpd.Settings{Server: s.Server, HostKeys: s.HostKeys}
	})
}

// ftpFrontend does so for FTP and FTPS.
type ftpFrontend struct {
	*ftpd.Server
	d *daemon
}

func (f ftpFrontend) Serve(ctx context.Context, ln net.Listener, current func() fleet.Settings) error {
	trusted := func() proxyproto.Mode { return proxyproto.Trusted }
	ln = f.d.behindProxy(ln, proxyproto.Config{Proxies: f.d.cfg.FTP.Proxies, Mode: trusted, Text: true})
	return f.Server.Serve(ctx, ln, func() ftpd.Settings { return ftpd.Settings{Server: current().Server} })
}

// behindProxy reads PROXY headers where the configuration names proxies.
func (d *daemon) behindProxy(ln net.Listener, c proxyproto.Config) net.Listener {
	if len(c.Proxies) == 0 {
		return ln
	}
	c.Log, c.Metrics = d.log, d.registry
	return proxyproto.Wrap(ln, c)
}

// wantsProxy says whether a server takes SFTP from proxies alone (API: ProxyConfig).
func wantsProxy(s server.Server) bool {
	d := s.ProtocolDetails
	return d != nil && d.ProxyConfig != nil && d.ProxyConfig.SftpMode == "PROXY_PROTOCOL_V2_ENFORCED"
}

func (d *daemon) wireFleet(stores storage.Stores) error {
	set, err := certificates.New(certificates.Config{Files: d.cfg.Certificates, Now: time.Now, Log: d.log, Metrics: d.registry})
	if err != nil {
		return err
	}
	d.fleet = fleet.New(fleet.Config{
		Catalogue: d.db, Supports: servable(set, len(d.cfg.SFTP.Proxies) > 0), Doors: []fleet.Door{d.sftpDoor(stores), d.ftpDoor(stores, set)},
		Shared: d.db.Clustered(), Listening: d.listening, Log: d.log, Registerer: d.registry, Now: time.Now,
	})
	return nil
}

// servable says why a server cannot be served here: it asks for what this build does not have, or for a certificate that
// the configuration does not name, or for a proxy where it names none.
func servable(set *certificates.Set, proxies bool) func(server.Server) error {
	return func(s server.Server) error {
		if wantsProxy(s) && !proxies {
			return errors.New("ProxyConfig with SftpMode PROXY_PROTOCOL_V2_ENFORCED needs the proxies' networks, which sftp.proxy_protocol of the configuration does not name")
		}
		if err := supports(s); err != nil || !speaks("FTPS")(s) {
			return err
		}
		_, err := set.Get(s.Certificate)
		return err
	}
}

func (d *daemon) sftpDoor(stores storage.Stores) fleet.Door {
	front := sftpd.New(sftpd.Config{
		Provider: d.guard, Sessions: d.sessions, Stores: stores, Log: d.log, Metrics: d.registry, Now: time.Now,
		KeepaliveInterval: d.cfg.SFTP.Keepalive, KeepaliveMax: d.cfg.SFTP.KeepaliveMax, IdleTimeout: d.cfg.SFTP.Idle,
		MaxSessions: d.cfg.SFTP.MaxSessions, DrainTimeout: d.cfg.Drain, WindowBudget: d.memory.windows,
	})
	pool := fleet.Addresses{
		Host: d.cfg.SFTP.Host, First: d.cfg.SFTP.First, Last: d.cfg.SFTP.Last,
		TagAddress: fleet.TagSFTPAddress, TagAsk: fleet.TagSFTPAsk,
	}
	return fleet.Door{Name: "SFTP", Serves: speaks("SFTP"), Listen: pool.Listen, Frontend: sftpFrontend{front, d}, TagAddress: pool.TagAddress}
}

func (d *daemon) ftpDoor(stores storage.Stores, set *certificates.Set) fleet.Door {
	ports := ftpd.PortRange{First: d.cfg.FTP.PassiveFirst, Last: d.cfg.FTP.PassiveLast}
	ports.AnyPort = ports.First == 0
	front := ftpd.New(ftpd.Config{
		Provider: d.guard, Sessions: d.sessions, Stores: stores, Certificates: set.Get, Log: d.log, Metrics: d.registry,
		Now: time.Now, DrainTimeout: d.cfg.Drain, PassivePorts: ports, PassiveAddresses: d.cfg.FTP.PassiveAddresses,
		ImplicitTLS: d.cfg.FTP.Implicit, IdleTimeout: d.cfg.FTP.Idle, DataTimeout: d.cfg.FTP.DataTimeout,
		LoginDelay: d.cfg.FTP.LoginDelay, MaxSessions: d.cfg.FTP.MaxSessions, MaxPerAddress: d.cfg.FTP.MaxPerAddress,
		Banned: d.guard.Banned, ProxyData: d.cfg.FTP.ProxyData, ProxyKeepsTCP: d.cfg.FTP.ProxyKeepsTCP,
	})
	pool := fleet.Addresses{
		Host: d.cfg.FTP.Host, First: d.cfg.FTP.First, Last: d.cfg.FTP.Last, TagAddress: fleet.TagFTPAddress, TagAsk: fleet.TagFTPAsk,
	}
	return fleet.Door{Name: "FTP", Serves: speaks("FTP", "FTPS"), Listen: pool.Listen, Frontend: ftpFrontend{front, d}, TagAddress: pool.TagAddress}
}

// speaks says of a server whether it has one of some protocols. One that names none has SFTP, as CreateServer's default.
func speaks(protocols ...string) func(server.Server) bool {
	return func(s server.Server) bool {
		if len(s.Protocols) == 0 {
			return slices.Contains(protocols, "SFTP")
		}
		return slices.ContainsFunc(s.Protocols, func(p string) bool { return slices.Contains(protocols, p) })
	}
}
