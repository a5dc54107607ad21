package usersfile

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/identity/gateway"
)

const roleARN = "arn:aws:iam::123456789012:role/users"

// cheap is a hash of "pw" that takes no time.
func cheap(password string) string {
	h := hash{cost: cost{memory: 8, time: 1, threads: 1, key: 16}, salt: []byte("saltsalt")}
	return fmt.Sprintf("$argon2id$v=19$m=8,t=1,p=1$%s$%s", base64.RawStdEncoding.EncodeToString(h.salt), base64.RawStdEncoding.EncodeToString(h.of(password)))
}

// key is a public key of a type, in wire form and as a line.
func key(typ, body string) ([]byte, string) {
	wire := append(binary.BigEndian.AppendUint32(nil, uint32(len(typ))), typ...)
	wire = append(wire, body...)
	return wire, typ + " " + base64.StdEncoding.EncodeToString(wire)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// clock is moved by hand.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) forward(d time.Duration) { c.at.Add(int64(d)) }

func open(t *testing.T, text string) (*File, *clock) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users.yaml")
	write(t, path, text)
	c := &clock{}
	c.forward(time.Hour)
	f, err := Open(Config{Path: path, Now: c.now, Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return f, c
}

// value is what a metric without labels shows.
func value(t *testing.T, f *File, name string) float64 {
	t.Helper()
	families, err := f.Metrics.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if m := family.GetMetric()[0]; family.GetName() == name {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

type servers struct{}

func (servers) Server(_ context.Context, id server.ID) (server.Server, error) {
	return server.Server{ServerId: id, IdentityProviderType: "API_GATEWAY", IdentityProviderDetails: &server.IdentityProviderDetails{Url: URL}}, nil
}

// login asks as the daemon does: the gateway provider, over the transport inside the process.
func login(t *testing.T, f *File, a identity.Attempt) (identity.Grant, error) {
	t.Helper()
	p := gateway.New(gateway.Config{Servers: servers{}, Client: &http.Client{Transport: f.Transport(nil)}})
	a.Server, a.Protocol, a.SourceIP = "s-0123456789abcdef0", "FTPS", "192.0.2.1"
	return p.Authenticate(t.Context(), a)
}

func TestLogin(t *testing.T) {
	t.Parallel()
	wire, line := key("ssh-ed25519", "one")
	f, _ := open(t, `
role: `+roleARN+`
users:
  - name: anna
    password_hash: `+cheap("grüße")+`
    public_keys: [`+line+` anna@home]
    home_directory: /bucket/anna
  - name: bert
    password_hash: `+cheap(" pw ")+`
    role: `+roleARN+`/bert
    home_directory_type: LOGICAL
    home_directory_mappings: [{entry: /, target: '/bucket/${transfer:UserName}', type: DIRECTORY}]
    posix_profile: {uid: 1000, gid: 0, secondary_gids: [7, 8]}
  - name: keys
    public_keys: [`+line+`]
  - name: limited
    password_hash: `+cheap("pw")+`
    policy: '{"Statement":[]}'
  - name: void
    password_hash: `+cheap("")+`
`)
	anna := identity.Grant{UserName: "anna", Role: roleARN, HomeDirectory: "/bucket/anna"}
	limited := identity.Grant{UserName: "limited", Role: roleARN, Policy: `{"Statement":[]}`}
	bert := identity.Grant{UserName: "bert", Role: roleARN + "/bert", HomeDirectoryType: "LOGICAL",
		HomeDirectoryMappings: []server.HomeDirectoryMapEntry{{Entry: "/", Target: "/bucket/${transfer:UserName}", Type: "DIRECTORY"}},
		PosixProfile:          &server.PosixProfile{Uid: 1000, SecondaryGids: []int64{7, 8}}}
	for _, c := range []struct {
		name    string
		attempt identity.Attempt
		want    *identity.Grant
	}{
		{"password", identity.Attempt{UserName: "anna", Password: "grüße"}, &anna},
		{"key", identity.Attempt{UserName: "anna", PublicKey: wire}, &anna},
		{"password with edges", identity.Attempt{UserName: "bert", Password: " pw "}, &bert},
		{"without its edges", identity.Attempt{UserName: "bert", Password: "pw"}, nil},
		{"wrong password", identity.Attempt{UserName: "anna", Password: "grusse"}, nil},
		{"another's password", identity.Attempt{UserName: "anna", Password: " pw "}, nil},
		{"no password", identity.Attempt{UserName: "void"}, nil},
		{"wrong key", identity.Attempt{UserName: "anna", PublicKey: []byte("no")}, nil},
		{"no keys", identity.Attempt{UserName: "bert", PublicKey: wire}, nil},
		{"keys alone", identity.Attempt{UserName: "keys", Password: "pw"}, nil},
		{"session policy", identity.Attempt{UserName: "limited", Password: "pw"}, &limited},
		{"unknown user", identity.Attempt{UserName: "nobody", Password: "pw"}, nil},
		{"unknown user with a key", identity.Attempt{UserName: "nobody", PublicKey: wire}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := login(t, f, c.attempt)
			if c.want == nil {
				if !errors.Is(err, identity.ErrDenied) {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, *c.want) {
				t.Errorf("got %+v, %v, want %+v", got, err, *c.want)
			}
		})
	}
}

// TestSameCost: an unknown user, one without a password and a wrong password take one computation each, of the same
// memory and time.
func TestSameCost(t *testing.T) {
	t.Parallel()
	_, line := key("ssh-rsa", "one")
	f, _ := open(t, `{"role":"`+roleARN+`","users":[{"name":"anna","password_hash":"`+cheap("pw")+`"},{"name":"bert","password_hash":"`+HashPassword("pw")+`"},
		{"name":"carl","password_hash":"`+cheap("pw2")+`"},{"name":"keys","public_keys":["`+line+`"]}]}`)
	if f.users.decoy.cost != f.users.byName["anna"].hash.cost {
		t.Errorf("an unknown user costs %+v", f.users.decoy.cost)
	}
	for i, name := range []string{"anna", "nobody", "keys"} {
		if _, err := login(t, f, identity.Attempt{UserName: name, Password: "wrong"}); !errors.Is(err, identity.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
		if n := value(t, f, "transferd_users_file_password_checks_total"); int(n) != i+1 {
			t.Errorf("%v computations after %s", n, name)
		}
	}
	empty, _ := open(t, `users: []`)
	if c := empty.users.decoy.cost; c != (cost{memory: newMemory, time: newTime, threads: newThreads, key: newKey}) {
		t.Errorf("a file without hashes costs %+v", c)
	}
}

// TestParallel: no more passwords are checked at a time than there are slots, and who waits can give up.
func TestParallel(t *testing.T) {
	t.Parallel()
	f, _ := open(t, `users: []`)
	for range cap(f.slots) {
		f.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, URL+"/servers/s-1/users/anna/config", nil)
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Password", "pw")
			if _, err := f.Transport(nil).RoundTrip(r); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
	cancel()
	wg.Wait()
	if n := value(t, f, "transferd_users_file_password_checks_total"); n != 0 {
		t.Errorf("%v passwords were checked without a slot", n)
	}
	<-f.slots
	if _, err := login(t, f, identity.Attempt{UserName: "anna", Password: "pw"}); !errors.Is(err, identity.ErrDenied) {
		t.Errorf("with a free slot: %v", err)
	}
}

func TestHandler(t *testing.T) {
	t.Parallel()
	f, _ := open(t, "role: "+roleARN+"\nusers:\n- name: anna\n  password_hash: "+cheap("pw"))
	for _, c := range []struct {
		method, path string
		header       http.Header
		status       int
		body         string
	}{
		{"GET", "/servers/s-1/users/anna/config?protocol=SFTP&sourceIp=", http.Header{"Password": {"pw"}}, 200, `{"Role":"` + roleARN + `"}`},
		{"GET", "/servers/s-2/users/anna/config", http.Header{"Password": {"x"}, "Passwordbase64": {"cHc="}}, 200, `{"Role":"` + roleARN + `"}`},
		{"GET", "/servers/s-1/users/anna/config", http.Header{"Password": {"pw"}, "Passwordbase64": {"eA=="}}, 200, `{}`},
		{"GET", "/servers/s-1/users/anna/config", http.Header{"Password": {""}}, 200, `{}`},
		{"GET", "/servers/s-1/users/anna/config", nil, 200, `{}`},
		{"GET", "/servers/s-1/users/anna/config", http.Header{"Passwordbase64": {"%"}}, 400, "PasswordBase64 is no base64\n"},
		{"GET", "/", nil, 404, "404 page not found\n"},
		{"POST", "/servers/s-1/users/anna/config", nil, 405, "Method Not Allowed\n"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), c.method, c.path, nil)
		r.Header = c.header
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		if w.Code != c.status || w.Body.String() != c.body {
			t.Errorf("%s %s %v: %d %q", c.method, c.path, c.header, w.Code, w.Body)
		}
	}
}

type away struct{}

func (away) RoundTrip(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }

func TestTransportPassesOthersOn(t *testing.T) {
	t.Parallel()
	f, _ := open(t, `users: []`)
	for _, url := range []string{"https://idp.example/servers/s-1/users/anna/config", "https://" + Host + ".example/"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Transport(away{}).RoundTrip(r); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestReload: the file is read again when it changed, a bad one leaves the users before it, and looks are rare.
func TestReload(t *testing.T) {
	t.Parallel()
	file := func(name string) string {
		return "role: " + roleARN + "\nusers:\n- name: " + name + "\n  password_hash: " + cheap("pw")
	}
	f, now := open(t, file("anna"))
	expect := func(what, name string, stale float64) {
		t.Helper()
		if _, err := login(t, f, identity.Attempt{UserName: name, Password: "pw"}); err != nil {
			t.Errorf("%s: %s: %v", what, name, err)
		}
		if n := len(f.users.byName); n != 1 || value(t, f, "transferd_users_file_stale") != stale || value(t, f, "transferd_users_file_users") != 1 {
			t.Errorf("%s: %d users, stale %v", what, n, value(t, f, "transferd_users_file_stale"))
		}
	}
	expect("first", "anna", 0)
	write(t, f.Path, file("robert"))
	expect("within the second", "anna", 0)
	now.forward(checkEvery)
	expect("after it", "robert", 0)

	write(t, f.Path, "users: nobody")
	now.forward(checkEvery)
	expect("a bad file", "robert", 1)
	now.forward(checkEvery)
	expect("still bad", "robert", 1)
	if err := os.Remove(f.Path); err != nil {
		t.Fatal(err)
	}
	now.forward(checkEvery)
	expect("no file", "robert", 1)

	next := f.Path + ".next"
	write(t, next, file("carla"))
	if err := os.Rename(next, f.Path); err != nil {
		t.Fatal(err)
	}
	now.forward(checkEvery)
	expect("replaced", "carla", 0)
	now.forward(-time.Hour)
	expect("the clock went back", "carla", 0)
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Open(Config{Path: filepath.Join(dir, "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	path := filepath.Join(dir, "users.yaml")
	write(t, path, "users:\n- nmae: anna\n")
	if _, err := Open(Config{Path: path}); err == nil || !strings.Contains(err.Error(), path+": line 2: users[0].nmae: unknown key") {
		t.Errorf("got %v", err)
	}
}
