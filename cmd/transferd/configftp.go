package main

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/transferd/transferd/cmd/transferd/internal/certificates"
	"github.com/transferd/transferd/cmd/transferd/internal/yamlstrict"
	"github.com/transferd/transferd/server/ftpd"
	"github.com/transferd/transferd/server/identity/gateway"
	"github.com/transferd/transferd/server/identity/guard"
	"github.com/transferd/transferd/server/identity/usersfile"
)

type ftpFile struct {
	// The address that servers listen on which ask for none (tag transferd:ftp-address). "" is every interface.
	Host string `yaml:"host"`
	// The ports that servers get, FIRST-LAST, one each; 0 is any free one. A server keeps its port over restarts.
	Ports portRange `yaml:"ports"`
	// The ports of data connections, FIRST-LAST, shared by all servers; 0 is any free one. Each transfer that waits for its
	// data connection holds one of them.
	PassivePorts portRange `yaml:"passive_ports"`
	// What PASV tells clients of some networks instead of the address that they reached, while a server's PassiveIp is AUTO,
	// as NETWORK: ADDRESS; the narrowest network that has the client counts. The address is IPv4, or a name that has one:
	// {10.0.0.0/8: 10.0.0.5, 0.0.0.0/0: ftp.example.com} for clients inside and outside of a NAT.
	PassiveAddresses map[string]string `yaml:"passive_addresses"`
	// Networks of proxies that say with a PROXY header (version 2, or 1) for whom they connect, as [10.0.0.0/24]. What comes
	// from there must begin with a header; whoever else connects is taken for a client. The client's address counts then
	// in logs, for the guard, and for its data connections.
	ProxyProtocol []string `yaml:"proxy_protocol"`
	// Those proxies send a header on data connections too: it must name the same client.
	ProxyData bool `yaml:"proxy_data"`
	// Those proxies pass the client's TCP on, as AWS's network load balancers do, instead of ending it, as haproxy does. Then
	// the end of a connection tells as much about an upload as without a proxy.
	ProxyKeepsTCP bool `yaml:"proxy_keeps_tcp"`
	// Begin every connection with TLS, as port 990 does; AWS has no such thing.
	ImplicitTLS bool `yaml:"implicit_tls"`
	// How long a control connection may go without a command while it has no transfer.
	Idle time.Duration `yaml:"idle"`
	// How long a data connection may stay without a byte; the transfer has failed then.
	DataTimeout time.Duration `yaml:"data_timeout"`
	// How long the answer to a wrong password takes; each further one in the same connection takes twice as long.
	LoginDelay time.Duration `yaml:"login_delay"`
	// How many control connections a server takes at a time.
	MaxSessions int `yaml:"max_sessions"`
	// How many of them may come from one address. 0: any number. AWS takes 300 with FTPS.
	MaxPerAddress int `yaml:"max_per_address"`
}

func defaultFTP() ftpFile {
	return ftpFile{
		Ports: portRange{2100, 2199}, PassivePorts: portRange{8192, 8200}, PassiveAddresses: map[string]string{}, ProxyProtocol: []string{},
		Idle: 30 * time.Minute, DataTimeout: time.Minute, LoginDelay: time.Second, MaxSessions: 10_000,
	}
}

type identityFile struct {
	// A file with users and the hashes of their passwords, for servers whose identity provider is API_GATEWAY with the
	// Url https://users-file.transferd.internal. Read again when it changes; `transferd passwd` writes it.
	UsersFile string `yaml:"users_file"`
	// What slows down and bans who guesses passwords. It counts in this process, for all servers together; `transferd bans`
	// shows the bans and `transferd unban` lifts them.
	Guard guardFile `yaml:"guard"`
}

type guardFile struct {
	// How far back failed logins count.
	Window time.Duration `yaml:"window"`
	// How many failures of an address or of a user name are free. From there on each password of theirs waits.
	DelayAfter int `yaml:"delay_after"`
	// How long the first of those waits. Each failure more doubles it.
	Delay time.Duration `yaml:"delay"`
	// How long a password waits at most. What is too long keeps who guesses one by one below ban_after for ever.
	MaxDelay time.Duration `yaml:"max_delay"`
	// How many failures within the window ban an address: nobody gets in from there, and new connections are closed at
	// once. 0: none do.
	BanAfter int `yaml:"ban_after"`
	// How long a ban lasts.
	BanFor time.Duration `yaml:"ban_for"`
	// Networks whose addresses are neither slowed down nor banned, as [192.0.2.0/24]: where everybody comes from one
	// address, a NAT or a proxy. User names are slowed down there too.
	Exempt []string `yaml:"exempt"`
}

func defaultGuard() guardFile {
	return guardFile{
		Window: 5 * time.Minute, DelayAfter: 10, Delay: 100 * time.Millisecond, MaxDelay: 2 * time.Second,
		BanAfter: 100, BanFor: 10 * time.Minute, Exempt: []string{},
	}
}

func (f ftpFile) config() FTPConfig {
	return FTPConfig{
		Host: f.Host, First: f.Ports.First, Last: f.Ports.Last,
		PassiveFirst: f.PassivePorts.First, PassiveLast: f.PassivePorts.Last, PassiveAddresses: passiveAddresses(f.PassiveAddresses),
		Proxies: networks(f.ProxyProtocol), ProxyData: f.ProxyData, ProxyKeepsTCP: f.ProxyKeepsTCP, Implicit: f.ImplicitTLS,
		Idle: f.Idle, DataTimeout: f.DataTimeout, LoginDelay: f.LoginDelay, MaxSessions: f.MaxSessions, MaxPerAddress: f.MaxPerAddress,
	}
}

// passiveAddresses orders networks, the narrowest first. Those that are none are judge's to name.
func passiveAddresses(m map[string]string) []ftpd.PassiveAddress {
	var all []ftpd.PassiveAddress
	for network, address := range m {
		if p, err := parseNetwork(network); err == nil {
			all = append(all, ftpd.PassiveAddress{Clients: p, Address: address})
		}
	}
	slices.SortFunc(all, func(a, b ftpd.PassiveAddress) int {
		return cmp.Or(cmp.Compare(b.Clients.Bits(), a.Clients.Bits()), a.Clients.Addr().Compare(b.Clients.Addr()))
	})
	return all
}

// parseNetwork reads a network, or an address as a network of one.
func parseNetwork(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(ip.WithZone(""), ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

func (g guardFile) config() GuardConfig {
	c := GuardConfig{Window: g.Window, DelayAfter: g.DelayAfter, Delay: g.Delay, MaxDelay: g.MaxDelay, BanAfter: g.BanAfter, BanFor: g.BanFor}
	if c.BanAfter == 0 {
		c.BanAfter = -1 // the guard's way to say never
	}
	c.Exempt = networks(g.Exempt)
	return c
}

// networks reads a list of networks. Those that are none are judge's to name.
func networks(list []string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range list {
		if p, err := parseNetwork(s); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// areNetworks says whether each of a list is a network.
func areNetworks(list []string) bool { return len(networks(list)) == len(list) }

// credentials finds those that sign in the name of a role.
func (c Config) credentials(_ context.Context, role string) (gateway.Credentials, bool, error) {
	found, ok := c.Roles[role]
	return found, ok, nil
}

// guard is the guard's own configuration, but for its provider, log and metrics.
func (c GuardConfig) guard() guard.Config {
	return guard.Config{
		Window: c.Window, DelayAfter: c.DelayAfter, Delay: c.Delay, MaxDelay: c.MaxDelay, BanAfter: c.BanAfter, BanFor: c.BanFor,
		Exempt: c.Exempt, Now: time.Now,
	}
}

func (f *configFile) certificates() map[string]certificates.Files {
	files := make(map[string]certificates.Files, len(f.Certificates))
	for arn, t := range f.Certificates {
		files[arn] = certificates.Files(t)
	}
	return files
}

// judgeFTP says what cannot be true of FTP: the files themselves are read as the daemon will read them.
func (f *configFile) judgeFTP(at yamlstrict.Lines) error {
	var errs []error
	require := func(ok bool, key, reason string) {
		if !ok {
			errs = append(errs, at.At(key, reason))
		}
	}
	require(f.FTP.Host == "" || net.ParseIP(f.FTP.Host) != nil || hostName(f.FTP.Host), "ftp.host", "must be an address or a name, without a port")
	require(f.FTP.Idle > 0, "ftp.idle", "must be more than 0")
	require(f.FTP.DataTimeout > 0, "ftp.data_timeout", "must be more than 0")
	require(f.FTP.LoginDelay > 0, "ftp.login_delay", "must be more than 0")
	require(f.FTP.MaxSessions > 0, "ftp.max_sessions", "must be at least 1")
	require(f.FTP.MaxPerAddress >= 0, "ftp.max_per_address", "must not be negative")
	require(areNetworks(f.FTP.ProxyProtocol), "ftp.proxy_protocol", "must be networks such as 10.0.0.0/8")
	require(areNetworks(f.SFTP.ProxyProtocol), "sftp.proxy_protocol", "must be networks such as 10.0.0.0/8")
	require(!f.FTP.ProxyData || len(f.FTP.ProxyProtocol) > 0, "ftp.proxy_data", "needs proxy_protocol")
	require(!f.FTP.ProxyKeepsTCP || len(f.FTP.ProxyProtocol) > 0, "ftp.proxy_keeps_tcp", "needs proxy_protocol")
	for network, address := range f.FTP.PassiveAddresses {
		key := "ftp.passive_addresses." + network
		_, err := parseNetwork(network)
		require(err == nil, key, "must be a network such as 10.0.0.0/8")
		ip := net.ParseIP(address)
		require(ip != nil && ip.To4() != nil || ip == nil && hostName(address), key, "must be an IPv4 address, since PASV tells no other, or a name")
	}
	if _, err := certificates.New(certificates.Config{Files: f.certificates()}); err != nil {
		errs = append(errs, at.At("certificates", err.Error()))
	}
	return errors.Join(errs...)
}

// judgeIdentity says what cannot be true of who lets users in.
func (f *configFile) judgeIdentity(at yamlstrict.Lines) error {
	var errs []error
	require := func(ok bool, key, reason string) {
		if !ok {
			errs = append(errs, at.At(key, reason))
		}
	}
	if f.Identity.UsersFile != "" {
		if _, err := usersfile.Open(usersfile.Config{Path: f.Identity.UsersFile}); err != nil {
			errs = append(errs, at.At("identity.users_file", err.Error()))
		}
	}
	g := f.Identity.Guard
	require(g.Window > 0, "identity.guard.window", "must be more than 0")
	require(g.DelayAfter > 0, "identity.guard.delay_after", "must be at least 1")
	require(g.Delay > 0, "identity.guard.delay", "must be more than 0")
	require(g.MaxDelay >= g.Delay, "identity.guard.max_delay", "must not be less than delay")
	require(g.BanAfter >= 0, "identity.guard.ban_after", "must not be negative")
	require(g.BanFor > 0, "identity.guard.ban_for", "must be more than 0")
	require(areNetworks(g.Exempt), "identity.guard.exempt", "must be networks such as 10.0.0.0/8")
	return errors.Join(errs...)
}
