// Package guard stands before an identity provider and slows down who guesses passwords: failures are counted for each
// source address and for each user name, from some number on attempts have to wait, and an address that goes on is banned
// for a while. The operator sees the bans and can lift them.
//
// Three rules keep it from hurting whom it should protect. Names are slowed down and never banned, or anybody could lock
// anybody out. A refused public key is no guess, since keys cannot be guessed and ssh offers every key that its agent has:
// the refused keys of an address for one user count as one failure however many they are, and as none once that user gets
// in; they are not slowed down either. And a success forgives nothing else, or an attacker could wipe the slate by logging
// in as somebody that he knows.
//
// It counts in memory, in this process. It knows nothing of protocols or of how providers decide.
package guard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
)

// Config says whom to guard and how patiently. Provider is required; zero is the default everywhere else.
type Config struct {
	Provider identity.Provider
	// Window is how far back failures count: 5 minutes.
	Window time.Duration
	// DelayAfter is how many failures are free: 10. From there on each password waits Delay (100 ms), twice as long with
	// each failure more, up to MaxDelay (2 s). A longer one would keep who guesses one by one below BanAfter for ever.
	DelayAfter      int
	Delay, MaxDelay time.Duration
	// BanAfter is how many failures in a window ban an address: 100. Negative: none do.
	BanAfter int
	// BanFor is how long: 10 minutes.
	BanFor time.Duration
	// Exempt are networks whose addresses are neither slowed down nor banned: those of proxies, say, behind which
	// everybody has one address. User names count there too.
	Exempt []netip.Prefix
	// Entries bounds the memory: so many addresses, names and bans are remembered, the latest: 20,000.
	Entries int
	Now     func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: counted and shown nowhere
}

// Guard is a Provider that asks another one.
type Guard struct {
	Config
	metrics metrics

	mu        sync.Mutex // guards what follows
	addresses *recent[string, counter]
	users     *recent[userKey, counter]
	keys      *recent[keyKey, time.Time] // when refused keys counted as a failure
	bans      *recent[string, Ban]
}

// userKey is a user name of a server.
type userKey struct {
	server server.ID
	name   string
}

// keyKey is somebody who offers keys.
type keyKey struct {
	address string
	userKey
}

// Ban is an address that nobody gets in from.
type Ban struct {
	Address  string // an IPv4 address, or a network of 64 bits for IPv6
	Since    time.Time
	Until    time.Time
	Failures int
}

// New makes a Guard.
func New(c Config) *Guard {
	c.Window = cmp.Or(c.Window, 5*time.Minute)
	c.DelayAfter = cmp.Or(c.DelayAfter, 10)
	c.Delay = cmp.Or(c.Delay, 100*time.Millisecond)
	c.MaxDelay = cmp.Or(c.MaxDelay, 2*time.Second)
	c.BanAfter = cmp.Or(c.BanAfter, 100)
	c.BanFor = cmp.Or(c.BanFor, 10*time.Minute)
	c.Entries = cmp.Or(c.Entries, 20_000)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	g := &Guard{
		Config:    c,
		addresses: newRecent[string, counter](c.Entries), users: newRecent[userKey, counter](c.Entries),
		keys: newRecent[keyKey, time.Time](c.Entries), bans: newRecent[string, Ban](c.Entries),
	}
	g.metrics = newMetrics(c.Metrics, func() float64 { return float64(len(g.Bans())) })
	return g
}

// Authenticate asks the provider, after a wait if there were failures, unless the address is banned. Who is banned
// meanwhile is denied whatever the provider said: else guesses that run side by side would all be answered.
func (g *Guard) Authenticate(ctx context.Context, a identity.Attempt) (identity.Grant, error) {
	from := g.address(a.SourceIP)
	if err := g.admit(from); err != nil {
		return identity.Grant{}, err
	}
	if d := g.delay(from, a); d > 0 {
		g.metrics.delayed.Inc()
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return identity.Grant{}, ctx.Err()
		}
		if err := g.admit(from); err != nil {
			return identity.Grant{}, err
		}
	}
	grant, err := g.Provider.Authenticate(ctx, a)
	switch {
	case err == nil:
		g.succeeded(from, a)
	case errors.Is(err, identity.ErrDenied):
		g.failed(from, a)
		return identity.Grant{}, err
	default:
		return identity.Grant{}, err // the provider could not decide, which is nobody's guess
	}
	if err := g.admit(from); err != nil {
		return identity.Grant{}, err
	}
	return grant, nil
}

// admit refuses banned addresses.
func (g *Guard) admit(from string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if b := g.banned(from); b != nil {
		g.metrics.refused.Inc()
		return &identity.DeniedError{Reason: fmt.Sprintf("%s is banned until %s", b.Address, b.Until.UTC().Format(time.RFC3339))}
	}
	return nil
}

// banned is the ban of an address, nil if there is none. The caller holds mu.
func (g *Guard) banned(from string) *Ban {
	b := g.bans.get(from)
	if b != nil && !g.Now().Before(b.Until) {
		g.bans.drop(from)
		return nil
	}
	return b
}

// delay is how long an attempt waits.
func (g *Guard) delay(from string, a identity.Attempt) time.Duration {
	if len(a.PublicKey) > 0 {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	failures, now := 0, g.Now()
	if c := g.addresses.get(from); c != nil {
		failures = c.count(now, g.Window)
	}
	if c := g.users.get(user(a)); c != nil {
		failures = max(failures, c.count(now, g.Window))
	}
	if failures < g.DelayAfter {
		return 0
	}
	d := g.Delay
	for range failures - g.DelayAfter {
		if d *= 2; d >= g.MaxDelay {
			break
		}
	}
	return min(d, g.MaxDelay)
}

func (g *Guard) succeeded(from string, a identity.Attempt) {
	g.mu.Lock()
	defer g.mu.Unlock()
	who := keyKey{from, user(a)}
	counted := g.keys.get(who)
	if counted == nil {
		return
	}
	if c := g.addresses.get(from); c != nil {
		c.takeBack(*counted, g.Now(), g.Window)
	}
	g.keys.drop(who)
}

func (g *Guard) failed(from string, a identity.Attempt) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.Now()
	if len(a.PublicKey) > 0 {
		g.metrics.failures.WithLabelValues("publickey").Inc()
		who := keyKey{from, user(a)}
		if at := g.keys.get(who); from == "" || at != nil && now.Sub(*at) < g.Window {
			return
		}
		g.keys.put(who, now)
	} else {
		g.metrics.failures.WithLabelValues("password").Inc()
		g.users.of(user(a)).add(now, g.Window)
	}
	if from == "" {
		return
	}
	c := g.addresses.of(from)
	c.add(now, g.Window)
	if n := c.count(now, g.Window); g.BanAfter > 0 && n >= g.BanAfter && g.banned(from) == nil {
		g.ban(from, n, now)
	}
}

// ban begins a ban. After it the address starts anew. The caller holds mu.
func (g *Guard) ban(from string, failures int, now time.Time) {
	b := Ban{Address: from, Since: now, Until: now.Add(g.BanFor), Failures: failures}
	g.bans.put(from, b)
	g.addresses.drop(from)
	g.metrics.bans.Inc()
	g.Log.Warn("too many failed logins: the address is banned", "source", from, "failures", failures, "until", b.Until.UTC().Format(time.RFC3339))
}

// Banned says until when nobody gets in from an address, so that a front door need not talk to it at all.
func (g *Guard) Banned(sourceIP string) (time.Time, bool) {
	from := g.address(sourceIP)
	g.mu.Lock()
	defer g.mu.Unlock()
	if b := g.banned(from); b != nil {
		return b.Until, true
	}
	return time.Time{}, false
}

// Bans are the bans of this moment, the oldest first.
func (g *Guard) Bans() []Ban {
	g.mu.Lock()
	defer g.mu.Unlock()
	now, bans := g.Now(), []Ban{}
	for _, b := range g.bans.all() {
		if now.Before(b.Until) {
			bans = append(bans, b)
		} else {
			g.bans.drop(b.Address)
		}
	}
	slices.SortFunc(bans, func(a, b Ban) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Address, b.Address)) })
	return bans
}

// Lift ends the ban of an address, which may be written as Bans shows it, and forgets its failures. It says whether there
// was a ban.
func (g *Guard) Lift(address string) bool {
	if p, err := netip.ParsePrefix(address); err == nil {
		address = p.Addr().String()
	}
	from := network(address)
	g.mu.Lock()
	defer g.mu.Unlock()
	found := g.banned(from) != nil
	g.bans.drop(from)
	g.addresses.drop(from)
	if found {
		g.Log.Info("the ban of an address was lifted", "source", from)
	}
	return found
}

// address is what an attempt's source counts as; "" if it does not count.
func (g *Guard) address(sourceIP string) string {
	ip, err := netip.ParseAddr(sourceIP)
	if err == nil && slices.ContainsFunc(g.Exempt, func(p netip.Prefix) bool { return p.Contains(ip.Unmap().WithZone("")) }) {
		return ""
	}
	return network(sourceIP)
}

// network is the address itself for IPv4 and the /64 for IPv6, of which a single host has all (RFC 4291, 2.5.4). What is
// no address is "": nobody can tell who is behind it.
func network(sourceIP string) string {
	ip, err := netip.ParseAddr(sourceIP)
	if err != nil {
		return ""
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip, 64).Masked().String()
}

// user is whom an attempt's failure counts for. What is no user's name may be of any length, and counts as one.
func user(a identity.Attempt) userKey {
	if !identity.ValidUserName(a.UserName) {
		return userKey{server: a.Server}
	}
	return userKey{server: a.Server, name: a.UserName}
}
