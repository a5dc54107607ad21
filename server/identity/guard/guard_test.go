package guard_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/identity/guard"
)

// provider knows one password and one key for everybody.
type provider struct {
	mu    sync.Mutex
	asked int
}

var errAway = errors.New("provider is away")

func (p *provider) Authenticate(_ context.Context, a identity.Attempt) (identity.Grant, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	switch {
	case a.Password == "away":
		return identity.Grant{}, errAway
	case a.Password == "right" || string(a.PublicKey) == "right":
		return identity.Grant{UserName: a.UserName}, nil
	}
	return identity.Grant{}, identity.ErrDenied
}

// rig is a guard in a bubble of time.
type rig struct {
	*guard.Guard
	t        *testing.T
	provider *provider
	registry *prometheus.Registry
}

func in(t *testing.T, change func(*guard.Config), f func(*testing.T, rig)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, registry := &provider{}, prometheus.NewRegistry()
		c := guard.Config{Provider: p, Metrics: registry}
		if change != nil {
			change(&c)
		}
		f(t, rig{guard.New(c), t, p, registry})
	})
}

// try says what came of an attempt and how long it waited.
func (r rig) try(a identity.Attempt) (time.Duration, error) {
	began := time.Now()
	a.Server = "s-1"
	g, err := r.Authenticate(r.t.Context(), a)
	if (err == nil) != (g.UserName != "") {
		r.t.Errorf("granted %+v, %v", g, err)
	}
	return time.Since(began), err
}

func password(address, user, password string) identity.Attempt {
	return identity.Attempt{SourceIP: address, UserName: user, Password: password, Protocol: "FTPS"}
}

func key(address, user, key string) identity.Attempt {
	return identity.Attempt{SourceIP: address, UserName: user, PublicKey: []byte(key), Protocol: "SFTP"}
}

func (r rig) banned() string {
	var all []string
	for _, b := range r.Bans() {
		all = append(all, b.Address)
	}
	return strings.Join(all, " ")
}

func (r rig) metric(name string) float64 {
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// TestGuesses: ten are free, then they get slower, then the address is out, then it may try again.
func TestGuesses(t *testing.T) {
	in(t, nil, func(t *testing.T, r rig) {
		want := []time.Duration{100, 200, 400, 800, 1600, 2000, 2000}
		n := 0
		for ; n < 10; n++ {
			if waited, err := r.try(password("192.0.2.1", "anna", "wrong")); waited != 0 || !errors.Is(err, identity.ErrDenied) {
				t.Fatalf("failure %d waited %v: %v", n, waited, err)
			}
		}
		for _, ms := range want {
			if waited, _ := r.try(password("192.0.2.1", "bert", "wrong")); waited != ms*time.Millisecond {
				t.Errorf("failure %d waited %v, want %d ms", n, waited, ms)
			}
			n++
		}
		for ; r.banned() == "" && n < 200; n++ {
			r.try(password("192.0.2.1", "carl", "wrong"))
		}
		if n != 100 || r.banned() != "192.0.2.1" {
			t.Fatalf("banned %q after %d failures", r.banned(), n)
		}
		asked := r.provider.asked
		var told *identity.DeniedError
		for _, a := range []identity.Attempt{password("192.0.2.1", "anna", "right"), key("192.0.2.1", "anna", "right"), password("::ffff:192.0.2.1", "anna", "right")} {
			if waited, err := r.try(a); waited != 0 || !errors.As(err, &told) || !strings.Contains(told.Reason, "banned until") {
				t.Errorf("banned, and yet: %v after %v", err, waited)
			}
		}
		if r.provider.asked != asked || r.metric("transferd_login_banned_attempts_total") != 3 || r.metric("transferd_login_banned_addresses") != 1 {
			t.Error("the provider was asked for a banned address, or it was not counted")
		}
		if _, err := r.try(password("192.0.2.2", "dora", "right")); err != nil {
			t.Errorf("another address: %v", err)
		}
		b := r.Bans()[0]
		if until, ok := r.Banned("192.0.2.1"); !ok || !until.Equal(b.Until) || b.Until.Sub(b.Since) != 10*time.Minute || b.Failures != 100 {
			t.Errorf("ban %+v", b)
		}
		time.Sleep(10 * time.Minute)
		if waited, err := r.try(password("192.0.2.1", "anna", "right")); waited != 0 || err != nil || r.banned() != "" {
			t.Errorf("after the ban: %v after %v", err, waited)
		}
	})
}

// TestStorm: bad logins side by side end in a ban too, after no more guesses than are allowed, and what was under way
// then is not answered, not even if it was right.
func TestStorm(t *testing.T) {
	in(t, nil, func(t *testing.T, r rig) {
		var wg sync.WaitGroup
		granted := make(chan error, 10_001)
		for i := range 10_000 {
			wg.Go(func() {
				_, err := r.Authenticate(t.Context(), password("192.0.2.1", fmt.Sprint("user", i), "wrong"))
				granted <- err
			})
		}
		wg.Wait()
		close(granted)
		for err := range granted {
			if !errors.Is(err, identity.ErrDenied) {
				t.Fatal(err)
			}
		}
		if r.banned() != "192.0.2.1" || r.metric("transferd_login_bans_total") != 1 {
			t.Errorf("banned %q", r.banned())
		}
		if !r.Lift("192.0.2.1") || r.Lift("192.0.2.1") || r.banned() != "" {
			t.Error("the ban was not lifted")
		}
		if waited, err := r.try(password("192.0.2.1", "anna", "right")); waited != 0 || err != nil {
			t.Errorf("lifted, and yet %v after %v", err, waited)
		}
	})
}

// TestBannedMeanwhile: an attempt that waits when the ban comes is refused, whatever its password.
func TestBannedMeanwhile(t *testing.T) {
	in(t, func(c *guard.Config) { c.DelayAfter, c.BanAfter = 1, 2 }, func(t *testing.T, r rig) {
		r.try(password("192.0.2.1", "anna", "wrong"))
		late := make(chan error)
		go func() {
			_, err := r.Authenticate(t.Context(), password("192.0.2.1", "anna", "right"))
			late <- err
		}()
		synctest.Wait()
		r.try(key("192.0.2.1", "bert", "wrong"))
		if err := <-late; !errors.Is(err, identity.ErrDenied) || r.provider.asked != 2 {
			t.Errorf("got %v, asked %d times", err, r.provider.asked)
		}
	})
}

// TestAgent: an ssh agent with five keys logs in all day.
func TestAgent(t *testing.T) {
	in(t, nil, func(t *testing.T, r rig) {
		for range 500 {
			for i := range 4 {
				r.try(key("192.0.2.1", "anna", fmt.Sprint("key", i)))
			}
			if waited, err := r.try(key("192.0.2.1", "anna", "right")); waited != 0 || err != nil {
				t.Fatalf("the right key: %v after %v", err, waited)
			}
			for i := range 5 {
				r.try(key("192.0.2.1", "bert", fmt.Sprint("key", i)))
			}
			if waited, err := r.try(password("192.0.2.1", "bert", "right")); waited != 0 || err != nil {
				t.Fatalf("the password after keys: %v after %v", err, waited)
			}
			time.Sleep(time.Second)
		}
	})
}

// TestKeyScan: who offers keys for one name after another is banned; who does for one name is not, nor slows it down.
func TestKeyScan(t *testing.T) {
	in(t, nil, func(t *testing.T, r rig) {
		for i := range 300 {
			r.try(key("192.0.2.1", "anna", fmt.Sprint("key", i)))
		}
		if waited, err := r.try(password("192.0.2.9", "anna", "right")); waited != 0 || err != nil || r.banned() != "" {
			t.Errorf("one name: %v after %v, banned %q", err, waited, r.banned())
		}
		for i := range 100 {
			r.try(key("192.0.2.2", fmt.Sprint("user", i), "wrong"))
		}
		if r.banned() != "192.0.2.2" {
			t.Errorf("banned %q", r.banned())
		}
	})
}

// TestKeysExpire: a failure by keys that is out of the window counts anew, and takes nothing back later.
func TestKeysExpire(t *testing.T) {
	in(t, func(c *guard.Config) { c.BanAfter = 3 }, func(t *testing.T, r rig) {
		r.try(key("192.0.2.1", "anna", "wrong"))
		time.Sleep(11 * time.Minute)
		r.try(password("192.0.2.1", "bert", "wrong"))
		r.try(password("192.0.2.1", "bert", "wrong"))
		r.try(key("192.0.2.1", "anna", "right"))
		r.try(password("192.0.2.1", "bert", "wrong"))
		if r.banned() != "192.0.2.1" {
			t.Error("an old failure was taken back from new ones")
		}
	})
}

// TestName: guesses from many addresses slow a name down, and do not lock its owner out.
func TestName(t *testing.T) {
	in(t, nil, func(t *testing.T, r rig) {
		for i := range 1000 {
			r.try(password(fmt.Sprintf("10.0.%d.%d", i/250, i%250), "anna", "wrong"))
		}
		if waited, err := r.try(password("192.0.2.1", "anna", "right")); waited != 2*time.Second || err != nil {
			t.Errorf("the owner: %v after %v", err, waited)
		}
		if waited, err := r.try(key("192.0.2.1", "anna", "right")); waited != 0 || err != nil {
			t.Errorf("the owner's key: %v after %v", err, waited)
		}
		if waited, err := r.try(password("192.0.2.1", "bert", "right")); waited != 0 || err != nil || r.banned() != "" {
			t.Errorf("another name: %v after %v", err, waited)
		}
		time.Sleep(10 * time.Minute)
		if waited, err := r.try(password("192.0.2.1", "anna", "right")); waited != 0 || err != nil {
			t.Errorf("later: %v after %v", err, waited)
		}
	})
}

// TestForgivesNothing: logging in as somebody that one knows does not wipe the slate.
func TestForgivesNothing(t *testing.T) {
	in(t, nil, func(t *testing.T, r rig) {
		for range 99 {
			r.try(password("192.0.2.1", "anna", "wrong"))
			r.try(password("192.0.2.1", "mallory", "right"))
		}
		r.try(password("192.0.2.1", "anna", "wrong"))
		r.try(password("192.0.2.1", "anna", "wrong"))
		// The waits make it longer than a window, so the first ones no longer count.
		if r.metric("transferd_login_delayed_total") < 150 {
			t.Error("was not slowed down")
		}
	})
}

// TestProviderAway: a provider that could not decide is nobody's guess.
func TestProviderAway(t *testing.T) {
	in(t, nil, func(t *testing.T, r rig) {
		for range 200 {
			if waited, err := r.try(password("192.0.2.1", "anna", "away")); waited != 0 || !errors.Is(err, errAway) {
				t.Fatalf("%v after %v", err, waited)
			}
		}
		if r.banned() != "" || r.metric("transferd_login_failures_total") != 0 {
			t.Error("it counted")
		}
	})
}

// TestAddresses: IPv6 hosts have a /64, proxies are exempt, and what is no address is nobody's.
func TestAddresses(t *testing.T) {
	in(t, func(c *guard.Config) { c.BanAfter, c.Exempt = 3, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }, func(t *testing.T, r rig) {
		for i := range 3 {
			r.try(password(fmt.Sprintf("2001:db8::%d:1", i), fmt.Sprint("user", i), "wrong"))
			r.try(password(fmt.Sprintf("10.0.0.%d", i), fmt.Sprint("name", i), "wrong"))
			r.try(password("10.0.0.1", fmt.Sprint("one", i), "wrong"))
			r.try(key("10.0.0.1", fmt.Sprint("one", i), "wrong"))
			r.try(password("pipe", fmt.Sprint("two", i), "wrong"))
		}
		if r.banned() != "2001:db8::/64" {
			t.Errorf("banned %q", r.banned())
		}
		if _, ok := r.Banned("2001:db8::ffff"); !ok {
			t.Error("a neighbour is not banned")
		}
		if r.Lift("192.0.2.1") || !r.Lift("2001:db8::/64") {
			t.Error("lift")
		}
		for i := range 3 {
			r.try(password("2001:db8::1", fmt.Sprint("user", i), "wrong"))
		}
		if !r.Lift("2001:db8::7") {
			t.Error("lift by an address of the network")
		}
	})
}

// TestMemory: however many come, no more are remembered than were asked for; the latest are.
func TestMemory(t *testing.T) {
	in(t, func(c *guard.Config) { c.BanAfter, c.Entries = 1, 5 }, func(t *testing.T, r rig) {
		for i := range 50 {
			r.try(password(fmt.Sprintf("192.0.2.%d", i), strings.Repeat("x", i), "wrong"))
			time.Sleep(time.Second)
		}
		if r.banned() != "192.0.2.45 192.0.2.46 192.0.2.47 192.0.2.48 192.0.2.49" {
			t.Errorf("banned %q", r.banned())
		}
	})
}

func TestNoBans(t *testing.T) {
	in(t, func(c *guard.Config) { c.BanAfter = -1 }, func(t *testing.T, r rig) {
		for i := range 300 {
			r.try(password("192.0.2.1", fmt.Sprint("user", i), "wrong"))
		}
		if r.banned() != "" {
			t.Errorf("banned %q", r.banned())
		}
	})
}

// TestGivenUp: who goes away while waiting is not asked about.
func TestGivenUp(t *testing.T) {
	in(t, func(c *guard.Config) { c.DelayAfter = 1 }, func(t *testing.T, r rig) {
		r.try(password("192.0.2.1", "anna", "wrong"))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := r.Authenticate(ctx, password("192.0.2.1", "anna", "right")); !errors.Is(err, context.DeadlineExceeded) || r.provider.asked != 1 {
			t.Errorf("got %v, asked %d times", err, r.provider.asked)
		}
	})
}
