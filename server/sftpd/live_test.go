package sftpd_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity/managed"
	"github.com/transferd/transferd/server/sftpd"
)

// catalogue holds one user whom a test changes, as the API would.
type catalogue struct {
	mu   sync.Mutex
	user server.User
}

func (c *catalogue) User(_ context.Context, id server.ID, name string) (server.User, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id != "s-1" || name != c.user.UserName {
		return server.User{}, &server.NotFoundError{ResourceType: "User", Resource: name}
	}
	return c.user, nil
}

func (c *catalogue) change(f func(*server.User)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.user)
}

// newLiveRig is a rig whose users are the catalogue's, through the real provider.
func newLiveRig(t *testing.T) (*rig, *catalogue) {
	t.Helper()
	users := &catalogue{user: server.User{UserName: user, HomeDirectory: "/bucket/home", HomeDirectoryType: "PATH"}}
	r := newRig(t, config(func(c *sftpd.Config) { c.Provider = managed.New(users) }))
	users.change(func(u *server.User) { u.SshPublicKeys = []server.SshPublicKey{body(r.key)} })
	return r, users
}

func body(key ssh.Signer) server.SshPublicKey {
	return server.SshPublicKey{SshPublicKeyBody: string(ssh.MarshalAuthorizedKey(key.PublicKey()))}
}

// login says whether a key is let in, and what the client is told if not.
func (r *rig) login(t *testing.T, key ssh.Signer) (bool, string) {
	t.Helper()
	client, err := r.tryDial(r.tcp(t), user, key)
	if err != nil {
		return false, err.Error()
	}
	client.Close()
	return true, ""
}

// TestUserChanges: what the API changes about a user holds for the next login, and the running session stays what it was
// granted.
func TestUserChanges(t *testing.T) {
	t.Parallel()
	r, users := newLiveRig(t)
	running := r.raw(t)
	other, _ := newKey(t)
	if ok, _ := r.login(t, other); ok {
		t.Fatal("a strange key is let in")
	}
	users.change(func(u *server.User) { u.SshPublicKeys = append(u.SshPublicKeys, body(other)) })
	if ok, why := r.login(t, other); !ok {
		t.Errorf("a new key is refused: %s", why)
	}
	users.change(func(u *server.User) {
		u.HomeDirectoryType, u.HomeDirectory = "LOGICAL", ""
		u.HomeDirectoryMappings = []server.HomeDirectoryMapEntry{{Entry: "/in", Target: "/bucket/home"}}
	})
	if dir := r.raw(t).pwd(); dir != "/" {
		t.Errorf("a new session starts in %s", dir)
	}
	users.change(func(u *server.User) { u.SshPublicKeys = u.SshPublicKeys[1:] })
	if ok, _ := r.login(t, r.key); ok {
		t.Error("a removed key is let in")
	}
	if dir := running.pwd(); dir != "/bucket/home" {
		t.Errorf("the running session is in %s", dir)
	}
	users.change(func(u *server.User) { u.UserName = "somebody-else" })
	if ok, _ := r.login(t, other); ok {
		t.Error("a deleted user is let in")
	}
}

// pwd asks for the real path of ".".
func (c *raw) pwd() string {
	c.t.Helper()
	c.request(16, str("."))
	typ, body := c.answer()
	if typ != 104 {
		c.t.Fatalf("REALPATH answered by %d %q", typ, body)
	}
	n := body[8+3]
	return string(body[12 : 12+n])
}

// TestSessionPolicy: what no statement allows is refused, whether it is there or not. The operator learns which policy
// and why, the client does not.
func TestSessionPolicy(t *testing.T) {
	t.Parallel()
	r, users := newLiveRig(t)
	r.store.Put("home/file", []byte("x"))
	users.change(func(u *server.User) { u.Policy = `{"Version":"2012-10-17","Statement":[]}` })
	c := r.raw(t)
	for typ, name := range map[byte]string{17: "/bucket/home/file", 11: "/bucket/home", 13: "/bucket/home/none"} { // STAT, OPENDIR, REMOVE
		c.request(typ, str(name))
		if kind, body := c.answer(); kind != 101 || body[7] != 3 || strings.Contains(strings.ToLower(string(body)), "policy") {
			t.Errorf("%d %s answered by %d %q", typ, name, kind, body)
		}
	}
	if entry := r.log.Await(t, "ERROR"); !strings.Contains(fmt.Sprint(entry["error"]), "session policy: s3:DeleteObject on arn:aws:s3:::bucket/home/none: denied") {
		t.Errorf("entry %v", entry)
	}
	users.change(func(u *server.User) { u.Policy = "" })
	c = r.raw(t)
	c.request(17, str("/bucket/home/file"))
	if kind, body := c.answer(); kind != 105 {
		t.Errorf("without a policy: %d %q", kind, body)
	}
}

// TestServerChanges: banner, security policy and SetStatOption are those of the connection's beginning. A running
// session keeps them, the next one has the new.
func TestServerChanges(t *testing.T) {
	t.Parallel()
	r, _ := newLiveRig(t)
	r.store.Put("home/file", []byte("x"))
	running := r.raw(t)
	running.expect(8, 9, str("file"), u32(0)) // SETSTAT
	r.change(func(s *server.Server) {
		s.ProtocolDetails = &server.ProtocolDetails{SetStatOption: "ENABLE_NO_OP"}
		s.PreAuthenticationLoginBanner = "The new banner"
		s.SecurityPolicyName = "TransferSecurityPolicy-FIPS-2025-03"
	})
	running.expect(8, 9, str("file"), u32(0))
	r.raw(t).expect(0, 9, str("file"), u32(0))

	var banner string
	try := func(kex string) error {
		conn, chans, reqs, err := ssh.NewClientConn(r.tcp(t), r.addr, &ssh.ClientConfig{
			Config: ssh.Config{KeyExchanges: []string{kex}},
			User:   user, Auth: []ssh.AuthMethod{ssh.PublicKeys(r.key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
			BannerCallback: func(text string) error { banner = text; return nil },
		})
		if err != nil {
			return err
		}
		return ssh.NewClient(conn, chans, reqs).Close()
	}
	if err := try("ecdh-sha2-nistp256"); err != nil || banner != "The new banner\r\n" {
		t.Errorf("banner %q, %v", banner, err)
	}
	if err := try("curve25519-sha256"); err == nil {
		t.Error("an algorithm that the new policy has not is accepted")
	}
	if dir := running.pwd(); dir != "/bucket/home" {
		t.Errorf("the running session is in %s", dir)
	}
}
