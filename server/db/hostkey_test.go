package db

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
)

// keyOf is a host key that was imported so many days after the first one.
func keyOf(id, kind string, days int) hostkeys.Key {
	k := aKey("hostkey-" + id)
	k.Type, k.Fingerprint, k.PEM = kind, "SHA256:"+id, []byte("secret "+id)
	k.DateImported = k.DateImported.AddDate(0, 0, days)
	return k
}

func shown(t *testing.T, d *DB, id server.ID) string {
	t.Helper()
	return value[server.Server](t)(d.Server(t.Context(), id)).HostKeyFingerprint
}

func TestHostKeys(t *testing.T) { both(t, testHostKeys) }

func testHostKeys(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-1"}, []hostkeys.Key{keyOf("b", "ssh-ed25519", 1)}))
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-2"}, []hostkeys.Key{keyOf("b", "ssh-ed25519", 1)}))
	old, late := keyOf("a", "ssh-ed25519", 0), keyOf("c", "ssh-rsa", 2)
	must(t, d.AddHostKey(ctx, "s-1", late))
	must(t, d.AddHostKey(ctx, "s-1", old))
	again := keyOf("c", "ssh-rsa", 5)
	again.HostKeyId = "hostkey-other"
	wantExists(t, d.AddHostKey(ctx, "s-1", again), "HostKey", "hostkey-c") // the same key, whatever id it came with
	again.Fingerprint, again.HostKeyId = "SHA256:new", "hostkey-c"
	wantExists(t, d.AddHostKey(ctx, "s-1", again), "HostKey", "hostkey-c") // another key, the same id
	wantNotFound(t, d.AddHostKey(ctx, "s-9", late), "Server", "s-9")
	want := []hostkeys.Key{old, keyOf("b", "ssh-ed25519", 1), late}
	if got := value[[]hostkeys.Key](t)(d.HostKeys(ctx, "s-1")); !reflect.DeepEqual(got, want) {
		t.Errorf("keys %+v, want oldest first %+v", got, want)
	}
	if n := len(value[[]hostkeys.Key](t)(d.HostKeys(ctx, "s-2"))); n != 1 {
		t.Errorf("%d keys in another server", n)
	}

	must(t, d.UpdateHostKey(ctx, "s-1", "hostkey-a", func(k *hostkeys.Key) error {
		k.Description, k.Tags = "first", []hostkeys.Tag{{Key: "k", Value: "v"}}
		k.HostKeyId, k.Type, k.Fingerprint, k.DateImported = "x", "x", "x", time.Time{}
		k.PEM[0] = 'X'
		return nil
	}))
	old.Description, old.Tags = "first", []hostkeys.Tag{{Key: "k", Value: "v"}}
	if got := value[[]hostkeys.Key](t)(d.HostKeys(ctx, "s-1"))[0]; !reflect.DeepEqual(got, old) {
		t.Errorf("after the change %+v, want %+v", got, old)
	}
	mine := errors.New("mine")
	if err := d.UpdateHostKey(ctx, "s-1", "hostkey-a", func(*hostkeys.Key) error { return mine }); err != mine {
		t.Errorf("error of change came back as %v", err)
	}
	keep := func(*hostkeys.Key) error { return nil }
	wantNotFound(t, d.UpdateHostKey(ctx, "s-1", "hostkey-z", keep), "HostKey", "hostkey-z")
	wantNotFound(t, d.UpdateHostKey(ctx, "s-9", "hostkey-a", keep), "Server", "s-9")

	must(t, d.DeleteHostKey(ctx, "s-1", "hostkey-a"))
	wantNotFound(t, d.DeleteHostKey(ctx, "s-1", "hostkey-a"), "HostKey", "hostkey-a")
	wantNotFound(t, d.DeleteHostKey(ctx, "s-9", "hostkey-b"), "Server", "s-9")
	must(t, d.DeleteHostKey(ctx, "s-1", "hostkey-c"))
	var last *server.LastKeyError
	err := d.DeleteHostKey(ctx, "s-1", "hostkey-b")
	if !errors.As(err, &last) || *last != (server.LastKeyError{Server: "s-1", HostKey: "hostkey-b"}) {
		t.Errorf("last key: %v", err)
	}
	wantNotFound(t, d.DeleteHostKey(ctx, "s-1", "hostkey-c"), "HostKey", "hostkey-c") // no last key if it is another one
	if n := len(value[[]hostkeys.Key](t)(d.HostKeys(ctx, "s-1"))); n != 1 {
		t.Errorf("%d keys left, want 1", n)
	}
}

func TestFingerprintFollowsTheOldestActiveKey(t *testing.T) {
	both(t, testFingerprintFollowsTheOldestActiveKey)
}

func testFingerprintFollowsTheOldestActiveKey(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	// Keys of one moment: what clients should prefer, in whatever order they come.
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-1", HostKeyFingerprint: "SHA256:made-up"}, []hostkeys.Key{
		keyOf("r", "ssh-rsa", 3), keyOf("e", "ssh-ed25519", 3), keyOf("c", "ecdsa-sha2-nistp256", 3),
	}))
	must(t, d.UpdateServer(ctx, "s-1", func(s *server.Server) error { s.HostKeyFingerprint = "x"; return nil }))
	for _, step := range []struct {
		do   func() error
		want string
	}{
		{func() error { return nil }, "SHA256:e"},
		{func() error { return d.AddHostKey(ctx, "s-1", keyOf("e4", "ssh-ed25519", 4)) }, "SHA256:e"},
		{func() error { return d.AddHostKey(ctx, "s-1", keyOf("r0", "ssh-rsa", 0)) }, "SHA256:r0"},
		{func() error { return d.DeleteHostKey(ctx, "s-1", "hostkey-e") }, "SHA256:r0"},
		{func() error { return d.DeleteHostKey(ctx, "s-1", "hostkey-r0") }, "SHA256:c"},
		{func() error { return d.DeleteHostKey(ctx, "s-1", "hostkey-c") }, "SHA256:r"},
		{func() error { return d.DeleteHostKey(ctx, "s-1", "hostkey-r") }, "SHA256:e4"},
	} {
		must(t, step.do())
		if got := shown(t, d, "s-1"); got != step.want {
			t.Errorf("server shows %s, want %s", got, step.want)
		}
	}
}

// Whatever the fleet must act on is signalled, and what failed is not.
func TestHostKeysAndAccessesAreSignalled(t *testing.T) { both(t, testHostKeysAndAccessesAreSignalled) }

func testHostKeysAndAccessesAreSignalled(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	must(t, d.CreateServer(ctx, server.Server{ServerId: "s-1"}, []hostkeys.Key{keyOf("a", "ssh-ed25519", 0)}))
	c, cancel := d.Changed()
	defer cancel()
	heard := func() bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	for _, step := range []struct {
		name  string
		do    func() error
		fails bool
	}{
		{"add key", func() error { return d.AddHostKey(ctx, "s-1", keyOf("b", "ssh-rsa", 1)) }, false},
		{"add it again", func() error { return d.AddHostKey(ctx, "s-1", keyOf("b", "ssh-rsa", 1)) }, true},
		{"describe key", func() error {
			return d.UpdateHostKey(ctx, "s-1", "hostkey-a", func(k *hostkeys.Key) error { k.Description = "d"; return nil })
		}, false},
		{"delete key", func() error { return d.DeleteHostKey(ctx, "s-1", "hostkey-a") }, false},
		{"delete last key", func() error { return d.DeleteHostKey(ctx, "s-1", "hostkey-b") }, true},
		{"create access", func() error { return d.CreateAccess(ctx, "s-1", server.Access{ExternalId: "S-1-1"}) }, false},
		{"update access", func() error {
			return d.UpdateAccess(ctx, "s-1", "S-1-1", func(a *server.Access) error { a.Role = "r"; return nil })
		}, false},
		{"delete access", func() error { return d.DeleteAccess(ctx, "s-1", "S-1-1") }, false},
		{"delete no access", func() error { return d.DeleteAccess(ctx, "s-1", "S-1-1") }, true},
	} {
		if err := step.do(); (err != nil) != step.fails {
			t.Errorf("%s: %v", step.name, err)
		}
		if got := heard(); got == step.fails {
			t.Errorf("%s: signalled %v", step.name, got)
		}
	}
}
