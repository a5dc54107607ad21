package session_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/vfs"
	"github.com/transferd/transferd/storage"
)

// scarce is a world whose store can ask for its memory back.
type scarce struct {
	*world

	mu    sync.Mutex
	yield map[string]func(time.Duration) bool // by name; guarded by mu
}

func (s *scarce) Backend(context.Context, string, string) (storage.Backend, error) {
	return scarceBackend{backend{s.world}, s}, nil
}

type scarceBackend struct {
	backend
	s *scarce
}

func (b scarceBackend) Create(ctx context.Context, name string, opt storage.CreateOptions) (storage.Upload, error) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.yield[name] = opt.Yield
	return b.backend.Create(ctx, name, opt)
}

// awaitObject waits until a file stands: then its upload is over, whoever asks.
func (w *world) awaitObject(name string) {
	for {
		if _, stands := w.object(name); stands {
			return
		}
		<-tick()
	}
}

func (s *scarce) ask(name string, idle time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.yield["home/"+name](idle)
}

// TestYield: an upload whose client sends nothing ends when others need its memory, with what came. Its session goes on.
// A session that is kept waiting itself is not to blame for its other files, but for ten minutes at most.
func TestYield(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stores := &scarce{world: w, yield: map[string]func(time.Duration) bool{}}
	view, err := vfs.New(vfs.Home{Directory: "/bucket/home", UserName: "anna"}, stores)
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.manager().Start(t.Context(), session.Info{Server: "s-1", User: "anna"}, view)
	if err != nil {
		t.Fatal(err)
	}
	idle, other, waits := create(t, s, "idle"), create(t, s, "other"), create(t, s, "waits")
	for _, f := range []*session.File{idle, other, waits} {
		write(t, f, "abc")
	}
	if !stores.ask("idle", time.Minute) {
		t.Fatal("a session that could send does not give way")
	}
	w.awaitObject("home/idle")
	if err := idle.Close(); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("CLOSE: %v", err)
	}
	if _, err := idle.WriteAt([]byte("def"), 3); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("WRITE: %v", err)
	}
	if got, _ := w.object("home/idle"); got != "abc" {
		t.Errorf("%q is kept", got)
	}

	blocked := make(chan struct{})
	w.mu.Lock()
	w.block = blocked
	w.mu.Unlock()
	var writing sync.WaitGroup
	writing.Go(func() { _, _ = waits.WriteAt([]byte("def"), 3) }) // until the session ends
	<-blocked
	if stores.ask("other", 9*time.Minute) {
		t.Error("a session that waits for memory gives way with what it cannot go on with")
	}
	if !stores.ask("other", 10*time.Minute) {
		t.Error("a session that waits keeps what it does not use for ever")
	}
	w.awaitObject("home/other")
	w.awaitObject("home/other")
	if err := other.Close(); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("CLOSE: %v", err)
	}
	s.End(session.Disconnect)
	writing.Wait()
	stores.ask("idle", time.Hour) // too late, and harmless
	if got := strings.Join(w.verdicts(), ","); got != "partial/disconnect 3/3,partial/timeout 3/3,partial/timeout 3/3" {
		t.Error(got)
	}
}
