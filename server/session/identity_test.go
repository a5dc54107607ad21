package session_test

import (
	"context"
	"errors"
	"io/fs"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/vfs"
	"github.com/transferd/transferd/storage"
)

// actors are stores that act for somebody: each identity has its own world.
type actors struct {
	storage.Stores // the daemon's own
	refuse         error

	mu    sync.Mutex // guards what follows
	acted []storage.Identity
	as    storage.Stores
}

func (a *actors) As(_ context.Context, id storage.Identity) (storage.Stores, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.acted = append(a.acted, id)
	return a.as, a.refuse
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	role := "arn:aws:iam::000000000000:role/r"
	for domain, home := range map[string]vfs.Home{
		"S3": {Domain: "S3", Directory: "/bucket/home", UserName: "anna", Role: role,
			Policy: `{"Statement":{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::${transfer:HomeBucket}/*"}}`},
		"EFS": {Domain: "EFS", Directory: "/bucket/home", UserName: "anna", Role: role, PosixProfile: &server.PosixProfile{Uid: 7, Gid: 8, SecondaryGids: []int64{9}}},
	} {
		t.Run(domain, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			stores := &actors{Stores: nullStores{}, as: w}
			view, err := vfs.New(home, stores)
			if err != nil {
				t.Fatal(err)
			}
			s, err := w.manager().Start(t.Context(), session.Info{Server: "s-1", User: "anna"}, view)
			if err != nil {
				t.Fatal(err)
			}
			f := create(t, s, "a")
			write(t, f, "abc")
			w.revive("write") // it dies with the next write
			_, _ = f.WriteAt([]byte("def"), 3)
			s.End(session.Disconnect)
			if len(stores.acted) != 1 {
				t.Fatalf("asked %d times for an identity", len(stores.acted))
			}
			id := stores.acted[0]
			want := storage.Identity{Role: role, Session: "anna." + s.ID() + "@s-1",
				Policy: `{"Statement":{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::bucket/*"}}`}
			if domain == "EFS" {
				want = storage.Identity{Posix: &storage.Posix{UID: 7, GID: 8, Groups: []uint32{9}}}
			}
			if !reflect.DeepEqual(id, want) {
				t.Errorf("identity %+v, want %+v", id, want)
			}
			w.revive("")
			stores.Stores = nil // what recovery does it does as the user
			r, err := session.Recover(t.Context(), session.RecoverConfig{Node: "node-1", Unfinished: w.unfinished, Journal: w, Stores: stores})
			if err != nil {
				t.Fatal(err)
			}
			run(t, r)
			if len(stores.acted) != 2 || !reflect.DeepEqual(stores.acted[1], want) {
				t.Errorf("recovery acted for %+v", stores.acted)
			}
			if got := strings.Join(w.verdicts(), ","); got != "partial/crash 6/6" {
				t.Error(got)
			}
		})
	}
}

func TestRecoveryWaitsForARole(t *testing.T) {
	t.Parallel()
	for name, stores := range map[string]func(*world) storage.Stores{
		"refused":         func(w *world) storage.Stores { return &actors{as: w, refuse: fs.ErrNotExist} },
		"no impersonator": func(w *world) storage.Stores { return w },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.crashed("u1", "home/a", "abc")
			w.rows["u1"].upload.Identity = storage.Identity{Role: "gone"}
			r, err := session.Recover(t.Context(), session.RecoverConfig{Node: "node-1", Unfinished: w.unfinished, Journal: w, Stores: stores(w),
				Log: w.logger(), Retry: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			for strings.Count(w.log(), "recovery of an upload goes on later") < 2 {
				<-tick()
			}
			cancel()
			if err := <-done; err != nil || r.Pending() != 1 {
				t.Errorf("%v, %d pending", err, r.Pending())
			}
		})
	}
}

func TestLoginRefused(t *testing.T) {
	t.Parallel()
	profile := &server.PosixProfile{Uid: 7, Gid: 8}
	for name, c := range map[string]struct {
		home   vfs.Home
		stores storage.Stores
		want   error
	}{
		"no profile":      {vfs.Home{Domain: "EFS"}, &actors{as: nullStores{}}, fs.ErrPermission},
		"no impersonator": {vfs.Home{Domain: "EFS", PosixProfile: profile}, nullStores{}, fs.ErrPermission},
		"not to be had":   {vfs.Home{Domain: "EFS", PosixProfile: profile}, &actors{refuse: fs.ErrPermission}, fs.ErrPermission},
		"nobody":          {vfs.Home{Domain: "EFS", PosixProfile: &server.PosixProfile{Uid: 1<<32 - 1}}, &actors{as: nullStores{}}, fs.ErrInvalid},
		"group out of range": {vfs.Home{Domain: "EFS", PosixProfile: &server.PosixProfile{SecondaryGids: []int64{-1}}}, &actors{as: nullStores{}},
			fs.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			view, err := vfs.New(c.home, c.stores)
			if err != nil {
				t.Fatal(err)
			}
			m := newWorld(t).manager()
			if _, err := m.Start(t.Context(), session.Info{User: "anna"}, view); !errors.Is(err, c.want) {
				t.Errorf("%v", err)
			}
			if len(m.Sessions()) != 0 {
				t.Error("a session is there")
			}
		})
	}
}
